import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ConsulRegistration, type ConsulRegistrationOptions } from 'spillway/consul'
import { FakeClock } from 'spillway/testing'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { type OwnConsulServer, startConsul } from '../../servers/consul.js'
import { freePort } from '../../servers/free-port.js'
import { AgentApi } from './support/agent-api.js'
import { FaultyProxy } from './support/faulty-proxy.js'
import { elapse, uniqueService, until } from './support/watching.js'

const consul: OwnConsulServer | undefined = await startConsul({ own: true })

describe.skipIf(consul === undefined)('ConsulRegistration, on a real Consul', { timeout: 60_000 }, () => {
  const { address = '', port = 0 } = consul ?? {}
  const api = new AgentApi(address)
  const cleanUps: (() => unknown)[] = []

  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })
  afterAll(() => consul?.stop())

  function register(options: Partial<ConsulRegistrationOptions> = {}): {
    registration: ConsulRegistration
    events: string[]
  } {
    const registration = new ConsulRegistration({
      address,
      service: uniqueService(),
      host: '127.0.0.1',
      port: 8080,
      ...options,
    })
    const events: string[] = []
    for (const event of [
      'registered',
      'registerFailed',
      'heartbeatFailed',
      'forgotten',
      'deregistered',
      'deregisterFailed',
    ] as const) {
      registration.on(event, () => events.push(event))
    }
    cleanUps.push(() => registration.close())
    return { registration, events }
  }

  async function proxied(): Promise<FaultyProxy> {
    const proxy = await FaultyProxy.start(port)
    cleanUps.push(() => proxy.stop())
    return proxy
  }

  const statusOf = async (id: string): Promise<string | undefined> => (await api.check(id))?.Status

  it('registers all that it is told, and takes it back at close', async () => {
    const service = uniqueService()
    const { registration, events } = register({
      service,
      port: 50_051,
      tags: ['grpc', 'v2'],
      meta: { zone: 'a' },
      weight: 4,
      warningWeight: 0,
    })
    expect(await api.service(registration.id)).toBeUndefined()

    await registration.start()

    expect(registration.id).toBe(`${service}-127.0.0.1-50051`)
    expect(await api.service(registration.id)).toMatchObject({
      Service: service,
      Address: '127.0.0.1',
      Port: 50_051,
      Tags: ['grpc', 'v2'],
      Meta: { zone: 'a' },
      Weights: { Passing: 4, Warning: 0 },
    })
    expect(await registration.close()).toEqual({ drained: true, abandoned: 0 })
    expect(await api.service(registration.id)).toBeUndefined()
    expect(events).toEqual(['registered', 'deregistered'])
    expect(registration.stats()).toMatchObject({ state: 'closed', registrations: 1 })
  })

  it('gives Consul deregisterCriticalAfterMs', async () => {
    const { registration } = register({ check: { ttlMs: 30_000 }, deregisterCriticalAfterMs: 90_000 })
    await registration.start()

    // No endpoint tells it, and the time itself is at least a minute; the agent's own notes do.
    const folder = join((consul as OwnConsulServer).dataFolder, 'checks')
    const files = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile())
    const notes = files.map(
      (file) =>
        JSON.parse(readFileSync(join(folder, file.name), 'utf8')) as {
          Check: { ServiceID: string }
          ChkType: { DeregisterCriticalServiceAfter: number; TTL: number }
        },
    )
    const { ChkType } = notes.find(({ Check }) => Check.ServiceID === registration.id) ?? {}
    expect(ChkType).toMatchObject({ DeregisterCriticalServiceAfter: 90_000_000_000, TTL: 30_000_000_000 })
  })

  it('is registered once, however often it is started', async () => {
    const proxy = await proxied()
    const { registration, events } = register({ address: proxy.address })
    await Promise.all([registration.start(), registration.start(), registration.start()])
    await registration.start()

    expect(proxy.requests.filter(({ path }) => path.endsWith('/register'))).toHaveLength(1)
    expect(events).toEqual(['registered'])
  })

  it('rejects the start that fails, goes on by itself, and registers in the end', async () => {
    const proxy = await proxied()
    proxy.fault = () => ({ status: 500, body: 'no such luck' })
    const { registration, events } = register({ address: proxy.address })

    await expect(registration.start()).rejects.toMatchObject({
      code: 'ERR_STORE',
      status: 500,
      retryable: true,
      outcomeUnknown: true,
    })
    expect(registration.stats().state).toBe('registering')
    proxy.fault = () => undefined
    await registration.start()

    expect(events).toEqual([...new Array(events.length - 1).fill('registerFailed'), 'registered'])
    expect(await api.service(registration.id)).toBeDefined()
  })

  it('says that nothing was done where nobody listens', async () => {
    const { registration } = register({ address: `http://127.0.0.1:${await freePort()}`, closeTimeoutMs: 100 })

    await expect(registration.start()).rejects.toMatchObject({
      code: 'ERR_STORE',
      retryable: true,
      outcomeUnknown: false,
      cause: { code: 'ECONNREFUSED' },
    })
  })

  it('says that it may have been done where no answer came', async () => {
    const proxy = await proxied()
    proxy.fault = () => 'hang'
    const { registration } = register({ address: proxy.address, timeoutMs: 200, closeTimeoutMs: 100 })

    await expect(registration.start()).rejects.toMatchObject({ outcomeUnknown: true, cause: { code: 'ERR_TIMEOUT' } })
  })

  it('gives up a wait whose signal aborts, and registers all the same', async () => {
    const { registration } = register()
    const controller = new AbortController()
    const started = registration.start({ signal: controller.signal })
    controller.abort(new Error('enough'))

    await expect(started).rejects.toThrow('enough')
    await until(async () => (await api.service(registration.id)) !== undefined, 'registered')
  })

  it('registers again when the agent has forgotten it: with a TTL check, and without', async () => {
    const ttl = register({ check: { ttlMs: 1000 } })
    const plain = register({ verifyMs: 1000 })
    await Promise.all([ttl.registration.start(), plain.registration.start()])

    await Promise.all([ttl, plain].map(({ registration }) => api.deregister(registration.id)))
    for (const { registration } of [ttl, plain]) {
      await until(async () => (await api.service(registration.id)) !== undefined, 'there again', 5000)
    }

    await until(() => ttl.events.length === 4 && plain.events.length === 4, 'the events')
    expect(ttl.events).toEqual(['registered', 'heartbeatFailed', 'forgotten', 'registered'])
    expect(plain.events).toEqual(['registered', 'heartbeatFailed', 'forgotten', 'registered'])
    expect(ttl.registration.stats()).toMatchObject({ state: 'registered', forgotten: 1, registrations: 2 })
  })

  it('is there again after the agent has restarted without its data', async () => {
    const { registration } = register({ check: { ttlMs: 2000 } })
    await registration.start()
    const server = consul as OwnConsulServer

    await server.kill()
    await until(() => registration.stats().heartbeatFailures > 1, 'failed heartbeats')
    await server.restart({ forget: true })
    await until(async () => (await statusOf(registration.id)) === 'passing', 'passing again', 20_000)

    await until(() => registration.stats().state === 'registered', 'registered')
    expect(registration.stats().forgotten).toBe(1)
  })

  it('closes before its start, and then refuses it', async () => {
    const proxy = await proxied()
    const { registration } = register({ address: proxy.address })

    expect(await registration.close()).toEqual({ drained: true, abandoned: 0 })
    await expect(registration.start()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(proxy.requests).toEqual([])
  })

  it('deregisters when it is closed while it registers', async () => {
    const { registration } = register({ check: { ttlMs: 10_000 } })
    const started = registration.start()
    await elapse(1)
    const closed = registration.close()

    await expect(started).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    await elapse(200)
    expect(await api.service(registration.id)).toBeUndefined()
  })

  it('waits for a registration that is on its way, and then takes it back', async () => {
    const proxy = await proxied()
    proxy.fault = ({ path }) => (path.endsWith('/register') ? { delayMs: 300 } : undefined)
    const { registration } = register({ address: proxy.address })
    const started = registration.start()
    await until(async () => (await api.service(registration.id)) !== undefined, 'the agent has it')

    const closed = registration.close()

    await expect(started).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(await api.service(registration.id)).toBeUndefined()
    expect(proxy.requests.map(({ path }) => path.split('/')[4])).toEqual(['register', 'deregister'])
  })

  it('takes back at close what it may have registered, though the answer was lost', async () => {
    const proxy = await proxied()
    proxy.fault = ({ path }) => (path.endsWith('/register') ? 'lose answer' : undefined)
    const { registration } = register({ address: proxy.address })

    await expect(registration.start()).rejects.toMatchObject({ outcomeUnknown: true, retryable: true })
    expect(await api.service(registration.id)).toBeDefined()
    expect(await registration.close()).toEqual({ drained: true, abandoned: 0 })

    expect(await api.service(registration.id)).toBeUndefined()
  })

  it.each([
    [0, 9000],
    [0.999_999, 10_000],
  ])('with chance at %s, reports after %s of 30,000 ms', async (chance, dueMs) => {
    const clock = new FakeClock()
    const proxy = await proxied()
    const { registration } = register({ address: proxy.address, clock, random: () => chance, check: { ttlMs: 30_000 } })
    await registration.start()
    const before = proxy.requests.length
    await until(() => clock.pending === 1, 'the wait for the next report')

    await clock.advance(dueMs - 1)
    await elapse(50)
    expect(proxy.requests).toHaveLength(before)
    await clock.advance(1)
    await until(() => registration.stats().heartbeats === 1, 'the report')

    expect(proxy.requests).toHaveLength(before + 1)
    await registration.close()
    expect(clock.pending).toBe(0)
  })

  it('lets no listener and no health change what it does', async () => {
    const warnings: Error[] = []
    const warned = (warning: Error): void => void warnings.push(warning)
    process.on('warning', warned)
    const { registration } = register({
      check: {
        ttlMs: 60_000,
        health: () => {
          throw new Error('boom')
        },
      },
    })
    registration.on('registered', () => {
      throw new Error('a listener')
    })
    await registration.start()
    await until(() => warnings.length > 0, 'the warning')
    process.off('warning', warned)

    expect(await api.check(registration.id)).toMatchObject({ Status: 'critical', Output: 'boom' })
    expect(warnings.map(({ message }) => message)).toEqual([expect.stringContaining('a listener')])
  })

  it('tries to deregister until it has, and deregisters once', async () => {
    const proxy = await proxied()
    const { registration, events } = register({ address: proxy.address })
    await registration.start()
    let failures = 0
    proxy.fault = () => (failures++ < 2 ? { status: 500 } : undefined)

    expect(await Promise.all([registration.close(), registration.close()])).toEqual([
      { drained: true, abandoned: 0 },
      { drained: true, abandoned: 0 },
    ])
    expect(events).toEqual(['registered', 'deregisterFailed', 'deregisterFailed', 'deregistered'])
    expect(await api.service(registration.id)).toBeUndefined()
  })

  it.each(['hang', 'cut'] as const)('closes at its deadline when all requests %s', async (fault) => {
    const proxy = await proxied()
    const { registration } = register({ address: proxy.address })
    await registration.start()
    proxy.fault = () => fault

    const since = performance.now()
    expect(await registration.close({ timeoutMs: 300 })).toEqual({ drained: false, abandoned: 1 })
    expect(performance.now() - since).toBeLessThan(1500)
    await until(async () => (await proxy.connections()) === 0, 'no connection is left')
    const asked = proxy.requests.length
    await elapse(500)
    expect(proxy.requests).toHaveLength(asked)
    await api.deregister(registration.id)
  })

  it('closes after closeTimeoutMs where it is given no deadline', async () => {
    const proxy = await proxied()
    const { registration } = register({ address: proxy.address, closeTimeoutMs: 200 })
    await registration.start()
    proxy.fault = () => 'hang'

    expect(await registration.close()).toEqual({ drained: false, abandoned: 1 })
    await api.deregister(registration.id)
  })
})
