import type { Clock } from '../../core/clock.js'

/**
 * A token bucket, kept as the time at which it will be full again (the generic cell rate algorithm): a few queries may
 * follow one another at once, more only as tokens come back.
 *
 * @see https://developer.hashicorp.com/consul/api-docs/features/blocking
 */
export class QueryPace {
  readonly #clock: Clock
  readonly #burst: number
  readonly #minIntervalMs: number
  #fullAt = Number.NEGATIVE_INFINITY

  constructor(clock: Clock, burst: number, minIntervalMs: number) {
    this.#clock = clock
    this.#burst = burst
    this.#minIntervalMs = minIntervalMs
  }

  /** Takes a token, and says how long to wait until it counts, in milliseconds. */
  take(): number {
    const now = this.#clock.now()
    const due = Math.max(now, this.#fullAt - (this.#burst - 1) * this.#minIntervalMs)
    this.#fullAt = Math.max(now, this.#fullAt) + this.#minIntervalMs
    return due - now
  }
}
