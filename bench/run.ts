import { fork } from 'node:child_process'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { build } from 'esbuild'
import { buildIfStale } from './harness/built-package.ts'
import type { Measurement } from './harness/contest.ts'
import { type Facts, factsText, readFacts } from './harness/facts.ts'
import type { ContestOutline, SuiteMessage } from './harness/suite-process.ts'
import { judge, standing, tableOf, type Verdict } from './harness/verdict.ts'

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

const help = `Usage: npm run bench -- [options]

Measures the built package (built first, if dist is missing or older than src) beside its peers. Every contest runs in a
process of its own and takes its contenders in turns; every contender's answers are checked.

  --suite NAME   only this suite; may be given more than once: ${suiteNames().join(', ')}
  --only TEXT    only contests whose name contains this text
  --smoke        a few turns each, to see that it works and answers right; no ratios
  --check        exit with 1 when an aim is missed
  --docs         writes the contests that have an aim into docs/design/performance.md, a few of them into README.md; what
                 stands there of other suites stays
  --json FILE    where the results go (default .cache/bench/results.json)
  --help         this text

ns/add and the like: the median of the rounds' medians, from the first call of a turn until the last answer is there,
divided by the operations. Mean: the same with the rounds' means, which garbage collection and noise are part of.
Exit code: 0, or 1 when an answer was wrong or a contest failed, or 2 when an argument is.`

interface ContestReport {
  readonly suite: string
  readonly name: string
  readonly operation: string
  readonly operations: number
  readonly measurements: readonly Measurement[]
  readonly verdicts: readonly Verdict[]
}

const { suites, only, smoke, check, docs, json } = readArguments()
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
    for (const [index, contest] of contests.entries()) {
      if (!contest.name.includes(only)) continue
      console.log(`\n${suite}: ${contest.name}`)
      try {
        reports.push(await runContest(suite, files.get(suite) as string, index, contest))
      } catch (error) {
        failures.push(`${suite}: ${contest.name}`)
        console.log(`  FAILED: ${error instanceof Error ? error.message : error}`)
      }
    }
  }
  finish(facts, reports, failures)
}

async function runContest(suite: string, file: string, index: number, contest: ContestOutline): Promise<ContestReport> {
  const message = await ask(file, [String(index), smoke ? 'smoke' : 'full'])
  if (message.kind !== 'result') throw new Error(`expected a result, got ${message.kind}`)
  const { measurements } = message
  const { name, operation, operations, contenders } = contest
  const verdicts = smoke
    ? []
    : judge(
        measurements,
        contenders.map(({ aim }) => aim),
      )
  if (smoke) console.log(`  ${measurements.length} contenders answered right`)
  else console.log(tableOf(operation, measurements, verdicts))
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
  mkdirSync(dirname(json), { recursive: true })
  writeFileSync(json, `${JSON.stringify({ facts, smoke, contests: reports, failures }, undefined, 2)}\n`)
  console.log()
  if (reports.length + failures.length === 0) console.log(`no contest's name contains '${only}'`)
  if (!smoke) console.log(`aims reached: ${reached}, missed: ${missed}`)
  if (failures.length > 0) console.log(`failed:\n  ${failures.join('\n  ')}`)
  console.log(`results: ${json}`)
  if (docs && !smoke && failures.length === 0) writeDocs(facts, reports)
  if (failures.length > 0 || reports.length === 0 || (check && missed > 0)) process.exitCode = 1
}

/**
 * Puts the contests that have an aim between the marks of their page, and what stands for the rest into the README. What stands there of
 * suites that weren't run stays.
 */
function writeDocs(facts: Facts, reports: readonly ContestReport[]): void {
  const all = reports.flatMap((report) =>
    report.verdicts.filter(({ aim }) => aim !== null).map((verdict) => ({ report, verdict })),
  )
  const shown = headlines.filter(({ suite }) => suites.includes(suite))
  const chosen = shown.flatMap(({ suite, contest, peers }) =>
    peers.map((peer) => {
      const found = all.find(
        ({ report, verdict }) => report.suite === suite && report.name === contest && verdict.peer === peer,
      )
      if (found === undefined) throw new Error(`the README needs ${suite}: ${contest}, which was not run`)
      return found
    }),
  )
  writeTable('docs/design/performance.md', facts, all, suiteNames())
  writeTable(
    'README.md',
    facts,
    chosen,
    headlines.map(({ suite }) => suite),
  )
}

function writeTable(
  path: string,
  facts: Facts,
  standings: readonly { readonly report: ContestReport; readonly verdict: Verdict }[],
  order: readonly string[],
): void {
  const measured = standings.map(
    ({ report: { suite, name }, verdict }) => `| ${suite} | ${name} | ${verdict.peer} | ${standing(verdict)} |`,
  )
  const marks = /(<!-- bench:begin -->\n)([\s\S]*)(\n<!-- bench:end -->)/
  const text = readFileSync(join(root, path), 'utf8')
  const kept = (marks.exec(text)?.[2] ?? '').split('\n').filter((line) => {
    const suite = suiteOf(line)
    return order.includes(suite) && !suites.includes(suite)
  })
  const place = (row: string): number => order.indexOf(suiteOf(row))
  const rows = [...kept, ...measured].sort((a, b) => place(a) - place(b))
  const table = ['| suite | contest | beside | spillway |', '| --- | --- | --- | ---: |', ...rows].join('\n')
  const note = `Node ${facts.node}, ${facts.cores} cores.`
  writeFileSync(
    join(root, path),
    text.replace(marks, (_, begin, _old, end) => `${begin}${table}\n\n${note}${end}`),
  )
  console.log(`wrote ${measured.length} rows into ${path}, kept ${kept.length}`)
}

/** Which suite a row of a table is about. */
function suiteOf(row: string): string {
  return row.split('|')[1]?.trim() ?? ''
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
  copyFileSync(join(root, 'examples/counter-billing/counter.proto'), join(cache, 'counter.proto'))
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
        docs: { type: 'boolean', default: false },
        json: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    })
    if (values.help) {
      console.log(help)
      process.exit(0)
    }
    const known = suiteNames()
    const unknown = values.suite?.find((name) => !known.includes(name))
    if (unknown !== undefined) throw new Error(`there is no suite '${unknown}'; there are ${known.join(', ')}`)
    return {
      suites: values.suite ?? known,
      only: values.only,
      smoke: values.smoke,
      check: values.check,
      docs: values.docs,
      json: values.json === undefined ? join(cache, 'results.json') : resolve(values.json),
    }
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    console.error('npm run bench -- --help says what there is.')
    process.exit(2)
  }
}
