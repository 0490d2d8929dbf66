import { CircuitBreaker, type CircuitBreakerOptions } from 'spillway'
import { describe, expect, test } from 'vitest'
import { warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { fail, succeed } from './support/calls.js'

const notFound = new Error('not found')
const classifyError = (error: unknown): 'success' | 'ignore' | 'failure' => {
  if (error === notFound) return 'success'
  return (error as Error).message === 'busy' ? 'ignore' : 'failure'
}

describe('classifyError', () => {
  inVirtualTime('says what an error counts as; the caller gets it all the same', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2, classifyError })

    await fail(breaker)
    await expect(breaker.execute(() => Promise.reject(notFound))).rejects.toBe(notFound)
    await fail(breaker)
    await expect(breaker.execute(() => Promise.reject(new Error('busy')))).rejects.toThrow('busy')

    expect(breaker.stats()).toMatchObject({ state: 'closed', succeeded: 1, failed: 2, ignored: 1, pending: 0 })
    await fail(breaker)
    expect(breaker.state).toBe('open')
  })

  inVirtualTime('decides about probes too', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, classifyError })
    await fail(breaker)
    await clock.advance(100)

    await breaker.execute(() => Promise.reject(new Error('busy'))).catch(() => undefined)
    expect(breaker.state).toBe('half-open')
    await breaker.execute(() => Promise.reject(notFound)).catch(() => undefined)

    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('is not asked about what the breaker itself refuses, nor about aborts', async (clock) => {
    const seen: unknown[] = []
    const options: CircuitBreakerOptions = {
      clock,
      failureThreshold: 1,
      classifyError: (error) => {
        seen.push(error)
        return 'failure'
      },
    }
    const breaker = new CircuitBreaker(options)

    const controller = new AbortController()
    const aborted = breaker.execute(() => new Promise(() => undefined), { signal: controller.signal })
    controller.abort()
    await aborted.catch(() => undefined)
    await fail(breaker)
    await fail(breaker)

    expect(breaker.stats().rejected).toBe(1)
    expect(seen).toEqual([expect.objectContaining({ message: 'down' })])
  })
})

describe('classifyResult', () => {
  inVirtualTime('a result may be a failure, and is the caller’s all the same', async (clock) => {
    const failed: unknown[] = []
    const breaker = new CircuitBreaker({
      clock,
      failureThreshold: 2,
      classifyResult: (result) => ((result as { status: number }).status >= 500 ? 'failure' : 'success'),
    })
    breaker.on('failed', (event) => failed.push(event))

    expect(await breaker.execute(() => ({ status: 503 }))).toEqual({ status: 503 })
    expect(await breaker.execute(async () => ({ status: 200 }))).toEqual({ status: 200 })
    await breaker.execute(() => ({ status: 503 }))
    await breaker.execute(() => ({ status: 503 }))

    expect(breaker.state).toBe('open')
    expect(failed[0]).toEqual({ error: undefined, late: false })
  })

  inVirtualTime('a result may say nothing', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2, classifyResult: () => 'ignore' })

    await fail(breaker)
    await succeed(breaker)
    await fail(breaker)

    expect(breaker.state).toBe('open')
    expect(breaker.stats()).toMatchObject({ succeeded: 0, failed: 2, ignored: 1 })
  })
})

describe('a classifier that throws, or answers something else, is reported once and the default applies', () => {
  test.each<[string, () => never | undefined]>([
    [
      'throws',
      () => {
        throw new Error('the classifier is broken')
      },
    ],
    ['answers undefined', () => undefined],
  ])('%s', async (_, broken) => {
    const classify = broken as unknown as () => 'success'
    const breaker = new CircuitBreaker({
      name: 'payments',
      failureThreshold: 3,
      classifyError: classify,
      classifyResult: classify,
    })

    const warnings = await warningsDuring(async () => {
      expect(await breaker.execute(() => 'fine')).toBe('fine')
      await fail(breaker, 3)
    })

    expect(breaker.stats()).toMatchObject({ state: 'open', succeeded: 1, failed: 3 })
    expect(warnings).toHaveLength(1)
    expect(warnings[0]).toMatch(/^SpillwayWarning: .*payments/)
  })
})
