import type { Clock } from '../../core/clock.js'

/** What a server's clock says, going by what it said last. Wrong by half a round trip at the most, unless that clock was set. */
export class ServerTime {
  readonly #clock: Clock
  /** What the server's clock, in milliseconds, is ahead of ours. */
  #aheadMs: number | undefined
  #uncertaintyMs = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Whether it said anything yet. */
  get known(): boolean {
    return this.#aheadMs !== undefined
  }

  /** The server's time, in microseconds, came in the answer to what was sent then. */
  observe(micros: number, sentMs: number): void {
    const now = this.#clock.now()
    this.#uncertaintyMs = (now - sentMs) / 2
    this.#aheadMs = micros / 1000 - (now - this.#uncertaintyMs)
  }

  /** For how long something has been so, in milliseconds; 0 where that can't be told. */
  ageMs(micros: number): number {
    if (this.#aheadMs === undefined) return 0
    return Math.max(0, this.#clock.now() + this.#aheadMs - micros / 1000)
  }

  /** The time, in microseconds, at which a call that is sent now is too late. */
  deadline(timeoutMs: number): number {
    return Math.ceil((this.#clock.now() + (this.#aheadMs ?? 0) + timeoutMs + this.#uncertaintyMs) * 1000)
  }
}
