// A process of its own that does to a quota store what its parent says, all calls of a message at once.
import { Cluster, Redis } from 'ioredis'
import type { ConsumeOutcome, QuotaClaim, QuotaStore } from 'spillway'
import { RedisQuotaStore } from 'spillway/redis'
import type { StoreAnswer, StoreCall, StorePlace } from './store-processes.ts'

const place = JSON.parse(process.argv[2] as string) as StorePlace
const store = open(place)

process.on('message', async ({ calls }: { calls: readonly StoreCall[] }) => {
  const answers = await Promise.all(calls.map(answer))
  process.send?.({ answers })
})
await store.readUsage([{ userId: 'nobody', quotaType: 'calls', period: 'total' }])
process.send?.({ ready: true })

function open({ kind, target, prefix }: StorePlace): QuotaStore {
  const nodes = target.map(({ host, port }) => ({ host, port }))
  const [first] = nodes as [(typeof nodes)[number]]
  const client = kind === 'redis cluster' ? new Cluster(nodes) : new Redis(first.port, first.host)
  return new RedisQuotaStore(client, { prefix })
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
