import { fork } from 'node:child_process'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { build } from 'esbuild'
import { benchHtml, type ContestReport, headlineChart } from './harness/bench-report.ts'
import { buildIfStale } from './harness/built-package.ts'
import { type Facts, factsText, readFacts } from './harness/facts.ts'
import {
  type MeasuredRow,
  regressionsOf,
  type Standing,
  standingsOf,
  unmeasuredOf,
  updateTable,
} from './harness/performance-table.ts'
import type { ContestOutline, SuiteMessage } from './harness/suite-process.ts'
import { judge, settledVerdicts, tableOf, tries, type Verdict } from './harness/verdict.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const cache = join(root, '.cache/bench')
/** What stands for the rest in the README: a row or two of each primitive and store. */
const headlines: readonly { readonly suite: string; readonly contest: string; readonly peers: readonly string[] }[] = [
  {
    suite: 'async-batcher',
    contest: '1000 adds a turn, maxBatchSize 100',
    peers: ['dataloader, cache off', '@tanstack/pacer AsyncBatcher'],
  },
  {
    suite: 'async-write-buffer',
    contest: '1000 keys, 10 puts each in a turn, until all is stored, maxBatchSize 1000',
    peers: ['Map sum by hand'],
  },
  {
    suite: 'quota-consumer',
    contest: "250 users of 4 quota types, 10 events of each, the caller's own part, maxBatchSize 1000",
    peers: ['Map sum by hand, a Map of Maps'],
  },
  {
    suite: 'async-log-buffer',
    contest: 'bursts of 1000 lines, until the file has all',
    peers: ['sonic-boom 4.2.0', 'sonic-boom 5'],
  },
  {
    suite: 'file-journal',
    contest: '200 uses published at once, each durable when it is answered',
    peers: ['by hand, a line and a sync a use'],
  },
  {
    suite: 'circuit-breaker',
    contest: 'closed, consecutive failures, 1000 calls one after the other',
    peers: ['bare await', 'cockatiel ConsecutiveBreaker'],
  },
  {
    suite: 'multi-level-cache',
    contest: 'L1 hit, by the call that would load',
    peers: ['lru-cache, fetch', 'bentocache, getOrSet', 'cacheable, getOrSet'],
  },
  { suite: 'load-balancer', contest: 'round_robin, 20 instances', peers: ['array index and a lease by hand'] },
  { suite: 'load-balancer', contest: 'p2c, 20 instances', peers: ['two draws by hand'] },
  {
    suite: 'token-cache',
    contest: 'a token that is there, 1000 calls one after the other',
    peers: ['a token and its time by hand', 'google-auth-library OAuth2Client.getAccessToken'],
  },
  {
    suite: 'grpc',
    contest: 'batched, each caller its own answer',
    peers: ['grpc-js, a unary call an increment, 100 callers'],
  },
  {
    suite: 'postgres-counters',
    contest: '1,000 keys, batches of 100, exactly once',
    peers: ['one prepared upsert an event, 100 callers'],
  },
  {
    suite: 'postgres-quota',
    contest: '1,000 keys, maxBatchSize 100, exactly once',
    peers: ['one prepared upsert an event, 10 at a time'],
  },
  {
    suite: 'redis-counters',
    contest: '1,000 keys, batches of 100, exactly once',
    peers: ['ioredis, one INCRBY a call, 100 callers'],
  },
]
/** A contest takes seconds; one that takes this long hangs. */
const contestLimitMs = 300_000
const performancePage = 'docs/design/performance.md'
const defaultTolerance = 0.25

const help = `Usage: npm run bench -- [options]

Measures the built package (built first, if dist is missing or older than src) beside its peers. Every contest runs in a
process of its own and takes its contenders in turns; every contender's answers are checked.

  --suite NAME   only this suite; may be given more than once: ${suiteNames().join(', ')}
  --only TEXT    only contests whose name contains this text
  --smoke        a few turns each, to see that it works and answers right; no ratios
  --check        exit with 1 when an aim is missed
  --regressions  compares the ratios with those that docs/design/performance.md keeps, measures what is worse ${tries} times in all, and
                 exits with 1 where it is worse in most of them, or where something that is kept there was not measured
  --tolerance N  by how much a ratio may be worse, 0.01 to 10 (${defaultTolerance}: a machine with other work to do moves one by some 15 %)
  --docs         writes the contests that have an aim into docs/design/performance.md, with a chart, a few of them into
                 README.md; what stands there of other suites stays
  --json FILE    where the results go (default .cache/bench/results.json), and with .html in place of .json the report with bars
  --help         this text

ns/add and the like: the median of the rounds' medians, from the first call of a turn until the last answer is there,
divided by the operations. Mean: the same with the rounds' means, which garbage collection and noise are part of.
Exit code: 0, or 1 when an answer was wrong or a contest failed, or 2 when an argument is.`

const { suites, only, smoke, check, regressions, tolerance, docs, json } = readArguments()
await main()

async function main(): Promise<void> {
  if (await buildIfStale(root)) console.log('built dist, which was missing or older than src')
  const { files, packages } = await bundle(suites)
  const facts = readFacts(root, packages)
  console.log(factsText(facts))
  const contents = new Map<string, readonly ContestOutline[]>()
  for (const [suite, file] of files) contents.set(suite, await contestsOf(suite, file))
  // Now, not after all has been measured.
  checkHeadlines(contents)
  const reports: ContestReport[] = []
  const failures: string[] = []
  for (const [suite, contests] of contents) {
    const chosen = [...contests.entries()].filter(([, { name }]) => name.includes(only))
    if (smoke && chosen.length > 0) await trySuite(suite, files.get(suite) as string, chosen, { reports, failures })
    for (const [index, contest] of smoke ? [] : chosen) {
      console.log(`\n${suite}: ${contest.name}`)
      try {
        reports.push(await runWell(suite, files.get(suite) as string, index, contest))
      } catch (error) {
        failures.push(`${suite}: ${contest.name}`)
        console.log(`  FAILED: ${error instanceof Error ? error.message : error}`)
      }
    }
  }
  finish(facts, reports, failures)
}

/** Tries the contests of a suite, and measures nothing. */
async function trySuite(
  suite: string,
  file: string,
  chosen: readonly [number, ContestOutline][],
  { reports, failures }: { readonly reports: ContestReport[]; readonly failures: string[] },
): Promise<void> {
  const message = await ask(file, ['smoke', chosen.map(([index]) => index).join(',')]).catch((error: Error) => error)
  console.log(`\n${suite}`)
  for (const [place, [, { name, operation, operations }]] of chosen.entries()) {
    const outcome = 'kind' in message && message.kind === 'smoked' ? message.outcomes[place] : undefined
    if (outcome !== undefined && 'contenders' in outcome) {
      console.log(`  ${name}: ${outcome.contenders} contenders answered right`)
      reports.push({ suite, name, operation, operations, measurements: [], verdicts: [] })
    } else {
      failures.push(`${suite}: ${name}`)
      console.log(`  ${name} FAILED: ${outcome?.error ?? (message instanceof Error ? message.message : message.kind)}`)
    }
  }
}

/** Runs a contest, and again where it may have become worse than the documents say. */
async function runWell(suite: string, file: string, index: number, contest: ContestOutline): Promise<ContestReport> {
  const report = await runContest(suite, file, index, contest)
  if (!regressions) return report
  const looksWorse = (verdicts: readonly Verdict[]): boolean =>
    worse([{ ...report, verdicts }], tolerance / 2).length > 0
  const verdicts = await settledVerdicts(report.verdicts, looksWorse, async () => {
    console.log('  it looks worse than it was: measured again')
    return (await runContest(suite, file, index, contest)).verdicts
  })
  return { ...report, verdicts }
}

/** What takes longer, beside its peer, than the documents say. */
function worse(reports: readonly ContestReport[], byMoreThan: number) {
  return regressionsOf(measuredOf(reports), keptStandings(), byMoreThan)
}

function keptStandings() {
  return standingsOf(readFileSync(join(root, performancePage), 'utf8'))
}

function measuredOf(reports: readonly ContestReport[]): Standing[] {
  return reports.flatMap(({ suite, name, verdicts }) =>
    verdicts.map(({ peer, ratio }) => ({ suite, contest: name, peer, ratio })),
  )
}

async function runContest(suite: string, file: string, index: number, contest: ContestOutline): Promise<ContestReport> {
  const message = await ask(file, [String(index)])
  if (message.kind !== 'result') throw new Error(`expected a result, got ${message.kind}`)
  const { measurements } = message
  const { name, operation, operations, contenders } = contest
  const aims = contenders.map(({ aim }) => aim)
  const verdicts = judge(measurements, aims)
  console.log(tableOf(operation, measurements, verdicts))
  return { suite, name, operation, operations, measurements, verdicts }
}

/** Throws when what the README shows of these suites isn't there, or has no aim. */
function checkHeadlines(contents: ReadonlyMap<string, readonly ContestOutline[]>): void {
  for (const { suite, contest, peers } of headlines) {
    const contests = contents.get(suite)
    const contenders = contests?.find(({ name }) => name === contest)?.contenders
    const missing = peers.filter((peer) => !contenders?.some(({ name, aim }) => name === peer && aim !== undefined))
    if (contests !== undefined && missing.length > 0) {
      throw new Error(`the README shows ${suite}: ${contest} beside ${missing.join(', ')}, which has no such aim`)
    }
  }
}

function finish(facts: Facts, reports: readonly ContestReport[], failures: readonly string[]): void {
  const verdicts = reports.flatMap((report) => report.verdicts)
  const reached = verdicts.filter(({ ok }) => ok === true).length
  const missed = verdicts.filter(({ ok }) => ok === false).length
  const page = json.replace(/(?:\.json)?$/, '.html')
  mkdirSync(dirname(json), { recursive: true })
  writeFileSync(json, `${JSON.stringify({ facts, smoke, contests: reports, failures }, undefined, 2)}\n`)
  if (!smoke) writeFileSync(page, benchHtml(facts, reports))
  console.log()
  if (reports.length + failures.length === 0) console.log(`no contest's name contains '${only}'`)
  if (!smoke) console.log(`aims reached: ${reached}, missed: ${missed}`)
  const regressed = regressions ? worse(reports, tolerance) : []
  for (const { suite, contest, peer, ratio, kept } of regressed) {
    console.log(
      `WORSE: ${suite}, ${contest}, beside ${peer}: ${ratio.toFixed(2)} x the time, it was ${kept.toFixed(2)}`,
    )
  }
  // What failed is told below; of what was left out nothing is expected.
  const expected = regressions && only === '' && failures.length === 0
  const unmeasured = expected ? unmeasuredOf(measuredOf(reports), keptStandings(), suites) : []
  for (const { suite, contest, peer } of unmeasured) {
    console.log(`NOT MEASURED: ${suite}, ${contest}, beside ${peer}: ${performancePage} keeps it`)
  }
  if (regressions)
    console.log(`worse than the repository keeps, by more than ${tolerance * 100} %: ${regressed.length}`)
  if (failures.length > 0) console.log(`failed:\n  ${failures.join('\n  ')}`)
  console.log(`results: ${json}${smoke ? '' : `, with bars: ${page}`}`)
  if (docs && failures.length === 0) writeDocs(facts, reports)
  const wrong = failures.length > 0 || reports.length === 0
  if (wrong || regressed.length + unmeasured.length > 0 || (check && missed > 0)) process.exitCode = 1
}

/**
 * Puts the contests that have an aim between the marks of their page, with a chart of those that stand for the rest, and these into the
 * README, too. What stands there of suites that weren't run stays.
 */
function writeDocs(facts: Facts, reports: readonly ContestReport[]): void {
  const all = reports.flatMap(({ suite, name, verdicts }) =>
    verdicts.filter(({ aim }) => aim !== null).map((verdict): MeasuredRow => ({ suite, contest: name, verdict })),
  )
  const shown = headlines.filter(({ suite }) => suites.includes(suite))
  const chosen = shown.flatMap(({ suite, contest, peers }) =>
    peers.map((peer) => {
      const found = all.find((row) => row.suite === suite && row.contest === contest && row.verdict.peer === peer)
      if (found === undefined) throw new Error(`the README needs ${suite}: ${contest}, which was not run`)
      return found
    }),
  )
  const note = `Node ${facts.node}, ${facts.cores} cores.`
  const update = (path: string, rows: readonly MeasuredRow[], order: readonly string[]): string => {
    const { page, kept } = updateTable(readFileSync(join(root, path), 'utf8'), { rows, order, measured: suites, note })
    writeFileSync(join(root, path), page)
    console.log(`wrote ${rows.length} rows into ${path}, kept ${kept}`)
    return page
  }
  update(performancePage, all, suiteNames())
  const readme = update(
    'README.md',
    chosen,
    headlines.map(({ suite }) => suite),
  )
  writeFileSync(join(root, 'docs/design/performance.svg'), headlineChart(standingsOf(readme)))
}

/** Bundles each suite with the harness; packages stay outside, so that node itself resolves them, spillway to its own dist. */
async function bundle(names: readonly string[]): Promise<{ files: Map<string, string>; packages: string[] }> {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: names.map((name) => ({ in: `bench/${name}.bench.ts`, out: name })),
    outdir: cache,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    target: `node${process.versions.node}`,
    sourcemap: 'inline',
    metafile: true,
    tsconfigRaw: {},
  })
  // The example's protocol looks for it beside itself.
  copyFileSync(join(root, 'examples/counter-billing/counter/counter.proto'), join(cache, 'counter.proto'))
  const imports = Object.values(metafile.outputs).flatMap((output) => output.imports)
  const packages = imports
    .map(({ path }) => path)
    .filter((path) => !path.startsWith('node:') && !path.startsWith('.'))
    .map((path) =>
      path
        .split('/')
        .slice(0, path.startsWith('@') ? 2 : 1)
        .join('/'),
    )
  return {
    files: new Map(names.map((name) => [name, join(cache, `${name}.mjs`)])),
    packages: [...new Set(packages)].sort(),
  }
}

async function contestsOf(suite: string, file: string): Promise<readonly ContestOutline[]> {
  const message = await ask(file, [])
  if (message.kind !== 'contents') throw new Error(`expected contents, got ${message.kind}`)
  if (message.spillway !== pathToFileURL(join(root, 'dist/index.js')).href) {
    throw new Error(`${suite} would measure ${message.spillway}, not the built package`)
  }
  return message.contests
}

/** Starts a suite's process with plain node, and waits for its one message and its end. */
function ask(file: string, args: readonly string[]): Promise<SuiteMessage> {
  return new Promise((resolve, reject) => {
    const child = fork(file, args, {
      execArgv: ['--expose-gc', '--enable-source-maps'],
      timeout: contestLimitMs,
      env: { ...process.env, NODE_ENV: 'production', NODE_OPTIONS: '' },
    })
    let message: SuiteMessage | undefined
    child.on('message', (received) => {
      message = received as SuiteMessage
    })
    child.on('error', reject)
    child.on('exit', (code, signal) => {
      if (message?.kind === 'error') reject(new Error(message.error))
      else if (message === undefined) reject(new Error(`it ended without a result (${signal ?? `code ${code}`})`))
      else resolve(message)
    })
  })
}

function suiteNames(): string[] {
  const ending = '.bench.ts'
  const files = readdirSync(join(root, 'bench')).filter((name) => name.endsWith(ending))
  return files.map((name) => name.slice(0, -ending.length)).sort()
}

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        suite: { type: 'string', multiple: true },
        only: { type: 'string', default: '' },
        smoke: { type: 'boolean', default: false },
        check: { type: 'boolean', default: false },
        regressions: { type: 'boolean', default: false },
        tolerance: { type: 'string', default: String(defaultTolerance) },
        docs: { type: 'boolean', default: false },
        json: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    })
    if (values.help) {
      console.log(help)
      process.exit(0)
    }
    const tolerance = Number(values.tolerance)
    if (!(tolerance >= 0.01 && tolerance <= 10)) {
      throw new Error(`--tolerance must be a number from 0.01 to 10, got "${values.tolerance}"`)
    }
    for (const flag of ['check', 'regressions', 'docs'] as const) {
      if (values[flag] && values.smoke) throw new Error(`--smoke measures nothing that --${flag} could use`)
    }
    if (values.docs && values.only !== '') {
      throw new Error('--docs writes all of a suite anew, and --only leaves contests out: they would be gone')
    }
    const known = suiteNames()
    const unknown = values.suite?.find((name) => !known.includes(name))
    if (unknown !== undefined) throw new Error(`there is no suite '${unknown}'; there are ${known.join(', ')}`)
    return {
      suites: values.suite ?? known,
      only: values.only,
      smoke: values.smoke,
      check: values.check,
      regressions: values.regressions,
      tolerance,
      docs: values.docs,
      json: values.json === undefined ? join(cache, 'results.json') : resolve(values.json),
    }
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    console.error('npm run bench -- --help says what there is.')
    process.exit(2)
  }
}
