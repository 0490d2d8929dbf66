// The same two thousand calls a second under four settings: how many batches go out, how long callers wait, how much is held.
import assert from 'node:assert/strict'
import { AsyncBatcher, type AsyncBatcherOptions } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'

const seconds = 4
const perSecond = 2000

/** Callers come at random. A batch takes 4 ms, and 10 µs more for each item; for 30 ms once, the server answers nobody. */
async function run(options: AsyncBatcherOptions<number>) {
  const clock = new FakeClock()
  const random = seededRandom(7)
  const wait = (ms: number) => new Promise<void>((resolve) => void clock.setTimer(resolve, ms))
  const batcher = new AsyncBatcher<number, number>(
    async (items) => {
      const paused = clock.now() > 1000 && clock.now() < 1030 ? 1030 - clock.now() : 0
      await wait(paused + 4 + items.length / 100)
      return items
    },
    { ...options, clock, random: seededRandom(8) },
  )
  let mostPending = 0
  const looks = Array.from({ length: seconds * 1000 }, (_, ms) =>
    wait(ms).then(() => {
      const { pending } = batcher.stats()
      mostPending = Math.max(mostPending, pending)
    }),
  )
  let at = 0
  for (let n = 0; n < seconds * perSecond; n++) {
    at += (-Math.log(1 - random()) * 1000) / perSecond
    clock.setTimer(() => void batcher.add(n), at)
  }
  await clock.until(Promise.all(looks))
  await clock.until(batcher.close())
  const { batches, batchSize, latencyMs, rejected } = batcher.stats()
  const { p50, p99 } = latencyMs
  return {
    batches,
    mean: Math.round(batchSize.mean),
    p50: Math.round(p50),
    p99: Math.round(p99),
    mostPending,
    rejected,
  }
}

const defaults = await run({})
const throughput = await run({ eager: false, maxWaitMs: 50, maxBatchSize: 1000, concurrency: 2 })
const latency = await run({ maxWaitMs: 2, concurrency: 8 })
const memory = await run({ concurrency: 1, maxBatchSize: 10, capacity: 20 })
for (const [name, row] of Object.entries({ defaults, throughput, latency, memory })) {
  console.log(`| ${[name, ...Object.values(row)].join(' | ')} |`)
}

assert.ok(throughput.batches * 4 < defaults.batches && defaults.batches < latency.batches)
assert.ok(latency.p99 < defaults.p99 && defaults.p99 < throughput.p50)
assert.ok(memory.mostPending <= 30 && memory.mostPending * 2 < defaults.mostPending)
assert.equal(defaults.rejected + throughput.rejected + latency.rejected, 0)
