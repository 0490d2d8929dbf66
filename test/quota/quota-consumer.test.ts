import { MemoryQuotaStore, QuotaConsumer, type UsageEvent } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { expectQuotaBooks } from './support/books.js'
import { GateSink } from './support/gate-sink.js'

const use = (userId: UsageEvent['userId'], value = 1, more: Partial<UsageEvent> = {}): UsageEvent => ({
  userId,
  quotaType: 'api',
  value,
  ...more,
})

describe('a batch', () => {
  test('leaves when it is full, or when its first event has waited maxWaitMs', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, maxBatchSize: 3, maxWaitMs: 100 })

    for (const value of [1, 2]) consumer.offer(use('u', value))
    await clock.advance(99)
    expect(sink.values).toEqual([])
    // A later one doesn't put it off.
    consumer.offer(use('u', 3))
    await clock.advance(0)
    consumer.offer(use('u', 4))
    await clock.advance(99)
    expect(sink.values).toEqual([[1, 2, 3]])
    await clock.advance(1)

    expect(sink.values).toEqual([[1, 2, 3], [4]])
    sink.letGo()
    await consumer.close()
  })

  test('has totals by user, quota type and period, in the order of their first events, and the events as they came', async () => {
    const clock = new FakeClock({ wallMs: Date.UTC(2026, 10, 20, 12) })
    const sink = new GateSink(clock)
    const periodOf = (quotaType: string): 'day' | 'month' => (quotaType === 'tokens' ? 'day' : 'month')
    const consumer = new QuotaConsumer(sink, { clock, periodOf })
    const yesterday = new Date('2026-11-19T23:59:59.999Z')

    consumer.offer(use(42, 1))
    consumer.offer(use('42', 10, { quotaType: 'tokens' }))
    consumer.offer(use(42n, 2, { requestId: 'r', metadata: { path: '/' } }))
    consumer.offer(use(42, 20, { quotaType: 'tokens', timestamp: yesterday }))
    consumer.offer(use(43, 4))
    consumer.offer(use('42', 30, { quotaType: 'tokens' }))
    sink.letGo()
    await consumer.flush()

    const now = clock.wallNow()
    const { batch, context } = sink.at(0)
    expect(batch.totals).toEqual([
      { userId: '42', quotaType: 'api', period: '2026-11', value: 3, count: 2 },
      { userId: '42', quotaType: 'tokens', period: '2026-11-20', value: 40, count: 2 },
      { userId: '42', quotaType: 'tokens', period: '2026-11-19', value: 20, count: 1 },
      { userId: '43', quotaType: 'api', period: '2026-11', value: 4, count: 1 },
    ])
    const month = { quotaType: 'api', period: '2026-11', timestamp: now }
    const today = { quotaType: 'tokens', period: '2026-11-20', timestamp: now }
    expect(batch.events).toEqual([
      { userId: 42, value: 1, ...month },
      { userId: '42', value: 10, ...today },
      { userId: 42n, value: 2, ...month, requestId: 'r', metadata: { path: '/' } },
      { userId: 42, value: 20, ...today, period: '2026-11-19', timestamp: yesterday.getTime() },
      { userId: 43, value: 4, ...month },
      { userId: '42', value: 30, ...today },
    ])
    expect(batch.id).toBe(context.batchId)
    for (const frozen of [batch, batch.events, batch.totals, ...batch.events, ...batch.totals]) {
      expect(Object.isFrozen(frozen)).toBe(true)
    }
    expect(JSON.parse(JSON.stringify({ ...batch, events: batch.events.length }))).toMatchObject({ id: batch.id })
    await consumer.close()
  })

  test('sums whole numbers exactly up to 2^53 - 1, and tells the sink what is beyond', async () => {
    const clock = new FakeClock()
    const store = new MemoryQuotaStore({ clock })
    const failed: unknown[] = []
    const consumer = new QuotaConsumer(store, {
      clock,
      maxBatchSize: 4,
      onFailed: ({ events, error }) => void failed.push([events.map(({ value }) => value), error]),
    })

    for (const value of [2 ** 52, 2 ** 52 - 3, 1, 1]) consumer.offer(use('exact', value))
    consumer.offer(use('over', Number.MAX_SAFE_INTEGER))
    consumer.offer(use('over', 1))
    consumer.offer(use('innocent', 7))
    await consumer.flush()

    const used = async (userId: string): Promise<number | undefined> =>
      (await store.readUsage([{ userId, quotaType: 'api', period: '2026-01' }]))[0]?.used
    expect(await used('exact')).toBe(Number.MAX_SAFE_INTEGER)
    // The sum that can't be counted is refused as a whole, and nothing else of its batch.
    expect(await used('over')).toBe(0)
    expect(await used('innocent')).toBe(7)
    expect(failed).toEqual([[[Number.MAX_SAFE_INTEGER, 1], expect.any(Error)]])
    expectQuotaBooks(consumer, { succeeded: 5, failed: 2, refusedEvents: 2 })
    await consumer.close()
  })

  test('is at most concurrency times in flight, and what waits is at most capacity', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, concurrency: 2, capacity: 4, maxBatchSize: 2 })

    const accepted: boolean[] = []
    for (let n = 0; n < 20; n++) {
      accepted.push(consumer.offer(use('u', n)))
      await clock.advance(0)
    }

    expect(accepted.indexOf(false)).toBe(8)
    expect(accepted.slice(8)).not.toContain(true)
    expect(sink.widest).toBe(2)
    expectQuotaBooks(consumer, { pending: 8, inFlight: 4, inFlightBatches: 2, rejected: 12 })
    sink.letGo()
    expect(await consumer.close()).toEqual({ drained: true, abandoned: 0 })
    expectQuotaBooks(consumer, { succeeded: 8, totalEvents: 8, batchCount: 4 })
  })
})

describe('an event belongs to the period of its own time, in UTC', () => {
  const edges: [string, 'day' | 'month' | 'total', string, string][] = [
    ['the end of a day', 'day', '2026-03-31T23:59:59.999Z', '2026-03-31'],
    ['the start of a day', 'day', '2026-04-01T00:00:00.000Z', '2026-04-01'],
    ['the end of a month', 'month', '2026-03-31T23:59:59.999Z', '2026-03'],
    ['the start of a month', 'month', '2026-04-01T00:00:00.000Z', '2026-04'],
    ['a leap day', 'day', '2028-02-29T12:00:00.000Z', '2028-02-29'],
    ['the end of a leap month', 'month', '2028-02-29T23:59:59.999Z', '2028-02'],
    ['the end of a year', 'month', '2026-12-31T23:59:59.999Z', '2026-12'],
    ['the end of the last year', 'day', '9999-12-31T23:59:59.999Z', '9999-12-31'],
    ['all times', 'total', '1999-01-01T00:00:00.000Z', 'total'],
  ]
  for (const [what, kind, at, period] of edges) {
    test(`${what}: ${at} is in ${period}`, async () => {
      // Far from UTC in both directions, local time would make it another day.
      const clock = new FakeClock()
      const sink = new GateSink(clock)
      const consumer = new QuotaConsumer(sink, { clock, periodOf: () => kind })

      consumer.offer(use('u', 1, { timestamp: new Date(at) }))
      consumer.offer(use('u', 2, { timestamp: Date.parse(at) }))

      expect(consumer.pending('u', 'api', new Date(at))).toBe(3)
      sink.letGo()
      await consumer.close()
      expect(sink.at(0).batch.totals).toEqual([{ userId: 'u', quotaType: 'api', period, value: 3, count: 2 }])
    })
  }

  test('whose time is when it was offered, though it waits over midnight for room and for its batch', async () => {
    const midnight = Date.UTC(2026, 1, 1)
    const clock = new FakeClock({ wallMs: midnight - 5 })
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, capacity: 1, maxBatchSize: 1, concurrency: 1, maxWaitMs: 1000 })
    consumer.offer(use('u', 1))
    await clock.advance(0)
    consumer.offer(use('u', 2))
    const waiting = consumer.publish(use('u', 4))

    await clock.advance(10)
    expect(consumer.pending('u', 'api')).toBe(0)
    expect(consumer.pending('u', 'api', midnight - 1)).toBe(3)
    sink.letGo()
    await clock.advance(0)
    await waiting
    await consumer.close()

    expect(sink.writes.map(({ batch }) => batch.totals[0]?.period)).toEqual(['2026-01', '2026-01', '2026-01'])
    expect(sink.writes.map(({ batch }) => batch.events[0]?.timestamp)).toEqual(Array(3).fill(midnight - 5))
  })

  test('without a time of its own, across midnight of the wall clock, going on and set back', async () => {
    const midnight = Date.UTC(2026, 1, 1)
    const clock = new FakeClock({ wallMs: midnight - 1 })
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, periodOf: () => 'day' })

    consumer.offer(use('u', 1))
    await clock.advance(1)
    consumer.offer(use('u', 2))
    expect(consumer.pending('u', 'api')).toBe(2)
    clock.setWall(midnight - 1000)
    await clock.advance(0)
    consumer.offer(use('u', 4))

    expect(consumer.pending('u', 'api')).toBe(5)
    sink.letGo()
    await consumer.close()
    expect(sink.at(0).batch.totals.map(({ period, value }) => [period, value])).toEqual([
      ['2026-01-31', 5],
      ['2026-02-01', 2],
    ])
  })
})

describe('pending', () => {
  test('counts what was accepted, in flight too, until the sink has answered, whatever the form of the id', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, maxBatchSize: 2 })

    consumer.offer(use(7, 1))
    await consumer.publish(use('7', 2))
    consumer.offer(use(7n, 4))
    consumer.offer(use(8, 100))
    consumer.offer(use(7, 1000, { quotaType: 'tokens' }))
    await clock.advance(0)

    for (const id of [7, '7', 7n]) expect(consumer.pending(id, 'api')).toBe(7)
    expect(consumer.pending(7, 'tokens')).toBe(1000)
    expect(consumer.pending(8, 'api')).toBe(100)
    expect([consumer.pending(9, 'api'), consumer.pending(7, 'unknown')]).toEqual([0, 0])
    sink.at(0).succeed()
    await clock.advance(0)
    expect(consumer.pending(7, 'api')).toBe(4)
    sink.letGo()
    await consumer.close()
    expect(consumer.pending(7, 'api')).toBe(0)
  })

  test('of fractions is exactly nothing when nothing is pending', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, maxBatchSize: 1, concurrency: 3 })

    for (const value of [0.1, 0.2, 0.3]) consumer.offer(use('u', value))
    await clock.advance(0)
    for (const index of [1, 0, 2]) {
      sink.at(index).succeed()
      await clock.advance(0)
    }

    expect(consumer.pending('u', 'api')).toBe(0)
    await consumer.close()
  })

  test('falls when an event is dropped, fails, or is abandoned', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, {
      clock,
      capacity: 2,
      maxBatchSize: 1,
      concurrency: 1,
      overflow: 'drop-oldest',
      retry: { attempts: 1 },
      onFailed: () => undefined,
    })
    consumer.offer(use('u', 1))
    await clock.advance(0)
    for (const value of [2, 4, 8]) consumer.offer(use('u', value))

    expect(consumer.pending('u', 'api')).toBe(1 + 4 + 8)
    sink.at(0).fail(new Error('no'))
    await clock.advance(0)
    expect(consumer.pending('u', 'api')).toBe(4 + 8)
    void consumer.close({ timeoutMs: 0 })
    await clock.advance(0)

    expect(consumer.pending('u', 'api')).toBe(0)
    expectQuotaBooks(consumer, { dropped: 1, failed: 3, pending: 0 })
  })
})

describe('overflow', () => {
  test('reject refuses the newest and says why', () => {
    const clock = new FakeClock()
    const consumer = new QuotaConsumer(new GateSink(clock), { clock, capacity: 1, maxBatchSize: 1 })
    const rejected: unknown[] = []
    consumer.on('rejected', ({ event, error }) => rejected.push([event, error]))
    const second = use('u', 2)

    expect([consumer.offer(use('u', 1)), consumer.offer(second)]).toEqual([true, false])

    expect(rejected).toEqual([[second, expect.objectContaining({ code: 'ERR_FULL', capacity: 1, retryable: true })]])
    expectQuotaBooks(consumer, { pending: 1, rejected: 1, totalEvents: 1 })
  })

  test('drop-newest counts it as dropped, drop-oldest drops what waited longest', async () => {
    for (const overflow of ['drop-newest', 'drop-oldest'] as const) {
      const clock = new FakeClock()
      const sink = new GateSink(clock)
      const consumer = new QuotaConsumer(sink, { clock, capacity: 2, maxBatchSize: 2, concurrency: 1, overflow })
      const dropped: [number, string][] = []
      const rejected: unknown[] = []
      consumer.on('dropped', ({ event, reason }) => dropped.push([event.value, reason]))
      consumer.on('rejected', (one) => rejected.push(one))

      const answers = [1, 2, 3].map((value) => consumer.offer(use('u', value)))

      const newest = overflow === 'drop-newest'
      expect(answers).toEqual([true, true, !newest])
      expect(dropped).toEqual([[newest ? 3 : 1, overflow]])
      expect(rejected).toEqual([])
      expectQuotaBooks(consumer, { dropped: 1, droppedEvents: 1, totalEvents: 3, pending: 2, rejected: 0 })
      sink.letGo()
      await consumer.close()
      expect(sink.values).toEqual([newest ? [1, 2] : [2, 3]])
    }
  })
})

describe('the presets', () => {
  test('are what the documented system has, and options as they are', () => {
    const { presets } = QuotaConsumer

    expect(presets).toEqual({
      default: { concurrency: 3, capacity: 1000, maxBatchSize: 10, maxWaitMs: 5000 },
      highConcurrency: { concurrency: 5, capacity: 2000, maxBatchSize: 20, maxWaitMs: 3000 },
      lowLatency: { concurrency: 2, capacity: 500, maxBatchSize: 5, maxWaitMs: 1000 },
    })
    expect(QuotaConsumer.defaults).toMatchObject(presets.default)
  })

  for (const name of ['default', 'highConcurrency', 'lowLatency'] as const) {
    test(`${name} does what it says`, async () => {
      const { concurrency, capacity, maxBatchSize, maxWaitMs } = QuotaConsumer.presets[name]
      const clock = new FakeClock()
      const sink = new GateSink(clock)
      const consumer = new QuotaConsumer(sink, { ...QuotaConsumer.presets[name], clock })

      consumer.offer(use('u'))
      await clock.advance(maxWaitMs - 1)
      expect(sink.writes).toHaveLength(0)
      await clock.advance(1)
      expect(sink.writes).toHaveLength(1)
      let accepted = 0
      for (let n = 0; n < capacity + concurrency * maxBatchSize + 10; n++) {
        if (consumer.offer(use('u'))) accepted++
        if (n % maxBatchSize === 0) await clock.advance(0)
      }

      expect(sink.widest).toBe(concurrency)
      expect(sink.values.slice(1).every(({ length }) => length === maxBatchSize)).toBe(true)
      expect(accepted).toBe(capacity + (concurrency - 1) * maxBatchSize)
      sink.letGo()
      await consumer.close()
    })
  }
})

describe('eager', () => {
  test('lets a batch go at the end of the turn while nothing is in flight', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, eager: true })

    for (const value of [1, 2]) consumer.offer(use('u', value))
    await clock.advance(0)
    consumer.offer(use('u', 3))
    await clock.advance(0)

    expect(sink.values).toEqual([[1, 2]])
    sink.at(0).succeed()
    await clock.advance(0)
    expect(sink.values).toEqual([[1, 2], [3]])
    sink.letGo()
    await consumer.close()
  })
})

describe('stats', () => {
  test('are JSON-safe, fresh, and say what happened', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, name: 'usage', maxBatchSize: 2 })
    const before = consumer.stats()

    for (const value of [1, 2, 3]) consumer.offer(use('u', value))
    await clock.advance(0)
    await clock.advance(20)
    sink.at(0).succeed()
    await clock.advance(0)

    const stats = consumer.stats()
    expect(JSON.parse(JSON.stringify(stats))).toEqual(stats)
    expect(before).toMatchObject({ offered: 0, totalEvents: 0, healthy: true })
    expect(stats).toMatchObject({
      name: 'usage',
      offered: 3,
      totalEvents: 3,
      processedEvents: 2,
      failedEvents: 0,
      droppedEvents: 0,
      batchCount: 1,
      refusedEvents: 0,
      recoveredEvents: 0,
      unjournalledEvents: 0,
      healthy: true,
      pending: 1,
      batchSize: { mean: 2, max: 2 },
    })
    expect(stats.latencyMs.max).toBeCloseTo(20, 0)
    sink.letGo()
    await consumer.close()
  })
})

describe('flush', () => {
  test('settles what was accepted before it, and only that', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, {
      clock,
      concurrency: 1,
      retry: { attempts: 1 },
      onFailed: () => undefined,
    })
    for (const value of [1, 2]) consumer.offer(use('u', value))

    const flushed = consumer.flush()
    await clock.advance(0)
    consumer.offer(use('u', 3))
    expect(sink.values).toEqual([[1, 2]])
    sink.at(0).fail(new Error('no'))
    await clock.advance(0)
    // Halved: one of them is at fault.
    sink.at(1).succeed()
    await clock.advance(0)
    sink.at(2).fail(new Error('no'))

    expect(await flushed).toEqual({ succeeded: 1, failed: 1, dropped: 0 })
    expectQuotaBooks(consumer, { pending: 1, processedEvents: 1, failedEvents: 1 })
    expect(await new QuotaConsumer(sink, { clock }).flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
    sink.letGo()
    await consumer.close()
  })

  test('waits for onFailed, and so does close', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const done: (() => void)[] = []
    const consumer = new QuotaConsumer(sink, {
      clock,
      retry: { attempts: 1 },
      onFailed: () => new Promise<void>((resolve) => void done.push(resolve)),
    })
    const ended: string[] = []
    consumer.offer(use('u', 1))

    void consumer.flush().then(() => ended.push('flush'))
    await clock.advance(0)
    sink.at(0).fail(new Error('no'))
    await clock.advance(0)
    void consumer.close().then(() => ended.push('close'))
    await clock.advance(1000)
    expect(ended).toEqual([])
    done[0]?.()
    await clock.advance(0)

    expect(ended).toEqual(['flush', 'close'])
  })
})
