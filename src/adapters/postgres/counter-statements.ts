import { maxCounter } from '../../internal/counter-batch.js'
import { schemaLock } from './make-tables.js'
import { quoteName } from './table-name.js'

/** What is appended to the batches' table for its index. */
export const indexSuffix = '_applied_at'

/** Where a store keeps its counters and batch ids. */
export interface CounterTables {
  readonly schema: string | undefined
  readonly counters: string
  readonly batches: string
}

/** Every statement of a store, for its tables. */
export interface CounterStatements {
  /** The tables, to be made in one transaction. */
  readonly schema: string
  /** A batch whose answers are remembered: id, keys, sums, and within what value a counter surely takes its increments. */
  readonly increment: string
  /** A batch of which only what was refused is remembered: id, keys, sums. */
  readonly add: string
  /** Claims an id; no row if it was there. */
  readonly claim: string
  /** Makes counters where they are missing, and locks them. */
  readonly lock: string
  /** Sets locked counters. */
  readonly set: string
  /** Remembers what each increment of a claimed id was answered. */
  readonly remember: string
  /** What an id was answered. */
  readonly recall: string
  /** Counters in the order of the keys. */
  readonly read: string
  /** Removes some ids that are old enough. */
  readonly forget: string
}

/** Writes the statements of a store. */
export function counterStatements({ schema, counters, batches }: CounterTables): CounterStatements {
  const prefix = schema === undefined ? '' : `${quoteName(schema)}.`
  const counterTable = prefix + quoteName(counters)
  const batchTable = prefix + quoteName(batches)
  const range = `BETWEEN -${maxCounter} AND ${maxCounter}`
  const isNew = `NOT EXISTS (SELECT FROM ${batchTable} WHERE id = $1)`
  const input = `input AS (
    SELECT key, delta, position FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS input (key, delta, position)
  )`
  // Every batch takes its rows in the same order, so that no two of them can wait for each other.
  const upsert = (condition: string): string => `applied AS (
    INSERT INTO ${counterTable} AS counter (key, value)
    SELECT key, delta FROM input WHERE ${isNew} ORDER BY key COLLATE "C"
    ON CONFLICT (key) DO UPDATE SET value = counter.value + excluded.value WHERE ${condition}
    RETURNING counter.key, counter.value
  )`
  const sumFits = `counter.value + excluded.value ${range}`
  return {
    schema: `SELECT pg_advisory_xact_lock(${schemaLock});
CREATE TABLE IF NOT EXISTS ${counterTable} (
  key text COLLATE "C" PRIMARY KEY,
  value bigint NOT NULL CHECK (value ${range})
);
CREATE TABLE IF NOT EXISTS ${batchTable} (
  id text COLLATE "C" PRIMARY KEY,
  answers bigint[],
  walked bigint[],
  refused text[],
  applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS ${quoteName(batches + indexSuffix)} ON ${batchTable} (applied_at);
`,
    // A counter beyond what is surely enough divides by zero: the whole statement is rolled back, and the batch is walked.
    increment: `WITH ${input}, ${upsert(
      `CASE WHEN abs(counter.value) <= $4::bigint THEN ${sumFits} ELSE 1 / (counter.value - counter.value) = 0 END`,
    )}, remembered AS (
    INSERT INTO ${batchTable} (id, answers)
    SELECT $1, array_agg(applied.value ORDER BY input.position) FROM input LEFT JOIN applied USING (key)
    HAVING ${isNew}
    RETURNING answers
  )
  SELECT answers::text, NULL AS walked, false AS repeated FROM remembered
  UNION ALL SELECT answers::text, walked::text, true FROM ${batchTable} WHERE id = $1`,
    add: `WITH ${input}, ${upsert(sumFits)}, remembered AS (
    INSERT INTO ${batchTable} (id, refused)
    SELECT $1, array_agg(input.key) FILTER (WHERE applied.key IS NULL) FROM input LEFT JOIN applied USING (key)
    HAVING ${isNew}
    RETURNING refused
  )
  SELECT to_json(refused)::text AS refused, false AS repeated FROM remembered
  UNION ALL SELECT to_json(refused)::text, true FROM ${batchTable} WHERE id = $1`,
    claim: `INSERT INTO ${batchTable} (id) VALUES ($1) ON CONFLICT (id) DO NOTHING RETURNING id`,
    lock: `INSERT INTO ${counterTable} AS counter (key, value)
    SELECT key, 0 FROM unnest($1::text[]) AS input (key) ORDER BY key COLLATE "C"
    ON CONFLICT (key) DO UPDATE SET value = counter.value
    RETURNING counter.key, counter.value::text`,
    set: `UPDATE ${counterTable} AS counter SET value = input.value
    FROM unnest($1::text[], $2::bigint[]) AS input (key, value) WHERE counter.key = input.key`,
    remember: `UPDATE ${batchTable} SET walked = $2::bigint[] WHERE id = $1`,
    recall: `SELECT answers::text, walked::text, to_json(refused)::text AS refused, true AS repeated
    FROM ${batchTable} WHERE id = $1`,
    read: `SELECT array_agg(coalesce(counter.value, 0) ORDER BY input.position)::text AS "values"
    FROM unnest($1::text[]) WITH ORDINALITY AS input (key, position) LEFT JOIN ${counterTable} AS counter USING (key)`,
    forget: `WITH old AS (
    SELECT id FROM ${batchTable} WHERE applied_at < now() - $1::float8 * interval '1 millisecond'
    ORDER BY applied_at LIMIT $2 FOR UPDATE SKIP LOCKED
  ), forgotten AS (
    DELETE FROM ${batchTable} WHERE id IN (SELECT id FROM old) RETURNING id
  )
  SELECT count(*)::int AS removed FROM forgotten`,
  }
}

/** Reads the text of a `bigint[]`, which no type parser of the caller's has touched; NULL becomes undefined. */
export function parseBigints(text: string): (number | undefined)[] {
  if (text === '{}') return []
  return text
    .slice(1, -1)
    .split(',')
    .map((part) => (part === 'NULL' ? undefined : Number(part)))
}
