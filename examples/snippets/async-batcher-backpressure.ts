// A producer that is faster than the store: refuse, wait one by one, or hand over a whole list.
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { AsyncBatcher, isSpillwayError } from 'spillway'

let most = 0
const inserts = new AsyncBatcher<number, number>(
  async (rows) => {
    await sleep(2)
    return rows
  },
  { name: 'inserts', maxBatchSize: 10, concurrency: 1, capacity: 20 },
)
inserts.on('dispatched', () => {
  most = Math.max(most, inserts.stats().pending)
})

// 1. Refuse: what doesn't fit is told so at once, and the caller can answer 503 with a Retry-After.
const burst = await Promise.allSettled(Array.from({ length: 100 }, (_, row) => inserts.add(row)))
const refused = burst.filter((one) => one.status === 'rejected' && isSpillwayError(one.reason, 'ERR_FULL'))
console.log(`a burst of 100 into room for 20: ${refused.length} refused`)
assert.equal(refused.length, 80)

// 2. Wait for room before each item: for a stream that can be paused.
const answers: Promise<number>[] = []
for (let row = 0; row < 100; row++) {
  await inserts.ready()
  answers.push(inserts.add(row))
}
assert.equal((await Promise.all(answers)).length, 100)
console.log('100 rows, one at a time, none refused')

// 3. Hand over a list: it goes in as there is room, and every item's outcome comes back.
const outcomes = await inserts.addMany(Array.from({ length: 1000 }, (_, row) => row))
assert.ok(outcomes.every((outcome) => outcome.status === 'fulfilled'))
console.log('1000 rows in one call, none refused')

// Never more than `capacity` waiting and `concurrency * maxBatchSize` in flight.
console.log(`most held at once: ${most}`)
assert.ok(most <= 20 + 10)

await inserts.close()
const { offered, succeeded, rejected, pending } = inserts.stats()
console.log({ offered, succeeded, rejected, pending })
assert.deepEqual(
  { offered, succeeded, rejected, pending },
  { offered: 1200, succeeded: 1120, rejected: 80, pending: 0 },
)
