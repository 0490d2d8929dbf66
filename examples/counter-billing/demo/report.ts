import type { Accounts, Money } from './billing.ts'
import type { Crash, Felt, GatewayStats } from './details.ts'
import type { LoadReport } from './load-process.ts'
import { styled } from './progress.ts'
import type { Sums } from './sums.ts'
import { ratio, tenths, whole } from './table.ts'

/** All that a run has shown. */
export interface DemoResult {
  readonly title: string
  readonly report: LoadReport
  readonly gateways: readonly GatewayStats[]
  readonly sums: Sums
  readonly accounts: Accounts
  readonly money: Money
  readonly slowQueries: { readonly offered: number; readonly slow: number }
  readonly logTitle: string
  readonly crash: (Crash & Felt) | undefined
  readonly isInterrupted: boolean
}

/** Prints the essence of a run, and tells whether everything that was sent is stored, accounted and paid for. */
export function printReport(result: DemoResult): boolean {
  const { title, isInterrupted, crash } = result
  console.log(`\n${styled('bold', title)}${isInterrupted ? styled('yellow', ', interrupted') : ''}\n`)
  printThroughput(result)
  printWork(result)
  if (crash !== undefined) printFelt(crash)
  console.log()
  const checks = checksOf(result)
  for (const { name, text, problems } of checks) {
    const mark = problems.length === 0 ? styled('green', '✓') : styled('red', '✗')
    console.log(`  ${mark} ${name.padEnd(10)}${text}`)
    for (const problem of problems.slice(0, 5)) console.log(`      ${styled('red', problem)}`)
  }
  const isPassed = checks.every(({ problems }) => problems.length === 0)
  const verdict = isPassed
    ? styled('green', 'PASS: nothing that was answered is missing, and nothing counts twice')
    : styled('red', 'FAIL: the sums differ')
  console.log(`\n  ${verdict}`)
  return isPassed
}

/** The figures of a run, for programs. */
export interface DemoFigures {
  readonly requestsPerSecond: number
  readonly incrementsPerSecond: number
  readonly p50: number
  readonly p95: number
  readonly p99: number
  readonly statements: number
  readonly incrementsPerStatement: number
  /** Half of what was accepted was durable by then, and half of the uses accounted, in milliseconds. */
  readonly durableMs: number
  readonly accountedMs: number
  readonly l1Share: number
  readonly isPassed: boolean
}

export function figuresOf({ report, gateways, sums, accounts, money }: DemoResult): DemoFigures {
  const all = report.kinds.find(({ kind }) => kind === 'all')
  const { p50 = 0, p95 = 0, p99 = 0, requests = 0 } = all ?? {}
  const sum = (of: (gateway: GatewayStats) => number): number => gateways.reduce((total, one) => total + of(one), 0)
  const mean = (of: (gateway: GatewayStats) => number): number => ratio(sum(of), gateways.length)
  const statements = sum(({ durableWrites, durableAnswers }) => durableWrites.batches + durableAnswers.batches)
  const reads = sum(({ reads }) => reads.reads.offered)
  return {
    requestsPerSecond: ratio(requests * 1_000, report.elapsedMs),
    incrementsPerSecond: ratio(report.increments * 1_000, report.elapsedMs),
    ...{ p50, p95, p99, statements },
    incrementsPerStatement: ratio(report.increments, statements),
    durableMs: mean(({ durableWrites }) => durableWrites.latencyMs.p50),
    accountedMs: mean(({ billing }) => billing.usage.latencyMs.p50),
    l1Share: ratio(
      sum(({ reads }) => reads.reads.hits.l1),
      reads,
    ),
    isPassed: [sums, accounts, money].every(({ problems }) => problems.length === 0),
  }
}

function line(name: string, text: string): void {
  console.log(`  ${styled('dim', name.padEnd(12))}${text}`)
}

function printThroughput({ report }: DemoResult): void {
  const { kinds, elapsedMs, increments, refusals, unanswered } = report
  const all = kinds.find(({ kind }) => kind === 'all')
  const perSecond = (count: number): string => `${whole(ratio(count * 1_000, elapsedMs))}/s`
  const failed = Object.entries(refusals).map(([status, count]) => `${whole(count)} answered ${status}`)
  if (unanswered > 0) failed.push(`${whole(unanswered)} not answered`)
  const requests = all?.requests ?? 0
  line(
    'requests',
    [`${whole(requests)} in ${tenths(elapsedMs / 1_000)} s, ${perSecond(requests)}`, ...failed].join('; '),
  )
  line('latency', `p50 ${tenths(all?.p50 ?? 0)} ms   p95 ${tenths(all?.p95 ?? 0)} ms   p99 ${tenths(all?.p99 ?? 0)} ms`)
  line('increments', `${whole(increments)}, ${perSecond(increments)}`)
}

function printWork({ report, gateways, accounts, money, slowQueries, logTitle }: DemoResult): void {
  const sum = (of: (gateway: GatewayStats) => number): number =>
    gateways.reduce((total, gateway) => total + of(gateway), 0)
  const statements = sum(({ durableWrites, durableAnswers }) => durableWrites.batches + durableAnswers.batches)
  const times = tenths(ratio(report.increments, statements))
  line('batches', `${whole(statements)} statements, ${times} increments to each`)
  const reads = sum(({ reads }) => reads.reads.offered)
  const share = (part: number): string => `${tenths(ratio(part * 100, reads))} %`
  const [l1, l2] = [sum(({ reads }) => reads.reads.hits.l1), sum(({ reads }) => reads.reads.hits.l2)]
  line('cache', `${whole(reads)} reads: ${share(l1)} from memory, ${share(l2)} shared, the rest loaded in batches`)
  const carried = sum(({ auth }) => auth.tokens.succeeded) + (report.tokens?.calls ?? 0)
  const fetched = sum(({ auth }) => auth.tokens.refreshed) + (report.tokens?.fetched ?? 0)
  line('tokens', `${whole(carried)} calls with ${whole(fetched)} tokens`)
  line(
    'usage',
    `${whole(accounts.accounted)} uses of ${accounts.users} users, handed on in ${whole(accounts.batches)} batches`,
  )
  line('billing', `${money.accepted} of 240 deductions at once were paid for, ${money.refused} refused`)
  const [lines, dropped] = [sum(({ log }) => log.offered), sum(({ log }) => log.dropped)]
  const { offered, slow } = slowQueries
  line('log', `${whole(lines)} lines, ${whole(dropped)} dropped; ${whole(slow)} of ${whole(offered)} queries were slow`)
  line('', styled('dim', logTitle))
}

function printFelt({ address, feltMs, failed }: Crash & Felt): void {
  const felt =
    feltMs === undefined
      ? 'the load was over by then'
      : feltMs === 0
        ? 'callers felt nothing'
        : `callers felt it for ${feltMs} ms at most`
  line('crash', `SIGKILL to the counter service at ${address}`)
  line('', `${felt}; ${whole(failed)} requests failed from then on`)
}

/** What must be equal. */
function checksOf({ sums, accounts, money }: DemoResult) {
  const { sent, stored, live, counters } = sums
  return [
    {
      name: 'counters',
      text: `sent ${whole(sent)} = stored ${whole(stored)} = live ${whole(live)}, in ${whole(counters)} counters`,
      problems: sums.problems,
    },
    {
      name: 'usage',
      text: `made ${whole(accounts.made)} = accounted ${whole(accounts.accounted)}, by ${accounts.users} users`,
      problems: accounts.problems,
    },
    {
      name: 'money',
      text: `recharged ${money.recharged} = charged ${money.charged} + balance ${money.balance}`,
      problems: money.problems,
    },
  ] as const
}
