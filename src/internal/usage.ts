import { InvalidEventError, StoreError } from '../core/errors.js'
import { describeValue, failOption, shorten } from '../core/options.js'
import type {
  AcceptedUsage,
  QuotaPeriod,
  RefusedUsage,
  UsageBatch,
  UsageEvent,
  UsageTotal,
  UserId,
} from '../core/ports.js'
import { isStorable } from './storable.js'

/** The greatest value and the greatest sum: as far as a number is exact. */
export const maxUsage: number = Number.MAX_SAFE_INTEGER
/** How long an id may be: three of them and a date still fit an entry of a B-tree in PostgreSQL. */
export const maxIdLength = 256
/** What comes before it, in 1973, is a time in seconds taken for one in milliseconds. */
const earliestTimestamp = 100_000_000_000
/** The end of the year 9999, the last one of four digits. */
const latestTimestamp = 253_402_300_799_999

/** Every value of {@link QuotaPeriod}. */
export const quotaPeriods: readonly QuotaPeriod[] = ['day', 'month', 'total']

/** A period as a span of time: from `from` up to, not including, `until`, in milliseconds since the epoch. */
export interface PeriodSpan {
  /** `2026-11-20`, `2026-11` or `total`. */
  readonly label: string
  readonly from: number
  readonly until: number
}

/** The period of a kind in which a time lies, in UTC. */
export function periodAt(kind: QuotaPeriod, at: number): PeriodSpan {
  if (kind === 'total') return { label: 'total', from: Number.NEGATIVE_INFINITY, until: Number.POSITIVE_INFINITY }
  const date = new Date(at)
  const [year, month] = [date.getUTCFullYear(), date.getUTCMonth()]
  if (kind === 'month') {
    return { label: date.toISOString().slice(0, 7), from: Date.UTC(year, month), until: Date.UTC(year, month + 1) }
  }
  const from = Date.UTC(year, month, date.getUTCDate())
  return { label: date.toISOString().slice(0, 10), from, until: from + 86_400_000 }
}

/** A user's id as text, by which users are told apart. */
export function userText(userId: UserId): string {
  return typeof userId === 'string' ? userId : String(userId)
}

/** A time as milliseconds since the epoch. */
export function timeOf(timestamp: number | Date): number {
  return typeof timestamp === 'number' ? timestamp : Number(timestamp)
}

/** Checks a time that is no event's, and returns it in milliseconds since the epoch. */
export function checkTime(field: string, time: number | Date): number {
  const at = isTime(time) ? timeOf(time) : Number.NaN
  // As far as a Date goes, in either direction.
  if (Math.abs(at) <= 8.64e15) return at
  return failOption(field, 'must be a Date or milliseconds since the epoch', time)
}

/** A Date by its shape: dates come from other realms. */
function isTime(time: number | Date): boolean {
  return typeof time === 'number' || typeof (time as Date | null | undefined)?.getTime === 'function'
}

/** What is wrong with an event, the first field of it; undefined where it is right. */
export function problemOfUsage(event: UsageEvent): InvalidEventError | undefined {
  if (typeof event !== 'object' || event === null) return invalid('event', 'must be an object', event)
  const { userId, quotaType, value, timestamp, requestId, metadata } = event
  return (
    problemOfUser(userId) ??
    problemOfText('quotaType', quotaType) ??
    problemOfValue('value', value) ??
    (timestamp === undefined ? undefined : problemOfTime(timestamp)) ??
    (requestId === undefined ? undefined : problemOfText('requestId', requestId)) ??
    (metadata === undefined || (typeof metadata === 'object' && metadata !== null)
      ? undefined
      : invalid('metadata', 'must be an object', metadata))
  )
}

/** What is wrong with a user's id. */
export function problemOfUser(userId: UserId): InvalidEventError | undefined {
  if (typeof userId === 'string') return problemOfText('userId', userId)
  if (Number.isSafeInteger(userId)) return undefined
  if (typeof userId === 'bigint' && String(userId).length <= maxIdLength) return undefined
  return invalid('userId', `must be a text of 1 to ${maxIdLength} characters, a safe integer or a bigint`, userId)
}

/** What is wrong with an id or a name. */
export function problemOfText(field: string, text: string): InvalidEventError | undefined {
  if (isStorable(text) && text.length > 0 && text.length <= maxIdLength) return undefined
  return invalid(field, `must be a text of 1 to ${maxIdLength} characters without NUL and half surrogate pairs`, text)
}

/** What is wrong with an amount. */
export function problemOfValue(field: string, value: number): InvalidEventError | undefined {
  if (typeof value === 'number' && value >= 0 && value <= maxUsage) return undefined
  return invalid(field, `must be a number between 0 and ${maxUsage}`, value)
}

function problemOfTime(timestamp: number | Date): InvalidEventError | undefined {
  const at = isTime(timestamp) ? timeOf(timestamp) : Number.NaN
  if (at >= earliestTimestamp && at <= latestTimestamp) return undefined
  return invalid(
    'timestamp',
    `must be a Date or milliseconds since the epoch, between ${earliestTimestamp} and ${latestTimestamp}`,
    timestamp,
  )
}

function invalid(field: string, rule: string, value: unknown): InvalidEventError {
  return new InvalidEventError(field, `${field} ${rule}, got ${describeValue(value)}`)
}

/** Completes an event that is right, and makes it its own: what the caller does to his object changes nothing. */
export function acceptUsage(
  event: UsageEvent,
  now: number,
  periodOf: (quotaType: string) => QuotaPeriod,
  id?: string,
): AcceptedUsage {
  const { userId, quotaType, value, requestId, metadata } = event
  const timestamp = event.timestamp === undefined ? now : timeOf(event.timestamp)
  const period = periodAt(periodOf(quotaType), timestamp).label
  return frozenUsage({ userId, quotaType, value, timestamp, period, requestId, metadata, id })
}

/** An event of its own, which has no field that is undefined. */
export function frozenUsage(given: AcceptedUsage): AcceptedUsage {
  const { userId, quotaType, value, timestamp, period, requestId, metadata, id } = given
  const event: { -readonly [Name in keyof AcceptedUsage]: AcceptedUsage[Name] } = {
    userId,
    quotaType,
    value,
    timestamp,
    period,
  }
  if (requestId !== undefined) event.requestId = requestId
  if (metadata !== undefined) event.metadata = metadata
  if (id !== undefined) event.id = id
  return Object.freeze(event)
}

/** Sums events by user, quota type and period. */
export function totalsOf(events: readonly AcceptedUsage[]): UsageTotal[] {
  const totals = new Map<string, { -readonly [Name in keyof UsageTotal]: UsageTotal[Name] }>()
  for (const { userId, quotaType, period, value } of events) {
    const user = userText(userId)
    const key = keyText(user, quotaType, period)
    const total = totals.get(key)
    if (total === undefined) totals.set(key, { userId: user, quotaType, period, value, count: 1 })
    else {
      total.value += value
      total.count++
    }
  }
  return [...totals.values()]
}

/** One text for a key, which no other key has: NUL is in no id. */
export function keyText(userId: string, quotaType: string, period: string): string {
  return `${userId}\0${quotaType}\0${period}`
}

/** What messages call a user's quota. */
export function nameOfQuota({ userId, quotaType }: { readonly userId: UserId; readonly quotaType: string }): string {
  return `${quotaType} of user ${JSON.stringify(shorten(userText(userId)))}`
}

/** Why a key's events can't be counted: the sum would pass {@link maxUsage}. */
export function beyondRange(key: Pick<AcceptedUsage, 'userId' | 'quotaType' | 'period'>): StoreError {
  return new StoreError(`${nameOfQuota(key)} in ${key.period} can't go beyond ${maxUsage}`, { retryable: false })
}

/** The events of totals that a sink refused. */
export function refuseTotals(batch: UsageBatch, refused: ReadonlyMap<UsageTotal, Error>): RefusedUsage[] {
  if (refused.size === 0) return []
  const errors = new Map<string, Error>()
  for (const [{ userId, quotaType, period }, error] of refused) errors.set(keyText(userId, quotaType, period), error)
  return batch.events.flatMap(({ userId, quotaType, period }, index) => {
    const error = errors.get(keyText(userText(userId), quotaType, period))
    return error === undefined ? [] : [{ index, error }]
  })
}

/**
 * Reads what a sink answered: its refusals by the index of the event, undefined for none. What isn't a list of refusals, say the
 * rows that a query happened to return, refuses nothing and is told to `onWrong`.
 */
export function refusalsOf(
  answer: unknown,
  events: number,
  onWrong: () => void,
): ReadonlyMap<number, Error> | undefined {
  if (!Array.isArray(answer) || answer.length === 0) return undefined
  const refused = new Map<number, Error>()
  for (const item of answer as readonly (Partial<RefusedUsage> | null | undefined)[]) {
    const { index, error } = item ?? {}
    if (
      !Number.isInteger(index) ||
      !((index as number) >= 0 && (index as number) < events) ||
      !(error instanceof Error)
    ) {
      onWrong()
      return undefined
    }
    refused.set(index as number, error)
  }
  return refused
}
