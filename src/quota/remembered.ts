/** The latest of what was seen, up to a number. */
export class Remembered<T> {
  readonly #capacity: number
  readonly #entries = new Map<string, T>()
  /**
   * Stands in front of the oldest entry, all before it being gone. A fresh iterator would step over the places of all that was
   * deleted before, again and again.
   */
  readonly #oldest = this.#entries.keys()

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get size(): number {
    return this.#entries.size
  }

  get(id: string): T | undefined {
    return this.#entries.get(id)
  }

  /** Adds an entry as the latest, and forgets the oldest beyond its capacity. */
  add(id: string, value: T): void {
    this.#entries.delete(id)
    this.#entries.set(id, value)
    if (this.#entries.size > this.#capacity) this.#entries.delete(this.#oldest.next().value as string)
  }

  delete(id: string): void {
    this.#entries.delete(id)
  }
}
