import { AsyncLocalStorage } from 'node:async_hooks'
import { AsyncWriteBuffer, type BatchContext } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { add, ControlledSink, expectBalance } from './async-write-buffer-sink.js'

let clock: FakeClock

beforeEach(() => {
  clock = new FakeClock()
})

afterEach(() => {
  expect(clock.pending).toBe(0)
})

/** A buffer of sums whose writes succeed at once, and what was written. */
function summing(options: Partial<ConstructorParameters<typeof AsyncWriteBuffer<string, number>>[1]> = {}) {
  const written: [string, number][][] = []
  const buffer = new AsyncWriteBuffer<string, number>((entries) => void written.push([...entries]), {
    merge: add,
    clock,
    ...options,
  })
  return { buffer, written }
}

describe('put', () => {
  test('answers true at once and writes later', async () => {
    const { buffer, written } = summing()

    const answer = buffer.put('a', 1)

    expect(answer).toBe(true)
    expect(written).toEqual([])
    await buffer.close()
    expect(written).toEqual([[['a', 1]]])
  })

  test('never calls the write function on its own stack, even when a batch is full', async () => {
    const { buffer, written } = summing({ maxBatchSize: 1, maxWaitMs: 0 })

    buffer.put('a', 1)

    expect(written).toEqual([])
    await clock.advance(0)
    expect(written).toEqual([[['a', 1]]])
  })

  test('merges the old value with the new one, in that order', async () => {
    const written: string[] = []
    const buffer = new AsyncWriteBuffer<string, string>((entries) => void written.push(...entries.values()), {
      merge: (old, value) => `${old}${value}`,
      clock,
    })

    for (const letter of 'flood') buffer.put('word', letter)
    await buffer.close()

    expect(written).toEqual(['flood'])
  })

  test('does not ask merge about the first value of a key', async () => {
    const { buffer, written } = summing({
      merge: () => {
        throw new Error('there is nothing to merge')
      },
    })

    buffer.put('a', 1)
    buffer.put('b', 2)
    await buffer.close()

    expect(written).toEqual([
      [
        ['a', 1],
        ['b', 2],
      ],
    ])
  })

  test('takes undefined, null, NaN, 0 and objects as keys, as a Map does', async () => {
    const keys = [undefined, null, Number.NaN, 0, -0, '', {}, 'a'] as const
    const written: [unknown, number][] = []
    const buffer = new AsyncWriteBuffer<unknown, number>((entries) => void written.push(...entries), {
      merge: add,
      clock,
    })

    for (const key of [...keys, ...keys]) expect(buffer.put(key, 1)).toBe(true)
    const { pendingKeys } = buffer.stats()
    await buffer.close()

    const expected = new Map<unknown, number>()
    for (const key of [...keys, ...keys]) expected.set(key, (expected.get(key) ?? 0) + 1)
    expect(pendingKeys).toBe(expected.size)
    expect(written).toEqual([...expected])
  })

  test('takes undefined as a value and as the result of merge', async () => {
    const written: unknown[] = []
    const buffer = new AsyncWriteBuffer<string, unknown>((entries) => void written.push([...entries]), {
      merge: () => undefined,
      clock,
    })

    buffer.put('once', undefined)
    buffer.put('twice', 1)
    buffer.put('twice', 2)
    await buffer.close()

    expect(written).toEqual([
      [
        ['once', undefined],
        ['twice', undefined],
      ],
    ])
  })
})

describe('a batch is due', () => {
  test('at maxBatchSize distinct keys; merged writes do not count', async () => {
    const { buffer, written } = summing({ maxBatchSize: 3, maxWaitMs: 1000 })

    for (let i = 0; i < 50; i++) buffer.put('a', 1)
    buffer.put('b', 1)
    await clock.advance(0)
    const beforeTheThird = written.length
    buffer.put('c', 1)
    await clock.advance(0)

    expect(beforeTheThird).toBe(0)
    expect(written).toEqual([
      [
        ['a', 50],
        ['b', 1],
        ['c', 1],
      ],
    ])
    await buffer.close()
  })

  test('when its first write has waited maxWaitMs, however often later ones come', async () => {
    const { buffer, written } = summing({ maxWaitMs: 50 })

    buffer.put('a', 1)
    await clock.advance(30)
    buffer.put('a', 1)
    await clock.advance(19)
    const at49 = written.length
    await clock.advance(1)

    expect(at49).toBe(0)
    expect(written).toEqual([[['a', 2]]])
    await buffer.close()
  })

  test('so that with a write every 30 ms none waits longer than maxWaitMs', async () => {
    const waits: number[] = []
    const buffer = new AsyncWriteBuffer<number, number>(
      (entries) => void waits.push(...[...entries.values()].map((putAt) => clock.now() - putAt)),
      { merge: Math.min, maxWaitMs: 50, clock },
    )

    for (let i = 0; i < 100; i++) {
      buffer.put(i, clock.now())
      await clock.advance(30)
    }
    await buffer.close()

    expect(waits).toHaveLength(100)
    expect(Math.max(...waits)).toBe(50)
  })

  test('at the end of the turn with maxWaitMs 0', async () => {
    const { buffer, written } = summing({ maxWaitMs: 0 })

    buffer.put('a', 1)
    await Promise.resolve()
    buffer.put('a', 1)
    await clock.advance(0)

    expect(written).toEqual([[['a', 2]]])
    expect(clock.pending).toBe(0)
    await buffer.close()
  })

  test('after 100 ms or at 100 keys by default', async () => {
    const { buffer, written } = summing()

    buffer.put('a', 1)
    await clock.advance(99.9)
    expect(written).toHaveLength(0)
    await clock.advance(0.1)
    expect(written).toHaveLength(1)
    for (let i = 0; i < 250; i++) buffer.put(`key ${i}`, 1)
    await clock.advance(0)
    expect(written.map((batch) => batch.length)).toEqual([1, 100, 100])
    await buffer.close()
    expect(written.map((batch) => batch.length)).toEqual([1, 100, 100, 50])
  })

  test('and behind a busy slot leaves the moment it frees, still merging until then', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, { merge: add, maxWaitMs: 10, clock })
    buffer.put('a', 1)
    await clock.advance(10)

    buffer.put('b', 1)
    await clock.advance(500)
    buffer.put('b', 1)
    const whileBusy = sink.attempts.length
    sink.at(0).succeed()
    await clock.advance(0)

    expect(whileBusy).toBe(1)
    expect(sink.seen).toEqual([[['a', 1]], [['b', 2]]])
    sink.at(1).succeed()
    await buffer.close()
  })
})

describe('flush', () => {
  test('writes what waits without maxWaitMs, goes on accepting, and counts writes', async () => {
    const { buffer, written } = summing({ maxWaitMs: 60_000 })
    buffer.put('a', 1)
    buffer.put('a', 1)
    buffer.put('b', 1)

    const report = await buffer.flush()

    expect(report).toEqual({ succeeded: 3, failed: 0, dropped: 0 })
    expect(buffer.put('a', 1)).toBe(true)
    await buffer.close()
    expect(written).toEqual([
      [
        ['a', 2],
        ['b', 1],
      ],
      [['a', 1]],
    ])
  })

  test('of nothing answers with zeros', async () => {
    const { buffer, written } = summing()

    const report = await buffer.flush()

    expect(report).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
    expect(written).toEqual([])
    await buffer.close()
  })

  test('waits for what is in flight and never for what comes later', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, { merge: add, clock })
    buffer.put('a', 1)
    await clock.advance(100)

    const flushed = buffer.flush()
    buffer.put('b', 1)
    buffer.put('c', 1)
    sink.at(0).succeed()

    expect(await flushed).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    const closed = buffer.close()
    await clock.advance(0)
    sink.at(1).succeed()
    await closed
  })

  test('counts a write that was merged into a key before it, and not one merged after it', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, { merge: add, clock })
    buffer.put('blocker', 1)
    await clock.advance(100)
    buffer.put('a', 1)
    buffer.put('a', 1)

    const first = buffer.flush()
    for (let i = 0; i < 3; i++) buffer.put('a', 1)
    const second = buffer.flush()
    sink.at(0).succeed()
    await clock.advance(0)
    sink.at(1).succeed()

    expect(sink.at(1).seen).toEqual([['a', 5]])
    expect(await first).toEqual({ succeeded: 3, failed: 0, dropped: 0 })
    // The second one began with all six unsettled.
    expect(await second).toEqual({ succeeded: 6, failed: 0, dropped: 0 })
    await buffer.close()
  })

  test('that fails says how many, never rejects, and does not poison the next', async () => {
    let broken = true
    const buffer = new AsyncWriteBuffer<string, number>(
      () => {
        if (broken) throw new Error('no disk')
      },
      { merge: add, retry: { attempts: 1 }, clock },
    )
    buffer.put('a', 1)
    buffer.put('a', 1)

    const first = await buffer.flush()
    broken = false
    buffer.put('a', 1)
    const second = await buffer.flush()

    expect(first).toEqual({ succeeded: 0, failed: 2, dropped: 0 })
    expect(second).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    await buffer.close()
  })

  test('counts what was dropped while it waited', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, {
      merge: add,
      capacity: 1,
      overflow: 'drop-oldest',
      maxWaitMs: 10,
      clock,
    })
    buffer.put('blocker', 1)
    await clock.advance(10)
    buffer.put('old', 1)
    buffer.put('old', 1)

    const flushed = buffer.flush()
    buffer.put('new', 1)
    sink.at(0).succeed()

    expect(await flushed).toEqual({ succeeded: 1, failed: 0, dropped: 2 })
    const closed = buffer.close()
    await clock.advance(0)
    sink.at(1).succeed()
    await closed
    expect(sink.seen).toEqual([[['blocker', 1]], [['new', 1]]])
  })

  test('may be called inside the write function', async () => {
    const written: [string, number][][] = []
    const reports: unknown[] = []
    const buffer = new AsyncWriteBuffer<string, number>(
      (entries) => {
        written.push([...entries])
        if (written.length > 1) return
        buffer.put('b', 1)
        buffer.flush().then((report) => reports.push(report))
      },
      { merge: add, maxWaitMs: 10, clock },
    )

    buffer.put('a', 1)
    await clock.advance(10)

    expect(written).toEqual([[['a', 1]], [['b', 1]]])
    expect(reports).toEqual([{ succeeded: 2, failed: 0, dropped: 0 }])
    await buffer.close()
  })
})

describe('eager', () => {
  test('writes a lone put at the end of its turn, without waiting', async () => {
    const { buffer, written } = summing({ eager: true, maxWaitMs: 1000 })

    buffer.put('a', 1)
    buffer.put('a', 1)
    await clock.advance(0)

    expect(written).toEqual([[['a', 2]]])
    expect(clock.now()).toBe(0)
    await buffer.close()
  })

  test('gathers behind a batch in flight, and lets that go at once when it settles', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, {
      merge: add,
      eager: true,
      maxWaitMs: 1000,
      concurrency: 4,
      clock,
    })
    buffer.put('a', 1)
    await clock.advance(0)

    for (let i = 0; i < 10; i++) {
      buffer.put('b', 1)
      await clock.advance(1)
    }
    const whileBusy = sink.attempts.length
    sink.at(0).succeed()
    await clock.advance(0)

    expect(whileBusy).toBe(1)
    expect(sink.seen).toEqual([[['a', 1]], [['b', 10]]])
    sink.at(1).succeed()
    await buffer.close()
  })

  test('uses a further slot for a full batch or one that has waited maxWaitMs', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, {
      merge: add,
      eager: true,
      maxBatchSize: 2,
      maxWaitMs: 50,
      concurrency: 4,
      clock,
    })
    buffer.put('a', 1)
    await clock.advance(0)

    buffer.put('b', 1)
    buffer.put('c', 1)
    await clock.advance(0)
    buffer.put('d', 1)
    await clock.advance(49)
    const before50 = sink.attempts.length
    await clock.advance(1)

    expect(before50).toBe(2)
    expect(sink.attempts).toHaveLength(3)
    for (const attempt of sink.attempts) attempt.succeed()
    await buffer.close()
  })
})

describe('concurrency', () => {
  test('of 1 is the default: one batch at a time, in the order of their first writes', async () => {
    const sink = new ControlledSink<number, number>()
    const buffer = new AsyncWriteBuffer(sink.write, { merge: add, maxBatchSize: 2, clock })
    for (let key = 0; key < 6; key++) buffer.put(key, key)

    const closed = buffer.close()
    for (let i = 0; i < 3; i++) {
      await clock.advance(0)
      expect(sink.attempts).toHaveLength(i + 1)
      expect(buffer.stats().inFlightBatches).toBe(1)
      sink.at(i).succeed()
    }
    await closed

    expect(sink.seen.map((entries) => entries.map(([key]) => key))).toEqual([
      [0, 1],
      [2, 3],
      [4, 5],
    ])
  })

  test('of 3 has three batches in flight and not one more', async () => {
    const sink = new ControlledSink<number, number>()
    const buffer = new AsyncWriteBuffer(sink.write, { merge: add, maxBatchSize: 1, concurrency: 3, clock })
    for (let key = 0; key < 5; key++) buffer.put(key, key)
    await clock.advance(0)

    expect(sink.attempts).toHaveLength(3)
    expect(buffer.stats()).toMatchObject({ inFlightBatches: 3, inFlight: 3, pending: 5, pendingKeys: 2 })

    const closed = buffer.close()
    for (let i = 0; i < 5; i++) {
      sink.at(i).succeed()
      await clock.advance(0)
    }
    await closed
  })
})

describe('groupBy', () => {
  test('keeps groups in batches of their own', async () => {
    const { buffer, written } = summing({ groupBy: (key) => key[0], maxBatchSize: 2, maxWaitMs: 10 })

    for (const key of ['a1', 'b1', 'a2', 'c1', 'b1']) buffer.put(key, 1)
    await clock.advance(0)
    const full = [...written]
    await clock.advance(10)

    expect(full).toEqual([
      [
        ['a1', 1],
        ['a2', 1],
      ],
    ])
    expect(written.slice(1)).toEqual([[['b1', 2]], [['c1', 1]]])
    await buffer.close()
  })

  test('never lets one group starve another', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, { merge: add, groupBy: (key) => key[0], maxBatchSize: 1, clock })
    for (let i = 0; i < 20; i++) buffer.put(`a${i}`, 1)
    buffer.put('b', 1)

    const closed = buffer.close()
    for (let i = 0; i < 21; i++) {
      await clock.advance(0)
      sink.at(i).succeed()
    }
    await closed

    const turnOfB = sink.seen.findIndex(([first]) => first?.[0] === 'b')
    expect(turnOfB).toBeLessThanOrEqual(2)
  })

  test('that throws refuses the write and says why', async () => {
    const trouble = new Error('no shard')
    const rejections: unknown[] = []
    const { buffer, written } = summing({
      groupBy: (key) => {
        if (key === 'bad') throw trouble
        return 0
      },
    })
    buffer.on('rejected', (event) => rejections.push(event))

    expect(buffer.put('bad', 1)).toBe(false)
    expect(buffer.put('good', 1)).toBe(true)

    expect(rejections).toEqual([{ key: 'bad', value: 1, error: trouble }])
    expect(buffer.stats()).toMatchObject({ offered: 2, rejected: 1, pending: 1 })
    await buffer.close()
    expect(written).toEqual([[['good', 1]]])
  })

  test('is asked once for a key that waits, so that writes to it stay together', async () => {
    let shard = 0
    const { buffer, written } = summing({ groupBy: () => shard++ })

    for (let i = 0; i < 5; i++) buffer.put('a', 1)
    await buffer.close()

    expect(written).toEqual([[['a', 5]]])
  })
})

describe('a write function', () => {
  test('that mutates its map changes neither a later attempt nor what failed carries', async () => {
    const seen: [string, number][][] = []
    const failures: unknown[] = []
    const buffer = new AsyncWriteBuffer<string, number>(
      (entries) => {
        seen.push([...entries])
        const mine = entries as Map<string, number>
        mine.clear()
        mine.set('foreign', 1)
        throw new Error('no')
      },
      { merge: add, retry: { attempts: 3, delayMs: 0 }, clock },
    )
    buffer.on('failed', ({ entries }) => failures.push([...entries]))
    buffer.put('a', 1)
    buffer.put('b', 2)

    await buffer.close()

    const whole = [
      ['a', 1],
      ['b', 2],
    ]
    expect(seen).toEqual([whole, whole, whole])
    expect(failures).toEqual([whole])
  })

  test('that throws synchronously fails like one that rejects', async () => {
    const buffer = new AsyncWriteBuffer<string, number>(
      () => {
        throw new Error('at once')
      },
      { merge: add, retry: { attempts: 1 }, clock },
    )
    buffer.put('a', 1)

    expect(await buffer.flush()).toEqual({ succeeded: 0, failed: 1, dropped: 0 })
    expect(buffer.stats()).toMatchObject({ failed: 1, pending: 0, inFlightBatches: 0 })
    await buffer.close()
  })

  test('that throws undefined fails too', async () => {
    const errors: unknown[] = []
    const buffer = new AsyncWriteBuffer<string, number>(() => Promise.reject(undefined), {
      merge: add,
      retry: { attempts: 1 },
      clock,
    })
    buffer.on('failed', ({ error }) => errors.push(error))
    buffer.put('a', 1)

    expect(await buffer.flush()).toEqual({ succeeded: 0, failed: 1, dropped: 0 })
    expect(errors).toEqual([undefined])
    await buffer.close()
  })

  test('may return nothing, any value, or a thenable that is no Promise', async () => {
    // biome-ignore lint/suspicious/noThenProperty: a thenable is what this is about
    const answers: unknown[] = [undefined, 42, new Error('just a value'), { then: (resolve: () => void) => resolve() }]
    let calls = 0
    const buffer = new AsyncWriteBuffer<string, number>(() => answers[calls++] as undefined, { merge: add, clock })

    for (let i = 0; i < answers.length; i++) {
      buffer.put('a', 1)
      expect(await buffer.flush()).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    }
    await buffer.close()
  })

  test('that writes to its own buffer is written after itself', async () => {
    const written: [string, number][][] = []
    const buffer = new AsyncWriteBuffer<string, number>(
      (entries) => {
        written.push([...entries])
        if (written.length < 3) buffer.put('a', 10)
      },
      { merge: add, maxWaitMs: 10, clock },
    )

    buffer.put('a', 1)
    await clock.advance(30)

    expect(written).toEqual([[['a', 1]], [['a', 10]], [['a', 10]]])
    await buffer.close()
  })

  test('runs in the async context in which the buffer was made', async () => {
    const tenant = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    const buffer = tenant.run(
      'maker',
      () => new AsyncWriteBuffer<string, number>(() => void seen.push(tenant.getStore()), { merge: add, clock }),
    )

    await tenant.run('caller', async () => {
      buffer.put('a', 1)
      await buffer.flush()
    })
    await tenant.run('closer', async () => {
      buffer.put('a', 1)
      await buffer.close()
    })

    expect(seen).toEqual(['maker', 'maker'])
  })

  test('learns the id of its batch, a UUID of version 7, and the attempt', async () => {
    const contexts: BatchContext[] = []
    const buffer = new AsyncWriteBuffer<string, number>((_, context) => void contexts.push(context), {
      merge: add,
      clock,
    })

    for (let i = 0; i < 3; i++) {
      buffer.put('a', 1)
      await buffer.flush()
    }
    await buffer.close()

    const ids = contexts.map(({ batchId }) => batchId)
    expect(new Set(ids).size).toBe(3)
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    expect(contexts.map(({ attempt }) => attempt)).toEqual([1, 1, 1])
    expect(contexts.map(({ signal }) => signal.aborted)).toEqual([false, false, false])
  })
})

describe('stats', () => {
  test('count writes, and keys in pendingKeys', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, { merge: add, name: 'likes', maxWaitMs: 10, clock })
    for (let i = 0; i < 5; i++) buffer.put('a', 1)
    await clock.advance(10)
    for (let i = 0; i < 3; i++) buffer.put('a', 1)
    buffer.put('b', 1)

    const stats = buffer.stats()

    expect(stats).toMatchObject({
      name: 'likes',
      offered: 9,
      pending: 9,
      inFlight: 5,
      inFlightBatches: 1,
      pendingKeys: 2,
      batches: 1,
    })
    expectBalance(stats)
    const closed = buffer.close()
    await clock.advance(20)
    sink.at(0).succeed()
    await clock.advance(0)
    sink.at(1).succeed()
    await closed
    const last = buffer.stats()
    expect(last).toMatchObject({ offered: 9, succeeded: 9, pending: 0, pendingKeys: 0, batches: 2 })
    expect(last.batchSize).toMatchObject({ mean: 1.5, max: 2 })
    expect(last.latencyMs.max).toBe(30)
    expectBalance(last)
  })

  test('are a fresh snapshot that JSON carries unchanged', async () => {
    const { buffer } = summing()
    buffer.put('a', 1)

    const before = buffer.stats()
    await buffer.close()
    const after = buffer.stats()

    expect(JSON.parse(JSON.stringify(after))).toEqual(after)
    expect(before.pending).toBe(1)
    expect(after.pending).toBe(0)
  })
})
