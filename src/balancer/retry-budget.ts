import { checkCount, checkDuration, checkOptions, valueOr } from '../core/options.js'

/** How many retries a load balancer allows at a time. */
export interface RetryBudgetOptions {
  /** The share of the calls in flight that may be retries. The default is 0.2. */
  ratio?: number | undefined
  /** How many retries may be in flight however few calls there are. The default is 3. */
  minRetries?: number | undefined
}

/**
 * Keeps retries from making an overload worse: those in flight are never more than a share of all calls in flight.
 *
 * @see https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/cluster/v3/circuit_breaker.proto, retry_budget
 */
export class RetryBudget {
  readonly #ratio: number
  readonly #minRetries: number
  /** Retries in flight. */
  inFlight = 0
  /** Retries that were made. */
  made = 0
  /** Retries that were not made because there were too many. */
  refused = 0

  constructor(options: RetryBudgetOptions | undefined, defaults: { ratio: number; minRetries: number }) {
    checkOptions('retryBudget', options)
    this.#ratio = checkDuration('retryBudget.ratio', valueOr(options?.ratio, defaults.ratio), 0, 1)
    this.#minRetries = checkCount('retryBudget.minRetries', valueOr(options?.minRetries, defaults.minRetries), 0)
  }

  /** Takes leave to make a retry while there are so many calls in flight; it must be given back. */
  take(callsInFlight: number): boolean {
    if (this.inFlight >= Math.max(this.#minRetries, Math.floor(this.#ratio * callsInFlight))) {
      this.refused++
      return false
    }
    this.inFlight++
    return true
  }

  giveBack(): void {
    this.inFlight--
  }
}
