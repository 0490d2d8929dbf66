import { TimeoutError } from '../core/errors.js'
import { warn } from '../core/events.js'
import type { LoadLease } from '../core/ports.js'
import { type Deferred, deferred, handled } from '../internal/deferred.js'
import { LazySignal } from '../internal/lazy-signal.js'
import { attempt } from '../internal/tasks.js'
import type { CacheCore } from './cache-core.js'
import { CacheEntry, judgeOld, lifeOf, refreshFrom } from './entry.js'
import type { KeyLoad, LoadOwner, ReadOutcome } from './flights.js'
import type { EntrySettings } from './multi-level-cache-options.js'
import type { Abandonable, WorkOutcome } from './open-work.js'
import type { SharedTier } from './shared-tier.js'
import type { SharedFill, SharedFillOutcome } from './shared-tier-settings.js'

/** What a loader brought for one key. */
export type Loaded = { readonly value: unknown } | { readonly error: unknown }

/** Loads some keys, and answers for each of them, in their order. */
export type RunLoader = (
  loads: readonly KeyLoad[],
  signal: LazySignal,
  now: number,
) => readonly Loaded[] | PromiseLike<readonly Loaded[]>

/** How a run loads, and what it makes of what it loads. */
export interface RunPlan {
  readonly loader: RunLoader
  /** The settings of the namespace, with what the call has of its own. */
  readonly settings: EntrySettings
  /** The namespace's `refreshAheadRatio`, by which calls without one of their own find out that there is something to do. */
  readonly easyRatio: number
  /** The call's own ttl. */
  readonly ttlMs: number | undefined
  readonly tags: readonly string[]
  /** Whether other processes are to wait meanwhile. */
  readonly locked: boolean
}

/** A value on its way into the tiers. */
interface Storing {
  readonly load: KeyLoad
  readonly value: unknown
  readonly tags: readonly string[]
  readonly lifeMs: number
}

/**
 * The life of one load, of one key or of several that one call asks for: it looks into the shared tier, waits for the lock, calls the
 * loader, answers those who wait, and stores what nobody has written over meanwhile.
 */
export class LoadRun implements Abandonable, LoadOwner {
  readonly #core: CacheCore
  readonly #plan: RunPlan
  #loads: readonly KeyLoad[] = []
  readonly #signal = new LazySignal()
  /** Keys that still want their loader. */
  #wanting = new Set<KeyLoad>()
  /** Rejects with what ends the run early. */
  readonly #stopped: Deferred<never> = deferred()
  #over = false
  #since = Number.POSITIVE_INFINITY
  /** Whether the loader took longer than `loaderSoftTimeoutMs`. */
  #late = false
  #succeeded = 0
  #failed = 0

  constructor(core: CacheCore, plan: RunPlan) {
    this.#core = core
    this.#plan = plan
    handled(this.#stopped.promise)
  }

  /** What its values bear, unless the loader says otherwise. */
  get tags(): readonly string[] {
    return this.#plan.tags
  }

  /** Begins; those who wait have joined the loads already. */
  start(loads: readonly KeyLoad[]): void {
    this.#loads = loads
    this.#wanting = new Set(loads)
    this.#core.work.track(this.#run(), this)
  }

  /** All who waited for one of its keys have gone: stops, unless somebody waits for another one. */
  onIdle(reason: unknown): void {
    for (const load of this.#wanting) if (load.waiting > 0 || load.background) return
    this.#stop(reason)
  }

  /** Whoever comes while an old value is there and the loader is late gets that. */
  onJoined(load: KeyLoad): void {
    const old = this.#late ? this.#servable(load) : undefined
    if (old !== undefined) load.answer('stale', old.value, old.tags)
  }

  /** Those who ask again begin another load. */
  onOutdated(load: KeyLoad): void {
    this.#core.flights.part(load)
  }

  /** Ends the run at once: the loader's signal aborts, and what it brings later is used for nothing. */
  #stop(reason: unknown): void {
    if (this.#over) return
    this.#over = true
    this.#signal.abort(reason)
    for (const load of this.#loads) {
      load.fence.shut()
      this.#core.flights.end(load)
    }
    this.#stopped.reject(reason)
  }

  abandon(error: unknown): number {
    this.#stop(error)
    for (const load of this.#loads) load.fail(error, false)
    return 0
  }

  async #run(): Promise<WorkOutcome> {
    let lease: LoadLease | undefined
    try {
      if (this.#core.shared !== undefined) await this.#readShared(this.#core.shared)
      if (this.#plan.locked && this.#isSharing) lease = await this.#lock()
      if (this.#wanting.size > 0) await this.#load()
    } catch (error) {
      // Stopped: nobody waits any more, or they were told.
      for (const load of this.#loads) load.fail(error, false)
    }
    for (const load of this.#loads) this.#core.flights.end(load)
    if (lease !== undefined) this.#release(lease)
    return { succeeded: this.#succeeded, failed: this.#failed }
  }

  async #readShared(shared: SharedTier): Promise<void> {
    const loads = [...this.#wanting]
    const [first] = loads
    if (first === undefined) return
    const keys = loads.map((load) => load.key)
    const reads = this.#core.readMany(shared, first.at, keys, this.#plan.easyRatio)
    const outcomes = await this.#orStopped(Promise.all(reads.map((read) => read.outcome)))
    loads.forEach((load, index) => {
      const outcome = outcomes[index] as ReadOutcome
      load.version = outcome.version
      this.#since = Math.min(this.#since, outcome.since)
      this.#takeRead(load, outcome)
    })
  }

  /** Answers with what the shared tier has, as far as that will do; else the key is still to be loaded. */
  #takeRead(load: KeyLoad, { version, entry }: ReadOutcome): void {
    const { settings } = this.#plan
    const now = this.#core.turn.now()
    if (entry !== undefined) load.old = entry
    else if (version !== undefined && version !== '') load.old = undefined
    if (entry !== undefined && now < entry.freshUntil) {
      const due = load.ahead && now >= refreshFrom(entry, settings.refreshAheadRatio) && now >= entry.throttledUntil
      if (due) load.background = true
      else this.#settle(load)
      load.answer('l2', entry.value, entry.tags)
      return
    }
    const old = load.usableOld()
    const verdict = old === undefined ? 'gone' : judgeOld(old, now, settings)
    if (old === undefined || (verdict !== 'stale' && verdict !== 'throttled')) return
    if (verdict === 'stale') load.background = true
    else this.#settle(load)
    load.answer('stale', old.value, old.tags)
  }

  /** The loader isn't needed for this key; nobody joins it any more, so that whoever still does is answered. */
  #settle(load: KeyLoad): void {
    this.#wanting.delete(load)
    this.#core.flights.end(load)
  }

  /** Whether others could find what is loaded here. Where they can't, to wait for one another would be for nothing. */
  get #isSharing(): boolean {
    const wanting = [...this.#wanting]
    return this.#core.shared === undefined ? wanting.length > 0 : wanting.some((load) => load.version !== undefined)
  }

  async #lock(): Promise<LoadLease | undefined> {
    const { settings, shared, clock } = this.#core
    const [load] = this.#wanting
    const lock = settings.loadLock
    if (load === undefined || lock === undefined) return undefined
    const waitMs = settings.loadLockWaitMs
    const asked = attempt(() => lock.acquire(load.at.full(load.key), { waitMs, signal: this.#signal.signal }))
    let over = false
    let failed = false
    let taken: LoadLease | undefined
    const gaveUp = deferred<void>()
    const cancel = clock.setTimer(() => gaveUp.resolve(), waitMs)
    const answered = asked.then(
      (lease) => {
        // One that comes too late is given back.
        if (over && lease !== undefined) this.#release(lease)
        else taken = lease
      },
      (error: unknown) => {
        failed = true
        if (!over) this.#core.tellFailed({ operation: 'lock', keys: [load.at.full(load.key)], error })
      },
    )
    try {
      await this.#orStopped(Promise.race([answered, gaveUp.promise]))
    } catch (error) {
      if (taken !== undefined) this.#release(taken)
      throw error
    } finally {
      cancel()
      over = true
    }
    const lease = taken as LoadLease | undefined
    // Somebody else had it, or has it still: the value may be there by now.
    const waited = lease === undefined ? !failed : lease.waited
    if (waited && shared !== undefined) {
      try {
        await this.#readShared(shared)
      } catch (error) {
        if (lease !== undefined) this.#release(lease)
        throw error
      }
    }
    return lease
  }

  #release(lease: LoadLease): void {
    handled(attempt(() => lease.release()))
  }

  async #load(): Promise<void> {
    const core = this.#core
    const loads = [...this.#wanting]
    const startedAt = core.turn.now()
    core.loads.started += loads.length
    const background = new Set(loads.filter((load) => load.waiting === 0))
    core.loads.background += background.size
    const cancelSoft = this.#startSoftTimer()
    let loaded: readonly Loaded[]
    let timedOut = false
    try {
      const call = (): Promise<readonly Loaded[]> => this.#callLoader(loads)
      loaded = await this.#orStopped(core.limit === undefined ? call() : handled(core.limit(call)))
    } catch (error) {
      timedOut = error instanceof LoaderTimeout
      const told = error instanceof LoaderTimeout ? error.error : error
      loaded = loads.map(() => ({ error: told }))
    }
    cancelSoft()
    const durationMs = core.turn.now() - startedAt
    const storing: Storing[] = []
    loads.forEach((load, index) => {
      const one = loaded[index] as Loaded
      const made = { durationMs, background: background.has(load) }
      if ('error' in one) this.#fail(load, one.error, { ...made, timedOut })
      else this.#succeed(load, one.value, made, storing)
    })
    if (storing.length > 0) await this.#store(storing)
  }

  /** Calls the loader within its time. What it does after that, or after a stop, is heard no more. */
  #callLoader(loads: readonly KeyLoad[]): Promise<readonly Loaded[]> {
    if (this.#over) return this.#stopped.promise
    const core = this.#core
    for (const load of loads) load.order = core.flights.nextOrder()
    const work = attempt(() => this.#plan.loader(loads, this.#signal, core.turn.now()))
    const { loaderTimeoutMs } = this.#plan.settings
    if (loaderTimeoutMs === undefined) return this.#orStopped(work)
    const limit = deferred<never>()
    const cancel = core.clock.setTimer(() => {
      const error = new TimeoutError(`a loader of ${core.name} took longer than ${loaderTimeoutMs} ms`, loaderTimeoutMs)
      limit.reject(new LoaderTimeout(error))
      this.#signal.abort(error)
    }, loaderTimeoutMs)
    return this.#orStopped(Promise.race([work, limit.promise])).finally(cancel)
  }

  #startSoftTimer(): () => void {
    const { loaderSoftTimeoutMs } = this.#plan.settings
    if (loaderSoftTimeoutMs === undefined) return () => undefined
    return this.#core.clock.setTimer(() => {
      this.#late = true
      for (const load of this.#wanting) this.#serveOld(load)
    }, loaderSoftTimeoutMs)
  }

  /** Answers with the old value because of what the loader did, and leaves it alone for a while; false where there is none to serve. */
  #serveOld(load: KeyLoad): boolean {
    const kept = load.usableOld()
    if (kept !== undefined) kept.throttledUntil = this.#core.turn.now() + this.#plan.settings.errorThrottleMs
    const old = this.#servable(load)
    if (old === undefined) return false
    if (this.#core.memory.peek(load.memoryKey) !== old) this.#core.keep(load, old)
    load.background = true
    load.answer('stale', old.value, old.tags)
    return true
  }

  /** The old value, if it isn't too old for this run. */
  #servable(load: KeyLoad): CacheEntry | undefined {
    const { staleMs, serveStaleOnErrorMs } = this.#plan.settings
    const old = load.usableOld()
    const until = old === undefined ? 0 : old.freshUntil + Math.max(staleMs, serveStaleOnErrorMs)
    return this.#core.turn.now() < until ? old : undefined
  }

  #fail(
    load: KeyLoad,
    error: unknown,
    made: { readonly durationMs: number; readonly background: boolean; readonly timedOut: boolean },
  ): void {
    const { loads, events, flights } = this.#core
    this.#failed++
    loads.fail(made.durationMs, made.timedOut)
    flights.end(load)
    this.#wanting.delete(load)
    const servedStale = this.#serveOld(load)
    if (!servedStale) load.fail(error, !made.timedOut && !this.#over)
    if (!events.has('loadFailed')) return
    const { durationMs, background } = made
    const at = { key: load.key, namespace: load.at.path }
    events.emit('loadFailed', Object.freeze({ ...at, error, durationMs, background, servedStale }))
  }

  #succeed(
    load: KeyLoad,
    value: unknown,
    made: { readonly durationMs: number; readonly background: boolean },
    storing: Storing[],
  ): void {
    const { loads, events, flights, random } = this.#core
    this.#succeeded++
    loads.succeed(made.durationMs)
    this.#wanting.delete(load)
    if (events.has('loaded')) {
      events.emit('loaded', Object.freeze({ key: load.key, namespace: load.at.path, ...made }))
    }
    if (value === undefined) {
      flights.end(load)
      load.answer('missed', undefined, undefined)
      return
    }
    const kept = load.notModified ? load.old?.tags : undefined
    const tags = load.tags ?? kept ?? this.#plan.tags
    if (!load.fence.passes(tags)) {
      loads.fenced++
      flights.end(load)
      load.answer('loaded', value, tags)
      return
    }
    load.answerAll('loaded', value, tags)
    const lifeMs = lifeOf(value, load.ttlMs ?? this.#plan.ttlMs, this.#plan.settings, random)
    if (lifeMs > 0) storing.push({ load, value, tags, lifeMs })
    else this.#forget(load)
  }

  /** What was loaded isn't to be kept, so neither is what was there before. */
  #forget(load: KeyLoad): void {
    const { memory, flights, shared } = this.#core
    flights.end(load)
    flights.fenceReads(load.memoryKey)
    const there = memory.peek(load.memoryKey)
    if (there !== undefined && there.order <= load.order) memory.delete(load.memoryKey)
    if (shared !== undefined && load.old !== undefined) {
      this.#core.work.track(shared.delete([load.at.full(load.key)]).then(() => undefined))
    }
  }

  /** Where it can be compared, the shared tier has the say: memory takes only what that has taken, or couldn't be asked about. */
  async #store(storing: readonly Storing[]): Promise<void> {
    const { shared } = this.#core
    const fills: { readonly one: Storing; readonly fill: SharedFill }[] = []
    for (const one of storing) {
      const fill = shared === undefined ? undefined : this.#fillOf(one, shared)
      if (fill === undefined) this.#keep(one, undefined)
      else fills.push({ one, fill })
    }
    if (shared === undefined || fills.length === 0) return
    const outcomes = await this.#orStopped(
      shared.fill(
        fills.map(({ fill }) => fill),
        this.#since,
      ),
    )
    fills.forEach(({ one }, index) => void this.#onFilled(one, outcomes[index] as SharedFillOutcome))
  }

  #fillOf({ load, value, tags, lifeMs }: Storing, shared: SharedTier): SharedFill | undefined {
    if (load.version === undefined) return undefined
    const key = load.at.full(load.key)
    const { staleMs, serveStaleOnErrorMs } = this.#plan.settings
    const keptMs = lifeMs + Math.max(staleMs, serveStaleOnErrorMs)
    const marks = [...load.at.clearMarks, ...tags.map((tag) => load.at.tagMark(tag))]
    try {
      return { key, encoded: shared.encode(value), freshMs: lifeMs, keptMs, marks, ifVersion: load.version }
    } catch (error) {
      this.#core.loads.unstorable++
      this.#core.tellFailed({ operation: 'encode', keys: [key], error })
      if (this.#core.loads.unstorable === 1) {
        warn(`${this.#core.name} can't keep a loaded value in its shared tier: ${String(error)}`)
      }
      return undefined
    }
  }

  #onFilled(one: Storing, outcome: SharedFillOutcome): void {
    const { memory, flights } = this.#core
    const { load } = one
    if (outcome.kind === 'failed') {
      this.#keep(one, undefined)
      return
    }
    const there = memory.peek(load.memoryKey)
    if (outcome.kind === 'superseded') {
      flights.end(load)
      if (there !== undefined && there.order < load.order && load.fence.passes([])) memory.delete(load.memoryKey)
      return
    }
    // What was read meanwhile may be older than what has just been written, or newer: only the next read can tell.
    if (load.fence.passes([])) {
      flights.fenceReads(load.memoryKey)
      if (there !== undefined && there.order > load.order && there.version !== outcome.version) {
        memory.delete(load.memoryKey)
        flights.end(load)
        return
      }
    }
    // Its marks were known before the load began, and may have been renewed elsewhere since.
    this.#keep(one, outcome.version, this.#since)
  }

  #keep({ load, value, tags, lifeMs }: Storing, version: string | undefined, checkedAt?: number): void {
    const core = this.#core
    const now = core.turn.now()
    const checkedUntil = Math.min(now, checkedAt ?? now) + core.settings.l1TtlMs
    const times = { madeAt: now, freshUntil: now + lifeMs, checkedUntil }
    const entry = new CacheEntry(
      load.at.place(load.key, load.memoryKey),
      { value, tags, version },
      times,
      this.#plan.easyRatio,
      load.order,
    )
    if (!load.fence.passes(tags)) core.loads.fenced++
    core.keep(load, entry)
    core.flights.end(load)
  }

  /** Settles as the work does, or rejects as soon as the run is stopped. */
  #orStopped<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#stopped.promise])
  }
}

/** Tells the limit on a loader from a loader that failed with a `TimeoutError` of its own. */
class LoaderTimeout {
  readonly error: TimeoutError

  constructor(error: TimeoutError) {
    this.error = error
  }
}
