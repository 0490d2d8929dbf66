import { constants } from 'node:fs'
import type { FileStatus, FileSystem } from './file-system.js'
import { promised } from './file-system.js'

const { O_APPEND, O_CREAT, O_NONBLOCK = 0, O_NOCTTY = 0, O_RDONLY, O_WRONLY } = constants
/** A pipe without a reader, and a terminal, must not hold anybody up; a file proper doesn't mind. */
const openFlags = O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY
const newline = 10
/** The first line of `/proc/self/fdinfo/<fd>`, `pos:`, a tab and a number. */
const positionBytes = 32
const positionAt = 5
const positionBuffer = new Uint8Array(positionBytes)

/** What a target goes by. */
export interface LogFilePolicy {
  readonly fs: FileSystem
  readonly mode: number
  readonly mkdir: boolean
  readonly wallNow: () => number
}

/** Opens a path in the thread pool. */
export async function openLogFile(path: string, directory: string, policy: LogFilePolicy): Promise<LogFile> {
  const { fs, mode, mkdir } = policy
  const open = (): Promise<number> => promised((done) => fs.open(path, openFlags, mode, done))
  let fd: number
  try {
    fd = await open()
  } catch (error) {
    if (!mkdir || (error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    await promised((done) => fs.mkdir(directory, { recursive: true }, done as (error: Error | null) => void))
    fd = await open()
  }
  return adopt(fd, path, policy)
}

/** The same while everything waits for it, for a process that is about to end. */
export function openLogFileSync(path: string, directory: string, policy: LogFilePolicy): LogFile {
  const { fs, mode, mkdir } = policy
  let fd: number
  try {
    fd = fs.openSync(path, openFlags, mode)
  } catch (error) {
    if (!mkdir || (error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    fs.mkdirSync(directory, { recursive: true })
    fd = fs.openSync(path, openFlags, mode)
  }
  return adopt(fd, path, policy)
}

/**
 * Makes a target of a descriptor that the caller keeps. Where that is a pipe or a terminal, it is opened once more, so that writing
 * never waits in the kernel and the mode of the caller's own isn't touched.
 */
export function borrowDescriptor(fd: number, policy: LogFilePolicy): LogFile {
  const { fs } = policy
  const status = fs.fstatSync(fd)
  if (status.isFile()) return new LogFile(fs, fd, status, { owned: false, pooled: true, now: policy.wallNow() })
  if (process.platform === 'linux') {
    if (status.isFIFO() || status.isCharacterDevice()) {
      const own = unless(() => fs.openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY))
      if (own !== undefined) return new LogFile(fs, own, status, { owned: true, pooled: false, now: policy.wallNow() })
    }
  }
  const pooled = !isNonBlocking(fs, fd)
  return new LogFile(fs, fd, status, { owned: false, pooled, now: policy.wallNow() })
}

/** A target of log lines, open for appending. */
export class LogFile {
  readonly fd: number
  /** Whether it is a file proper: it has a length, can be rotated, and its writes can be watched. */
  readonly regular: boolean
  /** Whether it is written to in the thread pool. What can't block is written to at once. */
  readonly pooled: boolean
  /** Where it ends, as far as is known: others may append too. */
  size: number
  /** When its first line was written, in milliseconds since the epoch. */
  begunAt: number
  /** Whether its last line was begun and never ended. */
  torn = false
  readonly #fs: FileSystem
  readonly #owned: boolean
  readonly #status: FileStatus
  /** A descriptor of what the kernel tells about `fd`. */
  readonly #info: number | undefined

  constructor(
    fs: FileSystem,
    fd: number,
    status: FileStatus,
    { owned, pooled, now }: { readonly owned: boolean; readonly pooled: boolean; readonly now: number },
  ) {
    this.#fs = fs
    this.fd = fd
    this.#status = status
    this.#owned = owned
    this.pooled = pooled
    this.regular = status.isFile()
    this.size = this.regular ? status.size : 0
    this.begunAt = this.size === 0 ? now : status.birthtimeMs > 0 ? status.birthtimeMs : status.mtimeMs
    if (this.regular && process.platform === 'linux') {
      this.#info = unless(() => fs.openSync(`/proc/self/fdinfo/${fd}`, O_RDONLY))
    }
  }

  /** Whether a path or another target leads to the same file. */
  isSame(other: { readonly dev: number; readonly ino: number }): boolean {
    return other.dev === this.dev && other.ino === this.ino
  }

  get dev(): number {
    return this.#status.dev
  }

  get ino(): number {
    return this.#status.ino
  }

  /**
   * Where the descriptor stands: behind the last write that was made by it and has returned, whoever appended beside it. 0 before
   * the first one, `undefined` where the platform doesn't tell.
   */
  position(): number | undefined {
    const info = this.#info
    if (info === undefined) return undefined
    let position = 0
    const bytes = unless(() => this.#fs.readSync(info, positionBuffer, 0, positionBytes, 0))
    if (bytes === undefined) return undefined
    for (let i = positionAt; i < bytes; i++) {
      const digit = (positionBuffer[i] as number) - 48
      if (digit < 0 || digit > 9) break
      position = position * 10 + digit
    }
    return position
  }

  /** Notes where it stands before a write is made in the thread pool, for `landed`. */
  prepare(): number | undefined {
    const before = this.position()
    // Not for the first one: an appending descriptor stands at 0 until then.
    if (before !== undefined && before > 0) this.size = before
    return before
  }

  /**
   * How many bytes a write of `length` in the thread pool has written, or `undefined` while that isn't seen to be over. Where others
   * append too, a short write can't be told from a whole one; by a descriptor of the caller's, a short one isn't seen.
   *
   * @param before - what `prepare` answered.
   */
  landed(before: number | undefined, length: number): number | undefined {
    if (before === undefined) {
      const size = unless(() => this.#fs.fstatSync(this.fd).size) ?? 0
      return size >= this.size + length ? length : undefined
    }
    const position = this.position()
    if (position === undefined || position === before) return undefined
    const bytes = position - this.size
    if (bytes <= 0 || bytes >= length) return length
    // By a descriptor of the caller's, others write too (standard error, where it leads to the same file): it was they, rather.
    return this.#owned ? bytes : undefined
  }

  /** Gives back what was opened. */
  async close(): Promise<void> {
    if (this.#info !== undefined) this.#fs.closeSync(this.#info)
    if (this.#owned) await promised((done) => this.#fs.close(this.fd, done as (error: Error | null) => void))
  }
}

function adopt(fd: number, path: string, { fs, wallNow }: LogFilePolicy): LogFile {
  try {
    const status = fs.fstatSync(fd)
    // What was opened for this alone can't block, but for a file proper, which waits for its disk.
    const file = new LogFile(fs, fd, status, { owned: true, pooled: status.isFile(), now: wallNow() })
    file.torn = file.size > 0 && endsWithinLine(fs, path, file)
    return file
  } catch (error) {
    unless(() => fs.closeSync(fd))
    throw error
  }
}

/** Whether the last byte of a file is no newline: whoever wrote it was stopped there. Who may not read it isn't told. */
function endsWithinLine(fs: FileSystem, path: string, file: LogFile): boolean {
  const reader = unless(() => fs.openSync(path, O_RDONLY | O_NONBLOCK))
  if (reader === undefined) return false
  const last = new Uint8Array(1)
  try {
    return (
      file.isSame(fs.fstatSync(reader)) && fs.readSync(reader, last, 0, 1, file.size - 1) === 1 && last[0] !== newline
    )
  } catch {
    return false
  } finally {
    unless(() => fs.closeSync(reader))
  }
}

/** Whether writes by a descriptor never wait in the kernel, as on sockets of this process. */
function isNonBlocking(fs: FileSystem, fd: number): boolean {
  if (process.platform !== 'linux') return false
  const info = unless(() => fs.openSync(`/proc/self/fdinfo/${fd}`, O_RDONLY))
  if (info === undefined) return false
  const bytes = new Uint8Array(128)
  try {
    const text = Buffer.from(bytes.subarray(0, fs.readSync(info, bytes, 0, bytes.length, 0))).toString('latin1')
    const [, flags = '0'] = /^flags:\s*(\d+)/m.exec(text) ?? []
    return (Number.parseInt(flags, 8) & O_NONBLOCK) !== 0
  } catch {
    return false
  } finally {
    unless(() => fs.closeSync(info))
  }
}

function unless<T>(call: () => T): T | undefined {
  try {
    return call()
  } catch {
    return undefined
  }
}
