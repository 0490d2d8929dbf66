import type { PostgresUsageSinkEvents, PostgresUsageSinkOptions, PostgresUsageSinkStats } from './usage-sink-options.js'

/**
 * Options of {@link PostgresQuotaStore}. The ids of `consume` calls lie with those of requests, whatever `dedupe` says: they are
 * remembered for `requestRetentionDays` at least.
 */
export interface PostgresQuotaStoreOptions extends PostgresUsageSinkOptions {
  /**
   * The table of the reservations, of at most 52 bytes.
   * @defaultValue 'spillway_quota_holds'
   */
  holdTable?: string | undefined
  /**
   * How long a reservation is remembered after it was settled or released or has expired, in milliseconds, at least 1000: for so long
   * it can be settled late, and a `settle` or `release` that comes again is told from one of an unknown reservation.
   * @defaultValue 86_400_000
   */
  holdMemoryMs?: number | undefined
}

/** Events of {@link PostgresQuotaStore}: those of a sink. */
export type PostgresQuotaStoreEvents = PostgresUsageSinkEvents

/** Stats of {@link PostgresQuotaStore}: those of a sink, and what became of claims. */
export interface PostgresQuotaStoreStats extends PostgresUsageSinkStats {
  /** Uses that `consume` counted. */
  readonly consumed: number
  /** Reservations that were made. */
  readonly reserved: number
  /** Reservations that were settled. */
  readonly settled: number
  /** Reservations that were released. */
  readonly released: number
  /** Calls of `consume`, `reserve` and `settle` that were turned away because they didn't fit. */
  readonly exceeded: number
  /** Calls of `consume`, `reserve`, `settle` and `release` that failed. */
  readonly claimsFailed: number
  /** Reservations that were over and were removed. */
  readonly holdsRemoved: number
}
