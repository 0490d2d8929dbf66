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
  /** What makes every attempt the same one, where that matters. */
  readonly id?: string
  /** Whether it may be made again when its outcome is unknown. */
  readonly idempotent: boolean
  /** Whoever waits for it: no further attempt is made once he has given up. */
  readonly signal: AbortSignal | undefined
  /** Makes one attempt. */
  readonly make: (context: BatchContext) => T | PromiseLike<T>
}

/** Hears what calls go through. */
export interface StoreCallsListener {
  retried(retry: StoreRetry): void
  timedOut(timeout: StoreTimeout): void
}

/** An attempt failed, and another one is made. */
export interface StoreRetry {
  /** What the store was called for. */
  readonly operation: string
  /** The id under which it is done once: a request's, a reservation's or a batch's; undefined for a read. */
  readonly id: string | undefined
  /** The attempt that follows. */
  readonly attempt: number
  /** How long it waits until then, in milliseconds. */
  readonly delayMs: number
  /** What the last one failed with. */
  readonly error: unknown
}

/** An attempt took longer than it may. */
export interface StoreTimeout {
  /** What the store was called for. */
  readonly operation: string
  /** The id under which it is done once; undefined for a read. */
  readonly id: string | undefined
  /** The attempt. */
  readonly attempt: number
  /** How long it may take, in milliseconds. */
  readonly timeoutMs: number
}

/** What a store answered. */
export interface StoreAnswer<T> {
  readonly answer: T
  /** Whether an earlier attempt may have done the work, so that this one only heard of it. */
  readonly doubted: boolean
}

/** Calls a store: each attempt within its time, again where that does no harm. */
export class StoreCalls {
  /** Retries that were decided on. */
  retries = 0
  /** Attempts that took longer than they may. */
  timeouts = 0
  readonly #setting: StoreCallsSetting
  readonly #listener: StoreCallsListener
  readonly #pauses = new Set<() => void>()
  #hurried = false
  #ended = false

  constructor(setting: StoreCallsSetting, listener: StoreCallsListener) {
    this.#setting = setting
    this.#listener = listener
  }

  /** From now on nobody waits before a retry, those who do so now included. */
  hurry(): void {
    this.#hurried = true
    for (const wake of [...this.#pauses]) wake()
  }

  /** No further attempt is made from now on. */
  end(): void {
    this.#ended = true
    this.hurry()
  }

  /** Makes attempts until one is answered. Rejects with the error that says most about what may have been done. */
  async run<T>(call: StoreCall<T>): Promise<StoreAnswer<T>> {
    const { random, retry } = this.#setting
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
        const delayMs = this.#hurried ? 0 : backoffMs(number, retry, random)
        this.retries++
        this.#listener.retried({ operation: call.operation, id: call.id, attempt: number + 1, delayMs, error })
        await this.#pause(delayMs, signal)
      }
    }
  }

  /** One attempt, which fails with a TimeoutError when its time is over; what comes of it later counts no more. */
  async #attempt<T>(call: StoreCall<T>, number: number): Promise<T> {
    const { id = '', signal } = call
    const { timeoutMs } = this.#setting
    const ended = new LazySignal()
    let timer: AttemptTimer | undefined
    const stop =
      signal === undefined
        ? undefined
        : onAbort(signal, () => {
            if (this.#ended) timer?.cancel()
            else timer?.unref()
            ended.abort(signal.reason)
          })
    try {
      const work = attempt(() => call.make(new AttemptContext(id, number, ended)))
      if (timeoutMs === undefined) return await work
      return await new Promise<T>((resolve, reject) => {
        timer = new AttemptTimer(this.#setting.clock, timeoutMs, () => {
          const error = this.#timedOut(call, number, timeoutMs)
          reject(error)
          ended.abort(error)
        })
        work.then(resolve, reject)
      })
    } finally {
      timer?.cancel()
      stop?.()
    }
  }

  #timedOut({ operation, id }: StoreCall<unknown>, number: number, timeoutMs: number): TimeoutError {
    this.timeouts++
    this.#listener.timedOut({ operation, id, attempt: number, timeoutMs })
    const what = id === undefined ? operation : `${operation} ${id}`
    return new TimeoutError(
      `${this.#setting.name}: attempt ${number} at ${what} took longer than ${timeoutMs} ms`,
      timeoutMs,
    )
  }

  #mayRetry({ idempotent }: StoreCall<unknown>, number: number, error: unknown): boolean {
    const { retry } = this.#setting
    if (this.#ended || number >= retry.attempts || (!idempotent && isOutcomeUnknown(error))) return false
    try {
      return Boolean(retry.retryable(error))
    } catch {
      return false
    }
  }

  /** Waits; rejects as soon as the signal aborts, and leaves no timer. */
  #pause(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
    if (delayMs <= 0 || this.#hurried) return Promise.resolve()
    return new Promise((resolve, reject) => {
      const end = (settle: () => void) => (): void => {
        cancel()
        stop?.()
        this.#pauses.delete(wake)
        settle()
      }
      const wake = end(resolve)
      const stop =
        signal === undefined
          ? undefined
          : onAbort(
              signal,
              end(() => reject(signal.reason)),
            )
      const cancel = this.#setting.clock.setTimer(wake, delayMs)
      this.#pauses.add(wake)
    })
  }
}

/** The end of an attempt's time. */
class AttemptTimer {
  readonly #clock: Clock
  readonly #onEnd: () => void
  readonly #endsAt: number
  #cancel: () => void

  constructor(clock: Clock, timeoutMs: number, onEnd: () => void) {
    this.#clock = clock
    this.#onEnd = onEnd
    this.#endsAt = clock.now() + timeoutMs
    this.#cancel = clock.setTimer(onEnd, timeoutMs)
  }

  /** Lets the process end before it does: nobody waits for the attempt any more but `close`. */
  unref(): void {
    this.#cancel()
    this.#cancel = this.#clock.setTimer(this.#onEnd, Math.max(0, this.#endsAt - this.#clock.now()), {
      keepAlive: false,
    })
  }

  cancel(): void {
    this.#cancel()
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
