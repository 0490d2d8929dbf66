import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { UsageDedupe } from 'spillway'
import { RedisQuotaStore } from 'spillway/redis'
import { quotaStoreContract } from 'spillway/testing'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients, type OpenClient, singleClients } from './clients.ts'

const server = await startRedis({ own: true })
const cluster = await startRedisCluster()
/** All of them with one client: what is told apart is a matter of the scripts, which are the same for every client. */
const dedupesOf = (client: string): readonly UsageDedupe[] =>
  client === 'ioredis 6' ? ['batch', 'event', 'request'] : ['request']

afterAll(async () => {
  await server?.stop()
  await cluster?.stop()
})

describe.skipIf(server === undefined)('RedisQuotaStore keeps the contract of quota stores on Redis', () => {
  describe.each(Object.entries(singleClients))('with %s', (client, open) => {
    holdsContract(client, () => open(server?.url as string))
  })
})

describe.skipIf(cluster === undefined)('RedisQuotaStore keeps the contract of quota stores on a cluster', () => {
  describe.each(Object.entries(clusterClients))('with %s', (client, open) => {
    holdsContract(client, () => open(cluster?.nodes ?? []))
  })
})

function holdsContract(client: string, open: () => Promise<OpenClient>): void {
  const prefix = `contract:${randomUUID()}`
  let opened: OpenClient
  beforeAll(async () => {
    opened = await open()
  })
  afterAll(() => opened.close())
  describe.each(dedupesOf(client))('telling apart by %s', (dedupe) => {
    const harness = {
      open: () => new RedisQuotaStore(opened.client, { prefix: `${prefix}:${dedupe}`, dedupe }),
      dedupe,
      elapse: async (ms: number) => void (await delay(ms)),
    }
    for (const { name, run } of quotaStoreContract(harness)) test(name, run)
  })
}
