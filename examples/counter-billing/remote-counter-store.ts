import {
  type BatchContext,
  type CounterIncrement,
  type CounterStore,
  type RefusedIncrement,
  StoreError,
} from 'spillway'
import type { GrpcChannelPool } from 'spillway/grpc'
import type { BatchIncrementReply, CounterClient, StoreName } from './protocol.ts'

export type CounterPool = GrpcChannelPool<CounterClient>

/** A store of the counter service, by gRPC: each batch is one call, under its id. */
export class RemoteCounterStore implements CounterStore {
  readonly idempotent = true
  readonly #pool: CounterPool
  readonly #store: StoreName

  constructor(pool: CounterPool, store: StoreName) {
    this.#pool = pool
    this.#store = store
  }

  async increment(increments: readonly CounterIncrement[], context: BatchContext): Promise<(number | Error)[]> {
    const { values, refusals } = await this.#apply(increments, context, true)
    const answers: (number | Error)[] = [...values]
    for (const { index, message } of refusals) answers[index] = refused(message)
    return answers
  }

  async add(sums: ReadonlyMap<string, number>, context: BatchContext): Promise<RefusedIncrement[]> {
    const increments = Array.from(sums, ([key, delta]) => ({ key, delta }))
    const { refusals } = await this.#apply(increments, context, false)
    return refusals.flatMap(({ index, message }) => {
      const increment = increments[index]
      return increment === undefined ? [] : [{ ...increment, error: refused(message) }]
    })
  }

  async getMany(keys: readonly string[]): Promise<readonly number[]> {
    return (await this.#pool.call('get', { store: this.#store, keys })).values
  }

  #apply(
    increments: readonly CounterIncrement[],
    { batchId, signal }: BatchContext,
    answers: boolean,
  ): Promise<BatchIncrementReply> {
    const keys = increments.map(({ key }) => key)
    const deltas = increments.map(({ delta }) => delta)
    return this.#pool.call('batchIncrement', { batchId, store: this.#store, keys, deltas, answers }, { signal })
  }
}

function refused(message: string): StoreError {
  return new StoreError(message, { retryable: false })
}
