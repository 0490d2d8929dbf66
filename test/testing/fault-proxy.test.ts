import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import fc from 'fast-check'
import { Redis } from 'ioredis'
import { FaultProxy, type ProxyFaults, seededRandom } from 'spillway/testing'
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { startRedis } from '../servers/redis.ts'

let server: Server
let proxy: FaultProxy
/** What the server was sent, and whether it was told of the ends of its connections. */
let received: Buffer[]
let serverSide: Socket[]
const clients: Socket[] = []

beforeEach(async () => {
  received = []
  serverSide = []
  server = createServer({ allowHalfOpen: true }, (socket) => {
    serverSide.push(socket)
    socket.on('error', () => undefined)
    socket.on('data', (chunk) => {
      received.push(chunk)
      socket.write(chunk)
    })
    socket.on('end', () => socket.end('bye'))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  proxy = new FaultProxy({ port: (server.address() as AddressInfo).port })
  await proxy.start()
})

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy()
  for (const socket of serverSide) socket.destroy()
  await proxy.stop()
  server.close()
  await once(server, 'close')
})

/** A connection through the proxy, and what came of it. */
function client(): { socket: Socket; text: () => string; ended: () => string | undefined } {
  const socket = connect({ port: proxy.port, host: '127.0.0.1', allowHalfOpen: true })
  clients.push(socket)
  const chunks: Buffer[] = []
  let ended: string | undefined
  socket.on('data', (chunk) => chunks.push(chunk))
  socket.on('end', () => {
    ended ??= 'end'
  })
  socket.on('error', (error: NodeJS.ErrnoException) => {
    ended ??= error.code
  })
  return { socket, text: () => Buffer.concat(chunks).toString(), ended: () => ended }
}

const until = (check: () => void): Promise<void> => vi.waitFor(check, { timeout: 10_000, interval: 2 })
const elapse = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

describe('a FaultProxy', () => {
  test('passes bytes and the ends of connections on, and counts', async () => {
    const { socket, text, ended } = client()

    socket.write('hello ')
    await until(() => expect(text()).toBe('hello '))
    socket.end('world')
    await until(() => expect([text(), ended()]).toEqual(['hello worldbye', 'end']))

    await until(() => expect(proxy.stats().open).toBe(0))
    expect(proxy.stats()).toEqual({
      connections: 1,
      open: 0,
      refused: 0,
      ignored: 0,
      cuts: 0,
      lostAnswers: 0,
      toServerBytes: 11,
      toClientBytes: 14,
    })
  })

  test('is late by its latency in each direction, and on one side where that is asked for', async () => {
    const { socket, text } = client()
    await once(socket, 'connect')

    const roundTrip = async (faults: ProxyFaults): Promise<number> => {
      proxy.set(faults)
      const before = performance.now()
      const length = text().length
      socket.write('x')
      await until(() => expect(text()).toHaveLength(length + 1))
      return performance.now() - before
    }

    expect(await roundTrip({ latencyMs: 100 })).toBeGreaterThanOrEqual(195)
    expect(await roundTrip({ toClient: { latencyMs: 100 } })).toBeGreaterThanOrEqual(95)
    expect(await roundTrip({ latencyMs: 5000, toClient: { latencyMs: 0 }, toServer: { latencyMs: 0 } })).toBeLessThan(
      2000,
    )
  })

  test('keeps the order of bytes, whatever jitter they have', async () => {
    proxy.set({ latencyMs: 1, jitterMs: 20 })
    const { socket, text } = client()
    const parts = Array.from({ length: 50 }, (_, i) => `part ${i};`)

    for (const part of parts) {
      socket.write(part)
      await elapse(1)
    }

    await until(() => expect(text()).toBe(parts.join('')))
  })

  test('lets as many bytes through as its bandwidth has', async () => {
    proxy.set({ toServer: { bytesPerSecond: 100_000 } })
    const { socket, text } = client()
    const before = performance.now()

    socket.write('x'.repeat(30_000))
    await until(() => expect(text()).toHaveLength(30_000))

    // The first slice goes at once.
    expect(performance.now() - before).toBeGreaterThan(200)
  })

  test('frozen lets nothing through, and everything once it is healed', async () => {
    const { socket, text, ended } = client()
    socket.write('a')
    await until(() => expect(text()).toBe('a'))

    proxy.set({ toClient: { frozen: true } })
    socket.write('b')
    await until(() => expect(Buffer.concat(received).toString()).toBe('ab'))
    socket.end()
    await elapse(50)
    expect([text(), ended()]).toEqual(['a', undefined])

    proxy.heal()
    await until(() => expect([text(), ended()]).toEqual(['abbye', 'end']))
  })

  test('frozen tells neither side that the other one broke, until it is healed', async () => {
    const { socket, ended } = client()
    socket.write('a')
    await until(() => expect(received).toHaveLength(1))
    proxy.set({ frozen: true })

    serverSide[0]?.resetAndDestroy()
    await elapse(50)
    expect(ended()).toBeUndefined()

    proxy.heal()
    await until(() => expect(ended()).toBe('ECONNRESET'))
  })

  test('refuses new connections, and leaves those that are there', async () => {
    const old = client()
    old.socket.write('a')
    await until(() => expect(old.text()).toBe('a'))

    proxy.set({ mode: 'refuse' })
    const refused = client()
    await until(() => expect(refused.ended()).toBe('ECONNRESET'))
    old.socket.write('b')

    await until(() => expect(old.text()).toBe('ab'))
    expect(proxy.stats()).toMatchObject({ connections: 2, open: 1, refused: 1 })
  })

  test('ignores new connections: they are accepted, and that is all', async () => {
    proxy.set({ mode: 'ignore' })
    const ignored = client()
    await once(ignored.socket, 'connect')
    ignored.socket.write('a')
    await elapse(50)

    expect([received, ignored.text(), ignored.ended()]).toEqual([[], '', undefined])
    expect(proxy.stats()).toMatchObject({ open: 1, ignored: 1, toServerBytes: 0 })
    proxy.cut()
    await until(() => expect(ignored.ended()).toBe('ECONNRESET'))
    expect(proxy.stats().cuts).toBe(1)
  })

  test('cuts what is open, on both sides, and lets in again', async () => {
    const first = client()
    first.socket.write('a')
    await until(() => expect(first.text()).toBe('a'))

    proxy.cut()
    await until(() => expect(first.ended()).toBe('ECONNRESET'))
    await until(() => expect(serverSide[0]?.destroyed).toBe(true))
    const second = client()
    second.socket.write('b')

    await until(() => expect(second.text()).toBe('b'))
    expect(proxy.stats()).toMatchObject({ cuts: 1, connections: 2, open: 1 })
  })

  test('cuts at once what has much on its way to one that reads nothing', async () => {
    const { socket, ended } = client()
    await once(socket, 'connect')
    await until(() => expect(serverSide).toHaveLength(1))
    serverSide[0]?.removeAllListeners('data').pause()
    socket.write(Buffer.alloc(64 * 1_048_576))
    await elapse(100)

    proxy.cut()

    await until(() => expect(ended()).toMatch(/ECONNRESET|EPIPE/))
    await until(() => expect(proxy.stats().open).toBe(0))
  })

  test('resets a connection after just so many bytes', async () => {
    proxy.set({ toServer: { resetAfterBytes: 10 } })
    const { socket, text, ended } = client()

    socket.write('123456')
    // With its echo yet to be read, libuv takes the reset that follows it for the end.
    await until(() => expect(text()).toBe('123456'))
    socket.write('7890abc')
    await until(() => expect(ended()).toBe('ECONNRESET'))

    await until(() => expect(Buffer.concat(received).toString()).toBe('1234567890'))
    expect(proxy.stats()).toMatchObject({ cuts: 1, toServerBytes: 10 })
  })

  test('loses answers: the work is done, and the client never hears of it', async () => {
    proxy.loseAnswers(1, {
      request: (bytes) => Buffer.from(bytes).includes('commit'),
      answer: (bytes) => Buffer.from(bytes).includes(';'),
    })
    const { socket, text, ended } = client()
    socket.write('begin')
    await until(() => expect(text()).toBe('begin'))

    socket.write('commit')
    await until(() => expect(received).toHaveLength(2))
    await elapse(20)
    expect(ended()).toBeUndefined()
    socket.write(';')
    await until(() => expect(ended()).toBe('ECONNRESET'))

    expect(text()).toBe('begin')
    expect(Buffer.concat(received).toString()).toBe('begincommit;')
    expect(proxy.stats()).toMatchObject({ lostAnswers: 1, cuts: 1 })
    const next = client()
    next.socket.write('commit;')
    await until(() => expect(next.text()).toBe('commit;'))
  })

  test('listens no more once it is stopped, and again on the same port once it is started', async () => {
    const { port } = proxy
    const open = client()
    await once(open.socket, 'connect')

    await Promise.all([proxy.stop(), proxy.stop()])
    await until(() => expect(open.ended()).toBe('ECONNRESET'))
    const refused = client()
    await until(() => expect(refused.ended()).toBe('ECONNREFUSED'))
    expect(await Promise.all([proxy.start(), proxy.start()])).toEqual([port, port])

    const again = client()
    again.socket.write('a')
    await until(() => expect(again.text()).toBe('a'))
  })

  test('resets a client whose server is away', async () => {
    await using astray = new FaultProxy({ port: 1 })
    const socket = connect(await astray.start(), '127.0.0.1')
    clients.push(socket)

    const [error] = await once(socket, 'error')

    expect(error).toMatchObject({ code: 'ECONNRESET' })
  })

  test('says where it listens, on 127.0.0.1 alone, and nothing before it is started', async () => {
    const other = new FaultProxy({ port: 1 })

    expect(() => other.port).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
    expect(() => other.address).toThrow('fault-proxy has not been started')
    expect(proxy.address).toBe(`127.0.0.1:${proxy.port}`)
    await other.stop()
  })

  test('rejects where its port is taken, and can be started later', async () => {
    await using other = new FaultProxy({ port: 1, listenPort: proxy.port })

    await expect(other.start()).rejects.toMatchObject({ code: 'ERR_STORE', cause: { code: 'EADDRINUSE' } })
    await proxy.stop()
    await other.start()
    expect(other.port).toBeGreaterThan(0)
  })

  test('holds a sender back whose receiver reads nothing', async () => {
    proxy.set({ frozen: true })
    const { socket } = client()
    await once(socket, 'connect')

    const sent = 64 * 1_048_576
    socket.write(Buffer.alloc(sent))
    await elapse(200)
    expect(socket.bytesWritten - socket.writableLength).toBeLessThan(sent)
    expect(proxy.stats().toServerBytes).toBe(0)

    proxy.heal()
    await until(() => expect(proxy.stats().toServerBytes).toBe(sent))
  })
})

test('bytes arrive as they were sent, whatever is wrong with the way', { timeout: 60_000 }, async () => {
  const faults = fc.record(
    {
      latencyMs: fc.integer({ min: 0, max: 5 }),
      jitterMs: fc.integer({ min: 0, max: 5 }),
      bytesPerSecond: fc.integer({ min: 200_000, max: 10_000_000 }),
      frozen: fc.boolean(),
    },
    { requiredKeys: [] },
  )
  const steps = fc.array(fc.oneof(fc.record({ send: fc.integer({ min: 1, max: 5000 }) }), fc.record({ set: faults })), {
    maxLength: 12,
  })
  await fc.assert(
    fc.asyncProperty(steps, fc.integer(), async (world, seed) => {
      const random = seededRandom(seed)
      const { socket, text } = client()
      let sent = ''
      for (const step of world) {
        if ('set' in step) proxy.set(step.set as ProxyFaults)
        else {
          const part = Array.from({ length: step.send }, () => String.fromCharCode(97 + random() * 26)).join('')
          sent += part
          socket.write(part)
        }
        await elapse(1)
      }
      proxy.heal()
      await until(() => expect(text()).toBe(sent))
      socket.destroy()
    }),
    { numRuns: 25 },
  )
})

const redisServer = await startRedis()
afterAll(() => redisServer?.stop())

describe.skipIf(redisServer === undefined)('a client of a real Redis', () => {
  test('sees it slow, half-open, dead and back, and its work done whose answer was lost', async () => {
    await using way = new FaultProxy({ host: redisServer?.host ?? '', port: redisServer?.port ?? 1 })
    const direct = new Redis(redisServer?.url ?? '')
    const through = new Redis(await way.start(), '127.0.0.1', {
      retryStrategy: () => 10,
      maxRetriesPerRequest: 0,
      commandTimeout: 300,
    })
    through.on('error', () => undefined)
    const key = `test:fault-proxy:${process.pid}`
    try {
      expect(await through.incr(key)).toBe(1)
      way.set({ toClient: { latencyMs: 100 } })
      const before = performance.now()
      expect(await through.incr(key)).toBe(2)
      expect(performance.now() - before).toBeGreaterThanOrEqual(95)

      way.set({ toClient: { frozen: true } })
      await expect(through.incr(key)).rejects.toThrow('Command timed out')
      expect(await direct.get(key)).toBe('3')
      way.heal()

      way.loseAnswers(1, { request: (bytes) => /incr/i.test(Buffer.from(bytes).toString()) })
      await expect(through.incr(key)).rejects.toThrow()
      expect(await direct.get(key)).toBe('4')

      way.set({ mode: 'refuse' })
      way.cut()
      await expect(through.incr(key)).rejects.toThrow()
      way.heal()
      await vi.waitFor(async () => expect(await through.get(key)).toBe('4'), { timeout: 10_000 })
    } finally {
      await direct.del(key)
      direct.disconnect()
      through.disconnect()
    }
  })
})

test.each([
  ['options', () => new FaultProxy(undefined as never), 'options must be an object'],
  ['port', () => new FaultProxy({ port: 0 }), 'port must be a whole number between 1 and 65535, got 0'],
  ['port', () => new FaultProxy({ port: '6379' as never }), 'port must be a whole number'],
  ['host', () => new FaultProxy({ port: 1, host: '' }), 'host must be a string that is not empty'],
  ['listenPort', () => new FaultProxy({ port: 1, listenPort: -1 }), 'listenPort must be a whole number'],
  ['random', () => new FaultProxy({ port: 1, random: 1 as never }), 'random must be a function'],
  ['faults', () => new FaultProxy({ port: 1 }).set(undefined as never), 'faults must be an object'],
  ['mode', () => new FaultProxy({ port: 1 }).set({ mode: 'off' as never }), "mode must be one of 'pass', 'refuse'"],
  ['faults', () => new FaultProxy({ port: 1 }).set({ toClient: 7 as never }), 'faults must be an object'],
  ['latencyMs', () => new FaultProxy({ port: 1 }).set({ latencyMs: -1 }), 'latencyMs must be a number'],
  ['jitterMs', () => new FaultProxy({ port: 1 }).set({ toServer: { jitterMs: Number.NaN } }), 'jitterMs must be a'],
  ['bytesPerSecond', () => new FaultProxy({ port: 1 }).set({ bytesPerSecond: 0 }), 'bytesPerSecond must be a number'],
  ['frozen', () => new FaultProxy({ port: 1 }).set({ frozen: 1 as never }), 'frozen must be true or false'],
  ['resetAfterBytes', () => new FaultProxy({ port: 1 }).set({ resetAfterBytes: 0 }), 'resetAfterBytes must be a whole'],
  ['count', () => new FaultProxy({ port: 1 }).loseAnswers(0), 'count must be a whole number'],
  ['request', () => new FaultProxy({ port: 1 }).loseAnswers(1, { request: 1 as never }), 'request must be a function'],
  ['answer', () => new FaultProxy({ port: 1 }).loseAnswers(1, { answer: 1 as never }), 'answer must be a function'],
])('a wrong %s is refused at once', (field, make, message) => {
  expect(make).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field }))
  expect(make).toThrow(message)
})
