import { getEventListeners } from 'node:events'
import {
  type AcceptedUsage,
  type FlushReport,
  isSpillwayError,
  QuotaConsumer,
  type QuotaConsumerOptions,
  type UsageEvent,
  type UsageFailure,
} from 'spillway'
import { FakeClock, type JournalOperation, MemoryUsageJournal, seededRandom } from 'spillway/testing'
import { expect } from 'vitest'
import { codeOf, type Watched, watch } from '../../batcher/support/outcomes.js'
import { expectQuotaBalanced } from './books.js'
import { idOf, MoodySink, poison, refusable, type SinkMood } from './usage-sink-world.js'

/** How a journal takes one call. */
export type JournalMood = 'keeps' | 'fails' | 'is slow' | 'keeps, and the answer is lost'

export interface ConsumerWorldOptions {
  readonly seed: number
  readonly options: Omit<QuotaConsumerOptions, 'journal' | 'clock' | 'random'>
  readonly idempotent: boolean
  readonly journalled: boolean
  readonly sinkMoods: readonly SinkMood[]
  readonly journalMoods: readonly JournalMood[]
}

export type ConsumerAction =
  | { readonly do: 'offer'; readonly event: DrawnEvent }
  | { readonly do: 'publish'; readonly event: DrawnEvent; readonly signal: number | undefined; readonly wait: boolean }
  | { readonly do: 'abort'; readonly signal: number }
  | { readonly do: 'flush' }
  | { readonly do: 'start' }
  | { readonly do: 'close'; readonly timeoutMs: number | undefined }
  | { readonly do: 'advance'; readonly ms: number }

/** An event, all but its time and its number. */
export interface DrawnEvent {
  readonly userId: number
  readonly quotaType: 'daily' | 'monthly' | 'total'
  readonly value: number
  /** How long ago it was; undefined for an event without a timestamp. */
  readonly agoMs: number | undefined
  /** Whether it is a wrong one. */
  readonly wrong: boolean
}

/** What is known about one event. */
interface Known {
  readonly key: string
  readonly value: number
  /** Whether it was accepted for certain. */
  accepted: boolean
  /** What it was published with; undefined when it was offered. */
  watched: Watched<void> | undefined
  /** Every end that was told of it. */
  readonly ends: ('applied' | 'failed' | 'dropped')[]
  /** Whether its failure left open if it was counted. */
  inDoubt: boolean
}

const periodKinds = { daily: 'day', monthly: 'month', total: 'total' } as const
const day = 86_400_000
/** Ten milliseconds before a day ends that ends a month. */
const startsAt = Date.UTC(2026, 1, 1) - 10

/** A consumer, its hostile surroundings, and what is known about every event. */
export class ConsumerWorld {
  readonly clock: FakeClock = new FakeClock({ wallMs: startsAt })
  readonly consumer: QuotaConsumer
  readonly sink: MoodySink
  readonly #world: ConsumerWorldOptions
  readonly #known = new Map<string, Known>()
  readonly #flushes: { watched: Watched<FlushReport>; pending: number; aborted: number }[] = []
  readonly #closes: Watched<{ drained: boolean; abandoned: number }>[] = []
  readonly #starts: Watched<unknown>[] = []
  readonly #controllers: AbortController[] = [new AbortController(), new AbortController()]
  readonly #signals: AbortSignal[] = this.#controllers.map(({ signal }) => signal)
  readonly #handed: UsageFailure[] = []
  readonly #told: UsageFailure[] = []
  readonly #heard = { applied: 0, retried: 0, dropped: 0, rejected: 0, onApplied: 0 }
  #journalCalls = 0
  #sinkCalls = 0

  constructor(world: ConsumerWorldOptions) {
    this.#world = world
    const { seed, sinkMoods, journalMoods } = world
    const chance = seededRandom(seed)
    const mood = (): SinkMood => sinkMoods[this.#sinkCalls++ % sinkMoods.length] as SinkMood
    this.sink = new MoodySink(this.clock, world.idempotent, mood, chance)
    const journalMood = (operation: JournalOperation): JournalMood => {
      if (operation === 'close') return 'keeps'
      return journalMoods[this.#journalCalls++ % journalMoods.length] as JournalMood
    }
    let current: JournalMood = 'keeps'
    const journal = new MemoryUsageJournal({
      before: (operation) => {
        current = journalMood(operation)
        if (current === 'fails') throw new Error(`${operation} failed`)
        return current === 'is slow' ? new Promise((resolve) => void this.clock.setTimer(resolve, 5)) : undefined
      },
      after: () => {
        if (current === 'keeps, and the answer is lost') throw new Error('the answer is lost')
      },
    })
    this.consumer = new QuotaConsumer(this.sink, {
      ...world.options,
      clock: this.clock,
      random: seededRandom(seed + 1),
      periodOf: (quotaType) => periodKinds[quotaType as keyof typeof periodKinds],
      onFailed: (failure) => void this.#handed.push(failure),
      onApplied: () => void this.#heard.onApplied++,
      ...(world.journalled && { journal }),
    })
    this.#listen()
  }

  /** Takes one step, and checks everything that must hold after it. */
  async step(action: ConsumerAction): Promise<void> {
    const { consumer } = this
    switch (action.do) {
      case 'offer': {
        const { event, known } = this.#make(action.event)
        known.accepted = consumer.offer(event)
        if (action.event.wrong) expect(known.accepted).toBe(false)
        break
      }
      case 'publish': {
        const signal = action.signal === undefined ? undefined : this.#controllers[action.signal]?.signal
        this.#publish(action.event, signal, action.wait)
        break
      }
      case 'abort':
        this.#controllers[action.signal]?.abort(new Error('the caller gave up'))
        this.#controllers[action.signal] = new AbortController()
        this.#signals.push((this.#controllers[action.signal] as AbortController).signal)
        break
      case 'flush': {
        const { pending, aborted } = consumer.stats()
        this.#flushes.push({ watched: watch(consumer.flush()), pending, aborted })
        break
      }
      case 'start':
        this.#starts.push(watch(consumer.start()))
        break
      case 'close':
        this.#closes.push(watch(consumer.close({ timeoutMs: action.timeoutMs })))
        break
      case 'advance':
        this.#check()
        await this.clock.advance(action.ms)
        this.#checkPending()
        break
    }
    this.#check()
  }

  /** Closes, lets all late answers come in, and checks that nothing is left and that every event ended once. */
  async end(): Promise<void> {
    await this.step({ do: 'close', timeoutMs: 200 })
    await this.step({ do: 'advance', ms: 200 })
    await this.clock.advance(5000)
    this.#check()
    this.#checkPending()

    expect(this.consumer.stats()).toMatchObject({ pending: 0, inFlight: 0, inFlightBatches: 0, healthy: false })
    expect(this.clock.pending).toBe(0)
    for (const signal of this.#signals) expect(getEventListeners(signal, 'abort')).toEqual([])
    for (const watched of this.#starts) expect(watched.times).toBe(1)
    this.#checkReports()
    this.#checkEnds()
    this.#checkSums()
  }

  // ── the callers ─────────────────────────────────────────────────────────────────────────────────────────────────

  #publish(drawn: DrawnEvent, signal: AbortSignal | undefined, wait: boolean): void {
    const { event, known } = this.#make(drawn)
    // Both ways in: with an options argument and without.
    const promise =
      signal === undefined && wait ? this.consumer.publish(event) : this.consumer.publish(event, { signal, wait })
    known.watched = watch(promise)
    // What the caller does to it afterwards is his business.
    ;(event as { value: number }).value = 1e9
  }

  #make({ userId, quotaType, value, agoMs, wrong }: DrawnEvent): { event: UsageEvent; known: Known } {
    const requestId = `e${this.#known.size}`
    const timestamp = agoMs === undefined ? undefined : this.clock.wallNow() - agoMs
    const key = keyOf(userId, quotaType, timestamp ?? this.clock.wallNow())
    const known: Known = { key, value, accepted: false, watched: undefined, ends: [], inDoubt: false }
    this.#known.set(requestId, known)
    return { event: { userId: wrong ? Number.NaN : userId, quotaType, value, timestamp, requestId }, known }
  }

  #listen(): void {
    const { consumer } = this
    const end = (event: AcceptedUsage, how: 'applied' | 'failed' | 'dropped'): Known | undefined => {
      const known = this.#known.get(idOf(event))
      known?.ends.push(how)
      return known
    }
    consumer.on('applied', ({ batchId, events }) => {
      this.#heard.applied += events
      for (const event of this.sink.batches.get(batchId)?.events ?? []) {
        // What was refused is told by 'failed'.
        if (event.value !== refusable || this.sink.applied.has(idOf(event))) end(event, 'applied')
      }
    })
    consumer.on('failed', (failure) => {
      this.#told.push(failure)
      for (const event of failure.events) {
        const known = end(event, 'failed')
        if (known !== undefined) known.inDoubt ||= isOutcomeUnknown(failure.error)
      }
    })
    consumer.on('dropped', ({ event }) => {
      this.#heard.dropped++
      end(event, 'dropped')
    })
    consumer.on('retried', () => void this.#heard.retried++)
    consumer.on('rejected', () => void this.#heard.rejected++)
    for (const event of ['applied', 'retried', 'failed', 'dropped', 'rejected', 'unhealthy', 'recovered'] as const) {
      consumer.on(event, () => expectQuotaBalanced(consumer.stats()))
    }
  }

  // ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────────

  #check(): void {
    const { concurrency = 3, capacity = 1000, maxBatchSize = 10 } = this.#world.options
    const stats = this.consumer.stats()
    expectQuotaBalanced(stats)
    expect(stats.inFlight).toBeGreaterThanOrEqual(0)
    expect(stats.inFlight).toBeLessThanOrEqual(concurrency * maxBatchSize)
    expect(stats.pending - stats.inFlight).toBeGreaterThanOrEqual(0)
    expect(stats.pending - stats.inFlight).toBeLessThanOrEqual(capacity)
    expect(stats.offered).toBeLessThanOrEqual(this.#known.size)
    expect(this.sink.faults).toEqual([])
  }

  /** Once the turn is over: what is pending of each key is what was accepted and has had no end. */
  #checkPending(): void {
    const least = new Map<string, number>()
    const most = new Map<string, number>()
    for (const { key, value, accepted, watched, ends } of this.#known.values()) {
      const open = ends.length === 0
      const surely = watched === undefined ? accepted : watched.status === 'fulfilled'
      // Where a journal is asked, an event has its place before its publisher knows; and it keeps it when he gives up.
      const maybe = surely || (watched !== undefined && this.#world.journalled && watched.status !== 'fulfilled')
      least.set(key, (least.get(key) ?? 0) + (open && surely ? value : 0))
      most.set(key, (most.get(key) ?? 0) + (open && maybe ? value : 0))
    }
    for (const [key, value] of least) {
      const [userId, quotaType, at] = JSON.parse(key) as [string, string, number]
      const pending = this.consumer.pending(userId, quotaType, at)
      expect(pending, `pending of ${key}`).toBeGreaterThanOrEqual(value)
      expect(pending, `pending of ${key}`).toBeLessThanOrEqual(most.get(key) as number)
      expect(this.consumer.pending(Number(userId), quotaType, new Date(at))).toBe(pending)
    }
  }

  #checkReports(): void {
    const { aborted } = this.consumer.stats()
    for (const { watched, pending, aborted: before } of this.#flushes) {
      expect(watched).toMatchObject({ status: 'fulfilled', times: 1 })
      const { succeeded, failed, dropped } = watched.value as FlushReport
      const sum = succeeded + failed + dropped
      expect(sum).toBeLessThanOrEqual(pending)
      expect(sum).toBeGreaterThanOrEqual(pending - (aborted - before))
    }
    for (const watched of this.#closes) {
      expect(watched).toMatchObject({ status: 'fulfilled', times: 1 })
      expect(watched.value).toEqual(this.#closes[0]?.value)
    }
  }

  /** Everything that was accepted ended exactly once, and was counted if and only if that is what was told. */
  #checkEnds(): void {
    for (const [id, { value, accepted, watched, ends, inDoubt }] of this.#known) {
      const applied = this.sink.applied.get(id) ?? 0
      const text = JSON.stringify({ id, value, accepted, watched, ends, inDoubt, applied })
      if (watched === undefined) {
        const dropped = this.#world.options.overflow === 'drop-newest' && !accepted && ends[0] === 'dropped'
        expect(ends.length, text).toBe(accepted || dropped ? 1 : 0)
      } else {
        expect(watched.times, text).toBe(1)
        if (watched.status === 'fulfilled') expect(ends.length, text).toBe(1)
        else if (!this.#world.journalled && ends[0] !== 'dropped') expect(ends.length, text).toBe(0)
        else expect(ends.length, text).toBeLessThanOrEqual(1)
      }
      expect(applied, text).toBeLessThanOrEqual(1)
      if (ends[0] === 'applied') expect(applied, text).toBe(1)
      else if (!inDoubt) expect(applied, text).toBe(0)
      if (ends[0] === 'failed' && value === poison) expect(applied, text).toBe(0)
    }
  }

  /** The events, the callbacks, the books and the callers agree. */
  #checkSums(): void {
    const stats = this.consumer.stats()
    expect(this.#handed).toEqual(this.#told)
    const count = (failures: readonly UsageFailure[]): number =>
      failures.reduce((sum, { events }) => sum + events.length, 0)
    expect(stats).toMatchObject({
      offered: this.#known.size,
      succeeded: this.#heard.applied,
      failed: count(this.#told),
      dropped: this.#heard.dropped,
      rejected: this.#heard.rejected,
      retries: this.#heard.retried,
    })
    const refused = (watched: Watched<void> | undefined): boolean =>
      ['ERR_INVALID_EVENT', 'ERR_FULL', 'ERR_CLOSED'].includes(String(codeOf(watched?.reason)))
    const offeredInVain = [...this.#known.values()].filter(
      ({ watched, accepted, ends }) => watched === undefined && !accepted && ends.length === 0,
    ).length
    const publishedInVain = [...this.#known.values()].filter(
      ({ watched, ends }) => watched?.status === 'rejected' && refused(watched) && ends.length === 0,
    ).length
    // One whose journal failed as it was being closed was accepted first.
    if (this.#world.journalled) expect(stats.rejected).toBeLessThanOrEqual(offeredInVain + publishedInVain)
    else expect(stats.rejected).toBe(offeredInVain + publishedInVain)
  }
}

/** A key, and a time in its period. */
function keyOf(userId: number, quotaType: keyof typeof periodKinds, at: number): string {
  const date = new Date(at)
  const [year, month] = [date.getUTCFullYear(), date.getUTCMonth()]
  const from = {
    daily: Math.floor(at / day) * day,
    monthly: Date.UTC(year, month),
    total: Date.UTC(2026, 0),
  }[quotaType]
  return JSON.stringify([String(userId), quotaType, from])
}

function isOutcomeUnknown(error: unknown): boolean {
  return isSpillwayError(error) ? error.outcomeUnknown === true : (error as { code?: string }).code === 'ECONNRESET'
}
