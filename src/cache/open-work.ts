import type { FlushReport } from '../core/component.js'

/** How many keys something was about that was accepted, and how it ended. */
export interface WorkOutcome {
  readonly succeeded: number
  readonly failed: number
}

const nothing: WorkOutcome = { succeeded: 0, failed: 0 }

/** Something that can be given up. */
export interface Abandonable {
  /** Returns how many wait for it who aren't in the books of reads. */
  abandon(error: unknown): number
}

/** A read of one key: it says itself when it has ended, since a promise for that would cost as much as the rest. */
export interface OpenRead {
  readonly outcome: Promise<unknown>
  fail(error: unknown): void
}

/** What a cache has accepted and not settled: loads, reads of the shared tier, and writes. */
export class OpenWork {
  readonly #open = new Map<Promise<WorkOutcome>, Abandonable | undefined>()
  readonly #reads = new Set<OpenRead>()

  /**
   * Keeps hold of some work until it has ended; it must not reject.
   *
   * @returns resolves once it is no longer open.
   */
  track(work: Promise<WorkOutcome | undefined>, owner?: Abandonable): Promise<void> {
    const tracked = work.then((outcome) => outcome ?? nothing)
    this.#open.set(tracked, owner)
    return tracked.then(() => void this.#open.delete(tracked))
  }

  /** Keeps hold of a read until `end` is called. */
  begin(read: OpenRead): void {
    this.#reads.add(read)
  }

  end(read: OpenRead): void {
    this.#reads.delete(read)
  }

  /** Resolves once all that is open now has ended, and says how. */
  async settled(): Promise<FlushReport> {
    const [outcomes] = await Promise.all([Promise.all(this.#open.keys()), this.#readsEnded()])
    const sum = (pick: (outcome: WorkOutcome) => number): number => outcomes.reduce((so, one) => so + pick(one), 0)
    return { succeeded: sum((one) => one.succeeded), failed: sum((one) => one.failed), dropped: 0 }
  }

  /** Resolves once nothing is open. */
  async empty(): Promise<void> {
    while (this.#open.size > 0 || this.#reads.size > 0) {
      await Promise.all([Promise.all(this.#open.keys()), this.#readsEnded()])
    }
  }

  abandon(error: unknown): number {
    let abandoned = 0
    for (const owner of this.#open.values()) abandoned += owner?.abandon(error) ?? 0
    for (const read of this.#reads) read.fail(error)
    return abandoned
  }

  #readsEnded(): Promise<unknown> {
    return Promise.allSettled(Array.from(this.#reads, ({ outcome }) => outcome))
  }
}
