// Quotas that a fleet shares in Redis: at REDIS_URL if that is set, else in memory, where they behave the same.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import { isSpillwayError, MemoryQuotaStore, QuotaConsumer, QuotaService } from 'spillway'
import { RedisQuotaStore } from 'spillway/redis'

const url = process.env['REDIS_URL']
const redis = url === undefined ? undefined : new Redis(url)
const memory = new MemoryQuotaStore({ dedupe: 'request' })
const user = `user:${randomUUID()}`

/** What each process of the fleet does. */
function join() {
  const store = redis === undefined ? memory : new RedisQuotaStore(redis, { dedupe: 'request' })
  const consumer = new QuotaConsumer(store, { maxWaitMs: 20 })
  const quotas = new QuotaService({ store, consumer, limitFor: (_, type) => (type === 'jobs' ? 10 : 5000) })
  return { consumer, quotas }
}
const [one, other] = [join(), join()]

// What must never pass its limit: 100 at once, from both of them, and ten get through.
const jobs = await Promise.allSettled(
  Array.from({ length: 100 }, (_, i) => (i % 2 === 0 ? one : other).quotas.consumeQuotaSync(user, 'jobs', 1)),
)
const refused = jobs.filter((job) => job.status === 'rejected' && isSpillwayError(job.reason, 'ERR_QUOTA_EXCEEDED'))
console.log(`${jobs.length - refused.length} of ${jobs.length} jobs ran, ${refused.length} were refused`)
assert.equal(refused.length, 90)

// How much a request will use is known when it is done: hold the most, settle what it was.
const held = await one.quotas.reserve(user, 'tokens', 4000, { id: `answer:${randomUUID()}`, ttlMs: 60_000 })
await assert.rejects(other.quotas.reserve(user, 'tokens', 4000, { id: randomUUID(), ttlMs: 60_000 }))
await held.settle(1312)
await held.settle(1312) // a retry, say: it counts once

// What may be counted later: nobody waits for Redis, and a request that is delivered twice counts once.
for (const { quotas } of [one, other]) await quotas.consumeQuota(user, 'tokens', 88, { requestId: 'req-7' })
for (const { consumer } of [one, other]) await consumer.flush()

const { used, held: stillHeld, remaining } = await one.quotas.checkQuota(user, 'tokens', 1)
console.log({ used, held: stillHeld, remaining })
assert.deepEqual([used, stillHeld, remaining], [1400, 0, 3600])

for (const { consumer } of [one, other]) await consumer.close()
redis?.disconnect()
