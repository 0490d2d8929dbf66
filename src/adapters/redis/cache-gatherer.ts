/** Something that a read of one key waits for. */
export interface GatheredRead<T> {
  readonly key: string
  readonly resolve: (answer: T) => void
  readonly reject: (error: unknown) => void
}

/**
 * Gathers reads of one key each: those of one bucket that are asked for together leave together. They leave when those who ask now have
 * all asked, that is when no promise is left to settle, and so still in the same turn of the event loop: a read that comes alone waits for
 * nobody.
 */
export class CacheGatherer<T> {
  readonly #capacity: number
  readonly #send: (bucket: number, reads: readonly GatheredRead<T>[]) => void
  /** What is still open, by bucket: a bucket neither waits for another one nor fails with it. */
  #open = new Map<number, GatheredRead<T>[]>()

  /**
   * @param capacity - how many leave together at most.
   * @param send - sends what was gathered. It must not throw.
   */
  constructor(capacity: number, send: (bucket: number, reads: readonly GatheredRead<T>[]) => void) {
    this.#capacity = capacity
    this.#send = send
  }

  /** Reads a key, with others of its bucket. */
  read(bucket: number, key: string): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#open.size === 0) process.nextTick(this.#flush)
      const reads = this.#open.get(bucket)
      const read = { key, resolve, reject }
      if (reads === undefined) {
        this.#open.set(bucket, [read])
      } else if (reads.length < this.#capacity) {
        reads.push(read)
      } else {
        this.#open.set(bucket, [read])
        this.#send(bucket, reads)
      }
    })
  }

  readonly #flush = (): void => {
    const open = this.#open
    this.#open = new Map()
    for (const [bucket, reads] of open) this.#send(bucket, reads)
  }
}
