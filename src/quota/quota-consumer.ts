import { ClosableComponent, type ComponentOptions, type FlushReport } from '../core/component.js'
import { InvalidEventError, isSpillwayError } from '../core/errors.js'
import { describeError, isThenable, warn } from '../core/events.js'
import {
  checkBoolean,
  checkCount,
  checkFunction,
  checkOneOf,
  checkOptionalFunction,
  checkOptions,
  checkSignal,
  failOption,
  type Overflow,
  valueOr,
} from '../core/options.js'
import type {
  AcceptedUsage,
  BatchContext,
  JournalRemains,
  QuotaKey,
  QuotaPeriod,
  UsageEvent,
  UsageJournal,
  UsageSink,
  UserId,
} from '../core/ports.js'
import type { RetryOptions } from '../core/retry.js'
import type { BatchStats } from '../core/stats.js'
import { onAbort, orAbort } from '../internal/abort.js'
import { type BatchPolicy, resolveBatchOptions } from '../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../internal/batch-queue.js'
import type { Portion } from '../internal/batch-run.js'
import { deferred, handled, rejected } from '../internal/deferred.js'
import { Tasks } from '../internal/tasks.js'
import { TurnClock } from '../internal/turn-clock.js'
import { checkTime, maxUsage, problemOfUsage, quotaPeriods, refusalsOf, timeOf } from '../internal/usage.js'
import { ConsumerHealth, type HealthReason } from './consumer-health.js'
import { type JournalAction, JournalKeeper } from './journal-keeper.js'
import { PendingUsage } from './pending-usage.js'
import { EntryBatch, eventOf, PlainUse, TrackedUse, type UsageEntry } from './usage-entry.js'

/** Options of {@link QuotaConsumer}. */
export interface QuotaConsumerOptions extends ComponentOptions {
  /**
   * The period over which a quota type counts, by the event's own timestamp, in UTC. Asked once for each type.
   * The default is `() => 'month'`.
   */
  periodOf?: ((quotaType: string) => QuotaPeriod) | undefined
  /**
   * The most events in one batch. At most `capacity`.
   * @defaultValue 10
   */
  maxBatchSize?: number | undefined
  /**
   * The longest that a batch waits for more events, in milliseconds from its first one.
   * @defaultValue 5000
   */
  maxWaitMs?: number | undefined
  /**
   * Whether what is there leaves at the end of the current turn while nothing is in flight. It makes more and smaller batches,
   * sooner.
   * @defaultValue false
   */
  eager?: boolean | undefined
  /**
   * The most batches in flight: how many workers there are.
   * @defaultValue 3
   */
  concurrency?: number | undefined
  /**
   * The most events that wait to be accounted.
   * @defaultValue 1000
   */
  capacity?: number | undefined
  /**
   * What `offer` does when there is no room: `'reject'` refuses the event, `'drop-newest'` drops it and counts it as dropped,
   * `'drop-oldest'` drops the event that has waited longest, which a journal forbids.
   * @defaultValue 'reject'
   */
  overflow?: Overflow | undefined
  /** The longest that one attempt may take, in milliseconds, at least 1. The default is no limit. */
  timeoutMs?: number | undefined
  /**
   * How long a timed-out attempt keeps its worker while it goes on, in milliseconds.
   * @defaultValue 1000
   */
  timeoutGraceMs?: number | undefined
  /**
   * How failed batches are tried again, as they were and with the same id. An outcome that is unknown is retried only when the
   * sink is idempotent.
   * @defaultValue { attempts: 3, delayMs: 100, maxDelayMs: 30_000 }
   */
  retry?: RetryOptions | undefined
  /**
   * Whether a batch that failed for good is halved until the event at fault stands alone. Never after an outcome that is unknown
   * or an error that says that it is `retryable`.
   * @defaultValue true
   */
  bisect?: boolean | undefined
  /**
   * What every event must bear to be counted once: under `'request'` one without a `requestId` is refused, and the sink must tell
   * requests apart.
   * @defaultValue 'batch'
   */
  dedupe?: 'batch' | 'request' | undefined
  /**
   * After how many failed attempts in a row it is unhealthy.
   * @defaultValue 3
   */
  unhealthyAfter?: number | undefined
  /** Keeps events until they are accounted, so that a crash loses none. It is opened and closed here; the sink must be idempotent. */
  journal?: UsageJournal | undefined
  /**
   * Takes what was given up. `flush` and `close` wait for it. If it fails, that is reported as a warning of the process.
   */
  onFailed?: ((failure: UsageFailure) => void | PromiseLike<void>) | undefined
  /** Takes the keys of each batch that was written, so that caches of their usage can be dropped. */
  onApplied?: ((keys: readonly QuotaKey[]) => void) | undefined
}

/** Usage that was given up. */
export interface UsageFailure {
  /** The batch in which it was given up. */
  readonly batchId: string
  /** The events. They are in nobody's hands now, unless the journal kept them. */
  readonly events: readonly AcceptedUsage[]
  /** How many attempts there were. */
  readonly attempts: number
  /** Why. Its `outcomeUnknown` says whether they may have been counted in spite of it. */
  readonly error: unknown
  /** Whether the journal keeps them, so that they are written again after the next start. */
  readonly kept: boolean
}

/** Events of {@link QuotaConsumer}. */
export interface QuotaConsumerEvents {
  /** A batch was written, less what the sink refused of it. */
  applied: {
    readonly batchId: string
    readonly keys: readonly QuotaKey[]
    readonly events: number
    readonly attempts: number
    readonly durationMs: number
  }
  /** An attempt failed and another one will be made after `delayMs`. */
  retried: { readonly batchId: string; readonly attempt: number; readonly delayMs: number; readonly error: unknown }
  /** Events were given up: their batch failed for good, the sink refused them, or `close` ran out of time. */
  failed: UsageFailure
  /** An event was dropped, because there was no room. */
  dropped: { readonly event: AcceptedUsage; readonly reason: 'drop-newest' | 'drop-oldest' }
  /** An event was refused: it is wrong, or the consumer is full or closed. */
  rejected: { readonly event: UsageEvent; readonly error: unknown }
  /** The journal failed at something: an event that was published and so refused, or one that was offered and is only in memory. */
  journalFailed: { readonly action: JournalAction; readonly error: unknown }
  /** The sink fails again and again, or there is no room. */
  unhealthy: { readonly reason: HealthReason; readonly error: unknown }
  /** The sink took a batch again, or there is room again. */
  recovered: { readonly reason: HealthReason }
}

/** Stats of {@link QuotaConsumer}, in events. `aborted` are those whose publisher gave up, or whose journal failed. */
export interface QuotaConsumerStats extends BatchStats {
  /** All that was accepted or dropped: `processedEvents + failedEvents + droppedEvents + pending`. */
  readonly totalEvents: number
  /** What was written: the same as `succeeded`. */
  readonly processedEvents: number
  /** What was given up: the same as `failed`. */
  readonly failedEvents: number
  /** What was dropped: the same as `dropped`. */
  readonly droppedEvents: number
  /** How many batches there were: the same as `batches`. */
  readonly batchCount: number
  /** Of `failedEvents`, those that the sink refused. */
  readonly refusedEvents: number
  /** Of `totalEvents`, those that the journal brought back from an earlier process. */
  readonly recoveredEvents: number
  /** Events that were offered and that the journal failed to keep: they are only in memory. */
  readonly unjournalledEvents: number
  /** Whether it is open, its sink takes batches, and there is room. */
  readonly healthy: boolean
}

/** What `start` answers. */
export interface StartReport {
  /** How many batches of an earlier process are written again. */
  readonly recoveredBatches: number
  /** How many events they and the events that were in no batch yet are. */
  readonly recoveredEvents: number
}

/** What `publish` takes. */
export interface PublishOptions {
  /** Gives up the wait for room. Once the journal was given the event, it may be counted all the same. */
  signal?: AbortSignal | undefined
  /** Whether it waits for room; false refuses the event at once when there is none. The default is true. */
  wait?: boolean | undefined
}

/**
 * Accounts usage behind the request that caused it: events wait in a bounded queue, and workers write them to a sink in batches,
 * summed by user, quota type and period.
 *
 * `offer` is synchronous and never waits. `publish` waits for room, and where there is a journal until the event is durable. A
 * batch keeps its id over all attempts, so that an idempotent sink counts it once. What can't be written in the end goes to
 * `onFailed` and to the journal's dead letters.
 *
 * Without a journal, a process that is killed loses what it had pending: close the consumer before the process ends.
 *
 * @example
 * ```ts
 * import { MemoryQuotaStore, QuotaConsumer } from 'spillway'
 *
 * const store = new MemoryQuotaStore()
 * const usage = new QuotaConsumer(store, QuotaConsumer.presets.lowLatency)
 * usage.offer({ userId: 42, quotaType: 'requests', value: 1 })
 * usage.pending(42, 'requests') // 1
 * await usage.close()
 * ```
 */
export class QuotaConsumer extends ClosableComponent<QuotaConsumerEvents, QuotaConsumerStats> {
  /** The options' defaults. */
  static readonly defaults = {
    maxBatchSize: 10,
    maxWaitMs: 5000,
    eager: false,
    concurrency: 3,
    capacity: 1000,
    overflow: 'reject',
    timeoutGraceMs: 1000,
    retry: { attempts: 3, delayMs: 100, maxDelayMs: 30_000 },
    bisect: true,
    dedupe: 'batch',
    unhealthyAfter: 3,
  } as const

  /** Options that go together, to be passed as they are or spread into others. */
  static readonly presets = {
    /** The defaults. */
    default: { concurrency: 3, capacity: 1000, maxBatchSize: 10, maxWaitMs: 5000 },
    /** Larger batches and more workers, for many events. */
    highConcurrency: { concurrency: 5, capacity: 2000, maxBatchSize: 20, maxWaitMs: 3000 },
    /** Smaller batches, written sooner. */
    lowLatency: { concurrency: 2, capacity: 500, maxBatchSize: 5, maxWaitMs: 1000 },
  } as const

  /** Where it writes. */
  readonly sink: UsageSink
  /** The period over which a quota type counts. */
  readonly periodOf: (quotaType: string) => QuotaPeriod
  readonly #queue: BatchQueue<UsageEntry>
  readonly #turnClock: TurnClock
  readonly #pending: PendingUsage
  readonly #keeper: JournalKeeper | undefined
  readonly #health: ConsumerHealth
  readonly #onFailed: QuotaConsumerOptions['onFailed']
  readonly #onApplied: QuotaConsumerOptions['onApplied']
  readonly #Use: typeof PlainUse | typeof TrackedUse
  readonly #policy: BatchPolicy
  readonly #needsRequest: boolean
  /** The batches in flight, by the engine's own lists of their entries. */
  readonly #batches = new WeakMap<readonly UsageEntry[], EntryBatch>()
  /** What goes on behind the events: dead letters, settling in the journal, `onFailed`. */
  readonly #tasks = new Tasks()
  #starting: Promise<StartReport> | undefined
  #abandoning = false
  #refusedEvents = 0
  #recoveredEvents = 0
  #unjournalledEvents = 0
  #warnedOfLoss = false
  #warnedOfAnswer = false

  /**
   * @param sink - where usage is accounted. It stays the caller's.
   * @throws OptionError when an option is wrong, the sink has no `write`, or a journal is given and the sink isn't idempotent.
   */
  constructor(sink: UsageSink, options: QuotaConsumerOptions = {}) {
    super('quota-consumer', options)
    const { defaults } = QuotaConsumer
    if (typeof sink?.write !== 'function') failOption('sink', 'must have a method write', sink)
    if (typeof sink.idempotent !== 'boolean') failOption('sink.idempotent', 'must be true or false', sink.idempotent)
    this.sink = sink
    const policy = resolveBatchOptions(
      {
        ...options,
        idempotent: sink.idempotent,
        bisect: checkBoolean('bisect', valueOr(options.bisect, defaults.bisect)),
      },
      { ...defaults, idempotent: false },
      { keyed: false, sized: false },
    )
    this.#policy = policy
    this.#needsRequest =
      checkOneOf('dedupe', valueOr(options.dedupe, defaults.dedupe), ['batch', 'request']) === 'request'
    if (this.#needsRequest && sink.dedupe !== 'request') {
      failOption('dedupe', "needs a sink whose dedupe is 'request'", options.dedupe)
    }
    this.#onFailed = checkOptionalFunction('onFailed', options.onFailed)
    this.#onApplied = checkOptionalFunction('onApplied', options.onApplied)
    const journal = checkJournal(options.journal, sink, policy.overflow)
    if (journal !== undefined) {
      this.#keeper = new JournalKeeper(journal, this.#tasks, (action, error) => {
        if (this.events.has('journalFailed')) this.events.emit('journalFailed', { action, error })
      })
    }
    const unhealthyAfter = checkCount('unhealthyAfter', valueOr(options.unhealthyAfter, defaults.unhealthyAfter))
    this.#health = new ConsumerHealth(unhealthyAfter, policy.capacity, {
      unhealthy: (reason, error) => this.events.emit('unhealthy', { reason, error }),
      recovered: (reason) => this.events.emit('recovered', { reason }),
    })
    const periodOf = checkFunction(
      'periodOf',
      valueOr(options.periodOf, (): QuotaPeriod => 'month'),
    )
    this.periodOf = (quotaType) => checkOneOf('periodOf', periodOf(quotaType), quotaPeriods)
    this.#pending = new PendingUsage(this.periodOf, Math.max(1000, policy.capacity))
    this.#turnClock = TurnClock.of(this.clock)
    this.#Use = this.#keeper !== undefined || policy.overflow === 'drop-oldest' ? TrackedUse : PlainUse
    this.#queue = new BatchQueue(
      { name: this.name, clock: this.clock, random: this.random, seeded: options.random !== undefined },
      policy,
      this.#face(),
    )
  }

  /**
   * Opens the journal, and takes in what an earlier process left there: batches that may have been written are written again under
   * their ids. The first `publish` or `offer` does so too; a process that may be idle for long calls it.
   * Without a journal there is nothing to do.
   *
   * @returns what came back. Rejects with what the journal failed with, and may be called again then; with `ClosedError` once closed.
   */
  start(): Promise<StartReport> {
    if (this.#starting === undefined) {
      if (this.#queue.closed) return rejected(this.#queue.closedError())
      this.#starting = handled(this.#start())
      this.#starting.catch(() => {
        this.#starting = undefined
      })
    }
    return this.#starting
  }

  /**
   * Accepts an event. Never throws and never waits. Where there is a journal, the event goes there soon; what it failed to keep is
   * counted in `unjournalledEvents` and stays in memory.
   *
   * @returns whether it was accepted; false when the event is wrong, there is no room (unless the oldest is dropped), or the consumer
   * is closed. The `rejected` and `dropped` events say why.
   */
  offer(event: UsageEvent): boolean {
    let entry: UsageEntry
    try {
      entry = this.#entryOf(event)
    } catch (error) {
      this.#refuse(event, error)
      return false
    }
    const refusal = this.#enter(entry)
    if (refusal !== undefined) {
      this.#recordRefusal(event, refusal)
      return false
    }
    this.#append(entry, true)
    return true
  }

  /**
   * Accepts an event as soon as there is room, first come, first served, and where there is a journal once the event is durable there.
   *
   * @returns rejects with `InvalidEventError` when the event is wrong, with `ClosedError`, with `FullError` if it doesn't wait for room,
   * with the signal's reason, or with what the journal failed with: the event isn't accepted then, unless the error's `outcomeUnknown`
   * says that it may be.
   */
  publish(event: UsageEvent, options?: PublishOptions): Promise<void> {
    let entry: UsageEntry
    let signal: AbortSignal | undefined
    let wait: boolean
    try {
      checkOptions('options', options)
      signal = checkSignal(options?.signal)
      wait = checkBoolean('wait', valueOr(options?.wait, true))
      signal?.throwIfAborted()
      entry = this.#entryOf(event)
    } catch (error) {
      this.#refuse(event, error)
      return rejected(error)
    }
    const { room } = this.#queue
    if (wait && !room.open && !this.#queue.closed) return this.#publishInLine(event, entry, signal)
    const refusal = this.#enter(entry, wait)
    if (refusal !== undefined) {
      this.#recordRefusal(event, refusal)
      return rejected(refusal)
    }
    const appended = this.#append(entry, false)
    return appended === undefined ? Promise.resolve() : handled(orAbort(appended, signal))
  }

  /**
   * What was accepted here of a quota and isn't accounted yet. Between a batch's end at the sink and the news of it here, its events
   * are in both.
   *
   * @param at - a time within the period that is asked for. The default is now.
   * @throws OptionError when it is no time.
   */
  pending(userId: UserId, quotaType: string, at?: number | Date): number {
    return this.#pending.valueAt(userId, quotaType, at === undefined ? this.#turnClock.wallNow() : checkTime('at', at))
  }

  /** Whether it is open, its sink takes batches, and there is room. */
  isHealthy(): boolean {
    return !this.#queue.closed && this.#health.healthy
  }

  override async flush(): Promise<FlushReport> {
    const report = await this.#queue.flush()
    await this.#tasks.settled()
    return report
  }

  override stats(): QuotaConsumerStats {
    const stats = this.#queue.books.stats(this.name, this.#queue.running)
    const { offered, rejected, aborted, succeeded, failed, dropped, batches } = stats
    return {
      ...stats,
      totalEvents: offered - rejected - aborted,
      processedEvents: succeeded,
      failedEvents: failed,
      droppedEvents: dropped,
      batchCount: batches,
      refusedEvents: this.#refusedEvents,
      recoveredEvents: this.#recoveredEvents,
      unjournalledEvents: this.#unjournalledEvents,
      healthy: this.isHealthy(),
    }
  }

  protected override async drain(): Promise<void> {
    const drained = this.#queue.drain()
    // What is still being opened may bring events back, which then are to be written.
    await this.#starting?.catch(() => undefined)
    await drained
    if (this.#queue.books.queued + this.#queue.books.inFlight > 0) await this.#queue.drain()
    await this.#tasks.settled()
  }

  protected override abandon(): number {
    this.#abandoning = true
    return this.#queue.abandon()
  }

  protected override release(): void | PromiseLike<void> {
    return this.#keeper?.close()
  }

  // ── accept ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @throws InvalidEventError when the event is wrong, or whatever `periodOf` throws. */
  #entryOf(event: UsageEvent): UsageEntry {
    if (typeof event !== 'object' || event === null) throw problemOfUsage(event)
    const { userId, quotaType, value, timestamp, requestId, metadata } = event
    // What has a cell has right ids, and one without any of the rest has nothing else to look at.
    const simple = timestamp === undefined && requestId === undefined && metadata === undefined && !this.#needsRequest
    if (!simple || typeof value !== 'number' || !(value >= 0 && value <= maxUsage)) this.#check(event)
    const at = timestamp === undefined ? this.#turnClock.wallNow() : timeOf(timestamp)
    return new this.#Use(this.#pending.cellAt(userId, quotaType, at), userId, value, at, requestId, metadata)
  }

  #check(event: UsageEvent): void {
    const problem = problemOfUsage(event)
    if (problem !== undefined) throw problem
    if (this.#needsRequest && event.requestId === undefined) {
      throw new InvalidEventError('requestId', `requestId is needed where dedupe is 'request', got undefined`)
    }
  }

  /** Gives an entry its place, or returns why not. */
  #enter(entry: UsageEntry, fromLine = false): unknown {
    // Before it has its place: a listener may see to it that it loses it again at once.
    entry.cell.add(entry.value)
    const refusal = this.#queue.offer(entry, undefined, fromLine)
    if (refusal !== undefined) entry.cell.remove(entry.value)
    return refusal
  }

  #publishInLine(event: UsageEvent, entry: UsageEntry, signal: AbortSignal | undefined): Promise<void> {
    const wait = deferred<void>()
    let stopListening: (() => void) | undefined
    const leave = this.#queue.room.join({
      signal,
      take: () => {
        stopListening?.()
        const refusal = this.#enter(entry, true)
        if (refusal !== undefined) {
          this.#recordRefusal(event, refusal)
          wait.reject(refusal)
        } else {
          const appended = this.#append(entry, false)
          wait.resolve(appended === undefined ? undefined : orAbort(appended, signal))
        }
        return true
      },
      refuse: (error) => {
        stopListening?.()
        this.#refuse(event, error)
        wait.reject(error)
      },
    })
    if (signal !== undefined) {
      stopListening = onAbort(signal, () => {
        this.#queue.abortUnaccepted()
        leave()
        wait.reject(signal.reason)
      })
    }
    return handled(wait.promise)
  }

  /**
   * Gives an accepted event to the journal, where there is one. When that fails, the promise rejects, and an event that was published
   * is taken out again.
   */
  #append(entry: UsageEntry, offered: boolean): Promise<void> | undefined {
    return this.#keeper?.append(
      entry as TrackedUse,
      () => this.start(),
      (error) => {
        if (offered) this.#unjournalledEvents++
        else if (this.#queue.abort(entry, error)) entry.cell.remove(entry.value)
      },
    )
  }

  // ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async #start(): Promise<StartReport> {
    if (this.#keeper === undefined) return { recoveredBatches: 0, recoveredEvents: 0 }
    const remains = await this.#keeper.open()
    // They stay where they are when it was closed meanwhile, and ran out of time.
    return this.#adopt(this.#abandoning ? { batches: [], events: [] } : remains)
  }

  #adopt({ batches, events }: JournalRemains): StartReport {
    const before = this.#recoveredEvents
    for (const { id, events: members } of batches) this.#adoptBatch(members, id)
    const { maxBatchSize } = this.#policy
    for (let from = 0; from < events.length; from += maxBatchSize) {
      this.#adoptBatch(events.slice(from, from + maxBatchSize), undefined)
    }
    return { recoveredBatches: batches.length, recoveredEvents: this.#recoveredEvents - before }
  }

  #adoptBatch(members: JournalRemains['events'], id: string | undefined): void {
    const entries = members.map(({ position, event }) => {
      const { userId, quotaType, value, timestamp, period, requestId, metadata } = event
      const cell = this.#pending.cellIn(userId, quotaType, period)
      const entry = new TrackedUse(cell, userId, value, timestamp, requestId, metadata)
      entry.position = position
      entry.batchId = id
      cell.add(value)
      return entry
    })
    this.#recoveredEvents += entries.length
    this.#queue.adopt(entries)
  }

  // ── write ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #face(): BatchFace<UsageEntry> {
    return {
      call: (entries, context) => this.#write(entries, context),
      idOf: formerIdOf,
      check: (entries, answer) => {
        const batch = this.#batches.get(entries)
        if (batch !== undefined) batch.refused = answer as EntryBatch['refused']
        return undefined
      },
      complete: (entry, _index, answer) => {
        entry.cell.remove(entry.value)
        return answer === undefined || !(answer as ReadonlyMap<UsageEntry, Error>).has(entry)
      },
      fail: (entry) => entry.cell.remove(entry.value),
      onRetried: (portion, attempt, delayMs, error) => this.#recordRetry(portion, attempt, delayMs, error),
      onSettled: (portion, _succeeded, _failed, durationMs) => this.#recordSettled(portion, durationMs),
      onFailed: (portion, entries, error) => this.#recordFailed(portion, entries, error),
      onDropped: (entry, reason) => {
        this.#health.foundFull()
        if (this.events.has('dropped')) this.events.emit('dropped', { event: eventOf(entry), reason })
      },
    }
  }

  /** Makes an attempt; answers which entries the sink refused, undefined for none. */
  #write(entries: readonly UsageEntry[], context: BatchContext): unknown {
    if (this.#keeper !== undefined) return this.#writeJournalled(this.#keeper, entries, context)
    const batch = this.#batchOf(entries, context.batchId)
    const answer = this.sink.write(batch.usage, context)
    if (isThenable(answer)) return answer.then((refused) => this.#refusedOf(batch, refused))
    return this.#refusedOf(batch, answer)
  }

  async #writeJournalled(
    keeper: JournalKeeper,
    entries: readonly UsageEntry[],
    context: BatchContext,
  ): Promise<unknown> {
    for (const entry of entries as readonly TrackedUse[]) if (entry.journalled !== undefined) await entry.journalled
    const batch = this.#batchOf(entries, context.batchId)
    // All of it failed in the journal, and its publishers know.
    if (batch.entries.length === 0) return undefined
    await keeper.assign(batch)
    context.signal.throwIfAborted()
    return this.#refusedOf(batch, await this.sink.write(batch.usage, context))
  }

  /** The batch of entries, made at its first attempt. */
  #batchOf(entries: readonly UsageEntry[], id: string): EntryBatch {
    let batch = this.#batches.get(entries)
    if (batch === undefined) {
      batch = new EntryBatch(id, this.#keeper === undefined ? entries : entries.filter((entry) => !entry.done))
      // It came back from the journal as it is.
      batch.assigned = (entries[0] as Partial<TrackedUse> | undefined)?.batchId === id
      this.#batches.set(entries, batch)
    }
    return batch
  }

  #refusedOf(batch: EntryBatch, answer: unknown): ReadonlyMap<UsageEntry, Error> | undefined {
    if (answer === undefined) return undefined
    const { entries } = batch
    const refused = refusalsOf(answer, entries.length, () => this.#warnOfAnswer())
    if (refused === undefined) return undefined
    return new Map([...refused].map(([index, error]) => [entries[index] as UsageEntry, error]))
  }

  #warnOfAnswer(): void {
    if (this.#warnedOfAnswer) return
    this.#warnedOfAnswer = true
    warn(`${this.name}: its sink answered with a list that isn't one of refused events, so nothing counts as refused`)
  }

  // ── record ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #refuse(event: UsageEvent, error: unknown): void {
    this.#queue.reject()
    if (this.events.has('rejected')) this.events.emit('rejected', { event, error })
  }

  /** The queue itself refused it, and has counted that. */
  #recordRefusal(event: UsageEvent, error: unknown): void {
    if (isSpillwayError(error, 'ERR_FULL')) {
      this.#health.foundFull()
      // A newest that was dropped has had its event.
      if (this.#policy.overflow === 'drop-newest') return
    }
    if (this.events.has('rejected')) this.events.emit('rejected', { event, error })
  }

  #recordRetry(portion: Portion<UsageEntry>, attempt: number, delayMs: number, error: unknown): void {
    if (this.events.has('retried')) this.events.emit('retried', { batchId: portion.id, attempt, delayMs, error })
    this.#health.failed(error)
  }

  #recordSettled(portion: Portion<UsageEntry>, durationMs: number): void {
    this.#health.queued(this.#queue.books.queued)
    const batch = this.#batches.get(portion.entries)
    if (batch === undefined || batch.failed || batch.entries.length === 0) return
    this.#health.wrote()
    const { usage, refused } = batch
    const events = batch.entries.length - (refused?.size ?? 0)
    if (events > 0) {
      const keys = usage.totals
      this.#tellApplied(keys)
      if (this.events.has('applied')) {
        this.events.emit('applied', { batchId: usage.id, keys, events, attempts: portion.attempts, durationMs })
      }
    }
    if (refused !== undefined) this.#recordRefused(batch, refused, portion.attempts)
    else this.#keeper?.settle(usage.id)
  }

  #tellApplied(keys: readonly QuotaKey[]): void {
    if (this.#onApplied === undefined) return
    try {
      this.#onApplied(keys)
    } catch (error) {
      warn(`${this.name}: onApplied failed: ${describeError(error)}`)
    }
  }

  /** What the sink refused goes where failures go, each error's events together; the rest of the batch was applied. */
  #recordRefused(batch: EntryBatch, refused: ReadonlyMap<UsageEntry, Error>, attempts: number): void {
    this.#refusedEvents += refused.size
    const byError = new Map<Error, AcceptedUsage[]>()
    for (const [entry, error] of refused) {
      const same = byError.get(error)
      if (same === undefined) byError.set(error, [eventOf(entry)])
      else same.push(eventOf(entry))
    }
    const batchId = batch.usage.id
    const failures = [...byError].map(([error, events]) => ({ batchId, events, attempts, error, kept: false }))
    this.#giveUp(failures, batchId)
  }

  #recordFailed(portion: Portion<UsageEntry>, entries: readonly UsageEntry[], error: unknown): void {
    const { id: batchId, attempts } = portion
    const batch = this.#batches.get(portion.entries)
    if (batch !== undefined) batch.failed = true
    if (!this.#abandoning) this.#health.failed(error)
    // Abandoned, or never noted as a batch: the journal has what it got of it still, and brings that back.
    const comesBack = this.#keeper !== undefined && (this.#abandoning || !batch?.assigned)
    const failures = [true, false].map((kept) => {
      const events = entries.filter((entry) => (comesBack && isJournalled(entry)) === kept).map(eventOf)
      return { batchId, events, attempts, error, kept }
    })
    this.#giveUp(
      failures.filter(({ events }) => events.length > 0),
      comesBack ? undefined : batchId,
    )
  }

  /** @param batchId - the batch to be settled in the journal once its dead letters are there. */
  #giveUp(failures: readonly UsageFailure[], batchId: string | undefined): void {
    for (const failure of failures) {
      if (this.events.has('failed')) this.events.emit('failed', failure)
      if (this.#onFailed !== undefined) this.#tellFailed(this.#onFailed, failure)
      else if (this.#keeper === undefined && !this.events.has('failed')) this.#warnOfLoss(failure)
    }
    this.#keeper?.bury(
      failures.filter(({ kept }) => !kept),
      batchId,
    )
  }

  #tellFailed(onFailed: NonNullable<QuotaConsumerOptions['onFailed']>, failure: UsageFailure): void {
    this.#tasks.run(
      () => onFailed(failure),
      (error) => warn(`${this.name}: onFailed failed, so ${lossOf(failure)}: ${describeError(error)}`),
    )
  }

  /** Said once: who doesn't look where the rest went is told at least that there was some. */
  #warnOfLoss(failure: UsageFailure): void {
    if (this.#warnedOfLoss) return
    this.#warnedOfLoss = true
    warn(
      `${this.name} gave up usage, and neither onFailed nor a listener of 'failed' takes it: ${lossOf(failure)}: ` +
        describeError(failure.error),
    )
  }
}

function checkJournal(
  journal: UsageJournal | undefined,
  sink: UsageSink,
  overflow: Overflow,
): UsageJournal | undefined {
  if (journal === undefined) return undefined
  for (const method of ['open', 'append', 'assign', 'settle', 'deadLetter', 'close'] as const) {
    if (typeof journal?.[method] !== 'function') failOption('journal', `must have a method ${method}`, journal)
  }
  if (!sink.idempotent) failOption('journal', 'needs an idempotent sink, since it brings batches back', sink)
  if (overflow === 'drop-oldest') failOption('overflow', "can't drop the oldest of what a journal keeps", overflow)
  return journal
}

/** The id of entries that were one batch in an earlier process. */
function formerIdOf(entries: readonly UsageEntry[]): string | undefined {
  const id = (entries[0] as Partial<TrackedUse> | undefined)?.batchId
  return id !== undefined && (entries as readonly TrackedUse[]).every(({ batchId }) => batchId === id) ? id : undefined
}

/** Whether the journal has it, or is about to. */
function isJournalled(entry: UsageEntry): boolean {
  const { position, journalled } = entry as TrackedUse
  return position !== undefined || journalled !== undefined
}

function lossOf({ batchId, events }: UsageFailure): string {
  return `${events.length} ${events.length === 1 ? 'event' : 'events'} of batch ${batchId} were not counted`
}
