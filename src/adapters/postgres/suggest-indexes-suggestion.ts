import { quoteName } from './table-name.js'

/** What a suggestion is about. */
export type IndexSuggestionKind = 'filter' | 'scanned-table' | 'foreign-key' | 'duplicate' | 'unused' | 'invalid'

/** An index to make or to drop. Nothing was done. */
export interface IndexSuggestion {
  /**
   * `'filter'`: a filter reads many rows and keeps few. `'scanned-table'`: a table is often read from end to end, and no statement at hand
   * says why. `'foreign-key'`: nothing finds the rows that reference another. `'duplicate'`: another index does its work. `'unused'`: it was
   * never read. `'invalid'`: it was never finished.
   */
  readonly kind: IndexSuggestionKind
  /** The table's schema. */
  readonly schema: string
  /** The table. */
  readonly table: string
  /** The columns of an index to make, in their order; empty where nobody knows which. */
  readonly columns: readonly string[]
  /** The index to drop; undefined for one to make. */
  readonly index: string | undefined
  /** Why, with the numbers. */
  readonly reason: string
  /** What to run, outside of a transaction; undefined where nobody knows which columns. */
  readonly statement: string | undefined
  /** How sure it is, from 0 to 1: measured, planned with statistics, or guessed. */
  readonly confidence: number
  /** The rows that one scan wouldn't have to read any more; undefined where that isn't what it saves. */
  readonly rowsSpared: number | undefined
  /** The disk that dropping it frees, in bytes; undefined for an index to make. */
  readonly bytesFreed: number | undefined
}

/** The statement that makes an index. A partitioned table takes it only with its writers waiting. */
export function createIndex(
  table: { readonly schema: string; readonly name: string; readonly partitioned: boolean },
  columns: readonly string[],
): string {
  const how = table.partitioned ? '' : ' CONCURRENTLY'
  return `CREATE INDEX${how} ON ${qualified(table)} (${columns.map(quoteName).join(', ')})`
}

/** The statement that drops an index. */
export function dropIndex(index: { readonly schema: string; readonly name: string }): string {
  return `DROP INDEX CONCURRENTLY ${qualified(index)}`
}

/** A name with its schema, quoted. */
export function qualified({ schema, name }: { readonly schema: string; readonly name: string }): string {
  return `${quoteName(schema)}.${quoteName(name)}`
}

/** A count for people: `1,234,567`. */
export function count(amount: number): string {
  return String(Math.round(amount)).replaceAll(/\B(?=(?:\d{3})+$)/g, ',')
}

/** A share for people: `0.25 %`. */
export function percent(share: number): string {
  return `${Number((share * 100).toPrecision(2))} %`
}
