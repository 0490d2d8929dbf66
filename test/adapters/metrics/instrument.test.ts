import { metrics as api } from '@opentelemetry/api'
import { AggregationTemporality } from '@opentelemetry/sdk-metrics'
import {
  AsyncBatcher,
  AsyncWriteBuffer,
  BreakerRegistry,
  CircuitBreaker,
  LoadBalancer,
  MemoryQuotaStore,
  MultiLevelCache,
  QuotaConsumer,
  TokenCache,
} from 'spillway'
import { instrument } from 'spillway/metrics'
import { FakeClock } from 'spillway/testing'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { Otel } from './support/otel-reader.js'

const noLoop = { eventLoop: false } as const
const down = () => Promise.reject(new Error('down'))

afterEach(() => {
  vi.restoreAllMocks()
})

describe('instrument', () => {
  it('tells a batcher as counters, amounts, quantiles and histograms', async () => {
    const clock = new FakeClock()
    const orders = new AsyncBatcher(
      async (items: number[]) => {
        await new Promise<void>((resolve) => void clock.setTimer(resolve, 40))
        return items.map((n) => (n < 0 ? new Error('negative') : n))
      },
      { clock },
    )
    const otel = new Otel()
    instrument(otel.meter(), { orders }, noLoop)
    const abort = new AbortController()

    const answers = Promise.allSettled([1, -2, 3].map((n) => orders.add(n)))
    const aborted = orders.add(4, { signal: abort.signal }).catch(() => undefined)
    expect((await otel.read()).value('spillway.batch.pending_items', { component: 'orders' })).toBe(4)
    abort.abort()
    await clock.advance(0)
    expect((await otel.read()).value('spillway.batch.in_flight_items')).toBe(3)
    await clock.advance(40)
    await Promise.all([answers, aborted])

    const reading = await otel.read()
    const items = (outcome: string) => reading.value('spillway.batch.items', { component: 'orders', outcome })
    expect(['succeeded', 'failed', 'dropped', 'rejected', 'aborted'].map(items)).toEqual([2, 1, 0, 0, 1])
    expect(reading.value('spillway.batch.pending_items')).toBe(0)
    expect(reading.value('spillway.batch.item_latency', { quantile: '0.99' })).toBeCloseTo(0.04, 3)
    const [duration] = reading.points('spillway.batch.duration', { component: 'orders' })
    expect(duration?.value).toMatchObject({ count: 1, sum: expect.closeTo(0.04, 3) })
    expect(reading.metrics.get('spillway.batch.duration')?.descriptor).toMatchObject({ unit: 's', type: 'HISTOGRAM' })
    const [size] = reading.points('spillway.batch.size')
    expect(size?.value).toMatchObject({ count: 1, sum: 3, buckets: { boundaries: expect.arrayContaining([1, 100]) } })
    expect(reading.metrics.get('spillway.batch.items')?.descriptor).toMatchObject({
      unit: '{item}',
      type: 'OBSERVABLE_COUNTER',
      description: expect.stringMatching(/\.$/),
    })
    expect(reading.metrics.get('spillway.batch.items')).toMatchObject({ isMonotonic: true })
    expect(reading.metrics.get('spillway.batch.pending_items')).toMatchObject({ isMonotonic: false })
  })

  it('tells of writes that are merged, in keys and in writes', async () => {
    const clock = new FakeClock()
    let fail = true
    const counters = new AsyncWriteBuffer<string, number>(async () => (fail ? down() : undefined), {
      clock,
      merge: (a, b) => a + b,
      retry: { attempts: 1 },
    })
    const otel = new Otel()
    instrument(otel.meter(), { counters }, noLoop)

    for (let n = 0; n < 6; n++) counters.put(`k${n % 2}`, 1)
    expect((await otel.read()).value('spillway.batch.pending_keys')).toBe(2)
    await clock.advance(100)
    fail = false
    counters.put('k0', 1)
    await clock.advance(100)

    const reading = await otel.read()
    expect(reading.value('spillway.batch.items', { outcome: 'failed' })).toBe(6)
    expect(reading.value('spillway.batch.items', { outcome: 'succeeded' })).toBe(1)
    expect(reading.points('spillway.batch.size')[0]?.value).toMatchObject({ count: 1, sum: 1 })
    expect(reading.value('spillway.batch.duration')).toBe(1)
    await counters.close()
  })

  it('tells whether accounting is healthy, and its lag', async () => {
    const clock = new FakeClock()
    const store = new MemoryQuotaStore({ clock })
    let broken = true
    const sink = {
      idempotent: true,
      write: async (...args: Parameters<MemoryQuotaStore['write']>) => (broken ? down() : store.write(...args)),
    }
    const usage = new QuotaConsumer(sink, { clock, retry: { attempts: 1 }, maxWaitMs: 10 })
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    const otel = new Otel()
    instrument(otel.meter(), { usage }, noLoop)
    expect((await otel.read()).value('spillway.component.healthy', { component: 'usage' })).toBe(1)

    for (let n = 0; n < 30; n++) {
      usage.offer({ userId: 'ann', quotaType: 'api', value: 1 })
      await clock.advance(10)
    }
    const sick = await otel.read()
    expect(sick.value('spillway.component.healthy')).toBe(0)
    // Who only counts takes no charge of what was lost: the consumer still warns that nobody does.
    expect(String(warned.mock.calls[0]?.[0])).toContain('gave up usage')
    expect(sick.value('spillway.batch.items', { outcome: 'failed' })).toBeGreaterThan(0)

    broken = false
    usage.offer({ userId: 'ann', quotaType: 'api', value: 1 })
    expect((await otel.read()).value('spillway.batch.pending_items')).toBeGreaterThan(0)
    await clock.advance(10)
    const well = await otel.read()
    expect(well.value('spillway.component.healthy')).toBe(1)
    expect(well.value('spillway.batch.pending_items')).toBe(0)
    expect(well.value('spillway.batch.duration')).toBe(1)
    await usage.close()
  })

  it('tells a cache: reads by what they were answered with, tiers, loads', async () => {
    const users = new MultiLevelCache<string>({ clock: new FakeClock(), l1: { maxEntries: 2 } })
    const otel = new Otel()
    instrument(otel.meter(), { users }, noLoop)

    for (const key of ['a', 'a', 'b', 'c']) await users.getOrLoad(key, async () => key)
    await users.getOrLoad('d', down).catch(() => undefined)
    await users.get('e')

    const reading = await otel.read()
    const reads = (outcome: string) => reading.value('spillway.cache.reads', { component: 'users', outcome })
    expect(['l1_hit', 'l2_hit', 'loaded', 'failed', 'missed'].map(reads)).toEqual([1, 0, 3, 1, 1])
    expect(reading.value('spillway.cache.loads', { outcome: 'failed' })).toBe(1)
    expect(reading.value('spillway.cache.entries')).toBe(2)
    expect(reading.value('spillway.cache.evictions')).toBe(1)
    expect(reading.value('spillway.cache.lookups', { tier: 'l1', result: 'hit' })).toBe(1)
    // There is no shared tier.
    expect(reading.points('spillway.cache.lookups', { tier: 'l2' })).toEqual([])
    expect(reading.points('spillway.cache.store.state')).toEqual([])
    await users.close()
  })

  it('tells tokens and instances', async () => {
    const tokens = new TokenCache(async () => ({ token: 'secret', expiresInMs: 60_000 }), { clock: new FakeClock() })
    const backends = new LoadBalancer([{ id: 'a' }], { clock: new FakeClock() })
    const otel = new Otel()
    instrument(otel.meter(), { tokens, backends }, noLoop)

    await Promise.all([tokens.get(), tokens.get()])
    const lease = backends.pick()
    const reading = await otel.read()
    lease.release('failure')
    const after = await otel.read()

    expect(reading.value('spillway.token.requests', { outcome: 'succeeded' })).toBe(2)
    expect(reading.value('spillway.token.fetches', { outcome: 'refreshed' })).toBe(1)
    expect(reading.value('spillway.balancer.leases')).toBe(1)
    expect(reading.value('spillway.balancer.instance.in_flight', { component: 'backends', target: 'a' })).toBe(1)
    expect(after.value('spillway.balancer.leases')).toBe(0)
    expect(after.value('spillway.balancer.picks', { outcome: 'failed' })).toBe(1)
    expect(JSON.stringify([...after.metrics.values()])).not.toContain('secret')
    await Promise.all([tokens.close(), backends.close()])
  })

  it('reads stats once a collection, for every reader', async () => {
    const orders = new AsyncBatcher(async (items: number[]) => items)
    const otel = new Otel()
    instrument(otel.meter(), { orders }, noLoop)
    const stats = vi.spyOn(orders, 'stats')

    await otel.read()
    await otel.read()

    expect(stats).toHaveBeenCalledTimes(2)
  })

  it('serves the others when a component throws', async () => {
    vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    const [orders, broken] = ['orders', 'broken'].map((name) => new CircuitBreaker({ name }))
    const otel = new Otel()
    instrument(otel.meter(), [broken, orders] as never, noLoop)
    vi.spyOn(broken as CircuitBreaker, 'stats').mockImplementation(() => {
      throw new Error('no stats today')
    })

    const reading = await otel.read()

    const names = reading.points('spillway.breaker.probes').map(({ attributes }) => attributes['component'])
    expect(names).toEqual(['orders'])
    expect(reading.value('spillway.collection.failures', { component: 'broken' })).toBe(1)
  })

  it('takes all off again', async () => {
    const orders = new AsyncBatcher(async (items: number[]) => items)
    const otel = new Otel(AggregationTemporality.DELTA)
    const off = instrument(otel.meter(), { orders })
    await orders.add(1)
    expect((await otel.read()).metrics.size).toBeGreaterThan(5)
    const stats = vi.spyOn(orders, 'stats')

    off()
    off()
    await orders.add(2)
    const reading = await otel.read()

    expect([...reading.metrics.keys()]).toEqual([])
    expect(stats).not.toHaveBeenCalled()
    // And the name is free again.
    instrument(otel.meter(), { orders }, noLoop)
    expect((await otel.read()).value('spillway.batch.items', { outcome: 'succeeded' })).toBe(1)
  })

  it('may be called several times on one meter, with names of their own', async () => {
    const [one, two] = ['one', 'two'].map((name) => new CircuitBreaker({ name }))
    const otel = new Otel()
    instrument(otel.meter(), [one] as never)
    instrument(otel.meter(), [two] as never)

    expect(() => instrument(otel.meter(), [two] as never)).toThrow('components must have names that are not taken')
    instrument(otel.meter('another'), [two] as never, noLoop)

    while ((await otel.read()).points('nodejs.eventloop.delay.max').length === 0) {
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    const reading = await otel.read()
    expect(reading.points('nodejs.eventloop.delay.max')).toHaveLength(1)
  })

  it('goes on measuring the event loop for those that are left when the first one is taken off', async () => {
    const otel = new Otel(AggregationTemporality.DELTA)
    const offs = [instrument(otel.meter(), {}), instrument(otel.meter(), {})]
    const loop = async () => (await otel.read()).points('nodejs.eventloop.delay.max')
    while ((await loop()).length === 0) await new Promise((resolve) => setTimeout(resolve, 5))

    offs[0]?.()

    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(await loop()).toHaveLength(1)
    offs[1]?.()
    expect(await loop()).toEqual([])
  })

  it('costs nothing where OpenTelemetry has no SDK', () => {
    const orders = new AsyncBatcher(async (items: number[]) => items)
    const on = vi.spyOn(orders, 'on')

    const off = instrument(api.getMeter('one'), { orders })
    // The API gives everybody the same meter then, so that names there mean nothing.
    instrument(api.getMeter('another'), { orders })()
    off()

    expect(on).not.toHaveBeenCalled()
  })

  it('measures how long the event loop is held up', async () => {
    const otel = new Otel()
    const off = instrument(otel.meter(), {})
    await new Promise((resolve) => setTimeout(resolve, 30))
    const until = performance.now() + 120
    while (performance.now() < until);
    await new Promise((resolve) => setTimeout(resolve, 30))

    const reading = await otel.read()
    off()

    expect(reading.value('nodejs.eventloop.delay.max')).toBeGreaterThan(0.1)
    expect(reading.value('nodejs.eventloop.delay.max')).toBeLessThan(20)
    expect(reading.value('nodejs.eventloop.delay.min')).toBeLessThan(0.1)
    expect(reading.metrics.get('nodejs.eventloop.delay.p99')?.descriptor).toMatchObject({ unit: 's' })
  })

  it('says of an instance that went away that nothing is there, where the SDK repeats the last value for ever', async () => {
    const clock = new FakeClock()
    const hosts = new BreakerRegistry({ capacity: 1, failureThreshold: 1, clock })
    const otel = new Otel()
    instrument(otel.meter(), { hosts }, noLoop)
    const gone = hosts.get('gone')
    await gone.execute(down).catch(() => undefined)
    expect((await otel.read()).value('spillway.breaker.state', { target: 'gone', state: 'open' })).toBe(1)

    gone.reset()
    hosts.get('next')
    hosts.get('after')

    const reading = await otel.read()
    expect(reading.value('spillway.breaker.state', { target: 'gone', state: 'open' })).toBe(0)
    expect(reading.value('spillway.breaker.state', { target: 'gone', state: 'closed' })).toBe(0)
    expect(reading.value('spillway.breaker.state', { target: 'after', state: 'closed' })).toBe(1)
  })
})
