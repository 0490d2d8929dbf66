import { type CloseOptions, type CloseReport, Component, type FlushReport } from '../core/component.js'
import { BatchResultError, isSpillwayError, type QuotaExceededError, ReservationError } from '../core/errors.js'
import {
  checkCount,
  checkDuration,
  checkFunction,
  checkOptions,
  checkSignal,
  describeValue,
  failOption,
  valueOr,
} from '../core/options.js'
import type { QuotaKey, QuotaStore, UsageEvent, UserId } from '../core/ports.js'
import { resolveRetry } from '../core/retry.js'
import type { CallCounts, LatencySnapshot } from '../core/stats.js'
import { orAbort } from '../internal/abort.js'
import { batchId } from '../internal/batch-id.js'
import { rejected } from '../internal/deferred.js'
import type { LazySignal } from '../internal/lazy-signal.js'
import { isOutcomeUnknown } from '../internal/outcome.js'
import { Remembered } from '../internal/remembered.js'
import { attempt } from '../internal/tasks.js'
import {
  checkTime,
  problemOfText,
  problemOfUsage,
  problemOfUser,
  problemOfValue,
  timeOf,
  userText,
} from '../internal/usage.js'
import { balanceOf, exceededError, fits, type QuotaBalance } from './quota-balance.js'
import { QuotaCalls, type QuotaOperation, type QuotaOperationKind } from './quota-calls.js'
import type { QuotaConsumer } from './quota-consumer.js'
import { checkConsumer, checkStore, choosePeriods } from './quota-parts.js'
import { endOfPeriod, QuotaPeriods } from './quota-periods.js'
import type {
  CheckOptions,
  ConsumeOptions,
  ConsumeSyncOptions,
  QuotaServiceOptions,
  ReserveOptions,
} from './quota-service-options.js'
import { HeldReservation, type Reservation, type WaitOptions } from './reservation.js'
import { type StoreAnswer, StoreCalls, type StoreRetry, type StoreTimeout } from './store-calls.js'
import { type AccountedUse, UsageAccounting, type UsageFallback } from './usage-accounting.js'
import { UsageReader } from './usage-reader.js'

/** What `checkQuota` answers. */
export interface QuotaStatus extends QuotaBalance {
  /** Whether the value that was asked about fits in what is left. */
  readonly allowed: boolean
}

/** What `consumeQuotaSync` answers; its `used` has the use in it. */
export interface ConsumedQuota extends QuotaBalance {
  /** Whether it was counted by this call, or under the same `requestId` before. */
  readonly status: 'applied' | 'repeated'
}

/** Events of {@link QuotaService}. */
export interface QuotaServiceEvents {
  /** Something didn't fit, and was refused. */
  exceeded: { readonly operation: QuotaOperation; readonly error: QuotaExceededError }
  /** The consumer refused a use because it is full or closed, so that it goes to the store at once. */
  fellBack: UsageFallback
  /** An attempt at the store failed, and another one is made. */
  retried: StoreRetry
  /** An attempt at the store took longer than `timeoutMs`. */
  timedOut: StoreTimeout
  /** A call failed, because something broke. */
  failed: { readonly operation: QuotaOperation; readonly error: unknown }
}

/** Stats of {@link QuotaService}: calls, and each event of a `consumeQuotaBatch` as one. */
export interface QuotaServiceStats extends CallCounts {
  /** The service's name. */
  readonly name: string
  /** Uses that nobody checked and the consumer took. */
  readonly buffered: number
  /** Uses that nobody checked and that were written at once. */
  readonly written: number
  /** Uses that the consumer refused, so that they were to be written at once. */
  readonly fallbacks: number
  /** Of `rejected`, what didn't fit. */
  readonly exceeded: number
  /** Retries that were decided on. */
  readonly retries: number
  /** Attempts that took longer than `timeoutMs`. */
  readonly timeouts: number
  /** Reads of the store, each for all the checks that came together. */
  readonly reads: number
  /** Checks that found what they needed here. */
  readonly cacheHits: number
  /** Users' quotas that are kept. */
  readonly cachedKeys: number
  /**
   * How long calls took, in milliseconds: checks; uses that nobody checks; and what is atomic in the store, which is
   * `consumeQuotaSync`, `reserve`, `settle` and `release`.
   */
  readonly latencyMs: Readonly<Record<QuotaOperationKind, LatencySnapshot>>
}

/** Whose use of what is asked about. */
interface Subject {
  readonly userId: UserId
  readonly key: QuotaKey
  readonly value: number
  /** A time in the key's period. */
  readonly at: number
  /** When the next period begins. */
  readonly until: number
}

/**
 * Checks and counts what users may use in a period.
 *
 * `checkQuota` is advice: it knows what is stored, what is held and what waits in its consumer. `consumeQuota` accounts behind the
 * request and checks nothing. `consumeQuotaSync` and `reserve` are atomic in the store: what they count and hold never passes the
 * limit, in any number of processes.
 *
 * Closing it closes neither its consumer nor its store. Close it first: then nothing falls back to the store while the consumer
 * drains.
 *
 * @example
 * ```ts
 * import { MemoryQuotaStore, QuotaConsumer, QuotaService } from 'spillway'
 *
 * const store = new MemoryQuotaStore()
 * const consumer = new QuotaConsumer(store)
 * const quotas = new QuotaService({ store, consumer, limitFor: () => 1000 })
 *
 * if ((await quotas.checkQuota('ann', 'requests')).allowed) await quotas.consumeQuota('ann', 'requests')
 * await using held = await quotas.reserve('ann', 'tokens', 400, { ttlMs: 30_000 })
 * await held.settle(131)
 * await quotas.close()
 * await consumer.close()
 * ```
 */
export class QuotaService extends Component<QuotaServiceEvents, QuotaServiceStats> implements AsyncDisposable {
  /** The options' defaults. */
  static readonly defaults = {
    usageTtlMs: 0,
    usageCacheSize: 10_000,
    holdTtlMs: 60_000,
    retry: { attempts: 3, delayMs: 50, maxDelayMs: 1000 },
  } as const

  readonly #store: QuotaStore
  readonly #consumer: QuotaConsumer | undefined
  readonly #limitFor: QuotaServiceOptions['limitFor']
  readonly #holdTtlMs: number
  readonly #idRandom: (() => number) | undefined
  readonly #periods: QuotaPeriods
  readonly #calls: QuotaCalls
  readonly #storeCalls: StoreCalls
  readonly #reader: UsageReader
  readonly #accounting: UsageAccounting
  /** The keys of the latest holds made here, where usage is kept that changes with them. */
  readonly #holdKeys: Remembered<QuotaKey> | undefined
  readonly #detach: (() => void)[] = []
  #exceeded = 0

  /** @throws OptionError when an option is wrong, or the consumer writes elsewhere or has periods of its own. */
  constructor(options: QuotaServiceOptions) {
    super('quota-service', options)
    const { defaults } = QuotaService
    this.#store = checkStore(options?.store)
    this.#consumer = checkConsumer(options.consumer, this.#store)
    this.#limitFor = checkFunction('limitFor', options.limitFor)
    this.#periods = new QuotaPeriods(choosePeriods(options.periodOf, this.#consumer))
    this.#holdTtlMs = checkDuration('holdTtlMs', valueOr(options.holdTtlMs, defaults.holdTtlMs), 1)
    const ttlMs = checkDuration('usageTtlMs', valueOr(options.usageTtlMs, defaults.usageTtlMs))
    const cacheSize = checkCount('usageCacheSize', valueOr(options.usageCacheSize, defaults.usageCacheSize))
    const { timeoutMs } = options
    if (timeoutMs !== undefined) checkDuration('timeoutMs', timeoutMs, 1)
    const retry = resolveRetry(options.retry, defaults.retry)

    const { name, clock, random } = this
    const store = this.#store
    this.#idRandom = options.random
    const calls = new StoreCalls(
      { name, clock, random, timeoutMs, retry },
      {
        retried: (retried) => this.events.emit('retried', retried),
        timedOut: (timeout) => this.events.emit('timedOut', timeout),
      },
    )
    this.#storeCalls = calls
    this.#calls = new QuotaCalls(name, clock, {
      ended: (operation, outcome, error) => this.#recordEnd(operation, outcome, error),
      closing: () => calls.hurry(),
      abandoned: () => calls.end(),
      closed: () => {
        for (const detach of this.#detach) detach()
      },
    })
    this.#reader = new UsageReader({ store, calls, clock, ttlMs, cacheSize })
    this.#accounting = new UsageAccounting({
      ...{
        name,
        clock,
        store,
        calls,
        consumer: this.#consumer,
        periodOf: this.#periods.kindOf,
        newId: () => this.#newId(),
      },
      onChanged: (keys) => this.#reader.forget(keys),
      onFallback: (fallback) => this.events.emit('fellBack', fallback),
    })
    if (ttlMs === 0) return
    this.#holdKeys = new Remembered(cacheSize)
    this.#watchConsumer()
  }

  /**
   * Tells whether a value would fit now, and what there is. It is advice: others may use what is left before the caller does. What
   * waits in the consumer here, or is being written past it, is counted in, once at least: while it is being written, twice at most.
   *
   * @param value - how much is asked about. The default is 1.
   * @returns rejects with `InvalidEventError` when an argument is wrong, with `ClosedError`, with the signal's reason, or with what the
   * store or `limitFor` failed with.
   */
  checkQuota(userId: UserId, quotaType: string, value = 1, options?: CheckOptions): Promise<QuotaStatus> {
    return this.#calls.run('check', options, () => {
      const at = options?.at === undefined ? this.clock.wallNow() : checkTime('at', options.at)
      const subject = this.#subjectOf(userId, quotaType, value, at)
      return (ended) => this.#check(subject, ended)
    })
  }

  /**
   * Counts a use behind the request, and checks nothing: the consumer takes it, and where there is a journal it is durable then. A
   * consumer that is full or closed refuses it; then, and without a consumer, it is written to the store at once, with retries.
   *
   * @param value - how much was used. The default is 1.
   * @returns where it went. Rejects with `InvalidEventError` when the event is wrong, with `ClosedError` once the service is closed, with
   * the signal's reason, or with what the journal or the store failed with: it isn't counted then, unless the error's `outcomeUnknown`
   * says that it may be.
   */
  consumeQuota(userId: UserId, quotaType: string, value = 1, options?: ConsumeOptions): Promise<AccountedUse> {
    return this.#calls.run('consume', options, () => {
      const { timestamp, requestId, metadata } = options ?? {}
      return this.#accounting.account({ userId, quotaType, value, timestamp, requestId, metadata })
    })
  }

  /**
   * Counts uses behind the request, as `consumeQuota` does with each of them, whatever becomes of the others. Those that are written
   * to the store at once go there together.
   *
   * @returns what became of each, in order. Rejects only when the arguments themselves are wrong.
   */
  consumeQuotaBatch(
    events: readonly UsageEvent[],
    options?: WaitOptions,
  ): Promise<PromiseSettledResult<AccountedUse>[]> {
    try {
      checkOptions('options', options)
      checkSignal(options?.signal)
      if (!Array.isArray(events)) failOption('events', 'must be an array', events)
    } catch (error) {
      return rejected(error)
    }
    const together = this.#accounting.together()
    return Promise.allSettled(
      Array.from(events, (event) =>
        this.#calls.run('consume', options, () => this.#accounting.account(event, together)),
      ),
    )
  }

  /**
   * Counts a use if it fits, in one step in the store. What waits in the consumer here takes room too. It is retried under one id, so
   * that it counts once; one with a `requestId` that was counted before isn't counted again.
   *
   * @param value - how much is used. The default is 1.
   * @returns what is left. Rejects with `QuotaExceededError` when it doesn't fit, with `InvalidEventError` when an argument is wrong, with
   * `ClosedError`, with the signal's reason, or with what the store or `limitFor` failed with: it isn't counted then, unless the error's
   * `outcomeUnknown` says that it may be.
   */
  consumeQuotaSync(userId: UserId, quotaType: string, value = 1, options?: ConsumeSyncOptions): Promise<ConsumedQuota> {
    return this.#calls.run('consume-sync', options, () => {
      const { timestamp, requestId } = options ?? {}
      const problem = problemOfUsage({ userId, quotaType, value, timestamp, requestId })
      if (problem !== undefined) throw problem
      const at = timestamp === undefined ? this.clock.wallNow() : timeOf(timestamp)
      const subject = this.#subjectOf(userId, quotaType, value, at)
      return (ended) => this.#consume(subject, requestId ?? this.#newId(), ended)
    })
  }

  /**
   * Holds a value if it fits, in one step in the store, until it is settled, released or expired. It belongs to the present period.
   *
   * @returns the reservation; for an id under which the same is held already, that one. Rejects with `QuotaExceededError` when it doesn't
   * fit, with `ReservationError` when the id belongs to another claim or to one that is over, and otherwise as `consumeQuotaSync` does.
   */
  reserve(userId: UserId, quotaType: string, value: number, options?: ReserveOptions): Promise<Reservation> {
    return this.#calls.run('reserve', options, () => {
      const subject = this.#subjectOf(userId, quotaType, value, this.clock.wallNow())
      const ttlMs = checkDuration('ttlMs', valueOr(options?.ttlMs, this.#holdTtlMs), 1)
      const { id } = options ?? {}
      if (id !== undefined) checkId(id)
      return (ended) => this.#reserve(subject, id, ttlMs, ended)
    })
  }

  /**
   * Turns what is held into a use of `actual`. To settle again changes nothing. What goes beyond the hold must fit, and all of it once
   * the hold has expired.
   *
   * @returns rejects with `QuotaExceededError` when it doesn't fit: what is held stays so; with `ReservationError` when there is no such
   * reservation or it was released; and otherwise as `consumeQuotaSync` does.
   */
  settle(id: string, actual: number, options?: WaitOptions): Promise<void> {
    return this.#calls.run('settle', options, () => {
      checkId(id)
      const problem = problemOfValue('actual', actual)
      if (problem !== undefined) throw problem
      return (ended) => this.#settle(id, actual, ended)
    })
  }

  /**
   * Gives back what is held; nothing happens where nothing is.
   *
   * @returns rejects with `InvalidEventError` when the id is none, with `ClosedError`, with the signal's reason, or with what the store
   * failed with: the hold expires by itself then.
   */
  release(id: string, options?: WaitOptions): Promise<void> {
    return this.#calls.run('release', options, () => {
      checkId(id)
      return async (ended) => {
        await this.#end('release', id, ended, () => this.#store.release(id))
      }
    })
  }

  /** Settles the calls in progress. What waits in the consumer is the consumer's to flush. */
  flush(): Promise<FlushReport> {
    return this.#calls.flush()
  }

  /**
   * Refuses new calls, and waits for those in progress, and for what callers that gave up have left at the store; waits between retries
   * are cut short. Neither the consumer nor the store is closed, and what is held stays so. Calling it again changes nothing, except
   * that a shorter deadline counts.
   *
   * @returns what became of the calls; those left at the deadline reject with `ClosedError`. It rejects only with an `OptionError` for a
   * wrong `timeoutMs`.
   */
  close(options?: CloseOptions): Promise<CloseReport> {
    return this.#calls.close(options)
  }

  /** Closes it at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#calls[Symbol.asyncDispose]()
  }

  override stats(): QuotaServiceStats {
    return {
      name: this.name,
      ...this.#calls.stats(),
      buffered: this.#accounting.buffered,
      written: this.#accounting.written,
      fallbacks: this.#accounting.fallbacks,
      exceeded: this.#exceeded,
      retries: this.#storeCalls.retries,
      timeouts: this.#storeCalls.timeouts,
      reads: this.#reader.reads,
      cacheHits: this.#reader.cacheHits,
      cachedKeys: this.#reader.cached,
      latencyMs: this.#calls.latencyMs(),
    }
  }

  // ── check ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async #check(subject: Subject, ended: LazySignal): Promise<QuotaStatus> {
    const limit = await this.#limitOf(subject, ended)
    // First what waits here, then what is stored: what is written between the two is in both, and never in neither.
    const pending = this.#pendingOf(subject)
    const { used, held } = await this.#reader.read(subject.key)
    const terms = { limit, used, held, pending }
    return { allowed: fits(subject.value, terms), ...balanceOf({ ...subject.key, until: subject.until }, terms) }
  }

  /** @throws InvalidEventError when an argument is wrong. */
  #subjectOf(userId: UserId, quotaType: string, value: number, at: number): Subject {
    const problem = problemOfUser(userId) ?? problemOfText('quotaType', quotaType) ?? problemOfValue('value', value)
    if (problem !== undefined) throw problem
    const { label: period, until } = this.#periods.spanAt(quotaType, at)
    return { userId, key: { userId: userText(userId), quotaType, period }, value, at, until }
  }

  /** Rejects as soon as nobody waits any more: limits may take long to find, or never come. */
  async #limitOf({ userId, key }: Subject, ended: LazySignal): Promise<number> {
    const answer = this.#limitFor(userId, key.quotaType)
    const limit = typeof answer === 'number' ? answer : await orAbort(Promise.resolve(answer), ended.signal)
    if (typeof limit === 'number' && limit >= 0) return limit
    return failOption('limitFor', 'must answer with a number from 0, or Infinity', limit)
  }

  #pendingOf({ key, at }: Subject): number {
    return this.#accounting.pending(key, at)
  }

  #watchConsumer(): void {
    const consumer = this.#consumer
    if (consumer === undefined) return
    const forget = (keys: readonly QuotaKey[]): void => this.#reader.forget(keys)
    this.#detach.push(
      consumer.on('applied', ({ keys }) => forget(keys)),
      // What was given up may have been counted all the same.
      consumer.on('failed', ({ events }) =>
        forget(events.map((event) => ({ ...event, userId: userText(event.userId) }))),
      ),
    )
  }

  // ── change ──────────────────────────────────────────────────────────────────────────────────────────────────────

  async #consume(subject: Subject, id: string, ended: LazySignal): Promise<ConsumedQuota> {
    const { key, value, until } = subject
    const limit = await this.#limitOf(subject, ended)
    let pending = 0
    const consumed = this.#change('consume', id, ended, () => {
      pending = this.#pendingOf(subject)
      return this.#store.consume({ ...key, value, limit: roomOf(limit, pending), id })
    })
    const { answer, doubted } = await consumed.finally(() => this.#reader.forget([key]))
    const { status, used, held } = checkAnswer('consume', answer)
    const terms = { limit, used, held, pending }
    const timed = { ...key, until }
    if (status === 'exceeded') throw exceededError(this.name, timed, value, terms, doubted)
    if (status !== 'applied' && status !== 'repeated') throw wrongAnswer('consume', answer)
    // Its own attempt of before is what it was told of.
    return { status: doubted ? 'applied' : status, ...balanceOf(timed, terms) }
  }

  async #reserve(
    subject: Subject,
    givenId: string | undefined,
    ttlMs: number,
    ended: LazySignal,
  ): Promise<Reservation> {
    const { key, value } = subject
    const limit = await this.#limitOf(subject, ended)
    const id = givenId ?? this.#newId()
    let sent = false
    let pending = 0
    const reserved = this.#change('reserve', id, ended, () => {
      sent = true
      pending = this.#pendingOf(subject)
      // What waits here now is stored by the time it is settled.
      return this.#store.reserve({ ...key, value, limit: roomOf(limit, pending), settleLimit: limit, id, ttlMs })
    })
    try {
      const { answer, doubted } = await reserved.finally(() => this.#reader.forget([key]))
      const { status, used, held, expiresAt } = checkAnswer('reserve', answer)
      if (status === 'exceeded') {
        const terms = { limit, used, held, pending }
        throw exceededError(this.name, { ...key, until: subject.until }, value, terms, doubted)
      }
      if (status === 'conflict') throw reservationError(this.name, id, 'conflict')
      if (status !== 'held' && status !== 'repeated') throw wrongAnswer('reserve', answer)
      this.#holdKeys?.add(id, key)
      // Who has gone takes no reservation, and hears of no error.
      ended.signal.throwIfAborted()
      return new HeldReservation(this, key, id, value, expiresAt)
    } catch (error) {
      // It may be held all the same, under an id that nobody will ever know.
      if (givenId === undefined && sent && (ended.signal.aborted || isOutcomeUnknown(error))) this.#giveBack(key, id)
      throw error
    }
  }

  /** Gives a hold back as far as that goes; otherwise it expires. */
  #giveBack(key: QuotaKey, id: string): void {
    this.#calls.runBehind(() => attempt(() => this.#store.release(id)).finally(() => this.#reader.forget([key])))
  }

  async #settle(id: string, actual: number, ended: LazySignal): Promise<void> {
    const { answer, doubted } = await this.#end('settle', id, ended, () => this.#store.settle(id, actual))
    const { status, claim, usage } = checkAnswer('settle', answer)
    if (claim !== undefined) this.#reader.forget([claim])
    if (status === 'settled' || status === 'repeated') return
    if (status === 'released' || status === 'unknown') throw reservationError(this.name, id, status)
    if (status !== 'exceeded' || claim === undefined || usage === undefined) throw wrongAnswer('settle', answer)
    const { limit } = claim
    const { used, held } = usage
    const timed = { ...claim, until: endOfPeriod(claim.period) }
    throw exceededError(this.name, timed, actual, { limit, used, held, pending: 0 }, doubted)
  }

  /** Has the store do something about a hold; a check reads anew what it may have changed. */
  #end<T>(
    operation: 'settle' | 'release',
    id: string,
    ended: LazySignal,
    make: () => T | PromiseLike<T>,
  ): Promise<StoreAnswer<T>> {
    return this.#change(operation, id, ended, make).finally(() => {
      const key = this.#holdKeys?.get(id)
      if (key !== undefined) this.#reader.forget([key])
    })
  }

  /** Has the store change something, as often as it takes: it does so once for an id. */
  #change<T>(
    operation: string,
    id: string,
    ended: LazySignal,
    make: () => T | PromiseLike<T>,
  ): Promise<StoreAnswer<T>> {
    return this.#storeCalls.run({ operation, id, idempotent: true, signal: ended.signal, make })
  }

  #newId(): string {
    return batchId(this.clock.wallNow(), this.#idRandom)
  }

  // ── record ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #recordEnd(operation: QuotaOperation, outcome: string, error: unknown): void {
    if (outcome === 'failed') this.events.emit('failed', { operation, error })
    if (outcome !== 'rejected' || !isSpillwayError(error, 'ERR_QUOTA_EXCEEDED')) return
    this.#exceeded++
    this.events.emit('exceeded', { operation, error: error as QuotaExceededError })
  }
}

/** @throws InvalidEventError when it is no id. */
function checkId(id: string): void {
  const problem = problemOfText('id', id)
  if (problem !== undefined) throw problem
}

/** What of a limit is left to the store, less what waits in front of it. */
function roomOf(limit: number, pending: number): number {
  return Math.max(0, limit - pending)
}

function reservationError(name: string, id: string, reason: ReservationError['reason']): ReservationError {
  const what = {
    unknown: 'is unknown',
    released: 'was released',
    conflict: 'is that of another claim, or of one that is over',
  }
  return new ReservationError(`${name}: reservation ${id} ${what[reason]}`, id, reason)
}

/** @throws BatchResultError when a store's answer is no object. */
function checkAnswer<T>(operation: string, answer: T): T {
  if (typeof answer !== 'object' || answer === null) throw wrongAnswer(operation, answer)
  return answer
}

function wrongAnswer(operation: string, answer: unknown): BatchResultError {
  return new BatchResultError(`the store answered a ${operation} with something else: ${describeValue(answer)}`)
}
