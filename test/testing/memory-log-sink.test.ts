import { AsyncLogBuffer } from 'spillway'
import { FakeClock, MemoryLogSink } from 'spillway/testing'
import { beforeEach, describe, expect, test } from 'vitest'

let clock: FakeClock

beforeEach(() => {
  clock = new FakeClock()
})

describe('MemoryLogSink', () => {
  test('keeps chunks, text and lines', async () => {
    const sink = new MemoryLogSink()
    expect([sink.chunks, sink.text, sink.lines]).toEqual([[], '', []])

    await sink.write('a\nb\n')
    sink.writeSync?.('\n')
    await sink.write('c\n')

    expect([sink.chunks, sink.text, sink.lines]).toEqual([['a\nb\n', '\n', 'c\n'], 'a\nb\n\nc\n', ['a', 'b', '', 'c']])
  })

  test('blocks and goes on, in the order in which it was given chunks', async () => {
    const sink = new MemoryLogSink({ clock })
    const settled: string[] = []
    sink.block()
    void sink.write('a\n').then(() => settled.push('a'))
    void Promise.resolve(sink.writeSync?.('b\n')).then(() => settled.push('b'))
    await clock.advance(1000)
    expect([sink.pending, sink.text, settled]).toEqual([2, '', []])

    sink.unblock()
    await clock.advance(0)

    expect([sink.pending, sink.text, settled]).toEqual([0, 'a\nb\n', ['a', 'b']])
  })

  test('takes its time, one chunk after the other, which writeSync cuts short', async () => {
    const sink = new MemoryLogSink({ clock, delayMs: 10 })
    const settled: string[] = []
    for (const chunk of ['a', 'b', 'c']) void sink.write(chunk).then(() => settled.push(`${chunk} at ${clock.now()}`))
    await clock.advance(15)
    expect(sink.text).toBe('a')

    sink.writeSync?.('d')
    await clock.advance(0)

    expect([sink.text, settled]).toEqual(['abcd', ['a at 10', 'b at 15', 'c at 15']])
    expect(clock.pending).toBe(0)
  })

  test('that takes its time can be blocked in between', async () => {
    const sink = new MemoryLogSink({ clock, delayMs: 10 })
    void sink.write('a')
    await clock.advance(5)
    sink.block()
    await clock.advance(100)
    expect([sink.text, clock.pending]).toEqual(['', 0])

    sink.unblock()
    await clock.advance(10)

    expect(sink.text).toBe('a')
  })

  test('refuses as often as it is told to, with the error that it is told', async () => {
    const sink = new MemoryLogSink()
    sink.fail(2, new Error('disk full'))

    await expect(sink.write('a')).rejects.toThrow('disk full')
    expect(() => sink.writeSync?.('b')).toThrow('disk full')
    await sink.write('c')
    sink.fail()
    await expect(sink.write('d')).rejects.toMatchObject({ code: 'ERR_STORE' })
    sink.heal()
    await sink.write('e')

    expect(sink.text).toBe('ce')
  })

  test('keeps what was rotated away apart', async () => {
    const sink = new MemoryLogSink()
    await sink.write('a')
    sink.rotate()
    await sink.write('b')
    await sink.reopen()
    await sink.write('c')

    expect([sink.rotated, sink.text, sink.reopened]).toEqual([['ab'], 'c', 1])
  })

  test('may have no writeSync', () => {
    expect(new MemoryLogSink({ synchronous: false }).writeSync).toBeUndefined()
  })

  test('refuses all once it is closed', async () => {
    const sink = new MemoryLogSink()
    await sink.close()

    await expect(sink.write('a')).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    await expect(sink.reopen()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(() => sink.writeSync?.('a')).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
    expect(sink.closed).toBe(true)
  })

  test('takes what an AsyncLogBuffer writes, and its drops while it is blocked', async () => {
    const sink = new MemoryLogSink({ clock })
    const log = new AsyncLogBuffer(sink, { clock, capacity: 3, maxBatchBytes: 10 })
    sink.block()
    for (let n = 0; n < 20; n++) {
      log.write(`line ${n}`)
      await clock.advance(0)
    }
    expect(log.stats().dropped).toBeGreaterThan(10)

    sink.unblock()
    await clock.until(log.close())

    expect(sink.lines[0]).toBe('line 0')
    expect(sink.lines.length).toBeLessThan(10)
  })

  test.each([
    ['options', () => new MemoryLogSink(7 as never), 'options must be an object'],
    ['delayMs', () => new MemoryLogSink({ delayMs: -1 }), 'delayMs must be a number'],
    ['synchronous', () => new MemoryLogSink({ synchronous: 1 as never }), 'synchronous must be true or false'],
    ['times', () => new MemoryLogSink().fail(0), 'times must be a number of 1 or more'],
    ['chunk', () => new MemoryLogSink().writeSync?.(7 as never), 'chunk must be a string, got 7 (number)'],
  ])('refuses a wrong %s at once', (field, make, message) => {
    expect(make).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field }))
    expect(make).toThrow(message)
  })

  test('rejects a chunk that is no string', async () => {
    await expect(new MemoryLogSink().write(undefined as never)).rejects.toMatchObject({ code: 'ERR_OPTION' })
  })
})
