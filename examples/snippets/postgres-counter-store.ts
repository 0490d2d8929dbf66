// Counters in PostgreSQL, changed in batches, each batch once: here in PGlite, in a service on a pool.
import assert from 'node:assert/strict'
import { PGlite } from '@electric-sql/pglite'
import { AsyncBatcher, AsyncWriteBuffer, type CounterIncrement, StoreError } from 'spillway'
import { PostgresCounterStore } from 'spillway/postgres'

const database = new PGlite()
const store = new PostgresCounterStore(database)
await store.createSchema()

// Callers that want the new value: an AsyncBatcher. Here the first answer gets lost after the batch was applied.
let lost = 0
const likes = new AsyncBatcher<CounterIncrement, number>(
  async (increments, context) => {
    const answers = await store.increment(increments, context)
    if (lost++ === 0) throw new StoreError('the connection broke after COMMIT', { outcomeUnknown: true })
    return answers
  },
  { idempotent: store.idempotent, retry: { attempts: 3, delayMs: 1 } },
)
const values = await Promise.all(Array.from({ length: 100 }, () => likes.add({ key: 'post:1:like', delta: 1 })))
console.log(
  `100 likes in ${likes.stats().batches} batch, ${likes.stats().retries} retry, the last one got ${values.at(-1)}`,
)
assert.deepEqual(
  values,
  Array.from({ length: 100 }, (_, i) => i + 1),
)

// Callers that don't wait: an AsyncWriteBuffer, which sums in memory.
const views = new AsyncWriteBuffer<string, number>(
  async (sums, context) => {
    for (const { key, error } of await store.add(sums, context)) console.error(key, error.message)
  },
  { merge: (sum, delta) => sum + delta, idempotent: store.idempotent },
)
for (let i = 0; i < 1000; i++) views.put('post:1:view', 1)

await views.close()
await likes.close()
const stored = await store.getMany(['post:1:like', 'post:1:view', 'post:2:like'])
console.log('stored', stored)
assert.deepEqual(stored, [100, 1000, 0])
const { applied, repeated } = store.stats()
console.log({ applied, repeated })
assert.deepEqual({ applied, repeated }, { applied: 2, repeated: 1 })
await database.close()
