import { checkCount, checkOptions, failOption, valueOr } from '../core/options.js'
import type { BatchContext, CounterIncrement, CounterStore, RefusedIncrement } from '../core/ports.js'
import { invalidIncrement, maxCounter, refusal } from '../internal/counter-batch.js'
import { Remembered } from '../internal/remembered.js'

/** Options of {@link MemoryCounterStore}. */
export interface MemoryCounterStoreOptions {
  /**
   * How many batch ids it remembers, the latest ones.
   * @defaultValue 10_000
   */
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
  /** The options' defaults. */
  static readonly defaults = { rememberBatches: 10_000 } as const

  readonly idempotent = true
  readonly #values: Map<string, number>
  /** What each batch was answered. */
  readonly #answers: Remembered<readonly (number | Error)[]>

  /** @throws OptionError when an option is wrong. */
  constructor(options: MemoryCounterStoreOptions = {}) {
    checkOptions('options', options)
    const remembered = valueOr<number>(options.rememberBatches, MemoryCounterStore.defaults.rememberBatches)
    this.#answers = new Remembered(checkCount('rememberBatches', remembered, 0))
    this.#values = valuesOf(options.initial)
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

function valuesOf(initial: Iterable<readonly [string, number]> | undefined): Map<string, number> {
  if (initial === undefined) return new Map()
  if (typeof initial?.[Symbol.iterator] !== 'function') {
    failOption('initial', 'must be an iterable of keys and values', initial)
  }
  const values = new Map(initial)
  for (const value of values.values())
    if (!Number.isSafeInteger(value)) failOption('initial', 'must have whole numbers', value)
  return values
}
