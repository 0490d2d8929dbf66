import { setTimeout as delay } from 'node:timers/promises'
import type { TokenSource } from 'spillway'
import { createHttpClient, type HttpClient } from 'spillway/http'
import * as undici from 'undici'
import { meteredService } from '../billing/tariff.ts'
import type { GatewayStats } from './details.ts'
import type { LoadReport } from './load-process.ts'
import { sumOf, whole } from './table.ts'

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

/** Tells of one step, where somebody wants to know each. */
type Say = (what: string, text: unknown) => void

/** What users did, and what is accounted of it. */
export interface Accounts {
  readonly made: number
  readonly users: number
  readonly accounted: number
  readonly batches: number
  /** What is wrong, for people. */
  readonly problems: readonly string[]
}

/** Compares what the load wrote with what is accounted, user by user. */
export async function accountsOf(
  billing: BillingClient,
  gateways: readonly GatewayStats[],
  { writes }: LoadReport,
): Promise<Accounts> {
  const used = await Promise.all(writes.map(([user]) => billing.get(`free-quota/${user}/${meteredService}`)))
  const wrong = writes.filter(([, made], index) => used[index]?.used !== made)
  const books = gateways.map(({ billing }) => billing.usage)
  const sum = (
    field: 'totalEvents' | 'processedEvents' | 'failedEvents' | 'droppedEvents' | 'pending' | 'batchCount',
  ) => books.reduce((total, usage) => total + usage[field], 0)
  const [failed, dropped, pending] = [sum('failedEvents'), sum('droppedEvents'), sum('pending')]
  const isBalanced = sum('totalEvents') === sum('processedEvents') + failed + dropped + pending
  const problems = [
    ...wrong.slice(0, 5).map(([user, made]) => `${user}: made ${made}, accounted otherwise`),
    ...(isBalanced && failed + dropped + pending === 0
      ? []
      : [`of ${whole(sum('totalEvents'))} uses ${failed} failed, ${dropped} were dropped, ${pending} wait`]),
  ]
  const accounted = used.reduce((total, quota) => total + (quota.used ?? 0), 0)
  return { made: sumOf(writes), users: writes.length, accounted, batches: sum('batchCount'), problems }
}

/** What became of a customer's money. */
export interface Money {
  readonly recharged: number
  readonly charged: number
  readonly balance: number
  /** Of the deductions that came all at once. */
  readonly accepted: number
  readonly refused: number
  readonly problems: readonly string[]
}

/** Has billing do what it does: free uses first, then money; reservations; refusals; a rush for the last cents. */
export async function spend(billing: BillingClient, user_id: string, isTold: boolean): Promise<Money> {
  const say: Say = isTold ? (what, text) => console.log(`  ${what.padEnd(50)}${text}`) : () => undefined
  if (isTold) console.log('\n  Billing: a thumbnail is free a hundred times a month, and costs 2 then.')
  const recharged = 500
  show(say, `recharge ${recharged}`, await billing.post('recharge', { request_id: 'r1', user_id, amount: recharged }))
  const before = await charges(billing, user_id, say)
  const rush = await rushFor(billing, user_id)
  say('240 deductions from 20 clients', `${rush.accepted} accepted, ${rush.refused} refused with 402`)
  const charged = before + rush.charged
  const { balance = 0, held } = await billing.get(`balance/${user_id}`)
  const isRight = recharged === charged + balance && held === 0
  const sums = `recharged ${recharged} = charged ${charged} + balance ${balance}, held ${held}`
  say('in the end', sums)
  return { recharged, ...rush, charged, balance, problems: isRight ? [] : [`the sums differ: ${sums}`] }
}

/** Returns what was charged, as answered. */
async function charges(billing: BillingClient, user_id: string, say: Say): Promise<number> {
  const of = { user_id, service: 'thumbnail' }
  const second = { ...of, request_id: 'd2', count: 50 }
  const tell = (what: string, answer: Answer): Answer => show(say, what, answer)
  const taken = [
    tell('deduct 80', await billing.post('deduct', { ...of, request_id: 'd1', count: 80 })),
    tell('deduct 50', await billing.post('deduct', second)),
  ]
  tell('the same request again, the same answer', await billing.post('deduct', second))
  tell('reserve 30', await billing.post('reserve', { ...of, request_id: 'v1', count: 30 }))
  taken.push(tell('settle 10 of them', await billing.post('settle', { user_id, reservation_id: 'v1', count: 10 })))
  tell('reserve 30', await billing.post('reserve', { ...of, request_id: 'v2', count: 30 }))
  say('release them', (await billing.post('release', { user_id, reservation_id: 'v2' })).state)
  const check = await billing.post('check', { ...of, count: 1_000 })
  say('check 1000', `allowed ${check.allowed}, it would take ${check.charged}`)
  tell('deduct 1000', await billing.post('deduct', { ...of, request_id: 'd3', count: 1_000 }))
  const exports = { user_id, service: 'export', request_id: 'd4', count: 6 }
  tell('deduct 6 of export: 5 are free, no more for sale', await billing.post('deduct', exports))
  return taken.reduce((sum, answer) => sum + (answer.charged ?? 0), 0)
}

/** More deductions than the balance is good for, from many clients at once. */
async function rushFor(
  billing: BillingClient,
  user_id: string,
): Promise<{ charged: number; accepted: number; refused: number }> {
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
  const charged = accepted.reduce((sum, { charged = 0 }) => sum + charged, 0)
  return { charged, accepted: accepted.length, refused: refused.length }
}

function show(say: Say, what: string, answer: Answer): Answer {
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
