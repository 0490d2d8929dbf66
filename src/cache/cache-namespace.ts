import type { Emitter } from '../core/events.js'
import { checkFunction, checkOptions, checkRatio, checkSignal, failOption, valueOr } from '../core/options.js'
import { handled, rejected } from '../internal/deferred.js'
import type { TurnClock } from '../internal/turn-clock.js'
import type { CacheCore } from './cache-core.js'
import type { BatchLoader, Cached, CacheOperations, Loader } from './cache-operations.js'
import { type CachePath, checkPathName } from './cache-path.js'
import { checkWrites, clearPath, deleteKeys, invalidateTags, writeValues } from './cache-writes.js'
import { type CacheEntry, judgeOld, refreshFrom } from './entry.js'
import { KeyLoad, type ReadOutcome } from './flights.js'
import type { LoadContext } from './load-context.js'
import { LoadRun, type RunPlan } from './load-run.js'
import { inOneBatch, oneByOne, wrapKey } from './loaders.js'
import type { MemoryTier } from './memory-tier.js'
import type { MultiLevelCacheEvents } from './multi-level-cache-events.js'
import {
  checkKey,
  checkKeys,
  checkLimit,
  checkSpan,
  checkTags,
  checkTtl,
  type EntrySettings,
  type LoadOptions,
  type NamespaceOptions,
  resolveEntries,
  type SetEntry,
  type SetOptions,
  type WrapOptions,
} from './multi-level-cache-options.js'
import { Outdated } from './outdated.js'
import type { ReadBooks } from './read-books.js'
import { type WarmOptions, type WarmReport, type WarmTasks, warm } from './warm-run.js'

/** What a call of `getOrLoad` asks for, checked. */
type CallPlan = Omit<RunPlan, 'loader' | 'locked'>

/**
 * A part of a `MultiLevelCache` with keys, a type and defaults of its own, from `namespace`. It shares the cache's tiers and their
 * bounds, its events and its stats. It has no life of its own, and so neither `flush` nor `close`: those are the cache's.
 */
export class CacheNamespace<V extends NonNullable<unknown> | null> implements CacheOperations<V> {
  readonly #core: CacheCore
  readonly #at: CachePath
  readonly #settings: EntrySettings
  /** For calls without options. */
  readonly #plan: CallPlan
  // What every hit needs, at hand: it costs little more than its look into the map.
  readonly #path: string
  readonly #isRoot: boolean
  /** Its entries in memory, where it isn't the root and had any when last looked for. */
  #space: ReadonlyMap<string, CacheEntry> | undefined
  readonly #entries: MemoryTier['entries']
  readonly #turn: TurnClock
  readonly #books: ReadBooks
  readonly #events: Emitter<MultiLevelCacheEvents>

  /** @internal */
  constructor(core: CacheCore, at: CachePath, settings: EntrySettings) {
    this.#core = core
    this.#at = at
    this.#settings = settings
    this.#plan = { settings, easyRatio: settings.refreshAheadRatio, ttlMs: undefined, tags: [] }
    this.#path = at.path
    this.#isRoot = at.path === at.root
    this.#space = undefined
    this.#entries = core.memory.entries
    this.#turn = core.turn
    this.#books = core.books
    this.#events = core.events
  }

  /** Its name, with those of the namespaces that it is in: `'cache/users'`. */
  get path(): string {
    return this.#path
  }

  peek(key: string): V | undefined {
    const entry = this.#find(key)
    if (entry === undefined || this.#turn.now() >= entry.freshHereUntil) return this.#peekInVain(key)
    this.#books.l1++
    if (this.#events.has('hit')) this.#books.tellHit('l1', this.#at, key, 1)
    return entry.value as V
  }

  get(key: string): Promise<V | undefined> {
    const entry = this.#find(key)
    if (entry !== undefined && this.#turn.now() < entry.freshHereUntil) return this.#hit(entry)
    return this.#getSlowly(key)
  }

  getMany(keys: readonly string[]): Promise<(V | undefined)[]> {
    const { shared, books, flights } = this.#core
    const refused = this.#refusal(keys, () => checkKeys(keys))
    if (refused !== undefined) return refused
    const answers: (V | undefined | Promise<V | undefined>)[] = []
    const wanted: { readonly index: number; readonly key: string }[] = []
    let waits = false
    keys.forEach((key, index) => {
      const entry = this.#find(key)
      const fresh = entry !== undefined && this.#turn.now() < entry.freshHereUntil
      const loaded = fresh ? undefined : flights.load(this.#at.memory(key))?.loaded
      if (fresh) {
        books.endNow('l1', this.#at, key)
        answers[index] = entry.value as V
      } else if (loaded !== undefined) {
        books.endNow('loaded', this.#at, key)
        answers[index] = loaded as Promise<V>
        waits = true
      } else if (shared === undefined) {
        this.#miss(key)
        answers[index] = undefined
      } else {
        books.l1Misses++
        answers[index] = undefined
        wanted.push({ index, key })
      }
    })
    if (shared === undefined || wanted.length === 0) return allOf(answers, waits)
    const { easyRatio } = this.#plan
    const names = wanted.map(({ key }) => key)
    const reads = this.#core.readMany(shared, this.#at, names, easyRatio)
    wanted.forEach(({ index, key }, place) => {
      const outcome = reads[place]?.outcome as Promise<ReadOutcome>
      answers[index] = this.#fromShared(key, outcome)
    })
    return handled(Promise.all(answers))
  }

  set(key: string, value: V, options?: SetOptions): Promise<void> {
    return this.setMany([[key, value, options]])
  }

  setMany(entries: readonly SetEntry<V>[]): Promise<void> {
    return this.#write(() => {
      if (!Array.isArray(entries)) failOption('entries', 'must be an array of [key, value, options?]', entries)
      for (const entry of entries) {
        if (!Array.isArray(entry)) failOption('entries', 'must hold arrays [key, value, options?]', entry)
      }
      const writes = checkWrites(this.#core, this.#settings, entries)
      return () => writeValues(this.#core, this.#at, this.#settings, writes)
    })
  }

  delete(key: string): Promise<void> {
    return this.#write(() => {
      checkKey(key)
      return () => deleteKeys(this.#core, this.#at, [key])
    })
  }

  deleteMany(keys: readonly string[]): Promise<void> {
    return this.#write(() => {
      const distinct = [...new Set(checkKeys(keys))]
      return () => (distinct.length === 0 ? Promise.resolve() : deleteKeys(this.#core, this.#at, distinct))
    })
  }

  invalidateTags(tags: readonly string[]): Promise<void> {
    return this.#write(() => {
      if (tags === undefined) checkTags(null as never)
      const distinct = checkTags(tags)
      return () => (distinct.length === 0 ? Promise.resolve() : invalidateTags(this.#core, this.#at, distinct))
    })
  }

  clear(): Promise<void> {
    return this.#write(() => () => clearPath(this.#core, this.#at))
  }

  getOrLoad<R extends V | undefined>(
    key: string,
    loader: Loader<V, R>,
    options?: LoadOptions,
  ): Promise<V | Extract<R, undefined>> {
    const entry = this.#find(key)
    if (
      entry !== undefined &&
      this.#turn.now() < entry.easyUntil &&
      typeof loader === 'function' &&
      (options === undefined || isEasy(options))
    ) {
      return this.#hit(entry)
    }
    let plan: CallPlan
    try {
      checkFunction('loader', loader)
      plan = this.#planOf(options)
    } catch (error) {
      return this.#core.refuse(error)
    }
    return this.#load(key, loader as Loader<unknown>, plan, options?.signal) as Promise<V | Extract<R, undefined>>
  }

  getOrLoadMany(keys: readonly string[], load: BatchLoader<V>, options?: LoadOptions): Promise<(V | undefined)[]> {
    let plan: CallPlan = this.#plan
    const signal = options?.signal
    const refused = this.#refusal(
      keys,
      () => {
        checkKeys(keys)
        checkFunction('load', load)
        plan = this.#planOf(options)
      },
      signal,
    )
    if (refused !== undefined) return refused
    const loader = inOneBatch(load as BatchLoader<unknown>, this.#core.name)
    const { answers, waits } = this.#loadMany(keys, { ...plan, loader, locked: false }, signal, false)
    return allOf(answers as (V | Promise<V>)[], waits)
  }

  wrap<A extends unknown[], R extends V | undefined>(
    fn: (...args: A) => R | PromiseLike<R>,
    options: WrapOptions<A>,
  ): Cached<A, V | Extract<R, undefined>> {
    checkFunction('fn', fn)
    if (options === undefined) failOption('options', 'must be an object with a name', options)
    const plan = this.#planOf(options)
    const keyOf = wrapKey(options)
    // A ratio of its own isn't the one that hits are judged by.
    const easy = plan.settings.refreshAheadRatio === this.#settings.refreshAheadRatio
    const cached = (...args: A): Promise<V | Extract<R, undefined>> => {
      let key: string
      try {
        key = keyOf(args)
      } catch (error) {
        return this.#core.refuse(error)
      }
      const entry = easy ? this.#find(key) : undefined
      if (entry !== undefined && this.#turn.now() < entry.easyUntil) return this.#hit(entry)
      return this.#load(key, () => fn(...args), plan, undefined) as Promise<V | Extract<R, undefined>>
    }
    const invalidate = (...args: A): Promise<void> => {
      try {
        return this.delete(keyOf(args))
      } catch (error) {
        return rejected(error)
      }
    }
    return Object.assign(cached, { invalidate })
  }

  warm(tasks: WarmTasks<V, LoadContext<V>>, options?: WarmOptions): Promise<WarmReport> {
    if (this.#core.closed) return rejected(this.#core.closedError())
    return warm<V, LoadContext<V>>(
      {
        getMany: (keys) => this.getMany(keys),
        getOrLoad: (key, loader, loadOptions) => this.getOrLoad(key, loader, loadOptions),
      },
      tasks,
      options,
      this.#core.clock,
    )
  }

  /**
   * A part of this one with keys, a type and defaults of its own, which shares tiers and bounds. What is called the same is the same:
   * nothing is made but a view, so that it may be asked for at each use.
   *
   * @param name - neither empty nor with `:`, `/` or NUL.
   * @throws OptionError when the name or an option is wrong.
   */
  namespace<T extends NonNullable<unknown> | null = V>(name: string, options?: NamespaceOptions): CacheNamespace<T> {
    checkPathName('name', name)
    checkOptions('options', options)
    const settings = options === undefined ? this.#settings : resolveEntries(options, this.#settings)
    return new CacheNamespace<T>(this.#core, this.#at.child(name), settings)
  }

  /** What memory has. The root's keys are looked up as they are; a namespace's entry under such a key isn't the root's. */
  #find(key: string): CacheEntry | undefined {
    if (!this.#isRoot) return this.#findWithin(key)
    const entry = this.#entries.get(key)
    return entry !== undefined && entry.home === this.#path ? entry : this.#findOdd(key)
  }

  #findOdd(key: string): CacheEntry | undefined {
    const odd = typeof key === 'string' && key.charCodeAt(0) === 0
    return odd ? this.#entries.get(this.#at.memory(key)) : undefined
  }

  #findWithin(key: string): CacheEntry | undefined {
    const entry = this.#space?.get(key) ?? this.#findAnew(key)
    // So it counts as used.
    return entry === undefined ? undefined : this.#entries.get(entry.memoryKey)
  }

  /** A namespace that was empty for a moment has got other entries since. */
  #findAnew(key: string): CacheEntry | undefined {
    this.#space = this.#core.memory.space(this.#path)
    return this.#space?.get(key)
  }

  #hit(entry: CacheEntry): Promise<V> {
    this.#books.l1++
    if (this.#events.has('hit')) this.#books.tellHit('l1', this.#at, entry.key, 1)
    return (entry.promise ?? this.#promiseOf(entry)) as Promise<V>
  }

  #peekInVain(key: string): undefined {
    checkKey(key)
    if (this.#core.closed) this.#books.rejected++
    else this.#miss(key)
  }

  #miss(key: string): void {
    const { books } = this.#core
    books.l1Misses++
    books.endNow('missed', this.#at, key)
  }

  #getSlowly(key: string): Promise<V | undefined> {
    const { shared, books, flights } = this.#core
    const refused = this.#refusal([key], () => checkKey(key))
    if (refused !== undefined) return refused
    const loaded = flights.load(this.#at.memory(key))?.loaded
    if (loaded !== undefined) {
      books.endNow('loaded', this.#at, key)
      return loaded as Promise<V>
    }
    if (shared === undefined) {
      this.#miss(key)
      return Promise.resolve(undefined)
    }
    books.l1Misses++
    const { outcome } = this.#core.readOne(shared, this.#at, key, this.#plan.easyRatio)
    return handled(this.#fromShared(key, outcome))
  }

  /** A read's value, if it is fresh. */
  #fromShared(key: string, outcome: Promise<ReadOutcome>): Promise<V | undefined> {
    const { books, turn } = this.#core
    books.wait()
    return outcome.then(
      ({ entry }) => {
        const fresh = entry !== undefined && turn.now() < entry.freshUntil
        books.end(fresh ? 'l2' : 'missed', this.#at, key, 1)
        return fresh ? (entry.value as V) : undefined
      },
      (error: unknown) => {
        books.end('failed', this.#at, key, 1)
        throw error
      },
    )
  }

  /** What all callers of a cold key come through, however many they are: a closure or a list each would cost more than the rest. */
  #load(key: string, loader: Loader<unknown>, plan: CallPlan, signal: AbortSignal | undefined): Promise<unknown> {
    const core = this.#core
    if (typeof key !== 'string' || key === '' || core.closed || signal?.aborted) {
      const refused = this.#refusal([key], () => checkKey(key), signal)
      if (refused !== undefined) return refused
    }
    core.link.connect()
    return this.#loadOne(key, loader, plan, signal, false)
  }

  /**
   * @param isAgain - whether the call has waited for a load that brought what was too old for it. What runs now has begun after that
   * one was left, and so after the call.
   */
  #loadOne(
    key: string,
    loader: Loader<unknown>,
    plan: CallPlan,
    signal: AbortSignal | undefined,
    isAgain: boolean,
  ): Promise<unknown> {
    const memoryKey = this.#at.memory(key)
    const served = this.#serve(key, memoryKey, plan.settings)
    if (served !== undefined && !served.refresh) return this.#promiseOf(served.entry)
    const running = this.#core.flights.load(memoryKey)
    if (served === undefined && running !== undefined) {
      if (isAgain || !running.fence.hasInvalidated) return running.join(signal)
      return running.join(signal, () => {
        this.#books.leave(1)
        return this.#loadOne(key, loader, plan, signal, true)
      })
    }
    const locked = this.#core.settings.loadLock !== undefined
    const run = new LoadRun(this.#core, { ...plan, loader: oneByOne(loader), locked })
    const load = this.#begin(key, memoryKey, served?.entry, run)
    const answer = served === undefined ? load.join(signal) : this.#promiseOf(served.entry)
    run.start([load])
    return answer
  }

  /** {@link CacheNamespace.#loadOne} for several keys, with one load for those that nobody loads yet. */
  #loadMany(
    keys: readonly string[],
    plan: RunPlan,
    signal: AbortSignal | undefined,
    isAgain: boolean,
  ): { readonly answers: unknown[]; readonly waits: boolean } {
    const run = new LoadRun(this.#core, plan)
    const begun: KeyLoad[] = []
    let outdated: Outdated | undefined
    let waits = false
    const answers = keys.map((key) => {
      const memoryKey = this.#at.memory(key)
      const served = this.#serve(key, memoryKey, plan.settings)
      if (served !== undefined) {
        if (served.refresh) begun.push(this.#begin(key, memoryKey, served.entry, run))
        return served.entry.value
      }
      waits = true
      const running = this.#core.flights.load(memoryKey)
      if (running === undefined) {
        const load = this.#begin(key, memoryKey, undefined, run)
        begun.push(load)
        return load.join(signal)
      }
      if (isAgain) return running.join(signal)
      outdated ??= new Outdated((some) => {
        this.#books.leave(some.length)
        if (signal?.aborted) {
          for (const one of some) this.#books.endNow('aborted', this.#at, one)
          return some.map(() => rejected(signal.reason))
        }
        return this.#loadMany(some, plan, signal, true).answers
      })
      const wait = outdated
      return running.join(signal, () => wait.again(key))
    })
    if (begun.length > 0) run.start(begun)
    return { answers, waits }
  }

  #promiseOf(entry: CacheEntry): Promise<unknown> {
    entry.promise ??= Promise.resolve(entry.value)
    return entry.promise
  }

  /** Serves what memory has, as far as memory has the say, and says whether it is to be loaded anew behind. */
  #serve(
    key: string,
    memoryKey: string,
    settings: EntrySettings,
  ): { readonly entry: CacheEntry; readonly refresh: boolean } | undefined {
    const { memory, turn, books, flights } = this.#core
    const entry = memory.get(memoryKey)
    const now = turn.now()
    if (entry !== undefined && now < entry.freshHereUntil) {
      books.endNow('l1', this.#at, key)
      const due = now >= refreshFrom(entry, settings.refreshAheadRatio) && now >= entry.throttledUntil
      return { entry, refresh: due && flights.load(memoryKey) === undefined }
    }
    books.l1Misses++
    if (entry === undefined || now >= entry.checkedUntil) return undefined
    const verdict = judgeOld(entry, now, settings)
    if (verdict !== 'stale' && verdict !== 'throttled') return undefined
    books.endNow('stale', this.#at, key)
    return { entry, refresh: verdict === 'stale' && flights.load(memoryKey) === undefined }
  }

  /** @param served - the value that is served meanwhile, where it is loaded behind. */
  #begin(key: string, memoryKey: string, served: CacheEntry | undefined, run: LoadRun): KeyLoad {
    const { tags } = run
    const { flights, memory, books } = this.#core
    const start = {
      order: flights.nextOrder(),
      tags,
      old: served ?? memory.peek(memoryKey),
      background: served !== undefined,
      ahead: served !== undefined,
    }
    const load = new KeyLoad(this.#at, key, memoryKey, start, books, run)
    flights.beginLoad(load)
    return load
  }

  /** Why reads can't be made, where they can't; else the bus is listened to from now on. */
  #refusal(keys: readonly string[], check: () => void, signal?: AbortSignal): Promise<never> | undefined {
    const core = this.#core
    const count = Array.isArray(keys) ? keys.length : 1
    try {
      check()
    } catch (error) {
      return core.refuse(error, count)
    }
    if (core.closed) return core.refuse(core.closedError(), count)
    if (signal?.aborted) return core.refuse(signal.reason, count)
    core.link.connect()
    return undefined
  }

  /** Checks, and then writes; nothing is changed where something is wrong. */
  #write(check: () => () => Promise<void>): Promise<void> {
    const core = this.#core
    try {
      const write = check()
      if (core.closed) return rejected(core.closedError())
      core.link.connect()
      return write()
    } catch (error) {
      return rejected(error)
    }
  }

  #planOf(options: LoadOptions | undefined): CallPlan {
    if (options === undefined) return this.#plan
    checkOptions('options', options)
    checkSignal(options.signal)
    const own = this.#settings
    const settings: EntrySettings = {
      ...own,
      staleMs: checkSpan('staleMs', valueOr(options.staleMs, own.staleMs)),
      serveStaleOnErrorMs: checkSpan(
        'serveStaleOnErrorMs',
        valueOr(options.serveStaleOnErrorMs, own.serveStaleOnErrorMs),
      ),
      refreshAheadRatio: checkRatio('refreshAheadRatio', valueOr(options.refreshAheadRatio, own.refreshAheadRatio)),
      loaderSoftTimeoutMs: checkLimit(
        'loaderSoftTimeoutMs',
        valueOr(options.loaderSoftTimeoutMs, own.loaderSoftTimeoutMs),
      ),
      loaderTimeoutMs: checkLimit('loaderTimeoutMs', valueOr(options.loaderTimeoutMs, own.loaderTimeoutMs)),
    }
    const ttlMs = options.ttlMs === undefined ? undefined : checkTtl(options.ttlMs)
    return { settings, easyRatio: own.refreshAheadRatio, ttlMs, tags: checkTags(options.tags) }
  }
}

/** All answers; where none of them is waited for, without a promise for each. */
function allOf<T>(answers: (T | Promise<T>)[], waits: boolean): Promise<T[]> {
  return waits ? handled(Promise.all(answers)) : Promise.resolve(answers as T[])
}

/** Whether a hit can be served without a closer look at the options. */
function isEasy(options: LoadOptions): boolean {
  return (
    typeof options === 'object' &&
    options !== null &&
    options.signal === undefined &&
    options.refreshAheadRatio === undefined
  )
}
