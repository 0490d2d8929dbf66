import { failOption } from '../../core/options.js'
import { Collector, type Samples } from './collector.js'
import { type Metric, type MetricAttributes, seriesKey } from './metric.js'
import { type MetricsOptions, resolveMetricsOptions } from './metrics-options.js'
import { type Components, nameComponents } from './named-components.js'

/** What is said of an instrument when it is made. */
export interface InstrumentOptions {
  /** What it measures. */
  description?: string
  /** Its unit, by UCUM. */
  unit?: string
  /** What suits it. */
  advice?: { explicitBucketBoundaries?: number[] }
}

/** Takes the values of a collection. */
export interface BatchObservation {
  /** Takes one series' value. */
  observe(instrument: object, value: number, attributes?: MetricAttributes): void
}

/** Takes single values. */
export interface HistogramInstrument {
  /** Takes one. */
  record(value: number, attributes?: MetricAttributes): void
}

/** A Meter of `@opentelemetry/api`, as much of it as is needed. */
export interface MetricsMeter {
  /** Makes what only goes up. */
  createObservableCounter(name: string, options?: InstrumentOptions): object
  /** Makes what goes up and down and may be added up. */
  createObservableUpDownCounter(name: string, options?: InstrumentOptions): object
  /** Makes what goes up and down. */
  createObservableGauge(name: string, options?: InstrumentOptions): object
  /** Makes what takes single values. */
  createHistogram(name: string, options?: InstrumentOptions): HistogramInstrument
  /** Adds what is called at each collection. */
  addBatchObservableCallback(callback: (result: BatchObservation) => void, instruments: never[]): void
  /** Takes it off again. */
  removeBatchObservableCallback(callback: (result: BatchObservation) => void, instruments: never[]): void
}

/** What the calls on a meter have in use, so that two never feed one series. */
interface MeterUse {
  readonly names: Set<string>
  /** Who measures the event loop, in the order of the calls: the first one tells. */
  readonly loops: Set<Instruments>
}
const usesOfMeters = new WeakMap<MetricsMeter, MeterUse>()

/**
 * Tells OpenTelemetry of components: their counters, gauges, percentiles and states, from then on, at each collection of a reader.
 *
 * A component's `stats()` is called once a collection, and its events are listened to only where they come once a batch. What throws has
 * nothing to show in that collection, and counts in `spillway.collection.failures`.
 *
 * @param meter - a Meter, as from `metrics.getMeter('my-service')`. One that does nothing costs nothing.
 * @param components - a record by name, or a list of components with different names. The names become the attribute `component`.
 * @returns a function that takes all off again. What was given goes on working; it isn't closed.
 * @throws OptionError where the meter is none, a component isn't known or its name taken on this meter, or an option is wrong.
 *
 * @example
 * ```ts
 * import { metrics } from '@opentelemetry/api'
 * import { AsyncBatcher, CircuitBreaker } from 'spillway'
 * import { instrument } from 'spillway/metrics'
 *
 * const orders = new AsyncBatcher(async (ids: string[]) => ids, { name: 'orders' })
 * const payments = new CircuitBreaker({ name: 'payments' })
 *
 * const off = instrument(metrics.getMeter('shop'), { orders, payments })
 * ```
 */
export function instrument(meter: MetricsMeter, components: Components, options?: MetricsOptions): () => void {
  for (const method of meterMethods) {
    if (typeof meter?.[method] !== 'function') failOption('meter', `must have a method ${method}`, meter)
  }
  const settings = resolveMetricsOptions(options)
  const named = nameComponents(components)
  const use: MeterUse = usesOfMeters.get(meter) ?? { names: new Set(), loops: new Set() }
  for (const { name } of named) {
    if (use.names.has(name)) failOption('components', 'must have names that are not taken on this meter', name)
  }
  const instruments = new Instruments(meter, new Collector(named, settings), use.loops)
  if (instruments.areNone) return () => undefined
  instruments.start()
  usesOfMeters.set(meter, use)
  for (const { name } of named) use.names.add(name)
  if (settings.eventLoop) use.loops.add(instruments)
  return () => {
    if (!instruments.stop()) return
    for (const { name } of named) use.names.delete(name)
    use.loops.delete(instruments)
  }
}

const meterMethods = [
  'createObservableCounter',
  'createObservableUpDownCounter',
  'createObservableGauge',
  'createHistogram',
  'addBatchObservableCallback',
  'removeBatchObservableCallback',
] as const

interface Series {
  readonly metric: Metric
  readonly attributes: MetricAttributes
}

/** The instruments of one call, and what feeds them. */
class Instruments {
  readonly #meter: MetricsMeter
  readonly #collector: Collector
  readonly #loops: ReadonlySet<Instruments>
  readonly #observables = new Map<Metric, object>()
  readonly #histograms = new Map<Metric, HistogramInstrument>()
  /** The series of members, counters aside, at the last collection. */
  #members: ReadonlyMap<string, Series> = new Map()
  readonly #callback = (result: BatchObservation): void => this.#observe(result)
  #running = false

  constructor(meter: MetricsMeter, collector: Collector, loops: ReadonlySet<Instruments>) {
    this.#meter = meter
    this.#collector = collector
    this.#loops = loops
    for (const metric of collector.metrics) {
      if (metric.type === 'histogram') this.#histograms.set(metric, makeHistogram(meter, metric))
      else this.#observables.set(metric, makeObservable(meter, metric))
    }
  }

  /** Whether they do nothing: the meter that the API has without an SDK gives everybody the same one, and belongs to nobody. */
  get areNone(): boolean {
    return new Set(this.#observables.values()).size < this.#observables.size
  }

  start(): void {
    this.#running = true
    this.#meter.addBatchObservableCallback(this.#callback, [...this.#observables.values()] as never[])
    try {
      this.#collector.start((metric, attributes) => {
        const histogram = this.#histograms.get(metric)
        return (value) => histogram?.record(value, attributes)
      })
    } catch (error) {
      this.stop()
      throw error
    }
  }

  /** Whether it was running. */
  stop(): boolean {
    if (!this.#running) return false
    this.#running = false
    this.#collector.stop()
    this.#meter.removeBatchObservableCallback(this.#callback, [...this.#observables.values()] as never[])
    return true
  }

  #observe(result: BatchObservation): void {
    if (!this.#running) return
    const samples = this.#collector.collect()
    const tellsLoop = this.#loops.values().next().value === this
    for (const [metric, series] of samples) {
      const observable = this.#observables.get(metric)
      // What is about the process is one, whoever measures it.
      if (observable === undefined || (metric.nameAttribute === undefined && !tellsLoop)) continue
      for (const { value, attributes } of series) result.observe(observable, value, attributes)
    }
    this.#clearGone(samples, result)
  }

  /** An SDK repeats the last value of a series for ever: a member that went away must not stand there as open, or busy. */
  #clearGone(samples: Samples, result: BatchObservation): void {
    const now = new Map<string, Series>()
    for (const [metric, series] of samples) {
      if (metric.type === 'counter') continue
      for (const { attributes } of series) {
        if (attributes['target'] !== undefined) now.set(seriesKey(metric, attributes), { metric, attributes })
      }
    }
    for (const [key, { metric, attributes }] of this.#members) {
      const observable = now.has(key) ? undefined : this.#observables.get(metric)
      if (observable !== undefined) result.observe(observable, 0, attributes)
    }
    this.#members = now
  }
}

function makeObservable(meter: MetricsMeter, { name, type, unit, description }: Metric): object {
  const options = { description, unit }
  if (type === 'counter') return meter.createObservableCounter(name, options)
  if (type === 'sum') return meter.createObservableUpDownCounter(name, options)
  return meter.createObservableGauge(name, options)
}

function makeHistogram(meter: MetricsMeter, { name, unit, description, buckets }: Metric): HistogramInstrument {
  return meter.createHistogram(name, {
    description,
    unit,
    advice: { explicitBucketBoundaries: [...(buckets ?? [])] },
  })
}
