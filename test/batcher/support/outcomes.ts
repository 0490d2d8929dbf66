import { type BatchStats, isSpillwayError, type OptionError } from 'spillway'
import { expect } from 'vitest'

/** What has become of a promise so far. */
export interface Watched<T> {
  status: 'pending' | 'fulfilled' | 'rejected'
  value?: T
  reason?: unknown
  /** How often it settled: anything but 0 and 1 would be a broken promise. */
  times: number
}

/** Watches a promise without waiting for it. */
export function watch<T>(promise: PromiseLike<T>): Watched<T> {
  const watched: Watched<T> = { status: 'pending', times: 0 }
  promise.then(
    (value) => {
      watched.status = 'fulfilled'
      watched.value = value
      watched.times++
    },
    (reason: unknown) => {
      watched.status = 'rejected'
      watched.reason = reason
      watched.times++
    },
  )
  return watched
}

/** What a promise rejects with; a promise that fulfils fails the test. */
export async function reasonOf(promise: PromiseLike<unknown>): Promise<unknown> {
  let value: unknown
  try {
    value = await promise
  } catch (error) {
    return error
  }
  throw new Error(`expected a rejection, got ${JSON.stringify(value)}`)
}

/** A `SpillwayError`'s code, or undefined. */
export function codeOf(error: unknown): unknown {
  return (error as { code?: unknown } | null | undefined)?.code
}

/** `offered = succeeded + failed + dropped + rejected + aborted + pending`. */
export function expectBalanced(stats: BatchStats): void {
  const { offered, succeeded, failed, dropped, rejected, aborted, pending } = stats
  expect(succeeded + failed + dropped + rejected + aborted + pending, JSON.stringify(stats)).toBe(offered)
}

/** Checks the balance and the named counters. */
export function expectBooks(component: { stats(): BatchStats }, expected: Partial<BatchStats>): void {
  const stats = component.stats()
  expectBalanced(stats)
  expect(stats).toMatchObject(expected)
}

/** The `OptionError` that a call throws. */
export function thrownBy(make: () => unknown): OptionError {
  try {
    make()
  } catch (error) {
    if (isSpillwayError(error, 'ERR_OPTION')) return error as OptionError
    throw error
  }
  throw new Error('expected an OptionError, nothing was thrown')
}
