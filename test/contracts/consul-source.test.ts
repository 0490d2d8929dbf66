import { setTimeout as delay } from 'node:timers/promises'
import { type ConsulInstance, consulSource } from 'spillway/consul'
import { FaultProxy, type InstanceSourcePlace, instanceSourceContract } from 'spillway/testing'
import { afterAll, describe, test } from 'vitest'
import { AgentApi } from '../adapters/consul/support/agent-api.js'
import { uniqueService } from '../adapters/consul/support/watching.js'
import { type ConsulServer, startConsul } from '../servers/consul.js'

const consul: ConsulServer | undefined = await startConsul()

describe.skipIf(consul === undefined)('consulSource keeps the contract of instance sources, on a real Consul', () => {
  const { address = 'http://127.0.0.1:1' } = consul ?? {}
  const api = new AgentApi(address)
  afterAll(() => consul?.stop())

  /** A service of its own, seen through a way that can be cut. */
  const place = async (): Promise<InstanceSourcePlace<ConsulInstance>> => {
    const service = uniqueService()
    const { hostname, port } = new URL(address)
    const proxy = new FaultProxy({ host: hostname, port: Number(port) })
    await proxy.start()
    let there: readonly string[] = []
    const change = async (ids: readonly string[]): Promise<void> => {
      const [gone, come] = [there.filter((id) => !ids.includes(id)), ids.filter((id) => !there.includes(id))]
      for (const id of come) await api.register(service, `${service}-${id}`)
      for (const id of gone) await api.deregister(`${service}-${id}`)
      there = ids
    }
    return {
      open: () =>
        consulSource({
          service,
          address: `http://${proxy.address}`,
          minIntervalMs: 10,
          burst: 20,
          retry: { delayMs: 20, maxDelayMs: 50 },
        }),
      change,
      idOf: ({ serviceId }) => serviceId.slice(service.length + 1),
      fail: () => {
        proxy.set({ mode: 'refuse' })
        proxy.cut()
        return () => proxy.heal()
      },
      end: async () => {
        await change([])
        await proxy.stop()
      },
    }
  }
  const harness = { place, elapse: (ms: number) => delay(ms), quietMs: 300 }
  for (const { name, run } of instanceSourceContract(harness)) test(name, { timeout: 40_000 }, run)
})
