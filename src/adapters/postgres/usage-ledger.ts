import type { Clock } from '../../core/clock.js'
import { StoreError } from '../../core/errors.js'
import type { Emitter } from '../../core/events.js'
import { checkOptions, checkSignal, failOption } from '../../core/options.js'
import type { BatchContext, QuotaKey, RefusedUsage, UsageBatch, UsageTotal } from '../../core/ports.js'
import { checkContext, checkList, checkUsageBatch, problemOfKey } from '../../internal/store-arguments.js'
import { ConflictRetries, type ConflictRetry } from './conflict-retries.js'
import { isPGlite, isPool, openSession, type PostgresDatabase, type RunQuery, type Session } from './database.js'
import { makeTables } from './make-tables.js'
import { sqlStateOf } from './postgres-error.js'
import { EventRows, type StoredRefusals, TotalRows, type UsageRows } from './usage-batch.js'
import { type Chore, type CleanUpTally, UsageCleaning } from './usage-clean-up.js'
import { UsagePartitions } from './usage-partitions.js'
import type {
  PostgresUsageSinkEvents,
  PostgresUsageSinkStats,
  UsageCleanUp,
  UsageSettings,
} from './usage-sink-options.js'
import { qualify, type UsageStatements, type UsageTables, usageSchema, usageStatements } from './usage-statements.js'

/** What a ledger has of the component that it belongs to. */
export interface LedgerOwner {
  readonly clock: Clock
  readonly random: () => number
  readonly events: Emitter<PostgresUsageSinkEvents>
}

/** What a ledger counts. */
export type LedgerCounts = { -readonly [Name in Exclude<keyof PostgresUsageSinkStats, 'name'>]: number } & {
  holdsRemoved: number
}

const uniqueViolation = '23505'
const checkViolation = '23514'
const divisionByZero = '22012'
/** How often partitions are made for one call: once, and again when midnight comes between. */
const mostPartitionings = 3
const goneForGood = { retryable: false, outcomeUnknown: true } as const

/** The tables of usage, and all that is done with them but what holds need: what a sink and a store have in common. */
export class UsageLedger {
  readonly counts: LedgerCounts = {
    applied: 0,
    repeated: 0,
    failed: 0,
    counted: 0,
    duplicates: 0,
    refused: 0,
    reads: 0,
    retries: 0,
    batchesRemoved: 0,
    holdsRemoved: 0,
    partitionsMade: 0,
    partitionsDropped: 0,
    cleanUpFailures: 0,
  }
  readonly tables: UsageTables
  /** The statements that make the tables, to be run in one transaction. */
  readonly schemaSql: string
  readonly #session: Session
  readonly #settings: UsageSettings
  readonly #events: Emitter<PostgresUsageSinkEvents>
  readonly #statements: UsageStatements
  readonly #retries: ConflictRetries
  readonly #partitions: UsagePartitions | undefined
  readonly #cleaning: UsageCleaning

  /** @param chores - what else is to be cleaned up. */
  constructor(database: PostgresDatabase, settings: UsageSettings, owner: LedgerOwner, chores: readonly Chore[] = []) {
    if (!isPGlite(database) && !isPool(database)) failOption('database', 'must be a pg Pool or a PGlite', database)
    const { names, requestRetentionDays, requestSpanDays, retry, prepared, cleanUpEveryMs } = settings
    this.#settings = settings
    this.#events = owner.events
    this.tables = qualify(names)
    this.schemaSql = usageSchema(names)
    this.#statements = usageStatements(this.tables)
    const session = openSession(database, prepared)
    this.#session = session
    this.#retries = new ConflictRetries(retry, owner.clock, owner.random, (event) => this.#recordRetry(event))
    if (names.requests !== undefined) {
      const table = { name: names.requests, qualified: this.tables.requests }
      this.#partitions = new UsagePartitions(session, table, requestRetentionDays, requestSpanDays)
    }
    this.#cleaning = new UsageCleaning({
      ...owner,
      ...this.#choresOf(chores),
      everyMs: cleanUpEveryMs,
      busy: () => session.busy,
      onCleaned: (found) => this.#recordCleanUp(found),
      onFailed: () => void this.counts.cleanUpFailures++,
    })
  }

  /** Makes the tables where they are missing. */
  createSchema(): Promise<void> {
    const tables = Object.values(this.tables).filter((table) => table !== '')
    return this.#retries.run('making the tables', undefined, () => makeTables(this.#session, tables, this.schemaSql))
  }

  /** Applies a batch, and answers what it refused. */
  async write(batch: UsageBatch, context: BatchContext): Promise<readonly RefusedUsage[]> {
    const { signal } = checkContext(context)
    checkUsageBatch(batch)
    const { dedupe, requestRetentionDays: retentionDays, requestSpanDays: spanDays } = this.#settings
    if (dedupe === 'batch') {
      const rows = new TotalRows(batch)
      return this.#write(rows, signal, () => this.#sendTotals(batch.id, rows, signal))
    }
    const rows = new EventRows(batch, { byRequest: dedupe === 'request', retentionDays, spanDays })
    return this.#write(rows, signal, () => this.#sendEvents(batch.id, rows, signal))
  }

  /** Reads the sums of keys, in their order. */
  async readTotals(keys: readonly QuotaKey[]): Promise<readonly UsageTotal[]> {
    const rows = await this.read<{ value: string; count: string }>(this.#statements.read, keys)
    return keys.map(({ userId, quotaType, period }, place) => {
      const { value = 0, count = 0 } = rows[place] ?? {}
      return { userId, quotaType, period, value: Number(value), count: Number(count) }
    })
  }

  /** Runs a statement that has a row for each key. */
  async read<Row>(statement: string, keys: readonly QuotaKey[]): Promise<readonly Row[]> {
    if (checkList('keys', keys).length === 0) return []
    // What can't be stored was never used, and the server would refuse to look for it.
    const storable = keys.map((key) => (problemOfKey(key) === undefined ? key : undefined))
    const values = (['userId', 'quotaType', 'period'] as const).map((part) =>
      storable.map((key) => key?.[part] ?? null),
    )
    const rows = await this.call('reading usage', (run) => run<Row>(statement, values))
    this.counts.reads++
    return rows
  }

  /**
   * Does something on one connection, again after a conflict, and again with the partitions of today where they were missing.
   *
   * @returns rejects with a `StoreError`.
   */
  call<T>(action: string, work: (run: RunQuery) => Promise<T>): Promise<T> {
    return this.#retries.run(action, undefined, () => this.#withPartitions({ days: [] }, () => this.#session.use(work)))
  }

  /** Runs a statement that says how many rows it removed. */
  async remove(statement: string, values: unknown[]): Promise<number> {
    const rows = await this.#session.use((run) => run<{ removed: number }>(statement, values))
    return Number(rows[0]?.removed ?? 0)
  }

  /** Does some of what is due of cleaning up, behind the call that came by. */
  passBy(): void {
    this.#cleaning.passBy()
  }

  /** Cleans up until nothing is left to be done. */
  async cleanUp(options: { signal?: AbortSignal | undefined } | undefined): Promise<UsageCleanUp> {
    checkOptions('options', options)
    const signal = checkSignal(options?.signal)
    return this.#cleaning.all((action, work) => this.#retries.run(action, signal, work))
  }

  /** Makes an attempt at a batch, and counts its outcome. */
  async #write(
    rows: UsageRows,
    signal: AbortSignal,
    send: () => Promise<Outcome | undefined>,
  ): Promise<RefusedUsage[]> {
    if (rows.size === 0) {
      signal.throwIfAborted()
      const refused = rows.refusals({})
      this.counts.refused += refused.length
      return refused
    }
    try {
      const outcome = await this.#retries.run('writing usage', signal, send)
      if (outcome === undefined) throw new StoreError('a batch was applied, but its answer is gone', goneForGood)
      const stored: StoredRefusals = outcome.refused === null ? {} : JSON.parse(outcome.refused)
      const refused = rows.refusals(stored)
      this.#recordWritten(rows, outcome, stored, refused.length)
      return refused
    } catch (error) {
      this.counts.failed++
      throw error
    }
  }

  #sendTotals(id: string, rows: UsageRows, signal: AbortSignal): Promise<Outcome | undefined> {
    return this.#send(id, () =>
      this.#session.use((run) => run<Outcome>(this.#statements.totals, [id, ...rows.values]), signal),
    )
  }

  /** Where a sum turns out to be refused, all is rolled back, and done again without what was refused. */
  #sendEvents(id: string, rows: EventRows, signal: AbortSignal): Promise<Outcome | undefined> {
    const values = [id, ...rows.values]
    return this.#withPartitions(rows, async () => {
      try {
        return await this.#send(id, () =>
          this.#session.use((run) => run<Outcome>(this.#statements.events, values), signal),
        )
      } catch (error) {
        if (sqlStateOf(error) !== divisionByZero) throw error
      }
      return this.#send(id, () => this.#session.transaction((run) => this.#writeWhatFits(run, rows, values), signal))
    })
  }

  async #writeWhatFits(run: RunQuery, rows: EventRows, values: unknown[]): Promise<readonly Outcome[]> {
    const outcomes = await run<Outcome>(this.#statements.eventsThatFit, values)
    const { refused, repeated } = outcomes[0] as Outcome
    const { beyond = [] }: StoredRefusals = repeated || refused === null ? {} : JSON.parse(refused)
    if (beyond.length > 0) await run(this.#statements.forgetEvents, rows.idsOf(beyond))
    return outcomes
  }

  /** A batch id that was applied while its statement was on the way breaks the primary key, and gets what was answered then. */
  async #send(id: string, send: () => Promise<readonly Outcome[]>): Promise<Outcome | undefined> {
    try {
      return (await send())[0]
    } catch (error) {
      if (!this.#isRepeat(error)) throw error
    }
    return (await this.#session.use((run) => run<Outcome>(this.#statements.recall, [id])))[0]
  }

  #isRepeat(error: unknown): boolean {
    return sqlStateOf(error) === uniqueViolation && tableOf(error) === this.#settings.names.batches
  }

  /** Works, and again once the partitions are made that were missing. */
  async #withPartitions<T>(rows: { readonly days: readonly number[] }, work: () => Promise<T>): Promise<T> {
    const partitionings = this.#settings.managePartitions ? mostPartitionings : 0
    for (let attempt = 1; ; attempt++) {
      try {
        return await work()
      } catch (error) {
        if (!this.#lacksPartition(error)) throw error
        // The server counts it among what is wrong in itself, but somebody will make the partition.
        if (attempt > partitionings) throw partitionMissing(error)
      }
      await this.#makePartitions(rows.days)
    }
  }

  /** There is no constraint to an id that no partition takes. */
  #lacksPartition(error: unknown): boolean {
    const { requests } = this.#settings.names
    if (requests === undefined || sqlStateOf(error) !== checkViolation) return false
    return tableOf(error) === requests && !(error as { constraint?: unknown }).constraint
  }

  #choresOf(others: readonly Chore[]): { chores: Chore[]; allChores: Chore[] } {
    const kept: Chore[] = [(tally) => this.#forgetBatches(tally), ...others]
    const partitions = this.#partitions
    if (partitions === undefined) return { chores: kept, allChores: kept }
    const ahead: Chore = () => this.#makePartitions([])
    const drop: Chore = (tally) => partitions.drop((day) => void tally.daysDropped.push(day))
    const allChores = [ahead, ...kept, drop]
    return { chores: this.#settings.managePartitions ? allChores : kept, allChores }
  }

  /** @returns false: there is never more to be made. */
  async #makePartitions(days: readonly number[]): Promise<false> {
    const made = (await this.#partitions?.make(days)) ?? []
    this.counts.partitionsMade += made.length
    if (made.length > 0 && this.#events.has('partitioned')) this.#events.emit('partitioned', { days: made })
    return false
  }

  async #forgetBatches(tally: CleanUpTally): Promise<boolean> {
    const { batchMemoryMs, cleanUpChunkSize } = this.#settings
    const removed = await this.remove(this.#statements.forgetBatches, [batchMemoryMs, cleanUpChunkSize])
    tally.batchesRemoved += removed
    return removed >= cleanUpChunkSize
  }

  #recordWritten(rows: UsageRows, outcome: Outcome, stored: StoredRefusals, refused: number): void {
    const { counts } = this
    if (outcome.repeated) counts.repeated++
    else {
      counts.applied++
      counts.refused += refused
      const { counted, duplicates } = rows.tally(stored, Number(outcome.counted))
      counts.counted += counted
      counts.duplicates += duplicates
    }
    this.passBy()
  }

  #recordRetry(retry: ConflictRetry): void {
    this.counts.retries++
    if (this.#events.has('retried')) this.#events.emit('retried', retry)
  }

  #recordCleanUp({ batchesRemoved, holdsRemoved, daysDropped }: UsageCleanUp): void {
    this.counts.batchesRemoved += batchesRemoved
    this.counts.holdsRemoved += holdsRemoved
    this.counts.partitionsDropped += daysDropped.length
  }
}

/** What a batch id was answered, now or then. */
interface Outcome {
  /** {@link StoredRefusals} as JSON. */
  readonly refused: string | null
  /** How many events are new, those included whose sum was refused; null where nobody looked. */
  readonly counted: string | null
  readonly repeated: boolean
}

function partitionMissing(cause: unknown): StoreError {
  return new StoreError(`a partition is missing: ${(cause as Error).message}`, { cause, outcomeUnknown: false })
}

function tableOf(error: unknown): unknown {
  return (error as { table?: unknown }).table
}
