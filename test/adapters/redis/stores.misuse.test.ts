import { Redis } from 'ioredis'
import { RedisCounterStore, RedisQuotaStore, RedisUsageStream } from 'spillway/redis'
import { describe, expect, test } from 'vitest'

const client = new Redis({ lazyConnect: true })
const counters = new RedisCounterStore(client)
const quotas = new RedisQuotaStore(client)
const stream = new RedisUsageStream(client)
const { signal } = new AbortController()
const context = { batchId: 'b1', attempt: 1, signal }
const batch = { id: 'b1', events: [], totals: [] }

describe('misuse of the stores of spillway/redis', () => {
  test.each<[string, string, () => Promise<unknown>]>([
    ['increment without a context', 'context', () => counters.increment([], undefined as never)],
    // Every such batch would have the same id, so that only the first one counts.
    [
      'increment without a batch id',
      'context.batchId',
      () => counters.increment([{ key: 'a', delta: 1 }], { signal } as never),
    ],
    ['increment of what is no list', 'increments', () => counters.increment({} as never, context)],
    ['add without a context', 'context', () => counters.add(new Map(), undefined as never)],
    ['add of an object', 'sums', () => counters.add({ likes: 1 } as never, context)],
    ['getMany of a text', 'keys', () => counters.getMany('likes' as never)],
    ['a quota write without a context', 'context', () => quotas.write(batch, undefined as never)],
    ['a quota write of a list', 'batch', () => quotas.write([] as never, context)],
    ['readUsage of nothing', 'keys', () => quotas.readUsage(undefined as never)],
    ['consume of nothing', 'claim', () => quotas.consume(undefined as never)],
    ['reserve of nothing', 'claim', () => quotas.reserve(undefined as never)],
    ['a stream write without a context', 'context', () => stream.write(batch, undefined as never)],
    ['a stream write of a list', 'batch', () => stream.write([] as never, context)],
  ])('%s is an OptionError that names it, and asks no server', async (_, field, call) => {
    await expect(call()).rejects.toMatchObject({ code: 'ERR_OPTION', field })

    expect(client.status).toBe('wait')
  })
})
