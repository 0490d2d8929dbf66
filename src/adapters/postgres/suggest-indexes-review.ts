import type { Catalog, CatalogForeignKey, CatalogIndex, CatalogTable } from './suggest-indexes-catalog.js'
import { count, createIndex, dropIndex, type IndexSuggestion, qualified } from './suggest-indexes-suggestion.js'

/** Whether an index finds rows by these columns, all of them and in whatever order: it is of use for all rows, and begins with them. */
export function finds(index: CatalogIndex, columns: readonly number[]): boolean {
  if (!index.valid || index.predicate !== null) return false
  if (index.method !== 'btree' && !(index.method === 'hash' && columns.length === 1)) return false
  const leading = index.columns.slice(0, Math.min(index.keyCount, columns.length))
  return leading.length === columns.length && columns.every((column) => leading.includes(column))
}

/** What the catalog alone says: of foreign keys without an index, and of indexes that aren't worth their keep. */
export function reviewCatalog(catalog: Catalog, minTableRows: number, unusedAfterMs: number): IndexSuggestion[] {
  const tables = new Map(catalog.tables.map((table) => [table.id, table]))
  const duplicates = duplicatesOf(catalog.indexes)
  const suggestions: IndexSuggestion[] = []
  const add = (index: CatalogIndex, kind: IndexSuggestion['kind'], confidence: number, reason: string): void => {
    const table = tables.get(index.tableId)
    if (table === undefined) return
    suggestions.push({
      kind,
      schema: table.schema,
      table: table.name,
      columns: [],
      index: index.name,
      reason,
      statement: dropIndex(index),
      confidence,
      rowsSpared: undefined,
      bytesFreed: index.bytes,
    })
  }
  for (const key of catalog.foreignKeys) {
    const suggestion = foreignKeyOf(key, tables.get(key.tableId), catalog.indexes, minTableRows)
    if (suggestion !== undefined) suggestions.push(suggestion)
  }
  for (const index of catalog.indexes) {
    if (index.partitioned) continue
    const other = duplicates.get(index)
    const scans = `${count(index.scans)} scans in ${days(catalog.statsAgeMs)}`
    if (!index.valid) {
      if (index.building) continue
      add(
        index,
        'invalid',
        0.9,
        `${qualified(index)} was never finished: it is kept up to date and never read. REINDEX INDEX CONCURRENTLY builds it anew, if it is wanted`,
      )
    } else if (other !== undefined) {
      add(
        index,
        'duplicate',
        0.95,
        `${qualified(other)} finds all that ${qualified(index)} does (${count(index.bytes)} bytes, ${scans})`,
      )
    } else if (isUnused(index, catalog.foreignKeys) && catalog.statsAgeMs >= unusedAfterMs) {
      add(index, 'unused', 0.6, `${qualified(index)} takes ${count(index.bytes)} bytes and had ${scans} on this server`)
    }
  }
  return suggestions
}

function foreignKeyOf(
  key: CatalogForeignKey,
  table: CatalogTable | undefined,
  indexes: readonly CatalogIndex[],
  minTableRows: number,
): IndexSuggestion | undefined {
  if (table === undefined || table.rows < minTableRows) return undefined
  if (indexes.some((index) => index.tableId === key.tableId && finds(index, key.columns))) return undefined
  return {
    kind: 'foreign-key',
    schema: table.schema,
    table: table.name,
    columns: key.columnNames,
    index: undefined,
    reason: `${key.name} references ${key.referenced}, and no index begins with its columns: whoever deletes a row there, or changes its key, reads all ${count(table.rows)} rows of ${qualified(table)}`,
    statement: createIndex(table, key.columnNames),
    confidence: 0.8,
    rowsSpared: table.rows,
    bytesFreed: undefined,
  }
}

/** Never read, and there for nothing but to be read. One that finds the rows of a foreign key would be suggested again at once. */
function isUnused(index: CatalogIndex, foreignKeys: readonly CatalogForeignKey[]): boolean {
  if (index.scans > 0 || index.unique || index.needed) return false
  return !foreignKeys.some(({ tableId, columns }) => tableId === index.tableId && finds(index, columns))
}

/** Indexes whose work another one does, each with that one. Of equals, one stays. */
function duplicatesOf(indexes: readonly CatalogIndex[]): Map<CatalogIndex, CatalogIndex> {
  const duplicates = new Map<CatalogIndex, CatalogIndex>()
  // The newest goes first, so that of equals the oldest stays.
  for (const index of [...indexes].reverse()) {
    if (index.unique || index.needed || !index.valid || index.partitioned) continue
    const other = indexes.find((one) => one !== index && !duplicates.has(one) && doesTheWorkOf(one, index))
    if (other !== undefined) duplicates.set(index, other)
  }
  return duplicates
}

function doesTheWorkOf(one: CatalogIndex, other: CatalogIndex): boolean {
  if (one.tableId !== other.tableId || one.method !== other.method || !one.valid) return false
  if (one.predicate !== other.predicate || one.expressions !== other.expressions) return false
  // Of other methods, and with expressions, only the same is the same.
  const prefix = one.method === 'btree' && one.expressions === null
  if (prefix ? one.keyCount < other.keyCount : one.keyCount !== other.keyCount) return false
  for (let key = 0; key < other.keyCount; key++) {
    if (one.columns[key] !== other.columns[key] || one.ordering[key] !== other.ordering[key]) return false
  }
  return other.columns.slice(other.keyCount).every((column) => one.columns.includes(column))
}

function days(ms: number): string {
  const whole = Math.floor(ms / 86_400_000)
  return whole === 1 ? '1 day' : whole > 0 ? `${whole} days` : 'less than a day'
}
