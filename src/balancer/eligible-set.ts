import type { Algorithm } from './algorithms.js'
import type { InstanceSlot } from './instance-slot.js'

/** What decides who may be picked. */
export interface EligiblePolicy {
  readonly panicThreshold: number
  readonly slowStartMs: number
  /** The largest share that may be ejected at a time. */
  readonly maxEjectedRatio: number
}

/** What a look found changed. */
export interface EligibleChange<I> {
  readonly ejected: readonly InstanceSlot<I>[]
  readonly readmitted: readonly InstanceSlot<I>[]
  /** Whether panic began (true) or ended (false). */
  readonly panic: boolean | undefined
}

/** The share of its weight that slow start begins with, as Envoy's `min_weight_percent`. */
const firstShare = 0.1
/** In how many steps it grows: each one is an update of the algorithm. */
const steps = 20

/**
 * Who may be picked. It is found out when something has changed, and then given to the algorithm, so that a pick looks at
 * nothing but the algorithm's own array.
 */
export class EligibleSet<I> {
  readonly #algorithm: Algorithm<InstanceSlot<I>>
  readonly #policy: EligiblePolicy
  /** What the algorithm was given, and with which weights. */
  #members: readonly InstanceSlot<I>[] = []
  #weights: readonly number[] = []
  #looked = false
  /** Whether so few are well that everyone is picked. */
  panicking = false
  /** How many could be picked if all were well: in the list, not draining, weight above 0. */
  total = 0
  /** How many of them are well. */
  eligible = 0
  /** When time alone changes something: a recovery is due, slow start takes a step. */
  nextLookMs: number = Number.POSITIVE_INFINITY

  constructor(algorithm: Algorithm<InstanceSlot<I>>, policy: EligiblePolicy) {
    this.#algorithm = algorithm
    this.#policy = policy
  }

  /** Whether there is anyone to pick. */
  get empty(): boolean {
    return this.#members.length === 0
  }

  look(slots: Iterable<InstanceSlot<I>>, nowMs: number): EligibleChange<I> {
    this.nextLookMs = Number.POSITIVE_INFINITY
    const all = [...slots]
    const candidates = all.filter((slot) => !slot.leaving && slot.baseWeight > 0)
    const change = this.#eject(all, candidates)
    for (const slot of all) this.#weigh(slot, nowMs)
    this.#looked = true
    const wasPanicking = this.panicking
    this.total = candidates.length
    this.eligible = candidates.reduce((sum, slot) => (slot.serving ? sum + 1 : sum), 0)
    this.panicking = this.total > 0 && this.eligible / this.total < this.#policy.panicThreshold
    // An ejected one whose recovery is due is picked like the others: that is its probe.
    const picked = candidates.filter((slot) => slot.serving || (slot.healthy && this.#isDue(slot, candidates, nowMs)))
    this.#give(this.panicking ? candidates : picked)
    return { ...change, panic: this.panicking === wasPanicking ? undefined : this.panicking }
  }

  /** Ejects those whose breakers aren't closed, those that opened first before others, as many as may be. */
  #eject(
    all: readonly InstanceSlot<I>[],
    candidates: readonly InstanceSlot<I>[],
  ): Pick<EligibleChange<I>, 'ejected' | 'readmitted'> {
    const ejected: InstanceSlot<I>[] = []
    const readmitted: InstanceSlot<I>[] = []
    // 0.29 * 100 is a little less than 29.
    const most = Math.floor(this.#policy.maxEjectedRatio * candidates.length + 1e-9)
    const failing = candidates.filter((slot) => slot.openedAs > 0).sort((a, b) => a.openedAs - b.openedAs)
    const kept = new Set(failing.slice(0, most))
    for (const slot of all) {
      const eject = kept.has(slot)
      if (slot.ejected === eject) continue
      slot.ejected = eject
      if (eject) ejected.push(slot)
      else if (!slot.leaving) readmitted.push(slot)
    }
    return { ejected, readmitted }
  }

  /** Its weight, in slow start from when it came into service. Those that were there from the beginning need none. */
  #weigh(slot: InstanceSlot<I>, nowMs: number): void {
    const serving = !slot.leaving && slot.healthy && !slot.ejected
    const { slowStartMs } = this.#policy
    if (serving && !slot.serving && this.#looked && slowStartMs > 0) slot.rampFromMs = nowMs
    if (!serving) slot.rampFromMs = undefined
    slot.serving = serving
    slot.weight = slot.baseWeight
    if (slot.rampFromMs === undefined) return
    const share = (nowMs - slot.rampFromMs) / slowStartMs
    if (share >= 1) {
      slot.rampFromMs = undefined
      return
    }
    slot.weight *= Math.max(firstShare, share)
    this.nextLookMs = Math.min(this.nextLookMs, nowMs + slowStartMs / steps)
  }

  #isDue(slot: InstanceSlot<I>, candidates: readonly InstanceSlot<I>[], nowMs: number): boolean {
    const due = slot.blockedUntilMs <= nowMs
    if (due && !slot.due) this.#forgiveLatency(slot, candidates, nowMs)
    slot.due = due
    if (!due) this.nextLookMs = Math.min(this.nextLookMs, slot.blockedUntilMs)
    return due
  }

  /** With the latency that it failed with it would hardly be picked for a probe: it is taken for as fast as the fastest. */
  #forgiveLatency(slot: InstanceSlot<I>, candidates: readonly InstanceSlot<I>[], nowMs: number): void {
    let fastestMs = slot.ewmaMs
    for (const { serving, ewmaMs } of candidates) {
      if (serving && ewmaMs > 0 && ewmaMs < fastestMs) fastestMs = ewmaMs
    }
    slot.ewmaMs = fastestMs
    slot.ewmaAtMs = nowMs
  }

  #give(members: readonly InstanceSlot<I>[]): void {
    const weights = members.flatMap(({ weight, baseWeight }) => [weight, baseWeight])
    const same =
      members.length === this.#members.length &&
      members.every((slot, index) => slot === this.#members[index]) &&
      weights.every((weight, index) => weight === this.#weights[index])
    if (same) return
    this.#members = members
    this.#weights = weights
    this.#algorithm.update(members)
  }
}
