import type { LatencySnapshot } from '../core/stats.js'
import type { SharedTierStats } from './shared-tier-settings.js'

/** Which key of which namespace an event is about. */
export interface CacheEventKey {
  /** The key, as it was given. */
  readonly key: string
  /** The namespace, with those that it is in: `'cache/users'`. */
  readonly namespace: string
}

/** Events of `MultiLevelCache`. Each key of a read gives one `hit` or one `missed`, unless the read was aborted or refused. */
export interface MultiLevelCacheEvents {
  /**
   * A read was answered with what a tier had. `tier`: which one; `stale`: whether it was past its ttl, be it because its loader failed or
   * was late.
   */
  hit: CacheEventKey & { readonly tier: 'l1' | 'l2'; readonly stale: boolean }
  /** A read was answered otherwise: with nothing, with what was loaded, or with an error. */
  missed: CacheEventKey
  /** A load succeeded. `background`: nobody waited for it when it began. */
  loaded: CacheEventKey & { readonly durationMs: number; readonly background: boolean }
  /** A load failed. `servedStale`: there was an old value to serve instead. */
  loadFailed: CacheEventKey & {
    readonly error: unknown
    readonly durationMs: number
    readonly background: boolean
    readonly servedStale: boolean
  }
  /**
   * The shared tier failed at something, which no reader notices. `keys`: the keys with their namespaces (`'cache/users:42'`), or
   * names of marks. `'encode'`: it can't carry what was loaded, so that only memory keeps it. `'lock'`: the load lock failed.
   */
  storeFailed: {
    readonly operation: 'read' | 'write' | 'delete' | 'marks' | 'encode' | 'lock'
    readonly keys: readonly string[]
    readonly error: unknown
  }
  /**
   * Something was deleted or invalidated here (`'local'`), or written, deleted or invalidated elsewhere (`'bus'`). `'gap'`: that may have
   * been missed, so that nothing in memory is trusted any more.
   */
  invalidated:
    | {
        readonly kind: 'keys'
        readonly source: 'local' | 'bus'
        readonly keys: readonly string[]
        readonly namespace: string
      }
    | { readonly kind: 'tags'; readonly source: 'local' | 'bus'; readonly tags: readonly string[] }
    | { readonly kind: 'clear'; readonly source: 'local' | 'bus'; readonly namespace: string }
    | { readonly kind: 'gap'; readonly source: 'bus' }
}

/** The books of a cache, in keys that were read: each position of a bulk read counts. */
export interface CacheReadCounts {
  /** All: `hits.l1 + hits.l2 + stale + missed + loaded + failed + rejected + aborted + pending`. */
  readonly offered: number
  /** Served fresh, by tier. */
  readonly hits: { readonly l1: number; readonly l2: number }
  /** Served past their ttl. */
  readonly stale: number
  /** Answered with nothing. */
  readonly missed: number
  /** Answered by a loader. */
  readonly loaded: number
  /** Answered with an error, what `close` gave up included. */
  readonly failed: number
  /** Refused: closed, wrong, already aborted. */
  readonly rejected: number
  /** Given up by their caller. */
  readonly aborted: number
  /** Not answered yet. */
  readonly pending: number
}

/** Stats of `MultiLevelCache`, those of its namespaces included. */
export interface MultiLevelCacheStats {
  /** Its name. */
  readonly name: string
  /** What became of reads. */
  readonly reads: CacheReadCounts
  /** The tier in memory. */
  readonly l1: {
    /** How many entries it holds, old values included. */
    readonly entries: number
    /** How large they are together; 0 without `maxBytes`. */
    readonly bytes: number
    /** Lookups that found a fresh value. */
    readonly hits: number
    /** Lookups that found none. */
    readonly misses: number
    /** Entries that made room for others. */
    readonly evictions: number
    /** Values that were too large to keep, or couldn't be measured. */
    readonly tooLarge: number
  }
  /** The shared tier, where there is one. */
  readonly l2: SharedTierStats | undefined
  /** Loads, in keys. */
  readonly loads: {
    /** Begun: `started = succeeded + failed + running`. */
    readonly started: number
    /** Those that brought a value, or `undefined`. */
    readonly succeeded: number
    /** Those that failed, timed out, or were given up. */
    readonly failed: number
    /** Those that haven't ended. */
    readonly running: number
    /** Of those that failed, how many took longer than `loaderTimeoutMs`. */
    readonly timedOut: number
    /** Of those that succeeded, how many weren't stored because of what was written or invalidated meanwhile, here or by word of the bus. */
    readonly fenced: number
    /** Of those that were started, how many nobody waited for. */
    readonly background: number
    /** Loaded values that the shared tier couldn't carry. */
    readonly unstorable: number
  }
  /** How long loads took that succeeded or failed, in milliseconds. */
  readonly loadMs: LatencySnapshot
}
