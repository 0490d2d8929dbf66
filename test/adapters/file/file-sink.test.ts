import { appendFileSync, constants, existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { FileSink, type FileSinkEvents } from 'spillway/file'
import { FakeClock } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { descriptorsOf, logDirectory } from './support/log-files.js'
import { fault, faultless, SimulatedFiles } from './support/simulated-files.js'

let directory: ReturnType<typeof logDirectory>
let path: string
beforeEach(() => {
  directory = logDirectory()
  path = join(directory.path, 'app.log')
})
afterEach(() => directory[Symbol.dispose]())

const text = (): string => readFileSync(path, 'utf8')

describe('a file', () => {
  test('is made by the first write, and appended to where it is there', async () => {
    const first = new FileSink({ path, mode: 0o600 })
    expect(existsSync(path)).toBe(false)
    await first.write('one\n')
    await first.close()
    const second = new FileSink({ path })
    await second.write('two\n')
    await second.close()

    expect(text()).toBe('one\ntwo\n')
    expect(statSync(path).mode & 0o777).toBe(0o600)
  })

  test('has the chunks in the order of the calls, whoever waits for them', async () => {
    await using sink = new FileSink({ path })
    const writes = Array.from({ length: 50 }, (_, i) => sink.write(`${i} ${'€'.repeat(i)}\n`))
    writes.push(sink.write(''))
    await Promise.all(writes)

    expect(text()).toBe(Array.from({ length: 50 }, (_, i) => `${i} ${'€'.repeat(i)}\n`).join(''))
    expect(sink.stats()).toMatchObject({ offered: 51, succeeded: 51, pending: 0, writtenBytes: statSync(path).size })
  })

  test('takes chunks of megabytes and of every kind of character', async () => {
    await using sink = new FileSink({ path })
    const large = `${'🙂€ß'.repeat(400_000)}\n`
    await Promise.all([sink.write(large), sink.write('small\n'), sink.write('half a pair \ud800\n')])

    expect(text()).toBe(`${large}small\nhalf a pair \ufffd\n`)
  })

  test('is opened early by open, and once', async () => {
    await using sink = new FileSink({ path })
    const opened: unknown[] = []
    sink.on('opened', (event) => opened.push(event))
    await Promise.all([sink.open(), sink.open(), sink.write('line\n')])

    expect(opened).toEqual([{ path, bytes: 0 }])
  })

  test('gets its directory where mkdir says so', async () => {
    const deep = join(directory.path, 'a', 'b', 'app.log')
    const without = new FileSink({ path: deep })
    await expect(without.write('line\n')).rejects.toThrow(/^file-sink: opening .*app\.log failed: ENOENT/)
    await without.close()
    await using sink = new FileSink({ path: deep, mkdir: true })
    await sink.write('line\n')

    expect(readFileSync(deep, 'utf8')).toBe('line\n')
    const other = join(directory.path, 'c', 'app.log')
    const sync = new FileSink({ path: other, mkdir: true })
    expect(sync.writeSync('line\n')).toBeUndefined()
    await sync.close()
    expect(readFileSync(other, 'utf8')).toBe('line\n')
  })

  test('that cannot be opened fails each write, until it can', async () => {
    await using sink = new FileSink({ path: join(path, 'app.log'), mkdir: true })
    const failed: FileSinkEvents['failed'][] = []
    sink.on('failed', (event) => failed.push(event))
    writeFileSync(path, 'in the way')
    await expect(sink.write('one\n')).rejects.toMatchObject({
      code: 'ERR_STORE',
      retryable: true,
      outcomeUnknown: false,
      cause: { code: expect.stringMatching(/ENOTDIR|EEXIST/) },
    })
    await expect(sink.open()).rejects.toMatchObject({ code: 'ERR_STORE' })
    expect(() => sink.writeSync('two\n')).toThrow(expect.objectContaining({ code: 'ERR_STORE' }))
    renameSync(path, `${path}.away`)
    await sink.write('three\n')

    expect(readFileSync(join(path, 'app.log'), 'utf8')).toBe('three\n')
    expect(failed.map(({ operation }) => operation)).toEqual(['open', 'open', 'open'])
    expect(sink.stats()).toMatchObject({ offered: 3, succeeded: 1, failed: 2, failures: 3 })
  })

  test('whose last line a dead process left unfinished goes on with a new line', async () => {
    writeFileSync(path, 'whole\ntorn')
    await using sink = new FileSink({ path })
    await sink.write('next\n')
    await sink.write('last\n')

    expect(text()).toBe('whole\ntorn\nnext\nlast\n')
  })

  test('that was opened is given back by close', async () => {
    const sink = new FileSink({ path })
    await sink.write('line\n')
    expect(descriptorsOf(path)).toBe(1)
    await sink.close()

    expect(descriptorsOf(path)).toBe(0)
  })
})

describe('reopen', () => {
  test('goes on in a new file after the old one was moved away', async () => {
    await using sink = new FileSink({ path })
    await sink.write('one\n')
    renameSync(path, `${path}.old`)
    await sink.write('two\n')
    const before = sink.write('three\n')
    const reopened = sink.reopen()
    const after = sink.write('four\n')
    await Promise.all([before, reopened, after])

    expect(readFileSync(`${path}.old`, 'utf8')).toBe('one\ntwo\nthree\n')
    expect(text()).toBe('four\n')
    expect(sink.stats()).toMatchObject({ opens: 2, fileBytes: 5, rotations: 0 })
    expect(descriptorsOf(directory.path)).toBe(1)
  })

  test('that fails goes on in the old file', async () => {
    await using sink = new FileSink({ path: join(directory.path, 'logs', 'app.log'), mkdir: false })
    await expect(sink.reopen()).rejects.toThrow(/^file-sink: reopening .* failed: ENOENT/)
    const other = new FileSink({ path: join(directory.path, 'logs', 'app.log'), mkdir: true })
    await other.write('one\n')
    await other.close()
    await sink.write('two\n')
    renameSync(join(directory.path, 'logs'), join(directory.path, 'moved'))
    const failed = vi.fn()
    sink.on('failed', failed)
    await expect(sink.reopen()).rejects.toMatchObject({ code: 'ERR_STORE' })
    await sink.write('three\n')

    expect(readFileSync(join(directory.path, 'moved', 'app.log'), 'utf8')).toBe('one\ntwo\nthree\n')
    expect(failed).toHaveBeenCalledExactlyOnceWith({ operation: 'reopen', error: expect.anything() })
  })

  test('before anything else opens it', async () => {
    await using sink = new FileSink({ path })
    await sink.reopen()
    expect(existsSync(path)).toBe(true)
  })
})

describe('what cannot be written just now', () => {
  /** A sink on a simulated disk, and what it told. */
  function simulated(likelihoods: Partial<typeof faultless> = {}) {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    files.likelihoods = { ...faultless, ...likelihoods }
    const sink = new FileSink({
      path: '/app.log',
      fs: files,
      clock,
      random: () => 1,
      retryDelayMs: 10,
      maxRetryDelayMs: 100,
    })
    const told: string[] = []
    sink.on('stalled', ({ path: of, error }) => void told.push(`stalled ${of} ${(error as Error).message.slice(0, 6)}`))
    sink.on(
      'resumed',
      ({ stalledMs }) => void told.push(`resumed after ${stalledMs >= 100 ? '100 ms and more' : 'less'}`),
    )
    sink.on('failed', ({ operation }) => void told.push(`failed ${operation}`))
    return { clock, files, sink, told, content: () => files.names.get('/app.log')?.bytes.toString() }
  }

  test('waits for space, tells of it once, and loses nothing', async () => {
    const { clock, files, sink, told, content } = simulated()
    await Promise.all([sink.open(), clock.advance(10)])
    files.full = true
    const writes = [sink.write('one\n'), sink.write('two\n')]
    await clock.advance(5000)
    expect(told).toEqual(['stalled /app.log ENOSPC'])
    expect(sink.stats()).toMatchObject({ pending: 2, pendingBytes: 8, stalled: true })
    expect(sink.stats().retries).toBeLessThan(60)
    files.full = false
    await clock.advance(200)
    await Promise.all(writes)

    expect(content()).toBe('one\ntwo\n')
    expect(told).toEqual(['stalled /app.log ENOSPC', 'resumed after 100 ms and more'])
    expect(sink.stats()).toMatchObject({ pending: 0, pendingBytes: 0, stalled: false, failed: 0 })
    await Promise.all([sink.close(), clock.advance(10)])
    expect(clock.pending).toBe(0)
  })

  test('waits for space for a file, too', async () => {
    const { clock, files, sink, told, content } = simulated()
    files.full = true
    const write = sink.write('one\n')
    await clock.advance(1000)
    files.full = false
    await clock.advance(200)
    await write

    expect(content()).toBe('one\n')
    expect(told).toEqual(['stalled /app.log ENOSPC', 'resumed after 100 ms and more'])
  })

  test('tells of a slow reader only when it is slow for long', async () => {
    const { clock, files, sink, told } = simulated({ EAGAIN: 1 })
    const write = sink.write('one\n')
    await clock.advance(60)
    expect(told).toEqual([])
    await clock.advance(500)
    expect(told).toEqual(['stalled /app.log EAGAIN'])
    files.likelihoods = faultless
    await clock.advance(200)
    await write
    expect(told).toEqual(['stalled /app.log EAGAIN', 'resumed after 100 ms and more'])
  })

  test('is tried again after delays that double up to maxRetryDelayMs, and start anew with progress', async () => {
    const { clock, files, sink } = simulated()
    const delays: number[] = []
    const setTimer = clock.setTimer.bind(clock)
    clock.setTimer = (callback, ms) => {
      if (ms >= 10) delays.push(ms)
      return setTimer(callback, ms)
    }
    await Promise.all([sink.open(), clock.advance(10)])
    files.full = true
    const write = sink.write('one\n')
    await clock.advance(400)
    expect(delays).toEqual([10, 20, 40, 80, 100, 100, 100].slice(0, delays.length))
    expect(delays.length).toBeGreaterThanOrEqual(5)
    files.full = false
    await clock.advance(200)
    await write
    delays.length = 0
    files.full = true
    void sink.write('two\n')
    await clock.advance(10)

    expect(delays[0]).toBe(10)
  })

  test('ends with a reopening, which begins the line anew in the other file', async () => {
    const { clock, files, sink } = simulated()
    await Promise.all([sink.open(), clock.advance(10)])
    const write = files.writeSync.bind(files)
    files.writeSync = (fd, buffer, offset) => {
      files.writeSync = write
      const bytes = write(fd, buffer, offset, 7)
      files.full = true
      return bytes
    }
    const written = sink.write('one\ntwo\nthree\n')
    await clock.advance(100)
    files.renameSync('/app.log', '/app.log.old')
    files.full = false
    const reopened = sink.reopen()
    await clock.advance(100)
    await Promise.all([written, reopened])

    expect(files.names.get('/app.log.old')?.bytes.toString()).toBe('one\ntwo')
    expect(files.names.get('/app.log')?.bytes.toString()).toBe('two\nthree\n')
  })
})

describe('a write that fails for good', () => {
  test('says so, with what is known, and the next line stands by itself', async () => {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    const sink = new FileSink({ path: '/app.log', fs: files, clock })
    const failed = vi.fn()
    sink.on('failed', failed)
    let calls = 0
    const write = files.writeSync.bind(files)
    files.writeSync = (fd, buffer, offset, length) => {
      calls++
      if (calls === 1) return write(fd, buffer, offset, 5)
      if (calls <= 3) throw fault('EIO')
      return write(fd, buffer, offset, length)
    }
    const writes = Promise.allSettled([sink.write('one\ntwo\n'), sink.write('three\n'), sink.write('four\n')])
    await clock.advance(100)
    const [partly, notAtAll, whole] = await writes

    expect(partly).toMatchObject({ reason: { code: 'ERR_STORE', outcomeUnknown: true, cause: { code: 'EIO' } } })
    expect((partly as PromiseRejectedResult).reason.message).toBe(
      'file-sink: writing to /app.log failed: EIO: simulated',
    )
    expect(notAtAll).toMatchObject({ reason: { code: 'ERR_STORE', outcomeUnknown: false } })
    expect(whole.status).toBe('fulfilled')
    expect(files.names.get('/app.log')?.bytes.toString()).toBe('one\nt\nfour\n')
    expect(failed).toHaveBeenCalledTimes(2)
    expect(sink.stats()).toMatchObject({ offered: 3, succeeded: 1, failed: 2, failures: 2, shortWrites: 1 })
  })
})

test('a torn line is remembered by a reopening of the same file, also where that may not be read', async () => {
  const clock = new FakeClock()
  const files = new SimulatedFiles(() => 0.45, clock)
  const sink = new FileSink({ path: '/app.log', fs: files, clock })
  const [open, write] = [files.openSync.bind(files), files.writeSync.bind(files)]
  files.openSync = (path, flags) => {
    if (path === '/app.log' && (flags & constants.O_WRONLY) === 0) throw fault('EACCES')
    return open(path, flags)
  }
  let calls = 0
  files.writeSync = (fd, buffer, offset, length) => {
    if (++calls === 2) throw fault('EIO')
    return write(fd, buffer, offset, calls === 1 ? 2 : length)
  }
  const torn = sink.write('one\n').catch((error) => error.code)
  await clock.advance(50)
  await Promise.all([sink.reopen(), sink.write('two\n'), clock.advance(50)])

  expect(await torn).toBe('ERR_STORE')
  expect(files.names.get('/app.log')?.bytes.toString()).toBe('on\ntwo\n')
})

describe('close', () => {
  test('settles what was accepted, refuses more, and can be called again', async () => {
    const sink = new FileSink({ path })
    const writes = [sink.write('one\n'), sink.write('two\n')]
    const closed = sink.close()
    await expect(sink.write('three\n')).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(() => sink.writeSync('four\n')).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
    for (const call of [sink.open(), sink.rotate(), sink.reopen()]) {
      await expect(call).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    }
    await Promise.all([...writes, closed, sink.close({ timeoutMs: 10_000 }), sink[Symbol.asyncDispose]()])

    expect(text()).toBe('one\ntwo\n')
    expect(sink.stats()).toMatchObject({ offered: 4, succeeded: 2, rejected: 2, pending: 0 })
  })

  test('that is over leaves no timer behind, whatever deadline a later call has', async () => {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    const sink = new FileSink({ path: '/app.log', fs: files, clock })
    await Promise.all([sink.write('one\n'), clock.advance(20)])
    await Promise.all([sink.close(), clock.advance(20)])
    await sink.close({ timeoutMs: 60_000 })

    expect(clock.pending).toBe(0)
  })

  test('of a sink that never wrote makes no file', async () => {
    await new FileSink({ path }).close()
    expect(existsSync(path)).toBe(false)
  })

  test('gives up at its deadline what a full disk does not take', async () => {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    const sink = new FileSink({ path: '/app.log', fs: files, clock })
    await Promise.all([sink.write('one\n'), clock.advance(20)])
    files.full = true
    const left = Promise.allSettled([sink.write('two\n'), sink.write('three\n'), sink.rotate()])
    await clock.advance(50)
    const closed = Promise.all([sink.close({ timeoutMs: 60_000 }), sink.close({ timeoutMs: 100 })])
    await clock.advance(150)
    await closed

    const [two, three, rotated] = await left
    for (const outcome of [two, three]) expect(outcome).toMatchObject({ reason: { code: 'ERR_CLOSED' } })
    expect(rotated).toMatchObject({ reason: { code: 'ERR_STORE', cause: { code: 'ENOSPC' } } })
    expect(sink.stats()).toMatchObject({ offered: 3, succeeded: 1, failed: 2, pending: 0 })
    expect(clock.pending).toBe(0)
    expect(files.openDescriptors).toBe(0)
  })

  test('does not wait beyond its deadline for what hangs in the thread pool', async () => {
    const clock = new FakeClock()
    const files = new SimulatedFiles(() => 0.45, clock)
    let comeBack = (): void => undefined
    const write = files.write.bind(files)
    files.write = (...args) => {
      comeBack = () => write(...args)
    }
    const sink = new FileSink({ path: '/app.log', fs: files, clock })
    const hanging = sink.write('one\n')
    await clock.advance(10)
    const closed = sink.close({ timeoutMs: 100 })
    await clock.advance(100)
    await closed
    await expect(hanging).rejects.toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
    expect(files.openDescriptors).toBeGreaterThan(0)
    comeBack()
    await clock.advance(100)

    expect(files.openDescriptors).toBe(0)
    expect(clock.pending).toBe(0)
    expect(sink.stats()).toMatchObject({ offered: 1, failed: 1, pending: 0 })
  })
})

test('a listener that throws changes nothing', async () => {
  const warned = new Promise((done) => process.once('warning', done))
  await using sink = new FileSink({ path })
  sink.on('opened', () => {
    throw new Error('of a listener')
  })
  await sink.write('one\n')

  expect(String(await warned)).toContain('of a listener')
  expect(text()).toBe('one\n')
})

test('what somebody else appends is neither overwritten nor torn', async () => {
  await using sink = new FileSink({ path })
  await sink.write('one\n')
  appendFileSync(path, 'other\n')
  await sink.write('two\n')

  expect(text()).toBe('one\nother\ntwo\n')
  expect(descriptorsOf(path)).toBe(1)
})
