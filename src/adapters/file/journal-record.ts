import { crc32 } from 'node:zlib'

/*
 * A segment is a row of records:
 *
 *   | length, 4 bytes | CRC-32, 4 bytes | payload, `length` bytes of UTF-8 |
 *
 * Numbers are little-endian. The first letter of a payload says what it is:
 *
 *   h{…}            the segment's header, its first record
 *   g<n> <at> <s>   begins another write: all that is before it in segment n was durable when it was written at this offset
 *   e<p> {…}        the event at position p
 *   a["id",p,n,…]   a batch: its id, and its positions as runs of n from p on
 *   s"id"           a batch was settled
 *
 * Each segment has a random salt from which the checksums of its events, assignments and settlements start, so that what a
 * recycled block of the disk still has of another file is never taken for a record. Headers and `g` carry the salt and start from 0.
 */

/** The version of what is described above. */
export const formatVersion = 1
/** What a record's length may be at the most: a greater one is no length. */
export const maxPayloadBytes: number = 64 * 1024 * 1024
/** Length and checksum. */
export const prefixBytes = 8

/** What the first record of a segment says. */
export interface SegmentHeader {
  readonly format: number
  readonly segment: number
  readonly salt: number
  /** The next position to be given when the segment was begun. */
  readonly position: number
  /** How long the segment before it is; what that has beyond was given up, and doesn't count. */
  readonly before?: number | undefined
  /** Whether it says everything that the segments before it said. */
  readonly checkpoint?: boolean | undefined
  /** Files of dead letters that it took in. */
  readonly requeued?: readonly string[] | undefined
}

/** A record as it lies in a segment. */
export interface RecordAt {
  readonly kind: 'h' | 'g' | 'e' | 'a' | 's'
  /** Where its text begins, after the letter. */
  readonly from: number
  /** Where the next record begins. */
  readonly end: number
}

export function headerPayload(header: SegmentHeader): string {
  return `h${JSON.stringify(header)}`
}

export function markerPayload(segment: number, at: number, salt: number): string {
  return `g${segment} ${at} ${salt}`
}

export function eventPayload(position: number, json: string): string {
  return `e${position} ${json}`
}

export function assignPayload(batchId: string, positions: Iterable<number>): string {
  const runs: number[] = []
  let next = Number.NaN
  for (const position of positions) {
    if (position === next) (runs[runs.length - 1] as number)++
    else runs.push(position, 1)
    next = position + 1
  }
  return `a${JSON.stringify([batchId, ...runs])}`
}

export function settlePayload(batchId: string): string {
  return `s${JSON.stringify(batchId)}`
}

/** Writes a record, for which there must be room. */
export function writeRecord(into: Buffer, at: number, payload: string, seed: number): number {
  const start = at + prefixBytes
  const length = into.write(payload, start)
  into.writeUInt32LE(length, at)
  into.writeUInt32LE(crc32(into.subarray(start, start + length), seed), at + 4)
  return start + length
}

/** The record at an offset, if a whole and undamaged one begins there and ends by `to`. */
export function recordAt(bytes: Buffer, at: number, to: number, salt: number): RecordAt | undefined {
  const start = at + prefixBytes
  if (start >= to) return undefined
  const length = bytes.readUInt32LE(at)
  const end = start + length
  if (length === 0 || length > maxPayloadBytes || end > to) return undefined
  const kind = kinds[bytes[start] as number]
  if (kind === undefined) return undefined
  const seed = kind === 'h' || kind === 'g' ? 0 : salt
  if (crc32(bytes.subarray(start, end), seed) !== bytes.readUInt32LE(at + 4)) return undefined
  return { kind, from: start + 1, end }
}

const kinds: Readonly<Record<number, RecordAt['kind']>> = { 104: 'h', 103: 'g', 101: 'e', 97: 'a', 115: 's' }

export function readHeader(bytes: Buffer): { readonly header: SegmentHeader; readonly end: number } | undefined {
  const record = recordAt(bytes, 0, bytes.length, 0)
  if (record?.kind !== 'h') return undefined
  return { header: JSON.parse(bytes.toString('utf8', record.from, record.end)), end: record.end }
}

/** An event's position; its text begins at `textFrom`. */
export function readPosition(
  bytes: Buffer,
  record: RecordAt,
): { readonly position: number; readonly textFrom: number } {
  let position = 0
  let at = record.from
  for (; bytes[at] !== 0x20; at++) position = position * 10 + ((bytes[at] as number) - 0x30)
  return { position, textFrom: at + 1 }
}

export function readAssignment(
  bytes: Buffer,
  record: RecordAt,
): { readonly batchId: string; readonly positions: number[] } {
  const [batchId, ...runs] = JSON.parse(bytes.toString('utf8', record.from, record.end)) as [string, ...number[]]
  const positions: number[] = []
  for (let i = 0; i < runs.length; i += 2) {
    const [first, count] = [runs[i] as number, runs[i + 1] as number]
    for (let k = 0; k < count; k++) positions.push(first + k)
  }
  return { batchId, positions }
}

export function readSettled(bytes: Buffer, record: RecordAt): string {
  return JSON.parse(bytes.toString('utf8', record.from, record.end))
}

/** The first beginning of a write of a segment at or after an offset: all before it had been durable. */
export function findMarker(
  bytes: Buffer,
  from: number,
  segment: number,
): { readonly at: number; readonly salt: number } | undefined {
  const pattern = `g${segment} `
  for (let found = bytes.indexOf(pattern, from); found >= 0; found = bytes.indexOf(pattern, found + 1)) {
    const at = found - prefixBytes
    const record = at >= from ? recordAt(bytes, at, bytes.length, 0) : undefined
    if (record === undefined) continue
    const [, claimed, salt] = bytes.toString('utf8', record.from, record.end).split(' ')
    if (Number(claimed) === at) return { at, salt: Number(salt) }
  }
  return undefined
}

/** The first record at or after an offset. */
export function findRecord(bytes: Buffer, from: number, to: number, salt: number): number | undefined {
  for (let at = from; at < to; at++) if (recordAt(bytes, at, to, salt) !== undefined) return at
  return undefined
}

/** The least that a disk writes at once. */
const sectorBytes = 512

/**
 * Whether a write that was cut short may have left this behind where records can be read further on: a power failure may lose any of its
 * sectors, which then are zeros. Anything else isn't what was written.
 */
export function hasLostSector(bytes: Buffer, from: number, to: number): boolean {
  for (let sector = from - (from % sectorBytes); sector + sectorBytes <= to; sector += sectorBytes) {
    if (isZero(bytes, Math.max(sector, from), sector + sectorBytes)) return true
  }
  return false
}

/** Whether a segment that has no readable header may be one whose first write was cut short. */
export function mayBeTornStart(bytes: Buffer): boolean {
  const length = bytes.length < prefixBytes ? 0 : bytes.readUInt32LE(0)
  const isWhole = length > 0 && prefixBytes + length <= bytes.length
  return (!isWhole && bytes.length < sectorBytes) || isZero(bytes, 0, Math.min(bytes.length, sectorBytes))
}

function isZero(bytes: Buffer, from: number, to: number): boolean {
  for (let at = from; at < to; at++) if (bytes[at] !== 0) return false
  return true
}
