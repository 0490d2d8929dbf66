import { type BreakerSnapshot, CircuitBreaker, type CircuitBreakerOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { begin, fail, succeed } from './support/calls.js'

const throughJson = (breaker: CircuitBreaker): unknown => JSON.parse(JSON.stringify(breaker))

/** Another process, that begins later by the wall clock. */
async function restart(
  from: { clock: FakeClock; breaker: CircuitBreaker },
  afterMs: number,
  options: CircuitBreakerOptions = {},
): Promise<{ clock: FakeClock; breaker: CircuitBreaker }> {
  const clock = new FakeClock({ wallMs: from.clock.wallNow() + afterMs })
  // Its monotonic clock has nothing to do with the first one's.
  await clock.advance(12_345)
  clock.setWall(from.clock.wallNow() + afterMs)
  const breaker = CircuitBreaker.restore(throughJson(from.breaker), { recoveryTimeoutMs: 100, ...options, clock })
  return { clock, breaker }
}

async function openBreaker(clock: FakeClock, options: CircuitBreakerOptions = {}): Promise<CircuitBreaker> {
  const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, ...options })
  await fail(breaker)
  return breaker
}

describe('restore goes on where toJSON was', () => {
  inVirtualTime('open until the same moment, as wall clocks have it', async (clock) => {
    const breaker = await openBreaker(clock)
    await clock.advance(30)

    const later = await restart({ clock, breaker }, 20)

    expect(later.breaker.state).toBe('open')
    expect(later.breaker.retryAfterMs).toBe(50)
    await later.clock.advance(50)
    expect(later.breaker.state).toBe('half-open')
    await succeed(later.breaker)
    expect(later.breaker.state).toBe('closed')
  })

  inVirtualTime('due at once, when the time has passed meanwhile', async (clock) => {
    const breaker = await openBreaker(clock)

    const { breaker: restored } = await restart({ clock, breaker }, 500)

    expect(restored.state).toBe('half-open')
    await succeed(restored)
    expect(restored.state).toBe('closed')
  })

  inVirtualTime('half-open as due: what the old process had in flight holds no slot', async (clock) => {
    const breaker = await openBreaker(clock)
    await clock.advance(100)
    begin(breaker)
    expect(breaker.tryAcquire()).toBe(undefined)

    const { breaker: restored } = await restart({ clock, breaker }, 0)

    expect(restored.stats()).toMatchObject({ state: 'half-open', probes: 0, offered: 0 })
    await succeed(restored)
    expect(restored.state).toBe('closed')
  })

  inVirtualTime('closed, without its counts', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2 })
    await fail(breaker)

    const { breaker: restored } = await restart({ clock, breaker }, 0, { failureThreshold: 2 })
    await fail(restored)

    expect(restored.state).toBe('closed')
  })

  inVirtualTime('what is below an isolation, since nobody could take it back', async (clock) => {
    const breaker = await openBreaker(clock)
    breaker.isolate()

    const { breaker: restored } = await restart({ clock, breaker }, 0)

    expect(restored.state).toBe('open')
  })

  inVirtualTime('with the delay that has grown', async (clock) => {
    const recovery = { factor: 3 }
    const breaker = await openBreaker(clock, { recovery })
    await clock.advance(100)
    await fail(breaker)
    expect(breaker.retryAfterMs).toBe(300)

    const later = await restart({ clock, breaker }, 300, { recovery })
    await fail(later.breaker)

    expect(later.breaker.retryAfterMs).toBe(900)
  })

  inVirtualTime('a clock that was set back keeps it open no longer than it can be', async (clock) => {
    const breaker = await openBreaker(clock)

    const { breaker: restored } = await restart({ clock, breaker }, -1_000_000_000, { recovery: { maxMs: 400 } })

    expect(restored.state).toBe('open')
    expect(restored.retryAfterMs).toBeLessThanOrEqual(400)
  })

  test('looking at it changes nothing, and no event is told', async () => {
    const clock = new FakeClock()
    const breaker = await openBreaker(clock)
    const before = breaker.stats()

    const snapshot = breaker.toJSON()

    expect(breaker.stats()).toEqual(before)
    expect(throughJson(breaker)).toEqual(snapshot)
    expect(snapshot).toEqual({
      version: 1,
      name: 'circuit-breaker',
      state: 'open',
      dueAtMs: clock.wallNow() + 100,
      openings: 1,
    } satisfies BreakerSnapshot)
  })
})

describe('what cannot be read gives a closed breaker and a warning', () => {
  const readable = { version: 1, name: 'payments', state: 'open', dueAtMs: 1_767_225_600_000, openings: 1 }

  test.each<[string, unknown]>([
    ['nothing', undefined],
    ['null', null],
    ['a string', '{"state":"open"}'],
    ['an array', []],
    ['an empty object', {}],
    ['a later version', { ...readable, version: 2 }],
    ['an unknown state', { ...readable, state: 'ajar' }],
    ['isolated', { ...readable, state: 'isolated' }],
    ['open without a moment', { ...readable, dueAtMs: undefined }],
    ['open until null, as JSON writes NaN', { ...readable, dueAtMs: null }],
    ['open for ever', { ...readable, dueAtMs: Number.POSITIVE_INFINITY }],
    ['openings that are no number', { ...readable, openings: 'many' }],
    ['fewer openings than none', { ...readable, openings: -1 }],
    ['half an opening', { ...readable, openings: 0.5 }],
  ])('%s', async (_, snapshot) => {
    let breaker: CircuitBreaker | undefined

    const warnings = await warningsDuring(async () => {
      breaker = CircuitBreaker.restore(snapshot, { name: 'payments' })
    })

    expect(breaker?.state).toBe('closed')
    expect(await breaker?.execute(() => 'fine')).toBe('fine')
    expect(warnings).toEqual([expect.stringMatching(/^SpillwayWarning: .*payments/)])
  })

  test('a readable one warns of nothing; wrong options throw', async () => {
    const warnings = await warningsDuring(async () => {
      CircuitBreaker.restore(readable)
      CircuitBreaker.restore({ version: 1, name: 'payments', state: 'closed', openings: 0 })
    })

    expect(warnings).toEqual([])
    expect(() => CircuitBreaker.restore(readable, { recoveryTimeoutMs: -1 })).toThrow('recoveryTimeoutMs')
  })
})
