import type { Clock } from '../core/clock.js'
import { TimeoutError } from '../core/errors.js'
import type { BatchContext } from '../core/ports.js'
import { backoffMs, type RetryPolicy } from '../core/retry.js'
import { onAbort } from '../internal/abort.js'
import { LazySignal } from '../internal/lazy-signal.js'
import { isOutcomeUnknown } from '../internal/outcome.js'
import { attempt } from '../internal/tasks.js'

/** What calls of a store are made with. */
export interface StoreCallsSetting {
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
  readonly timeoutMs: number | undefined
  readonly retry: RetryPolicy
}

/** A call of a store, over all its attempts. */
export interface StoreCall<T> {
  /** What is done, for errors and events. */
  readonly operation: string
  /** What makes every attempt the same one. */
  readonly id: string
  /** Whether it may be made again when its outcome is unknown. */
  readonly idempotent: boolean
  /** Whoever waits for it: no further attempt is made once he has given up. */
  readonly signal: AbortSignal | undefined
  /** Makes one attempt. */
  readonly make: (context: BatchContext) => T | PromiseLike<T>
}

/** What a store answered. */
export interface StoreAnswer<T> {
  readonly answer: T
  /** Whether an earlier attempt may have done the work, so that this one only heard of it. */
  readonly doubted: boolean
}

/** Calls a store: each attempt within its time, again where that does no harm. */
export class StoreCalls {
  readonly #setting: StoreCallsSetting
  readonly #onRetry: (operation: string, attempt: number, delayMs: number, error: unknown) => void
  readonly #onTimeout: () => void

  constructor(
    setting: StoreCallsSetting,
    onRetry: (operation: string, attempt: number, delayMs: number, error: unknown) => void,
    onTimeout: () => void,
  ) {
    this.#setting = setting
    this.#onRetry = onRetry
    this.#onTimeout = onTimeout
  }

  /** Makes attempts until one is answered. Rejects with the error that says most about what may have been done. */
  async run<T>(call: StoreCall<T>): Promise<StoreAnswer<T>> {
    const { clock, random, retry } = this.#setting
    const { signal } = call
    let doubt: { readonly error: unknown } | undefined
    for (let number = 1; ; number++) {
      signal?.throwIfAborted()
      try {
        const answer = await this.#attempt(call, number)
        return { answer, doubted: doubt !== undefined }
      } catch (error) {
        if (isOutcomeUnknown(error)) doubt = { error }
        // A later attempt that surely did nothing takes nothing away from what an earlier one may have done.
        if (signal?.aborted || !this.#mayRetry(call, number, error)) throw (doubt ?? { error }).error
        const delayMs = backoffMs(number, retry, random)
        this.#onRetry(call.operation, number + 1, delayMs, error)
        await pause(clock, delayMs, signal)
      }
    }
  }

  /** One attempt, which fails with a TimeoutError when its time is over; what comes of it later counts no more. */
  async once<T>(what: string, make: (signal: LazySignal) => T | PromiseLike<T>): Promise<T> {
    const { name, clock, timeoutMs } = this.#setting
    const signal = new LazySignal()
    if (timeoutMs === undefined) return make(signal)
    return new Promise<T>((resolve, reject) => {
      const cancel = clock.setTimer(() => {
        const error = new TimeoutError(`${name}: ${what} took longer than ${timeoutMs} ms`, timeoutMs)
        this.#onTimeout()
        reject(error)
        signal.abort(error)
      }, timeoutMs)
      attempt(() => make(signal))
        .then(resolve, reject)
        .finally(cancel)
    })
  }

  #attempt<T>({ operation, id, signal, make }: StoreCall<T>, number: number): Promise<T> {
    return this.once(`attempt ${number} at ${operation} ${id}`, async (attemptSignal) => {
      const stop = signal === undefined ? undefined : onAbort(signal, () => attemptSignal.abort(signal.reason))
      try {
        return await make(new AttemptContext(id, number, attemptSignal))
      } finally {
        stop?.()
      }
    })
  }

  #mayRetry({ idempotent }: StoreCall<unknown>, number: number, error: unknown): boolean {
    const { retry } = this.#setting
    if (number >= retry.attempts || (!idempotent && isOutcomeUnknown(error))) return false
    try {
      return Boolean(retry.retryable(error))
    } catch {
      return false
    }
  }
}

class AttemptContext implements BatchContext {
  readonly batchId: string
  readonly attempt: number
  readonly #signal: LazySignal

  constructor(batchId: string, number: number, signal: LazySignal) {
    this.batchId = batchId
    this.attempt = number
    this.#signal = signal
  }

  get signal(): AbortSignal {
    return this.#signal.signal
  }
}

/** Waits; rejects as soon as the signal aborts, and leaves no timer. */
function pause(clock: Clock, delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  if (delayMs <= 0) return Promise.resolve()
  return new Promise((resolve, reject) => {
    const stop =
      signal === undefined
        ? undefined
        : onAbort(signal, () => {
            cancel()
            reject(signal.reason)
          })
    const cancel = clock.setTimer(() => {
      stop?.()
      resolve()
    }, delayMs)
  })
}
