import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { type CachedValue, isSpillwayError } from 'spillway'
import { RedisCacheStore, type RedisCacheStoreOptions } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { cleanUp, tidyUp } from '../grpc/support/tidy.ts'
import { errorOf, get, only, put, remove, somePrefix, writeOf } from './cache-rig.ts'
import { singleClients } from './clients.ts'
import { startCuttingProxy } from './cutting-proxy.ts'

const server = await startRedis({ own: true })
afterAll(() => server?.stop())
tidyUp()

function owned(client: Redis): Redis {
  client.on('error', () => undefined)
  cleanUp(() => client.disconnect())
  return client
}
const direct = (): Redis => owned(new Redis(server?.url as string))
const open = (options: RedisCacheStoreOptions = {}, client = direct()): RedisCacheStore =>
  new RedisCacheStore(client, { prefix: somePrefix(), ...options })

/** Lets a server take nothing new for a while. */
async function whileFull<T>(admin: Redis, body: () => PromiseLike<T>): Promise<T> {
  await admin.config('SET', 'maxmemory', '1')
  try {
    return await body()
  } finally {
    await admin.config('SET', 'maxmemory', '0')
  }
}

describe.skipIf(server === undefined)('RedisCacheStore when things go wrong', () => {
  test.each(Object.entries(singleClients))(
    '%s: a server that forgot its scripts gets them again',
    async (_, connect) => {
      const { client, close } = await connect(server?.url as string)
      cleanUp(close)
      const store = new RedisCacheStore(client, { prefix: somePrefix() })
      const admin = direct()

      for (let round = 0; round < 2; round++) {
        await admin.script('FLUSH')
        const { version } = await put(store, 'a', round)
        await admin.script('FLUSH')
        expect(await get(store, 'a')).toMatchObject({ value: round, version })
        await admin.script('FLUSH')
        expect(only(await store.readMarks(['m'])).mark).not.toBe(only(await store.renewMarks(['m'])).mark)
        await admin.script('FLUSH')
        await remove(store, 'a')
        expect((await get(store, 'a')).value).toBeUndefined()
      }
    },
  )

  test('writes of one key in one call keep their order where the server learns the script between two commands', async () => {
    const redis = direct()
    let unknown = 1
    // The first command finds no script; by the second, somebody else has told the server.
    const client = {
      ...{ isCluster: false, status: 'ready' },
      call: async (command: string, args: (string | number | Buffer)[]) => {
        if (command === 'EVALSHA' && args[1] !== '1' && unknown-- > 0) throw new Error('NOSCRIPT No matching script.')
        return redis.call(command, args)
      },
      callBuffer: (command: string, args: (string | number | Buffer)[]) => redis.callBuffer(command, args),
    }
    await put(open(), 'other', 1)
    const store = new RedisCacheStore(client, { prefix: somePrefix() })
    // More than one command holds, so that the first and the last write are in different ones.
    const writes = Array.from({ length: 900 }, (_, i) => writeOf(store, i % 300 === 0 ? 'same' : `k${i}`, i))

    await store.setMany(writes)

    expect(unknown).toBeLessThanOrEqual(0)
    expect((await get(store, 'same')).value).toBe(600)
  })

  test('after FLUSHALL all is unknown: loads from before are not written, those from after are, and marks are others', async () => {
    const store = open()
    const { version } = await put(store, 'a', 1)
    const before = only(await store.readMarks(['m']))

    await direct().flushall()

    expect(await get(store, 'a')).toMatchObject({ value: undefined, version: '' })
    expect(await put(store, 'a', 'loaded before', { ifVersion: version })).toEqual({ written: false, version: '' })
    expect((await put(store, 'a', 'loaded after', { ifVersion: '' })).written).toBe(true)
    expect(only(await store.readMarks(['m'])).mark).not.toBe(before.mark)
  })

  test.each(Object.entries(singleClients))('%s: goes on after a restart', async (_, connect) => {
    const own = await startRedis({ own: true, appendonly: true, appendfsync: 'always' })
    cleanUp(() => own?.stop())
    const { client, close } = await connect(own?.url as string)
    cleanUp(close)
    const store = new RedisCacheStore(client, { prefix: somePrefix() })
    const { version } = await put(store, 'a', { text: 'é' })
    const mark = only(await store.readMarks(['m']))

    await own?.kill()
    await own?.restart()
    let read: unknown
    for (const deadline = performance.now() + 15_000; read === undefined && performance.now() < deadline; ) {
      read = await get(store, 'a').catch(() => delay(20).then(() => undefined))
    }

    expect(read).toMatchObject({ value: { text: 'é' }, version })
    expect(only(await store.readMarks(['m']))).toEqual(mark)
    expect((await put(store, 'a', 2, { ifVersion: version })).written).toBe(true)
  })

  test('what is evicted is a miss, an evicted mark makes what depends on it invalid, and nothing fails', async () => {
    const own = await startRedis({
      own: true,
      settings: ['--maxmemory', '6mb', '--maxmemory-policy', 'allkeys-lru', '--maxmemory-samples', '10'],
    })
    cleanUp(() => own?.stop())
    const client = owned(new Redis(own?.url as string))
    const store = open({}, client)
    const mark = only(await store.readMarks(['old']))
    const [markKey] = await client.keys('*:m:*')
    const keys = Array.from({ length: 1000 }, (_, i) => `k${i}`)

    for (const key of keys) expect((await put(store, key, key.padEnd(20_000, '.'))).written).toBe(true)
    const answers = await store.getMany(keys)

    const values = answers.map((answer) => (answer instanceof Error ? answer : answer.value))
    const kept = values.filter((value) => value !== undefined)
    expect(kept.length).toBeGreaterThan(20)
    expect(kept.length).toBeLessThan(400)
    values.forEach((value, i) => {
      if (value !== undefined) expect(value).toBe((keys[i] as string).padEnd(20_000, '.'))
    })
    // Redis draws lots among what wasn't used for a second, so it may take more to make the mark go.
    for (let i = 0; i < 5000 && (await client.exists(markKey as string)) === 1; i++) {
      await put(store, `more${i}`, 'x'.repeat(20_000))
    }
    expect(only(await store.readMarks(['old'])).mark).not.toBe(mark.mark)
    const { reads, hits, misses } = store.stats()
    expect([reads, hits + misses]).toEqual([1000, 1000])
  })

  test('a full server takes no values, yet deletes, and no old value outlives what was to replace it', async () => {
    const admin = direct()
    const store = open()
    const { version } = await put(store, 'loaded', 1)
    for (const key of ['first', 'second', 'deleted']) await put(store, key, 'x'.repeat(1000))
    const mark = only(await store.readMarks(['m']))

    const [set, filled, deleted, renewed, made] = await whileFull(admin, () =>
      Promise.all([
        store.setMany(['first', 'second', 'third'].map((key) => writeOf(store, key, 2))),
        store.setMany([writeOf(store, 'loaded', 2, { ifVersion: version })]),
        store.deleteMany(['deleted', 'never there']),
        store.renewMarks(['m']),
        store.readMarks(['new', 'm']),
      ]),
    )

    expect(set.length).toBe(3)
    for (const answer of [...set, ...filled, made[0]]) {
      expect(isSpillwayError(answer, 'ERR_STORE')).toBe(true)
      expect(answer).toMatchObject({ retryable: true, outcomeUnknown: false })
      expect((answer as Error).message).toMatch(/^redis-cache-store: \w+ failed: OOM command not allowed/)
    }
    const read = (await store.getMany(['first', 'second', 'third', 'deleted', 'never there'])) as CachedValue[]
    expect(read.map(({ value }) => value)).toEqual([1, 2, 3, 4, 5].map(() => undefined))
    expect(read.map((answer) => answer.version)).toEqual(['', '', '', ...deleted])
    // It is still what it was: whoever loads doesn't know better.
    expect(await get(store, 'loaded')).toMatchObject({ value: 1, version })
    expect(only(renewed).mark).not.toBe(mark.mark)
    expect(only(await store.readMarks(['m'])).mark).toBe(only(renewed).mark)
    const { writes, written, deleted: gone, writesFailed, writesPending } = store.stats()
    expect({ writes, written, gone, writesFailed, writesPending }).toEqual({
      ...{ writes: 10, written: 4, gone: 2, writesFailed: 4, writesPending: 0 },
    })
  })

  test('a lost answer leaves the outcome of a write unknown, and that of a read of no account', async () => {
    const proxy = await startCuttingProxy(server?.port as number)
    cleanUp(() => proxy.close())
    const client = owned(new Redis(proxy.port, '127.0.0.1', { maxRetriesPerRequest: 0 }))
    const store = open({}, client)
    await put(store, 'a', 1)
    proxy.cutNextAnswer()

    const error = await errorOf(put(store, 'a', 2))

    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
    for (let attempt = 0; attempt < 50; attempt++) {
      if (await get(store, 'a').catch(() => delay(20).then(() => undefined))) break
    }
    expect((await get(store, 'a')).value).toBe(2)
  })

  test('a closed client is refused, as often as it is asked', async () => {
    const client = new Redis(server?.url as string)
    const store = open({}, client)
    await put(store, 'a', 1)
    client.disconnect()
    await new Promise((resolve) => client.once('end', resolve))

    for (const call of [
      () => store.getMany(['a', 'b']),
      () => store.setMany([writeOf(store, 'a', 2)]),
      () => store.deleteMany(['a']),
      () => store.readMarks(['m']),
      () => store.renewMarks(['m']),
    ]) {
      expect(await errorOf(call())).toMatchObject({ code: 'ERR_STORE', retryable: false, outcomeUnknown: false })
    }
    expect(store.stats()).toMatchObject({
      reads: 2,
      readsFailed: 2,
      readsPending: 0,
      writesFailed: 2,
      writesPending: 0,
    })
  })

  test('a command that times out fails its own call, and what comes later is counted with nobody', async () => {
    const proxy = await startCuttingProxy(server?.port as number)
    cleanUp(() => proxy.close())
    const store = open({}, owned(new Redis(proxy.port, '127.0.0.1', { commandTimeout: 50 })))
    await get(store, 'a')
    proxy.hold()

    const error = await errorOf(get(store, 'a'))

    expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
    expect(store.stats()).toMatchObject({ reads: 2, misses: 1, readsFailed: 1, readsPending: 0 })
  })
})
