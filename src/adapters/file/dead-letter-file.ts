import { type FileHandle, open, rename, stat } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { StoreError } from '../../core/errors.js'
import { describeValue } from '../../core/options.js'
import type { AcceptedUsage } from '../../core/ports.js'
import { type Deferred, deferred, handled } from '../../internal/deferred.js'
import { usageFromJson, usageToJson } from '../../internal/usage-json.js'
import { checkAccepted } from './accepted-usage.js'
import { codeOf, fileError, fileMode, type JournalDirectory, removeIfThere } from './journal-directory.js'
import type { TornTail } from './journal-recovery.js'

/** A batch that was given up, as the journal keeps it. */
export interface DeadLetter {
  /** The batch's id. */
  readonly batchId: string
  /** When it was given up, in milliseconds since the epoch. */
  readonly at: number
  /** Why: the error's name and message, and those of its causes. */
  readonly error: string
  /**
   * Whether the sink refused just these, and applied the rest of their batch. They must never be sent under the batch's id again, which
   * the sink knows as applied.
   */
  readonly refused: boolean
  /** The events. */
  readonly events: readonly AcceptedUsage[]
}

export const deadLetterFileName = 'dead-letters.jsonl'

export function deadLetterLine({ batchId, at, error, refused, events }: DeadLetter): string {
  const head = JSON.stringify({ batchId, at: new Date(at).toISOString(), error, refused })
  return `${head.slice(0, -1)},"events":[${events.map(usageToJson).join(',')}]}\n`
}

/** What a power failure leaves of a sector that was on its way. JSON has none. */
const lostChar = '\0'

/**
 * Reads a file of dead letters, if it is there, up to an offset. What follows the last line's end isn't written yet, and a line of which a
 * power failure lost a part never was.
 */
export async function* readDeadLetters(
  journal: string,
  path: string,
  to: number = Number.POSITIVE_INFINITY,
): AsyncGenerator<DeadLetter, void, undefined> {
  const handle = await openIfThere(path)
  if (handle === undefined) return
  try {
    const end = Math.min(to, await endOfLines(handle))
    if (end === 0) return
    // Of the same file: by its name it may be another one by now.
    const input = handle.createReadStream({ encoding: 'utf8', start: 0, end: end - 1 })
    let number = 0
    try {
      for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
        number++
        if (line.trim() !== '' && !line.includes(lostChar)) yield parseLine(journal, path, number, line)
      }
    } finally {
      // A reader who stops in the middle leaves it open.
      input.destroy()
    }
  } finally {
    await handle.close()
  }
}

function parseLine(journal: string, path: string, number: number, line: string): DeadLetter {
  try {
    const { batchId, at, error, refused, events } = JSON.parse(line)
    if (typeof batchId !== 'string' || batchId === '') throw new Error('it has no batchId')
    if (Number.isNaN(Date.parse(at))) throw new Error('it has no time')
    if (!Array.isArray(events) || events.length === 0) throw new Error('it has no events')
    return {
      batchId,
      at: Date.parse(at),
      error: String(error),
      refused: refused === true,
      events: events.map((event) => checkAccepted(usageFromJson(event))),
    }
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    const message = `${journal}: line ${number} of ${path} is no dead letter: ${why}`
    throw new StoreError(message, { cause, retryable: false, outcomeUnknown: false })
  }
}

/** An error in one line, with its causes; whatever was thrown. */
export function reasonOf(error: unknown): string {
  const parts: string[] = []
  for (let current = error; parts.length < 5; ) {
    const { name, message, cause } = (current ?? {}) as { name?: unknown; message?: unknown; cause?: unknown }
    parts.push(typeof message === 'string' ? `${name}: ${message}` : describeValue(current))
    if (cause === undefined) break
    current = cause
  }
  return parts.join(' / caused by ')
}

/** The file to which a journal adds what is given up: many lines with one write and one sync, as they come. */
export class DeadLetterFile {
  readonly #journal: string
  readonly #directory: JournalDirectory
  readonly #sync: boolean
  readonly #path: string
  #waiting: (Deferred<void> & { readonly line: string })[] = []
  /** What is done with the file is done one after the other. */
  #last: Promise<unknown> = Promise.resolve()
  /**
   * Set when a write failed and couldn't be undone: what is behind this may or may not be there. Before anything else is written, what
   * is before it goes into a new file: after a sync that failed, asking the same file again would hide it.
   */
  #soundBytes: number | undefined

  constructor(journal: string, directory: JournalDirectory, sync: boolean) {
    this.#journal = journal
    this.#directory = directory
    this.#sync = sync
    this.#path = directory.file(deadLetterFileName)
  }

  /**
   * Takes away lines that a crash left unfinished: nobody was told that they are there, and their batches come back.
   *
   * @returns what it took away.
   */
  async open(): Promise<TornTail | undefined> {
    const handle = await openIfThere(this.#path, 'r+')
    if (handle === undefined) return undefined
    let size: number
    let end: number
    let lost: number | undefined
    try {
      size = (await handle.stat()).size
      end = await endOfLines(handle)
      lost = await firstLost(handle, end)
      if (end < size) {
        await handle.truncate(end)
        if (this.#sync) await handle.sync()
      }
    } finally {
      await handle.close()
    }
    if (lost === undefined) return end === size ? undefined : { path: this.#path, offset: end, bytes: size - end }
    await this.#rewrite(() => true)
    return { path: this.#path, offset: lost, bytes: size - (await stat(this.#path)).size }
  }

  /** Adds a line; resolves once it is durable. */
  append(line: string): Promise<void> {
    const waiter = { ...deferred<void>(), line }
    this.#waiting.push(waiter)
    if (this.#waiting.length === 1) void this.#inTurn(() => this.#appendWaiting())
    return waiter.promise
  }

  /** Keeps only some of the letters, all or nothing. */
  keep(wanted: (letter: DeadLetter) => boolean): Promise<void> {
    return this.#inTurn(async () => {
      for await (const letter of this.#letters()) if (!wanted(letter)) return this.#rewrite(wanted)
    })
  }

  /**
   * Gives the file another name, so that the letters that it has are there no more.
   *
   * @returns what it had; the file stays where it is when that is nothing.
   */
  moveTo(name: string): Promise<{ readonly letters: number; readonly events: number }> {
    return this.#inTurn(async () => {
      let letters = 0
      let events = 0
      for await (const letter of this.#letters()) {
        letters++
        events += letter.events.length
      }
      if (letters === 0) return { letters, events }
      if (this.#soundBytes !== undefined) await this.#rewrite(() => true)
      await rename(this.#path, this.#directory.file(name))
      await this.#directory.sync()
      return { letters, events }
    })
  }

  /** Resolves once nothing is under way. */
  async idle(): Promise<void> {
    await this.#last
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work)
    this.#last = handled(done).catch(() => undefined)
    return done
  }

  async #appendWaiting(): Promise<void> {
    const lines = this.#waiting
    this.#waiting = []
    try {
      await this.#write(Buffer.from(lines.map(({ line }) => line).join('')))
    } catch (error) {
      for (const { promise, reject } of lines) {
        handled(promise)
        reject(error)
      }
      return
    }
    for (const { resolve } of lines) resolve()
  }

  async #write(bytes: Buffer): Promise<void> {
    let begun = false
    try {
      if (this.#soundBytes !== undefined) await this.#rewrite(() => true)
      const handle = await open(this.#path, 'a', fileMode)
      try {
        begun = true
        await this.#add(handle, bytes)
      } finally {
        await handle.close().catch(() => undefined)
      }
    } catch (error) {
      throw fileError(this.#journal, `writing ${this.#path}`, error, begun && this.#soundBytes !== undefined)
    }
  }

  async #add(handle: FileHandle, bytes: Buffer): Promise<void> {
    const { size } = await handle.stat()
    this.#soundBytes = size
    try {
      await handle.appendFile(bytes)
    } catch (error) {
      await handle.truncate(size)
      if (this.#sync) await handle.sync()
      this.#soundBytes = undefined
      throw error
    }
    if (this.#sync) await handle.sync()
    if (size === 0) await this.#directory.sync()
    this.#soundBytes = undefined
  }

  #letters(): AsyncGenerator<DeadLetter, void, undefined> {
    return readDeadLetters(this.#journal, this.#path, this.#soundBytes)
  }

  async #rewrite(wanted: (letter: DeadLetter) => boolean): Promise<void> {
    const draft = `${this.#path}.tmp`
    try {
      const handle = await open(draft, 'w', fileMode)
      try {
        for await (const letter of this.#letters()) {
          if (wanted(letter)) await handle.appendFile(deadLetterLine(letter))
        }
        if (this.#sync) await handle.sync()
      } finally {
        await handle.close()
      }
      await rename(draft, this.#path)
      await this.#directory.sync()
      this.#soundBytes = undefined
    } catch (error) {
      await removeIfThere(draft).catch(() => undefined)
      throw error
    }
  }
}

async function openIfThere(path: string, flags = 'r'): Promise<FileHandle | undefined> {
  try {
    return await open(path, flags)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

const chunkBytes = 64 * 1024

/** Where a file has lost something before an offset. */
async function firstLost(handle: FileHandle, to: number): Promise<number | undefined> {
  const chunk = Buffer.allocUnsafe(chunkBytes)
  for (let at = 0; at < to; at += chunkBytes) {
    const { bytesRead } = await handle.read(chunk, 0, Math.min(chunkBytes, to - at), at)
    const found = chunk.subarray(0, bytesRead).indexOf(lostChar)
    if (found >= 0) return at + found
  }
  return undefined
}

const newline = 0x0a

/** Where the last whole line of a file ends; 0 where there is none. */
async function endOfLines(handle: FileHandle): Promise<number> {
  const chunk = Buffer.allocUnsafe(chunkBytes)
  let { size } = await handle.stat()
  while (size > 0) {
    const from = Math.max(0, size - chunkBytes)
    const { bytesRead } = await handle.read(chunk, 0, size - from, from)
    const found = chunk.subarray(0, bytesRead).lastIndexOf(newline)
    if (found >= 0) return from + found + 1
    size = from
  }
  return 0
}
