import type { Clock } from '../../core/clock.js'
import { backoffMs, type RetryPolicy } from '../../core/retry.js'
import { orAbort } from '../../internal/abort.js'
import { isConflict, storeErrorOnce } from './postgres-error.js'

/** A statement lost against another one, and is tried again after `delayMs`. */
export interface ConflictRetry {
  readonly attempt: number
  readonly delayMs: number
  readonly error: unknown
}

/** Tries what was rolled back because somebody else went first: a deadlock, a serialization conflict. */
export class ConflictRetries {
  readonly #policy: RetryPolicy
  readonly #clock: Clock
  readonly #random: () => number
  readonly #onRetry: (retry: ConflictRetry) => void

  constructor(policy: RetryPolicy, clock: Clock, random: () => number, onRetry: (retry: ConflictRetry) => void) {
    this.#policy = policy
    this.#clock = clock
    this.#random = random
    this.#onRetry = onRetry
  }

  /**
   * Sends until it isn't a conflict that fails it, or there were enough attempts.
   *
   * @returns rejects with a `StoreError`, or with the signal's reason: at once, while what was sent goes on.
   */
  async run<T>(action: string, signal: AbortSignal | undefined, send: () => Promise<T>): Promise<T> {
    signal?.throwIfAborted()
    for (let attempt = 1; ; attempt++) {
      try {
        return await orAbort(send(), signal)
      } catch (error) {
        if (signal?.aborted) throw signal.reason
        if (!isConflict(error) || attempt >= this.#policy.attempts) throw storeErrorOnce(action, error)
        const delayMs = backoffMs(attempt, this.#policy, this.#random)
        this.#onRetry({ attempt, delayMs, error })
        await orAbort(new Promise<void>((resolve) => void this.#clock.setTimer(resolve, delayMs)), signal)
      }
    }
  }
}
