import { ConsulRegistration, type ConsulRegistrationOptions, type HealthStatus } from 'spillway/consul'
import { FakeClock } from 'spillway/testing'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { AgentApi } from '../adapters/consul/support/agent-api.js'
import { FaultyProxy } from '../adapters/consul/support/faulty-proxy.js'
import { uniqueService, until, watching } from '../adapters/consul/support/watching.js'
import { type ConsulServer, startConsul } from '../servers/consul.js'

const consul: ConsulServer | undefined = await startConsul()

describe.skipIf(consul === undefined)('consul', () => {
  const { address = '', port = 0 } = consul ?? {}
  const api = new AgentApi(address)
  const cleanUps: (() => unknown)[] = []

  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })
  afterAll(() => consul?.stop())

  function register(options: Partial<ConsulRegistrationOptions>): ConsulRegistration {
    const service = uniqueService()
    const registration = new ConsulRegistration({ address, service, host: '127.0.0.1', port: 80, ...options })
    cleanUps.push(() => registration.close())
    return registration
  }

  async function proxied(): Promise<FaultyProxy> {
    const proxy = await FaultyProxy.start(port)
    cleanUps.push(() => proxy.stop())
    return proxy
  }

  /** Registers a service as a process does that is killed then. */
  async function leaveBehind(options: Partial<ConsulRegistrationOptions>): Promise<void> {
    const proxy = await proxied()
    const registration = register({ ...options, address: proxy.address })
    await registration.start()
    proxy.fault = () => 'cut'
    expect(await registration.close({ timeoutMs: 0 })).toEqual({ drained: false, abandoned: 1 })
  }

  it('a registration takes over from one with the same id, whatever check that had', async () => {
    const service = uniqueService()
    const checks: [ConsulRegistrationOptions['check'], string[]][] = [
      [{ ttlMs: 1000 }, ['ttl']],
      [{ tcp: `127.0.0.1:${port}`, intervalMs: 60_000 }, ['tcp']],
      [{ http: `${address}/v1/status/leader`, intervalMs: 60_000 }, ['http']],
      [undefined, []],
      [{ grpc: `127.0.0.1:${port}`, intervalMs: 60_000 }, ['grpc']],
      [{ ttlMs: 60_000 }, ['ttl']],
    ]
    const id = `${service}-127.0.0.1-80`
    cleanUps.push(() => api.deregister(id))

    for (const [check, kinds] of checks) {
      await leaveBehind({ service, check })

      // A check of another kind under the same id would go on beside the new one: each kind has an id of its own.
      expect((await api.checks(id)).map(({ CheckID }) => CheckID)).toEqual(kinds.map((kind) => `service:${id}:${kind}`))
    }
  })

  it('a registration that the agent gets again leaves maintenance as it is', async () => {
    const registration = register({ check: { ttlMs: 60_000 } })
    await registration.start()
    await api.maintenance(registration.id, true)
    await api.send('PUT', `/v1/agent/check/deregister/service:${registration.id}:ttl`)

    expect(await registration.flush()).toMatchObject({ failed: 1 })
    await until(() => registration.stats().registrations === 2, 'registered again')

    const ids = (await api.checks(registration.id)).map(({ CheckID }) => CheckID)
    expect(ids.sort()).toEqual([`_service_maintenance:${registration.id}`, `service:${registration.id}:ttl`])
  })

  it('health that throws what cannot be turned into text is critical, and no unhandled rejection', async () => {
    const unhandled: unknown[] = []
    const keep = (error: unknown): void => void unhandled.push(error)
    process.on('unhandledRejection', keep)
    cleanUps.push(() => process.off('unhandledRejection', keep))
    const registration = register({
      check: {
        ttlMs: 60_000,
        health: () => {
          throw Object.create(null)
        },
      },
    })

    await registration.start()
    await new Promise((resolve) => setImmediate(resolve))

    expect(await api.check(registration.id)).toMatchObject({
      Status: 'critical',
      Output: 'health failed with an error that could not be read',
    })
    expect(unhandled).toEqual([])
  })

  it('a note that is no text is turned into one', async () => {
    const registration = register({ check: { ttlMs: 60_000, health: () => ({ status: 'warning', note: 5 as never }) } })
    const notes: unknown[] = []
    registration.on('reported', ({ note }) => notes.push(note))
    await registration.start()

    expect(notes).toEqual(['5'])
    expect(await api.check(registration.id)).toMatchObject({ Status: 'warning', Output: '5' })
  })

  it('health that closes the registration is not waited for', async () => {
    const clock = new FakeClock()
    let closes = false
    const registration: ConsulRegistration = register({
      clock,
      check: {
        ttlMs: 30_000,
        health: async (): Promise<HealthStatus> => {
          if (closes) await registration.close()
          return 'passing'
        },
      },
    })
    await registration.start()
    closes = true

    // No time passes, so neither a deadline nor a limit comes to help.
    await registration.flush()
    await until(() => registration.stats().state === 'closed', 'closed')

    expect(await api.service(registration.id)).toBeUndefined()
  })

  it('a listener that starts a registration anew after a failure waits for the next attempt', async () => {
    const proxy = await proxied()
    proxy.fault = () => (proxy.requests.length === 1 ? { status: 500 } : undefined)
    const registration = register({ address: proxy.address })
    const again: Promise<void>[] = []
    registration.on('registerFailed', () => again.push(registration.start()))

    await expect(registration.start()).rejects.toMatchObject({ status: 500 })

    expect(await Promise.all(again)).toEqual([undefined])
    expect(registration.stats()).toMatchObject({ state: 'registered', registerFailures: 1 })
  })

  it('no part of a token is told where an answer is cut short within it, or is nothing else', async () => {
    const token = 'b6a3e4f0-token'
    const proxy = await proxied()
    const told: string[] = []
    for (const [status, before] of [
      ...Array.from({ length: 20 }, (_, i) => [500, 275 + i] as const),
      [200, 0] as const,
    ]) {
      proxy.fault = () => ({ status, body: 'x'.repeat(before) + token })
      const seen = watching({ address: proxy.address, service: 'web', token })
      await until(() => seen.errors.length > 0, 'an error')
      seen.stop()
      told.push((seen.errors[0] as Error).message)
    }

    expect(told.filter((message) => message.includes(token.slice(0, 3)))).toEqual([])
  })
})
