import { type Logger, pino } from 'pino'
import { AsyncLogBuffer, type AsyncLogBufferStats } from 'spillway'
import { FileSink } from 'spillway/file'
import type { Closable } from 'spillway/process'
import type { Log } from '../counter/counters.ts'
import { logToStderr } from '../running.ts'
import { redact } from './redaction.ts'

/** From the least important on: requests are told from `debug` on, with their headers from `trace` on. */
export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const

export interface LoggingOptions {
  /** What this process is: each line says so. */
  role: string
  /** A file, in place of stderr. What parts of the service say with `log` goes to stderr, too. */
  file?: string | undefined
  /** The least important level that is logged: `debug` in a file, which has each request then, and `info` on stderr. */
  level?: (typeof logLevels)[number] | undefined
  /** Lines that may wait for the disk. */
  capacity?: number | undefined
  /** Which of equally important lines go where there is no more room. */
  overflow?: 'drop-newest' | 'drop-oldest' | undefined
  /** How large a file may get, and how many older ones stay. */
  maxBytes?: number | undefined
  maxFiles?: number | undefined
}

/** The log of a process. */
export interface Logging {
  readonly logger: Logger
  /** Where parts of the service say what people must know of. */
  readonly log: Log
  readonly lines: AsyncLogBuffer
  readonly sink: FileSink
  /** Lines that may wait. */
  readonly capacity: number
  /** What is open, in the order in which to close it: after all that logs. */
  readonly parts: readonly Closable[]
  /** Opens it, to learn at the start whether that works. */
  open(): Promise<void>
  stats(): LoggingStats
}

/** What became of the lines, and how many bytes they were. */
export interface LoggingStats extends AsyncLogBufferStats {
  readonly writtenBytes: number
}

/** Lines that may wait for the disk. */
const usualCapacity = 20_000
/** At most 300 MB of log, in six files. */
const usual = { maxBytes: 50_000_000, maxFiles: 5 }

/**
 * Makes the log of this process: pino makes lines, nobody waits for them, and what the disk can't take is dropped, the least important
 * first, and told in the log itself.
 */
export function createLogging({ role, file, level, capacity = usualCapacity, ...options }: LoggingOptions): Logging {
  const { overflow, maxBytes = usual.maxBytes, maxFiles = usual.maxFiles } = options
  const rotate = { maxBytes, maxFiles }
  const sink = new FileSink(file === undefined ? { fd: 2 } : { path: file, mkdir: true, rotate, mode: 0o640 })
  const lines = new AsyncLogBuffer(sink, { name: 'log', capacity, overflow, levelOf })
  const logger = pino(
    {
      level: level ?? (file === undefined ? 'info' : 'debug'),
      base: { pid: process.pid, role },
      // Before the buffer: what waits there, and all that comes after it, has no secrets any more.
      hooks: { streamWrite: redact },
    },
    lines,
  )
  const log: Log = (importance, message) => {
    logger[importance](message)
    if (file !== undefined && logger.isLevelEnabled(importance)) logToStderr(importance, message)
  }
  const stats = (): LoggingStats => ({ ...lines.stats(), writtenBytes: sink.stats().writtenBytes })
  return { logger, log, lines, sink, capacity, parts: [lines, sink], open: () => sink.open(), stats }
}

/** Of a line that pino has written. */
function levelOf(line: string): number {
  return Number(/^\{"level":(\d+)/.exec(line)?.[1])
}
