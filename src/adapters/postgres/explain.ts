import { systemClock } from '../../core/clock.js'
import { type SpillwayError, StoreError, TimeoutError } from '../../core/errors.js'
import { checkBoolean, checkDuration, checkOptions, checkSignal, failOption, valueOr } from '../../core/options.js'
import { isPGlite, isPool, type PostgresDatabase } from './database.js'
import { type Discard, inPassingTransaction, type RunStatement } from './explain-transaction.js'
import { sqlStateOf, storeErrorOnce } from './postgres-error.js'
import { type QueryPlan, readExplained } from './query-plan.js'

/** A statement to explain. */
export interface ExplainedStatement {
  /** The statement: one, without `EXPLAIN` before it. */
  readonly text: string
  /**
   * What stands for `$1` and so on. Without it, a statement that has parameters gets its generic plan: the one for any values, as a
   * prepared statement has it after some runs.
   */
  readonly values?: readonly unknown[] | undefined
}

/** Options of {@link explain}. */
export interface ExplainOptions {
  /**
   * Whether the statement is run, so that the plan has its times and rows, in a transaction that is rolled back. Without `writes` the
   * transaction is read only too, so that the server refuses what writes. What a function does outside of the transaction stays:
   * calls of other servers, files. A connection of a pool that is left with a session lock is closed.
   * @defaultValue false
   */
  analyze?: boolean | undefined
  /**
   * Whether a statement that writes may be run by `analyze`. It takes its locks, calls its triggers, uses up numbers of sequences and
   * leaves dead rows; what it wrote is rolled back.
   * @defaultValue false
   */
  writes?: boolean | undefined
  /**
   * Whether `analyze` measures the time of each node. Without it only rows are counted, which costs less where the server's clock is slow.
   * @defaultValue true
   */
  timing?: boolean | undefined
  /**
   * How long the server may take over it, waiting for locks included, in milliseconds, at least 1. PGlite knows no such limit.
   * @defaultValue 10_000
   */
  timeoutMs?: number | undefined
  /** Gives it up. What the server runs is cancelled, by another connection of the pool; PGlite finishes it first. */
  signal?: AbortSignal | undefined
}

/** The defaults of {@link ExplainOptions}. */
export const explainDefaults = { analyze: false, writes: false, timing: true, timeoutMs: 10_000 } as const

/**
 * Asks PostgreSQL how it runs a statement, and reads the answer: a tree of nodes with what is each node's own, and the worst of them
 * named. By default the statement is only planned, not run.
 *
 * @param database - a `pg` Pool or a PGlite.
 * @returns rejects with `OptionError`, with `StoreError` where the server refuses (several statements, none that has a plan, one that
 * writes without `writes`), with `TimeoutError` after `timeoutMs`, or with the signal's reason. Nothing stays in the database.
 *
 * @example
 * ```ts
 * import pg from 'pg'
 * import { explain } from 'spillway/postgres'
 *
 * const pool = new pg.Pool()
 * const plan = await explain(pool, { text: 'SELECT * FROM orders WHERE status = $1', values: ['open'] }, { analyze: true })
 * console.log(plan.executionMs, plan.worst.time?.sentence, plan.worst.filter?.sentence)
 * ```
 */
export async function explain(
  database: PostgresDatabase,
  statement: ExplainedStatement,
  options: ExplainOptions = {},
): Promise<QueryPlan> {
  checkOptions('options', options)
  if (!isPGlite(database) && !isPool(database)) failOption('database', 'must be a pg Pool or a PGlite', database)
  const { text, values } = checkStatement(statement)
  const analyze = checkBoolean('analyze', valueOr(options.analyze, explainDefaults.analyze))
  const writes = checkBoolean('writes', valueOr(options.writes, explainDefaults.writes))
  const timing = checkBoolean('timing', valueOr(options.timing, explainDefaults.timing))
  const timeoutMs = checkDuration('timeoutMs', valueOr(options.timeoutMs, explainDefaults.timeoutMs), 1)
  const signal = checkSignal(options.signal)
  const command = `EXPLAIN (${analyze ? `ANALYZE, BUFFERS, TIMING ${timing ? 'ON' : 'OFF'}, ` : ''}VERBOSE, SETTINGS, FORMAT JSON)`
  const started = systemClock.now()
  try {
    return await inPassingTransaction(
      database,
      { readOnly: !(analyze && writes), mayLock: analyze, timeoutMs, signal },
      async (run, discard): Promise<QueryPlan> => {
        // A parameter, or what looks like one in a literal: then the generic plan is that of the statement itself.
        if (values !== undefined || analyze || !/\$\d/.test(text)) {
          return readExplained(await planOf(run, `${command} ${text}`, values), false)
        }
        return explainGenerically(run, discard, command, text)
      },
    )
  } catch (error) {
    if (signal?.aborted && error === signal.reason) throw error
    throw explainError(error, timeoutMs, systemClock.now() - started)
  }
}

function checkStatement(statement: ExplainedStatement): ExplainedStatement {
  checkOptions('statement', statement)
  if (statement === undefined) failOption('statement', 'must be an object', statement)
  const { text, values } = statement
  if (typeof text !== 'string' || text.trim() === '') failOption('text', 'must be a statement', text)
  if (values !== undefined && !Array.isArray(values)) failOption('values', 'must be an array', values)
  return { text, values }
}

async function planOf(run: RunStatement, text: string, values?: readonly unknown[]): Promise<unknown> {
  const [row] = await run<Record<string, unknown>>(text, values)
  return row?.['QUERY PLAN']
}

let prepared = 0

/**
 * The plan for any values, on every version: `EXPLAIN (GENERIC_PLAN)` came with 16, and only by the protocol that takes several
 * statements in one. A prepared statement outlives its transaction, so it is taken away again, even after an error.
 */
async function explainGenerically(
  run: RunStatement,
  discard: Discard,
  command: string,
  text: string,
): Promise<QueryPlan> {
  const name = `spillway_explain_${++prepared}`
  await run('SAVEPOINT spillway_explain')
  await run(`PREPARE ${name} AS ${text}`)
  try {
    const [found] = await run<{ count: number }>(
      'SELECT cardinality(parameter_types) AS count FROM pg_prepared_statements WHERE name = $1',
      [name],
    )
    const count = found?.count ?? 0
    await run(`SELECT set_config('plan_cache_mode', 'force_generic_plan', true)`)
    const list = count > 0 ? `(${Array<string>(count).fill('NULL').join(', ')})` : ''
    return readExplained(await planOf(run, `${command} EXECUTE ${name}${list}`), count > 0)
  } finally {
    await run('ROLLBACK TO SAVEPOINT spillway_explain').catch(() => undefined)
    await run(`DEALLOCATE ${name}`).catch(discard)
  }
}

const plannable = 'only SELECT, INSERT, UPDATE, DELETE, MERGE, VALUES and WITH have a plan, and one at a time'

/** Every one of them says that nothing was done. */
function explainError(error: unknown, timeoutMs: number, tookMs: number): Error {
  const state = sqlStateOf(error)
  // The server has one code for all that is cancelled.
  if (state === '57014' && tookMs >= timeoutMs) {
    return new TimeoutError(`explain took longer than timeoutMs (${timeoutMs})`, timeoutMs, {
      cause: error,
      outcomeUnknown: false,
    })
  }
  const wrapped = storeErrorOnce('explain', error) as SpillwayError
  if (state === '42601') return refusal(`${wrapped.message}: ${plannable}`, error)
  if (state === '25006') return refusal(`${wrapped.message}: with writes: true it is run and rolled back`, error)
  return wrapped.code === 'ERR_STORE' && wrapped.outcomeUnknown !== false
    ? new StoreError(wrapped.message, { cause: error, retryable: wrapped.retryable, outcomeUnknown: false })
    : wrapped
}

function refusal(message: string, cause: unknown): StoreError {
  return new StoreError(message, { cause, retryable: false, outcomeUnknown: false })
}
