import { AsyncWriteBuffer, type AsyncWriteBufferOptions, isSpillwayError } from 'spillway'
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

function small(options: Partial<AsyncWriteBufferOptions<string, number>> = {}) {
  const written: [string, number][][] = []
  const buffer = new AsyncWriteBuffer<string, number>((entries) => void written.push([...entries]), {
    merge: add,
    capacity: 2,
    maxBatchSize: 2,
    maxWaitMs: 1000,
    clock,
    ...options,
  })
  const events: [string, unknown][] = []
  buffer.on('dropped', (event) => events.push(['dropped', event]))
  buffer.on('rejected', (event) => events.push(['rejected', event]))
  return { buffer, written, events }
}

describe('capacity', () => {
  test('counts distinct keys: writes to a key that waits always find room', async () => {
    const { buffer, written, events } = small()
    buffer.put('a', 1)
    buffer.put('b', 1)

    for (let i = 0; i < 100; i++) expect(buffer.put('a', 1)).toBe(true)

    expect(events).toEqual([])
    expect(buffer.stats()).toMatchObject({ offered: 102, pending: 102, pendingKeys: 2 })
    await buffer.close()
    expect(written).toEqual([
      [
        ['a', 101],
        ['b', 1],
      ],
    ])
  })

  test('does not count what is in flight', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, { merge: add, capacity: 2, clock })
    buffer.put('a', 1)
    buffer.put('b', 1)
    await clock.advance(0)

    expect([buffer.put('c', 1), buffer.put('a', 1), buffer.put('d', 1)]).toEqual([true, true, false])

    expect(buffer.stats()).toMatchObject({ inFlight: 2, pending: 4, pendingKeys: 2 })
    const closed = buffer.close()
    for (let i = 0; i < 2; i++) {
      sink.at(i).succeed()
      await clock.advance(0)
    }
    await closed
  })

  test('counts keys that are held back for their batch in flight', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, { merge: add, capacity: 2, concurrency: 2, clock })
    buffer.put('a', 1)
    buffer.put('b', 1)
    await clock.advance(0)
    buffer.put('a', 2)
    buffer.put('b', 2)
    await clock.advance(0)

    const third = buffer.put('c', 1)

    expect(third).toBe(false)
    expect(buffer.stats()).toMatchObject({ pendingKeys: 2, pending: 4, rejected: 1 })
    const closed = buffer.close()
    for (let i = 0; i < 2; i++) {
      sink.at(i).succeed()
      await clock.advance(0)
    }
    await closed
    expect(sink.seen[1]).toEqual([
      ['a', 2],
      ['b', 2],
    ])
  })

  test('below the default of maxBatchSize makes batches of that size', async () => {
    const { buffer, written } = small({ maxBatchSize: undefined })

    buffer.put('a', 1)
    buffer.put('b', 1)
    await clock.advance(0)

    expect(written).toHaveLength(1)
    await buffer.close()
  })
})

describe("overflow 'reject'", () => {
  test('refuses a new key with a FullError that names the buffer and the limit', async () => {
    const { buffer, written, events } = small({ name: 'likes' })
    buffer.put('a', 1)
    buffer.put('b', 1)

    const answer = buffer.put('c', 7)

    expect(answer).toBe(false)
    expect(events).toHaveLength(1)
    const [kind, event] = events[0] as [string, { key: string; value: number; error: Error }]
    expect([kind, event.key, event.value]).toEqual(['rejected', 'c', 7])
    expect(isSpillwayError(event.error, 'ERR_FULL')).toBe(true)
    expect(event.error.message).toBe('likes is full (capacity 2)')
    expect(event.error).toMatchObject({ retryable: true, capacity: 2 })
    expect(buffer.stats()).toMatchObject({ offered: 3, rejected: 1, dropped: 0, pending: 2 })
    await buffer.close()
    expect(written.flat().map(([key]) => key)).toEqual(['a', 'b'])
  })

  test('accepts again once a batch has left', async () => {
    const { buffer } = small()
    buffer.put('a', 1)
    buffer.put('b', 1)
    const refused = buffer.put('c', 1)
    await buffer.flush()

    expect([refused, buffer.put('c', 1)]).toEqual([false, true])
    await buffer.close()
  })
})

describe("overflow 'drop-newest'", () => {
  test('drops the newcomer, counts it as dropped and not as rejected', async () => {
    const { buffer, written, events } = small({ overflow: 'drop-newest' })
    buffer.put('a', 1)
    buffer.put('b', 1)

    const answer = buffer.put('c', 7)

    expect(answer).toBe(false)
    expect(events).toEqual([['dropped', { key: 'c', value: 7, writes: 1, reason: 'drop-newest' }]])
    expect(buffer.stats()).toMatchObject({ offered: 3, rejected: 0, dropped: 1, pending: 2, pendingKeys: 2 })
    expectBalance(buffer.stats())
    await buffer.close()
    expect(written.flat()).toEqual([
      ['a', 1],
      ['b', 1],
    ])
  })
})

describe("overflow 'drop-oldest'", () => {
  test('drops the key that has waited longest with all its writes, and accepts the newcomer', async () => {
    const { buffer, written, events } = small({ overflow: 'drop-oldest', maxBatchSize: 2, maxWaitMs: 1000 })
    buffer.put('a', 1)
    await clock.advance(1)
    buffer.put('b', 1)
    buffer.put('a', 2)
    buffer.put('a', 3)

    const answer = buffer.put('c', 1)

    expect(answer).toBe(true)
    expect(events).toEqual([['dropped', { key: 'a', value: 6, writes: 3, reason: 'drop-oldest' }]])
    expect(buffer.stats()).toMatchObject({ offered: 5, dropped: 3, pending: 2, pendingKeys: 2 })
    expectBalance(buffer.stats())
    await buffer.close()
    expect(written.flat()).toEqual([
      ['b', 1],
      ['c', 1],
    ])
    expectBalance(buffer.stats())
  })

  test('drops in the order of acceptance, again and again', async () => {
    const { buffer, events } = small({ overflow: 'drop-oldest', capacity: 3, maxBatchSize: 3 })
    for (let i = 0; i < 10; i++) buffer.put(`key ${i}`, i)

    expect(events.map(([, event]) => (event as { key: string }).key)).toEqual(
      Array.from({ length: 7 }, (_, i) => `key ${i}`),
    )
    await buffer.close()
  })

  test('drops a key that is held back for its batch in flight; a later write to it starts anew', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, {
      merge: add,
      capacity: 1,
      concurrency: 2,
      overflow: 'drop-oldest',
      clock,
    })
    const dropped: unknown[] = []
    buffer.on('dropped', ({ key, value }) => dropped.push([key, value]))
    buffer.put('a', 1)
    await clock.advance(0)
    buffer.put('a', 2)
    await clock.advance(0)

    buffer.put('b', 10)
    await clock.advance(0)
    buffer.put('a', 3)
    await clock.advance(0)

    expect(dropped).toEqual([['a', 2]])
    expect(sink.seen).toEqual([[['a', 1]], [['b', 10]]])
    sink.at(0).succeed()
    await clock.advance(0)
    expect(sink.seen[2]).toEqual([['a', 3]])
    sink.at(1).succeed()
    sink.at(2).succeed()
    await buffer.close()
    expect(buffer.stats()).toMatchObject({ offered: 4, succeeded: 3, dropped: 1 })
  })

  test('drops a key that was held back before newer ones that it stands in line with', async () => {
    const sink = new ControlledSink<string, number>()
    const buffer = new AsyncWriteBuffer(sink.write, {
      merge: add,
      groupBy: (key) => (key.startsWith('other') ? 'other' : 'own'),
      capacity: 4,
      maxBatchSize: 4,
      maxWaitMs: 1000,
      concurrency: 2,
      overflow: 'drop-oldest',
      clock,
    })
    const dropped: string[] = []
    buffer.on('dropped', ({ key }) => dropped.push(key))
    const putAndFlush = async (key: string, value: number): Promise<void> => {
      buffer.put(key, value)
      buffer.flush()
      await clock.advance(1)
    }
    await putAndFlush('a', 1)
    await putAndFlush('a', 2) // held back
    await putAndFlush('other 1', 1) // the second slot
    await putAndFlush('other 2', 1) // next in line
    buffer.put('x', 1)
    await clock.advance(1)
    buffer.put('y', 1)
    await clock.advance(1)
    sink.at(0).succeed() // 'other 2' takes the slot, and 'a' joins 'x' and 'y'
    await clock.advance(1)
    const dispatched = sink.seen.map(([first]) => first?.[0])

    buffer.put('z', 1)
    buffer.put('one too many', 1)

    expect(dispatched).toEqual(['a', 'other 1', 'other 2'])
    expect(dropped).toEqual(['a'])
    const closed = buffer.close()
    for (let i = 1; i < sink.attempts.length; i++) {
      sink.at(i).succeed()
      await clock.advance(0)
    }
    await closed
    expectBalance(buffer.stats())
  })

  test('leaves no empty batch behind when all of a batch is dropped', async () => {
    const { buffer, written } = small({
      overflow: 'drop-oldest',
      capacity: 1,
      maxBatchSize: 1,
      groupBy: (key) => key,
    })

    for (const key of ['a', 'b', 'c']) buffer.put(key, 1)
    await clock.advance(2000)

    expect(written).toEqual([[['c', 1]]])
    expect(buffer.stats()).toMatchObject({ batches: 1, dropped: 2 })
    await buffer.close()
  })
})

describe('a listener that writes to the buffer that it listens to', () => {
  test("of 'dropped', does not push the buffer over its capacity", async () => {
    const { buffer } = small({ overflow: 'drop-oldest', capacity: 2, maxBatchSize: 2, groupBy: (key) => key })
    let again = 3
    buffer.on('dropped', ({ value }) => {
      if (again-- > 0) buffer.put(`again ${again}`, value)
    })

    for (const key of ['a', 'b', 'c', 'd']) buffer.put(key, 1)

    expect(buffer.stats().pendingKeys).toBeLessThanOrEqual(2)
    expectBalance(buffer.stats())
    await buffer.close()
    expectBalance(buffer.stats())
  })

  test("of 'dropped', may write to the very key that made the room, and no write is lost", async () => {
    const { buffer, written, events } = small({
      overflow: 'drop-oldest',
      capacity: 4,
      maxBatchSize: 4,
      groupBy: (key) => key[0],
    })
    let again = true
    buffer.on('dropped', () => {
      if (!again) return
      again = false
      buffer.put('b2', 100)
    })

    for (const key of ['a1', 'a2', 'a3', 'b1', 'b2']) buffer.put(key, 1)
    await buffer.close()

    const dropped = events
      .filter(([kind]) => kind === 'dropped')
      .reduce((sum, [, event]) => sum + (event as { value: number }).value, 0)
    const stored = written.flat().reduce((sum, [, value]) => sum + value, 0)
    expect(dropped + stored).toBe(105)
    expectBalance(buffer.stats())
  })

  test("of 'rejected', is refused in its turn and nothing breaks", async () => {
    const { buffer } = small()
    let again = 3
    buffer.on('rejected', ({ value }) => {
      if (again-- > 0) buffer.put(`again ${again}`, value)
    })

    for (const key of ['a', 'b', 'c']) buffer.put(key, 1)

    expect(buffer.stats()).toMatchObject({ offered: 6, rejected: 4, pending: 2 })
    await buffer.close()
  })
})

describe('merge', () => {
  test('that throws makes put false, keeps the old value, and says why', async () => {
    const trouble = new Error('cannot add')
    const { buffer, written, events } = small({
      merge: (old, value) => {
        if (value < 0) throw trouble
        return old + value
      },
    })
    buffer.put('a', 1)

    const answer = buffer.put('a', -1)

    expect(answer).toBe(false)
    expect(events).toEqual([['rejected', { key: 'a', value: -1, error: trouble }]])
    expect(buffer.put('a', 2)).toBe(true)
    expect(buffer.stats()).toMatchObject({ offered: 3, rejected: 1, pending: 2 })
    await buffer.close()
    expect(written).toEqual([[['a', 3]]])
  })

  test('that writes to another key leaves both right', async () => {
    const { buffer, written } = small({
      merge: (old, value) => {
        buffer.put('total', value)
        return old + value
      },
      maxBatchSize: 2,
    })

    buffer.put('a', 1)
    buffer.put('a', 2)
    expect(buffer.stats()).toMatchObject({ offered: 3, pending: 3 })
    await buffer.close()

    expect(written).toEqual([
      [
        ['a', 3],
        ['total', 2],
      ],
    ])
  })

  test('that writes to its own key loses neither write silently', async () => {
    let inner: boolean | undefined
    const { buffer, written, events } = small({
      merge: (old, value) => {
        if (inner === undefined) inner = buffer.put('a', 100)
        return old + value
      },
    })

    buffer.put('a', 1)
    expect(buffer.put('a', 2)).toBe(true)
    await buffer.close()

    expect(inner).toBe(false)
    expect(events.map(([kind]) => kind)).toEqual(['rejected'])
    expect(written).toEqual([[['a', 3]]])
    expect(buffer.stats()).toMatchObject({ offered: 3, succeeded: 2, rejected: 1 })
  })

  test('that makes the buffer drop the key being merged keeps the books in balance', async () => {
    const { buffer, written, events } = small({
      merge: (old, value) => {
        if (value === 2) for (const key of ['x', 'y']) buffer.put(key, 10)
        return old + value
      },
      overflow: 'drop-oldest',
    })

    buffer.put('a', 1)
    const answer = buffer.put('a', 2)
    const stats = buffer.stats()

    let flushed: unknown
    buffer.flush().then((report) => {
      flushed = report
    })
    await clock.advance(0)
    await buffer.close()

    expectBalance(stats)
    expect(stats.pendingKeys).toBe(2)
    expect(flushed).toEqual({ succeeded: 2, failed: 0, dropped: 0 })
    expectBalance(buffer.stats())
    expect(buffer.stats()).toMatchObject({ offered: 4, pending: 0 })
    const dropped = events
      .filter(([kind]) => kind === 'dropped')
      .reduce((sum, [, event]) => sum + (event as { value: number }).value, 0)
    const stored = written.flat().reduce((sum, [, value]) => sum + value, 0)
    // What put said was accepted is stored or was reported as dropped.
    expect(dropped + stored).toBe(21 + (answer ? 2 : 0))
  })

  test('that flushes or closes the buffer keeps the books in balance', async () => {
    const reports: Promise<unknown>[] = []
    const { buffer, written } = small({
      merge: (old, value) => {
        reports.push(value === 2 ? buffer.flush() : buffer.close())
        return old + value
      },
    })

    buffer.put('a', 1)
    buffer.put('a', 2)
    buffer.put('a', 4)
    await Promise.all(reports)

    expectBalance(buffer.stats())
    expect(buffer.stats()).toMatchObject({ offered: 3, pending: 0 })
    const stored = written.flat().reduce((sum, [, value]) => sum + value, 0)
    expect(stored).toBe(buffer.stats().succeeded === 3 ? 7 : 3)
    await buffer.close()
  })
})

describe('groupBy', () => {
  test('that writes to the same key loses no write', async () => {
    let again = true
    const { buffer, written } = small({
      groupBy: (key) => {
        if (again) {
          again = false
          buffer.put(key, 100)
        }
        return 0
      },
    })

    const answer = buffer.put('a', 1)
    await buffer.close()

    const stored = written.flat().reduce((sum, [, value]) => sum + value, 0)
    expect(stored).toBe(answer ? 101 : 100)
    expectBalance(buffer.stats())
  })
})
