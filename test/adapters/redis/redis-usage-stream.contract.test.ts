import { randomUUID } from 'node:crypto'
import { MemoryQuotaStore, type QuotaKey } from 'spillway'
import { RedisUsageStream, RedisUsageWorker } from 'spillway/redis'
import { usageSinkContract } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients, type OpenClient, singleClients } from './clients.ts'
import { until } from './usage-rig.ts'

const server = await startRedis({ own: true })
const cluster = await startRedisCluster()

afterAll(async () => {
  await server?.stop()
  await cluster?.stop()
})

describe.skipIf(server === undefined)('RedisUsageStream keeps the contract of sinks on Redis', () => {
  describe.each(Object.entries(singleClients))('with %s', (_, open) => {
    holdsContract(() => open(server?.url as string), 1)
  })
})

describe.skipIf(cluster === undefined)('RedisUsageStream keeps the contract of sinks on a cluster', () => {
  describe.each(Object.entries(clusterClients))('with %s', (_, open) => {
    holdsContract(() => open(cluster?.nodes ?? []), 5)
  })
})

/** A stream knows no sums, so it refuses none: that is the affair of the sink behind it. */
const ofSums = /passes|would pass|refus|one answer/

/** The stream and what is behind it: a worker that accounts in a store, which tells apart events. */
function holdsContract(open: () => Promise<OpenClient>, shards: number): void {
  const prefix = `contract:${randomUUID()}`
  const store = new MemoryQuotaStore({ dedupe: 'event' })
  let opened: OpenClient
  let worker: RedisUsageWorker
  const openStream = (): RedisUsageStream => new RedisUsageStream(opened.client, { prefix, shards })
  beforeAll(async () => {
    opened = await open()
    worker = new RedisUsageWorker(openStream(), store, { pollMs: 5 })
    await worker.start()
  })
  afterAll(async () => {
    expect(await worker.close()).toEqual({ drained: true, abandoned: 0 })
    expect(worker.stats()).toMatchObject({ dead: 0, failedBatches: 0, redisFailures: 0 })
    await opened.close()
  })
  const harness = {
    open: openStream,
    read: async (keys: readonly QuotaKey[]) => {
      const stream = openStream()
      await until(async () =>
        (await stream.status()).groups.every(({ pending, undelivered }) => pending + (undelivered ?? Number.NaN) === 0),
      )
      return (await store.readUsage(keys)).map(({ used }) => used)
    },
    dedupe: 'batch' as const,
  }
  for (const { name, run } of usageSinkContract(harness)) if (!ofSums.test(name)) test(name, run)
}
