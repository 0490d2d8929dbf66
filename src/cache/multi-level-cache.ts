import { ClosableComponent, type CloseOptions, type CloseReport, type FlushReport } from '../core/component.js'
import { checkOptions } from '../core/options.js'
import { CacheCore } from './cache-core.js'
import { CacheNamespace } from './cache-namespace.js'
import type { BatchLoader, Cached, CacheOperations, Loader } from './cache-operations.js'
import { CachePath } from './cache-path.js'
import type { LoadContext } from './load-context.js'
import type { MultiLevelCacheEvents, MultiLevelCacheStats } from './multi-level-cache-events.js'
import {
  type LoadOptions,
  type MultiLevelCacheOptions,
  type NamespaceOptions,
  resolveCache,
  resolveEntries,
  type SetEntry,
  type SetOptions,
  type WrapOptions,
} from './multi-level-cache-options.js'
import type { WarmOptions, WarmReport, WarmTasks } from './warm-run.js'

/**
 * A cache of two tiers: memory, and where it is given a store that processes share. One loader runs for a key at a time, whoever asks;
 * and writes win: what is set, deleted or invalidated while the value is being loaded or read keeps that older value out of both
 * tiers.
 *
 * Methods that return a promise reject with an `OptionError` where an argument is wrong, and with a `ClosedError` once the cache is
 * closed. Errors of the shared tier reach nobody but the listeners of `storeFailed`.
 *
 * It starts no timer but those of calls and loads, and of what the shared tier didn't take; it forgets what has expired when it is next
 * asked for it or needs the room.
 *
 * @example
 * ```ts
 * import { MultiLevelCache } from 'spillway'
 *
 * interface User {
 *   readonly name: string
 * }
 * const users = new MultiLevelCache<User>({ ttlMs: 60_000, staleMs: 10_000 })
 * const ann = await users.getOrLoad('ann', async (key) => ({ name: key }), { tags: ['staff'] })
 * console.log(ann.name, users.peek('ann'))
 * await users.invalidateTags(['staff'])
 * await users.close()
 * ```
 */
export class MultiLevelCache<V extends NonNullable<unknown> | null>
  extends ClosableComponent<MultiLevelCacheEvents, MultiLevelCacheStats>
  implements CacheOperations<V>
{
  /** The options' defaults. */
  static readonly defaults = {
    l1: { maxEntries: 1000, ttlMs: 5000 },
    namespace: 'cache',
    ttlMs: 300_000,
    staleMs: 0,
    serveStaleOnErrorMs: 0,
    errorThrottleMs: 30_000,
    refreshAheadRatio: 1,
    jitter: 0,
    l2TimeoutMs: 1000,
    l2ReplayCapacity: 10_000,
    loadLockWaitMs: 5000,
  } as const

  readonly #core: CacheCore
  readonly #root: CacheNamespace<V>
  /** What waited for its replay in vain when the cache was closed. */
  #lost = 0

  /** @throws OptionError when an option is wrong. */
  constructor(options: MultiLevelCacheOptions<V> = {}) {
    checkOptions('options', options)
    super('multi-level-cache', options)
    const { name, clock, random, events } = this
    const settings = resolveCache(options, MultiLevelCache.defaults)
    const entries = resolveEntries(options, MultiLevelCache.defaults)
    this.#core = new CacheCore({ name, clock, random, events, settings })
    this.#root = new CacheNamespace<V>(this.#core, new CachePath(settings.root, settings.root), entries)
  }

  peek(key: string): V | undefined {
    return this.#root.peek(key)
  }

  get(key: string): Promise<V | undefined> {
    return this.#root.get(key)
  }

  getMany(keys: readonly string[]): Promise<(V | undefined)[]> {
    return this.#root.getMany(keys)
  }

  set(key: string, value: V, options?: SetOptions): Promise<void> {
    return this.#root.set(key, value, options)
  }

  setMany(entries: readonly SetEntry<V>[]): Promise<void> {
    return this.#root.setMany(entries)
  }

  delete(key: string): Promise<void> {
    return this.#root.delete(key)
  }

  deleteMany(keys: readonly string[]): Promise<void> {
    return this.#root.deleteMany(keys)
  }

  getOrLoad<R extends V | undefined>(
    key: string,
    loader: Loader<V, R>,
    options?: LoadOptions,
  ): Promise<V | Extract<R, undefined>> {
    return this.#root.getOrLoad(key, loader, options)
  }

  getOrLoadMany(keys: readonly string[], load: BatchLoader<V>, options?: LoadOptions): Promise<(V | undefined)[]> {
    return this.#root.getOrLoadMany(keys, load, options)
  }

  wrap<A extends unknown[], R extends V | undefined>(
    fn: (...args: A) => R | PromiseLike<R>,
    options: WrapOptions<A>,
  ): Cached<A, V | Extract<R, undefined>> {
    return this.#root.wrap(fn, options)
  }

  warm(tasks: WarmTasks<V, LoadContext<V>>, options?: WarmOptions): Promise<WarmReport> {
    return this.#root.warm(tasks, options)
  }

  invalidateTags(tags: readonly string[]): Promise<void> {
    return this.#root.invalidateTags(tags)
  }

  clear(): Promise<void> {
    return this.#root.clear()
  }

  /**
   * A part of this cache with keys, a type and defaults of its own, which shares tiers and bounds. What is called the same is the same:
   * nothing is made but a view, so that it may be asked for at each use.
   *
   * @param name - neither empty nor with `:`, `/` or NUL.
   * @throws OptionError when the name or an option is wrong.
   */
  namespace<T extends NonNullable<unknown> | null = V>(name: string, options?: NamespaceOptions): CacheNamespace<T> {
    return this.#root.namespace<T>(name, options)
  }

  /**
   * Waits for the loads and writes that have begun, and for one attempt at what failed in the shared tier. It counts keys, a load's and
   * a write's alike; what failed in the shared tier and waits to be made up for counts as failed.
   */
  override async flush(): Promise<FlushReport> {
    const report = await this.#core.work.settled()
    await this.#core.shared?.settled()
    await this.#core.link.flush()
    return report
  }

  /**
   * Refuses new calls, waits for loads and writes that have begun, makes one attempt at what failed in the shared tier, and leaves the
   * bus. At the deadline loaders' signals abort and callers are rejected with `ClosedError`. The store and the bus stay open: they are
   * the caller's.
   *
   * @returns `abandoned` counts callers that were rejected, and what failed in the shared tier and wasn't made up for.
   */
  override close(options?: CloseOptions): Promise<CloseReport> {
    const closing = super.close(options)
    const report = closing.then(({ drained, abandoned }) => ({
      drained: drained && this.#lost === 0,
      abandoned: abandoned + this.#lost,
    }))
    report.catch(() => undefined)
    return report
  }

  override stats(): MultiLevelCacheStats {
    const { books, memory, shared, loads } = this.#core
    const l1 = memory.stats()
    return {
      name: this.name,
      reads: books.counts(),
      l1: { ...l1, hits: books.l1, misses: books.l1Misses },
      l2: shared?.stats(),
      loads: loads.counts(),
      loadMs: loads.latencyMs(),
    }
  }

  protected override async drain(): Promise<void> {
    const { work, shared, link, memory } = this.#core
    this.#core.closed = true
    memory.clear()
    await work.empty()
    await shared?.settled()
    await link.flush()
  }

  protected override abandon(): number {
    const { work, books } = this.#core
    const readers = books.pending
    return readers + work.abandon(this.#core.closedError())
  }

  protected override release(): void {
    const { shared, link } = this.#core
    this.#lost = shared?.abandoned() ?? 0
    link.close()
    shared?.close()
  }
}
