import { failOption } from '../../core/options.js'
import { Collector, type Sample } from './collector.js'
import type { Metric } from './metric.js'
import { type MetricsOptions, resolveMetricsOptions } from './metrics-options.js'
import { type Components, nameComponents } from './named-components.js'
import {
  type FamilySource,
  PrometheusFamily,
  type PrometheusRegistry,
  RecordedHistograms,
} from './prometheus-family.js'
import { collectionFailures } from './shared-metrics.js'

/**
 * Adds components to a registry of prom-client: their counters, gauges, percentiles and states, read whenever the registry is.
 *
 * A component's `stats()` is called once a collection, and its events are listened to only where they come once a batch. What throws has
 * nothing to show in that collection, and counts in `spillway_collection_failures_total`. Several calls may share a registry.
 *
 * @param registry - a Registry, as `register` of prom-client.
 * @param components - a record by name, or a list of components with different names. The names become the label `component`.
 * @returns a function that takes all off again. What was given goes on working; it isn't closed.
 * @throws OptionError where the registry is none or has a metric of the same name from elsewhere, a component isn't known or its name
 * taken in this registry, or an option is wrong.
 *
 * @example
 * ```ts
 * import { Registry } from 'prom-client'
 * import { AsyncBatcher, CircuitBreaker } from 'spillway'
 * import { prometheus } from 'spillway/metrics'
 *
 * const orders = new AsyncBatcher(async (ids: string[]) => ids, { name: 'orders' })
 * const payments = new CircuitBreaker({ name: 'payments' })
 *
 * const registry = new Registry()
 * const off = prometheus(registry, { orders, payments })
 * console.log(await registry.metrics())
 * ```
 */
export function prometheus(registry: PrometheusRegistry, components: Components, options?: MetricsOptions): () => void {
  for (const method of ['getSingleMetric', 'registerMetric', 'removeSingleMetric'] as const) {
    if (typeof registry?.[method] !== 'function') failOption('registry', `must have a method ${method}`, registry)
  }
  const settings = resolveMetricsOptions(options)
  const named = nameComponents(components)
  const taken = PrometheusFamily.of(registry, collectionFailures)?.names ?? []
  for (const { name } of named) {
    if (taken.includes(name)) failOption('components', 'must have names that are not taken in this registry', name)
  }
  const source = new RegistrySource(new Collector(named, settings))
  try {
    for (const metric of source.metrics) addTo(registry, metric, source)
    source.start()
  } catch (error) {
    source.stop()
    removeFrom(registry, source)
    throw error
  }
  return () => {
    source.stop()
    removeFrom(registry, source)
  }
}

function addTo(registry: PrometheusRegistry, metric: Metric, source: FamilySource): void {
  let family = PrometheusFamily.of(registry, metric)
  if (family === undefined) {
    if (registry.getSingleMetric(metric.prometheusName) !== undefined) {
      failOption('registry', 'must have no metric of this name from elsewhere', metric.prometheusName)
    }
    family = new PrometheusFamily(registry, metric)
    registry.registerMetric(family as never)
  }
  family.add(source)
}

function removeFrom(registry: PrometheusRegistry, source: RegistrySource): void {
  for (const metric of source.metrics) {
    if (PrometheusFamily.of(registry, metric)?.remove(source)) registry.removeSingleMetric(metric.prometheusName)
  }
}

/** The series of one call, read once for all families of a registry that are asked for together. */
class RegistrySource implements FamilySource {
  readonly metrics: ReadonlySet<Metric>
  readonly names: readonly string[]
  readonly #collector: Collector
  readonly #histograms = new RecordedHistograms()
  /** By name: a family that another copy of this package made asks with a metric of its own. */
  #samples: ReadonlyMap<string, readonly Sample[]> | undefined

  constructor(collector: Collector) {
    this.#collector = collector
    this.metrics = collector.metrics
    this.names = collector.names
  }

  start(): void {
    this.#collector.start((metric, attributes) => this.#histograms.recorderOf(metric, attributes))
  }

  stop(): void {
    this.#collector.stop()
  }

  samplesOf(metric: Metric): readonly Sample[] {
    if (metric.type === 'histogram') return this.#histograms.samplesOf(metric)
    // A registry asks all its metrics in one go, so that what was read once serves until it lets go.
    if (this.#samples === undefined) {
      this.#samples = new Map([...this.#collector.collect()].map(([one, list]) => [one.prometheusName, list]))
      queueMicrotask(() => {
        this.#samples = undefined
      })
    }
    return this.#samples.get(metric.prometheusName) ?? []
  }

  reset(metric: Metric): void {
    this.#histograms.reset(metric)
  }
}
