import { ClosedError, isSpillwayError, StoreError } from '../../core/errors.js'
import type { OpenEntry } from '../../internal/call-books.js'
import { type Deferred, handled, openPromise } from '../../internal/deferred.js'
import { isOutcomeUnknown } from '../../internal/outcome.js'
import { GrpcCallError } from './grpc-error.js'

/** A call, a stream or a lease of a balanced pool in flight. */
export interface OpenUse<Instance> extends OpenEntry {
  readonly method: string
  /** The instance of the last attempt. */
  readonly instance: Instance | undefined
  readonly attempts: number
  /** Tells its caller that it was given up. */
  giveUp(): void
}

/** What of a call's options decides whether there is another attempt. */
export interface RetryChoice {
  readonly idempotent?: boolean | undefined
  readonly retryable?: ((error: unknown) => boolean) | undefined
}

/** One unary call in flight: what its attempts came to, and the promise that its caller has. */
export class BalancedCall<Instance> implements OpenUse<Instance>, Deferred<unknown> {
  readonly promise!: Promise<unknown>
  readonly resolve!: (value: unknown) => void
  readonly reject!: (reason: unknown) => void
  readonly method: string
  readonly at: number
  instance: Instance | undefined
  attempts = 0
  stopListening: (() => void) | undefined
  readonly #poolName: string
  /** Whether an attempt may have been done. */
  #maybeDone = false

  constructor(poolName: string, method: string, at: number) {
    this.#poolName = poolName
    this.method = method
    this.at = at
    openPromise<unknown>(this)
    handled(this.promise)
  }

  /** Makes an attempt, and remembers whether it may have been done in spite of its error. */
  async attempt<T>(instance: Instance, make: () => Promise<T>): Promise<T> {
    this.instance = instance
    this.attempts++
    try {
      return await make()
    } catch (error) {
      if (isOutcomeUnknown(error)) this.#maybeDone = true
      throw error
    }
  }

  /** Whether an error is worth another attempt: never where an attempt may have been done and must not be made twice. */
  mayRetry(error: unknown, { idempotent = false, retryable = isRetryable }: RetryChoice): boolean {
    if (this.#maybeDone && !idempotent) return false
    try {
      return retryable(error)
    } catch {
      // A predicate of the caller's that throws answers no.
      return false
    }
  }

  /** The last attempt's error, but true for all attempts: an earlier one may have been done. */
  errorFor(error: unknown): unknown {
    if (!this.#maybeDone || isOutcomeUnknown(error)) return error
    const name = this.#poolName
    if (error instanceof GrpcCallError) {
      const { method, address } = error
      return new GrpcCallError(error.cause, { name, method, address, sent: true, maybeDone: true })
    }
    const message = `${name}: ${this.method} failed, and an earlier attempt may have been done: ${String(error)}`
    const retryable = !isSpillwayError(error) || error.retryable
    return new StoreError(message, { cause: error, retryable, outcomeUnknown: true })
  }

  giveUp(): void {
    this.stopListening?.()
    const message = `${this.#poolName}: closed before ${this.method} was answered`
    this.reject(new ClosedError(message, { outcomeUnknown: this.attempts > 0 }))
  }
}

/** By default everything is tried again but what says that it is no use. A pool that closed under the call is no reason. */
function isRetryable(error: unknown): boolean {
  return !isSpillwayError(error) || error.retryable || error.code === 'ERR_CLOSED'
}
