import { barChart, colors, escapeXml } from '../harness/bar-chart.ts'
import { type Facts, factsText } from '../harness/facts.ts'
import { type Reference, referenceCells } from './references.ts'
import type { Row } from './row.ts'
import { type SectionReport, sectionCells, sectionChart } from './sections/section.ts'

export interface Comparison {
  readonly rows: readonly Row[]
  readonly facts: Facts
  readonly rounds: number
  readonly seconds: number
  readonly connections: number
  readonly keys: number
  readonly pace: number
  /** What else was loaded. */
  readonly sections: readonly SectionReport[]
  /** What the documents of other systems say, beside what was measured. */
  readonly references: readonly Reference[]
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
  const { sections, references, rows } = comparison
  const tables = [
    ...(rows.length > 0 ? [textOf(cells(comparison))] : []),
    ...sections.map((section) => `${section.title}\n${textOf(sectionCells(section))}`),
    ...(references.length > 0 ? [`Beside what the documents say\n${textOf(referenceCells(references))}`] : []),
  ]
  return tables.join('\n\n')
}

function textOf(table: readonly (readonly string[])[]): string {
  const widths = table[0]?.map((_, column) => Math.max(...table.map((row) => (row[column] ?? '').length))) ?? []
  return table
    .map((row) =>
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
    )
    .join('\n')
}

export function markdown(comparison: Comparison): string {
  const { sections, references, rows } = comparison
  const parts = [
    '# The same load on a naive service, a monolith, and spillway',
    method(comparison).join(' '),
    ...(references.length > 0
      ? ['## Beside what the documents say', referencesText, tableMarkdown(referenceCells(references))]
      : []),
    ...(rows.length > 0
      ? [
          '## Counter writes',
          writesText(comparison).join(' '),
          tableMarkdown(cells(comparison)),
          '![requests a second](throughput.svg)',
          '![latency below saturation](latency.svg)',
        ]
      : []),
    ...sections.flatMap((section) => [
      `## ${section.title}`,
      section.about.join(' '),
      tableMarkdown(sectionCells(section)),
      `![${section.title}: requests a second](${chartFile(section)})`,
    ]),
    '## Quotas',
    'Requests that account what they use, in the request and behind it, have [a report of their own](quota.md).',
    '## The sums',
    sums(comparison),
    `\`npm run load -- --docs\` makes this report. ${factsText(comparison.facts).replace('\n', '; ')}.`,
  ]
  return `${parts.join('\n\n')}\n`
}

/** The chart of a section, by its file's name. */
export function chartFile({ title }: SectionReport): string {
  return `${title.toLowerCase()}.svg`
}

const referencesText =
  'Documents of real systems tell what they measured before and after. The machines differ, so that the ratios are what can be compared.'

function tableMarkdown(table: readonly (readonly string[])[]): string {
  const [header = [], ...body] = table
  const line = (row: readonly string[]): string => `| ${row.join(' | ')} |`
  const rule = header.map((_, column) => (column === 0 ? '---' : '---:'))
  return [header, rule, ...body].map(line).join('\n')
}

export function html(comparison: Comparison): string {
  const { sections, references, rows } = comparison
  const paragraph = (text: string): string => `<p>${escapeXml(text)}</p>`
  const parts = [
    ...method(comparison).map(paragraph),
    ...(references.length > 0
      ? ['<h2>Beside what the documents say</h2>', paragraph(referencesText), tableHtml(referenceCells(references))]
      : []),
    ...(rows.length > 0
      ? [
          '<h2>Counter writes</h2>',
          ...writesText(comparison).map(paragraph),
          tableHtml(cells(comparison)),
          throughputChart(comparison),
          latencyChart(comparison),
        ]
      : []),
    ...sections.flatMap((section) => [
      `<h2>${escapeXml(section.title)}</h2>`,
      ...section.about.map(paragraph),
      tableHtml(sectionCells(section)),
      sectionChart(section),
    ]),
    '<h2>The sums</h2>',
    paragraph(sums(comparison)),
  ]
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>spillway under load</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #1b2733; background: #fff }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
  th, td { padding: .4rem .6rem; border-bottom: 1px solid #d5dde5; text-align: right }
  th { vertical-align: bottom } th:first-child, td:first-child { text-align: left; white-space: nowrap }
  .scroll { overflow-x: auto } svg { max-width: 100%; height: auto } .facts { color: #5a6b7b; font-size: .9rem }
</style>
<h1>The same load on a naive service, a monolith, and spillway</h1>
${parts.join('\n')}
<p class="facts">npm run load makes this report. ${escapeXml(factsText(comparison.facts).replace('\n', '; '))}.</p>
</html>
`
}

function tableHtml([header = [], ...body]: readonly (readonly string[])[]): string {
  const row = (tag: string, texts: readonly string[]): string =>
    `<tr>${texts.map((text) => `<${tag}>${escapeXml(text)}</${tag}>`).join('')}</tr>`
  return `<div class="scroll"><table>
<thead>${row('th', header)}</thead>
<tbody>
${body.map((texts) => row('td', texts)).join('\n')}
</tbody>
</table></div>`
}

function method({ rounds, seconds, connections }: Comparison): string[] {
  return [
    `wrk sends over ${connections} connections, from a process of its own; all services, Redis and Postgres are processes of their own on the
same machine, which they share with the load.`,
    `A connection sends its next request when it has the answer to the last, and wrk adds the latencies of those that a stall has kept
back (coordinated omission).`,
    `Every target takes its turn ${rounds === 1 ? 'once' : `in each of ${rounds} rounds`}, for ${seconds} s; the figures are the rounds' medians.`,
    'Look at the ratios: the requests a second depend on the machine.',
  ].map((sentence) => sentence.replaceAll('\n', ' '))
}

function writesText({ keys, pace }: Comparison): string[] {
  return [
    `Increments of 1,000 counters in turns, then of one hot key, then ${whole(pace)} requests a second, which is below what any target can do.`,
    'The gateway and the counter service are two processes; the naive ones write to Redis and Postgres in each call, the monolith to Redis alone.',
  ].map((sentence) => sentence.replace('1,000', whole(keys)))
}

function sums({ wrong }: Comparison): string {
  return wrong.length === 0
    ? 'After every run, each store held what had been answered, and what was read or logged was compared.'
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
