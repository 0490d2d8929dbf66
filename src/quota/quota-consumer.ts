import { ClosableComponent, type FlushReport } from '../core/component.js'
import { ClosedError, InvalidEventError, isSpillwayError } from '../core/errors.js'
import { describeError, warn } from '../core/events.js'
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
import type { JournalRemains, QuotaPeriod, UsageEvent, UsageJournal, UsageSink, UserId } from '../core/ports.js'
import { onAbort, orAbort } from '../internal/abort.js'
import { type BatchPolicy, resolveBatchOptions } from '../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../internal/batch-queue.js'
import { checkTracer } from '../internal/batch-tracing.js'
import { deferred, handled, rejected } from '../internal/deferred.js'
import { LazySignal } from '../internal/lazy-signal.js'
import { Tasks } from '../internal/tasks.js'
import { TurnClock } from '../internal/turn-clock.js'
import { checkTime, maxUsage, problemOfUsage, quotaPeriods, timeOf } from '../internal/usage.js'
import { ConsumerHealth } from './consumer-health.js'
import { type JournalAction, JournalKeeper } from './journal-keeper.js'
import { PendingUsage } from './pending-usage.js'
import type { QuotaConsumerEvents, QuotaConsumerStats } from './quota-consumer-events.js'
import type { QuotaConsumerOptions } from './quota-consumer-options.js'
import { eventOf, formerIdOf, PlainUse, type Refusals, TrackedUse, type UsageEntry } from './usage-entry.js'
import { UsageWriter } from './usage-writer.js'

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
  readonly #writer: UsageWriter
  readonly #Use: typeof PlainUse | typeof TrackedUse
  readonly #policy: BatchPolicy
  readonly #needsRequest: boolean
  /** What goes on behind the events: dead letters, settling in the journal, `onFailed`. */
  readonly #tasks = new Tasks()
  /** Aborts when what is left is given up. */
  readonly #abandoned = new LazySignal()
  #starting: Promise<StartReport> | undefined
  #abandoning = false
  #recoveredEvents = 0
  #unjournalledEvents = 0
  #warnedOfJournal = false

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
    const journal = checkJournal(options.journal, sink, policy.overflow)
    if (journal !== undefined) {
      this.#keeper = new JournalKeeper(journal, this.#tasks, (action, error) => this.#recordJournal(action, error))
    }
    const unhealthyAfter = checkCount('unhealthyAfter', valueOr(options.unhealthyAfter, defaults.unhealthyAfter))
    this.#health = new ConsumerHealth(unhealthyAfter, policy.capacity, {
      unhealthy: (reason, error) => this.events.emit('unhealthy', { reason, error }),
      recovered: (reason) => this.events.emit('recovered', { reason }),
    })
    this.#writer = new UsageWriter({
      name: this.name,
      sink,
      keeper: this.#keeper,
      health: this.#health,
      tasks: this.#tasks,
      events: this.events,
      retryable: policy.retry.retryable,
      onFailed: checkOptionalFunction('onFailed', options.onFailed),
      onApplied: checkOptionalFunction('onApplied', options.onApplied),
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
      {
        name: this.name,
        clock: this.clock,
        random: this.random,
        seeded: options.random !== undefined,
        tracer: checkTracer(options.tracer),
      },
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
    const refusal = this.#enter(entry, wait, this.#queue.origin())
    if (refusal !== undefined) {
      this.#recordRefusal(event, refusal)
      return rejected(refusal)
    }
    return this.#untilDurable(entry, signal)
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
      refusedEvents: this.#writer.refusedEvents,
      recoveredEvents: this.#recoveredEvents,
      unjournalledEvents: this.#unjournalledEvents,
      healthy: this.isHealthy(),
    }
  }

  protected override async drain(): Promise<void> {
    this.#writer.close()
    const drained = this.#queue.drain()
    // What is still being opened may bring events back, which then are to be written.
    await this.#starting?.catch(() => undefined)
    await drained
    if (this.#queue.books.queued + this.#queue.books.inFlight > 0) await this.#queue.drain()
    await this.#tasks.settled()
  }

  protected override abandon(): number {
    this.#abandoning = true
    this.#writer.abandon()
    const abandoned = this.#queue.abandon()
    const message = `${this.name} was closed before its journal had this`
    this.#abandoned.abort(new ClosedError(message, { outcomeUnknown: true }))
    return abandoned
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
    if (!simple || typeof value !== 'number' || !(value >= 0 && value <= maxUsage)) {
      // What was read of it, since its getters may answer otherwise the next time.
      this.#check({ userId, quotaType, value, timestamp, requestId, metadata })
    }
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
  #enter(entry: UsageEntry, fromLine = false, origin?: unknown): unknown {
    if (this.#policy.overflow !== 'drop-oldest') {
      const refusal = this.#queue.offer(entry, undefined, fromLine, origin)
      if (refusal === undefined) entry.cell.add(entry.value)
      return refusal
    }
    // Before it has its place: a listener of 'dropped' may see to it that it loses it again at once.
    entry.cell.add(entry.value)
    const refusal = this.#queue.offer(entry, undefined, fromLine, origin)
    if (refusal !== undefined) entry.cell.remove(entry.value)
    return refusal
  }

  #publishInLine(event: UsageEvent, entry: UsageEntry, signal: AbortSignal | undefined): Promise<void> {
    const wait = deferred<void>()
    const origin = this.#queue.origin()
    let stopListening: (() => void) | undefined
    const leave = this.#queue.room.join({
      signal,
      take: () => {
        stopListening?.()
        // While it waited, the cell that it had may have been taken away as idle.
        entry.cell = this.#pending.cellIn(entry.userId, entry.cell.quotaType, entry.cell.period)
        const refusal = this.#enter(entry, true, origin)
        if (refusal !== undefined) {
          this.#recordRefusal(event, refusal)
          wait.reject(refusal)
        } else {
          wait.resolve(this.#untilDurable(entry, signal))
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

  /** Gives a published event to the journal, where there is one, and waits for it. */
  #untilDurable(entry: UsageEntry, signal: AbortSignal | undefined): Promise<void> {
    const appended = this.#append(entry, false)
    if (appended === undefined) return Promise.resolve()
    return handled(orAbort(orAbort(appended, this.#abandoned.signal), signal))
  }

  /** When the journal fails, the promise rejects, and an event that was published is taken out again. */
  #append(entry: UsageEntry, offered: boolean): Promise<void> | undefined {
    return this.#keeper?.append(
      entry as TrackedUse,
      () => this.start(),
      (error) => {
        if (offered) this.#unjournalledEvents++
        else if (this.#queue.abort(entry, error)) {
          entry.cell.remove(entry.value)
          this.#health.queued(this.#queue.books.queued)
        }
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

  // ── let go ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #face(): BatchFace<UsageEntry> {
    const writer = this.#writer
    return {
      call: (entries, context) => writer.write(entries, context),
      idOf: formerIdOf,
      check: (entries, answer) => {
        writer.answered(entries, answer as Refusals | undefined)
        return undefined
      },
      complete: (entry, _index, answer) => {
        entry.cell.remove(entry.value)
        return answer === undefined || !(answer as Refusals).has(entry)
      },
      fail: (entry) => entry.cell.remove(entry.value),
      onDispatched: () => this.#health.queued(this.#queue.books.queued),
      onRetried: (portion, attempt, delayMs, error) => writer.recordRetry(portion, attempt, delayMs, error),
      onSettled: (portion, _succeeded, _failed, durationMs) => writer.recordSettled(portion, durationMs),
      onFailed: (portion, entries, error) => writer.recordFailed(portion, entries, error),
      onDropped: (entry, reason) => {
        this.#health.foundFull()
        if (this.events.has('dropped')) this.events.emit('dropped', { event: eventOf(entry), reason })
      },
    }
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

  #recordJournal(action: JournalAction, error: unknown): void {
    if (this.events.has('journalFailed')) return this.events.emit('journalFailed', { action, error })
    if (this.#warnedOfJournal) return
    this.#warnedOfJournal = true
    warn(
      `${this.name}: its journal failed (${action}), and no listener of 'journalFailed' hears of it: ${describeError(error)}`,
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
