/** The parts of stats that every face of the engine shares. */
export interface BooksSnapshot {
  /** All that was offered: `succeeded + failed + dropped + rejected + aborted + pending`. */
  readonly offered: number
  /** What was done. */
  readonly succeeded: number
  /** What failed for good, what `close` abandoned included. */
  readonly failed: number
  /** What was dropped because there was no room. */
  readonly dropped: number
  /** What was refused: closed, full, invalid, too large, already aborted. */
  readonly rejected: number
  /** What its caller gave up, queued or in flight. */
  readonly aborted: number
  /** What was accepted and isn't settled yet. */
  readonly pending: number
  /** The part of `pending` that is being worked on. */
  readonly inFlight: number
}

/** The books of what makes calls: `offered = succeeded + failed + rejected + aborted + pending`. */
export interface CallCounts {
  /** All that was asked for. */
  readonly offered: number
  /** What was answered. */
  readonly succeeded: number
  /** What failed, what `close` gave up included. */
  readonly failed: number
  /** What was refused: closed, full, wrong, already aborted. */
  readonly rejected: number
  /** What its caller gave up. */
  readonly aborted: number
  /** What was accepted and isn't settled yet. */
  readonly pending: number
}

/** Percentiles of a latency, in milliseconds. */
export interface LatencySnapshot {
  /** Half were at most this long. */
  readonly p50: number
  /** 95 of 100 were at most this long. */
  readonly p95: number
  /** 99 of 100 were at most this long. */
  readonly p99: number
  /** The longest. */
  readonly max: number
}

/** The distribution of batch sizes. */
export interface BatchSizeSnapshot {
  /** The mean. */
  readonly mean: number
  /** Half were at most this large. */
  readonly p50: number
  /** 95 of 100 were at most this large. */
  readonly p95: number
  /** The largest. */
  readonly max: number
}

/** The stats that every face of the engine has. */
export interface BatchStats extends BooksSnapshot {
  /** The component's name. */
  readonly name: string
  /** Batches that hold a slot. */
  readonly inFlightBatches: number
  /** Batches that were dispatched. */
  readonly batches: number
  /** Retries that were decided on; one isn't made when every caller gives up before it. */
  readonly retries: number
  /** Attempts that took longer than `timeoutMs`. */
  readonly timeouts: number
  /** Of those, attempts that were still running when `timeoutGraceMs` had passed too. */
  readonly overruns: number
  /** How large the batches were. */
  readonly batchSize: BatchSizeSnapshot
  /** From acceptance until settled, in milliseconds. */
  readonly latencyMs: LatencySnapshot
}
