import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { startPostgres } from '../../test/servers/postgres.ts'
import { startRedis } from '../../test/servers/redis.ts'
import { buildIfStale } from '../harness/built-package.ts'
import { medianOf } from '../harness/contest.ts'
import { readFacts } from '../harness/facts.ts'
import { bundlePrograms, type Program, type Running, type Settings } from './processes.ts'
import { quotaScenariosOf, referencesOf } from './references.ts'
import { type Comparison, chartFile, html, latencyChart, markdown, tableText, throughputChart } from './report.ts'
import type { Row } from './row.ts'
import { type LoggerName, loggers, logSection } from './sections/logs.ts'
import { readSection } from './sections/reads.ts'
import { runSection, type Section, type SectionReport, sectionChart } from './sections/section.ts'
import { tokenDelayMs, tokenLifeMs, tokenSection } from './sections/tokens.ts'
import { type Places, Stored } from './stored.ts'
import { wholeFlag } from './whole-flag.ts'
import { findWrk, type LoadOptions, type LoadResult } from './wrk.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

const parts = ['writes', 'reads', 'tokens', 'logs', 'quota'] as const
type Part = (typeof parts)[number]

const help = `Usage: npm run load -- [options]
       npm run load -- quota [options], which is the part about quotas alone and has a --help of its own

The same HTTP load (wrk, 100 connections, a process of its own) on services that do a thing the naive way and on those that do it with
spillway, on a real Redis and a real Postgres, every part in a process of its own: counter writes, reads, tokens, logs, and usage that is
accounted. Targets take turns; after every run it is checked that what was answered is stored, read right, or in the log. Without
REDIS_URL and DATABASE_URL it starts servers of its own. As it stands it takes about a quarter of an hour.

  --part NAME    only this part; may be given more than once: ${parts.join(', ')}
  --rounds N     how often each target takes its turn, 1 to 20 (3)
  --seconds N    how long each run lasts, 1 to 60 (5)
  --pace N       requests a second of the writes below saturation (500)
  --only TEXT    of the writes, only targets whose name contains this text; may be given more than once
  --out DIR      where the report goes (.cache/load/report)
  --docs         writes it into docs/load, too; all parts must be run
  --check        exit with 1 when an aim is missed; all targets must be run
  --smoke        one round of one second, without quotas, to see that everything works and adds up
  --help         this text

Exit code: 0, or 1 when a sum is wrong, a run failed or an aim was missed, or 2 when an argument is wrong.`

interface Target {
  readonly name: string
  readonly url: string
  readonly acknowledgement?: string
  readonly places: Places
}

type Scene = 'rotating' | 'hot' | 'paced'
type Results = Record<Scene, LoadResult[]>

const connections = 100
const manyKeys = 1_000
if (process.argv[2] === 'quota') {
  const { runQuotaLoad } = await import('./quota/run.ts')
  process.exit(await runQuotaLoad(process.argv.slice(3)))
}
const { chosen, rounds, seconds, pace, only, out, docs, check } = readArguments()
// First: later the load of the machine would be this one's.
const facts = readFacts(root, ['fastify', '@grpc/grpc-js', 'ioredis', 'pg', 'pino', 'winston'])
process.exitCode = await main()

async function main(): Promise<number> {
  if (await buildIfStale(root)) console.log('built dist, which was missing or older than src')
  const wrk = await findWrk()
  const start = await bundlePrograms(root)
  const open: { stop(): Promise<void> }[] = []
  try {
    const [postgres, redis] = [await startPostgres(undefined, { durable: true }), await startRedis()]
    if (postgres === undefined || redis === undefined) return 1
    open.unshift(postgres, redis)
    const env = { DATABASE_URL: postgres.url, REDIS_URL: redis.url }
    const run = async (program: Program, settings: Settings = {}): Promise<Running> => {
      const running = await start(program, { ...settings, env: { ...env, ...settings.env } })
      open.unshift(running)
      return running
    }
    const wrong: string[] = []
    let writes: Row[] = []
    if (chosen.includes('writes')) {
      const stored = new Stored(postgres.url, redis.url)
      open.unshift({ stop: () => stored.close() })
      const targets = await startTargets(run)
      const measured = await measure(targets, wrk, stored)
      writes = rowsOf(targets, measured.results)
      wrong.push(...measured.wrong)
    }
    const sections: SectionReport[] = []
    for (const make of sectionsOf(run, env)) {
      const section = await runSection(await make(), wrk, { rounds, seconds, connections })
      sections.push(section)
      wrong.push(...section.wrong)
    }
    return report(writes, sections, wrong)
  } finally {
    for (const part of open) await part.stop()
  }
}

/** What is loaded beside writes, each started when it is its turn. */
function sectionsOf(
  run: (program: Program, settings?: Settings) => Promise<Running>,
  { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl }: { DATABASE_URL: string; REDIS_URL: string },
): (() => Promise<Section>)[] {
  const all: Partial<Record<Part, () => Promise<Section>>> = {
    reads: async () => {
      const counters = await run('service', { args: ['--role', 'counters', '--grpc-port', '0'] })
      const gateway = await run('service', { args: ['--role', 'gateway', '--port', '0', '--counters', counters.url] })
      const naivePostgres = await run('naive-reads', { env: { READS: 'postgres' } })
      const naiveRedis = await run('naive-reads', { env: { READS: 'redis' } })
      return readSection({ naivePostgres, naiveRedis, gateway, databaseUrl, redisUrl })
    },
    tokens: async () => {
      const env = { DELAY_MS: String(tokenDelayMs), TOKEN_LIFE_MS: String(tokenLifeMs) }
      const { url } = await run('token-issuer', { env })
      const proxy = (way: string): Promise<Running> => run('token-proxy', { env: { API: url, TOKENS: way } })
      return tokenSection({ each: await proxy('each'), kept: await proxy('kept'), cache: await proxy('cache') })
    },
    logs: async () => {
      const folder = mkdtempSync(join(tmpdir(), 'spillway-load-'))
      process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
      const services = {} as Record<LoggerName, Running>
      for (const name of Object.keys(loggers) as LoggerName[]) {
        services[name] = await run('logging', { env: { LOGS: name, LOG_PATH: join(folder, `${name}.log`) } })
      }
      return logSection(services)
    },
  }
  return chosen.flatMap((part) => all[part] ?? [])
}

/** Starts every program once; one that isn't its turn idles. */
async function startTargets(run: Awaited<ReturnType<typeof bundlePrograms>>): Promise<Target[]> {
  const naiveCounters = await run('naive-counters', {})
  const naive = (client: string): Promise<Running> =>
    run('naive-gateway', { env: { COUNTERS: naiveCounters.url, CLIENT: client } })
  const [own, shared] = [await naive('own'), await naive('shared')]
  const monolith = await run('monolith', {})
  const nothing = await run('nothing', {})
  const counters = await run('service', { args: ['--role', 'counters', '--grpc-port', '0'] })
  const gateway = await run('service', { args: ['--role', 'gateway', '--port', '0', '--counters', counters.url] })
  const naivePlaces: Places = { table: 'naive_counters', redis: { prefix: 'naive:' } }
  const ours: Places = { table: 'spillway_counters', redis: 'spillway' }
  const targets: Target[] = [
    { name: 'naive, a gRPC client per request', url: own.url, places: naivePlaces },
    { name: 'naive, one shared gRPC client', url: shared.url, places: naivePlaces },
    { name: 'monolith writing to Redis', url: monolith.url, places: { redis: { prefix: 'monolith:' } } },
    { name: 'spillway, accepted', url: gateway.url, acknowledgement: 'accepted', places: ours },
    { name: 'spillway, in Redis', url: gateway.url, acknowledgement: 'redis', places: ours },
    { name: 'spillway, committed', url: gateway.url, acknowledgement: 'committed', places: ours },
    { name: 'fastify doing nothing', url: nothing.url, places: {} },
  ]
  return targets.filter(({ name }) => only.length === 0 || only.some((text) => name.includes(text)))
}

async function measure(
  targets: readonly Target[],
  wrk: (options: LoadOptions) => Promise<LoadResult>,
  stored: Stored,
): Promise<{ results: Map<Target, Results>; wrong: string[] }> {
  const results = new Map<Target, Results>(targets.map((target) => [target, { rotating: [], hot: [], paced: [] }]))
  const wrong: string[] = []
  const runOne = async (target: Target, scene: Scene, round: number, forSeconds: number): Promise<LoadResult> => {
    const prefix = `${scene}-${round}-${targets.indexOf(target)}-${Date.now().toString(36)}-`
    const keys = scene === 'hot' ? 1 : manyKeys
    const { url, acknowledgement, places } = target
    const perSecond = scene === 'paced' ? pace : undefined
    const result = await wrk({ url, connections, seconds: forSeconds, prefix, keys, acknowledgement, perSecond })
    // What wrk cut off at the end may have been counted without having been answered.
    const [least, most] = [result.answered, result.answered + result.errors + connections]
    const complain = (text: string): void => {
      wrong.push(`${target.name}, ${scene}: ${text}`)
      console.log(`  WRONG: ${wrong.at(-1)}`)
    }
    for (const sum of await stored.settled(places, prefix, keys, least)) {
      if (sum < least || sum > most) complain(`${result.answered} were answered, ${sum} are stored`)
    }
    // A refusal is quick: with some of them among the answers, the latencies would say little.
    if (result.errors > 0) complain(`${result.errors} errors`)
    return result
  }
  for (const target of targets) await runOne(target, 'rotating', 0, Math.min(2, seconds))
  for (let round = 1; round <= rounds; round++) {
    console.log(`\nround ${round} of ${rounds}`)
    for (const scene of ['rotating', 'hot', 'paced'] as const) {
      const first = (round - 1) % targets.length
      for (const target of [...targets.slice(first), ...targets.slice(0, first)]) {
        const result = await runOne(target, scene, round, seconds)
        results.get(target)?.[scene].push(result)
        const rate = `${Math.round(result.perSecond).toLocaleString('en-US')}/s`
        console.log(
          `  ${scene.padEnd(9)}${target.name.padEnd(34)}${rate.padStart(10)}  p99 ${result.p99Ms.toFixed(1)} ms`,
        )
      }
    }
  }
  return { results, wrong }
}

function rowsOf(targets: readonly Target[], results: ReadonlyMap<Target, Results>): Row[] {
  return targets.map((target): Row => {
    const { rotating, hot, paced } = results.get(target) as Results
    const median = (runs: readonly LoadResult[], of: (result: LoadResult) => number): number => medianOf(runs.map(of))
    return {
      name: target.name,
      perSecond: median(rotating, ({ perSecond }) => perSecond),
      p50Ms: median(rotating, ({ p50Ms }) => p50Ms),
      p99Ms: median(rotating, ({ p99Ms }) => p99Ms),
      hotPerSecond: median(hot, ({ perSecond }) => perSecond),
      pacedPerSecond: median(paced, ({ perSecond }) => perSecond),
      pacedP50Ms: median(paced, ({ p50Ms }) => p50Ms),
      pacedP99Ms: median(paced, ({ p99Ms }) => p99Ms),
    }
  })
}

async function report(
  rows: readonly Row[],
  sections: readonly SectionReport[],
  wrong: readonly string[],
): Promise<number> {
  const quota = chosen.includes('quota') ? await loadQuotas() : { code: 0, scenarios: undefined }
  const references = referencesOf({ writes: rows, sections, quota: quota.scenarios })
  const effort = { rounds, seconds, connections, keys: manyKeys, pace }
  const comparison: Comparison = { rows, sections, references, facts, ...effort, wrong }
  for (const folder of [out, ...(docs ? [join(root, 'docs/load')] : [])]) {
    mkdirSync(folder, { recursive: true })
    if (rows.length > 0) {
      writeFileSync(join(folder, 'throughput.svg'), throughputChart(comparison))
      writeFileSync(join(folder, 'latency.svg'), latencyChart(comparison))
    }
    for (const section of sections) writeFileSync(join(folder, chartFile(section)), sectionChart(section))
    writeFileSync(join(folder, 'report.md'), markdown(comparison))
    writeFileSync(join(folder, 'report.html'), html(comparison))
  }
  writeFileSync(join(out, 'results.json'), `${JSON.stringify(comparison, null, 2)}\n`)
  console.log(`\n${tableText(comparison)}\n`)
  const missed = missedAims(rows)
  for (const aim of missed) console.log(`MISSED: ${aim}`)
  console.log(wrong.length === 0 ? 'every sum is right' : `${wrong.length} sums are WRONG`)
  console.log(`report: ${join(out, 'report.md')}, report.html, results.json`)
  return wrong.length > 0 || quota.code !== 0 || (check && missed.length > 0) ? 1 : 0
}

/** Loads the services that account usage, which has a report of its own. */
async function loadQuotas() {
  const { runQuotaLoad } = await import('./quota/run.ts')
  const flags = ['--rounds', String(rounds), '--seconds', String(seconds), '--out', out]
  const code = await runQuotaLoad([...flags, ...(docs ? ['--docs'] : []), ...(check ? ['--check'] : [])], facts.load)
  const results = join(out, 'quota.json')
  return {
    code,
    scenarios: existsSync(results) ? quotaScenariosOf(JSON.parse(readFileSync(results, 'utf8'))) : undefined,
  }
}

/** What the example's service is to reach beside the others, in throughput over rotating keys and in p99. */
function missedAims(rows: readonly Row[]): string[] {
  const rate = (text: string): number => rows.find(({ name }) => name.includes(text))?.perSecond ?? Number.NaN
  return rows
    .filter(({ name }) => name.startsWith('spillway'))
    .flatMap(({ name, perSecond, p99Ms }) => [
      ...(perSecond < 12 * rate('client per request') ? [`${name}: 12 times naive with a client per request`] : []),
      ...(perSecond < 5 * rate('shared gRPC') ? [`${name}: 5 times naive with a shared client`] : []),
      ...(perSecond < 0.7 * rate('monolith') ? [`${name}: 0.7 of the monolith`] : []),
      ...(p99Ms >= 30 ? [`${name}: p99 under 30 ms, got ${p99Ms.toFixed(1)}`] : []),
    ])
}

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        part: { type: 'string', multiple: true },
        rounds: { type: 'string', default: '3' },
        seconds: { type: 'string', default: '5' },
        pace: { type: 'string', default: '500' },
        only: { type: 'string', multiple: true, default: [] },
        out: { type: 'string' },
        docs: { type: 'boolean', default: false },
        check: { type: 'boolean', default: false },
        smoke: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    })
    if (values.help) {
      console.log(help)
      process.exit(0)
    }
    const unknown = values.part?.find((name) => !parts.some((part) => part === name))
    if (unknown !== undefined) throw new Error(`there is no part '${unknown}'; there are ${parts.join(', ')}`)
    const all = parts.filter((part) => part !== 'quota' || !values.smoke)
    const chosen = parts.filter((part) => values.part?.includes(part) ?? all.includes(part))
    if (values.docs && (values.smoke || chosen.length < parts.length || values.only.length > 0)) {
      throw new Error('--docs needs all parts and targets, and figures, which --smoke does not give')
    }
    if (values.check && values.only.length > 0) {
      throw new Error('--check holds targets against each other, and --only leaves some out')
    }
    return {
      chosen,
      rounds: values.smoke ? 1 : wholeFlag('rounds', values.rounds, 20),
      seconds: values.smoke ? 1 : wholeFlag('seconds', values.seconds, 60),
      pace: wholeFlag('pace', values.pace, 100_000),
      only: values.only,
      out: values.out === undefined ? join(root, '.cache/load/report') : resolve(values.out),
      docs: values.docs,
      check: values.check,
    }
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    console.error('npm run load -- --help says what there is.')
    process.exit(2)
  }
}
