import { OptionError } from '../../core/errors.js'
import { type KeyColumn, orderText, rangesBeyond } from './keyset-order.js'
import type { CursorPlace } from './page-cursor.js'
import { type Comparison, comparisonText } from './page-where.js'
import type { Relation, RelationColumn } from './relation.js'
import { quoteName } from './table-name.js'

/** A page as it is to be read. */
export interface PagePlan {
  /** The relation, quoted. */
  readonly from: string
  readonly relation: Relation
  /** The columns of the rows; undefined for all. */
  readonly columns: readonly string[] | undefined
  readonly where: readonly Comparison[]
  /** The order in which it is read: that of the listing, or the one from its end. */
  readonly order: readonly KeyColumn[]
  /** Where it begins; undefined for the beginning of that order. */
  readonly place: CursorPlace | undefined
  /** How many rows. */
  readonly rows: number
}

/** A statement with its values. */
export interface PageStatement {
  readonly text: string
  readonly values: unknown[]
  /** Under which name its rows have their keys, as the JSON of an array: a name that no column has. */
  readonly keys: string
}

/**
 * The statement of a page. Names come quoted, and only after the catalog was found to have them; types come from the catalog; every value is a
 * parameter. The relation's mark makes it another statement once the relation was altered: one that is prepared keeps the types of its rows.
 */
export function pageStatement(plan: PagePlan): PageStatement {
  const { from, relation, where, order, place } = plan
  const values: unknown[] = []
  const bind = (value: unknown): string => `$${values.push(value)}`
  const columns = plan.columns ?? [...relation.columns.keys()]
  for (const [index, name] of columns.entries()) columnOf(relation, `columns[${index}]`, name)
  const keyColumns = order.map(({ name }) => columnOf(relation, 'orderBy', name))
  const conditions = where.map((one) => comparisonText(one, columnOf(relation, 'where', one.column), bind))
  const ranges = place === undefined ? [] : beyond(order, place, keyColumns, relation, bind)
  const limit = bind(plan.rows)
  const keys = freeName(relation)
  const keyJson = `json_build_array(${keyColumns.map(keyText).join(', ')})::text`
  const filter = (range: string | undefined): string => {
    const all = range === undefined ? conditions : [...conditions, range]
    return all.length === 0 ? '' : ` WHERE ${all.join(' AND ')}`
  }
  const ordered = ` ORDER BY ${orderText(order, ({ name }) => `t.${quoteName(name)}`)} LIMIT ${limit}`
  const mark = ` /* ${relation.mark} */`
  if (ranges.length < 2) {
    const list = [...columns.map((name) => `t.${quoteName(name)}`), `${keyJson} AS ${quoteName(keys)}`]
    // Nothing lies beyond a last NULL.
    const range = place === undefined ? undefined : (ranges[0] ?? 'false')
    return { text: `SELECT ${list.join(', ')} FROM ${from} AS t${filter(range)}${ordered}${mark}`, values, keys }
  }
  const inner = [
    ...columns.map((name, index) => `t.${quoteName(name)} AS c${index}`),
    `${keyJson} AS k`,
    ...order.map(({ name }, index) => `t.${quoteName(name)} AS o${index}`),
  ].join(', ')
  const parts = ranges.map((range) => `(SELECT ${inner} FROM ${from} AS t${filter(range)}${ordered})`)
  const outer = [...columns.map((name, index) => `q.c${index} AS ${quoteName(name)}`), `q.k AS ${quoteName(keys)}`]
  const merged = `(${parts.join(' UNION ALL ')}) AS q ORDER BY ${orderText(order, (_, index) => `q.o${index}`)}`
  return { text: `SELECT ${outer.join(', ')} FROM ${merged} LIMIT ${limit}${mark}`, values, keys }
}

/** A statement that fails if values of a cursor are none of their columns' types, and does nothing else. */
export function placeStatement(
  order: readonly KeyColumn[],
  place: CursorPlace,
  relation: Relation,
): Pick<PageStatement, 'text' | 'values'> {
  const values: unknown[] = []
  const casts = place.keys.flatMap((key, index) => {
    const column = relation.columns.get(order[index]?.name ?? '')
    return key === null || column === undefined ? [] : [`(${cast(`$${values.push(key)}`, column)}) IS NULL`]
  })
  return { text: `SELECT ${casts.join(', ') || 'true'}`, values }
}

function beyond(
  order: readonly KeyColumn[],
  place: CursorPlace,
  columns: readonly RelationColumn[],
  relation: Relation,
  bind: (value: unknown) => string,
): readonly string[] {
  const values = place.keys.map((key, index) =>
    key === null ? undefined : cast(bind(key), columns[index] as RelationColumn),
  )
  return rangesBeyond(order, { values, inclusive: place.inclusive }, relation)
}

/** By way of a text, so that no client makes something of its own of it. */
function cast(placeholder: string, { type }: RelationColumn): string {
  return type === 'text' ? `${placeholder}::text` : `${placeholder}::text::${type}`
}

/** A key as a text that its type reads back as the same value. JSON has dates in one form, whatever the session's `DateStyle`. */
function keyText({ name, dated }: RelationColumn): string {
  const column = `t.${quoteName(name)}`
  return dated ? `to_json(${column}) #>> '{}'` : `${column}::text`
}

function columnOf(relation: Relation, field: string, name: string): RelationColumn {
  const column = relation.columns.get(name)
  if (column === undefined) throw new OptionError(field, `${field} has a column that isn't there: ${quoteName(name)}`)
  return column
}

function freeName(relation: Relation): string {
  let name = 'spillway_keys'
  while (relation.columns.has(name)) name += '_'
  return name
}
