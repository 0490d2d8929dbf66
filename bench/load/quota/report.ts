import { medianOf } from '../../harness/contest.ts'
import { type Facts, factsText } from '../../harness/facts.ts'
import { ratio, whole } from '../report.ts'
import { type Latencies, type Quantiles, quantilesOf, slicesOf } from './latencies.ts'
import { type Band, type Line, lineChart } from './line-chart.ts'
import { type Path, paths, pathsInRequest, pathTexts, type ServiceReport } from './paths.ts'
import { type Scenario, secondsOf } from './scenarios.ts'

/** One path in one scenario in one round. */
export interface Run extends ServiceReport {
  readonly latencies: Latencies
  /** How late the load itself was, at the 99th percentile. */
  readonly lateP99Ms: number
  readonly answered: number
  readonly failed: number
  /** What the table has of this run. */
  readonly stored: number
}

/** The rounds of one path in one scenario. */
export interface Row {
  readonly scenario: Scenario
  readonly path: Path
  readonly runs: readonly Run[]
}

export interface QuotaComparison {
  readonly rows: readonly Row[]
  readonly facts: Facts
  readonly rounds: number
  readonly users: number
  readonly database: Database
  readonly wrong: readonly string[]
}

export interface Database {
  /** What the server says of itself. */
  readonly text: string
  /** How long the least of statements took before the load, by how far away the database was. */
  readonly statementMs: ReadonlyMap<number, number>
}

/** What came of the aim in a scenario. */
export interface Verdict {
  readonly scenario: Scenario
  /** How many times less the p99 of the asynchronous path was. */
  readonly times: number
  /** How many of its requests failed: an answer that says so is a fast one, and nothing to be praised for. */
  readonly failed: number
  readonly ok: boolean
}

/** The p99 of the asynchronous path is to be more than so many times less than that of the synchronous one, in these scenarios. */
export const aim = { scenarios: ['1000', '1000-away'], path: 'consume', beside: 'consume-sync', timesLess: 10 } as const
/** What heads the ratios, and what the aim is told with. */
const shortTitles = { 'consume-sync': 'consumeQuotaSync', upsert: 'one upsert', consume: 'consumeQuota' } as const
const colors: Readonly<Record<Path, string>> = {
  'consume-sync': '#b5483a',
  upsert: '#d18b2c',
  'check-and-consume': '#3a6ea5',
  consume: '#0b7a75',
}

/** The medians of the rounds' quantiles. */
export function quantilesOfRow({ runs }: Row): Quantiles {
  const each = runs.map(({ latencies }) => quantilesOf(latencies))
  const median = (name: keyof Quantiles): number => medianOf(each.map((quantiles) => quantiles[name]))
  return { p50Ms: median('p50Ms'), p95Ms: median('p95Ms'), p99Ms: median('p99Ms'), maxMs: median('maxMs') }
}

/** How many times less the p99 is than another path's in the same scenario; undefined where that wasn't run. */
export function timesLess(row: Row, beside: Path, rows: readonly Row[]): number | undefined {
  const other = rows.find(({ scenario, path }) => scenario === row.scenario && path === beside)
  return other === undefined ? undefined : quantilesOfRow(other).p99Ms / quantilesOfRow(row).p99Ms
}

/** What came of the aim, in each of its scenarios that was run. */
export function judge(rows: readonly Row[]): Verdict[] {
  const names: readonly string[] = aim.scenarios
  return rows
    .filter(({ scenario, path }) => path === aim.path && names.includes(scenario.name))
    .map((row) => {
      const times = timesLess(row, aim.beside, rows) ?? Number.NaN
      const failed = row.runs.reduce((sum, run) => sum + run.failed, 0)
      return { scenario: row.scenario, times, failed, ok: times > aim.timesLess && failed === 0 }
    })
}

/** A verdict as a line of text. */
export function verdictText({ scenario, times, failed, ok }: Verdict): string {
  const [path, beside] = [shortTitles[aim.path], shortTitles[aim.beside]]
  return (
    `${ok ? 'reached' : 'MISSED'}: ${scenario.title}, a p99 of ${path} under a tenth of that of ${beside}: ` +
    `${times.toFixed(1)} times less${failed > 0 ? `, but ${whole(failed)} requests failed` : ''}`
  )
}

function cells({ rows }: QuotaComparison): string[][] {
  const header = [
    'scenario',
    'path',
    'p50 ms',
    'p95 ms',
    'p99 ms',
    'max ms',
    'late ms',
    ...pathsInRequest.map((path) => `p99 of ${shortTitles[path]}`),
    'most waiting',
    'no room',
    'batches',
    'failed',
    'lost',
  ]
  const sum = (row: Row, of: (run: Run) => number): number => row.runs.reduce((total, run) => total + of(run), 0)
  return [
    header,
    ...rows.map((row) => {
      const { p50Ms, p95Ms, p99Ms, maxMs } = quantilesOfRow(row)
      const { title, inRequest } = pathTexts[row.path]
      const times = pathsInRequest.map((beside) => (inRequest ? undefined : timesLess(row, beside, rows)))
      const behind = (text: string): string => (inRequest ? '' : text)
      return [
        row.scenario.title,
        title,
        ...[p50Ms, p95Ms, p99Ms, maxMs, medianOf(row.runs.map(({ lateP99Ms }) => lateP99Ms))].map(milliseconds),
        ...times.map((value) => (value === undefined ? '' : ratio(value))),
        behind(whole(Math.max(...row.runs.map(({ mostPending }) => mostPending)))),
        behind(whole(sum(row, ({ fallbacks }) => fallbacks))),
        behind(whole(sum(row, ({ batches }) => batches))),
        whole(sum(row, ({ failed }) => failed)),
        whole(sum(row, ({ answered, stored }) => Math.max(0, answered - stored))),
      ]
    }),
  ]
}

export function tableText(comparison: QuotaComparison): string {
  const table = cells(comparison)
  const widths = table[0]?.map((_, column) => Math.max(...table.map((row) => (row[column] ?? '').length))) ?? []
  return table
    .map((row) =>
      row.map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
    )
    .join('\n')
}

/** The page, beside which the charts lie. */
export function markdown(comparison: QuotaComparison): string {
  const { rows, facts, rounds, users, database, wrong } = comparison
  const [header = [], ...body] = cells(comparison)
  const line = (row: readonly string[]): string => `| ${row.join(' | ')} |`
  const rule = header.map((_, column) => (column < 2 ? '---' : '---:'))
  const scenarios = [...new Set(rows.map(({ scenario }) => scenario))]
  const events = rows.flatMap(({ runs }) => runs).reduce((sum, { answered }) => sum + answered, 0)
  const sums =
    wrong.length === 0
      ? `All sums were right: after every run, the table held of each user what had been answered, ${whole(events)} uses in all; none was lost,
and none counted twice.`
      : `${wrong.length} sums were WRONG: ${wrong.join('; ')}.`
  return `# Accounting usage in the request, and behind it

The same requests on a service that counts what each uses, in four ways. The service is one process of plain \`node:http\` that does nothing else,
with a pool of 10 connections to a real PostgreSQL; each way has a process and a table of its own, and they take turns${rounds === 1 ? '' : `, in each of ${rounds} rounds`}. All share
the machine with the database and the load. Connections are open, and each run begins with some requests that aren't measured.

${[...new Set(rows.map(({ path }) => path))].map((path) => `- **${pathTexts[path].title}**: ${pathTexts[path].does}.`).join('\n')}

The consumer is \`QuotaConsumer.presets.highConcurrency\`: batches of 20, 5 workers, room for 2,000. It has no journal: a process that is killed
loses what waits. A use that it has no room for is written in its request. A check may use again what was read (\`usageTtlMs\`) until a batch of the same
user is written, which here is nearly always before the next one; checks that come together are one query.

The load is an open loop: each request is sent when it is due, whether or not earlier ones were answered, and its latency counts from then, so that a
service that falls behind isn't spared and no wait is left out. Requests come at random (Poisson), of ${whole(users)} users at random: ${whole(users)} keys, which
spares what counts in the request most of the waiting for each other's rows. "Late" is how late the load itself sent 99 % of the requests, at most,
on a machine that it shares: that is in all latencies, and so weighs most on the least of them. The figures are the rounds' medians; a ratio is the p99
of a way in the request over this one's.

${[...database.statementMs].map(([awayMs, ms]) => `- ${placeText(awayMs)}: a \`SELECT 1\` took ${milliseconds(ms)} ms.`).join('\n')}

The aim is a p99 of \`consumeQuota\` under a tenth of that of \`consumeQuotaSync\`, at 1,000 requests a second in the same run, wherever the database is:

${judge(rows)
  .map((verdict) => `- ${verdictText(verdict)}.`)
  .join('\n')}
${
  facts.load > facts.cores / 2
    ? `\nThe machine was busy with something else when this began: a load of ${facts.load} on ${facts.cores} cores. Such figures say little.\n`
    : ''
}
${[header, rule, ...body].map(line).join('\n')}

${sums} "Most waiting" is how many uses the consumer had at a time, at most, in
any round: waiting, or in one of five batches on their way. "No room" is how many were written in their requests. The sums and counts include the
requests that weren't measured.

${scenarios.map((scenario) => `![${scenario.title}](${chartName(scenario)})`).join('\n\n')}

\`npm run load -- quota\` makes this report. ${database.text}. ${factsText(facts).replace('\n', '; ')}.
`
}

function placeText(awayMs: number): string {
  return awayMs === 0
    ? 'The database is on the same machine, which spares what counts in the request the way to it'
    : `Where it is said to be away, what passes is delayed by ${awayMs} ms there and back, as to another zone, and by how late timers are`
}

export function chartName({ name }: Scenario): string {
  return `quota-${name}.svg`
}

/** p50 and p99 over time, all rounds on top of each other. */
export function latencyChart(scenario: Scenario, rows: readonly Row[]): string {
  const seconds = secondsOf(scenario)
  const sliceMs = (seconds * 1000) / Math.min(16, Math.max(4, Math.round(seconds * 2)))
  const lines = rows
    .filter((row) => row.scenario === scenario)
    .flatMap(({ path, runs }): Line[] => {
      const slices = slicesOf(
        runs.map(({ latencies }) => latencies),
        sliceMs,
      )
      const { title } = pathTexts[path]
      const points = (of: (slice: (typeof slices)[number]) => number): Line['points'] =>
        slices.map((slice) => ({ x: (slice.fromMs + slice.untilMs) / 2000, y: of(slice) }))
      return [
        { name: `p99 ${title}`, color: colors[path], points: points(({ p99Ms }) => p99Ms) },
        { name: `p50 ${title}`, color: colors[path], light: true, points: points(({ p50Ms }) => p50Ms) },
      ]
    })
  return lineChart({
    title: `latency under ${scenario.title}`,
    xLabel: 'seconds since the start, when the request was due',
    yLabel: 'milliseconds',
    xMax: seconds,
    lines,
    bands: bandsOf(scenario),
  })
}

/** Where the rate is above the least one. */
export function bandsOf({ phases }: Scenario): Band[] {
  const least = Math.min(...phases.map(({ perSecond }) => perSecond))
  let from = 0
  return phases.flatMap(({ perSecond, seconds }) => {
    const band = { from, until: from + seconds, label: `${whole(perSecond)} requests/s` }
    from = band.until
    return perSecond > least ? [band] : []
  })
}

/** The order of the table. */
export function rowsOf(scenarios: readonly Scenario[], runsOf: (scenario: Scenario, path: Path) => Run[]): Row[] {
  return scenarios.flatMap((scenario) =>
    paths.map((path) => ({ scenario, path, runs: runsOf(scenario, path) })).filter(({ runs }) => runs.length > 0),
  )
}

function milliseconds(value: number): string {
  return value < 10 ? value.toFixed(2) : value.toFixed(1)
}
