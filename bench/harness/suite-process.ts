import { type Aim, type Contest, fullEffort, type Measurement, runContest, smokeEffort } from './contest.ts'

/** A contest without what can't be sent from process to process. */
export interface ContestOutline extends Omit<Contest, 'contenders' | 'finish'> {
  readonly contenders: readonly { readonly name: string; readonly aim?: Aim }[]
}

/** What a suite's process tells the one that started it. */
export type SuiteMessage =
  | { readonly kind: 'contents'; readonly contests: readonly ContestOutline[]; readonly spillway: string }
  | { readonly kind: 'result'; readonly measurements: readonly Measurement[] }
  | { readonly kind: 'smoked'; readonly outcomes: readonly SmokeOutcome[] }
  | { readonly kind: 'error'; readonly error: string }

/** What came of a contest that was only tried: how many contenders answered right, or what went wrong. */
export type SmokeOutcome = { readonly contenders: number } | { readonly error: string }

/**
 * Runs a suite as a process of its own: without arguments it says which contests it has, with a contest's index it runs
 * that one. Every contest gets a fresh process, so that what the compiler learnt in one helps or hurts no other. With `smoke` and
 * some indices, separated by commas, it tries these one after the other, since nothing is measured.
 */
export async function serveSuite(contests: readonly Contest[]): Promise<void> {
  const [index, indices] = process.argv.slice(2)
  try {
    if (index === undefined) {
      tell({
        kind: 'contents',
        contests: contests.map(({ contenders, finish, ...contest }) => ({
          ...contest,
          contenders: contenders.map(({ prepare, ...contender }) => contender),
        })),
        spillway: import.meta.resolve('spillway'),
      })
    } else if (index === 'smoke') {
      const chosen = (indices ?? '').split(',').map((one) => contests[Number(one)] as Contest)
      tell({ kind: 'smoked', outcomes: await smoke(chosen) })
    } else {
      const contest = contests[Number(index)]
      if (contest === undefined) throw new RangeError(`there is no contest ${index}`)
      let measurements: Measurement[]
      try {
        measurements = await runContest(contest, fullEffort)
      } finally {
        await contest.finish?.()
      }
      tell({ kind: 'result', measurements })
    }
  } catch (error) {
    process.exitCode = 1
    tell({ kind: 'error', error: textOf(error) })
  }
}

async function smoke(contests: readonly Contest[]): Promise<SmokeOutcome[]> {
  const outcomes: SmokeOutcome[] = []
  for (const contest of contests) {
    try {
      outcomes.push({ contenders: (await runContest(contest, smokeEffort)).length })
    } catch (error) {
      outcomes.push({ error: textOf(error) })
    }
  }
  // What contests start together they share.
  for (const finish of new Set(contests.map((contest) => contest.finish))) await finish?.()
  return outcomes
}

function textOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}

function tell(message: SuiteMessage): void {
  if (process.send === undefined) throw new Error('a suite is started by bench/run.ts')
  // Some contenders leave timers behind; the channel is what keeps this process needed.
  process.send(message, () => process.exit())
}
