import type { Clock } from '../core/clock.js'
import type { FlushReport } from '../core/component.js'
import type { CallCounts, LatencySnapshot } from '../core/stats.js'
import { type Deferred, deferred } from './deferred.js'
import { Histogram } from './histogram.js'

/** How something that was accepted ended; `rejected` is what turned out to have no place to go to. */
export type Outcome = 'succeeded' | 'failed' | 'aborted' | 'rejected'

/** Something accepted and not yet settled. */
export interface OpenEntry {
  /** When it was accepted. */
  readonly at: number
  /** How many it stands for; one where it says nothing. */
  count?: number
}

/** One `flush` that waits for what was open when it began. */
class Watch {
  readonly done: Deferred<FlushReport> = deferred()
  readonly #open: Set<OpenEntry>
  #succeeded = 0
  #failed = 0

  constructor(open: Iterable<OpenEntry>) {
    this.#open = new Set(open)
  }

  /** Returns whether there is nothing left to wait for. */
  note(entry: OpenEntry, outcome: Outcome): boolean {
    if (!this.#open.delete(entry)) return false
    if (outcome === 'succeeded') this.#succeeded += countOf(entry)
    else if (outcome === 'failed') this.#failed += countOf(entry)
    if (this.#open.size > 0) return false
    this.done.resolve({ succeeded: this.#succeeded, failed: this.#failed, dropped: 0 })
    return true
  }
}

/** What was offered and what became of it: each entry in it once, so that the books balance at every moment. */
export class CallBooks<Entry extends OpenEntry> {
  readonly #clock: Clock
  readonly #open = new Set<Entry>()
  #pending = 0
  readonly #latency = new Histogram()
  readonly #watches = new Set<Watch>()
  readonly #ended: Record<Outcome, number> = { succeeded: 0, failed: 0, aborted: 0, rejected: 0 }
  #emptied: Deferred<void> | undefined

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** What isn't settled, in the order in which it came. */
  get open(): ReadonlySet<Entry> {
    return this.#open
  }

  accept(entry: Entry): void {
    this.#open.add(entry)
    this.#pending += countOf(entry)
  }

  /** Lets an open entry stand for one more, which came and will be settled with it. A `flush` before must not wait for it. */
  acceptAnother(entry: Entry): void {
    entry.count = countOf(entry) + 1
    this.#pending++
  }

  reject(): void {
    this.#ended.rejected++
  }

  /** Settles an entry; returns false if it was settled before. */
  settle(entry: Entry, outcome: Outcome): boolean {
    if (!this.#open.delete(entry)) return false
    const count = countOf(entry)
    this.#pending -= count
    this.#ended[outcome] += count
    if (outcome === 'succeeded' || outcome === 'failed') this.#latency.record(this.#clock.now() - entry.at, count)
    for (const watch of this.#watches) if (watch.note(entry, outcome)) this.#watches.delete(watch)
    if (this.#open.size === 0) this.#emptied?.resolve()
    return true
  }

  /** Resolves once all that is open now is settled. */
  flush(): Promise<FlushReport> {
    if (this.#open.size === 0) return Promise.resolve({ succeeded: 0, failed: 0, dropped: 0 })
    const watch = new Watch(this.#open)
    this.#watches.add(watch)
    return watch.done.promise
  }

  /** Resolves once nothing is open. */
  empty(): Promise<void> {
    if (this.#open.size === 0) return Promise.resolve()
    this.#emptied ??= deferred()
    return this.#emptied.promise
  }

  counts(): CallCounts {
    const { succeeded, failed, aborted, rejected } = this.#ended
    const pending = this.#pending
    return { offered: succeeded + failed + rejected + aborted + pending, succeeded, failed, rejected, aborted, pending }
  }

  latencyMs(): LatencySnapshot {
    const { max } = this.#latency
    const at = (share: number): number => this.#latency.percentile(share)
    return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max }
  }
}

function countOf(entry: OpenEntry): number {
  return entry.count ?? 1
}
