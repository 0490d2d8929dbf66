import { CircuitBreaker, type CircuitBreakerEvents, type CircuitBreakerOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { unhandledDuring, warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { begin, fail, refusalOf, succeed } from './support/calls.js'

const names = [
  'opened',
  'half-opened',
  'closed',
  'isolated',
  'released',
  'rejected',
  'succeeded',
  'failed',
] as const satisfies readonly (keyof CircuitBreakerEvents)[]

const make = (clock: FakeClock, options: CircuitBreakerOptions = {}): CircuitBreaker =>
  new CircuitBreaker({ clock, failureThreshold: 1, recoveryTimeoutMs: 100, ...options })

/** The warnings of the process print it. */
const withoutStack = (message: string): Error => Object.assign(new Error(message), { stack: message })

/** Everything that can happen to a breaker, once. */
async function liveThrough(breaker: CircuitBreaker, clock: FakeClock): Promise<string[]> {
  const states: string[] = []
  const note = (): void => void states.push(breaker.state)
  await succeed(breaker)
  await fail(breaker)
  note()
  await refusalOf(breaker)
  await clock.advance(100)
  await fail(breaker)
  note()
  await clock.advance(100)
  await succeed(breaker)
  note()
  const release = breaker.isolate()
  note()
  release()
  await fail(breaker)
  breaker.reset()
  note()
  return states
}

describe('events', () => {
  inVirtualTime('tell the whole story, in order, with their payloads', async (clock) => {
    const breaker = make(clock)
    const story: unknown[] = []
    for (const name of names) breaker.on(name, (payload) => story.push([name, payload]))
    const error = expect.objectContaining({ message: 'down' })

    await liveThrough(breaker, clock)

    expect(story).toEqual([
      ['succeeded', { late: false }],
      ['failed', { error, late: false }],
      ['opened', { reason: 'tripped', error, retryAfterMs: 100, openings: 1 }],
      ['rejected', { state: 'open', retryAfterMs: 100 }],
      ['half-opened', {}],
      ['failed', { error, late: false }],
      ['opened', { reason: 'probe-failed', error, retryAfterMs: 100, openings: 2 }],
      ['half-opened', {}],
      ['succeeded', { late: false }],
      ['closed', { reason: 'recovered' }],
      ['isolated', {}],
      ['released', { state: 'closed' }],
      ['failed', { error, late: false }],
      ['opened', { reason: 'tripped', error, retryAfterMs: 100, openings: 1 }],
      ['closed', { reason: 'reset' }],
    ])
  })

  inVirtualTime('the state that a listener sees is the new one', async (clock) => {
    const breaker = make(clock)
    const seen: string[] = []
    breaker.on('opened', () => seen.push(breaker.state))
    breaker.on('half-opened', () => seen.push(breaker.state))
    breaker.on('closed', () => seen.push(breaker.state))

    await fail(breaker)
    await clock.advance(100)
    await succeed(breaker)

    expect(seen).toEqual(['open', 'half-open', 'closed'])
  })

  test('listeners that throw or reject change nothing, and each is reported once', async () => {
    const [calm, clock] = [new FakeClock(), new FakeClock()]
    const quiet = make(calm)
    const expected = await liveThrough(quiet, calm)
    const breaker = make(clock, { name: 'payments' })
    for (const name of names) {
      breaker.on(name, () => {
        throw withoutStack(`a listener of ${name}`)
      })
      breaker.on(name, (() => Promise.reject(withoutStack(`a promise of ${name}`))) as () => void)
    }
    let warnings: string[] = []

    const unhandled = await unhandledDuring(async () => {
      warnings = await warningsDuring(async () => {
        expect(await liveThrough(breaker, clock)).toEqual(expected)
      })
    })

    expect(breaker.stats()).toEqual({ ...quiet.stats(), name: 'payments' })
    expect(unhandled).toEqual([])
    expect(warnings).toHaveLength(2 * names.length)
  })

  inVirtualTime('on returns the function that takes the listener off', async (clock) => {
    const breaker = make(clock)
    let heard = 0
    const off = breaker.on('succeeded', () => heard++)

    await succeed(breaker)
    off()
    await succeed(breaker)

    expect(heard).toBe(1)
  })
})

describe('re-entrancy', () => {
  inVirtualTime(
    "a listener that resets within 'opened' leaves it closed, and the next trip is a new one",
    async (clock) => {
      const breaker = make(clock, { failureThreshold: 2 })
      let opened = 0
      breaker.on('opened', () => {
        opened++
        breaker.reset()
      })

      await fail(breaker, 2)
      expect(breaker.state).toBe('closed')
      await fail(breaker)
      expect(opened).toBe(1)
      await fail(breaker)

      expect(opened).toBe(2)
      expect(breaker.stats()).toMatchObject({ state: 'closed', failed: 4, rejected: 0, pending: 0 })
    },
  )

  inVirtualTime("a call within 'opened' is refused, one within 'half-opened' finds the slot taken", async (clock) => {
    const breaker = make(clock)
    const codes: unknown[] = []
    const call = (): void => {
      breaker.execute(() => 'fine').catch((error: { code: unknown }) => codes.push(error.code))
    }
    breaker.on('opened', call)
    breaker.on('half-opened', call)

    await fail(breaker)
    await clock.advance(100)
    await succeed(breaker)

    expect(codes).toEqual(['ERR_CIRCUIT_OPEN', 'ERR_CIRCUIT_OPEN'])
    expect(breaker.state).toBe('closed')
    expect(breaker.stats()).toMatchObject({ offered: 4, rejected: 2, pending: 0 })
  })

  inVirtualTime("a listener that resets within 'failed' or 'succeeded' is before the outcome counts", async (clock) => {
    const breaker = make(clock)
    const off = breaker.on('failed', () => breaker.reset())
    await fail(breaker)
    expect(breaker.state).toBe('closed')
    off()

    await fail(breaker)
    await clock.advance(100)
    breaker.on('succeeded', () => breaker.isolate())
    await succeed(breaker)
    expect(breaker.state).toBe('isolated')
  })

  inVirtualTime('a function may call its own breaker, and reset or isolate it', async (clock) => {
    const breaker = make(clock, { halfOpenRequests: 2, successThreshold: 2 })

    expect(await breaker.execute(() => breaker.execute(() => breaker.execute(() => 'deep')))).toBe('deep')
    await fail(breaker)
    await clock.advance(100)
    expect(await breaker.execute(() => breaker.execute(() => 'two probes'))).toBe('two probes')
    expect(breaker.state).toBe('closed')
    await breaker.execute(() => breaker.reset())
    const release = await breaker.execute(() => breaker.isolate())

    expect(breaker.state).toBe('isolated')
    release()
    expect(breaker.stats()).toMatchObject({ state: 'closed', pending: 0, probes: 0 })
  })

  inVirtualTime(
    'a probe whose function calls its own breaker is refused inside, and decides by itself',
    async (clock) => {
      const breaker = make(clock)
      await fail(breaker)
      await clock.advance(100)

      const inner = await breaker.execute(() =>
        breaker.execute(() => 'never').catch((error: { code: unknown }) => error.code),
      )

      expect(inner).toBe('ERR_CIRCUIT_OPEN')
      expect(breaker.state).toBe('closed')
    },
  )

  inVirtualTime('a failure within the listener of a failure trips it once', async (clock) => {
    const breaker = make(clock, { failureThreshold: 2 })
    let opened = 0
    breaker.on('opened', () => opened++)
    const off = breaker.on('failed', () => {
      off()
      breaker.tryAcquire()?.failure()
      breaker.tryAcquire()?.failure()
    })

    breaker.tryAcquire()?.failure()

    expect(opened).toBe(1)
    expect(breaker.stats()).toMatchObject({ state: 'open', failed: 3, opened: 1 })
  })

  inVirtualTime('a listener that settles the other probes meanwhile changes no count', async (clock) => {
    const breaker = make(clock, { halfOpenRequests: 3, successThreshold: 3 })
    await fail(breaker)
    await clock.advance(100)
    const [first, second, third] = [breaker.tryAcquire(), breaker.tryAcquire(), breaker.tryAcquire()]
    breaker.on('failed', () => {
      second?.failure()
      third?.success()
    })

    first?.failure()

    expect(breaker.stats()).toMatchObject({ state: 'open', probes: 0, pending: 0, opened: 2 })
  })
})

inVirtualTime('two clocks of calls: those from before a trip stay late through any number of trips', async (clock) => {
  const breaker = make(clock)
  const old = Array.from({ length: 4 }, () => begin(breaker))
  for (const [i, call] of old.entries()) {
    await fail(breaker)
    await clock.advance(100)
    if (i % 2 === 0) call.succeed()
    else call.fail()
    await clock.advance(0)
    expect(breaker.state).toBe('half-open')
    await succeed(breaker)
    expect(breaker.state).toBe('closed')
  }

  expect(breaker.stats()).toMatchObject({ late: 4, opened: 4, pending: 0 })
})
