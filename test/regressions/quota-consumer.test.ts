import { QuotaConsumer, type QuotaConsumerOptions, type UsageBatch, type UsageSink } from 'spillway'
import { FakeClock, MemoryUsageJournal } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { unhandledDuring, warningsDuring } from '../batcher/support/process-events.js'
import { GateSink } from '../quota/support/gate-sink.js'
import { heapInUse } from '../quota/support/heap.js'

/** A sink that keeps what it gets. */
function keeping(): { sink: UsageSink; batches: UsageBatch[] } {
  const batches: UsageBatch[] = []
  return { batches, sink: { idempotent: true, write: (batch) => void batches.push(batch) } }
}

describe('a key whose publisher waits for room', () => {
  test('has one cell, however many others come and go meanwhile', async () => {
    const clock = new FakeClock()
    const gate = new GateSink(clock)
    const consumer = new QuotaConsumer(gate, { clock, capacity: 2, maxBatchSize: 2, concurrency: 1 })
    const known = (n: number): void => void consumer.offer({ userId: `known ${n}`, quotaType: 'api', value: 1 })
    gate.letGo()
    for (let user = 0; user < 1100; user += 2) {
      for (const n of [user, user + 1]) known(n)
      await clock.advance(0)
    }
    const stuck = new GateSink(clock)
    gate.write = stuck.write.bind(stuck)
    for (const n of [0, 1]) known(n)
    await clock.advance(0)
    for (const n of [2, 3]) known(n)

    const published = consumer.publish({ userId: 'late', quotaType: 'api', value: 5 })
    // Full, but its key is new.
    for (let n = 0; n < 1100; n++) consumer.offer({ userId: `refused ${n}`, quotaType: 'api', value: 1 })
    stuck.at(0).succeed()
    await clock.advance(0)
    await published

    expect(consumer.pending('late', 'api')).toBe(5)
    consumer.offer({ userId: 'late', quotaType: 'api', value: 7 })
    expect(consumer.pending('late', 'api')).toBe(12)
    stuck.letGo()
    await consumer.close()
    expect(stuck.writes.at(-1)?.batch.totals).toEqual([
      { userId: 'late', quotaType: 'api', period: '2026-01', value: 12, count: 2 },
    ])
    expect(clock.pending).toBe(0)
  })

  test('is found again, though its period was forgotten meanwhile and its type was not', async () => {
    const clock = new FakeClock()
    const gate = new GateSink(clock)
    const options: QuotaConsumerOptions = { clock, capacity: 2, maxBatchSize: 2, concurrency: 1, periodOf: () => 'day' }
    const consumer = new QuotaConsumer(gate, options)
    const [yesterday, today] = [clock.wallNow() - 86_400_000, clock.wallNow()]
    const api = (userId: string, timestamp: number) => ({ userId, quotaType: 'api', value: 1, timestamp })
    for (const userId of ['a', 'b']) consumer.offer(api(userId, yesterday))
    await clock.advance(0)
    for (const userId of ['c', 'd']) consumer.offer(api(userId, yesterday))

    const published = consumer.publish(api('late', today))
    for (let n = 0; n < 1100; n++) consumer.offer({ userId: n, quotaType: 'noise', value: 1 })
    gate.at(0).succeed()
    await clock.advance(0)
    await published
    expect(consumer.offer(api('other', today))).toBe(true)

    expect(['late', 'other'].map((userId) => consumer.pending(userId, 'api', today))).toEqual([1, 1])
    gate.letGo()
    await consumer.close()
  })
})

describe('a sink', () => {
  test('may answer with a thenable of foreign make, whose then returns nothing', async () => {
    const clock = new FakeClock()
    const settle: ((error?: unknown) => void)[] = []
    const sink: UsageSink = {
      idempotent: true,
      write: () =>
        ({
          // biome-ignore lint/suspicious/noThenProperty: that is the case
          then(resolve: (value: undefined) => void, reject?: (error: unknown) => void) {
            settle.push((error) => (error === undefined ? resolve(undefined) : reject?.(error)))
          },
        }) as never,
    }
    const failed: unknown[] = []
    const consumer = new QuotaConsumer(sink, {
      clock,
      maxBatchSize: 1,
      retry: { attempts: 1 },
      onFailed: ({ error }) => void failed.push(error),
    })

    for (const userId of ['a', 'b']) consumer.offer({ userId, quotaType: 'api', value: 1 })
    await clock.advance(0)
    expect(consumer.stats()).toMatchObject({ inFlight: 2, succeeded: 0 })
    settle[0]?.()
    settle[1]?.(new Error('foreign'))
    await consumer.close()

    expect(consumer.stats()).toMatchObject({ succeeded: 1, failed: 1 })
    expect(failed).toEqual([new Error('foreign')])
  })
})

describe('onApplied', () => {
  test('may be asynchronous: what it rejects with is a warning', async () => {
    const { sink } = keeping()
    const onApplied = async (): Promise<void> => {
      throw new Error('cache is down')
    }
    const consumer = new QuotaConsumer(sink, { clock: new FakeClock(), onApplied })

    let unhandled: unknown[] = []
    const warnings = await warningsDuring(async () => {
      unhandled = await unhandledDuring(async () => {
        consumer.offer({ userId: 1, quotaType: 'api', value: 1 })
        await consumer.close()
      })
    })

    expect(unhandled).toEqual([])
    expect(warnings).toEqual([expect.stringContaining('onApplied failed: Error: cache is down')])
  })
})

describe('a batch that came back from the journal', () => {
  test('is not halved: under the ids of its halves it would be counted twice', async () => {
    const clock = new FakeClock()
    const counted = new Map<string, number>()
    const apply = (batch: UsageBatch): void => {
      if (!counted.has(batch.id)) counted.set(batch.id, batch.events.length)
    }
    const options: QuotaConsumerOptions = { clock, maxBatchSize: 2, maxWaitMs: 10, retry: { attempts: 1 } }
    const journal = new MemoryUsageJournal()
    // It applies the batch; the process is killed before it hears of that.
    const killed: UsageSink = {
      idempotent: true,
      write: (batch) => {
        apply(batch)
        return new Promise<void>(() => undefined)
      },
    }
    const first = new QuotaConsumer(killed, { ...options, journal })
    for (const value of [1, 2]) void first.publish({ userId: 'u', quotaType: 'api', value })
    await clock.advance(0)
    expect([...counted.values()]).toEqual([2])

    let attempts = 0
    const flaky: UsageSink = {
      idempotent: true,
      write: (batch) => {
        if (++attempts === 1) throw new Error('connect ECONNREFUSED')
        apply(batch)
      },
    }
    const failures: unknown[] = []
    const onFailed: QuotaConsumerOptions['onFailed'] = ({ error }) => void failures.push(error)
    const second = new QuotaConsumer(flaky, { ...options, onFailed, journal: journal.reopen() })
    await second.start()
    await second.flush()
    await second.close()

    expect([...counted.values()]).toEqual([2])
    expect(failures).toMatchObject([{ outcomeUnknown: true }])
  })
})

describe('health', () => {
  test('is good again once what filled the queue was taken out of it', async () => {
    const clock = new FakeClock()
    let failDisk = (_error: unknown): void => undefined
    const journal = new MemoryUsageJournal({
      before: (operation) =>
        operation === 'append' ? new Promise<void>((_, reject) => (failDisk = reject)) : undefined,
    })
    const { sink } = keeping()
    const consumer = new QuotaConsumer(sink, { clock, capacity: 1, maxBatchSize: 1, concurrency: 1, journal })
    await consumer.start()
    const publish = (): Promise<unknown> =>
      consumer.publish({ userId: 1, quotaType: 'api', value: 1 }, { wait: false }).catch((error) => error)
    const first = publish()
    await clock.advance(0)
    const second = publish()
    const third = await publish()
    expect(third).toMatchObject({ code: 'ERR_FULL' })
    expect(consumer.isHealthy()).toBe(false)

    failDisk(new Error('disk'))
    await clock.advance(0)
    failDisk(new Error('disk'))
    await clock.advance(0)

    expect(await Promise.all([first, second])).toEqual([new Error('disk'), new Error('disk')])
    expect(consumer.stats()).toMatchObject({ pending: 0, aborted: 2 })
    expect(consumer.isHealthy()).toBe(true)
    await consumer.close()
  })
})

describe('close at its deadline', () => {
  test('rejects what still waits for the journal: whether it was kept is unknown', async () => {
    const clock = new FakeClock()
    const hangs = (): Promise<void> => new Promise(() => undefined)
    const { sink } = keeping()
    const journals = [
      new MemoryUsageJournal({ before: hangs }),
      new MemoryUsageJournal({ before: (operation) => (operation === 'append' ? hangs() : undefined) }),
    ]
    for (const journal of journals) {
      const consumer = new QuotaConsumer(sink, { clock, journal })
      let reason: unknown
      consumer.publish({ userId: 1, quotaType: 'api', value: 1 }).catch((error) => {
        reason = error
      })
      await clock.advance(0)

      void consumer.close({ timeoutMs: 100 })
      await clock.advance(100)

      expect(reason).toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
    }
    expect(clock.pending).toBe(0)
  })
})

describe('a wrong event', () => {
  test('is refused by what was read of it, once', () => {
    const { sink } = keeping()
    const consumer = new QuotaConsumer(sink, { clock: new FakeClock() })
    let reads = 0
    const event = {
      userId: 1,
      quotaType: 'api',
      get value() {
        return reads++ === 0 ? Number.NaN : 1
      },
    }

    expect(consumer.offer(event)).toBe(false)
    expect(consumer.pending(1, 'api')).toBe(0)
  })

  test('leaves nothing behind, whatever quota types it names', async () => {
    const { sink } = keeping()
    let asked = 0
    const periodOf = (): 'month' => {
      asked++
      return 'month'
    }
    const consumer = new QuotaConsumer(sink, { clock: new FakeClock(), periodOf })
    const refuse = (n: number): void => void consumer.offer({ userId: '', quotaType: `type ${n}`, value: 1 })
    for (let n = 0; n < 100; n++) refuse(n)
    const before = await heapInUse()

    for (let n = 0; n < 100_000; n++) refuse(n)

    expect((await heapInUse()) - before).toBeLessThan(5_000_000)
    expect(asked).toBe(0)
  })
})

describe('what an earlier process left', () => {
  test('is written though its quota type is unknown now', async () => {
    const clock = new FakeClock()
    const journal = new MemoryUsageJournal()
    await journal.open()
    const event = { userId: 1, timestamp: clock.wallNow(), value: 1 }
    await journal.append({ ...event, quotaType: 'api', period: '2026-01' })
    await journal.append({ ...event, quotaType: 'retired', period: '2026-01-01' })
    const { sink, batches } = keeping()
    const periodOf = (quotaType: string): 'month' => {
      if (quotaType === 'retired') throw new Error(`no such quota: ${quotaType}`)
      return 'month'
    }
    const consumer = new QuotaConsumer(sink, { clock, periodOf, journal: journal.reopen() })

    expect(await consumer.start()).toEqual({ recoveredBatches: 0, recoveredEvents: 2 })
    await consumer.close()

    expect(batches[0]?.totals).toEqual([
      { userId: '1', quotaType: 'api', period: '2026-01', value: 1, count: 1 },
      { userId: '1', quotaType: 'retired', period: '2026-01-01', value: 1, count: 1 },
    ])
  })
})
