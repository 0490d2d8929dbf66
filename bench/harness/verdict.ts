import type { Aim, Measurement } from './contest.ts'

/** How spillway stands beside one peer. */
export interface Verdict {
  readonly peer: string
  /** Spillway's time as a share of the peer's: below 1 it is faster. */
  readonly ratio: number
  readonly aim: Aim | null
  /** Whether the aim is reached; null without an aim. */
  readonly ok: boolean | null
}

/** Compares the first measurement with each of the others; `aims` are those of all contenders, in the same order. */
export function judge(measurements: readonly Measurement[], aims: readonly (Aim | undefined)[]): Verdict[] {
  const [ours, ...peers] = measurements
  if (ours === undefined) return []
  return peers.map((peer, index) => {
    const ratio = ours.medianNs / peer.medianNs
    const aim = aims[index + 1] ?? null
    return { peer: peer.name, ratio, aim, ok: aim === null ? null : reaches(ratio, aim) }
  })
}

/** How often what looks worse is measured in all. */
export const tries = 3

/**
 * Measures a contest again where it looks worse than it was; then, for each peer, the middle one of all tries counts. The best one would
 * let what is a third slower pass in one lucky try, and what other work on the machine adds, it hardly adds twice.
 *
 * @param looksWorse - should be stricter than what is asked of the outcome: the first try may be a lucky one, too.
 */
export async function settledVerdicts(
  first: readonly Verdict[],
  looksWorse: (verdicts: readonly Verdict[]) => boolean,
  again: () => Promise<readonly Verdict[]>,
): Promise<readonly Verdict[]> {
  if (!looksWorse(first)) return first
  const runs = [first]
  while (runs.length < tries) runs.push(await again())
  return first.map((_, place) => {
    const sorted = runs.map((verdicts) => verdicts[place] as Verdict).sort((a, b) => a.ratio - b.ratio)
    return sorted[tries >> 1] as Verdict
  })
}

function reaches(ratio: number, aim: Aim): boolean {
  return 'atMost' in aim ? ratio <= aim.atMost : 1 / ratio >= aim.timesFaster
}

/** A contest's measurements and verdicts as lines of text. */
export function tableOf(operation: string, measurements: readonly Measurement[], verdicts: readonly Verdict[]): string {
  const header = ['', `ns/${operation}`, 'mean', 'spillway beside it', 'aim', '', '']
  const rows = measurements.map(({ name, medianNs, meanNs, note = '' }, index) => {
    const verdict = verdicts[index - 1]
    const text = verdict === undefined ? ['', '', ''] : [ratioText(verdict), aimText(verdict.aim), okText(verdict.ok)]
    return [name, nsText(medianNs), nsText(meanNs), ...text, note]
  })
  const table = [header, ...rows]
  const widths = header.map((_, column) => Math.max(...table.map((row) => (row[column] ?? '').length)))
  const numeric = new Set([1, 2, 3])
  return table
    .map((row) =>
      row
        .map((cell, column) => {
          const width = widths[column] ?? 0
          return numeric.has(column) ? cell.padStart(width) : cell.padEnd(width)
        })
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `  ${line}`)
    .join('\n')
}

function nsText(ns: number): string {
  return ns < 100 ? ns.toFixed(1) : String(Math.round(ns))
}

/** How spillway stands beside a peer, in words: `1.05 x the time` or `12 x faster`. */
export function standing(verdict: Verdict): string {
  const text = ratioText(verdict)
  return text.endsWith('faster') ? text : `${text} the time`
}

function ratioText({ ratio, aim }: Verdict): string {
  // Two places of a small share would say little: 0.01 is anything from 67 to 200 times faster.
  const faster = ratio < 0.5 || (aim !== null && 'timesFaster' in aim)
  return faster ? `${(1 / ratio).toFixed(1)} x faster` : `${ratio.toFixed(2)} x`
}

function aimText(aim: Aim | null): string {
  if (aim === null) return ''
  return 'atMost' in aim ? `<= ${aim.atMost} x` : `>= ${aim.timesFaster} x faster`
}

function okText(ok: boolean | null): string {
  return ok === null ? '' : ok ? 'ok' : 'MISSED'
}
