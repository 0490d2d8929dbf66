import { dirname } from 'node:path'
import type { FileSinkPolicy } from './file-sink-options.js'
import { promised } from './file-system.js'
import { borrowDescriptor, type LogFile, type LogFilePolicy, openLogFile, openLogFileSync } from './log-file.js'
import { shiftFiles } from './log-rotation.js'

/** What is told of a target. */
export interface LogTargetFace {
  /** Another file takes the place of the one before, of which the last line may be unfinished. */
  moved(from: LogFile, to: LogFile): void
  opened(file: LogFile): void
  rotated(rotatedPath: string, bytes: number): void
  closingFailed(error: unknown): void
}

/** Where a sink writes to: one file after the other. */
export class LogTarget {
  /** The one that is open. */
  file: LogFile | undefined
  readonly #policy: FileSinkPolicy
  readonly #filePolicy: LogFilePolicy
  readonly #clock: { now(): number; wallNow(): number }
  readonly #face: LogTargetFace
  /** Whether the open file was moved away, and no other one could be opened. */
  #movedAway = false
  /** Until when a rotation that failed isn't tried again. */
  #rotatesFrom = Number.NEGATIVE_INFINITY

  constructor(policy: FileSinkPolicy, clock: { now(): number; wallNow(): number }, face: LogTargetFace) {
    this.#policy = policy
    this.#clock = clock
    this.#face = face
    const { fs, mode, mkdir } = policy
    this.#filePolicy = { fs, mode, mkdir, wallNow: () => clock.wallNow() }
  }

  /** Opens it, if that isn't done yet. */
  async open(): Promise<void> {
    if (this.file !== undefined) return
    const file = await this.#openNow()
    // It may have been opened while everything else waited.
    if (this.file === undefined) this.#use(file)
    else await this.#release(file)
  }

  /** The same while everything else waits. */
  openSync(): LogFile {
    if (this.file !== undefined) return this.file
    const { path, fd } = this.#policy
    const file =
      path === undefined
        ? borrowDescriptor(fd as number, this.#filePolicy)
        : openLogFileSync(path, dirname(path), this.#filePolicy)
    this.#use(file)
    return file
  }

  /** Opens the path anew, and gives back what was open. */
  async reopen(): Promise<void> {
    if (this.#policy.path === undefined) return this.open()
    await this.#replace(await this.#openNow())
  }

  /** Whether a chunk of so many bytes belongs into the next file. */
  rotationDue(bytes: number): boolean {
    const { maxBytes, everyMs, aligned } = this.#policy.rotation
    const { file } = this
    if (file?.regular !== true || this.#policy.path === undefined) return false
    if (everyMs < Number.POSITIVE_INFINITY) {
      const now = this.#clock.wallNow()
      if (file.size === 0) file.begunAt = now
      const end = aligned ? (Math.floor(file.begunAt / everyMs) + 1) * everyMs : file.begunAt + everyMs
      if (now >= end) return this.#mayRotate
    }
    return file.size > 0 && file.size + bytes > maxBytes && this.#mayRotate
  }

  /** Moves the file away and begins another one. An empty one stays. On failure, all goes on in the file that is open. */
  async rotate(): Promise<void> {
    await this.open()
    const { file } = this
    const { path, fs, rotation, maxRetryDelayMs } = this.#policy
    if (path === undefined || file?.regular !== true || file.size === 0) return
    try {
      const current = await promised<{ dev: number; ino: number }>((done) => fs.stat(path, done)).catch(() => undefined)
      // Where the path leads elsewhere, somebody else has rotated already.
      if (current !== undefined && file.isSame(current)) {
        await shiftFiles(fs, path, rotation.maxFiles)
        this.#movedAway = true
      }
      await this.#replace(await this.#openNow())
    } catch (error) {
      this.#rotatesFrom = this.#clock.now() + maxRetryDelayMs
      throw error
    }
  }

  async close(): Promise<void> {
    const { file } = this
    this.file = undefined
    await file?.close()
  }

  get #mayRotate(): boolean {
    return this.#clock.now() >= this.#rotatesFrom
  }

  async #openNow(): Promise<LogFile> {
    const { path, fd } = this.#policy
    if (path === undefined) return borrowDescriptor(fd as number, this.#filePolicy)
    return openLogFile(path, dirname(path), this.#filePolicy)
  }

  async #replace(next: LogFile): Promise<void> {
    const { file } = this
    if (file?.isSame(next)) {
      next.torn ||= file.torn
      next.begunAt = file.begunAt
    }
    this.file = next
    // First of all: whoever is told of the opening may write at once.
    if (file !== undefined) this.#face.moved(file, next)
    this.#face.opened(next)
    if (file === undefined) return
    if (this.#movedAway) {
      this.#movedAway = false
      this.#face.rotated(`${this.#policy.path}.1`, file.size)
    }
    await this.#release(file)
  }

  #use(file: LogFile): void {
    this.file = file
    this.#face.opened(file)
  }

  async #release(file: LogFile): Promise<void> {
    try {
      await file.close()
    } catch (error) {
      this.#face.closingFailed(error)
    }
  }
}
