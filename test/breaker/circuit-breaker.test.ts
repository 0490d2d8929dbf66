import { CircuitBreaker, type CircuitBreakerOptions, isSpillwayError } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { balance, begin, fail, refusalOf, succeed } from './support/calls.js'

describe('closed', () => {
  test('a new breaker is closed, has its defaults and an empty book', () => {
    const breaker = new CircuitBreaker()

    expect(breaker.state).toBe('closed')
    expect(CircuitBreaker.defaults).toEqual({
      failureThreshold: 5,
      recoveryTimeoutMs: 30_000,
      recovery: { factor: 1, maxMs: 600_000, jitter: 0 },
      halfOpenRequests: 1,
      successThreshold: 1,
    })
    expect(breaker.stats()).toMatchObject({
      name: 'circuit-breaker',
      state: 'closed',
      offered: 0,
      succeeded: 0,
      failed: 0,
      ignored: 0,
      rejected: 0,
      pending: 0,
    })
  })

  inVirtualTime('execute gives the caller what the function gives, whichever way', async (clock) => {
    const breaker = new CircuitBreaker({ clock })
    const error = new Error('down')

    expect(await breaker.execute(() => 7)).toBe(7)
    expect(await breaker.execute(async () => undefined)).toBe(undefined)
    // biome-ignore lint/suspicious/noThenProperty: a thenable of foreign make
    const foreign = { then: (resolve: (value: string) => void) => resolve('foreign') } as PromiseLike<string>
    expect(await breaker.execute(() => foreign)).toBe('foreign')
    await expect(breaker.execute(() => Promise.reject(error))).rejects.toBe(error)
    await expect(
      breaker.execute(() => {
        throw error
      }),
    ).rejects.toBe(error)
    await expect(breaker.execute(() => Promise.reject(undefined))).rejects.toBe(undefined)

    expect(breaker.stats()).toMatchObject({ offered: 6, succeeded: 3, failed: 3, pending: 0 })
  })

  inVirtualTime('the function is called within execute, once', async (clock) => {
    const breaker = new CircuitBreaker({ clock })
    let calls = 0

    const answer = breaker.execute(() => ++calls)
    expect(calls).toBe(1)

    expect(await answer).toBe(1)
  })

  inVirtualTime('by default the fifth failure in a row opens it, and nothing less', async (clock) => {
    const breaker = new CircuitBreaker({ clock })

    await fail(breaker, 4)
    await succeed(breaker)
    await fail(breaker, 4)
    expect(breaker.state).toBe('closed')
    await fail(breaker)

    expect(breaker.state).toBe('open')
    expect((await refusalOf(breaker)).retryAfterMs).toBe(30_000)
    expect(breaker.stats()).toMatchObject({ offered: 11, succeeded: 1, failed: 9, rejected: 1, opened: 1 })
  })

  inVirtualTime('failures at the same time trip it once', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 3 })
    const opened: unknown[] = []
    breaker.on('opened', (event) => opened.push(event))
    const calls = Array.from({ length: 10 }, () => begin(breaker))

    for (const call of calls) call.fail()
    await Promise.allSettled(calls.map(({ answer }) => answer))

    expect(opened).toHaveLength(1)
    expect(opened[0]).toMatchObject({ reason: 'tripped', retryAfterMs: 30_000, openings: 1 })
    expect(breaker.stats()).toMatchObject({ failed: 10, late: 7, opened: 1 })
  })

  test('an explicit undefined means the default', async () => {
    const options = { failureThreshold: undefined, trip: undefined, recoveryTimeoutMs: undefined, timeoutMs: undefined }
    const breaker = new CircuitBreaker({ ...options, halfOpenRequests: undefined, recovery: { factor: undefined } })

    await fail(breaker, 4)
    expect(breaker.state).toBe('closed')
    await fail(breaker)

    expect(breaker.state).toBe('open')
  })
})

describe('open', () => {
  inVirtualTime('calls are refused at once, without the function, by a retryable error', async (clock) => {
    const breaker = new CircuitBreaker({ clock, name: 'payments', failureThreshold: 1, recoveryTimeoutMs: 1000 })
    await fail(breaker)
    await clock.advance(250)

    const refusal = await refusalOf(breaker)

    expect(isSpillwayError(refusal, 'ERR_CIRCUIT_OPEN')).toBe(true)
    expect(refusal).toMatchObject({ name: 'CircuitOpenError', retryable: true, retryAfterMs: 750 })
    expect(refusal.message).toContain('payments')
    expect(refusal.message).toContain('750 ms')
  })

  inVirtualTime(
    'each refusal is an error of its own, without a stack, and leaves the stack limit alone',
    async (clock) => {
      const breaker = new CircuitBreaker({ clock, failureThreshold: 1 })
      await fail(breaker)
      const limit = Error.stackTraceLimit

      const [first, second] = [await refusalOf(breaker), await refusalOf(breaker)]

      expect(first).not.toBe(second)
      expect(first.stack ?? '').not.toMatch(/\n\s+at /)
      expect(Error.stackTraceLimit).toBe(limit)
    },
  )

  inVirtualTime('it is open until exactly recoveryTimeoutMs have passed, then state reads half-open', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    await fail(breaker)

    await clock.advance(99.5)
    expect(breaker.state).toBe('open')
    expect((await refusalOf(breaker)).retryAfterMs).toBe(0.5)
    await clock.advance(0.5)

    expect(breaker.state).toBe('half-open')
    await succeed(breaker)
    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('a late success from before it opened neither closes it nor counts', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2, recoveryTimeoutMs: 100 })
    const early = begin(breaker)
    const lateFailure = begin(breaker)
    await fail(breaker, 2)

    early.succeed('late')
    expect(await early.answer).toBe('late')
    expect(breaker.state).toBe('open')
    await clock.advance(100)
    const probe = begin(breaker)
    lateFailure.fail()
    await lateFailure.answer.catch(() => undefined)

    expect(breaker.state).toBe('half-open')
    probe.succeed()
    await probe.answer
    expect(breaker.state).toBe('closed')
    expect(breaker.stats()).toMatchObject({ succeeded: 2, failed: 3, late: 2, opened: 1 })
  })

  inVirtualTime('failures from before it opened do not count after it has closed again', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2, recoveryTimeoutMs: 100 })
    const old = [begin(breaker), begin(breaker), begin(breaker)]
    await fail(breaker, 2)
    await clock.advance(100)
    await succeed(breaker)

    for (const call of old) call.fail()
    await Promise.allSettled(old.map(({ answer }) => answer))

    expect(breaker.state).toBe('closed')
    await fail(breaker)
    expect(breaker.state).toBe('closed')
  })
})

describe('no timers', () => {
  const everything: CircuitBreakerOptions = { failureThreshold: 1, recoveryTimeoutMs: 50, probeTimeoutMs: 20 }

  test('no state needs one', async () => {
    const clock = new FakeClock()
    const breaker = new CircuitBreaker({ ...everything, clock })

    await fail(breaker)
    expect(clock.pending).toBe(0)
    await clock.advance(50)
    const probe = begin(breaker)
    expect(clock.pending).toBe(0)
    const release = breaker.isolate()
    expect(clock.pending).toBe(0)
    release()
    probe.succeed()
    await probe.answer

    expect(clock.pending).toBe(0)
    expect(breaker.state).toBe('closed')
  })

  test('on the clock of the platform nothing keeps the process', async () => {
    const before = process.getActiveResourcesInfo().filter((resource) => resource === 'Timeout').length
    const breaker = new CircuitBreaker({ failureThreshold: 1 })
    await fail(breaker)
    await refusalOf(breaker)

    // What was put off to the end of the turn is over with it.
    await new Promise((resolve) => setImmediate(resolve))

    expect(process.getActiveResourcesInfo().filter((resource) => resource === 'Timeout').length).toBe(before)
    expect(process.getActiveResourcesInfo()).not.toContain('Immediate')
  })

  inVirtualTime('monotonic time counts: a wall clock that jumps changes nothing', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    await fail(breaker)

    clock.setWall(clock.wallNow() + 1_000_000)
    expect(breaker.state).toBe('open')
    clock.setWall(0)
    await clock.advance(100)

    expect(breaker.state).toBe('half-open')
  })
})

inVirtualTime('the books balance at every moment', async (clock) => {
  const breaker = new CircuitBreaker({ clock, failureThreshold: 2, recoveryTimeoutMs: 100 })
  const unbalanced: number[] = []
  const look = (): void => void unbalanced.push(balance(breaker))
  for (const event of ['opened', 'half-opened', 'closed', 'rejected', 'succeeded', 'failed'] as const) {
    breaker.on(event, look)
  }

  const hanging = begin(breaker)
  expect(breaker.stats()).toMatchObject({ offered: 1, pending: 1 })
  await fail(breaker, 2)
  await refusalOf(breaker)
  await clock.advance(100)
  await succeed(breaker)
  hanging.succeed()
  await hanging.answer

  expect(unbalanced.length).toBeGreaterThan(6)
  expect(new Set(unbalanced)).toEqual(new Set([0]))
  expect(breaker.stats().pending).toBe(0)
})

test('stats are a fresh snapshot that survives JSON', async () => {
  const breaker = new CircuitBreaker({ failureThreshold: 1 })
  const before = breaker.stats()
  await fail(breaker)

  expect(before.failed).toBe(0)
  expect(JSON.parse(JSON.stringify(breaker.stats()))).toEqual({
    ...breaker.stats(),
    retryAfterMs: expect.closeTo(30_000, -3),
  })
})
