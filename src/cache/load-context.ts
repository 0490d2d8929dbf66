import { failOption } from '../core/options.js'
import type { LazySignal } from '../internal/lazy-signal.js'
import type { KeyLoad } from './flights.js'
import { checkTags, checkTtl } from './multi-level-cache-options.js'

/** What was cached last, past its ttl or about to be. */
export interface StaleValue<V> {
  /** The value. */
  readonly value: V
  /** How long ago it was loaded or set, in milliseconds. */
  readonly ageMs: number
}

/** What a loader learns beside its key, and what it may say about its result before it settles. */
export interface LoadContext<V> {
  /** Aborts when all callers have aborted, `loaderTimeoutMs` has passed, or the cache was closed. Made when first asked for. */
  readonly signal: AbortSignal
  /** What was cached last, where that is still there and wasn't invalidated. */
  readonly stale: StaleValue<V> | undefined
  /**
   * Says how long the result is fresh, in milliseconds, whatever the options say. With 0 or less it isn't stored.
   *
   * @throws OptionError for what is no number.
   */
  setTtl(ttlMs: number): void
  /**
   * Says which tags the result has, instead of those of the options.
   *
   * @throws OptionError for what is no array of non-empty strings.
   */
  setTags(tags: readonly string[]): void
  /**
   * Says that the stale value is still right: it gets a whole new life, and keeps its tags unless others are set. Return what it
   * returns.
   *
   * @throws OptionError where there is no stale value.
   */
  notModified(): V
}

/** What a loader of several keys learns beside its keys, and what it may say about its results before it settles. */
export interface BatchLoadContext<V> {
  /** Aborts when all callers have aborted, `loaderTimeoutMs` has passed, or the cache was closed. Made when first asked for. */
  readonly signal: AbortSignal
  /** What was cached last for each key, where that is still there and wasn't invalidated. */
  readonly stale: ReadonlyMap<string, StaleValue<V>>
  /** As `LoadContext.setTtl`, for one of the keys. */
  setTtl(key: string, ttlMs: number): void
  /** As `LoadContext.setTags`, for one of the keys. */
  setTags(key: string, tags: readonly string[]): void
  /** As `LoadContext.notModified`, for one of the keys. */
  notModified(key: string): V
}

/** The old value that a loader began with; what happens to the key later doesn't take it away. */
function staleOf(load: KeyLoad, now: number): StaleValue<unknown> | undefined {
  const old = load.usableOld()
  return old === undefined ? undefined : { value: old.value, ageMs: Math.max(0, now - old.madeAt) }
}

function declareNotModified(load: KeyLoad, stale: StaleValue<unknown> | undefined): unknown {
  if (stale === undefined) failOption('notModified', 'needs a stale value', load.key)
  load.notModified = true
  return stale.value
}

/** The context of one key's loader. */
export class SingleLoadContext implements LoadContext<unknown> {
  readonly stale: StaleValue<unknown> | undefined
  readonly #load: KeyLoad
  readonly #signal: LazySignal

  constructor(load: KeyLoad, signal: LazySignal, now: number) {
    this.#load = load
    this.#signal = signal
    this.stale = staleOf(load, now)
  }

  get signal(): AbortSignal {
    return this.#signal.signal
  }

  // Arrow functions, so that a loader may take them out of the context.
  readonly setTtl = (ttlMs: number): void => {
    this.#load.ttlMs = checkTtl(ttlMs)
  }

  readonly setTags = (tags: readonly string[]): void => {
    this.#load.tags = checkTags(tags)
  }

  readonly notModified = (): unknown => declareNotModified(this.#load, this.stale)
}

/** The context of a loader of several keys. */
export class ManyLoadContext implements BatchLoadContext<unknown> {
  readonly stale: ReadonlyMap<string, StaleValue<unknown>>
  readonly #loads: ReadonlyMap<string, KeyLoad>
  readonly #signal: LazySignal

  constructor(loads: readonly KeyLoad[], signal: LazySignal, now: number) {
    this.#loads = new Map(loads.map((load) => [load.key, load]))
    this.#signal = signal
    const stale = new Map<string, StaleValue<unknown>>()
    for (const load of loads) {
      const value = staleOf(load, now)
      if (value !== undefined) stale.set(load.key, value)
    }
    this.stale = stale
  }

  get signal(): AbortSignal {
    return this.#signal.signal
  }

  readonly setTtl = (key: string, ttlMs: number): void => {
    this.#loadOf(key).ttlMs = checkTtl(ttlMs)
  }

  readonly setTags = (key: string, tags: readonly string[]): void => {
    this.#loadOf(key).tags = checkTags(tags)
  }

  readonly notModified = (key: string): unknown => declareNotModified(this.#loadOf(key), this.stale.get(key))

  #loadOf(key: string): KeyLoad {
    return this.#loads.get(key) ?? failOption('key', 'must be one of the keys to load', key)
  }
}
