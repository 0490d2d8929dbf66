import { AsyncWriteBuffer, type AsyncWriteBufferOptions, isSpillwayError } from 'spillway'
import { FakeClock, hanging, late } from 'spillway/testing'
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

describe('close', () => {
  test('settles what was accepted, refuses more, leaves no timer', async () => {
    const { sink, buffer } = controlled({ maxWaitMs: 60_000 })
    buffer.put('a', 1)
    buffer.put('a', 1)

    const closed = buffer.close()
    const afterwards = buffer.put('b', 1)
    await clock.advance(0)
    sink.at(0).succeed()

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(afterwards).toBe(false)
    expect(sink.seen).toEqual([[['a', 2]]])
    expect(clock.pending).toBe(0)
    expect(buffer.stats()).toMatchObject({ offered: 3, succeeded: 2, rejected: 1, pending: 0 })
  })

  test('of an idle buffer resolves at once and never calls the write function', async () => {
    const { sink, buffer } = controlled()

    expect(await buffer.close()).toEqual({ drained: true, abandoned: 0 })

    expect(sink.attempts).toEqual([])
  })

  test('refuses merges into a key that still waits', async () => {
    const { sink, buffer } = controlled()
    const rejections: unknown[] = []
    buffer.on('rejected', ({ key, value, error }) =>
      rejections.push([key, value, isSpillwayError(error, 'ERR_CLOSED')]),
    )
    buffer.put('a', 1)

    const closed = buffer.close()
    const answer = buffer.put('a', 1)
    await clock.advance(0)
    sink.at(0).succeed()
    await closed

    expect(answer).toBe(false)
    expect(rejections).toEqual([['a', 1, true]])
    expect(sink.seen).toEqual([[['a', 1]]])
  })

  test('is idempotent: every caller gets the same report', async () => {
    const { sink, buffer } = controlled()
    buffer.put('a', 1)

    const closes = [buffer.close(), buffer.close(), buffer.close({ timeoutMs: 1000 })]
    await clock.advance(0)
    sink.at(0).succeed()
    const reports = await Promise.all(closes)

    expect(reports).toEqual([1, 2, 3].map(() => ({ drained: true, abandoned: 0 })))
    expect(await buffer.close({ timeoutMs: 0 })).toEqual({ drained: true, abandoned: 0 })
  })

  test('cuts short a wait between retries', async () => {
    const { sink, buffer } = controlled({ retry: { attempts: 3, delayMs: 60_000 }, random: () => 0.9 })
    buffer.put('a', 1)
    await clock.advance(10)
    sink.at(0).fail(new Error('busy'))
    await clock.advance(0)

    const closed = buffer.close()
    await clock.advance(0)
    sink.at(1).fail(new Error('still busy'))
    await clock.advance(0)
    sink.at(2).succeed()

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(clock.now()).toBe(10)
  })

  test('counts a batch that fails meanwhile as settled, not as abandoned', async () => {
    const { sink, buffer } = controlled({ retry: { attempts: 1 } })
    buffer.put('a', 1)

    const closed = buffer.close({ timeoutMs: 1000 })
    await clock.advance(0)
    sink.at(0).fail(new Error('no'))

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(buffer.stats()).toMatchObject({ failed: 1 })
  })

  test('waits for a flush under way, and that flush for the close', async () => {
    const { sink, buffer } = controlled()
    buffer.put('a', 1)

    const flushed = buffer.flush()
    const closed = buffer.close()
    await clock.advance(0)
    sink.at(0).succeed()

    expect(await flushed).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(await buffer.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
  })

  test('writes keys that were held back for a batch in flight', async () => {
    const { sink, buffer } = controlled({ concurrency: 4 })
    buffer.put('a', 1)
    await clock.advance(10)
    buffer.put('a', 2)
    await clock.advance(10)

    const closed = buffer.close()
    await clock.advance(0)
    sink.at(0).succeed()
    await clock.advance(0)
    sink.at(1).succeed()

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(sink.seen).toEqual([[['a', 1]], [['a', 2]]])
  })

  test('happens at the end of an await using block', async () => {
    const written: [string, number][][] = []
    {
      await using buffer = new AsyncWriteBuffer<string, number>((entries) => void written.push([...entries]), {
        merge: add,
        clock,
      })
      buffer.put('a', 1)
    }

    expect(written).toEqual([[['a', 1]]])
  })

  test('called inside the write function drains what is left', async () => {
    const written: [string, number][][] = []
    let closed: Promise<unknown> | undefined
    const buffer = new AsyncWriteBuffer<string, number>(
      (entries) => {
        written.push([...entries])
        closed ??= buffer.close()
      },
      { merge: add, maxBatchSize: 1, clock },
    )

    buffer.put('a', 1)
    buffer.put('b', 1)
    await clock.advance(0)

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(written).toEqual([[['a', 1]], [['b', 1]]])
  })
})

describe('close with a deadline', () => {
  test('abandons what hangs, counts it in writes, and aborts its signal', async () => {
    const { sink, buffer } = controlled({ maxBatchSize: 1 })
    const failures: unknown[] = []
    buffer.on('failed', ({ entries, writes, attempts, error }) =>
      failures.push([...entries, writes, attempts, isSpillwayError(error, 'ERR_CLOSED')]),
    )
    for (let i = 0; i < 3; i++) buffer.put('a', 1)
    await clock.advance(0)
    for (let i = 0; i < 4; i++) buffer.put('a', 1)
    buffer.put('b', 1)
    const { signal } = sink.at(0).context

    const closed = buffer.close({ timeoutMs: 500 })
    await clock.advance(499)
    const early = signal.aborted
    await clock.advance(1)

    expect(early).toBe(false)
    expect(await closed).toEqual({ drained: false, abandoned: 8 })
    expect(signal.aborted).toBe(true)
    expect(isSpillwayError(signal.reason, 'ERR_CLOSED')).toBe(true)
    expect(buffer.stats()).toMatchObject({ failed: 8, pending: 0, pendingKeys: 0, inFlight: 0, inFlightBatches: 0 })
    expectBalance(buffer.stats())
    expect(sink.attempts).toHaveLength(1)
    // What was in flight, and what never left: nobody else will ever see these.
    expect(failures).toEqual([
      [['a', 3], 3, 1, true],
      [['a', 4], ['b', 1], 5, 0, true],
    ])
  })

  test('gives up what is held back too', async () => {
    const { sink, buffer } = controlled({ concurrency: 4 })
    buffer.put('a', 1)
    await clock.advance(10)
    buffer.put('a', 2)
    buffer.put('a', 2)
    await clock.advance(10)

    const closed = buffer.close({ timeoutMs: 5 })
    await clock.advance(5)

    expect(await closed).toEqual({ drained: false, abandoned: 3 })
    expect(buffer.stats()).toMatchObject({ failed: 3, pending: 0, pendingKeys: 0 })
    sink.at(0).succeed()
    await clock.advance(0)
    expect(sink.attempts).toHaveLength(1)
    expect(buffer.stats()).toMatchObject({ failed: 3, succeeded: 0 })
  })

  test('of 0 ms still starts what was accepted, and abandons what does not finish', async () => {
    const { sink, buffer } = controlled()
    buffer.put('a', 1)

    const closed = buffer.close({ timeoutMs: 0 })
    await clock.advance(0)

    expect(await closed).toEqual({ drained: false, abandoned: 1 })
    expect(sink.attempts.length).toBeLessThanOrEqual(1)
  })

  test('may be shortened by a later call but not prolonged', async () => {
    const { buffer } = controlled()
    buffer.put('a', 1)
    await clock.advance(10)

    const closed = buffer.close({ timeoutMs: 1000 })
    buffer.close({ timeoutMs: 60_000 })
    await clock.advance(100)
    buffer.close({ timeoutMs: 50 })
    buffer.close()
    await clock.advance(49)
    let done = false
    closed.then(() => {
      done = true
    })
    await clock.advance(0.5)
    const early = done
    await clock.advance(0.5)

    expect(early).toBe(false)
    expect(done).toBe(true)
    expect(await closed).toEqual({ drained: false, abandoned: 1 })
  })

  test('resolves a flush that waits, with what was abandoned counted as failed', async () => {
    const { buffer } = controlled()
    buffer.put('a', 1)
    buffer.put('a', 1)
    const flushed = buffer.flush()
    await clock.advance(0)

    const closed = buffer.close({ timeoutMs: 5 })
    await clock.advance(5)

    expect(await flushed).toEqual({ succeeded: 0, failed: 2, dropped: 0 })
    expect(await closed).toEqual({ drained: false, abandoned: 2 })
  })

  test('ends a back-off, a timeout and a grace that are under way', async () => {
    const { buffer } = controlled({ timeoutMs: 1000, timeoutGraceMs: 10_000, retry: { attempts: 1 } })
    buffer.put('a', 1)
    await clock.advance(10)
    buffer.put('b', 1)
    await clock.advance(1000)
    expect(buffer.stats()).toMatchObject({ failed: 1, timeouts: 1 })

    const closed = buffer.close({ timeoutMs: 5 })
    await clock.advance(5)

    expect(await closed).toEqual({ drained: false, abandoned: 1 })
    expect(clock.pending).toBe(0)
    expectBalance(buffer.stats())
  })

  test('ignores an answer that comes after it', async () => {
    const applied: [string, number][] = []
    const buffer = new AsyncWriteBuffer<string, number>(
      late((entries: ReadonlyMap<string, number>) => void applied.push(...entries), { delayMs: 100, clock }),
      { merge: add, maxWaitMs: 0, clock },
    )
    const events: string[] = []
    buffer.on('written', () => events.push('written'))
    buffer.put('a', 1)

    const closed = buffer.close({ timeoutMs: 50 })
    await clock.advance(200)

    expect(await closed).toEqual({ drained: false, abandoned: 1 })
    expect(applied).toEqual([['a', 1]])
    expect(events).toEqual([])
    expect(buffer.stats()).toMatchObject({ succeeded: 0, failed: 1 })
  })

  test('keeps the books in balance for whoever looks while signals abort and batches are given up', async () => {
    const { sink, buffer } = controlled({ maxBatchSize: 1, concurrency: 3 })
    for (const key of ['a', 'b', 'c', 'd']) buffer.put(key, 1)
    await clock.advance(0)
    const seen: unknown[] = []
    const look = (): void => {
      const { offered, succeeded, failed, dropped, rejected, aborted, pending } = buffer.stats()
      seen.push(offered - succeeded - failed - dropped - rejected - aborted - pending)
    }
    for (const { context } of sink.attempts) context.signal.addEventListener('abort', look)
    buffer.on('failed', look)

    const closed = buffer.close({ timeoutMs: 5 })
    await clock.advance(5)
    await closed

    // Three signals, three batches that fail, and what waited.
    expect(seen).toEqual([0, 0, 0, 0, 0, 0, 0])
  })

  test('that a wrong timeoutMs asks for rejects, and closes nothing', async () => {
    const { buffer } = controlled()

    for (const timeoutMs of [-1, Number.NaN, '10' as never, 2 ** 31]) {
      await expect(buffer.close({ timeoutMs })).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'timeoutMs' })
    }

    expect(buffer.put('a', 1)).toBe(true)
    const closed = buffer.close({ timeoutMs: 1 })
    await clock.advance(1)
    expect(await closed).toEqual({ drained: false, abandoned: 1 })
  })
})

test('a buffer whose writes never settle is closed at the deadline, and not before', async () => {
  const buffer = new AsyncWriteBuffer<string, number>(
    hanging(() => undefined),
    { merge: add, maxWaitMs: 10, clock },
  )
  buffer.put('a', 1)
  let report: unknown
  buffer.close({ timeoutMs: 10_000 }).then((answer) => {
    report = answer
  })

  await clock.advance(9_999)
  expect(report).toBeUndefined()
  await clock.advance(1)

  expect(report).toEqual({ drained: false, abandoned: 1 })
})
