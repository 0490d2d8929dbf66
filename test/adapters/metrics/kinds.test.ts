import { Registry } from 'prom-client'
import { instrument, metricsCatalog, prometheus } from 'spillway/metrics'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { oneOfEach } from './support/components.js'
import { exposed, parseExposition } from './support/exposition.js'
import { Otel } from './support/otel-reader.js'

const { metrics, stats: mappings } = metricsCatalog()
const byName = new Map(metrics.map((metric) => [metric.name, metric]))
const components = oneOfEach()
const noLoop = { eventLoop: false } as const
const quantiles: Readonly<Record<string, string>> = { '0.5': 'p50', '0.95': 'p95', '0.99': 'p99', '1': 'max' }

afterEach(() => {
  vi.restoreAllMocks()
})

/** The same stats with a number of its own in each place, so that no two can be mistaken for each other. */
function distinct(value: unknown, next = { number: 1000 }): unknown {
  if (typeof value === 'number') {
    next.number += 7
    return next.number
  }
  if (Array.isArray(value)) return value.map((one) => distinct(one, next))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, distinct(one, next)]))
}

/** What lies at a path of stats. */
function at(stats: unknown, path: string): unknown {
  return path
    .split('.')
    .reduce<unknown>((found, field) => (found as Record<string, unknown> | undefined)?.[field], stats)
}

/** What a series must say, by the value that it comes from. */
function expectedOf(found: unknown, attributes: Readonly<Record<string, string>>, unit: string): number | undefined {
  if (typeof found === 'number') return unit === 's' ? found / 1000 : found
  if (typeof found === 'boolean') return found ? 1 : 0
  if (typeof found === 'string') return found === attributes['state'] ? 1 : 0
  if (Array.isArray(found)) return found.filter(({ state }) => state === attributes['state']).length
  const field = quantiles[attributes['quantile'] ?? '']
  const quantile = field === undefined ? undefined : (found as Record<string, number> | undefined)?.[field]
  return quantile === undefined ? undefined : quantile / 1000
}

describe('the kinds of components', () => {
  it('are all here', () => {
    expect(Object.keys(components).sort()).toEqual([...new Set(mappings.map(({ component }) => component))].sort())
  })

  it.each(Object.keys(components))('%s is recognised, and told in the same numbers by both outputs', async (name) => {
    const component = components[name] as { stats?: unknown }
    if (typeof component.stats === 'function') {
      const stats = distinct((component as { stats(): unknown }).stats())
      vi.spyOn(component as { stats(): unknown }, 'stats').mockReturnValue(stats)
    }
    const { on, events } = component as { on?: (...args: never[]) => unknown; events?: { has(event: string): boolean } }
    const listened = on === undefined ? undefined : vi.spyOn(component as { on: NonNullable<typeof on> }, 'on')
    const otel = new Otel()
    const registry = new Registry()
    const offs = [
      instrument(otel.meter(), { [name]: component as never }, noLoop),
      prometheus(registry, { [name]: component as never }, noLoop),
    ]

    const reading = await otel.read()
    const families = parseExposition(await registry.metrics())

    const stats = typeof component.stats === 'function' ? component.stats() : undefined
    let checked = 0
    for (const { path, series } of mappings.filter((one) => one.component === name && !one.path.includes('[]'))) {
      for (const { name: metricName, attributes } of series) {
        const metric = byName.get(metricName)
        if (metric === undefined) throw new Error(`the catalog lacks ${metricName}`)
        const [nameAttribute = ''] = metric.attributes
        const found = at(stats, path)
        const told = reading.value(metricName, { ...attributes, [nameAttribute]: name })
        const labels = Object.entries({ ...attributes, [nameAttribute]: name }).map(([key, one]) => [
          key.replaceAll('.', '_'),
          one,
        ])
        expect(exposed(families, metric.prometheusName, Object.fromEntries(labels))).toBe(told)
        if (found === undefined) continue
        expect([path, told]).toEqual([path, expectedOf(found, attributes, metric.unit)])
        checked++
      }
    }
    if (stats !== undefined) expect(checked).toBeGreaterThan(5)
    expect(reading.value('spillway.collection.failures', { component: name })).toBe(0)
    // Whatever came belongs to this kind.
    const own = metrics.filter((one) => one.components.includes(name)).map((one) => one.name)
    expect(own).toEqual(
      expect.arrayContaining([...reading.metrics.keys()].filter((one) => one !== 'spillway.collection.failures')),
    )
    const heard = (listened?.mock.calls ?? []).map(([event]) => event as unknown as string)
    expect(heard.filter((event) => events?.has(event))).toEqual(heard)
    for (const off of offs) off()
    expect(heard.filter((event) => events?.has(event))).toEqual([])
  })
})
