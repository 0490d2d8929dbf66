// A process of its own that does to a quota store what its parent says, all calls of a message at once.
import { Cluster, Redis } from 'ioredis'
import pg from 'pg'
import {
  type ConsumeOutcome,
  isSpillwayError,
  type QuotaClaim,
  QuotaConsumer,
  QuotaService,
  type QuotaStore,
} from 'spillway'
import { createPostgresPool, PostgresQuotaStore } from 'spillway/postgres'
import { RedisQuotaStore } from 'spillway/redis'
import type { ServiceCall, StoreAnswer, StoreCall, StorePlace } from './store-processes.ts'

const place = JSON.parse(process.argv[2] as string) as StorePlace
const store = await open(place)
const limits = new Map<string, number>()
// Room for less than is sent at once, so that some of it falls back.
const consumer = new QuotaConsumer(store, {
  ...{ capacity: 20, maxBatchSize: 7, maxWaitMs: 600_000 },
  periodOf: () => 'total',
})
const service = new QuotaService({ store, consumer, limitFor: (userId) => limits.get(String(userId)) ?? 0 })

process.on('message', async ({ calls }: { calls: readonly StoreCall[] }) => {
  const answers = await Promise.all(calls.map(answer))
  process.send?.({ answers })
})
await store.readUsage([{ userId: 'nobody', quotaType: 'calls', period: 'total' }])
process.send?.({ ready: true })

async function open({ kind, target, prefix }: StorePlace): Promise<QuotaStore> {
  if (typeof target === 'string') return openPostgres(target, prefix)
  const nodes = target.map(({ host, port }) => ({ host, port }))
  const [first] = nodes as [(typeof nodes)[number]]
  const client = kind === 'redis cluster' ? new Cluster(nodes) : new Redis(first.port, first.host)
  return new RedisQuotaStore(client, { prefix })
}

/** Every process makes the tables, all of them at once. */
async function openPostgres(connectionString: string, prefix: string): Promise<QuotaStore> {
  const name = prefix.slice(0, 8)
  const store = new PostgresQuotaStore(createPostgresPool(pg, { config: { connectionString } }), {
    table: `usage_${name}`,
    batchTable: `batches_${name}`,
    requestTable: `requests_${name}`,
    holdTable: `holds_${name}`,
  })
  await store.createSchema()
  return store
}

/** What one writes first: looks, and then counts. */
async function consumeNaively(claim: QuotaClaim): Promise<ConsumeOutcome> {
  const [usage = { used: 0, held: 0 }] = await store.readUsage([claim])
  if (usage.used + usage.held + claim.value > claim.limit) return { status: 'exceeded', ...usage }
  return store.consume({ ...claim, limit: Number.POSITIVE_INFINITY })
}

/** Answers what became of it, and what the store told of the key where that was asked. */
async function serve({ do: what, userId, limit, value, actual }: ServiceCall): Promise<unknown> {
  limits.set(userId, limit)
  try {
    if (what === 'flush') return await consumer.flush()
    if (what === 'buffer') return { status: await service.consumeQuota(userId, 'calls', value) }
    if (what === 'consume') return await service.consumeQuotaSync(userId, 'calls', value)
    if (what === 'naively') {
      const { allowed } = await service.checkQuota(userId, 'calls', value)
      return { status: allowed ? await service.consumeQuota(userId, 'calls', value) : 'exceeded' }
    }
    await using held = await service.reserve(userId, 'calls', value, { ttlMs: 600_000 })
    if (actual === undefined) return { status: 'released' }
    await held.settle(actual)
    return { status: 'settled' }
  } catch (error) {
    if (isSpillwayError(error, 'ERR_QUOTA_EXCEEDED')) return { status: 'exceeded' }
    throw error
  }
}

async function answer([method, ...args]: StoreCall): Promise<StoreAnswer> {
  try {
    if (method === 'consume naively') return { value: await consumeNaively(args[0] as QuotaClaim) }
    if (method === 'service') return { value: await serve(args[0] as ServiceCall) }
    return { value: await (store[method] as (...args: unknown[]) => unknown).call(store, ...args) }
  } catch (error) {
    return { error: String(error) }
  }
}
