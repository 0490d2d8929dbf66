import { AsyncWriteBuffer, type AsyncWriteBufferEvents, type AsyncWriteBufferOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { add, ControlledSink, expectBalance } from './async-write-buffer-sink.js'

let clock: FakeClock

beforeEach(() => {
  clock = new FakeClock()
})

afterEach(() => {
  expect(clock.pending).toBe(0)
})

const kinds = ['written', 'retried', 'failed', 'dropped', 'rejected'] as const

function observed(options: Partial<AsyncWriteBufferOptions<string, number>> = {}) {
  const sink = new ControlledSink<string, number>()
  const buffer = new AsyncWriteBuffer(sink.write, { merge: add, maxWaitMs: 10, clock, ...options })
  const events: { kind: string; event: AsyncWriteBufferEvents<string, number>[(typeof kinds)[number]] }[] = []
  for (const kind of kinds) buffer.on(kind, (event) => events.push({ kind, event }))
  return { sink, buffer, events }
}

describe('written', () => {
  test('tells the batch, its keys and writes, the attempts and how long it took', async () => {
    const { sink, buffer, events } = observed({ retry: { attempts: 2, delayMs: 0 } })
    buffer.put('a', 1)
    buffer.put('a', 1)
    buffer.put('b', 1)
    await clock.advance(10)

    await clock.advance(20)
    sink.at(0).fail(new Error('busy'))
    await clock.advance(5)
    sink.at(1).succeed()
    await clock.advance(0)

    expect(events.map(({ kind }) => kind)).toEqual(['retried', 'written'])
    expect(events[1]?.event).toEqual({
      batchId: sink.at(0).context.batchId,
      keys: 2,
      writes: 3,
      attempts: 2,
      durationMs: 25,
    })
    await buffer.close()
  })
})

describe('retried', () => {
  test('tells which attempt comes next, after how long, and why', async () => {
    const { sink, buffer, events } = observed({ retry: { attempts: 3, delayMs: 100 }, random: () => 0.5 })
    const first = new Error('first')
    const second = new Error('second')
    buffer.put('a', 1)
    await clock.advance(10)
    sink.at(0).fail(first)
    await clock.advance(50)
    sink.at(1).fail(second)
    await clock.advance(100)
    sink.at(2).succeed()
    await clock.advance(0)

    const { batchId } = sink.at(0).context
    expect(events.slice(0, 2)).toEqual([
      { kind: 'retried', event: { batchId, attempt: 2, delayMs: 50, error: first } },
      { kind: 'retried', event: { batchId, attempt: 3, delayMs: 100, error: second } },
    ])
    await buffer.close()
  })
})

describe('failed', () => {
  test('carries the entries, so that nothing need be lost', async () => {
    const { sink, buffer, events } = observed({ retry: { attempts: 1 } })
    const trouble = new Error('constraint')
    buffer.put('a', 1)
    buffer.put('a', 1)
    buffer.put('b', 5)
    await clock.advance(10)
    buffer.put('a', 100)
    sink.at(0).fail(trouble)
    await clock.advance(0)

    expect(events).toHaveLength(1)
    expect(events[0]).toEqual({
      kind: 'failed',
      event: {
        batchId: sink.at(0).context.batchId,
        entries: new Map([
          ['a', 2],
          ['b', 5],
        ]),
        writes: 3,
        attempts: 1,
        error: trouble,
      },
    })
    const closed = buffer.close()
    await clock.advance(0)
    sink.at(1).succeed()
    await closed
  })

  test('lets a listener put the entries back', async () => {
    const stored = new Map<string, number>()
    let failures = 2
    const buffer = new AsyncWriteBuffer<string, number>(
      (entries) => {
        if (failures-- > 0) throw new Error('down')
        for (const [key, value] of entries) stored.set(key, (stored.get(key) ?? 0) + value)
      },
      { merge: add, maxWaitMs: 10, retry: { attempts: 1 }, clock },
    )
    buffer.on('failed', ({ entries }) => {
      for (const [key, value] of entries) buffer.put(key, value)
    })
    buffer.put('a', 1)
    buffer.put('b', 1)
    await clock.advance(10)
    buffer.put('a', 1)
    await clock.advance(30)
    await buffer.close()

    expect(stored).toEqual(
      new Map([
        ['a', 2],
        ['b', 1],
      ]),
    )
    expectBalance(buffer.stats())
  })

  test('comes once for a timed-out batch, not again when its late answer arrives', async () => {
    const { sink, buffer, events } = observed({ timeoutMs: 5, retry: { attempts: 1 } })
    buffer.put('a', 1)
    await clock.advance(15)
    sink.at(0).fail(new Error('late'))
    await clock.advance(0)

    expect(events.map(({ kind }) => kind)).toEqual(['failed'])
    await buffer.close()
  })
})

describe('rejected and dropped', () => {
  test('come for each refused write and each dropped key, as the stats count them', async () => {
    const { sink, buffer, events } = observed({ capacity: 1 })
    buffer.put('a', 1)
    for (let i = 0; i < 3; i++) buffer.put('b', i)
    const closed = buffer.close()
    buffer.put('a', 2)
    await clock.advance(0)
    sink.at(0).succeed()
    await closed

    expect(events.filter(({ kind }) => kind === 'rejected')).toHaveLength(4)
    expect(buffer.stats()).toMatchObject({ offered: 5, rejected: 4, succeeded: 1 })
  })
})

describe('listeners', () => {
  test('that throw or reject change no result and are reported once each', async () => {
    const warnings: string[] = []
    const spy = vi.spyOn(process, 'emitWarning').mockImplementation((warning) => void warnings.push(String(warning)))
    const buffer = new AsyncWriteBuffer<string, number>(() => undefined, { merge: add, name: 'likes', clock })
    const reached: number[] = []
    buffer.on('written', () => {
      throw new Error('first listener')
    })
    buffer.on('written', (async () => {
      throw new Error('second listener')
    }) as () => void)
    buffer.on('written', ({ writes }) => reached.push(writes))

    try {
      for (let i = 0; i < 3; i++) {
        buffer.put('a', 1)
        expect(await buffer.flush()).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
      }
      await clock.advance(0)
    } finally {
      spy.mockRestore()
    }

    expect(reached).toEqual([1, 1, 1])
    expect(warnings).toHaveLength(2)
    expect(warnings[0]).toContain('likes')
    expect(warnings[0]).toContain('first listener')
    expect(warnings[1]).toContain('second listener')
    await buffer.close()
  })

  test('may be taken off', async () => {
    const buffer = new AsyncWriteBuffer<string, number>(() => undefined, { merge: add, clock })
    const heard: string[] = []
    const off = buffer.on('written', () => heard.push('once'))
    buffer.put('a', 1)
    await buffer.flush()

    off()
    off()
    buffer.put('a', 1)
    await buffer.close()

    expect(heard).toEqual(['once'])
  })

  test('that read the stats always see books that balance', async () => {
    const { sink, buffer } = observed({
      capacity: 2,
      maxBatchSize: 1,
      overflow: 'drop-oldest',
      concurrency: 2,
      retry: { attempts: 2, delayMs: 0 },
    })
    let looked = 0
    for (const kind of kinds) {
      buffer.on(kind, () => {
        looked++
        const { offered, succeeded, failed, dropped, rejected, aborted, pending } = buffer.stats()
        // A throwing listener would only be a warning.
        if (offered !== succeeded + failed + dropped + rejected + aborted + pending) looked = Number.NaN
      })
    }

    for (let i = 0; i < 40; i++) {
      buffer.put(`key ${i % 7}`, 1)
      await clock.advance(0)
      const attempt = sink.attempts[i]
      if (i % 3 === 0) attempt?.fail(new Error('no'))
      else if (i % 3 === 1) attempt?.succeed()
      await clock.advance(0)
    }
    const closed = buffer.close({ timeoutMs: 5 })
    await clock.advance(5)
    await closed
    buffer.put('a', 1)

    expect(looked).toBeGreaterThan(20)
    expectBalance(buffer.stats())
  })
})
