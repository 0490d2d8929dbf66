import { status } from '@grpc/grpc-js'
import { GrpcChannelPool } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import { freePort } from '../../servers/free-port.js'
import { clientOf, type Handlers, startServer, statusError } from './support/counter-service.js'
import { startRelay } from './support/relay.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

/** A server whose calls wait until they are let go, and which knows the connection of each. */
async function holdingServer(options: { port?: number; 'grpc.max_concurrent_streams'?: number } = {}) {
  const waiting: (() => void)[] = []
  const peers: string[] = []
  const handlers: Handlers = {
    get: (call, callback) => {
      peers.push(call.getPeer())
      waiting.push(() => callback(null, { value: 1 }))
    },
  }
  const server = await startServer(handlers, options)
  cleanUp(() => server.kill())
  return {
    server,
    waiting,
    peers,
    letGo: () => {
      for (const answer of waiting.splice(0)) answer()
    },
  }
}

const pooled = (address: string, options?: ConstructorParameters<typeof GrpcChannelPool>[1]) => {
  const pool = new GrpcChannelPool(clientOf(address), options)
  cleanUp(() => pool.close({ timeoutMs: 0 }))
  return pool
}

describe('the channels of a pool', () => {
  it('have a connection each: 20 of them are 20 connections, which the server tells apart', async () => {
    const { server, peers, letGo } = await holdingServer()
    const relay = await startRelay(server.port)
    cleanUp(() => relay.stop())
    const pool = pooled(relay.address, { channels: 20 })

    await pool.warmUp()

    expect(relay.connections).toBe(20)
    expect(pool.stats().channels.map(({ state }) => state)).toEqual(Array(20).fill('ready'))
    const answers = Array.from({ length: 20 }, () => pool.call('get', { key: 'a' }))
    await vi.waitFor(() => expect(new Set(peers).size).toBe(20))
    letGo()
    await Promise.all(answers)
    await pool.close()
    await vi.waitFor(() => expect(relay.open).toBe(0))
  })

  it('fail all together when nobody is there, and say so', async () => {
    const pool = pooled(`127.0.0.1:${await freePort()}`, { channels: 2 })
    expect(pool.failing).toBe(false)

    await expect(pool.warmUp({ deadlineMs: 100 })).rejects.toMatchObject({ code: 'ERR_TIMEOUT' })

    expect(pool.failing).toBe(true)
  })

  it('would share one without the pool', async () => {
    const { server } = await holdingServer()
    const relay = await startRelay(server.port)
    cleanUp(() => relay.stop())
    const clients = Array.from({ length: 5 }, () => clientOf(relay.address)({}))
    cleanUp(() => clients.forEach((client) => void client.close()))

    await Promise.all(
      clients.map((client) => new Promise<void>((resolve) => client.waitForReady(Date.now() + 5000, () => resolve()))),
    )

    expect(relay.connections).toBe(1)
  })

  it('make no connection before they are needed', async () => {
    const relay = await startRelay()
    cleanUp(() => relay.stop())

    const pool = pooled(relay.address)

    expect(pool.stats().channels).toEqual(
      [0, 1, 2, 3].map((channel) => ({ channel, address: relay.address, state: 'idle', inFlight: 0, calls: 0 })),
    )
    expect(relay.connections).toBe(0)
  })

  it('take turns when none is busier', async () => {
    const { server, peers, letGo } = await holdingServer()
    const pool = pooled(server.address, { channels: 3 })

    const answers = Array.from({ length: 9 }, () => pool.call('get', { key: 'a' }))
    await vi.waitFor(() => expect(peers).toHaveLength(9))
    letGo()
    await Promise.all(answers)

    expect(new Set(peers).size).toBe(3)
    expect(pool.stats().channels.map(({ calls }) => calls)).toEqual([3, 3, 3])
  })

  it('that are less busy go first', async () => {
    const { server, letGo, waiting } = await holdingServer()
    const pool = pooled(server.address, { channels: 2 })
    const held = [pool.lease(), pool.lease(), pool.lease(), pool.lease()]
    for (const lease of held) if (lease.channel === 1) lease.release()

    const answers = [pool.call('get', { key: 'a' }), pool.call('get', { key: 'a' })]
    await vi.waitFor(() => expect(waiting).toHaveLength(2))

    expect(pool.stats().channels.map(({ inFlight }) => inFlight)).toEqual([2, 2])
    letGo()
    await Promise.all(answers)
    for (const lease of held) lease.release()
    expect(pool.stats()).toMatchObject({ offered: 6, succeeded: 6, pending: 0 })
  })

  it('that are failing are left out while others are not, idle as they seem', async () => {
    const { server, letGo, waiting } = await holdingServer()
    const nobody = `127.0.0.1:${await freePort()}`
    let made = 0
    const pool = new GrpcChannelPool((options) => clientOf(made++ === 0 ? nobody : server.address)(options), {
      channels: 2,
    })
    cleanUp(() => pool.close({ timeoutMs: 0 }))
    const states: string[] = []
    pool.on('stateChanged', ({ channel, to }) => channel === 0 && states.push(to))
    await expect(pool.warmUp({ deadlineMs: 200 })).rejects.toThrow(`channel 0 to ${nobody} is transient-failure`)

    const answers = Array.from({ length: 4 }, () => pool.call('get', { key: 'a' }))
    await vi.waitFor(() => expect(waiting).toHaveLength(4))
    letGo()
    await Promise.all(answers)

    expect(pool.stats().channels.map(({ calls }) => calls)).toEqual([0, 4])
    expect(states).toContain('transient-failure')
  })

  it('must be of the caller’s making, one by one', () => {
    const client = clientOf('127.0.0.1:1')({})
    cleanUp(() => client.close())

    expect(() => new GrpcChannelPool(() => client)).toThrow(/makeClient must make a client with a channel of its own/)
    expect(() => new GrpcChannelPool(() => ({}) as never)).toThrow(/makeClient must make a client of @grpc\/grpc-js/)
    expect(() => new GrpcChannelPool(undefined as never)).toThrow(/makeClient must be a function/)
  })
})

describe('a pool that grows', () => {
  it('adds a channel when all have as many calls as they may, up to its most', async () => {
    // The server grants 2 streams a connection: beyond them, calls would queue inside Node.
    const { server, peers, letGo } = await holdingServer({ 'grpc.max_concurrent_streams': 2 })
    const pool = pooled(server.address, { channels: { min: 1, max: 3, maxStreamsPerChannel: 2 } })
    const added = vi.fn()
    pool.on('added', added)

    const answers = Array.from({ length: 6 }, () => pool.call('get', { key: 'a' }))
    await vi.waitFor(() => expect(peers).toHaveLength(6))
    const extra = pool.call('get', { key: 'a' })

    expect(new Set(peers).size).toBe(3)
    expect(added.mock.calls.map(([event]) => event)).toEqual([
      { channel: 1, address: server.address, channels: 2 },
      { channel: 2, address: server.address, channels: 3 },
    ])
    expect(
      pool
        .stats()
        .channels.map(({ inFlight }) => inFlight)
        .sort(),
    ).toEqual([2, 2, 3])
    letGo()
    await Promise.all(answers)
    await vi.waitFor(() => expect(peers).toHaveLength(7))
    letGo()
    await extra
  })

  it('starts with its least', () => {
    const pool = pooled('127.0.0.1:1', { channels: { min: 2 } })

    expect(pool.stats().channels).toHaveLength(2)
  })
})

describe('warmUp', () => {
  it('names each channel that isn’t ready, and how it is', async () => {
    const blackHole = await startRelay()
    cleanUp(() => blackHole.stop())
    const { server } = await holdingServer()
    let made = 0
    const pool = new GrpcChannelPool(
      (options) => clientOf(made++ === 1 ? blackHole.address : server.address)(options),
      { name: 'counters', channels: 3 },
    )
    cleanUp(() => pool.close())

    await expect(pool.warmUp({ deadlineMs: 150 })).rejects.toMatchObject({
      code: 'ERR_TIMEOUT',
      outcomeUnknown: false,
      message: `counters isn't ready after 150 ms: channel 1 to ${blackHole.address} is connecting`,
    })
  })

  it('waits for a server that comes late', async () => {
    const port = await freePort()
    const pool = pooled(`127.0.0.1:${port}`, {
      channels: 2,
      channelOptions: { 'grpc.initial_reconnect_backoff_ms': 50, 'grpc.max_reconnect_backoff_ms': 50 },
    })
    const warm = pool.warmUp({ deadlineMs: 10_000 })
    await vi.waitFor(() => expect(pool.stats().channels[0]?.state).toBe('transient-failure'))

    await holdingServer({ port })

    await warm
    expect(pool.stats().channels.map(({ state }) => state)).toEqual(['ready', 'ready'])
  })

  it('stops waiting when told to, and on close', async () => {
    const blackHole = await startRelay()
    cleanUp(() => blackHole.stop())
    const pool = pooled(blackHole.address)
    const controller = new AbortController()
    const aborted = pool.warmUp({ signal: controller.signal })
    const closed = pool.warmUp()
    controller.abort(new Error('enough'))

    await expect(aborted).rejects.toThrow('enough')
    await pool.close()
    await expect(closed).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    await expect(pool.warmUp()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    await expect(pool.warmUp({ deadlineMs: -1 })).rejects.toMatchObject({ code: 'ERR_OPTION' })
  })
})

describe('recovery', () => {
  it('goes on after the server was restarted', async () => {
    const first = await startServer({ get: (_call, callback) => callback(null, { value: 1 }) })
    const pool = pooled(first.address, {
      channels: 2,
      channelOptions: { 'grpc.initial_reconnect_backoff_ms': 50, 'grpc.max_reconnect_backoff_ms': 50 },
    })
    await pool.warmUp()

    first.kill()
    await vi.waitFor(() => expect(pool.stats().channels.some(({ state }) => state === 'ready')).toBe(false))
    const second = await startServer({ get: (_call, callback) => callback(null, { value: 2 }) }, { port: first.port })
    cleanUp(() => second.kill())

    await vi.waitFor(async () => expect(await pool.call('get', { key: 'a' })).toEqual({ value: 2 }), 5000)
    await pool.warmUp()
  })

  it('loses no call when the server says GOAWAY and lets them finish', async () => {
    const { server, letGo, waiting } = await holdingServer()
    const pool = pooled(server.address, { channels: 1 })
    const answer = pool.call('get', { key: 'a' })
    await vi.waitFor(() => expect(waiting).toHaveLength(1))

    const down = server.shutDown()
    letGo()

    expect(await answer).toEqual({ value: 1 })
    await down
  })
})

describe('replace', () => {
  it('puts a new channel in the place of one, which drains', async () => {
    const { server, peers, waiting, letGo } = await holdingServer()
    const relay = await startRelay(server.port)
    cleanUp(() => relay.stop())
    const pool = pooled(relay.address, { channels: 1 })
    const events: string[] = []
    pool.on('replaced', ({ reason }) => events.push(`replaced ${reason}`))
    pool.on('drained', () => events.push('drained'))
    const old = pool.call('get', { key: 'a' })
    await vi.waitFor(() => expect(waiting).toHaveLength(1))

    const replaced = pool.replace(0)
    const young = pool.call('get', { key: 'a' })
    await vi.waitFor(() => expect(waiting).toHaveLength(2))

    expect(new Set(peers).size).toBe(2)
    expect(pool.stats()).toMatchObject({ draining: 1, replaced: 1, pending: 2 })
    expect(events).toEqual(['replaced requested'])
    letGo()
    await Promise.all([old, young, replaced])
    expect(events).toEqual(['replaced requested', 'drained'])
    expect(pool.stats().draining).toBe(0)
    await vi.waitFor(() => expect(relay.open).toBe(1))
  })

  it('refuses a channel that there isn’t', async () => {
    const pool = pooled('127.0.0.1:1')

    await expect(pool.replace(4)).rejects.toThrow('channel must be a whole number between 0 and 3, got 4 (number)')
  })

  it('happens by itself when somebody closed a channel’s client', async () => {
    const { server, waiting, letGo } = await holdingServer()
    const made: { close(): void }[] = []
    const pool = new GrpcChannelPool(
      (options) => {
        const client = clientOf(server.address)(options)
        made.push(client)
        return client
      },
      { channels: 1 },
    )
    cleanUp(() => pool.close({ timeoutMs: 0 }))
    const replaced = vi.fn()
    pool.on('replaced', replaced)

    made[0]?.close()
    const answer = pool.call('get', { key: 'a' })
    await vi.waitFor(() => expect(waiting).toHaveLength(1))
    letGo()

    expect(await answer).toEqual({ value: 1 })
    expect(replaced).toHaveBeenCalledExactlyOnceWith({ channel: 0, address: server.address, reason: 'shutdown' })
  })
})

describe('a lease', () => {
  it('counts as a call in flight, ends once, and says how', async () => {
    const pool = pooled('127.0.0.1:1', { channels: 1 })
    const first = pool.lease()
    const second = pool.lease()
    {
      using third = pool.lease()
      expect(third.client).toBe(first.client)
    }

    first.release('failure')
    first.release('success')
    second.release()

    expect(pool.stats()).toMatchObject({ offered: 3, failed: 1, succeeded: 1, aborted: 1, pending: 0 })
    expect(() => pool.lease(7 as never)).toThrow(/options must be an object/)
    expect(() => pool.lease().release('maybe' as never)).toThrow(/outcome must be 'success', 'failure' or 'ignore'/)
  })

  it('serves calls of other kinds', async () => {
    const server = await startServer({
      watch: (call) => {
        call.write({ value: 1 })
        call.write({ value: 2 })
        call.end()
      },
    })
    cleanUp(() => server.kill())
    const pool = pooled(server.address)
    using lease = pool.lease()
    const values: number[] = []

    for await (const { value } of lease.client.watch({ key: 'a' })) values.push(value)
    lease.release('success')

    expect(values).toEqual([1, 2])
    expect(pool.stats()).toMatchObject({ succeeded: 1, aborted: 0 })
  })
})

describe('openStream', () => {
  it('counts a stream as in flight until it ends, and reports how it ended', async () => {
    const server = await startServer({
      increments: (call) => {
        call.on('data', ({ id }) => {
          if (id === 'bad') call.emit('error', statusError(status.INVALID_ARGUMENT, 'bad'))
          else call.write({ id, value: 1 })
        })
        call.on('end', () => call.end())
      },
    })
    cleanUp(() => server.kill())
    const pool = pooled(server.address)
    const failed = vi.fn()
    pool.on('failed', failed)

    const good = pool.openStream('increments')
    good.on('data', () => good.end())
    good.write({ id: '1', key: 'a' })
    const cancelled = pool.openStream('increments')
    expect(pool.stats().pending).toBe(2)
    cancelled.cancel()
    const controller = new AbortController()
    pool.openStream('increments', { signal: controller.signal })
    controller.abort()
    const bad = pool.openStream('increments')
    bad.on('data', () => undefined)
    bad.write({ id: 'bad', key: 'a' })

    await pool.flush()
    expect(pool.stats()).toMatchObject({ offered: 4, succeeded: 1, aborted: 2, failed: 1, pending: 0 })
    expect(failed).toHaveBeenCalledExactlyOnceWith(
      expect.objectContaining({
        method: 'increments',
        error: expect.objectContaining({ statusName: 'INVALID_ARGUMENT' }),
      }),
    )
  })

  it('refuses what is wrong, and everything once closed', async () => {
    const pool = pooled('127.0.0.1:1')

    expect(() => pool.openStream('nope' as 'increments')).toThrow(/method must be the name of a method of the client/)
    expect(() => pool.openStream('increments', { timeoutMs: 0 })).toThrow(/timeoutMs must be a number/)
    await pool.close()
    expect(() => pool.openStream('increments')).toThrow(/is closed/)
    expect(() => pool.lease()).toThrow(/is closed/)
    expect(pool.stats()).toMatchObject({ offered: 4, rejected: 4 })
  })
})
