import type { Metric, MetricAttributes } from './metric.js'

/** Takes one value of one series. */
export type Observe = (metric: Metric, value: number, attributes: MetricAttributes) => void

/** What becomes of a field of stats: the one description that both outputs and the list of metrics are made from. */
export interface StatsRule {
  /** The series that it makes. */
  readonly series: readonly { readonly metric: Metric; readonly attributes: MetricAttributes }[]
  /** Why there are none, where that is on purpose. */
  readonly leftOut?: string
  /** The rules of the fields of an object. */
  readonly fields?: StatsRules
  /** Reads the field's value, which may be missing or not what it should be. */
  read(value: unknown, observe: Observe): void
}

/** The rules of an object's fields, by their names. */
export type StatsRules = Readonly<Record<string, StatsRule>>

/** Reads an object by its rules. Fields without a rule are passed over. */
export function readStats(rules: StatsRules, stats: Readonly<Record<string, unknown>>, observe: Observe): void {
  for (const field in rules) rules[field]?.read(stats[field], observe)
}

/** A number is a series, `scale` times as large. */
export function value(metric: Metric, attributes: MetricAttributes = {}, scale = 1): StatsRule {
  return {
    series: [{ metric, attributes }],
    read(found, observe) {
      if (isNumber(found)) observe(metric, found * scale, attributes)
    },
  }
}

/** Milliseconds are a series in seconds. */
export function milliseconds(metric: Metric): StatsRule {
  return value(metric, {}, 1 / 1000)
}

/** Yes and no are 1 and 0. */
export function flag(metric: Metric): StatsRule {
  return {
    series: [{ metric, attributes: {} }],
    read(found, observe) {
      if (typeof found === 'boolean') observe(metric, found ? 1 : 0, {})
    },
  }
}

/** One of several states is a series for each of them, of which one is 1. */
export function state(metric: Metric, states: readonly string[]): StatsRule {
  const series = states.map((name) => ({ metric, attributes: { state: name } }))
  return {
    series,
    read(found, observe) {
      if (typeof found !== 'string') return
      for (const { attributes } of series) observe(metric, attributes.state === found ? 1 : 0, attributes)
    },
  }
}

/** `{ p50, p95, p99, max }`, in milliseconds, is a series for each quantile, in seconds. */
export function latency(metric: Metric, attributes: MetricAttributes = {}): StatsRule {
  const quantiles = [
    ['p50', '0.5'],
    ['p95', '0.95'],
    ['p99', '0.99'],
    ['max', '1'],
  ] as const
  const series = quantiles.map(([field, quantile]) => ({ field, metric, attributes: { ...attributes, quantile } }))
  return {
    series,
    read(found, observe) {
      if (!isObject(found)) return
      for (const one of series) {
        const ms = found[one.field]
        if (isNumber(ms)) observe(metric, ms / 1000, one.attributes)
      }
    },
  }
}

/** A list is counted by one field of its members. */
export function tally(metric: Metric, field: string, states: readonly string[]): StatsRule {
  const series = states.map((name) => ({ metric, attributes: { state: name } }))
  return {
    series,
    read(found, observe) {
      if (!Array.isArray(found)) return
      for (const { attributes } of series) {
        const count = found.filter((member) => isObject(member) && member[field] === attributes.state).length
        observe(metric, count, attributes)
      }
    },
  }
}

/** An object is read by the rules of its fields. */
export function group(fields: StatsRules): StatsRule {
  return {
    series: [],
    fields,
    read(found, observe) {
      if (isObject(found)) readStats(fields, found, observe)
    },
  }
}

/** Numbers that differ in one attribute alone: the rules of all of them, by the attribute's value. */
export function split(metric: Metric, attribute: string, fields: Readonly<Record<string, string>>): StatsRules {
  return Object.fromEntries(
    Object.entries(fields).map(([field, name]) => [field, value(metric, { [attribute]: name })]),
  )
}

/** The numbers of several outcomes, which one counter has. Fields are named after their outcomes, where `fields` is a list. */
export function outcomes(metric: Metric, fields: readonly string[] | Readonly<Record<string, string>>): StatsRules {
  const byField = isList(fields) ? Object.fromEntries(fields.map((field) => [field, field])) : fields
  return split(metric, 'outcome', byField)
}

/** The field is left out, for a reason. */
export function leftOut(reason: string): StatsRule {
  return { series: [], leftOut: reason, read() {} }
}

/** Whether something has fields to read. */
export function isObject(found: unknown): found is Readonly<Record<string, unknown>> {
  return typeof found === 'object' && found !== null
}

function isNumber(found: unknown): found is number {
  return typeof found === 'number' && Number.isFinite(found)
}

function isList(fields: readonly string[] | Readonly<Record<string, string>>): fields is readonly string[] {
  return Array.isArray(fields)
}
