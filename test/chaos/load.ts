// The load, in a process of its own: `fork`ed with its options as JSON. What it is answered it writes into a ledger before it goes on.
import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { Pool } from 'undici'
import type { AddEntry, BillEntry, Fate } from './evidence.ts'
import { LedgerFile } from './ledger.ts'
import { type PlannedRequest, planOf } from './load-plan.ts'

export interface LoadOptions {
  readonly seed: number
  readonly gateways: readonly { readonly name: string; readonly url: string }[]
  readonly clients: number
  /** Requests a second, of all clients together. */
  readonly rate: number
  readonly maxRequests: number
  readonly ledger: string
}

/** What became of the requests so far. */
export interface LoadCounts {
  answered: number
  refused: number
  unknown: number
}

/** What the load tells, and what it is told. */
export type LoadMessage = { readonly type: 'counts'; readonly counts: LoadCounts } | { readonly type: 'over' }
export type LoadOrder = { readonly type: 'stop' } | { readonly type: 'burst'; readonly gateway: string }

interface Answer {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: each request knows the answer that it asked for
  readonly body: any
}

const requestMs = 12_000
const afterFailureMs = 100
/** A burst: more counters than a gateway has room for, in as few requests as may be. */
const burstBatches = 14
const burstSize = 1_000
/** How long one goes on to ask for what changes money. */
const insistMs = 25_000

class Load {
  readonly counts: LoadCounts = { answered: 0, refused: 0, unknown: 0 }
  readonly #options: LoadOptions
  readonly #ledger: LedgerFile
  readonly #pools: readonly { readonly name: string; readonly pool: Pool }[]
  readonly #stop = new AbortController()
  readonly #bursts: Promise<void>[] = []
  #requests = 0
  #burst = 0

  constructor(options: LoadOptions) {
    this.#options = options
    this.#ledger = new LedgerFile(options.ledger)
    // One a client.
    setMaxListeners(options.clients, this.#stop.signal)
    this.#pools = options.gateways.map(({ name, url }) => {
      // Connections that broke while they were idle are no news: each request has one that is open, or opens one.
      return {
        name,
        pool: new Pool(url, { connections: options.clients + burstBatches, pipelining: 1, bodyTimeout: requestMs }),
      }
    })
  }

  /** Until it is told to stop; what is on its way then is waited for. */
  async run(): Promise<void> {
    await Promise.all(Array.from({ length: this.#options.clients }, (_, index) => this.#client(index)))
    await Promise.all(this.#bursts)
    await Promise.all(this.#pools.map(({ pool }) => pool.destroy()))
    this.#ledger.close()
  }

  stop(): void {
    this.#stop.abort()
  }

  burst(gateway: string): void {
    const place = this.#pools.findIndex(({ name }) => name === gateway)
    const burst = ++this.#burst
    const batches = Array.from({ length: burstBatches }, async (_, batch) => {
      const operations = Array.from({ length: burstSize }, (_, n) => {
        return { resource: `burst-${burst}-${batch}-${n}`, type: 'like', delta: 1 }
      })
      await this.#add({ kind: 'add', gateway: place, ack: 'accepted', user: `burst-${burst}`, operations })
    })
    this.#bursts.push(...batches)
  }

  async #client(index: number): Promise<void> {
    const { seed, clients, rate, maxRequests } = this.#options
    const pauseMs = (1_000 * clients) / rate
    const plan = planOf(seed, index)
    await delay((pauseMs * index) / clients)
    for (let next = performance.now(); !this.#stop.signal.aborted && this.#requests < maxRequests; ) {
      this.#requests++
      await this.#send(plan.next().value)
      // After a stall it goes on at its pace, and doesn't catch up.
      next = Math.max(next + pauseMs, performance.now())
      await delay(next - performance.now(), undefined, { signal: this.#stop.signal }).catch(() => undefined)
    }
  }

  async #send(planned: PlannedRequest): Promise<void> {
    if (planned.kind === 'add') return this.#add(planned)
    if (planned.kind === 'read' || planned.kind === 'page') return this.#read(planned)
    if (planned.kind === 'reserve') return this.#reserve(planned)
    const { kind: operation, user, request, count, gateway } = planned
    const bill = { operation, user, request, count }
    await Promise.all([
      this.#insist(gateway, bill),
      // By the other gateway, at the same time: they are one request.
      planned.twin ? this.#insist(gateway + 1, bill) : undefined,
    ])
  }

  async #add(planned: Extract<PlannedRequest, { kind: 'add' }>): Promise<void> {
    const { gateway, ack, user, operations, idempotencyKey } = planned
    const sentAt = Date.now()
    const sent = operations.map(({ resource, type, delta }) => {
      return { resource_id: resource, counter_type: type, delta }
    })
    const [one] = sent
    const whose = user === undefined ? {} : { user_id: user }
    const path = `/api/v1/counter/${sent.length === 1 ? 'increment' : 'batch-increment'}`
    const body = sent.length === 1 ? { ...one, ack, ...whose } : { operations: sent, ack, ...whose }
    const { answer, by } = await this.#askOnce(gateway, path, body, idempotencyKey)
    const outcomes = outcomesOf(answer, sent.length)
    const done = operations.map(({ resource, type, delta }, index): AddEntry['operations'][number] => {
      const [fate, value] = outcomes[index] as readonly [Fate, number?]
      return [`${resource}:${type}`, delta, fate, ...(value === undefined ? ([] as const) : ([value] as const))]
    })
    const { status } = answer
    const { name } = this.#gateway(by)
    const keyed = idempotencyKey !== undefined
    const entry = { sentAt, endedAt: Date.now(), gateway: name, ack, user, keyed, status, operations: done }
    this.#ledger.append({ type: 'add', ...entry })
    const fates = new Set(outcomes.map(([fate]) => fate))
    await this.#count(fates.has('unknown') ? 'unknown' : fates.has('refused') ? 'refused' : 'answered')
  }

  /** With a key it is asked until it is answered, by one gateway after the other: however often that is, it counts once. */
  async #askOnce(
    gateway: number,
    path: string,
    body: object,
    idempotencyKey: string | undefined,
  ): Promise<{ readonly answer: Answer; readonly by: number }> {
    if (idempotencyKey === undefined) return { answer: await this.#ask(gateway, 'POST', path, body), by: gateway }
    const headers = { 'idempotency-key': idempotencyKey }
    const deadline = performance.now() + insistMs
    // Any of the attempts before may have been the one that was done.
    for (let by = gateway; ; by++) {
      const answer = await this.#ask(by, 'POST', path, body, headers)
      const isOver = answer.status >= 200 && answer.status < 500 && answer.status !== 409 && answer.status !== 429
      if (isOver) return { answer, by }
      await this.#count('unknown')
      if (this.#stop.signal.aborted || performance.now() > deadline)
        return { answer: { status: 0, body: undefined }, by }
      await delay(300)
    }
  }

  async #read(planned: Extract<PlannedRequest, { kind: 'read' | 'page' }>): Promise<void> {
    const { gateway, resource, fresh } = planned
    const { name } = this.#gateway(gateway)
    const path =
      planned.kind === 'read'
        ? `/api/v1/counter/${resource}/${planned.type}?source=${planned.source}&fresh=${fresh}`
        : `/api/v1/counter?resource_id=${resource}&fresh=${fresh}`
    const sentAt = Date.now()
    const { status, body } = await this.#ask(gateway, 'GET', path)
    const endedAt = Date.now()
    if (status === 200) {
      const read = { type: 'read' as const, sentAt, endedAt, gateway: name, fresh }
      const values: { counter_type: string; value: number }[] = planned.kind === 'read' ? [body] : body.counters
      const source = planned.kind === 'read' ? body.source : 'durable'
      for (const { counter_type, value } of values) {
        this.#ledger.append({ ...read, source, key: `${resource}:${counter_type}`, value })
      }
    }
    await this.#count(status === 200 ? 'answered' : status === 0 ? 'unknown' : 'refused')
  }

  async #reserve(planned: Extract<PlannedRequest, { kind: 'reserve' }>): Promise<void> {
    const { gateway, user, request, count, ttlMs, then, settled } = planned
    const reserved = await this.#insist(gateway, { operation: 'reserve', user, request, count }, { ttl_ms: ttlMs })
    if (reserved !== 200 || then === 'nothing') return
    await this.#insist(gateway + 1, { operation: then, user, request, count: then === 'settle' ? settled : 0 })
  }

  /** Asks until it is told: each attempt goes to the next gateway, and counts once with the others. */
  async #insist(
    gateway: number,
    bill: Pick<BillEntry, 'operation' | 'user' | 'request' | 'count'>,
    more: object = {},
  ): Promise<number> {
    const { operation, user, request, count } = bill
    const reservation = operation === 'settle' || operation === 'release'
    const id = reservation ? { reservation_id: request } : { request_id: request }
    const what =
      operation === 'recharge'
        ? { amount: count }
        : operation === 'settle'
          ? { count }
          : operation === 'release'
            ? {}
            : { service: 'print', count }
    const deadline = performance.now() + insistMs
    for (let attempt = 0; ; attempt++) {
      const path = `/api/v1/billing/${operation}`
      const { status, body } = await this.#ask(gateway + attempt, 'POST', path, {
        ...id,
        user_id: user,
        ...what,
        ...more,
      })
      const { free, charged, balance, state } = body ?? {}
      this.#ledger.append({ type: 'bill', endedAt: Date.now(), ...bill, status, free, charged, balance, state })
      await this.#count(status === 200 ? 'answered' : status >= 400 && status < 500 ? 'refused' : 'unknown')
      const isOver = status === 200 || (status >= 400 && status < 500)
      if (isOver || this.#stop.signal.aborted || performance.now() > deadline) return status
      await delay(200)
    }
  }

  #gateway(index: number): { readonly name: string; readonly pool: Pool } {
    return this.#pools[index % this.#pools.length] as { name: string; pool: Pool }
  }

  /** Status 0 is no answer, and no whole one either. */
  async #ask(
    gateway: number,
    method: 'GET' | 'POST',
    path: string,
    json?: object,
    more: Record<string, string> = {},
  ): Promise<Answer> {
    const signal = AbortSignal.timeout(requestMs)
    try {
      const { statusCode, body } = await this.#gateway(gateway).pool.request({
        ...{ method, path, signal },
        ...(json !== undefined && {
          body: JSON.stringify(json),
          headers: { 'content-type': 'application/json', ...more },
        }),
      })
      return { status: statusCode, body: await body.json() }
    } catch {
      return { status: 0, body: undefined }
    }
  }

  async #count(outcome: keyof LoadCounts): Promise<void> {
    this.counts[outcome]++
    if (outcome !== 'answered') await delay(afterFailureMs)
  }
}

/** What became of each operation, as the answer says. What it doesn't rule out may have been done. */
function outcomesOf({ status, body }: Answer, size: number): (readonly [Fate, number?])[] {
  if (Array.isArray(body?.results)) {
    return body.results.map(({ value, problem }: { value?: number; problem?: { applied?: string } }) =>
      value === undefined ? [problem?.applied === 'no' ? 'refused' : 'unknown'] : ['acked', value],
    )
  }
  // Of a batch, the first ones may have been accepted.
  const accepted: unknown = body?.accepted
  const some = typeof accepted === 'number' ? accepted : status === 202 ? size : 0
  if (status === 202 || typeof accepted === 'number') {
    return Array.from({ length: size }, (_, index) => [index < some ? 'acked' : 'refused'] as const)
  }
  if (status === 200) return [['acked', body?.value]]
  const refused = (status >= 400 && status < 500) || body?.applied === 'no' || accepted === false
  return Array.from({ length: size }, () => [refused ? 'refused' : 'unknown'] as const)
}

const [json] = process.argv.slice(2)
if (json !== undefined && process.send !== undefined) {
  const tell = (message: LoadMessage): void => void process.send?.(message)
  const load = new Load(JSON.parse(json) as LoadOptions)
  const orphaned = (): never => process.exit(1)
  process.on('disconnect', orphaned)
  process.on('message', (order: LoadOrder) => {
    if (order.type === 'stop') load.stop()
    else load.burst(order.gateway)
  })
  const timer = setInterval(() => tell({ type: 'counts', counts: load.counts }), 500)
  await load.run()
  clearInterval(timer)
  tell({ type: 'counts', counts: load.counts })
  process.off('disconnect', orphaned)
  process.send({ type: 'over' } satisfies LoadMessage, () => process.disconnect())
}
