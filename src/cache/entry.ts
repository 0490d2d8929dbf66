import type { EntryPlace } from './cache-path.js'
import type { EntrySettings } from './multi-level-cache-options.js'

/** When an entry's value was made, and until when what may be done with it. All on the monotonic clock. */
export interface EntryTimes {
  /** When it was loaded or set. */
  readonly madeAt: number
  /** Until when it is fresh. */
  readonly freshUntil: number
  /** Until when memory's word counts without asking the shared tier. */
  readonly checkedUntil: number
}

/** A value in memory. */
export class CacheEntry {
  /** The namespace that it is in. */
  readonly path: string
  readonly key: string
  readonly memoryKey: string
  /** {@link EntryPlace.home} */
  readonly home: string
  readonly value: unknown
  readonly tags: readonly string[]
  /** Of which state of the shared tier it is a copy, where that is known. */
  version: string | undefined
  readonly madeAt: number
  readonly freshUntil: number
  checkedUntil: number
  /** Until when `peek`, `get` and `getOrLoad` may serve it as fresh, unasked. */
  freshHereUntil: number
  /** Until when `getOrLoad` may serve it and has nothing else to do: then it is no longer fresh, or refreshed ahead. */
  easyUntil: number
  /** Until when the loader, having failed, isn't tried again. */
  throttledUntil: number = Number.NEGATIVE_INFINITY
  /** Its place among all that was set and all loads and reads that began: what has a higher one is newer. */
  readonly order: number
  /** One promise for all who wait for it. */
  promise: Promise<unknown> | undefined

  constructor(
    place: EntryPlace,
    what: { readonly value: unknown; readonly tags: readonly string[]; readonly version: string | undefined },
    times: EntryTimes,
    refreshAheadRatio: number,
    order: number,
  ) {
    this.path = place.path
    this.key = place.key
    this.memoryKey = place.memoryKey
    this.home = place.home
    this.value = what.value
    this.tags = what.tags
    this.version = what.version
    this.madeAt = times.madeAt
    this.freshUntil = times.freshUntil
    this.checkedUntil = times.checkedUntil
    this.freshHereUntil = Math.min(times.checkedUntil, times.freshUntil)
    this.easyUntil = Math.min(this.freshHereUntil, refreshFrom(this, refreshAheadRatio))
    this.order = order
    this.promise = undefined
  }

  /** Ends its time as something that may be served unasked; it stays as an old value. */
  distrust(): void {
    this.checkedUntil = Number.NEGATIVE_INFINITY
    this.freshHereUntil = Number.NEGATIVE_INFINITY
    this.easyUntil = Number.NEGATIVE_INFINITY
  }
}

/** From when on a value is refreshed ahead. */
export function refreshFrom(times: { readonly madeAt: number; readonly freshUntil: number }, ratio: number): number {
  if (ratio >= 1) return Number.POSITIVE_INFINITY
  return ratio <= 0 ? times.madeAt : times.madeAt + ratio * (times.freshUntil - times.madeAt)
}

/** How far past its ttl a reader takes a value. */
export type Tolerance = Pick<EntrySettings, 'staleMs' | 'serveStaleOnErrorMs'>

/**
 * What `getOrLoad` does about a value that isn't fresh, or not known to be:
 * - `'stale'`: serves it, and loads it anew behind;
 * - `'throttled'`: serves it, since a load has failed a moment ago;
 * - `'fallback'`: loads it, and serves it only if that fails;
 * - `'gone'`: loads it.
 */
export type OldValue = 'stale' | 'throttled' | 'fallback' | 'gone'

/** The freshness machine, past freshness. */
export function judgeOld(entry: CacheEntry, now: number, tolerance: Tolerance): OldValue {
  const { staleMs, serveStaleOnErrorMs } = tolerance
  const most = Math.max(staleMs, serveStaleOnErrorMs)
  if (most <= 0 || now >= entry.freshUntil + most) return 'gone'
  if (now < entry.throttledUntil) return 'throttled'
  return staleMs > 0 && now < entry.freshUntil + staleMs ? 'stale' : 'fallback'
}

/** How long a value will be fresh, in milliseconds: 0 or less where it isn't to be stored. */
export function lifeOf(
  value: unknown,
  ttlMs: number | undefined,
  settings: EntrySettings,
  random: () => number,
): number {
  const wanted = ttlMs ?? (value === null ? (settings.negativeTtlMs ?? settings.ttlMs) : settings.ttlMs)
  if (settings.jitter === 0 || !(wanted > 0) || wanted === Number.POSITIVE_INFINITY) return wanted
  return wanted * (1 + settings.jitter * (2 * random() - 1))
}
