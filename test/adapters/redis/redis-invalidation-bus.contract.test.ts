import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { type RedisClient, RedisInvalidationBus } from 'spillway/redis'
import { invalidationBusContract } from 'spillway/testing'
import { afterAll, afterEach, beforeEach, describe, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients, type OpenClient, singleClients } from './clients.ts'

const [server, cluster] = await Promise.all([startRedis(), startRedisCluster()])

afterAll(async () => {
  await Promise.all([server?.stop(), cluster?.stop()])
})

const worlds: readonly (readonly [string, boolean, () => Promise<OpenClient>])[] = [
  ...Object.entries(singleClients).map(
    ([name, open]) => [`${name}, one server`, server !== undefined, () => open(server?.url ?? '')] as const,
  ),
  ...Object.entries(clusterClients).map(
    ([name, open]) => [`${name}, a cluster`, cluster !== undefined, () => open(cluster?.nodes ?? [])] as const,
  ),
]

for (const [name, available, open] of worlds) {
  describe.skipIf(!available)(`the contract of InvalidationBus, with ${name}`, () => {
    const clients: OpenClient[] = []
    const channel = `test:${randomUUID()}`

    /** A client for all buses of the kind: opening one takes longer than a case. */
    const client = async (): Promise<RedisClient> => {
      if (clients.length === 0) clients.push(await open())
      return (clients[0] as OpenClient).client
    }
    afterAll(async () => {
      for (const { close } of clients) await close()
    })

    describe('over buses of their own', () => {
      const buses: RedisInvalidationBus[] = []
      afterEach(async () => {
        for (const bus of buses.splice(0)) await bus.close({ timeoutMs: 1000 })
      })
      const harness = {
        open: async () => {
          const bus = new RedisInvalidationBus(await client(), { channel })
          buses.push(bus)
          return bus
        },
        elapse: (ms: number) => delay(ms),
      }
      for (const { name: sentence, run } of invalidationBusContract(harness)) test(sentence, run)
    })

    describe('over one bus', () => {
      let bus: RedisInvalidationBus
      beforeEach(async () => {
        bus ??= new RedisInvalidationBus(await client(), { channel })
      })
      afterAll(() => bus?.close({ timeoutMs: 1000 }))
      const harness = { open: () => bus, elapse: (ms: number) => delay(ms) }
      for (const { name: sentence, run } of invalidationBusContract(harness)) test(sentence, run)
    })
  })
}
