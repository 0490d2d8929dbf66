import { open, readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { StoreError } from '../../core/errors.js'
import type { JournalDirectory } from './journal-directory.js'
import {
  findMarker,
  findRecord,
  formatVersion,
  hasLostSector,
  maxPayloadBytes,
  mayBeTornStart,
  prefixBytes,
  type RecordAt,
  readAssignment,
  readHeader,
  readPosition,
  readSettled,
  recordAt,
  type SegmentHeader,
} from './journal-record.js'
import { JournalState, type Segment } from './journal-state.js'

/** What can't be read of a segment that had been durable. */
export interface Damage {
  /** The segment's file. */
  readonly path: string
  /** Where it begins. */
  readonly offset: number
  /** How many bytes can't be read; all that is left of the file where nothing more of it can. */
  readonly bytes: number
}

/** A write that a crash cut short, and that nobody was told of as durable. */
export interface TornTail {
  readonly path: string
  readonly offset: number
  readonly bytes: number
}

/** What a journal's segments say. */
export interface Recovered {
  readonly state: JournalState
  /** The text of each unsettled event. */
  readonly texts: Map<number, string>
  /** The segments that count, oldest first. */
  readonly segments: Segment[]
  /** Files that count no more: what a checkpoint made needless, and what was never finished. */
  readonly leftovers: readonly string[]
  readonly nextPosition: number
  readonly nextSegment: number
  readonly tornTail: TornTail | undefined
  /** Whether it ends with a write of which nothing says that it had been durable. */
  readonly unproven: boolean
  readonly damage: readonly Damage[]
  /** Files of dead letters that are in it already. */
  readonly requeued: ReadonlySet<string>
}

const segmentPattern = /^segment-(\d{8,15})$/

export function segmentName(number: number): string {
  return `segment-${String(number).padStart(8, '0')}`
}

/**
 * Reads a journal's segments, without changing anything.
 *
 * @param skipDamage - whether to go on behind what is damaged.
 * @throws StoreError when something that had been durable is damaged or missing, unless that is to be skipped.
 */
export async function recover(journal: string, directory: JournalDirectory, skipDamage: boolean): Promise<Recovered> {
  const names = await directory.list()
  const numbers = names.flatMap((name) => segmentPattern.exec(name)?.[1] ?? []).map(Number)
  numbers.sort((a, b) => a - b)
  const reading = new Reading(journal, directory, skipDamage)
  const files: SegmentFile[] = []
  for (const number of numbers) files.push(await reading.begin(number))
  const leftovers = names
    .filter((name) => name.endsWith('.tmp') && !name.startsWith('lock'))
    .map((name) => directory.file(name))
  return reading.read(files, leftovers)
}

/** A segment's file, of which no more than the header has been read. */
interface SegmentFile {
  readonly number: number
  readonly path: string
  readonly header: SegmentHeader | undefined
}

class Reading {
  readonly #journal: string
  readonly #directory: JournalDirectory
  readonly #skipDamage: boolean
  readonly #state = new JournalState()
  readonly #texts = new Map<number, string>()
  readonly #segments: Segment[] = []
  readonly #damage: Damage[] = []
  readonly #requeued = new Set<string>()
  #nextPosition = 1
  #tornTail: TornTail | undefined
  #unproven = false

  constructor(journal: string, directory: JournalDirectory, skipDamage: boolean) {
    this.#journal = journal
    this.#directory = directory
    this.#skipDamage = skipDamage
  }

  async begin(number: number): Promise<SegmentFile> {
    const path = this.#directory.file(segmentName(number))
    const handle = await open(path, 'r')
    try {
      const prefix = await handle.read(Buffer.alloc(prefixBytes), 0, prefixBytes, 0)
      const { size } = await handle.stat()
      const length = prefix.bytesRead < prefixBytes ? 0 : prefix.buffer.readUInt32LE(0)
      const bytes = Buffer.alloc(length > maxPayloadBytes ? 0 : Math.min(size, prefixBytes + length))
      const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0)
      const header = readHeader(bytes.subarray(0, bytesRead))?.header
      return { number, path, header: header?.segment === number ? header : undefined }
    } finally {
      await handle.close()
    }
  }

  async read(all: readonly SegmentFile[], leftovers: string[]): Promise<Recovered> {
    const from = Math.max(
      0,
      all.findLastIndex(({ header }) => header?.checkpoint === true),
    )
    for (const { path } of all.slice(0, from)) leftovers.push(path)
    let files = all.slice(from)
    const last = files.at(-1)
    let nextSegment = (last?.number ?? 0) + 1
    // Its first write was cut short, unless a later one says that it had been durable.
    if (last !== undefined && last.header === undefined) {
      const bytes = await readFile(last.path)
      if (findMarker(bytes, 0, last.number) === undefined && mayBeTornStart(bytes)) {
        this.#tornTail = { path: last.path, offset: 0, bytes: bytes.length }
        leftovers.push(last.path)
        files = files.slice(0, -1)
        nextSegment = last.number
      }
    }
    for (const [i, file] of files.entries()) await this.#readSegment(file, files[i - 1], files[i + 1])
    return {
      state: this.#state,
      texts: this.#texts,
      segments: this.#segments,
      leftovers,
      nextPosition: this.#nextPosition,
      nextSegment,
      tornTail: this.#tornTail,
      unproven: this.#unproven,
      damage: this.#damage,
      requeued: this.#requeued,
    }
  }

  async #readSegment(
    file: SegmentFile,
    before: SegmentFile | undefined,
    after: SegmentFile | undefined,
  ): Promise<void> {
    const { number, path, header } = file
    const bytes = await readFile(path)
    if (header !== undefined && header.format !== formatVersion) {
      throw new StoreError(
        `${this.#journal}: ${path} has format ${header.format}, which this version of the package can't read`,
        { retryable: false },
      )
    }
    if (before !== undefined && number !== before.number + 1) {
      this.#damaged(this.#directory.file(segmentName(before.number + 1)), 0, 0, 'is missing')
    }
    const length = (after?.number === number + 1 ? after.header?.before : undefined) ?? bytes.length
    const segment: Segment = { number, path, bytes: Math.min(length, bytes.length), pins: 0, pinnedBytes: 0 }
    this.#segments.push(segment)
    this.#nextPosition = Math.max(this.#nextPosition, header?.position ?? 1)
    for (const name of header?.requeued ?? []) this.#requeued.add(name)
    this.#readRecords(bytes.subarray(0, segment.bytes), file, segment, after === undefined)
    if (length > bytes.length) {
      this.#damaged(path, bytes.length, length - bytes.length, `ends there, and had ${length} bytes`)
    }
  }

  #readRecords(bytes: Buffer, { path, number, header }: SegmentFile, segment: Segment, isLast: boolean): void {
    let salt = header?.salt
    let at = 0
    while (at < bytes.length) {
      const record = salt === undefined ? undefined : recordAt(bytes, at, bytes.length, salt)
      if (record !== undefined && (record.kind === 'h') === (at === 0)) {
        this.#apply(bytes, at, record, segment)
        at = record.end
        continue
      }
      const marker = findMarker(bytes, at + 1, number)
      salt ??= marker?.salt
      const next = salt === undefined ? undefined : findRecord(bytes, at + 1, bytes.length, salt)
      if (isLast && marker === undefined && at > 0 && (next === undefined || hasLostSector(bytes, at, next))) {
        this.#tornTail = { path, offset: at, bytes: bytes.length - at }
        segment.bytes = at
        return
      }
      const end = next ?? bytes.length
      this.#damaged(path, at, end - at, "can't be read there")
      at = end
    }
  }

  #apply(bytes: Buffer, at: number, record: RecordAt, segment: Segment): void {
    const size = record.end - at
    this.#unproven = record.kind !== 'g'
    switch (record.kind) {
      case 'e': {
        const { position, textFrom } = readPosition(bytes, record)
        this.#state.add(position, segment, size)
        this.#texts.set(position, bytes.toString('utf8', textFrom, record.end))
        this.#nextPosition = Math.max(this.#nextPosition, position + 1)
        return
      }
      case 'a': {
        const { batchId, positions } = readAssignment(bytes, record)
        this.#state.assign(batchId, positions, segment, size)
        return
      }
      case 's': {
        const batchId = readSettled(bytes, record)
        for (const position of this.#state.batches.get(batchId)?.positions ?? []) this.#texts.delete(position)
        this.#state.settle(batchId)
        return
      }
    }
  }

  #damaged(path: string, offset: number, bytes: number, how: string): void {
    if (!this.#skipDamage) {
      throw new StoreError(
        `${this.#journal}: ${basename(path)} ${how}, at byte ${offset}: it was durable and is damaged. Nothing was changed. ` +
          `Restore ${path} from a copy, or open the journal with damage: 'skip' to go on without what is lost`,
        { retryable: false },
      )
    }
    this.#damage.push({ path, offset, bytes })
  }
}
