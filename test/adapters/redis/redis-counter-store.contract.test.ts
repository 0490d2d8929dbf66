import { randomUUID } from 'node:crypto'
import { RedisCounterStore } from 'spillway/redis'
import { counterStoreContract } from 'spillway/testing'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients, type OpenClient, singleClients } from './clients.ts'

const server = await startRedis()
const cluster = await startRedisCluster()

afterAll(async () => {
  await server?.stop()
  await cluster?.stop()
})

describe.skipIf(server === undefined)('RedisCounterStore keeps the contract of counter stores on Redis', () => {
  describe.each(Object.entries(singleClients))('with %s', (_, open) => {
    holdsContract(() => open(server?.url as string))
  })
})

describe.skipIf(cluster === undefined)('RedisCounterStore keeps the contract of counter stores on a cluster', () => {
  describe.each(Object.entries(clusterClients))('with %s', (_, open) => {
    holdsContract(() => open(cluster?.nodes ?? []))
  })
})

function holdsContract(open: () => Promise<OpenClient>): void {
  const prefix = `contract:${randomUUID()}`
  let opened: OpenClient
  beforeAll(async () => {
    opened = await open()
  })
  afterAll(() => opened.close())
  const harness = { open: () => new RedisCounterStore(opened.client, { prefix }) }
  for (const { name, run } of counterStoreContract(harness)) test(name, run)
}
