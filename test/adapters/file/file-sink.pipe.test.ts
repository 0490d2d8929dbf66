import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { FileSink } from 'spillway/file'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { descriptorsOf, logDirectory, numberedLines } from './support/log-files.js'

const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants
const onPosix = process.platform !== 'win32'

let directory: ReturnType<typeof logDirectory>
let path: string
beforeEach(() => {
  directory = logDirectory()
  path = join(directory.path, 'pipe')
})
afterEach(() => directory[Symbol.dispose]())

/** Reads a little from a pipe at each turn of the event loop, until so many bytes were read. */
async function readSlowly(fd: number, bytes: number): Promise<string> {
  const buffer = Buffer.alloc(bytes)
  for (let at = 0; at < bytes; ) {
    await new Promise((resolve) => setImmediate(resolve))
    try {
      at += readSync(fd, buffer, at, Math.min(bytes - at, 3001), null)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
    }
  }
  return buffer.toString()
}

describe.skipIf(!onPosix)('a named pipe', () => {
  beforeEach(() => void spawnSync('mkfifo', [path]))

  test('whose reader is slow gets every byte, however few it takes at a time, and the event loop never waits', async () => {
    const reader = openSync(path, O_RDONLY | O_NONBLOCK)
    const sink = new FileSink({ path, retryDelayMs: 1, maxRetryDelayMs: 5 })
    const chunks = Array.from({ length: 12 }, (_, i) => numberedLines(i * 1000, 800, '€'.repeat(20)))
    const whole = chunks.join('')
    const writes = Promise.all(chunks.map((chunk) => sink.write(chunk)))
    const read = await readSlowly(reader, Buffer.byteLength(whole))
    await writes

    expect(read === whole).toBe(true)
    const { retries, shortWrites, succeeded, fileBytes } = sink.stats()
    expect(retries).toBeGreaterThan(0)
    expect(shortWrites).toBeGreaterThan(0)
    expect([succeeded, fileBytes]).toEqual([12, 0])
    await sink.close()
    closeSync(reader)
  })

  test('that nobody reads fails the write, and takes the next one once somebody does', async () => {
    await using sink = new FileSink({ path })
    await expect(sink.write('one\n')).rejects.toMatchObject({ code: 'ERR_STORE', cause: { code: 'ENXIO' } })
    const reader = openSync(path, O_RDONLY | O_NONBLOCK)
    await sink.write('two\n')

    expect(await readSlowly(reader, 4)).toBe('two\n')
    closeSync(reader)
    await expect(sink.write('three\n')).rejects.toMatchObject({ code: 'ERR_STORE', cause: { code: 'EPIPE' } })
  })

  test('is never rotated', async () => {
    const reader = openSync(path, O_RDONLY | O_NONBLOCK)
    await using sink = new FileSink({ path, rotate: { maxBytes: 3, everyMs: 1 } })
    await sink.write('one\n')
    await sink.rotate()
    await sink.write('two\n')

    expect(await readSlowly(reader, 8)).toBe('one\ntwo\n')
    expect(sink.stats().rotations).toBe(0)
    closeSync(reader)
  })

  test('given as a descriptor is written to without waiting, though it blocks, and isn’t closed', async () => {
    const reader = openSync(path, O_RDONLY | O_NONBLOCK)
    const fd = openSync(path, O_WRONLY)
    const sink = new FileSink({ fd, retryDelayMs: 1, syncTimeoutMs: 20 })
    const whole = numberedLines(0, 4000, '€'.repeat(20))
    const write = sink.write(whole)
    const rest = sink.writeSync('last\n')
    expect(rest).toBeInstanceOf(Promise)
    expect(await readSlowly(reader, Buffer.byteLength(whole) + 5)).toBe(`${whole}last\n`)
    await Promise.all([write, rest])
    await sink.reopen()
    await expect(sink.rotate()).rejects.toThrow(/^file-sink: rotating descriptor \d+ failed: a descriptor has no path/)
    await sink.close()

    expect(descriptorsOf(path)).toBe(2)
    expect(writeSync(fd, 'open\n')).toBe(5)
    closeSync(fd)
    closeSync(reader)
  })
})

test('a file given as a descriptor is appended to where it stands, and isn’t closed', async () => {
  const fd = openSync(path, 'w+')
  writeSync(fd, 'before\n')
  const sink = new FileSink({ fd })
  await sink.write('one\n')
  const two = sink.write('two\n')
  expect(sink.writeSync('three\n')).toBeUndefined()
  await two
  await sink.close()
  writeSync(fd, 'after\n')
  const buffer = Buffer.alloc(100)
  const bytes = readSync(fd, buffer, 0, 100, 0)

  expect(buffer.toString('utf8', 0, bytes)).toBe('before\none\ntwo\nthree\nafter\n')
  expect(descriptorsOf(path)).toBe(1)
  closeSync(fd)
})

test('a descriptor that is none fails each write', async () => {
  await using sink = new FileSink({ fd: 1_000_000 })
  await expect(sink.write('one\n')).rejects.toThrow('file-sink: opening descriptor 1000000 failed: EBADF')
})

test.skipIf(process.platform !== 'linux')(
  'a socket of this process, whose reader is slow, gets every byte',
  async () => {
    const server = createServer()
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const [[peer]] = await Promise.all([once(server, 'connection'), once(socket, 'connect')])
    peer.pause()
    const { fd } = (socket as unknown as { _handle: { fd: number } })._handle
    const sink = new FileSink({ fd, retryDelayMs: 1, syncTimeoutMs: 5 })
    const whole = numberedLines(0, 200_000, '€'.repeat(20))
    const write = sink.write(whole)
    const rest = sink.writeSync('last\n')
    expect(rest, 'nothing blocks where the socket takes no more').toBeInstanceOf(Promise)
    const received: Buffer[] = []
    peer.on('data', (data: Buffer) => received.push(data))
    peer.resume()
    await Promise.all([write, rest])
    await sink.close()
    socket.end()
    await once(peer, 'end')
    server.close()

    expect(Buffer.concat(received).toString() === `${whole}last\n`).toBe(true)
    expect(sink.stats().retries).toBeGreaterThan(0)
  },
)

describe.skipIf(!onPosix)('the standard output of a process', () => {
  const script = fileURLToPath(new URL('./support/sink-process.ts', import.meta.url))
  const config = fileURLToPath(new URL('../../../tsconfig.check.json', import.meta.url))
  const node = [process.execPath, '--import', 'tsx', script, '60', '400']
  const env = { ...process.env, TSX_TSCONFIG_PATH: config }

  test.each([
    ['a pipe', ['sh', '-c', `${node.map((word) => `'${word}'`).join(' ')} | cat`], { fifo: true }],
    ['a socket that blocks', node, { socket: true }],
  ] as const)('which is %s gets every line, in order', { timeout: 60_000 }, async (_, [command, ...args], kind) => {
    const child = spawn(command as string, args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
    const out: Buffer[] = []
    let said = ''
    child.stdout.on('data', (data: Buffer) => out.push(data))
    child.stderr.on('data', (data) => {
      said += data
    })
    const [code] = await once(child, 'close')

    expect([code, JSON.parse(said)]).toMatchObject([0, { ...kind, succeeded: 60, failures: 0 }])
    const got = Buffer.concat(out).toString()
    expect(got === numberedLines(0, 24_000, '€'.repeat(30))).toBe(true)
  })
})
