import { spawn } from 'node:child_process'
import { Console } from 'node:console'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import fc from 'fast-check'
import { AsyncLogBuffer, OptionError } from 'spillway'
import { asWritable, asWritableDefaults, FileSink, type LineBuffer } from 'spillway/file'
import { describe, expect, test } from 'vitest'
import { logDirectory } from './support/log-files.js'

/** A buffer that notes what it gets. */
class Notes implements LineBuffer {
  readonly items: string[] = []
  flushes = 0
  accepts = true
  flushed: () => Promise<unknown> = () => Promise.resolve()

  write(line: string): boolean {
    this.items.push(line)
    return this.accepts
  }

  flush(): Promise<unknown> {
    this.flushes++
    return this.flushed()
  }
}

function streamOf(notes: Notes, options?: Parameters<typeof asWritable>[1]) {
  const stream = asWritable(notes, options)
  const errors: unknown[] = []
  stream.on('error', (error) => errors.push(error))
  return { stream, errors }
}

/** `once` would reject with the stream's error. */
function closed(stream: Writable): Promise<void> {
  return new Promise((resolve) => stream.on('close', resolve))
}

describe('asWritable', () => {
  test('makes one item of what a write has up to its last newline, so that a stack trace stays together', () => {
    const notes = new Notes()
    const { stream } = streamOf(notes)
    stream.write('Error: no\n    at one\n    at two\n')
    stream.write('next\nbegun')
    stream.write(' and ended\n')

    expect(notes.items).toEqual(['Error: no\n    at one\n    at two\n', 'next\n', 'begun and ended\n'])
  })

  test('holds a line and a character that are not whole', () => {
    const notes = new Notes()
    const { stream } = streamOf(notes)
    const bytes = Buffer.from('€🙂\nß')
    for (const byte of bytes) stream.write(Buffer.of(byte))
    expect(notes.items).toEqual(['€🙂\n'])
    stream.end()

    expect(notes.items).toEqual(['€🙂\n', 'ß'])
  })

  test('takes every kind of chunk: bytes, text, and text that stands for bytes', () => {
    const notes = new Notes()
    const { stream } = streamOf(notes)
    stream.write(new Uint8Array([104, 105, 10]))
    stream.write('686f0a', 'hex')
    stream.write(Buffer.from('é').subarray(0, 1))
    stream.write('cut by text\n')
    stream.write('utf-8\n', 'utf-8' as BufferEncoding)

    expect(notes.items).toEqual(['hi\n', 'ho\n', '\ufffdcut by text\n', 'utf-8\n'])
  })

  test('end writes what is held and waits for the flush before it finishes; the buffer stays open', async () => {
    const notes = new Notes()
    const { stream } = streamOf(notes)
    let release = (): void => undefined
    notes.flushed = () => new Promise<void>((resolve) => (release = resolve))
    let finished = false
    stream.on('finish', () => {
      finished = true
    })
    stream.end('rest')
    await new Promise((turn) => setImmediate(turn))
    expect([notes.items, notes.flushes, finished]).toEqual([['rest'], 1, false])
    release()
    await once(stream, 'finish')
  })

  test('a line that the buffer drops is no error, and no back-pressure', async () => {
    const notes = new Notes()
    notes.accepts = false
    const { stream, errors } = streamOf(notes)
    for (let i = 0; i < 100; i++) stream.write('line\n')
    await new Promise((turn) => setImmediate(turn))
    stream.end()
    await once(stream, 'finish')

    expect(errors).toEqual([])
    expect(stream.writableNeedDrain).toBe(false)
  })

  test('what the buffer throws or rejects with is the stream’s error', async () => {
    const throwing = new Notes()
    throwing.write = () => {
      throw new TypeError('no buffer')
    }
    const rejecting = new Notes()
    rejecting.flushed = () => Promise.reject(new Error('not flushed'))
    const one = streamOf(throwing)
    const two = streamOf(rejecting)
    one.stream.write('line\n')
    two.stream.end('line\n')
    await Promise.all([closed(one.stream), closed(two.stream)])

    expect(one.errors).toEqual([expect.objectContaining({ message: 'no buffer' })])
    expect(two.errors).toEqual([expect.objectContaining({ message: 'not flushed' })])
  })

  test('destroy writes what is held', async () => {
    const notes = new Notes()
    const { stream, errors } = streamOf(notes)
    stream.write('held')
    stream.destroy(new Error('gone'))
    await closed(stream)

    expect(notes.items).toEqual(['held'])
    expect(errors).toEqual([expect.objectContaining({ message: 'gone' })])
  })

  test('text without a newline is held up to maxHeldChars, and cut between characters', () => {
    const notes = new Notes()
    const { stream } = streamOf(notes, { maxHeldChars: 4 })
    stream.write('abc🙂def')
    expect(notes.items).toEqual(['abc', '🙂de'])
    stream.end('g\n')

    expect(notes.items).toEqual(['abc', '🙂de', 'fg\n'])
    expect(asWritableDefaults).toEqual({ maxHeldChars: 1_048_576 })
  })

  test('however text is cut into pieces, the same text arrives, in lines that are whole', () => {
    const text = fc
      .array(fc.constantFrom('a', '€', '🙂', '\n', 'ß', '\r\n'), { maxLength: 40 })
      .map((parts) => parts.join(''))
    fc.assert(
      fc.property(text, fc.array(fc.nat(100), { maxLength: 10 }), (whole, cuts) => {
        const notes = new Notes()
        const { stream } = streamOf(notes)
        const bytes = Buffer.from(whole)
        const at = [...cuts.map((cut) => cut % (bytes.length + 1)), 0, bytes.length].sort((a, b) => a - b)
        for (let i = 1; i < at.length; i++) stream.write(bytes.subarray(at[i - 1], at[i]))
        stream.end()
        expect(notes.items.join('')).toBe(whole)
        for (const item of notes.items.slice(0, -1)) expect(item.endsWith('\n')).toBe(true)
      }),
    )
  })

  test.each([
    [undefined, undefined, 'buffer must have a method write'],
    [{ write() {} }, undefined, 'buffer must have a method flush'],
    [new Notes(), { maxHeldChars: 0 }, 'maxHeldChars must be a whole number between 1'],
    [new Notes(), 7, 'options must be an object'],
  ])('refuses %j, %j', (buffer, options, message) => {
    expect(() => asWritable(buffer as never, options as never)).toThrow(message)
    expect(() => asWritable(buffer as never, options as never)).toThrow(OptionError)
  })
})

describe('over a log buffer and a file', () => {
  test('it is what a Console writes to', async () => {
    using directory = logDirectory()
    const path = join(directory.path, 'app.log')
    await using sink = new FileSink({ path })
    const log = new AsyncLogBuffer(sink)
    const stream = asWritable(log)
    const logger = new Console({ stdout: stream, stderr: stream, colorMode: false })
    logger.log('counted %d of %s', 7, { a: 1 })
    logger.error('two\nlines')
    logger.table([{ a: 1 }])
    stream.end()
    await once(stream, 'finish')

    expect(readFileSync(path, 'utf8')).toMatch(/^counted 7 of \{ a: 1 \}\ntwo\nlines\n┌/)
    expect(log.write('the buffer is open\n')).toBe(true)
    await log.close()
  })

  test('a child’s output is piped into it', async () => {
    using directory = logDirectory()
    const path = join(directory.path, 'app.log')
    await using sink = new FileSink({ path })
    const log = new AsyncLogBuffer(sink, { capacity: 100_000 })
    const script = `for (let i = 0; i < 5000; i++) console.log(i + ' ${'€'.repeat(20)}'); process.stdout.write('no newline')`
    const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
    await pipeline(child.stdout, asWritable(log))
    const lines = readFileSync(path, 'utf8').split('\n')

    expect(lines).toEqual([...Array.from({ length: 5000 }, (_, i) => `${i} ${'€'.repeat(20)}`), 'no newline', ''])
    await log.close()
  })
})
