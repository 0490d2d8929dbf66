import type { CircuitBreakerOptions } from '../breaker/circuit-breaker.js'
import type { Clock } from '../core/clock.js'
import type { CacheStore } from '../core/ports.js'

/** What a {@link SharedTier} needs to know. */
export interface SharedTierSettings {
  readonly store: CacheStore
  /** The cache's name, for errors. */
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
  /** How long a call of the store may take, and a read in all, in milliseconds. */
  readonly timeoutMs: number
  /** Options of the breaker that all calls go through, or false for none. */
  readonly breaker: CircuitBreakerOptions | false
  /** How many deletes and renewals may wait for their replay. */
  readonly replayCapacity: number
  /** For how long a mark that was read is believed, in milliseconds. */
  readonly markTtlMs: number
  /** Hears of each failure. Called synchronously; it must not throw. */
  readonly onFailed: (failure: SharedFailure) => void
  /** Hears of deletes and renewals that reached the store after all, so that others can be told again. It must not throw. */
  readonly onReplayed: (keys: readonly string[], marks: readonly string[]) => void
}

/** A call of the store that failed, for all or some of its keys. */
export interface SharedFailure {
  readonly operation: 'read' | 'write' | 'delete' | 'marks'
  /** Those that it failed for: keys, or names of marks. */
  readonly keys: readonly string[]
  readonly error: unknown
}

/** What the shared tier knows about a key. */
export interface SharedRead {
  /** The value, which may be stale; undefined where there is none, or a mark says that it is invalid. */
  readonly value: unknown
  /** For a later fill; undefined where the store couldn't be asked, or the key waits for its replay: then it can't be filled. */
  readonly version: string | undefined
  /** How long ago the value was written, in milliseconds. */
  readonly ageMs: number
  /** How long it is still fresh, in milliseconds: 0 or less for a stale one. May be `Infinity`. */
  readonly freshMs: number
  /** How long it is still kept, in milliseconds. May be `Infinity`. */
  readonly keptMs: number
  /** The names of the marks that it depends on. */
  readonly marks: readonly string[]
  /** On `clock.now()`: until when its marks count as checked. */
  readonly checkedUntil: number
}

/** A value on its way into the shared tier. */
export interface SharedWrite {
  readonly key: string
  /** As `encode` returned it. */
  readonly encoded: unknown
  readonly freshMs: number
  readonly keptMs: number
  /** The names of the marks that it depends on. */
  readonly marks: readonly string[]
}

/** A loaded value, to be written only where the key is as it was when it was read. */
export interface SharedFill extends SharedWrite {
  /** The version that the read before the load brought. */
  readonly ifVersion: string
}

/**
 * What became of a fill. `'superseded'`: somebody wrote, deleted or invalidated since the load began, or it took longer than the
 * store remembers that. `'failed'`: the store couldn't be asked, or mustn't be because of what is still to be replayed.
 */
export type SharedFillOutcome =
  | { readonly kind: 'written'; readonly version: string }
  | { readonly kind: 'superseded' }
  | { readonly kind: 'failed' }

/** Stats of a shared tier. */
export interface SharedTierStats {
  /** Keys that were read: `reads = hits + misses`. */
  readonly reads: number
  /** Keys that had a valid value, fresh or stale. */
  readonly hits: number
  /** Keys that had none, or couldn't be asked for. */
  readonly misses: number
  /** Keys that were written or deleted, replays excluded. */
  readonly writes: number
  /** Loaded values that weren't written: somebody wrote, deleted or invalidated meanwhile, or they took longer than the store's `fenceMs`. */
  readonly superseded: number
  /** Keys and marks that a call failed for, replays included. */
  readonly failed: number
  /** Calls that took longer than they may. */
  readonly timeouts: number
  /** Calls that the breaker turned away. */
  readonly rejected: number
  /** The breaker's state; `'closed'` without one. */
  readonly state: 'closed' | 'open' | 'half-open' | 'isolated'
  /** Deletes and renewals that failed and are made again. */
  readonly replay: {
    /** How many wait. */
    readonly pending: number
    /** How many reached the store after all. */
    readonly replayed: number
    /** How many were given up for want of room, though a renewal among them is made up for when there is room again. */
    readonly dropped: number
  }
}
