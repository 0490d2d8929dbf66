import { isWellFormed } from '../../internal/storable.js'
import { bucketOf } from './counter-bucket.js'

const slots = 16_384
/** In which part of its range a bucket lies: one that a border of two nodes goes through is then always on the same side of it. */
const firstPart = 0.25

/**
 * The names of a cache store's keys. They say where data lies, so they never change.
 *
 * All of a bucket lies in one slot of a cluster, so that one command reads many keys of it. The tags of buckets are numbers that were chosen so
 * that bucket i of n lies where the i-th n-th of all slots begins: nodes that own ranges of slots then own as many buckets as they should, though there
 * are few.
 */
export class CacheKeys {
  /** Where the number of buckets is written down. */
  readonly layout: string
  readonly #tags: readonly string[]

  /** @param prefix - a text without braces. */
  constructor(prefix: string, buckets: number) {
    this.layout = `${prefix}:layout`
    this.#tags = tagsOf(prefix, buckets)
  }

  /** In which bucket a key or a mark is. */
  bucketOf(key: string): number {
    return this.#tags.length === 1 ? 0 : bucketOf(key, this.#tags.length)
  }

  /** Where a value is. */
  value(bucket: number, key: string): string {
    return isWellFormed(key) ? `${this.#tags[bucket]}:k:${key}` : `${this.#tags[bucket]}:j:${JSON.stringify(key)}`
  }

  /** Where a mark is. */
  mark(bucket: number, name: string): string {
    return isWellFormed(name) ? `${this.#tags[bucket]}:m:${name}` : `${this.#tags[bucket]}:n:${JSON.stringify(name)}`
  }
}

function tagsOf(prefix: string, buckets: number): string[] {
  const tags: string[] = new Array(buckets).fill('')
  let left = buckets
  for (let number = 0; left > 0; number++) {
    const tag = `${prefix}:${number}`
    const position = ((crc16(Buffer.from(tag)) % slots) * buckets) / slots
    const bucket = Math.floor(position)
    if (tags[bucket] !== '' || (buckets > 1 && position - bucket >= firstPart)) continue
    tags[bucket] = `{${tag}}`
    left--
  }
  return tags
}

/** CRC-16/XMODEM, by which Redis Cluster assigns slots. Source: the Redis Cluster specification, appendix A. */
function crc16(bytes: Uint8Array): number {
  let crc = 0
  for (const byte of bytes) {
    crc ^= byte << 8
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff
  }
  return crc
}
