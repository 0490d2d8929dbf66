import { QuotaExceededError } from '../core/errors.js'
import { shorten } from '../core/options.js'
import type { QuotaKey, QuotaUsage } from '../core/ports.js'
import { maxUsage } from '../internal/usage.js'

/** What is known of a user's quota in a period. */
export interface QuotaBalance extends QuotaUsage {
  /** What may be used. */
  readonly limit: number
  /** What the store has counted. */
  readonly used: number
  /** What is reserved. */
  readonly held: number
  /** What this service and its consumer took and isn't in the store yet. While it is being written, it may be in `used` already too. */
  readonly pending: number
  /** What is left: `limit - used - held - pending`, and 0 where that is less. */
  readonly remaining: number
  /** The period, in UTC: `2026-11-20`, `2026-11` or `total`. */
  readonly period: string
  /** When the next period begins, in milliseconds since the epoch; undefined for one without an end. */
  readonly resetsAt?: number | undefined
}

/** What is used up of a limit. */
export interface QuotaTerms extends QuotaUsage {
  readonly limit: number
  readonly pending: number
}

/** A key whose period has an end, or never ends. */
export interface TimedKey extends QuotaKey {
  /** When the next period begins, in milliseconds since the epoch, or `Infinity`. */
  readonly until: number
}

/** What a key's limit and usage come to. */
export function balanceOf({ period, until }: TimedKey, { limit, used, held, pending }: QuotaTerms): QuotaBalance {
  const remaining = Math.max(0, limit - used - held - pending)
  const balance = { limit, used, held, pending, remaining, period }
  return until === Number.POSITIVE_INFINITY ? balance : { ...balance, resetsAt: until }
}

/** Whether a value fits, as stores see it. */
export function fits(value: number, { limit, used, held, pending }: QuotaTerms): boolean {
  return used + held + pending + value <= Math.min(limit, maxUsage)
}

/** @param doubted - whether an earlier attempt that got no answer may count it yet. */
export function exceededError(
  name: string,
  { userId, quotaType, period, until }: TimedKey,
  value: number,
  terms: QuotaTerms,
  doubted: boolean,
): QuotaExceededError {
  const { limit, used, held, pending } = terms
  const resetsAt = until === Number.POSITIVE_INFINITY ? undefined : until
  const parts = [`${used} used`, `${held} held`, ...(pending > 0 ? [`${pending} pending here`] : [])]
  return new QuotaExceededError(
    `${name}: ${value} of ${shorten(quotaType)} is more than is left to user ${JSON.stringify(shorten(userId))} ` +
      `in ${period}: the limit is ${limit}, with ${parts.join(', ')}`,
    { userId, quotaType, value, limit, used, held, pending, resetsAt },
    { outcomeUnknown: doubted },
  )
}
