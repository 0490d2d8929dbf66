import { type BatchContext, type CounterIncrement, type CounterStore, StoreError } from 'spillway'
import type { Database } from './database.ts'

/**
 * How far a counter goes, up and down. A `bigint` could hold more, but a JSON number could not: within these bounds every
 * answer is exact, and adding two of them can't overflow an int8.
 */
export const maxCounter: number = Number.MAX_SAFE_INTEGER

/** How long a batch id is remembered. A batch is retried for about a minute, so this leaves room for long pauses. */
export const batchMemoryMs = 3_600_000

// The lock makes services that start together wait for each other: IF NOT EXISTS alone can still collide.
const schema = `
  SELECT pg_advisory_xact_lock(5817239140);
  CREATE TABLE IF NOT EXISTS spillway_counters (
    key text COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL CHECK (value BETWEEN -${maxCounter} AND ${maxCounter})
  );
  CREATE TABLE IF NOT EXISTS spillway_batches (
    id text COLLATE "C" PRIMARY KEY,
    answers bigint[],
    applied_at timestamptz NOT NULL DEFAULT now()
  );
  CREATE INDEX IF NOT EXISTS spillway_batches_applied_at ON spillway_batches (applied_at);
`

/**
 * A batch in one statement: the counters, and the batch's id with what it answered, all or nothing.
 *
 * An id that is there already changes nothing and returns no row. Of two attempts that run at the same time, the second
 * one waits for the first one's rows, then breaks the primary key of the ids and is rolled back as a whole.
 */
const applyBatch = `
  WITH input AS (
    SELECT * FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS input (key, delta, position)
  ), applied AS (
    INSERT INTO spillway_counters AS counter (key, value)
    SELECT key, delta FROM input
    WHERE NOT EXISTS (SELECT FROM spillway_batches WHERE id = $1)
    ORDER BY position
    ON CONFLICT (key) DO UPDATE SET value = counter.value + excluded.value
    RETURNING counter.key, counter.value
  )
  INSERT INTO spillway_batches (id, answers)
  SELECT $1, CASE WHEN $4::boolean THEN array_agg(applied.value ORDER BY input.position) END
  FROM applied JOIN input USING (key)
  HAVING count(*) > 0
  RETURNING answers
`
const readBatch = 'SELECT answers FROM spillway_batches WHERE id = $1'
const readCounters = 'SELECT key, value FROM spillway_counters WHERE key = ANY($1::text[])'
const forgetBatches = `DELETE FROM spillway_batches WHERE applied_at < now() - $1::bigint * interval '1 millisecond'`

/** Counters in PostgreSQL or PGlite. Every batch is one statement and is applied once, however often it comes. */
export class PostgresCounterStore implements CounterStore {
  readonly idempotent = true
  /** How many statements were sent. */
  readonly statements: { writes: number; reads: number } = { writes: 0, reads: 0 }
  readonly #database: Database

  constructor(database: Database) {
    this.#database = database
  }

  /** Makes the tables where they are missing. Any number of services may do so at the same time. */
  async createSchema(): Promise<void> {
    try {
      await this.#database.script(schema)
    } catch (error) {
      throw storeError('creating the tables', error)
    }
  }

  /**
   * Applies a batch and answers each increment with its own running value, also where several change the same counter.
   * A retry of a batch that was applied after all gets the same answers.
   */
  async increment(increments: readonly CounterIncrement[], context: BatchContext): Promise<number[]> {
    const totals = new Map<string, number>()
    const running = increments.map(({ key, delta }) => {
      const sum = addDeltas(totals.get(key) ?? 0, delta)
      totals.set(key, sum)
      return sum
    })
    const batch = sortedByKey(totals)
    const answers = await this.#apply(batch, context.batchId, true)
    const before = new Map(batch.map(([key, total], index) => [key, (answers?.[index] ?? 0) - total]))
    return increments.map(({ key }, index) => (before.get(key) ?? 0) + (running[index] ?? 0))
  }

  /** Applies sums that nobody waits for: the same statement, but no answers are kept. */
  async add(totals: ReadonlyMap<string, number>, context: BatchContext): Promise<void> {
    await this.#apply(sortedByKey(totals), context.batchId, false)
  }

  async getMany(keys: readonly string[]): Promise<number[]> {
    this.statements.reads++
    const rows = await this.#run<{ key: string; value: unknown }>('reading counters', readCounters, [keys])
    const values = new Map(rows.map(({ key, value }) => [key, Number(value)]))
    return keys.map((key) => values.get(key) ?? 0)
  }

  /** Forgets batches that can't come again, so that the table stays small. */
  async forgetOldBatches(olderThanMs: number = batchMemoryMs): Promise<void> {
    await this.#run('forgetting old batches', forgetBatches, [olderThanMs])
  }

  /** Applies sums in key order, and returns the counters' values after it in that order. */
  async #apply(batch: [string, number][], batchId: string, answered: boolean): Promise<number[] | undefined> {
    if (batch.length === 0) return []
    const keys = batch.map(([key]) => key)
    const deltas = batch.map(([, delta]) => delta)
    this.statements.writes++
    const applied = await this.#run<Answers>(
      'applying a batch',
      applyBatch,
      [batchId, keys, deltas, answered],
      isRepeat,
    )
    if (applied.length > 0) return applied[0]?.answers?.map(Number)
    this.statements.reads++
    const [earlier] = await this.#run<Answers>('reading a batch', readBatch, [batchId])
    return earlier?.answers?.map(Number)
  }

  async #run<Row>(
    action: string,
    statement: string,
    values: readonly unknown[],
    isEmpty: (error: unknown) => boolean = () => false,
  ): Promise<Row[]> {
    try {
      return await this.#database.query<Row>(statement, values)
    } catch (error) {
      if (isEmpty(error)) return []
      throw storeError(action, error)
    }
  }
}

interface Answers {
  /** `pg` gives a bigint as text, PGlite as a number. */
  readonly answers: readonly (string | number | bigint)[] | null
}

/** Every batch takes its rows in the same order, so that no two batches can wait for each other. */
function sortedByKey(totals: ReadonlyMap<string, number>): [string, number][] {
  return [...totals].sort(([a], [b]) => (a < b ? -1 : 1))
}

/** Adds two deltas of one counter; refuses a sum that would not be exact. */
export function addDeltas(sum: number, delta: number): number {
  const next = sum + delta
  if (Math.abs(next) <= maxCounter) return next
  throw new StoreError(`the increments of a counter add up to more than ${maxCounter}`, { retryable: false })
}

/** The batch was applied while this attempt at it was on its way. */
function isRepeat(error: unknown): boolean {
  const { code, constraint } = error as { code?: unknown; constraint?: unknown }
  return code === '23505' && constraint === 'spillway_batches_pkey'
}

/** A refused connection: nothing was sent. */
const notSentCodes: ReadonlySet<unknown> = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENOENT'])

function storeError(action: string, cause: unknown): StoreError {
  const { code, message } = cause as { code?: unknown; message?: unknown }
  const sqlState = typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : undefined
  // Classes 22 and 23, bad data and broken constraints, fail the same way however often they are tried.
  if (sqlState?.startsWith('22') || sqlState?.startsWith('23')) {
    const what = sqlState === '23514' ? `a counter can't go beyond ${maxCounter} in either direction` : String(message)
    return new StoreError(`${action} was refused: ${what}`, { cause, retryable: false })
  }
  // Classes 08 and 57P say that the session ended under the statement. Any other SQLSTATE is an answer: rolled back.
  const answered = sqlState !== undefined && !/^(08|57P0[12])/.test(sqlState)
  const neverSent = notSentCodes.has(code) || /when trying to connect/.test(String(message))
  return new StoreError(`${action} failed: ${String(message) || String(code)}`, {
    cause,
    outcomeUnknown: !answered && !neverSent,
  })
}
