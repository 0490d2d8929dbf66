import { ClosableComponent, type FlushReport } from '../../core/component.js'
import { ClosedError } from '../../core/errors.js'
import { checkCount, checkOneOf, checkOptions, failOption, valueOr } from '../../core/options.js'
import { isPGlite, isPool, type PGliteLike } from './database.js'
import { MinuteLimit, SlowQueryExplains } from './slow-query-log-explains.js'
import {
  resolveSlowQueryOptions,
  type SlowQuery,
  type SlowQueryLogEvents,
  type SlowQueryLogOptions,
  type SlowQueryLogStats,
  type SlowQuerySettings,
  type StatementOrder,
  type StatementStats,
  statementOrders,
} from './slow-query-log-options.js'
import type { QueryObserver, WatchedQuery } from './slow-query-log-run.js'
import { Durations, StatementNumbers } from './slow-query-log-statements.js'
import { type Watch, type WatchedPool, watchDatabase } from './slow-query-log-watch.js'

/**
 * Tells of slow queries, and of long waits for a connection, which look like slow queries to whoever waits. It sees every query of a
 * pool, whoever makes it, and changes nothing about them: their results, their errors, and the ways to ask for them.
 *
 * It takes the place of the pool's `connect` and of its clients' `query` until it is closed. Several logs of one pool are closed in the
 * reverse order of their making.
 *
 * @example
 * ```ts
 * import pg from 'pg'
 * import { SlowQueryLog } from 'spillway/postgres'
 *
 * const pool = new pg.Pool()
 * const log = new SlowQueryLog(pool, { thresholdMs: 200, explain: true })
 * log.on('slow', ({ text, durationMs, rows }) => console.warn(`${Math.round(durationMs)} ms, ${rows} rows: ${text}`))
 * log.on('explained', ({ plan }) => console.warn(plan.worst.cost?.sentence))
 * console.table(log.top({ by: 'p95', limit: 5 }))
 * await log.close()
 * ```
 */
export class SlowQueryLog extends ClosableComponent<SlowQueryLogEvents, SlowQueryLogStats> {
  /** The options' defaults. */
  static readonly defaults = {
    thresholdMs: 100,
    waitThresholdMs: 100,
    sampleRate: 1,
    maxPerMinute: 60,
    values: false,
    explain: false,
    maxStatements: 500,
    maxTextLength: 2000,
  } as const

  readonly #pool: { readonly waitingCount?: number; readonly totalCount?: number }
  readonly #settings: SlowQuerySettings
  readonly #watch: Watch
  readonly #explains: SlowQueryExplains | undefined
  readonly #statements: StatementNumbers
  readonly #latency = new Durations()
  readonly #wait = new Durations()
  readonly #limit: MinuteLimit
  readonly #waitLimit: MinuteLimit
  readonly #counts = {
    offered: 0,
    succeeded: 0,
    failed: 0,
    pending: 0,
    unmeasured: 0,
    slow: 0,
    reported: 0,
    suppressed: 0,
    waits: 0,
    waitsFailed: 0,
    starved: 0,
    explained: 0,
    explainsFailed: 0,
    explainsSkipped: 0,
  }

  /**
   * @param database - a `pg` Pool or a PGlite. Its queries are seen from now on. It stays the caller's.
   * @throws OptionError when an option is wrong, or the database is neither.
   */
  constructor(database: WatchedPool | PGliteLike, options: SlowQueryLogOptions = {}) {
    super('slow-query-log', options)
    if (!isPGlite(database) && !(isPool(database) && typeof database.on === 'function')) {
      failOption('database', 'must be a pg Pool or a PGlite', database)
    }
    this.#settings = resolveSlowQueryOptions(options, SlowQueryLog.defaults)
    const { maxPerMinute, maxStatements, maxTextLength, explain } = this.#settings
    this.#limit = new MinuteLimit(maxPerMinute)
    this.#waitLimit = new MinuteLimit(maxPerMinute)
    this.#statements = new StatementNumbers(maxStatements, maxTextLength)
    this.#pool = isPGlite(database) ? {} : database
    this.#watch = watchDatabase(database, this.#observer())
    if (explain === undefined) return
    this.#explains = new SlowQueryExplains(this.#watch, explain, this.clock, {
      explained: (query, plan) => {
        this.#counts.explained++
        this.events.emit('explained', { query, plan })
      },
      failed: (query, error) => {
        this.#counts.explainsFailed++
        this.events.emit('explainFailed', { query, error })
      },
      skipped: () => {
        this.#counts.explainsSkipped++
      },
    })
  }

  /**
   * The numbers of the statements that lead by some measure.
   *
   * @param options - `by` says what puts a statement first, `'total'` time by default; `limit` how many there are at most, 10 by default.
   * @throws OptionError when an option is wrong.
   */
  top(options: { by?: StatementOrder | undefined; limit?: number | undefined } = {}): StatementStats[] {
    checkOptions('options', options)
    const by = checkOneOf('by', valueOr(options.by, 'total'), statementOrders)
    return this.#statements.top(by, checkCount('limit', valueOr(options.limit, 10), 0))
  }

  /** Waits for the explain that is under way, if there is one. */
  override async flush(): Promise<FlushReport> {
    const running = this.#explains?.running
    const succeeded = await running
    return { succeeded: succeeded === true ? 1 : 0, failed: succeeded === false ? 1 : 0, dropped: 0 }
  }

  override stats(): SlowQueryLogStats {
    return {
      name: this.name,
      ...this.#counts,
      statements: this.#statements.size,
      statementsEvicted: this.#statements.evicted,
      latencyMs: this.#latency.snapshot(),
      waitMs: this.#wait.snapshot(),
    }
  }

  protected override async drain(): Promise<void> {
    this.#watch.stop()
    this.#explains?.stop()
    await this.#explains?.running
  }

  protected override abandon(): number {
    if (this.#explains?.running === undefined) return 0
    this.#explains.abort(new ClosedError(`${this.name} was closed`))
    return 1
  }

  #observer(): QueryObserver {
    const counts = this.#counts
    return {
      now: () => this.clock.now(),
      began: () => {
        counts.offered++
        counts.pending++
      },
      unmeasured: () => {
        counts.unmeasured++
      },
      ended: (query, error, result) => this.#recordEnd(query, error, result),
      waited: (ms, failed) => this.#recordWait(ms, failed),
    }
  }

  #recordEnd(query: WatchedQuery, error: unknown, result: unknown): void {
    const counts = this.#counts
    const durationMs = this.clock.now() - query.beganAt
    const failed = error !== undefined
    const rows = failed ? undefined : rowsOf(result)
    const slow = durationMs >= this.#settings.thresholdMs
    counts.pending--
    if (failed) counts.failed++
    else counts.succeeded++
    this.#latency.record(durationMs)
    this.#statements.record(query.text, durationMs, slow, failed, rows ?? 0)
    if (slow) this.#recordSlow(query, durationMs, error, rows)
  }

  #recordSlow(query: WatchedQuery, durationMs: number, error: unknown, rows: number | undefined): void {
    const counts = this.#counts
    counts.slow++
    if (!this.#mayReport(this.#limit)) {
      counts.suppressed++
      return
    }
    counts.reported++
    if (!this.events.has('slow') && this.#explains === undefined) return
    const values = query.values ?? []
    const slow: SlowQuery = {
      text: query.text,
      durationMs,
      waitedMs: query.waitedMs,
      rows,
      failed: error !== undefined,
      errorCode: codeOf(error),
      valueTypes: values.map(typeOf),
      values: this.#settings.values ? [...values] : undefined,
      at: this.clock.wallNow(),
    }
    this.events.emit('slow', slow)
    this.#explains?.offer(slow, query.values === undefined ? undefined : [...query.values])
  }

  #recordWait(waitedMs: number, failed: boolean): void {
    const counts = this.#counts
    counts.waits++
    if (failed) counts.waitsFailed++
    this.#wait.record(waitedMs)
    if (waitedMs < this.#settings.waitThresholdMs) return
    counts.starved++
    if (!this.events.has('starved') || !this.#mayReport(this.#waitLimit)) return
    const { waitingCount: waiting = 0, totalCount: connections = 0 } = this.#pool
    this.events.emit('starved', { waitedMs, failed, waiting, connections })
  }

  #mayReport(limit: MinuteLimit): boolean {
    const { sampleRate } = this.#settings
    if (sampleRate < 1 && this.random() >= sampleRate) return false
    return limit.take(this.clock.now())
  }
}

/** Of several statements in one text, those of the last. */
function rowsOf(result: unknown): number | undefined {
  const last: unknown = Array.isArray(result) ? result.at(-1) : result
  if (typeof last !== 'object' || last === null) return undefined
  const { rowCount, rows, affectedRows } = last as { rowCount?: unknown; rows?: unknown; affectedRows?: unknown }
  if (typeof rowCount === 'number') return rowCount
  if (Array.isArray(rows) && rows.length > 0) return rows.length
  return typeof affectedRows === 'number' ? affectedRows : undefined
}

function codeOf(error: unknown): string | undefined {
  const { code } = (error ?? {}) as { code?: unknown }
  return typeof code === 'string' ? code : undefined
}

function typeOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'array'
  return typeof value === 'object' ? Object.prototype.toString.call(value).slice(8, -1) : typeof value
}
