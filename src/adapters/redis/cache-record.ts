import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import type { CacheMark } from '../../core/ports.js'

/**
 * A record is one string: a header, which the server writes, and a body, which comes from here.
 *
 * | offset | what                                                                                    |
 * | ------ | --------------------------------------------------------------------------------------- |
 * | 0      | `swc` and the format, a byte                                                            |
 * | 4      | flags, 32 bits                                                                          |
 * | 8      | version: a double, microseconds of the server's clock, or one more than the last one    |
 * | 16     | when it was written: a double, microseconds, as the following                           |
 * | 24     | until when it is fresh                                                                  |
 * | 32     | until when it is kept                                                                   |
 * | 40     | until when its version is remembered                                                    |
 * | 48     | the body's checksum, 32 bits                                                            |
 * | 52     | the checksum of the words before, 32 bits                                               |
 * | 56     | the body: the length of the marks, 32 bits; the marks as JSON; the payload              |
 *
 * All of it is little-endian. A tombstone has no body.
 */
export const headerBytes = 56
/** What a record begins with; the byte after it is the format. */
export const magic = 'swc'
/** The format that this release writes, and the only one that it reads. */
export const format = 1

/** Bits of a record's flags. */
export const flags = { tombstone: 1, bytes: 2, gzip: 4, brotli: 8 } as const

const knownFlags = 15
const marksLengthBytes = 4
const begin = magic.charCodeAt(0) | (magic.charCodeAt(1) << 8) | (magic.charCodeAt(2) << 16)

/** Why a record can't be read. */
export type UnreadableReason = 'foreign' | 'format' | 'corrupt' | 'tooLarge' | 'undecodable'

/** A record as it lies there. Times are microseconds of the server's clock. */
export interface CacheRecord {
  readonly version: string
  readonly flags: number
  readonly writtenUs: number
  readonly freshUntilUs: number
  readonly keptUntilUs: number
  readonly marks: readonly CacheMark[]
  readonly payload: Buffer
}

/** What can't be read has a version, too: whoever loads the key anew may replace it. */
export interface UnreadableRecord {
  readonly version: string
  readonly reason: UnreadableReason
}

/** A body, and its checksum. */
export interface RecordBody {
  readonly bytes: Buffer
  readonly checksum: number
}

const noMarks: readonly CacheMark[] = Object.freeze([])

/**
 * Puts a body together.
 *
 * @param seal - what else the checksum is about: a record that lies under another key, or was written by another serializer, is corrupt.
 */
export function bodyOf(marks: readonly CacheMark[], payload: string | Uint8Array, seal: string): RecordBody {
  const names = marks.length === 0 ? '' : JSON.stringify(marks.map(({ name, mark }) => [name, mark]))
  const namesBytes = Buffer.byteLength(names)
  const start = marksLengthBytes + namesBytes
  const bytes = Buffer.allocUnsafe(start + (typeof payload === 'string' ? Buffer.byteLength(payload) : payload.length))
  bytes.writeUInt32LE(namesBytes, 0)
  if (namesBytes > 0) bytes.write(names, marksLengthBytes)
  if (typeof payload === 'string') bytes.write(payload, start)
  else bytes.set(payload, start)
  return { bytes, checksum: crc32(bytes, crc32(seal)) }
}

/** Reads a record, as far as its payload. Never throws. */
export function readRecord(raw: Buffer, seal: string): CacheRecord | UnreadableRecord {
  const problem = problemOfHeader(raw)
  if (problem !== undefined) return { version: versionOfUnreadable(raw), reason: problem }
  const version = String(raw.readDoubleLE(8))
  const bits = raw.readUInt32LE(4)
  if ((bits & ~knownFlags) !== 0) return { version, reason: 'format' }
  const body = raw.subarray(headerBytes)
  const isTombstone = (bits & flags.tombstone) !== 0
  const start = isTombstone ? 0 : endOfMarks(body)
  if (start === undefined || !(isTombstone || crc32(body, crc32(seal)) === raw.readUInt32LE(48))) {
    return { version, reason: 'corrupt' }
  }
  const marks = isTombstone ? noMarks : marksOf(body, start)
  if (marks === undefined) return { version, reason: 'corrupt' }
  return {
    version,
    flags: bits,
    writtenUs: raw.readDoubleLE(16),
    freshUntilUs: raw.readDoubleLE(24),
    keptUntilUs: raw.readDoubleLE(32),
    marks,
    payload: body.subarray(start),
  }
}

function endOfMarks(body: Buffer): number | undefined {
  if (body.length < marksLengthBytes) return undefined
  const end = marksLengthBytes + body.readUInt32LE(0)
  return end <= body.length ? end : undefined
}

function problemOfHeader(raw: Buffer): UnreadableReason | undefined {
  if (raw.length < 4 || raw.readUIntLE(0, 3) !== begin) return 'foreign'
  if (raw[3] !== format) return 'format'
  return raw.length < headerBytes || sumOf(raw) !== raw.readUInt32LE(52) ? 'corrupt' : undefined
}

/** The words of a header, each times an odd number of its own: any change of a bit, and most others, change the sum. */
function sumOf(raw: Buffer): number {
  let sum = 0
  for (let at = 0, factor = 1; at < 52; at += 4, factor += 2) sum += raw.readUInt32LE(at) * factor
  return sum % 0x1_0000_0000
}

/** As the scripts say it, too; to them, nothing and an empty string are the same. */
function versionOfUnreadable(raw: Buffer): string {
  return raw.length === 0 ? '' : `x${createHash('sha1').update(raw).digest('hex')}`
}

/** Undefined where they are none, though the checksum is right. */
function marksOf(body: Buffer, end: number): readonly CacheMark[] | undefined {
  if (end === marksLengthBytes) return noMarks
  try {
    const pairs = JSON.parse(body.toString('utf8', marksLengthBytes, end)) as readonly [string, string][]
    return pairs.map(([name, mark]) => ({ name, mark }))
  } catch {
    return undefined
  }
}
