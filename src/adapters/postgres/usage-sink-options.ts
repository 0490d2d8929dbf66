import type { ComponentOptions } from '../../core/component.js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkOneOf,
  failOption,
  maxDurationMs,
  valueOr,
} from '../../core/options.js'
import type { UsageDedupe } from '../../core/ports.js'
import { type RetryOptions, type RetryPolicy, resolveRetry } from '../../core/retry.js'
import { checkName } from './table-name.js'
import { daySuffixBytes } from './usage-partitions.js'
import { batchIndexSuffix, holdIndexSuffixes, type UsageTableNames } from './usage-statements.js'

/** Options of {@link PostgresUsageSink}. */
export interface PostgresUsageSinkOptions extends ComponentOptions {
  /**
   * What it tells apart, so that nothing is counted twice: batches, also events by the id that a stream gave them, or also
   * requests. All sinks on the same tables have the same.
   * @defaultValue 'batch'
   */
  dedupe?: UsageDedupe | undefined
  /**
   * The table of what was used. It is quoted: upper case and dots stay as they are.
   * @defaultValue 'spillway_usage'
   */
  table?: string | undefined
  /**
   * The table of the batch ids, of at most 52 bytes.
   * @defaultValue 'spillway_usage_batches'
   */
  batchTable?: string | undefined
  /**
   * The table of the ids of requests and events, of at most 54 bytes. Its partitions, one a day, are named after it:
   * `spillway_usage_requests_20261120`.
   * @defaultValue 'spillway_usage_requests'
   */
  requestTable?: string | undefined
  /** The schema of all tables, which must be there. The default is the connection's `search_path`. */
  schema?: string | undefined
  /**
   * For how many days the ids of requests and events are remembered, counted from the day of the event's timestamp, in UTC. An event
   * that is further away, in the past or in the future, is refused alone: nobody can say any more whether it was counted. The
   * same for all that share the tables.
   * @defaultValue 7
   */
  requestRetentionDays?: number | undefined
  /**
   * How many days the timestamps of two events of one request may lie apart, for it to count once all the same. What is redelivered
   * has its own timestamp again; what a client sends anew has another. Every day more costs each event two more look-ups.
   * At most `requestRetentionDays`.
   * @defaultValue 1
   */
  requestSpanDays?: number | undefined
  /**
   * Whether it makes and drops partitions itself: ahead, when one is missing, and when they are old. It has to own the table for that.
   * Otherwise a job that may do so calls `cleanUp`, once a day at least.
   * @defaultValue true
   */
  managePartitions?: boolean | undefined
  /**
   * How long a batch id is remembered, in milliseconds, at least 1000: for so long, a batch that comes again is applied once.
   * Longer than any retry can take, restarts included.
   * @defaultValue 86_400_000
   */
  batchMemoryMs?: number | undefined
  /**
   * How often what is old is removed in passing, in milliseconds. While there is a backlog it goes on with the next call.
   * @defaultValue 60_000
   */
  cleanUpEveryMs?: number | undefined
  /**
   * The most rows that one removal takes.
   * @defaultValue 1000
   */
  cleanUpChunkSize?: number | undefined
  /**
   * How a call that lost a deadlock (SQLSTATE 40P01) or a serialization conflict (40001), and so was rolled back, is tried again
   * here. Every other error is left to the caller.
   * @defaultValue { attempts: 5, delayMs: 10, maxDelayMs: 1000 }
   */
  retry?: Omit<RetryOptions, 'retryable'> | undefined
  /**
   * Whether statements are prepared, once a connection. `false` for PgBouncer older than 1.21 in transaction mode. PGlite has
   * no use for it.
   * @defaultValue true
   */
  prepared?: boolean | undefined
}

/** Events of {@link PostgresUsageSink}. */
export interface PostgresUsageSinkEvents {
  /** A statement lost a deadlock or a serialization conflict, and is tried again after `delayMs`. */
  retried: { readonly attempt: number; readonly delayMs: number; readonly error: unknown }
  /** Partitions were made for these days, ahead or because one was missing. Of several that make one at the same time, each says so. */
  partitioned: { readonly days: readonly string[] }
  /** Something old was removed, or held nothing any more. */
  cleaned: UsageCleanUp
  /** Cleaning up in passing failed; it is tried again. No call has failed for it. */
  cleanUpFailed: { readonly error: unknown }
}

/** What was cleaned up. */
export interface UsageCleanUp {
  /** How many batch ids were removed. */
  readonly batchesRemoved: number
  /** How many reservations of a `PostgresQuotaStore` were found to have expired, and hold nothing any more. */
  readonly holdsExpired: number
  /** How many of its reservations that are over were removed. */
  readonly holdsRemoved: number
  /** The days whose partitions were dropped, as `2026-11-20`. */
  readonly daysDropped: readonly string[]
}

/** Stats of {@link PostgresUsageSink}. */
export interface PostgresUsageSinkStats {
  /** Its name. */
  readonly name: string
  /** Batches that were applied. */
  readonly applied: number
  /** Batches that had been applied before, and only got their answers again. */
  readonly repeated: number
  /** Batches whose attempt failed. */
  readonly failed: number
  /** Events that were counted. */
  readonly counted: number
  /** Events that had been counted before, or whose like came before them in their batch. */
  readonly duplicates: number
  /** Events that were refused alone. */
  readonly refused: number
  /** Calls of `readTotals` or `readUsage` that were answered. */
  readonly reads: number
  /** Retries after a deadlock or a serialization conflict. */
  readonly retries: number
  /** Batch ids that were removed. */
  readonly batchesRemoved: number
  /** Partitions that were made, by this one or by another at the same time. */
  readonly partitionsMade: number
  /** Partitions that were dropped. */
  readonly partitionsDropped: number
  /** Clean-ups in passing that failed. */
  readonly cleanUpFailures: number
}

/** The defaults that {@link resolveUsageSettings} fills in. */
export interface UsageDefaults {
  readonly dedupe: UsageDedupe
  readonly table: string
  readonly batchTable: string
  readonly requestTable: string
  readonly requestRetentionDays: number
  readonly requestSpanDays: number
  readonly managePartitions: boolean
  readonly batchMemoryMs: number
  readonly cleanUpEveryMs: number
  readonly cleanUpChunkSize: number
  readonly retry: { readonly attempts: number; readonly delayMs: number; readonly maxDelayMs: number }
  readonly prepared: boolean
}

/** {@link PostgresUsageSinkOptions}, checked and complete. */
export interface UsageSettings {
  readonly dedupe: UsageDedupe
  readonly names: UsageTableNames
  readonly requestRetentionDays: number
  readonly requestSpanDays: number
  readonly managePartitions: boolean
  readonly batchMemoryMs: number
  /** Undefined where there are no holds. */
  readonly holdMemoryMs: number | undefined
  readonly cleanUpEveryMs: number
  readonly cleanUpChunkSize: number
  readonly retry: RetryPolicy
  readonly prepared: boolean
}

const dedupes: readonly UsageDedupe[] = ['batch', 'event', 'request']
/** Ten years of partitions: more are a mistake. */
const mostDays = 3660
const longestHoldSuffix = Math.max(...Object.values(holdIndexSuffixes).map((suffix) => suffix.length))

/**
 * Checks options and fills in what they leave out.
 *
 * @param holds - the table of the holds and how long it remembers, where there is one: requests are told apart then in any case.
 */
export function resolveUsageSettings(
  options: PostgresUsageSinkOptions,
  defaults: UsageDefaults,
  holds?: { readonly table: string; readonly memoryMs: number },
): UsageSettings {
  const dedupe = checkOneOf('dedupe', valueOr(options.dedupe, defaults.dedupe), dedupes)
  const usage = checkName('table', valueOr(options.table, defaults.table))
  const batches = checkName('batchTable', valueOr(options.batchTable, defaults.batchTable), batchIndexSuffix.length)
  const requests = checkName('requestTable', valueOr(options.requestTable, defaults.requestTable), daySuffixBytes)
  const holdTable = holds && checkName('holdTable', holds.table, longestHoldSuffix)
  const schema = options.schema === undefined ? undefined : checkName('schema', options.schema)
  const named: [string, string][] = [
    ['table', usage],
    ['batchTable', batches],
    ['requestTable', requests],
  ]
  if (holdTable !== undefined) named.push(['holdTable', holdTable])
  named.forEach(([field, name], place) => {
    const other = named.slice(0, place).find(([, earlier]) => earlier === name)
    if (other !== undefined) failOption(field, `must not be the same as ${other[0]}`, name)
  })
  const days = valueOr(options.requestRetentionDays, defaults.requestRetentionDays)
  const requestRetentionDays = checkCount('requestRetentionDays', days, 1, mostDays)
  const span = valueOr(options.requestSpanDays, defaults.requestSpanDays)
  return {
    dedupe,
    names: { schema, usage, batches, requests: dedupe === 'batch' && !holds ? undefined : requests, holds: holdTable },
    requestRetentionDays,
    requestSpanDays: checkCount('requestSpanDays', span, 0, requestRetentionDays),
    managePartitions: checkBoolean('managePartitions', valueOr(options.managePartitions, defaults.managePartitions)),
    batchMemoryMs: checkDuration('batchMemoryMs', valueOr(options.batchMemoryMs, defaults.batchMemoryMs), 1000),
    holdMemoryMs: holds && checkDuration('holdMemoryMs', holds.memoryMs, 1000, maxDurationMs),
    cleanUpEveryMs: checkDuration('cleanUpEveryMs', valueOr(options.cleanUpEveryMs, defaults.cleanUpEveryMs)),
    cleanUpChunkSize: checkCount('cleanUpChunkSize', valueOr(options.cleanUpChunkSize, defaults.cleanUpChunkSize)),
    retry: resolveRetry(options.retry, defaults.retry),
    prepared: checkBoolean('prepared', valueOr(options.prepared, defaults.prepared)),
  }
}
