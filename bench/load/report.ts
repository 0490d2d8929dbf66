import { barChart, colors, escapeXml } from '../harness/bar-chart.ts'
import { type Facts, factsText } from '../harness/facts.ts'

/** What one target did, the medians of its rounds. */
export interface Row {
  readonly name: string
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly hotPerSecond: number
  readonly pacedPerSecond: number
  readonly pacedP50Ms: number
  readonly pacedP99Ms: number
}

export interface Comparison {
  readonly rows: readonly Row[]
  readonly facts: Facts
  readonly rounds: number
  readonly seconds: number
  readonly connections: number
  readonly keys: number
  readonly pace: number
  readonly wrong: readonly string[]
}

const yardsticks = [
  { title: 'of naive, own client', name: 'client per request' },
  { title: 'of naive, shared', name: 'shared gRPC' },
  { title: 'of the monolith', name: 'monolith' },
] as const

/** The table, a cell a string. */
function cells({ rows, pace }: Comparison): string[][] {
  const base = yardsticks.map(({ name }) => rows.find((row) => row.name.includes(name))?.perSecond)
  const header = [
    'target',
    'requests/s',
    ...yardsticks.map(({ title }) => title),
    'p50 ms',
    'p99 ms',
    'one hot key, requests/s',
    `p50 ms at ${whole(pace)}/s`,
    `p99 ms at ${whole(pace)}/s`,
  ]
  const body = rows.map((row) => [
    row.name,
    whole(row.perSecond),
    ...base.map((other) => (other === undefined ? '' : ratio(row.perSecond / other))),
    row.p50Ms.toFixed(1),
    row.p99Ms.toFixed(1),
    whole(row.hotPerSecond),
    row.pacedP50Ms.toFixed(1),
    row.pacedP99Ms.toFixed(1),
  ])
  return [header, ...body]
}

export function tableText(comparison: Comparison): string {
  const table = cells(comparison)
  const widths = table[0]?.map((_, column) => Math.max(...table.map((row) => (row[column] ?? '').length))) ?? []
  return table
    .map((row) =>
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
    )
    .join('\n')
}

export function markdown(comparison: Comparison): string {
  const [header = [], ...body] = cells(comparison)
  const line = (row: readonly string[]): string => `| ${row.join(' | ')} |`
  const rule = header.map((_, column) => (column === 0 ? '---' : '---:'))
  return `# The same load on a naive service, a monolith, and spillway's example

${method(comparison).join(' ')}

${[header, rule, ...body].map(line).join('\n')}

![requests a second](throughput.svg)

![latency below saturation](latency.svg)

${sums(comparison)}

\`npm run load\` makes this report. ${factsText(comparison.facts).replace('\n', '; ')}.
`
}

export function html(comparison: Comparison): string {
  const [header = [], ...body] = cells(comparison)
  const row = (tag: string, texts: readonly string[]): string =>
    `<tr>${texts.map((text) => `<${tag}>${escapeXml(text)}</${tag}>`).join('')}</tr>`
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>spillway under load</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #1b2733 }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
  th, td { padding: .4rem .6rem; border-bottom: 1px solid #d5dde5; text-align: right }
  th { vertical-align: bottom } th:first-child, td:first-child { text-align: left; white-space: nowrap }
  .scroll { overflow-x: auto } svg { max-width: 100%; height: auto } .facts { color: #5a6b7b; font-size: .9rem }
</style>
<h1>The same load on a naive service, a monolith, and spillway's example</h1>
${method(comparison)
  .map((sentence) => `<p>${escapeXml(sentence)}</p>`)
  .join('\n')}
<div class="scroll"><table>
<thead>${row('th', header)}</thead>
<tbody>
${body.map((texts) => row('td', texts)).join('\n')}
</tbody>
</table></div>
<h2>Requests a second</h2>
${throughputChart(comparison)}
<h2>Latency below saturation</h2>
${latencyChart(comparison)}
<p>${escapeXml(sums(comparison))}</p>
<p class="facts">npm run load makes this report. ${escapeXml(factsText(comparison.facts).replace('\n', '; '))}.</p>
</html>
`
}

function method({ rounds, seconds, connections, keys, pace }: Comparison): string[] {
  return [
    `wrk sends increments over ${connections} connections, from a process of its own; gateway, counter service, Redis and Postgres are
processes of their own on the same machine, which they share with the load.`,
    `Every target takes its turn ${rounds === 1 ? 'once' : `in each of ${rounds} rounds`}, for ${seconds} s; the figures are the rounds' medians.`,
    `Keys rotate over ${whole(keys)} counters, then there is one hot key, then ${whole(pace)} requests a second are asked for, below what
any target can do.`,
    'Look at the ratios: the requests a second depend on the machine.',
  ].map((sentence) => sentence.replaceAll('\n', ' '))
}

function sums({ wrong }: Comparison): string {
  return wrong.length === 0
    ? 'After every run, each store held what had been answered.'
    : `${wrong.length} sums were wrong: ${wrong.join('; ')}.`
}

/** A bar a target. */
export function throughputChart({ rows }: Comparison): string {
  const most = Math.max(...rows.map(({ perSecond }) => perSecond))
  return barChart(
    'requests a second over rotating keys',
    rows.map(({ name, perSecond }) => ({
      name,
      bars: [{ share: perSecond / most, label: whole(perSecond), color: colorOf(name) }],
    })),
  )
}

/** Two bars a target: median and p99. */
export function latencyChart({ rows, pace }: Comparison): string {
  const most = Math.max(...rows.map(({ pacedP99Ms }) => pacedP99Ms))
  return barChart(
    `latency at ${whole(pace)} requests a second: p50 and, lighter, p99`,
    rows.map(({ name, pacedP50Ms, pacedP99Ms }) => ({
      name,
      bars: [
        { share: pacedP50Ms / most, label: `${pacedP50Ms.toFixed(1)} ms`, color: colorOf(name) },
        { share: pacedP99Ms / most, label: `${pacedP99Ms.toFixed(1)} ms`, color: colorOf(name), light: true },
      ],
    })),
  )
}

function colorOf(name: string): string {
  if (name.startsWith('spillway')) return colors.ours
  return name.startsWith('naive') ? colors.naive : colors.peer
}

export function ratio(value: number): string {
  return `${value < 10 ? value.toFixed(2) : value.toFixed(1)} x`
}

export function whole(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}
