import type { CallCounts, LatencySnapshot } from '../core/stats.js'

/** Events of `TokenCache`. None of them holds a token; a `refreshFailed` has the error that `fetchToken` threw, whatever is in it. */
export interface TokenCacheEvents<K> {
  /** A token was fetched, and is the one of its key from now on. */
  refreshed: {
    readonly key: K
    /** Whether it was fetched behind its callers. */
    readonly background: boolean
    /** How long that took, in milliseconds. */
    readonly durationMs: number
    /** When it expires, in milliseconds since the epoch. */
    readonly expiresAt: number
    /** When the next refresh may begin, in milliseconds since the epoch. */
    readonly refreshAt: number
  }
  /** A fetch failed, or what it brought is no token. */
  refreshFailed: {
    readonly key: K
    readonly background: boolean
    readonly durationMs: number
    readonly error: unknown
    /** Whether it is one that will come again however often it is tried. */
    readonly terminal: boolean
    /** Whether there is a token that is still valid, which is served on. */
    readonly served: boolean
    /**
     * How long nobody fetches again, in milliseconds; 0 where the next call does, Infinity where nobody does as long as the token is
     * valid.
     */
    readonly retryInMs: number
  }
  /** A token was dropped, because a server refused it. */
  invalidated: { readonly key: K }
}

/**
 * Stats of `TokenCache`. The books count calls of `get`; those of the fetches balance too:
 * `fetches = refreshed + discarded + refreshFailures + fetchesAborted + fetching`.
 */
export interface TokenCacheStats extends CallCounts {
  /** The cache's name. */
  readonly name: string
  /** Of `succeeded`, those that were answered at once. */
  readonly hits: number
  /** Keys that it knows. */
  readonly keys: number
  /** Fetches that were begun. */
  readonly fetches: number
  /** Of those, the ones that are running. */
  readonly fetching: number
  /** Fetches that brought a token. */
  readonly refreshed: number
  /** Fetches whose token went to those who waited for it and was not kept: its predecessor was invalidated, its key had to go, or the cache closed. */
  readonly discarded: number
  /** Fetches that failed, those that took too long included. */
  readonly refreshFailures: number
  /** Fetches that were given up because nobody wanted their token any more. */
  readonly fetchesAborted: number
  /** Of `refreshFailures`, those that took longer than `timeoutMs`. */
  readonly timeouts: number
  /** Tokens that were dropped because a server refused them. */
  readonly invalidated: number
  /** Invalidations of a token that nobody holds any more, or never did. */
  readonly invalidationsIgnored: number
  /** Invalidations of a token that had only just replaced an invalidated one: it is served on. */
  readonly invalidationsHeld: number
  /** Keys that had to go for want of room. */
  readonly evicted: number
  /** How long callers waited who were not answered at once, in milliseconds. */
  readonly latencyMs: LatencySnapshot
}
