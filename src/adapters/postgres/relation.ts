import { createHash } from 'node:crypto'
import type { Clock } from '../../core/clock.js'
import type { PostgresDatabase, RunQuery } from './database.js'
import { quoteName } from './table-name.js'

/** A column, as the catalog has it. */
export interface RelationColumn {
  readonly name: string
  /** Its type as SQL has it, quoted and qualified where it must be: from the catalog, so it may stand in a statement. */
  readonly type: string
  /** Whether its type is a date or a time, whose text depends on the session unless it is made through JSON. */
  readonly dated: boolean
  /** Whether no row has NULL there. */
  readonly required: boolean
}

/** What makes rows unique. */
export interface UniqueKey {
  readonly columns: readonly string[]
  /** Whether two NULLs break it. */
  readonly nullsEqual: boolean
}

/** A table, a view, or what else has rows and columns. */
export interface Relation {
  readonly columns: ReadonlyMap<string, RelationColumn>
  readonly keys: readonly UniqueKey[]
  /** A hash of all of it: another one is another relation. */
  readonly mark: string
}

/** A relation's name in a statement. */
export function relationName(schema: string | undefined, name: string): string {
  return schema === undefined ? quoteName(name) : `${quoteName(schema)}.${quoteName(name)}`
}

/**
 * NOT NULL binds no foreign table, binds the children of an inheriting table only by custom, and may be NOT VALID since PostgreSQL 18.
 * A unique index binds neither those children nor, where it is partial or of expressions, all rows; under another collation than
 * that of the order it may tell apart what the order doesn't. The shape is of no use but for the mark: a statement that was prepared
 * returns no rows once a column is longer, or of another collation.
 */
const statement = `SELECT
  (SELECT json_agg(json_build_object(
      'name', a.attname,
      'type', pg_catalog.format_type(a.atttypid, -1),
      'shape', ARRAY[a.atttypmod::text, a.attcollation::text],
      'dated', t.typcategory = 'D',
      'required', a.attnotnull AND r.alone AND c.relkind <> 'f' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint n
        WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated AND a.attnum = ANY (n.conkey))
    ) ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)::text AS columns,
  (SELECT json_agg(json_build_object(
      'columns', (
        SELECT json_agg(a.attname ORDER BY k.place)
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE k.place <= i.indnkeyatts),
      'nullsEqual', coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
    ) ORDER BY i.indexrelid)
    FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid AND r.alone AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (
        SELECT FROM unnest(i.indkey::int2[], i.indcollation::oid[]) AS k(attnum, collation_id)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
        WHERE k.collation_id <> a.attcollation AND NOT l.collisdeterministic))::text AS keys
  FROM pg_catalog.pg_class c, LATERAL (
    SELECT NOT (c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid)) AS alone) r
  WHERE c.oid = $1::text::regclass`

/** A relation that was altered is noticed at the first statement that fails for it, or after this time. */
const keptMs = 60_000

/** The relations of a database that were read from its catalog. */
export class Relations {
  readonly #clock: Clock
  readonly #known = new Map<string, { readonly relation: Relation; readonly at: number }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** What is known of it, if that isn't too long ago. */
  known(name: string): Relation | undefined {
    const entry = this.#known.get(name)
    return entry !== undefined && this.#clock.now() - entry.at < keptMs ? entry.relation : undefined
  }

  /** Reads it from the catalog. Fails as a statement on it does where it isn't there. */
  async read(run: RunQuery, name: string): Promise<Relation> {
    const at = this.#clock.now()
    const [row] = await run<{ columns: string | null; keys: string | null }>(statement, [name])
    const columns = JSON.parse(row?.columns ?? '[]') as RelationColumn[]
    const relation = {
      columns: new Map(columns.map((column) => [column.name, column])),
      keys: JSON.parse(row?.keys ?? '[]') as UniqueKey[],
      mark: createHash('sha256').update(JSON.stringify(row)).digest('hex').slice(0, 16),
    }
    this.#known.set(name, { relation, at })
    return relation
  }
}

const books = new WeakMap<PostgresDatabase, WeakMap<Clock, Relations>>()

/** One book for all that page through the same database by the same clock. */
export function relationsOf(database: PostgresDatabase, clock: Clock): Relations {
  let byClock = books.get(database)
  if (byClock === undefined) {
    byClock = new WeakMap()
    books.set(database, byClock)
  }
  let relations = byClock.get(clock)
  if (relations === undefined) {
    relations = new Relations(clock)
    byClock.set(clock, relations)
  }
  return relations
}

/**
 * Whether an index proves that no two rows of a listing are equal in all of these columns.
 *
 * @param fixed - columns that have one value in all rows of the listing, and not NULL.
 */
export function provenUnique(relation: Relation, columns: readonly string[], fixed: ReadonlySet<string>): boolean {
  const told = new Set([...columns, ...fixed])
  return relation.keys.some(
    (key) =>
      key.columns.every((column) => told.has(column)) &&
      (key.nullsEqual || key.columns.every((column) => fixed.has(column) || relation.columns.get(column)?.required)),
  )
}
