import type { PlanNode } from './explain-node.js'
import type { QueryPlan } from './query-plan.js'

/** What a filter asks of one column: that it equals one value, one of several, or nothing at all, or that it lies on one side. */
export interface ColumnTest {
  readonly column: string
  readonly kind: 'equal' | 'any' | 'null' | 'range'
  /** The type that the column is cast to, where it is: the index may not be good for it then. */
  readonly cast: string | undefined
  /** The value as text, where it is known. */
  readonly literal: string | undefined
  /** How many values, for `any`. */
  readonly values: number
}

/** A table that was read from end to end, and what its rows were tested by. */
export interface FilteredScan {
  readonly schema: string | undefined
  readonly relation: string
  /** Those of the tests that an index on columns could do. */
  readonly tests: readonly ColumnTest[]
  /** The filter as the server writes it. */
  readonly filter: string
  /** How many rows passed it, of one scan. */
  readonly rowsKept: number
  /** How many rows were read, of one scan; undefined where it was only planned. */
  readonly rowsRead: number | undefined
  /** Whether the plan is one for any values. */
  readonly generic: boolean
}

/** The sequential scans of a plan that a filter threw rows away in. */
export function filteredScans(plan: QueryPlan): FilteredScan[] {
  const found: FilteredScan[] = []
  const walk = (node: PlanNode, workers: number): void => {
    const below = node.type.startsWith('Gather') ? node.workersPlanned : workers
    const scan = scanOf(node, workers, plan.generic)
    if (scan !== undefined) found.push(scan)
    for (const child of node.children) walk(child, below)
  }
  walk(plan.root, 0)
  return found
}

function scanOf(node: PlanNode, workers: number, generic: boolean): FilteredScan | undefined {
  const { filter } = node.conditions
  if (node.type !== 'Seq Scan' || filter === undefined || node.relation === undefined) return undefined
  const processes = node.label.startsWith('Parallel') ? processesOf(workers) : 1
  const { rows, rowsRemovedByFilter = 0, loops = 1 } = node
  const scans = Math.max(1, Math.round(loops / processes))
  return {
    schema: node.schema,
    relation: node.relation,
    tests: columnTests(filter, node.alias ?? node.relation),
    filter,
    rowsKept: rows === undefined ? node.plannedRows * processes : rows / scans,
    rowsRead: rows === undefined ? undefined : (rows + rowsRemovedByFilter) / scans,
    generic,
  }
}

/** Among how many processes the planner shares out rows: the first has less time for it, the more it has to gather. */
function processesOf(workers: number): number {
  return workers === 0 ? 1 : workers + Math.max(0, 1 - 0.3 * workers)
}

/**
 * The tests of a condition that an index on columns can do: those that all must hold, each of one column of this table against
 * something that isn't of it. It reads what `EXPLAIN (VERBOSE)` writes, and leaves alone what it doesn't know.
 */
export function columnTests(condition: string, alias: string): ColumnTest[] {
  return conjunctsOf(condition).flatMap((conjunct) => testOf(conjunct, alias) ?? [])
}

const name = String.raw`(?:"(?:[^"]|"")+"|[a-z_\u0080-\uffff][\w$\u0080-\uffff]*)`
/** `o.status`, or `(o.status)::text` where the type is cast. */
const columnPattern = String.raw`(?:\((${name})\.(${name})\)::([a-z_ ]+?)|(${name})\.(${name}))`
const comparison = new RegExp(`^${columnPattern} (=|<|<=|>|>=) (.+)$`, 's')
const reversed = new RegExp(`^(.+) (=|<|<=|>|>=) ${columnPattern}$`, 's')
const alone = new RegExp(`^(NOT )?(${name})\\.(${name})( IS TRUE| IS FALSE| IS NULL)?$`, 's')

function testOf(conjunct: string, alias: string): ColumnTest | undefined {
  const isolated = alone.exec(conjunct)
  if (isolated !== null) {
    const [, not, table, column, is] = isolated
    if (unquote(table) !== alias) return undefined
    const literal = (not === undefined) === (is !== ' IS FALSE') ? 't' : 'f'
    const kind = is === ' IS NULL' ? 'null' : 'equal'
    if (kind === 'null' && not !== undefined) return undefined
    return { column: unquote(column), kind, cast: undefined, literal: kind === 'null' ? undefined : literal, values: 1 }
  }
  const forward = comparison.exec(conjunct)
  if (forward !== null) {
    const [, castTable, castColumn, cast, table, column, operator, value] = forward
    return comparisonOf(castTable ?? table, castColumn ?? column, cast, operator, value, alias)
  }
  const backward = reversed.exec(conjunct)
  if (backward === null) return undefined
  const [, value, operator, castTable, castColumn, cast, table, column] = backward
  return comparisonOf(castTable ?? table, castColumn ?? column, cast, operator, value, alias)
}

function comparisonOf(
  table: string | undefined,
  column: string | undefined,
  cast: string | undefined,
  operator: string | undefined,
  value: string | undefined,
  alias: string,
): ColumnTest | undefined {
  if (unquote(table) !== alias || value === undefined || mentions(value, alias)) return undefined
  const any = /^ANY \((.*)\)$/s.exec(value)
  if (any !== null && operator !== '=') return undefined
  // It is worked out for each row anew, so no index is searched by it.
  if (/\((?:hashed |alternatives: )?SubPlan \d/.test(value.replaceAll(quoted, ''))) return undefined
  if (any === null && /^(?:ALL|SOME) \(/.test(value)) return undefined
  const kind = any !== null ? 'any' : operator === '=' ? 'equal' : 'range'
  return {
    column: unquote(column),
    kind,
    cast,
    literal: kind === 'equal' ? literalOf(value) : undefined,
    values: any === null ? 1 : valuesOf(any[1] ?? ''),
  }
}

const quoted = /'(?:[^']|'')*'|"(?:[^"]|"")*"/g

/** Whether an expression has a column of this table in it, outside of its literals. */
function mentions(expression: string, alias: string): boolean {
  const names = new RegExp(`'(?:[^']|'')*'|(${name})\\.${name}`, 'g')
  return [...expression.matchAll(names)].some(([, table]) => table !== undefined && unquote(table) === alias)
}

function literalOf(value: string): string | undefined {
  const quoted = /^'((?:[^']|'')*)'::/.exec(value)
  if (quoted !== null) return (quoted[1] ?? '').replaceAll("''", "'")
  return /^-?\d+(?:\.\d+)?$/.test(value) ? value : undefined
}

/** How many values a list has; ten, as the planner has it, where nobody knows. */
function valuesOf(list: string): number {
  const array = /^'\{(.*)\}'::/s.exec(list)
  if (array === null) return list.startsWith('ARRAY[') ? list.split(', ').length : 10
  return (array[1] ?? '').replaceAll(/"(?:[^"\\]|\\.)*"/g, 'x').split(',').length
}

function unquote(identifier: string | undefined): string {
  if (identifier === undefined) return ''
  return identifier.startsWith('"') ? identifier.slice(1, -1).replaceAll('""', '"') : identifier
}

/** What all must hold: `((a = 1) AND (b = 2))` is two, `((a = 1) OR (b = 2))` is one. */
function conjunctsOf(condition: string): string[] {
  const text = strip(condition)
  const parts: string[] = []
  let start = 0
  for (const at of topLevel(text)) {
    if (text.startsWith(' AND ', at)) {
      parts.push(text.slice(start, at))
      start = at + 5
    }
  }
  if (parts.length === 0) return [text]
  return [...parts, text.slice(start)].flatMap(conjunctsOf)
}

/** Without the brackets around the whole. */
function strip(text: string): string {
  let inner = text.trim()
  while (inner.startsWith('(') && endOfBracket(inner) === inner.length - 1) inner = inner.slice(1, -1)
  return inner
}

/** Where the bracket that a text begins with ends. */
function endOfBracket(text: string): number | undefined {
  const [end] = topLevel(text)
  return end
}

/** The places that are in no brackets and no quotes. */
function* topLevel(text: string): Generator<number> {
  let depth = 0
  for (let at = 0; at < text.length; at++) {
    const char = text[at]
    if (char === "'" || char === '"') {
      const escaped = char === "'" && text[at - 1] === 'E'
      at = endOfQuote(text, at, char, escaped)
      continue
    }
    if (char === '(' || char === '[') depth++
    else if (char === ')' || char === ']') depth--
    if (depth === 0) yield at
  }
}

function endOfQuote(text: string, start: number, quote: string, escaped: boolean): number {
  for (let at = start + 1; at < text.length; at++) {
    if (escaped && text[at] === '\\') at++
    else if (text[at] === quote) {
      if (text[at + 1] !== quote) return at
      at++
    }
  }
  return text.length
}
