import type { Clock } from '../../core/clock.js'
import type { FlushReport } from '../../core/component.js'
import type { LatencySnapshot } from '../../core/stats.js'
import { type Deferred, deferred } from '../../internal/deferred.js'
import { Histogram } from '../../internal/histogram.js'

/** How a request that was accepted ended. */
export type Outcome = 'succeeded' | 'failed' | 'aborted'

/** The part of the stats that must balance: `offered = succeeded + failed + rejected + aborted + pending`. */
export interface HttpCounts {
  /** All requests that were asked for. */
  readonly offered: number
  /** Those that were answered, whatever the status, unless it was thrown. */
  readonly succeeded: number
  /** Those that failed, what `close` gave up included. */
  readonly failed: number
  /** Those that were refused: closed, full, wrong, already aborted. */
  readonly rejected: number
  /** Those that their caller gave up. */
  readonly aborted: number
  /** Those that were accepted and aren't settled yet; a streamed one is until its body has ended. */
  readonly pending: number
}

/** One `flush` that waits for what was open when it began. */
interface Watch {
  readonly done: Deferred<FlushReport>
  readonly open: Set<object>
  succeeded: number
  failed: number
}

/** What was asked for and what became of it: each request in it once, so that the books balance at every moment. */
export class RequestBooks<Entry extends { readonly at: number }> {
  readonly #clock: Clock
  readonly #open = new Set<Entry>()
  readonly #watches = new Set<Watch>()
  readonly #latency = new Histogram()
  readonly #ended: Record<Outcome, number> = { succeeded: 0, failed: 0, aborted: 0 }
  #rejected = 0
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
  }

  reject(): void {
    this.#rejected++
  }

  /** Settles an entry; returns false if it was settled before. */
  settle(entry: Entry, outcome: Outcome): boolean {
    if (!this.#open.delete(entry)) return false
    this.#ended[outcome]++
    if (outcome !== 'aborted') this.#latency.record(this.#clock.now() - entry.at)
    for (const watch of this.#watches) {
      if (!watch.open.delete(entry)) continue
      if (outcome !== 'aborted') watch[outcome]++
      if (watch.open.size > 0) continue
      this.#watches.delete(watch)
      watch.done.resolve({ succeeded: watch.succeeded, failed: watch.failed, dropped: 0 })
    }
    if (this.#open.size === 0) this.#emptied?.resolve()
    return true
  }

  /** Resolves once all that is open now is settled. */
  flush(): Promise<FlushReport> {
    if (this.#open.size === 0) return Promise.resolve({ succeeded: 0, failed: 0, dropped: 0 })
    const watch: Watch = { done: deferred(), open: new Set(this.#open), succeeded: 0, failed: 0 }
    this.#watches.add(watch)
    return watch.done.promise
  }

  /** Resolves once nothing is open. */
  empty(): Promise<void> {
    if (this.#open.size === 0) return Promise.resolve()
    this.#emptied ??= deferred()
    return this.#emptied.promise
  }

  counts(): HttpCounts {
    const { succeeded, failed, aborted } = this.#ended
    const pending = this.#open.size
    const rejected = this.#rejected
    return { offered: succeeded + failed + rejected + aborted + pending, succeeded, failed, rejected, aborted, pending }
  }

  latencyMs(): LatencySnapshot {
    const { max } = this.#latency
    const at = (share: number): number => this.#latency.percentile(share)
    return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max }
  }
}
