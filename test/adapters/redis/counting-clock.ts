import { type Clock, systemClock } from 'spillway'

/** The system's clock, which knows how many of its timers haven't fired. */
export class CountingClock implements Clock {
  readonly #timers = new Set<object>()

  get pending(): number {
    return this.#timers.size
  }

  readonly now = systemClock.now
  readonly wallNow = systemClock.wallNow
  readonly defer = systemClock.defer

  setTimer(callback: () => void, delayMs: number, options?: { keepAlive?: boolean }): () => void {
    const timer = {}
    this.#timers.add(timer)
    const cancel = systemClock.setTimer(
      () => {
        this.#timers.delete(timer)
        callback()
      },
      delayMs,
      options,
    )
    return () => {
      this.#timers.delete(timer)
      cancel()
    }
  }
}
