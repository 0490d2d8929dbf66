import { mkdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { startPostgres } from '../../../test/servers/postgres.ts'
import { buildIfStale } from '../../harness/built-package.ts'
import { medianOf } from '../../harness/contest.ts'
import { type Facts, readFacts } from '../../harness/facts.ts'
import { bundlePrograms, type Running } from '../processes.ts'
import { wholeFlag } from '../whole-flag.ts'
import { quantilesOf, since } from './latencies.ts'
import { askService, type LoopResult, runOpenLoop } from './open-loop.ts'
import { type Path, paths, pathTexts, type ServiceReport, tableOf } from './paths.ts'
import {
  chartName,
  type Database,
  judge,
  latencyChart,
  markdown,
  type QuotaComparison,
  type Row,
  type Run,
  rowsOf,
  tableText,
  verdictText,
} from './report.ts'
import { arrivalsOf, type Scenario, scenariosOf, secondsOf, warmUp } from './scenarios.ts'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const users = 1000
/** A server of ours does nothing of its own accord in the midst of one path's run. */
const quiet = { autovacuum: 'off', checkpoint_timeout: '1h', max_wal_size: '8GB' }

const help = `Usage: npm run load -- quota [options]

The same requests, sent when they are due whether or not earlier ones were answered, against a service that accounts what each uses:
in the request, and behind it. At 100 a second, at 1,000, and in a burst from 100 to 2,000; on a real Postgres, every part in a process of its
own; then at 1,000 once more, with the database some way off. The paths take turns; after every run the table must hold of each user what
was answered. Without DATABASE_URL it starts a server of its own. As it stands it takes between five and six minutes.

  --rounds N     how often each path takes its turn, 1 to 20 (3)
  --seconds N    how long a steady run lasts, 1 to 60; a burst lasts 1.6 times as long (4)
  --away MS      the round trip to a database that is some way off, 0 to 100; 0 leaves that out (2)
  --out DIR      where quota.md, its charts and quota.json go (.cache/load/quota)
  --docs         writes quota.md and its charts into docs/load, too
  --check        exit with 1 when an aim is missed
  --smoke        one round of one second, to see that everything works and adds up
  --help         this text

Exit code: 0, or 1 when a sum is wrong, a run failed or an aim was missed, or 2 when an argument is wrong.`

interface Settings {
  readonly rounds: number
  readonly seconds: number
  readonly awayMs: number
  readonly out: string
  readonly docs: boolean
  readonly check: boolean
}

/** What is being measured against. */
interface Bench {
  /** Straight to the database, for what isn't measured. */
  readonly pool: pg.Pool
  readonly services: ReadonlyMap<Path, Running>
  readonly wrong: string[]
}

/**
 * Runs it all; answers the exit code.
 *
 * @param loadBefore - the load of the machine before other parts of the same run, where there were some.
 */
export async function runQuotaLoad(args: readonly string[], loadBefore?: number): Promise<number> {
  const settings = readArguments(args)
  if (typeof settings === 'number') return settings
  // First: later the load of the machine would be this one's.
  const now = readFacts(root, ['pg', 'undici'])
  const facts = { ...now, load: loadBefore ?? now.load }
  if (await buildIfStale(root)) console.log('built dist, which was missing or older than src')
  const start = await bundlePrograms(root)
  const open: { stop(): Promise<void> }[] = []
  try {
    const postgres = await startPostgres(undefined, { durable: true, settings: quiet })
    if (postgres === undefined) return 1
    open.unshift(postgres)
    const pool = new pg.Pool({ connectionString: postgres.url, max: 1 })
    open.unshift({ stop: () => pool.end() })
    const scenarios = scenariosOf(settings.seconds, settings.awayMs)
    const rows: Row[] = []
    const wrong: string[] = []
    const statementMs = new Map<number, number>()
    for (const awayMs of new Set(scenarios.map((scenario) => scenario.awayMs))) {
      const there = scenarios.filter((scenario) => scenario.awayMs === awayMs)
      const { services, databaseUrl, stop } = await startServices(start, postgres.url, awayMs)
      try {
        statementMs.set(awayMs, await timeStatement(databaseUrl))
        rows.push(...(await measure({ pool, services, wrong }, there, settings)))
      } finally {
        await stop()
      }
    }
    return report(rows, wrong, settings, facts, { text: await describeDatabase(pool), statementMs })
  } finally {
    for (const part of open) await part.stop()
  }
}

/** A service of each path, with the database so far away. One that isn't its turn idles. */
async function startServices(
  start: Awaited<ReturnType<typeof bundlePrograms>>,
  postgresUrl: string,
  awayMs: number,
): Promise<Pick<Bench, 'services'> & { readonly databaseUrl: string; stop(): Promise<void> }> {
  const open: Running[] = []
  const stop = async (): Promise<void> => {
    for (const part of open) await part.stop()
  }
  try {
    let databaseUrl = postgresUrl
    if (awayMs > 0) {
      const env = { DATABASE_URL: postgresUrl, ROUND_TRIP_MS: String(awayMs) }
      const distance = await start('quota-distance', { env })
      open.unshift(distance)
      databaseUrl = distance.url
    }
    const services = new Map<Path, Running>()
    for (const path of paths) {
      const service = await start('quota', { env: { DATABASE_URL: databaseUrl, ACCOUNTING: path } })
      open.unshift(service)
      services.set(path, service)
    }
    return { services, databaseUrl, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** How long the least of statements takes, one at a time: the median, in milliseconds. */
async function timeStatement(databaseUrl: string): Promise<number> {
  const client = new pg.Client({ connectionString: databaseUrl })
  await client.connect()
  try {
    const tookMs: number[] = []
    for (let statement = 0; statement < 100; statement++) {
      const startMs = performance.now()
      await client.query('SELECT 1')
      tookMs.push(performance.now() - startMs)
    }
    return medianOf(tookMs)
  } finally {
    await client.end()
  }
}

async function measure(bench: Bench, scenarios: readonly Scenario[], { rounds, seconds }: Settings): Promise<Row[]> {
  const runs = new Map<Scenario, Map<Path, Run[]>>(
    scenarios.map((scenario) => [scenario, new Map(paths.map((path) => [path, []]))]),
  )
  const awayMs = scenarios[0]?.awayMs ?? 0
  const beforeAll: Scenario = {
    ...{ name: 'first', title: 'before the first round', awayMs },
    phases: [{ perSecond: 1000, seconds: Math.min(2, seconds) }],
  }
  for (const path of paths) await runOne(bench, beforeAll, path, 0)
  for (let round = 1; round <= rounds; round++) {
    console.log(`\nround ${round} of ${rounds}, database ${awayMs > 0 ? `${awayMs} ms away` : 'on this machine'}`)
    for (const scenario of scenarios) {
      const first = (round - 1) % paths.length
      for (const path of [...paths.slice(first), ...paths.slice(0, first)]) {
        const run = await runOne(bench, scenario, path, round)
        runs.get(scenario)?.get(path)?.push(run)
        const { p50Ms, p99Ms } = quantilesOf(run.latencies)
        const { title } = pathTexts[path]
        console.log(
          `  ${scenario.name.padEnd(10)}${title.padEnd(40)}p50 ${p50Ms.toFixed(2)} ms  p99 ${p99Ms.toFixed(2)} ms  ` +
            `late p99 ${run.lateP99Ms.toFixed(2)} ms  most waiting ${run.mostPending}`,
        )
      }
    }
  }
  return rowsOf(scenarios, (scenario, path) => runs.get(scenario)?.get(path) ?? [])
}

async function runOne({ pool, services, wrong }: Bench, scenario: Scenario, path: Path, round: number): Promise<Run> {
  const { url } = services.get(path) as Running
  const prefix = `${scenario.name}-${round}-${Date.now().toString(36)}-`
  const bodyOf = (user: number): string => JSON.stringify({ user_id: `${prefix}${user}`, value: 1 })
  // Every path gets the same requests in a round, and others in the next.
  const arrivals = arrivalsOf({ phases: [...warmUp, ...scenario.phases] }, users, round)
  const result = await runOpenLoop({ url, arrivals, bodyOf, users })
  const service = await askService<ServiceReport>(url, '/settle')
  const complain = (text: string): void => {
    wrong.push(`${pathTexts[path].title}, ${scenario.title}: ${text}`)
    console.log(`  WRONG: ${wrong.at(-1)}`)
  }
  if (service.givenUp > 0) complain(`${service.givenUp} uses were given up`)
  const stored = await checkStored(pool, path, prefix, result, complain)
  const sum = (counts: Uint32Array): number => counts.reduce((total, count) => total + count, 0)
  if (sum(result.failed) > 0) console.log(`  ${sum(result.failed)} requests failed`)
  const fromMs = 1000 * secondsOf({ phases: warmUp })
  const late = since({ atMs: result.atMs, tookMs: result.lateMs }, fromMs)
  return {
    latencies: since(result, fromMs),
    lateP99Ms: quantilesOf(late).p99Ms,
    answered: sum(result.answered),
    failed: sum(result.failed),
    stored,
    ...service,
  }
}

/** Complains unless the table has of each user what was answered; what failed may have been counted. Answers the sum. */
async function checkStored(
  pool: pg.Pool,
  path: Path,
  prefix: string,
  { answered, failed }: LoopResult,
  complain: (text: string) => void,
): Promise<number> {
  const { rows } = await pool.query(
    `SELECT user_id, sum(value) AS value FROM ${tableOf(path)} WHERE starts_with(user_id, $1) GROUP BY user_id`,
    [prefix],
  )
  const stored = new Float64Array(answered.length)
  for (const { user_id, value } of rows) stored[Number((user_id as string).slice(prefix.length))] = Number(value)
  const differing = stored.findIndex((value, user) => {
    const least = answered[user] as number
    return !(value >= least && value <= least + (failed[user] as number))
  })
  if (differing >= 0)
    complain(`of user ${differing}, ${answered[differing]} were answered, ${stored[differing]} are stored`)
  return stored.reduce((total, value) => total + value, 0)
}

async function describeDatabase(pool: pg.Pool): Promise<string> {
  const show = async (name: string): Promise<string> =>
    Object.values((await pool.query(`SHOW ${name}`)).rows[0])[0] as string
  const version = (await show('server_version')).split(' ')[0]
  const settings: string[] = []
  for (const name of ['fsync', 'synchronous_commit', 'autovacuum', 'checkpoint_timeout']) {
    settings.push(`${name} ${await show(name)}`)
  }
  return `PostgreSQL ${version}, ${settings.join(', ')}`
}

function report(
  rows: readonly Row[],
  wrong: readonly string[],
  settings: Settings,
  facts: Facts,
  database: Database,
): number {
  const { rounds, out, docs, check } = settings
  const comparison: QuotaComparison = { rows, facts, rounds, users, database, wrong }
  for (const folder of [out, ...(docs ? [join(root, 'docs/load')] : [])]) {
    mkdirSync(folder, { recursive: true })
    for (const scenario of new Set(rows.map((row) => row.scenario))) {
      writeFileSync(join(folder, chartName(scenario)), latencyChart(scenario, rows))
    }
    writeFileSync(join(folder, 'quota.md'), markdown(comparison))
  }
  const figures = rows.map(({ scenario, path, runs }) => ({
    scenario: scenario.name,
    path,
    runs: runs.map(({ latencies, ...run }) => ({ ...run, ...quantilesOf(latencies) })),
  }))
  const verdicts = judge(rows)
  const statementMs = Object.fromEntries(database.statementMs)
  const results = { ...comparison, database: { ...database, statementMs }, rows: figures, verdicts }
  writeFileSync(join(out, 'quota.json'), `${JSON.stringify(results, null, 2)}\n`)
  console.log(`\n${tableText(comparison)}\n`)
  for (const verdict of verdicts) console.log(verdictText(verdict))
  console.log(wrong.length === 0 ? 'every sum is right' : `${wrong.length} sums are WRONG`)
  console.log(`report: ${join(out, 'quota.md')}`)
  return wrong.length > 0 || (check && verdicts.some(({ ok }) => !ok)) ? 1 : 0
}

/** The settings, or the exit code when there is nothing to run. */
function readArguments(args: readonly string[]): Settings | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        rounds: { type: 'string', default: '3' },
        seconds: { type: 'string', default: '4' },
        away: { type: 'string', default: '2' },
        out: { type: 'string' },
        docs: { type: 'boolean', default: false },
        check: { type: 'boolean', default: false },
        smoke: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    })
    if (values.help) {
      console.log(help)
      return 0
    }
    if (values.smoke && values.docs) throw new Error("--docs needs figures, which --smoke doesn't give")
    return {
      rounds: values.smoke ? 1 : wholeFlag('rounds', values.rounds, 20),
      seconds: values.smoke ? 1 : wholeFlag('seconds', values.seconds, 60),
      awayMs: values.away === '0' ? 0 : wholeFlag('away', values.away, 100),
      out: values.out === undefined ? join(root, '.cache/load/quota') : resolve(values.out),
      docs: values.docs,
      check: values.check,
    }
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    console.error('npm run load -- quota --help says what there is.')
    return 2
  }
}
