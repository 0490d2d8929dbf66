import type { PlanNode } from './explain-node.js'

/** A node that stands out, and why. */
export interface PlanFinding {
  /** The node. */
  readonly node: PlanNode
  /**
   * How much: its own cost, its own time in milliseconds, how often the estimate was off, the rows that a filter threw away, or the
   * bytes that it wrote to temporary files.
   */
  readonly amount: number
  /** The same in a sentence. */
  readonly sentence: string
}

/** The worst node of each kind; undefined where no node stands out. */
export interface WorstNodes {
  /** The largest own cost, as the planner thinks. It is the only one of a plan that wasn't run. */
  readonly cost?: PlanFinding
  /** The longest own time. */
  readonly time?: PlanFinding
  /** The estimate that was off the most: ten times or more, and by 100 rows at least. */
  readonly misestimate?: PlanFinding
  /** The most rows that a filter threw away: more than were kept, and 1000 at least. */
  readonly filter?: PlanFinding
  /** The most that didn't fit into `work_mem`. */
  readonly spill?: PlanFinding
}

const leastMisestimate = 10
const leastRowsOff = 100
const leastRowsRemoved = 1000

/** Names the worst nodes of a plan. */
export function findWorst(root: PlanNode): WorstNodes {
  const nodes: PlanNode[] = []
  const walk = (node: PlanNode): void => {
    nodes.push(node)
    for (const child of node.children) walk(child)
  }
  walk(root)
  const found = {
    cost: worstOf(nodes, (node) => node.ownCost, costSentence(root)),
    time: worstOf(nodes, (node) => node.ownMs ?? 0, timeSentence(root)),
    misestimate: worstOf(nodes, misestimateOf, misestimateSentence),
    filter: worstOf(nodes, removedOf, filterSentence),
    spill: worstOf(nodes, (node) => node.spilledBytes ?? 0, spillSentence),
  }
  return Object.fromEntries(Object.entries(found).filter(([, finding]) => finding !== undefined))
}

function worstOf(
  nodes: readonly PlanNode[],
  amountOf: (node: PlanNode) => number,
  sentenceOf: (node: PlanNode, amount: number) => string,
): PlanFinding | undefined {
  let worst: PlanNode | undefined
  let most = 0
  for (const node of nodes) {
    const amount = amountOf(node)
    if (amount > most) {
      most = amount
      worst = node
    }
  }
  return worst === undefined ? undefined : { node: worst, amount: most, sentence: sentenceOf(worst, most) }
}

function misestimateOf(node: PlanNode): number {
  const { misestimate, plannedRows, actualRows } = node
  if (misestimate === undefined || actualRows === undefined || misestimate < leastMisestimate) return 0
  // Fewer rows than planned are none of the planner's fault where somebody had enough.
  if (node.mayStopEarly && actualRows < plannedRows) return 0
  return Math.abs(actualRows - plannedRows) < leastRowsOff ? 0 : misestimate
}

function removedOf(node: PlanNode): number {
  const removed = node.rowsRemovedByFilter ?? 0
  return removed < leastRowsRemoved || removed <= (node.rows ?? 0) ? 0 : removed
}

const costSentence =
  (root: PlanNode) =>
  (node: PlanNode, amount: number): string =>
    `${node.label} is planned to cost ${round(amount)} of ${round(root.totalCost)}`

const timeSentence =
  (root: PlanNode) =>
  (node: PlanNode, amount: number): string =>
    `${node.label} took ${round(amount)} ms of ${round(root.totalMs ?? amount)} ms by itself${loopsOf(node)}`

function misestimateSentence(node: PlanNode, amount: number): string {
  const { plannedRows, actualRows = 0 } = node
  const direction = actualRows > plannedRows ? 'more' : 'fewer'
  return `${node.label} gave ${round(actualRows)} rows where ${round(plannedRows)} were expected, ${round(amount)} times ${direction}${loopsOf(node)}`
}

function filterSentence(node: PlanNode, amount: number): string {
  const condition = node.conditions.filter ?? node.conditions.join
  const what = condition === undefined ? 'a filter' : condition
  return `${node.label} read ${round(amount + (node.rows ?? 0))} rows and threw ${round(amount)} away by ${what}`
}

function spillSentence(node: PlanNode, amount: number): string {
  const how = node.sort?.method === undefined ? '' : ` (${node.sort.method})`
  return `${node.label} wrote ${round(amount / 1024)} kB to temporary files${how}: it didn't fit work_mem`
}

function loopsOf({ loops = 1 }: PlanNode): string {
  return loops > 1 ? `, in ${loops} loops` : ''
}

function round(amount: number): string {
  return amount >= 100 ? String(Math.round(amount)) : String(Math.round(amount * 100) / 100)
}
