import { type CloseOptions, Component } from '../../core/component.js'
import { ClosedError, type StoreError } from '../../core/errors.js'
import { checkDuration, checkOptions, failOption } from '../../core/options.js'
import type { LogSink } from '../../core/ports.js'
import { type Deferred, deferred, handled, rejected } from '../../internal/deferred.js'
import { isSpaceFault, sinkError } from './file-fault.js'
import {
  type FileSinkEvents,
  type FileSinkOperation,
  type FileSinkOptions,
  type FileSinkPolicy,
  type FileSinkStats,
  resolveFileSink,
} from './file-sink-options.js'
import { LogTarget } from './log-target.js'
import type { PendingWrite } from './pending-write.js'
import { SinkWriter } from './sink-writer.js'

/**
 * Appends log lines to a file, a named pipe or a descriptor. Short writes are completed from the byte where they stopped; a slow reader
 * and a full disk are waited for; files are rotated by size and time; and `writeSync` takes over whatever is in flight when the process
 * is about to end.
 *
 * An `AsyncLogBuffer` in front of it batches lines, bounds memory and says what it dropped.
 *
 * @example
 * ```ts
 * import { FileSink } from 'spillway/file'
 *
 * await using sink = new FileSink({ path: '/var/log/my-service/app.log', rotate: { maxBytes: 100_000_000, maxFiles: 5 } })
 * await sink.write('{"level":30,"msg":"started"}\n')
 * ```
 */
export class FileSink extends Component<FileSinkEvents, FileSinkStats> implements LogSink, AsyncDisposable {
  /** The options' defaults. */
  static readonly defaults = {
    mkdir: false,
    mode: 0o644,
    retryDelayMs: 10,
    maxRetryDelayMs: 1000,
    syncTimeoutMs: 2000,
  } as const

  /** The file, as an absolute path; undefined where it writes to a descriptor. */
  readonly path: string | undefined
  readonly #policy: FileSinkPolicy
  readonly #target: LogTarget
  readonly #writer: SinkWriter
  readonly #counts = {
    offered: 0,
    succeeded: 0,
    failed: 0,
    rejected: 0,
    writtenBytes: 0,
    shortWrites: 0,
    retries: 0,
    opens: 0,
    rotations: 0,
    failures: 0,
  }
  /** Since when nothing could be written. */
  #blockedSince: number | undefined
  #stalled = false
  #closing: SinkClosing | undefined

  /** @throws OptionError when an option is wrong. It opens nothing: the first write does. */
  constructor(options: FileSinkOptions) {
    if (options === undefined) failOption('options', 'must be an object', options)
    super('file-sink', options)
    this.#policy = resolveFileSink(options, FileSink.defaults)
    this.path = this.#policy.path
    this.#target = new LogTarget(this.#policy, this.clock, {
      moved: (from, to) => this.#writer.moved(from, to),
      opened: ({ size }) => {
        this.#counts.opens++
        this.events.emit('opened', { path: this.path, bytes: size })
      },
      rotated: (rotatedPath, bytes) => {
        this.#counts.rotations++
        this.events.emit('rotated', { path: this.path as string, rotatedPath, bytes })
      },
      closingFailed: (error) => void this.#recordFailure('close', error),
    })
    this.#writer = new SinkWriter(this.#policy, this.#target, this.clock, this.random, {
      took: (bytes, asked) => this.#recordTaken(bytes, asked),
      blocked: (error) => this.#recordBlocked(error),
      waiting: () => void this.#counts.retries++,
      succeeded: () => void this.#counts.succeeded++,
      failed: (error, write) => {
        this.#counts.failed++
        return this.#recordFailure('write', error, write)
      },
      openFailed: (error) => {
        this.#counts.failed++
        return this.#recordFailure('open', error)
      },
      abandoned: () => void this.#counts.failed++,
      rotationFailed: (error) => void this.#recordFailure('rotate', error),
      misjudged: (error) => void this.#recordFailure('write', error),
    })
  }

  /**
   * Opens the target, to learn early whether that works; otherwise the first write does. Once it is open, nothing happens.
   *
   * @returns rejects with a retryable `StoreError` when it can't be opened, with `ClosedError` after `close`.
   */
  open(): Promise<void> {
    return this.#perform('open', () => this.#target.open())
  }

  /**
   * Appends a chunk of whole lines, behind those of earlier calls.
   *
   * @returns when the system has all of it (which is not yet on the disk after a power failure). While there is no space, or a reader
   * takes nothing, it waits. Rejects with a `StoreError` when the target can't be opened or fails otherwise; where its `outcomeUnknown`
   * is true, a part of the chunk is there, and the next one begins on a line of its own. Rejects with `ClosedError` after `close`.
   */
  write(chunk: string): Promise<void> {
    let write: PendingWrite
    try {
      write = this.#accept(chunk)
    } catch (error) {
      return rejected(error)
    }
    this.#writer.advance()
    return write.promise
  }

  /**
   * The same, synchronously, for a process that is about to end: what earlier calls of `write` haven't written comes first, also when
   * it is in flight in the thread pool. It waits for that, for a reader and for space, up to `syncTimeoutMs`. It never rotates, and an
   * empty chunk only brings to an end what came before.
   *
   * @returns nothing when all is written; otherwise a promise, as of `write`: it goes on with what is left.
   * @throws StoreError when the chunk failed for good, as `write` rejects; ClosedError after `close`; OptionError for what is no string.
   */
  writeSync(chunk: string): void | Promise<void> {
    const write = this.#accept(chunk)
    this.#writer.writeOut()
    // Also where it failed: listeners may have begun something.
    this.#writer.advance()
    if (write.state === 'failed') throw write.error
    return write.state === 'written' ? undefined : write.promise
  }

  /**
   * Moves the file away as `path.1` and begins another one, after what was written before; an empty file stays. While a write waits for
   * space it doesn't wait for that: it may be what makes room.
   *
   * @returns rejects with a `StoreError` when that failed, or there is no file to rotate; all goes on in the old one then. Rejects with
   * `ClosedError` after `close`.
   */
  rotate(): Promise<void> {
    return this.#perform('rotate', async () => {
      if (this.path === undefined) throw new TypeError('a descriptor has no path')
      await this.#target.rotate()
    })
  }

  /**
   * Opens the path anew, after something else has moved the file away (logrotate and SIGHUP), after what is in flight. Of a write that
   * waits for space, the line at which it stands begins again in the new file. With `fd` nothing happens.
   *
   * @returns rejects with a `StoreError` when that failed; all goes on in the old file then. Rejects with `ClosedError` after `close`.
   */
  reopen(): Promise<void> {
    return this.#perform('reopen', () => this.#target.reopen())
  }

  /**
   * Refuses what comes after it, writes what was accepted, and closes what the sink opened. Calling it again changes nothing, except
   * that a shorter `timeoutMs` counts: at that time, what isn't written rejects with `ClosedError`. Without one it takes as long as the
   * target does, for ever on a disk that stays full.
   *
   * @returns rejects with a `StoreError` when closing failed, with an `OptionError` for a wrong `timeoutMs`.
   */
  close(options?: CloseOptions): Promise<void> {
    try {
      checkOptions('options', options)
      if (options?.timeoutMs !== undefined) checkDuration('timeoutMs', options.timeoutMs)
    } catch (error) {
      return rejected(error)
    }
    const closing = this.#closing ?? this.#close()
    if (options?.timeoutMs !== undefined) this.#closeBy(closing, options.timeoutMs)
    return closing.done.promise
  }

  /** Closes it at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  override stats(): FileSinkStats {
    const {
      offered,
      succeeded,
      failed,
      rejected: refused,
      writtenBytes,
      shortWrites,
      retries,
      ...counts
    } = this.#counts
    const { pending, pendingBytes } = this.#writer
    const { file } = this.#target
    return {
      name: this.name,
      offered,
      succeeded,
      failed,
      rejected: refused,
      pending,
      pendingBytes,
      writtenBytes,
      shortWrites,
      retries,
      stalled: this.#stalled,
      ...counts,
      fileBytes: file?.regular ? file.size : 0,
    }
  }

  #accept(chunk: string): PendingWrite {
    if (typeof chunk !== 'string') failOption('chunk', 'must be a string', chunk)
    this.#counts.offered++
    if (this.#closing !== undefined) {
      this.#counts.rejected++
      throw this.#closedError()
    }
    return this.#writer.accept(chunk)
  }

  #perform(operation: FileSinkOperation, run: () => Promise<void>): Promise<void> {
    if (this.#closing !== undefined) return rejected(this.#closedError())
    return this.#writer.perform(() => this.#told(operation, run), true)
  }

  #close(): SinkClosing {
    const closing: SinkClosing = { done: deferred<void>(), deadline: Number.POSITIVE_INFINITY, cancel: undefined }
    this.#closing = closing
    handled(closing.done.promise)
    const over = (): void => {
      closing.cancel?.()
      // No later deadline is set any more.
      closing.deadline = Number.NEGATIVE_INFINITY
    }
    this.#writer
      .perform(() => this.#told('close', () => this.#target.close()), false)
      .then(
        () => {
          over()
          closing.done.resolve()
        },
        (error) => {
          over()
          closing.done.reject(error)
        },
      )
    this.#writer.hurry()
    return closing
  }

  #closeBy(closing: SinkClosing, timeoutMs: number): void {
    const deadline = this.clock.now() + timeoutMs
    if (deadline >= closing.deadline) return
    closing.deadline = deadline
    closing.cancel?.()
    closing.cancel = this.clock.setTimer(() => {
      this.#writer.abandon(
        new ClosedError(`${this.name} was closed before it could write this`, { outcomeUnknown: true }),
      )
      // What hangs in the thread pool can't be stopped; what it holds is closed when it comes back.
      if (this.#writer.busy) closing.done.resolve()
    }, timeoutMs)
  }

  async #told(operation: FileSinkOperation, run: () => Promise<void>): Promise<void> {
    try {
      await run()
    } catch (error) {
      throw this.#recordFailure(operation, error)
    }
  }

  #recordTaken(bytes: number, asked: number): void {
    this.#counts.writtenBytes += bytes
    if (bytes < asked) this.#counts.shortWrites++
    if (this.#blockedSince === undefined) return
    const stalledMs = this.clock.now() - this.#blockedSince
    this.#blockedSince = undefined
    if (!this.#stalled) return
    this.#stalled = false
    this.events.emit('resumed', { path: this.path, stalledMs })
  }

  #recordBlocked(error: unknown): void {
    const now = this.clock.now()
    this.#blockedSince ??= now
    if (this.#stalled || !(isSpaceFault(error) || now - this.#blockedSince >= this.#policy.maxRetryDelayMs)) return
    this.#stalled = true
    this.events.emit('stalled', { path: this.path, error })
  }

  #recordFailure(operation: FileSinkOperation, cause: unknown, write?: PendingWrite): StoreError {
    const target = this.path ?? `descriptor ${this.#policy.fd}`
    const error = sinkError(this.name, `${verbs[operation]} ${target}`, cause, write?.begun)
    this.#counts.failures++
    this.events.emit('failed', { operation, error })
    return error
  }

  #closedError(): ClosedError {
    return new ClosedError(`${this.name} is closed`)
  }
}

/** One close in progress. */
interface SinkClosing {
  readonly done: Deferred<void>
  deadline: number
  cancel: (() => void) | undefined
}

const verbs: Readonly<Record<FileSinkOperation, string>> = {
  open: 'opening',
  write: 'writing to',
  rotate: 'rotating',
  reopen: 'reopening',
  close: 'closing',
}
