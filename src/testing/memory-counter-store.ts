import type { BatchContext, CounterIncrement, CounterStore, RefusedIncrement } from '../core/ports.js'
import { invalidIncrement, maxCounter, refusal } from '../internal/counter-batch.js'
import { Remembered } from '../internal/remembered.js'

/** Options of {@link MemoryCounterStore}. */
export interface MemoryCounterStoreOptions {
  /** How many batch ids it remembers, the latest ones. The default is 10 000. */
  rememberBatches?: number | undefined
  /** The counters' values at the start. The default is none. */
  initial?: Iterable<readonly [key: string, value: number]> | undefined
}

/**
 * Counters in memory, behaving as every {@link CounterStore} must: for tests, and for a service of one process that may
 * forget. It passes `counterStoreContract`.
 *
 * @example
 * ```ts
 * import { AsyncBatcher, type CounterIncrement } from 'spillway'
 * import { MemoryCounterStore } from 'spillway/testing'
 *
 * const store = new MemoryCounterStore()
 * const likes = new AsyncBatcher<CounterIncrement, number>((increments, context) => store.increment(increments, context), {
 *   idempotent: store.idempotent,
 * })
 * await likes.add({ key: 'post:1', delta: 1 }) // 1
 * ```
 */
export class MemoryCounterStore implements CounterStore {
  readonly idempotent = true
  readonly #values: Map<string, number>
  /** What each batch was answered. */
  readonly #answers: Remembered<readonly (number | Error)[]>

  constructor(options: MemoryCounterStoreOptions = {}) {
    this.#answers = new Remembered(options.rememberBatches ?? 10_000)
    this.#values = new Map(options.initial)
  }

  async increment(
    increments: readonly CounterIncrement[],
    context: BatchContext,
  ): Promise<readonly (number | Error)[]> {
    context.signal.throwIfAborted()
    if (increments.length === 0) return []
    const before = this.#answers.get(context.batchId)
    if (before !== undefined) return before
    const answers = increments.map((increment) => this.#apply(increment))
    this.#answers.add(context.batchId, answers)
    return answers
  }

  async add(sums: ReadonlyMap<string, number>, context: BatchContext): Promise<readonly RefusedIncrement[]> {
    const increments = Array.from(sums, ([key, delta]) => ({ key, delta }))
    const answers = await this.increment(increments, context)
    return increments.flatMap((increment, index) => {
      const answer = answers[index]
      return answer instanceof Error ? [{ ...increment, error: answer }] : []
    })
  }

  async getMany(keys: readonly string[]): Promise<readonly number[]> {
    return keys.map((key) => this.#values.get(key) ?? 0)
  }

  #apply(increment: CounterIncrement): number | Error {
    const invalid = invalidIncrement(increment)
    if (invalid !== undefined) return invalid
    const { key, delta } = increment
    const value = (this.#values.get(key) ?? 0) + delta
    if (Math.abs(value) > maxCounter) return refusal(key)
    this.#values.set(key, value)
    return value
  }
}
