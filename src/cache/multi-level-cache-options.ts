import type { CircuitBreakerOptions } from '../breaker/circuit-breaker.js'
import type { ComponentOptions } from '../core/component.js'
import {
  checkCount,
  checkDuration,
  checkFunction,
  checkOptionalFunction,
  checkOptions,
  checkRatio,
  failOption,
  valueOr,
} from '../core/options.js'
import type { CacheStore, InvalidationBus, LoadLock } from '../core/ports.js'
import { checkPathName } from './cache-path.js'

/** How long entries live, and what loads may take: for a cache, or for one of its namespaces. */
export interface EntryOptions {
  /**
   * How long a value is fresh, in milliseconds; `Infinity` for ever. With 0 or less nothing is stored.
   * @defaultValue 300_000
   */
  ttlMs?: number | undefined
  /** How long `null` is fresh, in milliseconds: what is known not to exist. The default is as any other value. */
  negativeTtlMs?: number | undefined
  /**
   * For how long past its ttl `getOrLoad` may serve a value at once while it is loaded anew behind, in milliseconds. `get` and `peek`
   * never serve such a value.
   * @defaultValue 0
   */
  staleMs?: number | undefined
  /**
   * For how long past its ttl `getOrLoad` may serve a value when loading it anew has failed or takes too long, in milliseconds.
   * @defaultValue 0
   */
  serveStaleOnErrorMs?: number | undefined
  /**
   * How long a value that was served because of a failed load is served without trying the loader again, in milliseconds from the
   * failure.
   * @defaultValue 30_000
   */
  errorThrottleMs?: number | undefined
  /**
   * After which share of its ttl a value that `getOrLoad` serves is loaded anew behind: 0.8 in the last fifth, 1 never, 0 each time.
   * @defaultValue 1
   */
  refreshAheadRatio?: number | undefined
  /**
   * After how long a load's callers get the old value, where there is one that `staleMs` or `serveStaleOnErrorMs` allows, in
   * milliseconds, at least 1. The load goes on. The default is never.
   */
  loaderSoftTimeoutMs?: number | undefined
  /**
   * How long a loader may take, in milliseconds, at least 1. Then it counts as failed with a `TimeoutError`, and its signal aborts;
   * what it brings later is not used. The default is no limit.
   */
  loaderTimeoutMs?: number | undefined
  /**
   * By which share of itself, at most, a ttl is longer or shorter by chance, from 0 to 1, so that what came together doesn't expire
   * together.
   * @defaultValue 0
   */
  jitter?: number | undefined
}

/** Bounds of the tier in memory. Namespaces share them. */
export interface L1Options<V = unknown> {
  /** How many entries it keeps, those used last. The default is 1000. */
  maxEntries?: number | undefined
  /** How many bytes it keeps, as `sizeOf` says. The default is no limit. An entry that is larger alone isn't kept, and counts as `tooLarge`. */
  maxBytes?: number | undefined
  /** How many bytes a value takes. Needed by `maxBytes`; of no use without. */
  sizeOf?: ((value: V, key: string) => number) | undefined
  /**
   * How long it serves a value without asking the shared tier again, in milliseconds: this is how late it may be where nobody tells it
   * that a value has changed. The default is 5000, and without a shared tier as long as the value is fresh.
   */
  ttlMs?: number | undefined
}

/** Options of `MultiLevelCache`. */
export interface MultiLevelCacheOptions<V = unknown> extends ComponentOptions, EntryOptions {
  /**
   * Bounds of the tier in memory.
   * @defaultValue { maxEntries: 1000, ttlMs: 5000 }
   */
  l1?: L1Options<V> | undefined
  /** The shared tier. It stays the caller's. */
  l2?: CacheStore | undefined
  /** Tells other caches what was written, deleted and invalidated here, and hears it from them. It stays the caller's. */
  bus?: InvalidationBus | undefined
  /**
   * What the cache's keys begin with in the shared tier and on the bus: caches that share entries have the same. Neither empty nor
   * with `:`, `/` or NUL.
   * @defaultValue 'cache'
   */
  namespace?: string | undefined
  /**
   * How long a call of the shared tier may take, in milliseconds, at least 1. One that takes longer counts as failed. A reader waits so
   * long in all, whatever its read needs: writes of the same key before it, the value, its tags.
   * @defaultValue 1000
   */
  l2TimeoutMs?: number | undefined
  /** Options of the breaker that calls of the shared tier go through, or false for none. The default is `CircuitBreaker`'s own. */
  l2Breaker?: CircuitBreakerOptions | false | undefined
  /**
   * How many writes and invalidations that failed in the shared tier are kept, to be made up for: writes with a delete. The oldest are
   * dropped beyond it, invalidations last; what a dropped one made invalid stays so in this process.
   * @defaultValue 10_000
   */
  l2ReplayCapacity?: number | undefined
  /** How many loaders run at once; a load for several keys is one. The default is no limit. */
  loadConcurrency?: number | undefined
  /**
   * Lets one process at a time load a key. Whoever waited for it looks into the shared tier again before it loads. Loads for several
   * keys don't ask for it.
   */
  loadLock?: LoadLock | undefined
  /**
   * How long to wait for `loadLock`, in milliseconds. Then the key is loaded without it.
   * @defaultValue 5000
   */
  loadLockWaitMs?: number | undefined
}

/** Options of a namespace. What is left out is as in the cache or namespace that it is in. */
export interface NamespaceOptions extends EntryOptions {}

/** What `set` takes. */
export interface SetOptions {
  /** How long the value is fresh, in milliseconds; `Infinity` for ever. With 0 or less the key is deleted. */
  ttlMs?: number | undefined
  /** What else, beside its key, invalidates it. */
  tags?: readonly string[] | undefined
}

/** A value for `setMany`: key, value, and how. */
export type SetEntry<V> = readonly [key: string, value: V, options?: SetOptions | undefined]

/** What `getOrLoad` takes. What a call asks for beside its `signal` counts for the load that it starts, not for one that it joins. */
export interface LoadOptions extends SetOptions {
  /**
   * The caller's own abort: the call rejects with its reason at once. The load goes on for others; once all its callers have aborted,
   * the loader's signal aborts too.
   */
  signal?: AbortSignal | undefined
  /** As the cache's option, for this call. */
  staleMs?: number | undefined
  /** As the cache's option, for this call. */
  serveStaleOnErrorMs?: number | undefined
  /** As the cache's option, for this call. */
  refreshAheadRatio?: number | undefined
  /** As the cache's option, for this call. */
  loaderSoftTimeoutMs?: number | undefined
  /** As the cache's option, for this call. */
  loaderTimeoutMs?: number | undefined
}

/** What `wrap` takes. */
export interface WrapOptions<A extends unknown[]> extends Omit<LoadOptions, 'signal'> {
  /** What the keys begin with. Functions of one name share entries. Not empty, and without `:` and `(`. */
  name: string
  /** The rest of the key. The default is `cacheKey` of the arguments. */
  key?: ((...args: A) => string) | undefined
}

/** {@link EntryOptions}, all there. */
export interface EntrySettings {
  readonly ttlMs: number
  readonly negativeTtlMs: number | undefined
  readonly staleMs: number
  readonly serveStaleOnErrorMs: number
  readonly errorThrottleMs: number
  readonly refreshAheadRatio: number
  readonly loaderSoftTimeoutMs: number | undefined
  readonly loaderTimeoutMs: number | undefined
  readonly jitter: number
}

/** The options of a cache that concern it as a whole, checked. */
export interface CacheSettings {
  readonly maxEntries: number
  readonly maxBytes: number | undefined
  readonly sizeOf: ((value: unknown, key: string) => number) | undefined
  readonly l1TtlMs: number
  readonly l2: CacheStore | undefined
  readonly bus: InvalidationBus | undefined
  readonly root: string
  readonly l2TimeoutMs: number
  readonly l2Breaker: CircuitBreakerOptions | false
  readonly l2ReplayCapacity: number
  readonly loadConcurrency: number
  readonly loadLock: LoadLock | undefined
  readonly loadLockWaitMs: number
}

interface CacheDefaults extends EntryDefaults {
  readonly l1: { readonly maxEntries: number; readonly ttlMs: number }
  readonly namespace: string
  readonly l2TimeoutMs: number
  readonly l2ReplayCapacity: number
  readonly loadLockWaitMs: number
}

type EntryDefaults = Omit<EntrySettings, 'negativeTtlMs' | 'loaderSoftTimeoutMs' | 'loaderTimeoutMs'>

/** @throws OptionError when an option is wrong. */
export function resolveCache(options: MultiLevelCacheOptions<never>, defaults: CacheDefaults): CacheSettings {
  const l1 = resolveL1(options, defaults)
  return {
    ...l1,
    l2: checkMethods('l2', options.l2, ['getMany', 'setMany', 'deleteMany', 'readMarks', 'renewMarks']),
    bus: checkMethods('bus', options.bus, ['connect']),
    root: checkPathName('namespace', valueOr(options.namespace, defaults.namespace)),
    l2TimeoutMs: checkDuration('l2TimeoutMs', valueOr(options.l2TimeoutMs, defaults.l2TimeoutMs), 1),
    l2Breaker: checkBreaker(valueOr(options.l2Breaker, {})),
    l2ReplayCapacity: checkCount('l2ReplayCapacity', valueOr(options.l2ReplayCapacity, defaults.l2ReplayCapacity)),
    loadConcurrency: checkConcurrency(valueOr(options.loadConcurrency, Number.POSITIVE_INFINITY)),
    loadLock: checkMethods('loadLock', options.loadLock, ['acquire']),
    loadLockWaitMs: checkDuration('loadLockWaitMs', valueOr(options.loadLockWaitMs, defaults.loadLockWaitMs)),
  }
}

type L1Settings = Pick<CacheSettings, 'maxEntries' | 'maxBytes' | 'sizeOf' | 'l1TtlMs'>

function resolveL1(options: MultiLevelCacheOptions<never>, defaults: CacheDefaults): L1Settings {
  checkOptions('l1', options.l1)
  const { maxBytes, sizeOf, ttlMs } = options.l1 ?? {}
  if (maxBytes !== undefined) checkCount('l1.maxBytes', maxBytes, 1, Number.MAX_SAFE_INTEGER)
  checkOptionalFunction('l1.sizeOf', sizeOf)
  if (maxBytes !== undefined && sizeOf === undefined) checkFunction('l1.sizeOf', sizeOf)
  if (ttlMs !== undefined && !(typeof ttlMs === 'number' && ttlMs > 0)) {
    failOption('l1.ttlMs', 'must be a number greater than 0', ttlMs)
  }
  return {
    maxEntries: checkCount('l1.maxEntries', valueOr(options.l1?.maxEntries, defaults.l1.maxEntries)),
    maxBytes,
    sizeOf: sizeOf as CacheSettings['sizeOf'],
    l1TtlMs: valueOr(ttlMs, options.l2 === undefined ? Number.POSITIVE_INFINITY : defaults.l1.ttlMs),
  }
}

/**
 * Entry options with what they leave out from somewhere else: a cache's defaults, or the namespace around.
 *
 * @throws OptionError when an option is wrong.
 */
export function resolveEntries(options: EntryOptions, base: EntryDefaults & Partial<EntrySettings>): EntrySettings {
  const { negativeTtlMs = base.negativeTtlMs } = options
  return {
    ttlMs: checkTtl(valueOr(options.ttlMs, base.ttlMs)),
    negativeTtlMs: negativeTtlMs === undefined ? undefined : checkTtl(negativeTtlMs, 'negativeTtlMs'),
    staleMs: checkSpan('staleMs', valueOr(options.staleMs, base.staleMs)),
    serveStaleOnErrorMs: checkSpan(
      'serveStaleOnErrorMs',
      valueOr(options.serveStaleOnErrorMs, base.serveStaleOnErrorMs),
    ),
    errorThrottleMs: checkSpan('errorThrottleMs', valueOr(options.errorThrottleMs, base.errorThrottleMs)),
    refreshAheadRatio: checkRatio('refreshAheadRatio', valueOr(options.refreshAheadRatio, base.refreshAheadRatio)),
    loaderSoftTimeoutMs: checkLimit(
      'loaderSoftTimeoutMs',
      valueOr(options.loaderSoftTimeoutMs, base.loaderSoftTimeoutMs),
    ),
    loaderTimeoutMs: checkLimit('loaderTimeoutMs', valueOr(options.loaderTimeoutMs, base.loaderTimeoutMs)),
    jitter: checkRatio('jitter', valueOr(options.jitter, base.jitter)),
  }
}

/** Checks a ttl: any number, those of 0 or less and `Infinity` included, but not NaN. */
export function checkTtl(ttlMs: number, field = 'ttlMs'): number {
  if (typeof ttlMs !== 'number' || Number.isNaN(ttlMs)) failOption(field, 'must be a number', ttlMs)
  return ttlMs
}

/** Checks tags; returns each of them once. */
export function checkTags(tags: readonly string[] | undefined, field = 'tags'): readonly string[] {
  if (tags === undefined) return noTags
  if (!Array.isArray(tags)) failOption(field, 'must be an array of strings', tags)
  for (const tag of tags)
    if (typeof tag !== 'string' || tag === '') failOption(field, 'must hold non-empty strings', tag)
  return tags.length < 2 ? [...tags] : [...new Set(tags)]
}

const noTags: readonly string[] = []

/** Checks a key. */
export function checkKey(key: string): string {
  if (typeof key !== 'string' || key === '') failOption('key', 'must be a non-empty string', key)
  return key
}

/** Checks a list of keys. */
export function checkKeys(keys: readonly string[]): readonly string[] {
  if (!Array.isArray(keys)) failOption('keys', 'must be an array of strings', keys)
  for (const key of keys)
    if (typeof key !== 'string' || key === '') failOption('keys', 'must hold non-empty strings', key)
  return keys
}

/** A length of time that may also be for ever. */
export function checkSpan(field: string, value: number): number {
  return checkDuration(field, value, 0, Number.POSITIVE_INFINITY)
}

export function checkLimit(field: string, value: number | undefined): number | undefined {
  return value === undefined ? undefined : checkDuration(field, value, 1)
}

function checkConcurrency(value: number): number {
  return value === Number.POSITIVE_INFINITY ? value : checkCount('loadConcurrency', value)
}

function checkBreaker(value: CircuitBreakerOptions | false): CircuitBreakerOptions | false {
  if (value !== false && (typeof value !== 'object' || value === null)) {
    failOption('l2Breaker', 'must be options of a CircuitBreaker, or false', value)
  }
  return value
}

function checkMethods<T extends object>(
  field: string,
  value: T | undefined,
  methods: readonly (keyof T & string)[],
): T | undefined {
  if (value === undefined) return undefined
  for (const method of methods) {
    if (typeof value?.[method] !== 'function') failOption(field, `must have a method ${method}`, value)
  }
  return value
}
