import {
  AggregationTemporality,
  type DataPoint,
  type Histogram,
  MeterProvider,
  type MetricData,
  MetricReader,
} from '@opentelemetry/sdk-metrics'

/** A reader that collects when it is told to. */
export class ManualReader extends MetricReader {
  constructor(temporality = AggregationTemporality.CUMULATIVE) {
    super({ aggregationTemporalitySelector: () => temporality })
  }
  protected override async onForceFlush(): Promise<void> {}
  protected override async onShutdown(): Promise<void> {}
}

/** What a collection found. */
export class Reading {
  readonly metrics: ReadonlyMap<string, MetricData>

  constructor(metrics: readonly MetricData[]) {
    this.metrics = new Map(metrics.map((metric) => [metric.descriptor.name, metric]))
  }

  /** The value of the one series of a metric that has these attributes; undefined where there is none. */
  value(name: string, attributes: Readonly<Record<string, string>> = {}): number | undefined {
    const found = this.points(name, attributes)
    if (found.length > 1) throw new Error(`${name} has ${found.length} series of ${JSON.stringify(attributes)}`)
    const point = found[0]?.value
    return typeof point === 'object' ? point.count : point
  }

  /** The series of a metric that have these attributes. */
  points(name: string, attributes: Readonly<Record<string, string>> = {}): DataPoint<number | Histogram>[] {
    const points = (this.metrics.get(name)?.dataPoints ?? []) as DataPoint<number | Histogram>[]
    return points.filter((point) => Object.entries(attributes).every(([key, one]) => point.attributes[key] === one))
  }
}

/** A provider with one reader. */
export class Otel {
  readonly reader: ManualReader
  readonly provider: MeterProvider

  constructor(temporality?: AggregationTemporality) {
    this.reader = new ManualReader(temporality)
    this.provider = new MeterProvider({ readers: [this.reader] })
  }

  meter(name = 'test'): ReturnType<MeterProvider['getMeter']> {
    return this.provider.getMeter(name)
  }

  async read(): Promise<Reading> {
    const { resourceMetrics, errors } = await this.reader.collect()
    if (errors.length > 0) throw new AggregateError(errors)
    return new Reading(resourceMetrics.scopeMetrics.flatMap(({ metrics }) => metrics))
  }
}
