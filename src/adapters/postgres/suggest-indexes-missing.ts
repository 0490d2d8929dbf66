import type { Catalog, CatalogColumn, CatalogIndex, CatalogTable } from './suggest-indexes-catalog.js'
import type { ColumnTest, FilteredScan } from './suggest-indexes-filters.js'
import { finds } from './suggest-indexes-review.js'
import { count, createIndex, type IndexSuggestion, percent, qualified } from './suggest-indexes-suggestion.js'

/** What counts as worth an index. */
export interface MissingThresholds {
  readonly minTableRows: number
  readonly minSeqScans: number
  readonly maxShare: number
}

/** A scan and the table that it was of. */
export interface ScanOfTable {
  readonly scan: FilteredScan
  readonly table: CatalogTable
}

/** More columns than that cost every write more than they save any read. */
const mostColumns = 3
/** A value that so many rows have is not worth a column. */
const commonShare = 0.5

/** Finds the tables of scans; those that aren't there, or aren't looked at, are left out. */
export function tablesOfScans(scans: readonly FilteredScan[], tables: readonly CatalogTable[]): ScanOfTable[] {
  return scans.flatMap((scan) => {
    const named = tables.filter(({ name, schema }) => name === scan.relation && (scan.schema ?? schema) === schema)
    const [table] = named
    return table !== undefined && named.length === 1 ? [{ scan, table }] : []
  })
}

/** Indexes for filters that read many rows and keep few. */
export function suggestForFilters(
  scans: readonly ScanOfTable[],
  catalog: Catalog,
  columns: readonly CatalogColumn[],
  thresholds: MissingThresholds,
): IndexSuggestion[] {
  const byId = new Map(catalog.tables.map((table) => [table.id, table]))
  const found: IndexSuggestion[] = []
  for (const { scan, table } of scans) {
    const rowsRead = scan.rowsRead ?? table.rows
    if (rowsRead < thresholds.minTableRows) continue
    const share = Math.min(1, scan.rowsKept / rowsRead)
    if (share > thresholds.maxShare) continue
    const own = columns.filter(({ tableId }) => tableId === table.id)
    const chosen = chooseColumns(scan.tests, own, table.rows)
    const numbers = chosen.map(({ column }) => column.number)
    const [first] = chosen
    if (first === undefined) continue
    const isThere = (index: CatalogIndex): boolean =>
      index.tableId === table.id && finds(index, numbers) && !(index.method === 'hash' && first.test.kind === 'range')
    if (catalog.indexes.some(isThere)) continue
    // Whoever makes an index of one partition leaves out the others.
    const target = byId.get(table.rootId) ?? table
    const names = chosen.map(({ column }) => column.name)
    found.push({
      kind: 'filter',
      schema: target.schema,
      table: target.name,
      columns: names,
      index: undefined,
      reason: reasonOf(scan, table, rowsRead, chosen, target),
      statement: createIndex(target, names),
      confidence: confidenceOf(scan, share, first.column, table),
      rowsSpared: Math.round(rowsRead - scan.rowsKept),
      bytesFreed: undefined,
    })
  }
  return withoutPrefixes(found)
}

/** Tables that are often read from end to end, and of which nothing says why. */
export function suggestForTables(
  catalog: Catalog,
  told: ReadonlySet<string>,
  { minTableRows, minSeqScans }: MissingThresholds,
): IndexSuggestion[] {
  return catalog.tables.flatMap((table): IndexSuggestion[] => {
    const { seqScans, seqRows, schema, name } = table
    const rowsPerScan = seqScans === 0 ? 0 : seqRows / seqScans
    if (seqScans < minSeqScans || rowsPerScan < minTableRows || told.has(`${schema}.${name}`)) return []
    return [
      {
        kind: 'scanned-table',
        schema,
        table: name,
        columns: [],
        index: undefined,
        reason: `${qualified(table)} was read from end to end ${count(seqScans)} times, ${count(rowsPerScan)} rows each time: the plans of its slow statements say by which columns an index would help`,
        statement: undefined,
        confidence: 0.3,
        rowsSpared: Math.round(rowsPerScan),
        bytesFreed: undefined,
      },
    ]
  })
}

/** A column that is tested, with the share of the rows that its test lets pass. */
interface ChosenColumn {
  readonly column: CatalogColumn
  readonly test: ColumnTest
  readonly share: number
}

/**
 * The columns in the order of the index: those that equal something first, the most selective of them at the front, then one that lies
 * in a range: behind it the index isn't in order any more.
 */
function chooseColumns(tests: readonly ColumnTest[], columns: readonly CatalogColumn[], rows: number): ChosenColumn[] {
  const usable = tests.flatMap((test): ChosenColumn[] => {
    const column = columns.find(({ name }) => name === test.column)
    return column?.ordered && castIsHarmless(test, column) ? [{ column, test, share: shareOf(test, column, rows) }] : []
  })
  const equal = usable
    .filter(({ test }) => test.kind !== 'range')
    .sort((a, b) => a.share - b.share)
    .filter(({ column }, at, all) => all.findIndex((other) => other.column === column) === at)
  const range = usable
    .filter(({ test, column }) => test.kind === 'range' && !equal.some((other) => other.column === column))
    .sort((a, b) => distinctOf(b.column, rows) - distinctOf(a.column, rows))[0]
  const [first] = equal
  const leading = equal.filter(({ share }) => share <= commonShare)
  if (leading.length === 0 && range === undefined) return first === undefined ? [] : [first]
  return [...leading.slice(0, mostColumns - (range === undefined ? 0 : 1)), ...(range === undefined ? [] : [range])]
}

/** What `varchar` is compared as is no conversion. */
function castIsHarmless({ cast }: ColumnTest, { type }: CatalogColumn): boolean {
  return cast === undefined || (cast === 'text' && type === 'varchar')
}

/** The share of the rows that a test lets pass, as the planner reckons it; a third for a range, of which only the whole plan says more. */
function shareOf({ kind, literal, values }: ColumnTest, column: CatalogColumn, rows: number): number {
  const nulls = column.nullShare ?? 0
  if (kind === 'null') return nulls
  if (kind === 'range') return 1 / 3
  const common = column.commonValues ?? []
  const shares = column.commonShares ?? []
  const distinct = distinctOf(column, rows)
  if (literal === undefined) return Math.min(1, (values * (1 - nulls)) / distinct)
  const at = common.indexOf(literal)
  if (at >= 0) return shares[at] ?? 0
  const rest = 1 - nulls - shares.reduce((sum, share) => sum + share, 0)
  return Math.max(0, rest) / Math.max(1, distinct - common.length)
}

/** How many values a column has; 200, as the planner has it, where nobody has counted. */
function distinctOf({ distinct }: CatalogColumn, rows: number): number {
  if (distinct === null || distinct === 0) return Math.max(1, Math.min(200, rows))
  return Math.max(1, distinct < 0 ? -distinct * rows : distinct)
}

function confidenceOf(scan: FilteredScan, share: number, first: CatalogColumn, table: CatalogTable): number {
  const basis = scan.rowsRead !== undefined ? 0.9 : !table.hasStatistics ? 0.3 : scan.generic ? 0.5 : 0.7
  // Many rows that lie all over the table are many pages: then reading it from end to end may stay cheaper.
  const scattered = share > 0.02 && Math.abs(first.correlation ?? 0) < 0.5
  return scattered ? Math.round(basis * 70) / 100 : basis
}

function reasonOf(
  scan: FilteredScan,
  table: CatalogTable,
  rowsRead: number,
  chosen: readonly ChosenColumn[],
  target: CatalogTable,
): string {
  const how = scan.rowsRead === undefined ? 'is expected to keep' : 'kept'
  const shares = chosen.map(({ column, test, share }) =>
    test.kind === 'range' ? `${column.name} lies in a range` : `${column.name} alone keeps ${percent(share)}`,
  )
  const reason = `a scan of all ${count(rowsRead)} rows of ${qualified(table)} ${how} ${count(scan.rowsKept)} of them by ${scan.filter}; ${shares.join(', ')}`
  const guess = table.hasStatistics ? '' : '; there are no statistics of this table, so these are guesses'
  return `${reason}${guess}${target.partitioned ? '; on a partitioned table it is made with writers waiting' : ''}`
}

/** An index whose columns another one begins with is that other one. The best of each stays. */
function withoutPrefixes(suggestions: readonly IndexSuggestion[]): IndexSuggestion[] {
  const sorted = [...suggestions].sort(
    (a, b) =>
      b.columns.length - a.columns.length || b.confidence - a.confidence || (b.rowsSpared ?? 0) - (a.rowsSpared ?? 0),
  )
  const kept: IndexSuggestion[] = []
  for (const one of sorted) {
    const covered = kept.some(
      ({ schema, table, columns }) =>
        schema === one.schema && table === one.table && one.columns.every((column, at) => columns[at] === column),
    )
    if (!covered) kept.push(one)
  }
  return kept.sort((a, b) => b.confidence - a.confidence || (b.rowsSpared ?? 0) - (a.rowsSpared ?? 0))
}
