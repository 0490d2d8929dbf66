import type { FlushReport } from '../../core/component.js'
import type { LatencySnapshot } from '../../core/stats.js'
import { latencyOf } from '../../internal/batch-books.js'
import { Histogram } from '../../internal/histogram.js'
import type { Taken } from './usage-stream-lot.js'

/** How an entry that was in hand ended. */
export type UsageOutcome = 'applied' | 'dead' | 'elsewhere' | 'returned'

/** What a worker was delivered and what became of it: `delivered = applied + dead + elsewhere + returned + pending`. */
export class UsageBooks {
  delivered = 0
  applied = 0
  dead = 0
  elsewhere = 0
  returned = 0
  pending = 0
  redelivered = 0
  readonly #latencyUs = new Histogram()
  readonly #flushes = new Set<Flush>()

  get latencyMs(): LatencySnapshot {
    return latencyOf(this.#latencyUs)
  }

  deliver(entries: readonly Taken[], now: number): void {
    this.delivered += entries.length
    this.pending += entries.length
    for (const entry of entries) {
      entry.at = now
      if (entry.earlier > 0) this.redelivered++
    }
  }

  settle(entry: Taken, outcome: UsageOutcome, now: number): void {
    this.pending--
    this[outcome]++
    if (outcome !== 'returned') this.#latencyUs.record((now - entry.at) * 1000)
    for (const flush of this.#flushes) if (flush.settle(entry, outcome)) this.#flushes.delete(flush)
  }

  /** Resolves once these are settled. */
  flush(entries: readonly Taken[]): Promise<FlushReport> {
    if (entries.length === 0) return Promise.resolve({ succeeded: 0, failed: 0, dropped: 0 })
    const flush = new Flush(entries)
    this.#flushes.add(flush)
    return flush.done
  }
}

/** One call of `flush`: what it waits for, and what became of it. */
class Flush {
  readonly done: Promise<FlushReport>
  readonly #left: Set<Taken>
  #succeeded = 0
  #failed = 0
  #resolve!: (report: FlushReport) => void

  constructor(entries: readonly Taken[]) {
    this.#left = new Set(entries)
    this.done = new Promise((resolve) => {
      this.#resolve = resolve
    })
  }

  /** Whether that was the last one. */
  settle(entry: Taken, outcome: UsageOutcome): boolean {
    if (!this.#left.delete(entry)) return false
    if (outcome === 'applied') this.#succeeded++
    if (outcome === 'dead') this.#failed++
    if (this.#left.size > 0) return false
    this.#resolve({ succeeded: this.#succeeded, failed: this.#failed, dropped: 0 })
    return true
  }
}
