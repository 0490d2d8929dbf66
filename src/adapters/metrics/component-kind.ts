import type { Metric, MetricAttributes } from './metric.js'
import type { StatsRules } from './stats-rule.js'

/** What a kind of component tells, and how it is recognised: by its shape, since this adapter knows no primitive. */
export interface ComponentKind {
  /** The classes that are of this kind. */
  readonly classes: readonly string[]
  /** Fields of its stats by which it is known, or the test that knows it. */
  readonly knownBy: readonly string[] | ((component: object) => boolean)
  /** What to read of a component where that isn't what its `stats()` answers. It is called once a collection. */
  readonly look?: (component: object) => Readonly<Record<string, unknown>>
  /** The rules of its stats. */
  readonly rules: StatsRules
  /** What is told of each of its members: instances, hosts, keys. */
  readonly members?: ComponentMembers
  /** What is recorded at its events, which come once a batch at most. */
  readonly events?: Readonly<Record<string, readonly EventRecord[]>>
}

/** The parts of a component that are told apart by the attribute `target`. */
export interface ComponentMembers {
  /** The field of the stats that lists them, which needs no rule of its own. */
  readonly field?: string
  /** Each of them with its name. */
  of(component: object, stats: Readonly<Record<string, unknown>>): Iterable<readonly [string, MemberStats]>
  /** The rules of each of them. */
  readonly rules: StatsRules
}

/** What is read of a member. */
export type MemberStats = Readonly<Record<string, unknown>>

/** What an event adds to a histogram. */
export interface EventRecord {
  readonly metric: Metric
  readonly attributes?: MetricAttributes
  /** The value in the event's payload; undefined where there is none. */
  value(payload: Readonly<Record<string, unknown>>): number | undefined
}

/** Records a field of the payload, `scale` times as large. */
export function recorded(metric: Metric, field: string, scale = 1): EventRecord {
  return {
    metric,
    value: (payload) => {
      const found = payload[field]
      return typeof found === 'number' ? found * scale : undefined
    },
  }
}
