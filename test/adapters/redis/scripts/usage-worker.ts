// Accounts usage in PostgreSQL until it is killed; at SIGTERM it closes.
import { Redis } from 'ioredis'
import pg from 'pg'
import { createPostgresPool, PostgresUsageSink } from 'spillway/postgres'
import { RedisUsageStream, RedisUsageWorker } from 'spillway/redis'

const [url, prefix, shards, database] = process.argv.slice(2) as [string, string, string, string]
const client = new Redis(url)
client.on('error', () => undefined)
const pool = createPostgresPool(pg, { maxConnections: 3, config: { connectionString: database } })
const sink = new PostgresUsageSink(pool, { dedupe: 'event' })
const stream = new RedisUsageStream(client, { prefix, shards: Number(shards) })
const worker = new RedisUsageWorker(stream, sink, {
  ...{ maxBatchSize: 50, capacity: 200, pollMs: 20, claimIdleMs: 500, trimEveryMs: 50 },
  retry: { delayMs: 20, maxDelayMs: 200 },
})
process.once('SIGTERM', async () => {
  const report = await worker.close({ timeoutMs: 20_000 })
  await pool.close()
  client.disconnect()
  console.log(JSON.stringify({ report, stats: worker.stats() }))
})
await worker.start()
console.log('ready')
