import { checkCount, checkDuration, checkOptionalFunction, checkOptions, valueOr } from './options.js'

/** When and how often a failed attempt is made again. */
export interface RetryOptions {
  /** How many attempts there are in all, the first included: 3 is one try and two retries. */
  attempts?: number | undefined
  /** The base of the delay before a retry, in milliseconds: before retry n it is random from 0 to `delayMs * 2^(n-1)`. */
  delayMs?: number | undefined
  /** The most that a delay can be, in milliseconds. */
  maxDelayMs?: number | undefined
  /** Whether an error is worth a retry. By default every error is, but one that says `retryable: false`. */
  retryable?: ((error: unknown) => boolean) | undefined
}

/** {@link RetryOptions} with every value filled in. */
export interface RetryPolicy {
  /** How many attempts there are in all. */
  readonly attempts: number
  /** The base of the delay, in milliseconds. */
  readonly delayMs: number
  /** The most that a delay can be, in milliseconds. */
  readonly maxDelayMs: number
  /** Whether an error is worth a retry. */
  readonly retryable: (error: unknown) => boolean
}

/** Checks retry options and fills in what they leave out. */
export function resolveRetry(
  options: RetryOptions | undefined,
  defaults: { attempts: number; delayMs: number; maxDelayMs: number },
): RetryPolicy {
  checkOptions('retry', options)
  return {
    attempts: checkCount('retry.attempts', valueOr(options?.attempts, defaults.attempts)),
    delayMs: checkDuration('retry.delayMs', valueOr(options?.delayMs, defaults.delayMs)),
    maxDelayMs: checkDuration('retry.maxDelayMs', valueOr(options?.maxDelayMs, defaults.maxDelayMs)),
    retryable: checkOptionalFunction('retry.retryable', options?.retryable) ?? isRetryable,
  }
}

/**
 * The delay before retry `n`, counted from 1: exponential with full jitter, so that many callers that failed together
 * don't come back together.
 *
 * @see https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 */
export function backoffMs(
  retry: number,
  policy: Pick<RetryPolicy, 'delayMs' | 'maxDelayMs'>,
  random: () => number,
): number {
  // 2^1023 is the last power that a double holds; a zero base must stay zero, not become 0 * Infinity.
  const ceiling = Math.min(policy.maxDelayMs, policy.delayMs * 2 ** Math.min(retry - 1, 1023))
  return ceiling * random()
}

function isRetryable(error: unknown): boolean {
  return (error as { retryable?: unknown } | null | undefined)?.retryable !== false
}
