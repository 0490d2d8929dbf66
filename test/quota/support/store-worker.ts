// A process of its own that does to a quota store what its parent says, all calls of a message at once.
import { Cluster, Redis } from 'ioredis'
import pg from 'pg'
import type { ConsumeOutcome, QuotaClaim, QuotaStore } from 'spillway'
import { createPostgresPool, PostgresQuotaStore } from 'spillway/postgres'
import { RedisQuotaStore } from 'spillway/redis'
import type { StoreAnswer, StoreCall, StorePlace } from './store-processes.ts'

const place = JSON.parse(process.argv[2] as string) as StorePlace
const store = await open(place)

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

async function answer([method, ...args]: StoreCall): Promise<StoreAnswer> {
  try {
    if (method === 'consume naively') return { value: await consumeNaively(args[0] as QuotaClaim) }
    return { value: await (store[method] as (...args: unknown[]) => unknown).call(store, ...args) }
  } catch (error) {
    return { error: String(error) }
  }
}
