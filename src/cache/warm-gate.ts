import pLimit, { type LimitFunction } from 'p-limit'
import type { Clock } from '../core/clock.js'
import { checkCount, failOption } from '../core/options.js'

/** How fast a warm-up may go. */
export interface WarmPaceOptions {
  /**
   * How many loads run at a time.
   *
   * @defaultValue 4
   */
  concurrency?: number | undefined
  /**
   * How many loads begin in a second, at the most. They are spread evenly: after a pause there is no burst to catch up. Time that
   * passes before a load begins holds up nobody who reads its key meanwhile.
   *
   * @defaultValue Infinity
   */
  ratePerSecond?: number | undefined
}

/** What everything that loads for one warm-up goes through: so many at a time, and so many a second. */
export class WarmGate {
  readonly limit: LimitFunction
  readonly #clock: Clock
  readonly #intervalMs: number
  #nextAt = Number.NEGATIVE_INFINITY

  constructor(
    options: WarmPaceOptions | undefined,
    defaults: { readonly concurrency: number; readonly ratePerSecond: number },
    clock: Clock,
  ) {
    const { concurrency = defaults.concurrency, ratePerSecond: rate = defaults.ratePerSecond } = options ?? {}
    if (!(typeof rate === 'number' && rate > 0)) failOption('ratePerSecond', 'must be a number above 0', rate)
    this.limit = pLimit(checkCount('concurrency', concurrency))
    this.#clock = clock
    this.#intervalMs = 1000 / rate
  }

  /** How long to wait until the next load may begin, in milliseconds; that moment is taken then. */
  take(): number {
    if (this.#intervalMs === 0) return 0
    const now = this.#clock.now()
    const at = Math.max(now, this.#nextAt)
    this.#nextAt = at + this.#intervalMs
    return at - now
  }
}
