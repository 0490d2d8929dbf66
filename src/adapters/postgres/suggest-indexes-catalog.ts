import type { RunStatement } from './explain-transaction.js'

/** A table as the server's catalog and statistics have it. */
export interface CatalogTable {
  readonly id: string
  /** The table whose partition it is, or itself. */
  readonly rootId: string
  readonly schema: string
  readonly name: string
  readonly partitioned: boolean
  readonly rows: number
  readonly seqScans: number
  readonly seqRows: number
  readonly changedRows: number
  /** Whether there are statistics of its columns that this user may see. */
  readonly hasStatistics: boolean
}

/** An index. */
export interface CatalogIndex {
  readonly id: string
  readonly tableId: string
  readonly schema: string
  readonly name: string
  readonly method: string
  /** The numbers of its columns, 0 for an expression; those that it only includes are behind `keyCount`. */
  readonly columns: readonly number[]
  readonly keyCount: number
  /** How each key is compared and ordered. */
  readonly ordering: readonly string[]
  readonly expressions: string | null
  readonly predicate: string | null
  readonly unique: boolean
  /** Whether something but queries needs it: a constraint, replication, CLUSTER. */
  readonly needed: boolean
  readonly valid: boolean
  readonly building: boolean
  /** Whether it belongs to a partitioned one, or is one. */
  readonly partitioned: boolean
  readonly scans: number
  readonly bytes: number
}

/** A foreign key. */
export interface CatalogForeignKey {
  readonly name: string
  readonly tableId: string
  readonly columns: readonly number[]
  readonly columnNames: readonly string[]
  readonly referenced: string
}

/** A column with its statistics, where there are any. */
export interface CatalogColumn {
  readonly tableId: string
  readonly name: string
  readonly number: number
  readonly type: string
  /** Whether its values have an order that a B-tree goes by: those of `box` have none, though they have an `=`. */
  readonly ordered: boolean
  readonly distinct: number | null
  readonly nullShare: number | null
  readonly correlation: number | null
  readonly commonValues: readonly string[] | null
  readonly commonShares: readonly number[] | null
}

/** A statement that `pg_stat_statements` has. */
export interface CatalogStatement {
  readonly text: string
  readonly calls: number
  readonly totalMs: number
}

/** What is read of the catalog at once. */
export interface Catalog {
  /** How long the server has counted scans, in milliseconds. */
  readonly statsAgeMs: number
  readonly tables: readonly CatalogTable[]
  readonly indexes: readonly CatalogIndex[]
  readonly foreignKeys: readonly CatalogForeignKey[]
}

/** Own tables only: not the server's, not temporary ones. */
const ownSchemas = `n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND ($1::text[] IS NULL OR n.nspname = ANY ($1))`

/** What a row takes, where nobody has counted any yet. */
const usualRowBytes = 100

const tables = `
  SELECT c.oid::text AS "id", COALESCE(pg_partition_root(c.oid), c.oid)::oid::text AS "rootId", n.nspname::text AS "schema",
    c.relname::text AS "name", c.relkind = 'p' AS "partitioned",
    (CASE WHEN c.reltuples > 0 THEN c.reltuples WHEN s.n_live_tup > 0 THEN s.n_live_tup
      ELSE pg_relation_size(c.oid) / ${usualRowBytes} END)::float8 AS "rows",
    COALESCE(s.seq_scan, 0)::float8 AS "seqScans", COALESCE(s.seq_tup_read, 0)::float8 AS "seqRows",
    COALESCE(s.n_mod_since_analyze, 0)::float8 AS "changedRows",
    EXISTS (SELECT FROM pg_stats p WHERE p.schemaname = n.nspname AND p.tablename = c.relname) AS "hasStatistics"
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
  WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND ${ownSchemas}
  ORDER BY n.nspname, c.relname`

const indexes = `
  SELECT i.indexrelid::text AS "id", i.indrelid::text AS "tableId", n.nspname::text AS "schema", x.relname::text AS "name",
    a.amname::text AS "method", ARRAY(SELECT i.indkey[k]::int FROM generate_series(0, i.indnatts - 1) AS k ORDER BY k) AS "columns", i.indnkeyatts::int AS "keyCount",
    ARRAY(SELECT concat_ws(' ', i.indclass[k], i.indcollation[k], i.indoption[k]) FROM generate_series(0, i.indnkeyatts - 1) AS k
      ORDER BY k) AS "ordering",
    pg_get_expr(i.indexprs, i.indrelid) AS "expressions", pg_get_expr(i.indpred, i.indrelid) AS "predicate",
    i.indisunique AS "unique",
    i.indisprimary OR i.indisexclusion OR i.indisreplident OR i.indisclustered
      OR EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) AS "needed",
    i.indisvalid AS "valid",
    EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid
      OR p.index_relid IS NULL AND p.datname = current_database()) AS "building",
    x.relkind = 'I' OR x.relispartition AS "partitioned",
    COALESCE(s.idx_scan, 0)::float8 AS "scans", COALESCE(pg_relation_size(x.oid), 0)::float8 AS "bytes"
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am a ON a.oid = x.relam
    LEFT JOIN pg_stat_all_indexes s ON s.indexrelid = i.indexrelid
  WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND ${ownSchemas}
  ORDER BY n.nspname, c.relname, i.indexrelid`

const foreignKeys = `
  SELECT k.conname::text AS "name", k.conrelid::text AS "tableId", k.conkey::int[] AS "columns",
    ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u(num, pos)
      JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.pos) AS "columnNames",
    k.confrelid::regclass::text AS "referenced"
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE k.contype = 'f' AND k.conparentid = 0 AND ${ownSchemas}
  ORDER BY n.nspname, c.relname, k.conname`

/** Where the counts were never reset, they are at least as old as the server's start. */
const statsAge = `
  SELECT EXTRACT(EPOCH FROM now() - COALESCE(stats_reset, pg_postmaster_start_time()))::float8 * 1000 AS "ageMs"
  FROM pg_stat_database WHERE datname = current_database()`

/** Reads tables, indexes and foreign keys. */
export async function readCatalog(run: RunStatement, schemas: readonly string[] | undefined): Promise<Catalog> {
  const values = [schemas ?? null]
  const [age] = await run<{ ageMs: number }>(statsAge)
  return {
    statsAgeMs: age?.ageMs ?? 0,
    tables: await run<CatalogTable>(tables, values),
    indexes: await run<CatalogIndex>(indexes, values),
    foreignKeys: await run<CatalogForeignKey>(foreignKeys, values),
  }
}

const columns = `
  SELECT a.attrelid::text AS "tableId", a.attname::text AS "name", a.attnum::int AS "number", t.typname::text AS "type",
    b.typtype IN ('c', 'e', 'r', 'm') OR b.typcategory = 'A' OR EXISTS (
      SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod AND m.amname = 'btree' WHERE o.opcdefault AND (o.opcintype = b.oid
        OR EXISTS (SELECT FROM pg_cast k WHERE k.castsource = b.oid AND k.casttarget = o.opcintype AND k.castmethod = 'b'
          AND k.castcontext = 'i'))) AS "ordered",
    p.n_distinct::float8 AS "distinct", p.null_frac::float8 AS "nullShare", p.correlation::float8 AS "correlation",
    p.most_common_vals::text::text[] AS "commonValues", p.most_common_freqs::float8[] AS "commonShares"
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stats p ON p.schemaname = n.nspname AND p.tablename = c.relname AND p.attname = a.attname AND NOT p.inherited
  WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped`

/** Reads the columns of some tables. */
export async function readColumns(run: RunStatement, tableIds: readonly string[]): Promise<readonly CatalogColumn[]> {
  return tableIds.length === 0 ? [] : run<CatalogColumn>(columns, [tableIds])
}

/** Reads the statements that took the most time; none where the extension isn't installed, isn't loaded, or isn't to be read. */
export async function readStatements(run: RunStatement, most: number): Promise<readonly CatalogStatement[]> {
  const [extension] = await run<{ schema: string }>(
    `SELECT quote_ident(n.nspname) AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
     WHERE e.extname = 'pg_stat_statements'`,
  )
  if (extension === undefined) return []
  await run('SAVEPOINT spillway_statements')
  try {
    return await run<CatalogStatement>(
      `SELECT s.query AS text, s.calls::float8 AS calls, s.total_exec_time::float8 AS "totalMs"
       FROM ${extension.schema}.pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid AND d.datname = current_database()
       WHERE s.query ~* '^\\s*(select|with|update|delete)\\M'
       ORDER BY s.total_exec_time DESC LIMIT $1`,
      [most],
    )
  } catch {
    await run('ROLLBACK TO SAVEPOINT spillway_statements')
    return []
  }
}
