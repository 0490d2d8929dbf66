import { type Clock, systemClock } from '../core/clock.js'
import { checkCount, checkDuration, checkOptionalFunction, checkOptions, failOption, valueOr } from '../core/options.js'

/**
 * Says whether a fault may strike a call.
 *
 * @param call - the number of the call, counted from 1.
 */
export type FaultCondition = (call: number) => boolean

/** How often a fault strikes. */
export interface FaultOdds {
  /** Which calls it may strike at all: {@link everyNth}, {@link outage}, or a function of yours. The default is all. */
  when?: FaultCondition | undefined
  /** Where chance comes from; a `seededRandom` makes a run repeatable. The default is `Math.random`. */
  random?: (() => number) | undefined
}

/** Lets a fault strike every n-th call: of `everyNth(3)` the 3rd, the 6th and so on. */
export function everyNth(n: number): FaultCondition {
  checkCount('n', n)
  return (call) => call % n === 0
}

/** Options of {@link outage}. */
export interface OutageOptions {
  /** When it begins, in milliseconds after `outage` was called. The default is 0. */
  fromMs?: number | undefined
  /** When it is over, in milliseconds after `outage` was called. */
  toMs: number
  /** After how many milliseconds it comes again, at least `toMs`. The default is never. */
  everyMs?: number | undefined
  /** Where time comes from. The default is `systemClock`. */
  clock?: Clock | undefined
}

/**
 * Lets a fault strike while an outage lasts, once or again and again.
 *
 * @throws OptionError when an option is wrong.
 */
export function outage(options: OutageOptions): FaultCondition {
  if (options === undefined) failOption('options', 'must be an object', options)
  checkOptions('options', options)
  const fromMs = checkDuration('fromMs', valueOr(options.fromMs, 0))
  const toMs = checkDuration('toMs', options.toMs, fromMs)
  const everyMs = options.everyMs === undefined ? Number.POSITIVE_INFINITY : options.everyMs
  if (options.everyMs !== undefined) checkDuration('everyMs', options.everyMs, Math.max(toMs, 1))
  const clock = valueOr(options.clock, systemClock)
  const startedAt = clock.now()
  return () => {
    const elapsed = (clock.now() - startedAt) % everyMs
    return elapsed >= fromMs && elapsed < toMs
  }
}

/**
 * Makes the dice of one fault, which are thrown once for each call: the same seed strikes the same calls, whatever happens to them.
 *
 * @param rate - the share of the calls that meet the condition.
 * @returns the number of a call that is struck, 0 for one that isn't.
 */
export function dice(rateField: string, rate: number, odds: FaultOdds): () => number {
  checkDuration(rateField, rate, 0, 1)
  checkOptionalFunction('when', odds.when)
  checkOptionalFunction('random', odds.random)
  const { when, random = Math.random } = odds
  let calls = 0
  return () => {
    const call = ++calls
    // Chance is asked only where it decides, so that a rate of 1 or a condition doesn't shift what others draw.
    if (when !== undefined && !when(call)) return 0
    return rate === 1 || (rate > 0 && random() < rate) ? call : 0
  }
}
