import { Bench } from 'tinybench'

/** What spillway is to reach beside a peer: take at most so many times as long, or be at least so many times faster. */
export type Aim = { readonly atMost: number } | { readonly timesFaster: number }

/** One way of doing the work of a contest. */
export interface Contender {
  readonly name: string
  /** What spillway, the first contender, is to reach beside this one. */
  readonly aim?: Aim
  /** Sets it up, once a process. */
  prepare(): Turns | Promise<Turns>
}

/** What a turn says where a part of it is to count alone. */
export interface PartOfTurn {
  /** How long that part took, in milliseconds. */
  readonly overriddenDuration: number
  /** How long all of it took. */
  readonly overriddenIterationCost: number
}

/** A contender that is ready to run. */
export interface Turns {
  /** One turn's work. All of it is timed, where `async` until its promise has settled, unless it says otherwise itself. */
  // biome-ignore lint/suspicious/noConfusingVoidType: most turns return nothing.
  readonly turn: () => void | PartOfTurn | Promise<void | PartOfTurn>
  readonly async: boolean
  /** Throws when the turn's answer is wrong. Called after every turn, not timed. */
  readonly check: () => void | Promise<void>
  /** What is to be shown beside the times, once all turns are over: how often something was called, for instance. */
  readonly note?: () => string
}

/** The same work done in several ways; the first contender is spillway. */
export interface Contest {
  readonly name: string
  /** What one operation is called: `add`, `put`. */
  readonly operation: string
  /** How many operations one turn does. */
  readonly operations: number
  readonly contenders: readonly [Contender, ...Contender[]]
  /** Stops what the contenders started together, a server for instance. */
  readonly finish?: () => Promise<void>
}

/** How long a contest is run. */
export interface Effort {
  /** How often the contenders take turns in being measured. */
  readonly rounds: number
  /** How long each of them is measured in a round, in milliseconds. */
  readonly roundMs: number
  /** How long each of them is run before the first round, in milliseconds. */
  readonly warmUpMs: number
  /** The fewest turns that a measurement or a warm-up takes, however long they are. */
  readonly minTurns: number
}

/** Enough for a verdict on a noisy machine. */
export const fullEffort: Effort = { rounds: 9, roundMs: 100, warmUpMs: 400, minTurns: 10 }
/** Just enough to see that every contender gives right answers. */
export const smokeEffort: Effort = { rounds: 1, roundMs: 0, warmUpMs: 0, minTurns: 3 }

/** What one contender took, in nanoseconds an operation. */
export interface Measurement {
  readonly name: string
  /** The median of the rounds' medians. */
  readonly medianNs: number
  /** The median of the rounds' means: it has the garbage collector's share in it, and the machine's noise. */
  readonly meanNs: number
  /** Each round's median. */
  readonly roundsNs: readonly number[]
  /** How many turns were measured in all. */
  readonly turns: number
  /** What the contender counted itself. */
  readonly note?: string
}

/**
 * Measures the contenders side by side: in every round each of them once, beginning with another one each time, so that
 * what the machine does meanwhile hits all of them alike. Rejects when an answer is wrong.
 */
export async function runContest(contest: Contest, effort: Effort): Promise<Measurement[]> {
  const entrants = []
  for (const { name, prepare } of contest.contenders) {
    entrants.push({ name, ...(await prepare()), medians: [] as number[], means: [] as number[], turns: 0 })
  }
  for (let round = 0; round < effort.rounds; round++) {
    const bench = new Bench({
      time: effort.roundMs,
      iterations: effort.minTurns,
      // Later rounds warm up too, but briefly: what the others left in the caches is not this one's fault.
      warmupTime: round === 0 ? effort.warmUpMs : Math.min(10, effort.warmUpMs),
      warmupIterations: effort.minTurns,
      throws: true,
      setup: collectYoungGarbage,
    })
    const first = round % entrants.length
    for (const { name, turn, async, check } of [...entrants.slice(first), ...entrants.slice(0, first)]) {
      // A turn is a turn of the event loop, for everyone: what is put off to its end is over before the next one begins.
      bench.add(name, turn, { async, beforeEach: endOfTurn, afterEach: check })
    }
    try {
      await bench.run()
    } catch (error) {
      const culprit = bench.tasks.find((task) => task.result.state === 'errored')
      throw new Error(`${culprit?.name}: ${error instanceof Error ? error.message : error}`, { cause: error })
    }
    for (const entrant of entrants) {
      const result = bench.getTask(entrant.name)?.result
      if (result?.state !== 'completed') throw new Error(`${entrant.name} did not complete: ${result?.state}`)
      entrant.medians.push((result.latency.p50 * 1e6) / contest.operations)
      entrant.means.push((result.latency.mean * 1e6) / contest.operations)
      entrant.turns += result.latency.samplesCount
    }
  }
  return entrants.map(({ name, medians, means, turns, note }) => ({
    name,
    medianNs: medianOf(medians),
    meanNs: medianOf(means),
    roundsNs: medians,
    turns,
    ...(note && { note: note() }),
  }))
}

/** The middle one of some numbers, or the mean of the two in the middle. */
export function medianOf(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = sorted.length / 2
  const low = sorted[Math.ceil(middle) - 1] ?? Number.NaN
  const high = sorted[Math.floor(middle)] ?? Number.NaN
  return (low + high) / 2
}

function endOfTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** A contender pays for its own garbage. Only the young: a full collection would throw away code that was compiled. */
function collectYoungGarbage(): void {
  void globalThis.gc?.({ type: 'minor', execution: 'sync' })
}
