import { getEventListeners } from 'node:events'
import {
  QuotaConsumer,
  type QuotaConsumerEvents,
  type QuotaConsumerOptions,
  type UsageBatch,
  type UsageFailure,
} from 'spillway'
import { FakeClock, MemoryUsageJournal } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { type Watched, watch } from '../batcher/support/outcomes.js'
import { unhandledDuring, warningsDuring } from '../batcher/support/process-events.js'
import { expectQuotaBalanced, expectQuotaBooks } from './support/books.js'
import { GateSink } from './support/gate-sink.js'
import { heapInUse } from './support/heap.js'

const use = (value: number, userId = 'u') => ({ userId, quotaType: 'api', value })

/** A consumer that is full: one event in flight, one in the queue. */
async function full(options: QuotaConsumerOptions = {}) {
  const clock = new FakeClock()
  const sink = new GateSink(clock)
  const consumer = new QuotaConsumer(sink, { clock, capacity: 1, maxBatchSize: 1, concurrency: 1, ...options })
  consumer.offer(use(1))
  await clock.advance(0)
  consumer.offer(use(2))
  return { clock, sink, consumer, turn: () => clock.advance(0) }
}

describe('publish waits for room', () => {
  test('first come, first served, and nobody overtakes', async () => {
    const { sink, consumer, turn } = await full()
    const order: number[] = []
    for (const value of [3, 4]) void consumer.publish(use(value)).then(() => order.push(value))

    await turn()
    expect([order, consumer.offer(use(9))]).toEqual([[], false])
    sink.at(0).succeed()
    await turn()
    expect(order).toEqual([3])
    sink.letGo()
    await turn()
    await consumer.close()

    expect(order).toEqual([3, 4])
    expect(sink.values).toEqual([[1], [2], [3], [4]])
    expectQuotaBooks(consumer, { succeeded: 4, rejected: 1 })
  })

  test('whatever overflow says: only offer drops', async () => {
    for (const overflow of ['reject', 'drop-newest', 'drop-oldest'] as const) {
      const { sink, consumer, turn } = await full({ overflow })
      const waiting = watch(consumer.publish(use(3)))
      await turn()

      expect(waiting.status).toBe('pending')
      sink.letGo()
      await turn()
      expect(waiting.status).toBe('fulfilled')
      await consumer.close()
      expectQuotaBooks(consumer, { succeeded: 3, dropped: 0 })
    }
  })

  test('until its signal aborts: it rejects with the reason, leaves the line, and takes its listener away', async () => {
    const { sink, consumer, turn } = await full()
    const controller = new AbortController()
    const patient = watch(consumer.publish(use(4)))
    const impatient = watch(consumer.publish(use(3), { signal: controller.signal }))
    const last = watch(consumer.publish(use(5)))
    expect(consumer.pending('u', 'api')).toBe(3)

    const reason = new Error('gave up')
    controller.abort(reason)
    await turn()

    expect(impatient).toMatchObject({ status: 'rejected', reason, times: 1 })
    expect([patient.status, last.status]).toEqual(['pending', 'pending'])
    expectQuotaBooks(consumer, { aborted: 1, rejected: 0, pending: 2, totalEvents: 2 })
    sink.letGo()
    await consumer.flush()
    await turn()
    await consumer.close()
    expect(sink.values).toEqual([[1], [2], [4], [5]])
    expect(getEventListeners(controller.signal, 'abort')).toEqual([])
  })

  test('not at all with a signal that has aborted before, nor with wait: false', async () => {
    const { sink, consumer } = await full()
    const rejected: unknown[] = []
    consumer.on('rejected', ({ error }) => rejected.push(error))
    const reason = new Error('too late')

    const outcomes = [
      consumer.publish(use(3), { signal: AbortSignal.abort(reason) }),
      consumer.publish(use(4), { wait: false }),
    ].map(watch)
    await Promise.resolve()
    await Promise.resolve()

    expect(outcomes[0]).toMatchObject({ status: 'rejected', reason })
    expect(outcomes[1]).toMatchObject({ status: 'rejected', reason: { code: 'ERR_FULL', capacity: 1 } })
    expect(rejected).toEqual(outcomes.map((outcome) => outcome.reason))
    expectQuotaBooks(consumer, { rejected: 2, aborted: 0, pending: 2 })
    sink.letGo()
    await consumer.close()
  })

  test('keeps what it was given, whatever the caller does to his object meanwhile', async () => {
    const { sink, consumer } = await full()
    const event = { userId: 'u', quotaType: 'api', value: 3, timestamp: new Date('2026-01-05') }
    const published = consumer.publish(event)
    event.value = -1
    event.userId = ''
    event.timestamp.setTime(0)
    sink.letGo()
    await published
    await consumer.close()

    expect(sink.writes.at(-1)?.batch.events).toEqual([
      { userId: 'u', quotaType: 'api', value: 3, timestamp: Date.parse('2026-01-05'), period: '2026-01' },
    ])
  })

  test('with one signal for a thousand callers: one listener, one abort', async () => {
    const { sink, consumer, turn } = await full()
    const controller = new AbortController()
    const published = Array.from({ length: 1000 }, () => watch(consumer.publish(use(1), { signal: controller.signal })))

    const warnings = await warningsDuring(async () => {
      expect(getEventListeners(controller.signal, 'abort')).toHaveLength(1)
      controller.abort(new Error('all'))
      await turn()
    })

    expect(warnings).toEqual([])
    expect(published.every(({ status }) => status === 'rejected')).toBe(true)
    expectQuotaBooks(consumer, { aborted: 1000 })
    sink.letGo()
    await consumer.close()
  })

  test('and who gave up leaves nothing behind, however long there is none', async () => {
    const { sink, consumer, turn } = await full()
    const giveUp = async (callers: number): Promise<void> => {
      for (let n = 0; n < callers; n++) {
        const controller = new AbortController()
        void consumer.publish(use(1, `user ${n}`), { signal: controller.signal }).catch(() => undefined)
        controller.abort()
        if (n % 1000 === 0) await turn()
      }
    }
    await giveUp(5000)
    const before = await heapInUse()

    await giveUp(50_000)

    expect((await heapInUse()) - before).toBeLessThan(4 * 2 ** 20)
    expectQuotaBooks(consumer, { aborted: 55_000, pending: 2 })
    sink.letGo()
    await consumer.close()
  })
})

describe('close', () => {
  test('refuses what comes, turns away who waits for room, and writes what was accepted', async () => {
    const { clock, sink, consumer, turn } = await full({ maxWaitMs: 60_000 })
    const rejected: unknown[] = []
    consumer.on('rejected', ({ error }) => rejected.push((error as { code: string }).code))
    const waiting = watch(consumer.publish(use(3)))

    const closing = consumer.close()
    const late = watch(consumer.publish(use(4)))
    expect(consumer.offer(use(5))).toBe(false)
    expect(consumer.isHealthy()).toBe(false)
    await turn()

    for (const { reason } of [waiting, late]) expect(reason).toMatchObject({ code: 'ERR_CLOSED', retryable: false })
    expect(rejected).toEqual(Array(3).fill('ERR_CLOSED'))
    sink.letGo()
    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    expect(await consumer.close()).toEqual({ drained: true, abandoned: 0 })
    expect(await consumer.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
    expect(sink.values).toEqual([[1], [2]])
    expectQuotaBooks(consumer, { succeeded: 2, rejected: 3, healthy: false })
    expect(clock.pending).toBe(0)
  })

  test('cuts a back-off short', async () => {
    const { clock, sink, consumer, turn } = await full({
      retry: { delayMs: 60_000, maxDelayMs: 60_000 },
      random: () => 0.9,
    })
    sink.at(0).fail(new Error('down'))
    await turn()
    const closing = consumer.close()
    sink.letGo()

    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    expect(clock.now()).toBe(0)
  })

  test('at its deadline gives up what is left, tells whose outcome is unknown, and ignores what still comes', async () => {
    const failures: UsageFailure[] = []
    const { clock, sink, consumer, turn } = await full({ onFailed: (failure) => void failures.push(failure) })

    const closing = consumer.close({ timeoutMs: 100 })
    await clock.advance(100)

    expect(await closing).toEqual({ drained: false, abandoned: 2 })
    expect(failures).toMatchObject([
      { events: [{ value: 1 }], attempts: 1, error: { code: 'ERR_CLOSED', outcomeUnknown: true }, kept: false },
      { events: [{ value: 2 }], attempts: 0, error: { code: 'ERR_CLOSED', outcomeUnknown: false }, kept: false },
    ])
    expect(sink.at(0).context.signal.aborted).toBe(true)
    sink.letGo()
    await turn()
    expect(sink.writes).toHaveLength(1)
    expectQuotaBooks(consumer, { succeeded: 0, failed: 2, pending: 0 })
    expect(consumer.pending('u', 'api')).toBe(0)
    expect(clock.pending).toBe(0)
  })

  test('may be hurried, and takes no wrong deadline', async () => {
    const { clock, consumer } = await full({ onFailed: () => undefined })
    const closing = consumer.close()
    await clock.advance(1000)
    void consumer.close({ timeoutMs: 10 })
    void consumer.close({ timeoutMs: 60_000 })
    await clock.advance(10)

    expect(await closing).toMatchObject({ drained: false, abandoned: 2 })
    await expect(consumer.close({ timeoutMs: -1 })).rejects.toMatchObject({ code: 'ERR_OPTION' })
  })

  test('is what await using does', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    sink.letGo()
    {
      await using consumer = new QuotaConsumer(sink, { clock })
      consumer.offer(use(1))
    }

    expect(sink.values).toEqual([[1]])
  })
})

describe('re-entrancy', () => {
  type Call = (consumer: QuotaConsumer) => void
  const calls: Record<string, Call> = {
    offer: (consumer) => void consumer.offer(use(100, 'again')),
    publish: (consumer) => void consumer.publish(use(100, 'again')).catch(() => undefined),
    flush: (consumer) => void consumer.flush(),
    close: (consumer) => void consumer.close(),
    'close at once': (consumer) => void consumer.close({ timeoutMs: 0 }),
  }
  const places = [
    ...(['applied', 'retried', 'failed', 'dropped', 'rejected', 'journalFailed', 'unhealthy', 'recovered'] as const),
    ...(['onFailed', 'onApplied', 'write', 'periodOf'] as const),
  ]
  type Place = (typeof places)[number]

  /** Runs a consumer through all it can meet, and makes a call from one place, the first time that it comes there. */
  async function callFrom(place: Place, call: Call, journalled: boolean): Promise<void> {
    const clock = new FakeClock()
    let called = false
    const at = (here: Place): void => {
      if (here !== place || called) return
      called = true
      call(consumer)
    }
    let writes = 0
    const applied = new Map<number, number>()
    const write = async (batch: UsageBatch) => {
      at('write')
      if (++writes <= 3) throw new Error('down')
      const refused = batch.events.flatMap(({ value }, index) =>
        value === 3 ? [{ index, error: new Error('no') }] : [],
      )
      for (const { value } of batch.events) if (value !== 3) applied.set(value, (applied.get(value) ?? 0) + 1)
      return refused
    }
    const journal = new MemoryUsageJournal({
      before: (operation) => {
        if (operation === 'settle') throw new Error('disk')
      },
    })
    const given: number[] = []
    const consumer = new QuotaConsumer(
      { idempotent: true, write },
      {
        clock,
        capacity: 4,
        maxBatchSize: 2,
        concurrency: 1,
        overflow: journalled ? 'drop-newest' : 'drop-oldest',
        retry: { attempts: 2 },
        unhealthyAfter: 1,
        bisect: false,
        periodOf: () => {
          at('periodOf')
          return 'month'
        },
        onApplied: () => at('onApplied'),
        onFailed: ({ events }) => {
          given.push(...events.map(({ value }) => value))
          at('onFailed')
        },
        ...(journalled && { journal }),
      },
    )
    const ended: number[] = []
    for (const event of places.slice(0, 8) as (keyof QuotaConsumerEvents)[]) {
      consumer.on(event, () => {
        expectQuotaBalanced(consumer.stats())
        at(event)
      })
    }
    consumer.on('dropped', ({ event }) => ended.push(event.value))
    const published: Watched<void>[] = []
    const accepted: number[] = []
    for (let value = 1; value <= 16; value++) {
      if (value % 4 === 0) published.push(watch(consumer.publish(use(value))))
      else if (consumer.offer(use(value))) accepted.push(value)
      if (value % 8 === 0) await clock.advance(200)
    }
    consumer.offer(use(Number.NaN))
    const closed = watch(consumer.close())
    await clock.advance(10_000)

    expect(called, 'it came there').toBe(true)
    expect(closed.status).toBe('fulfilled')
    expectQuotaBooks(consumer, { pending: 0, inFlight: 0 })
    expect(clock.pending).toBe(0)
    expect(published.every(({ times }) => times === 1)).toBe(true)
    // Each that was accepted ended once, somewhere.
    for (const value of accepted) {
      const ends = (applied.get(value) ?? 0) + [...given, ...ended].filter((one) => one === value).length
      expect(ends, `the ends of ${value}`).toBe(1)
    }
  }

  for (const place of places) {
    for (const [name, call] of Object.entries(calls)) {
      test(`${name} from ${place}`, async () => {
        const unhandled = await unhandledDuring(() => callFrom(place, call, place === 'journalFailed'))

        expect(unhandled).toEqual([])
      })
    }
  }

  test('a listener of dropped that makes the newcomer be dropped in its turn', async () => {
    const { sink, consumer } = await full({ overflow: 'drop-oldest' })
    const dropped: number[] = []
    consumer.on('dropped', ({ event }) => {
      dropped.push(event.value)
      if (event.value < 16) consumer.offer(use(event.value * 4))
    })

    expect(consumer.offer(use(4))).toBe(true)

    // 2 made room for 4, and before that was told, 8 displaced it, and so on.
    expect(dropped).toEqual([2, 4, 8, 16])
    expect(consumer.pending('u', 'api')).toBe(1 + 32)
    expectQuotaBooks(consumer, { dropped: 4, pending: 2 })
    sink.letGo()
    await consumer.close()
    expect(consumer.pending('u', 'api')).toBe(0)
  })

  test('a listener that offers again what was refused or dropped ends, with the books in balance', async () => {
    for (const overflow of ['reject', 'drop-newest'] as const) {
      const { sink, consumer } = await full({ overflow })
      consumer.on('rejected', ({ event }) => void consumer.offer(event))
      consumer.on('dropped', ({ event }) => void consumer.offer(event))

      // The stack overflows, and what is deepest on it may fail at anything.
      await warningsDuring(async () => {
        expect(consumer.offer(use(3))).toBe(false)
      })

      expectQuotaBooks(consumer, { pending: 2 })
      expect(consumer.pending('u', 'api')).toBe(3)
      sink.letGo()
      await consumer.close()
      expect(consumer.pending('u', 'api')).toBe(0)
    }
  })

  test('onFailed that waits for flush or close waits until the deadline of close, and no longer', async () => {
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, {
      clock,
      retry: { attempts: 1 },
      onFailed: async () => {
        await consumer.close({ timeoutMs: 1000 })
      },
    })
    consumer.offer(use(1))
    const flushed = watch(consumer.flush())
    await clock.advance(0)
    sink.at(0).fail(new Error('down'))
    await clock.advance(1000)

    expect(await consumer.close()).toEqual({ drained: true, abandoned: 0 })
    await clock.advance(0)
    expect(flushed.status).toBe('fulfilled')
  })
})

describe('listeners and callbacks that throw', () => {
  test('change no result, and are reported', async () => {
    const { sink, consumer } = await full({
      retry: { attempts: 1 },
      onFailed: () => {
        throw new Error('onFailed')
      },
      onApplied: () => Promise.reject(new Error('onApplied')),
    })
    for (const event of ['applied', 'failed', 'rejected', 'unhealthy', 'recovered'] as const) {
      consumer.on(event, () => {
        throw new Error(event)
      })
    }

    let unhandled: unknown[] = []
    const warnings = await warningsDuring(async () => {
      unhandled = await unhandledDuring(async () => {
        expect(consumer.offer(use(3))).toBe(false)
        sink.at(0).fail(new Error('down'))
        sink.letGo()
        await consumer.flush()
        await consumer.close()
      })
    })

    expect(unhandled).toEqual([])
    for (const one of ['onFailed', 'onApplied', 'applied', 'failed', 'rejected', 'unhealthy', 'recovered']) {
      expect(
        warnings.some((warning) => warning.includes(`Error: ${one}\n`)),
        one,
      ).toBe(true)
    }
    expectQuotaBooks(consumer, { succeeded: 1, failed: 1, rejected: 1 })
  })
})
