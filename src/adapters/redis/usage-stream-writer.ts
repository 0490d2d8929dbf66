import type { Clock } from '../../core/clock.js'
import { describeError, warn } from '../../core/events.js'
import type { BatchContext, UsageSink } from '../../core/ports.js'
import { backoffMs, type RetryPolicy } from '../../core/retry.js'
import { batchId } from '../../internal/batch-id.js'
import type { BatchPolicy } from '../../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../../internal/batch-queue.js'
import { refusalsOf } from '../../internal/usage.js'
import type { UsageOutcome } from './usage-stream-books.js'
import type { UsageHealth } from './usage-stream-health.js'
import type { UsageIntake } from './usage-stream-intake.js'
import { Lot, LotContext, Piece, type Taken } from './usage-stream-lot.js'
import { UsageTrial, type Verdict } from './usage-stream-trial.js'

/** What is done about a batch that couldn't be written. */
export type UsageWriteFailure = 'retry' | 'split' | 'dead-letter' | 'give-back'

/** How a worker writes. */
export interface WriterSetting {
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
  readonly seeded: boolean
  readonly policy: BatchPolicy
  readonly retry: RetryPolicy
  /** How often an event fails by itself while others succeed, before it is given up. */
  readonly maxFailures: number
}

/** Who is told how it goes. */
export interface WriterListener {
  readonly health: UsageHealth
  /** A lot is in the sink. */
  onApplied(lot: Lot, refused: number): void
  onWriteFailed(lot: Lot, error: unknown, next: UsageWriteFailure, delayMs: number): void
  onRedisFailed(shard: number, error: unknown): void
  /** An entry is done, or given back; `reason` is why it is dead. */
  onSettled(entry: Taken, outcome: UsageOutcome, reason?: string): void
  /** There may be room for more. */
  onRoom(): void
}

const nextOf: Readonly<Record<Verdict, UsageWriteFailure>> = { retry: 'retry', split: 'split', bury: 'dead-letter' }

/**
 * The writing half of a worker: puts what was delivered into lots, writes those to the sink, and acknowledges them. To the engine each
 * attempt at a lot is a batch of its own, so that a lot which waits for its next attempt takes no slot.
 *
 *     admit ──► lot ──► sink ──ok───► acknowledge, refused events to the dead letters ──► settled
 *                ▲       └─error──► trial: retry after a while │ split in halves │ bury: acknowledge as a dead letter
 *                └──────────────────────────┴──────────────────┘
 */
export class UsageWriter {
  readonly #sink: UsageSink
  readonly #intakes: readonly UsageIntake[]
  readonly #setting: WriterSetting
  readonly #listener: WriterListener
  readonly #queue: BatchQueue<Piece>
  readonly #trial: UsageTrial
  /** Lots that failed and wait for their next attempt, and how not to wait any longer. */
  readonly #waiting = new Map<Lot, () => void>()
  #waitingEvents = 0
  /** Entries that were delivered often and are tried one at a time. */
  readonly #suspects: Taken[] = []
  #onTrial: Lot | undefined
  /** The suspect on trial is being counted. */
  #charging: Promise<void> | undefined
  #failedBatches = 0
  #warnedOfAnswer = false
  #closing = false
  /** Given up: what still comes changes nothing here. */
  #over = false

  constructor(sink: UsageSink, intakes: readonly UsageIntake[], setting: WriterSetting, listener: WriterListener) {
    this.#sink = sink
    this.#intakes = intakes
    this.#setting = setting
    this.#listener = listener
    this.#trial = new UsageTrial(setting.retry.retryable, setting.maxFailures)
    this.#queue = new BatchQueue<Piece>(setting, setting.policy, this.#face())
  }

  /** Events of lots that wait for their next attempt. */
  get waitingEvents(): number {
    return this.#waitingEvents
  }

  /** Attempts that failed. */
  get failedBatches(): number {
    return this.#failedBatches
  }

  /** What the engine counted, in attempts. */
  engineStats(): ReturnType<BatchQueue<Piece>['books']['stats']> {
    return this.#queue.books.stats(this.#setting.name, this.#queue.running)
  }

  // ── take in ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Takes an entry in, to be written together with others, or alone if it is a suspect. */
  admit(entry: Taken): void {
    if (!this.#intakeOf(entry).isSuspect(entry)) {
      this.#queue.offer(new Piece(entry))
      return
    }
    this.#suspects.push(entry)
    this.#tryNextSuspect()
  }

  /** Gives an entry up. */
  bury(entry: Taken, reason: string): void {
    this.#bury(this.#newLot([entry]), reason)
  }

  /** Lets go what gathers; what waits after a failure still does. */
  flush(): void {
    void this.#queue.flush()
  }

  /** From now on whatever can't be written at once is given back. */
  beginClose(): void {
    this.#closing = true
    this.#giveBack(this.#suspects.splice(0))
    for (const lot of [...this.#waiting.keys()]) {
      this.#stopWaiting(lot)
      this.#try(lot)
    }
  }

  /** Resolves once nothing is in hand any more. */
  async drain(): Promise<void> {
    await this.#charging
    await this.#queue.drain()
  }

  abandon(): void {
    this.#closing = true
    this.#over = true
    for (const lot of [...this.#waiting.keys()]) this.#stopWaiting(lot)
    this.#suspects.length = 0
    this.#queue.abandon()
  }

  /**
   * Tries suspects one at a time, each alone, and counts the delivery just before: should it be the end of the process, that is counted
   * against this one, and not against all that the process had in hand.
   */
  #tryNextSuspect(): void {
    if (this.#onTrial !== undefined || this.#closing) return
    const entry = this.#suspects.shift()
    if (entry === undefined) return
    const lot = this.#newLot([entry])
    this.#onTrial = lot
    this.#charging = this.#intakeOf(entry)
      .charge(entry)
      .catch((error: unknown) => this.#listener.onRedisFailed(entry.shard, error))
      .then(() => {
        this.#charging = undefined
        if (this.#closing) this.#giveBack([entry])
        else this.#try(lot)
        // It was finished elsewhere meanwhile, or let go.
        if (!this.#intakeOf(entry).has(entry)) this.#endTrial(lot)
      })
  }

  #endTrial(lot: Lot | undefined): void {
    if (lot !== this.#onTrial) return
    this.#onTrial = undefined
    this.#tryNextSuspect()
  }

  // ── write ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #face(): BatchFace<Piece> {
    return {
      call: (pieces, context) => this.#write(pieces, context),
      idOf: ([first]) => first?.lot?.id,
      complete: () => true,
      fail: () => undefined,
      onFailed: (_, pieces, error) => {
        if (!this.#over) this.#recordFailed((pieces[0] as Piece).lot as Lot, error)
      },
      onSettled: ({ entries }) => this.#endTrial((entries[0] as Piece).lot),
    }
  }

  async #write(pieces: readonly Piece[], context: BatchContext): Promise<void> {
    const [first] = pieces as readonly [Piece]
    first.lot ??= this.#newLot(
      pieces.map(({ taken }) => taken),
      context.batchId,
    )
    const { lot } = first
    if (lot.refused === undefined) {
      lot.attempts++
      const answer = await this.#sink.write(lot.batch, new LotContext(lot, context))
      // Another attempt, or this one after its time was up, may have come first.
      if (lot.refused === undefined) this.#recordWritten(lot, answer)
    }
    await this.#settle(lot, lot.refused as ReadonlyMap<number, string>)
  }

  async #settle(lot: Lot, refused: ReadonlyMap<number, string>): Promise<void> {
    const { health } = this.#listener
    const settling = this.#intakes.map(async (intake) => {
      const done: Taken[] = []
      const dead: { taken: Taken; reason: string }[] = []
      for (const [index, taken] of lot.entries.entries()) {
        if (taken.shard !== intake.shard) continue
        const reason = refused.get(index)
        if (reason === undefined) done.push(taken)
        else dead.push({ taken, reason })
      }
      if (done.length + dead.length === 0) return
      const moved = new Set(await intake.settle(done, dead))
      health.succeed(intake.shard)
      if (this.#over) return
      for (const entry of done) this.#listener.onSettled(entry, 'applied')
      for (const { taken, reason } of dead) {
        this.#listener.onSettled(taken, moved.has(taken.id) ? 'dead' : 'elsewhere', reason)
      }
    })
    const failed = (await Promise.allSettled(settling)).find(({ status }) => status === 'rejected')
    this.#listener.onRoom()
    if (failed !== undefined) throw (failed as PromiseRejectedResult).reason
  }

  /** Tries a lot again, or for the first time. */
  #try(lot: Lot): void {
    // An attempt that was given up may have ended well since.
    const entries = lot.entries.filter((entry) => this.#intakeOf(entry).has(entry))
    if (entries.length > 0) this.#queue.adopt(entries.map((entry) => new Piece(entry, lot)))
  }

  #wait(lot: Lot, delayMs: number): void {
    const { clock } = this.#setting
    const go = (): void => {
      this.#stopWaiting(lot)
      this.#try(lot)
    }
    this.#waitingEvents += lot.entries.length
    this.#waiting.set(lot, clock.setTimer(go, delayMs, { keepAlive: false }))
    this.#listener.onRoom()
  }

  #stopWaiting(lot: Lot): void {
    this.#waiting.get(lot)?.()
    if (this.#waiting.delete(lot)) this.#waitingEvents -= lot.entries.length
  }

  #split({ entries }: Lot): void {
    const middle = Math.ceil(entries.length / 2)
    for (const half of [entries.slice(0, middle), entries.slice(middle)]) this.#try(this.#newLot(half, undefined, true))
  }

  #bury(lot: Lot, reason: string): void {
    lot.refused = new Map([[0, reason]])
    this.#try(lot)
  }

  #giveBack(entries: readonly Taken[]): void {
    for (const entry of entries) this.#listener.onSettled(entry, 'returned')
  }

  #newLot(entries: readonly Taken[], id?: string, isPart?: boolean): Lot {
    const { wins, losses } = this.#trial
    const { clock } = this.#setting
    return new Lot(id ?? batchId(clock.wallNow()), entries, { now: clock.now(), wins, losses }, isPart)
  }

  #intakeOf({ shard }: Taken): UsageIntake {
    return this.#intakes[shard] as UsageIntake
  }

  // ── record ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #recordWritten(lot: Lot, answer: unknown): void {
    const refused = this.#reasonsOf(answer, lot.entries.length)
    lot.refused = refused
    this.#trial.wins++
    const { health } = this.#listener
    const wasWell = health.isWell('sink')
    health.succeed('sink')
    this.#listener.onApplied(lot, refused.size)
    if (this.#over) return
    for (const other of [...this.#waiting.keys()]) {
      // What was held up by an outage goes on; what is at fault fails again, and now that counts.
      if (wasWell && !(other.blamed && other.entries.length === 1)) continue
      this.#stopWaiting(other)
      this.#try(other)
    }
  }

  #recordFailed(lot: Lot, error: unknown): void {
    if (lot.refused !== undefined) return this.#recordUnsettled(lot, error)
    this.#failedBatches++
    const { verdict, alone } = this.#trial.judge(lot, error)
    if (alone) for (const entry of lot.entries) entry.failedAlone ||= lot.entries.length === 1
    else {
      this.#listener.health.fail('sink', error)
      this.#refund(lot.entries)
    }
    const next = this.#closing && verdict !== 'bury' ? 'give-back' : nextOf[verdict]
    const { retry, random } = this.#setting
    const delayMs = next === 'retry' ? backoffMs(lot.attempts, retry, random) : 0
    this.#listener.onWriteFailed(lot, error, next, delayMs)
    if (next === 'give-back') this.#giveBack(lot.entries)
    else if (next === 'retry') this.#wait(lot, delayMs)
    else if (next === 'dead-letter') this.#bury(lot, `the sink failed: ${textOf(error)}`)
    else this.#split(lot)
  }

  /** It is written: only Redis doesn't know yet. */
  #recordUnsettled(lot: Lot, error: unknown): void {
    const { retry, random } = this.#setting
    this.#listener.onRedisFailed((lot.entries[0] as Taken).shard, error)
    if (this.#closing) this.#giveBack(lot.entries)
    else this.#wait(lot, backoffMs(++lot.unsettled, retry, random))
  }

  /** Why the sink refused events, by their place. */
  #reasonsOf(answer: unknown, events: number): ReadonlyMap<number, string> {
    const reasons = new Map<number, string>()
    for (const [index, error] of refusalsOf(answer, events, () => this.#warnOfAnswer()) ?? []) {
      reasons.set(index, `the sink refused it: ${textOf(error)}`)
    }
    return reasons
  }

  #warnOfAnswer(): void {
    if (this.#warnedOfAnswer) return
    this.#warnedOfAnswer = true
    const { name } = this.#setting
    warn(`${name}: its sink answered with a list that isn't one of refused events, so nothing counts as refused`)
  }

  #refund(entries: readonly Taken[]): void {
    for (const intake of this.#intakes) {
      const own = entries.filter(({ shard }) => shard === intake.shard)
      intake.refund(own).catch((error: unknown) => this.#listener.onRedisFailed(intake.shard, error))
    }
  }
}

/** An error in one line that is worth keeping in Redis. */
function textOf(error: unknown): string {
  const [line] = describeError(error).split('\n') as [string]
  return line.length > 1000 ? `${line.slice(0, 999)}…` : line
}
