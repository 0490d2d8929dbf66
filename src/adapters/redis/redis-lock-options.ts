import type { ComponentOptions } from '../../core/component.js'
import type { LatencySnapshot } from '../../core/stats.js'
import type { LeaseLoss } from './redis-lease.js'

/** Options of {@link RedisLock}. */
export interface RedisLockOptions extends ComponentOptions {
  /**
   * What its keys begin with; locks with different prefixes know nothing of each other. Without braces, which Redis Cluster reads as
   * hash tags.
   *
   * @defaultValue 'spillway:lock'
   */
  prefix?: string | undefined
  /**
   * How long a lease lasts unless it is extended, in milliseconds, at least 10: so long the others wait when its owner dies, and so long
   * at most an owner works on without Redis.
   *
   * @defaultValue 30_000
   */
  ttlMs?: number | undefined
  /**
   * Whether a lease extends itself, whenever a third of `ttlMs` has passed, until it is released or lost. Without it, its signal aborts at the
   * end of its time.
   *
   * @defaultValue true
   */
  extend?: boolean | undefined
  /**
   * How long a lease lasts at the most, however often it is extended, in milliseconds, at least 10: against owners who hang. Without it,
   * for ever.
   */
  maxHoldMs?: number | undefined
  /**
   * How long Redis may take to answer, in milliseconds, at least 1.
   *
   * @defaultValue 2000
   */
  timeoutMs?: number | undefined
  /**
   * How long whoever waits for a lock pauses before it looks again, in milliseconds, at least 1: half of it to all of it at first, doubled
   * each time.
   *
   * @defaultValue 50
   */
  pollMs?: number | undefined
  /**
   * The most that such a pause can be, in milliseconds, at least 1. It is never longer than the holder's lease lasts.
   *
   * @defaultValue 500
   */
  maxPollMs?: number | undefined
  /**
   * How long Redis remembers the latest fencing token of a name after its last lease, in milliseconds, at least 1. After that, tokens
   * grow as long as the clock of Redis isn't set back.
   *
   * @defaultValue 86_400_000
   */
  tokenMemoryMs?: number | undefined
}

/** How {@link RedisLock.acquire} asks. */
export interface AcquireOptions {
  /** How long to wait for it where somebody else has it, in milliseconds. The default is 0: not at all. */
  waitMs?: number | undefined
  /** Ends the wait. */
  signal?: AbortSignal | undefined
  /** How long this lease lasts unless it is extended, in milliseconds, at least 10. The default is that of the lock. */
  ttlMs?: number | undefined
}

/** Events of {@link RedisLock}. `lock` is the name that is locked. */
export interface RedisLockEvents {
  /** A lease was granted. */
  acquired: { readonly lock: string; readonly token: number; readonly waited: boolean; readonly waitedMs: number }
  /** A lease was given back. */
  released: { readonly lock: string; readonly token: number; readonly heldMs: number }
  /** A lease couldn't be given back; it ends by itself. */
  releaseFailed: { readonly lock: string; readonly token: number; readonly error: unknown }
  /** A lease couldn't be extended; it is tried again as long as it lasts. */
  extendFailed: { readonly lock: string; readonly token: number; readonly error: unknown }
  /** A lease was lost before it was given back. */
  lost: {
    readonly lock: string
    readonly token: number
    /** `'gone'`: Redis has it no more. `'expired'`: it couldn't, or wasn't to, be extended. */
    readonly reason: LeaseLoss
    /** What its signal aborted with. */
    readonly error: unknown
  }
}

/**
 * Stats of {@link RedisLock}, of calls of `acquire`: `offered = acquired + busy + failed + rejected + aborted + pending`; and of leases:
 * `acquired = held + released + releaseFailed + lost`.
 */
export interface RedisLockStats {
  /** Its name. */
  readonly name: string
  /** Calls of `acquire`. */
  readonly offered: number
  /** Those that got a lease. */
  readonly acquired: number
  /** Those that got none, since somebody else had it. */
  readonly busy: number
  /** Those that failed. */
  readonly failed: number
  /** Those whose arguments were wrong. */
  readonly rejected: number
  /** Those that were given up by their signals. */
  readonly aborted: number
  /** Those that are under way. */
  readonly pending: number
  /** Leases that aren't given back or lost. */
  readonly held: number
  /** Leases that were given back. */
  readonly released: number
  /** Leases that couldn't be given back. */
  readonly releaseFailed: number
  /** Leases that were lost. */
  readonly lost: number
  /** How often leases were extended. */
  readonly extended: number
  /** How often that failed. */
  readonly extendFailed: number
  /** How long leases took to be granted, in milliseconds. */
  readonly waitMs: LatencySnapshot
}
