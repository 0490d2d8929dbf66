import type { Clock } from '../core/clock.js'

const shared = new WeakMap<Clock, TurnClock>()

/**
 * A clock that is read once a turn of the event loop. A clock read costs as much as all else on a hot path, and within
 * one turn the time that matters, when the turn's input came in, is the same for every call.
 */
export class TurnClock {
  readonly #clock: Clock
  #read = false
  #now = 0
  #wallRead = false
  #wallNow = 0
  /** Changes when a turn ends in which the clock was read: as long as it is the same, so is `now()`. */
  turn = 0

  private constructor(clock: Clock) {
    this.#clock = clock
  }

  /** The one that all components on this clock share, so that a turn costs one read in all. */
  static of(clock: Clock): TurnClock {
    let turnClock = shared.get(clock)
    if (turnClock === undefined) {
      turnClock = new TurnClock(clock)
      shared.set(clock, turnClock)
    }
    return turnClock
  }

  /** Monotonic milliseconds, as of the first call in this turn. */
  now(): number {
    return this.#read ? this.#now : this.#readClock()
  }

  /** Milliseconds since the epoch, as of the first call in this turn. */
  wallNow(): number {
    return this.#wallRead ? this.#wallNow : this.#readWallClock()
  }

  #readClock(): number {
    if (!this.#wallRead) this.#clock.defer(this.#forget)
    this.#now = this.#clock.now()
    this.#read = true
    return this.#now
  }

  #readWallClock(): number {
    if (!this.#read) this.#clock.defer(this.#forget)
    this.#wallNow = this.#clock.wallNow()
    this.#wallRead = true
    return this.#wallNow
  }

  readonly #forget = (): void => {
    this.#read = false
    this.#wallRead = false
    this.turn++
  }
}
