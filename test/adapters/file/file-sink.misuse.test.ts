import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { OptionError } from 'spillway'
import { FileSink, logRotationDefaults } from 'spillway/file'
import { describe, expect, test } from 'vitest'
import { logDirectory } from './support/log-files.js'

describe('FileSink refuses', () => {
  test.each([
    [{ path: '' }, 'path must be a path, got "" (string)'],
    [{ path: 'a\0b' }, 'path must be a path'],
    [{ path: 7 }, 'path must be a path, got 7 (number)'],
    [{}, 'path or fd must be given, one of them, got {} (object)'],
    [{ path: 'a', fd: 1 }, 'path or fd must be given, one of them'],
    [{ fd: -1 }, 'fd must be a whole number between 0 and 2147483647, got -1 (number)'],
    [{ fd: '1' }, 'fd must be a whole number'],
    [{ fd: 1, rotate: {} }, 'rotate must be left out with fd'],
    [{ fd: 1, mkdir: true }, 'mkdir must be left out with fd'],
    [{ path: 'a', mkdir: 1 }, 'mkdir must be true or false, got 1 (number)'],
    [{ path: 'a', mode: 0o1000 }, 'mode must be a whole number between 0 and 511, got 512 (number)'],
    [{ path: 'a', mode: '644' }, 'mode must be a whole number'],
    [{ path: 'a', rotate: true }, 'rotate must be an object, got true (boolean)'],
    [{ path: 'a', rotate: { maxBytes: 0 } }, 'rotate.maxBytes must be a whole number between 1'],
    [{ path: 'a', rotate: { maxBytes: '10m' } }, 'rotate.maxBytes must be a whole number'],
    [{ path: 'a', rotate: { everyMs: 0 } }, 'rotate.everyMs must be a number between 1'],
    [{ path: 'a', rotate: { every: 'week' } }, "rotate.every must be one of 'hour', 'day', got \"week\" (string)"],
    [{ path: 'a', rotate: { every: 'day', everyMs: 5 } }, 'rotate.every must be left out with everyMs'],
    [{ path: 'a', rotate: { maxFiles: 0 } }, 'rotate.maxFiles must be a whole number between 1'],
    [{ path: 'a', retryDelayMs: 0 }, 'retryDelayMs must be a number between 1'],
    [{ path: 'a', maxRetryDelayMs: 5 }, 'maxRetryDelayMs must be a number between 10 and 2147483647, got 5 (number)'],
    [{ path: 'a', syncTimeoutMs: -1 }, 'syncTimeoutMs must be a number between 0'],
    [{ path: 'a', fs: {} }, 'fs must have a method open, got {} (object)'],
    [{ path: 'a', name: 7 }, 'name must be a string'],
    [{ path: 'a', clock: {} }, 'clock must have a method now'],
    [null, 'options must be an object, got null (null)'],
    [undefined, 'options must be an object, got undefined (undefined)'],
    ['app.log', 'options must be an object, got "app.log" (string)'],
  ])('%j', (options, message) => {
    expect(() => new FileSink(options as never)).toThrow(message)
    expect(() => new FileSink(options as never)).toThrow(OptionError)
  })

  test('chunks that are no strings: write by a rejection, writeSync by throwing', async () => {
    using directory = logDirectory()
    await using sink = new FileSink({ path: join(directory.path, 'app.log') })
    for (const chunk of [undefined, null, 7, Buffer.from('line\n'), {}]) {
      await expect(sink.write(chunk as never)).rejects.toThrow('chunk must be a string')
      expect(() => sink.writeSync(chunk as never)).toThrow(OptionError)
    }

    expect(sink.stats().offered).toBe(0)
    expect(existsSync(join(directory.path, 'app.log'))).toBe(false)
  })

  test('a wrong deadline of close, and stays open', async () => {
    using directory = logDirectory()
    await using sink = new FileSink({ path: join(directory.path, 'app.log') })
    await expect(sink.close({ timeoutMs: -1 })).rejects.toThrow(OptionError)
    await expect(sink.close(7 as never)).rejects.toThrow('options must be an object')
    await sink.write('line\n')
  })
})

test('an explicit undefined is the default, and a relative path is of the working directory of then', () => {
  const sink = new FileSink({ path: 'some/app.log', fd: undefined, mkdir: undefined, rotate: undefined, fs: undefined })
  expect(sink.path).toBe(resolve('some/app.log'))
  expect(new FileSink({ path: 'a', rotate: { maxBytes: undefined, maxFiles: undefined } }).name).toBe('file-sink')
  expect(FileSink.defaults).toEqual({
    mkdir: false,
    mode: 0o644,
    retryDelayMs: 10,
    maxRetryDelayMs: 1000,
    syncTimeoutMs: 2000,
  })
  expect(logRotationDefaults).toEqual({ maxFiles: 10 })
})

test('a retryDelayMs over the default of maxRetryDelayMs raises that', () => {
  expect(() => new FileSink({ path: 'a', retryDelayMs: 5000 })).not.toThrow()
})

test('a failure that nobody waits for is no unhandled rejection', async () => {
  const unhandled: unknown[] = []
  const note = (reason: unknown): void => void unhandled.push(reason)
  process.on('unhandledRejection', note)
  try {
    const sink = new FileSink({ path: '/no/such/directory/app.log' })
    void sink.write('one\n')
    void sink.open()
    void sink.reopen()
    void sink.rotate()
    await sink.close()
    void sink.write('two\n')
    void sink.open()
    void sink.write(7 as never)
    await new Promise((turn) => setImmediate(turn))
  } finally {
    process.off('unhandledRejection', note)
  }

  expect(unhandled).toEqual([])
})
