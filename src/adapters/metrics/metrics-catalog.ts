import { metricsOf } from './collector.js'
import { componentKinds } from './component-kinds.js'
import { eventLoopMetrics } from './event-loop-delay.js'
import type { Metric, MetricAttributes, MetricType } from './metric.js'
import { collectionFailures } from './shared-metrics.js'
import type { StatsRules } from './stats-rule.js'

/** A metric, for tables and dashboards. */
export interface MetricDescription {
  /** Its name in OpenTelemetry. */
  readonly name: string
  /** Its name in Prometheus. */
  readonly prometheusName: string
  /** What it is: a `sum` is an UpDownCounter in OpenTelemetry, and a gauge in Prometheus; a `summary` is a gauge in OpenTelemetry. */
  readonly type: MetricType
  /** Its unit, by UCUM. */
  readonly unit: string
  /** What it says. */
  readonly description: string
  /** The attributes that its series may have. In Prometheus, dots are underscores. */
  readonly attributes: readonly string[]
  /** The classes that have it. */
  readonly components: readonly string[]
}

/** What becomes of a field of stats. */
export interface StatsMapping {
  /** The class whose stats they are. */
  readonly component: string
  /** Where it is: `'latencyMs'`, `'loads.started'`, `'instances[].state'`. What lies within belongs to it. */
  readonly path: string
  /** The series that it makes. */
  readonly series: readonly { readonly name: string; readonly attributes: MetricAttributes }[]
  /** Why it makes none. */
  readonly leftOut?: string
}

/** All that {@link instrument} and {@link prometheus} tell. */
export interface MetricsCatalog {
  /** The metrics, by name. */
  readonly metrics: readonly MetricDescription[]
  /** Where they come from. */
  readonly stats: readonly StatsMapping[]
}

/** Lists every metric that {@link instrument} and {@link prometheus} may have, and which field of which stats it comes from. */
export function metricsCatalog(): MetricsCatalog {
  const stats = componentKinds.flatMap(({ classes, rules, members }) =>
    classes.flatMap((component) => [
      ...mappingsOf(component, '', rules),
      ...(members === undefined ? [] : mappingsOf(component, `${members.field ?? ''}[].`, members.rules)),
    ]),
  )
  const users = new Map<Metric, string[]>([collectionFailures, ...eventLoopMetrics].map((metric) => [metric, []]))
  for (const kind of componentKinds) {
    for (const metric of metricsOf(kind)) users.set(metric, [...(users.get(metric) ?? []), ...kind.classes])
  }
  const metrics = [...users].map(([metric, components]) => {
    const { name, prometheusName, type, unit, description } = metric
    return { name, prometheusName, type, unit, description, attributes: attributesOf(metric), components }
  })
  return { metrics: metrics.sort((one, other) => (one.name < other.name ? -1 : 1)), stats }
}

function mappingsOf(component: string, prefix: string, rules: StatsRules): StatsMapping[] {
  return Object.entries(rules).flatMap(([field, { series, leftOut, fields }]) => {
    const path = `${prefix}${field}`
    if (fields !== undefined) return mappingsOf(component, `${path}.`, fields)
    const made = series.map(({ metric, attributes }) => ({ name: metric.name, attributes }))
    return [{ component, path, series: made, ...(leftOut === undefined ? {} : { leftOut }) }]
  })
}

function attributesOf(metric: Metric): string[] {
  const found = new Set(metric.nameAttribute === undefined ? [] : [metric.nameAttribute])
  const add = (rules: StatsRules, target: boolean): void => {
    for (const { series, fields } of Object.values(rules)) {
      for (const one of series) {
        if (one.metric !== metric) continue
        if (target) found.add('target')
        for (const attribute of Object.keys(one.attributes)) found.add(attribute)
      }
      if (fields !== undefined) add(fields, target)
    }
  }
  for (const { rules, members } of componentKinds) {
    add(rules, false)
    add(members?.rules ?? {}, true)
  }
  return [...found]
}
