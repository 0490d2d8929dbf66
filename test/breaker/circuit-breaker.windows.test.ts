import { CircuitBreaker, consecutive, countWindow, type TripPolicy, timeWindow } from 'spillway'
import type { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { begin, fail, succeed } from './support/calls.js'

const on = (clock: FakeClock, trip: TripPolicy): CircuitBreaker =>
  new CircuitBreaker({ clock, trip, recoveryTimeoutMs: 100 })

describe('consecutive', () => {
  inVirtualTime(
    'n failures in a row trip it; an ignored call in between neither counts nor breaks the row',
    async (clock) => {
      const breaker = on(clock, consecutive(3))

      await fail(breaker, 2)
      breaker.tryAcquire()?.ignore()
      expect(breaker.state).toBe('closed')
      await fail(breaker)

      expect(breaker.state).toBe('open')
    },
  )

  inVirtualTime('the row begins anew once it has closed again', async (clock) => {
    const breaker = on(clock, consecutive(2))
    await fail(breaker, 2)
    await clock.advance(100)
    await succeed(breaker)

    await fail(breaker)

    expect(breaker.state).toBe('closed')
  })
})

describe('a policy is a recipe', () => {
  inVirtualTime('breakers that were given the same one count apart', async (clock) => {
    for (const trip of [consecutive(2), countWindow({ size: 4, minimumCalls: 2 }), timeWindow({ minimumCalls: 2 })]) {
      const [one, other] = [on(clock, trip), on(clock, trip)]

      await fail(one)
      await fail(other)
      expect([one.state, other.state]).toEqual(['closed', 'closed'])
      await fail(one)

      expect([one.state, other.state]).toEqual(['open', 'closed'])
    }
  })

  test('it cannot be changed', () => {
    for (const trip of [consecutive(2), countWindow(), timeWindow()]) expect(Object.isFrozen(trip)).toBe(true)
  })
})

describe('countWindow', () => {
  inVirtualTime('a rate trips when it is reached, not only when it is passed', async (clock) => {
    const breaker = on(clock, countWindow({ size: 10, failureRate: 0.3, minimumCalls: 10 }))

    await succeed(breaker, 7)
    await fail(breaker, 2)
    expect(breaker.state).toBe('closed')
    await fail(breaker)

    expect(breaker.state).toBe('open')
  })

  inVirtualTime(
    'below minimumCalls nothing trips it; the call that makes the minimum may be a success',
    async (clock) => {
      const breaker = on(clock, countWindow({ size: 10, failureRate: 0.5, minimumCalls: 6 }))

      await fail(breaker, 5)
      expect(breaker.state).toBe('closed')
      await succeed(breaker)

      expect(breaker.state).toBe('open')
    },
  )

  inVirtualTime('only the latest calls count', async (clock) => {
    const breaker = on(clock, countWindow({ size: 4, failureRate: 0.75, minimumCalls: 4 }))

    await fail(breaker, 2)
    await succeed(breaker, 2)
    // Each of these pushes an old failure out.
    await fail(breaker, 2)
    expect(breaker.state).toBe('closed')
    // And this one an old success.
    await fail(breaker)

    expect(breaker.state).toBe('open')
  })

  inVirtualTime('the window is empty after it has closed again', async (clock) => {
    const breaker = on(clock, countWindow({ size: 4, failureRate: 0.5, minimumCalls: 2 }))
    await fail(breaker, 2)
    await clock.advance(100)
    await succeed(breaker)

    await fail(breaker)

    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('by default: the last 100 calls, at least 10, half of them failures', async (clock) => {
    const breaker = on(clock, countWindow())

    await fail(breaker, 9)
    expect(breaker.state).toBe('closed')
    await succeed(breaker)
    expect(breaker.state).toBe('open')

    const large = on(clock, countWindow())
    await succeed(large, 100)
    await fail(large, 49)
    expect(large.state).toBe('closed')
    await fail(large)
    expect(large.state).toBe('open')
  })
})

describe('timeWindow', () => {
  inVirtualTime('a rate trips when it is reached, with at least minimumCalls in the window', async (clock) => {
    const breaker = on(clock, timeWindow({ windowMs: 1000, buckets: 10, failureRate: 0.5, minimumCalls: 4 }))

    await fail(breaker, 2)
    await succeed(breaker)
    expect(breaker.state).toBe('closed')
    await succeed(breaker)

    expect(breaker.state).toBe('open')
  })

  inVirtualTime('buckets expire: what is older than the window counts no more', async (clock) => {
    const breaker = on(clock, timeWindow({ windowMs: 1000, buckets: 10, failureRate: 1, minimumCalls: 3 }))

    await fail(breaker, 2)
    await clock.advance(1000)
    await fail(breaker, 2)
    expect(breaker.state).toBe('closed')
    await clock.advance(900)
    await fail(breaker)

    expect(breaker.state).toBe('open')
  })

  inVirtualTime('old successes expire too and no longer outweigh failures', async (clock) => {
    const breaker = on(clock, timeWindow({ windowMs: 1000, buckets: 4, failureRate: 0.5, minimumCalls: 2 }))

    await succeed(breaker, 50)
    await clock.advance(500)
    await fail(breaker, 10)
    expect(breaker.state).toBe('closed')
    await clock.advance(500)
    await fail(breaker)

    expect(breaker.state).toBe('open')
  })

  inVirtualTime('after a long pause all is forgotten', async (clock) => {
    const breaker = on(clock, timeWindow({ windowMs: 1000, buckets: 10, failureRate: 0.5, minimumCalls: 3 }))
    await fail(breaker, 2)

    await clock.advance(1_000_000)
    await fail(breaker, 2)

    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('a call counts in the bucket in which it ends', async (clock) => {
    const breaker = on(clock, timeWindow({ windowMs: 100, buckets: 10, failureRate: 1, minimumCalls: 2 }))
    const slow = begin(breaker)
    await clock.advance(500)

    slow.fail()
    await slow.answer.catch(() => undefined)
    await clock.advance(80)
    await fail(breaker)

    expect(breaker.state).toBe('open')
  })

  inVirtualTime('slow calls trip it by their own rate, whatever their outcome', async (clock) => {
    const trip = timeWindow({ windowMs: 10_000, minimumCalls: 4, slowCallMs: 100, slowCallRate: 0.5 })
    const breaker = on(clock, trip)

    for (const takesMs of [99.5, 100, 0, 500]) {
      expect(breaker.state).toBe('closed')
      const call = begin(breaker)
      await clock.advance(takesMs)
      call.succeed()
      await call.answer
    }

    expect(breaker.state).toBe('open')
    expect(breaker.stats()).toMatchObject({ succeeded: 4, failed: 0 })
  })

  inVirtualTime('permits are timed too', async (clock) => {
    const trip = timeWindow({ minimumCalls: 1, slowCallMs: 100, slowCallRate: 1 })
    const breaker = on(clock, trip)

    const quick = breaker.tryAcquire()
    await clock.advance(99)
    quick?.success()
    expect(breaker.state).toBe('closed')
    const slow = [breaker.tryAcquire(), breaker.tryAcquire()]
    await clock.advance(10_000)
    slow[0]?.success()

    expect(breaker.state).toBe('open')
    slow[1]?.success()
    expect(breaker.stats().late).toBe(1)
  })

  inVirtualTime('by default: the last 10 s in ten buckets, at least 10 calls, half of them failures', async (clock) => {
    const breaker = on(clock, timeWindow())

    await fail(breaker, 9)
    expect(breaker.state).toBe('closed')
    await clock.advance(9999)
    await succeed(breaker)
    expect(breaker.state).toBe('open')

    const later = on(clock, timeWindow())
    await fail(later, 9)
    await clock.advance(10_000)
    await fail(later)
    expect(later.state).toBe('closed')
  })
})
