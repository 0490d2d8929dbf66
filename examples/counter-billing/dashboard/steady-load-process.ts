// A load at a steady rate, in a process of its own: `fork`ed with its options as JSON, it takes orders and answers with counts. Where
// AUTH_URL names an auth service, its requests carry tokens.
import type { TokenSource } from 'spillway'
import { Pool } from 'undici'
import { authClient, trustedIssuer } from '../auth/environment.ts'
import { serviceTokens } from '../auth/service-tokens.ts'
import type { Operation } from '../http/schemas.ts'

export interface SteadyLoadOptions {
  readonly urls: readonly string[]
  /** What all resource ids begin with, so that its counters are its own. */
  readonly prefix: string
  /** How many counters it counts. */
  readonly keys: number
}

/** Sums of deltas, and requests that were due and not sent. */
export interface LoadCount {
  readonly acknowledged: number
  /** Of requests without an answer, or with one that doesn't say whether it counts. */
  readonly unsure: number
  readonly skipped: number
}

export type SteadyLoadOrder = { readonly type: 'rate'; readonly perSecond: number } | { readonly type: 'pause' }

/** `still` answers a pause, once every request has its answer. */
export interface SteadyLoadAnswer {
  readonly type: 'count' | 'still'
  readonly count: LoadCount
}

export const counterType = 'view'

/** The counters of a load. */
export function countersOf({ prefix, keys }: SteadyLoadOptions): string[] {
  return Array.from({ length: keys }, (_, index) => `${prefix}${index}:${counterType}`)
}

const tickMs = 20
const tellMs = 250
const users = 20
const batchSize = 5
/** Requests without an answer; those that are due beyond it are skipped, so that an outage ends with the outage. */
const maxOutstanding = 200
const connections = 100
const answerMs = 20_000

type Kind = 'accepted' | 'redis' | 'committed' | 'batch' | 'get'

/** Of a hundred requests: 70 increments, 4 and 4 that wait for a store, 4 batches, 18 reads. */
const kindAt: readonly (readonly [number, Kind])[] = [
  [0.7, 'accepted'],
  [0.74, 'redis'],
  [0.78, 'committed'],
  [0.82, 'batch'],
  [1, 'get'],
]

interface Answer {
  readonly accepted?: boolean | number
  readonly applied?: 'no' | 'unknown'
}

class Load {
  readonly #options: SteadyLoadOptions
  readonly #pools: readonly Pool[]
  readonly #token: TokenSource | undefined
  #perSecond = 0
  #due = 0
  #outstanding = 0
  #requests = 0
  #paused: (() => void) | undefined
  #count = { acknowledged: 0, unsure: 0, skipped: 0 }

  constructor(options: SteadyLoadOptions) {
    this.#options = options
    this.#pools = options.urls.map(
      (url) => new Pool(url, { connections, headersTimeout: answerMs, bodyTimeout: answerMs }),
    )
    const issuer = trustedIssuer()
    const tokens = issuer && serviceTokens(authClient(issuer, 'load-generator'))
    this.#token = tokens?.forKey({ audience: 'gateway', scopes: ['counters:read', 'counters:write'] })
  }

  get count(): LoadCount {
    return { ...this.#count }
  }

  set perSecond(perSecond: number) {
    this.#perSecond = perSecond
    this.#due = 0
  }

  tick(): void {
    this.#due += (this.#perSecond * tickMs) / 1_000
    for (; this.#due >= 1; this.#due--) {
      if (this.#outstanding < maxOutstanding) void this.#send()
      else this.#count.skipped++
    }
  }

  /** Sends nothing more; resolves once everything is answered. */
  async pause(): Promise<void> {
    this.perSecond = 0
    if (this.#outstanding > 0) await new Promise<void>((resolve) => (this.#paused = resolve))
  }

  async #send(): Promise<void> {
    this.#outstanding++
    const chance = Math.random()
    const kind = kindAt.find(([below]) => chance < below)?.[1] ?? 'accepted'
    const operations = Array.from({ length: kind === 'batch' ? batchSize : 1 }, () => this.#operation())
    try {
      const { status, answer } = await this.#ask(kind, operations)
      if (kind !== 'get') this.#record(operations, status, answer)
    } catch {
      if (kind !== 'get') this.#count.unsure += sumOf(operations)
    } finally {
      this.#outstanding--
      if (this.#outstanding === 0) this.#paused?.()
    }
  }

  /** A token that is refused is replaced, once: it may have expired on its way. */
  async #ask(kind: Kind, operations: readonly Operation[]): Promise<{ status: number; answer: Answer }> {
    const token = await this.#token?.get()
    const first = await this.#askWith(token, kind, operations)
    if (first.status !== 401 || token === undefined) return first
    this.#token?.invalidate(token)
    return this.#askWith(await this.#token?.get(), kind, operations)
  }

  async #askWith(token: string | undefined, kind: Kind, operations: readonly Operation[]) {
    const pool = this.#pools[this.#requests++ % this.#pools.length] as Pool
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` }
    const [first] = operations
    const user_id = `${this.#options.prefix}user-${this.#requests % users}`
    const body = kind === 'batch' ? { user_id, operations, async: true } : { user_id, ...first, ack: kind }
    const response =
      kind === 'get'
        ? await pool.request({ method: 'GET', path: `/api/v1/counter/${first?.resource_id}/${counterType}`, headers })
        : await pool.request({
            method: 'POST',
            path: `/api/v1/counter/${kind === 'batch' ? 'batch-increment' : 'increment'}`,
            headers: { ...headers, 'content-type': 'application/json' },
            body: JSON.stringify(body),
          })
    return { status: response.statusCode, answer: (await response.body.json()) as Answer }
  }

  #operation(): Operation {
    const { prefix, keys } = this.#options
    // The square makes few counters hot, as they are.
    const key = Math.floor(Math.random() ** 2 * keys)
    return { resource_id: `${prefix}${key}`, counter_type: counterType, delta: 1 + Math.floor(Math.random() * 3) }
  }

  #record(operations: readonly Operation[], status: number, { accepted, applied }: Answer): void {
    if (typeof accepted === 'number') this.#count.acknowledged += sumOf(operations.slice(0, accepted))
    else if (status < 300) this.#count.acknowledged += sumOf(operations)
    else if (status >= 500 && applied !== 'no' && accepted !== false) this.#count.unsure += sumOf(operations)
  }
}

function sumOf(operations: readonly Operation[]): number {
  return operations.reduce((sum, { delta }) => sum + delta, 0)
}

const [json] = process.argv.slice(2)
if (json !== undefined && process.send !== undefined) {
  const load = new Load(JSON.parse(json) as SteadyLoadOptions)
  const tell = (type: SteadyLoadAnswer['type']): void => {
    if (process.connected) process.send?.({ type, count: load.count } satisfies SteadyLoadAnswer)
  }
  process.on('message', (order: SteadyLoadOrder) => {
    if (order.type === 'rate') load.perSecond = order.perSecond
    else void load.pause().then(() => tell('still'))
  })
  setInterval(() => load.tick(), tickMs)
  setInterval(() => tell('count'), tellMs)
  // A Ctrl-C reaches it, too: whoever started it says when it is over.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined)
  process.on('disconnect', () => process.exit())
}
