import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { systemClock } from 'spillway'
import { FileSink, type FileSinkEvents } from 'spillway/file'
import { FakeClock } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { descriptorsOf, logDirectory, numberedLines, rotatedFiles, textOfAll } from './support/log-files.js'
import { fault, SimulatedFiles } from './support/simulated-files.js'

const hourMs = 3_600_000

let directory: ReturnType<typeof logDirectory>
let path: string
beforeEach(() => {
  directory = logDirectory()
  path = join(directory.path, 'app.log')
})
afterEach(() => directory[Symbol.dispose]())

const names = (): string[] => readdirSync(directory.path).sort()
const read = (name: string): string => readFileSync(join(directory.path, name), 'utf8')

describe('by size', () => {
  test('in the middle of a burst every line is there once, in order over the files, and descriptors are constant', async () => {
    await using sink = new FileSink({ path, rotate: { maxBytes: 20_000, maxFiles: 200 } })
    const rotated: FileSinkEvents['rotated'][] = []
    sink.on('rotated', (event) => rotated.push(event))
    let descriptors = 0
    sink.on('opened', () => {
      descriptors = Math.max(descriptors, descriptorsOf(directory.path))
    })
    const writes: Promise<void>[] = []
    for (let chunk = 0; chunk < 600; chunk++) {
      writes.push(sink.write(numberedLines(chunk * 10, 10, '€'.repeat(chunk % 50))))
      if (chunk % 100 === 50) expect(sink.writeSync('')).toBeUndefined()
      if (chunk % 40 === 0) await writes.at(-1)
    }
    await Promise.all(writes)

    const expected = Array.from({ length: 600 }, (_, i) => numberedLines(i * 10, 10, '€'.repeat(i % 50))).join('')
    expect(textOfAll(directory.path, 'app.log')).toBe(expected)
    expect(rotated.length).toBeGreaterThan(10)
    expect(rotated.length).toBe(sink.stats().rotations)
    expect(rotated.at(-1)).toEqual({ path, rotatedPath: `${path}.1`, bytes: statSync(`${path}.1`).size })
    expect(descriptors).toBeLessThanOrEqual(2)
    expect(descriptorsOf(directory.path)).toBe(1)
  })

  test('no file is longer than maxBytes, but for a chunk that alone is: it is never split', async () => {
    await using sink = new FileSink({ path, rotate: { maxBytes: 10 } })
    for (const chunk of ['1234\n', '5678\n', '9\n', `${'x'.repeat(30)}\n`, 'end\n']) await sink.write(chunk)

    expect(rotatedFiles(directory.path, 'app.log').map(read)).toEqual([
      '1234\n5678\n',
      '9\n',
      `${'x'.repeat(30)}\n`,
      'end\n',
    ])
    expect(sink.stats()).toMatchObject({ rotations: 3, fileBytes: 4 })
  })

  test('what a file has already counts', async () => {
    writeFileSync(path, '12345678\n')
    await using sink = new FileSink({ path, rotate: { maxBytes: 10 } })
    await sink.write('9\n')

    expect([read('app.log.1'), read('app.log')]).toEqual(['12345678\n', '9\n'])
  })

  test('at most maxFiles are kept, the newest, and leftovers with higher numbers go', async () => {
    for (const number of [4, 7, 12]) writeFileSync(`${path}.${number}`, 'left over\n')
    for (const other of ['app.log.gz', 'app.log.1.gz', 'app.log.01', 'app.log.x', 'app.logs.9']) {
      writeFileSync(join(directory.path, other), 'of somebody else\n')
    }
    await using sink = new FileSink({ path, rotate: { maxBytes: 1, maxFiles: 3 } })
    for (let i = 0; i < 6; i++) await sink.write(`${i}\n`)

    expect(rotatedFiles(directory.path, 'app.log').map((name) => [name, read(name)])).toEqual([
      ['app.log.3', '2\n'],
      ['app.log.2', '3\n'],
      ['app.log.1', '4\n'],
      ['app.log', '5\n'],
    ])
    expect(names().filter((name) => /gz|01|x$|logs/.test(name))).toHaveLength(5)
  })

  test('a gap that a crash left in the numbers is filled first, and nothing is lost', async () => {
    writeFileSync(`${path}.1`, 'c\n')
    writeFileSync(`${path}.3`, 'b\n')
    writeFileSync(`${path}.4`, 'a\n')
    await using sink = new FileSink({ path, rotate: { maxFiles: 5 } })
    await sink.write('d\n')
    await sink.rotate()

    expect(rotatedFiles(directory.path, 'app.log').map(read)).toEqual(['a\n', 'b\n', 'c\n', 'd\n', ''])
  })
})

describe('by time', () => {
  /** A clock of real timers whose wall time a test sets. */
  function wallClock(wallMs: number) {
    const clock = { ...systemClock, wall: wallMs, wallNow: () => clock.wall }
    return clock
  }

  test('every hour or day has its own file, in UTC, checked as a chunk is written', async () => {
    const clock = wallClock(Date.UTC(2026, 2, 29, 0, 59, 59, 999))
    await using sink = new FileSink({ path, clock, rotate: { every: 'hour' } })
    await using daily = new FileSink({ path: `${path}-daily`, clock, rotate: { every: 'day' } })
    const write = (chunk: string) => Promise.all([sink.write(chunk), daily.write(chunk)])
    await write('0:59\n')
    clock.wall += 1
    await write('1:00\n')
    await write('1:00 again\n')
    clock.wall += 5 * hourMs
    await write('6:00\n')
    clock.wall += 18 * hourMs
    await write('tomorrow\n')

    expect(rotatedFiles(directory.path, 'app.log').map(read)).toEqual([
      '0:59\n',
      '1:00\n1:00 again\n',
      '6:00\n',
      'tomorrow\n',
    ])
    expect(rotatedFiles(directory.path, 'app.log-daily').map(read)).toEqual([
      '0:59\n1:00\n1:00 again\n6:00\n',
      'tomorrow\n',
    ])
  })

  test('everyMs counts from the first line of a file', async () => {
    const clock = wallClock(Date.UTC(2026, 0, 1))
    await using sink = new FileSink({ path, clock, rotate: { everyMs: 1000 } })
    await sink.open()
    clock.wall += 5000
    await sink.write('first\n')
    clock.wall += 999
    await sink.write('within\n')
    clock.wall += 1
    await sink.write('after\n')

    expect(rotatedFiles(directory.path, 'app.log').map(read)).toEqual(['first\nwithin\n', 'after\n'])
  })

  test('a file that is there already counts from when it was made', async () => {
    writeFileSync(path, 'of the last run\n')
    const { birthtimeMs } = statSync(path)
    const clock = wallClock(birthtimeMs + hourMs - 1000)
    const first = new FileSink({ path, clock, rotate: { everyMs: hourMs } })
    await first.write('within\n')
    await first.close()
    clock.wall += 2000
    await using second = new FileSink({ path, clock, rotate: { everyMs: hourMs } })
    await second.write('after\n')

    expect(rotatedFiles(directory.path, 'app.log').map(read)).toEqual(['of the last run\nwithin\n', 'after\n'])
  })
})

describe('rotate', () => {
  test('moves the file away after what was written before, an empty one not', async () => {
    await using sink = new FileSink({ path })
    await sink.rotate()
    const [, , bytes] = await Promise.all([sink.write('one\n'), sink.rotate(), sink.write('two\n')])
    expect(bytes).toBeUndefined()

    expect(rotatedFiles(directory.path, 'app.log').map(read)).toEqual(['one\n', 'two\n'])
  })

  test('opens the path anew where somebody else has rotated already', async () => {
    await using sink = new FileSink({ path, rotate: { maxBytes: 10 } })
    await sink.write('12345678\n')
    renameSync(path, `${path}.1`)
    writeFileSync(path, 'other\n')
    await sink.write('90\n')

    expect(rotatedFiles(directory.path, 'app.log').map(read)).toEqual(['12345678\n', 'other\n90\n'])
    expect(sink.stats()).toMatchObject({ rotations: 0, opens: 2 })
  })

  test('goes on where the file was removed', async () => {
    await using sink = new FileSink({ path })
    await sink.write('one\n')
    renameSync(path, join(directory.path, 'away'))
    await sink.rotate()
    await sink.write('two\n')

    expect([read('away'), read('app.log')]).toEqual(['one\n', 'two\n'])
    expect(existsSync(`${path}.1`)).toBe(false)
  })

  test('that fails loses no line: it goes on in the old file, says so, and tries later', async () => {
    const clock = { ...systemClock, at: 0, now: () => clock.at }
    await using sink = new FileSink({ path, clock, maxRetryDelayMs: 500, rotate: { maxBytes: 5, maxFiles: 1 } })
    const failed: string[] = []
    sink.on('failed', ({ operation, error }) => failed.push(`${operation}: ${error.message}`))
    mkdirSync(`${path}.1`)
    await sink.write('one\n')
    await sink.write('two\n')
    await sink.write('three\n')
    expect(failed).toEqual([expect.stringMatching(/^rotate: file-sink: rotating .*app\.log failed: EISDIR/)])
    await expect(sink.rotate()).rejects.toMatchObject({ code: 'ERR_STORE', cause: { code: 'EISDIR' } })
    rmdirSync(`${path}.1`)
    await sink.write('four\n')
    clock.at += 500
    await sink.write('five\n')

    expect([read('app.log.1'), read('app.log')]).toEqual(['one\ntwo\nthree\nfour\n', 'five\n'])
    expect(failed).toHaveLength(2)
  })

  test('that could move the file away but open no other goes on in the moved one, and opens one later', async () => {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    const sink = new FileSink({ path: '/app.log', fs: files, clock, rotate: { maxBytes: 5 }, maxRetryDelayMs: 500 })
    const rotated: string[] = []
    sink.on('rotated', ({ rotatedPath, bytes }) => rotated.push(`${rotatedPath} ${bytes}`))
    await Promise.all([sink.write('one\n'), clock.advance(50)])
    const open = files.openSync.bind(files)
    files.openSync = () => {
      throw fault('EMFILE')
    }
    await Promise.all([sink.write('two\n'), clock.advance(50)])
    files.openSync = open
    expect([...files.names.keys()]).toEqual(['/app.log.1'])
    await Promise.all([sink.write('three\n'), clock.advance(50)])
    await clock.advance(500)
    await Promise.all([sink.write('four\n'), clock.advance(50)])

    expect(files.all.map(({ bytes }) => bytes.toString())).toEqual(['one\ntwo\nthree\n', 'four\n'])
    expect([...files.names.keys()].sort()).toEqual(['/app.log', '/app.log.1'])
    expect(rotated).toEqual(['/app.log.1 14'])
    await Promise.all([sink.close(), clock.advance(50)])
    expect(files.openDescriptors).toBe(0)
  })

  test('makes room on a full disk while a write waits for it', async () => {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    const sink = new FileSink({ path: '/app.log', fs: files, clock, rotate: { maxFiles: 1 } })
    await Promise.all([sink.write('one\n'), clock.advance(50)])
    files.full = true
    const unlinked = files.renameSync.bind(files)
    files.renameSync = (from, to) => {
      unlinked(from, to)
      files.full = false
    }
    const write = sink.write('two\n')
    await clock.advance(50)
    await Promise.all([sink.rotate(), write, clock.advance(100)])

    expect(files.names.get('/app.log')?.bytes.toString()).toBe('two\n')
  })
})
