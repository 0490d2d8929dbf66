/**
 * What a metric is. A `counter` only goes up. A `sum` is an amount of now that may be added up over processes. A `gauge` may not. A
 * `summary` has a series for each quantile. A `histogram` counts values in buckets.
 */
export type MetricType = 'counter' | 'sum' | 'gauge' | 'summary' | 'histogram'

/** How several values become one. */
export type MetricMerge = 'sum' | 'max' | 'min'

/** What distinguishes the series of a metric. */
export type MetricAttributes = Readonly<Record<string, string>>

/** A metric, as both outputs know it. */
export interface Metric {
  /** Its name in OpenTelemetry. */
  readonly name: string
  /** Its name in Prometheus, by the rules with which OpenTelemetry's own exporters translate. */
  readonly prometheusName: string
  /** What it is. */
  readonly type: MetricType
  /** Its unit, by UCUM: `s`, `By`, `1`, or what is counted, as in `{batch}`. */
  readonly unit: string
  /** What it says. */
  readonly description: string
  /** The attribute that has the component's name; undefined where it isn't about a component. */
  readonly nameAttribute: string | undefined
  /** What of several values stands for all of them, be they of members that share a series or of processes of a cluster. */
  readonly merge: MetricMerge
  /** The upper bounds of a histogram's buckets. */
  readonly buckets?: readonly number[]
}

/** What only ever goes up. */
export function counter(name: string, unit: string, description: string): Metric {
  return define('counter', name, unit, description)
}

/** An amount of now: items that wait, connections that are open, breakers that are in a state. */
export function sum(name: string, unit: string, description: string): Metric {
  return define('sum', name, unit, description)
}

/** A value of now that makes no sense when added up, so that of several the worst counts. */
export function gauge(name: string, unit: string, description: string, worst: 'max' | 'min' = 'max'): Metric {
  return { ...define('gauge', name, unit, description), merge: worst }
}

/** Quantiles that the component itself keeps. */
export function summary(name: string, unit: string, description: string): Metric {
  return define('summary', name, unit, description)
}

/** What is recorded value by value, here. */
export function histogram(name: string, unit: string, description: string, buckets: readonly number[]): Metric {
  return { ...define('histogram', name, unit, description), buckets }
}

/** A text that is the same for equal attributes of a metric's series, in whatever order they come. */
export function seriesKey(metric: Metric, attributes: MetricAttributes): string {
  const pairs = Object.keys(attributes).sort()
  return JSON.stringify([metric.name, ...pairs.map((key) => [key, attributes[key]])])
}

/** An attribute's name as a label of Prometheus. */
export function labelOf(attribute: string): string {
  return attribute.replaceAll('.', '_')
}

function define(type: MetricType, name: string, unit: string, description: string): Metric {
  // OpenTelemetry's conventions have a name of their own for a pool's name, and the process is no component.
  const nameAttribute = name.startsWith('db.client.connection.')
    ? 'db.client.connection.pool.name'
    : name.startsWith('nodejs.')
      ? undefined
      : 'component'
  const merge = type === 'gauge' || type === 'summary' ? 'max' : 'sum'
  return { name, prometheusName: prometheusNameOf(type, name, unit), type, unit, description, nameAttribute, merge }
}

const unitSuffixes: Readonly<Record<string, string>> = { s: '_seconds', By: '_bytes' }

function prometheusNameOf(type: MetricType, name: string, unit: string): string {
  const suffix = unitSuffixes[unit] ?? (unit === '1' && type === 'gauge' ? '_ratio' : '')
  return `${name.replaceAll('.', '_')}${suffix}${type === 'counter' ? '_total' : ''}`
}
