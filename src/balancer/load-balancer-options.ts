import type { ComponentOptions } from '../core/component.js'
import type { AlgorithmName } from './algorithms.js'
import type { EjectionOptions } from './instance-ejection.js'
import type { HealthOptions } from './instance-health.js'
import type { CountsFunction } from './request-counts.js'
import type { RetryBudgetOptions } from './retry-budget.js'

/** Options of `LoadBalancer`. */
export interface LoadBalancerOptions<I> extends ComponentOptions {
  /**
   * How the next instance is chosen. `'round_robin'`: in turn. `'weighted'`: in turn by weight, smoothly. `'least_conn'`: the fewest in
   * flight. `'p2c'`: the better of two by chance. `'peak_ewma'`: the better of two by latency and what is in flight.
   * `'consistent_hash'`: by `key`.
   * @defaultValue 'round_robin'
   */
  algorithm?: AlgorithmName | undefined
  /**
   * How `'consistent_hash'` spreads keys.
   * @defaultValue 'maglev'
   */
  hash?: 'maglev' | 'ring' | undefined
  /**
   * How long after a refresh the next one begins, in milliseconds, at least 1. For a watch: how long until one that broke off is
   * begun again, and until an empty list that nothing contradicts is believed.
   * @defaultValue 5000
   */
  refreshMs?: number | undefined
  /**
   * How long the source may take for a list, in milliseconds, at least 1. Then its signal aborts, and what it still says counts for
   * nothing.
   * @defaultValue 5000
   */
  refreshTimeoutMs?: number | undefined
  /**
   * How instances are checked. By default they aren't; where they are, this is what the options leave out.
   * @defaultValue { intervalMs: 10_000, timeoutMs: 2000, rise: 2, fall: 3, concurrency: 20 }
   */
  health?: HealthOptions<I> | undefined
  /**
   * When an instance is ejected because calls to it fail. By default none is; where this is given, it has what
   * `CircuitBreaker` has, and a bound.
   * @defaultValue { maxEjectedRatio: 0.5 }
   */
  ejection?: EjectionOptions | undefined
  /**
   * The share of instances that must be neither unhealthy nor ejected, from 0 to 1. With fewer all are picked: that most are
   * down at once is less likely than that the checks are wrong, and those left would go down too. 0 is never.
   * @defaultValue 0.5
   */
  panicThreshold?: number | undefined
  /**
   * How long the weight of an instance that joins or recovers takes to grow from a tenth to all of it, in milliseconds. 0 is no slow
   * start. Those of the first list are there at once, and a hash never moves keys because of it.
   * @defaultValue 0
   */
  slowStartMs?: number | undefined
  /**
   * How many retries there may be at a time: a share of the calls in flight, and some however few these are.
   * @defaultValue { ratio: 0.2, minRetries: 3 }
   */
  retryBudget?: RetryBudgetOptions | undefined
  /** Takes how often each instance was picked, by id, in batches. By default nobody counts. */
  onCounts?: CountsFunction | undefined
  /**
   * How long after a pick its count leaves at the latest, in milliseconds, at least 1, unless a batch is on its way.
   * @defaultValue 5000
   */
  countsEveryMs?: number | undefined
  /**
   * How long one call of `onCounts` may take, in milliseconds, at least 1.
   * @defaultValue 10_000
   */
  countsTimeoutMs?: number | undefined
}

/** What `LoadBalancer.pick` takes. */
export interface PickOptions {
  /** What `'consistent_hash'` chooses by. Other algorithms don't look at it. */
  key?: string | undefined
  /** Ids that must not be picked. */
  exclude?: ReadonlySet<string> | undefined
}

/** What `LoadBalancer.run` takes. */
export interface RunOptions {
  /** What `'consistent_hash'` chooses by. */
  key?: string | undefined
  /** The caller's own abort: `run` rejects with its reason at once. It says nothing about the instance. */
  signal?: AbortSignal | undefined
  /** How many attempts there are in all, the first included. 1 by default. */
  attempts?: number | undefined
  /** Whether an error is worth another attempt. By default every error is, but one that says `retryable: false`. */
  retryable?: ((error: unknown) => boolean) | undefined
  /** How long one attempt may take, in milliseconds, at least 1. Then it has failed. The default is no limit. */
  timeoutMs?: number | undefined
}
