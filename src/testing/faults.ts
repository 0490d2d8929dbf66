import { type Clock, systemClock } from '../core/clock.js'
import { StoreError } from '../core/errors.js'
import {
  checkDuration,
  checkFunction,
  checkOptionalFunction,
  checkOptions,
  failOption,
  valueOr,
} from '../core/options.js'
import { onAbort } from '../internal/abort.js'
import { dice, type FaultOdds } from './fault-condition.js'

/** A function whose calls can be made to fail. */
export type Faultable<A extends unknown[], R> = (...args: A) => R | PromiseLike<R>

/** Options of {@link flaky} and {@link commitThenDrop}. */
export interface FlakyOptions extends FaultOdds {
  /** The share of calls that fail, from 0 to 1. The default is 1. */
  failureRate?: number | undefined
  /** The error of a failing call; it gets the number of the call, counted from 1. The default is a `StoreError`. */
  error?: ((call: number) => unknown) | undefined
}

/**
 * Makes some calls reject without doing anything.
 *
 * @throws OptionError when an option is wrong.
 */
export function flaky<A extends unknown[], R>(
  fn: Faultable<A, R>,
  options: FlakyOptions = {},
): (...args: A) => Promise<R> {
  const strikes = flakyDice(fn, options)
  const { error = injectedFailure } = options
  return async (...args) => {
    const struck = strikes()
    if (struck > 0) throw error(struck)
    return fn(...args)
  }
}

/**
 * Does the work and then loses the answer, as a connection that breaks after COMMIT does: the outcome is unknown to the caller.
 *
 * @throws OptionError when an option is wrong.
 */
export function commitThenDrop<A extends unknown[], R>(
  fn: Faultable<A, R>,
  options: FlakyOptions = {},
): (...args: A) => Promise<R> {
  const strikes = flakyDice(fn, options)
  const { error = injectedLoss } = options
  return async (...args) => {
    const struck = strikes()
    const answer = await fn(...args)
    if (struck > 0) throw error(struck)
    return answer
  }
}

/** Options of {@link slow} and {@link late}. */
export interface DelayOptions extends FaultOdds {
  /** How long a call takes beyond its own time, in milliseconds; a function is asked at each call. */
  delayMs: number | (() => number)
  /** The share of calls that are delayed, from 0 to 1. The default is 1. */
  rate?: number | undefined
  /** Where time comes from. The default is `systemClock`. */
  clock?: Clock | undefined
}

/**
 * Makes calls start later. A call whose last argument has a `signal` rejects when that aborts, as a good client does.
 *
 * @throws OptionError when an option is wrong.
 */
export function slow<A extends unknown[], R>(fn: Faultable<A, R>, options: DelayOptions): (...args: A) => Promise<R> {
  const strikes = delayDice(fn, options)
  return async (...args) => {
    if (strikes() > 0) await wait(options, signalOf(args))
    return fn(...args)
  }
}

/**
 * Does the work at once and answers late, whatever the signal says: the answer that comes after everyone has gone.
 *
 * @throws OptionError when an option is wrong.
 */
export function late<A extends unknown[], R>(fn: Faultable<A, R>, options: DelayOptions): (...args: A) => Promise<R> {
  const strikes = delayDice(fn, options)
  return async (...args) => {
    const struck = strikes()
    try {
      return await fn(...args)
    } finally {
      if (struck > 0) await wait(options, undefined)
    }
  }
}

/** Options of {@link hanging}. */
export interface HangingOptions extends FaultOdds {
  /** The share of calls that never settle, from 0 to 1. The default is 1. */
  rate?: number | undefined
}

/**
 * Makes calls never settle, whatever their signal says, without doing anything.
 *
 * @throws OptionError when an option is wrong.
 */
export function hanging<A extends unknown[], R>(
  fn: Faultable<A, R>,
  options: HangingOptions = {},
): (...args: A) => Promise<R> {
  checkFunction('fn', fn)
  checkOptions('options', options)
  const strikes = dice('rate', valueOr(options.rate, 1), options)
  return async (...args) => (strikes() > 0 ? never() : fn(...args))
}

/** The error of a call that did nothing. */
export function injectedFailure(call: number): StoreError {
  return new StoreError(`injected failure of call ${call}`)
}

/** The error of a call whose answer was lost. */
export function injectedLoss(call: number): StoreError {
  return new StoreError(`injected loss of the answer to call ${call}`, { outcomeUnknown: true })
}

/** The answer that nobody gets. */
export function never(): Promise<never> {
  return new Promise(() => {})
}

/** Checks a delay, or the function that is asked for it. */
export function checkDelay(value: number | (() => number)): void {
  if (typeof value !== 'function') checkDuration('delayMs', value)
}

/** Waits in the time of a clock; rejects with the signal's reason when that aborts. */
export function wait(
  { delayMs, clock = systemClock }: Pick<DelayOptions, 'delayMs' | 'clock'>,
  signal: AbortSignal | undefined,
): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const cancel = clock.setTimer(
      () => {
        stop?.()
        resolve()
      },
      typeof delayMs === 'function' ? delayMs() : delayMs,
    )
    const stop =
      signal &&
      onAbort(signal, () => {
        cancel()
        reject(signal.reason)
      })
  })
}

/** The signal of a call, where its last argument has one. */
export function signalOf(args: readonly unknown[]): AbortSignal | undefined {
  const signal = (args.at(-1) as { signal?: unknown } | null | undefined)?.signal
  return signal instanceof AbortSignal ? signal : undefined
}

function flakyDice(fn: unknown, options: FlakyOptions): () => number {
  checkFunction('fn', fn)
  checkOptions('options', options)
  checkOptionalFunction('error', options.error)
  return dice('failureRate', valueOr(options.failureRate, 1), options)
}

function delayDice(fn: unknown, options: DelayOptions): () => number {
  checkFunction('fn', fn)
  if (options === undefined) failOption('options', 'must be an object', options)
  checkOptions('options', options)
  checkDelay(options.delayMs)
  return dice('rate', valueOr(options.rate, 1), options)
}
