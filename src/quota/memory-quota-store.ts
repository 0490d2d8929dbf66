import { type Clock, systemClock } from '../core/clock.js'
import { checkCount, checkDuration, checkOneOf, checkOptions, failOption, valueOr } from '../core/options.js'
import type {
  AcceptedUsage,
  BatchContext,
  ConsumeOutcome,
  HoldClaim,
  QuotaClaim,
  QuotaKey,
  QuotaStore,
  QuotaUsage,
  RefusedUsage,
  ReserveOutcome,
  SettleOutcome,
  UsageBatch,
  UsageDedupe,
} from '../core/ports.js'
import { Remembered } from '../internal/remembered.js'
import { checkClaim, checkContext, checkHold, checkList, checkUsageBatch } from '../internal/store-arguments.js'
import { beyondRange, keyText, maxUsage, problemOfText, problemOfValue, userText } from '../internal/usage.js'
import { type Hold, QuotaCell } from './quota-cell.js'

/** Options of {@link MemoryQuotaStore}. */
export interface MemoryQuotaStoreOptions {
  /**
   * What it tells apart, so that nothing is counted twice: batches, also events by the id that a stream gave them, or also
   * requests.
   * @defaultValue 'batch'
   */
  dedupe?: UsageDedupe | undefined
  /**
   * How many batch ids it remembers, the latest ones. A batch that comes again later is counted again.
   * @defaultValue 10_000
   */
  rememberBatches?: number | undefined
  /**
   * How many ids of events, requests and `consume` calls it remembers, the latest ones. One that comes again later is counted
   * again.
   * @defaultValue 100_000
   */
  rememberRequests?: number | undefined
  /**
   * How many reservations that are settled, released or expired it remembers, the latest ones. One that is forgotten is unknown to
   * `settle`, and its id is free for another. Those that hold something are never forgotten.
   * @defaultValue 10_000
   */
  rememberReservations?: number | undefined
  /**
   * How long it keeps what was used in a period that has ended, in milliseconds from the period's end; `Infinity` is allowed.
   * What comes for it later is counted from 0.
   * @defaultValue 604_800_000
   */
  keepPeriodsMs?: number | undefined
  /** Where it takes its time from. The default is `systemClock`. */
  clock?: Clock | undefined
}

/** How often it looks for what can be forgotten, at the most. */
const sweepEveryMs = 60_000
const dedupes: readonly UsageDedupe[] = ['batch', 'event', 'request']

/**
 * Quotas in memory, behaving as every {@link QuotaStore} must, for one process that may forget: tests, development, a service of a
 * single process whose limits needn't survive a restart. It passes `quotaStoreContract` of `spillway/testing`.
 *
 * Its memory is bounded by what is remembered, by the open reservations, and by the users and quota types of the present periods.
 *
 * @example
 * ```ts
 * import { MemoryQuotaStore, QuotaService } from 'spillway'
 *
 * const quotas = new QuotaService({ store: new MemoryQuotaStore(), limitFor: () => 100 })
 * await quotas.consumeQuotaSync('user:1', 'requests', 1)
 * ```
 */
export class MemoryQuotaStore implements QuotaStore {
  /** The options' defaults. */
  static readonly defaults = {
    dedupe: 'batch',
    rememberBatches: 10_000,
    rememberRequests: 100_000,
    rememberReservations: 10_000,
    keepPeriodsMs: 604_800_000,
  } as const

  /** It applies each batch id once, as long as it remembers it. */
  readonly idempotent = true
  /** What it tells apart. */
  readonly dedupe: UsageDedupe
  readonly #clock: Clock
  readonly #keepPeriodsMs: number
  readonly #cells = new Map<string, QuotaCell>()
  /** What each batch was answered. */
  readonly #batches: Remembered<readonly RefusedUsage[]>
  readonly #requests: Remembered<true>
  readonly #holds = new Map<string, Hold>()
  /** Reservations that hold nothing any more, the latest ones. */
  readonly #over: Remembered<Hold>
  #sweepAt: number

  /** @throws OptionError when an option is wrong. */
  constructor(options: MemoryQuotaStoreOptions = {}) {
    checkOptions('options', options)
    const { defaults } = MemoryQuotaStore
    this.dedupe = checkOneOf('dedupe', valueOr(options.dedupe, defaults.dedupe), dedupes)
    const remember = (field: 'rememberBatches' | 'rememberRequests' | 'rememberReservations'): number =>
      checkCount(field, valueOr(options[field], defaults[field]), 0)
    this.#batches = new Remembered(remember('rememberBatches'))
    this.#requests = new Remembered(remember('rememberRequests'))
    this.#over = new Remembered(remember('rememberReservations'))
    this.#keepPeriodsMs = checkDuration(
      'keepPeriodsMs',
      valueOr(options.keepPeriodsMs, defaults.keepPeriodsMs),
      0,
      Number.POSITIVE_INFINITY,
    )
    this.#clock = valueOr(options.clock, systemClock)
    for (const method of ['now', 'wallNow'] as const) {
      if (typeof this.#clock?.[method] !== 'function') failOption('clock', `must have a method ${method}`, this.#clock)
    }
    this.#sweepAt = Number.NEGATIVE_INFINITY
  }

  /**
   * Counts a batch, less the sums that would pass 2^53 - 1.
   *
   * @returns the events of those sums. A batch id that it remembers changes nothing and gets the answer of then.
   */
  async write(batch: UsageBatch, context: BatchContext): Promise<readonly RefusedUsage[]> {
    checkContext(context).signal.throwIfAborted()
    checkUsageBatch(batch)
    this.#sweep()
    const before = this.#batches.get(batch.id)
    if (before !== undefined) return before
    const refused = this.#count(batch.events)
    if (batch.events.length > 0) this.#batches.add(batch.id, refused)
    return refused
  }

  /** What is used and held, in the order of the keys; zeros for a key that is unknown. */
  async readUsage(keys: readonly QuotaKey[]): Promise<readonly QuotaUsage[]> {
    checkList('keys', keys)
    this.#sweep()
    return keys.map((key) => this.#usage(this.#cells.get(textOf(key))))
  }

  /** Counts a use if it fits. */
  async consume(claim: QuotaClaim): Promise<ConsumeOutcome> {
    checkClaim(claim)
    this.#sweep()
    const cell = this.#cells.get(textOf(claim))
    const request = keyText(claim.userId, claim.quotaType, `r${claim.id}`)
    if (this.#requests.get(request)) return { status: 'repeated', ...this.#usage(cell) }
    if (!this.#fits(cell, claim.value, claim.limit)) return { status: 'exceeded', ...this.#usage(cell) }
    const counted = this.#open(claim)
    counted.used += claim.value
    this.#requests.add(request, true)
    return { status: 'applied', ...this.#usage(counted) }
  }

  /** Holds a value if it fits. */
  async reserve(claim: HoldClaim): Promise<ReserveOutcome> {
    checkHold(claim)
    this.#sweep()
    const cell = this.#cells.get(textOf(claim))
    this.#expire(cell)
    const earlier = this.#holds.get(claim.id) ?? this.#over.get(claim.id)
    if (earlier !== undefined) {
      const same = earlier.state === 'held' && isSame(earlier.claim, claim)
      const expiresAt = same ? earlier.expiresAt : 0
      return { status: same ? 'repeated' : 'conflict', expiresAt, ...this.#usage(cell) }
    }
    if (!this.#fits(cell, claim.value, claim.limit)) {
      return { status: 'exceeded', expiresAt: 0, ...this.#usage(cell) }
    }
    const { userId, quotaType, period, value, limit, id, ttlMs, settleLimit = limit } = claim
    const hold: Hold = {
      claim: Object.freeze({ userId, quotaType, period, value, limit: settleLimit, id }),
      cell: this.#open(claim),
      endsAt: this.#clock.now() + ttlMs,
      expiresAt: this.#clock.wallNow() + ttlMs,
      state: 'held',
    }
    this.#holds.set(id, hold)
    hold.cell.hold(hold)
    return { status: 'held', expiresAt: hold.expiresAt, ...this.#usage(hold.cell) }
  }

  /** Turns a hold into a use of `actual`. */
  async settle(id: string, actual: number): Promise<SettleOutcome> {
    throwIf(problemOfText('id', id) ?? problemOfValue('actual', actual))
    this.#sweep()
    this.#expire(this.#holds.get(id)?.cell)
    const hold = this.#holds.get(id) ?? this.#over.get(id)
    if (hold === undefined) return { status: 'unknown' }
    const { claim, state } = hold
    if (state === 'settled' || state === 'released') {
      const status = state === 'settled' ? 'repeated' : 'released'
      return { status, claim, usage: this.#usage(this.#cells.get(textOf(claim))) }
    }
    const cell = this.#open(claim)
    // What it holds makes room for as much: only what is beyond must fit.
    const beyond = state === 'held' ? actual - claim.value : actual
    const fits = (state === 'held' && beyond <= 0) || this.#fits(cell, beyond, claim.limit)
    if (!fits || cell.used + actual > maxUsage) return { status: 'exceeded', claim, usage: this.#usage(cell) }
    cell.used += actual
    this.#end(hold, 'settled')
    return { status: 'settled', claim, usage: this.#usage(cell) }
  }

  /** Gives a hold back; nothing happens where there is none. */
  async release(id: string): Promise<void> {
    throwIf(problemOfText('id', id))
    this.#sweep()
    const hold = this.#holds.get(id) ?? this.#over.get(id)
    if (hold?.state === 'held' || hold?.state === 'expired') this.#end(hold, 'released')
  }

  /** Counts what wasn't counted before, each key's sum whole or not at all. */
  #count(events: readonly AcceptedUsage[]): readonly RefusedUsage[] {
    const sums = new Map<QuotaKeyText, Sum>()
    const seen = new Set<string>()
    events.forEach((event, index) => {
      const { quotaType, period, value } = event
      const userId = userText(event.userId)
      const mark = this.#mark(event, userId)
      if (mark !== undefined) {
        if (seen.has(mark) || this.#requests.get(mark)) return
        seen.add(mark)
      }
      const key = keyText(userId, quotaType, period)
      let sum = sums.get(key)
      if (sum === undefined) {
        sum = { userId, quotaType, period, value: 0, places: [], marks: [] }
        sums.set(key, sum)
      }
      sum.value += value
      sum.places.push(index)
      if (mark !== undefined) sum.marks.push(mark)
    })
    const refused: RefusedUsage[] = []
    for (const [key, sum] of sums) {
      if ((this.#cells.get(key)?.used ?? 0) + sum.value > maxUsage) {
        const error = beyondRange(sum)
        for (const index of sum.places) refused.push({ index, error })
      } else {
        this.#open(sum).used += sum.value
        for (const mark of sum.marks) this.#requests.add(mark, true)
      }
    }
    return refused.sort((a, b) => a.index - b.index)
  }

  /** By what an event is told from others; undefined where only its batch is. */
  #mark({ quotaType, requestId, id }: AcceptedUsage, userId: string): string | undefined {
    if (this.dedupe === 'request' && requestId !== undefined) return keyText(userId, quotaType, `r${requestId}`)
    return this.dedupe !== 'batch' && id !== undefined ? keyText(userId, quotaType, `e${id}`) : undefined
  }

  #fits(cell: QuotaCell | undefined, value: number, limit: number): boolean {
    const { used, held } = this.#usage(cell)
    return used + held + value <= Math.min(limit, maxUsage)
  }

  #usage(cell: QuotaCell | undefined): QuotaUsage {
    if (cell === undefined) return { used: 0, held: 0 }
    this.#expire(cell)
    return { used: cell.used, held: cell.held }
  }

  #open(key: QuotaKey): QuotaCell {
    const text = textOf(key)
    let cell = this.#cells.get(text)
    if (cell === undefined) {
      cell = new QuotaCell(key.period)
      this.#cells.set(text, cell)
    }
    return cell
  }

  #expire(cell: QuotaCell | undefined): void {
    const now = this.#clock.now()
    if (cell === undefined || now < cell.nextEndsAt) return
    for (const hold of cell.due(now)) this.#end(hold, 'expired')
  }

  /** Takes a hold out of its key, and remembers what became of it. */
  #end(hold: Hold, state: 'settled' | 'released' | 'expired'): void {
    if (hold.state === 'held') hold.cell.unhold(hold)
    hold.state = state
    this.#holds.delete(hold.claim.id)
    this.#over.add(hold.claim.id, hold)
  }

  /** Forgets periods that ended long ago; once a minute, at whatever call comes then, so that it needs no timer. */
  #sweep(): void {
    const now = this.#clock.now()
    if (now < this.#sweepAt) return
    this.#sweepAt = now + sweepEveryMs
    const endedBefore = this.#clock.wallNow() - this.#keepPeriodsMs
    for (const [key, cell] of this.#cells) {
      this.#expire(cell)
      if (cell.holds === 0 && cell.periodEnd <= endedBefore) this.#cells.delete(key)
    }
  }
}

type QuotaKeyText = string

/** What a batch adds to one key. */
interface Sum extends QuotaKey {
  value: number
  /** The events that it sums. */
  readonly places: number[]
  readonly marks: string[]
}

function textOf({ userId, quotaType, period }: QuotaKey): QuotaKeyText {
  return keyText(userId, quotaType, period)
}

function throwIf(problem: Error | undefined): void {
  if (problem !== undefined) throw problem
}

/** Limit and ttl are conditions of a claim, not what it claims. */
function isSame(a: QuotaClaim, b: QuotaClaim): boolean {
  return a.value === b.value && textOf(a) === textOf(b)
}
