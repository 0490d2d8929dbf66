import { constants, createServer, type ServerHttp2Session } from 'node:http2'
import { setTimeout as delay } from 'node:timers/promises'
import { GrpcChannelPool, type GrpcKeepalive } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import { clientOf, startServer } from './support/counter-service.js'
import { startRelay } from './support/relay.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

/** A bare HTTP/2 server that counts PING frames and never answers a call. */
async function pingCounter() {
  const sessions = new Set<ServerHttp2Session>()
  let pings = 0
  const server = createServer()
  server.on('session', (session) => {
    sessions.add(session)
    session.on('ping', () => pings++)
    session.on('error', () => undefined)
    session.on('close', () => sessions.delete(session))
  })
  server.on('stream', (stream) => void stream.on('error', () => undefined))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanUp(() => {
    for (const session of sessions) session.destroy()
    server.close()
  })
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return { address: `127.0.0.1:${port}`, sessions, pings: () => pings }
}

const pooled = (address: string, keepalive?: 'gentle' | 'aggressive' | GrpcKeepalive | false) => {
  const pool = new GrpcChannelPool(clientOf(address), { channels: 1, keepalive })
  cleanUp(() => pool.close({ timeoutMs: 0 }))
  return pool
}

describe('keepalive', () => {
  it('pings without calls, where that is asked for', async () => {
    const server = await pingCounter()
    const pool = pooled(server.address, { timeMs: 20, timeoutMs: 1000, withoutCalls: true })

    await pool.warmUp()

    await vi.waitFor(() => expect(server.pings()).toBeGreaterThanOrEqual(3))
  })

  it('pings only during calls otherwise', async () => {
    const server = await pingCounter()
    const pool = pooled(server.address, { timeMs: 20, timeoutMs: 1000, withoutCalls: false })
    await pool.warmUp()

    await delay(120)
    expect(server.pings()).toBe(0)

    const controller = new AbortController()
    const call = pool.call('get', { key: 'a' }, { signal: controller.signal })
    await vi.waitFor(() => expect(server.pings()).toBeGreaterThanOrEqual(2))
    controller.abort('done')
    await expect(call).rejects.toBe('done')
  })

  it.each([undefined, 'gentle', 'aggressive', false] as const)('%s sends none so early', async (keepalive) => {
    const server = await pingCounter()
    const pool = pooled(server.address, keepalive)
    await pool.warmUp()

    await delay(100)

    expect(server.pings()).toBe(0)
  })

  it('ends a connection that answers no ping, and its calls with it', async () => {
    const server = await startServer({ get: () => undefined })
    cleanUp(() => server.kill())
    const relay = await startRelay(server.port)
    cleanUp(() => relay.stop())
    const pool = pooled(relay.address, { timeMs: 30, timeoutMs: 50, withoutCalls: true })
    await pool.warmUp()
    relay.stall()

    const answer = pool.call('get', { key: 'a' }, { timeoutMs: 10_000 })

    await expect(answer).rejects.toMatchObject({ statusName: 'UNAVAILABLE', outcomeUnknown: true })
  })

  it('goes on after a server’s GOAWAY for too many pings', async () => {
    const server = await pingCounter()
    const pool = pooled(server.address, { timeMs: 20, timeoutMs: 1000, withoutCalls: true })
    await pool.warmUp()
    const [first] = server.sessions

    first?.goaway(constants.NGHTTP2_ENHANCE_YOUR_CALM, 0, Buffer.from('too_many_pings'))
    await vi.waitFor(() => expect(pool.stats().channels[0]?.state).toBe('idle'))

    await pool.warmUp()
    expect(pool.stats().channels[0]?.state).toBe('ready')
  })

  it('is given to grpc-js in its own terms', () => {
    const given: object[] = []
    const make = (channelOptions: object) => {
      given.push(channelOptions)
      return clientOf('127.0.0.1:1')(channelOptions)
    }
    const options = { channels: 1 } as const
    const pools = [
      new GrpcChannelPool(make, options),
      new GrpcChannelPool(make, { ...options, keepalive: 'aggressive' }),
      new GrpcChannelPool(make, { ...options, keepalive: false }),
    ]
    cleanUp(() => Promise.all(pools.map((pool) => pool.close())))

    expect(given[0]).toMatchObject({
      'grpc.keepalive_time_ms': 300_000,
      'grpc.keepalive_timeout_ms': 20_000,
      'grpc.keepalive_permit_without_calls': 0,
    })
    expect(given[1]).toMatchObject({
      'grpc.keepalive_time_ms': 10_000,
      'grpc.keepalive_timeout_ms': 3000,
      'grpc.keepalive_permit_without_calls': 1,
    })
    expect(Object.keys(given[2] as object).some((option) => option.includes('keepalive'))).toBe(false)
    expect(GrpcChannelPool.keepalivePresets.aggressive).toEqual({ timeMs: 10_000, timeoutMs: 3000, withoutCalls: true })
  })
})
