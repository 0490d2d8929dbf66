import { checkDuration, checkOptions, failOption } from '../../core/options.js'
import type { HoldClaim, QuotaClaim, QuotaKey, QuotaUsage } from '../../core/ports.js'
import { maxUsage, problemOfText, problemOfValue } from '../../internal/usage.js'
import { problemOf } from './quota-batch.js'

/** The longest that anything is remembered, in milliseconds: a hundred years, which Redis can add to any date. */
export const longestMs = 3_155_760_000_000

/** Checks what is claimed, and throws an `InvalidEventError` or an `OptionError`. */
export function checkClaim(claim: QuotaClaim): void {
  checkOptions('claim', claim)
  const problem = problemOf(claim) ?? problemOfText('id', claim.id) ?? problemOfValue('value', claim.value)
  if (problem !== undefined) throw problem
  checkLimit('limit', claim.limit)
}

/** Checks what is to be held, as {@link checkClaim} does; returns it with what was left out, its time to live in whole milliseconds. */
export function checkHold(claim: HoldClaim): HoldClaim & { readonly settleLimit: number } {
  checkClaim(claim)
  const { settleLimit = claim.limit } = claim
  checkLimit('settleLimit', settleLimit)
  return { ...claim, settleLimit, ttlMs: Math.ceil(checkDuration('ttlMs', claim.ttlMs, 1, longestMs)) }
}

function checkLimit(field: string, limit: number): void {
  if (typeof limit !== 'number' || Number.isNaN(limit)) failOption(field, 'must be a number', limit)
}

/** What used and held may come to: a limit is never above what a number holds exactly. */
export function ceilingOf({ limit }: QuotaClaim): string {
  return String(Math.max(Math.min(limit, maxUsage), -1))
}

/** What a script says of use. */
export function usageOf(used: string | undefined, held: string | undefined): QuotaUsage {
  return { used: Number(used), held: Number(held) }
}

/** What the store keeps of whose a reservation is. */
export function ownerOf(text: unknown): QuotaKey | undefined {
  if (typeof text !== 'string') return undefined
  const [userId = '', quotaType = '', period = ''] = text.split('\0')
  return { userId, quotaType, period }
}
