import type { CircuitBreaker, ExecuteContext } from 'spillway'

/** A call whose function has begun and ends when the test says so. */
export interface OpenCall {
  /** What the caller waits for. */
  readonly answer: Promise<string>
  readonly context: ExecuteContext
  readonly succeed: (value?: string) => void
  readonly fail: (error?: unknown) => void
}

/** Begins a call that the breaker must let through. */
export function begin(breaker: CircuitBreaker, options?: { signal?: AbortSignal }): OpenCall {
  let begun: Omit<OpenCall, 'answer'> | undefined
  const answer = breaker.execute<string>((context) => {
    return new Promise((resolve, reject) => {
      begun = {
        context,
        succeed: (value = 'fine') => resolve(value),
        fail: (error = new Error('down')) => reject(error),
      }
    })
  }, options)
  answer.catch(() => undefined)
  if (begun === undefined) throw new Error(`the call was not let through: the breaker is ${breaker.state}`)
  return { answer, ...begun }
}

/** Makes calls that fail, one after the other. */
export async function fail(breaker: CircuitBreaker, times = 1): Promise<void> {
  for (let i = 0; i < times; i++) {
    await breaker.execute(() => Promise.reject(new Error('down'))).catch(() => undefined)
  }
}

/** Makes calls that succeed, one after the other. Rejects when one is turned away. */
export async function succeed(breaker: CircuitBreaker, times = 1): Promise<void> {
  for (let i = 0; i < times; i++) await breaker.execute(() => 'fine')
}

/** What a call is turned away with; a call that is let through fails the test. */
export async function refusalOf(breaker: CircuitBreaker): Promise<Error & { code: string; retryAfterMs?: number }> {
  let called = false
  try {
    await breaker.execute(() => {
      called = true
    })
  } catch (error) {
    if (!called) return error as Error & { code: string; retryAfterMs?: number }
    throw error
  }
  throw new Error(`the call was let through: the breaker is ${breaker.state}`)
}

/** `offered = succeeded + failed + ignored + rejected + pending`. */
export function balance(breaker: CircuitBreaker): number {
  const { offered, succeeded, failed, ignored, rejected, pending } = breaker.stats()
  return offered - (succeeded + failed + ignored + rejected + pending)
}
