import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import { type BatchContext, isSpillwayError, OptionError } from 'spillway'
import { RedisCounterStore, type RedisCounterStoreOptions } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'

const server = await startRedis()
const redis = new Redis(server?.url ?? 'redis://127.0.0.1:1', { lazyConnect: true })

afterAll(async () => {
  redis.disconnect()
  await server?.stop()
})

const batch = (): BatchContext => ({ batchId: randomUUID(), attempt: 1, signal: new AbortController().signal })

describe.skipIf(server === undefined)('where counters lie', () => {
  test('in buckets that never change, since the data lies there', async () => {
    const prefix = randomUUID()
    const store = new RedisCounterStore(redis, { prefix, buckets: 16 })
    const buckets = { '': 9, a: 0, 'post:1': 13, 'post:2': 0, é: 15, '\u{1F600}': 9, '{a}b': 14 }

    await store.increment(
      Object.keys(buckets).map((key) => ({ key, delta: 1 })),
      batch(),
    )

    for (const [key, bucket] of Object.entries(buckets)) {
      expect([key, await redis.get(`{${prefix}:${bucket}}:c:${key}`)]).toEqual([key, '1'])
    }
  })

  test('a store that was made for another number of buckets reads and writes nothing', async () => {
    const prefix = randomUUID()
    await new RedisCounterStore(redis, { prefix, buckets: 4 }).increment([{ key: 'a', delta: 1 }], batch())
    const other = new RedisCounterStore(redis, { prefix, buckets: 8 })

    const message = /lie in 4 buckets, the store was made for 8/
    await expect(other.getMany(['a'])).rejects.toThrow(message)
    await expect(other.increment([{ key: 'a', delta: 1 }], batch())).rejects.toThrow(message)

    expect(await new RedisCounterStore(redis, { prefix, buckets: 4 }).getMany(['a'])).toEqual([1])
  })

  test('stores with different prefixes know nothing of each other', async () => {
    const [one, other] = [randomUUID(), randomUUID()].map((prefix) => new RedisCounterStore(redis, { prefix }))

    await one?.increment([{ key: 'a', delta: 1 }], batch())

    expect(await other?.getMany(['a'])).toEqual([0])
  })

  test('a batch of one bucket is one call of a script, whatever its size', async () => {
    const store = new RedisCounterStore(redis, { prefix: randomUUID() })
    await store.increment([{ key: 'warm', delta: 1 }], batch())
    const scripts = async (): Promise<number> => {
      const [, calls] = /cmdstat_evalsha:calls=(\d+)/.exec(await redis.info('commandstats')) ?? []
      return Number(calls ?? 0)
    }
    const before = await scripts()

    const increments = Array.from({ length: 5000 }, (_, i) => ({ key: `k${i % 1000}`, delta: 1 }))
    const answers = await store.increment(increments, batch())

    expect(answers.at(-1)).toBe(5)
    expect(await scripts()).toBe(before + 1)
  })
})

describe('a wrong option throws an OptionError that names it', () => {
  test.each<[string, unknown]>([
    ['prefix', 7],
    ['prefix', 'a{b'],
    ['prefix', null],
    ['buckets', 0],
    ['buckets', 1025],
    ['buckets', '16'],
    ['rememberBatches', 0],
    ['rememberBatches', null],
    ['batchMemoryMs', 0],
    ['batchMemoryMs', Number.NaN],
    ['name', 1],
  ])('%s: %s', (field, value) => {
    const make = (): unknown => new RedisCounterStore(redis, { [field]: value } as RedisCounterStoreOptions)

    expect(make).toThrow(OptionError)
    expect(make).toThrow(new RegExp(`^${field} must be `))
  })

  test.each([null, undefined, {}, 'redis://127.0.0.1', { call: 1 }])('a client that is none: %s', (client) => {
    let error: unknown
    try {
      new RedisCounterStore(client as never)
    } catch (thrown) {
      error = thrown
    }

    expect(isSpillwayError(error, 'ERR_OPTION')).toBe(true)
  })
})
