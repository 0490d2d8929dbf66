import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkOneOf,
  failOption,
  type Overflow,
  overflows,
  valueOr,
} from '../core/options.js'
import { type RetryOptions, type RetryPolicy, resolveRetry } from '../core/retry.js'

/** The engine's options after the defaults, every one checked. */
export interface BatchPolicy {
  readonly maxBatchSize: number
  readonly maxBatchBytes: number
  readonly maxWaitMs: number
  readonly eager: boolean
  readonly concurrency: number
  readonly capacity: number
  readonly overflow: Overflow
  readonly timeoutMs: number | undefined
  readonly timeoutGraceMs: number
  readonly retry: RetryPolicy
  readonly idempotent: boolean
  readonly bisect: boolean
  /** Whether entries bear keys. */
  readonly keyed: boolean
}

/** What the faces pass on of their users' options. */
export interface BatchOptionsInput {
  maxBatchSize?: number | undefined
  maxBatchBytes?: number | undefined
  maxWaitMs?: number | undefined
  eager?: boolean | undefined
  concurrency?: number | undefined
  capacity?: number | undefined
  overflow?: Overflow | undefined
  timeoutMs?: number | undefined
  timeoutGraceMs?: number | undefined
  retry?: RetryOptions | undefined
  idempotent?: boolean | undefined
  bisect?: boolean | undefined
}

/** What a face's `defaults` must have. */
export interface BatchDefaults {
  readonly maxBatchSize: number
  readonly maxWaitMs: number
  readonly eager: boolean
  readonly concurrency: number
  readonly capacity: number
  readonly overflow: Overflow
  readonly timeoutGraceMs: number
  readonly retry: { readonly attempts: number; readonly delayMs: number; readonly maxDelayMs: number }
  readonly idempotent: boolean
}

/** Checks the options that all faces share. */
export function resolveBatchOptions(
  options: BatchOptionsInput,
  defaults: BatchDefaults,
  face: { keyed: boolean; sized: boolean },
): BatchPolicy {
  const capacity = checkCount('capacity', valueOr(options.capacity, defaults.capacity))
  const maxBatchSize = checkCount(
    'maxBatchSize',
    valueOr(options.maxBatchSize, Math.min(defaults.maxBatchSize, capacity)),
  )
  if (maxBatchSize > capacity) failOption('maxBatchSize', `must be at most capacity (${capacity})`, maxBatchSize)
  if (options.maxBatchBytes !== undefined && !face.sized) {
    failOption('maxBatchBytes', 'needs sizeOf', options.maxBatchBytes)
  }
  return {
    capacity,
    maxBatchSize,
    maxBatchBytes:
      options.maxBatchBytes === undefined
        ? Number.POSITIVE_INFINITY
        : checkCount('maxBatchBytes', options.maxBatchBytes),
    maxWaitMs: checkDuration('maxWaitMs', valueOr(options.maxWaitMs, defaults.maxWaitMs)),
    eager: checkBoolean('eager', valueOr(options.eager, defaults.eager)),
    concurrency: checkCount('concurrency', valueOr(options.concurrency, defaults.concurrency)),
    overflow: checkOneOf('overflow', valueOr(options.overflow, defaults.overflow), overflows),
    timeoutMs: options.timeoutMs === undefined ? undefined : checkDuration('timeoutMs', options.timeoutMs, 1),
    timeoutGraceMs: checkDuration('timeoutGraceMs', valueOr(options.timeoutGraceMs, defaults.timeoutGraceMs)),
    retry: resolveRetry(options.retry, defaults.retry),
    idempotent: checkBoolean('idempotent', valueOr(options.idempotent, defaults.idempotent)),
    bisect: checkBoolean('bisect', valueOr(options.bisect, false)),
    keyed: face.keyed,
  }
}
