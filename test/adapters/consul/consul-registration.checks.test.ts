import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Server as GrpcServer, ServerCredentials } from '@grpc/grpc-js'
import { ConsulRegistration, type ConsulRegistrationOptions, type HealthStatus } from 'spillway/consul'
import { afterAll, describe, expect, it, type TestContext } from 'vitest'
import { type OwnConsulServer, startConsul } from '../../servers/consul.js'
import { freePort } from '../../servers/free-port.js'
import { AgentApi } from './support/agent-api.js'
import { FaultyProxy } from './support/faulty-proxy.js'
import { elapse, uniqueService, until } from './support/watching.js'

const consul: OwnConsulServer | undefined = await startConsul({ own: true })

// What they wait for is the agent's own time, a second at the least: they wait together.
describe.skipIf(consul === undefined).concurrent('the checks of a ConsulRegistration, on a real Consul', () => {
  const { address = '', port = 0 } = consul ?? {}
  const api = new AgentApi(address)
  const statusOf = async (id: string): Promise<string | undefined> => (await api.check(id))?.Status

  function register(test: TestContext, options: Partial<ConsulRegistrationOptions>): ConsulRegistration {
    const registration = new ConsulRegistration({
      address,
      service: uniqueService(),
      host: '127.0.0.1',
      port: 8080,
      ...options,
    })
    test.onTestFinished(() => registration.close().then(() => undefined))
    return registration
  }

  async function listen(test: TestContext, answer: () => number): Promise<{ port: number; close(): Promise<void> }> {
    const server: Server = createServer((_request, response) => response.writeHead(answer()).end())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const close = (): Promise<void> =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
    test.onTestFinished(close)
    return { port: (server.address() as AddressInfo).port, close }
  }

  afterAll(() => consul?.stop())

  it('pass for as long as it reports, well beyond a TTL', async (test) => {
    const registration = register(test, { check: { ttlMs: 1500 } })
    const events: string[] = []
    registration.on('heartbeatFailed', () => events.push('heartbeatFailed'))
    registration.on('forgotten', () => events.push('forgotten'))
    const since = performance.now()
    await registration.start()

    const seen = new Set<string | undefined>()
    while (performance.now() - since < 2200) {
      seen.add(await statusOf(registration.id))
      await elapse(50)
    }

    expect([...seen]).toEqual(['passing'])
    // They are 450 to 500 ms apart.
    expect(registration.stats().heartbeats).toBeLessThanOrEqual((performance.now() - since) / 450)
    expect(events).toEqual([])
  })

  it('are critical a TTL after the last report of what could not be taken out', async (test) => {
    const proxy = await FaultyProxy.start(port)
    test.onTestFinished(() => proxy.stop())
    const registration = register(test, { address: proxy.address, check: { ttlMs: 1000 } })
    await registration.start()
    proxy.fault = () => 'hang'

    expect(await registration.close({ timeoutMs: 50 })).toEqual({ drained: false, abandoned: 1 })
    expect(await statusOf(registration.id)).toBe('passing')
    await until(async () => (await statusOf(registration.id)) === 'critical', 'critical', 3000)

    await api.deregister(registration.id)
  })

  it('reports what health says, and its note', async (test) => {
    let answer: HealthStatus | { status: HealthStatus; note: string } | Promise<HealthStatus> = 'passing'
    const registration = register(test, { check: { ttlMs: 60_000, health: () => answer } })
    await registration.start()
    expect(await statusOf(registration.id)).toBe('passing')

    answer = { status: 'warning', note: 'half of the disk is gone' }
    expect(await registration.flush()).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    expect(await api.check(registration.id)).toMatchObject({ Status: 'warning', Output: 'half of the disk is gone' })

    answer = Promise.resolve('passing')
    await registration.flush()
    expect(await statusOf(registration.id)).toBe('passing')
    expect(registration.stats().status).toBe('passing')

    answer = Promise.reject(new Error('the database is gone'))
    await registration.flush()
    expect(await api.check(registration.id)).toMatchObject({ Status: 'critical', Output: 'the database is gone' })

    answer = 'splendid' as HealthStatus
    await registration.flush()
    expect(await api.check(registration.id)).toMatchObject({ Status: 'critical', Output: 'health gave "splendid"' })
  })

  it('is critical while health hangs, and asks it once', async (test) => {
    let calls = 0
    let answer: (status: HealthStatus) => void = () => undefined
    const registration = register(test, {
      check: {
        ttlMs: 1000,
        health: () => {
          calls++
          if (calls === 1) return 'passing'
          return new Promise((resolve) => {
            answer = resolve
          })
        },
      },
    })
    await registration.start()
    await until(async () => (await statusOf(registration.id)) === 'critical', 'critical')
    expect((await api.check(registration.id))?.Output).toBe('health took longer than 333 ms')
    // Time for two more reports.
    await elapse(750)
    expect(calls).toBe(2)

    answer('passing')
    await until(() => calls > 2, 'the next question')
  })

  it('has the agent check a URL', async (test) => {
    let status = 200
    const own = await listen(test, () => status)
    const registration = register(test, {
      port: own.port,
      check: { http: `http://127.0.0.1:${own.port}/healthz`, intervalMs: 1000, timeoutMs: 500 },
    })
    await registration.start()
    await until(async () => (await statusOf(registration.id)) === 'passing', 'passing')

    status = 429
    await until(async () => (await statusOf(registration.id)) === 'warning', 'warning')
    status = 500
    await until(async () => (await statusOf(registration.id)) === 'critical', 'critical')
  })

  it('has the agent connect to a port', async (test) => {
    const own = await listen(test, () => 200)
    const registration = register(test, {
      port: own.port,
      check: { tcp: `127.0.0.1:${own.port}`, intervalMs: 1000, timeoutMs: 500 },
    })
    await registration.start()
    await until(async () => (await statusOf(registration.id)) === 'passing', 'passing')
    await own.close()
    await until(async () => (await statusOf(registration.id)) === 'critical', 'critical')
  })

  it("has the agent ask gRPC's health service", async (test) => {
    let serving = 1
    const server = new GrpcServer()
    server.addService(
      {
        check: {
          path: '/grpc.health.v1.Health/Check',
          requestStream: false,
          responseStream: false,
          requestSerialize: (request: Buffer) => request,
          requestDeserialize: (bytes: Buffer) => bytes,
          // Field 1, an enum: 1 is SERVING, 2 is NOT_SERVING.
          responseSerialize: (status: number) => Buffer.from([8, status]),
          responseDeserialize: (bytes: Buffer) => bytes[1] ?? 0,
        },
      },
      { check: (_call: unknown, callback: (error: null, status: number) => void) => callback(null, serving) },
    )
    const grpcPort = await freePort()
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(`127.0.0.1:${grpcPort}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      ),
    )
    test.onTestFinished(() => server.forceShutdown())
    const registration = register(test, { port: grpcPort, check: { grpc: `127.0.0.1:${grpcPort}`, intervalMs: 1000 } })
    await registration.start()
    await until(async () => (await statusOf(registration.id)) === 'passing', 'passing')
    serving = 2
    await until(async () => (await statusOf(registration.id)) === 'critical', 'critical')
  })
})
