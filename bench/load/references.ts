import { medianOf } from '../harness/contest.ts'
import type { Row } from './row.ts'
import type { SectionReport, SectionRow } from './sections/section.ts'

/** A figure of a real system's document, before and after it was mended, and ours beside it. */
export interface Reference {
  readonly what: string
  readonly before: string
  readonly after: string
  /** What the document's system gained. */
  readonly gained: string
  readonly naive: string
  readonly ours: string
  readonly gain: string
}

/** What could be compared of a run. */
export interface Measured {
  readonly writes: readonly Row[]
  readonly sections: readonly SectionReport[]
  readonly quota?: QuotaScenarios | undefined
}

/** The p99 of requests that account in themselves and behind them, in milliseconds. */
export interface QuotaFigures {
  readonly inRequestMs: number
  readonly behindMs: number
}

/** At 1,000 requests a second, and in a burst to 2,000. */
export interface QuotaScenarios {
  readonly steady?: QuotaFigures | undefined
  readonly burst?: QuotaFigures | undefined
}

const perSecond = (value: number): string => `${Math.round(value).toLocaleString('en-US')}/s`
const milliseconds = (value: number): string =>
  value < 1 ? `${value.toFixed(3)} ms` : `${value.toFixed(value < 10 ? 1 : 0)} ms`
/** Beyond a thousand, a figure would only tell how short nothing is. */
const times = (value: number): string =>
  value > 1_000 ? 'more than 1,000 x' : `${value.toFixed(value < 10 ? 1 : 0)} x`

/** The documents' figures with what was measured of the same. */
export function referencesOf({ writes, sections, quota }: Measured): Reference[] {
  const found: Reference[] = []
  const row = (text: string): Row | undefined => writes.find(({ name }) => name.includes(text))
  const [naive, ours] = [row('client per request'), row('spillway, accepted')]
  if (naive !== undefined && ours !== undefined) {
    found.push(
      {
        ...{ what: 'counter writes', before: '738/s', after: 'more than 8,000/s', gained: '11 x' },
        ...{ naive: perSecond(naive.perSecond), ours: perSecond(ours.perSecond) },
        gain: times(ours.perSecond / naive.perSecond),
      },
      {
        ...{ what: 'counter writes, p99', before: '243 ms', after: 'under 30 ms', gained: '8 x' },
        ...{ naive: milliseconds(naive.p99Ms), ours: milliseconds(ours.p99Ms) },
        gain: times(naive.p99Ms / ours.p99Ms),
      },
    )
  }
  const section = (title: string): readonly SectionRow[] => sections.find((one) => one.title === title)?.rows ?? []
  const of = (rows: readonly SectionRow[], text: string): SectionRow | undefined =>
    rows.find(({ name }) => name.includes(text))
  const [select, kept] = [of(section('Reads'), 'SELECT'), of(section('Reads'), 'durable, kept')]
  if (select !== undefined && kept !== undefined) {
    found.push({
      ...{ what: 'reads, with a cache', before: 'none', after: '', gained: '3 x' },
      ...{ naive: perSecond(select.perSecond), ours: perSecond(kept.perSecond) },
      gain: times(kept.perSecond / select.perSecond),
    })
  }
  const { steady, burst } = quota ?? {}
  if (steady !== undefined) {
    found.push({
      ...{
        what: 'usage accounted at 1,000 requests/s, p99',
        before: '200 to 500 ms',
        after: '10 to 20 ms',
        gained: '20 x',
      },
      ...quotaCells(steady),
    })
  }
  if (burst !== undefined) {
    found.push({
      ...{
        what: 'usage accounted in a burst to 2,000 requests/s, p99',
        before: '200/s at most',
        after: '2,000/s',
        gained: '10 x',
      },
      ...quotaCells(burst),
    })
  }
  const [each, cached] = [of(section('Tokens'), 'a token a request'), of(section('Tokens'), 'TokenCache')]
  if (each !== undefined && cached !== undefined) {
    const [before = Number.NaN, after = Number.NaN] = [each, cached].map(({ counts }) => counts['tokenP50Ms'])
    found.push({
      ...{ what: 'a token', before: '200 to 500 ms', after: 'under 1 ms', gained: 'more than 200 x' },
      ...{ naive: milliseconds(before), ours: milliseconds(after) },
      gain: times(before / after),
    })
  }
  return found
}

/** As a table, a cell a string. */
export function referenceCells(references: readonly Reference[]): string[][] {
  return [
    ['', 'a document: before', 'after', 'gained', 'naive, here', 'spillway, here', 'gained here'],
    ...references.map(({ what, before, after, gained, naive, ours, gain }) => [
      ...[what, before, after, gained, naive, ours, gain],
    ]),
  ]
}

function quotaCells({ inRequestMs, behindMs }: QuotaFigures): Pick<Reference, 'naive' | 'ours' | 'gain'> {
  return { naive: milliseconds(inRequestMs), ours: milliseconds(behindMs), gain: times(inRequestMs / behindMs) }
}

/** What the quota report's results say of them. */
export function quotaScenariosOf(results: {
  readonly rows: readonly {
    readonly scenario: string
    readonly path: string
    readonly runs: readonly { readonly p99Ms: number }[]
  }[]
}): QuotaScenarios {
  const p99 = (scenario: string, path: string): number => {
    const found = results.rows.find((row) => row.scenario === scenario && row.path === path)
    return medianOf((found?.runs ?? []).map(({ p99Ms }) => p99Ms))
  }
  const figures = (scenario: string): QuotaFigures | undefined => {
    const [inRequestMs, behindMs] = [p99(scenario, 'consume-sync'), p99(scenario, 'consume')]
    return Number.isNaN(inRequestMs + behindMs) ? undefined : { inRequestMs, behindMs }
  }
  return { steady: figures('1000'), burst: figures('burst') }
}
