import { FakeClock } from 'spillway/testing'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type ConsulServer, startConsul } from '../../servers/consul.js'
import { FaultyProxy } from './support/faulty-proxy.js'
import { elapse, uniqueService, until, watching } from './support/watching.js'

const consul: ConsulServer | undefined = await startConsul()

describe.skipIf(consul === undefined)('the pace of consulSource, in virtual time before a real Consul', () => {
  let proxy: FaultyProxy

  beforeEach(async () => {
    proxy = await FaultyProxy.start((consul as ConsulServer).port)
  })
  afterEach(() => proxy.stop())
  afterAll(() => consul?.stop())

  it('asks nothing more while time stands still, and leaves no timer behind', async () => {
    const clock = new FakeClock()
    proxy.fault = () => ({ index: () => undefined })
    const seen = watching({ address: proxy.address, service: uniqueService(), clock, random: () => 0.5 })
    await until(() => seen.lists.length === 1, 'the first list')
    await elapse(200)
    expect(proxy.requests).toHaveLength(1)

    await clock.advance(4999)
    await elapse(100)
    expect(proxy.requests).toHaveLength(1)
    await clock.advance(1)
    await until(() => proxy.requests.length === 2, 'the poll')
    await until(() => clock.pending === 1, 'its answer')

    seen.stop()
    await clock.advance(0)
    expect(clock.pending).toBe(0)
  })

  it('asks twice at once and then once a second, by default, when each answer has a new index', async () => {
    const clock = new FakeClock()
    let churn = 1_000_000
    proxy.fault = () => ({ index: () => churn++ })
    const seen = watching({ address: proxy.address, service: uniqueService(), clock, waitMs: 1 })

    for (let asked = 2; asked <= 5; asked++) {
      await until(() => proxy.requests.length === asked, 'a query')
      // Only the wait for the next one is left.
      await until(() => churn === 1_000_000 + asked && clock.pending === 1, 'its answer')
      await clock.advance(999)
      await elapse(30)
      expect(proxy.requests).toHaveLength(asked)
      await clock.advance(1)
    }
    await until(() => proxy.requests.length === 6, 'a query')
    seen.stop()

    expect(seen.lists).toHaveLength(1)
    expect(clock.pending).toBe(0)
  })

  it('doubles the most that it waits after each failure, up to maxDelayMs', async () => {
    const clock = new FakeClock()
    proxy.fault = () => ({ status: 500 })
    const seen = watching({
      address: proxy.address,
      service: uniqueService(),
      clock,
      random: () => 0.5,
      minIntervalMs: 1,
      retry: { delayMs: 1000, maxDelayMs: 5000 },
    })

    for (const [failures, delayMs] of [500, 1000, 2000, 2500, 2500].entries()) {
      await until(() => seen.errors.length === failures + 1, 'a failure')
      await clock.advance(delayMs - 1)
      await elapse(30)
      expect(proxy.requests).toHaveLength(failures + 1)
      await clock.advance(1)
      await until(() => proxy.requests.length === failures + 2, 'the next query')
    }
    seen.stop()

    expect(clock.pending).toBe(0)
  })

  it('tries to block again after a minute of polling, and then after two', { timeout: 60_000 }, async () => {
    const clock = new FakeClock()
    const tries: number[] = []
    let polls = 0
    proxy.fault = ({ index }) => {
      if (index === undefined) {
        polls++
        return undefined
      }
      tries.push(clock.now())
      return 'cut'
    }
    const seen = watching({ address: proxy.address, service: uniqueService(), clock, random: () => 0.5 })
    while (clock.now() < 250_000) {
      await clock.advance(250)
      await elapse(1)
    }
    seen.stop()

    const [first = 0, second = 0, third = 0, fourth = 0, ...more] = tries
    expect(second - first).toBeLessThan(5000)
    expect(third - second).toBeGreaterThan(59_000)
    expect(third - second).toBeLessThan(75_000)
    expect(fourth - third).toBeGreaterThan(119_000)
    expect(fourth - third).toBeLessThan(135_000)
    expect(more).toEqual([])
    // One in 5 s, whatever else happens.
    expect(polls).toBeGreaterThan(40)
    expect(polls).toBeLessThan(60)
  })
})
