import {
  CircuitBreaker,
  type CircuitBreakerOptions,
  type Clock,
  countWindow,
  isSpillwayError,
  timeWindow,
} from 'spillway'
import { type FakeClock, seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { begin, fail, refusalOf, succeed } from './support/calls.js'

/** A breaker that has opened and is due for its first probe. */
async function due(clock: FakeClock, options: CircuitBreakerOptions = {}): Promise<CircuitBreaker> {
  const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, ...options })
  await fail(breaker)
  await clock.advance(100)
  return breaker
}

test('a circuit whose state is half-open lets a call through, however long the turn of the event loop has been', async () => {
  for (const ask of ['execute', 'tryAcquire'] as const) {
    let now = 0
    // The turn never ends.
    const clock: Clock = { now: () => now, wallNow: () => now, setTimer: () => () => undefined, defer: () => undefined }
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    await fail(breaker)
    now = 99.5
    const refusal = await refusalOf(breaker)
    expect([breaker.state, breaker.tryAcquire(), refusal.retryAfterMs]).toEqual(['open', undefined, 0.5])

    now = 100
    expect([breaker.state, breaker.retryAfterMs]).toEqual(['half-open', 0])
    if (ask === 'execute') await succeed(breaker)
    else breaker.tryAcquire()?.success()

    expect(breaker.state).toBe('closed')
  }
})

test('a refusal says how long it was from when the call was turned away, whatever the clock shows next', async () => {
  let now = 0
  let step = 0
  const clock: Clock = {
    now: () => (now += step),
    wallNow: () => now,
    setTimer: () => () => undefined,
    defer: () => undefined,
  }
  const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
  await fail(breaker)
  now = 98
  step = 1.5

  const refusal = await refusalOf(breaker)

  expect(refusal.message).toContain('in 1 ms')
  expect(refusal.retryAfterMs).toBe(0.5)
})

describe('probes', () => {
  inVirtualTime('one goes through by default, the rest is refused at once', async (clock) => {
    const breaker = await due(clock)
    const probe = begin(breaker)

    const refusal = await refusalOf(breaker)

    expect(isSpillwayError(refusal, 'ERR_CIRCUIT_OPEN')).toBe(true)
    expect(refusal.retryAfterMs).toBe(100)
    expect(breaker.tryAcquire()).toBe(undefined)
    probe.succeed()
    await probe.answer
    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('at most halfOpenRequests at once; a settled one frees its slot', async (clock) => {
    const breaker = await due(clock, { halfOpenRequests: 2, successThreshold: 4 })
    const first = begin(breaker)
    begin(breaker).succeed()
    await clock.advance(0)
    const third = begin(breaker)
    expect(breaker.tryAcquire()).toBe(undefined)

    third.succeed()
    await third.answer
    first.succeed()
    await first.answer
    expect(breaker.state).toBe('half-open')
    await succeed(breaker)

    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('one failure opens it again for another while, whatever succeeded before', async (clock) => {
    const breaker = await due(clock, { halfOpenRequests: 3, successThreshold: 3 })
    await succeed(breaker, 2)
    const other = begin(breaker)

    await fail(breaker)
    expect(breaker.state).toBe('open')
    expect((await refusalOf(breaker)).retryAfterMs).toBe(100)
    other.succeed()
    await other.answer
    expect(breaker.state).toBe('open')
    await clock.advance(100)
    // The successes of the last time count no more.
    await succeed(breaker, 2)
    expect(breaker.state).toBe('half-open')
    await succeed(breaker)

    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('one failure opens it again under a window policy too', async (clock) => {
    for (const trip of [countWindow({ minimumCalls: 1 }), timeWindow({ minimumCalls: 1 })]) {
      const breaker = new CircuitBreaker({ clock, trip, recoveryTimeoutMs: 100 })
      await fail(breaker)
      await clock.advance(100)

      await fail(breaker)

      expect(breaker.state).toBe('open')
    }
  })

  inVirtualTime('an ignored probe frees its slot and decides nothing', async (clock) => {
    const breaker = await due(clock)

    breaker.tryAcquire()?.ignore()
    expect(breaker.state).toBe('half-open')
    {
      using _permit = breaker.tryAcquire() as Disposable
    }
    expect(breaker.state).toBe('half-open')
    await succeed(breaker)

    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('reading the state lets nothing through: the event comes with the first probe, once', async (clock) => {
    const events: string[] = []
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, successThreshold: 2 })
    breaker.on('opened', ({ reason }) => events.push(`opened ${reason}`))
    breaker.on('half-opened', () => events.push('half-opened'))
    breaker.on('closed', ({ reason }) => events.push(`closed ${reason}`))
    await fail(breaker)
    await clock.advance(100)

    expect(breaker.state).toBe('half-open')
    expect(events).toEqual(['opened tripped'])
    await succeed(breaker)
    await fail(breaker)
    await clock.advance(100)
    await succeed(breaker, 2)

    expect(events).toEqual(['opened tripped', 'half-opened', 'opened probe-failed', 'half-opened', 'closed recovered'])
  })
})

describe('the lease of a probe', () => {
  inVirtualTime('a probe that never settles counts as a failure after recoveryTimeoutMs by default', async (clock) => {
    const breaker = await due(clock)
    begin(breaker)

    await clock.advance(99)
    expect(breaker.state).toBe('half-open')
    await clock.advance(1)

    expect(breaker.state).toBe('open')
    expect(breaker.stats()).toMatchObject({ failed: 2, pending: 0, probes: 0, opened: 2 })
  })

  inVirtualTime('probeTimeoutMs sets it, and it ends when it ends, not when someone looks', async (clock) => {
    const breaker = await due(clock, { probeTimeoutMs: 20 })
    const opened: unknown[] = []
    breaker.on('opened', (event) => opened.push(event))
    begin(breaker)

    // Open from 20 on, due for a probe again at 120.
    await clock.advance(119)
    expect((await refusalOf(breaker)).retryAfterMs).toBe(1)
    await clock.advance(1)
    await succeed(breaker)

    expect(breaker.state).toBe('closed')
    expect(opened).toEqual([expect.objectContaining({ reason: 'probe-expired', openings: 2 })])
  })

  inVirtualTime(
    'the caller goes on waiting and gets what the function gives; the books have it once',
    async (clock) => {
      const breaker = await due(clock, { probeTimeoutMs: 20 })
      const probe = begin(breaker)
      await clock.advance(20)
      expect(breaker.state).toBe('open')

      probe.succeed('at last')

      expect(await probe.answer).toBe('at last')
      expect(breaker.state).toBe('open')
      expect(breaker.stats()).toMatchObject({ offered: 2, succeeded: 0, failed: 2, pending: 0 })
    },
  )

  inVirtualTime('a success that comes exactly when the lease ends is too late', async (clock) => {
    const breaker = await due(clock, { probeTimeoutMs: 20 })
    const permit = breaker.tryAcquire()
    await clock.advance(20)

    permit?.success()

    expect(breaker.state).toBe('open')
  })

  inVirtualTime('a permit that nobody tells loses its lease too', async (clock) => {
    const breaker = await due(clock, { probeTimeoutMs: 20 })
    breaker.tryAcquire()

    await clock.advance(120)

    expect(breaker.stats()).toMatchObject({ state: 'half-open', failed: 2, probes: 0, opened: 2 })
  })

  inVirtualTime('an aborted probe holds its slot until its function settles', async (clock) => {
    const breaker = await due(clock)
    const controller = new AbortController()
    const probe = begin(breaker, { signal: controller.signal })
    controller.abort(new Error('given up'))
    await clock.advance(0)

    expect(breaker.stats()).toMatchObject({ ignored: 1, pending: 0, probes: 1 })
    expect(breaker.tryAcquire()).toBe(undefined)
    probe.fail()
    await clock.advance(0)

    expect(breaker.state).toBe('half-open')
    expect(breaker.stats()).toMatchObject({ ignored: 1, failed: 1, probes: 0 })
    await succeed(breaker)
    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('or until its lease ends, which then says nothing', async (clock) => {
    const breaker = await due(clock, { probeTimeoutMs: 20 })
    const controller = new AbortController()
    begin(breaker, { signal: controller.signal })
    controller.abort()

    await clock.advance(19)
    expect(breaker.tryAcquire()).toBe(undefined)
    await clock.advance(1)

    expect(breaker.state).toBe('half-open')
    await succeed(breaker)
    expect(breaker.state).toBe('closed')
  })
})

inVirtualTime('one look is enough to see every lease that has ended', async (clock) => {
  const breaker = await due(clock, { halfOpenRequests: 2, probeTimeoutMs: 20 })
  const controller = new AbortController()
  begin(breaker, { signal: controller.signal })
  begin(breaker)
  controller.abort()
  await clock.advance(25)

  // The first lease said nothing any more, the second was lost and opened it.
  expect(breaker.tryAcquire()).toBe(undefined)
  expect(breaker.stats()).toMatchObject({ state: 'open', retryAfterMs: 95, probes: 0 })
})

describe('recovery', () => {
  async function delays(breaker: CircuitBreaker, clock: FakeClock, times: number): Promise<number[]> {
    const found: number[] = []
    for (let i = 0; i < times; i++) {
      await fail(breaker)
      const { retryAfterMs } = breaker
      found.push(retryAfterMs as number)
      await clock.advance(retryAfterMs as number)
    }
    return found
  }

  inVirtualTime('the delay stays the same by default', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })

    expect(await delays(breaker, clock, 4)).toEqual([100, 100, 100, 100])
  })

  inVirtualTime('it grows by factor with each opening, up to maxMs, and begins anew once closed', async (clock) => {
    const recovery = { factor: 2, maxMs: 500 }
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, recovery })

    expect(await delays(breaker, clock, 5)).toEqual([100, 200, 400, 500, 500])
    expect(breaker.stats().openings).toBe(5)
    await succeed(breaker)
    expect(breaker.stats()).toMatchObject({ openings: 0, opened: 5 })

    expect(await delays(breaker, clock, 2)).toEqual([100, 200])
  })

  inVirtualTime('it never grows beyond ten minutes unless told so', async (clock) => {
    const recovery = { factor: 1000 }
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, recovery })

    expect(await delays(breaker, clock, 3)).toEqual([100, 100_000, 600_000])
  })

  inVirtualTime('a recoveryTimeoutMs above that limit is not cut', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 3_600_000 })

    expect(await delays(breaker, clock, 2)).toEqual([3_600_000, 3_600_000])
  })

  inVirtualTime('jitter is a share of the delay, plus or minus, and spreads over all of it', async (clock) => {
    const options = { clock, failureThreshold: 1, recoveryTimeoutMs: 1000, recovery: { jitter: 0.2 } }
    const random = seededRandom(4)
    const found: number[] = []
    for (let i = 0; i < 500; i++) {
      const breaker = new CircuitBreaker({ ...options, random })
      await fail(breaker)
      found.push(breaker.retryAfterMs as number)
    }

    expect(Math.min(...found)).toBeGreaterThanOrEqual(800)
    expect(Math.min(...found)).toBeLessThan(815)
    expect(Math.max(...found)).toBeLessThanOrEqual(1200)
    expect(Math.max(...found)).toBeGreaterThan(1185)
    expect(found.reduce((sum, ms) => sum + ms) / found.length).toBeCloseTo(1000, -1.5)
  })

  inVirtualTime('the middle of chance is the delay itself, and maxMs holds with jitter', async (clock) => {
    const options = { clock, failureThreshold: 1, recoveryTimeoutMs: 1000, recovery: { jitter: 0.5, maxMs: 1000 } }
    const at = async (chance: number): Promise<number | undefined> => {
      const breaker = new CircuitBreaker({ ...options, random: () => chance })
      await fail(breaker)
      return breaker.retryAfterMs
    }

    expect(await at(0.5)).toBe(1000)
    expect(await at(0)).toBe(500)
    expect(await at(0.999)).toBe(1000)
  })

  test('chance is asked for only where there is jitter', async () => {
    const random = (): number => {
      throw new Error('asked')
    }
    const breaker = new CircuitBreaker({ failureThreshold: 1, random })

    await fail(breaker)

    expect(breaker.state).toBe('open')
  })
})
