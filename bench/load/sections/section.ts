import { barChart, colors } from '../../harness/bar-chart.ts'
import { medianOf } from '../../harness/contest.ts'
import type { LoadOptions, LoadResult } from '../wrk.ts'

/** One way of doing what a section is about, as a service that runs. */
export interface SectionTarget {
  readonly name: string
  readonly url: string
  /** The path of its requests, in which `KEY` stands for a key. */
  readonly get: string
  /** Before a run: what a service that has been at it would have done already. */
  warm?(): Promise<void>
  /** Once a run is over: whether all is as it was answered, and what there is to say of it. */
  settle?(result: LoadResult): Promise<Settled>
}

/** What came of one run beyond its latencies. */
export interface Settled {
  /** What is wrong, if anything is. */
  readonly wrong?: string
  /** What the service counted itself, by name. */
  readonly counts?: Readonly<Record<string, number>>
}

/** A load on several targets that do the same in different ways. */
export interface Section {
  readonly title: string
  /** What is done, in sentences. */
  readonly about: readonly string[]
  readonly keys: number
  readonly prefix: string
  readonly targets: readonly SectionTarget[]
  /** What the notes of a row say, given the medians of its counts. */
  readonly note?: (counts: Readonly<Record<string, number>>) => string
}

/** What one target did, the medians of its rounds. */
export interface SectionRow {
  readonly name: string
  readonly perSecond: number
  readonly p50Ms: number
  readonly p95Ms: number
  readonly p99Ms: number
  readonly counts: Readonly<Record<string, number>>
  readonly note: string
}

export interface SectionReport {
  readonly title: string
  readonly about: readonly string[]
  readonly rows: readonly SectionRow[]
  readonly wrong: readonly string[]
}

export interface Effort {
  readonly rounds: number
  readonly seconds: number
  readonly connections: number
}

/** Loads the targets of a section in turns. */
export async function runSection(
  { title, about, keys, prefix, targets, note = () => '' }: Section,
  wrk: (options: LoadOptions) => Promise<LoadResult>,
  { rounds, seconds, connections }: Effort,
): Promise<SectionReport> {
  const wrong: string[] = []
  const runs = new Map(targets.map((target) => [target, [] as (LoadResult & Required<Pick<Settled, 'counts'>>)[]]))
  const runOne = async (target: SectionTarget, forSeconds: number) => {
    await target.warm?.()
    const result = await wrk({ url: target.url, connections, seconds: forSeconds, prefix, keys, get: target.get })
    const settled = await target.settle?.(result)
    const problem = settled?.wrong ?? (result.errors > 0 ? `${result.errors} errors` : undefined)
    if (problem !== undefined) {
      wrong.push(`${title}, ${target.name}: ${problem}`)
      console.log(`  WRONG: ${wrong.at(-1)}`)
    }
    return { ...result, counts: settled?.counts ?? {} }
  }
  console.log(`\n${title}`)
  for (const target of targets) await runOne(target, Math.min(2, seconds))
  for (let round = 1; round <= rounds; round++) {
    const first = (round - 1) % targets.length
    for (const target of [...targets.slice(first), ...targets.slice(0, first)]) {
      const result = await runOne(target, seconds)
      runs.get(target)?.push(result)
      const rate = `${Math.round(result.perSecond).toLocaleString('en-US')}/s`
      console.log(
        `  round ${round}  ${target.name.padEnd(44)}${rate.padStart(10)}  p99 ${result.p99Ms.toFixed(1)} ms  ${note(result.counts)}`,
      )
    }
  }
  const rows = targets.map((target): SectionRow => {
    const all = runs.get(target) ?? []
    const median = (of: (result: LoadResult) => number): number => medianOf(all.map(of))
    const names = Object.keys(all[0]?.counts ?? {})
    const counts = Object.fromEntries(names.map((name) => [name, medianOf(all.map((run) => run.counts[name] ?? 0))]))
    return {
      name: target.name,
      perSecond: median(({ perSecond }) => perSecond),
      p50Ms: median(({ p50Ms }) => p50Ms),
      p95Ms: median(({ p95Ms }) => p95Ms),
      p99Ms: median(({ p99Ms }) => p99Ms),
      counts,
      note: note(counts),
    }
  })
  return { title, about, rows, wrong }
}

/** A section's table, a cell a string; the ratio is to the first target. */
export function sectionCells({ rows }: SectionReport): string[][] {
  const base = rows[0]?.perSecond ?? Number.NaN
  const header = ['target', 'requests/s', 'of the first', 'p50 ms', 'p95 ms', 'p99 ms', '']
  const body = rows.map(({ name, perSecond, p50Ms, p95Ms, p99Ms, note }) => [
    name,
    Math.round(perSecond).toLocaleString('en-US'),
    `${(perSecond / base).toFixed(perSecond / base < 10 ? 2 : 1)} x`,
    p50Ms.toFixed(1),
    p95Ms.toFixed(1),
    p99Ms.toFixed(1),
    note,
  ])
  const noted = rows.some(({ note }) => note !== '')
  return [header, ...body].map((cells) => (noted ? cells : cells.slice(0, -1)))
}

/** Its requests a second as bars. */
export function sectionChart({ title, rows }: SectionReport): string {
  const most = Math.max(...rows.map(({ perSecond }) => perSecond))
  return barChart(
    `${title}: requests a second`,
    rows.map(({ name, perSecond }) => ({
      name,
      bars: [
        {
          share: perSecond / most,
          label: Math.round(perSecond).toLocaleString('en-US'),
          color: name.startsWith('spillway') ? colors.ours : name.startsWith('naive') ? colors.naive : colors.peer,
        },
      ],
    })),
  )
}
