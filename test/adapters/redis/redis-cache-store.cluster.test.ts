import { Cluster } from 'ioredis'
import { createCluster } from 'redis'
import type { CachedValue, CacheWriteOutcome } from 'spillway'
import { RedisCacheStore, type RedisCacheStoreOptions } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { errorOf, get, put, remove, somePrefix, writeOf } from './cache-rig.ts'
import { clusterClients, type OpenClient } from './clients.ts'
import { slotOf, slotPlaces } from './cluster-slots.ts'

const cluster = await startRedisCluster()
afterAll(() => cluster?.stop())

const keys = Array.from({ length: 300 }, (_, i) => `k${i}`)
/** Keys that would like to choose their slot, or another key's. */
const oddKeys = ['}', '{', '{}', '}{', '{a}', '{a}b', 'a}', ':', 'é', 'e\u0301', '\ud800', '', '\0']

const command = (node: number, ...args: string[]): Promise<string> => cluster?.command(node, ...args) as never

/** Lets some nodes take nothing new for a while. */
async function whileFull<T>(nodes: readonly number[], body: () => PromiseLike<T>): Promise<T> {
  for (const node of nodes) await command(node, 'CONFIG', 'SET', 'maxmemory', '1')
  try {
    return await body()
  } finally {
    for (const node of nodes) await command(node, 'CONFIG', 'SET', 'maxmemory', '0')
  }
}

/** What a node calls itself: the text without its length. */
const idOf = async (node: number): Promise<string> =>
  (await command(node, 'CLUSTER', 'MYID')).trim().split('\n').at(-1) as string

/** The names of a prefix's keys, by node. */
async function namesOf(prefix: string): Promise<string[][]> {
  const all: string[][] = []
  for (const node of (cluster?.nodes ?? []).keys()) {
    const lines = (await command(node, 'KEYS', `{${prefix}*`)).split('\r\n')
    all.push(lines.filter((line) => line.startsWith('{')))
  }
  return all
}

const valueIn = (answer: CachedValue | Error | undefined): unknown => (answer instanceof Error ? answer : answer?.value)

describe.skipIf(cluster === undefined).each(Object.entries(clusterClients))('RedisCacheStore with %s', (_, open) => {
  const using = async (
    body: (store: RedisCacheStore, prefix: string, opened: OpenClient) => Promise<void>,
    options: RedisCacheStoreOptions = {},
  ) => {
    const opened = await open(cluster?.nodes ?? [])
    const prefix = somePrefix()
    try {
      await body(new RedisCacheStore(opened.client, { prefix, ...options }), prefix, opened)
    } finally {
      await opened.close()
    }
  }

  test('each bucket lies in one slot, and nodes with as many slots have as many buckets', () =>
    using(async (store, prefix) => {
      await store.setMany([...keys, ...oddKeys].map((key) => writeOf(store, key, key)))

      const byNode = await namesOf(prefix)

      const tags = byNode.map((names) => [...new Set(names.map((name) => name.slice(1, name.indexOf('}'))))])
      expect(tags.map(({ length }) => length).sort()).toEqual([5, 5, 6])
      const slots = await Promise.all(tags.flat().map((tag) => slotOf(cluster, tag)))
      // The i-th of sixteen lies in the i-th sixteenth of all slots.
      expect(slots.map((slot) => Math.floor(slot / 1024)).sort((a, b) => a - b)).toEqual(
        Array.from({ length: 16 }, (_, i) => i),
      )
      const read = await store.getMany([...oddKeys, ...keys])
      expect(read.map(valueIn)).toEqual([...oddKeys, ...keys])
    }))

  test('a node that is full refuses its own keys alone', () =>
    using(async (store, prefix) => {
      await store.setMany(keys.map((key) => writeOf(store, key, 1)))
      const mine = new Set((await namesOf(prefix))[0]?.map((name) => name.slice(name.indexOf(':k:') + 3)))

      const [written, deleted] = await whileFull([0], async () => [
        await store.setMany(keys.slice(0, 200).map((key) => writeOf(store, key, 2))),
        await store.deleteMany(keys.slice(200)),
      ])

      expect(mine.size).toBeGreaterThan(30)
      expect(mine.size).toBeLessThan(200)
      keys.forEach((key, i) => {
        const answer = i < 200 ? written?.[i] : deleted?.[i - 200]
        if (mine.has(key) && i < 200)
          expect(answer).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
        else if (i < 200) expect((answer as CacheWriteOutcome).written).toBe(true)
        else expect(answer).toMatch(/^\d+$/)
      })
      const read = await store.getMany(keys)
      // What was refused is gone all the same.
      keys.forEach((key, i) => {
        expect(valueIn(read[i])).toBe(mine.has(key) || i >= 200 ? undefined : 2)
      })
    }))

  test('what moves to another node keeps its versions and its times', () =>
    using(async (store, prefix) => {
      const { version } = await put(store, 'a', 1)
      const tombstone = await remove(store, 'b')
      const [name = ''] = (await namesOf(prefix)).flat().filter((each) => each.endsWith(':k:a'))
      const slot = await slotOf(cluster, name)
      const node = (await slotPlaces(cluster))(slot)

      await cluster?.moveSlot(slot, node, (node + 1) % 3)

      const read = await get(store, 'a')
      expect(read).toMatchObject({ value: 1, version })
      expect(read.freshMs + read.ageMs).toBeCloseTo(3_600_000, 3)
      expect((await put(store, 'a', 2, { ifVersion: version })).written).toBe(true)
      expect((await get(store, 'b')).version).toBe(tombstone)
      await cluster?.moveSlot(slot, (node + 1) % 3, node)
    }))

  test('while a slot moves, each key is where it is, and keys of both nodes are refused together', () =>
    using(
      async (store, prefix) => {
        const { version } = await put(store, 'old', 1)
        const slot = await slotOf(cluster, `{${prefix}:0}`)
        const from = (await slotPlaces(cluster))(slot)
        const to = (from + 1) % 3
        const [fromId, toId] = [await idOf(from), await idOf(to)]
        await command(to, 'CLUSTER', 'SETSLOT', String(slot), 'IMPORTING', fromId)
        await command(from, 'CLUSTER', 'SETSLOT', String(slot), 'MIGRATING', toId)
        try {
          // What is nowhere yet is made on the new node, by way of ASK.
          const made = await put(store, 'new', 2, { ifVersion: (await get(store, 'new')).version })

          expect(made.written).toBe(true)
          expect(await get(store, 'new')).toMatchObject({ value: 2, version: made.version })
          expect(await get(store, 'old')).toMatchObject({ value: 1, version })
          for (const call of [
            () => store.getMany(['old', 'new']),
            () => store.setMany([writeOf(store, 'old', 3), writeOf(store, 'new', 3)]),
          ]) {
            expect(await errorOf(call())).toMatchObject({ code: 'ERR_STORE', retryable: true })
          }
          expect(await get(store, 'old')).toMatchObject({ value: 1, version })
          await remove(store, 'new')
          expect((await put(store, 'new', 4, { ifVersion: made.version })).written).toBe(false)
        } finally {
          for (const node of [to, from]) await command(node, 'CLUSTER', 'SETSLOT', String(slot), 'STABLE')
        }
      },
      { buckets: 1 },
    ))
})

describe.skipIf(cluster === undefined)('RedisCacheStore on a cluster', () => {
  test('asks no replica, whatever the client does with what only reads', async () => {
    const client = new Cluster([...(cluster?.nodes ?? [])], { scaleReads: 'slave' })
    const store = new RedisCacheStore(client, { prefix: somePrefix() })
    await put(store, 'a', 1)
    await get(store, 'a')
    for (const node of [0, 1, 2]) await command(node, 'CONFIG', 'RESETSTAT')

    expect((await get(store, 'a')).value).toBe(1)

    const stats = await Promise.all([0, 1, 2].map((node) => command(node, 'INFO', 'commandstats')))
    // A script is sent to masters alone.
    expect(stats.join().match(/cmdstat_evalsha:calls=(\d+)/)?.[1]).toBe('1')
    client.disconnect()
  })

  // The last one: the node doesn't come back.
  test('serves the keys of the other nodes when one is down', { timeout: 60_000 }, async () => {
    const nodes = [...(cluster?.nodes ?? [])]
    for (const node of [0, 1, 2]) await command(node, 'CONFIG', 'SET', 'cluster-require-full-coverage', 'no')
    const ioredis = new Cluster(nodes, {
      retryDelayOnFailover: 20,
      retryDelayOnClusterDown: 20,
      redisOptions: { maxRetriesPerRequest: 1 },
    })
    ioredis.on('error', () => undefined)
    const nodeRedis = createCluster({
      rootNodes: nodes.map(({ host, port }) => ({ url: `redis://${host}:${port}` })),
      defaults: { disableOfflineQueue: true },
    })
    nodeRedis.on('error', () => undefined)
    await nodeRedis.connect()
    const prefix = somePrefix()
    const stores = [new RedisCacheStore(ioredis, { prefix }), new RedisCacheStore(nodeRedis, { prefix })]
    for (const store of stores) await store.setMany(keys.map((key) => writeOf(store, key, key)))
    const lost = new Set((await namesOf(prefix))[2]?.map((name) => name.slice(name.indexOf(':k:') + 3)))
    await command(2, 'SHUTDOWN', 'NOSAVE').catch(() => undefined)

    for (const store of stores) {
      const read = await store.getMany(keys)
      const written = await store.setMany(keys.map((key) => writeOf(store, key, 'again')))

      keys.forEach((key, i) => {
        if (lost.has(key)) {
          expect(read[i]).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
          expect(written[i]).toMatchObject({ code: 'ERR_STORE', retryable: true })
        } else {
          expect(valueIn(read[i])).toBe(store === stores[0] ? key : 'again')
          expect((written[i] as CacheWriteOutcome).written).toBe(true)
        }
      })
      expect(store.stats()).toMatchObject({
        readsFailed: lost.size,
        readsPending: 0,
        writesFailed: lost.size,
        writesPending: 0,
      })
      const error = await errorOf(store.getMany([...lost]))
      expect(error.message).toMatch(/^redis-cache-store: getMany failed in \d of \d parts: /)
    }
    ioredis.disconnect()
    nodeRedis.destroy()
  })
})
