import { ClosableComponent, type FlushReport } from '../core/component.js'
import { FullError, InvalidEventError, StoreError } from '../core/errors.js'
import { describeError, isThenable, warn } from '../core/events.js'
import {
  checkFunction,
  checkOptionalFunction,
  describeValue,
  failOption,
  type Overflow,
  valueOr,
} from '../core/options.js'
import type { LogSink } from '../core/ports.js'
import { type ContextRunner, captureContext } from '../internal/async-context.js'
import { resolveBatchOptions } from '../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../internal/batch-queue.js'
import { leaveAlone } from '../internal/deferred.js'
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

  /** By this, `pino(log)` knows a destination from options. */
  readonly writable = true

  readonly #sink: LogSink
  readonly #inContext: ContextRunner = captureContext()
  readonly #queue: BatchQueue<LogChunk>
  readonly #capacity: number
  readonly #maxBatchBytes: number
  readonly #overflow: Overflow
  readonly #onDropLine: ((count: number) => string) | undefined
  readonly #waiting: WaitingLines
  /** The chunk that lines of this turn, or this millisecond, join. */
  #open: LogChunk | undefined
  /** How many chunks there were. */
  #order = 0
  /** Lost lines of which no line tells yet that is on its way. */
  #lost = 0
  /** Behind which chunk the first of them was lost, by its order. */
  #lostBehind = 0
  /** Lost lines of which the log tells. */
  #told = 0
  #dropLines = 0
  /** Whether the sink is writing a line of these that came with no chunk. */
  #tellingLast = false
  /** Whether listeners are being told of lines. */
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
    if (open !== undefined && typeof line === 'string' && this.#queue.join(open, line.length)) {
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
      const report = (error: unknown): void =>
        warn(`${this.name}: the callback of flush threw: ${describeError(error)}`)
      void flushed.then(({ failed }) => {
        try {
          const returned: unknown = failed > 0 ? callback(this.#failureOf(failed)) : callback()
          if (isThenable(returned)) returned.then(undefined, report)
        } catch (error) {
          report(error)
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
   * long as the process lives. What it threw is thrown as it is; those lines failed, whatever `retry` says.
   */
  flushSync(): void {
    const { books } = this.#queue
    // Called from within the sink's own synchronous write, it would come in between.
    if (this.#sync !== undefined) return
    if (books.queued + books.inFlight + this.#lost === 0 && !this.#tellingLast) return
    const sync = this.#writerSync()
    this.#sync = sync
    try {
      this.#inContext(() => this.#expel(sync))
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
      untoldDrops: this.#untoldDrops,
    }
  }

  protected override async drain(): Promise<void> {
    await this.#queue.drain()
    // What was lost with the last chunk has no other line to come with.
    if (this.#lost > 0) await this.#inContext(() => this.#tellLast((line) => this.#sink.write(line)))
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
    // The first of them says where in the log they would have been.
    if (this.#lost++ === 0) {
      this.#lostBehind = loser === undefined ? this.#order : loser.chunk.order - 1
      // What comes after the one that says so comes with another chunk.
      if (loser === undefined) this.#open = undefined
    }
    if (loser === undefined) {
      this.#queue.dropNewcomer()
      this.#tellDropped(line, 'drop-newest')
      return false
    }
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
    const chunk = new LogChunk(line, bytes, ++this.#order, this.#telling)
    const refusal = this.#queue.offer(chunk)
    if (refusal !== undefined) return this.#recordRejected(line, refusal)
    this.#open = chunk
    this.#waiting.add(chunk)
    this.#waiting.rank(chunk)
    this.#queue.grow(chunk, this.#capacity - this.#queue.books.queued)
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
    if (!this.#telling && this.events.has('rejected')) this.#tell(() => this.events.emit('rejected', { line, error }))
    return false
  }

  #tellDropped(line: string, reason: 'drop-newest' | 'drop-oldest'): void {
    if (!this.#telling && this.events.has('dropped')) this.#tell(() => this.events.emit('dropped', { line, reason }))
  }

  /**
   * Whoever logs what he is told writes to the log that he is told of. Those lines are echoes: kept apart from others, and without
   * events of their own, or a sink that fails would be told to itself for ever.
   */
  #tell(emit: () => void): void {
    const outer = this.#telling
    const open = this.#open
    this.#telling = true
    this.#open = undefined
    try {
      emit()
    } finally {
      this.#telling = outer
      this.#open = open
    }
  }

  #tellOf(event: keyof AsyncLogBufferEvents, chunks: readonly LogChunk[], emit: () => void): void {
    if (this.events.has(event) && !chunks.every((chunk) => chunk.echo)) this.#tell(emit)
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
        if (this.#sync !== undefined) return this.#sync.write(first.text)
        const written = this.#sink.write(first.text)
        // While that is on its way there is time for the next one.
        this.#waiting.layOut(this.#maxBatchBytes, this.#open)
        return written
      },
      complete: (chunk) => {
        if (chunk.told > 0) this.#recordTold(chunk.told)
        return true
      },
      fail: (chunk) => {
        this.#lost += chunk.units + chunk.told
      },
      left: (chunk) => {
        this.#waiting.remove(chunk)
        if (this.#open === chunk) this.#open = undefined
      },
      onRetried: ({ entries }, attempt, delayMs, error) => {
        this.#tellOf('retried', entries, () => events.emit('retried', { attempt, delayMs, error }))
      },
      onSettled: ({ entries, attempts }, lines, _failed, durationMs) => {
        if (lines > 0) this.#tellOf('written', entries, () => events.emit('written', { lines, attempts, durationMs }))
      },
      onFailed: ({ attempts }, chunks, error) => {
        this.#latestFailure = error
        this.#tellOf('failed', chunks, () => events.emit('failed', { lines: linesOf(chunks), attempts, error }))
      },
    }
  }

  /** What the sink gets for chunks: their lines, and where it belongs the line that tells how many were lost. */
  #textOf(first: LogChunk, chunks: readonly LogChunk[]): string {
    const behind = this.#lostBehind
    // They were lost behind a chunk that comes later.
    if (this.#lost === 0 || (chunks.at(-1) as LogChunk).order < behind) return textOf(chunks)
    const count = this.#takeLost()
    const line = this.#dropLine(count)
    if (line === '') this.#told += count
    else first.told = count
    const later = chunks.findIndex((chunk) => chunk.order > behind)
    if (later === -1) return textOf(chunks) + line
    return textOf(chunks.slice(0, later)) + line + textOf(chunks.slice(later))
  }

  #takeLost(): number {
    const count = this.#lost
    this.#lost = 0
    this.#lostBehind = 0
    return count
  }

  #recordTold(count: number): void {
    this.#told += count
    this.#dropLines++
  }

  /** Derived from the books, so that it counts what is on its way too. */
  get #untoldDrops(): number {
    const { accepted, droppedAtEntry } = this.#queue.books
    return accepted.dropped + droppedAtEntry + accepted.failed - this.#told
  }

  /** Writes the line that tells of what was lost, where no chunk comes that it could go with. Never throws. */
  async #tellLast(write: (line: string) => void | PromiseLike<void>): Promise<void> {
    const count = this.#takeLost()
    const line = this.#dropLine(count)
    if (line === '') {
      this.#told += count
      return
    }
    this.#tellingLast = true
    try {
      await write(line)
      this.#recordTold(count)
    } catch {
      this.#lost += count
    } finally {
      this.#tellingLast = false
    }
  }

  #dropLine(count: number): string {
    try {
      const line = this.#onDropLine?.(count)
      if (typeof line === 'string') return line === '' ? '' : ended(line)
      if (this.#onDropLine !== undefined) this.#reportDropLine(`answered ${describeValue(line)} and no string`)
    } catch (error) {
      this.#reportDropLine(`threw: ${describeError(error)}`)
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

  #expel(sync: SyncFlush): void {
    this.#queue.expel()
    // After its close, whoever made the sink may have closed it: it was said then how much was given up.
    const write = this.#queue.closed
      ? (line: string) => this.#sink.writeSync?.(line)
      : (line: string) => sync.write(line)
    if (this.#lost > 0) void this.#tellLast(write)
    // Nothing was waiting, but a write in flight must come to its end too.
    else if (sync.calls === 0) leaveAlone(sync.write(''))
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
      if (isThenable(rest)) this.unfinished = true
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
