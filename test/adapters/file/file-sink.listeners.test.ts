import { spawnSync } from 'node:child_process'
import { closeSync, constants, openSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { FileSink } from 'spillway/file'
import { FakeClock } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { logDirectory } from './support/log-files.js'
import { faultless, SimulatedFiles } from './support/simulated-files.js'

let directory: ReturnType<typeof logDirectory>
let path: string
beforeEach(() => {
  directory = logDirectory()
  path = join(directory.path, 'app.log')
})
afterEach(() => directory[Symbol.dispose]())

describe.skipIf(process.platform === 'win32')('a listener of stalled, at a pipe that nobody reads', () => {
  const { O_RDONLY, O_NONBLOCK } = constants
  /** More than a pipe holds. */
  const large = `${'x'.repeat(200_000)}\n`

  function openPipe(): { readonly sink: FileSink; readonly drain: () => Promise<string>; readonly reader: number } {
    spawnSync('mkfifo', [path])
    const reader = openSync(path, O_RDONLY | O_NONBLOCK)
    const sink = new FileSink({ path, retryDelayMs: 1, maxRetryDelayMs: 1, syncTimeoutMs: 0 })
    const drain = async (): Promise<string> => {
      const buffer = Buffer.alloc(1_000_000)
      let at = 0
      while (!buffer.subarray(0, at).includes('sync\n') && (sink.stats().pending > 0 || at < large.length)) {
        await new Promise((resolve) => setImmediate(resolve))
        try {
          at += readSync(reader, buffer, at, buffer.length - at, null)
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
        }
      }
      return buffer.toString('utf8', 0, at)
    }
    return { sink, drain, reader }
  }

  test('may write synchronously: what was accepted goes on', async () => {
    const { sink, drain, reader } = openPipe()
    const rests: (void | Promise<void>)[] = []
    const stalled = new Promise<void>((resolve) => {
      sink.on('stalled', () => {
        if (sink.stats().offered === 1) rests.push(sink.writeSync('sync\n'))
        resolve()
      })
    })
    const write = sink.write(large)
    await stalled
    const read = await drain()
    await Promise.all([write, ...rests])

    expect(read === `${large}sync\n`).toBe(true)
    await sink.close()
    closeSync(reader)
  })

  test('may close the sink: what was accepted is written first', async () => {
    const { sink, drain, reader } = openPipe()
    let closed: Promise<void> | undefined
    const stalled = new Promise<void>((resolve) => {
      sink.on('stalled', () => {
        closed = sink.close()
        resolve()
      })
    })
    const write = sink.write(large)
    await stalled
    const read = await drain()
    await Promise.all([write, closed])

    expect(read === large).toBe(true)
    closeSync(reader)
  })
})

test('a listener of opened may write synchronously, within a synchronous opening too: each chunk is there once', async () => {
  await using sink = new FileSink({ path, syncTimeoutMs: 0 })
  sink.on('opened', () => void sink.writeSync('header\n'))
  expect(sink.writeSync('one\n')).toBeUndefined()
  expect(sink.writeSync('two\n')).toBeUndefined()

  expect(readFileSync(path, 'utf8')).toBe('one\nheader\ntwo\n')
  expect(sink.stats()).toMatchObject({ offered: 3, succeeded: 3, failed: 0, pending: 0, shortWrites: 0 })
})

test('a chunk that failed while a listener of opened wrote is not tried again', async () => {
  const clock = new FakeClock()
  const files = new SimulatedFiles(() => 0.45, clock)
  const sink = new FileSink({ path: '/app.log', fs: files, clock })
  sink.on('opened', () => {
    files.likelihoods = { ...faultless, EIO: 1 }
    expect(() => sink.writeSync('header\n')).toThrow(expect.objectContaining({ code: 'ERR_STORE' }))
    files.likelihoods = faultless
  })
  expect(() => sink.writeSync('one\n')).toThrow(expect.objectContaining({ code: 'ERR_STORE' }))
  expect(sink.writeSync('two\n')).toBeUndefined()

  expect(files.names.get('/app.log')?.bytes.toString()).toBe('two\n')
  expect(sink.stats()).toMatchObject({ offered: 3, succeeded: 1, failed: 2, pending: 0 })
})

test('a listener of failed may reopen, also where writeSync throws', async () => {
  const clock = new FakeClock()
  const files = new SimulatedFiles(() => 0.45, clock)
  const sink = new FileSink({ path: '/app.log', fs: files, clock })
  await Promise.all([sink.write('one\n'), clock.advance(50)])
  let reopened: Promise<void> | undefined
  sink.on('failed', () => {
    reopened = sink.reopen()
  })
  files.likelihoods = { ...faultless, EIO: 1 }
  expect(() => sink.writeSync('two\n')).toThrow(expect.objectContaining({ code: 'ERR_STORE' }))
  files.likelihoods = faultless
  await clock.advance(50)

  expect(sink.stats().opens).toBe(2)
  await reopened
})
