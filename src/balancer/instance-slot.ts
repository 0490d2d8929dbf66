import type { CircuitBreaker } from '../breaker/circuit-breaker.js'
import type { Deferred } from '../internal/deferred.js'
import type { Member } from './algorithms.js'

/** What a load balancer must know of an instance; whatever else it has is the caller's. */
export interface BalancedInstance {
  /** What tells it from others, across refreshes too. Not empty. */
  readonly id: string
  /** How much it takes beside others: a number of 0 or more, 1 by default. One of 0 is never picked. */
  readonly weight?: number | undefined
}

/**
 * What an instance is up to: `'draining'` takes no new picks, because it left the list or was told to; `'unhealthy'` has failed
 * its checks; `'ejected'` has failed its calls; all else is `'healthy'`. The first of these that is true.
 */
export type InstanceState = 'healthy' | 'unhealthy' | 'ejected' | 'draining'

/** How an instance stands. */
export interface InstanceStatus<I> {
  /** The latest object of this id. */
  readonly instance: I
  /** What it is up to. */
  readonly state: InstanceState
  /** How many leases on it are out. */
  readonly inFlight: number
  /** The weight that it is picked with now: its own, less what slow start takes off. */
  readonly weight: number
}

/** All that is known under one id; it outlives the objects that refreshes bring. */
export class InstanceSlot<I> implements Member {
  readonly id: string
  instance: I
  weight: number
  baseWeight: number
  inFlight = 0
  ewmaMs = 0
  ewmaAtMs = 0
  /** Picks that the request counts haven't taken yet. */
  picks = 0
  /** What its checks say. */
  healthy = true
  /** Told to drain. */
  marked = false
  /** Gone from the list. */
  removed = false
  /** Whether it was told that it is drained, since it began to drain. */
  told = false
  /** Kept out because its breaker isn't closed. */
  ejected = false
  /** Its breaker, where there is ejection. */
  breaker: CircuitBreaker | undefined = undefined
  /** When its breaker opened, as a number in the order of all openings; 0 while it is closed. */
  openedAs = 0
  /** Until when its breaker lets nothing through. */
  blockedUntilMs = 0
  /** Whether that time was over at the last look, while it is ejected. */
  due = false
  /** The error that opened its breaker. */
  lastError: unknown = undefined
  /** In full service at the last look: neither draining nor unhealthy nor ejected. */
  serving = false
  /** When its slow start began; undefined while it has none. */
  rampFromMs: number | undefined = undefined
  /** Those who wait until nothing of it is in flight. */
  readonly drains: Set<Deferred<void>> = new Set()

  constructor(id: string, instance: I, weight: number) {
    this.id = id
    this.instance = instance
    this.weight = weight
    this.baseWeight = weight
  }

  /** Whether it takes no new picks. */
  get leaving(): boolean {
    return this.marked || this.removed
  }

  get state(): InstanceState {
    if (this.leaving) return 'draining'
    if (!this.healthy) return 'unhealthy'
    return this.ejected ? 'ejected' : 'healthy'
  }
}
