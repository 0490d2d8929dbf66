// The load of the demo, in a process of its own: `fork`ed with its options as JSON, it answers with messages. Where AUTH_URL names an
// auth service, its requests carry tokens.
import { setTimeout as delay } from 'node:timers/promises'
import type { TokenSource } from 'spillway'
import { type Dispatcher, Pool } from 'undici'
import { authClient, trustedIssuer } from '../auth/environment.ts'
import { type ServiceTokens, serviceTokens } from '../auth/service-tokens.ts'
import type { Operation } from '../http/schemas.ts'

export interface LoadOptions {
  /** Gateways; connections are shared out between them. */
  readonly urls: readonly string[]
  readonly seconds: number
  readonly connections: number
  /** The load ends early when it has sent so many requests. */
  readonly maxRequests: number
  /** What all resource ids begin with, so that this run's counters are its own. */
  readonly prefix: string
}

export type RequestKind = 'increment' | 'batch async' | 'batch sync' | 'get'

export interface Percentiles {
  readonly p50: number
  readonly p95: number
  readonly p99: number
}

/** What one kind of request was like, from sending until the whole answer was there. */
export interface KindReport extends Percentiles {
  readonly kind: RequestKind | 'all'
  readonly requests: number
}

export interface LoadReport {
  readonly elapsedMs: number
  readonly kinds: readonly KindReport[]
  /** Increments that the service accepted or committed. */
  readonly increments: number
  /** The sum of their deltas by resource id: what must be stored. */
  readonly sent: readonly (readonly [string, number])[]
  /** How many of those increments each user made: what must be metered. */
  readonly writes: readonly (readonly [string, number])[]
  /** Answers that said no, by status. */
  readonly refusals: Readonly<Record<string, number>>
  /** Requests without an answer: whether they counted is unknown. */
  readonly unanswered: number
  /** What each `windowMs` was like. */
  readonly timeline: readonly TimelineWindow[]
  /** The tokens that its requests carried, where they did. */
  readonly tokens: TokenCounts | undefined
}

/** For how many calls how many tokens were fetched. */
export interface TokenCounts {
  readonly calls: number
  readonly fetched: number
  /** Calls that were made again with another token, since the first one was refused. */
  readonly again: number
}

/** The requests that were sent within one window. */
export interface TimelineWindow {
  /** When it began, in milliseconds since the epoch. */
  readonly fromMs: number
  readonly requests: number
  readonly p50: number
  readonly p99: number
  readonly max: number
  /** Requests that were refused, or had no answer. */
  readonly failed: number
}

export const windowMs = 50

/** How far the load is. */
export interface LoadProgress {
  readonly type: 'progress'
  readonly requests: number
  readonly elapsedMs: number
}

export type LoadMessage = LoadProgress | { readonly type: 'report'; readonly report: LoadReport }

export const counterType = 'view'
const keys = 1_000
const users = 25
const hotShare = 0.2
const batchSize = 10
/** Of a hundred requests: 88 increments, 4 asynchronous batches, 2 synchronous ones, 6 reads. */
const kindAt: readonly [number, RequestKind][] = [
  [0.88, 'increment'],
  [0.92, 'batch async'],
  [0.94, 'batch sync'],
  [1, 'get'],
]

interface Answer {
  readonly accepted?: boolean | number
  readonly value?: number
  readonly results?: readonly { readonly value?: number }[]
}

class Load {
  readonly #options: LoadOptions
  readonly #pools: readonly Pool[]
  readonly #startedAt = performance.now()
  readonly #latencies = new Map<RequestKind, number[]>()
  readonly #sent = new Map<string, number>()
  readonly #writes = new Map<string, number>()
  readonly #refusals: Record<string, number> = {}
  readonly #windows = new Map<number, { latencies: number[]; failed: number }>()
  readonly #tokens: ServiceTokens | undefined
  readonly #token: TokenSource | undefined
  #isStopped = false
  #started = 0
  #again = 0
  #requests = 0
  #increments = 0
  #unanswered = 0

  constructor(options: LoadOptions) {
    this.#options = options
    const connections = Math.ceil(options.connections / options.urls.length)
    this.#pools = options.urls.map((url) => new Pool(url, { connections }))
    const issuer = trustedIssuer()
    this.#tokens = issuer && serviceTokens(authClient(issuer, 'load-generator'))
    this.#token = this.#tokens?.forKey({ audience: 'gateway', scopes: ['counters:read', 'counters:write'] })
  }

  get progress(): LoadMessage {
    return { type: 'progress', requests: this.#requests, elapsedMs: performance.now() - this.#startedAt }
  }

  /** One client a connection, each sending its next request when the last one was answered. */
  async run(): Promise<LoadReport> {
    await Promise.all(Array.from({ length: this.#options.connections }, (_, index) => this.#client(index)))
    const elapsedMs = performance.now() - this.#startedAt
    await Promise.all(this.#pools.map((pool) => pool.close()))
    await this.#tokens?.close()
    return {
      elapsedMs,
      kinds: this.#reportKinds(),
      increments: this.#increments,
      sent: [...this.#sent],
      writes: [...this.#writes],
      refusals: this.#refusals,
      unanswered: this.#unanswered,
      timeline: this.#timeline(),
      tokens: this.#tokenCounts(),
    }
  }

  /** Sends no more; what is under way is waited for. */
  stop(): void {
    this.#isStopped = true
  }

  #tokenCounts(): TokenCounts | undefined {
    const stats = this.#tokens?.stats()
    return (
      stats && { calls: this.#requests + this.#unanswered + this.#again, fetched: stats.refreshed, again: this.#again }
    )
  }

  async #client(index: number): Promise<void> {
    const pool = this.#pools[index % this.#pools.length] as Pool
    const user = `${this.#options.prefix}user-${index % users}`
    const endsAt = this.#startedAt + this.#options.seconds * 1_000
    while (!this.#isStopped && performance.now() < endsAt && this.#started < this.#options.maxRequests) {
      this.#started++
      await this.#send(pool, user)
    }
  }

  async #send(pool: Pool, user: string): Promise<void> {
    const chance = Math.random()
    const kind = kindAt.find(([below]) => chance < below)?.[1] ?? 'increment'
    const operations = Array.from({ length: kind.startsWith('batch') ? batchSize : 1 }, () => this.#operation())
    const sentAt = performance.now()
    try {
      const { statusCode, body } = await this.#request(pool, requestFor(kind, operations, user))
      const answer = (await body.json()) as Answer
      this.#record(kind, sentAt, statusCode >= 300 || statusCode === 207)
      if (kind !== 'get') this.#count(takenOf(operations, statusCode, answer), user)
      if (statusCode >= 300 || statusCode === 207) await this.#refused(statusCode)
    } catch {
      this.#unanswered++
      this.#windowOf(sentAt).failed++
      await delay(100)
    }
  }

  /** With a token, where it has any; one that is refused is replaced, once. */
  async #request(pool: Pool, request: LoadRequest): Promise<Dispatcher.ResponseData> {
    if (this.#token === undefined) return pool.request(request)
    const token = await this.#token.get()
    const response = await pool.request(withToken(request, token))
    if (response.statusCode !== 401) return response
    await response.body.dump()
    this.#again++
    this.#token.invalidate(token)
    return pool.request(withToken(request, await this.#token.get()))
  }

  #operation(): Operation {
    const key = Math.random() < hotShare ? 'hot' : Math.floor(Math.random() * keys)
    const delta = 1 + Math.floor(Math.random() * 3)
    return { resource_id: `${this.#options.prefix}${key}`, counter_type: counterType, delta }
  }

  #record(kind: RequestKind, sentAt: number, refused: boolean): void {
    const latencyMs = performance.now() - sentAt
    this.#requests++
    const window = this.#windowOf(sentAt)
    window.latencies.push(latencyMs)
    if (refused) window.failed++
    const latencies = this.#latencies.get(kind)
    if (latencies === undefined) this.#latencies.set(kind, [latencyMs])
    else latencies.push(latencyMs)
  }

  #windowOf(sentAt: number): { latencies: number[]; failed: number } {
    const index = Math.floor((performance.timeOrigin + sentAt) / windowMs)
    let window = this.#windows.get(index)
    if (window === undefined) {
      window = { latencies: [], failed: 0 }
      this.#windows.set(index, window)
    }
    return window
  }

  #timeline(): TimelineWindow[] {
    const windows = [...this.#windows].sort(([a], [b]) => a - b)
    return windows.map(([index, { latencies, failed }]) => {
      const { requests, p50, p99 } = reportKind('all', latencies)
      return { fromMs: index * windowMs, requests, p50, p99, max: Math.max(0, ...latencies), failed }
    })
  }

  #count(operations: readonly Operation[], user: string): void {
    this.#increments += operations.length
    this.#writes.set(user, (this.#writes.get(user) ?? 0) + operations.length)
    for (const { resource_id, delta } of operations) {
      this.#sent.set(resource_id, (this.#sent.get(resource_id) ?? 0) + delta)
    }
  }

  async #refused(status: number): Promise<void> {
    this.#refusals[status] = (this.#refusals[status] ?? 0) + 1
    await delay(100)
  }

  #reportKinds(): KindReport[] {
    const all = [...this.#latencies].map(([kind, latencies]) => reportKind(kind, latencies))
    return [...all.sort((a, b) => b.requests - a.requests), reportKind('all', [...this.#latencies.values()].flat())]
  }
}

interface LoadRequest {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
}

function withToken(request: LoadRequest, token: string): LoadRequest {
  return { ...request, headers: { ...request.headers, authorization: `Bearer ${token}` } }
}

function requestFor(kind: RequestKind, operations: readonly Operation[], user_id: string): LoadRequest {
  const [first] = operations
  if (kind === 'get') {
    return { method: 'GET', path: `/api/v1/counter/${first?.resource_id}/${counterType}` }
  }
  const batch = { user_id, operations, async: kind === 'batch async' }
  return {
    method: 'POST',
    path: kind === 'increment' ? '/api/v1/counter/increment' : '/api/v1/counter/batch-increment',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(kind === 'increment' ? { user_id, ...first } : batch),
  }
}

/** Which operations the service took, as its answer says: a batch may be taken in part. */
function takenOf(
  operations: readonly Operation[],
  status: number,
  { accepted, results, value }: Answer,
): readonly Operation[] {
  if (results !== undefined) return operations.filter((_, index) => results[index]?.value !== undefined)
  if (typeof accepted === 'number') return operations.slice(0, accepted)
  return status === 202 || (status === 200 && value !== undefined) ? operations : []
}

function reportKind(kind: KindReport['kind'], latencies: readonly number[]): KindReport {
  const sorted = Float64Array.from(latencies).sort()
  const at = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0
  return { kind, requests: sorted.length, p50: at(0.5), p95: at(0.95), p99: at(0.99) }
}

const [json] = process.argv.slice(2)
if (json !== undefined && process.send !== undefined) {
  const tell = (message: LoadMessage): void => void process.send?.(message)
  process.on('disconnect', () => process.exit(1))
  const load = new Load(JSON.parse(json) as LoadOptions)
  // Ctrl-C reaches the whole process group: what was sent until then is a report, too.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => load.stop())
  process.on('message', () => load.stop())
  const timer = setInterval(() => tell(load.progress), 250)
  const report = await load.run()
  clearInterval(timer)
  process.send({ type: 'report', report } satisfies LoadMessage, () => process.disconnect())
}
