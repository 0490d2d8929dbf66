import type { PlanNode } from './explain-node.js'

type Writable<T> = { -readonly [Key in keyof T]: T[Key] }

/** The measured amount of a node with all that is below it. */
type AmountOf = (node: PlanNode) => number

/**
 * Gives each node its own part of the plan's time and cost.
 *
 * A node's amount contains those of the nodes that it calls. Three things spoil the plain difference: what several processes do at the
 * same time adds up to more than the time that passed; a `LIMIT` costs less than what it stops; and a common table expression or
 * another subplan hangs below one node and is run by another. So subplans are counted where they are read, and where the parts are
 * more than the whole they are scaled to it. What is given away at each node is what it got, so the sum is the root's amount, and no part
 * is negative.
 */
export function shareOut(root: PlanNode): void {
  const calls = callsOf(root)
  const costs = totalCosts(root)
  share(
    root,
    costs.get(root) ?? 0,
    calls,
    (node) => costs.get(node) ?? 0,
    (node, own) => {
      ;(node as Writable<PlanNode>).ownCost = own
    },
  )
  if (root.totalMs === undefined) return
  share(
    root,
    root.totalMs,
    calls,
    (node) => node.totalMs ?? 0,
    (node, own) => {
      if (node.totalMs !== undefined) (node as Writable<PlanNode>).ownMs = own
    },
  )
}

function share(
  node: PlanNode,
  given: number,
  calls: ReadonlyMap<PlanNode, readonly PlanNode[]>,
  amountOf: AmountOf,
  set: (node: PlanNode, own: number) => void,
): void {
  const amount = amountOf(node)
  const called = calls.get(node) ?? []
  const below = called.reduce((sum, child) => sum + amountOf(child), 0)
  // Of an amount that was scaled down, the parts are too; and never more than there is.
  const scale = below === 0 ? 0 : given / Math.max(amount, below)
  let left = given
  for (const child of called) {
    const part = Math.min(amountOf(child) * scale, left)
    left -= part
    share(child, part, calls, amountOf, set)
  }
  set(node, left)
}

/** Costs of all loops: the planner's cost of a join's inner side is that of one loop, and it knows how many it expects. */
function totalCosts(root: PlanNode): Map<PlanNode, number> {
  const costs = new Map<PlanNode, number>()
  const walk = (node: PlanNode, loops: number): void => {
    costs.set(node, node.totalCost * loops)
    const outer = node.children.find(({ relationship }) => relationship === 'Outer')
    for (const child of node.children) {
      const again = node.type === 'Nested Loop' && child.relationship === 'Inner' ? (outer?.plannedRows ?? 1) : 1
      walk(child, loops * Math.max(1, again))
    }
  }
  walk(root, 1)
  return costs
}

/** Which nodes each node runs: those below it, but subplans where they are read. */
function callsOf(root: PlanNode): Map<PlanNode, PlanNode[]> {
  const calls = new Map<PlanNode, PlanNode[]>()
  const add = (node: PlanNode, child: PlanNode): void => void calls.get(node)?.push(child)
  const walk = (node: PlanNode): void => {
    calls.set(node, [])
    for (const child of node.children) walk(child)
  }
  walk(root)
  const link = (node: PlanNode): void => {
    for (const child of node.children) {
      add(child.relationship === 'InitPlan' ? (readerOf(child, node) ?? node) : node, child)
      link(child)
    }
  }
  link(root)
  return calls
}

/** The node that runs a subplan: of those that read it, the one that has the most time to show for it. */
function readerOf(subplan: PlanNode, owner: PlanNode): PlanNode | undefined {
  const name = subplan.subplan
  if (name === undefined) return undefined
  let best: PlanNode | undefined
  const walk = (node: PlanNode): void => {
    if (node === subplan) return
    if (reads(node, name) && (best === undefined || weightOf(node) > weightOf(best))) best = node
    for (const child of node.children) walk(child)
  }
  walk(owner)
  return best
}

function weightOf(node: PlanNode): number {
  return node.totalMs ?? node.totalCost
}

function reads(node: PlanNode, name: string): boolean {
  if (name.startsWith('CTE ')) return node.cte === name.slice(4)
  // `InitPlan 1 (returns $0)` is read as `$0` up to version 16, later as `(InitPlan 1).col1`.
  const returned = [...name.matchAll(/\$\d+/g)].map(([parameter]) => parameter)
  return Object.values(node.conditions).some((condition: string) =>
    returned.length > 0
      ? returned.some((parameter) => condition.split(/(\$\d+)/).includes(parameter))
      : condition.includes(`(${name})`),
  )
}
