import { CircuitBreaker } from 'spillway'
import { describe, expect } from 'vitest'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { begin, fail, refusalOf, succeed } from './support/calls.js'

describe('isolate', () => {
  inVirtualTime('turns everyone away, with no time to come back at', async (clock) => {
    const breaker = new CircuitBreaker({ clock, name: 'payments' })

    const release = breaker.isolate()

    const refusal = await refusalOf(breaker)
    expect(refusal).toMatchObject({ code: 'ERR_CIRCUIT_OPEN', retryable: true })
    expect(refusal.retryAfterMs).toBe(undefined)
    expect(refusal.message).toMatch(/payments.*isolated/)
    await clock.advance(1_000_000)
    expect(breaker.state).toBe('isolated')
    release()
    expect(breaker.state).toBe('closed')
    await succeed(breaker)
  })

  inVirtualTime('several last until each was taken back, in whatever order and however often', async (clock) => {
    const breaker = new CircuitBreaker({ clock })
    const events: string[] = []
    breaker.on('isolated', () => events.push('isolated'))
    breaker.on('released', ({ state }) => events.push(`released ${state}`))
    const [first, second, third] = [breaker.isolate(), breaker.isolate(), breaker.isolate()]

    second()
    second()
    second()
    first()
    first()
    expect(breaker.state).toBe('isolated')
    third()

    expect(breaker.state).toBe('closed')
    expect(events).toEqual(['isolated', 'released closed'])
    const again = breaker.isolate()
    first()
    third()
    expect(breaker.state).toBe('isolated')
    again()
    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('taking it back restores what was: closed with its count', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 3 })
    await fail(breaker, 2)

    breaker.isolate()()
    expect(breaker.state).toBe('closed')
    await fail(breaker)

    expect(breaker.state).toBe('open')
  })

  inVirtualTime('open, with the time that has passed', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    await fail(breaker)
    const first = breaker.isolate()
    await clock.advance(40)
    first()

    expect(breaker.state).toBe('open')
    expect((await refusalOf(breaker)).retryAfterMs).toBe(60)
    const second = breaker.isolate()
    await clock.advance(60)
    second()

    expect(breaker.state).toBe('half-open')
  })

  inVirtualTime('half-open, with its successes and the slots that are taken', async (clock) => {
    const options = { failureThreshold: 1, recoveryTimeoutMs: 100, halfOpenRequests: 2, successThreshold: 2 }
    const breaker = new CircuitBreaker({ ...options, clock })
    await fail(breaker)
    await clock.advance(100)
    await succeed(breaker)
    const probe = begin(breaker)

    breaker.isolate()()
    expect(breaker.stats()).toMatchObject({ state: 'half-open', probes: 1 })
    probe.succeed()
    await probe.answer

    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('outcomes during it count for nothing: failures trip nothing', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2 })
    const calls = Array.from({ length: 5 }, () => begin(breaker))
    const release = breaker.isolate()

    for (const call of calls) call.fail()
    await clock.advance(0)
    release()

    expect(breaker.state).toBe('closed')
    expect(breaker.stats()).toMatchObject({ failed: 5, late: 5, opened: 0 })
    await fail(breaker)
    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('nor do successes close it or set a count back, nor do lost probes open it', async (clock) => {
    const options = { failureThreshold: 2, recoveryTimeoutMs: 100, halfOpenRequests: 2, probeTimeoutMs: 50 }
    const breaker = new CircuitBreaker({ ...options, clock })
    const early = begin(breaker)
    await fail(breaker)
    const first = breaker.isolate()
    early.succeed()
    await early.answer
    first()
    await fail(breaker)
    expect(breaker.state).toBe('open')

    await clock.advance(100)
    const probe = begin(breaker)
    begin(breaker)
    const second = breaker.isolate()
    probe.succeed()
    await probe.answer
    await clock.advance(50)
    second()

    expect(breaker.stats()).toMatchObject({ state: 'half-open', probes: 0, opened: 1 })
    await succeed(breaker)
    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('a call from before it that ends after it counts', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1 })
    const call = begin(breaker)

    breaker.isolate()()
    call.fail()
    await clock.advance(0)

    expect(breaker.state).toBe('open')
  })
})

describe('reset', () => {
  inVirtualTime('closes it, forgets its counts and how often it has opened', async (clock) => {
    const recovery = { factor: 2 }
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2, recoveryTimeoutMs: 100, recovery })
    const closed: unknown[] = []
    breaker.on('closed', (event) => closed.push(event))
    await fail(breaker, 2)
    await clock.advance(100)
    await fail(breaker)
    expect(breaker.retryAfterMs).toBe(200)

    breaker.reset()

    expect(breaker.stats()).toMatchObject({ state: 'closed', openings: 0, opened: 2 })
    expect(closed).toEqual([{ reason: 'reset' }])
    await fail(breaker)
    expect(breaker.state).toBe('closed')
    await fail(breaker)
    expect(breaker.retryAfterMs).toBe(100)
  })

  inVirtualTime('of a closed one forgets the row of failures and tells nobody', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 2 })
    const events: unknown[] = []
    breaker.on('closed', (event) => events.push(event))
    await fail(breaker)

    breaker.reset()
    await fail(breaker)

    expect(breaker.state).toBe('closed')
    expect(events).toEqual([])
  })

  inVirtualTime('makes probes in flight count for nothing', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    await fail(breaker)
    await clock.advance(100)
    const probe = begin(breaker)

    breaker.reset()
    probe.fail()
    await clock.advance(0)

    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('does not take back an isolation', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1 })
    await fail(breaker)
    const release = breaker.isolate()

    breaker.reset()
    expect(breaker.state).toBe('isolated')
    release()

    expect(breaker.state).toBe('closed')
  })
})

describe('open', () => {
  inVirtualTime('opens it by hand, as a trip would', async (clock) => {
    const breaker = new CircuitBreaker({ clock, recoveryTimeoutMs: 100 })
    const opened: unknown[] = []
    breaker.on('opened', (event) => opened.push(event))
    const error = new Error('the neighbour says so')

    breaker.open({ error })

    expect(breaker.state).toBe('open')
    expect(opened).toEqual([{ reason: 'requested', error, retryAfterMs: 100, openings: 1 }])
    await clock.advance(100)
    await succeed(breaker)
    expect(breaker.state).toBe('closed')
  })

  inVirtualTime('an open one stays so for at least as long, and opens no second time', async (clock) => {
    const breaker = new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100 })
    await fail(breaker)

    breaker.open({ forMs: 50 })
    expect(breaker.retryAfterMs).toBe(100)
    breaker.open({ forMs: 150 })
    expect(breaker.retryAfterMs).toBe(150)

    expect(breaker.stats()).toMatchObject({ opened: 1, openings: 1 })
  })
})
