import type { BatchStats, MultiLevelCacheStats, QuotaConsumerStats, TokenCacheStats } from 'spillway'
import { ratio, row, sumOf, tenths, whole } from './demo-table.ts'
import { type LoadProgress, type LoadReport, type TimelineWindow, windowMs } from './load.ts'
import type { LoggingStats } from './logging.ts'

/** What the database holds of a run, by resource id. */
export type StoredSums = ReadonlyMap<string, number>

/** A counter service that was killed in mid-load. */
export interface Crash {
  /** When, in milliseconds since the epoch. */
  readonly atMs: number
  readonly address: string
}

const ways = ['durableWrites', 'liveWrites', 'durableAnswers', 'liveAnswers', 'liveReads'] as const

/** What a gateway tells of itself, as far as the demo shows it. */
export type GatewayStats = Readonly<Record<(typeof ways)[number], BatchStats>> & {
  readonly billing: { readonly usage: QuotaConsumerStats }
  readonly log: LoggingStats
  readonly reads: MultiLevelCacheStats & { readonly outdated: number }
  readonly auth: {
    readonly tokens: TokenCacheStats
    readonly callers: { readonly accepted: number; readonly refused: number; readonly verifications: number }
  }
}

const barWidth = 30

/** A bar on a terminal, a line a second anywhere else. */
export class Progress {
  readonly #totalMs: number
  readonly #isTerminal = process.stdout.isTTY === true
  #nextLineMs = 1_000

  constructor(seconds: number) {
    this.#totalMs = seconds * 1_000
  }

  show({ requests, elapsedMs }: LoadProgress): void {
    const share = Math.min(1, elapsedMs / this.#totalMs)
    const state = `${seconds(elapsedMs)}  ${whole(requests)} requests`
    if (this.#isTerminal) {
      const done = Math.round(share * barWidth)
      process.stdout.write(`\r  [${'█'.repeat(done)}${'░'.repeat(barWidth - done)}]  ${state}  `)
    } else if (elapsedMs >= this.#nextLineMs) {
      this.#nextLineMs += 1_000
      console.log(`  ${state}`)
    }
  }

  end(): void {
    if (this.#isTerminal) process.stdout.write(`\r${' '.repeat(barWidth + 40)}\r`)
  }
}

/** Prints what a run was like, and tells whether everything that was sent is stored. */
export function printReport(
  report: LoadReport,
  gateways: readonly GatewayStats[],
  { prefix, stored, live }: { prefix: string; stored: StoredSums; live: StoredSums },
): boolean {
  printRequests(report)
  printWork(report, gateways)
  printReads(gateways)
  return printSums(report, prefix, stored, live)
}

/** Prints what the tokens of services took: whose calls carried how many. */
export function printTokens(lifeSeconds: number, { tokens }: LoadReport, gateways: readonly GatewayStats[]): void {
  console.log()
  row(`tokens, ${lifeSeconds} s`, 'calls', 'fetched', 'refused')
  if (tokens !== undefined) row('load', whole(tokens.calls), whole(tokens.fetched), whole(tokens.again))
  for (const { auth } of gateways) {
    const { succeeded, refreshed, invalidated } = auth.tokens
    row('gateway', whole(succeeded), whole(refreshed), whole(invalidated))
  }
  const sum = (field: 'accepted' | 'verifications'): number =>
    gateways.reduce((total, { auth }) => total + auth.callers[field], 0)
  console.log(`
  The load's tokens came with ${whole(sum('accepted'))} requests, and took ${whole(sum('verifications'))} verifications of a signature: what a token says is kept.
  The gateway's own came with each gRPC call to the counter and billing services, which verify them likewise.`)
}

/** Prints where what was read came from. */
function printReads(gateways: readonly GatewayStats[]): void {
  console.log()
  row('reads', 'all', 'L1', 'L2', 'loaded', 'too old')
  for (const { reads } of gateways) {
    const { offered, hits, loaded } = reads.reads
    const share = (part: number): string => `${tenths(ratio(part * 100, offered))} %`
    row('counters', whole(offered), share(hits.l1), share(hits.l2), share(loaded), whole(reads.outdated))
  }
  console.log(`
  What a gateway has read is kept for 5 s, in its memory (L1) and where gateways share it (L2). Too old is what was read before its
  counter's next value was told: it is read again.`)
}

/** Prints what callers felt of a crash: how the second after it differs from the second before. */
export function printCrash({ timeline }: LoadReport, { atMs, address }: Crash): void {
  const between = (fromMs: number, untilMs: number): TimelineWindow[] =>
    timeline.filter((window) => window.fromMs >= fromMs && window.fromMs < untilMs)
  // A request that was under way when the crash came felt it, too, so the window before it is not one of before.
  const crashMs = atMs - 2 * windowMs
  const before = between(crashMs - 1_000, crashMs)
  const after = between(crashMs, crashMs + 1_000)
  const usual = Math.max(0, ...before.map(({ p99 }) => p99))
  const feltMs = (after.findLastIndex(({ p99, failed }) => p99 > usual || failed > 0) + 1) * windowMs
  const failed = between(crashMs, Number.POSITIVE_INFINITY).reduce((sum, window) => sum + window.failed, 0)
  console.log(`
  ${address} was killed ${seconds(atMs - (timeline[0]?.fromMs ?? atMs)).trim()} into the load:`)
  row('', 'requests', 'p50', 'worst p99', 'slowest')
  printSpan('second before', before)
  printSpan('second after', after)
  if (after.length === 0) return console.log('  The load was over by then, so nobody could feel it.')
  console.log(
    feltMs === 0
      ? `  Callers felt nothing: no ${windowMs} ms of the second after had a slower p99 than the worst of the second before.`
      : `  Callers felt it for ${feltMs} ms at most: after that no ${windowMs} ms had a slower p99 than the worst of the second before.`,
  )
  console.log(`  ${whole(failed)} requests were refused or had no answer from then on.`)
}

/** Latencies of windows: the median of their medians, the worst of their p99. */
function printSpan(title: string, windows: readonly TimelineWindow[]): void {
  const medians = windows.map(({ p50 }) => p50).sort((a, b) => a - b)
  const requests = windows.reduce((sum, window) => sum + window.requests, 0)
  const worst = Math.max(0, ...windows.map(({ p99 }) => p99))
  const slowest = Math.max(0, ...windows.map(({ max }) => max))
  row(title, whole(requests), tenths(medians[medians.length >> 1] ?? 0), tenths(worst), tenths(slowest))
}

function printRequests({ kinds, elapsedMs, refusals, unanswered }: LoadReport): void {
  console.log()
  row('latency in ms', 'requests', 'QPS', 'p50', 'p95', 'p99')
  for (const { kind, requests, p50, p95, p99 } of kinds) {
    row(kind, whole(requests), whole(ratio(requests * 1_000, elapsedMs)), tenths(p50), tenths(p95), tenths(p99))
  }
  for (const [status, count] of Object.entries(refusals)) console.log(`  ${whole(count)} answers were ${status}`)
  if (unanswered > 0) console.log(`  ${whole(unanswered)} requests got no answer: what became of them is unknown`)
}

function printWork({ increments }: LoadReport, gateways: readonly GatewayStats[]): void {
  console.log()
  row('gRPC calls', 'for', 'batches', 'mean size', 'p95', 'max')
  for (const gateway of gateways) {
    for (const { batches, batchSize, succeeded, name } of ways.map((way) => gateway[way])) {
      if (batches === 0) continue
      row(name, whole(succeeded), whole(batches), tenths(batchSize.mean), whole(batchSize.p95), whole(batchSize.max))
    }
  }
  const statements = gateways.reduce(
    (sum, { durableWrites, durableAnswers }) => sum + durableWrites.batches + durableAnswers.batches,
    0,
  )
  console.log(`
  Each call is one statement of the durable store, or one call of the live one.
  ${whole(increments)} increments took ${whole(statements)} statements, each a transaction.
  A write for each would have taken ${whole(increments)}, ${tenths(ratio(increments, statements))} times as many.`)
}

function printSums(
  { sent, increments, unanswered }: LoadReport,
  prefix: string,
  stored: StoredSums,
  live: StoredSums,
): boolean {
  const wrong = sent.filter(([id, sum]) => stored.get(id) !== sum)
  const notLive = sent.filter(([id, sum]) => live.get(id) !== sum)
  const extra = [...stored.keys()].filter((id) => !new Map(sent).has(id))
  const passed = increments > 0 && wrong.length + notLive.length + extra.length === 0
  console.log(`
  sent    ${whole(sumOf(sent))}  in ${whole(increments)} increments of ${whole(sent.length)} counters, as answered
  stored  ${whole(sumOf(stored))}  SELECT sum(value) FROM spillway_counters WHERE starts_with(key, '${prefix}')
  live    ${whole(sumOf(live))}  the same counters in the live store`)
  if (passed) {
    console.log('  PASS: every counter holds exactly what was sent to it, in both stores')
    return true
  }
  console.log(
    `  FAIL: ${wrong.length} counters hold something else, ${notLive.length} in the live store, ${extra.length} were never sent`,
  )
  for (const [id, sum] of wrong.slice(0, 5)) console.log(`    ${id}: sent ${sum}, stored ${stored.get(id) ?? 0}`)
  for (const [id, sum] of notLive.slice(0, 5)) console.log(`    ${id}: sent ${sum}, live ${live.get(id) ?? 0}`)
  if (unanswered > 0) console.log('    requests without an answer may be the reason')
  return false
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(0).padStart(3)} s`
}
