import { Component } from '../../core/component.js'
import type {
  BatchContext,
  QuotaKey,
  RefusedUsage,
  UsageBatch,
  UsageDedupe,
  UsageSink,
  UsageTotal,
} from '../../core/ports.js'
import { handled } from '../../internal/deferred.js'
import type { PostgresDatabase } from './database.js'
import { UsageLedger } from './usage-ledger.js'
import {
  type PostgresUsageSinkEvents,
  type PostgresUsageSinkOptions,
  type PostgresUsageSinkStats,
  resolveUsageSettings,
  type UsageCleanUp,
} from './usage-sink-options.js'

/**
 * Usage accounted in PostgreSQL or PGlite. A batch is one statement, which carries the batch's id: all of it is applied or nothing,
 * less what is refused alone, and once, however often and from wherever it comes within `batchMemoryMs`. With `dedupe` it also
 * counts each event of a stream once, or each request, in whatever batch it comes.
 *
 * @example
 * ```ts
 * import { PGlite } from '@electric-sql/pglite'
 * import { QuotaConsumer } from 'spillway'
 * import { PostgresUsageSink } from 'spillway/postgres'
 *
 * const sink = new PostgresUsageSink(new PGlite(), { dedupe: 'request' })
 * await sink.createSchema()
 * const usage = new QuotaConsumer(sink, { dedupe: 'request' })
 * usage.offer({ userId: 42, quotaType: 'tokens', value: 1312, requestId: 'req-7' })
 * await usage.close()
 * ```
 */
export class PostgresUsageSink extends Component<PostgresUsageSinkEvents, PostgresUsageSinkStats> implements UsageSink {
  /** The options' defaults. */
  static readonly defaults = {
    dedupe: 'batch',
    table: 'spillway_usage',
    batchTable: 'spillway_usage_batches',
    requestTable: 'spillway_usage_requests',
    requestRetentionDays: 7,
    requestSpanDays: 1,
    managePartitions: true,
    batchMemoryMs: 86_400_000,
    cleanUpEveryMs: 60_000,
    cleanUpChunkSize: 1000,
    retry: { attempts: 5, delayMs: 10, maxDelayMs: 1000 },
    prepared: true,
  } as const

  /** It applies each batch id once. */
  readonly idempotent = true
  /** What it tells apart. */
  readonly dedupe: UsageDedupe
  readonly #ledger: UsageLedger

  /**
   * @param database - a `pg` Pool, or a PGlite; it stays the caller's, to be closed after everything that uses this sink.
   * @throws OptionError when an option is wrong, or the database is neither.
   */
  constructor(database: PostgresDatabase, options: PostgresUsageSinkOptions = {}) {
    super('postgres-usage-sink', options)
    const settings = resolveUsageSettings(options, PostgresUsageSink.defaults)
    this.dedupe = settings.dedupe
    const { clock, random, events } = this
    this.#ledger = new UsageLedger(database, settings, { clock, random, events })
  }

  /** The statements that make the tables, for a migration: they are to run in one transaction, and may run again. */
  get schemaSql(): string {
    return this.#ledger.schemaSql
  }

  /**
   * Makes the tables where they are missing. Any number of processes may do so at the same time; where the tables are there
   * already, it needs no privilege to make any.
   *
   * @returns rejects with `StoreError`.
   */
  createSchema(): Promise<void> {
    return handled(this.#ledger.createSchema())
  }

  /**
   * Counts a batch, once for each batch id, and each of its events as `dedupe` says.
   *
   * @returns the events that were refused, each with its error: those of sums that would pass 2^53 - 1, those that are further away
   * than `requestRetentionDays`, those that are wrong; for a batch id that was applied before, the answer of then. Rejects with
   * `StoreError`, or with the reason of `context.signal`: at once, while a statement that was sent goes on.
   */
  write(batch: UsageBatch, context: BatchContext): Promise<readonly RefusedUsage[]> {
    return handled(this.#ledger.write(batch, context))
  }

  /**
   * Reads what was used.
   *
   * @returns in the order of the keys; zeros for one that is unknown. Rejects with `StoreError`.
   */
  readTotals(keys: readonly QuotaKey[]): Promise<readonly UsageTotal[]> {
    return handled(this.#ledger.readTotals(keys))
  }

  /**
   * Makes partitions ahead, and removes what is old: batch ids, and the partitions of days beyond `requestRetentionDays`. The sink
   * does it in passing; this is for a job of its own, or for a test.
   *
   * @returns what was removed; rejects with `StoreError`, or with the signal's reason.
   */
  cleanUp(options?: { signal?: AbortSignal | undefined }): Promise<UsageCleanUp> {
    return handled(this.#ledger.cleanUp(options))
  }

  override stats(): PostgresUsageSinkStats {
    const { holdsRemoved: _, ...counts } = this.#ledger.counts
    return { name: this.name, ...counts }
  }
}
