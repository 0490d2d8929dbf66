import { setTimeout as delay } from 'node:timers/promises'
import type { TokenSource } from 'spillway'
import { createHttpClient, type HttpClient } from 'spillway/http'
import * as undici from 'undici'
import { meteredService } from './billing/tariff.ts'
import type { GatewayStats } from './demo-report.ts'
import { sumOf, whole } from './demo-table.ts'
import type { LoadReport } from './load.ts'

/** What the demo reads of an answer, whatever it asked for. */
interface Answer {
  readonly status: number
  readonly detail?: string
  readonly allowed?: boolean
  readonly state?: string
  readonly free?: number
  readonly charged?: number
  readonly used?: number
  readonly held?: number
  readonly balance?: number
}

const patienceMs = 30_000

/** Compares what the load wrote with what is accounted, user by user; tells whether they are equal. */
export async function printUsage(
  billing: BillingClient,
  gateways: readonly GatewayStats[],
  { writes }: LoadReport,
): Promise<boolean> {
  const used = await Promise.all(writes.map(([user]) => billing.get(`free-quota/${user}/${meteredService}`)))
  const wrong = writes.filter(([, made], index) => used[index]?.used !== made)
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
  accounted ${whole(used.reduce((total, quota) => total + (quota.used ?? 0), 0))}, as GetFreeQuota says`)
  for (const [user, made] of wrong.slice(0, 5)) console.log(`    ${user}: made ${made}`)
  const balanced = sum('totalEvents') === sum('processedEvents') + failed + dropped + pending
  const passed = wrong.length === 0 && balanced && failed + dropped + pending === 0
  console.log(
    passed ? '  PASS: every write is accounted once' : `  FAIL: of ${wrong.length} users something else is accounted`,
  )
  return passed
}

/** Shows what billing does: free uses first, then money; reservations; refusals; a rush for the last cents. */
export async function printBilling(billing: BillingClient, user_id: string): Promise<boolean> {
  console.log('\n  Billing: a thumbnail is free a hundred times a month, and costs 2 then.')
  const amount = 500
  show(`recharge ${amount}`, await billing.post('recharge', { request_id: 'r1', user_id, amount }))
  const charged = (await printCharges(billing, user_id)) + (await printRush(billing, user_id))
  const { balance, held } = await billing.get(`balance/${user_id}`)
  const passed = amount === charged + (balance ?? 0) && held === 0
  say('in the end', `recharged ${amount} = charged ${charged} + balance ${balance}, held ${held}`)
  console.log(`  ${passed ? 'PASS: nothing was overspent, and no cent is missing' : 'FAIL: the sums differ'}`)
  return passed
}

/** Returns what was charged, as answered. */
async function printCharges(billing: BillingClient, user_id: string): Promise<number> {
  const of = { user_id, service: 'thumbnail' }
  const second = { ...of, request_id: 'd2', count: 50 }
  const taken = [
    show('deduct 80', await billing.post('deduct', { ...of, request_id: 'd1', count: 80 })),
    show('deduct 50', await billing.post('deduct', second)),
  ]
  show('the same request again, the same answer', await billing.post('deduct', second))
  show('reserve 30', await billing.post('reserve', { ...of, request_id: 'v1', count: 30 }))
  taken.push(show('settle 10 of them', await billing.post('settle', { user_id, reservation_id: 'v1', count: 10 })))
  show('reserve 30', await billing.post('reserve', { ...of, request_id: 'v2', count: 30 }))
  say('release them', (await billing.post('release', { user_id, reservation_id: 'v2' })).state)
  const check = await billing.post('check', { ...of, count: 1_000 })
  say('check 1000', `allowed ${check.allowed}, it would take ${check.charged}`)
  show('deduct 1000', await billing.post('deduct', { ...of, request_id: 'd3', count: 1_000 }))
  const exports = { user_id, service: 'export', request_id: 'd4', count: 6 }
  show('deduct 6 of export: 5 are free, no more for sale', await billing.post('deduct', exports))
  return taken.reduce((sum, answer) => sum + (answer.charged ?? 0), 0)
}

/** More deductions than the balance is good for, from many clients at once. */
async function printRush(billing: BillingClient, user_id: string): Promise<number> {
  const deduct = (request_id: string): Promise<Answer> =>
    billing.post('deduct', { request_id, user_id, service: 'thumbnail' })
  const clients = Array.from({ length: 20 }, async (_, client) => {
    const answers: Answer[] = []
    for (let n = 0; n < 12; n++) answers.push(await deduct(`rush-${client}-${n}`))
    return answers
  })
  const answers = (await Promise.all(clients)).flat()
  const accepted = answers.filter(({ status }) => status === 200)
  const refused = answers.filter(({ status }) => status === 402)
  say('240 deductions from 20 clients', `${accepted.length} accepted, ${refused.length} refused with 402`)
  return accepted.reduce((sum, { charged = 0 }) => sum + charged, 0)
}

function say(what: string, text: unknown): void {
  console.log(`  ${what.padEnd(50)}${text}`)
}

function show(what: string, answer: Answer): Answer {
  const { status, detail, free, charged, held, balance } = answer
  const amounts = Object.entries({ free, charged, held, balance }).filter(([, value]) => value !== undefined)
  say(what, status === 200 ? amounts.map((pair) => pair.join(' ')).join(', ') : `${status} ${detail}`)
  return answer
}

/** Asks gateways in turn, as a service of its own that has tokens. */
export class BillingClient {
  readonly #gateways: readonly HttpClient[]
  #requests = 0

  constructor(urls: readonly string[], token: TokenSource) {
    this.#gateways = urls.map((baseUrl) => createHttpClient(undici, { baseUrl, token }))
  }

  async close(): Promise<void> {
    for (const gateway of this.#gateways) await gateway.close()
  }

  get(path: string): Promise<Answer> {
    return this.#ask('GET', path)
  }

  post(path: string, body: object): Promise<Answer> {
    return this.#ask('POST', path, body)
  }

  /** A request that got no answer in time is made again: it counts once, by its id. */
  async #ask(method: 'GET' | 'POST', path: string, json?: object): Promise<Answer> {
    for (const deadline = Date.now() + patienceMs; ; await delay(100)) {
      const gateway = this.#gateways[this.#requests++ % this.#gateways.length] as HttpClient
      const answer = await gateway.request(`/api/v1/billing/${path}`, { method, json })
      const { status } = answer
      if (status !== 503 || Date.now() > deadline) return { ...answer.json<Omit<Answer, 'status'>>(), status }
    }
  }
}
