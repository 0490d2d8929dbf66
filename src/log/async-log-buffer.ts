import { ClosableComponent, type FlushReport } from '../core/component.js'
import { FullError, InvalidEventError, StoreError } from '../core/errors.js'
import { warn } from '../core/events.js'
import {
  checkFunction,
  checkOptionalFunction,
  describeValue,
  failOption,
  type Overflow,
  valueOr,
} from '../core/options.js'
import type { LogSink } from '../core/ports.js'
import { resolveBatchOptions } from '../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../internal/batch-queue.js'
import type { AsyncLogBufferEvents, AsyncLogBufferOptions, AsyncLogBufferStats } from './async-log-buffer-options.js'
import { ended, LogChunk, linesOf, textOf } from './log-chunk.js'
import { WaitingLines } from './waiting-lines.js'

/**
 * Takes log lines without ever waiting, hands them to a sink in chunks, and says in the log itself what it had to drop.
 *
 * Lines gather while a chunk is being written, so that the load makes chunks larger and not the caller slower. When the sink can't
 * keep up, lines are dropped at `capacity`, the least important first where `levelOf` tells which those are, and one line tells how
 * many. It is a destination for pino, with its `flush(callback)`, `flushSync` and `reopen`, and by `asWritable` of `spillway/file` for a
 * `Console`. What waits is lost if the process is killed; `closeOnExit` of `spillway/process` leaves it on disk at every other end.
 *
 * The sink belongs to the caller: close it after the buffer.
 *
 * @example
 * ```ts
 * import pino from 'pino'
 * import { AsyncLogBuffer } from 'spillway'
 * import { FileSink } from 'spillway/file'
 *
 * const sink = new FileSink({ path: 'app.log' })
 * const log = new AsyncLogBuffer(sink)
 * const logger = pino(log)
 * logger.info('a line that nobody waits for')
 * await log.close()
 * await sink.close()
 * ```
 */
export class AsyncLogBuffer extends ClosableComponent<AsyncLogBufferEvents, AsyncLogBufferStats> {
  /** The options' defaults. */
  static readonly defaults = {
    capacity: 1000,
    overflow: 'drop-newest',
    eager: true,
    maxWaitMs: 100,
    maxBatchBytes: 65_536,
    retry: { attempts: 1, delayMs: 100, maxDelayMs: 30_000 },
  } as const

  readonly #sink: LogSink
  readonly #queue: BatchQueue<LogChunk>
  readonly #capacity: number
  readonly #maxBatchBytes: number
  readonly #overflow: Overflow
  readonly #onDropLine: ((count: number) => string) | undefined
  readonly #waiting: WaitingLines
  /** The chunk that lines of this turn join. */
  #open: LogChunk | undefined
  /** Lines that were lost and of which the log doesn't tell yet. */
  #lost = 0
  /** The chunk after which the first of them was lost; undefined where the next chunk is to tell of them first. */
  #lostAfter: LogChunk | undefined
  #dropLines = 0
  #telling = false
  #dropLineReported = false
  /** A synchronous flush in progress. */
  #sync: SyncFlush | undefined
  /** What the latest chunk that failed for good failed with. */
  #latestFailure: unknown

  /**
   * @param sink - where lines go, for instance `FileSink` of `spillway/file`.
   * @throws OptionError when an option is wrong or the sink has no `write`.
   */
  constructor(sink: LogSink, options: AsyncLogBufferOptions = {}) {
    super('async-log-buffer', options)
    if (typeof sink?.write !== 'function') failOption('sink', 'must have a method write', sink)
    for (const method of ['writeSync', 'reopen'] as const) checkOptionalFunction(`sink.${method}`, sink[method])
    this.#sink = sink
    this.#onDropLine = checkOptionalFunction('onDropLine', options.onDropLine)
    const levelOf = checkOptionalFunction('levelOf', options.levelOf)
    const { defaults } = AsyncLogBuffer
    const { capacity, overflow, eager, maxWaitMs, retry } = options
    const policy = resolveBatchOptions(
      {
        capacity,
        overflow,
        eager,
        maxWaitMs,
        retry,
        maxBatchBytes: valueOr(options.maxBatchBytes, defaults.maxBatchBytes),
      },
      { ...defaults, maxBatchSize: Number.POSITIVE_INFINITY, concurrency: 1, timeoutGraceMs: 0, idempotent: false },
      { keyed: false, sized: true },
    )
    if (levelOf !== undefined && policy.overflow === 'reject') {
      failOption('levelOf', "needs overflow 'drop-newest' or 'drop-oldest'", levelOf)
    }
    this.#capacity = policy.capacity
    this.#maxBatchBytes = policy.maxBatchBytes
    this.#overflow = policy.overflow
    this.#waiting = new WaitingLines(levelOf, policy.overflow === 'drop-oldest')
    // Lines, not chunks, are what `capacity` bounds: the queue itself is never full.
    this.#queue = new BatchQueue(
      { name: this.name, clock: this.clock, random: this.random, seeded: options.random !== undefined },
      { ...policy, overflow: 'reject' },
      this.#face(),
    )
  }

  /**
   * Takes a line; a newline is added when it has none. Never throws and never waits. A line may have newlines within: it stays in one
   * piece.
   *
   * @returns whether it was accepted; false when it was dropped, or refused because the buffer is full or closed. The `dropped` and
   * `rejected` events say which.
   */
  write(line: string): boolean {
    const open = this.#open
    if (
      typeof line === 'string' &&
      this.#queue.books.queued < this.#capacity &&
      this.#queue.join(open, line.length) &&
      open !== undefined
    ) {
      open.lines.push(line)
      if (this.#waiting.ranked) this.#waiting.rank(open)
      return true
    }
    return this.#write(line)
  }

  /**
   * Waits until all that was accepted before the call is with the sink or lost, and goes on accepting. Never rejects.
   *
   * @param callback - is called then too, with an error where lines failed; loggers wait this way.
   */
  override flush(callback?: (error?: Error) => void): Promise<FlushReport> {
    const flushed = this.#queue.flush()
    if (typeof callback === 'function') {
      void flushed.then(({ failed }) => {
        try {
          if (failed > 0) callback(this.#failureOf(failed))
          else callback()
        } catch (error) {
          warn(`${this.name}: the callback of flush threw: ${String(error)}`)
        }
      })
    }
    return flushed
  }

  /**
   * Hands all that waits, and what is being written, to the sink within this call: for a process that is about to end. The buffer
   * goes on accepting.
   *
   * @throws StoreError when the sink can't write synchronously, or hasn't taken all of it yet: it goes on trying with what is left, as
   * long as the process lives. What it threw is thrown as it is; those lines failed.
   */
  flushSync(): void {
    const queue = this.#queue
    // Called from within the sink's own synchronous write, it would come in between.
    if (this.#sync !== undefined || queue.books.queued + queue.books.inFlight + this.#lost === 0) return
    const sync = this.#writerSync()
    this.#sync = sync
    try {
      queue.expel()
      if (this.#lost > 0) this.#tellSync(sync)
      // Nothing was waiting, but a write in flight must come to its end too.
      else if (sync.calls === 0) sync.write('')
    } finally {
      this.#sync = undefined
    }
    if (sync.failure !== undefined) throw sync.failure.error
    if (sync.unfinished)
      throw new StoreError(`${this.name}: its sink couldn't take all of it at once, and goes on with the rest`)
  }

  /**
   * Opens the sink's target anew, after it was rotated away from outside.
   *
   * @returns rejects with what the sink failed with; resolves at once where it has nothing to open.
   */
  async reopen(): Promise<void> {
    await this.#sink.reopen?.()
  }

  override stats(): AsyncLogBufferStats {
    return {
      ...this.#queue.books.stats(this.name, this.#queue.running),
      dropLines: this.#dropLines,
      untoldDrops: this.#lost,
    }
  }

  protected override async drain(): Promise<void> {
    await this.#queue.drain()
    // What was lost with the last chunk has no other line to come with.
    if (this.#lost === 0) return
    const count = this.#lost
    this.#lost = 0
    try {
      await this.#sink.write(this.#dropLine(count))
      this.#dropLines++
    } catch {
      this.#lost += count
    }
  }

  protected override abandon(): number {
    return this.#queue.abandon()
  }

  // ── accept ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #write(line: unknown): boolean {
    if (typeof line !== 'string') {
      return this.#reject(line, new InvalidEventError('line', `line must be a string, got ${describeValue(line)}`))
    }
    if (this.#queue.closed) return this.#reject(line, this.#queue.closedError())
    if (this.#queue.books.queued < this.#capacity) return this.#accept(line)
    if (this.#overflow === 'reject') return this.#reject(line, this.#fullError())
    const loser = this.#waiting.giveWay(line)
    this.#lost++
    if (loser === undefined) {
      this.#queue.dropNewcomer()
      // The first of them says where in the log they would have been.
      if (this.#lost === 1) this.#lostAfter = this.#waiting.last
      this.#tellDropped(line, 'drop-newest')
      return false
    }
    if (this.#lost === 1) this.#lostAfter = undefined
    this.#queue.dropOne(loser.chunk, this.#bytesOf(loser.line))
    const accepted = this.#accept(line)
    this.#tellDropped(loser.line, this.#overflow)
    return accepted
  }

  #accept(line: string): boolean {
    const bytes = this.#bytesOf(line)
    if (this.#open !== undefined && this.#queue.join(this.#open, bytes)) {
      this.#open.lines.push(line)
      this.#waiting.rank(this.#open)
      return true
    }
    const chunk = new LogChunk(line, bytes)
    const refusal = this.#queue.offer(chunk)
    if (refusal !== undefined) return this.#recordRejected(line, refusal)
    this.#open = chunk
    this.#waiting.add(chunk)
    this.#waiting.rank(chunk)
    this.#queue.grow(chunk)
    return true
  }

  /** A line that alone is larger fills its chunk. */
  #bytesOf(line: string): number {
    return Math.min(line.length, this.#maxBatchBytes)
  }

  #reject(line: unknown, error: unknown): false {
    this.#queue.reject()
    return this.#recordRejected(line, error)
  }

  #recordRejected(line: unknown, error: unknown): false {
    if (this.events.has('rejected')) this.#tell(() => this.events.emit('rejected', { line, error }))
    return false
  }

  #tellDropped(line: string, reason: 'drop-newest' | 'drop-oldest'): void {
    if (this.events.has('dropped')) this.#tell(() => this.events.emit('dropped', { line, reason }))
  }

  /** A listener that logs what it is told finds the same full buffer: it isn't told of that again. */
  #tell(emit: () => void): void {
    if (this.#telling) return
    this.#telling = true
    try {
      emit()
    } finally {
      this.#telling = false
    }
  }

  #fullError(): FullError {
    const limit = Error.stackTraceLimit
    try {
      Error.stackTraceLimit = 0
      return new FullError(`${this.name} is full (capacity ${this.#capacity})`, this.#capacity)
    } finally {
      Error.stackTraceLimit = limit
    }
  }

  // ── hand over ───────────────────────────────────────────────────────────────────────────────────────────────────

  #face(): BatchFace<LogChunk> {
    const { events } = this
    return {
      alike: true,
      unitsOf: linesIn,
      call: (chunks) => {
        const first = chunks[0] as LogChunk
        first.text ??= this.#textOf(first, chunks)
        return this.#sync === undefined ? this.#sink.write(first.text) : this.#sync.write(first.text)
      },
      complete: (chunk) => {
        if (chunk.told > 0) this.#dropLines++
        return true
      },
      fail: (chunk) => {
        this.#lost += chunk.units + chunk.told
      },
      left: (chunk) => {
        chunk.gone = true
        this.#waiting.remove(chunk)
        if (this.#open === chunk) this.#open = undefined
      },
      onRetried: (_portion, attempt, delayMs, error) => {
        if (events.has('retried')) events.emit('retried', { attempt, delayMs, error })
      },
      onSettled: (portion, lines, _failed, durationMs) => {
        if (lines > 0 && events.has('written'))
          events.emit('written', { lines, attempts: portion.attempts, durationMs })
      },
      onFailed: (portion, chunks, error) => {
        this.#latestFailure = error
        if (events.has('failed')) events.emit('failed', { lines: linesOf(chunks), attempts: portion.attempts, error })
      },
    }
  }

  /** What the sink gets for chunks: their lines, and where it belongs the line that tells how many were lost. */
  #textOf(first: LogChunk, chunks: readonly LogChunk[]): string {
    const text = textOf(chunks)
    if (this.#lost === 0) return text
    const after = this.#lostAfter
    // They were lost behind a chunk that comes later.
    if (after !== undefined && !after.gone) return text
    const count = this.#lost
    const line = this.#dropLine(count)
    this.#lost = 0
    this.#lostAfter = undefined
    first.told = count
    return after === undefined ? line + text : text + line
  }

  #dropLine(count: number): string {
    try {
      const line = this.#onDropLine?.(count)
      if (typeof line === 'string') return ended(line)
      if (this.#onDropLine !== undefined) this.#reportDropLine(`answered ${describeValue(line)} and no string`)
    } catch (error) {
      this.#reportDropLine(`threw: ${String(error)}`)
    }
    const lines = count === 1 ? '1 log line was dropped' : `${count} log lines were dropped`
    const { name } = this
    return `${JSON.stringify({ level: 40, time: this.clock.wallNow(), name, dropped: count, msg: lines })}\n`
  }

  #reportDropLine(what: string): void {
    if (this.#dropLineReported) return
    this.#dropLineReported = true
    warn(`${this.name}: onDropLine ${what}`)
  }

  // ── the end of the process ──────────────────────────────────────────────────────────────────────────────────────

  #writerSync(): SyncFlush {
    const sink = this.#sink
    if (sink.writeSync === undefined) {
      throw new StoreError(`${this.name}: its sink has no writeSync, so what waits can't be written synchronously`)
    }
    return new SyncFlush((text) => sink.writeSync?.(text))
  }

  #tellSync(sync: SyncFlush): void {
    const count = this.#lost
    this.#lost = 0
    this.#lostAfter = undefined
    try {
      sync.write(this.#dropLine(count))
      this.#dropLines++
    } catch {
      this.#lost += count
    }
  }

  #failureOf(failed: number): Error {
    const cause = this.#latestFailure
    const why = cause instanceof Error ? `: ${cause.message}` : ''
    return new StoreError(`${this.name}: ${failed} log ${failed === 1 ? 'line' : 'lines'} failed${why}`, { cause })
  }
}

/** What becomes of the synchronous writes of one flush. */
class SyncFlush {
  calls = 0
  /** The sink goes on with some of it. */
  unfinished = false
  failure: { readonly error: unknown } | undefined
  readonly #writeSync: (text: string) => void | PromiseLike<void>

  constructor(writeSync: (text: string) => void | PromiseLike<void>) {
    this.#writeSync = checkFunction('writeSync', writeSync)
  }

  write(text: string): void | PromiseLike<void> {
    this.calls++
    try {
      const rest = this.#writeSync(text)
      if (rest !== undefined) this.unfinished = true
      return rest
    } catch (error) {
      this.failure ??= { error }
      throw error
    }
  }
}

function linesIn(chunks: readonly LogChunk[]): number {
  return chunks.reduce((sum, chunk) => sum + chunk.units, 0)
}
