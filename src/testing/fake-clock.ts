import type { Clock } from '../core/clock.js'

/** Options of {@link FakeClock}. */
export interface FakeClockOptions {
  /** The wall time at the start, in milliseconds since the epoch. The default is 2026-01-01T00:00:00Z. */
  wallMs?: number | undefined
}

interface Timer {
  readonly at: number
  readonly order: number
  readonly callback: () => void
}

const startOf2026 = 1_767_225_600_000

// Kept from before any test replaces the globals with fake ones.
const nextTurn: (callback: () => void) => void =
  typeof setImmediate === 'function' ? setImmediate : (setTimeout as (callback: () => void) => void)

/**
 * Virtual time: nothing happens until {@link FakeClock.advance} is called, and then everything happens in order.
 *
 * @example
 * ```ts
 * import { AsyncBatcher } from 'spillway'
 * import { FakeClock } from 'spillway/testing'
 *
 * const clock = new FakeClock()
 * const batcher = new AsyncBatcher(async (items: string[]) => items, { clock, eager: false, maxWaitMs: 50 })
 * const answer = batcher.add('a')
 * await clock.advance(50)
 * await answer
 * ```
 */
export class FakeClock implements Clock {
  #now = 0
  #wallOffset: number
  #order = 0
  readonly #timers = new Set<Timer>()
  #deferred: (() => void)[] = []
  #advancing: Promise<void> = Promise.resolve()

  constructor(options: FakeClockOptions = {}) {
    this.#wallOffset = options.wallMs ?? startOf2026
  }

  now(): number {
    return this.#now
  }

  wallNow(): number {
    return this.#wallOffset + this.#now
  }

  setTimer(callback: () => void, delayMs: number): () => void {
    const timer: Timer = { at: this.#now + Math.max(0, delayMs), order: this.#order++, callback }
    this.#timers.add(timer)
    return () => void this.#timers.delete(timer)
  }

  defer(callback: () => void): void {
    this.#deferred.push(callback)
  }

  /** How many timers wait. What was deferred to the end of the turn doesn't count. */
  get pending(): number {
    return this.#timers.size
  }

  /** Makes the wall clock jump; monotonic time and timers don't notice. */
  setWall(ms: number): void {
    this.#wallOffset = ms - this.#now
  }

  /**
   * Lets time pass: fires what is due in order, ends a turn before and after each timer, and lets promises settle between.
   * `advance(0)` ends the current turn. Calls that overlap run one after the other.
   *
   * @returns rejects with the first error that a timer or a deferred callback threw, after everything has run.
   */
  advance(ms: number): Promise<void> {
    if (!Number.isFinite(ms) || ms < 0) {
      return Promise.reject(new RangeError(`advance takes a finite number of 0 or more, got ${ms}`))
    }
    const run = this.#advancing.then(() => this.#run(ms))
    this.#advancing = run.catch(() => undefined)
    return run
  }

  async #run(ms: number): Promise<void> {
    const target = this.#now + ms
    const errors: unknown[] = []
    const call = (callback: () => void): void => {
      try {
        callback()
      } catch (error) {
        errors.push(error)
      }
    }
    await this.#endTurn(call)
    for (let timer = this.#nextTimer(target); timer !== undefined; timer = this.#nextTimer(target)) {
      this.#timers.delete(timer)
      this.#now = Math.max(this.#now, timer.at)
      call(timer.callback)
      await this.#endTurn(call)
    }
    this.#now = target
    if (errors.length > 0) throw errors[0]
  }

  /** Settles promises and runs what was deferred, until both are quiet. */
  async #endTurn(call: (callback: () => void) => void): Promise<void> {
    await settle()
    while (this.#deferred.length > 0) {
      const deferred = this.#deferred
      this.#deferred = []
      for (const callback of deferred) {
        call(callback)
        // As after each immediate of a real turn.
        await settle()
      }
    }
  }

  #nextTimer(until: number): Timer | undefined {
    let next: Timer | undefined
    for (const timer of this.#timers) {
      if (timer.at > until) continue
      if (next === undefined || timer.at < next.at || (timer.at === next.at && timer.order < next.order)) next = timer
    }
    return next
  }
}

/** Lets every microtask that is queued, and every one that those queue, run. */
function settle(): Promise<void> {
  return new Promise((resolve) => nextTurn(resolve))
}
