/** What can be unwell: the sink, or Redis. */
export type UsageTrouble = 'sink' | 'redis'

interface HealthListener {
  onUnhealthy(reason: UsageTrouble, error: unknown): void
  onRecovered(): void
}

/** Counts failures in a row, by where they come from: the sink, or a shard of the stream. */
export class UsageHealth {
  readonly #limit: number
  readonly #listener: HealthListener
  readonly #failures = new Map<'sink' | number, number>()
  readonly #unwell = new Set<'sink' | number>()

  /** @param limit - how many failures in a row make it unhealthy. */
  constructor(limit: number, listener: HealthListener) {
    this.#limit = limit
    this.#listener = listener
  }

  get healthy(): boolean {
    return this.#unwell.size === 0
  }

  isWell(source: 'sink' | number): boolean {
    return !this.#unwell.has(source)
  }

  fail(source: 'sink' | number, error: unknown): void {
    const failures = (this.#failures.get(source) ?? 0) + 1
    this.#failures.set(source, failures)
    if (failures < this.#limit || this.#unwell.has(source)) return
    this.#unwell.add(source)
    this.#listener.onUnhealthy(source === 'sink' ? 'sink' : 'redis', error)
  }

  succeed(source: 'sink' | number): void {
    this.#failures.delete(source)
    if (this.#unwell.delete(source) && this.#unwell.size === 0) this.#listener.onRecovered()
  }
}
