import type { LatencySnapshot } from '../core/stats.js'
import { Histogram } from '../internal/histogram.js'
import type { MultiLevelCacheStats } from './multi-level-cache-events.js'

/** What became of loads, each key once: `started = succeeded + failed + running`. */
export class LoadCounts {
  started = 0
  background = 0
  fenced = 0
  unstorable = 0
  #succeeded = 0
  #failed = 0
  #timedOut = 0
  readonly #durations = new Histogram()

  succeed(durationMs: number): void {
    this.#succeeded++
    this.#durations.record(durationMs)
  }

  fail(durationMs: number, timedOut: boolean): void {
    this.#failed++
    if (timedOut) this.#timedOut++
    this.#durations.record(durationMs)
  }

  counts(): MultiLevelCacheStats['loads'] {
    const { started, background, fenced, unstorable } = this
    const succeeded = this.#succeeded
    const failed = this.#failed
    const running = started - succeeded - failed
    return { started, succeeded, failed, running, timedOut: this.#timedOut, fenced, background, unstorable }
  }

  latencyMs(): LatencySnapshot {
    const { max } = this.#durations
    const at = (share: number): number => this.#durations.percentile(share)
    return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max }
  }
}
