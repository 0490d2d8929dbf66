import type { AcceptedUsage, UsageBatch, UsageTotal, UserId } from '../core/ports.js'
import { type Batch, type Entry, noCohort } from '../internal/batch.js'
import type { Cohort } from '../internal/batch-books.js'
import type { ListNode } from '../internal/linked-list.js'
import { frozenUsage } from '../internal/usage.js'
import type { PendingCell } from './pending-usage.js'

/** One accepted event. */
export interface UsageEntry extends Entry {
  /** Where it is pending. It is another one when it had to wait for room. */
  cell: PendingCell
  readonly userId: UserId
  readonly value: number
  readonly timestamp: number
  readonly requestId: string | undefined
  readonly metadata: Readonly<Record<string, unknown>> | undefined
}

/** An event that only needs a place in the queue. */
export class PlainUse implements UsageEntry {
  declare cohort: Cohort
  declare done: boolean
  cell: PendingCell
  readonly userId: UserId
  readonly value: number
  readonly timestamp: number
  readonly requestId: string | undefined
  readonly metadata: Readonly<Record<string, unknown>> | undefined

  constructor(
    cell: PendingCell,
    userId: UserId,
    value: number,
    timestamp: number,
    requestId: string | undefined,
    metadata: Readonly<Record<string, unknown>> | undefined,
  ) {
    this.cohort = noCohort
    this.done = false
    this.cell = cell
    this.userId = userId
    this.value = value
    this.timestamp = timestamp
    this.requestId = requestId
    this.metadata = metadata
  }

  /** Nobody takes it out of its batch again. */
  get batch(): Batch<Entry> | undefined {
    return undefined
  }

  set batch(_batch: Batch<Entry> | undefined) {}

  get place(): ListNode<Entry> | undefined {
    return undefined
  }

  set place(_place: ListNode<Entry> | undefined) {}

  get units(): number {
    return 1
  }

  get earlier(): undefined {
    return undefined
  }

  get bytes(): number {
    return 0
  }

  get key(): undefined {
    return undefined
  }
}

/** An event that can be taken out of the queue again: dropped as the oldest, or because its journal failed. */
export class TrackedUse implements UsageEntry {
  cohort: Cohort = noCohort
  done = false
  batch: Batch<Entry> | undefined = undefined
  place: ListNode<Entry> | undefined = undefined
  readonly units = 1
  readonly earlier = undefined
  readonly bytes = 0
  readonly key = undefined
  /** Its place in the journal, once it is durable there. */
  position: number | undefined = undefined
  /** Settles once the journal has it or has failed; never rejects. Undefined where nobody need wait. */
  journalled: Promise<void> | undefined = undefined
  /** The batch that it was in when an earlier process ended. */
  batchId: string | undefined = undefined
  cell: PendingCell
  readonly userId: UserId
  readonly value: number
  readonly timestamp: number
  readonly requestId: string | undefined
  readonly metadata: Readonly<Record<string, unknown>> | undefined

  constructor(
    cell: PendingCell,
    userId: UserId,
    value: number,
    timestamp: number,
    requestId: string | undefined,
    metadata: Readonly<Record<string, unknown>> | undefined,
  ) {
    this.cell = cell
    this.userId = userId
    this.value = value
    this.timestamp = timestamp
    this.requestId = requestId
    this.metadata = metadata
  }
}

/** The event of an entry, for whoever gets to see it. */
export function eventOf({ cell, userId, value, timestamp, requestId, metadata }: UsageEntry): AcceptedUsage {
  const { quotaType, period } = cell
  return frozenUsage({ userId, quotaType, value, timestamp, period, requestId, metadata })
}

/** The id of entries that were one batch in an earlier process. */
export function formerIdOf(entries: readonly UsageEntry[]): string | undefined {
  const id = (entries[0] as Partial<TrackedUse> | undefined)?.batchId
  return id !== undefined && (entries as readonly TrackedUse[]).every(({ batchId }) => batchId === id) ? id : undefined
}

/** What a sink refused of a batch. */
export type Refusals = ReadonlyMap<UsageEntry, Error>

/** A batch, and what has become of it. */
export class EntryBatch {
  /** As the sink sees it, the same at every attempt. */
  readonly usage: UsageBatch
  /** What it is made of, in the order of its events. */
  readonly entries: readonly UsageEntry[]
  /** Whether it came back from the journal, as it was in an earlier process. */
  former = false
  /** Whether the journal knows which events it has. */
  assigned = false
  /** Whether it was given up. */
  failed = false
  /** What the sink refused. */
  refused: Refusals | undefined

  constructor(id: string, entries: readonly UsageEntry[]) {
    this.usage = usageOf(id, entries)
    this.entries = entries
  }
}

/** The events are made when first asked for: many sinks only want the totals. */
function usageOf(id: string, entries: readonly UsageEntry[]): UsageBatch {
  let events: readonly AcceptedUsage[] | undefined
  return Object.freeze({
    id,
    get events() {
      events ??= Object.freeze(entries.map(eventOf))
      return events
    },
    totals: totalsOfEntries(entries),
  })
}

function totalsOfEntries(entries: readonly UsageEntry[]): readonly UsageTotal[] {
  const cells: PendingCell[] = []
  const totals: UsageTotal[] = []
  for (const { cell, value } of entries) {
    const { total } = cell
    if (total === undefined) {
      const { userId, quotaType, period } = cell
      cell.total = { userId, quotaType, period, value, count: 1 }
      totals.push(cell.total)
      cells.push(cell)
    } else {
      total.value += value
      total.count++
    }
  }
  for (const cell of cells) cell.total = undefined
  for (const total of totals) Object.freeze(total)
  return Object.freeze(totals)
}
