// Check now, account later: what waits in the buffer counts, a limit holds where it must, and nothing is counted twice.
import assert from 'node:assert/strict'
import { isSpillwayError, MemoryQuotaStore, QuotaConsumer, QuotaService } from 'spillway'

const store = new MemoryQuotaStore()
const consumer = new QuotaConsumer(store, { maxWaitMs: 60_000 })
const quotas = new QuotaService({ store, consumer, limitFor: (user) => (user === 'ann' ? 10 : 0) })

// Advice before the request, accounting behind it: three uses wait here, none is in the store yet.
for (let request = 0; request < 3; request++) {
  const { allowed } = await quotas.checkQuota('ann', 'requests')
  if (allowed) await quotas.consumeQuota('ann', 'requests')
}
const status = await quotas.checkQuota('ann', 'requests')
console.log('used:', status.used, 'waiting here:', status.pending, 'left:', status.remaining)
assert.deepEqual([status.used, status.pending, status.remaining], [0, 3, 7])

// A hold for work whose cost is known afterwards: it takes room until it is settled with what was used.
const held = await quotas.reserve('ann', 'requests', 4, { ttlMs: 30_000 })
await held.settle(1)

// Where the limit must hold: of 100 at once as many are counted as there is room for, and no more.
const rush = await Promise.allSettled(Array.from({ length: 100 }, () => quotas.consumeQuotaSync('ann', 'requests')))
const counted = rush.filter(({ status }) => status === 'fulfilled').length
console.log('of a rush of 100:', counted)
assert.equal(counted, 6) // 10 - 3 that wait - 1 that was settled

const refused = await quotas.consumeQuotaSync('bob', 'requests').catch((error: unknown) => error)
assert.ok(isSpillwayError(refused, 'ERR_QUOTA_EXCEEDED'))
console.log(refused.message)

// The request's id makes it count once, however often it is sent.
const night = { requestId: 'r-7', timestamp: new Date('2026-01-31T23:59:59Z') }
const outcomes = [
  await quotas.consumeQuotaSync('ann', 'exports', 2, night),
  await quotas.consumeQuotaSync('ann', 'exports', 2, night),
]
console.log(
  'the same request twice:',
  ...outcomes.map(({ status, used, period }) => `${status}, ${used} in ${period};`),
)
assert.deepEqual(
  outcomes.map(({ status, used, period }) => [status, used, period]),
  [
    ['applied', 2, '2026-01'],
    ['repeated', 2, '2026-01'],
  ],
)

await quotas.close() // no more calls
await consumer.close() // what waits is written
const [stored] = await store.readUsage([{ userId: 'ann', quotaType: 'requests', period: status.period }])
console.log('stored in the end:', stored?.used)
assert.equal(stored?.used, 10)
