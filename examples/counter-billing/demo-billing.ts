import { request } from 'undici'
import { meteredService } from './billing/tariff.ts'
import type { GatewayStats } from './demo-report.ts'
import { sumOf, whole } from './demo-table.ts'
import type { LoadReport } from './load.ts'

/** What the demo knows of an answer, whatever it asked for. */
type Answer = { readonly status: number } & Readonly<Record<string, number>> & { readonly message: string }

/** Compares what the load wrote with what is accounted, user by user; tells whether they are equal. */
export async function printUsage(
  urls: readonly string[],
  gateways: readonly GatewayStats[],
  { writes }: LoadReport,
): Promise<boolean> {
  const billing = new BillingClient(urls)
  const used = await Promise.all(writes.map(([user]) => billing.get(`free-quota/${user}/${meteredService}`)))
  const wrong = writes.filter(([, made], index) => used[index]?.['used'] !== made)
  const books = gateways.map(({ billing }) => billing.usage)
  const sum = (
    field: 'totalEvents' | 'processedEvents' | 'failedEvents' | 'droppedEvents' | 'pending' | 'batchCount',
  ) => books.reduce((total, usage) => total + usage[field], 0)
  const { failed, dropped, pending } = {
    failed: sum('failedEvents'),
    dropped: sum('droppedEvents'),
    pending: sum('pending'),
  }
  console.log(`
  Each increment that a user made is a use of his quota for ${meteredService}, accounted behind the answer:
  made      ${whole(sumOf(writes))} by ${writes.length} users, as answered
  offered   ${whole(sum('totalEvents'))} events = ${whole(sum('processedEvents'))} handed on + ${failed} failed + ${dropped} dropped + ${pending} pending, in ${whole(sum('batchCount'))} batches
  accounted ${whole(used.reduce((total, quota) => total + (quota['used'] ?? 0), 0))}, as GetFreeQuota says`)
  for (const [user, made] of wrong.slice(0, 5)) console.log(`    ${user}: made ${made}`)
  const balanced = sum('totalEvents') === sum('processedEvents') + failed + dropped + pending
  const passed = wrong.length === 0 && balanced && failed + dropped + pending === 0
  console.log(
    passed ? '  PASS: every write is accounted once' : `  FAIL: of ${wrong.length} users something else is accounted`,
  )
  return passed
}

/** Shows what billing does: free uses first, then money; reservations; refusals; a rush for the last cents. */
export async function printBilling(urls: readonly string[], user_id: string): Promise<boolean> {
  const billing = new BillingClient(urls)
  const of = { user_id, service: 'thumbnail' }
  let charged = 0
  const say = (what: string, { status, message, free, charged: cost, held, balance }: Answer): void => {
    const told = { free, charged: cost, held, balance }
    const parts = Object.entries(told).flatMap(([name, value]) => (value === undefined ? [] : [`${name} ${value}`]))
    console.log(`  ${what.padEnd(46)}${status === 200 ? parts.join(', ') : `${status} ${message}`}`)
    charged += status === 200 ? (cost ?? 0) : 0
  }
  console.log('\n  Billing: a thumbnail is free a hundred times a month, then costs 2.')
  const recharged = 500
  say(`recharge ${recharged}`, await billing.post('recharge', { request_id: 'r1', user_id, amount: recharged }))
  say('deduct 80', await billing.post('deduct', { ...of, request_id: 'd1', count: 80 }))
  const second = { ...of, request_id: 'd2', count: 50 }
  say('deduct 50', await billing.post('deduct', second))
  const again = await billing.post('deduct', second)
  console.log(
    `  ${'the same request again'.padEnd(46)}the same answer: charged ${again['charged']}, balance ${again['balance']}`,
  )
  say('reserve 30', await billing.post('reserve', { ...of, request_id: 'v1', count: 30 }))
  say('settle 10 of them', await billing.post('settle', { user_id, reservation_id: 'v1', count: 10 }))
  say('reserve 30', await billing.post('reserve', { ...of, request_id: 'v2', count: 30 }))
  await billing.post('release', { user_id, reservation_id: 'v2' })
  const released = await billing.get(`balance/${user_id}`)
  console.log(`  ${'release them'.padEnd(46)}held ${released['held']}, balance ${released['balance']}`)
  const check = await billing.post('check', { ...of, count: 1_000 })
  console.log(`  ${'check 1000'.padEnd(46)}allowed ${check['allowed']}: that is ${check['charged']}`)
  say('deduct 1000', await billing.post('deduct', { ...of, request_id: 'd3', count: 1_000 }))
  say(
    'deduct 6 of export, which has 5 and no price',
    await billing.post('deduct', { ...of, service: 'export', request_id: 'd4', count: 6 }),
  )

  const rush = await Promise.all(
    Array.from({ length: 300 }, (_, index) => billing.post('deduct', { ...of, request_id: `rush-${index}` })),
  )
  const accepted = rush.filter(({ status }) => status === 200)
  charged += accepted.reduce((sum, answer) => sum + (answer['charged'] ?? 0), 0)
  const refused = rush.filter(({ status }) => status === 402).length
  const { balance = -1, held = -1 } = await billing.get(`balance/${user_id}`)
  console.log(`  ${'300 deductions at once'.padEnd(46)}${accepted.length} accepted, ${refused} refused with 402`)
  const passed = recharged === charged + balance && held === 0 && accepted.length + refused === 300
  console.log(`  recharged ${recharged} = charged ${charged} + balance ${balance}, held ${held}
  ${passed ? 'PASS: nothing was overspent, and no cent is missing' : 'FAIL: that is not what was asked for'}`)
  return passed
}

/** Asks gateways in turn. */
class BillingClient {
  readonly #urls: readonly string[]
  #requests = 0

  constructor(urls: readonly string[]) {
    this.#urls = urls
  }

  get(path: string): Promise<Answer> {
    return this.#ask('GET', path)
  }

  post(path: string, body: object): Promise<Answer> {
    return this.#ask('POST', path, JSON.stringify(body))
  }

  async #ask(method: 'GET' | 'POST', path: string, body?: string): Promise<Answer> {
    const url = `${this.#urls[this.#requests++ % this.#urls.length]}/api/v1/billing/${path}`
    const answer = await request(url, {
      method,
      ...(body && { body, headers: { 'content-type': 'application/json' } }),
    })
    return { status: answer.statusCode, ...((await answer.body.json()) as object) } as Answer
  }
}
