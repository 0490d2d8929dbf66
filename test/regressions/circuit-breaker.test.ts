import { setImmediate as turn } from 'node:timers/promises'
import { CircuitBreaker, type CircuitBreakerOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  vi.restoreAllMocks()
})

/** A breaker that is due for a probe. */
async function dueBreaker(options: CircuitBreakerOptions): Promise<CircuitBreaker> {
  const clock = new FakeClock()
  const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 10, ...options })
  breaker.tryAcquire()?.failure()
  await clock.advance(10)
  expect(breaker.state).toBe('half-open')
  return breaker
}

test('a probe gate that answers a promise says yes, is reported once, and its rejection is looked after', async () => {
  const unhandled: unknown[] = []
  const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
  process.on('unhandledRejection', onUnhandled)
  const warned = vi.spyOn(process, 'emitWarning').mockReturnValue()
  const probeGate = (() => Promise.reject(new Error('the gate is down'))) as unknown as () => boolean
  const breaker = await dueBreaker({ name: 'payments', probeGate })

  const permit = breaker.tryAcquire()
  permit?.ignore()
  const again = breaker.tryAcquire()
  await turn()
  process.off('unhandledRejection', onUnhandled)

  expect([permit, again]).not.toContain(undefined)
  expect(unhandled).toEqual([])
  expect(warned.mock.calls).toEqual([['the probe gate of payments answered a promise', 'SpillwayWarning']])
})

test('a call that the probe gate turns away has no known wait, in its error and in the event', async () => {
  const breaker = await dueBreaker({ probeGate: () => false })
  const events: unknown[] = []
  breaker.on('rejected', (event) => events.push(event))

  await expect(breaker.execute(() => 'never')).rejects.toMatchObject({
    code: 'ERR_CIRCUIT_OPEN',
    retryAfterMs: undefined,
  })

  expect(breaker.tryAcquire()).toBeUndefined()
  const unknownWait = { state: 'half-open', retryAfterMs: undefined }
  expect(events).toStrictEqual([unknownWait, unknownWait])
})
