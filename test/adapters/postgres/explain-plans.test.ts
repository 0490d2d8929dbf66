import fc from 'fast-check'
import { type PlanNode, planNodes, readPlan } from 'spillway/postgres'
import { describe, expect, test } from 'vitest'

/** A node as the server writes it. */
type Raw = Record<string, unknown> & { Plans?: Raw[] }

const relationships = ['Outer', 'Inner', 'InitPlan', 'SubPlan', 'Member', 'Subquery']
const types = ['Seq Scan', 'Nested Loop', 'Hash Join', 'Gather', 'Limit', 'Sort', 'CTE Scan', 'Aggregate', 'BitmapAnd']

/** Any tree at all, with times that no server would give: a part longer than the whole, parallel loops, subplans read elsewhere. */
const anyNode: fc.Arbitrary<Raw> = fc.letrec<{ node: Raw }>((tie) => ({
  node: fc
    .record({
      'Node Type': fc.constantFrom(...types),
      'Parent Relationship': fc.constantFrom(...relationships),
      'Subplan Name': fc.option(fc.constantFrom('CTE a', 'CTE b', 'InitPlan 1', 'InitPlan 2 (returns $1)'), {
        nil: undefined,
      }),
      'CTE Name': fc.option(fc.constantFrom('a', 'b'), { nil: undefined }),
      Filter: fc.option(fc.constantFrom('(x.a = $1)', '(x.a = (InitPlan 1).col1)', '(x.a > 10)'), { nil: undefined }),
      'Total Cost': fc.double({ min: 0, max: 1e9, noNaN: true }),
      'Plan Rows': fc.nat(1e6),
      'Actual Rows': fc.oneof(fc.nat(1e6), fc.double({ min: 0, max: 1e6, noNaN: true })),
      'Actual Loops': fc.constantFrom(0, 1, 1, 1, 2, 3, 1000),
      'Actual Total Time': fc.double({ min: 0, max: 1e6, noNaN: true }),
      'Rows Removed by Filter': fc.nat(1e6),
      'Shared Hit Blocks': fc.nat(100),
      'Temp Written Blocks': fc.nat(100),
      Plans: fc.option(fc.array(tie('node'), { maxLength: 3 }), { nil: undefined, depthSize: 'small' }),
    })
    .map((raw) => Object.fromEntries(Object.entries(raw).filter(([, value]) => value !== undefined)) as Raw),
})).node

const sum = (nodes: readonly PlanNode[], amountOf: (node: PlanNode) => number | undefined): number =>
  nodes.reduce((total, node) => total + (amountOf(node) ?? 0), 0)

const close = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(a), Math.abs(b))

test('own times and own costs are never negative and add up to the whole, whatever the tree', () => {
  fc.assert(
    fc.property(anyNode, (raw) => {
      const plan = readPlan([{ Plan: raw }])
      const nodes = planNodes(plan)

      expect(nodes.map(({ id }) => id)).toEqual(nodes.map((_, i) => i))
      for (const { ownMs = 0, ownCost } of nodes) {
        expect(ownMs).toBeGreaterThanOrEqual(0)
        expect(ownCost).toBeGreaterThanOrEqual(0)
      }
      expect(
        close(
          sum(nodes, ({ ownCost }) => ownCost),
          plan.root.totalCost,
        ),
      ).toBe(true)
      if (plan.root.totalMs !== undefined) {
        // Nodes that never ran have no time, and nothing is given to them.
        expect(
          close(
            sum(nodes, ({ ownMs }) => ownMs),
            plan.root.totalMs,
          ),
        ).toBe(true)
      }
      for (const { misestimate, spilledBytes, rowsRemovedByFilter, neverExecuted } of nodes) {
        if (misestimate !== undefined) expect(misestimate).toBeGreaterThanOrEqual(1)
        if (neverExecuted)
          expect([misestimate, spilledBytes, rowsRemovedByFilter]).toEqual([undefined, undefined, undefined])
        else expect(spilledBytes).toBeGreaterThanOrEqual(0)
      }
      for (const finding of Object.values(plan.worst)) expect(nodes).toContain(finding.node)
    }),
    { numRuns: 500 },
  )
})

const scan = (more: Raw = {}): Raw => ({
  'Node Type': 'Seq Scan',
  'Relation Name': 't',
  'Total Cost': 10,
  'Plan Rows': 100,
  'Actual Rows': 100,
  'Actual Loops': 1,
  'Actual Total Time': 10,
  ...more,
})

describe('readPlan', () => {
  test('reads text, the array and the plan alone', () => {
    const answer = [{ Plan: scan(), 'Planning Time': 0.5, 'Execution Time': 11 }]

    const plans = [readPlan(JSON.stringify(answer)), readPlan(answer), readPlan(answer[0])]

    expect(plans[0]).toEqual(plans[1])
    expect(plans[1]).toEqual(plans[2])
    expect(plans[0]).toMatchObject({
      planningMs: 0.5,
      executionMs: 11,
      analyzed: true,
      root: { label: 'Seq Scan on t' },
    })
  })

  test.each(['no json', '[]', '{}', 'null', 7, undefined, [{ Plan: 1 }]])('refuses %j', (json) => {
    expect(() => readPlan(json)).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field: 'json' }))
  })

  test('times of loops are those of all loops, and of one process where there are several', () => {
    const inner = scan({ 'Parent Relationship': 'Inner', 'Actual Loops': 3000, 'Actual Total Time': 0.01 })
    const outer = scan({ 'Parent Relationship': 'Outer', 'Actual Loops': 3 })
    const loop = {
      'Node Type': 'Nested Loop',
      'Actual Loops': 3,
      'Actual Total Time': 25,
      'Total Cost': 1,
      Plans: [outer, inner],
    }
    const gather = {
      'Node Type': 'Gather',
      'Workers Planned': 2,
      'Workers Launched': 2,
      'Actual Loops': 1,
      'Actual Total Time': 30,
      Plans: [loop],
    }

    const [top, join, first, second] = planNodes(readPlan([{ Plan: gather }]))

    expect([top, join, first, second].map((node) => node?.totalMs)).toEqual([30, 25, 10, 10])
    expect([top, join, first, second].map((node) => node?.ownMs)).toEqual([5, 5, 10, 10])
    expect(second?.rows).toBe(300_000)
  })

  test('a common table expression takes its time where it is read', () => {
    const cte = scan({ 'Parent Relationship': 'InitPlan', 'Subplan Name': 'CTE c', 'Actual Total Time': 40 })
    const reader = {
      ...scan({ 'Actual Total Time': 50 }),
      'Node Type': 'CTE Scan',
      'CTE Name': 'c',
      'Parent Relationship': 'Outer',
    }
    const again = { ...reader, 'Actual Total Time': 1, 'Parent Relationship': 'Inner' }
    const join = { 'Node Type': 'Hash Join', 'Actual Loops': 1, 'Actual Total Time': 60, Plans: [cte, reader, again] }

    const own = planNodes(readPlan([{ Plan: join }])).map(({ ownMs }) => ownMs)

    expect(own).toEqual([9, 40, 10, 1])
  })

  test('what stays below a LIMIT or in a bitmap is no misestimate, and a Sort between is one', () => {
    const few = scan({ 'Plan Rows': 10_000, 'Actual Rows': 1 })
    const above = (type: string, ...plans: Raw[]): Raw => ({ ...scan(), 'Node Type': type, Plans: plans })

    expect(readPlan([{ Plan: above('Limit', few) }]).worst.misestimate).toBeUndefined()
    expect(readPlan([{ Plan: above('Limit', above('Sort', few)) }]).worst.misestimate?.sentence).toBe(
      'Seq Scan on t gave 1 rows where 10000 were expected, 10000 times fewer',
    )
    expect(
      readPlan([{ Plan: above('Limit', scan({ 'Plan Rows': 1, 'Actual Rows': 5000 })) }]).worst.misestimate?.amount,
    ).toBe(5000)
    expect(
      readPlan([{ Plan: { ...few, 'Node Type': 'BitmapAnd', 'Actual Rows': 0 } }]).worst.misestimate,
    ).toBeUndefined()
  })

  test('spills are found in sorts of one and of several processes, in hashes and in what newer servers store', () => {
    const sorted = (more: Raw): Raw => ({ ...scan(more), 'Node Type': 'Sort', 'Sort Key': ['t.a'] })
    const spillOf = (plan: Raw): number | undefined => readPlan([{ Plan: plan }]).worst.spill?.amount

    expect(spillOf(sorted({ 'Sort Method': 'external merge', 'Sort Space Used': 8, 'Sort Space Type': 'Disk' }))).toBe(
      8192,
    )
    expect(
      spillOf(sorted({ 'Sort Method': 'quicksort', 'Sort Space Used': 8, 'Sort Space Type': 'Memory' })),
    ).toBeUndefined()
    const workers = [
      { 'Sort Method': 'quicksort', 'Sort Space Used': 1, 'Sort Space Type': 'Memory' },
      { 'Sort Method': 'external merge', 'Sort Space Used': 16, 'Sort Space Type': 'Disk' },
    ]
    expect(spillOf(sorted({ Workers: workers }))).toBe(16_384)
    const groups = { 'Sort Methods Used': ['external merge'], 'Sort Space Disk': { 'Peak Sort Space Used': 4 } }
    expect(spillOf(sorted({ 'Pre-sorted Groups': groups }))).toBe(4096)
    expect(spillOf({ ...scan(), 'Node Type': 'Aggregate', 'Disk Usage': 2 })).toBe(2048)
    expect(spillOf({ ...scan(), 'Node Type': 'Materialize', Storage: 'Disk', 'Maximum Storage': 3 })).toBe(3072)
    // Pages are counted with those of the nodes below.
    const below = scan({ 'Shared Hit Blocks': 0, 'Temp Written Blocks': 10 })
    const hash = { ...scan({ 'Shared Hit Blocks': 0, 'Temp Written Blocks': 12 }), 'Node Type': 'Hash', Plans: [below] }
    expect(planNodes(readPlan([{ Plan: hash }])).map(({ spilledBytes }) => spilledBytes)).toEqual([2 * 8192, 10 * 8192])
  })
})

test('planNodes refuses what EXPLAIN answered itself, and says what it takes', () => {
  for (const raw of [undefined, null, [{ Plan: scan() }], { Plan: scan() }, { root: {} }]) {
    expect(() => planNodes(raw as never)).toThrow(
      expect.objectContaining({
        code: 'ERR_OPTION',
        message: expect.stringContaining('plan must be a plan of explain'),
      }),
    )
  }
})
