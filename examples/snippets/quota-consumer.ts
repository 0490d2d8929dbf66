// Usage accounted behind the requests: many events, few statements, nothing lost on a bad day.
import assert from 'node:assert/strict'
import { QuotaConsumer, type UsageBatch, type UsageSink } from 'spillway'

const counted = new Map<string, number>()
const seen = new Set<string>()
let statements = 0

/** Stands for one statement with the batch's id and its totals: a batch that comes again changes nothing. */
const sink: UsageSink = {
  idempotent: true,
  async write({ id, totals }: UsageBatch) {
    if (totals.some(({ quotaType }) => quotaType === 'retired')) throw new Error('no such quota any more')
    if (!seen.has(id)) {
      for (const { userId, quotaType, period, value } of totals) {
        const key = `${userId} ${quotaType} ${period}`
        counted.set(key, (counted.get(key) ?? 0) + value)
      }
    }
    seen.add(id)
    // The answer to the first one gets lost. It is written again under its id.
    if (++statements === 1) throw Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })
  },
}

const usage = new QuotaConsumer(sink, {
  ...QuotaConsumer.presets.highConcurrency,
  maxBatchSize: 250,
  periodOf: (quotaType) => (quotaType === 'tokens' ? 'day' : 'month'),
  retry: { attempts: 3, delayMs: 10 },
  onFailed: ({ events, error }) => console.log('not counted:', events, String(error)),
})

// Synchronous: true, or false when there is no room. The time of the use decides to which day or month it belongs.
const timestamp = new Date('2026-11-20T23:59:59.999Z')
for (let request = 0; request < 1000; request++) {
  const accepted = usage.offer({ userId: request % 2, quotaType: 'tokens', value: 10, timestamp })
  assert.ok(accepted)
}
console.log('not written yet:', usage.pending(1, 'tokens', timestamp))
assert.equal(usage.pending(1, 'tokens', timestamp), 5000)

// One that can't be counted fails alone, the others of its batch are counted.
await usage.publish({ userId: 1, quotaType: 'retired', value: 1 })
await usage.publish({ userId: 1, quotaType: 'calls', value: 1, timestamp })
console.log('flushed:', await usage.flush())

assert.equal(counted.get('1 tokens 2026-11-20'), 5000)
assert.equal(counted.get('1 calls 2026-11'), 1)
const { processedEvents, failedEvents, batchCount } = usage.stats()
assert.deepEqual([processedEvents, failedEvents, batchCount], [1001, 1, 5])

console.log(await usage.close(), counted)
