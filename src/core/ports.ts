/**
 * What a batch function learns about the attempt that it makes.
 */
export interface BatchContext {
  /** The batch's id, a UUID of version 7: the same for every attempt, so that a sink can apply the batch once. */
  readonly batchId: string
  /** Which attempt this is, counted from 1. */
  readonly attempt: number
  /**
   * Aborts when the attempt has timed out, when every caller of the batch has given up, or at the deadline of `close`.
   * Made when first asked for.
   */
  readonly signal: AbortSignal
}

/** One counter's change within a batch. */
export interface CounterIncrement {
  /** What is counted, for instance `post:1:like`: any string without NUL and without half a surrogate pair. */
  readonly key: string
  /** By how much it changes: a whole number from -(2^53 - 1) to 2^53 - 1. */
  readonly delta: number
}

/** A change that a store refused for good, without any effect; the rest of its batch was applied. */
export interface RefusedIncrement extends CounterIncrement {
  /** Why: a `StoreError` that isn't retryable. */
  readonly error: Error
}

/**
 * A store of counters, changed by whole batches. `increment` is what an AsyncBatcher calls, `add` what an AsyncWriteBuffer
 * calls. Counters stay within -(2^53 - 1) and 2^53 - 1, where a number is exact: an increment that would lead beyond, or whose
 * delta is no such number, is refused alone.
 *
 * Both methods reject only when the store failed. Unless the error's `outcomeUnknown` says otherwise, nothing was applied then.
 */
export interface CounterStore {
  /** Whether it applies each batch id once, however often and from however many processes that batch comes. */
  readonly idempotent: boolean
  /**
   * Applies a batch, its increments in their order, and answers each of them.
   *
   * @returns in the order of the increments, each counter's value right after it, or the error of one that was refused. A
   * batch id that was applied before changes nothing and gets the answers of then.
   */
  increment(increments: readonly CounterIncrement[], context: BatchContext): PromiseLike<readonly (number | Error)[]>
  /**
   * Applies a batch that has one sum for each counter, when nobody waits for the values.
   *
   * @returns what was refused, nothing as a rule. A batch id that was applied before changes nothing and gets the answer of then.
   */
  add(sums: ReadonlyMap<string, number>, context: BatchContext): PromiseLike<readonly RefusedIncrement[]>
  /** Reads counters, in the order of the keys; one that was never changed is 0. */
  getMany(keys: readonly string[]): PromiseLike<readonly number[]>
}

/** Who used something. */
export type UserId = string | number | bigint

/** One use of a quota. */
export interface UsageEvent {
  /** Who used it. */
  readonly userId: UserId
  /** Which of the user's quotas. */
  readonly quotaType: string
  /** How much, a number of 0 or more. Whole numbers are summed exactly: use the smallest unit. */
  readonly value: number
  /** When, as a Date or in milliseconds since the epoch; by default when it was offered. */
  readonly timestamp?: number | Date | undefined
  /** The request that caused it, for deduplication. */
  readonly requestId?: string | undefined
  /** Anything else that is worth keeping with it. */
  readonly metadata?: Readonly<Record<string, unknown>> | undefined
}

/** The uses of one quota by one user in one period, summed. */
export interface UsageTotal {
  /** Who used it. */
  readonly userId: UserId
  /** Which of the user's quotas. */
  readonly quotaType: string
  /** The period in UTC: `2026-11-20`, `2026-11` or `total`. */
  readonly period: string
  /** The sum. */
  readonly value: number
  /** How many events it sums. */
  readonly count: number
}

/** A batch of usage on its way to a sink. */
export interface UsageBatch {
  /** The batch's id, the same for every attempt. */
  readonly id: string
  /** The events, in the order in which they were accepted. */
  readonly events: readonly UsageEvent[]
  /** The same events summed by user, quota type and period. */
  readonly totals: readonly UsageTotal[]
}

/** Where usage is accounted. */
export interface UsageSink {
  /** Whether it applies each batch id once, however often that batch comes. */
  readonly idempotent: boolean
  /** Applies a batch: all of it or none. */
  write(batch: UsageBatch, context: BatchContext): void | PromiseLike<void>
}

/** Where log lines go. */
export interface LogSink {
  /** Writes whole lines; resolves once they are handed over. */
  write(chunk: string): PromiseLike<void>
  /** The same, synchronously, for a process that is about to end. */
  writeSync?(chunk: string): void
  /** Opens the target anew, after it was rotated away. */
  reopen?(): PromiseLike<void>
  /** Releases the target. */
  close?(): PromiseLike<void>
}

/** Instances that change while one watches. */
export interface InstanceSource<I> {
  /**
   * Calls `onList` with each new list until the signal aborts.
   *
   * @param onList - takes a whole list, not a change of one.
   */
  watch(
    onList: (instances: readonly I[]) => void,
    context: { readonly signal: AbortSignal; readonly onError: (error: unknown) => void },
  ): void
}
