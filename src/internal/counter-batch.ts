import { StoreError } from '../core/errors.js'
import { shorten } from '../core/options.js'
import type { CounterIncrement, RefusedIncrement } from '../core/ports.js'
import { isStorable } from './storable.js'

/** How far a counter goes in either direction: as far as a number is exact. */
export const maxCounter: number = Number.MAX_SAFE_INTEGER

/** A sum that a batch adds to one counter. */
export interface CounterSum {
  readonly key: string
  readonly delta: number
}

/** Why a counter didn't take an increment. */
export function refusal(key: string): StoreError {
  return new StoreError(`counter ${show(key)} can't go beyond ${maxCounter} in either direction`, { retryable: false })
}

/** Why a delta can't be added to anything; undefined where it can. */
export function invalidIncrement({ key, delta }: CounterIncrement): StoreError | undefined {
  const problem = !Number.isSafeInteger(delta)
    ? `delta must be a whole number between -${maxCounter} and ${maxCounter}, got ${String(delta)} (${typeof delta})`
    : !isStorable(key)
      ? `key must be a string without NUL and half surrogate pairs, got ${show(String(key))} (${typeof key})`
      : undefined
  return problem === undefined ? undefined : new StoreError(problem, { retryable: false })
}

/** Parts sums that can be added from those that can't. */
export function validSums(sums: ReadonlyMap<string, number>): { valid: CounterSum[]; refused: RefusedIncrement[] } {
  const valid: CounterSum[] = []
  const refused: RefusedIncrement[] = []
  for (const [key, delta] of sums) {
    const error = invalidIncrement({ key, delta })
    if (error === undefined) valid.push({ key, delta })
    else refused.push({ key, delta, error })
  }
  return { valid, refused }
}

function show(key: string): string {
  return JSON.stringify(shorten(key))
}
