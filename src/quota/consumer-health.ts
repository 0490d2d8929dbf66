/** Why a consumer isn't well: its sink fails again and again, or there is no room. */
export type HealthReason = 'failing' | 'full'

interface HealthListener {
  unhealthy(reason: HealthReason, error: unknown): void
  recovered(reason: HealthReason): void
}

/** Whether a consumer does its work. */
export class ConsumerHealth {
  readonly #unhealthyAfter: number
  readonly #capacity: number
  readonly #listener: HealthListener
  #failedInARow = 0
  #lastError: unknown
  #full = false

  /**
   * @param unhealthyAfter - how many failed attempts in a row are too many.
   * @param capacity - how many events may wait.
   */
  constructor(unhealthyAfter: number, capacity: number, listener: HealthListener) {
    this.#unhealthyAfter = unhealthyAfter
    this.#capacity = capacity
    this.#listener = listener
  }

  get healthy(): boolean {
    return this.#failedInARow < this.#unhealthyAfter && !this.#full
  }

  /** An attempt failed. */
  failed(error: unknown): void {
    this.#lastError = error
    if (++this.#failedInARow === this.#unhealthyAfter) this.#listener.unhealthy('failing', error)
  }

  /** A batch was written. */
  wrote(): void {
    const failing = this.#failedInARow >= this.#unhealthyAfter
    this.#failedInARow = 0
    this.#lastError = undefined
    if (failing) this.#listener.recovered('failing')
  }

  /** An event found no room. */
  foundFull(): void {
    if (this.#full) return
    this.#full = true
    this.#listener.unhealthy('full', this.#lastError)
  }

  /** Some of what waited has gone. Half of the room must be free again, so that it isn't well and unwell in turns. */
  queued(events: number): void {
    if (!this.#full || events > this.#capacity / 2) return
    this.#full = false
    this.#listener.recovered('full')
  }
}
