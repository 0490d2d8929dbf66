import type { ComponentOptions } from '../core/component.js'
import type { Overflow } from '../core/options.js'
import type { RetryOptions } from '../core/retry.js'
import type { BatchStats } from '../core/stats.js'

/** Options of `AsyncLogBuffer`. */
export interface AsyncLogBufferOptions extends ComponentOptions {
  /**
   * The most lines that wait to be handed to the sink. In flight there is at most one chunk more.
   * @defaultValue 1000
   */
  capacity?: number | undefined
  /**
   * What happens to a line when there is no room: `'drop-newest'` drops it, `'drop-oldest'` drops what has waited longest, and either
   * way the log says later how many; `'reject'` refuses it, and it is the caller's to deal with.
   * @defaultValue 'drop-newest'
   */
  overflow?: Overflow | undefined
  /**
   * Whether what is there leaves at the end of the current turn while nothing is in flight, instead of waiting for a full chunk or
   * `maxWaitMs`. Under load, lines gather while the chunk before them is written.
   * @defaultValue true
   */
  eager?: boolean | undefined
  /**
   * The longest that a chunk waits for more lines, in milliseconds from its first one. It matters where `eager` is false: otherwise a
   * chunk waits for nothing but the one before it.
   * @defaultValue 100
   */
  maxWaitMs?: number | undefined
  /**
   * How large a chunk gets before it is handed over, in UTF-16 code units: for ASCII those are bytes, other text takes up to three
   * times as many. Reached while nothing is in flight, the chunk leaves within the turn. A longer line is a chunk of its own.
   * @defaultValue 65_536
   */
  maxBatchBytes?: number | undefined
  /**
   * How chunks are tried again that the sink rejected; by default they aren't. Only for sinks of which a rejected chunk has left
   * nothing behind; one whose outcome is unknown is never tried again.
   * @defaultValue { attempts: 1, delayMs: 100, maxDelayMs: 30_000 }
   */
  retry?: RetryOptions | undefined
  /**
   * How important a line is, a higher number more so: when there is no room, the least important lines go first, and among equals
   * `overflow` decides. Only asked when lines have to go, once a line; if it throws or answers no number, the line stays as long as
   * any. Not with `overflow: 'reject'`.
   */
  levelOf?: ((line: string) => number) | undefined
  /**
   * The line that the log itself gets after lines were lost, be it for want of room or with a chunk that failed. The default is JSON as
   * pino writes it: `{"level":40,"time":1767225600000,"name":"async-log-buffer","dropped":42,"msg":"42 log lines were dropped"}`.
   * An empty text writes none. If it throws or answers no string, the default is written, and a warning says so once.
   */
  onDropLine?: ((count: number) => string) | undefined
}

/**
 * Events of `AsyncLogBuffer`. A listener may write to the same log; such lines are written in chunks of their own and have no events,
 * so that a failing sink isn't told of itself for ever. What a listener writes later, after an `await`, is a line like any other.
 */
export interface AsyncLogBufferEvents {
  /** A chunk was handed over to the sink. */
  written: { readonly lines: number; readonly attempts: number; readonly durationMs: number }
  /** The sink rejected a chunk, and it will be tried again after `delayMs`. */
  retried: { readonly attempt: number; readonly delayMs: number; readonly error: unknown }
  /** A chunk failed for good, or was given up by `close`. These lines are in nobody's hands now. */
  failed: { readonly lines: readonly string[]; readonly attempts: number; readonly error: unknown }
  /** A line was dropped for want of room. */
  dropped: { readonly line: string; readonly reason: 'drop-newest' | 'drop-oldest' }
  /** A line was refused: the buffer is full or closed, or it was no string. */
  rejected: { readonly line: unknown; readonly error: unknown }
}

/** Stats of `AsyncLogBuffer`, in lines. */
export interface AsyncLogBufferStats extends BatchStats {
  /** Lines in the log that say how many were lost. They are in none of the other counts. */
  readonly dropLines: number
  /** Lines that were dropped or failed and of which the log doesn't tell yet. */
  readonly untoldDrops: number
}
