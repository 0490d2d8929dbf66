import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { QuotaConsumer } from 'spillway'
import { RedisQuotaStore } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients, type OpenClient } from './clients.ts'
import { slotOf, slotPlaces } from './cluster-slots.ts'
import { batchOf, claimOf, errorOf, holdOf, keyOf, month, use, writeTo } from './usage-batches.ts'

const cluster = await startRedisCluster()
const users = Array.from({ length: 60 }, (_, i) => `u${i}`)
const ones = users.map((userId) => use(1, { userId }))
const keys = users.map((userId) => keyOf(userId))
/** Users who would like to choose their slot, or somebody else's. */
const oddUsers = [
  '}',
  '{',
  '{}',
  '}{',
  '{a}',
  '{a}b',
  'a}',
  '{u1}:ids',
  '%7D',
  '%',
  ':',
  'é',
  'e\u0301',
  '\u{1F600}',
  ' ',
]

afterAll(async () => {
  await cluster?.stop()
})

const command = (node: number, ...args: string[]): Promise<string> => cluster?.command(node, ...args) as never

/** All keys of a cluster that have a prefix, by node. */
async function keysOf(prefix: string): Promise<string[][]> {
  const all: string[][] = []
  for (const node of (cluster?.nodes ?? []).keys()) {
    const lines = (await command(node, 'KEYS', `*${prefix}*`)).split('\r\n')
    all.push(lines.filter((line) => line.includes(prefix)))
  }
  return all
}

/** Lets a node take nothing new for a while. */
async function whileFull<T>(nodes: readonly number[], body: () => PromiseLike<T>): Promise<T> {
  for (const node of nodes) await command(node, 'CONFIG', 'SET', 'maxmemory', '1')
  try {
    return await body()
  } finally {
    for (const node of nodes) await command(node, 'CONFIG', 'SET', 'maxmemory', '0')
  }
}

describe.skipIf(cluster === undefined).each(Object.entries(clusterClients))('RedisQuotaStore with %s', (_, open) => {
  const using = async (body: (store: RedisQuotaStore, prefix: string, opened: OpenClient) => Promise<void>) => {
    const opened = await open(cluster?.nodes ?? [])
    const prefix = randomUUID()
    try {
      await body(new RedisQuotaStore(opened.client, { prefix, dedupe: 'request' }), prefix, opened)
    } finally {
      await opened.close()
    }
  }

  test('all that belongs to a user lies in one slot, whatever the user is called, and users lie on all nodes', () =>
    using(async (store, prefix) => {
      const all = [...oddUsers, ...users]
      for (const [i, userId] of all.entries()) {
        await writeTo(store, batchOf([use(i, { userId, requestId: 'r', id: 'e' })]))
        await store.consume(claimOf(1, 1000, { userId, quotaType: '}t{' }))
        expect((await store.reserve(holdOf(2, 1000, { userId, id: `{${i}}` }))).status).toBe('held')
      }

      const usages = await store.readUsage(all.flatMap((userId) => [keyOf(userId), keyOf(userId, '}t{')]))
      expect(usages).toEqual(
        all.flatMap((_, i) => [
          { used: i, held: 2 },
          { used: 1, held: 0 },
        ]),
      )
      const names = await keysOf(prefix)
      expect(names.every((ofNode) => ofNode.length > 20)).toBe(true)
      const tagged = names.flat().filter((name) => name.startsWith('{'))
      const slots = new Map<string, Set<number>>()
      for (const name of tagged) {
        // Of a name `{prefix:quota:USER}:…` with the user encoded, the tag ends at the first brace.
        const tag = name.slice(1, name.indexOf('}'))
        slots.set(tag, (slots.get(tag) ?? new Set()).add(await slotOf(cluster, name)))
      }
      expect(slots.size).toBe(all.length)
      for (const [tag, of] of slots) expect([...of], tag).toEqual([await slotOf(cluster, tag)])
      // used, ids, holds, held, one reservation and one batch for each
      expect(tagged.length).toBe(6 * all.length)
    }))

  test('a batch over many users counts each of them once, in however many attempts and processes', () =>
    using(async (store, prefix, { client }) => {
      const other = new RedisQuotaStore(client, { prefix, dedupe: 'request' })
      const events = Array.from({ length: 10_000 }, (_, i) =>
        use(i, { userId: `u${i % 300}`, ...(i % 2 === 0 && { requestId: `r${i}` }) }),
      )
      const batch = batchOf(events)

      await Promise.all([1, 2, 3].map((attempt) => writeTo(attempt === 2 ? other : store, batch, { attempt })))

      const usages = await store.readUsage(Array.from({ length: 300 }, (_, i) => keyOf(`u${i}`)))
      expect(usages.reduce((sum, { used }) => sum + used, 0)).toBe((10_000 * 9999) / 2)
    }))

  test('a node that fails leaves the outcome unknown; the batch sent again does what is missing, once', () =>
    using(async (store, prefix) => {
      await writeTo(store, batchOf(ones))
      const place = await slotPlaces(cluster)
      const node = place(await slotOf(cluster, `{${prefix}:quota:u0}`))
      const batch = batchOf(ones)

      const error = await whileFull([node], () => errorOf(writeTo(store, batch)))
      const partly = (await store.readUsage(keys)).map(({ used }) => used)
      for (const attempt of [2, 3]) expect(await writeTo(store, batch, { attempt })).toEqual([])

      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
      expect(error.message).toMatch(/write failed in \d+ of 60 parts: .*OOM/)
      expect(new Set(partly)).toEqual(new Set([1, 2]))
      expect(partly[0]).toBe(1)
      expect((await store.readUsage(keys)).map(({ used }) => used)).toEqual(users.map(() => 2))
    }))

  test('a batch that every node refuses was not applied, and says so', () =>
    using(async (store) => {
      await writeTo(store, batchOf(ones))

      const error = await whileFull([0, 1, 2], () => errorOf(writeTo(store, batchOf(ones))))

      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
      expect((await store.readUsage(keys)).map(({ used }) => used)).toEqual(users.map(() => 1))
    }))

  test('of users who reserve under one id at once, one holds, and the others hold nothing', () =>
    using(async (store, prefix, { client }) => {
      const other = new RedisQuotaStore(client, { prefix })
      for (let round = 0; round < 10; round++) {
        const id = `hold ${round}`
        const claims = users.slice(0, 12).map((userId) => holdOf(5, 5 * (round + 1), { userId, id }))

        const outcomes = await Promise.all(claims.flatMap((claim) => [store.reserve(claim), other.reserve(claim)]))

        const holding = outcomes.filter(({ status }) => status === 'held' || status === 'repeated')
        expect(outcomes.filter(({ status }) => status === 'held').length).toBeLessThanOrEqual(1)
        expect(outcomes.filter(({ status }) => status === 'conflict').length).toBe(22)
        expect(holding.length).toBe(2)
        const held = (await store.readUsage(keys)).reduce((sum, usage) => sum + usage.held, 0)
        expect(held).toBe(5 * (round + 1))
        const settled = await store.settle(id, 0)
        expect(settled.status).toBe('settled')
        await store.reserve(holdOf(5, 100, { userId: settled.claim?.userId as string }))
      }
    }))

  test('a reservation that stopped half way is held when it is made again, unless its id has gone to another user', () =>
    using(async (store, prefix) => {
      const place = await slotPlaces(cluster)
      const nodeOf = async (name: string): Promise<number> => place(await slotOf(cluster, name))
      const mine = await nodeOf(`{${prefix}:quota:u0}`)
      const ids: string[] = []
      for (let i = 0; ids.length < 2; i++) {
        if ((await nodeOf(`${prefix}:quota:hold:h${i}`)) !== mine) ids.push(`h${i}`)
      }
      const [a, b] = ids.map((id) => holdOf(3, 10, { id, userId: 'u0' })) as [never, never]
      const [idA, idB] = ids as [string, string]
      const others = [0, 1, 2].filter((node) => node !== mine)

      const errors = await whileFull(others, async () => [
        await errorOf(store.reserve(a)),
        await errorOf(store.reserve(b)),
      ])
      for (const error of errors) {
        expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
      }
      expect(await store.settle(idA, 1)).toEqual({ status: 'unknown' })
      expect(await store.readUsage([keyOf('u0')])).toEqual([{ used: 0, held: 6 }])
      const stranger = await store.reserve(holdOf(4, 10, { id: idB, userId: 'u1' }))

      expect(stranger.status).toBe('held')
      expect(await store.reserve(a)).toMatchObject({ status: 'repeated', held: 6 })
      expect(await store.reserve(b)).toEqual({ status: 'conflict', used: 0, held: 3, expiresAt: 0 })
      expect(await store.reserve(b)).toEqual({ status: 'conflict', used: 0, held: 3, expiresAt: 0 })
      expect(await store.settle(idA, 2)).toMatchObject({ status: 'settled', usage: { used: 2, held: 0 } })
      expect(await store.settle(idB, 4)).toMatchObject({ status: 'settled', claim: { userId: 'u1' } })
    }))

  test('a reservation that stopped half way is found by what an earlier one under its id has left, for whatever key', () =>
    using(async (store, prefix, { client }) => {
      const forgetful = new RedisQuotaStore(client, { prefix, holdMemoryMs: 1 })
      const place = await slotPlaces(cluster)
      const nodeOf = async (name: string): Promise<number> => place(await slotOf(cluster, name))
      const mine = await nodeOf(`{${prefix}:quota:u0}`)
      let id = 'h'
      while ((await nodeOf(`${prefix}:quota:hold:${id}`)) === mine) id += 'h'
      await forgetful.reserve(holdOf(1, 10, { id, userId: 'u0', ttlMs: 1 }))
      await delay(10)
      const others = [0, 1, 2].filter((node) => node !== mine)
      const tokens = holdOf(3, 10, { id, userId: 'u0', quotaType: 'tokens', period: 'total' })

      await whileFull(others, () => errorOf(store.reserve(tokens)))

      expect(await store.settle(id, 2)).toMatchObject({
        status: 'settled',
        claim: { quotaType: 'tokens', period: 'total', value: 3 },
        usage: { used: 2, held: 0 },
      })
      expect(await store.readUsage([keyOf('u0')])).toEqual([{ used: 0, held: 0 }])
    }))

  test('a user who moves to another node keeps what is used, held and remembered', () =>
    using(async (store, prefix) => {
      const batch = batchOf([use(5, { userId: 'u0', requestId: 'w' })])
      const claim = claimOf(1, 100, { userId: 'u0' })
      await writeTo(store, batch)
      await store.consume(claim)
      await store.reserve(holdOf(7, 100, { userId: 'u0', id: 'h' }))
      const slot = await slotOf(cluster, `{${prefix}:quota:u0}`)
      const node = (await slotPlaces(cluster))(slot)

      await cluster?.moveSlot(slot, node, (node + 1) % 3)

      expect(await writeTo(store, batch, { attempt: 2 })).toEqual([])
      expect(await store.consume(claim)).toEqual({ status: 'repeated', used: 6, held: 7 })
      expect((await store.settle('h', 7)).usage).toEqual({ used: 13, held: 0 })
    }))

  test('counts once what is retried while a user moves', () =>
    using(async (store, prefix) => {
      const consumer = new QuotaConsumer(store, {
        maxBatchSize: 60,
        maxWaitMs: 1,
        capacity: 1_000_000,
        retry: { attempts: 200, delayMs: 20, maxDelayMs: 100 },
        periodOf: () => 'month',
      })
      const slot = await slotOf(cluster, `{${prefix}:quota:u5}`)
      const node = (await slotPlaces(cluster))(slot)
      let moving = true
      const moved = cluster?.moveSlot(slot, node, (node + 1) % 3).finally(() => {
        moving = false
      })
      let rounds = 0
      while (moving || rounds < 20) {
        rounds++
        for (const userId of users)
          consumer.offer({ userId, quotaType: 'calls', value: 1, timestamp: ones[0]?.timestamp })
        await delay(2)
      }
      await moved
      await consumer.close()

      expect(consumer.stats()).toMatchObject({ failed: 0, rejected: 0 })
      expect((await store.readUsage(keys)).map(({ used }) => used)).toEqual(users.map(() => rounds))
      expect(keys[0]?.period).toBe(month)
    }))
})
