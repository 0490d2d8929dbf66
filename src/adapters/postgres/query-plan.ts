import { failOption } from '../../core/options.js'
import type { PlanBuffers, PlanConditions, PlanNode, PlanSort } from './explain-node.js'
import { shareOut } from './explain-shares.js'
import { findWorst, type WorstNodes } from './explain-worst.js'

/** A trigger that the statement set off. */
export interface PlanTrigger {
  /** Its name, or that of its constraint. */
  readonly name: string
  /** Its table. */
  readonly relation: string | undefined
  /** How often it was called. */
  readonly calls: number
  /** How long all calls took, in milliseconds; undefined without timing. */
  readonly timeMs: number | undefined
}

/** How PostgreSQL runs, or would run, a statement. It is plain data. */
export interface QueryPlan {
  /** Whether the statement was run. */
  readonly analyzed: boolean
  /** Whether it is the plan for any values, because none were given. */
  readonly generic: boolean
  /** The topmost node. */
  readonly root: PlanNode
  /** The planner's cost of the whole. */
  readonly totalCost: number
  /** How long planning took, in milliseconds. */
  readonly planningMs: number | undefined
  /** How long running took, triggers included, in milliseconds. */
  readonly executionMs: number | undefined
  /** The triggers that ran. */
  readonly triggers: readonly PlanTrigger[]
  /** The planner's settings that aren't the server's defaults. */
  readonly settings: Readonly<Record<string, string>>
  /** The nodes to look at first. */
  readonly worst: WorstNodes
}

/**
 * All nodes of a plan, in the order of their ids.
 *
 * @throws OptionError when it isn't a plan of `explain` or `readPlan`: what `EXPLAIN` answers goes through `readPlan` first.
 */
export function planNodes(plan: QueryPlan): PlanNode[] {
  if (!Array.isArray(plan?.root?.children)) failOption('plan', 'must be a plan of explain or readPlan', plan)
  const nodes: PlanNode[] = []
  const walk = (node: PlanNode): void => {
    nodes.push(node)
    for (const child of node.children) walk(child)
  }
  walk(plan.root)
  return nodes
}

/**
 * Reads what `EXPLAIN (FORMAT JSON)` answered, with or without `ANALYZE`, `BUFFERS` and `VERBOSE`: also what `auto_explain` wrote into
 * a log.
 *
 * @param json - the JSON as text or as it was parsed: the array with the plan in it, or the plan alone.
 * @throws OptionError when it is no such answer.
 */
export function readPlan(json: unknown): QueryPlan {
  return readExplained(json, false)
}

/** The same, for a plan of which it is known whether it is generic. */
export function readExplained(json: unknown, generic: boolean): QueryPlan {
  const parsed = typeof json === 'string' ? parse(json) : json
  const top: unknown = Array.isArray(parsed) ? parsed[0] : parsed
  if (!isRaw(top) || !isRaw(top['Plan'])) failOption('json', 'must be what EXPLAIN (FORMAT JSON) answers', json)
  // auto_explain logs the statement's duration elsewhere, so a plan that ran is known by its nodes.
  const analyzed = top['Plan']['Actual Loops'] !== undefined
  const root = readNode(top['Plan'], analyzed)
  const settings = { ...(top['Settings'] as Record<string, string> | undefined) }
  // Ours, to get a generic plan.
  if (generic) delete settings['plan_cache_mode']
  return {
    analyzed,
    generic,
    root,
    totalCost: root.totalCost,
    planningMs: numberOf(top['Planning Time']),
    executionMs: numberOf(top['Execution Time']),
    triggers: rawsOf(top['Triggers']).map((trigger) => ({
      name: String(trigger['Trigger Name'] ?? trigger['Constraint Name'] ?? ''),
      relation: textOf(trigger['Relation']),
      calls: numberOf(trigger['Calls']) ?? 0,
      timeMs: numberOf(trigger['Time']),
    })),
    settings,
    worst: findWorst(root),
  }
}

/** A node as it comes from the server: names with spaces. */
type Raw = Record<string, unknown>
type Writable<T> = { -readonly [Key in keyof T]: T[Key] }

/** What a node's place in the tree says of it. */
interface Place {
  /** How many processes run it, so that its times are those of one of them. */
  readonly processes: number
  readonly mayStopEarly: boolean
}

/** Nodes that read all of their input before they give the first row: what is above can't stop what is below. */
const blocking: ReadonlySet<unknown> = new Set(['Sort', 'Hash', 'Aggregate', 'ModifyTable', 'Bitmap Index Scan'])
/** The server doesn't count their rows. */
const uncounted: ReadonlySet<unknown> = new Set(['BitmapAnd', 'BitmapOr'])
const pageBytes = 8192

function readNode(raw: Raw, analyzed: boolean): PlanNode {
  let nextId = 0
  const read = (node: Raw, place: Place): PlanNode => {
    const made = nodeOf(node, nextId++, place, analyzed)
    const children = rawsOf(node['Plans']).map((child) => read(child, placeBelow(node, child, place)))
    made.children = children
    made.spilledBytes = spilled(node, made, children)
    return made
  }
  const root = read(raw, { processes: 1, mayStopEarly: false })
  shareOut(root)
  return root
}

function placeBelow(parent: Raw, child: Raw, place: Place): Place {
  const type = parent['Node Type']
  const gathers = type === 'Gather' || type === 'Gather Merge'
  const loops = numberOf(parent['Actual Loops']) ?? 0
  const childLoops = numberOf(child['Actual Loops']) ?? 0
  // A process that helps runs the node once each time that the Gather runs.
  const processes = gathers && loops > 0 && childLoops > loops ? childLoops / loops : 1
  const inner = child['Parent Relationship'] === 'Inner'
  const stops =
    type === 'Limit' ||
    type === 'Merge Join' ||
    (inner && (parent['Inner Unique'] === true || ['Semi', 'Anti'].includes(String(parent['Join Type'])))) ||
    child['Parent Relationship'] === 'SubPlan' ||
    child['Parent Relationship'] === 'InitPlan'
  return {
    processes: place.processes * processes,
    mayStopEarly: stops || (place.mayStopEarly && !(blocking.has(type) && parent['Strategy'] !== 'Sorted')),
  }
}

function nodeOf(raw: Raw, id: number, place: Place, analyzed: boolean): Writable<PlanNode> {
  const loops = numberOf(raw['Actual Loops'])
  const ran = loops !== undefined && loops > 0
  const actualRows = ran ? numberOf(raw['Actual Rows']) : undefined
  const perLoopMs = ran ? numberOf(raw['Actual Total Time']) : undefined
  const plannedRows = numberOf(raw['Plan Rows']) ?? 0
  const removed = (name: string): number | undefined => {
    const rows = numberOf(raw[name])
    return rows === undefined || !ran ? undefined : Math.round(rows * loops)
  }
  return {
    id,
    type: String(raw['Node Type'] ?? 'unknown'),
    label: labelOf(raw),
    relationship: textOf(raw['Parent Relationship']),
    joinType: textOf(raw['Join Type']),
    operation: textOf(raw['Operation']),
    relation: textOf(raw['Relation Name']),
    schema: textOf(raw['Schema']),
    alias: textOf(raw['Alias']),
    index: textOf(raw['Index Name']),
    cte: textOf(raw['CTE Name']),
    subplan: textOf(raw['Subplan Name']),
    conditions: conditionsOf(raw),
    sort: sortOf(raw),
    totalCost: numberOf(raw['Total Cost']) ?? 0,
    ownCost: 0,
    plannedRows,
    actualRows,
    rows: actualRows === undefined || loops === undefined ? undefined : Math.round(actualRows * loops),
    loops,
    neverExecuted: analyzed && !ran,
    misestimate:
      actualRows === undefined || uncounted.has(raw['Node Type']) ? undefined : timesOff(plannedRows, actualRows),
    mayStopEarly: place.mayStopEarly,
    totalMs: perLoopMs === undefined || loops === undefined ? undefined : (perLoopMs * loops) / place.processes,
    ownMs: undefined,
    rowsRemovedByFilter: removed('Rows Removed by Filter') ?? removed('Rows Removed by Join Filter'),
    rowsRemovedByRecheck: removed('Rows Removed by Index Recheck'),
    buffers: buffersOf(raw),
    spilledBytes: undefined,
    workersPlanned: numberOf(raw['Workers Planned']) ?? 0,
    workersLaunched: numberOf(raw['Workers Launched']),
    children: [],
  }
}

function labelOf(raw: Raw): string {
  const parts = [
    raw['Parallel Aware'] === true ? `Parallel ${raw['Node Type']}` : String(raw['Node Type'] ?? 'unknown'),
  ]
  const join = textOf(raw['Join Type'])
  if (join !== undefined && join !== 'Inner') parts.push(`(${join})`)
  const operation = textOf(raw['Operation'])
  if (operation !== undefined) parts.push(`(${operation})`)
  const index = textOf(raw['Index Name'])
  if (index !== undefined) parts.push(`using ${index}`)
  const relation = textOf(raw['Relation Name']) ?? textOf(raw['CTE Name']) ?? textOf(raw['Function Name'])
  const alias = textOf(raw['Alias'])
  if (relation !== undefined) {
    const schema = textOf(raw['Schema'])
    parts.push(`on ${schema === undefined ? '' : `${schema}.`}${relation}`)
    if (alias !== undefined && alias !== relation) parts.push(alias)
  }
  return parts.join(' ')
}

const conditionNames = {
  filter: 'Filter',
  index: 'Index Cond',
  recheck: 'Recheck Cond',
  hash: 'Hash Cond',
  merge: 'Merge Cond',
  join: 'Join Filter',
} as const

function conditionsOf(raw: Raw): PlanConditions {
  const conditions: Writable<PlanConditions> = {}
  for (const [key, name] of Object.entries(conditionNames)) {
    const text = textOf(raw[name])
    if (text !== undefined) conditions[key as keyof PlanConditions] = text
  }
  return conditions
}

function sortOf(raw: Raw): PlanSort | undefined {
  const keys = raw['Sort Key']
  if (!Array.isArray(keys)) return undefined
  const processes = [raw, ...rawsOf(raw['Workers'])].filter((process) => process['Sort Method'] !== undefined)
  const largest = processes.reduce<Raw | undefined>(
    (most, process) =>
      (kilobytes(process) ?? 0) > (most === undefined ? -1 : (kilobytes(most) ?? 0)) ? process : most,
    undefined,
  )
  const groups = [raw['Full-sort Groups'], raw['Pre-sorted Groups']].filter(isRaw)
  const disk = Math.max(0, ...groups.map((group) => peakOf(group, 'Sort Space Disk')))
  const memory = Math.max(0, ...groups.map((group) => peakOf(group, 'Sort Space Memory')))
  const methods = groups.flatMap((group) => (group['Sort Methods Used'] as string[] | undefined) ?? [])
  const used = largest === undefined ? (groups.length > 0 ? disk || memory : undefined) : kilobytes(largest)
  return {
    keys: keys.map(String),
    method: textOf(largest?.['Sort Method']) ?? (methods.length > 0 ? [...new Set(methods)].join(', ') : undefined),
    bytes: used === undefined ? undefined : used * 1024,
    onDisk: disk > 0 || processes.some((process) => process['Sort Space Type'] === 'Disk'),
  }
}

function kilobytes(process: Raw): number | undefined {
  return numberOf(process['Sort Space Used'])
}

function peakOf(group: Raw, name: string): number {
  const space = group[name]
  return isRaw(space) ? (numberOf(space['Peak Sort Space Used']) ?? 0) : 0
}

function buffersOf(raw: Raw): PlanBuffers | undefined {
  if (raw['Shared Hit Blocks'] === undefined) return undefined
  const pages = (what: string): number =>
    (numberOf(raw[`Shared ${what} Blocks`]) ?? 0) + (numberOf(raw[`Local ${what} Blocks`]) ?? 0)
  return {
    hit: pages('Hit'),
    read: pages('Read'),
    dirtied: pages('Dirtied'),
    written: pages('Written'),
    tempRead: numberOf(raw['Temp Read Blocks']) ?? 0,
    tempWritten: numberOf(raw['Temp Written Blocks']) ?? 0,
  }
}

/** What a node itself wrote to temporary files: by its pages where they were counted, else by what it says of its room on disk. */
function spilled(raw: Raw, node: PlanNode, children: readonly PlanNode[]): number | undefined {
  if (node.loops === undefined || node.neverExecuted) return undefined
  const below = children.reduce((sum, child) => sum + (child.buffers?.tempWritten ?? 0), 0)
  const pages = Math.max(0, (node.buffers?.tempWritten ?? 0) - below) * pageBytes
  if (pages > 0) return pages
  if (node.sort?.onDisk) return node.sort.bytes ?? 0
  const onDisk =
    numberOf(raw['Disk Usage']) ?? (raw['Storage'] === 'Disk' ? numberOf(raw['Maximum Storage']) : undefined)
  return (onDisk ?? 0) * 1024
}

function timesOff(planned: number, actual: number): number {
  // An estimate is never less than one row, so none at all is as good as one.
  const more = Math.max(1, planned, actual)
  return more / Math.max(1, Math.min(planned, actual))
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return failOption('json', 'must be what EXPLAIN (FORMAT JSON) answers', json)
  }
}

function isRaw(value: unknown): value is Raw {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function rawsOf(value: unknown): Raw[] {
  return Array.isArray(value) ? value.filter(isRaw) : []
}

function numberOf(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined
}
