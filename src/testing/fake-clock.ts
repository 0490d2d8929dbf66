import type { Clock } from '../core/clock.js'
import { checkCount, checkDuration, checkOptions, failOption, valueOr } from '../core/options.js'
import { handled } from '../internal/deferred.js'

/** Options of {@link FakeClock}. */
export interface FakeClockOptions {
  /** The wall time at the start, in milliseconds since the epoch. The default is 2026-01-01T00:00:00Z. */
  wallMs?: number | undefined
}

/** Options of {@link FakeClock.until}. */
export interface UntilOptions {
  /**
   * How much time may pass, in milliseconds.
   * @defaultValue 86_400_000
   */
  maxMs?: number | undefined
  /**
   * How many steps may be taken: timers, deferred callbacks, calls of `advance` and `step`.
   * @defaultValue 1_000_000
   */
  maxSteps?: number | undefined
}

/** The defaults of {@link UntilOptions}. */
export const untilDefaults = { maxMs: 86_400_000, maxSteps: 1_000_000 } as const

/** Virtual time can't go on, or may not: what was waited for has not settled. */
export class StuckError extends Error {
  /**
   * Why: `'deadlock'`, nothing is left that could settle it; `'time'` or `'steps'`, it took more than it may.
   */
  readonly reason: 'deadlock' | 'time' | 'steps'

  constructor(reason: 'deadlock' | 'time' | 'steps', message: string) {
    super(message)
    this.reason = reason
  }

  /** The class's name. */
  override get name(): string {
    return 'StuckError'
  }
}

interface Timer {
  readonly at: number
  readonly order: number
  readonly callback: () => void
}

/** How many real turns without a timer go by before it is a deadlock: what waits for turns of the event loop is let through. */
const patientTurns = 8
const startOf2026 = 1_767_225_600_000
/** A timer that is set for later than any number is never due. */
const endOfTime = Number.MAX_VALUE

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
  /** The latest of the calls that move time, which run one after the other. */
  #moving: Promise<unknown> = Promise.resolve()
  /** How many calls of `advance` and `step` haven't ended. */
  #asked = 0
  #steps = 0
  /** The step after which each call of `until` gives up; one more than the steps that each allows is an error. */
  readonly #limits = new Set<{ readonly lastStep: number }>()
  #lastStep = Number.POSITIVE_INFINITY

  /** @throws OptionError when an option is wrong. */
  constructor(options: FakeClockOptions = {}) {
    checkOptions('options', options)
    this.#wallOffset = checkFinite('wallMs', valueOr<number>(options.wallMs, startOf2026))
  }

  now(): number {
    return this.#now
  }

  wallNow(): number {
    return this.#wallOffset + this.#now
  }

  /** @throws OptionError when the delay is no number: it would never be due, and time no number after it. */
  setTimer(callback: () => void, delayMs: number): () => void {
    const at = this.#now + Math.max(0, delayMs)
    if (Number.isNaN(at)) failOption('delayMs', 'must be a number', delayMs)
    const timer: Timer = { at, order: this.#order++, callback }
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

  /** How many timers, deferred callbacks and calls of `advance` and `step` have run: the same number whenever the same is done. */
  get steps(): number {
    return this.#steps
  }

  /**
   * Makes the wall clock jump; monotonic time and timers don't notice.
   *
   * @throws OptionError when the time is no finite number.
   */
  setWall(ms: number): void {
    this.#wallOffset = checkFinite('ms', ms) - this.#now
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
    return this.#ask(() => this.#advance(ms))
  }

  /**
   * Fires the next timer, whenever it is due, and ends a turn before and after it.
   *
   * @returns whether there was one. Rejects with what it, or what was deferred, threw.
   */
  step(): Promise<boolean> {
    return this.#ask(async () => {
      const errors = new FirstError()
      await this.#endTurn(errors)
      const timer = this.#nextTimer(endOfTime)
      if (timer !== undefined) await this.#fire(timer, errors)
      errors.throw()
      return timer !== undefined
    })
  }

  /**
   * Lets time pass, timer by timer, until something settles.
   *
   * @param work - what is waited for. Whoever works on it may move the clock too.
   * @returns what it resolves to. Rejects as it does, with what a timer or a deferred callback threw, or with a {@link StuckError} when no
   * timer is left or the limits are passed. Throws nothing.
   *
   * @example
   * ```ts
   * import { AsyncBatcher } from 'spillway'
   * import { FakeClock } from 'spillway/testing'
   *
   * const clock = new FakeClock()
   * const batcher = new AsyncBatcher(async (items: string[]) => items, { clock, eager: false, maxWaitMs: 50 })
   * await clock.until(batcher.add('a')) // 50 ms later
   * ```
   */
  async until<T>(work: T | PromiseLike<T>, options: UntilOptions = {}): Promise<T> {
    checkOptions('options', options)
    const maxMs = checkDuration(
      'maxMs',
      valueOr<number>(options.maxMs, untilDefaults.maxMs),
      0,
      Number.MAX_SAFE_INTEGER,
    )
    const maxSteps = checkCount('maxSteps', valueOr<number>(options.maxSteps, untilDefaults.maxSteps))
    const deadline = this.#now + maxMs
    let settled = false
    const settle = (): void => {
      settled = true
    }
    const waited = handled(Promise.resolve(work))
    waited.then(settle, settle)
    const lift = this.#limit(this.#steps + maxSteps)
    try {
      for (let idleTurns = 0; !settled; ) {
        const outcome = await this.#move(() => this.#stepToward(() => settled, deadline))
        if (outcome === 'late') throw new StuckError('time', `${maxMs} ms have passed, and it has not settled`)
        idleTurns = outcome === 'idle' ? idleTurns + 1 : 0
        if (idleTurns > patientTurns && !settled) {
          throw new StuckError('deadlock', `no timer is left at ${this.#now} ms, and it has not settled`)
        }
      }
    } finally {
      lift()
    }
    return waited
  }

  #limit(lastStep: number): () => void {
    const limit = { lastStep }
    const apply = (): void => {
      this.#lastStep = Math.min(...Array.from(this.#limits, (one) => one.lastStep))
    }
    this.#limits.add(limit)
    apply()
    return () => {
      this.#limits.delete(limit)
      apply()
    }
  }

  /** One step of `until`; none where it isn't needed any more, or where somebody else is about to move the clock. */
  async #stepToward(isSettled: () => boolean, deadline: number): Promise<'moved' | 'idle' | 'late' | 'settled'> {
    const errors = new FirstError()
    const before = this.#steps
    await this.#endTurn(errors)
    errors.throw()
    if (isSettled()) return 'settled'
    // Whoever works on it may have moved the clock.
    if (this.#now > deadline) return 'late'
    // What was deferred may have brought about more than time would.
    if (this.#steps > before || this.#asked > 0) return 'moved'
    const timer = this.#nextTimer(endOfTime)
    if (timer === undefined) return 'idle'
    if (timer.at > deadline) return 'late'
    await this.#fire(timer, errors)
    errors.throw()
    return 'moved'
  }

  #ask<T>(run: () => Promise<T>): Promise<T> {
    this.#asked++
    return this.#move(async () => {
      try {
        this.#countStep()
        return await run()
      } finally {
        this.#asked--
      }
    })
  }

  #move<T>(run: () => Promise<T>): Promise<T> {
    const moved = this.#moving.then(run)
    this.#moving = moved.catch(() => undefined)
    return moved
  }

  async #advance(ms: number): Promise<void> {
    const target = this.#now + ms
    const errors = new FirstError()
    await this.#endTurn(errors)
    for (let timer = this.#nextTimer(target); timer !== undefined; timer = this.#nextTimer(target)) {
      await this.#fire(timer, errors)
    }
    this.#now = target
    errors.throw()
  }

  async #fire(timer: Timer, errors: FirstError): Promise<void> {
    this.#timers.delete(timer)
    this.#now = Math.max(this.#now, timer.at)
    this.#countStep()
    errors.guard(timer.callback)
    await this.#endTurn(errors)
  }

  /** Settles promises and runs what was deferred, until both are quiet. */
  async #endTurn(errors: FirstError): Promise<void> {
    await settle()
    while (this.#deferred.length > 0) {
      const deferred = this.#deferred
      this.#deferred = []
      for (const callback of deferred) {
        this.#countStep()
        errors.guard(callback)
        // As after each immediate of a real turn.
        await settle()
      }
    }
  }

  #countStep(): void {
    if (++this.#steps <= this.#lastStep) return
    throw new StuckError('steps', `too many steps were taken by ${this.#now} ms, and it has not settled`)
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

function checkFinite(field: string, value: number): number {
  if (!Number.isFinite(value)) failOption(field, 'must be a finite number', value)
  return value
}

/** Runs callbacks, and keeps the first error of them. */
class FirstError {
  #thrown: { readonly error: unknown } | undefined

  guard(callback: () => void): void {
    try {
      callback()
    } catch (error) {
      this.#thrown ??= { error }
    }
  }

  throw(): void {
    if (this.#thrown !== undefined) throw this.#thrown.error
  }
}

/** Lets every microtask that is queued, and every one that those queue, run. */
function settle(): Promise<void> {
  return new Promise((resolve) => nextTurn(resolve))
}
