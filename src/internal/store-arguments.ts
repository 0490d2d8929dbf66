import type { InvalidEventError } from '../core/errors.js'
import { checkDuration, failOption } from '../core/options.js'
import type { BatchContext, HoldClaim, QuotaClaim, QuotaKey, UsageBatch } from '../core/ports.js'
import { problemOfText, problemOfValue } from './usage.js'

/** The longest that anything of a quota is kept, in milliseconds: a hundred years, which every store can add to any date. */
export const longestMs = 3_155_760_000_000

/** Checks what a batch function hands on to a store. */
export function checkContext(context: BatchContext): BatchContext {
  if (typeof context?.signal?.throwIfAborted !== 'function') {
    failOption('context', 'must be the context that the batch function gets, with its signal', context)
  }
  return context
}

/** Checks a context whose id tells batches apart: without one, which a spread leaves behind, all of them would be taken for one. */
export function checkIdentified(context: BatchContext): BatchContext {
  const { batchId } = checkContext(context)
  if (typeof batchId !== 'string' || batchId === '') {
    failOption('context.batchId', 'must be the id that the batch function gets', batchId)
  }
  return context
}

/** Checks a list that a store is to apply or to look up. */
export function checkList<T>(field: string, list: readonly T[]): readonly T[] {
  if (!Array.isArray(list)) failOption(field, 'must be an array', list)
  return list
}

/** Checks sums of counters: a Map, of whatever realm. */
export function checkSums(sums: ReadonlyMap<string, number>): ReadonlyMap<string, number> {
  if (typeof sums?.get !== 'function' || typeof sums[Symbol.iterator] !== 'function') {
    failOption('sums', 'must be a Map of counters and what is added to each', sums)
  }
  return sums
}

/** Checks that a batch of uses is one; its id is the store's matter. */
export function checkUsageBatch(batch: UsageBatch): UsageBatch {
  if (!Array.isArray(batch?.events) || !Array.isArray(batch.totals)) {
    failOption('batch', 'must be a batch of a QuotaConsumer, with its events and totals', batch)
  }
  return batch
}

/** What is wrong with a key of a quota. */
export function problemOfKey({ userId, quotaType, period }: QuotaKey): InvalidEventError | undefined {
  return problemOfText('userId', userId) ?? problemOfText('quotaType', quotaType) ?? problemOfText('period', period)
}

/** Checks what is claimed, and throws an `InvalidEventError` or an `OptionError`. */
export function checkClaim(claim: QuotaClaim): void {
  if (typeof claim !== 'object' || claim === null) failOption('claim', 'must be an object', claim)
  const problem = problemOfKey(claim) ?? problemOfText('id', claim.id) ?? problemOfValue('value', claim.value)
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
