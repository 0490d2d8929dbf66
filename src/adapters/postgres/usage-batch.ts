import { StoreError } from '../../core/errors.js'
import { shorten } from '../../core/options.js'
import type { AcceptedUsage, RefusedUsage, UsageBatch, UsageTotal } from '../../core/ports.js'
import { problemOfKey } from '../../internal/store-arguments.js'
import {
  beyondRange,
  nameOfQuota,
  problemOfText,
  problemOfUsage,
  problemOfValue,
  refuseTotals,
  totalsOf,
  userText,
} from '../../internal/usage.js'

const dayMs = 86_400_000
/**
 * How near to midnight a request is noted on both days: two that come at the same moment, with timestamps on either side, meet then.
 * Otherwise an id that another statement is just noting is only seen on its own day.
 */
export const midnightMarginMs = 300_000

/** What a batch was refused of, as it is remembered: places counted from 1 among what was sent. */
export interface StoredRefusals {
  /** Totals beyond 2^53 - 1. */
  readonly totals?: readonly number[]
  /** Events whose sum was beyond 2^53 - 1. */
  readonly beyond?: readonly number[]
  /** Events that are too far away in time to be told apart. */
  readonly outside?: readonly number[]
}

/** A batch as a statement takes it: arrays, one value for each row. */
export interface UsageRows {
  /** How many rows there are: none where all of the batch is wrong in itself. */
  readonly size: number
  /** How many events the rows stand for. */
  readonly events: number
  /** The values of the statement, behind the batch id. */
  readonly values: readonly unknown[]
  /**
   * Every event that is refused: what is wrong in itself, and what the server refused.
   *
   * @throws StoreError when what is stored belongs to another batch.
   */
  refusals(stored: StoredRefusals): RefusedUsage[]
  /** How many events were counted, and how many are known already; `fresh` is how many the server took for new. */
  tally(stored: StoredRefusals, fresh: number): { readonly counted: number; readonly duplicates: number }
}

/** A batch by its totals. */
export class TotalRows implements UsageRows {
  events = 0
  readonly #batch: UsageBatch
  readonly #totals: UsageTotal[]
  readonly #users: string[] = []
  readonly #types: string[] = []
  readonly #periods: string[] = []
  readonly #values: number[] = []
  readonly #counts: number[] = []
  /** Events that are wrong in themselves, by their places. */
  readonly #wrong = new Map<number, Error>()

  constructor(batch: UsageBatch) {
    this.#batch = batch
    this.#totals = areSound(batch) ? [...batch.totals] : this.#addUp(batch)
    for (const { userId, quotaType, period, value, count } of this.#totals) {
      this.#users.push(userId)
      this.#types.push(quotaType)
      this.#periods.push(period)
      this.#values.push(value)
      this.#counts.push(count)
      this.events += count
    }
  }

  get size(): number {
    return this.#totals.length
  }

  get values(): readonly unknown[] {
    return [this.#users, this.#types, this.#periods, this.#values, this.#counts]
  }

  refusals({ totals = [] }: StoredRefusals): RefusedUsage[] {
    const refused = new Map<UsageTotal, Error>()
    for (const place of totals) {
      const total = partOf(this.#totals, place)
      refused.set(total, beyondRange(total))
    }
    const wrong = [...this.#wrong].map(([index, error]) => ({ index, error }))
    const beyond = refuseTotals(this.#batch, refused).filter(({ index }) => !this.#wrong.has(index))
    return [...wrong, ...beyond].sort((a, b) => a.index - b.index)
  }

  tally({ totals = [] }: StoredRefusals): ReturnType<UsageRows['tally']> {
    const beyond = totals.reduce((sum, place) => sum + (this.#counts[place - 1] as number), 0)
    return { counted: this.events - beyond, duplicates: 0 }
  }

  /** The sums without the events that are wrong: one of these, summed up with others, would take them along. */
  #addUp({ events }: UsageBatch): UsageTotal[] {
    const right = events.filter((event, index) => {
      const problem = problemOfEvent(event)
      if (problem !== undefined) this.#wrong.set(index, problem)
      return problem === undefined
    })
    return totalsOf(right)
  }
}

/** How events are told apart. */
export interface EventMarks {
  /** Whether an event is told by its request, where it has one. */
  readonly byRequest: boolean
  readonly retentionDays: number
  readonly spanDays: number
}

/** A batch by its events. */
export class EventRows implements UsageRows {
  readonly #batch: UsageBatch
  readonly #marks: EventMarks
  /** The days of its events, since the epoch. */
  readonly #days: number[] = []
  /** Of requests near midnight, the day on its other side. */
  readonly #otherDays: (number | null)[] = []
  /** Of each event that is sent, its place in the batch. */
  readonly #places: number[] = []
  readonly #users: string[] = []
  readonly #types: string[] = []
  readonly #periods: string[] = []
  readonly #ids: (string | null)[] = []
  readonly #values: number[] = []
  readonly #wrong: RefusedUsage[] = []

  constructor(batch: UsageBatch, marks: EventMarks) {
    this.#batch = batch
    this.#marks = marks
    batch.events.forEach((event, index) => {
      const problem = problemOfEvent(event)
      if (problem !== undefined) this.#wrong.push({ index, error: problem })
      else this.#add(event, index)
    })
  }

  get size(): number {
    return this.#places.length
  }

  get events(): number {
    return this.#places.length
  }

  get values(): readonly unknown[] {
    const { retentionDays, spanDays } = this.#marks
    const ids = [this.#ids, this.#days, this.#otherDays]
    return [this.#users, this.#types, this.#periods, ...ids, this.#values, retentionDays, spanDays]
  }

  /** The days on which ids are noted, since the epoch. */
  get days(): number[] {
    return [...new Set([...this.#days, ...this.#otherDays.filter((day) => day !== null)])]
  }

  refusals({ beyond = [], outside = [] }: StoredRefusals): RefusedUsage[] {
    if (beyond.length + outside.length + this.#wrong.length === 0) return []
    const refused = [...this.#wrong]
    for (const place of beyond) refused.push(this.#refuse(place, beyondRange))
    const { retentionDays } = this.#marks
    for (const place of outside) refused.push(this.#refuse(place, (event) => outsideRetention(event, retentionDays)))
    return refused.sort((a, b) => a.index - b.index)
  }

  tally({ beyond = [], outside = [] }: StoredRefusals, fresh: number): ReturnType<UsageRows['tally']> {
    const counted = fresh - beyond.length
    return { counted, duplicates: this.events - fresh - outside.length }
  }

  /** The ids of events, as the statement that removes them takes them. */
  idsOf(places: readonly number[]): unknown[] {
    const ids: string[] = []
    const users: string[] = []
    const types: string[] = []
    const days: number[] = []
    for (const place of places) {
      const id = this.#ids[place - 1]
      if (id === null || id === undefined) continue
      for (const day of [this.#days[place - 1] as number, this.#otherDays[place - 1] ?? null]) {
        if (day === null) continue
        ids.push(id)
        users.push(this.#users[place - 1] as string)
        types.push(this.#types[place - 1] as string)
        days.push(day)
      }
    }
    return [ids, users, types, days]
  }

  #add(event: AcceptedUsage, index: number): void {
    this.#places.push(index)
    this.#users.push(userText(event.userId))
    this.#types.push(event.quotaType)
    this.#periods.push(event.period)
    this.#ids.push(idOf(event, this.#marks.byRequest))
    this.#days.push(Math.floor(event.timestamp / dayMs))
    this.#otherDays.push(this.#otherDayOf(event))
    this.#values.push(event.value)
  }

  /** Only a request comes with another timestamp, from a client that sends it anew: a stream keeps that of its event. */
  #otherDayOf({ requestId, timestamp }: AcceptedUsage): number | null {
    const { byRequest, spanDays } = this.#marks
    if (!byRequest || requestId === undefined || spanDays === 0) return null
    const before = Math.floor((timestamp - midnightMarginMs) / dayMs)
    const after = Math.floor((timestamp + midnightMarginMs) / dayMs)
    if (before === after) return null
    return before === Math.floor(timestamp / dayMs) ? after : before
  }

  #refuse(place: number, error: (event: AcceptedUsage) => Error): RefusedUsage {
    const index = partOf(this.#places, place)
    return { index, error: error(this.#batch.events[index] as AcceptedUsage) }
  }
}

/** How the id of a request is noted: never the same as that of an event. */
export function requestText(id: string): string {
  return `r:${id}`
}

/** By what an event is told from others; null where only its batch is. */
function idOf({ requestId, id }: AcceptedUsage, byRequest: boolean): string | null {
  if (byRequest && requestId !== undefined) return requestText(requestId)
  return id === undefined ? null : `e:${id}`
}

function problemOfEvent(event: AcceptedUsage): Error | undefined {
  const { id, period } = event
  return (
    problemOfUsage(event) ??
    problemOfValue('timestamp', event.timestamp) ??
    problemOfText('period', period) ??
    (id === undefined ? undefined : problemOfText('id', id))
  )
}

/** Whether the sums can be taken as they are: each of them can be stored, if it fits, and no event falsifies one. */
function areSound({ totals, events }: UsageBatch): boolean {
  return (
    totals.every((total) => problemOfKey(total) === undefined) &&
    events.every(({ value }) => problemOfValue('value', value) === undefined)
  )
}

/** @param place - as it is stored, counted from 1. */
function partOf<T>(parts: readonly T[], place: number): T {
  const part = parts[place - 1]
  if (part !== undefined) return part
  throw new StoreError('this batch id was used before, for another batch', { retryable: false, outcomeUnknown: false })
}

function outsideRetention(event: AcceptedUsage, days: number): StoreError {
  const { timestamp, requestId, id } = event
  const what = `${nameOfQuota(event)}, ${JSON.stringify(shorten(requestId ?? id ?? ''))}`
  const when = new Date(timestamp).toISOString()
  return new StoreError(`${what} of ${when} can't be told apart: ids are remembered for ${days} days`, {
    retryable: false,
  })
}
