import type { Clock } from '../core/clock.js'

/** The time that something may take in all, whatever each of its parts may take. */
export class Deadline {
  readonly #clock: Clock
  readonly #at: number
  #passed: Promise<undefined> | undefined
  #cancelTimer: (() => void) | undefined

  constructor(clock: Clock, limitMs: number) {
    this.#clock = clock
    this.#at = clock.now() + limitMs
  }

  get isOver(): boolean {
    return this.#clock.now() >= this.#at
  }

  /** Settles as the work does, or answers with undefined when the time is over. The timer is only set where this is called. */
  within<T>(work: Promise<T>): Promise<T | undefined> {
    this.#passed ??= new Promise((resolve) => {
      const leftMs = Math.max(0, this.#at - this.#clock.now())
      this.#cancelTimer = this.#clock.setTimer(() => resolve(undefined), leftMs)
    })
    return Promise.race([work, this.#passed])
  }

  /** Nobody waits any more. */
  end(): void {
    this.#cancelTimer?.()
  }
}
