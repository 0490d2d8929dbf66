import { simulate as runSeeds } from 'spillway/testing'
import { expect } from 'vitest'
import { type SimulationPlan, type SimulationReport, simulate } from './simulation.js'

/** What is counted over all seeds. */
type Sum = {
  [K in Exclude<keyof SimulationReport, 'violations' | 'survivors'> | 'l1Survivors' | 'l2Survivors']: number
}

/**
 * Runs a plan with many seeds, and says which one fails. `SIMULATION_SEED=17` runs that one alone, `SIMULATION_RUNS=100000` more of them
 * than usual.
 *
 * @param atLeast - what must have happened in all seeds together, so that the plan proves anything: more than this. It isn't expected
 * of one seed alone, nor of fewer than usual.
 */
export async function expectSound(plan: SimulationPlan, atLeast: Partial<Sum> = {}): Promise<void> {
  const { results, complete } = await runSeeds(
    async ({ seed, clock }) => {
      const report = await simulate(Number(seed), plan, clock)
      expect(report.violations).toEqual([])
      return report
    },
    { name: JSON.stringify(plan), seeds: 150 },
  )
  const sum: Sum = {
    reads: 0,
    loads: 0,
    joined: 0,
    fenced: 0,
    superseded: 0,
    faults: 0,
    gaps: 0,
    l1Survivors: 0,
    l2Survivors: 0,
  }
  for (const { violations: _, survivors, ...counts } of results) {
    for (const [name, count] of Object.entries(counts)) sum[name as keyof typeof counts] += count
    sum.l1Survivors += survivors.l1
    sum.l2Survivors += survivors.l2
  }
  if (!complete) return
  for (const [name, least] of Object.entries(atLeast)) expect(sum[name as keyof Sum], name).toBeGreaterThan(least)
}
