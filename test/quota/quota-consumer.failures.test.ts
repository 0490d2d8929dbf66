import {
  QuotaConsumer,
  type QuotaConsumerOptions,
  type RefusedUsage,
  StoreError,
  type UsageBatch,
  type UsageFailure,
  type UsageSink,
} from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { warningsDuring } from '../batcher/support/process-events.js'
import { expectQuotaBooks } from './support/books.js'
import { GateSink } from './support/gate-sink.js'

interface Setting {
  readonly clock: FakeClock
  readonly sink: GateSink
  readonly consumer: QuotaConsumer
  /** What `onFailed` was given. */
  readonly failures: UsageFailure[]
  /** Offers events of these values. */
  readonly offer: (...values: number[]) => void
  /** Lets a turn end. */
  readonly turn: () => Promise<void>
}

/** A consumer whose sink is in the test's hands. */
function setUp(options: QuotaConsumerOptions = {}, idempotent = true): Setting {
  const clock = new FakeClock()
  const sink = new GateSink(clock, { idempotent })
  const failures: UsageFailure[] = []
  const onFailed = (failure: UsageFailure): void => void failures.push(failure)
  // Half of the longest wait, each time.
  const consumer = new QuotaConsumer(sink, { clock, random: () => 0.5, onFailed, ...options })
  const offer = (...values: number[]): void => {
    for (const value of values) consumer.offer({ userId: 'u', quotaType: 'api', value })
  }
  return { clock, sink, consumer, failures, offer, turn: () => clock.advance(0) }
}

const lost = (): StoreError => new StoreError('connection lost', { outcomeUnknown: true, retryable: true })

describe('a batch that fails', () => {
  test('is tried again as it is, the same frozen batch under the same id, after a back-off', async () => {
    const { clock, sink, consumer, offer, turn } = setUp({ maxBatchSize: 2 })
    const retried: unknown[] = []
    const applied: unknown[] = []
    consumer.on('retried', (event) => retried.push(event))
    consumer.on('applied', (event) => applied.push(event))
    offer(1, 2)
    await turn()

    sink.at(0).fail(new Error('first'))
    await clock.advance(49)
    // More of the same key: it mustn't join.
    offer(4)
    expect(sink.writes).toHaveLength(1)
    await clock.advance(1)
    sink.at(1).fail(new Error('second'))
    await clock.advance(100)
    sink.at(2).succeed()
    await turn()

    const { id } = sink.at(0).batch
    expect(sink.writes.map(({ batch }) => batch)).toEqual(Array(3).fill(sink.at(0).batch))
    expect(sink.writes.every(({ batch }) => batch === sink.at(0).batch)).toBe(true)
    expect(sink.writes.map(({ context }) => [context.batchId, context.attempt])).toEqual([
      [id, 1],
      [id, 2],
      [id, 3],
    ])
    expect(retried).toEqual([
      { batchId: id, attempt: 2, delayMs: 50, error: new Error('first') },
      { batchId: id, attempt: 3, delayMs: 100, error: new Error('second') },
    ])
    const keys = [{ userId: 'u', quotaType: 'api', period: '2026-01' }]
    expect(applied).toMatchObject([{ batchId: id, keys, events: 2, attempts: 3, durationMs: 150 }])
    sink.letGo()
    await consumer.close()
  })

  test('goes to onFailed and the failed event once its attempts are over, and is counted', async () => {
    const { clock, sink, consumer, failures, offer, turn } = setUp({ maxBatchSize: 2, bisect: false })
    const told: UsageFailure[] = []
    consumer.on('failed', (failure) => told.push(failure))
    offer(1, 2)
    for (let attempt = 0; attempt < 3; attempt++) {
      await clock.advance(1000)
      sink.at(attempt).fail(new Error(`attempt ${attempt + 1}`))
    }
    await turn()

    const { id, events } = sink.at(0).batch
    expect(failures).toEqual([{ batchId: id, events, attempts: 3, error: new Error('attempt 3'), kept: false }])
    expect(told).toEqual(failures)
    expectQuotaBooks(consumer, { failed: 2, failedEvents: 2, refusedEvents: 0, pending: 0, retries: 2 })
    await consumer.close()
  })

  test('is not retried when the error says that it never will succeed, or retryable does', async () => {
    for (const [error, retryable] of [
      [new StoreError('no such table', { retryable: false }), undefined],
      [new Error('23514'), (thrown: unknown) => !String(thrown).includes('23514')],
    ] as const) {
      const { sink, consumer, failures, offer, turn } = setUp({ maxBatchSize: 1, retry: { retryable } })
      offer(1)
      await turn()
      sink.at(0).fail(error)
      await turn()

      expect(failures).toMatchObject([{ attempts: 1, error }])
      await consumer.close()
    }
  })

  test('with a sink that throws, or whose write answers at once, is as good as with one that promises', async () => {
    const clock = new FakeClock()
    let calls = 0
    const sink: UsageSink = {
      idempotent: false,
      write: () => {
        if (++calls === 1) throw new Error('thrown')
      },
    }
    const consumer = new QuotaConsumer(sink, { clock, random: () => 0 })
    consumer.offer({ userId: 1, quotaType: 'api', value: 1 })

    await consumer.close()

    expectQuotaBooks(consumer, { succeeded: 1, retries: 1 })
  })
})

describe('an outcome that is unknown', () => {
  test('is retried with an idempotent sink, and not with another one, where the event may be lost but not doubled', async () => {
    for (const idempotent of [true, false]) {
      const { clock, sink, consumer, failures, offer, turn } = setUp({ maxBatchSize: 2 }, idempotent)
      offer(1, 2)
      await turn()
      sink.at(0).fail(lost())
      await clock.advance(1000)

      expect(sink.writes).toHaveLength(idempotent ? 2 : 1)
      expect(failures).toHaveLength(idempotent ? 0 : 1)
      sink.letGo()
      await consumer.close()
      expectQuotaBooks(consumer, idempotent ? { succeeded: 2 } : { failed: 2 })
    }
  })

  test('is never bisected: half of what was applied would be counted twice', async () => {
    const { clock, sink, consumer, failures, offer, turn } = setUp({ maxBatchSize: 2, retry: { attempts: 2 } })
    offer(1, 2)
    await turn()
    sink.at(0).fail(lost())
    await clock.advance(1000)
    // Definite, but the first attempt may have done it.
    sink.at(1).fail(new Error('poison'))
    await clock.advance(1000)

    expect(sink.writes).toHaveLength(2)
    expect(failures).toMatchObject([{ attempts: 2, error: { outcomeUnknown: true } }])
    expect(failures[0]?.events).toHaveLength(2)
    await consumer.close()
  })
})

describe('timeoutMs', () => {
  test('ends an attempt; its late answer counts for nothing, neither as success nor as refusal', async () => {
    const { clock, sink, consumer, failures, offer, turn } = setUp({
      maxBatchSize: 2,
      timeoutMs: 100,
      timeoutGraceMs: 10,
      retry: { attempts: 2, delayMs: 0 },
    })
    offer(1, 2)
    await turn()
    await clock.advance(100)
    expect(sink.at(0).context.signal.aborted).toBe(true)
    await clock.advance(10)
    expect(sink.at(1).batch).toBe(sink.at(0).batch)
    // The first attempt at last: refused, while the second one is under way.
    sink.at(0).answer([{ index: 0, error: new Error('late') }])
    await turn()
    expectQuotaBooks(consumer, { succeeded: 0, failed: 0, pending: 2 })
    sink.at(1).succeed()
    await turn()

    expectQuotaBooks(consumer, { succeeded: 2, failed: 0, refusedEvents: 0, timeouts: 1 })
    expect(failures).toEqual([])
    await consumer.close()
    expect(clock.pending).toBe(0)
  })

  test('that passes for good gives up with outcomeUnknown; the answer that comes after it changes nothing', async () => {
    const { clock, sink, consumer, failures, offer } = setUp({
      maxBatchSize: 1,
      timeoutMs: 100,
      retry: { attempts: 1 },
    })
    const applied: unknown[] = []
    consumer.on('applied', (event) => applied.push(event))
    offer(1)
    await clock.advance(100)
    expect(failures).toMatchObject([{ error: { code: 'ERR_TIMEOUT', timeoutMs: 100, outcomeUnknown: true } }])
    sink.at(0).succeed()
    await clock.advance(5000)

    expect(applied).toEqual([])
    expectQuotaBooks(consumer, { failed: 1, succeeded: 0 })
    await consumer.close()
  })
})

describe('bisect', () => {
  /** A sink that rejects each batch with a poisoned event in it. */
  const poisoned = (batches: UsageBatch[]): UsageSink => ({
    idempotent: true,
    write: async (batch) => {
      batches.push(batch)
      if (batch.events.some(({ value }) => value === 13)) throw new Error('poison')
    },
  })

  test('finds the event at fault, which never blocks the others of its batch', async () => {
    const clock = new FakeClock()
    const batches: UsageBatch[] = []
    const failures: UsageFailure[] = []
    const consumer = new QuotaConsumer(poisoned(batches), {
      clock,
      maxBatchSize: 8,
      retry: { attempts: 1 },
      onFailed: (failure) => void failures.push(failure),
    })
    for (const value of [1, 2, 3, 4, 5, 13, 7, 8]) consumer.offer({ userId: value, quotaType: 'api', value })

    await consumer.flush()

    expect(failures.map(({ events }) => events.map(({ value }) => value))).toEqual([[13]])
    const { id } = batches[0] as UsageBatch
    expect(batches.map((batch) => batch.id.slice(id.length))).toEqual([
      '',
      '/0',
      '/1',
      '/1/0',
      '/1/0/0',
      '/1/0/1',
      '/1/1',
    ])
    expect(failures[0]?.batchId).toBe(`${id}/1/0/1`)
    expectQuotaBooks(consumer, { succeeded: 7, failed: 1 })
    await consumer.close()
  })

  test('holds up neither the next batches nor their order within a worker', async () => {
    const clock = new FakeClock()
    const batches: UsageBatch[] = []
    const options: QuotaConsumerOptions = { clock, maxBatchSize: 2, concurrency: 1, onFailed: () => undefined }
    const consumer = new QuotaConsumer(poisoned(batches), options)
    for (const value of [13, 2, 3, 4]) consumer.offer({ userId: 1, quotaType: 'api', value })
    const flushed = consumer.flush()
    await clock.advance(60_000)

    expect(await flushed).toEqual({ succeeded: 3, failed: 1, dropped: 0 })
    await consumer.close()
  })

  test('is off when it is switched off, and of no use where the sink is down', async () => {
    for (const [bisect, error] of [
      [false, new Error('poison')],
      [true, new StoreError('down', { retryable: true })],
    ] as const) {
      const { sink, consumer, failures, offer, turn } = setUp({ maxBatchSize: 2, bisect, retry: { attempts: 1 } })
      offer(1, 2)
      await turn()
      sink.at(0).fail(error)
      await turn()

      expect(sink.writes).toHaveLength(1)
      expect(failures[0]?.events).toHaveLength(2)
      await consumer.close()
    }
  })
})

describe('what the sink refuses', () => {
  test('fails alone, each error’s events together, and the rest of the batch was applied', async () => {
    const { sink, consumer, failures, offer, turn } = setUp({ maxBatchSize: 5 })
    const applied: { events: number; batchId: string }[] = []
    consumer.on('applied', (event) => applied.push(event))
    const told: UsageFailure[] = []
    consumer.on('failed', (failure) => told.push(failure))
    offer(1, 2, 3, 4, 5)
    await turn()
    const [overflow, retired] = [new Error('overflow'), new Error('retired')]

    sink.at(0).answer([
      { index: 3, error: overflow },
      { index: 0, error: retired },
      { index: 1, error: overflow },
    ])
    await turn()

    const { id, events } = sink.at(0).batch
    expect(failures).toEqual([
      { batchId: id, events: [events[3], events[1]], attempts: 1, error: overflow, kept: false, refused: true },
      { batchId: id, events: [events[0]], attempts: 1, error: retired, kept: false, refused: true },
    ])
    expect(told).toEqual(failures)
    expect(applied).toMatchObject([{ events: 2, batchId: id }])
    expectQuotaBooks(consumer, { succeeded: 2, failed: 3, refusedEvents: 3, healthy: true })
    expect(consumer.pending('u', 'api')).toBe(0)
    await consumer.close()
  })

  test('may be all of it: then nothing was applied', async () => {
    const onApplied: unknown[] = []
    const { sink, consumer, failures, offer, turn } = setUp({
      maxBatchSize: 1,
      onApplied: (keys) => void onApplied.push(keys),
    })
    consumer.on('applied', (event) => onApplied.push(event))
    offer(1)
    await turn()
    sink.at(0).answer([{ index: 0, error: new Error('no') }])
    await turn()

    expect(failures).toHaveLength(1)
    expect(onApplied).toEqual([])
    await consumer.close()
  })

  const wrong: [string, unknown][] = [
    ['an index of no event', [{ index: 2, error: new Error('no') }]],
    ['a negative index', [{ index: -1, error: new Error('no') }]],
    ['half an index', [{ index: 0.5, error: new Error('no') }]],
    ['no index', [{ error: new Error('no') }]],
    ['no error', [{ index: 0 }]],
    ['an error that is none', [{ index: 0, error: 'no' }]],
    ['something wrong behind something right', [{ index: 0, error: new Error('no') }, null]],
    ['the rows of a query', [{ user_id: 'u', value: 3 }]],
  ]
  for (const [what, answer] of wrong) {
    test(`is nothing where the answer has ${what}: it is warned of once, and the batch was applied`, async () => {
      const { sink, consumer, failures, offer, turn } = setUp({ maxBatchSize: 2 })
      const warnings = await warningsDuring(async () => {
        offer(1, 2, 3, 4)
        await turn()
        for (const index of [0, 1]) sink.at(index).answer(answer as RefusedUsage[])
        await turn()
      })

      expect(warnings).toEqual([expect.stringMatching(/quota-consumer: its sink answered with a list that isn't/)])
      expect(failures).toEqual([])
      expectQuotaBooks(consumer, { succeeded: 4, refusedEvents: 0 })
      await consumer.close()
    })
  }

  test('is nothing where the answer is no list at all: sinks answer with what their clients do', async () => {
    const { sink, consumer, failures, offer, turn } = setUp({ maxBatchSize: 1, concurrency: 4 })
    const warnings = await warningsDuring(async () => {
      offer(1, 2, 3, 4)
      await turn()
      const answers: unknown[] = [{ rowCount: 1 }, [], null, 'OK']
      answers.forEach((answer, index) => void sink.at(index).answer(answer as RefusedUsage[]))
      await turn()
    })

    expect([warnings, failures]).toEqual([[], []])
    expectQuotaBooks(consumer, { succeeded: 4 })
    await consumer.close()
  })
})

describe('usage that nobody takes', () => {
  test('is warned of once', async () => {
    const { sink, consumer, offer, turn } = setUp({ maxBatchSize: 1, retry: { attempts: 1 }, onFailed: undefined })

    const warnings = await warningsDuring(async () => {
      offer(1, 2)
      await turn()
      for (const index of [0, 1]) sink.at(index).fail(new Error('down'))
      await turn()
    })

    expect(warnings).toEqual([
      expect.stringMatching(/gave up usage.* 1 event of batch .* was not counted: Error: down/s),
    ])
    await consumer.close()
  })

  test('is not warned of where a listener takes it', async () => {
    const { sink, consumer, offer, turn } = setUp({ maxBatchSize: 1, retry: { attempts: 1 }, onFailed: undefined })
    const told: unknown[] = []
    consumer.on('failed', (failure) => told.push(failure))

    const warnings = await warningsDuring(async () => {
      offer(1)
      await turn()
      sink.at(0).fail(new Error('down'))
      await turn()
    })

    expect([warnings, told]).toEqual([[], [expect.anything()]])
    await consumer.close()
  })

  test('because onFailed fails is warned of each time, with how much it was', async () => {
    for (const onFailed of [
      () => {
        throw new Error('disk')
      },
      () => Promise.reject(new Error('disk')),
    ]) {
      const { sink, consumer, offer, turn } = setUp({
        maxBatchSize: 2,
        bisect: false,
        retry: { attempts: 1 },
        onFailed,
      })

      const warnings = await warningsDuring(async () => {
        offer(1, 2, 3, 4)
        await turn()
        for (const index of [0, 1]) sink.at(index).fail(new Error('down'))
        await turn()
      })

      expect(warnings).toHaveLength(2)
      expect(warnings[0]).toMatch(/onFailed failed, so 2 events of batch .* were not counted: Error: disk/)
      expectQuotaBooks(consumer, { failed: 4 })
      await consumer.close()
    }
  })
})

describe('onApplied', () => {
  test('gets the keys of each batch once its events are pending no more, and may fail', async () => {
    const seen: unknown[] = []
    const { clock, sink, consumer, turn } = setUp({
      maxBatchSize: 3,
      onApplied: (keys) => {
        seen.push(
          keys.map(({ userId, quotaType, period }) => [userId, quotaType, period, consumer.pending(userId, quotaType)]),
        )
        throw new Error('cache')
      },
    })
    for (const [userId, quotaType] of [
      [1, 'api'],
      [2, 'api'],
      [1, 'api'],
    ] as const) {
      consumer.offer({ userId, quotaType, value: 1 })
    }

    const warnings = await warningsDuring(async () => {
      await turn()
      sink.at(0).succeed()
      await turn()
    })

    expect(seen).toEqual([
      [
        ['1', 'api', '2026-01', 0],
        ['2', 'api', '2026-01', 0],
      ],
    ])
    expect(warnings).toEqual([expect.stringContaining('onApplied failed: Error: cache')])
    expectQuotaBooks(consumer, { succeeded: 3, failed: 0 })
    await consumer.close()
    expect(clock.pending).toBe(0)
  })
})

describe('health', () => {
  test('is lost after unhealthyAfter failed attempts in a row, told once, and back with the next batch', async () => {
    const { clock, sink, consumer, offer, turn } = setUp({
      maxBatchSize: 1,
      concurrency: 1,
      unhealthyAfter: 3,
      retry: { attempts: 2, delayMs: 0 },
    })
    const told: unknown[] = []
    consumer.on('unhealthy', (event) => told.push(event))
    consumer.on('recovered', (event) => told.push(event))
    offer(1, 2, 3)
    const fail = async (index: number): Promise<void> => {
      await turn()
      sink.at(index).fail(new Error(`down ${index}`))
      await clock.advance(1)
    }

    await fail(0)
    await fail(1)
    expect(consumer.isHealthy()).toBe(true)
    await fail(2)
    expect(consumer.isHealthy()).toBe(false)
    await fail(3)
    expect(told).toEqual([{ reason: 'failing', error: new Error('down 2') }])
    sink.letGo()
    await turn()

    expect(consumer.isHealthy()).toBe(true)
    expect(told.slice(1)).toEqual([{ reason: 'failing' }])
    await consumer.close()
    expect(consumer.isHealthy()).toBe(false)
    expect(consumer.stats().healthy).toBe(false)
  })

  test('is lost when an event finds no room, with the latest error, and back once half of it is free', async () => {
    const { clock, sink, consumer, offer, turn } = setUp({
      maxBatchSize: 1,
      concurrency: 1,
      capacity: 4,
      retry: { attempts: 9 },
    })
    const told: unknown[] = []
    consumer.on('unhealthy', (event) => told.push(event))
    consumer.on('recovered', (event) => told.push(event))
    offer(0)
    await turn()
    sink.at(0).fail(new Error('slow'))
    await turn()

    offer(1, 2, 3, 4)
    expect(consumer.isHealthy()).toBe(true)
    offer(5, 6)
    expect(consumer.isHealthy()).toBe(false)
    expect(told).toEqual([{ reason: 'full', error: new Error('slow') }])
    sink.letGo()
    await clock.advance(1000)

    expect(consumer.isHealthy()).toBe(true)
    expect(told.slice(1)).toEqual([{ reason: 'full' }])
    await consumer.close()
  })

  test('suffers neither from refused events nor from closing at a deadline', async () => {
    const { sink, consumer, offer, turn } = setUp({ maxBatchSize: 1, unhealthyAfter: 1 })
    const told: unknown[] = []
    consumer.on('unhealthy', (event) => told.push(event))
    offer(1)
    await turn()
    sink.at(0).answer([{ index: 0, error: new Error('no') }])
    await turn()
    offer(2)
    await turn()
    void consumer.close({ timeoutMs: 0 })
    await turn()

    expect(told).toEqual([])
    expectQuotaBooks(consumer, { failed: 2, refusedEvents: 1 })
  })
})
