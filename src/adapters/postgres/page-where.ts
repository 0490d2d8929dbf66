import { failOption } from '../../core/options.js'
import { isStorable } from '../../internal/storable.js'
import type { RelationColumn } from './relation.js'
import { checkName, quoteName } from './table-name.js'

/**
 * A value that columns are compared with. It is always a parameter, and is cast to the column's type: a text may stand for any type. A
 * `Date` is the moment for a `timestamptz`, and the local time for a `timestamp` or a `date`, as `pg` has it; a `Uint8Array` is a `bytea`.
 */
export type PageValue = string | number | bigint | boolean | Date | Uint8Array

/** Comparisons with one column, all of which must hold. As in SQL, a NULL in the column fulfils none but `eq: null`: not `ne: 1` either. */
export interface PageOperators {
  /** Equal; `null` is IS NULL. */
  eq?: PageValue | null
  /** Not equal; `null` is IS NOT NULL. */
  ne?: PageValue | null
  /** Greater. */
  gt?: PageValue
  /** Greater or equal. */
  gte?: PageValue
  /** Less. */
  lt?: PageValue
  /** Less or equal. */
  lte?: PageValue
  /** Equal to one of these; of none, nothing is. */
  in?: readonly PageValue[]
  /** Equal to none of these. */
  notIn?: readonly PageValue[]
  /** SQL's LIKE, with `%`, `_` and `\` as they are. */
  like?: string
  /** SQL's NOT LIKE. */
  notLike?: string
  /** A text that begins so, literally. An index helps under the collation "C", or with `text_pattern_ops`. */
  startsWith?: string
}

/** What one column must be: a value, `null` for NULL, an array for one of its values, or comparisons. */
export type PageCondition = PageValue | null | readonly PageValue[] | PageOperators

/** What the rows of a listing must be: columns and their conditions, all of which hold. Only own properties count. */
export type PageWhere = Readonly<Record<string, PageCondition>>

/** One comparison of a column, checked. */
export interface Comparison {
  readonly column: string
  readonly operator: keyof PageOperators
  readonly value: PageValue | null | readonly PageValue[]
}

const comparisons = { eq: '=', ne: '<>', gt: '>', gte: '>=', lt: '<', lte: '<=' } as const
const patterns = { like: 'LIKE', notLike: 'NOT LIKE', startsWith: 'LIKE' } as const
const lists = { in: '= ANY', notIn: '<> ALL' } as const

/** Checks a condition and takes what it says now. */
export function readWhere(where: PageWhere | undefined): readonly Comparison[] {
  if (where === undefined) return []
  if (!isPlain(where)) failOption('where', 'must be an object of columns', where)
  const read: Comparison[] = []
  for (const column of Object.keys(where).sort()) {
    const field = `where.${checkName('where', column)}`
    const condition: unknown = where[column]
    if (Array.isArray(condition)) read.push(readComparison(field, column, 'in', condition))
    else if (!isPlain(condition)) read.push(readComparison(field, column, 'eq', condition))
    else {
      const operators = Object.keys(condition).sort()
      if (operators.length === 0) failOption(field, 'must be a value or have an operator', condition)
      for (const operator of operators) {
        read.push(readComparison(`${field}.${operator}`, column, operator, condition[operator]))
      }
    }
  }
  return read
}

/** The columns that have one value, which isn't NULL, in all rows that fulfil these. */
export function fixedColumns(where: readonly Comparison[]): ReadonlySet<string> {
  return new Set(where.filter(({ operator, value }) => operator === 'eq' && value !== null).map(({ column }) => column))
}

/** A condition in a form that is the same however it was written, to tell listings apart. */
export function canonicalWhere(where: readonly Comparison[]): unknown {
  const text = (value: PageValue): string => (value instanceof Date ? value.toISOString() : textOf(value))
  return where.map(({ column, operator, value }) => [
    column,
    operator,
    Array.isArray(value) ? value.map(text).sort() : value === null ? null : text(value as PageValue),
  ])
}

/**
 * A comparison as SQL.
 *
 * @param bind - makes a text or a list of texts a parameter, and answers its placeholder.
 */
export function comparisonText(
  { operator, value }: Comparison,
  { name, type }: RelationColumn,
  bind: (value: string | readonly string[]) => string,
): string {
  const column = `t.${quoteName(name)}`
  if (value === null) return `${column} IS ${operator === 'eq' ? '' : 'NOT '}NULL`
  if (isOneOf(operator, lists)) {
    const texts = `${bind((value as readonly PageValue[]).map(textOf))}::text[]`
    // An array of arrays would be one of more dimensions.
    const list = type.endsWith('[]') ? `SELECT u.v::${type} FROM unnest(${texts}) AS u(v)` : `${texts}::${type}[]`
    return `${column} ${lists[operator]} (${list})`
  }
  if (isOneOf(operator, patterns)) {
    const pattern = operator === 'startsWith' ? `${String(value).replace(/[\\%_]/g, '\\$&')}%` : String(value)
    return `${column} ${patterns[operator]} ${bind(pattern)}::text`
  }
  return `${column} ${comparisons[operator]} ${bind(textOf(value as PageValue))}::text::${type}`
}

function readComparison(field: string, column: string, operator: string, given: unknown): Comparison {
  if (isOneOf(operator, lists)) {
    if (!Array.isArray(given)) failOption(field, 'must be an array of values', given)
    return { column, operator, value: given.map((value, index) => readValue(`${field}[${index}]`, value)) }
  }
  if (isOneOf(operator, patterns)) {
    if (!isStorable(given)) failOption(field, 'must be a text without NUL and half surrogate pairs', given)
    return { column, operator, value: given }
  }
  if (!isOneOf(operator, comparisons)) {
    const known = Object.keys({ ...comparisons, ...lists, ...patterns }).join(', ')
    failOption(field, `is no operator; there are ${known}`, given)
  }
  const nullable = operator === 'eq' || operator === 'ne'
  return { column, operator, value: given === null && nullable ? null : readValue(field, given) }
}

/**
 * Checks one value. `undefined` isn't taken for no condition: a forgotten tenant must not list all tenants. Nor is NaN a number: it is what
 * becomes of a text that was none.
 */
function readValue(field: string, value: unknown): PageValue {
  if (typeof value === 'bigint' || typeof value === 'boolean') return value
  if (typeof value === 'string') {
    if (!isStorable(value)) failOption(field, 'must be without NUL and half surrogate pairs', value)
    return value
  }
  if (typeof value === 'number') {
    if (Number.isNaN(value)) failOption(field, "must be a number; the text 'NaN' stands for a float's NaN", value)
    return value
  }
  if (value instanceof Date) {
    if (Number.isNaN(value.getTime())) failOption(field, 'must be a valid Date', value)
    return new Date(value)
  }
  // A copy: `slice` of a Buffer is none.
  if (value instanceof Uint8Array) return new Uint8Array(value)
  failOption(field, 'must be a string, number, bigint, boolean, Date or Uint8Array', value)
}

/** A value as a text that its column's type reads. */
function textOf(value: PageValue): string {
  if (value instanceof Date) return dateText(value)
  if (value instanceof Uint8Array) return `\\x${Buffer.from(value).toString('hex')}`
  return String(value)
}

/**
 * The local time with its offset: what has a time zone, be it a domain's, reads the moment, and what has none leaves the offset out. Years
 * are written as PostgreSQL has them, which knows neither a sign nor a year 0.
 */
function dateText(date: Date): string {
  const pad = (part: number, length = 2): string => String(part).padStart(length, '0')
  const colons = (parts: readonly number[]): string => parts.map((part) => pad(part)).join(':')
  const year = date.getFullYear()
  const day = `${pad(year > 0 ? year : 1 - year, 4)}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`
  const time = `${colons([date.getHours(), date.getMinutes(), date.getSeconds()])}.${pad(date.getMilliseconds(), 3)}`
  const offset = offsetSeconds(date)
  const ahead = Math.abs(offset)
  const zone = colons([Math.trunc(ahead / 3600), Math.trunc(ahead / 60) % 60, ahead % 60])
  return `${day}T${time}${offset < 0 ? '-' : '+'}${zone}${year > 0 ? '' : ' BC'}`
}

/** How far the local time is ahead of UTC. Zones once had seconds in it, which `getTimezoneOffset` leaves out. */
function offsetSeconds(date: Date): number {
  const hours = date.getHours() - date.getUTCHours()
  const minutes = date.getMinutes() - date.getUTCMinutes()
  const days = date.getDate() === date.getUTCDate() ? 0 : date.getTimezoneOffset() < 0 ? 1 : -1
  return ((days * 24 + hours) * 60 + minutes) * 60 + date.getSeconds() - date.getUTCSeconds()
}

function isOneOf<T extends object>(operator: string, table: T): operator is keyof T & string {
  return Object.hasOwn(table, operator)
}

/** An object of no class, of this realm or another one. */
function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}
