import { checkCount, checkDuration, checkOptions, failOption, valueOr } from '../core/options.js'
import { CountRing, TimeRing } from '../internal/rolling-window.js'
import type { TurnClock } from '../internal/turn-clock.js'

/**
 * When a closed breaker opens: made by {@link consecutive}, {@link countWindow} or {@link timeWindow}. A policy is a recipe:
 * it holds no counts, so any number of breakers may be given the same one.
 */
export interface TripPolicy {
  /** Which kind it is. */
  readonly kind: 'consecutive' | 'count-window' | 'time-window'
  /** From how many milliseconds on a call counts as slow; undefined where nothing asks for it. */
  readonly slowCallMs: number | undefined
}

/** Options of {@link countWindow}. */
export interface CountWindowOptions {
  /**
   * How many of the latest outcomes are looked at.
   * @defaultValue 100
   */
  size?: number | undefined
  /**
   * The share of failures at which it trips: above 0, at most 1.
   * @defaultValue 0.5
   */
  failureRate?: number | undefined
  /**
   * With fewer outcomes than this it doesn't trip. At most `size`, and `size` where that is less than the default.
   * @defaultValue 10
   */
  minimumCalls?: number | undefined
}

/** Options of {@link timeWindow}. */
export interface TimeWindowOptions {
  /**
   * How far back it looks, in milliseconds, at least 1. It moves on by a bucket at a time.
   * @defaultValue 10_000
   */
  windowMs?: number | undefined
  /**
   * How many buckets the window has.
   * @defaultValue 10
   */
  buckets?: number | undefined
  /**
   * The share of failures at which it trips: above 0, at most 1.
   * @defaultValue 0.5
   */
  failureRate?: number | undefined
  /**
   * With fewer outcomes in the window than this it doesn't trip.
   * @defaultValue 10
   */
  minimumCalls?: number | undefined
  /** A call that took this many milliseconds or more is slow, whatever its outcome. Goes with `slowCallRate`. */
  slowCallMs?: number | undefined
  /** The share of slow calls at which it trips: above 0, at most 1. Goes with `slowCallMs`. */
  slowCallRate?: number | undefined
}

/** The defaults of {@link countWindow}. */
export const countWindowDefaults = { size: 100, failureRate: 0.5, minimumCalls: 10 } as const

/** The defaults of {@link timeWindow}. */
export const timeWindowDefaults = { windowMs: 10_000, buckets: 10, failureRate: 0.5, minimumCalls: 10 } as const

/**
 * Trips at `failures` failures in a row; a success sets the count back.
 *
 * @throws OptionError unless it is a whole number of 1 or more.
 */
export function consecutive(failures: number): TripPolicy {
  checkCount('failures', failures)
  return new Recipe('consecutive', undefined, () => new ConsecutiveCounter(failures))
}

/**
 * Trips when, of the latest `size` outcomes, the share of failures is `failureRate` or more.
 *
 * @throws OptionError when an option is wrong.
 */
export function countWindow(options?: CountWindowOptions): TripPolicy {
  checkOptions('options', options)
  const size = checkCount('size', valueOr(options?.size, countWindowDefaults.size))
  const failureRate = checkRate('failureRate', valueOr(options?.failureRate, countWindowDefaults.failureRate))
  const fallback = Math.min(size, countWindowDefaults.minimumCalls)
  const minimumCalls = checkCount('minimumCalls', valueOr(options?.minimumCalls, fallback), 1, size)
  return new Recipe('count-window', undefined, () => new CountWindowCounter(size, failureRate, minimumCalls))
}

/**
 * Trips when, of the outcomes of the last `windowMs`, the share of failures is `failureRate` or more, or that of slow calls
 * `slowCallRate` or more. A call counts when it ends.
 *
 * @throws OptionError when an option is wrong.
 */
export function timeWindow(options?: TimeWindowOptions): TripPolicy {
  checkOptions('options', options)
  const { windowMs, buckets, failureRate, minimumCalls } = timeWindowDefaults
  const window: TimeWindow = {
    windowMs: checkDuration('windowMs', valueOr(options?.windowMs, windowMs), 1),
    buckets: checkCount('buckets', valueOr(options?.buckets, buckets), 1, 10_000),
    failureRate: checkRate('failureRate', valueOr(options?.failureRate, failureRate)),
    minimumCalls: checkCount('minimumCalls', valueOr(options?.minimumCalls, minimumCalls)),
    slowCallRate:
      options?.slowCallRate === undefined ? Number.POSITIVE_INFINITY : checkRate('slowCallRate', options.slowCallRate),
  }
  const slowCallMs = options?.slowCallMs === undefined ? undefined : checkDuration('slowCallMs', options.slowCallMs)
  if ((slowCallMs === undefined) !== (options?.slowCallRate === undefined)) {
    const [missing, given] = slowCallMs === undefined ? ['slowCallMs', 'slowCallRate'] : ['slowCallRate', 'slowCallMs']
    failOption(missing, `must be given with ${given}`, undefined)
  }
  return new Recipe('time-window', slowCallMs, (turn) => new TimeWindowCounter(window, turn))
}

/** Checks what was given for a policy, and makes the counts of one breaker. */
export function startCounting(policy: TripPolicy, turn: TurnClock): TripCounter {
  // By its shape: it may come from the package's other copy, ESM or CommonJS.
  const { start } = (policy ?? {}) as Partial<Recipe>
  if (typeof start !== 'function') failOption('trip', 'must be made by consecutive, countWindow or timeWindow', policy)
  return (policy as Recipe).start(turn)
}

/** The counts of one breaker. Its methods say whether the breaker is to open. */
export interface TripCounter {
  succeeded(slow: 0 | 1): boolean
  failed(slow: 0 | 1): boolean
  clear(): void
}

class Recipe implements TripPolicy {
  readonly kind: TripPolicy['kind']
  readonly slowCallMs: number | undefined
  readonly #start: (turn: TurnClock) => TripCounter

  constructor(kind: TripPolicy['kind'], slowCallMs: number | undefined, start: (turn: TurnClock) => TripCounter) {
    this.kind = kind
    this.slowCallMs = slowCallMs
    this.#start = start
    Object.freeze(this)
  }

  start(turn: TurnClock): TripCounter {
    return this.#start(turn)
  }
}

class ConsecutiveCounter implements TripCounter {
  readonly #threshold: number
  #failures = 0

  constructor(threshold: number) {
    this.#threshold = threshold
  }

  succeeded(): boolean {
    this.#failures = 0
    return false
  }

  failed(): boolean {
    return ++this.#failures >= this.#threshold
  }

  clear(): void {
    this.#failures = 0
  }
}

class CountWindowCounter implements TripCounter {
  readonly #ring: CountRing
  readonly #failureRate: number
  readonly #minimumCalls: number

  constructor(size: number, failureRate: number, minimumCalls: number) {
    this.#ring = new CountRing(size)
    this.#failureRate = failureRate
    this.#minimumCalls = minimumCalls
  }

  succeeded(): boolean {
    this.#ring.add(0)
    // The call that makes the minimum may be a success.
    return this.#ring.failures > 0 && this.#due()
  }

  failed(): boolean {
    this.#ring.add(1)
    return this.#due()
  }

  clear(): void {
    this.#ring.clear()
  }

  #due(): boolean {
    const { calls, failures } = this.#ring
    // A quotient, not a product: of two whole numbers it is the double that the rate is written as.
    return calls >= this.#minimumCalls && failures / calls >= this.#failureRate
  }
}

interface TimeWindow {
  readonly windowMs: number
  readonly buckets: number
  readonly failureRate: number
  readonly minimumCalls: number
  readonly slowCallRate: number
}

class TimeWindowCounter implements TripCounter {
  readonly #ring: TimeRing
  readonly #window: TimeWindow
  readonly #turn: TurnClock

  constructor(window: TimeWindow, turn: TurnClock) {
    this.#ring = new TimeRing(window.windowMs, window.buckets)
    this.#window = window
    this.#turn = turn
  }

  succeeded(slow: 0 | 1): boolean {
    const ring = this.#ring
    ring.add(this.#turn.now(), 0, slow)
    // The call that makes the minimum may be a good one.
    return (ring.failures > 0 || ring.slow > 0) && this.#due()
  }

  failed(slow: 0 | 1): boolean {
    this.#ring.add(this.#turn.now(), 1, slow)
    return this.#due()
  }

  clear(): void {
    this.#ring.clear()
  }

  #due(): boolean {
    const { calls, failures, slow } = this.#ring
    const { minimumCalls, failureRate, slowCallRate } = this.#window
    return calls >= minimumCalls && (failures / calls >= failureRate || slow / calls >= slowCallRate)
  }
}

function checkRate(field: string, value: number): number {
  if (typeof value !== 'number' || !(value > 0 && value <= 1)) {
    failOption(field, 'must be a number above 0, at most 1', value)
  }
  return value
}
