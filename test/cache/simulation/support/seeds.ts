import { expect } from 'vitest'
import { unhandledDuring } from '../../../batcher/support/process-events.js'
import { type SimulationPlan, type SimulationReport, simulate } from './simulation.js'

const usualRuns = 150

/**
 * Runs a plan with many seeds, and says which one fails. `SIMULATION_SEED=17` runs that one alone, `SIMULATION_RUNS=100000` more of them
 * than usual.
 *
 * @returns the sums of what happened.
 */
export async function expectSound(plan: SimulationPlan): Promise<Omit<SimulationReport, 'violations'>> {
  const sum = {
    reads: 0,
    loads: 0,
    joined: 0,
    fenced: 0,
    superseded: 0,
    faults: 0,
    gaps: 0,
    survivors: { l1: 0, l2: 0 },
  }
  const unhandled = await unhandledDuring(async () => {
    for (const seed of seeds()) {
      const report = await simulate(seed, plan)
      expect(report.violations, `seed ${seed} of ${JSON.stringify(plan)}`).toEqual([])
      for (const count of ['reads', 'loads', 'joined', 'fenced', 'superseded', 'faults', 'gaps'] as const) {
        sum[count] += report[count]
      }
      sum.survivors.l1 += report.survivors.l1
      sum.survivors.l2 += report.survivors.l2
    }
  })
  expect(unhandled).toEqual([])
  return sum
}

function seeds(): number[] {
  const { SIMULATION_SEED: only, SIMULATION_RUNS: more } = process.env
  if (only !== undefined) return [Number(only)]
  return Array.from({ length: Number(more ?? usualRuns) }, (_, i) => i + 1)
}
