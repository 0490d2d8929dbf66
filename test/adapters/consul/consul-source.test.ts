import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { type ConsulServer, startConsul } from '../../servers/consul.js'
import { AgentApi } from './support/agent-api.js'
import { elapse, uniqueService, until, type Watching, watching } from './support/watching.js'

const consul: ConsulServer | undefined = await startConsul()

describe.skipIf(consul === undefined)('consulSource, on a real Consul', () => {
  const { address = '' } = consul ?? {}
  const api = new AgentApi(address)
  const cleanUps: (() => unknown)[] = []

  /** A service of the test's own, with instances that are taken out after it. */
  function service(): {
    name: string
    register: (id: string, more?: Parameters<AgentApi['register']>[2]) => Promise<string>
  } {
    const name = uniqueService()
    return {
      name,
      register: async (id, more) => {
        const unique = `${name}-${id}`
        cleanUps.push(() => api.deregister(unique))
        await api.register(name, unique, more)
        return unique
      },
    }
  }

  function watch(options: Parameters<typeof watching>[0]): Watching {
    // Fast enough for a test to change several things in a row.
    const made = watching({ address, minIntervalMs: 20, burst: 5, ...options })
    cleanUps.push(() => made.stop())
    return made
  }

  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })
  afterAll(() => consul?.stop())

  it('gives an instance with its address, weight, tags, metadata and node', async () => {
    const { name, register } = service()
    const own = await register('own', {
      port: 8080,
      Address: '10.1.2.3',
      Tags: ['v2', 'grpc'],
      Meta: { zone: 'a' },
      Weights: { Passing: 7, Warning: 1 },
      status: 'passing',
    })
    const plain = await register('plain', { port: 8081 })
    const node = (await api.send('GET', '/v1/agent/self')) as { Config: { NodeName: string; Datacenter: string } }
    const catalog = (await api.send('GET', `/v1/catalog/service/${name}`)) as { Address: string }[]

    const seen = watch({ service: name })
    await until(() => seen.lists.length > 0, 'a list')

    const { NodeName, Datacenter } = node.Config
    expect(seen.lists[0]).toEqual([
      {
        id: `${NodeName}/${own}`,
        serviceId: own,
        service: name,
        host: '10.1.2.3',
        port: 8080,
        weight: 7,
        status: 'passing',
        tags: ['v2', 'grpc'],
        meta: { zone: 'a' },
        node: NodeName,
        datacenter: Datacenter,
      },
      expect.objectContaining({
        serviceId: plain,
        host: catalog[0]?.Address,
        port: 8081,
        weight: 1,
        tags: [],
        meta: {},
      }),
    ])
  })

  it('gives an empty list for a service that nobody registered, and is woken by its first instance', async () => {
    const { name, register } = service()
    const seen = watch({ service: name })
    await until(() => seen.lists.length > 0, 'a list')
    expect(seen.lists).toEqual([[]])

    const id = await register('a')
    await until(() => seen.lists.length > 1, 'the first instance', 2000)

    expect(seen.ids()).toEqual([id])
  })

  it('is woken by registration, a change of status, maintenance and deregistration', { timeout: 40_000 }, async () => {
    const { name, register } = service()
    const a = await register('a', { status: 'passing' })
    const seen = watch({ service: name })
    await until(() => seen.ids()?.length === 1, 'the first instance')

    // A blocking query would wait for 55 s: whoever isn't woken fails.
    const b = await register('b', { status: 'critical' })
    await elapse(200)
    expect(seen.ids()).toEqual([a])
    await api.report(b, 'passing')
    await until(() => seen.ids()?.length === 2, 'b passing', 3000)
    await api.report(a, 'critical')
    await until(() => seen.ids()?.[0] === b, 'a critical', 3000)
    await api.report(a, 'passing')
    await until(() => seen.ids()?.length === 2, 'a passing', 3000)
    await api.maintenance(b, true)
    await until(() => seen.ids()?.length === 1, 'b in maintenance', 3000)
    await api.maintenance(b, false)
    await until(() => seen.ids()?.length === 2, 'b back', 3000)
    await api.deregister(a)
    await until(() => seen.ids()?.length === 1, 'a gone', 3000)
    expect(seen.ids()).toEqual([b])
    expect(seen.errors).toEqual([])
  })

  it('wakes within a fraction of a second', async () => {
    const { name, register } = service()
    const seen = watch({ service: name })
    await until(() => seen.lists.length > 0, 'a list')
    await elapse(300)

    const since = performance.now()
    await register('a')
    await until(() => seen.lists.length > 1, 'the change')

    expect(performance.now() - since).toBeLessThan(1000)
  })

  it('leaves out warnings, or takes them with their own weight; critical ones never', async () => {
    const { name, register } = service()
    const weights = { Weights: { Passing: 5, Warning: 2 } }
    const passing = await register('1-passing', { status: 'passing', ...weights })
    const warning = await register('2-warning', { status: 'warning', ...weights })
    await register('3-critical', { status: 'critical', ...weights })

    const strict = watch({ service: name })
    const lenient = watch({ service: name, passingOnly: false })
    await until(() => strict.ids()?.length === 1 && lenient.ids()?.length === 2, 'both lists')

    expect(strict.ids()).toEqual([passing])
    expect(lenient.lists.at(-1)?.map(({ serviceId, weight, status }) => [serviceId, weight, status])).toEqual([
      [passing, 5, 'passing'],
      [warning, 2, 'warning'],
    ])
  })

  it('asks for one tag or several, and by a filter', async () => {
    const { name, register } = service()
    const a = await register('a', { Tags: ['v1', 'grpc'] })
    const b = await register('b', { Tags: ['v2', 'grpc'], Meta: { zone: 'west' } })

    const both = watch({ service: name, tags: 'grpc' })
    const one = watch({ service: name, tags: ['grpc', 'v2'] })
    const filtered = watch({ service: name, filter: 'Service.Meta.zone == "west"' })
    await until(() => [both, one, filtered].every(({ lists }) => lists.length > 0), 'three lists')

    expect([both.ids(), one.ids(), filtered.ids()]).toEqual([[a, b], [b], [b]])
  })

  it('asks the datacenter that it is told to, and with the consistency that it is told to', async () => {
    const { name, register } = service()
    const a = await register('a')
    const { Config } = (await api.send('GET', '/v1/agent/self')) as { Config: { Datacenter: string } }

    const here = watch({ service: name, datacenter: Config.Datacenter })
    const stale = watch({ service: name, consistency: 'stale' })
    const consistent = watch({ service: name, consistency: 'consistent' })
    const nowhere = watch({ service: name, datacenter: 'no-such-datacenter' })
    await until(() => [here, stale, consistent].every(({ lists }) => lists.length > 0), 'three lists')
    await until(() => nowhere.errors.length > 0, 'an error')

    expect([here.ids(), stale.ids(), consistent.ids()]).toEqual([[a], [a], [a]])
    expect(nowhere.errors[0]).toMatchObject({ name: 'ConsulError', code: 'ERR_STORE', status: 500 })
    expect(nowhere.lists).toEqual([])
  })

  it('says what Consul says of a wrong filter', async () => {
    const seen = watch({ service: uniqueService(), filter: 'Service.NoSuchField == "x"', name: 'counters' })
    await until(() => seen.errors.length > 0, 'an error')

    expect(seen.errors[0]).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: false })
    expect(String((seen.errors[0] as Error).message)).toMatch(
      /^counters: GET \/v1\/health\/service\/\S+ at \S+:\d+ failed: HTTP [45]00: .*NoSuchField/,
    )
  })

  it('takes an address without a scheme, and a name that must be escaped', async () => {
    const name = `${uniqueService()}/a b`
    await api.register(name, 'escaped')
    cleanUps.push(() => api.deregister('escaped'))

    const seen = watch({ address: address.replace('http://', ''), service: name })
    await until(() => seen.lists.length > 0, 'a list')

    expect(seen.ids()).toEqual(['escaped'])
  })
})
