import type { BillEntry, Book, Evidence, RequestRow } from './evidence.ts'

/** A request's state by which it is over. */
const over = ['settled', 'released', 'expired']

/**
 * The money, request by request: each has an id, so that each must be as it was answered, whichever attempt at it was. What no attempt
 * was answered may have been done or not, but not by halves.
 */
export function moneyBook({ entries, stored }: Evidence): Book {
  const attempts = new Map<string, BillEntry[]>()
  for (const entry of entries) {
    if (entry.type !== 'bill') continue
    const id = `${entry.user} ${entry.request}`
    const list = attempts.get(id)
    if (list === undefined) attempts.set(id, [entry])
    else list.push(entry)
  }
  const rows = new Map(stored.requests.map((row) => [`${row.user} ${row.request}`, row]))
  const problems: string[] = []
  for (const [id, list] of attempts) problems.push(...problemsOf(id, list, rows.get(id)))
  for (const [id, row] of rows) {
    if (!attempts.has(id)) problems.push(`${id} was never made, and is ${row.state}`)
    else if (!over.includes(row.state) || row.due)
      problems.push(`${id} DANGLES: it is ${row.state}${row.due ? ', due' : ''}`)
  }
  const proved = [...attempts.values()].filter((list) => list.some(({ status }) => status === 200)).length
  return { name: 'money, by request', compared: `${attempts.size} requests, ${proved} answered`, proved, problems }
}

function problemsOf(id: string, attempts: readonly BillEntry[], row: RequestRow | undefined): string[] {
  const problems: string[] = []
  const odd = attempts.find(({ status }) => ![0, 200, 402, 409, 429, 502, 503, 504].includes(status))
  if (odd !== undefined) problems.push(`${id}: ${odd.operation} was answered with ${odd.status}`)
  for (const operation of ['recharge', 'deduct', 'reserve', 'settle', 'release'] as const) {
    const own = attempts.filter((attempt) => attempt.operation === operation)
    const answers = new Set(own.filter(({ status }) => status === 200).map(contentOf))
    if (answers.size > 1)
      problems.push(`${id}: ${operation} was answered in ${answers.size} ways: ${[...answers].join(' and ')}`)
  }
  const first = attempts.filter(({ operation }) => operation !== 'settle' && operation !== 'release')
  const acked = first.find(({ status }) => status === 200)
  if (acked !== undefined && row === undefined)
    problems.push(`${id} LOST: ${acked.operation} was answered, and isn't there`)
  if (row === undefined) return problems
  if (first.every(isRefusal)) problems.push(`${id} was refused, and is ${row.state}`)
  problems.push(...unasked(id, attempts, row))
  if (acked !== undefined) problems.push(...differences(id, acked, row))
  const settled = attempts.find(({ operation, status }) => operation === 'settle' && status === 200)
  if (settled !== undefined) problems.push(...differences(id, settled, row))
  const released = attempts.find(({ operation, status }) => operation === 'release' && status === 200)
  if (released !== undefined && row.state !== released.state) {
    problems.push(`${id} was answered as ${released.state}, and is ${row.state}`)
  }
  return problems
}

/** What is stored otherwise than it was asked for, whether or not anybody was answered. */
function unasked(
  id: string,
  attempts: readonly BillEntry[],
  { operation, state, usedCount, usedCharged }: RequestRow,
): string[] {
  if (operation === 'recharge') {
    const amount = attempts[0]?.count ?? 0
    return usedCharged === -amount ? [] : [`${id}: ${amount} were to be recharged, and ${-usedCharged} are stored`]
  }
  const end = state === 'released' ? 'release' : operation === 'reserve' ? 'settle' : operation
  if (state !== 'settled' && state !== 'released') return []
  const asked = attempts.find((attempt) => attempt.operation === end && !isRefusal(attempt))
  // Of what was refused from the beginning that is told already.
  if (asked === undefined) return operation === 'reserve' ? [`${id} is ${state}, and nobody has asked for that`] : []
  if (state === 'released' || usedCount === asked.count) return []
  return [`${id} CHARGED otherwise: ${asked.count} uses were asked for, and ${usedCount} are stored`]
}

function isRefusal({ status }: BillEntry): boolean {
  return status >= 400 && status < 500
}

function contentOf({ free, charged, balance, state }: BillEntry): string {
  return JSON.stringify({ free, charged, balance, state })
}

/** What is stored otherwise than it was answered. */
function differences(id: string, { operation, count, free = 0, charged = 0 }: BillEntry, row: RequestRow): string[] {
  if (operation === 'recharge' || operation === 'reserve') return []
  const same =
    row.state === 'settled' && row.usedCount === count && row.usedFree === free && row.usedCharged === charged
  if (same) return []
  return [
    `${id} CHARGED otherwise: ${operation} of ${count} was answered with ${free} free and ${charged} charged; ` +
      `${row.state}, ${row.usedCount}, ${row.usedFree} and ${row.usedCharged} are stored`,
  ]
}

/** The sums, user by user: a balance is what was recharged less what was charged, nothing is held, and free uses are counted once. */
export function balanceBook({ stored }: Evidence): Book {
  const sums = new Map<string, { recharged: number; charged: number; free: number }>()
  for (const { user, usedCharged, usedFree } of stored.requests) {
    const sum = sums.get(user) ?? { recharged: 0, charged: 0, free: 0 }
    sums.set(user, {
      recharged: sum.recharged + Math.max(0, -usedCharged),
      charged: sum.charged + Math.max(0, usedCharged),
      free: sum.free + usedFree,
    })
  }
  const problems: string[] = []
  const total = { recharged: 0, charged: 0, balance: 0 }
  for (const user of new Set([...sums.keys(), ...stored.accounts.keys(), ...stored.free.keys()])) {
    const { recharged, charged, free } = sums.get(user) ?? { recharged: 0, charged: 0, free: 0 }
    const { balance, held } = stored.accounts.get(user) ?? { balance: 0, held: 0 }
    const uses = stored.free.get(user) ?? { used: 0, held: 0 }
    total.recharged += recharged
    total.charged += charged
    total.balance += balance
    if (balance !== recharged - charged) {
      problems.push(`${user} has ${balance}: ${recharged} recharged less ${charged} charged are ${recharged - charged}`)
    }
    if (balance < 0) problems.push(`${user} is overdrawn: ${balance}`)
    if (held !== 0) problems.push(`of ${user}, ${held} DANGLE: they are still held`)
    if (uses.used !== free) problems.push(`${user} has used ${uses.used} free uses, and the requests add up to ${free}`)
    if (uses.held !== 0) problems.push(`of ${user}, ${uses.held} free uses DANGLE: they are still held`)
  }
  const compared = `${sums.size} users: ${total.recharged} recharged, ${total.charged} charged, ${total.balance} left`
  return { name: 'money, by user', compared, proved: sums.size, problems }
}

/** What was published has an id: each that was acknowledged is counted once, each that wasn't once at the most. */
export function publishedBook({ entries, stored }: Evidence): Book {
  const acked = new Set<string>()
  const sent = new Set<string>()
  for (const entry of entries) {
    if (entry.type === 'use') (entry.fate === 'acked' ? acked : sent).add(entry.request)
  }
  const problems: string[] = []
  for (const id of acked) {
    const times = stored.published.get(id) ?? 0
    if (times < 1) problems.push(`${id} LOST: it was published, and is counted ${times} times`)
  }
  for (const [id, times] of stored.published) {
    if (!sent.has(id)) problems.push(`${id} was never published`)
    if (times > 1) problems.push(`${id} DOUBLED: it is counted ${times} times`)
  }
  const compared = `${acked.size} acknowledged, ${sent.size - acked.size} unknown, ${stored.published.size} stored`
  return { name: 'published uses', compared, proved: acked.size, problems }
}
