import type { Permit } from '../breaker/circuit-breaker.js'
import { ClosableComponent, type FlushReport } from '../core/component.js'
import { ClosedError, NoInstanceError } from '../core/errors.js'
import {
  checkCount,
  checkDuration,
  checkFunction,
  checkOneOf,
  checkOptionalFunction,
  checkOptions,
  checkRatio,
  checkSignal,
  failOption,
  valueOr,
} from '../core/options.js'
import type { InstanceSource } from '../core/ports.js'
import { onAbort } from '../internal/abort.js'
import { type ContextRunner, captureContext } from '../internal/async-context.js'
import { deferred, handled, rejected } from '../internal/deferred.js'
import { TurnClock } from '../internal/turn-clock.js'
import { type Algorithm, algorithmNames, createAlgorithm } from './algorithms.js'
import { BalancedRun, type RunContext, type RunHost } from './balanced-run.js'
import { EligibleSet } from './eligible-set.js'
import { InstanceEjection } from './instance-ejection.js'
import { HealthChecks } from './instance-health.js'
import { InstanceList, readInstances } from './instance-list.js'
import type { BalancedInstance, InstanceSlot, InstanceStatus } from './instance-slot.js'
import { type Feed, type FeedOwner, type ListInstances, PolledFeed, WatchedFeed } from './instance-source.js'
import { InstanceLease, type Lease, type LeaseDesk, type LeaseOutcome } from './lease.js'
import type { LoadBalancerEvents, LoadBalancerStats } from './load-balancer-events.js'
import type { LoadBalancerOptions, PickOptions, RunOptions } from './load-balancer-options.js'
import { RequestCounts } from './request-counts.js'
import { RetryBudget } from './retry-budget.js'

export type { AlgorithmName } from './algorithms.js'
export type { RunContext } from './balanced-run.js'
export type { EjectionOptions } from './instance-ejection.js'
export type { HealthOptions } from './instance-health.js'
export type { BalancedInstance, InstanceState, InstanceStatus } from './instance-slot.js'
export type { ListInstances } from './instance-source.js'
export type { Lease, LeaseOutcome } from './lease.js'
export type { LoadBalancerEvents, LoadBalancerStats } from './load-balancer-events.js'
export type { LoadBalancerOptions, PickOptions, RunOptions } from './load-balancer-options.js'
export type { CountsFunction } from './request-counts.js'
export type { RetryBudgetOptions } from './retry-budget.js'

const defaultAttempts = 1

/**
 * Chooses an instance for each call and follows how the instances do: lists that change, health checks, ejection of those that
 * fail, slow start, draining, retries within a budget.
 *
 * A static list is there at once; of other sources, await `start()`. Nothing is asked of a source, and no timer started, before
 * the first use.
 *
 * @example
 * ```ts
 * import { LoadBalancer } from 'spillway'
 *
 * declare const servers: { id: string; url: string }[]
 *
 * const api = new LoadBalancer(servers, { algorithm: 'p2c' })
 * const response = await api.run((instance, { signal }) => fetch(instance.url, { signal }), { attempts: 2 })
 * await api.close()
 * ```
 */
export class LoadBalancer<I extends BalancedInstance> extends ClosableComponent<
  LoadBalancerEvents<I>,
  LoadBalancerStats
> {
  /** The options' defaults. */
  static readonly defaults = {
    algorithm: 'round_robin',
    hash: 'maglev',
    refreshMs: 5000,
    refreshTimeoutMs: 5000,
    health: { intervalMs: 10_000, timeoutMs: 2000, rise: 2, fall: 3, concurrency: 20 },
    ejection: { maxEjectedRatio: 0.5 },
    panicThreshold: 0.5,
    slowStartMs: 0,
    retryBudget: { ratio: 0.2, minRetries: 3 },
    countsEveryMs: 5000,
    countsTimeoutMs: 10_000,
  } as const

  readonly #algorithm: Algorithm<InstanceSlot<I>>
  /** Whether the algorithm wants to know how long calls take. */
  readonly #timed: boolean
  readonly #list = new InstanceList<I>()
  readonly #eligible: EligibleSet<I>
  /** Where lists come from; undefined where the list is static. */
  readonly #feed: Feed | undefined
  readonly #health: HealthChecks<I> | undefined
  readonly #ejection: InstanceEjection<I> | undefined
  readonly #counts: RequestCounts | undefined
  readonly #budget: RetryBudget
  readonly #turnClock: TurnClock
  readonly #desk: LeaseDesk<I>
  readonly #runHost: RunHost<I>
  readonly #runs = new Set<BalancedRun<I, never>>()
  /**
   * Whether a pick has to look at anything but the algorithm: something changed, time may change something, a timer has to be
   * armed, there is no list yet, all is closed. One flag, so that most picks look at nothing else.
   */
  #attention = true
  /** Whether what is eligible has to be found out anew. */
  #dirty = true
  #begun = false
  #closed = false
  /** Whether the deadline of `close` has passed. */
  #gaveUp = false
  /** Whether a look is due by the end of this turn. */
  #lookPlanned = false
  #idle: (() => void) | undefined

  #offered = 0
  #succeeded = 0
  #failed = 0
  #ignored = 0
  #rejected = 0
  #pending = 0
  #refreshes = 0
  #refreshFailures = 0

  /**
   * @param source - where instances come from: a list that never changes, a function that is asked for the list again and again,
   * or a source that tells of each new list.
   * @throws OptionError when an option or a static list is wrong.
   */
  constructor(source: readonly I[] | ListInstances<I> | InstanceSource<I>, options: LoadBalancerOptions<I> = {}) {
    super('load-balancer', options)
    const { defaults } = LoadBalancer
    const { name, clock, random } = this
    const inContext = captureContext()
    this.#turnClock = TurnClock.of(clock)
    this.#algorithm = createAlgorithm(
      checkOneOf('algorithm', valueOr(options.algorithm, defaults.algorithm), algorithmNames),
      { random, clock, hash: checkOneOf('hash', valueOr(options.hash, defaults.hash), ['maglev', 'ring']) },
    )
    this.#timed = this.#algorithm.timed
    this.#budget = new RetryBudget(options.retryBudget, defaults.retryBudget)
    const setting = { name, clock, random, inContext }
    if (options.health !== undefined) {
      this.#health = new HealthChecks(options.health, defaults.health, {
        ...setting,
        onChanged: (slot, error) => this.#recordHealth(slot, error),
      })
    }
    if (options.ejection !== undefined) {
      this.#ejection = new InstanceEjection(options.ejection, defaults.ejection, setting, () => this.#mark())
    }
    this.#eligible = new EligibleSet(this.#algorithm, {
      panicThreshold: checkRatio('panicThreshold', valueOr(options.panicThreshold, defaults.panicThreshold)),
      slowStartMs: checkDuration('slowStartMs', valueOr(options.slowStartMs, defaults.slowStartMs)),
      maxEjectedRatio: this.#ejection?.maxRatio ?? 0,
    })
    this.#counts = this.#makeCounts(options, inContext)
    this.#desk = { settle: (lease, outcome, error) => this.#settle(lease, outcome, error) }
    this.#runHost = this.#makeRunHost()
    const feedSetting = {
      ...setting,
      refreshMs: checkDuration('refreshMs', valueOr(options.refreshMs, defaults.refreshMs), 1),
      refreshTimeoutMs: checkDuration(
        'refreshTimeoutMs',
        valueOr(options.refreshTimeoutMs, defaults.refreshTimeoutMs),
        1,
      ),
    }
    if (typeof source === 'function') this.#feed = new PolledFeed(source, this.#feedOwner(), feedSetting)
    else if (typeof (source as InstanceSource<I> | null)?.watch === 'function') {
      this.#feed = new WatchedFeed(source as InstanceSource<I>, this.#feedOwner(), feedSetting)
    } else if (Array.isArray(source)) {
      for (const slot of this.#list.apply(readInstances(source)).added) this.#ejection?.guard(slot)
    } else failOption('source', 'must be an array, a function or an object with a method watch', source)
  }

  /**
   * Sees to it that there is a list. One that was there already, as a static list is, is enough.
   *
   * @returns once the first list is there. Rejects with what the source failed with, with `OptionError` when its list is wrong,
   * with `TimeoutError` after `refreshTimeoutMs`, or with `ClosedError`; it goes on trying all the same, behind the callers.
   */
  start(): Promise<void> {
    if (this.#closed) return rejected(this.#closedError())
    this.#begin()
    return this.#feed?.start() ?? Promise.resolve()
  }

  /**
   * Picks an instance.
   *
   * @returns the lease on it, which must be released.
   * @throws NoInstanceError when there is none to pick, ClosedError, OptionError.
   */
  pick(options?: PickOptions): Lease<I> {
    if (options === undefined) return this.#pick(undefined, undefined)
    let key: string | undefined
    let exclude: ReadonlySet<string> | undefined
    try {
      key = checkKey(options)
      exclude = options.exclude
      if (exclude !== undefined && typeof exclude?.has !== 'function') {
        failOption('exclude', 'must be a Set of ids', exclude)
      }
    } catch (error) {
      this.#reject()
      throw error
    }
    return this.#pick(key, exclude)
  }

  /**
   * Picks an instance and calls a function with it; where that fails and there are `attempts` left, again with another instance
   * where there is one.
   *
   * @param fn - makes the call. What it still does after its signal has aborted counts for nothing.
   * @returns what it gives. Rejects with the error of the last attempt, with `TimeoutError` when that took longer than `timeoutMs`,
   * with the signal's reason, `NoInstanceError`, `ClosedError` or `OptionError`. A rejection that nobody looks at is no
   * `unhandledRejection`.
   */
  run<T>(fn: (instance: I, context: RunContext) => T | PromiseLike<T>, options?: RunOptions): Promise<T> {
    let run: BalancedRun<I, T>
    let lease: InstanceLease<I>
    let counted = false
    try {
      checkFunction('fn', fn)
      checkOptions('options', options)
      const key = options === undefined ? undefined : checkKey(options)
      const signal = checkSignal(options?.signal)
      const attempts = checkCount('attempts', valueOr(options?.attempts, defaultAttempts))
      const retryable = checkOptionalFunction('retryable', options?.retryable) ?? isRetryable
      const timeoutMs = options?.timeoutMs === undefined ? undefined : checkDuration('timeoutMs', options.timeoutMs, 1)
      if (signal?.aborted) throw signal.reason
      run = new BalancedRun(this.#runHost, fn, { key, signal, attempts, retryable, timeoutMs })
      counted = true
      lease = this.#pick(key, undefined)
    } catch (error) {
      if (!counted) this.#reject()
      return rejected(error)
    }
    this.#runs.add(run as unknown as BalancedRun<I, never>)
    run.start(lease)
    return run.promise
  }

  /**
   * Asks the source for a list now: at once, or after the refresh that runs already. A watch is begun anew. A static list has
   * nothing to refresh.
   *
   * @returns once that list is there. Rejects as `start` does; the list of before stays.
   */
  refresh(): Promise<void> {
    if (this.#closed) return rejected(this.#closedError())
    this.#begin()
    return this.#feed?.refresh() ?? Promise.resolve()
  }

  /** How each instance stands, those that have left the list with leases out included. */
  instances(): readonly InstanceStatus<I>[] {
    this.#lookIfDue()
    return this.#list.statuses()
  }

  /**
   * Gives an instance no more picks, until `undrainInstance`. It goes on being checked.
   *
   * @returns once none of its leases is out. Rejects with `OptionError` for an id that isn't there, with `ClosedError` when
   * `undrainInstance` calls it off or the deadline of `close` passes, or with the signal's reason.
   */
  drainInstance(id: string, options?: { signal?: AbortSignal | undefined }): Promise<void> {
    let slot: InstanceSlot<I>
    let signal: AbortSignal | undefined
    try {
      slot = this.#slotOf(id)
      checkOptions('options', options)
      signal = checkSignal(options?.signal)
    } catch (error) {
      return rejected(error)
    }
    if (signal?.aborted) return rejected(signal.reason)
    slot.marked = true
    this.#changed()
    if (slot.inFlight === 0) {
      this.#recordDrained(slot)
      return Promise.resolve()
    }
    if (this.#gaveUp) return rejected(this.#undrainedError(slot))
    const waiter = deferred<void>()
    slot.drains.add(waiter)
    if (signal !== undefined) {
      const stop = onAbort(signal, () => {
        slot.drains.delete(waiter)
        waiter.reject(signal.reason)
      })
      handled(waiter.promise).then(stop, stop)
    }
    return handled(waiter.promise)
  }

  /**
   * Gives an instance picks again that was told to drain.
   *
   * @throws OptionError for an id that isn't there.
   */
  undrainInstance(id: string): void {
    const slot = this.#slotOf(id)
    if (!slot.marked) return
    slot.marked = false
    slot.told = false
    this.#endDrains(slot, new ClosedError(`${this.name}: the draining of ${id} was called off`))
    this.#changed()
  }

  /** Hands what was counted to `onCounts`, in picks. Leases that are out aren't waited for. Never rejects. */
  override flush(): Promise<FlushReport> {
    return this.#counts?.flush() ?? Promise.resolve({ succeeded: 0, failed: 0, dropped: 0 })
  }

  override stats(): LoadBalancerStats {
    this.#lookIfDue()
    const instances = { total: 0, healthy: 0, unhealthy: 0, ejected: 0, draining: 0 }
    let uncounted = 0
    for (const slot of this.#list.slots) {
      instances.total++
      instances[slot.state]++
      uncounted += slot.picks
    }
    const counts = this.#counts
    return {
      name: this.name,
      offered: this.#offered,
      succeeded: this.#succeeded,
      failed: this.#failed,
      ignored: this.#ignored,
      rejected: this.#rejected,
      pending: this.#pending,
      retries: this.#budget.made,
      retriesRefused: this.#budget.refused,
      retriesInFlight: this.#budget.inFlight,
      refreshes: this.#refreshes,
      refreshFailures: this.#refreshFailures,
      instances,
      panicking: this.#eligible.panicking,
      counts:
        counts === undefined
          ? { delivered: 0, lost: 0, pending: 0 }
          : { delivered: counts.delivered, lost: counts.lost, pending: counts.pending + uncounted },
    }
  }

  protected override drain(): Promise<void> {
    this.#closed = true
    this.#attention = true
    this.#feed?.close()
    this.#health?.close()
    // Those who must wait for leases shouldn't make the counts wait that are there; retries may still add some.
    this.#counts?.beginClose()
    const idle = new Promise<void>((resolve) => {
      this.#idle = resolve
      this.#checkIdle()
    })
    return idle.then(() => this.#counts?.drain())
  }

  /** What is out stays in the books until it is released; nobody waits for it any more. */
  protected override abandon(): number {
    this.#gaveUp = true
    const leases = this.#pending
    const error = new ClosedError(`${this.name} was closed before this could finish`, { outcomeUnknown: true })
    for (const run of [...this.#runs]) run.giveUp(error)
    for (const slot of this.#list.slots) this.#endDrains(slot, this.#undrainedError(slot))
    return leases + (this.#counts?.abandon() ?? 0)
  }

  // ── pick ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param retry - it belongs to a call that was accepted: it may come after `close`, and go where it must not if it has to. */
  #pick(key: string | undefined, exclude: ReadonlySet<string> | undefined, retry = false): InstanceLease<I> {
    if (this.#attention) this.#attend(retry)
    if (this.#ejection !== undefined) return this.#pickGuarded(this.#ejection, key, exclude, retry)
    return this.#lend(this.#choose(key, exclude, retry), undefined)
  }

  /** The same where instances have breakers: what the breaker of one refuses goes to another. */
  #pickGuarded(
    ejection: InstanceEjection<I>,
    key: string | undefined,
    exclude: ReadonlySet<string> | undefined,
    retry: boolean,
  ): InstanceLease<I> {
    for (;;) {
      const slot = this.#choose(key, exclude, retry)
      const permit = slot.breaker?.tryAcquire()
      if (permit !== undefined) return this.#lend(slot, permit)
      // Its breaker is open, but too many are out already: it is picked like the others, and the outcome counts for nothing.
      if (this.#eligible.panicking || !(slot.ejected || this.#dirty)) return this.#lend(slot, undefined)
      // Its probes are all out.
      ejection.block(slot)
      this.#attend(retry)
    }
  }

  #choose(key: string | undefined, exclude: ReadonlySet<string> | undefined, retry: boolean): InstanceSlot<I> {
    if (exclude === undefined) return this.#algorithm.pick(key) ?? this.#refuse(exclude)
    const slot = this.#eligible.empty ? undefined : this.#algorithm.pickExcept(exclude, key)
    return slot ?? (retry ? this.#algorithm.pick(key) : undefined) ?? this.#refuse(exclude)
  }

  #lend(slot: InstanceSlot<I>, permit: Permit | undefined): InstanceLease<I> {
    slot.inFlight++
    slot.picks++
    this.#offered++
    this.#pending++
    return new InstanceLease(this.#desk, slot, this.#timed ? this.#turnClock.now() : 0, permit)
  }

  /** Does what most picks needn't. */
  #attend(retry: boolean): void {
    if (this.#closed && !retry) this.#refuseClosed()
    if (!this.#list.loaded) {
      this.#reject()
      throw new NoInstanceError(`${this.name} has no list of instances yet: await start() first`)
    }
    if (!this.#begun) this.#begin()
    this.#attention = false
    // A retry that comes after `close` has handed the counts on counts too.
    if (this.#closed) this.clock.defer(() => void this.#counts?.flush())
    else this.#counts?.arm()
    this.#lookIfDue()
    if (this.#closed || this.#eligible.nextLookMs !== Number.POSITIVE_INFINITY) this.#attention = true
    // A listener may have closed it.
    if (this.#closed && !retry) this.#refuseClosed()
  }

  #refuse(exclude: ReadonlySet<string> | undefined): never {
    this.#reject()
    const { total } = this.#eligible
    const why =
      total === 0
        ? 'no instance that takes picks'
        : this.#eligible.empty
          ? `no instance that is well (of ${total})`
          : 'no instance but those excluded'
    const dueMs = this.#eligible.nextLookMs - this.#turnClock.now()
    throw new NoInstanceError(
      `${this.name} has ${why}`,
      exclude === undefined && Number.isFinite(dueMs) ? { retryAfterMs: Math.max(0, dueMs) } : {},
    )
  }

  #refuseClosed(): never {
    this.#reject()
    throw this.#closedError()
  }

  #reject(): void {
    this.#offered++
    this.#rejected++
  }

  // ── release ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #settle(lease: InstanceLease<I>, outcome: LeaseOutcome, error: unknown): void {
    const { slot, permit } = lease
    slot.inFlight--
    this.#pending--
    if (outcome === 'success') this.#succeeded++
    else if (outcome === 'failure') this.#failed++
    else this.#ignored++
    if (this.#timed && outcome !== 'ignore') this.#time(lease, outcome)
    if (permit !== undefined) {
      if (outcome === 'success') permit.success()
      else if (outcome === 'failure') permit.failure(error)
      else permit.ignore()
      this.#ejection?.unblock(slot)
    }
    if (this.#dirty) this.#lookIfDue()
    if (slot.inFlight === 0 && slot.leaving) this.#recordDrained(slot)
    if (this.#pending === 0) this.#checkIdle()
  }

  #time({ slot, startedMs }: InstanceLease<I>, outcome: LeaseOutcome): void {
    const nowMs = this.#turnClock.now()
    const tookMs = nowMs - startedMs
    // One that fails fast must not look fast, or it would draw all calls.
    this.#algorithm.settled(slot, outcome === 'failure' ? Math.max(tookMs, slot.ewmaMs) : tookMs, nowMs)
  }

  /** Nothing of an instance that takes no more picks is in flight. */
  #recordDrained(slot: InstanceSlot<I>): void {
    // A listener that released the last lease was told already.
    if (slot.told) return
    slot.told = true
    const { instance, removed } = slot
    if (removed) {
      this.#counts?.keep(slot.id, slot.picks)
      slot.picks = 0
      this.#list.forget(slot)
    }
    this.#endDrains(slot, undefined)
    this.events.emit('drained', { instance, reason: removed ? 'removed' : 'requested' })
  }

  #endDrains({ drains }: InstanceSlot<I>, error: unknown): void {
    if (drains.size === 0) return
    const waiting = [...drains]
    drains.clear()
    for (const { resolve, reject } of waiting) error === undefined ? resolve() : reject(error)
  }

  #checkIdle(): void {
    if (this.#idle !== undefined && this.#pending === 0 && this.#runs.size === 0) this.#idle()
  }

  // ── who is eligible ─────────────────────────────────────────────────────────────────────────────────────────────

  /** The first use: from now on instances are checked. */
  #begin(): void {
    if (this.#begun) return
    this.#begun = true
    if (this.#health !== undefined) for (const slot of this.#list.slots) this.#health.watch(slot)
  }

  #apply(instances: ReadonlyMap<string, I>): void {
    const first = !this.#list.loaded
    const { added, removed, changed } = this.#list.apply(instances)
    for (const slot of added) {
      this.#ejection?.guard(slot)
      if (this.#begun) this.#health?.watch(slot)
    }
    for (const slot of removed) this.#health?.unwatch(slot)
    if (!first && added.length + removed.length + changed.length === 0) return
    this.#changed()
    if (this.events.has('updated')) {
      const instanceOf = ({ instance }: InstanceSlot<I>): I => instance
      this.events.emit('updated', {
        instances: this.#list.instances(),
        added: added.map(instanceOf),
        removed: removed.map(instanceOf),
        changed: changed.map(instanceOf),
      })
    }
    for (const slot of removed) if (slot.removed && slot.inFlight === 0) this.#recordDrained(slot)
  }

  #recordHealth(slot: InstanceSlot<I>, error: unknown): void {
    const { instance, healthy } = slot
    this.#mark()
    // Where many change together, one look for all of them: it takes time in proportion to the number of instances.
    if (!this.#lookPlanned) {
      this.#lookPlanned = true
      this.clock.defer(() => {
        this.#lookPlanned = false
        this.#lookIfDue()
      })
    }
    if (healthy) this.events.emit('becameHealthy', { instance })
    else this.events.emit('becameUnhealthy', { instance, error })
  }

  /** Something has changed that decides who is eligible. */
  #changed(): void {
    this.#mark()
    this.#lookIfDue()
  }

  #mark(): void {
    this.#dirty = true
    this.#attention = true
  }

  #lookIfDue(): void {
    const { nextLookMs } = this.#eligible
    const due = nextLookMs !== Number.POSITIVE_INFINITY && this.#turnClock.now() >= nextLookMs
    if (this.#list.loaded && (this.#dirty || due)) this.#look()
  }

  #look(): void {
    this.#dirty = false
    const { events } = this
    const nowMs = this.#turnClock.now()
    const { ejected, readmitted, panic } = this.#eligible.look(this.#list.slots, nowMs)
    if (this.#eligible.nextLookMs !== Number.POSITIVE_INFINITY) this.#attention = true
    for (const { instance, lastError, blockedUntilMs } of ejected) {
      events.emit('ejected', { instance, error: lastError, retryAfterMs: Math.max(0, blockedUntilMs - nowMs) })
    }
    for (const { instance } of readmitted) events.emit('readmitted', { instance })
    if (panic !== undefined) {
      const { eligible, total } = this.#eligible
      events.emit(panic ? 'panicked' : 'recovered', { eligible, total })
    }
  }

  // ── what it is made of ──────────────────────────────────────────────────────────────────────────────────────────

  #feedOwner(): FeedOwner<I> {
    return {
      check: (list) => readInstances(list),
      apply: (instances) => this.#apply(instances),
      onRefreshed: () => {
        this.#refreshes++
      },
      onFailed: (error) => {
        this.#refreshFailures++
        this.events.emit('refreshFailed', { error })
      },
      onDoubted: () => this.events.emit('doubted', { instances: this.#list.instances().length }),
    }
  }

  #makeCounts(options: LoadBalancerOptions<I>, inContext: ContextRunner): RequestCounts | undefined {
    const { defaults } = LoadBalancer
    const { name, clock, random, events } = this
    const onCounts = checkOptionalFunction('onCounts', options.onCounts)
    const everyMs = checkDuration('countsEveryMs', valueOr(options.countsEveryMs, defaults.countsEveryMs), 1)
    const timeoutMs = checkDuration('countsTimeoutMs', valueOr(options.countsTimeoutMs, defaults.countsTimeoutMs), 1)
    if (onCounts === undefined) return undefined
    return new RequestCounts(onCounts, {
      name,
      clock,
      random,
      seeded: options.random !== undefined,
      inContext,
      everyMs,
      timeoutMs,
      take: (into) => {
        for (const slot of this.#list.slots) {
          if (slot.picks > 0) into.set(slot.id, (into.get(slot.id) ?? 0) + slot.picks)
          slot.picks = 0
        }
      },
      onDisarmed: () => {
        this.#attention = true
      },
      onDelivered: (batchId, counts, attempts) => events.emit('countsDelivered', { batchId, counts, attempts }),
      onRetried: (batchId, attempt, delayMs, error) =>
        events.emit('countsRetried', { batchId, attempt, delayMs, error }),
      onFailed: (batchId, counts, attempts, error, kept) =>
        events.emit('countsFailed', { batchId, counts, attempts, error, kept }),
    })
  }

  #makeRunHost(): RunHost<I> {
    const { name, clock, events } = this
    const pending = (): number => this.#pending
    return {
      name,
      budget: this.#budget,
      get inFlight() {
        return pending()
      },
      lease: (key, tried) => this.#pick(key, tried, true),
      outcomeOfResult: (result) => this.#ejection?.classifier.outcomeOfResult(result) ?? 'success',
      outcomeOfError: (error) => this.#ejection?.classifier.outcomeOfError(error) ?? 'failure',
      setTimer: (callback, delayMs) => clock.setTimer(callback, delayMs),
      onRetried: (instance, attempt, error) => events.emit('retried', { instance, attempt, error }),
      onRetryRefused: (instance, attempt, error) => events.emit('retryRefused', { instance, attempt, error }),
      onEnded: (run) => {
        this.#runs.delete(run as BalancedRun<I, never>)
        this.#checkIdle()
      },
    }
  }

  #slotOf(id: string): InstanceSlot<I> {
    const slot = this.#list.get(id)
    if (slot === undefined || slot.removed) failOption('id', 'must be the id of an instance in the list', id)
    return slot
  }

  #undrainedError({ id }: InstanceSlot<I>): ClosedError {
    return new ClosedError(`${this.name} was closed before ${id} was drained`)
  }

  #closedError(): ClosedError {
    return new ClosedError(`${this.name} is closed`)
  }
}

function checkKey(options: { key?: string | undefined }): string | undefined {
  checkOptions('options', options)
  const { key } = options
  if (key !== undefined && typeof key !== 'string') failOption('key', 'must be a string', key)
  return key
}

function isRetryable(error: unknown): boolean {
  return (error as { retryable?: unknown } | null | undefined)?.retryable !== false
}
