import {
  QuotaConsumer,
  type QuotaConsumerOptions,
  StoreError,
  type UsageFailure,
  type UsageJournal,
  type UsageSink,
} from 'spillway'
import { FakeClock, type JournalOperation, MemoryUsageJournal } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { unhandledDuring, warningsDuring } from '../batcher/support/process-events.js'
import { expectQuotaBooks } from './support/books.js'
import { GateSink } from './support/gate-sink.js'

const use = (value: number, userId = 'u') => ({ userId, quotaType: 'api', value })

/** A journal whose calls are answered when the test says so, and listed as they come. */
class GateJournal {
  readonly journal: MemoryUsageJournal
  readonly calls: JournalOperation[] = []
  /** What a call of each kind fails with; nothing for one that succeeds. */
  readonly failing = new Map<JournalOperation, unknown>()
  readonly #held = new Map<JournalOperation, Promise<void>>()

  constructor() {
    this.journal = new MemoryUsageJournal({
      before: async (operation) => {
        this.calls.push(operation)
        await this.#held.get(operation)
        if (this.failing.has(operation)) throw this.failing.get(operation)
      },
    })
  }

  /** Holds calls of a kind from now on; returns what lets them go. */
  hold(operation: JournalOperation): () => void {
    let letGo = (): void => undefined
    this.#held.set(
      operation,
      new Promise((resolve) => {
        letGo = resolve
      }),
    )
    return () => {
      this.#held.delete(operation)
      letGo()
    }
  }
}

function setUp(options: QuotaConsumerOptions = {}) {
  const clock = new FakeClock()
  const sink = new GateSink(clock)
  const gate = new GateJournal()
  const failures: UsageFailure[] = []
  const journalFailed: unknown[] = []
  const consumer = new QuotaConsumer(sink, {
    clock,
    journal: gate.journal,
    onFailed: (failure) => void failures.push(failure),
    ...options,
  })
  consumer.on('journalFailed', (event) => journalFailed.push(event))
  return { clock, sink, gate, consumer, failures, journalFailed, turn: () => clock.advance(0) }
}

describe('publish', () => {
  test('resolves once the event is durable, and the first one opens the journal', async () => {
    const { gate, consumer, sink, turn } = setUp()
    const letGo = gate.hold('append')

    const published = watch(consumer.publish(use(1)))
    await turn()
    expect(published.status).toBe('pending')
    expect(gate.calls).toEqual(['open', 'append'])
    // It is pending at once: a check mustn't miss it.
    expect(consumer.pending('u', 'api')).toBe(1)
    letGo()
    await turn()

    expect(published.status).toBe('fulfilled')
    expect(gate.journal.pending).toBe(1)
    sink.letGo()
    await consumer.close()
    expect(gate.journal.pending).toBe(0)
    expect(gate.calls).toEqual(['open', 'append', 'assign', 'settle', 'close'])
  })

  test('rejects when the journal fails, and the event is taken out again, wherever it is by then', async () => {
    for (const maxBatchSize of [1, 10]) {
      const { gate, consumer, sink, journalFailed, failures, turn } = setUp({ maxBatchSize })
      const full = new StoreError('the disk is full', { retryable: true })
      gate.failing.set('append', full)

      const published = watch(consumer.publish(use(1)))
      await turn()

      expect(published).toMatchObject({ status: 'rejected', reason: full })
      expect(consumer.pending('u', 'api')).toBe(0)
      expect(journalFailed).toEqual([{ action: 'append', error: full }])
      expectQuotaBooks(consumer, { aborted: 1, totalEvents: 0, pending: 0, unjournalledEvents: 0 })
      await consumer.close()
      expect(sink.writes).toEqual([])
      expect(failures).toEqual([])
    }
  })

  test('that fails takes only its own event out of a batch in flight', async () => {
    const { gate, consumer, sink, turn } = setUp({ maxBatchSize: 2 })
    await consumer.publish(use(1))
    gate.failing.set('append', new Error('disk'))

    const published = watch(consumer.publish(use(2)))
    await turn()

    expect(published.status).toBe('rejected')
    expect(sink.values).toEqual([[1]])
    sink.letGo()
    await consumer.close()
    expectQuotaBooks(consumer, { succeeded: 1, aborted: 1 })
  })

  test('aborted while the journal has it rejects, and the event is counted all the same', async () => {
    const { gate, consumer, sink, turn } = setUp()
    const letGo = gate.hold('append')
    const controller = new AbortController()

    const published = watch(consumer.publish(use(1), { signal: controller.signal }))
    await turn()
    const reason = new Error('gave up')
    controller.abort(reason)
    await turn()
    expect(published).toMatchObject({ status: 'rejected', reason })
    letGo()
    sink.letGo()
    await consumer.close()

    expect(sink.values).toEqual([[1]])
    expectQuotaBooks(consumer, { succeeded: 1, aborted: 0 })
  })

  test('counts towards capacity while the journal is slow', async () => {
    const { gate, consumer, sink, turn } = setUp({ capacity: 2, maxBatchSize: 2, concurrency: 1 })
    const letGo = gate.hold('append')
    for (const value of [1, 2]) void consumer.publish(use(value))
    await turn()
    for (const value of [3, 4]) void consumer.publish(use(value))
    const late = watch(consumer.publish(use(5)))
    await turn()

    expect(late.status).toBe('pending')
    expect(consumer.offer(use(6))).toBe(false)
    expectQuotaBooks(consumer, { pending: 4, inFlight: 2, rejected: 1 })
    letGo()
    sink.letGo()
    await turn()
    expect(late.status).toBe('fulfilled')
    await consumer.close()
  })
})

describe('offer', () => {
  test('goes to the journal behind it; what that fails to keep is counted and stays in memory', async () => {
    const { gate, consumer, sink, journalFailed, turn } = setUp()
    gate.failing.set('append', new Error('disk'))

    expect(consumer.offer(use(1))).toBe(true)
    await turn()

    expect(journalFailed).toEqual([{ action: 'append', error: new Error('disk') }])
    expectQuotaBooks(consumer, { unjournalledEvents: 1, pending: 1, aborted: 0 })
    sink.letGo()
    await consumer.close()
    expect(sink.values).toEqual([[1]])
    // There was nothing to assign or to settle.
    expect(gate.calls).toEqual(['open', 'append', 'settle', 'close'])
  })

  test('is written no sooner than the journal has its batch', async () => {
    const { gate, consumer, sink, turn } = setUp({ maxBatchSize: 1 })
    const appended = gate.hold('append')
    consumer.offer(use(1))
    await turn()
    const assigned = gate.hold('assign')
    appended()
    await turn()
    expect([gate.calls, sink.writes.length]).toEqual([['open', 'append', 'assign'], 0])
    assigned()
    await turn()

    expect(sink.values).toEqual([[1]])
    sink.letGo()
    await consumer.close()
  })
})

describe('start', () => {
  test('brings back what an earlier process left: batches under their ids, then events in new ones', async () => {
    const first = setUp({ maxBatchSize: 2 })
    for (const value of [1, 2, 3]) await first.consumer.publish(use(value))
    await first.turn()
    const { id } = first.sink.at(0).batch

    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const journal = first.gate.journal.reopen()
    const consumer = new QuotaConsumer(sink, { clock, journal, maxBatchSize: 2 })
    const report = await consumer.start()
    await clock.advance(0)

    expect(report).toEqual({ recoveredBatches: 1, recoveredEvents: 3 })
    expect(sink.values).toEqual([[1, 2], [3]])
    expect(sink.at(0).batch).toEqual(first.sink.at(0).batch)
    expect(sink.at(1).batch.id).not.toBe(id)
    expect(consumer.pending('u', 'api', first.clock.wallNow())).toBe(6)
    expectQuotaBooks(consumer, { recoveredEvents: 3, totalEvents: 3, pending: 3 })
    sink.letGo()
    await consumer.close()
    expect(journal.pending).toBe(0)
  })

  test('takes in more than capacity, and refuses new events meanwhile', async () => {
    const first = setUp({ maxWaitMs: 60_000 })
    for (let value = 1; value <= 9; value++) await first.consumer.publish(use(value))
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const options = { clock, journal: first.gate.journal.reopen(), capacity: 3, maxBatchSize: 3, concurrency: 1 }
    const consumer = new QuotaConsumer(sink, options)

    await consumer.start()
    await clock.advance(0)

    expect(sink.values).toEqual([[1, 2, 3]])
    expect(consumer.offer(use(10))).toBe(false)
    sink.letGo()
    await consumer.close()
    expect(sink.values.flat()).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
  })

  test('is done once, whoever asks, and needs no journal', async () => {
    const { gate, consumer } = setUp()
    const starts = [consumer.start(), consumer.publish(use(1)).then(() => consumer.start()), consumer.start()]

    expect(await Promise.all(starts)).toEqual(Array(3).fill({ recoveredBatches: 0, recoveredEvents: 0 }))
    expect(gate.calls.filter((call) => call === 'open')).toHaveLength(1)
    expect(await new QuotaConsumer(new GateSink(new FakeClock())).start()).toEqual({
      recoveredBatches: 0,
      recoveredEvents: 0,
    })
    void consumer.close({ timeoutMs: 0 })
  })

  test('that fails rejects with why, and is tried anew by the next call', async () => {
    const { gate, consumer, sink, turn } = setUp()
    gate.failing.set('open', new StoreError('locked', { retryable: true }))

    const unhandled = await unhandledDuring(async () => {
      const outcomes = [watch(consumer.start()), watch(consumer.publish(use(1)))]
      expect(consumer.offer(use(2))).toBe(true)
      await turn()
      for (const { reason } of outcomes) expect(reason).toMatchObject({ message: 'locked' })
    })
    gate.failing.clear()
    expect(await consumer.start()).toEqual({ recoveredBatches: 0, recoveredEvents: 0 })
    await consumer.publish(use(3))
    sink.letGo()
    await consumer.close()

    expect(unhandled).toEqual([])
    expect(sink.values).toEqual([[2, 3]])
    expectQuotaBooks(consumer, { aborted: 1, unjournalledEvents: 1, succeeded: 2 })
  })

  test('that close comes upon still writes what it brings back; after close it is refused', async () => {
    const first = setUp({ maxWaitMs: 60_000 })
    await first.consumer.publish(use(1))
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, journal: first.gate.journal.reopen() })
    sink.letGo()

    const started = consumer.start()
    const closed = consumer.close()

    expect(await started).toEqual({ recoveredBatches: 0, recoveredEvents: 1 })
    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(sink.values).toEqual([[1]])
    const fresh = setUp().consumer
    await fresh.close()
    await expect(fresh.start()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })

  test('that hangs until the deadline of close: what it brings then stays, and the journal is closed after all', async () => {
    const first = setUp({ maxWaitMs: 60_000 })
    await first.consumer.publish(use(1))
    const clock = new FakeClock()
    const sink = new GateSink(clock)
    const calls: JournalOperation[] = []
    let open = (): void => undefined
    const journal = first.gate.journal.reopen({
      before: (operation) => {
        calls.push(operation)
        if (operation !== 'open') return undefined
        return new Promise<void>((resolve) => {
          open = resolve
        })
      },
    })
    const failures: UsageFailure[] = []
    const consumer = new QuotaConsumer(sink, { clock, journal, onFailed: (failure) => void failures.push(failure) })
    consumer.on('journalFailed', () => undefined)
    const started = consumer.start()
    const waiting = watch(consumer.publish(use(2)))
    const closing = consumer.close({ timeoutMs: 100 })
    await clock.advance(100)

    expect(await closing).toEqual({ drained: false, abandoned: 1 })
    expect(waiting.reason).toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
    // It never came there.
    expect(failures).toMatchObject([{ events: [{ value: 2 }], kept: false }])
    open()
    expect(await started).toEqual({ recoveredBatches: 0, recoveredEvents: 0 })
    await clock.advance(0)

    expect(sink.writes).toEqual([])
    expect(calls).toContain('close')
    expect((await journal.reopen().open()).events.map(({ event }) => event.value)).toEqual([1])
    expectQuotaBooks(consumer, { recoveredEvents: 0, failed: 1 })
  })
})

describe('what is given up', () => {
  test('goes to the dead letters, and only then is forgotten', async () => {
    const { clock, gate, consumer, sink, failures, turn } = setUp({
      maxBatchSize: 2,
      bisect: false,
      retry: { attempts: 1 },
    })
    for (const value of [1, 2]) void consumer.publish(use(value))
    await turn()
    const letGo = gate.hold('deadLetter')
    const error = new Error('poison')
    sink.at(0).fail(error)
    await turn()
    expect([gate.journal.pending, gate.journal.deadLetters]).toEqual([2, []])
    const flushed = watch(consumer.flush())
    await clock.advance(1000)
    expect(flushed.status).toBe('pending')
    letGo()
    await turn()

    const { id, events } = sink.at(0).batch
    expect(gate.journal.deadLetters).toEqual([{ batchId: id, events, error }])
    expect(gate.journal.pending).toBe(0)
    expect(failures).toEqual([{ batchId: id, events, attempts: 1, error, kept: false }])
    expect(flushed.status).toBe('fulfilled')
    await consumer.close()
  })

  test('is what the sink refused, the rest is forgotten with it', async () => {
    const { gate, consumer, sink, turn } = setUp({ maxBatchSize: 2 })
    for (const value of [1, 2]) void consumer.publish(use(value))
    await turn()
    const error = new Error('refused')
    sink.at(0).answer([{ index: 1, error }])
    await turn()

    const { id, events } = sink.at(0).batch
    expect(gate.journal.deadLetters).toEqual([{ batchId: id, events: [events[1]], error, refused: true }])
    expect(gate.journal.pending).toBe(0)
    await consumer.close()
  })

  test('comes back when the dead letters fail, and so does a batch that couldn’t be settled', async () => {
    for (const operation of ['deadLetter', 'settle'] as const) {
      const { gate, consumer, sink, journalFailed, turn } = setUp({ maxBatchSize: 1, retry: { attempts: 1 } })
      await consumer.publish(use(1))
      await turn()
      gate.failing.set(operation, new Error('disk'))
      if (operation === 'deadLetter') sink.at(0).fail(new Error('poison'))
      else sink.at(0).succeed()
      await turn()
      await consumer.close()

      expect(journalFailed).toEqual([
        { action: operation === 'settle' ? 'settle' : 'dead-letter', error: new Error('disk') },
      ])
      const { batches } = await gate.journal.reopen().open()
      expect(batches.map(({ id }) => id)).toEqual([sink.at(0).batch.id])
    }
  })

  test('stays in the journal where its batch couldn’t be noted: kept says so, and it comes back', async () => {
    const { clock, gate, consumer, sink, failures } = setUp({ maxBatchSize: 1, retry: { attempts: 2 } })
    await consumer.publish(use(1))
    gate.failing.set('assign', new Error('disk'))
    await clock.advance(1000)

    expect(failures).toMatchObject([{ attempts: 2, error: new Error('disk'), kept: true }])
    expect(sink.writes).toEqual([])
    await consumer.close()
    expect(gate.journal.deadLetters).toEqual([])
    const { events } = await gate.journal.reopen().open()
    expect(events.map(({ event }) => event.value)).toEqual([1])
  })

  test('because the journal took too long is not written late', async () => {
    const { clock, gate, consumer, sink, failures } = setUp({ maxBatchSize: 1, timeoutMs: 100, retry: { attempts: 1 } })
    await consumer.publish(use(1))
    const letGo = gate.hold('assign')
    await clock.advance(100)
    expect(failures).toMatchObject([{ error: { code: 'ERR_TIMEOUT' }, kept: true }])
    letGo()
    await clock.advance(5000)

    expect(sink.writes).toEqual([])
    await consumer.close()
    const { batches } = await gate.journal.reopen().open()
    expect(batches.map(({ id }) => id)).toEqual([failures[0]?.batchId])
  })

  test('at the deadline of close stays in the journal, but for what that never had', async () => {
    const { gate, consumer, sink, failures, turn } = setUp({ maxBatchSize: 2, concurrency: 1 })
    for (const value of [1, 2]) await consumer.publish(use(value))
    await turn()
    gate.failing.set('append', new Error('disk'))
    consumer.offer(use(3))
    await turn()
    gate.failing.clear()
    await consumer.publish(use(4))

    const closing = consumer.close({ timeoutMs: 0 })
    await turn()

    expect(await closing).toEqual({ drained: false, abandoned: 4 })
    expect(failures.map(({ events, kept }) => [events.map(({ value }) => value), kept])).toEqual([
      [[1, 2], true],
      [[4], true],
      [[3], false],
    ])
    expect(gate.journal.deadLetters.map(({ events }) => events.map(({ value }) => value))).toEqual([[3]])
    const { batches, events } = await gate.journal.reopen().open()
    expect(batches.map(({ id }) => id)).toEqual([sink.at(0).batch.id])
    expect(events.map(({ event }) => event.value)).toEqual([4])
  })

  for (const refuses of [false, true]) {
    const what = refuses ? 'just what the sink refuses' : 'the whole batch, where the sink throws because of one event'
    test(`out of a batch that came back is ${what}`, async () => {
      const first = setUp({ maxBatchSize: 2 })
      for (const value of [1, 2]) await first.consumer.publish(use(value))
      await first.turn()
      const { id } = first.sink.at(0).batch
      const journal = first.gate.journal.reopen()
      const poison = new Error('poison')
      const write: UsageSink['write'] = () => {
        if (refuses) return [{ index: 1, error: poison }]
        throw poison
      }
      const failures: UsageFailure[] = []
      const clock = new FakeClock()
      const onFailed = (failure: UsageFailure): void => void failures.push(failure)
      const consumer = new QuotaConsumer({ idempotent: true, write }, { clock, journal, onFailed })

      await consumer.start()
      await Promise.all([consumer.flush(), clock.advance(1000)])

      const events = (refuses ? [2] : [1, 2]).map((value) => expect.objectContaining({ value }))
      const error = refuses ? poison : expect.objectContaining({ outcomeUnknown: true, cause: poison })
      expect(failures).toMatchObject([{ batchId: id, events, error, kept: false }])
      expect(journal.deadLetters).toMatchObject([{ batchId: id, events, error }])
      expect(journal.pending).toBe(0)
      expectQuotaBooks(consumer, { recoveredEvents: 2, succeeded: refuses ? 1 : 0, failed: refuses ? 1 : 2 })
      await consumer.close()
    })
  }

  test('before the journal is open never gets there: whoever took it has it alone', async () => {
    const { clock, gate, consumer, failures, journalFailed, turn } = setUp({ timeoutMs: 10, retry: { attempts: 1 } })
    const letGo = gate.hold('open')
    consumer.offer(use(1))
    const published = watch(consumer.publish(use(2)))
    void consumer.flush()
    await clock.advance(10)
    expect(failures).toMatchObject([{ events: [{ value: 1 }, { value: 2 }], kept: false }])
    letGo()
    await turn()

    expect(published.reason).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true })
    expect(journalFailed).toMatchObject([{ action: 'append' }, { action: 'append' }])
    await Promise.all([consumer.close(), clock.advance(1000)])
    expect(await gate.journal.reopen().open()).toEqual({ batches: [], events: [] })
    expectQuotaBooks(consumer, { failed: 2 })
  })

  test('for a cause that may pass, when close has cut its retries short, stays in the journal', async () => {
    const { gate, consumer, sink, failures, turn } = setUp({ maxBatchSize: 2, bisect: false, retry: { attempts: 2 } })
    for (const value of [1, 2, 3, 4]) await consumer.publish(use(value))
    await turn()
    sink.at(0).fail(new Error('connect ECONNREFUSED'))
    sink.at(1).fail(new StoreError('no such table', { retryable: false }))
    await turn()
    const closed = consumer.close()
    await turn()
    sink.at(2).fail(new Error('connect ECONNREFUSED'))

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    const values = ({ events }: { events: UsageFailure['events'] }) => events.map(({ value }) => value)
    expect(failures.map((failure) => [values(failure), failure.kept])).toEqual([
      [[3, 4], false],
      [[1, 2], true],
    ])
    expect(gate.journal.deadLetters.map(values)).toEqual([[3, 4]])
    const { batches } = await gate.journal.reopen().open()
    expect(batches.map(({ id }) => id)).toEqual([sink.at(0).batch.id])
    expectQuotaBooks(consumer, { failed: 4 })
  })

  test('has an id of its own where the rest of its batch comes back, since one id can’t be counted twice', async () => {
    const { gate, consumer, sink, failures, turn } = setUp({ maxBatchSize: 2, concurrency: 1 })
    await consumer.start()
    gate.failing.set('append', new Error('disk'))
    consumer.offer(use(1))
    await turn()
    gate.failing.clear()
    await consumer.publish(use(2))
    await turn()
    void consumer.close({ timeoutMs: 0 })
    await turn()

    const { id } = sink.at(0).batch
    expect(sink.values).toEqual([[1, 2]])
    expect(failures).toMatchObject([
      { batchId: id, events: [{ value: 2 }], kept: true },
      { batchId: `${id}/unjournalled`, events: [{ value: 1 }], kept: false },
    ])
    expect(gate.journal.deadLetters).toMatchObject([{ batchId: `${id}/unjournalled`, events: [{ value: 1 }] }])
    const { batches } = await gate.journal.reopen().open()
    expect(batches).toMatchObject([{ id, events: [{ event: { value: 2 } }] }])
  })

  test('is warned of where the journal never opened and nobody listens', async () => {
    const { clock, gate, consumer, sink, turn } = setUp({
      maxBatchSize: 1,
      retry: { attempts: 1 },
      onFailed: undefined,
    })
    gate.failing.set('open', new Error('locked'))

    const warnings = await warningsDuring(async () => {
      consumer.offer(use(1))
      await turn()
      sink.at(0).fail(new Error('down'))
      await clock.advance(10)
    })

    expect(warnings).toEqual([expect.stringMatching(/gave up usage/)])
    await consumer.close()
  })
})

describe('the journal', () => {
  test('that fails is warned of once, where nobody listens for it', async () => {
    const clock = new FakeClock()
    const gate = new GateJournal()
    const consumer = new QuotaConsumer(new GateSink(clock), { clock, journal: gate.journal })
    gate.failing.set('append', new Error('disk'))

    const warnings = await warningsDuring(async () => {
      for (const value of [1, 2]) consumer.offer(use(value))
      await clock.advance(0)
    })

    expect(warnings).toEqual([expect.stringMatching(/its journal failed \(append\).*Error: disk/s)])
    void consumer.close({ timeoutMs: 0 })
    await clock.advance(0)
  })

  test('is closed after the last batch, but never when it wasn’t opened', async () => {
    const { gate, consumer, sink } = setUp()
    await consumer.publish(use(1))
    sink.letGo()
    await consumer.close()
    expect(gate.calls.at(-1)).toBe('close')

    const idle = setUp()
    await idle.consumer.close()
    expect(idle.gate.calls).toEqual([])
  })

  test('whose methods throw or answer with foreign thenables is as good as one that promises', async () => {
    const clock = new FakeClock()
    const thenable = <T>(value: T): PromiseLike<T> => Promise.resolve(value)
    const thrown: unknown[] = []
    const journal: UsageJournal = {
      open: () => thenable({ batches: [], events: [] }),
      append: () => {
        throw new Error('thrown')
      },
      assign: () => thenable(undefined),
      settle: () => {
        throw new Error('thrown')
      },
      deadLetter: () => thenable(undefined),
      close: () => {
        throw new Error('thrown')
      },
    }
    const sink = new GateSink(clock)
    const consumer = new QuotaConsumer(sink, { clock, journal })
    consumer.on('journalFailed', ({ action }) => thrown.push(action))
    sink.letGo()

    await expect(consumer.publish(use(1))).rejects.toThrow('thrown')
    expect(consumer.offer(use(2))).toBe(true)

    expect(await consumer.close()).toEqual({ drained: true, abandoned: 0 })
    expect(sink.values).toEqual([[2]])
    expect(thrown).toEqual(['append', 'append', 'settle'])
  })
})
