import type { Session } from './database.js'
import { schemaLock } from './make-tables.js'

/** What is appended to the table's name for a day's partition: `_20261120`. */
export const daySuffixBytes = 9
/** The days around today for which partitions are made before they are needed: midnight may be a moment ago. */
const daysNear = 'generate_series(-1, 3)'
/** How long dropping a partition may wait for those who use it: everybody else waits behind it. */
const dropWaitMs = 200
/** How many partitions are dropped at once. */
const mostDropped = 10

const today = `(clock_timestamp() AT TIME ZONE 'UTC')::date`

/** The table of the ids, its own name and with the schema, quoted. */
export interface PartitionedTable {
  readonly name: string
  readonly qualified: string
}

/** The statement that makes the partitions of the days around today, for a migration. */
export function partitionsAhead({ name, qualified }: PartitionedTable): string {
  return makePartitions({ name, qualified }, `SELECT ${today} + n FROM ${daysNear} AS n`)
}

/** The partitions of a table, one for each day in UTC. */
export class UsagePartitions {
  readonly #session: Session
  readonly #table: PartitionedTable
  readonly #retentionDays: number
  readonly #spanDays: number

  /**
   * @param retentionDays - how old a day may be before what belongs to it is refused.
   * @param spanDays - how far from its own day an id is looked for.
   */
  constructor(session: Session, table: PartitionedTable, retentionDays: number, spanDays: number) {
    this.#session = session
    this.#table = table
    this.#retentionDays = retentionDays
    this.#spanDays = spanDays
  }

  /**
   * Makes partitions where they are missing: for the days around today, and for others as far as they aren't refused anyway.
   *
   * @param days - in days since the epoch.
   * @returns the days that were missing, as `2026-11-20`. Of those who make one at the same time, several may say so.
   */
  async make(days: readonly number[]): Promise<readonly string[]> {
    const values = [this.#table.qualified, this.#table.name, days, this.#retentionDays]
    const missing = await this.#session.use((run) => run<{ day: string }>(missingDays, values))
    if (missing.length > 0) {
      const wanted = missing.map(({ day }) => `date '${day}'`).join(', ')
      await this.#session.script(makePartitions(this.#table, `SELECT unnest(ARRAY[${wanted}])`))
    }
    return missing.map(({ day }) => day)
  }

  /**
   * Drops some partitions in which nobody looks any more, the oldest first; a day more is kept at least than events are taken of, for
   * what is on the way at midnight.
   *
   * @param onDropped - takes the day of each, as `2026-11-20`.
   * @returns whether there may be more.
   */
  async drop(onDropped: (day: string) => void): Promise<boolean> {
    const keptDays = this.#retentionDays + Math.max(1, this.#spanDays)
    const values = [this.#table.qualified, this.#table.name, keptDays, mostDropped]
    const old = await this.#session.use((run) => run<{ partition: string; day: string }>(oldPartitions, values))
    for (const { partition, day } of old) {
      await this.#session.transaction(async (run) => {
        await run(`SET LOCAL lock_timeout = ${dropWaitMs}`, [])
        await run(`DROP TABLE IF EXISTS ${partition}`, [])
      })
      onDropped(day)
    }
    return old.length === mostDropped
  }
}

/** The partitions of a table that bear the name of a day: `$1` is the table, `$2` its own name. */
const daysOfPartitions = `SELECT partition.oid, to_date(right(relname, 8), 'YYYYMMDD') AS day
  FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
  WHERE inhparent = $1::regclass AND relname ~ '_[0-9]{8}$' AND left(relname, -${daySuffixBytes}) = $2`

const missingDays = `WITH made AS (${daysOfPartitions})
  SELECT to_char(wanted.day, 'YYYY-MM-DD') AS day FROM (
    SELECT ${today} + n AS day FROM ${daysNear} AS n
    UNION SELECT date 'epoch' + day FROM unnest($3::integer[]) AS day WHERE abs(date 'epoch' + day - ${today}) <= $4::integer
  ) AS wanted WHERE NOT EXISTS (SELECT FROM made WHERE made.day = wanted.day) ORDER BY wanted.day`

const oldPartitions = `WITH made AS (${daysOfPartitions})
  SELECT oid::regclass::text AS partition, to_char(day, 'YYYY-MM-DD') AS day FROM made WHERE day < ${today} - $3::integer ORDER BY made.day LIMIT $4`

/**
 * A statement that makes partitions, each as a table of its own that is attached once it is complete: that lets everybody else go on
 * writing. Whether one is there is asked of the catalog itself, which is never as old as a transaction's snapshot.
 */
function makePartitions({ name, qualified }: PartitionedTable, days: string): string {
  const table = literal(qualified)
  const body = `DECLARE
  home text;
  wanted date;
  partition text;
BEGIN
  PERFORM pg_advisory_xact_lock(${schemaLock});
  SELECT quote_ident(nspname) INTO home FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = ${table}::regclass;
  FOR wanted IN ${days} LOOP
    partition := home || '.' || quote_ident(${literal(name)} || to_char(wanted, '_YYYYMMDD'));
    CONTINUE WHEN pg_partition_root(to_regclass(partition)) = ${table}::regclass;
    EXECUTE 'CREATE TABLE IF NOT EXISTS ' || partition || ' (LIKE ' || ${table} || ' INCLUDING ALL)';
    EXECUTE 'ALTER TABLE ' || ${table} || ' ATTACH PARTITION ' || partition
      || format(' FOR VALUES FROM (%L) TO (%L)', wanted, wanted + 1);
  END LOOP;
END`
  return `DO ${literal(body)};`
}

/** A string constant, whatever `standard_conforming_strings` says. */
function literal(text: string): string {
  return `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}
