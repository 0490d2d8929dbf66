import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import type { CacheMark } from '../../core/ports.js'

/**
 * A record is one string: what the server writes, for it knows the time and the last version, and what comes from here.
 *
 * | offset | what                                                                                                  |
 * | ------ | ----------------------------------------------------------------------------------------------------- |
 * | 0      | `swc` and the format, a byte                                                                          |
 * | 4      | the version: microseconds of the server's clock, or one more than the last one; a double, as all times |
 * | 12     | when it was written, in microseconds of the server's clock                                            |
 * | 20     | until when its version is remembered, likewise; 0 for one that nobody has written or deleted          |
 * | 28     | the first, plus twice the second, minus three times the third                                         |
 * | 36     | the checksum of all that follows, of the key and of the serializer's format; 32 bits                  |
 * | 40     | flags, 32 bits                                                                                        |
 * | 44     | for how many milliseconds it is fresh                                                                 |
 * | 52     | for how many milliseconds it is kept                                                                  |
 * | 60     | how many bytes the marks take, 32 bits                                                                |
 * | 64     | the marks as JSON, then the payload                                                                   |
 *
 * All of it is little-endian. A tombstone has no marks and no payload.
 */
export const magic = 'swc'
/** The format that this release writes, and the only one that it reads. */
export const format = 1
/** How much of it the server writes. */
export const serverBytes = 36
const headerBytes = 64
const covered = serverBytes + 4

/** Bits of a record's flags. */
export const flags = { tombstone: 1, bytes: 2, gzip: 4, brotli: 8 } as const

const knownFlags = 15
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

/** What a record is made of beside what the server adds. */
export interface RecordContent {
  readonly flags: number
  readonly freshMs: number
  readonly keptMs: number
  readonly marks: readonly CacheMark[]
  readonly payload: string | Uint8Array
}

const noMarks: readonly CacheMark[] = Object.freeze([])
/** Entries that are read together depend on the same marks, as a rule. */
let latestMarks: { readonly text: string; readonly marks: readonly CacheMark[] } = { text: '', marks: noMarks }

/** So do those that are written. */
let latestWritten: { readonly marks: readonly CacheMark[]; readonly text: string } = { marks: noMarks, text: '' }

/**
 * What a checksum begins with: a record that lies under another key, or was written by another serializer, is corrupt. It is FNV-1a over the
 * UTF-16 code units.
 *
 * @param from - what it goes on from: the seal of the serializer's format.
 */
export function sealOf(text: string, from = 0x811c9dc5): number {
  let hash = from
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash >>> 0
}

/** Puts together what the server doesn't write of a record. */
export function packRecord({ flags: bits, freshMs, keptMs, marks, payload }: RecordContent, seal: number): Buffer {
  const names = textOf(marks)
  const namesBytes = Buffer.byteLength(names)
  const start = headerBytes - serverBytes + namesBytes
  const bytes = Buffer.allocUnsafe(start + (typeof payload === 'string' ? Buffer.byteLength(payload) : payload.length))
  bytes.writeUInt32LE(bits, 4)
  bytes.writeDoubleLE(freshMs, 8)
  bytes.writeDoubleLE(keptMs, 16)
  bytes.writeUInt32LE(namesBytes, 24)
  if (namesBytes > 0) bytes.write(names, 28)
  if (typeof payload === 'string') bytes.write(payload, start)
  else bytes.set(payload, start)
  bytes.writeUInt32LE(crc32(bytes.subarray(4), seal), 0)
  return bytes
}

/** Reads a record, as far as its payload. Never throws. */
export function readRecord(raw: Buffer, seal: number): CacheRecord | UnreadableRecord {
  const problem = problemOfServerPart(raw)
  if (problem !== undefined) return { version: versionOfUnreadable(raw), reason: problem }
  const version = String(raw.readDoubleLE(4))
  const start = raw.length < headerBytes ? Number.POSITIVE_INFINITY : headerBytes + raw.readUInt32LE(60)
  if (start > raw.length || crc32(raw.subarray(covered), seal) !== raw.readUInt32LE(36)) {
    return { version, reason: 'corrupt' }
  }
  const bits = raw.readUInt32LE(40)
  // A newer release may know more of them.
  if ((bits & ~knownFlags) !== 0) return { version, reason: 'format' }
  const writtenUs = raw.readDoubleLE(12)
  return {
    version,
    flags: bits,
    writtenUs,
    freshUntilUs: writtenUs + raw.readDoubleLE(44) * 1000,
    keptUntilUs: writtenUs + raw.readDoubleLE(52) * 1000,
    marks: start === headerBytes ? noMarks : marksOf(raw.toString('utf8', headerBytes, start)),
    payload: raw.subarray(start),
  }
}

function problemOfServerPart(raw: Buffer): UnreadableReason | undefined {
  if (raw.length < 4 || raw.readUIntLE(0, 3) !== begin) return 'foreign'
  if (raw[3] !== format) return 'format'
  if (raw.length < serverBytes) return 'corrupt'
  const version = raw.readDoubleLE(4)
  const written = raw.readDoubleLE(12)
  const fenced = raw.readDoubleLE(20)
  const whole = version > 0 && isWhole(version) && isWhole(written) && isWhole(fenced)
  return whole && version + 2 * written - 3 * fenced === raw.readDoubleLE(28) ? undefined : 'corrupt'
}

function isWhole(number: number): boolean {
  return number >= 0 && Number.isSafeInteger(number)
}

/** As the script says it, too; to that, nothing and an empty string are the same. */
function versionOfUnreadable(raw: Buffer): string {
  return raw.length === 0 ? '' : `x${createHash('sha1').update(raw).digest('hex')}`
}

function textOf(marks: readonly CacheMark[]): string {
  if (marks.length === 0) return ''
  const { marks: latest, text } = latestWritten
  if (latest.length === marks.length && marks.every((mark, i) => sameMark(mark, latest[i]))) return text
  const copy = marks.map(({ name, mark }) => ({ name, mark }))
  latestWritten = { marks: copy, text: JSON.stringify(copy.map(({ name, mark }) => [name, mark])) }
  return latestWritten.text
}

function sameMark(one: CacheMark, other: CacheMark | undefined): boolean {
  return one.name === other?.name && one.mark === other.mark
}

/** The checksum was right, so they are as they were written. */
function marksOf(text: string): readonly CacheMark[] {
  if (text === latestMarks.text) return latestMarks.marks
  const pairs = JSON.parse(text) as readonly [string, string][]
  const marks = Object.freeze(pairs.map(([name, mark]) => Object.freeze({ name, mark })))
  latestMarks = { text, marks }
  return marks
}
