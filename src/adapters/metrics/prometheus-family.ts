import type { Sample } from './collector.js'
import { labelOf, type Metric, type MetricAttributes, type MetricMerge, seriesKey } from './metric.js'

/** A registry of prom-client, as much of it as is needed. */
export interface PrometheusRegistry {
  /** The metric of a name, if there is one. */
  getSingleMetric(name: string): unknown
  /** Adds a metric; throws where its name is taken. */
  registerMetric(metric: never): void
  /** Takes a metric off. */
  removeSingleMetric(name: string): void
  /** The format that it writes. */
  readonly contentType: string
}

/** Where the series of a family come from: one call of `prometheus`. */
export interface FamilySource {
  /** The names of its components. */
  readonly names: readonly string[]
  /** The series of a metric now. */
  samplesOf(metric: Metric): readonly Sample[]
  /** Forgets what it has recorded itself. */
  reset(metric: Metric): void
}

/** A line of the exposition, as prom-client writes it. */
interface Line {
  readonly metricName?: string
  readonly labels: Readonly<Record<string, string | number>>
  readonly value: number
}

/**
 * A metric of prom-client without prom-client: it has what a registry asks for. Several calls of `prometheus` on one registry share it.
 */
export class PrometheusFamily {
  /** The registry writes to it: it cuts `_total` off where it is about to write OpenMetrics. */
  name: string
  readonly help: string
  readonly type: string
  /** How prom-client puts the processes of a cluster together. */
  readonly aggregator: MetricMerge
  /** Tells a family of this package, whichever copy of it made the family. */
  readonly isSpillwayFamily = true
  readonly #registry: PrometheusRegistry
  readonly #metric: Metric
  readonly #sources: FamilySource[] = []

  constructor(registry: PrometheusRegistry, metric: Metric) {
    this.#registry = registry
    this.#metric = metric
    this.name = metric.prometheusName
    this.help = metric.description
    this.type = metric.type === 'sum' ? 'gauge' : metric.type
    this.aggregator = metric.merge
  }

  /** The family of a metric in a registry, if the registry has it. */
  static of(registry: PrometheusRegistry, metric: Metric): PrometheusFamily | undefined {
    const found = registry.getSingleMetric(metric.prometheusName) as PrometheusFamily | undefined
    return found?.isSpillwayFamily === true ? found : undefined
  }

  /** The names of all components that it has series of. */
  get names(): readonly string[] {
    return this.#sources.flatMap(({ names }) => names)
  }

  /** Adds the series of a source. */
  add(source: FamilySource): void {
    this.#sources.push(source)
  }

  /** Takes them off again, and says whether none is left. */
  remove(source: FamilySource): boolean {
    const index = this.#sources.indexOf(source)
    if (index >= 0) this.#sources.splice(index, 1)
    return this.#sources.length === 0
  }

  /** What the registry writes. */
  async get(): Promise<object> {
    const { prometheusName, type } = this.#metric
    // One that other registries were merged into says what it writes by the name alone, which the next one must find whole.
    const isCut = this.name !== prometheusName
    this.name = prometheusName
    const isOpenMetrics = isCut || this.#registry.contentType.startsWith('application/openmetrics-text')
    const name = isOpenMetrics && type === 'counter' ? prometheusName.replace(/_total$/, '') : prometheusName
    const { help, aggregator } = this
    return { name, help, type: this.type, aggregator, values: this.#lines() }
  }

  /** What is read of components can't be reset; what was recorded here can. */
  reset(): void {
    for (const source of this.#sources) source.reset(this.#metric)
  }

  #lines(): Line[] {
    const metric = this.#metric
    const lines: Line[] = []
    for (const source of this.#sources) {
      for (const { value, attributes, metricName } of source.samplesOf(metric) as readonly HistogramSample[]) {
        const labels = Object.fromEntries(Object.entries(attributes).map(([key, one]) => [labelOf(key), one]))
        lines.push({ labels, value, ...(metricName === undefined ? {} : { metricName }) })
      }
      // What is about the process is one, whoever measures it.
      if (metric.nameAttribute === undefined && lines.length > 0) break
    }
    return lines
  }
}

interface HistogramSample extends Sample {
  readonly metricName?: string
}

interface HistogramSeries {
  readonly metric: Metric
  readonly attributes: MetricAttributes
  readonly counts: number[]
  sum: number
  count: number
}

/** The histograms of one call of `prometheus`: counts by bucket. */
export class RecordedHistograms {
  readonly #series = new Map<string, HistogramSeries>()

  /** What adds values to a series. */
  recorderOf(metric: Metric, attributes: MetricAttributes): (value: number) => void {
    const series = this.#seriesOf(metric, attributes)
    const buckets = metric.buckets ?? []
    return (value) => {
      series.sum += value
      series.count++
      for (let index = 0; index < buckets.length; index++) {
        if (value > (buckets[index] as number)) continue
        series.counts[index] = (series.counts[index] as number) + 1
        break
      }
    }
  }

  /** The lines of a metric, each with its name. */
  samplesOf(metric: Metric): HistogramSample[] {
    const { prometheusName: name } = metric
    const samples: HistogramSample[] = []
    for (const series of this.#series.values()) {
      // As long as it has no value it isn't there.
      if (series.metric.prometheusName !== name || series.count === 0) continue
      const { attributes, counts, sum, count } = series
      let below = 0
      series.metric.buckets?.forEach((bound, index) => {
        below += counts[index] ?? 0
        samples.push({ metricName: `${name}_bucket`, value: below, attributes: { ...attributes, le: String(bound) } })
      })
      samples.push(
        { metricName: `${name}_bucket`, value: count, attributes: { ...attributes, le: '+Inf' } },
        { metricName: `${name}_sum`, value: sum, attributes },
        { metricName: `${name}_count`, value: count, attributes },
      )
    }
    return samples
  }

  /** Forgets a metric's values. */
  reset(metric: Metric): void {
    for (const series of this.#series.values()) {
      if (series.metric.prometheusName !== metric.prometheusName) continue
      series.counts.fill(0)
      series.sum = 0
      series.count = 0
    }
  }

  #seriesOf(metric: Metric, attributes: MetricAttributes): HistogramSeries {
    const key = seriesKey(metric, attributes)
    let series = this.#series.get(key)
    if (series === undefined) {
      series = { metric, attributes, counts: (metric.buckets ?? []).map(() => 0), sum: 0, count: 0 }
      this.#series.set(key, series)
    }
    return series
  }
}
