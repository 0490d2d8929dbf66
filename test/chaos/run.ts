import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type FaultKind, faultKinds, faults } from './faults.ts'
import { bundlePrograms } from './programs.ts'
import { regressions } from './regressions.ts'
import { runScenario } from './scenario.ts'
import { scheduleOf } from './schedule.ts'

const smokeSeconds = 20

const help = `Usage: npm run chaos -- [options]

The whole example in processes of its own, two gateways, two counter services, two billing services, two usage workers, an auth service
and a publisher of usage, on a real Redis and a real PostgreSQL, with a proxy on each way between them. Under a small load, things go
wrong as a seed says. In the end all is healed, and what was answered is compared with what is stored.

  --seed N       the first seed: it decides what goes wrong, when, and what the load asks for (by the clock)
  --seeds N      how many, one after the other, each one more than the one before, 1 to 100 (1)
  --minutes N    how long all of them take together, 1 to 600 (1 a seed)
  --seconds N    how long each of them takes, 10 to 36000, in place of that
  --faults LIST  only these kinds, separated by commas
  --regressions  the seeds that have found something before, in place of others
  --smoke        one seed of ${smokeSeconds} s, to see that everything works and adds up
  --help         this text

Kinds of faults:

${faultKinds.map((kind) => `  ${kind.padEnd(16)}${faults[kind].does}`).join('\n')}

Exit code: 0, or 1 when something doesn't add up, or 2 when an argument is wrong. Logs and ledgers of a run that failed are kept.`

const root = fileURLToPath(new URL('../..', import.meta.url))

/** A seed, and how long it lasts. */
interface Run {
  readonly seed: number
  readonly seconds: number
}

const { runs, kinds } = readArguments()
// What is started ends with this process, however that ends.
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)
  process.once(signal, () => process.exit(code))
process.exitCode = await main()

function readArguments(): { runs: readonly Run[]; kinds: readonly FaultKind[] } {
  try {
    const { values } = parseArgs({
      options: {
        ...{
          seed: { type: 'string' },
          seeds: { type: 'string' },
          faults: { type: 'string' },
        },
        ...{ minutes: { type: 'string' }, seconds: { type: 'string' } },
        ...{ smoke: { type: 'boolean' }, regressions: { type: 'boolean' }, help: { type: 'boolean' } },
      },
    })
    if (values.help) {
      console.log(help)
      process.exit(0)
    }
    const kinds = (values.faults?.split(',') ?? faultKinds) as FaultKind[]
    const others = (['seed', 'seeds', 'faults', 'minutes', 'seconds', 'smoke'] as const).filter(
      (flag) => flag in values,
    )
    if (values.regressions && others.length > 0) {
      throw new Error(`--regressions has seeds, kinds and lengths of its own, and takes no --${others[0]}`)
    }
    const unknown = kinds.find((kind) => !faultKinds.includes(kind))
    if (unknown !== undefined) throw new Error(`--faults must name some of ${faultKinds.join(', ')}, got "${unknown}"`)
    const seeds = whole('seeds', values.seeds ?? '1', 1, 100)
    const minutes = whole('minutes', values.minutes ?? String(seeds), 1, 600)
    const seed = whole('seed', values.seed ?? String(Date.now() % 1_000_000), 0, Number.MAX_SAFE_INTEGER)
    const each = whole('seconds', values.seconds ?? String(Math.round((minutes * 60) / seeds)), 10, 36_000)
    const seconds = values.smoke ? smokeSeconds : each
    const ofSeeds = Array.from({ length: values.smoke ? 1 : seeds }, (_, n) => ({ seed: seed + n, seconds }))
    return { runs: values.regressions ? regressions : ofSeeds, kinds }
  } catch (error) {
    console.error((error as Error).message)
    process.exit(2)
  }
}

function whole(name: string, text: string, least: number, most: number): number {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
  if (value >= least && value <= most) return value
  throw new Error(`--${name} must be a whole number from ${least} to ${most}, got "${text}"`)
}

async function main(): Promise<number> {
  const home = join(root, '.cache', 'chaos', `${runs[0]?.seed}-${process.pid}`)
  mkdirSync(home, { recursive: true })
  const programs = await bundlePrograms(join(home, 'programs'))
  const failed: number[] = []
  for (const { seed, seconds } of runs) {
    const schedule = scheduleOf({ seed, seconds, kinds })
    const folder = join(home, `seed-${seed}`)
    const { passed, faults, skipped, requests } = await runScenario(schedule, programs, folder)
    const sum = `${requests} requests, ${faults} faults${skipped > 0 ? `, ${skipped} skipped` : ''}`
    console.log(`seed ${seed} ${passed ? 'PASS' : 'FAIL'}: ${sum}`)
    if (passed) {
      rmSync(folder, { recursive: true })
      continue
    }
    failed.push(seed)
    console.log(`  logs and ledgers: ${folder}\n  again: ${replay({ seed, seconds })}`)
  }
  if (failed.length === 0) rmSync(home, { recursive: true })
  console.log(
    failed.length === 0
      ? `PASS: ${runs.length} seeds`
      : `FAIL: ${failed.length} of ${runs.length} seeds: ${failed.join(', ')}`,
  )
  return failed.length === 0 ? 0 : 1
}

/** The command that runs a seed by itself, with the same faults at the same times. */
function replay({ seed, seconds }: Run): string {
  const only = kinds.length === faultKinds.length ? '' : ` --faults ${kinds.join(',')}`
  return `npm run chaos -- --seed ${seed} --seconds ${seconds}${only}`
}
