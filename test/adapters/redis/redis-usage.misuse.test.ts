import { isSpillwayError } from 'spillway'
import { RedisUsageStream, RedisUsageWorker } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { errorOf, gate, ObedientSink, UsageRig } from './usage-rig.ts'

const server = await startRedis({ own: true })
const rig = new UsageRig(server?.url)
afterAll(() => server?.stop())

const event = { userId: 'u1', quotaType: 'api', value: 1 }

describe.skipIf(server === undefined)('misuse of RedisUsageStream', () => {
  test.each<[string, object]>([
    ['prefix', { prefix: 'a{b}' }],
    ['prefix', { prefix: 'x'.repeat(161) }],
    ['shards', { shards: 0 }],
    ['shards', { shards: 1025 }],
    ['group', { group: '' }],
    ['capacity', { capacity: 0 }],
    ['maxBatchSize', { maxBatchSize: 11, capacity: 10 }],
    ['maxBatchBytes', { maxBatchBytes: 0 }],
    ['concurrency', { concurrency: 1.5 }],
    ['timeoutMs', { timeoutMs: 0 }],
    ['timeoutGraceMs', { timeoutGraceMs: -1 }],
    ['retry.attempts', { retry: { attempts: 0 } }],
    ['publishMemoryMs', { publishMemoryMs: 0 }],
    ['maxLength', { maxLength: 0 }],
    ['periodOf', { periodOf: 'day' }],
  ])('a wrong %s is an OptionError that names it', (field, options) => {
    const client = rig.client()
    let error: unknown
    try {
      new RedisUsageStream(client, options)
    } catch (caught) {
      error = caught
    }
    expect(error).toMatchObject({ code: 'ERR_OPTION', field })
    expect((error as Error).message).toContain(field)
  })

  test('misuse of its methods is refused, and hurts nobody', async () => {
    const stream = rig.stream({ periodOf: () => 'year' as 'day' })
    const refusals = [
      stream.publish(event, { signal: 'no' as never }),
      stream.publish(event),
      stream.publishMany('no' as never),
      stream.deadLetters({ limit: 0 }),
      stream.deadLetters({ after: 'no' }),
      stream.requeue(['no']),
      stream.requeue(['7:1-1']),
      stream.discard('no' as never),
      stream.addGroup(''),
    ]
    for (const refusal of refusals) expect(isSpillwayError(await errorOf(refusal), 'ERR_OPTION')).toBe(true)
    expect(() => new RedisUsageStream({} as never)).toThrow(/client/)
    const aborted = AbortSignal.abort(new Error('before'))
    expect(await errorOf(stream.publish(event, { signal: aborted }))).toEqual(new Error('before'))
  })

  test('a rejected publish that nobody looks at is no unhandledRejection', async () => {
    const stream = rig.stream()
    void stream.publish({ ...event, value: -1 })
    await stream.close()
    void stream.publish(event)
    const { passed, open } = gate()
    setImmediate(open)
    await passed
  })
})

describe.skipIf(server === undefined)('misuse of RedisUsageWorker', () => {
  test.each<[string, object]>([
    ['group', { group: '' }],
    ['consumer', { consumer: 7 }],
    ['maxBatchSize', { maxBatchSize: 0 }],
    ['maxWaitMs', { maxWaitMs: -1 }],
    ['eager', { eager: 'yes' }],
    ['concurrency', { concurrency: 0 }],
    ['capacity', { capacity: 0 }],
    ['timeoutMs', { timeoutMs: 0 }],
    ['timeoutGraceMs', { timeoutGraceMs: Number.NaN }],
    ['retry', { retry: 3 }],
    ['retry.delayMs', { retry: { delayMs: -1 } }],
    ['pollMs', { pollMs: 0 }],
    ['claimIdleMs', { claimIdleMs: 99 }],
    ['maxDeliveries', { maxDeliveries: 1 }],
    ['trimEveryMs', { trimEveryMs: 0 }],
    ['redisTimeoutMs', { redisTimeoutMs: 0 }],
    ['unhealthyAfter', { unhealthyAfter: 0 }],
  ])('a wrong %s is an OptionError that names it', (field, options) => {
    const stream = rig.stream()
    let error: unknown
    try {
      new RedisUsageWorker(stream, new ObedientSink(), options)
    } catch (caught) {
      error = caught
    }
    expect(error).toMatchObject({ code: 'ERR_OPTION', field })
  })

  test('a sink that tells only batches apart is refused, since batches are composed anew', () => {
    const stream = rig.stream()
    const make = (sink: unknown) => () => new RedisUsageWorker(stream, sink as ObedientSink)
    const write = (): undefined => undefined
    expect(make({ idempotent: true, dedupe: 'batch', write })).toThrow(/sink\.dedupe/)
    expect(make({ idempotent: true, write })).toThrow(/sink\.dedupe/)
    expect(make({ dedupe: 'event' })).toThrow(/write/)
    expect(make(undefined)).toThrow(/write/)
    expect(() => new RedisUsageWorker({} as never, new ObedientSink())).toThrow(/stream/)
    expect(make({ idempotent: true, dedupe: 'request', write })).not.toThrow()
  })
})
