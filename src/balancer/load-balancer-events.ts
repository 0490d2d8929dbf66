import type { InstanceState } from './instance-slot.js'

/** Events of `LoadBalancer`. */
export interface LoadBalancerEvents<I> {
  /**
   * A list came that isn't like the one before; the first one of a function or a watch, too. `changed` are those of an id that was
   * there, with another value in any field; fields that are objects must be the same ones to be like.
   */
  updated: {
    readonly instances: readonly I[]
    readonly added: readonly I[]
    readonly removed: readonly I[]
    readonly changed: readonly I[]
  }
  /** The source failed or gave a wrong list; the list of before stays. */
  refreshFailed: { readonly error: unknown }
  /** An empty list came and isn't believed yet; so many instances stay. */
  doubted: { readonly instances: number }
  /** A checked instance is healthy again. */
  becameHealthy: { readonly instance: I }
  /** A checked instance isn't healthy any more; `error` is that of the last check. */
  becameUnhealthy: { readonly instance: I; readonly error: unknown }
  /** An instance was ejected; `error` is that of the last failure, `retryAfterMs` how long until it is tried again. */
  ejected: { readonly instance: I; readonly error: unknown; readonly retryAfterMs: number }
  /** An ejected instance is picked like the others again. */
  readmitted: { readonly instance: I }
  /** So few instances are well that all are picked. */
  panicked: { readonly eligible: number; readonly total: number }
  /** Enough instances are well again. */
  recovered: { readonly eligible: number; readonly total: number }
  /** The last lease of an instance that takes no more picks was released: it left the list, or was told to drain. */
  drained: { readonly instance: I; readonly reason: 'removed' | 'requested' }
  /** An attempt failed and another one begins, on this instance. */
  retried: { readonly instance: I; readonly attempt: number; readonly error: unknown }
  /** An attempt on this instance failed, and there were too many retries to make another one. */
  retryRefused: { readonly instance: I; readonly attempt: number; readonly error: unknown }
  /** `onCounts` took a batch. */
  countsDelivered: {
    readonly batchId: string
    readonly counts: ReadonlyMap<string, number>
    readonly attempts: number
  }
  /** `onCounts` failed; the same batch comes again after `delayMs`. */
  countsRetried: {
    readonly batchId: string
    readonly attempt: number
    readonly delayMs: number
    readonly error: unknown
  }
  /** A batch failed for good. Where it is `kept`, its counts go with a later batch; otherwise they are in nobody's hands now. */
  countsFailed: {
    readonly batchId: string
    readonly counts: ReadonlyMap<string, number>
    readonly attempts: number
    readonly error: unknown
    readonly kept: boolean
  }
}

/** Stats of `LoadBalancer`, in picks: `offered = succeeded + failed + ignored + rejected + pending`. */
export interface LoadBalancerStats {
  /** Its name. */
  readonly name: string
  /** Picks that were asked for, by `pick` or for an attempt of `run`. */
  readonly offered: number
  /** Leases that were released with success. */
  readonly succeeded: number
  /** Leases that were released with a failure. */
  readonly failed: number
  /** Leases that said nothing: disposed, aborted by their caller, given up by `close`. */
  readonly ignored: number
  /** Picks that were refused: closed, no instance, aborted before. */
  readonly rejected: number
  /** Leases that are out. */
  readonly pending: number
  /** Retries that were made. */
  readonly retries: number
  /** Retries that were not made because there were too many at the time. */
  readonly retriesRefused: number
  /** Retries in flight. */
  readonly retriesInFlight: number
  /** Lists that came and were right. */
  readonly refreshes: number
  /** Failures of the source, wrong lists among them. */
  readonly refreshFailures: number
  /** How many instances there are in each state; of those that left the list, the ones with leases out are `draining`. */
  readonly instances: { readonly total: number } & { readonly [State in InstanceState]: number }
  /** Whether all are picked because too few are well. */
  readonly panicking: boolean
  /** Picks counted for `onCounts`: what it took, what it never will, what waits. All 0 without it. */
  readonly counts: { readonly delivered: number; readonly lost: number; readonly pending: number }
}
