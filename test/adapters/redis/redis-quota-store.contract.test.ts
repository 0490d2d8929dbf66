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
const dedupes: readonly UsageDedupe[] = ['batch', 'event', 'request']

afterAll(async () => {
  await server?.stop()
  await cluster?.stop()
})

describe.skipIf(server === undefined)('RedisQuotaStore keeps the contract of quota stores on Redis', () => {
  describe.each(Object.entries(singleClients))('with %s', (_, open) => {
    holdsContract(() => open(server?.url as string))
  })
})

describe.skipIf(cluster === undefined)('RedisQuotaStore keeps the contract of quota stores on a cluster', () => {
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
  describe.each(dedupes)('telling apart by %s', (dedupe) => {
    const harness = {
      open: () => new RedisQuotaStore(opened.client, { prefix: `${prefix}:${dedupe}`, dedupe }),
      dedupe,
      elapse: async (ms: number) => void (await delay(ms)),
    }
    for (const { name, run } of quotaStoreContract(harness)) test(name, run)
  })
}
