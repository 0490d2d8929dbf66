import fc from 'fast-check'
import { Registry } from 'prom-client'
import { BreakerRegistry, CircuitBreaker } from 'spillway'
import { instrument, prometheus } from 'spillway/metrics'
import { FakeClock } from 'spillway/testing'
import { describe, expect, it } from 'vitest'
import { exposed, parseExposition } from './support/exposition.js'
import { Otel } from './support/otel-reader.js'

const down = () => Promise.reject(new Error('down'))
const noLoop = { eventLoop: false } as const

/** A registry whose breakers come and go as a test says. */
class Comings {
  readonly breakers = new Map<string, CircuitBreaker>()
  get size(): number {
    return this.breakers.size
  }
  get(key: string): CircuitBreaker {
    const breaker = this.breakers.get(key) ?? new CircuitBreaker({ name: key })
    this.breakers.set(key, breaker)
    return breaker
  }
  entries(): IterableIterator<[string, CircuitBreaker]> {
    return this.breakers.entries()
  }
}

async function read(registry: Registry) {
  return parseExposition(await registry.metrics())
}

describe('members of a component', () => {
  it('beyond maxInstances are summed up under other', async () => {
    const hosts = new BreakerRegistry({ failureThreshold: 1, clock: new FakeClock() })
    const registry = new Registry()
    const off = prometheus(registry, { hosts }, { ...noLoop, maxInstances: 2 })
    for (const key of ['a', 'b', 'c', 'd', 'e'])
      await hosts
        .get(key)
        .execute(down)
        .catch(() => undefined)
    hosts.get('e').reset()

    const families = await read(registry)
    const state = (target: string, name: string) =>
      exposed(families, 'spillway_breaker_state', { component: 'hosts', target, state: name })

    expect(families.get('spillway_breaker_probes')?.samples.map(({ labels }) => labels['target'])).toEqual([
      'a',
      'b',
      'other',
    ])
    expect([state('a', 'open'), state('other', 'open'), state('other', 'closed')]).toEqual([1, 2, 1])
    expect(exposed(families, 'spillway_breaker_calls_total', { target: 'other', outcome: 'failed' })).toBe(3)
    // Of times, the longest.
    expect(exposed(families, 'spillway_breaker_retry_after_seconds', { target: 'other' })).toBe(30)
    expect(exposed(families, 'spillway_breaker_registered')).toBe(5)
    off()
  })

  it('that bear the name of the rest are part of it', async () => {
    const hosts = new BreakerRegistry({})
    for (const key of ['other', 'a']) await hosts.get(key).execute(async () => 1)
    const registry = new Registry()
    prometheus(registry, { hosts }, noLoop)

    const families = await read(registry)

    expect(exposed(families, 'spillway_breaker_calls_total', { target: 'other', outcome: 'succeeded' })).toBe(1)
    expect(exposed(families, 'spillway_breaker_calls_total', { target: 'a', outcome: 'succeeded' })).toBe(1)
  })

  it('come and go without end, and leave no series behind', async () => {
    const hosts = new BreakerRegistry({ capacity: 20 })
    const registry = new Registry()
    prometheus(registry, { hosts }, { ...noLoop, maxInstances: 5 })

    let most = 0
    for (let n = 0; n < 500; n++) {
      hosts.get(`tenant ${n}`)
      if (n % 10 === 0) most = Math.max(most, (await read(registry)).get('spillway_breaker_state')?.samples.length ?? 0)
    }

    expect(most).toBe(6 * 4)
    const families = await read(registry)
    expect(families.get('spillway_breaker_registered')?.samples[0]?.value).toBe(20)
    const states = families.get('spillway_breaker_state')?.samples.filter(({ labels }) => labels['state'] === 'closed')
    expect(states?.reduce((sum, { value }) => sum + value, 0)).toBe(20)
  })

  it('count as much together as they do alone, whoever comes and goes, and no counter of theirs goes down', async () => {
    const step = fc.record({
      key: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'other'),
      act: fc.constantFrom('call', 'leave', 'read'),
    })
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 60 }),
        fc.integer({ min: 1, max: 4 }),
        async (steps, maxInstances) => {
          const hosts = new Comings()
          const registry = new Registry()
          const off = prometheus(registry, { hosts }, { ...noLoop, maxInstances })
          let before = 0
          for (const { key, act } of [...steps, { key: 'a', act: 'read' }]) {
            if (act === 'call') await hosts.get(key).execute(async () => 1)
            else if (act === 'leave') hosts.breakers.delete(key)
            const families = await read(registry)
            const samples = families.get('spillway_breaker_calls_total')?.samples ?? []
            const succeeded = samples.filter(({ labels }) => labels['outcome'] === 'succeeded')
            const own = succeeded.filter(({ labels }) => labels['target'] !== 'other')
            expect(own.length).toBeLessThanOrEqual(maxInstances)
            for (const { labels, value } of own) {
              expect(value).toBe(hosts.breakers.get(labels['target'] ?? '')?.stats().succeeded)
            }
            const rest = succeeded.find(({ labels }) => labels['target'] === 'other')?.value ?? 0
            expect(rest).toBeGreaterThanOrEqual(before)
            before = rest
            const others = [...hosts.breakers].filter(([one]) => !own.some(({ labels }) => labels['target'] === one))
            const alive = others.reduce((sum, [, breaker]) => sum + breaker.stats().succeeded, 0)
            expect(rest).toBeGreaterThanOrEqual(alive)
          }
          off()
        },
      ),
      { numRuns: 60 },
    )
  })

  it('of one name are one: amounts are added up, and counters are those of the first, so that none goes down', async () => {
    const [now, before] = ['now', 'before'].map((name) => new CircuitBreaker({ name }))
    await now?.execute(async () => 1)
    for (let n = 0; n < 5; n++) await before?.execute(async () => 1)
    let list = [now, before].flatMap((one): [string, CircuitBreaker][] => (one === undefined ? [] : [['a', one]]))
    const hosts = { size: 2, get: () => list, entries: () => list }
    for (const first of [[], [['b', new CircuitBreaker()]]] as [string, CircuitBreaker][][]) {
      list = [...first, ...list]
      const registry = new Registry()
      prometheus(registry, { hosts }, { ...noLoop, maxInstances: 1 })
      const target = first.length === 0 ? 'a' : 'other'

      for (let times = 0; times < 2; times++) {
        const families = await read(registry)
        expect(exposed(families, 'spillway_breaker_state', { target, state: 'closed' })).toBe(2)
        expect(exposed(families, 'spillway_breaker_calls_total', { target, outcome: 'succeeded' })).toBe(1)
      }
    }
  })

  it('of two components are kept apart', async () => {
    const [one, two] = [new BreakerRegistry(), new BreakerRegistry()]
    one.get('a')
    await two.get('a').execute(async () => 1)
    const otel = new Otel()
    instrument(otel.meter(), { one, two }, { ...noLoop, maxInstances: 1 })

    const reading = await otel.read()

    const calls = (component: string) =>
      reading.value('spillway.breaker.calls', { component, target: 'a', outcome: 'succeeded' })
    expect([calls('one'), calls('two')]).toEqual([0, 1])
  })
})
