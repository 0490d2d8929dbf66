import { type Aim, type Contest, fullEffort, type Measurement, runContest, smokeEffort } from './contest.ts'

/** A contest without what can't be sent from process to process. */
export interface ContestOutline extends Omit<Contest, 'contenders' | 'finish'> {
  readonly contenders: readonly { readonly name: string; readonly aim?: Aim }[]
}

/** What a suite's process tells the one that started it. */
export type SuiteMessage =
  | { readonly kind: 'contents'; readonly contests: readonly ContestOutline[]; readonly spillway: string }
  | { readonly kind: 'result'; readonly measurements: readonly Measurement[] }
  | { readonly kind: 'error'; readonly error: string }

/**
 * Runs a suite as a process of its own: without arguments it says which contests it has, with a contest's index it runs
 * that one. Every contest gets a fresh process, so that what the compiler learnt in one helps or hurts no other.
 */
export async function serveSuite(contests: readonly Contest[]): Promise<void> {
  const [index, effort] = process.argv.slice(2)
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
    } else {
      const contest = contests[Number(index)]
      if (contest === undefined) throw new RangeError(`there is no contest ${index}`)
      let measurements: Measurement[]
      try {
        measurements = await runContest(contest, effort === 'smoke' ? smokeEffort : fullEffort)
      } finally {
        await contest.finish?.()
      }
      tell({ kind: 'result', measurements })
    }
  } catch (error) {
    process.exitCode = 1
    tell({ kind: 'error', error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  }
}

function tell(message: SuiteMessage): void {
  if (process.send === undefined) throw new Error('a suite is started by bench/run.ts')
  // Some contenders leave timers behind; the channel is what keeps this process needed.
  process.send(message, () => process.exit())
}
