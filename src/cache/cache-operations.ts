import type { BatchLoadContext, LoadContext } from './load-context.js'
import type { LoadOptions, SetEntry, SetOptions, WrapOptions } from './multi-level-cache-options.js'
import type { WarmOptions, WarmReport, WarmTasks } from './warm-run.js'

/** A function whose results are cached. */
export interface Cached<A extends unknown[], R> {
  /** The result for these arguments, from the cache or from the function. */
  (...args: A): Promise<R>
  /** Deletes the result for these arguments. */
  invalidate(...args: A): Promise<void>
}

/**
 * Loads the value of one key. With `undefined` nothing is cached. It may call the cache, but one that loads its own key waits for
 * itself: until `loaderTimeoutMs`, where there is one.
 */
export type Loader<V, R extends V | undefined = V> = (key: string, context: LoadContext<V>) => R | PromiseLike<R>

/** Loads the values of several keys: for each, in their order, a value, an `Error`, or `undefined` where there is none. */
export type BatchLoader<V> = (
  keys: string[],
  context: BatchLoadContext<V>,
) => readonly (V | Error | undefined)[] | PromiseLike<readonly (V | Error | undefined)[]>

/**
 * What a cache does, and each of its namespaces. Keys are non-empty strings; `undefined` means that there is no value, and `null` is one.
 *
 * Methods that return a promise reject with an `OptionError` where an argument is wrong, and with a `ClosedError` once the cache is
 * closed. The shared tier's errors reach nobody: it is asked for `l2TimeoutMs`, and then done without.
 */
export interface CacheOperations<V extends NonNullable<unknown> | null> {
  /**
   * The value, if it is in memory and fresh. It asks nobody.
   *
   * @throws OptionError - for a wrong key.
   */
  peek(key: string): V | undefined
  /** The value, if either tier has it fresh. */
  get(key: string): Promise<V | undefined>
  /** The values of several keys, in their order; those that aren't in memory with one read of the shared tier. */
  getMany(keys: readonly string[]): Promise<(V | undefined)[]>
  /**
   * Sets a value: in memory at once, so that whatever is being loaded or read of the key at the time is stored nowhere.
   *
   * @returns resolves when the shared tier has it too, or the key waits to be deleted there since it couldn't be written. Rejects with
   * an `OptionError`, and changes nothing, where the value is `undefined` or a promise, or the shared tier can't carry it.
   */
  set(key: string, value: V, options?: SetOptions): Promise<void>
  /** Sets several values, with one write of the shared tier. Of two for one key the last one counts. */
  setMany(entries: readonly SetEntry<V>[]): Promise<void>
  /**
   * Deletes a key: from memory at once, so that whatever is being loaded or read of it at the time is stored nowhere.
   *
   * @returns resolves when it is deleted from the shared tier too, or waits to be.
   */
  delete(key: string): Promise<void>
  /** Deletes several keys, with one call of the shared tier. */
  deleteMany(keys: readonly string[]): Promise<void>
  /**
   * The value, from memory, the shared tier or the loader, whichever has it first. One loader runs for a key at a time, whoever asks;
   * a call that began after a write of the key doesn't join a load that began before it.
   *
   * @returns the value, or `undefined` where the loader returned that. Rejects with the loader's error, the same for all who wait,
   * with `TimeoutError` after `loaderTimeoutMs`, or with the signal's reason.
   */
  getOrLoad<R extends V | undefined>(
    key: string,
    loader: Loader<V, R>,
    options?: LoadOptions,
  ): Promise<V | Extract<R, undefined>>
  /**
   * The values of several keys, in their order: one read of the shared tier, and one load for those that are nowhere. Keys that are
   * being loaded already are waited for. A key that comes twice is asked for once.
   *
   * @returns the values, `undefined` for keys without one. Rejects with the first `Error` among the keys' results, having cached the
   * others; with a `BatchResultError` where the loader's answer is no array of one result for each key, or holds promises.
   */
  getOrLoadMany(keys: readonly string[], load: BatchLoader<V>, options?: LoadOptions): Promise<(V | undefined)[]>
  /**
   * Makes a function that takes its results from the cache, and calls the given one for those that aren't there. `this` isn't passed on.
   *
   * @returns the function, with a method `invalidate` that deletes the result for some arguments. It rejects with an `OptionError`
   * where the arguments make no key.
   * @throws OptionError - when an option is wrong.
   */
  wrap<A extends unknown[], R extends V | undefined>(
    fn: (...args: A) => R | PromiseLike<R>,
    options: WrapOptions<A>,
  ): Cached<A, V | Extract<R, undefined>>
  /** Loads keys that aren't there, some at a time. Readers are never kept waiting for it. */
  warm(tasks: WarmTasks<V, LoadContext<V>>, options?: WarmOptions): Promise<WarmReport>
  /**
   * Makes invalid whatever bears one of these tags, in all of the cache and its namespaces: in memory at once. What is being loaded
   * meanwhile is stored nowhere if it turns out to bear one of them, and goes only to those who asked before: whoever asks for such a
   * key later gets a load of its own, at once where the old value or the call's `tags` bear one, else when the running load has told
   * its tags. Loads of other keys stay shared.
   *
   * @returns resolves when it is invalid in the shared tier too, or waits to be. Until then, nothing that bears them is read there.
   */
  invalidateTags(tags: readonly string[]): Promise<void>
  /**
   * Makes invalid whatever is here, namespaces within included: in memory at once.
   *
   * @returns resolves when it is invalid in the shared tier too, or waits to be.
   */
  clear(): Promise<void>
}
