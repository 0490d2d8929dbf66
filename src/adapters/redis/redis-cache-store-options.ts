import type { Clock } from '../../core/clock.js'
import { checkCount, checkFunction, checkOneOf, checkOptions, failOption, valueOr } from '../../core/options.js'
import type { CacheCompression, CacheSerializer } from './cache-payload.js'
import type { UnreadableReason } from './cache-record.js'

/** Options of {@link RedisCacheStore}. */
export interface RedisCacheStoreOptions {
  /**
   * What all keys of the store begin with; stores with different prefixes know nothing of each other. Without braces, which Redis
   * Cluster reads as hash tags.
   *
   * @defaultValue 'spillway:cache'
   */
  prefix?: string | undefined
  /**
   * For how long the version of a key is remembered after it was written or deleted, in milliseconds: a value whose load began before that, and
   * ends within this time, isn't written. Keep it above what your loaders take; each deleted key takes about 150 bytes so long.
   *
   * @defaultValue 60_000
   */
  fenceMs?: number | undefined
  /** What turns values into text or bytes, and back. The default is `jsonSerializer`, which takes what JSON carries unchanged and refuses all else. */
  serializer?: CacheSerializer | undefined
  /** Compresses large values, off the main thread. Without it none is; those that others have compressed are read all the same. */
  compression?: CacheCompression | undefined
  /**
   * How many bytes a value may have, serialized and before compression. A larger one is refused by `encode`, and unreadable where it is met: that is
   * the bound on what a small compressed value may become.
   *
   * @defaultValue 67_108_864
   */
  maxValueBytes?: number | undefined
  /**
   * For how long a mark is kept that nobody reads, in milliseconds, and half of it at least: to read one sets its end anew only where less than half
   * is left. `Infinity` is allowed. When a mark is gone, what was written with it is no longer valid: keep this above twice the time for which entries
   * are kept.
   *
   * @defaultValue 604_800_000
   */
  markTtlMs?: number | undefined
  /**
   * Over how many slots of a cluster the keys are spread, each with a command of its own for those that are read or written together: fewer are
   * faster, and more spread better over many nodes. All stores with the same prefix need the same count; one that has another fails
   * every call. The default is 16 on a cluster and 1 otherwise.
   */
  buckets?: number | undefined
  /** What errors, events and stats call it. The default is `redis-cache-store`. */
  name?: string | undefined
  /** What tells it how old its last look at the server's clock is. The default is `systemClock`. */
  clock?: Clock | undefined
}

/** Events of {@link RedisCacheStore}. */
export interface RedisCacheStoreEvents {
  /** Something lies under a key that can't be read. It counts as a miss, and may be written over and deleted like any other. */
  unreadable: {
    /** Under which key. */
    readonly key: string
    /**
     * What is wrong with it: `foreign`, no record of this store; `format`, one of another release; `corrupt`, its bytes have changed, or
     * another serializer wrote it; `tooLarge`, above `maxValueBytes`; `undecodable`, the serializer failed.
     */
    readonly reason: UnreadableReason
    /** What was thrown, where anything was. */
    readonly error: unknown
  }
}

/** Stats of {@link RedisCacheStore}. All are counts of keys or marks, but for the bytes. */
export interface RedisCacheStoreStats {
  /** What errors, events and stats call it. */
  readonly name: string
  /** Keys that were asked for, each as often as it was: `hits + misses + unreadable + readsFailed + readsPending`. */
  readonly reads: number
  /** Of those, the ones that had a value, stale ones included. */
  readonly hits: number
  /** Those that had none. */
  readonly misses: number
  /** Those that had something that can't be read. */
  readonly unreadable: number
  /** Those for which Redis failed. */
  readonly readsFailed: number
  /** Those that aren't answered yet. */
  readonly readsPending: number
  /** Writes and deletes that were asked for: `written + refused + deleted + writesFailed + writesPending`. */
  readonly writes: number
  /** Values that were written. */
  readonly written: number
  /** Values that weren't, since the version was another one. */
  readonly refused: number
  /** Keys that were deleted. */
  readonly deleted: number
  /** Writes and deletes that failed. */
  readonly writesFailed: number
  /** Those that aren't answered yet. */
  readonly writesPending: number
  /** Marks that were read. */
  readonly marksRead: number
  /** Marks that were renewed. */
  readonly marksRenewed: number
  /** How large the records are that were read, in bytes. */
  readonly bytesRead: number
  /** How large the records are that were written, in bytes. */
  readonly bytesWritten: number
  /** Values that were compressed, and got smaller by it. */
  readonly compressed: number
  /** How many bytes that has saved. */
  readonly bytesSaved: number
}

/** Checks a serializer. */
export function checkSerializer(serializer: CacheSerializer): CacheSerializer {
  if (typeof serializer !== 'object' || serializer === null) {
    failOption('serializer', 'must be an object with encode and decode', serializer)
  }
  checkFunction('serializer.encode', serializer.encode)
  checkFunction('serializer.decode', serializer.decode)
  const { format } = serializer
  if (format !== undefined && typeof format !== 'string') failOption('serializer.format', 'must be a string', format)
  return serializer
}

/** Checks the options of compression, and fills in their defaults. */
export function checkCompression(compression: CacheCompression | undefined): Required<CacheCompression> | undefined {
  if (compression === undefined) return undefined
  checkOptions('compression', compression)
  const algorithm = checkOneOf('compression.algorithm', valueOr(compression.algorithm, 'gzip'), ['gzip', 'brotli'])
  const brotli = algorithm === 'brotli'
  const level = valueOr(compression.level, brotli ? 4 : 6)
  return {
    algorithm,
    level: checkCount('compression.level', level, brotli ? 0 : 1, brotli ? 11 : 9),
    minBytes: checkCount('compression.minBytes', valueOr(compression.minBytes, 1024), 0),
  }
}
