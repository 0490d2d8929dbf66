import { pbkdf2 } from 'node:crypto'
import * as nodeFiles from 'node:fs'
import { appendFileSync, closeSync, openSync, readFileSync, renameSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { FileSink, type FileSystem } from 'spillway/file'
import { FakeClock, seededRandom } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { descriptorsOf, logDirectory, numberedLines, rotatedFiles } from './support/log-files.js'
import { SimulatedFiles } from './support/simulated-files.js'

let directory: ReturnType<typeof logDirectory>
let path: string
beforeEach(() => {
  directory = logDirectory()
  path = join(directory.path, 'app.log')
})
afterEach(() => directory[Symbol.dispose]())

const text = (): string => readFileSync(path, 'utf8')
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** As on a system whose kernel doesn't tell where descriptors stand. */
const withoutProc: FileSystem = {
  ...nodeFiles,
  openSync: (file, flags, mode) => openSync(file.replace('/proc/self/fdinfo', '/no/such/directory'), flags, mode),
}

/** Keeps all threads of the pool busy for a while. */
function saturatePool(iterations: number): Promise<unknown> {
  const job = (): Promise<void> => {
    return new Promise((resolve) => pbkdf2('password', 'salt', iterations, 64, 'sha512', () => resolve()))
  }
  return Promise.all(Array.from({ length: 4 }, job))
}

describe('writeSync', () => {
  test('opens the file, and appends', async () => {
    await using sink = new FileSink({ path })
    expect(sink.writeSync('one\n')).toBeUndefined()
    expect(text()).toBe('one\n')
    await sink.write('two\n')
    expect(sink.writeSync('three\n')).toBeUndefined()

    expect(text()).toBe('one\ntwo\nthree\n')
    expect(sink.stats()).toMatchObject({ offered: 3, succeeded: 3, pending: 0 })
  })

  test.each([
    ['where the descriptor stands', undefined],
    ['how long the file is', withoutProc],
  ])('takes over a write in flight at any stage, seen by %s, each byte once', async (_, fs) => {
    await using sink = new FileSink({ path, ...(fs === undefined ? {} : { fs }) })
    const random = seededRandom('stages')
    const filler = 'y'.repeat(200)
    const writes: Promise<void>[] = []
    let expected = ''
    for (let i = 0; i < 400; i++) {
      // Of no length at all, and of up to a megabyte, so that it isn't done yet.
      const chunk = numberedLines(i * 10_000, Math.floor(random() ** 6 * 5000), filler)
      writes.push(sink.write(chunk))
      const idle = performance.now() + random() * 0.3
      if (random() < 0.3) await nextTurn()
      else while (performance.now() < idle);
      expected += `${chunk}sync ${i}\n`
      expect(sink.writeSync(`sync ${i}\n`)).toBeUndefined()
      if (random() < 0.3) await Promise.all(writes)
    }
    await Promise.all(writes)

    expect(text() === expected).toBe(true)
    expect(sink.stats()).toMatchObject({ offered: 800, succeeded: 800, failures: 0, writtenBytes: expected.length })
  })

  test('waits for a write that has not begun because the thread pool is busy', async () => {
    await using sink = new FileSink({ path, syncTimeoutMs: 20_000 })
    await sink.write('one\n')
    const busy = saturatePool(60_000)
    const write = sink.write('two\n')
    expect(text()).toBe('one\n')
    expect(sink.writeSync('three\n')).toBeUndefined()
    expect(text()).toBe('one\ntwo\nthree\n')
    await Promise.all([write, busy])
    await sink.write('four\n')

    expect(text()).toBe('one\ntwo\nthree\nfour\n')
  })

  test('answers with a promise where that takes longer than syncTimeoutMs, and repeats nothing', async () => {
    await using sink = new FileSink({ path, syncTimeoutMs: 5 })
    await sink.write('one\n')
    const busy = saturatePool(100_000)
    const write = sink.write('two\n')
    const begun = performance.now()
    const rests = [sink.writeSync('three\n'), sink.writeSync('four\n'), sink.writeSync('five\n')]
    // All calls of one turn share the time.
    expect(performance.now() - begun).toBeLessThan(500)
    for (const rest of rests) expect(rest).toBeInstanceOf(Promise)
    expect(sink.stats().pending).toBe(4)
    await Promise.all([write, ...rests, busy])

    expect(text()).toBe('one\ntwo\nthree\nfour\nfive\n')
  })

  test('opens the file itself while the opening of a write is in flight', async () => {
    await using sink = new FileSink({ path })
    const busy = saturatePool(30_000)
    const write = sink.write('one\n')
    expect(sink.writeSync('two\n')).toBeUndefined()
    expect(text()).toBe('one\ntwo\n')
    await Promise.all([write, busy])
    await sink.write('three\n')

    expect(text()).toBe('one\ntwo\nthree\n')
    expect(descriptorsOf(path)).toBe(1)
    expect(sink.stats().opens).toBe(1)
  })

  test('goes on in the old file while a rotation or a reopening is in flight', async () => {
    await using sink = new FileSink({ path, rotate: { maxBytes: 5 } })
    await sink.write('one\n')
    const second = sink.write('two\n')
    expect(sink.writeSync('three\n')).toBeUndefined()
    await second
    await sink.write('four\n')
    renameSync(path, `${path}.moved`)
    const reopened = sink.reopen()
    expect(sink.writeSync('five\n')).toBeUndefined()
    await reopened
    await sink.write('six\n')

    const read = (name: string): string => readFileSync(join(directory.path, name), 'utf8')
    expect(rotatedFiles(directory.path, 'app.log').map(read)).toEqual(['one\ntwo\nthree\n', 'six\n'])
    expect(read('app.log.moved')).toBe('four\nfive\n')
    expect(descriptorsOf(directory.path)).toBe(1)
  })

  test('while others append to the file, each byte is there once', async () => {
    await using sink = new FileSink({ path })
    const other = openSync(path, 'a')
    const random = seededRandom('others')
    for (let i = 0; i < 200; i++) {
      const write = sink.write(numberedLines(i * 1000, Math.floor(random() * 300), 'ours'))
      for (let n = Math.floor(random() * 3); n > 0; n--) writeFileSync(other, 'theirs\n')
      sink.writeSync('sync\n')
      writeFileSync(other, 'theirs\n')
      if (random() < 0.5) await write
    }
    closeSync(other)
    const ours = text()
      .split('\n')
      .filter((line) => line !== 'theirs' && line !== '')

    expect(ours.filter((line) => line === 'sync')).toHaveLength(200)
    const lines = ours.filter((line) => line !== 'sync')
    const again = seededRandom('others')
    const expected: string[] = []
    for (let i = 0; i < 200; i++) {
      expected.push(
        ...numberedLines(i * 1000, Math.floor(again() * 300), 'ours')
          .split('\n')
          .slice(0, -1),
      )
      for (let n = Math.floor(again() * 3); n > 0; n--);
      again()
    }
    expect(lines).toEqual(expected)
    expect(sink.stats().failures).toBe(0)
  })

  test('is not misled by what else is written to the same descriptor', async () => {
    const fd = openSync(path, 'w')
    const sink = new FileSink({ fd, syncTimeoutMs: 20_000 })
    await sink.write('one\n')
    const busy = saturatePool(60_000)
    const write = sink.write('two, which is long\n')
    // As standard error, where it leads to the file that standard output does.
    writeSync(fd, 'theirs\n')
    expect(sink.writeSync('three\n')).toBeUndefined()
    await Promise.all([write, busy])
    await sink.close()
    closeSync(fd)

    expect(text()).toBe('one\ntheirs\ntwo, which is long\nthree\n')
  })

  test('leaves a write that was judged to be over too early what it has to write', async () => {
    await using sink = new FileSink({ path, fs: withoutProc, syncTimeoutMs: 20_000 })
    await sink.write('one\n')
    const busy = saturatePool(60_000)
    const write = sink.write('two\n')
    appendFileSync(path, 'theirs\n')
    expect(sink.writeSync('three\n')).toBeUndefined()
    await Promise.all([write, busy])

    expect(text().split('\n').sort()).toEqual(['', 'one', 'theirs', 'three', 'two'])
  })

  test('waits for space, then answers with a promise and goes on by itself', async () => {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    const sink = new FileSink({ path: '/app.log', fs: files, clock, syncTimeoutMs: 5 })
    await Promise.all([sink.write('one\n'), clock.advance(50)])
    files.full = true
    const rest = sink.writeSync('two\n')
    expect(rest).toBeInstanceOf(Promise)
    expect(sink.stats()).toMatchObject({ stalled: true, pending: 1 })
    await clock.advance(50)
    files.full = false
    await Promise.all([rest, clock.advance(1000)])

    expect(files.names.get('/app.log')?.bytes.toString()).toBe('one\ntwo\n')
    await Promise.all([sink.close(), clock.advance(50)])
    expect(clock.pending).toBe(0)
  })

  test('throws what its own chunk failed with, and leaves the writes before it their own errors', async () => {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    const sink = new FileSink({ path: '/app.log', fs: files, clock })
    await Promise.all([sink.write('one\n'), clock.advance(50)])
    files.full = true
    const waiting = sink.write('two\n')
    await clock.advance(20)
    files.full = false
    files.likelihoods = { ...files.likelihoods, EIO: 1 }
    expect(() => sink.writeSync('three\n')).toThrow(expect.objectContaining({ code: 'ERR_STORE' }))
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_STORE', cause: { code: 'EIO' } })
    files.likelihoods = { ...files.likelihoods, EIO: 0 }
    expect(sink.writeSync('four\n')).toBeUndefined()

    expect(files.names.get('/app.log')?.bytes.toString()).toBe('one\nfour\n')
    expect(sink.stats()).toMatchObject({ offered: 4, succeeded: 2, failed: 2 })
  })

  test('presumes a write done that cannot be watched, and says so where it was not', async () => {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    const status = files.fstatSync.bind(files)
    // As a socket is.
    files.fstatSync = (fd) => ({ ...status(fd), isFile: () => false })
    const fd = files.openSync('/socket', 0)
    const sink = new FileSink({ fd, fs: files, clock, syncTimeoutMs: 5 })
    const failed: string[] = []
    sink.on('failed', ({ operation, error }) => failed.push(`${operation} ${error.message}`))
    await Promise.all([sink.write('one\n'), clock.advance(50)])
    const write = sink.write('two\n')
    expect(sink.writeSync('three\n')).toBeUndefined()
    await Promise.all([write, clock.advance(50)])
    // The pool took its time, but its own memory is left to it.
    expect(files.all[0]?.bytes.toString()).toBe('one\nthree\ntwo\n')
    const lost = sink.write('four\n')
    sink.writeSync('five\n')
    files.likelihoods = { ...files.likelihoods, EIO: 1 }
    await Promise.all([lost, clock.advance(50)])

    expect(failed).toEqual([`write file-sink: writing to descriptor ${fd} failed: EIO: simulated`])
    await Promise.all([sink.close(), clock.advance(50)])
    expect(files.openDescriptors).toBe(1)
  })
})
