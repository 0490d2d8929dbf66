import type { FileHandle } from 'node:fs/promises'
import { mkdir, open, readdir, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { isSpillwayError, StoreError } from '../../core/errors.js'

/** What a journal writes is nobody else's to read: it says who used what. */
export const fileMode = 0o600
const directoryMode = 0o700

/** The directory of a journal, opened, so that its entries can be made durable too. */
export class JournalDirectory {
  readonly path: string
  /** Whether anything is made durable at all. */
  readonly #sync: boolean
  #handle: FileHandle | undefined

  private constructor(path: string, sync: boolean, handle: FileHandle | undefined) {
    this.path = path
    this.#sync = sync
    this.#handle = handle
  }

  /** Opens a directory, made if there is none. */
  static async open(path: string, sync: boolean): Promise<JournalDirectory> {
    const made = await mkdir(path, { recursive: true, mode: directoryMode })
    if (made !== undefined && sync) await syncParents(path, made)
    return new JournalDirectory(path, sync, await openDirectory(path))
  }

  /** A descriptor of it, where the platform opens directories. */
  get descriptor(): number | undefined {
    return this.#handle?.fd
  }

  file(name: string): string {
    return join(this.path, name)
  }

  list(): Promise<string[]> {
    return readdir(this.path)
  }

  /** Makes durable which files it has. */
  async sync(): Promise<void> {
    if (this.#sync) await this.#handle?.sync()
  }

  /** Removes a file for good, if it is there. */
  async remove(path: string): Promise<void> {
    await removeIfThere(path)
    await this.sync()
  }

  async close(): Promise<void> {
    const handle = this.#handle
    this.#handle = undefined
    await handle?.close()
  }
}

/** Removes a file, if it is there. */
export async function removeIfThere(path: string): Promise<void> {
  try {
    await unlink(path)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
  }
}

/** Windows opens no directories, and keeps their entries itself. */
async function openDirectory(path: string): Promise<FileHandle | undefined> {
  if (process.platform === 'win32') return undefined
  return open(path, 'r')
}

/** A directory that was made is an entry of its parent, and so on up to the first one that was made. */
async function syncParents(path: string, firstMade: string): Promise<void> {
  for (let made = path; ; made = dirname(made)) {
    const handle = await openDirectory(dirname(made))
    try {
      await handle?.sync()
    } finally {
      await handle?.close()
    }
    if (made === firstMade || dirname(made) === made) return
  }
}

export function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code
}

/** The error of a file operation, for the caller: it says to which journal what happened. */
export function fileError(journal: string, what: string, cause: unknown, outcomeUnknown = false): StoreError {
  if (isSpillwayError(cause)) return cause as StoreError
  const why = cause instanceof Error ? cause.message : String(cause)
  return new StoreError(`${journal}: ${what} failed: ${why}`, { cause, outcomeUnknown })
}
