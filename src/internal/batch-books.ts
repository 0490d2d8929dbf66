import type { FlushReport } from '../core/component.js'
import type { BatchStats, BooksSnapshot, LatencySnapshot } from '../core/stats.js'
import { type Deferred, deferred } from './deferred.js'
import { Histogram } from './histogram.js'
import { LinkedList } from './linked-list.js'

/** How accepted work can end. */
export type Outcome = 'succeeded' | 'failed' | 'dropped' | 'aborted'

/** What was accepted in the same turn and between the same two flushes: shared, so that an entry carries one pointer. */
export interface Cohort {
  /** When it was accepted, on the component's monotonic clock. */
  readonly at: number
  /** Between which flushes. */
  readonly epoch: Epoch
}

/** What was accepted between two flushes. A flush waits for its epoch and all before it. */
export class Epoch {
  pending = 0
  succeeded = 0
  failed = 0
  dropped = 0
  aborted = 0
  /** The flush that ended this epoch, and how the books stood when it was called. */
  flush: { readonly done: Deferred<FlushReport>; readonly before: FlushReport } | undefined
}

/**
 * The engine's counters. Each outcome is recorded in one place, so that stats and flush reports can't disagree; `queued`
 * and `inFlight` are counted on their own and not derived, so that a test of the balance proves something.
 */
export class Books {
  offered = 0
  rejected = 0
  /** Refused for want of room under `drop-newest`: dropped, but never accepted. */
  droppedAtEntry = 0
  queued = 0
  inFlight = 0
  readonly accepted: Record<Outcome, number> = { succeeded: 0, failed: 0, dropped: 0, aborted: 0 }
  readonly latencyUs: Histogram = new Histogram()
  readonly batchSizes: Histogram = new Histogram()
  batches = 0
  retries = 0
  timeouts = 0
  overruns = 0
  epoch: Epoch = new Epoch()

  /** Epochs that a flush has ended and that aren't settled yet, oldest first. */
  readonly #flushed = new LinkedList<Epoch>()
  /** The outcomes of all epochs that are settled and gone. */
  readonly #gone = { succeeded: 0, failed: 0, dropped: 0 }

  /** Records how work of one epoch ended. */
  settle(epoch: Epoch, outcome: Outcome, units: number): void {
    this.accepted[outcome] += units
    epoch[outcome] += units
    epoch.pending -= units
    if (epoch.pending === 0 && epoch.flush !== undefined) this.#endEpochs()
  }

  /** Waits for all that is pending now, and counts what becomes of it. */
  flush(): Promise<FlushReport> {
    const done = deferred<FlushReport>()
    const { succeeded, failed, dropped } = this.accepted
    this.epoch.flush = { done, before: { succeeded, failed, dropped } }
    this.#flushed.push(this.epoch)
    this.epoch = new Epoch()
    this.#endEpochs()
    return done.promise
  }

  snapshot(): BooksSnapshot {
    const { succeeded, failed, dropped, aborted } = this.accepted
    return {
      offered: this.offered,
      succeeded,
      failed,
      dropped: dropped + this.droppedAtEntry,
      rejected: this.rejected,
      aborted,
      pending: this.queued + this.inFlight,
      inFlight: this.inFlight,
    }
  }

  /** What every face's `stats()` begins with. */
  stats(name: string, inFlightBatches: number): BatchStats {
    const sizes = this.batchSizes
    return {
      name,
      ...this.snapshot(),
      inFlightBatches,
      batches: this.batches,
      retries: this.retries,
      timeouts: this.timeouts,
      overruns: this.overruns,
      batchSize: { mean: sizes.mean, p50: sizes.percentile(0.5), p95: sizes.percentile(0.95), max: sizes.max },
      latencyMs: latencyOf(this.latencyUs),
    }
  }

  #endEpochs(): void {
    // In order: a flush covers every epoch before its own, so the sum of what is gone is what all of them came to.
    for (let head = this.#flushed.first; head !== undefined && head.pending === 0; head = this.#flushed.first) {
      this.#flushed.shift()
      const gone = this.#gone
      gone.succeeded += head.succeeded
      gone.failed += head.failed
      gone.dropped += head.dropped
      const { done, before } = head.flush as NonNullable<Epoch['flush']>
      done.resolve({
        succeeded: gone.succeeded - before.succeeded,
        failed: gone.failed - before.failed,
        dropped: gone.dropped - before.dropped,
      })
    }
  }
}

/** Reads a histogram of microseconds. */
export function latencyOf(histogram: Histogram): LatencySnapshot {
  return {
    p50: histogram.percentile(0.5) / 1000,
    p95: histogram.percentile(0.95) / 1000,
    p99: histogram.percentile(0.99) / 1000,
    max: histogram.max / 1000,
  }
}
