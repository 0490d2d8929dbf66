import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createServer, Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { systemClock } from 'spillway'
import { afterEach, describe, expect, test, vi } from 'vitest'

const run = promisify(execFile)

describe('systemClock.now', () => {
  test('is monotonic, fractional, and apart from the wall clock', () => {
    const reads = Array.from({ length: 1000 }, () => systemClock.now())

    expect(reads.every((read, i) => i === 0 || read >= (reads[i - 1] as number))).toBe(true)
    expect(reads.some((read) => !Number.isInteger(read))).toBe(true)
    expect(Math.abs(systemClock.wallNow() - Date.now())).toBeLessThan(1000)
  })
})

describe('systemClock.setTimer', () => {
  afterEach(() => {
    vi.useRealTimers()
  })

  test('fires once, not before its time, and takes fractions', async () => {
    const early: number[] = []
    const timers = Array.from({ length: 60 }, (_, i) => {
      const delayMs = 1 + i * 0.37
      const started = systemClock.now()
      return new Promise<void>((resolve) =>
        systemClock.setTimer(() => {
          const waited = systemClock.now() - started
          if (waited < delayMs) early.push(delayMs - waited)
          resolve()
        }, delayMs),
      )
    })

    await Promise.all(timers)

    expect(early).toEqual([])
  })

  test.each([2 ** 31 - 1, 2 ** 31, 2 ** 31 + 5000, 2 ** 33 + 1])('waits %d ms in full', (delayMs) => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    let fired = 0
    systemClock.setTimer(() => {
      fired++
    }, delayMs)

    // As far as a platform timer goes at a time.
    let left = delayMs - 1
    for (; left > 2 ** 30; left -= 2 ** 30) vi.advanceTimersByTime(2 ** 30)
    vi.advanceTimersByTime(left)
    const before = fired
    vi.advanceTimersByTime(1)

    expect([before, fired]).toEqual([0, 1])
    vi.advanceTimersByTime(2 ** 30)
    expect(fired).toBe(1)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('can be cancelled before it fires, also in a later part of a long delay, and afterwards', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    const fired: string[] = []
    const cancelShort = systemClock.setTimer(() => fired.push('short'), 100)
    const cancelLong = systemClock.setTimer(() => fired.push('long'), 2 ** 32)
    const cancelFired = systemClock.setTimer(() => fired.push('fired'), 50)

    cancelShort()
    for (let i = 0; i < 3; i++) vi.advanceTimersByTime(2 ** 30)
    cancelLong()
    cancelLong()
    cancelFired()
    for (let i = 0; i < 3; i++) vi.advanceTimersByTime(2 ** 30)

    expect(fired).toEqual(['fired'])
    expect(vi.getTimerCount()).toBe(0)
  })

  test('takes a negative delay as none', async () => {
    await new Promise<void>((resolve) => systemClock.setTimer(resolve, -1000))
  })
})

describe('systemClock.defer', () => {
  test('runs after the microtasks and after everything that this turn brought in', async () => {
    const server = createServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const order: string[] = []
    const sockets: { readonly socket: Socket; readonly peer: Socket }[] = []
    for (let i = 0; i < 5; i++) {
      const accepted = once(server, 'connection') as Promise<[Socket]>
      const socket = new Socket().connect(port, '127.0.0.1')
      await once(socket, 'connect')
      sockets.push({ socket, peer: (await accepted)[0] })
    }
    let first = true
    for (const { socket } of sockets) {
      socket.on('data', () => {
        order.push('data')
        if (!first) return
        first = false
        systemClock.defer(() => order.push('deferred'))
        queueMicrotask(() => order.push('microtask'))
        process.nextTick(() => order.push('tick'))
      })
    }

    // From the phase after the poll, so that the writes are not halfway through a poll.
    await new Promise((resolve) => setImmediate(resolve))
    for (const { peer } of sockets) peer.write('x')
    // The bytes cross the loopback while this thread sees nothing, so that one turn brings them all in.
    const until = performance.now() + 100
    while (performance.now() < until);
    while (!order.includes('deferred')) await new Promise((resolve) => setImmediate(resolve))

    for (const { socket, peer } of sockets) {
      socket.destroy()
      peer.destroy()
    }
    server.close()
    expect(order).toEqual(['data', 'tick', 'microtask', 'data', 'data', 'data', 'data', 'deferred'])
  })

  test('keeps the order of its calls', async () => {
    const order: number[] = []

    for (let i = 0; i < 5; i++) systemClock.defer(() => order.push(i))
    await new Promise<void>((resolve) => systemClock.defer(resolve))

    expect(order).toEqual([0, 1, 2, 3, 4])
  })
})

describe('a process with nothing left but timers', () => {
  const script = fileURLToPath(new URL('./scripts/timers.ts', import.meta.url))
  const root = fileURLToPath(new URL('../..', import.meta.url))
  const outcome = async (what: string): Promise<{ event: string; atMs: number }[]> => {
    const { stdout } = await run(process.execPath, ['--import', 'tsx', script, what], {
      cwd: root,
      env: { ...process.env, TSX_TSCONFIG_PATH: 'tsconfig.check.json' },
      timeout: 15_000,
    })
    return stdout
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      .map(([event, ms]) => ({ event: String(event), atMs: Number(ms) }))
  }

  test('exits before a housekeeping timer fires', async () => {
    const events = await outcome('housekeeping')

    expect(events.map(({ event }) => event)).toEqual(['exit'])
  })

  test('stays until a guarding timer has fired', async () => {
    const events = await outcome('guarding')

    expect(events.map(({ event }) => event)).toEqual(['fired', 'exit'])
    expect(events[0]?.atMs).toBeGreaterThanOrEqual(200)
  })

  test('exits though a thousand idle components were never closed', async () => {
    const events = await outcome('idle')

    expect(events.map(({ event }) => event)).toEqual(['exit'])
  })

  test('stays while a buffer holds an accepted write', async () => {
    const events = await outcome('holding')

    expect(events.map(({ event }) => event)).toEqual(['written', 'exit'])
    expect(events[0]?.atMs).toBeGreaterThanOrEqual(199)
  })
})
