import type { AcceptedUsage, BatchContext, QuotaKey, UsageBatch } from '../../core/ports.js'
import { type Batch, type Entry, noCohort } from '../../internal/batch.js'
import type { Cohort } from '../../internal/batch-books.js'
import type { ListNode } from '../../internal/linked-list.js'
import { totalsOf } from '../../internal/usage.js'

/** An entry that a worker was delivered and has in hand. */
export class Taken {
  readonly shard: number
  /** The entry's id in its stream. */
  readonly id: string
  /** The entry as it is: names and values in turn. */
  readonly fields: readonly string[]
  /** How often it was delivered before, as far as that counts. */
  readonly earlier: number
  /** Undefined where the entry can't be read. */
  readonly event: AcceptedUsage | undefined
  /** When it came, on the worker's clock. */
  at = 0
  /** Whether Redis counts this delivery. One that ends in an outage or in a close is taken back, unless the entry has failed alone. */
  counted = false
  /** Whether it failed while everything else succeeded. */
  failedAlone = false

  constructor(shard: number, id: string, fields: readonly string[], earlier: number, event: AcceptedUsage | undefined) {
    this.shard = shard
    this.id = id
    this.fields = fields
    this.earlier = earlier
    this.event = event
  }

  /** How often it was delivered, as far as that counts. */
  get deliveries(): number {
    return Math.max(1, this.earlier + Number(this.counted))
  }
}

/** Entries that are written together, under one batch id, for as long as it takes. */
export class Lot {
  readonly id: string
  readonly entries: readonly Taken[]
  readonly startedAt: number
  /** How often it was written, or that was tried. */
  attempts = 0
  /** How often Redis couldn't be told that it is written. */
  unsettled = 0
  /** How often it failed while others were written and none failed. */
  strikes = 0
  /** How the sink's record stood at its latest attempt. */
  wins: number
  losses: number
  /** Whether it is a part of one that failed: what befalls it tells little of the sink. */
  readonly isPart: boolean
  /** Whether its latest error said that it is no outage. */
  blamed = false
  /** What was refused of it, by place; undefined as long as it isn't written. */
  refused: ReadonlyMap<number, string> | undefined
  #batch: UsageBatch | undefined

  constructor(
    id: string,
    entries: readonly Taken[],
    at: { readonly now: number; readonly wins: number; readonly losses: number },
    isPart = false,
  ) {
    this.id = id
    this.entries = entries
    this.startedAt = at.now
    this.wins = at.wins
    this.losses = at.losses
    this.isPart = isPart
  }

  /** What the sink gets; the same each time. */
  get batch(): UsageBatch {
    if (this.#batch === undefined) {
      const events = this.entries.map(({ event }) => event as AcceptedUsage)
      const totals = Object.freeze(totalsOf(events).map((total) => Object.freeze(total)))
      this.#batch = Object.freeze({ id: this.id, events: Object.freeze(events), totals })
    }
    return this.#batch
  }

  /** Whose usage of what it changes. */
  get keys(): readonly QuotaKey[] {
    return this.batch.totals.map(({ userId, quotaType, period }) => ({ userId, quotaType, period }))
  }
}

/** An entry's place in the engine. */
export class Piece implements Entry {
  readonly taken: Taken
  /** Known once it was tried. */
  lot: Lot | undefined
  readonly units = 1
  readonly earlier = undefined
  readonly bytes = 0
  readonly key = undefined
  cohort: Cohort = noCohort
  batch: Batch<Entry> | undefined = undefined
  done = false
  place: ListNode<Entry> | undefined = undefined

  constructor(taken: Taken, lot?: Lot) {
    this.taken = taken
    this.lot = lot
  }
}

/** What the sink learns about an attempt at a lot: to the engine each of them is a batch of its own. */
export class LotContext implements BatchContext {
  readonly batchId: string
  readonly attempt: number
  readonly #context: BatchContext

  constructor(lot: Lot, context: BatchContext) {
    this.batchId = lot.id
    this.attempt = lot.attempts
    this.#context = context
  }

  get signal(): AbortSignal {
    return this.#context.signal
  }
}
