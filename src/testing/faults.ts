import { type Clock, systemClock } from '../core/clock.js'
import { StoreError } from '../core/errors.js'

/** A function whose calls can be made to fail. */
export type Faultable<A extends unknown[], R> = (...args: A) => R | PromiseLike<R>

/** Options of {@link flaky}. */
export interface FlakyOptions {
  /** The share of calls that fail, from 0 to 1. */
  failureRate: number
  /** Where chance comes from; a `seededRandom` makes a run repeatable. The default is `Math.random`. */
  random?: (() => number) | undefined
  /** The error of a failing call; it gets the number of the call, counted from 1. */
  error?: ((call: number) => unknown) | undefined
}

/** Makes some calls reject without doing anything. */
export function flaky<A extends unknown[], R>(fn: Faultable<A, R>, options: FlakyOptions): (...args: A) => Promise<R> {
  const random = options.random ?? Math.random
  let calls = 0
  return async (...args) => {
    const call = ++calls
    if (random() < options.failureRate)
      throw options.error?.(call) ?? new StoreError(`injected failure of call ${call}`)
    return fn(...args)
  }
}

/** Options of {@link slow} and {@link late}. */
export interface DelayOptions {
  /** How long a call takes beyond its own time, in milliseconds; a function is asked at each call. */
  delayMs: number | (() => number)
  /** Where time comes from. The default is `systemClock`. */
  clock?: Clock | undefined
}

/** Makes every call start later. A call whose last argument has a `signal` rejects when that aborts, as a good client does. */
export function slow<A extends unknown[], R>(fn: Faultable<A, R>, options: DelayOptions): (...args: A) => Promise<R> {
  return async (...args) => {
    await wait(options, signalOf(args))
    return fn(...args)
  }
}

/** Does the work at once and answers late, whatever the signal says: the answer that comes after everyone has gone. */
export function late<A extends unknown[], R>(fn: Faultable<A, R>, options: DelayOptions): (...args: A) => Promise<R> {
  return async (...args) => {
    try {
      return await fn(...args)
    } finally {
      await wait(options, undefined)
    }
  }
}

/** Options of {@link hanging}. */
export interface HangingOptions {
  /** The share of calls that never settle, from 0 to 1. The default is 1. */
  rate?: number | undefined
  /** Where chance comes from. The default is `Math.random`. */
  random?: (() => number) | undefined
}

/** Makes calls never settle, whatever their signal says. */
export function hanging<A extends unknown[], R>(
  fn: Faultable<A, R>,
  options: HangingOptions = {},
): (...args: A) => Promise<R> {
  const { rate = 1, random = Math.random } = options
  return async (...args) => (random() < rate ? new Promise<never>(() => {}) : fn(...args))
}

/** Does the work and then loses the answer, as a connection that breaks after COMMIT does: the outcome is unknown to the caller. */
export function commitThenDrop<A extends unknown[], R>(
  fn: Faultable<A, R>,
  options: FlakyOptions,
): (...args: A) => Promise<R> {
  const random = options.random ?? Math.random
  let calls = 0
  return async (...args) => {
    const call = ++calls
    const answer = await fn(...args)
    if (random() >= options.failureRate) return answer
    throw (
      options.error?.(call) ?? new StoreError(`injected loss of the answer to call ${call}`, { outcomeUnknown: true })
    )
  }
}

function wait({ delayMs, clock = systemClock }: DelayOptions, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const give = (settle: () => void) => (): void => {
      cancel()
      signal?.removeEventListener('abort', abort)
      settle()
    }
    const abort = give(() => reject(signal?.reason))
    const cancel = clock.setTimer(give(resolve), typeof delayMs === 'function' ? delayMs() : delayMs)
    signal?.addEventListener('abort', abort)
  })
}

function signalOf(args: readonly unknown[]): AbortSignal | undefined {
  const signal = (args.at(-1) as { signal?: unknown } | null | undefined)?.signal
  return signal instanceof AbortSignal ? signal : undefined
}
