import { type Metric, type MetricAttributes, seriesKey } from './metric.js'
import type { Observe } from './stats-rule.js'

/** What the members share that have no series of their own. */
const rest = 'other'

interface RestSeries {
  readonly metric: Metric
  readonly attributes: MetricAttributes
  value: number
}

/** Texts of series, of those that rules have: these are the same objects at each collection. */
const keys = new WeakMap<MetricAttributes, Map<Metric, string>>()

/**
 * The members of a component that have series of their own: those that came first, `max` at the most, as long as they are there. The
 * others are summed up under `other`. Who is among the others stays there, so that nothing is counted in both.
 *
 * Members of one name are one, as an instance that has moved and goes on with old calls elsewhere. Their counters are those of the first
 * of them: a sum would go down when one leaves, and so be taken for a counter that began anew.
 */
export class BoundedMembers {
  readonly #max: number
  #own = new Set<string>()
  /** Of each of the others, the counters' last values: they go on counting when their members are gone. */
  #others = new Map<string, Map<string, number>>()
  /** The counters of the others, over all that ever were. */
  readonly #counters = new Map<string, RestSeries>()

  constructor(max: number) {
    this.#max = max
  }

  /**
   * Reads members.
   *
   * @param read - reads one of them.
   * @param observe - takes every series, its `target` included.
   */
  collect<M>(
    members: Iterable<readonly [string, M]>,
    read: (member: M, observe: Observe) => void,
    observe: Observe,
  ): void {
    const now = new Map<string, M[]>()
    for (const [target, member] of members) {
      const same = now.get(target)
      if (same === undefined) now.set(target, [member])
      else same.push(member)
    }
    this.#own = new Set([...this.#own].filter((target) => now.has(target)))
    this.#others = new Map([...this.#others].filter(([target]) => now.has(target)))
    const sums = new Map<string, RestSeries>()
    for (const [target, same] of now) {
      if (this.#isOwn(target)) {
        readAsOne(same, read, (metric, value, attributes) => observe(metric, value, { ...attributes, target }))
      } else this.#addOther(target, (take) => readAsOne(same, read, take), sums)
    }
    for (const { metric, attributes, value } of [...sums.values(), ...this.#counters.values()]) {
      observe(metric, value, { ...attributes, target: rest })
    }
  }

  #isOwn(target: string): boolean {
    if (this.#own.has(target)) return true
    if (target === rest || this.#others.has(target) || this.#own.size >= this.#max) return false
    this.#own.add(target)
    return true
  }

  #addOther(target: string, read: (take: Observe) => void, sums: Map<string, RestSeries>): void {
    const last = this.#others.get(target) ?? new Map<string, number>()
    this.#others.set(target, last)
    read((metric, value, attributes) => {
      const key = keyOf(metric, attributes)
      if (metric.type === 'counter') {
        const before = last.get(key) ?? 0
        last.set(key, value)
        // A counter that went down began anew.
        seriesOf(this.#counters, key, metric, attributes).value += value >= before ? value - before : value
        return
      }
      const series = seriesOf(sums, key, metric, attributes)
      series.value = merges[metric.merge](series.value, value)
    })
  }
}

function readAsOne<M>(members: readonly M[], read: (member: M, observe: Observe) => void, observe: Observe): void {
  const [first, ...more] = members
  if (first === undefined) return
  if (more.length === 0) return read(first, observe)
  const all = new Map<string, RestSeries>()
  for (const member of members) {
    read(member, (metric, value, attributes) => {
      if (metric.type === 'counter' && member !== first) return
      const series = seriesOf(all, keyOf(metric, attributes), metric, attributes)
      series.value = merges[metric.merge](series.value, value)
    })
  }
  for (const { metric, attributes, value } of all.values()) observe(metric, value, attributes)
}

function keyOf(metric: Metric, attributes: MetricAttributes): string {
  let ofAttributes = keys.get(attributes)
  if (ofAttributes === undefined) {
    ofAttributes = new Map()
    keys.set(attributes, ofAttributes)
  }
  let key = ofAttributes.get(metric)
  if (key === undefined) {
    key = seriesKey(metric, attributes)
    ofAttributes.set(metric, key)
  }
  return key
}

const merges = { sum: (a: number, b: number) => a + b, max: Math.max, min: Math.min } as const
const beginnings = { sum: 0, max: Number.NEGATIVE_INFINITY, min: Number.POSITIVE_INFINITY } as const

function seriesOf(all: Map<string, RestSeries>, key: string, metric: Metric, attributes: MetricAttributes): RestSeries {
  let series = all.get(key)
  if (series === undefined) {
    series = { metric, attributes, value: beginnings[metric.merge] }
    all.set(key, series)
  }
  return series
}
