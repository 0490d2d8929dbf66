import { BreakerRegistry, CircuitBreaker } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { unhandledDuring, warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { begin, fail } from './support/calls.js'

inVirtualTime('one that aborts while the first probe is announced is heard', async (clock) => {
  const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
  const controller = new AbortController()
  breaker.on('half-opened', () => controller.abort('announced'))
  await fail(breaker)
  await clock.advance(100)

  const watched = watch(breaker.execute(() => new Promise<never>(() => undefined), { signal: controller.signal }))
  await clock.advance(0)

  expect(watched).toMatchObject({ status: 'rejected', reason: 'announced' })
})

test('a wait that a refused caller is told of is never negative, even when the time is up while it is told', async () => {
  // Every look at this clock takes a while.
  let now = 0
  const stepMs = 0.25
  const clock = Object.assign(new FakeClock(), {
    now: () => {
      now += stepMs
      return now
    },
  })
  const waits: number[] = []
  for (let startMs = 0; startMs < 5; startMs += 0.1) {
    for (const probing of [false, true]) {
      const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 5, probeTimeoutMs: 5 })
      breaker.on('rejected', ({ retryAfterMs }) => waits.push(retryAfterMs as number))
      breaker.tryAcquire()?.failure()
      if (probing) {
        now += 5
        await clock.advance(0)
        breaker.tryAcquire()
      }
      now += startMs
      waits.push(breaker.retryAfterMs as number, breaker.stats().retryAfterMs as number)
      breaker.tryAcquire()
      await breaker.execute(() => 'fine').catch((error: { retryAfterMs: number }) => waits.push(error.retryAfterMs))
      await clock.advance(0)
    }
  }

  expect(Math.min(...waits)).toBeGreaterThanOrEqual(0)
})

/** A half-open breaker whose only probe hangs; its lease has ended, and so has the recovery after it, but nobody has looked. */
async function withForgottenProbe(clock: FakeClock): Promise<CircuitBreaker> {
  const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, probeTimeoutMs: 20 })
  await fail(breaker)
  await clock.advance(100)
  begin(breaker)
  await clock.advance(1000)
  return breaker
}

describe('a listener that hears of a lost probe only when the next call comes', () => {
  inVirtualTime('may isolate the breaker: that call is refused then', async (clock) => {
    const breaker = await withForgottenProbe(clock)
    breaker.on('opened', () => breaker.isolate())

    const permit = breaker.tryAcquire()

    expect(breaker.state).toBe('isolated')
    expect(permit).toBe(undefined)
  })

  inVirtualTime('may reset the breaker: that call is an ordinary one then, with no lease', async (clock) => {
    const breaker = await withForgottenProbe(clock)
    breaker.on('opened', () => breaker.reset())

    const permit = breaker.tryAcquire()
    expect(permit).toBeDefined()
    expect(breaker.stats()).toMatchObject({ state: 'closed', probes: 0 })
    await clock.advance(1000)

    expect(breaker.state).toBe('closed')
    permit?.success()
    expect(breaker.stats()).toMatchObject({ state: 'closed', succeeded: 1, opened: 2 })
  })

  inVirtualTime('may take back the isolation that is just being taken back: it counts once', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, probeTimeoutMs: 20 })
    await fail(breaker)
    await clock.advance(100)
    begin(breaker)
    const release = breaker.isolate()
    const other = breaker.isolate()
    await clock.advance(20)
    breaker.on('failed', () => release())

    release()

    expect(breaker.state).toBe('isolated')
    other()
    expect(breaker.state).toBe('half-open')
    breaker.isolate()
    expect(breaker.state).toBe('isolated')
  })
})

test('a classifier that answers with a promise is reported, and that promise’s rejection is nobody’s', async () => {
  const classifyError = (() => Promise.reject(new Error('asynchronous'))) as unknown as () => 'success'
  const breaker = new CircuitBreaker({ failureThreshold: 2, classifyError })
  let warnings: string[] = []

  const unhandled = await unhandledDuring(async () => {
    warnings = await warningsDuring(() => fail(breaker, 2))
  })

  expect(breaker.state).toBe('open')
  expect(warnings).toHaveLength(1)
  expect(unhandled).toEqual([])
})

inVirtualTime('stats of an isolated breaker know of a probe that was lost meanwhile', async (clock) => {
  const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, probeTimeoutMs: 20 })
  await fail(breaker)
  await clock.advance(100)
  begin(breaker)
  breaker.isolate()
  await clock.advance(20)

  expect(breaker.stats()).toMatchObject({ state: 'isolated', failed: 2, late: 1, pending: 0, probes: 0 })
})

inVirtualTime(
  'a probe gate that calls the breaker itself lets no more probes through than there are slots',
  async (clock) => {
    let asked = 0
    const breaker: CircuitBreaker = new CircuitBreaker({
      clock,
      failureThreshold: 1,
      recoveryTimeoutMs: 100,
      probeGate: () => {
        if (asked++ === 0) breaker.tryAcquire()
        return true
      },
    })
    await fail(breaker)
    await clock.advance(100)

    breaker.tryAcquire()

    expect(breaker.stats().probes).toBe(1)
  },
)

describe('a registry', () => {
  test('can be asked for breakers while one goes through it', () => {
    const registry = new BreakerRegistry()
    for (const key of ['a', 'b', 'c']) registry.get(key)
    const seen: string[] = []

    for (const [key] of registry.entries()) {
      seen.push(registry.get(key).name)
      if (seen.length > 10) break
    }

    expect(seen).toEqual(['a', 'b', 'c'])
  })

  test('a new key costs no more for all the breakers that are open', async () => {
    let looks = 0
    const clock = Object.assign(new FakeClock(), {
      now: () => {
        looks++
        return 0
      },
    })
    const registry = new BreakerRegistry({ capacity: 100, clock, failureThreshold: 1 })
    for (let i = 0; i < 1500; i++) registry.get(`host ${i}`).tryAcquire()?.failure()
    await clock.advance(0)

    looks = 0
    for (let i = 1500; i < 1600; i++) registry.get(`host ${i}`)

    // Some for each is fair; all that are open for each makes an outage of many keys quadratic.
    expect(looks).toBeLessThan(100 * 100)
  })
})
