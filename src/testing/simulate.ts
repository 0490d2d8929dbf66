import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkFunction,
  checkOptions,
  failOption,
  valueOr,
} from '../core/options.js'
import { RejectionWatch } from './rejection-watch.js'
import { SimulationError } from './simulation-error.js'
import { SimulationRun, type SimulationWorld } from './simulation-run.js'

/** What is simulated: a function that runs once for each seed, in virtual time. It may return what it found, or a promise of it. */
export type Scenario<R> = (world: SimulationWorld) => R | PromiseLike<R>

/** Options of {@link simulate}. */
export interface SimulateOptions {
  /**
   * What it is called in errors.
   * @defaultValue 'simulation'
   */
  name?: string | undefined
  /**
   * How many seeds, from `firstSeed` on, or the seeds themselves. The environment may have another word: `SIMULATION_SEED=17` runs that
   * one alone, `SIMULATION_RUNS=100000` so many.
   * @defaultValue 100
   */
  seeds?: number | readonly (number | string)[] | undefined
  /**
   * The first seed, where `seeds` is a number: a whole number.
   * @defaultValue 1
   */
  firstSeed?: number | undefined
  /**
   * How much virtual time a run may take, in milliseconds.
   * @defaultValue 86_400_000
   */
  maxMs?: number | undefined
  /**
   * How many steps a run may take: timers, deferred callbacks, calls of the clock's `advance`.
   * @defaultValue 1_000_000
   */
  maxSteps?: number | undefined
  /**
   * Whether timers may be left when the scenario has ended: the clock's `pending` need not be 0.
   * @defaultValue false
   */
  timersLeft?: boolean | undefined
  /**
   * Whether each seed runs twice, and fails where the second run isn't the same as the first: where something takes time or chance from
   * elsewhere.
   * @defaultValue false
   */
  twice?: boolean | undefined
  /**
   * How many of the latest entries of a failing seed's trace its error has.
   * @defaultValue 100
   */
  traceLength?: number | undefined
  /**
   * Whether `SIMULATION_SEED` and `SIMULATION_RUNS` of the environment count.
   * @defaultValue true
   */
  environment?: boolean | undefined
  /** The wall time at the start of each run, in milliseconds since the epoch. The default is 2026-01-01T00:00:00Z. */
  wallMs?: number | undefined
}

/** The defaults of {@link SimulateOptions}. */
export const simulateDefaults = {
  name: 'simulation',
  seeds: 100,
  firstSeed: 1,
  maxMs: 86_400_000,
  maxSteps: 1_000_000,
  timersLeft: false,
  twice: false,
  traceLength: 100,
  environment: true,
} as const

/** What came of a simulation whose seeds all did well. */
export interface SimulationReport<R> {
  /** How many seeds ran. */
  readonly seeds: number
  /** What the scenario returned, in the order of the seeds. */
  readonly results: readonly R[]
  /** How much virtual time passed in all runs, in milliseconds. */
  readonly virtualMs: number
  /** How many steps were taken in all runs. */
  readonly steps: number
  /**
   * Whether at least as many seeds ran as the options say. It is false where the environment asked for one seed or for fewer: what is
   * expected of the sum of all runs can't be expected then.
   */
  readonly complete: boolean
}

/** Simulations of a process run one after the other: a rejection that nobody handles doesn't say to which it belongs. */
let latest: Promise<unknown> = Promise.resolve()

/**
 * Runs a scenario with many seeds, each in a virtual time of its own, as fast as it computes. A seed fails when the scenario rejects, when
 * it doesn't end (a deadlock, or more time or steps than it may take), when a rejection is left unhandled, when a timer or deferred
 * callback throws, and when timers are left at its end.
 *
 * Time passes by itself while the scenario waits; it needn't move the clock, and may. Simulations that are started together run one after the
 * other; one that is started within another's scenario can't run, and ends it as a deadlock.
 *
 * @returns what all seeds came to. Rejects with an `OptionError`, or for the first seed that fails with a {@link SimulationError} that names
 * it. Throws nothing.
 *
 * @example
 * ```ts
 * import { AsyncWriteBuffer } from 'spillway'
 * import { simulate } from 'spillway/testing'
 *
 * await simulate(async ({ clock, random, below, sleep, log }) => {
 *   let written = 0
 *   const write = async (entries: ReadonlyMap<string, number>): Promise<void> => {
 *     await sleep(below(50))
 *     for (const n of entries.values()) written += n
 *   }
 *   const buffer = new AsyncWriteBuffer(write, { merge: (old, n) => old + n, clock, random })
 *   for (let i = 0; i < 100; i++) {
 *     buffer.put(`key:${below(10)}`, 1)
 *     await sleep(below(20))
 *   }
 *   log('closing', buffer.stats())
 *   await buffer.close()
 *   if (written !== 100) throw new Error(`${written} of 100 were written`)
 * })
 * ```
 */
export function simulate<R>(scenario: Scenario<R>, options: SimulateOptions = {}): Promise<SimulationReport<R>> {
  const simulated = latest.then(() => runAll(scenario, options))
  latest = simulated.catch(() => undefined)
  return simulated
}

async function runAll<R>(scenario: Scenario<R>, options: SimulateOptions): Promise<SimulationReport<R>> {
  const plan = resolve(scenario, options)
  const results: R[] = []
  let [virtualMs, steps] = [0, 0]
  const rejections = new RejectionWatch()
  try {
    for (const seed of plan.seeds) {
      const run = new SimulationRun<R>(seed, plan)
      const outcome = await run.run(scenario, rejections)
      if ('error' in outcome || plan.twice) {
        const again = new SimulationRun<R>(seed, plan)
        const other = await again.run(scenario, rejections)
        const difference = run.differenceTo(again)
        if ('error' in outcome) {
          const repeats = 'error' in other && difference === undefined
          throw new SimulationError({ ...plan, seed, cause: outcome.error, repeats, ...run.ending() })
        }
        const cause = 'error' in other ? other.error : difference && new Error(difference)
        if (cause !== undefined) throw new SimulationError({ ...plan, seed, cause, repeats: false, ...run.ending() })
      }
      if ('result' in outcome) results.push(outcome.result)
      virtualMs += run.clock.now()
      steps += run.clock.steps
    }
  } finally {
    rejections.end()
  }
  return { seeds: plan.seeds.length, results, virtualMs, steps, complete: plan.complete }
}

interface Plan {
  readonly name: string
  readonly seeds: readonly (number | string)[]
  readonly complete: boolean
  readonly maxMs: number
  readonly maxSteps: number
  readonly timersLeft: boolean
  readonly twice: boolean
  readonly traceLength: number
  readonly wallMs: number | undefined
}

function resolve(scenario: unknown, options: SimulateOptions): Plan {
  checkFunction('scenario', scenario)
  checkOptions('options', options)
  const or = <K extends keyof typeof simulateDefaults>(key: K): NonNullable<SimulateOptions[K]> =>
    valueOr<unknown>(options[key], simulateDefaults[key]) as NonNullable<SimulateOptions[K]>
  const name = or('name')
  if (typeof name !== 'string') failOption('name', 'must be a string', name)
  const firstSeed = or('firstSeed')
  if (!Number.isSafeInteger(firstSeed)) failOption('firstSeed', 'must be a safe integer', firstSeed)
  const given = or('seeds')
  const seeds = seedsOf(given, firstSeed)
  const asked = checkBoolean('environment', or('environment')) ? seedsOfEnvironment(firstSeed) : undefined
  return {
    name,
    seeds: asked ?? seeds,
    complete: asked === undefined || (typeof given === 'number' && !asked.only && asked.length >= seeds.length),
    maxMs: checkDuration('maxMs', or('maxMs'), 0, Number.MAX_SAFE_INTEGER),
    maxSteps: checkCount('maxSteps', or('maxSteps')),
    timersLeft: checkBoolean('timersLeft', or('timersLeft')),
    twice: checkBoolean('twice', or('twice')),
    traceLength: checkCount('traceLength', or('traceLength'), 0),
    wallMs:
      options.wallMs === undefined ? undefined : checkDuration('wallMs', options.wallMs, 0, Number.MAX_SAFE_INTEGER),
  }
}

function seedsOf(seeds: number | readonly (number | string)[], firstSeed: number): readonly (number | string)[] {
  if (!Array.isArray(seeds)) {
    const count = checkCount('seeds', seeds as number)
    return Array.from({ length: count }, (_, i) => firstSeed + i)
  }
  const isSeed = (seed: unknown): boolean => typeof seed === 'string' || Number.isFinite(seed)
  if (seeds.length === 0 || !seeds.every(isSeed)) {
    failOption('seeds', 'must be a number, or a list of numbers and strings that is not empty', seeds)
  }
  return [...seeds]
}

/** What the environment asks for instead. */
function seedsOfEnvironment(firstSeed: number): (readonly (number | string)[] & { only?: boolean }) | undefined {
  const { SIMULATION_SEED: only, SIMULATION_RUNS: runs } = globalThis.process?.env ?? {}
  if (only !== undefined && only !== '') {
    const seed = /^-?\d{1,15}$/.test(only) ? Number(only) : only
    return Object.assign([seed], { only: true })
  }
  if (runs === undefined || runs === '') return undefined
  return seedsOf(checkCount('SIMULATION_RUNS', Number(runs)), firstSeed)
}
