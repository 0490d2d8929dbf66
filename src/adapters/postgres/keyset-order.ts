import { checkOneOf, failOption } from '../../core/options.js'
import type { Relation } from './relation.js'
import { checkName, quoteName } from './table-name.js'

/** One column of the order of a listing. */
export interface OrderColumn {
  /** The column; not its expression. */
  column: string
  /** Which way. The default is `'asc'`. */
  direction?: 'asc' | 'desc' | undefined
  /** Where NULLs stand. The default is PostgreSQL's own, and that of a plain index: last in `'asc'`, first in `'desc'`. */
  nulls?: 'first' | 'last' | undefined
}

/** A column of an order with all that it leaves open decided. */
export interface KeyColumn {
  readonly name: string
  readonly descending: boolean
  readonly nullsFirst: boolean
}

/** The most columns that an order has. */
const maxColumns = 8

/** Checks an order. */
export function resolveOrder(orderBy: readonly (string | OrderColumn)[]): readonly KeyColumn[] {
  if (!Array.isArray(orderBy) || orderBy.length < 1 || orderBy.length > maxColumns) {
    failOption('orderBy', `must be an array of 1 to ${maxColumns} columns`, orderBy)
  }
  const order = orderBy.map((given: string | OrderColumn, index): KeyColumn => {
    const field = `orderBy[${index}]`
    if (typeof given === 'string') return { name: checkName(field, given), descending: false, nullsFirst: false }
    if (typeof given !== 'object' || given === null) failOption(field, 'must be a column', given)
    const { column, direction = 'asc', nulls } = given
    const descending = checkOneOf(`${field}.direction`, direction, ['asc', 'desc']) === 'desc'
    const nullsFirst =
      nulls === undefined ? descending : checkOneOf(`${field}.nulls`, nulls, ['first', 'last']) === 'first'
    return { name: checkName(`${field}.column`, column), descending, nullsFirst }
  })
  if (new Set(order.map(({ name }) => name)).size < order.length) {
    failOption('orderBy', 'must have each column once', orderBy)
  }
  return order
}

/** The order of a listing that is read from its end. */
export function turnedOrder(order: readonly KeyColumn[]): readonly KeyColumn[] {
  return order.map(({ name, descending, nullsFirst }) => {
    return { name, descending: !descending, nullsFirst: !nullsFirst }
  })
}

/** What stands behind ORDER BY. */
export function orderText(order: readonly KeyColumn[], nameOf: (column: KeyColumn, place: number) => string): string {
  const direction = ({ descending, nullsFirst }: KeyColumn): string => {
    const nulls = nullsFirst === descending ? '' : nullsFirst ? ' NULLS FIRST' : ' NULLS LAST'
    return `${descending ? ' DESC' : ''}${nulls}`
  }
  return order.map((column, place) => nameOf(column, place) + direction(column)).join(', ')
}

/** Where a page begins: behind a row, or with it. */
export interface KeysetEdge {
  /** The row's values in the columns of the order, as placeholders; undefined for NULL. */
  readonly values: readonly (string | undefined)[]
  readonly inclusive: boolean
}

/**
 * What lies beyond an edge, as conditions whose rows follow each other in the order: each is one range of an index on the columns of the
 * order, so that reading from the edge on costs the same wherever it lies. For `a, b, c` that is
 *
 *     a = $1 AND b = $2 AND c > $3  |  a = $1 AND b > $2  |  a > $1  |  a IS NULL
 *
 * and, where columns go the same way and no NULL lies ahead in them, one row comparison, which PostgreSQL reads as one range too:
 *
 *     (a, b, c) > ($1, $2, $3)
 */
export function rangesBeyond(order: readonly KeyColumn[], edge: KeysetEdge, relation: Relation): readonly string[] {
  const { values, inclusive } = edge
  const names = order.map(({ name }) => `t.${quoteName(name)}`)
  const equal = names.map((name, place) => {
    const value = values[place]
    return value === undefined ? `${name} IS NULL` : `${name} = ${value}`
  })
  const nullsAhead = ({ name, nullsFirst }: KeyColumn): boolean => !nullsFirst && !relation.columns.get(name)?.required
  const ranges: string[] = []
  const add = (ties: number, condition: string): void => {
    ranges.push([...equal.slice(0, ties), condition].join(' AND '))
  }
  // A row comparison takes NULL for unknown and leaves such rows out, which is right where they lie behind the edge.
  const comparable = order.map((column, place) => values[place] !== undefined && !nullsAhead(column))
  const last = order.length - 1
  const withEdge = inclusive && comparable[last]
  if (inclusive && !withEdge) ranges.push(equal.join(' AND '))
  for (let end = last; end >= 0; end--) {
    const column = order[end] as KeyColumn
    let begin = end
    if (comparable[end]) {
      while (comparable[begin - 1] && order[begin - 1]?.descending === column.descending) begin--
    }
    const operator = `${column.descending ? '<' : '>'}${withEdge && end === last ? '=' : ''}`
    if (begin < end) {
      add(begin, `(${names.slice(begin, end + 1).join(', ')}) ${operator} (${values.slice(begin, end + 1).join(', ')})`)
    } else if (values[end] !== undefined) {
      add(end, `${names[end]} ${operator} ${values[end]}`)
      if (nullsAhead(column)) add(end, `${names[end]} IS NULL`)
    } else if (column.nullsFirst) {
      add(end, `${names[end]} IS NOT NULL`)
    }
    end = begin
  }
  return ranges
}
