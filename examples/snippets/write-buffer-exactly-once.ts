// The connection breaks after COMMIT: was it written? With batch ids that the store remembers, it doesn't matter.
import assert from 'node:assert/strict'
import { AsyncWriteBuffer, type BatchContext } from 'spillway'
import { commitThenDrop, seededRandom } from 'spillway/testing'

type Counts = ReadonlyMap<string, number>

class Store {
  readonly counters = new Map<string, number>()
  readonly #applied = new Set<string>()

  /** In SQL this is one statement: the batch's id and its counters are written together or not at all. */
  async addOnce(counts: Counts, { batchId }: BatchContext): Promise<void> {
    if (this.#applied.has(batchId)) return
    this.#applied.add(batchId)
    await this.add(counts)
  }

  async add(counts: Counts): Promise<void> {
    for (const [key, delta] of counts) this.counters.set(key, (this.counters.get(key) ?? 0) + delta)
  }
}

async function run(idempotent: boolean, write: (counts: Counts, context: BatchContext) => Promise<void>) {
  const buffer = new AsyncWriteBuffer<string, number>(
    // Half of all answers are lost after the work was done.
    commitThenDrop(write, { failureRate: 0.5, random: seededRandom('exactly once') }),
    {
      merge: (old, delta) => old + delta,
      maxBatchSize: 2,
      idempotent,
      retry: { attempts: 20, delayMs: 1, maxDelayMs: 5 },
    },
  )
  for (let i = 0; i < 60; i++) buffer.put(`counter:${i % 20}`, 1)
  await buffer.close()
  const { succeeded, failed, retries } = buffer.stats()
  return { succeeded, failed, retried: retries > 0 }
}

const sum = (store: Store): number => [...store.counters.values()].reduce((total, value) => total + value, 0)

const sure = new Store()
const exact = await run(true, (counts, context) => sure.addOnce(counts, context))
console.log('with batch ids:   ', exact, 'stored:', sum(sure))
assert.deepEqual(exact, { succeeded: 60, failed: 0, retried: true })
assert.equal(sum(sure), 60)

// Without them an unknown outcome is not tried again. Nothing is counted twice, but what is reported as failed was stored.
const unsure = new Store()
const honest = await run(false, (counts) => unsure.add(counts))
console.log('without batch ids:', honest, 'stored:', sum(unsure))
assert.ok(honest.failed > 0 && !honest.retried)
assert.equal(sum(unsure), 60)
