import { standing, type Verdict } from './verdict.ts'

/** How spillway stands beside a peer in a contest of a suite. */
export interface Standing {
  readonly suite: string
  readonly contest: string
  readonly peer: string
  /** Spillway's time as a share of the peer's. */
  readonly ratio: number
}

/** A standing as a page keeps it: rounded. */
export interface KeptStanding extends Standing {
  /** The largest ratio that may have been rounded to it. */
  readonly most: number
}

/** A table's row before it is text. */
export interface MeasuredRow {
  readonly suite: string
  readonly contest: string
  readonly verdict: Verdict
}

/** What of a page's table is written anew. */
export interface TableUpdate {
  readonly rows: readonly MeasuredRow[]
  /** The suites in the table's order. */
  readonly order: readonly string[]
  /** The suites that were run: what stands there of others stays. */
  readonly measured: readonly string[]
  /** What stands under the table. */
  readonly note: string
}

const marks = /(<!-- bench:begin -->\n)([\s\S]*)(\n<!-- bench:end -->)/

/** Puts rows between the marks of a page. @returns the page, and how many rows of it stayed. */
export function updateTable(
  page: string,
  { rows, order, measured, note }: TableUpdate,
): { page: string; kept: number } {
  const lines = rows.map(
    ({ suite, contest, verdict }) => `| ${suite} | ${contest} | ${verdict.peer} | ${standing(verdict)} |`,
  )
  const kept = tableOf(page).filter((line) => {
    const [suite = ''] = cellsOf(line)
    return order.includes(suite) && !measured.includes(suite)
  })
  const place = (line: string): number => order.indexOf(cellsOf(line)[0] ?? '')
  const all = [...kept, ...lines].sort((a, b) => place(a) - place(b))
  const table = ['| suite | contest | beside | spillway |', '| --- | --- | --- | ---: |', ...all].join('\n')
  return { page: page.replace(marks, (_, begin, _old, end) => `${begin}${table}\n\n${note}${end}`), kept: kept.length }
}

/** What a page's table says, as numbers: the ratios that the repository keeps. */
export function standingsOf(page: string): KeptStanding[] {
  return tableOf(page).flatMap((line) => {
    const [suite = '', contest = '', peer = '', text = ''] = cellsOf(line)
    const ratio = ratioOf(text)
    return ratio === undefined ? [] : [{ suite, contest, peer, ...ratio }]
  })
}

/** Where a standing has become worse. */
export interface Regression extends Standing {
  /** What the repository keeps. */
  readonly kept: number
}

/**
 * Those of what was measured that take more than a share longer, beside their peer, than the repository says; what rounding leaves open
 * is not held against them.
 *
 * @param tolerance - the share: 0.25 lets 1.00 become 1.25.
 */
export function regressionsOf(
  measured: readonly Standing[],
  kept: readonly KeptStanding[],
  tolerance: number,
): Regression[] {
  const known = new Map(kept.map((standing) => [nameOf(standing), standing]))
  return measured.flatMap((standing) => {
    const before = known.get(nameOf(standing))
    // What is no number is no better, either.
    if (before === undefined || standing.ratio <= before.most * (1 + tolerance)) return []
    return [{ ...standing, kept: before.ratio }]
  })
}

/** What the repository keeps of some suites and has not been measured: a contest or a peer that goes by another name is compared no more. */
export function unmeasuredOf(
  measured: readonly Standing[],
  kept: readonly KeptStanding[],
  suites: readonly string[],
): KeptStanding[] {
  const known = new Set(measured.map(nameOf))
  return kept.filter((standing) => suites.includes(standing.suite) && !known.has(nameOf(standing)))
}

function nameOf({ suite, contest, peer }: Standing): string {
  return JSON.stringify([suite, contest, peer])
}

function tableOf(page: string): string[] {
  return (marks.exec(page)?.[2] ?? '').split('\n').filter((line) => line.startsWith('|'))
}

function cellsOf(line: string): string[] {
  return line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim())
}

/** `1.15 x the time`, or `12.9 x faster`. */
function ratioOf(text: string): Pick<KeptStanding, 'ratio' | 'most'> | undefined {
  const [, number, way] = /^([\d.]+) x (the time|faster)$/.exec(text) ?? []
  if (number === undefined) return undefined
  const value = Number(number)
  const half = 0.5 / 10 ** (number.split('.')[1]?.length ?? 0)
  return way === 'faster' ? { ratio: 1 / value, most: 1 / (value - half) } : { ratio: value, most: value + half }
}
