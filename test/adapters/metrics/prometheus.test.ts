import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import { AggregatorRegistry, Counter, collectDefaultMetrics, Registry } from 'prom-client'
import { AsyncBatcher, BreakerRegistry, CircuitBreaker, LoadBalancer, TokenCache } from 'spillway'
import { prometheus } from 'spillway/metrics'
import { FakeClock } from 'spillway/testing'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { exposed, parseExposition } from './support/exposition.js'

const offs: (() => void)[] = []
afterEach(() => {
  for (const off of offs.splice(0)) off()
  vi.restoreAllMocks()
})
const wire: typeof prometheus = (...args) => {
  const off = prometheus(...args)
  offs.push(off)
  return off
}
const noLoop = { eventLoop: false } as const
const down = () => Promise.reject(new Error('down'))

/** The event loop is looked at in real time. */
async function loopSeen(registry: { getSingleMetric(name: string): unknown }) {
  const metric = registry.getSingleMetric('nodejs_eventloop_delay_p99_seconds') as {
    get(): Promise<{ values: unknown[] }>
  }
  while ((await metric.get()).values.length === 0) await new Promise((resolve) => setTimeout(resolve, 5))
}

async function read(registry: Registry) {
  return parseExposition(await registry.metrics())
}

describe('prometheus', () => {
  it('tells a batcher: items by outcome, latencies in seconds, sizes and durations of batches', async () => {
    const clock = new FakeClock()
    const orders = new AsyncBatcher(
      async (items: number[]) => {
        await new Promise<void>((resolve) => void clock.setTimer(resolve, 40))
        return items.map((n) => (n < 0 ? new Error('negative') : n))
      },
      { name: 'orders', clock, capacity: 3, maxBatchSize: 3, overflow: 'drop-newest' },
    )
    const registry = new Registry()
    wire(registry, [orders], noLoop)

    const answers = Promise.allSettled([1, 2, -3, 4].map((n) => orders.add(n)))
    expect(exposed(await read(registry), 'spillway_batch_pending_items')).toBe(3)
    await clock.advance(0)
    expect(exposed(await read(registry), 'spillway_batch_in_flight')).toBe(1)
    await clock.advance(40)
    await answers

    const families = await read(registry)
    const items = (outcome: string) => exposed(families, 'spillway_batch_items_total', { component: 'orders', outcome })
    expect(['succeeded', 'failed', 'dropped', 'rejected', 'aborted'].map(items)).toEqual([2, 1, 1, 0, 0])
    expect(exposed(families, 'spillway_batch_pending_items', { component: 'orders' })).toBe(0)
    expect(exposed(families, 'spillway_batch_item_latency_seconds', { quantile: '1' })).toBeCloseTo(0.04, 3)
    expect(families.get('spillway_batch_item_latency_seconds')?.type).toBe('summary')
    expect(exposed(families, 'spillway_batch_size_sum')).toBe(3)
    expect(exposed(families, 'spillway_batch_size_bucket', { le: '2' })).toBe(0)
    expect(exposed(families, 'spillway_batch_size_bucket', { le: '5' })).toBe(1)
    expect(exposed(families, 'spillway_batch_duration_seconds_sum')).toBeCloseTo(0.04, 3)
    expect(exposed(families, 'spillway_batch_duration_seconds_bucket', { le: '0.025' })).toBe(0)
    expect(exposed(families, 'spillway_batch_duration_seconds_bucket', { le: '0.05' })).toBe(1)
  })

  it('tells the state of a breaker as one series each', async () => {
    const payments = new CircuitBreaker({ failureThreshold: 1, recoveryTimeoutMs: 5000, clock: new FakeClock() })
    const registry = new Registry()
    wire(registry, { payments }, noLoop)
    const states = async () =>
      (await read(registry)).get('spillway_breaker_state')?.samples.map(({ labels, value }) => [labels['state'], value])

    expect(await states()).toEqual([
      ['closed', 1],
      ['open', 0],
      ['half-open', 0],
      ['isolated', 0],
    ])
    await payments.execute(down).catch(() => undefined)
    await payments.execute(down).catch(() => undefined)

    expect((await states())?.filter(([, value]) => value === 1)).toEqual([['open', 1]])
    const families = await read(registry)
    expect(exposed(families, 'spillway_breaker_opened_total', { component: 'payments' })).toBe(1)
    expect(exposed(families, 'spillway_breaker_retry_after_seconds')).toBe(5)
    expect(exposed(families, 'spillway_breaker_calls_total', { outcome: 'rejected' })).toBe(1)
  })

  it('escapes whatever a name holds', async () => {
    const hosts = new BreakerRegistry()
    const name = 'quote " backslash \\ line\nend {le="1"} é'
    hosts.get(name)
    const registry = new Registry()
    wire(registry, { [name]: hosts }, noLoop)

    const families = await read(registry)

    expect(exposed(families, 'spillway_breaker_state', { component: name, target: name, state: 'closed' })).toBe(1)
  })

  it('is valid as OpenMetrics, before and after it was asked for the other format', async () => {
    const orders = new AsyncBatcher(async (items: number[]) => items)
    await orders.add(1)
    const registry = new Registry<typeof Registry.OPENMETRICS_CONTENT_TYPE | typeof Registry.PROMETHEUS_CONTENT_TYPE>()
    const off = wire(registry, { orders })
    await loopSeen(registry)

    for (const type of ['OPENMETRICS', 'PROMETHEUS', 'OPENMETRICS', 'PROMETHEUS'] as const) {
      registry.setContentType(Registry[`${type}_CONTENT_TYPE`])
      const families = parseExposition(await registry.metrics(), type === 'OPENMETRICS')
      expect(families.has('spillway_batch_items')).toBe(type === 'OPENMETRICS')
      expect(families.has('spillway_batch_items_total')).toBe(type === 'PROMETHEUS')
      expect(exposed(families, 'spillway_batch_items_total', { outcome: 'succeeded' })).toBe(1)
    }

    off()
    expect(registry.getMetricsAsArray()).toEqual([])
  })

  it('is valid in registries that were merged, whatever format these write', async () => {
    type Both = typeof Registry.OPENMETRICS_CONTENT_TYPE | typeof Registry.PROMETHEUS_CONTENT_TYPE
    const orders = new AsyncBatcher(async (items: number[]) => items)
    const registry = new Registry<Both>()
    wire(registry, { orders }, noLoop)
    const merged = Registry.merge([registry, new Registry<Both>()] as never) as unknown as Registry<Both>

    for (const type of ['PROMETHEUS', 'OPENMETRICS', 'PROMETHEUS'] as const) {
      merged.setContentType(Registry[`${type}_CONTENT_TYPE`])
      const families = parseExposition(await merged.metrics(), type === 'OPENMETRICS')
      expect(exposed(families, 'spillway_batch_items_total', { outcome: 'succeeded' })).toBe(0)
      const own = parseExposition(await registry.metrics())
      expect(exposed(own, 'spillway_batch_items_total', { outcome: 'succeeded' })).toBe(0)
    }
  })

  it('shares a registry with another copy of this package', async () => {
    const [one, two] = ['one', 'two'].map((name) => new AsyncBatcher(async (items: number[]) => items, { name }))
    const registry = new Registry()
    wire(registry, [one] as never, noLoop)
    vi.resetModules()
    const copy = await import('spillway/metrics')
    expect(copy.prometheus).not.toBe(prometheus)

    offs.push(copy.prometheus(registry, [two] as never, noLoop))
    await two?.add(1)

    const families = await read(registry)
    const components = (name: string) => families.get(name)?.samples.map(({ labels }) => labels['component'])
    expect(components('spillway_batch_pending_items')).toEqual(['one', 'two'])
    expect(exposed(families, 'spillway_batch_size_count', { component: 'two' })).toBe(1)
    registry.resetMetrics()
    expect((await read(registry)).get('spillway_batch_size')?.samples).toEqual([])
  })

  it("stands beside prom-client's own metrics, default labels, and what the application has", async () => {
    const registry = new Registry()
    registry.setDefaultLabels({ app: 'shop', component: 'overridden' })
    collectDefaultMetrics({ register: registry })
    const sold = new Counter({ name: 'shop_sold_total', help: 'Sold.', registers: [registry] })
    sold.inc(3)
    const orders = new AsyncBatcher(async (items: number[]) => items)

    wire(registry, { orders })
    await loopSeen(registry)
    const families = await read(registry)

    expect(exposed(families, 'shop_sold_total', { app: 'shop' })).toBe(3)
    expect(exposed(families, 'spillway_batch_pending_items', { app: 'shop', component: 'orders' })).toBe(0)
    expect(exposed(families, 'nodejs_eventloop_delay_p99_seconds')).toBeGreaterThan(0)
    registry.clear()
  })

  it('reads stats once a collection, also of two that come together', async () => {
    const orders = new AsyncBatcher(async (items: number[]) => items)
    const registry = new Registry()
    wire(registry, { orders }, noLoop)
    const stats = vi.spyOn(orders, 'stats')

    await registry.metrics()
    expect(stats).toHaveBeenCalledTimes(1)
    await registry.getMetricsAsJSON()
    expect(stats).toHaveBeenCalledTimes(2)
    await Promise.all([registry.metrics(), registry.getSingleMetricAsString('spillway_batch_pending_items')])
    expect(stats).toHaveBeenCalledTimes(3)
  })

  it('serves the others when a component throws, counts it and warns once', async () => {
    const warnings: string[] = []
    vi.spyOn(process, 'emitWarning').mockImplementation((warning) => void warnings.push(String(warning)))
    const [orders, broken] = [1, 2].map(() => new AsyncBatcher(async (items: number[]) => items))
    const registry = new Registry()
    wire(registry, { broken, orders } as never, noLoop)
    vi.spyOn(broken as object as { stats(): object }, 'stats').mockImplementation(() => {
      throw new Error('no stats today')
    })

    for (let times = 1; times <= 2; times++) {
      const families = await read(registry)
      const pending = families.get('spillway_batch_pending_items')?.samples
      expect(pending?.map(({ labels }) => labels['component'])).toEqual(['orders'])
      expect(exposed(families, 'spillway_collection_failures_total', { component: 'broken' })).toBe(times)
      expect(exposed(families, 'spillway_collection_failures_total', { component: 'orders' })).toBe(0)
    }
    expect(warnings).toEqual([expect.stringMatching(/^the stats of broken can't be read: Error: no stats today/)])
  })

  it('goes on with the last counts of a component that was closed', async () => {
    const tokens = new TokenCache(async () => ({ token: 't', expiresInMs: 60_000 }))
    const registry = new Registry()
    wire(registry, { tokens }, noLoop)
    await tokens.get()
    await tokens.close()

    const families = await read(registry)

    expect(exposed(families, 'spillway_token_requests_total', { outcome: 'succeeded' })).toBe(1)
    expect(exposed(families, 'spillway_collection_failures_total')).toBe(0)
  })

  it('shares a registry between calls, and leaves it as it was when all are off', async () => {
    const [one, two] = ['one', 'two'].map((name) => new AsyncBatcher(async (items: number[]) => items, { name }))
    const registry = new Registry()
    const offOne = wire(registry, [one] as never)
    const offTwo = wire(registry, [two] as never)
    await loopSeen(registry)

    const both = await read(registry)
    expect(both.get('spillway_batch_pending_items')?.samples.map(({ labels }) => labels['component'])).toEqual([
      'one',
      'two',
    ])
    expect(both.get('nodejs_eventloop_delay_p50_seconds')?.samples).toHaveLength(1)

    offOne()
    offOne()
    const left = await read(registry)
    expect(left.get('spillway_batch_pending_items')?.samples.map(({ labels }) => labels['component'])).toEqual(['two'])
    // What is free again can be had again.
    wire(registry, [one] as never, noLoop)()
    offTwo()
    expect(await registry.metrics()).toBe('\n')
  })

  it('takes its listeners off, and measures the event loop no more', async () => {
    const orders = new AsyncBatcher(async (items: number[]) => items)
    const on = vi.spyOn(orders, 'on')
    const monitor = Object.getPrototypeOf(monitorEventLoopDelay()) as IntervalHistogram
    const [enable, disable] = [vi.spyOn(monitor, 'enable'), vi.spyOn(monitor, 'disable')]
    const registry = new Registry()

    const off = wire(registry, { orders })
    expect([enable.mock.calls.length, disable.mock.calls.length]).toEqual([1, 0])
    const listeners = on.mock.results.map(({ value }) => value as () => void)
    expect(on.mock.calls.map(([event]) => event)).toEqual(['settled'])
    off()

    const events = (orders as unknown as { events: { has(event: string): boolean } }).events
    expect(events.has('settled')).toBe(false)
    expect(disable.mock.instances).toEqual(enable.mock.instances)
    expect(listeners).toHaveLength(1)
    expect(registry.getMetricsAsArray()).toEqual([])
  })

  it('lets a reset forget what was recorded, and nothing that components count', async () => {
    const orders = new AsyncBatcher(async (items: number[]) => items)
    const registry = new Registry()
    wire(registry, { orders }, noLoop)
    await orders.add(1)

    registry.resetMetrics()
    const families = await read(registry)

    expect(families.get('spillway_batch_size')?.samples).toEqual([])
    expect(exposed(families, 'spillway_batch_items_total', { outcome: 'succeeded' })).toBe(1)
  })

  it('adds up over the processes of a cluster, and takes the worst of what makes no sum', async () => {
    const parts = await Promise.all(
      [1, 2].map(async (times) => {
        const orders = new AsyncBatcher(async (items: number[]) => items)
        const payments = new CircuitBreaker({ failureThreshold: 1 })
        const registry = new Registry()
        wire(registry, { orders, payments }, noLoop)
        for (let n = 0; n < times; n++) await orders.add(n)
        if (times === 2) await payments.execute(down).catch(() => undefined)
        return JSON.parse(JSON.stringify(await registry.getMetricsAsJSON()))
      }),
    )

    const families = parseExposition(await AggregatorRegistry.aggregate(parts).metrics())

    expect(exposed(families, 'spillway_batch_items_total', { outcome: 'succeeded' })).toBe(3)
    expect(exposed(families, 'spillway_batch_size_count')).toBe(3)
    expect(exposed(families, 'spillway_breaker_state', { state: 'open' })).toBe(1)
    expect(exposed(families, 'spillway_breaker_state', { state: 'closed' })).toBe(1)
    const waits = parts.flatMap((part) => part.find((one: { name: string }) => /retry_after/.test(one.name)).values)
    const longest = Math.max(...waits.map(({ value }: { value: number }) => value))
    expect(exposed(families, 'spillway_breaker_retry_after_seconds')).toBe(longest)
  })

  it('tells the instances of a balancer as long as they are there', async () => {
    const clock = new FakeClock()
    let list = ['a', 'b'].map((id) => ({ id }))
    const backends = new LoadBalancer(async () => list, { clock })
    await backends.start()
    const registry = new Registry()
    wire(registry, { backends }, noLoop)
    const lease = backends.pick()

    expect(exposed(await read(registry), 'spillway_balancer_instance_in_flight', { target: lease.instance.id })).toBe(1)
    lease.release()
    list = [{ id: 'b' }, { id: 'c' }]
    await backends.refresh()

    const families = await read(registry)
    const targets = families.get('spillway_balancer_instance_weight')?.samples.map(({ labels }) => labels['target'])
    expect(targets).toEqual(['b', 'c'])
    expect(exposed(families, 'spillway_balancer_instances', { state: 'healthy' })).toBe(2)
    await backends.close()
  })

  it('refuses a name that somebody else has in the registry, and leaves the registry as it was', () => {
    const registry = new Registry()
    new Counter({ name: 'spillway_batch_retries_total', help: 'Somebody else.', registers: [registry] })
    const orders = new AsyncBatcher(async (items: number[]) => items)

    expect(() => prometheus(registry, { orders })).toThrow(
      'registry must have no metric of this name from elsewhere, got "spillway_batch_retries_total" (string)',
    )

    expect(registry.getMetricsAsArray().map(({ name }) => name)).toEqual(['spillway_batch_retries_total'])
  })
})
