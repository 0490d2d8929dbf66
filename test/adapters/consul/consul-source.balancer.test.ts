import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { LoadBalancer } from 'spillway'
import { type ConsulInstance, ConsulRegistration, consulSource } from 'spillway/consul'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { type OwnConsulServer, startConsul } from '../../servers/consul.js'
import { AgentApi } from './support/agent-api.js'
import { until } from './support/watching.js'

const consul: OwnConsulServer | undefined = await startConsul({ own: true })

describe.skipIf(consul === undefined)('a LoadBalancer over consulSource', { timeout: 60_000 }, () => {
  const server = consul as OwnConsulServer
  const api = new AgentApi(server?.address)
  const cleanUps: (() => unknown)[] = []

  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
  })
  afterAll(() => consul?.stop())

  function balancer(): LoadBalancer<ConsulInstance> {
    const made = new LoadBalancer(
      consulSource({ address: server.address, service: 'shop', minIntervalMs: 50, retry: { maxDelayMs: 500 } }),
      { algorithm: 'weighted' },
    )
    cleanUps.push(() => made.close())
    return made
  }

  /** Which instances a number of picks go to. */
  function picks(from: LoadBalancer<ConsulInstance>, count: number): Record<string, number> {
    const counts: Record<string, number> = {}
    for (let i = 0; i < count; i++) {
      const lease = from.pick()
      counts[lease.instance.serviceId] = (counts[lease.instance.serviceId] ?? 0) + 1
      lease.release('success')
    }
    return counts
  }

  /** A service of its own with an HTTP check, and how to kill it. */
  async function shop(id: string, weight = 1): Promise<{ kill(): Promise<void> }> {
    const http: Server = createServer((_request, response) => response.end(id))
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve))
    const { port } = http.address() as AddressInfo
    const registration = new ConsulRegistration({
      address: server.address,
      service: 'shop',
      id,
      host: '127.0.0.1',
      port,
      weight,
      check: { http: `http://127.0.0.1:${port}/`, intervalMs: 1000, timeoutMs: 500 },
    })
    const kill = (): Promise<void> =>
      new Promise((resolve) => {
        http.close(() => resolve())
        http.closeAllConnections()
      })
    cleanUps.push(() => registration.close(), kill)
    await registration.start()
    return { kill }
  }

  it('calls the instances that there are, by their weight, and none that was killed', async () => {
    const a = await shop('shop-a')
    await shop('shop-b', 3)
    const shops = balancer()
    await shops.start()
    await until(() => shops.instances().length === 2, 'both pass their checks')

    expect(picks(shops, 40)).toEqual({ 'shop-a': 10, 'shop-b': 30 })
    const call = ({ host, port }: ConsulInstance): Promise<string> =>
      fetch(`http://${host}:${port}/`).then((answer) => answer.text())
    expect(await shops.run(call)).toMatch(/^shop-[ab]$/)

    await a.kill()
    await until(() => shops.instances().length === 1, 'the killed one is out')
    expect(picks(shops, 20)).toEqual({ 'shop-b': 20 })
  })

  it('goes on with the list that it has while Consul is away, and with the new one after', async () => {
    await api.register('shop', 'shop-a', { port: 1 })
    cleanUps.push(() => api.deregister('shop-a'))
    const shops = balancer()
    await shops.start()
    expect(picks(shops, 3)).toEqual({ 'shop-a': 3 })

    await server.kill()
    const failed: unknown[] = []
    shops.on('refreshFailed', ({ error }) => failed.push(error))
    await until(() => failed.length > 0, 'a failed refresh')
    expect(picks(shops, 3)).toEqual({ 'shop-a': 3 })

    await server.restart()
    await api.register('shop', 'shop-b', { port: 2 })
    cleanUps.push(() => api.deregister('shop-b'))
    await until(() => shops.instances().length === 2, 'the second instance', 30_000)
    expect(picks(shops, 4)).toEqual({ 'shop-a': 2, 'shop-b': 2 })
  })
})
