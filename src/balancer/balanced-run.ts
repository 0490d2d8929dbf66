import { type ClosedError, TimeoutError } from '../core/errors.js'
import { isThenable } from '../core/events.js'
import { onAbort } from '../internal/abort.js'
import { type Deferred, handled, openPromise } from '../internal/deferred.js'
import { LazySignal } from '../internal/lazy-signal.js'
import type { InstanceLease, LeaseOutcome } from './lease.js'
import type { RetryBudget } from './retry-budget.js'

/** What the function of a run learns about the attempt that it makes. */
export interface RunContext {
  /**
   * Aborts when the caller has aborted, the attempt has taken longer than `timeoutMs`, or the deadline of `close` has passed. Made
   * when first asked for.
   */
  readonly signal: AbortSignal
  /** Which attempt this is, counted from 1. */
  readonly attempt: number
}

/** What a run needs of its balancer. */
export interface RunHost<I> {
  readonly name: string
  readonly budget: RetryBudget
  /** Calls in flight. */
  readonly inFlight: number
  /** Picks for an attempt, not one of those that were tried where there are others. */
  lease(key: string | undefined, tried: ReadonlySet<string> | undefined): InstanceLease<I>
  outcomeOfResult(result: unknown): LeaseOutcome
  outcomeOfError(error: unknown): LeaseOutcome
  setTimer(callback: () => void, delayMs: number): () => void
  onRetried(instance: I, attempt: number, error: unknown): void
  onRetryRefused(instance: I, attempt: number, error: unknown): void
  /** It is over. */
  onEnded(run: { giveUp(error: ClosedError): void }): void
}

/** How a run goes. */
export interface RunPolicy {
  readonly key: string | undefined
  readonly signal: AbortSignal | undefined
  readonly attempts: number
  readonly retryable: (error: unknown) => boolean
  readonly timeoutMs: number | undefined
}

/** What one attempt's function is given. */
class AttemptContext extends LazySignal implements RunContext {
  readonly attempt: number

  constructor(attempt: number) {
    super()
    this.attempt = attempt
  }
}

/** One call of `run`: attempts on one instance after the other, until one succeeds or there is a reason to stop. */
export class BalancedRun<I, T> implements Deferred<T> {
  readonly promise!: Promise<T>
  readonly resolve!: (value: T | PromiseLike<T>) => void
  readonly reject!: (reason: unknown) => void
  readonly #host: RunHost<I>
  readonly #fn: (instance: I, context: RunContext) => T | PromiseLike<T>
  readonly #policy: RunPolicy
  #attempt = 0
  #tried: Set<string> | undefined
  /** The attempt in flight: whatever comes of another one comes too late. */
  #context: AttemptContext | undefined
  #lease: InstanceLease<I> | undefined
  #retrying = false
  #stopListening: (() => void) | undefined
  #cancelTimer: (() => void) | undefined
  #ended = false

  constructor(host: RunHost<I>, fn: (instance: I, context: RunContext) => T | PromiseLike<T>, policy: RunPolicy) {
    this.#host = host
    this.#fn = fn
    this.#policy = policy
    openPromise<T>(this)
    handled(this.promise)
  }

  start(lease: InstanceLease<I>): void {
    const { signal } = this.#policy
    this.#lease = lease
    // A listener that was told of something by the pick may have aborted it.
    if (signal?.aborted) return this.#stop(signal.reason)
    if (signal !== undefined) {
      this.#stopListening = onAbort(signal, () => this.#stop(signal.reason))
    }
    this.#try(lease)
  }

  /** The deadline of `close` has passed. */
  giveUp(error: ClosedError): void {
    this.#stop(error)
  }

  #try(lease: InstanceLease<I>): void {
    const { timeoutMs } = this.#policy
    const context = new AttemptContext(++this.#attempt)
    this.#context = context
    this.#lease = lease
    if (timeoutMs !== undefined) {
      this.#cancelTimer = this.#host.setTimer(() => this.#expire(context, timeoutMs), timeoutMs)
    }
    try {
      Promise.resolve(this.#fn(lease.instance, context)).then(
        (result) => this.#succeeded(context, result),
        (error: unknown) => this.#failed(context, error),
      )
    } catch (error) {
      // Retries that throw would otherwise call one another as often as there are attempts.
      if (context.attempt === 1) this.#failed(context, error)
      else queueMicrotask(() => this.#failed(context, error))
    }
  }

  #succeeded(context: AttemptContext, result: T): void {
    if (context !== this.#context) return
    this.#endAttempt(this.#host.outcomeOfResult(result), undefined)
    this.#end()
    this.resolve(result)
  }

  #expire(context: AttemptContext, timeoutMs: number): void {
    const id = this.#lease?.slot.id
    const message = `${this.#host.name}: attempt ${context.attempt}, on ${id}, took longer than ${timeoutMs} ms`
    const error = new TimeoutError(message, timeoutMs)
    context.abort(error)
    this.#failed(context, error)
  }

  #failed(context: AttemptContext, error: unknown): void {
    if (context !== this.#context) return
    const lease = this.#lease as InstanceLease<I>
    // The caller's abort may reach the function's promise before it reaches us.
    const { signal } = this.#policy
    if (signal?.aborted) return this.#stop(signal.reason)
    const callsInFlight = this.#host.inFlight
    this.#endAttempt(this.#host.outcomeOfError(error), error)
    if (this.#ended) return
    const next = this.#mayRetry(lease, error, callsInFlight) ? this.#next(lease) : undefined
    // Whoever was told of something by that pick may have ended the run.
    if (this.#ended) return next?.release('ignore')
    if (next === undefined) {
      this.#end()
      this.reject(error)
      return
    }
    this.#host.budget.made++
    this.#host.onRetried(next.instance, this.#attempt + 1, error)
    if (this.#ended) next.release('ignore')
    else this.#try(next)
  }

  #mayRetry({ instance }: InstanceLease<I>, error: unknown, callsInFlight: number): boolean {
    const { attempts, retryable } = this.#policy
    if (this.#attempt >= attempts) return false
    try {
      const answer: unknown = retryable(error)
      // An async function says yes, whatever it resolves to; that it may reject is nobody's but its own concern.
      if (isThenable(answer)) answer.then(undefined, () => undefined)
      if (!answer) return false
    } catch {
      return false
    }
    if (this.#ended) return false
    if (this.#host.budget.take(callsInFlight)) {
      this.#retrying = true
      return true
    }
    this.#host.onRetryRefused(instance, this.#attempt + 1, error)
    return false
  }

  /** Where to retry; undefined when there is nothing left to try, and then the last error says why. */
  #next({ slot }: InstanceLease<I>): InstanceLease<I> | undefined {
    this.#tried ??= new Set()
    this.#tried.add(slot.id)
    try {
      return this.#host.lease(this.#policy.key, this.#tried)
    } catch {
      return undefined
    }
  }

  #stop(reason: unknown): void {
    if (this.#ended) return
    const context = this.#context
    this.#endAttempt('ignore', undefined)
    this.#end()
    this.reject(reason)
    context?.abort(reason)
  }

  #endAttempt(outcome: LeaseOutcome, error: unknown): void {
    const lease = this.#lease
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    this.#context = undefined
    this.#lease = undefined
    if (this.#retrying) this.#host.budget.giveBack()
    this.#retrying = false
    lease?.release(outcome, error)
  }

  #end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#stopListening?.()
    if (this.#retrying) this.#host.budget.giveBack()
    this.#retrying = false
    this.#host.onEnded(this)
  }
}
