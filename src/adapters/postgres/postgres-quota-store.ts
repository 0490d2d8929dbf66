import { Component } from '../../core/component.js'
import { type SpillwayError, StoreError } from '../../core/errors.js'
import { valueOr } from '../../core/options.js'
import type {
  BatchContext,
  ConsumeOutcome,
  HoldClaim,
  QuotaClaim,
  QuotaKey,
  QuotaStore,
  QuotaUsage,
  RefusedUsage,
  ReserveOutcome,
  SettleOutcome,
  UsageBatch,
  UsageDedupe,
} from '../../core/ports.js'
import { handled } from '../../internal/deferred.js'
import { checkClaim, checkHold } from '../../internal/store-arguments.js'
import { problemOfText, problemOfValue } from '../../internal/usage.js'
import type { PostgresDatabase, RunQuery } from './database.js'
import { type QuotaStatements, quotaStatements } from './quota-statements.js'
import type {
  PostgresQuotaStoreEvents,
  PostgresQuotaStoreOptions,
  PostgresQuotaStoreStats,
} from './quota-store-options.js'
import { requestText } from './usage-batch.js'
import type { Chore } from './usage-clean-up.js'
import { UsageLedger } from './usage-ledger.js'
import { resolveUsageSettings, type UsageCleanUp, type UsageSettings } from './usage-sink-options.js'

type ClaimCounts = {
  -readonly [Name in 'consumed' | 'reserved' | 'settled' | 'released' | 'exceeded' | 'claimsFailed']: number
}

/** How often a claim is made anew because somebody else was faster: once, unless rows are removed again. */
const mostAttempts = 10

/**
 * Quotas in PostgreSQL or PGlite, for any number of processes: a {@link PostgresUsageSink} whose uses can be made to fit a limit. Each
 * operation is one statement that locks the row of its key, so no use and no reservation ever passes a limit. Reservations expire by
 * the clock of the database.
 *
 * @example
 * ```ts
 * import { PGlite } from '@electric-sql/pglite'
 * import { QuotaService } from 'spillway'
 * import { PostgresQuotaStore } from 'spillway/postgres'
 *
 * const store = new PostgresQuotaStore(new PGlite())
 * await store.createSchema()
 * const quotas = new QuotaService({ store, limitFor: () => 100 })
 * await quotas.consumeQuotaSync('user:1', 'requests', 1)
 * ```
 */
export class PostgresQuotaStore
  extends Component<PostgresQuotaStoreEvents, PostgresQuotaStoreStats>
  implements QuotaStore
{
  /** The options' defaults. */
  static readonly defaults = {
    dedupe: 'batch',
    table: 'spillway_usage',
    batchTable: 'spillway_usage_batches',
    requestTable: 'spillway_usage_requests',
    holdTable: 'spillway_quota_holds',
    requestRetentionDays: 7,
    requestSpanDays: 1,
    managePartitions: true,
    batchMemoryMs: 86_400_000,
    holdMemoryMs: 86_400_000,
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
  readonly #statements: QuotaStatements
  readonly #counts: ClaimCounts = { consumed: 0, reserved: 0, settled: 0, released: 0, exceeded: 0, claimsFailed: 0 }

  /**
   * @param database - a `pg` Pool, or a PGlite; it stays the caller's, to be closed after everything that uses this store.
   * @throws OptionError when an option is wrong, or the database is neither.
   */
  constructor(database: PostgresDatabase, options: PostgresQuotaStoreOptions = {}) {
    super('postgres-quota-store', options)
    const { defaults } = PostgresQuotaStore
    const settings = resolveUsageSettings(options, defaults, {
      table: valueOr(options.holdTable, defaults.holdTable),
      memoryMs: valueOr(options.holdMemoryMs, defaults.holdMemoryMs),
    })
    this.dedupe = settings.dedupe
    const { clock, random, events } = this
    this.#ledger = new UsageLedger(database, settings, { clock, random, events }, this.#chores(settings))
    this.#statements = quotaStatements(this.#ledger.tables)
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
   * Counts a batch, once for each batch id, and each of its events as `dedupe` says, whatever the limits.
   *
   * @returns the events that were refused, as {@link PostgresUsageSink.write} does.
   */
  write(batch: UsageBatch, context: BatchContext): Promise<readonly RefusedUsage[]> {
    return handled(this.#ledger.write(batch, context))
  }

  /**
   * What is used and held. What has expired isn't held.
   *
   * @returns in the order of the keys; zeros for one that is unknown. Rejects with `StoreError`.
   */
  readUsage(keys: readonly QuotaKey[]): Promise<readonly QuotaUsage[]> {
    return handled(this.#readUsage(keys))
  }

  /**
   * Counts a use if it fits, once for each id of a user and a quota type.
   *
   * @returns what became of it. Rejects with `InvalidEventError` or `OptionError` when the claim is wrong, with `StoreError` when the
   * database failed; the same claim may then be made again.
   */
  consume(claim: QuotaClaim): Promise<ConsumeOutcome> {
    return this.#counted(() => this.#consume(claim))
  }

  /**
   * Holds a value if it fits, until `settle`, `release`, or the end of its time to live by the clock of the database.
   *
   * @returns what became of it. Rejects as `consume` does.
   */
  reserve(claim: HoldClaim): Promise<ReserveOutcome> {
    return this.#counted(() => this.#reserve(claim))
  }

  /**
   * Turns a hold into a use of `actual`.
   *
   * @returns what became of it. Rejects with `InvalidEventError` when an argument is wrong, with `StoreError` when the database failed;
   * the same may then be called again.
   */
  settle(id: string, actual: number): Promise<SettleOutcome> {
    return this.#counted(() => this.#settle(id, actual))
  }

  /**
   * Gives a hold back; nothing happens where there is none. After that it can't be settled any more, even if it had expired.
   *
   * @returns once it is done. Rejects as `settle` does.
   */
  release(id: string): Promise<void> {
    return this.#counted(() => this.#release(id))
  }

  /**
   * Makes partitions ahead, takes expired reservations out of what is held, and removes what is old: batch ids, the partitions of
   * days beyond `requestRetentionDays`, reservations that are over. The store does it in passing; this is for a job of its own, or for
   * a test.
   *
   * @returns what was removed; rejects with `StoreError`, or with the signal's reason.
   */
  cleanUp(options?: { signal?: AbortSignal | undefined }): Promise<UsageCleanUp> {
    return handled(this.#ledger.cleanUp(options))
  }

  override stats(): PostgresQuotaStoreStats {
    return { name: this.name, ...this.#ledger.counts, ...this.#counts }
  }

  async #readUsage(keys: readonly QuotaKey[]): Promise<readonly QuotaUsage[]> {
    return (await this.#ledger.read<UsageRow>(this.#statements.read, keys)).map(usageOf)
  }

  async #consume(claim: QuotaClaim): Promise<ConsumeOutcome> {
    checkClaim(claim)
    const { userId, quotaType, period, value, limit } = claim
    const request = [requestText(claim.id), userId, quotaType]
    const { consume, recallRequest } = this.#statements
    const row = await this.#ledger.call('consuming a quota', async (run) => {
      const row = await this.#claim<ConsumeRow>(run, claim, consume, [...request, period, value, limit])
      if (!mayBeKnown(row)) return row
      const [known] = await run<{ known: boolean }>(recallRequest, request)
      return known?.known ? { ...row, status: 'repeated' as const } : row
    })
    if (row.status === 'applied') this.#counts.consumed++
    return this.#answer({ status: row.status, ...usageOf(row) })
  }

  async #reserve(claim: HoldClaim): Promise<ReserveOutcome> {
    const { userId, quotaType, period, value, limit, id, settleLimit, ttlMs } = checkHold(claim)
    const whose = [id, userId, quotaType, period, value]
    const { reserve, recallHold } = this.#statements
    const row = await this.#ledger.call('reserving a quota', async (run) => {
      const row = await this.#claim<HoldRow>(run, claim, reserve, [...whose, limit, ttlMs, settleLimit])
      if (!mayBeKnown(row)) return row
      const [known] = await run<{ same: boolean; expires_at: string }>(recallHold, whose)
      if (known === undefined) return row
      return known.same ? { ...row, ...known, status: 'repeated' as const } : { ...row, status: 'conflict' as const }
    })
    if (row.status === 'held') this.#counts.reserved++
    return this.#answer({ status: row.status, expiresAt: Number(row.expires_at ?? 0), ...usageOf(row) })
  }

  async #settle(id: string, actual: number): Promise<SettleOutcome> {
    throwIf(problemOfText('id', id) ?? problemOfValue('actual', actual))
    const { settle } = this.#statements
    const [row] = await this.#ledger.call('settling a reservation', (run) => run<SettleRow>(settle, [id, actual]))
    if (row === undefined) return this.#answer<SettleOutcome>({ status: 'unknown' })
    const { status, user_id: userId, quota_type: quotaType, period, value, limit } = row
    if (status === 'settled') this.#counts.settled++
    const claim = Object.freeze({ userId, quotaType, period, value: Number(value), limit: Number(limit), id })
    return this.#answer({ status, claim, usage: usageOf(row) })
  }

  async #release(id: string): Promise<void> {
    throwIf(problemOfText('id', id))
    const { release } = this.#statements
    const [row] = await this.#ledger.call('releasing a reservation', (run) => run<{ released: number }>(release, [id]))
    this.#counts.released += Number(row?.released ?? 0)
    this.#ledger.passBy()
  }

  /** Makes a claim, again once the key has its row, or when somebody took the id after the statement had begun: the next one sees that. */
  async #claim<Row extends UsageRow & { readonly status: string }>(
    run: RunQuery,
    { userId, quotaType, period }: QuotaKey,
    statement: string,
    values: unknown[],
  ): Promise<Row> {
    for (let attempt = 1; attempt <= mostAttempts; attempt++) {
      const [row] = await run<Row | (UsageRow & { readonly status: 'absent' | 'taken' })>(statement, values)
      if (row?.status === 'absent') await run(this.#statements.open, [userId, quotaType, period])
      else if (row !== undefined && row.status !== 'taken') return row as Row
    }
    throw new StoreError('a claim failed: others made and removed again what it needs, each time', {
      outcomeUnknown: false,
    })
  }

  #answer<T extends { readonly status: string }>(outcome: T): T {
    if (outcome.status === 'exceeded') this.#counts.exceeded++
    this.#ledger.passBy()
    return outcome
  }

  #counted<T>(call: () => Promise<T>): Promise<T> {
    return handled(
      call().catch((error: unknown) => {
        this.#counts.claimsFailed++
        throw error
      }),
    )
  }

  #chores({ holdMemoryMs, cleanUpChunkSize }: UsageSettings): Chore[] {
    return [
      async (tally) => {
        const expired = await this.#ledger.remove(this.#statements.expire, [cleanUpChunkSize])
        tally.holdsExpired += expired
        return expired >= cleanUpChunkSize
      },
      async (tally) => {
        const removed = await this.#ledger.remove(this.#statements.forgetHolds, [holdMemoryMs, cleanUpChunkSize])
        tally.holdsRemoved += removed
        return removed >= cleanUpChunkSize
      },
    ]
  }
}

/** What a key has. */
interface UsageRow {
  readonly used: string
  readonly held: string
}

/** What became of a claim. */
interface ClaimRow extends UsageRow {
  /** Whether somebody changed the key since the statement began, or it wasn't there. */
  readonly stale: boolean
}

interface ConsumeRow extends ClaimRow {
  readonly status: ConsumeOutcome['status']
}

interface HoldRow extends ClaimRow {
  readonly status: ReserveOutcome['status']
  readonly expires_at: string | null
}

interface SettleRow extends UsageRow {
  readonly status: Exclude<SettleOutcome['status'], 'unknown'>
  readonly user_id: string
  readonly quota_type: string
  readonly period: string
  readonly value: string
  readonly limit: string
}

/** What doesn't fit may have been what filled the key, under the same id, after the statement had begun. */
function mayBeKnown({ status, stale }: { readonly status: string; readonly stale: boolean }): boolean {
  return status === 'exceeded' && stale
}

function usageOf({ used, held }: UsageRow): QuotaUsage {
  return { used: Number(used), held: Number(held) }
}

function throwIf(problem: SpillwayError | undefined): void {
  if (problem !== undefined) throw problem
}
