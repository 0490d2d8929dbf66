import type { Clock } from '../core/clock.js'
import { isSpillwayError } from '../core/errors.js'
import type { CallCounts, LatencySnapshot } from '../core/stats.js'
import { Histogram } from '../internal/histogram.js'

/** What a QuotaService is called for. */
export type QuotaOperation = 'check' | 'consume' | 'consume-sync' | 'reserve' | 'settle' | 'release'

type Outcome = 'succeeded' | 'failed' | 'rejected' | 'aborted'

/** Codes of errors that say no, and not that something broke. */
const refusals: readonly string[] = ['ERR_INVALID_EVENT', 'ERR_QUOTA_EXCEEDED', 'ERR_RESERVATION']

/** One call. */
export interface OpenCall {
  readonly operation: QuotaOperation
  readonly at: number
}

/** What calls came and what became of them: each is in it once, so that the books balance at every moment. */
export class QuotaBooks {
  readonly #clock: Clock
  readonly #ended: Record<Outcome, number> = { succeeded: 0, failed: 0, rejected: 0, aborted: 0 }
  readonly #checkMs = new Histogram()
  readonly #syncMs = new Histogram()
  #pending = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  open(operation: QuotaOperation): OpenCall {
    this.#pending++
    return { operation, at: this.#clock.now() }
  }

  /** Settles a call; each once. */
  close({ operation, at }: OpenCall, outcome: Outcome): void {
    this.#pending--
    this.#ended[outcome]++
    // What is only put into a buffer takes no time, and would hide what the rest takes.
    if (operation === 'consume' || outcome === 'aborted') return
    const histogram = operation === 'check' ? this.#checkMs : this.#syncMs
    histogram.record(this.#clock.now() - at)
  }

  counts(): CallCounts {
    const { succeeded, failed, rejected, aborted } = this.#ended
    const pending = this.#pending
    return { offered: succeeded + failed + rejected + aborted + pending, succeeded, failed, rejected, aborted, pending }
  }

  checkLatencyMs(): LatencySnapshot {
    return snapshotOf(this.#checkMs)
  }

  syncLatencyMs(): LatencySnapshot {
    return snapshotOf(this.#syncMs)
  }
}

/** How a call ended that ended with an error. */
export function outcomeOf(error: unknown, signal: AbortSignal | undefined): 'failed' | 'rejected' | 'aborted' {
  if (signal?.aborted && error === signal.reason) return 'aborted'
  return isSpillwayError(error) && refusals.includes(error.code) ? 'rejected' : 'failed'
}

function snapshotOf(histogram: Histogram): LatencySnapshot {
  const at = (share: number): number => histogram.percentile(share)
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: histogram.max }
}
