import type { LatencySnapshot } from '../../core/stats.js'
import { Histogram } from '../../internal/histogram.js'
import type { StatementOrder, StatementStats } from './slow-query-log-options.js'

/** Durations in microseconds, told in milliseconds: most queries take less than one. */
export class Durations {
  readonly #histogram = new Histogram()

  record(ms: number): void {
    this.#histogram.record(ms * 1000)
  }

  share(share: number): number {
    return this.#histogram.percentile(share) / 1000
  }

  get max(): number {
    return this.#histogram.max / 1000
  }

  snapshot(): LatencySnapshot {
    return { p50: this.share(0.5), p95: this.share(0.95), p99: this.share(0.99), max: this.max }
  }
}

interface Numbers {
  readonly text: string
  count: number
  failed: number
  slow: number
  rows: number
  totalMs: number
  readonly durations: Durations
}

/** The numbers of statements by their text; the one that wasn't seen for the longest time makes room for a new one. */
export class StatementNumbers {
  readonly #max: number
  readonly #maxLength: number
  /** In the order in which they were last seen. */
  readonly #numbers = new Map<string, Numbers>()
  #evicted = 0

  constructor(max: number, maxLength: number) {
    this.#max = max
    this.#maxLength = maxLength
  }

  get size(): number {
    return this.#numbers.size
  }

  get evicted(): number {
    return this.#evicted
  }

  record(text: string, durationMs: number, slow: boolean, failed: boolean, rows: number): void {
    const key = text.length > this.#maxLength ? shortened(text, this.#maxLength) : text
    let numbers = this.#numbers.get(key)
    if (numbers === undefined) {
      if (this.#numbers.size >= this.#max) this.#evict()
      numbers = { text: key, count: 0, failed: 0, slow: 0, rows: 0, totalMs: 0, durations: new Durations() }
    } else this.#numbers.delete(key)
    this.#numbers.set(key, numbers)
    numbers.count++
    if (failed) numbers.failed++
    if (slow) numbers.slow++
    numbers.rows += rows
    numbers.totalMs += durationMs
    numbers.durations.record(durationMs)
  }

  top(order: StatementOrder, limit: number): StatementStats[] {
    const amountOf = amounts[order]
    return [...this.#numbers.values()]
      .map((numbers) => ({ numbers, amount: amountOf(numbers) }))
      .sort((a, b) => b.amount - a.amount)
      .slice(0, limit)
      .map(({ numbers: { durations, ...counts } }) => ({
        ...counts,
        meanMs: counts.totalMs / counts.count,
        latencyMs: durations.snapshot(),
      }))
  }

  #evict(): void {
    for (const oldest of this.#numbers.keys()) {
      this.#numbers.delete(oldest)
      this.#evicted++
      return
    }
  }
}

const amounts: Readonly<Record<StatementOrder, (numbers: Numbers) => number>> = {
  total: ({ totalMs }) => totalMs,
  count: ({ count }) => count,
  mean: ({ totalMs, count }) => totalMs / count,
  p95: ({ durations }) => durations.share(0.95),
  p99: ({ durations }) => durations.share(0.99),
  max: ({ durations }) => durations.max,
  failed: ({ failed }) => failed,
  slow: ({ slow }) => slow,
}

/** A copy: a slice of a string keeps the whole of it in memory. */
function shortened(text: string, length: number): string {
  return Buffer.from(text.slice(0, length), 'utf16le').toString('utf16le')
}
