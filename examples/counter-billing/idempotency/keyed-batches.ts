import type { BatchContext, CounterIncrement, CounterStore, RefusedIncrement } from 'spillway'
import { PostgresCounterStore } from 'spillway/postgres'
import type { Database } from '../counter/database.ts'
import { keyMemoryMs } from './answer-stores.ts'

/** What the ids of batches begin with that were made under an `Idempotency-Key`. */
export const keyedPrefix = 'key:'

const batchTable = 'spillway_keyed_batches'
/** Longer than the key, so that a request which is made again while the key is there finds its batch. */
const batchMemoryMs = keyMemoryMs + 3_600_000

/** The ids of batches under keys are remembered for longer than those of others, of which there are many. */
export async function rememberKeyed(durable: CounterStore, { client }: Database): Promise<CounterStore> {
  const keyed = new PostgresCounterStore(client, { name: 'keyed-counters', batchTable, batchMemoryMs })
  await keyed.createSchema()
  const storeOf = ({ batchId }: BatchContext): CounterStore => (batchId.startsWith(keyedPrefix) ? keyed : durable)
  return {
    idempotent: durable.idempotent,
    increment: (increments, context) => storeOf(context).increment(increments, context),
    add: (sums, context) => storeOf(context).add(sums, context),
    getMany: (keys) => durable.getMany(keys),
  }
}

/** Which batches under keys the durable values have. */
export async function keyedBatchesIn({ query }: Database): Promise<ReadonlySet<string>> {
  return new Set((await query<{ id: string }>(`SELECT id FROM ${batchTable}`)).map(({ id }) => id))
}

/**
 * Live values that began as the durable ones, and so have some batches already: where one of these comes again, for its live part, it
 * is answered and not applied.
 */
export class BegunCounterStore implements CounterStore {
  readonly idempotent = true
  readonly #store: CounterStore
  readonly #applied: ReadonlySet<string>

  constructor(store: CounterStore, applied: ReadonlySet<string>) {
    this.#store = store
    this.#applied = applied
  }

  async increment(
    increments: readonly CounterIncrement[],
    context: BatchContext,
  ): Promise<readonly (number | Error)[]> {
    if (!this.#applied.has(context.batchId)) return this.#store.increment(increments, context)
    return this.getMany(increments.map(({ key }) => key))
  }

  async add(sums: ReadonlyMap<string, number>, context: BatchContext): Promise<readonly RefusedIncrement[]> {
    return this.#applied.has(context.batchId) ? [] : ((await this.#store.add(sums, context)) ?? [])
  }

  async getMany(keys: readonly string[]): Promise<readonly number[]> {
    return this.#store.getMany(keys)
  }
}
