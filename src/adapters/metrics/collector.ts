import { describeError, warn } from '../../core/events.js'
import { BoundedMembers } from './bounded-members.js'
import type { ComponentKind, MemberStats } from './component-kind.js'
import { EventLoopDelay, eventLoopMetrics } from './event-loop-delay.js'
import type { Metric, MetricAttributes } from './metric.js'
import type { MetricsSettings } from './metrics-options.js'
import type { NamedComponent } from './named-components.js'
import { collectionFailures } from './shared-metrics.js'
import { type Observe, readStats, type StatsRules } from './stats-rule.js'

/** What one collection found, by metric. */
export type Samples = ReadonlyMap<Metric, readonly Sample[]>

/** The value of one series. */
export interface Sample {
  readonly value: number
  readonly attributes: MetricAttributes
}

/** What takes the values of a series of a histogram. */
export type RecorderOf = (metric: Metric, attributes: MetricAttributes) => (value: number) => void

interface Watched extends NamedComponent {
  readonly members: BoundedMembers
  failures: number
}

/** Reads components for an output: `stats()` once a component and collection, and what their events say of whole batches. */
export class Collector {
  readonly #components: readonly Watched[]
  readonly #measuresLoop: boolean
  #eventLoop: EventLoopDelay | undefined
  readonly #offs: (() => void)[] = []

  constructor(components: readonly NamedComponent[], { maxInstances, eventLoop }: MetricsSettings) {
    this.#components = components.map((one) => ({ ...one, members: new BoundedMembers(maxInstances), failures: 0 }))
    this.#measuresLoop = eventLoop
  }

  /** The names of its components. */
  get names(): readonly string[] {
    return this.#components.map(({ name }) => name)
  }

  /** All metrics that it may have samples of, histograms included. */
  get metrics(): ReadonlySet<Metric> {
    const metrics = new Set([collectionFailures, ...(this.#measuresLoop ? eventLoopMetrics : [])])
    for (const { kind } of this.#components) for (const metric of metricsOf(kind)) metrics.add(metric)
    return metrics
  }

  /** Begins to listen and to measure. `recorderOf` is asked once for each series of a histogram, since its values come with each batch. */
  start(recorderOf: RecorderOf): void {
    if (this.#measuresLoop) this.#eventLoop = new EventLoopDelay()
    for (const { name, component, kind } of this.#components) {
      for (const [event, records] of Object.entries(kind.events ?? {})) {
        const { on } = component as { on?: (event: string, listener: (payload: object) => void) => () => void }
        const takers = records.map(({ metric, attributes, value }) => {
          return { value, record: recorderOf(metric, { ...named(metric, name), ...attributes }) }
        })
        const off = on?.call(component, event, (payload) => {
          for (const { value, record } of takers) {
            const found = value(payload as MemberStats)
            if (found !== undefined && Number.isFinite(found)) record(found)
          }
        })
        if (typeof off === 'function') this.#offs.push(off)
      }
    }
  }

  /** Reads all that there is to read. Never throws: a component that does has nothing but a failure to show. */
  collect(): Samples {
    const samples = new Map<Metric, Sample[]>()
    const add: Observe = (metric, value, attributes) => {
      const list = samples.get(metric)
      if (list === undefined) samples.set(metric, [{ value, attributes }])
      else list.push({ value, attributes })
    }
    for (const watched of this.#components) {
      const found: Parameters<Observe>[] = []
      try {
        readComponent(watched, (...one) => void found.push(one))
        for (const [metric, value, attributes] of found) {
          add(metric, value, { ...named(metric, watched.name), ...attributes })
        }
      } catch (error) {
        watched.failures++
        if (watched.failures === 1) warn(`the stats of ${watched.name} can't be read: ${describeError(error)}`)
      }
      add(collectionFailures, watched.failures, named(collectionFailures, watched.name))
    }
    this.#eventLoop?.collect(add)
    return samples
  }

  /** Takes its listeners off, and measures no more. */
  stop(): void {
    for (const off of this.#offs.splice(0)) off()
    this.#eventLoop?.stop()
  }
}

/** Every metric that a kind of component has. */
export function metricsOf({ rules, members, events }: ComponentKind): Set<Metric> {
  const metrics = new Set<Metric>()
  const addAll = (of: StatsRules): void => {
    for (const { series, fields } of Object.values(of)) {
      for (const { metric } of series) metrics.add(metric)
      if (fields !== undefined) addAll(fields)
    }
  }
  addAll(rules)
  addAll(members?.rules ?? {})
  for (const records of Object.values(events ?? {})) for (const { metric } of records) metrics.add(metric)
  return metrics
}

function named({ nameAttribute }: Metric, name: string): MetricAttributes {
  return nameAttribute === undefined ? {} : { [nameAttribute]: name }
}

function readComponent({ component, kind, members }: Watched, observe: Observe): void {
  const { look, rules } = kind
  const stats = look === undefined ? (component as { stats(): MemberStats }).stats() : look(component)
  readStats(rules, stats, observe)
  if (kind.members === undefined) return
  const { rules: memberRules } = kind.members
  members.collect(kind.members.of(component, stats), (member, take) => readStats(memberRules, member, take), observe)
}
