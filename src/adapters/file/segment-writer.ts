import { type FileHandle, open } from 'node:fs/promises'
import { fileMode, type JournalDirectory } from './journal-directory.js'
import { headerPayload, markerPayload, prefixBytes, type SegmentHeader, writeRecord } from './journal-record.js'
import type { Segment } from './journal-state.js'

/** Something to be written: a record's payload, and how long the record became. */
export interface Writable {
  readonly payload: string
  bytes: number
}

/** How many characters one write takes, and so how much memory it takes: what is over goes into the next one. */
export const maxGroupChars: number = 1024 * 1024
/** Kept between writes, so that not every one allocates; a larger write gets a buffer of its own. */
const keptBufferBytes = 1024 * 1024

/** The segment at the end of a journal, to which records are added, a group with one write and one sync. */
export class SegmentWriter {
  readonly segment: Segment
  readonly #handle: FileHandle
  readonly #salt: number
  readonly #sync: boolean
  #buffer: Buffer
  /** Whether a sync failed: what was then on its way may or may not be there, and asking again would hide it. */
  #syncFailed = false

  private constructor(segment: Segment, handle: FileHandle, salt: number, sync: boolean, buffer: Buffer) {
    this.segment = segment
    this.#handle = handle
    this.#salt = salt
    this.#sync = sync
    this.#buffer = buffer
  }

  /**
   * Begins a segment with a group, both durable when this resolves. What it leaves behind when it fails is the caller's to remove.
   */
  static async create(
    directory: JournalDirectory,
    path: string,
    header: SegmentHeader,
    group: readonly Writable[],
    sync: boolean,
  ): Promise<SegmentWriter> {
    const handle = await open(path, 'w', fileMode)
    try {
      const segment: Segment = { number: header.segment, path, bytes: 0, pins: 0, pinnedBytes: 0 }
      const writer = new SegmentWriter(segment, handle, header.salt, sync, Buffer.allocUnsafe(0))
      await writer.#append(headerPayload(header), group)
      await directory.sync()
      return writer
    } catch (error) {
      await handle.close().catch(() => undefined)
      throw error
    }
  }

  /** Adds a group of records, durable when this resolves. */
  append(group: readonly Writable[]): Promise<void> {
    const { number, bytes } = this.segment
    return this.#append(markerPayload(number, bytes, this.#salt), group)
  }

  /** Whether what a failed `append` left behind can be cut off. */
  get cuttable(): boolean {
    return !this.#syncFailed
  }

  /** Cuts off what a failed `append` left behind. */
  async cut(): Promise<void> {
    await this.#handle.truncate(this.segment.bytes)
    // Not only the data: the length is what matters here.
    await this.#makeDurable(() => this.#handle.sync())
  }

  /** Says that all of it is durable, as the next `append` would have: from then on, what is lost of it is no torn write. */
  async seal(): Promise<void> {
    const { bytes } = this.segment
    try {
      await this.#append(markerPayload(this.segment.number, bytes, this.#salt), [])
    } catch (error) {
      await this.#handle.truncate(bytes)
      throw error
    }
  }

  close(): Promise<void> {
    return this.#handle.close()
  }

  async #append(first: string, group: readonly Writable[]): Promise<void> {
    const bytes = this.#encode(first, group)
    const at = this.segment.bytes
    for (let written = 0; written < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, written, bytes.length - written, at + written)
      if (bytesWritten === 0) throw new Error('nothing could be written')
      written += bytesWritten
    }
    await this.#makeDurable(() => this.#handle.datasync())
    this.segment.bytes = at + bytes.length
  }

  async #makeDurable(sync: () => Promise<void>): Promise<void> {
    if (!this.#sync) return
    try {
      await sync()
    } catch (error) {
      this.#syncFailed = true
      throw error
    }
  }

  #encode(first: string, group: readonly Writable[]): Buffer {
    let size = prefixBytes + Buffer.byteLength(first)
    for (const record of group) {
      record.bytes = prefixBytes + Buffer.byteLength(record.payload)
      size += record.bytes
    }
    const buffer = this.#bufferOf(size)
    let at = writeRecord(buffer, 0, first, 0)
    for (const record of group) at = writeRecord(buffer, at, record.payload, this.#salt)
    return buffer.subarray(0, at)
  }

  #bufferOf(size: number): Buffer {
    if (size <= this.#buffer.length) return this.#buffer
    if (size > keptBufferBytes) return Buffer.allocUnsafeSlow(size)
    this.#buffer = Buffer.allocUnsafeSlow(keptBufferBytes)
    return this.#buffer
  }
}
