import { barChart, colors, escapeXml, standingsChart } from './bar-chart.ts'
import type { Measurement } from './contest.ts'
import { type Facts, factsText } from './facts.ts'
import type { Standing } from './performance-table.ts'
import { standing, type Verdict } from './verdict.ts'

/** A contest that was run. */
export interface ContestReport {
  readonly suite: string
  readonly name: string
  readonly operation: string
  readonly operations: number
  readonly measurements: readonly Measurement[]
  readonly verdicts: readonly Verdict[]
}

/** All contests as a page that stands alone, each with bars. */
export function benchHtml(facts: Facts, reports: readonly ContestReport[]): string {
  const suites = [...new Set(reports.map(({ suite }) => suite))]
  const ofSuite = (suite: string): string =>
    reports
      .filter((report) => report.suite === suite)
      .map(contestHtml)
      .join('\n')
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>spillway's benchmarks</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b2733; background: #fff }
  h2 { margin-top: 3rem } svg { max-width: 100%; height: auto } ul { padding-left: 1.2rem } nav a { margin-right: 1rem }
  .missed { color: #b5483a; font-weight: 600 } .facts { color: #5a6b7b; font-size: .9rem }
</style>
<h1>spillway's benchmarks</h1>
<p>Nanoseconds an operation, the median of the rounds' medians: shorter is faster. Every contest ran in a process of its own, took its
contenders in turns, and checked each answer.</p>
<p class="facts">${escapeXml(factsText(facts).replace('\n', '; '))}.</p>
<nav>${suites.map((suite) => `<a href="#${suite}">${suite}</a>`).join('\n')}</nav>
${suites.map((suite) => `<h2 id="${suite}">${suite}</h2>\n${ofSuite(suite)}`).join('\n')}
</html>
`
}

function contestHtml({ name, operation, measurements, verdicts }: ContestReport): string {
  const most = Math.max(...measurements.map(({ medianNs }) => medianNs))
  const groups = measurements.map(({ name: contender, medianNs }, index) => ({
    name: contender,
    bars: [{ share: medianNs / most, label: nsText(medianNs), color: index === 0 ? colors.ours : colors.peer }],
  }))
  const aims = verdicts
    .filter(({ aim }) => aim !== null)
    .map((verdict) => {
      const missed = verdict.ok === false ? ' <span class="missed">missed its aim</span>' : ''
      return `<li>${escapeXml(`${standing(verdict)}, beside ${verdict.peer}`)}${missed}</li>`
    })
  return `${barChart(`${name}: ns an operation (${operation})`, groups)}${aims.length === 0 ? '' : `<ul>${aims.join('')}</ul>`}`
}

function nsText(ns: number): string {
  if (ns >= 1e6) return `${(ns / 1e6).toFixed(1)} ms`
  return ns >= 1e4 ? `${(ns / 1e3).toFixed(1)} µs` : `${ns < 100 ? ns.toFixed(1) : Math.round(ns)} ns`
}

/** What stands for the rest, as one chart. */
export function headlineChart(standings: readonly Standing[]): string {
  return standingsChart(
    'spillway beside its peers: how many times as fast',
    standings.map(({ suite, peer, ratio }) => ({
      name: `${suite}: ${peer}`,
      ratio,
      label: `${1 / ratio < 10 ? (1 / ratio).toFixed(2) : (1 / ratio).toFixed(0)} x`,
    })),
  )
}
