import { resolve } from 'node:path'
import type { ComponentOptions } from '../../core/component.js'
import type { StoreError } from '../../core/errors.js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkOneOf,
  checkOptions,
  failOption,
  maxDurationMs,
  valueOr,
} from '../../core/options.js'
import { checkFileSystem, type FileSystem, platformFileSystem } from './file-system.js'

/** When a log file is rotated, and how many rotated ones are kept. */
export interface LogRotationOptions {
  /** A chunk that would make the file longer than this, in bytes, goes into the next one. A longer chunk has a file to itself. */
  maxBytes?: number | undefined
  /** How long a file is written to, in milliseconds since its first line. Not together with `every`. */
  everyMs?: number | undefined
  /** A file for each hour or day, in UTC. Not together with `everyMs`. */
  every?: 'hour' | 'day' | undefined
  /**
   * How many rotated files are kept: `path.1` is the newest, `path.<maxFiles>` the oldest. More are removed.
   * @defaultValue 10
   */
  maxFiles?: number | undefined
}

/** The defaults of {@link LogRotationOptions}. */
export const logRotationDefaults = { maxFiles: 10 } as const

/** Options of `FileSink`: a `path` or an `fd`, and how it is written to. */
export interface FileSinkOptions extends ComponentOptions {
  /** The file: made if there is none, appended to if there is one. It may be a named pipe or a terminal. */
  path?: string | undefined
  /** A descriptor instead, for instance 1: never rotated, never opened anew, never closed. */
  fd?: number | undefined
  /**
   * Whether the directory of `path` is made, and those above it.
   * @defaultValue false
   */
  mkdir?: boolean | undefined
  /**
   * The mode of a file that is made, less the process's umask.
   * @defaultValue 0o644
   */
  mode?: number | undefined
  /** When the file is rotated. Without it, only by `rotate()`. Not with `fd`. */
  rotate?: LogRotationOptions | undefined
  /**
   * The base of the delay before a write is tried again that the target didn't take (EAGAIN, EBUSY, EINTR, ENOSPC, EDQUOT), in
   * milliseconds: before try n it is random from 0 to `retryDelayMs * 2^(n-1)`. Every byte that is taken starts anew.
   * @defaultValue 10
   */
  retryDelayMs?: number | undefined
  /**
   * The most that this delay can be, in milliseconds; also when `stalled` tells of a slow reader, and how long a rotation that failed
   * isn't tried again.
   * @defaultValue 1000
   */
  maxRetryDelayMs?: number | undefined
  /**
   * How long `writeSync` waits, in milliseconds, for a write that is in flight, for a slow reader and for space; all calls of one turn
   * of the event loop together. 0 doesn't wait.
   * @defaultValue 2000
   */
  syncTimeoutMs?: number | undefined
  /** The file system, for tests that need faults. The default is `node:fs`. */
  fs?: FileSystem | undefined
}

/** What `FileSink` was doing when something failed. */
export type FileSinkOperation = 'open' | 'write' | 'rotate' | 'reopen' | 'close'

/** Events of `FileSink`. `path` is undefined where it writes to a descriptor. */
export interface FileSinkEvents {
  /** The target was opened, or opened anew; `bytes` is how long it was already. */
  opened: { readonly path: string | undefined; readonly bytes: number }
  /** The file was moved away, as `rotatedPath`, and another one begun. `bytes` is how long it had become. */
  rotated: { readonly path: string; readonly rotatedPath: string; readonly bytes: number }
  /** Nothing can be written: no space, or a reader that is slow for longer than `maxRetryDelayMs`. Told once until `resumed`. */
  stalled: { readonly path: string | undefined; readonly error: unknown }
  /** Something was written again, `stalledMs` after it began to fail. */
  resumed: { readonly path: string | undefined; readonly stalledMs: number }
  /** Something failed for good: a write, whose caller was told, opening, or a rotation, which is tried again. */
  failed: { readonly operation: FileSinkOperation; readonly error: StoreError }
}

/** Stats of `FileSink`, since it was made: `offered = succeeded + failed + rejected + pending`, in chunks. */
export interface FileSinkStats {
  /** The sink's name. */
  readonly name: string
  /** All chunks that were offered, by `write` and `writeSync`. */
  readonly offered: number
  /** Chunks that were written whole. */
  readonly succeeded: number
  /** Chunks that failed for good. */
  readonly failed: number
  /** Chunks that were refused because the sink was closed. */
  readonly rejected: number
  /** Chunks that aren't settled. */
  readonly pending: number
  /** What is left to write of those, in bytes. */
  readonly pendingBytes: number
  /** Bytes that were written. */
  readonly writtenBytes: number
  /** Writes of which the system took a part. */
  readonly shortWrites: number
  /** Waits before another try. */
  readonly retries: number
  /** Whether nothing can be written: between the events `stalled` and `resumed`. */
  readonly stalled: boolean
  /** Times that the target was opened, or opened anew. */
  readonly opens: number
  /** Rotations. */
  readonly rotations: number
  /** What `failed` told of. */
  readonly failures: number
  /** How long the current file is, in bytes; 0 before it is open, and for what isn't a file. */
  readonly fileBytes: number
}

/** When to rotate, checked. */
export interface RotationPolicy {
  readonly maxBytes: number
  readonly everyMs: number
  /** Whether `everyMs` counts from the epoch and not from the first line. */
  readonly aligned: boolean
  readonly maxFiles: number
}

/** {@link FileSinkOptions}, checked. */
export interface FileSinkPolicy {
  readonly path: string | undefined
  readonly fd: number | undefined
  readonly mkdir: boolean
  readonly mode: number
  readonly rotation: RotationPolicy
  readonly retryDelayMs: number
  readonly maxRetryDelayMs: number
  readonly syncTimeoutMs: number
  readonly fs: FileSystem
}

/** The values of `FileSink.defaults`. */
export interface FileSinkDefaults {
  /** See {@link FileSinkOptions.mkdir}. */
  readonly mkdir: boolean
  /** See {@link FileSinkOptions.mode}. */
  readonly mode: number
  /** See {@link FileSinkOptions.retryDelayMs}. */
  readonly retryDelayMs: number
  /** See {@link FileSinkOptions.maxRetryDelayMs}. */
  readonly maxRetryDelayMs: number
  /** See {@link FileSinkOptions.syncTimeoutMs}. */
  readonly syncTimeoutMs: number
}

/** Checks the options and fills in what they leave out. */
export function resolveFileSink(options: FileSinkOptions, defaults: FileSinkDefaults): FileSinkPolicy {
  const { path, fd } = options
  if ((path === undefined) === (fd === undefined)) {
    failOption('path', 'or fd must be given, one of them', { path, fd })
  }
  if (path !== undefined && (typeof path !== 'string' || path === '' || path.includes('\0'))) {
    failOption('path', 'must be a path', path)
  }
  if (fd !== undefined) {
    checkCount('fd', fd, 0)
    if (options.rotate !== undefined) failOption('rotate', 'must be left out with fd', options.rotate)
    if (options.mkdir !== undefined) failOption('mkdir', 'must be left out with fd', options.mkdir)
  }
  const retryDelayMs = checkDuration('retryDelayMs', valueOr(options.retryDelayMs, defaults.retryDelayMs), 1)
  return {
    path: path === undefined ? undefined : resolve(path),
    fd,
    mkdir: checkBoolean('mkdir', valueOr(options.mkdir, defaults.mkdir)),
    mode: checkCount('mode', valueOr(options.mode, defaults.mode), 0, 0o777),
    rotation: resolveRotation(options.rotate),
    retryDelayMs,
    maxRetryDelayMs: checkDuration(
      'maxRetryDelayMs',
      valueOr(options.maxRetryDelayMs, Math.max(retryDelayMs, defaults.maxRetryDelayMs)),
      retryDelayMs,
    ),
    syncTimeoutMs: checkDuration('syncTimeoutMs', valueOr(options.syncTimeoutMs, defaults.syncTimeoutMs)),
    fs: checkFileSystem(valueOr(options.fs, platformFileSystem)),
  }
}

const periods = { hour: 3_600_000, day: 86_400_000 } as const

function resolveRotation(options: LogRotationOptions | undefined): RotationPolicy {
  checkOptions('rotate', options)
  const { maxBytes, everyMs, every } = options ?? {}
  if (maxBytes !== undefined) checkCount('rotate.maxBytes', maxBytes, 1, Number.MAX_SAFE_INTEGER)
  if (everyMs !== undefined) checkDuration('rotate.everyMs', everyMs, 1, maxDurationMs)
  if (every !== undefined) {
    checkOneOf('rotate.every', every, ['hour', 'day'])
    if (everyMs !== undefined) failOption('rotate.every', 'must be left out with everyMs', every)
  }
  return {
    maxBytes: maxBytes ?? Number.POSITIVE_INFINITY,
    everyMs: every === undefined ? (everyMs ?? Number.POSITIVE_INFINITY) : periods[every],
    aligned: every !== undefined,
    maxFiles: checkCount('rotate.maxFiles', valueOr(options?.maxFiles, logRotationDefaults.maxFiles), 1, 999_999_999),
  }
}
