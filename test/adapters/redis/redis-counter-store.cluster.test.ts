import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { Cluster } from 'ioredis'
import { AsyncBatcher, type BatchContext, type CounterIncrement } from 'spillway'
import { RedisCounterStore } from 'spillway/redis'
import { afterAll, describe, expect, test } from 'vitest'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients, type OpenClient } from './clients.ts'
import { slotOf, slotPlaces } from './cluster-slots.ts'

const cluster = await startRedisCluster()
const keys = Array.from({ length: 60 }, (_, i) => `k${i}`)
const never = new AbortController().signal
const batch = (): BatchContext => ({ batchId: randomUUID(), attempt: 1, signal: never })
const ones = keys.map((key) => ({ key, delta: 1 }))

afterAll(async () => {
  await cluster?.stop()
})

/** The slot of a bucket, and the node that has it. */
async function placeOf(bucket: string): Promise<{ slot: number; node: number }> {
  const slot = await slotOf(cluster, bucket)
  return { slot, node: (await slotPlaces(cluster))(slot) }
}

describe.skipIf(cluster === undefined).each(Object.entries(clusterClients))('RedisCounterStore with %s', (_, open) => {
  const using = async (body: (opened: OpenClient, prefix: string) => Promise<void>): Promise<void> => {
    const opened = await open(cluster?.nodes ?? [])
    try {
      await body(opened, randomUUID())
    } finally {
      await opened.close()
    }
  }

  test('spreads over the nodes by 16 buckets', () =>
    using(async ({ client }, prefix) => {
      const store = new RedisCounterStore(client, { prefix })

      await store.increment(ones, batch())

      const places = await Promise.all(Array.from({ length: 16 }, (_, bucket) => placeOf(`{${prefix}:${bucket}}`)))
      expect(store.buckets).toBe(16)
      expect(new Set(places.map(({ node }) => node)).size).toBe(3)
      expect(await store.getMany(keys)).toEqual(keys.map(() => 1))
    }))

  test('follows a bucket that moves to another node', () =>
    using(async ({ client }, prefix) => {
      const store = new RedisCounterStore(client, { prefix })
      const context = batch()
      await store.increment(ones, context)
      const { slot, node } = await placeOf(`{${prefix}:3}`)

      await cluster?.moveSlot(slot, node, (node + 1) % 3)

      expect(await store.increment(ones, batch())).toEqual(keys.map(() => 2))
      // The ids moved along.
      expect(await store.increment(ones, { ...context, attempt: 2 })).toEqual(keys.map(() => 1))
      expect(await store.getMany(keys)).toEqual(keys.map(() => 2))
    }))

  test('counts once what is retried while a bucket moves', () =>
    using(async ({ client }, prefix) => {
      const store = new RedisCounterStore(client, { prefix })
      const batcher = new AsyncBatcher<CounterIncrement, number>(
        (increments, context) => store.increment(increments, context),
        { idempotent: store.idempotent, maxBatchSize: 60, retry: { attempts: 100, delayMs: 20, maxDelayMs: 100 } },
      )
      const { slot, node } = await placeOf(`{${prefix}:5}`)
      let moving = true
      const moved = cluster?.moveSlot(slot, node, (node + 1) % 3).finally(() => {
        moving = false
      })
      let rounds = 0
      const adds: Promise<unknown>[] = []
      while (moving || rounds < 20) {
        rounds++
        adds.push(...keys.map((key) => batcher.add({ key, delta: 1 })))
        await delay(2)
      }
      await moved

      await Promise.all(adds)
      await batcher.close()

      expect(await store.getMany(keys)).toEqual(keys.map(() => rounds))
    }))

  test('a bucket that fails leaves the outcome unknown; the batch sent again does what is missing', () =>
    using(async ({ client }, prefix) => {
      const store = new RedisCounterStore(client, { prefix })
      await store.increment(ones, batch())
      const { node } = await placeOf(`{${prefix}:0}`)
      const context = batch()

      await cluster?.command(node, 'CONFIG', 'SET', 'maxmemory', '1')
      const error = await Promise.resolve(store.increment(ones, context)).catch((reason) => reason)
      await cluster?.command(node, 'CONFIG', 'SET', 'maxmemory', '0')
      const partly = await store.getMany(keys)
      const answers = await store.increment(ones, { ...context, attempt: 2 })

      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
      expect(error.message).toMatch(/increment failed in \d+ of 16 buckets: .*OOM/)
      expect(new Set(partly)).toEqual(new Set([1, 2]))
      expect(answers).toEqual(keys.map(() => 2))
      expect(await store.getMany(keys)).toEqual(keys.map(() => 2))
    }))

  test('a batch that every bucket refuses was not applied, and says so', () =>
    using(async ({ client }, prefix) => {
      const store = new RedisCounterStore(client, { prefix })
      await store.increment(ones, batch())
      const all = async (bytes: string): Promise<void> => {
        for (const node of [0, 1, 2]) await cluster?.command(node, 'CONFIG', 'SET', 'maxmemory', bytes)
      }

      await all('1')
      const error = await Promise.resolve(store.increment(ones, batch())).catch((reason) => reason)
      await all('0')

      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
      expect(await store.getMany(keys)).toEqual(keys.map(() => 1))
    }))
})

test.skipIf(cluster === undefined)('a keyPrefix with braces is refused: it would scatter a bucket', () => {
  const client = new Cluster([...(cluster?.nodes ?? [])], { keyPrefix: '{x}', lazyConnect: true })

  expect(() => new RedisCounterStore(client)).toThrow(/must have a keyPrefix without braces/)
})
