import { AsyncWriteBuffer, type AsyncWriteBufferOptions, isSpillwayError, StoreError } from 'spillway'
import { commitThenDrop, FakeClock, seededRandom } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { add, ControlledSink, expectBalance } from './async-write-buffer-sink.js'

let clock: FakeClock

beforeEach(() => {
  clock = new FakeClock()
})

afterEach(() => {
  expect(clock.pending).toBe(0)
})

function controlled(options: Partial<AsyncWriteBufferOptions<string, number>> = {}) {
  const sink = new ControlledSink<string, number>()
  const buffer = new AsyncWriteBuffer(sink.write, { merge: add, maxWaitMs: 10, clock, ...options })
  return { sink, buffer }
}

/** Closes while every attempt still to come succeeds. */
async function closeWell(buffer: AsyncWriteBuffer<string, number>, sink: ControlledSink<string, number>) {
  const closed = buffer.close()
  for (let seen = 0; seen < sink.attempts.length || buffer.stats().pending > 0; seen++) {
    sink.attempts[seen]?.succeed()
    await clock.advance(0)
  }
  return closed
}

describe('a failed batch', () => {
  test('is retried as it was, with the same id, while new writes merge among themselves', async () => {
    const { sink, buffer } = controlled({ retry: { attempts: 3, delayMs: 100 }, random: seededRandom('frozen') })
    let delay = 0
    buffer.on('retried', ({ delayMs }) => {
      delay = delayMs
    })
    buffer.put('a', 1)
    buffer.put('b', 1)
    await clock.advance(10)

    buffer.put('a', 10)
    buffer.put('a', 10)
    sink.at(0).fail(new Error('busy'))
    await clock.advance(0)
    await clock.advance(delay * 0.9)
    buffer.put('c', 10)
    const beforeTheDelay = sink.attempts.length
    await clock.advance(delay * 0.1 + 0.001)

    expect(beforeTheDelay).toBe(1)
    expect(sink.at(1).seen).toEqual(sink.at(0).seen)
    expect(sink.at(1).context.batchId).toBe(sink.at(0).context.batchId)
    expect(sink.attempts.map(({ context }) => context.attempt)).toEqual([1, 2])
    sink.at(1).succeed()
    await clock.advance(0)
    expect(sink.at(2).seen).toEqual([
      ['a', 20],
      ['c', 10],
    ])
    expect(sink.at(2).context.batchId).not.toBe(sink.at(0).context.batchId)
    expect(sink.at(2).context.attempt).toBe(1)
    await closeWell(buffer, sink)
    expect(buffer.stats()).toMatchObject({ succeeded: 5, failed: 0, retries: 1, batches: 2 })
  })

  test('keeps its slot while it backs off', async () => {
    const { sink, buffer } = controlled({ retry: { attempts: 2, delayMs: 1000 }, random: () => 0.9 })
    buffer.put('a', 1)
    await clock.advance(10)
    sink.at(0).fail(new Error('busy'))
    buffer.put('b', 1)
    await clock.advance(899)

    expect(sink.attempts).toHaveLength(1)
    expect(buffer.stats()).toMatchObject({ inFlightBatches: 1, inFlight: 1 })
    await clock.advance(1)
    expect(sink.at(1).seen).toEqual([['a', 1]])
    await closeWell(buffer, sink)
  })

  test('fails for good after the last attempt, and the next batch is a new one', async () => {
    const { sink, buffer } = controlled({ retry: { attempts: 3, delayMs: 0 } })
    const last = new Error('third')
    const failures: unknown[] = []
    buffer.on('failed', ({ error, attempts, entries }) => failures.push([error, attempts, [...entries]]))
    buffer.put('a', 1)
    await clock.advance(10)
    buffer.put('a', 10)

    sink.at(0).fail(new Error('first'))
    await clock.advance(0)
    sink.at(1).fail(new Error('second'))
    await clock.advance(0)
    sink.at(2).fail(last)
    await clock.advance(10)

    expect(failures).toEqual([[last, 3, [['a', 1]]]])
    expect(sink.at(3).seen).toEqual([['a', 10]])
    expect(sink.at(3).context.attempt).toBe(1)
    await closeWell(buffer, sink)
    expect(buffer.stats()).toMatchObject({ succeeded: 1, failed: 1, retries: 2 })
  })

  test('is tried three times by default where the sink is idempotent', async () => {
    const { sink, buffer } = controlled({ idempotent: true, random: () => 0.999 })
    buffer.put('a', 1)
    await clock.advance(10)

    sink.at(0).fail(new StoreError('gone', { outcomeUnknown: true }))
    await clock.advance(100)
    sink.at(1).fail(new StoreError('gone', { outcomeUnknown: true }))
    await clock.advance(200)
    sink.at(2).fail(new StoreError('gone', { outcomeUnknown: true }))
    await clock.advance(10_000)

    expect(sink.attempts).toHaveLength(3)
    expect(new Set(sink.attempts.map(({ context }) => context.batchId)).size).toBe(1)
    expect(buffer.stats()).toMatchObject({ failed: 1, pending: 0 })
    await buffer.close()
  })

  test.each([
    ['an error that says retryable: false', Object.assign(new Error('bad row'), { retryable: false }), 1],
    ['an error that says nothing', new Error('hm'), 3],
    ['an error that says retryable: true', Object.assign(new Error('later'), { retryable: true }), 3],
    ['no error at all', undefined, 3],
    ['null', null, 3],
    ['a string', 'down', 3],
  ])('with %s is tried as often as that allows', async (_, error, attempts) => {
    let calls = 0
    const buffer = new AsyncWriteBuffer<string, number>(
      () => {
        calls++
        throw error
      },
      { merge: add, retry: { attempts: 3, delayMs: 0 }, clock },
    )
    buffer.put('a', 1)

    await buffer.flush()

    expect(calls).toBe(attempts)
    await buffer.close()
  })

  test('asks retryable, and a retryable that throws means no', async () => {
    const asked: unknown[] = []
    const trouble = new Error('trouble')
    let calls = 0
    const buffer = new AsyncWriteBuffer<string, number>(
      () => {
        calls++
        throw trouble
      },
      {
        merge: add,
        clock,
        retry: {
          attempts: 5,
          delayMs: 0,
          retryable: (error) => {
            asked.push(error)
            if (asked.length === 2) throw new Error('cannot tell')
            return true
          },
        },
      },
    )
    buffer.put('a', 1)

    expect(await buffer.flush()).toMatchObject({ failed: 1 })

    expect(asked).toEqual([trouble, trouble])
    expect(calls).toBe(2)
    await buffer.close()
  })
})

describe('an outcome that may have been applied', () => {
  const lost = () => Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })

  test.each([
    ['a StoreError that says so', () => new StoreError('answer lost', { outcomeUnknown: true })],
    ['a lost connection', lost],
    ['a lost connection as the cause', () => new Error('query failed', { cause: lost() })],
    ['an aborted request', () => AbortSignal.abort().reason as Error],
  ])('%s, is not retried unless the sink is idempotent', async (_, makeError) => {
    const calls = { safe: 0, unsafe: 0 }
    const options = { merge: add, retry: { attempts: 4, delayMs: 0 }, clock }
    const unsafe = new AsyncWriteBuffer<string, number>(() => {
      calls.unsafe++
      throw makeError()
    }, options)
    const safe = new AsyncWriteBuffer<string, number>(
      () => {
        calls.safe++
        throw makeError()
      },
      { ...options, idempotent: true },
    )
    unsafe.put('a', 1)
    safe.put('a', 1)

    await Promise.all([unsafe.close(), safe.close()])

    expect(calls).toEqual({ safe: 4, unsafe: 1 })
  })

  test('reaches an idempotent sink exactly once, however often answers are lost', async () => {
    const applied = new Map<string, number>()
    const batches = new Set<string>()
    const random = seededRandom('lost answers')
    const buffer = new AsyncWriteBuffer<string, number>(
      commitThenDrop(
        (entries: ReadonlyMap<string, number>, { batchId }: { batchId: string }) => {
          if (batches.has(batchId)) return
          batches.add(batchId)
          for (const [key, value] of entries) applied.set(key, (applied.get(key) ?? 0) + value)
        },
        { failureRate: 0.4, random },
      ),
      { merge: add, maxBatchSize: 5, maxWaitMs: 10, idempotent: true, retry: { attempts: 50, delayMs: 10 }, clock },
    )

    for (let i = 0; i < 2000; i++) {
      buffer.put(`key ${i % 20}`, 1)
      if (i % 7 === 0) await clock.advance(3)
    }
    await Promise.all([buffer.close(), clock.advance(60_000)])

    expect(buffer.stats()).toMatchObject({ succeeded: 2000, failed: 0 })
    expect(buffer.stats().retries).toBeGreaterThan(10)
    expect([...applied.values()]).toEqual(Array.from({ length: 20 }, () => 100))
  })
})

describe('timeoutMs', () => {
  test('fails the batch with a TimeoutError, aborts its signal, and is not retried unless idempotent', async () => {
    const { sink, buffer } = controlled({
      timeoutMs: 50,
      timeoutGraceMs: 1000,
      retry: { attempts: 3, delayMs: 0 },
      name: 'counts',
    })
    const errors: unknown[] = []
    buffer.on('failed', ({ error }) => errors.push(error))
    buffer.put('a', 1)
    await clock.advance(10)
    const { signal } = sink.at(0).context

    await clock.advance(49.5)
    const early = [signal.aborted, errors.length]
    await clock.advance(0.5)

    expect(early).toEqual([false, 0])
    expect(errors).toHaveLength(1)
    expect(isSpillwayError(errors[0], 'ERR_TIMEOUT')).toBe(true)
    expect(errors[0]).toMatchObject({ timeoutMs: 50, message: expect.stringContaining('counts') })
    expect(signal.aborted).toBe(true)
    expect(signal.reason).toBe(errors[0])
    expect(buffer.stats()).toMatchObject({ failed: 1, pending: 0, timeouts: 1, overruns: 0 })
    sink.at(0).succeed()
    await buffer.close()
    expect(sink.attempts).toHaveLength(1)
  })

  test('keeps the slot, so that a newer value waits until the timed-out write has settled', async () => {
    const { sink, buffer } = controlled({ timeoutMs: 50, timeoutGraceMs: 1000, retry: { attempts: 1 } })
    buffer.put('a', 1)
    await clock.advance(10)
    buffer.put('a', 2)

    await clock.advance(500)
    const duringGrace = sink.attempts.length
    sink.at(0).fail(new Error('aborted at last'))
    await clock.advance(0)

    expect(duringGrace).toBe(1)
    expect(sink.at(1).seen).toEqual([['a', 2]])
    await closeWell(buffer, sink)
    expect(buffer.stats()).toMatchObject({ timeouts: 1, overruns: 0 })
  })

  test('frees the slot after timeoutGraceMs and counts the overrun; the late answer is ignored', async () => {
    const { sink, buffer } = controlled({ timeoutMs: 50, timeoutGraceMs: 200, retry: { attempts: 1 } })
    buffer.put('a', 1)
    await clock.advance(10)
    buffer.put('b', 1)

    await clock.advance(249)
    const before = sink.attempts.length
    await clock.advance(1)

    expect(before).toBe(1)
    expect(sink.attempts).toHaveLength(2)
    expect(buffer.stats()).toMatchObject({ timeouts: 1, overruns: 1, failed: 1 })
    sink.at(0).succeed()
    await clock.advance(0)
    expect(buffer.stats()).toMatchObject({ failed: 1, succeeded: 0, inFlight: 1 })
    await closeWell(buffer, sink)
    expect(buffer.stats()).toMatchObject({ failed: 1, succeeded: 1 })
  })

  test('has a grace of 1000 ms by default', async () => {
    const { sink, buffer } = controlled({ timeoutMs: 50, retry: { attempts: 1 } })
    buffer.put('a', 1)
    await clock.advance(10)
    buffer.put('b', 1)

    await clock.advance(1049)
    const before = sink.attempts.length
    await clock.advance(1)

    expect(before).toBe(1)
    expect(sink.attempts).toHaveLength(2)
    await closeWell(buffer, sink)
  })

  test('retries where idempotent, but not before the timed-out attempt has settled', async () => {
    const { sink, buffer } = controlled({
      timeoutMs: 50,
      timeoutGraceMs: 1000,
      idempotent: true,
      retry: { attempts: 2, delayMs: 0 },
    })
    buffer.put('a', 1)
    await clock.advance(60)
    const aborted = sink.at(0).context.signal.aborted

    await clock.advance(400)
    const duringGrace = sink.attempts.length
    sink.at(0).succeed()
    await clock.advance(0)

    expect(aborted).toBe(true)
    expect(duringGrace).toBe(1)
    expect(sink.at(1).seen).toEqual([['a', 1]])
    expect(sink.at(1).context.batchId).toBe(sink.at(0).context.batchId)
    expect(sink.at(1).context.signal.aborted).toBe(false)
    await closeWell(buffer, sink)
    expect(buffer.stats()).toMatchObject({ succeeded: 1, failed: 0, retries: 1, timeouts: 1 })
  })

  test('retries where idempotent after the grace when the attempt hangs', async () => {
    const { sink, buffer } = controlled({
      timeoutMs: 50,
      timeoutGraceMs: 200,
      idempotent: true,
      retry: { attempts: 2, delayMs: 0 },
    })
    buffer.put('a', 1)

    await clock.advance(259)
    const before = sink.attempts.length
    await clock.advance(1)

    expect(before).toBe(1)
    expect(sink.attempts).toHaveLength(2)
    sink.at(0).fail(new Error('far too late'))
    await clock.advance(0)
    expect(buffer.stats()).toMatchObject({ inFlight: 1, failed: 0, overruns: 1 })
    await closeWell(buffer, sink)
    expect(buffer.stats()).toMatchObject({ succeeded: 1, failed: 0 })
  })

  test('gives every attempt its own', async () => {
    const { sink, buffer } = controlled({ timeoutMs: 50, retry: { attempts: 2, delayMs: 0 } })
    buffer.put('a', 1)
    await clock.advance(10)
    await clock.advance(40)
    sink.at(0).fail(new Error('busy'))
    await clock.advance(40)

    expect(buffer.stats()).toMatchObject({ timeouts: 0, inFlight: 1 })
    sink.at(1).succeed()
    await clock.advance(0)
    expect(clock.pending).toBe(0)
    await buffer.close()
  })
})

describe('a key in flight', () => {
  test('is held back with concurrency 4, while other keys go', async () => {
    const { sink, buffer } = controlled({ concurrency: 4 })
    buffer.put('a', 1)
    await clock.advance(10)

    buffer.put('a', 2)
    buffer.put('b', 1)
    await clock.advance(10)
    buffer.put('a', 3)
    await clock.advance(100)

    expect(sink.seen).toEqual([[['a', 1]], [['b', 1]]])
    expect(buffer.stats()).toMatchObject({ pending: 4, inFlight: 2, pendingKeys: 1 })
    sink.at(0).succeed()
    await clock.advance(0)
    expect(sink.seen[2]).toEqual([['a', 5]])
    await closeWell(buffer, sink)
    expectBalance(buffer.stats())
    expect(buffer.stats()).toMatchObject({ succeeded: 4 })
  })

  test('is held back while its batch backs off and is tried again', async () => {
    const { sink, buffer } = controlled({
      concurrency: 4,
      retry: { attempts: 2, delayMs: 100 },
      random: () => 0.5,
    })
    buffer.put('a', 1)
    await clock.advance(10)
    buffer.put('a', 2)
    await clock.advance(10)

    sink.at(0).fail(new Error('busy'))
    await clock.advance(50)

    expect(sink.seen).toEqual([[['a', 1]], [['a', 1]]])
    sink.at(1).fail(new Error('still busy'))
    await clock.advance(0)
    expect(sink.seen[2]).toEqual([['a', 2]])
    await closeWell(buffer, sink)
    expect(buffer.stats()).toMatchObject({ succeeded: 1, failed: 1 })
  })

  test('is held back during the grace of its timed-out batch', async () => {
    const { sink, buffer } = controlled({
      concurrency: 4,
      timeoutMs: 50,
      timeoutGraceMs: 200,
      retry: { attempts: 1 },
    })
    buffer.put('a', 1)
    await clock.advance(10)
    buffer.put('a', 2)

    await clock.advance(249)
    const duringGrace = sink.attempts.length
    await clock.advance(1)

    expect(duringGrace).toBe(1)
    expect(sink.seen[1]).toEqual([['a', 2]])
    await closeWell(buffer, sink)
  })

  test('is written by a flush that came while it was held back', async () => {
    const { sink, buffer } = controlled({ concurrency: 2, maxWaitMs: 1000 })
    buffer.put('a', 1)
    const first = buffer.flush()
    await clock.advance(0)
    buffer.put('a', 2)
    const second = buffer.flush()
    await clock.advance(0)
    buffer.put('a', 3)

    sink.at(0).succeed()
    expect(await first).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    await clock.advance(0)
    sink.at(1).succeed()

    expect(sink.seen).toEqual([[['a', 1]], [['a', 5]]])
    expect(await second).toEqual({ succeeded: 2, failed: 0, dropped: 0 })
    await buffer.close()
  })

  test.each([1, 4])('never lets an older value overtake a newer one, with concurrency %i', async (concurrency) => {
    const random = seededRandom(`order ${concurrency}`)
    const store = new Map<string, number>()
    const regressions: string[] = []
    const buffer = new AsyncWriteBuffer<string, number>(
      async (entries) => {
        await new Promise<void>((resolve) => clock.setTimer(resolve, random() * 40))
        if (random() < 0.3) throw new Error('refused')
        for (const [key, version] of entries) {
          if ((store.get(key) ?? 0) > version) regressions.push(`${key}: ${store.get(key)} to ${version}`)
          store.set(key, version)
        }
        await new Promise<void>((resolve) => clock.setTimer(resolve, random() * 40))
      },
      {
        merge: (_, version) => version,
        concurrency,
        maxBatchSize: 4,
        maxWaitMs: 5,
        retry: { attempts: 10, delayMs: 20 },
        random,
        clock,
      },
    )

    for (let version = 1; version <= 3000; version++) {
      buffer.put(`key ${Math.floor(random() * 12)}`, version)
      if (random() < 0.3) await clock.advance(random() * 10)
    }
    await Promise.all([buffer.close(), clock.advance(600_000)])

    expect(regressions).toEqual([])
    expect(buffer.stats().retries).toBeGreaterThan(20)
    expect(buffer.stats()).toMatchObject({ offered: 3000, pending: 0 })
  })
})
