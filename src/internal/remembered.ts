/** How many deletions in a row may leave their places behind, at least. */
const minStale = 64

/** The latest of what was seen, up to a number. */
export class Remembered<T> {
  readonly #capacity: number
  readonly #entries = new Map<string, T>()
  /**
   * Stands in front of the oldest entry, all before it being gone. A fresh iterator would step over the places of all that was
   * deleted before, again and again.
   */
  #oldest = this.#entries.keys()
  /** How many entries were deleted since the iterator last moved: it keeps every table alive that the map has outgrown since. */
  #stale = 0

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
    this.delete(id)
    this.#entries.set(id, value)
    if (this.#entries.size <= this.#capacity) return
    this.#entries.delete(this.#oldest.next().value as string)
    this.#stale = 0
  }

  delete(id: string): void {
    if (!this.#entries.delete(id) || ++this.#stale <= Math.max(minStale, this.#entries.size)) return
    this.#oldest = this.#entries.keys()
    this.#stale = 0
  }
}
