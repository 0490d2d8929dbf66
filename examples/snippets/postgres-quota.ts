// Usage in PostgreSQL, each request once, and limits that hold: here in PGlite, in a service on a pool.
import assert from 'node:assert/strict'
import { PGlite } from '@electric-sql/pglite'
import { isSpillwayError, QuotaConsumer, QuotaService } from 'spillway'
import { PostgresQuotaStore } from 'spillway/postgres'

const database = new PGlite()
const store = new PostgresQuotaStore(database, { dedupe: 'request' })
await store.createSchema()
const consumer = new QuotaConsumer(store, { maxBatchSize: 100, maxWaitMs: 20 })
const quotas = new QuotaService({ store, consumer, limitFor: (_, type) => (type === 'jobs' ? 10 : 5000) })

// What may be counted later: 300 requests, each of them delivered twice, in batches.
for (let i = 0; i < 600; i++) await quotas.consumeQuota('ann', 'requests', 1, { requestId: `req-${i % 300}` })
await consumer.flush()
const { applied, counted, duplicates } = store.stats()
console.log(`${counted} requests counted in ${applied} batches, ${duplicates} were known`)
assert.deepEqual([counted, duplicates], [300, 300])

// What must never pass its limit: 100 at once, and ten get through.
const jobs = await Promise.allSettled(Array.from({ length: 100 }, () => quotas.consumeQuotaSync('ann', 'jobs', 1)))
const refused = jobs.filter((job) => job.status === 'rejected' && isSpillwayError(job.reason, 'ERR_QUOTA_EXCEEDED'))
console.log(`${jobs.length - refused.length} of ${jobs.length} jobs ran, ${refused.length} were refused`)
assert.equal(refused.length, 90)

// How much a request will use is known when it is done: hold the most, settle what it was.
const held = await quotas.reserve('ann', 'tokens', 4000, { id: 'answer-1', ttlMs: 60_000 })
await assert.rejects(quotas.reserve('ann', 'tokens', 4000, { id: 'answer-2', ttlMs: 60_000 }))
await held.settle(1312)
const tokens = await quotas.checkQuota('ann', 'tokens', 1)
console.log({ used: tokens.used, held: tokens.held, remaining: tokens.remaining })
assert.deepEqual([tokens.used, tokens.held, tokens.remaining], [1312, 0, 3688])

// It is all there to be read with SQL.
const { rows } = await database.query(`SELECT quota_type, value, count FROM spillway_usage ORDER BY quota_type`)
console.log(rows)
assert.deepEqual(rows, [
  { quota_type: 'jobs', value: 10, count: 10 },
  { quota_type: 'requests', value: 300, count: 300 },
  { quota_type: 'tokens', value: 1312, count: 1 },
])

await consumer.close()
await database.close()
