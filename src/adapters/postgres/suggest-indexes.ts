import {
  checkCount,
  checkDuration,
  checkOptions,
  checkRatio,
  checkSignal,
  failOption,
  valueOr,
} from '../../core/options.js'
import { isPGlite, isPool, type PostgresDatabase } from './database.js'
import { type ExplainedStatement, explain } from './explain.js'
import { inPassingTransaction } from './explain-transaction.js'
import { storeErrorOnce } from './postgres-error.js'
import type { QueryPlan } from './query-plan.js'
import {
  type Catalog,
  type CatalogColumn,
  type CatalogStatement,
  readCatalog,
  readColumns,
  readStatements,
} from './suggest-indexes-catalog.js'
import { filteredScans } from './suggest-indexes-filters.js'
import { type ScanOfTable, suggestForFilters, suggestForTables, tablesOfScans } from './suggest-indexes-missing.js'
import { reviewCatalog } from './suggest-indexes-review.js'
import { count, type IndexSuggestion, qualified } from './suggest-indexes-suggestion.js'

/** Options of {@link suggestIndexes}. */
export interface SuggestIndexesOptions {
  /** The schemas to look at. The default is all but those of the server. */
  schemas?: readonly string[] | undefined
  /** Statements whose filters are looked at. They are planned, not run; without values by their generic plan. */
  queries?: readonly ExplainedStatement[] | undefined
  /** Plans whose filters are looked at; those of statements that were run say the most. */
  plans?: readonly QueryPlan[] | undefined
  /**
   * How many statements of `pg_stat_statements` are looked at, those that took the most time; none where the extension isn't there.
   * @defaultValue 20
   */
  statements?: number | undefined
  /**
   * How many rows a table has at least to get an index.
   * @defaultValue 10_000
   */
  minTableRows?: number | undefined
  /**
   * How often a table was read from end to end at least, to be named without a filter at hand.
   * @defaultValue 100
   */
  minSeqScans?: number | undefined
  /**
   * Which share of the rows a filter keeps at most, 0 to 1: for more, an index seldom pays.
   * @defaultValue 0.1
   */
  maxShare?: number | undefined
  /**
   * How long the server must have counted before an index that was never read is called unused, in milliseconds. What is used
   * once a month needs longer.
   * @defaultValue 1_209_600_000
   */
  unusedAfterMs?: number | undefined
  /**
   * How long the server may take over one statement, in milliseconds, at least 1.
   * @defaultValue 10_000
   */
  timeoutMs?: number | undefined
  /** Gives it up. */
  signal?: AbortSignal | undefined
}

/** The defaults of {@link SuggestIndexesOptions}. */
export const suggestIndexesDefaults = {
  statements: 20,
  minTableRows: 10_000,
  minSeqScans: 100,
  maxShare: 0.1,
  unusedAfterMs: 1_209_600_000,
  timeoutMs: 10_000,
} as const

/** A table of which the planner knows nothing, or what is long past. */
export interface StaleTable {
  /** Its schema. */
  readonly schema: string
  /** Its name. */
  readonly table: string
  /** What is wrong, with the numbers. */
  readonly reason: string
  /** What mends it. */
  readonly statement: string
}

/** A statement that could not be looked at. */
export interface SkippedQuery {
  /** The statement. */
  readonly text: string
  /** Why not. */
  readonly reason: string
}

/** What {@link suggestIndexes} found. It is plain data, and nothing was done. */
export interface IndexReport {
  /** Indexes to make and to drop: filters first, the surest of each kind before the others. */
  readonly suggestions: readonly IndexSuggestion[]
  /** Tables to be analyzed before one believes what is said of them. */
  readonly stale: readonly StaleTable[]
  /** Statements that have no plan, or not for this user. */
  readonly skipped: readonly SkippedQuery[]
  /** How long the server has counted scans, in milliseconds. */
  readonly statsAgeMs: number
}

/**
 * Looks for indexes to make and to drop: by the filters of statements and plans, by the server's statistics, and by the catalog. It reads
 * in transactions that are read only and rolled back, and runs nothing of what it suggests.
 *
 * @param database - a `pg` Pool or a PGlite.
 * @returns rejects with `OptionError`, `StoreError`, or the signal's reason.
 *
 * @example
 * ```ts
 * import pg from 'pg'
 * import { suggestIndexes } from 'spillway/postgres'
 *
 * const { suggestions } = await suggestIndexes(new pg.Pool(), {
 *   queries: [{ text: 'SELECT * FROM orders WHERE status = $1', values: ['open'] }],
 * })
 * for (const { reason, statement } of suggestions) console.log(reason, statement)
 * ```
 */
export async function suggestIndexes(
  database: PostgresDatabase,
  options: SuggestIndexesOptions = {},
): Promise<IndexReport> {
  const settings = resolve(database, options)
  const { signal, timeoutMs } = settings
  const read = { readOnly: true, timeoutMs, signal }
  try {
    const first = await inPassingTransaction(database, read, async (run): Promise<FirstLook> => {
      const catalog = await readCatalog(run, settings.schemas)
      return { catalog, statements: settings.statements === 0 ? [] : await readStatements(run, settings.statements) }
    })
    const queries = [...settings.queries, ...first.statements.map(({ text }) => ({ text }))]
    const { plans, skipped } = await explainAll(database, queries, { timeoutMs, signal })
    const scans = tablesOfScans([...settings.plans, ...plans].flatMap(filteredScans), first.catalog.tables)
    const tableIds = [...new Set(scans.map(({ table }) => table.id))]
    const columns = await inPassingTransaction(database, read, (run) => readColumns(run, tableIds))
    return report(first.catalog, scans, columns, skipped, settings)
  } catch (error) {
    if (signal?.aborted && error === signal.reason) throw error
    throw storeErrorOnce('suggestIndexes', error)
  }
}

interface FirstLook {
  readonly catalog: Catalog
  readonly statements: readonly CatalogStatement[]
}

interface Settings {
  readonly schemas: readonly string[] | undefined
  readonly queries: readonly ExplainedStatement[]
  readonly plans: readonly QueryPlan[]
  readonly statements: number
  readonly minTableRows: number
  readonly minSeqScans: number
  readonly maxShare: number
  readonly unusedAfterMs: number
  readonly timeoutMs: number
  readonly signal: AbortSignal | undefined
}

function resolve(database: PostgresDatabase, options: SuggestIndexesOptions): Settings {
  checkOptions('options', options)
  if (!isPGlite(database) && !isPool(database)) failOption('database', 'must be a pg Pool or a PGlite', database)
  const defaults = suggestIndexesDefaults
  const schemas = checkList('schemas', options.schemas)
  if (schemas?.some((schema) => typeof schema !== 'string')) failOption('schemas', 'must be names', schemas)
  const queries = checkList('queries', options.queries) ?? []
  for (const query of queries) {
    if (typeof query?.text !== 'string') failOption('queries', 'must each have a text', query)
    if (query.values !== undefined) checkList('values', query.values)
  }
  const plans = checkList('plans', options.plans) ?? []
  for (const plan of plans) {
    if (typeof plan?.root?.type !== 'string') failOption('plans', 'must be plans of explain or readPlan', plan)
  }
  return {
    schemas,
    queries,
    plans,
    statements: checkCount('statements', valueOr(options.statements, defaults.statements), 0),
    minTableRows: checkCount('minTableRows', valueOr(options.minTableRows, defaults.minTableRows), 0),
    minSeqScans: checkCount('minSeqScans', valueOr(options.minSeqScans, defaults.minSeqScans)),
    maxShare: checkRatio('maxShare', valueOr(options.maxShare, defaults.maxShare)),
    unusedAfterMs: checkDuration('unusedAfterMs', valueOr(options.unusedAfterMs, defaults.unusedAfterMs)),
    timeoutMs: checkDuration('timeoutMs', valueOr(options.timeoutMs, defaults.timeoutMs), 1),
    signal: checkSignal(options.signal),
  }
}

function checkList<T>(field: string, list: readonly T[] | undefined): readonly T[] | undefined {
  if (list !== undefined && !Array.isArray(list)) failOption(field, 'must be an array', list)
  return list
}

/** One after the other: whoever looks for slow statements should not add to the load. */
async function explainAll(
  database: PostgresDatabase,
  queries: readonly ExplainedStatement[],
  options: { readonly timeoutMs: number; readonly signal: AbortSignal | undefined },
): Promise<{ plans: QueryPlan[]; skipped: SkippedQuery[] }> {
  const plans: QueryPlan[] = []
  const skipped: SkippedQuery[] = []
  for (const query of queries) {
    try {
      plans.push(await explain(database, query, options))
    } catch (error) {
      options.signal?.throwIfAborted()
      skipped.push({ text: query.text, reason: (error as Error).message })
    }
  }
  return { plans, skipped }
}

function report(
  catalog: Catalog,
  scans: readonly ScanOfTable[],
  columns: readonly CatalogColumn[],
  skipped: readonly SkippedQuery[],
  settings: Settings,
): IndexReport {
  const filters = suggestForFilters(scans, catalog, columns, settings)
  const told = new Set(filters.map(({ schema, table }) => `${schema}.${table}`))
  const review = reviewCatalog(catalog, settings.minTableRows, settings.unusedAfterMs)
  // An index that a filter asks for, with the columns of a foreign key in front, does for both.
  const left = review.filter(
    (one) =>
      one.kind !== 'foreign-key' ||
      !filters.some(
        ({ schema, table, columns: wanted }) =>
          schema === one.schema &&
          table === one.table &&
          one.columns.every((column) => wanted.slice(0, one.columns.length).includes(column)),
      ),
  )
  return {
    suggestions: [...filters, ...suggestForTables(catalog, told, settings), ...left],
    stale: staleTables(catalog),
    skipped,
    statsAgeMs: catalog.statsAgeMs,
  }
}

/** Changes since the last ANALYZE that make a table another one. */
const manyChanges = 0.5
const someChanges = 1000

function staleTables(catalog: Catalog): StaleTable[] {
  return catalog.tables.flatMap((table): StaleTable[] => {
    const { schema, name, rows, changedRows, hasStatistics, partitioned } = table
    if (partitioned || rows === 0) return []
    const changed = changedRows > Math.max(someChanges, rows * manyChanges)
    if (hasStatistics && !changed) return []
    const reason = hasStatistics
      ? `${count(changedRows)} of about ${count(rows)} rows of ${qualified(table)} were changed since it was analyzed`
      : `${qualified(table)} has about ${count(rows)} rows and no statistics that this user may see`
    return [{ schema, table: name, reason, statement: `ANALYZE ${qualified(table)}` }]
  })
}
