import type { BatchStats, MultiLevelCacheStats, QuotaConsumerStats, TokenCacheStats } from 'spillway'
import type { LoggingStats } from '../telemetry/logging.ts'
import { type LoadReport, type TimelineWindow, windowMs } from './load-process.ts'
import { ratio, row, tenths, whole } from './table.ts'

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

/** How long tokens are valid, and how long what was read is kept. */
export interface Lives {
  readonly tokenSeconds: number
  readonly cacheMs: number
}

/** Prints what a run was like, in tables. */
export function printDetails(report: LoadReport, gateways: readonly GatewayStats[], lives: Lives): void {
  printRequests(report)
  printWork(report, gateways)
  printReads(gateways, lives.cacheMs)
  printTokens(lives.tokenSeconds, report, gateways)
}

/** Prints what the tokens of services took: whose calls carried how many. */
function printTokens(lifeSeconds: number, { tokens }: LoadReport, gateways: readonly GatewayStats[]): void {
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
function printReads(gateways: readonly GatewayStats[], keptMs: number): void {
  console.log()
  row('reads', 'all', 'L1', 'L2', 'loaded', 'too old')
  for (const { reads } of gateways) {
    const { offered, hits, loaded } = reads.reads
    const share = (part: number): string => `${tenths(ratio(part * 100, offered))} %`
    row('counters', whole(offered), share(hits.l1), share(hits.l2), share(loaded), whole(reads.outdated))
  }
  console.log(`
  What a gateway has read is kept for ${keptMs / 1_000} s, in its memory (L1) and where gateways share it (L2). Too old is what was read before its
  counter's next value was told: it is read again.`)
}

/** What callers felt of a crash. */
export interface Felt {
  /** How long after it something was slower than before it, at most; undefined where the load was over. */
  readonly feltMs: number | undefined
  /** Requests that were refused or had no answer from then on. */
  readonly failed: number
}

/** How the second after a crash differs from the second before. */
export function feltOf({ timeline }: LoadReport, { atMs }: Crash): Felt {
  const { before, after, failed } = around(timeline, atMs)
  const usual = Math.max(0, ...before.map(({ p99 }) => p99))
  const last = after.findLastIndex((window) => window.p99 > usual || window.failed > 0)
  return { feltMs: after.length === 0 ? undefined : (last + 1) * windowMs, failed }
}

function around(timeline: readonly TimelineWindow[], atMs: number) {
  const between = (fromMs: number, untilMs: number): TimelineWindow[] =>
    timeline.filter((window) => window.fromMs >= fromMs && window.fromMs < untilMs)
  // A request that was under way when the crash came felt it, too, so the window before it is not one of before.
  const crashMs = atMs - 2 * windowMs
  return {
    before: between(crashMs - 1_000, crashMs),
    after: between(crashMs, crashMs + 1_000),
    failed: between(crashMs, Number.POSITIVE_INFINITY).reduce((sum, window) => sum + window.failed, 0),
  }
}

/** Prints the second before a crash beside the one after it. */
export function printCrash({ timeline }: LoadReport, { atMs, address }: Crash): void {
  const { before, after } = around(timeline, atMs)
  console.log(`\n  ${address} was killed ${seconds(atMs - (timeline[0]?.fromMs ?? atMs)).trim()} into the load:`)
  row('', 'requests', 'p50', 'worst p99', 'slowest')
  printSpan('second before', before)
  printSpan('second after', after)
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

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(0).padStart(3)} s`
}
