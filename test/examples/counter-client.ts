import { onTestFinished } from 'vitest'
import { type Gateway, type GatewayServiceOptions, startGateway } from '../../examples/counter-billing/service.ts'

/** What the service answered. */
export interface Answer {
  readonly status: number
  readonly headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: each test knows the answer that it asks for
  readonly body: any
}

export interface Client {
  readonly service: Gateway
  /** What the service logged. */
  readonly log: string[]
  get(path: string): Promise<Answer>
  post(path: string, body: unknown): Promise<Answer>
  /** Sends a body as it is. */
  send(path: string, body: string, contentType?: string): Promise<Answer>
  increment(resource: string, delta?: number, ack?: string): Promise<Answer>
  /** The durable value, or the live one. */
  value(resource: string, source?: 'live' | 'durable'): Promise<number>
}

export const increments = '/api/v1/counter/increment'
export const batches = '/api/v1/counter/batch-increment'

/** Starts a service on a free port that ends with the test. */
export async function startClient(
  counters: GatewayServiceOptions['counters'],
  options: Omit<GatewayServiceOptions, 'counters'> = {},
): Promise<Client> {
  const log: string[] = []
  const service = await startGateway({
    counters,
    ports: [0],
    log: (level, message) => log.push(`${level} ${message}`),
    ...options,
  })
  onTestFinished(() => service.close())
  return clientOf(service, log)
}

export function clientOf(service: Gateway, log: string[]): Client {
  const get = (path: string): Promise<Answer> => request(service.url + path)
  const send = (path: string, body: string, contentType = 'application/json'): Promise<Answer> =>
    request(service.url + path, { method: 'POST', body, headers: { 'content-type': contentType } })
  const post = (path: string, body: unknown): Promise<Answer> => send(path, JSON.stringify(body))
  return {
    service,
    log,
    get,
    post,
    send,
    increment: (resource, delta, ack) => post(increments, { resource_id: resource, counter_type: 'like', delta, ack }),
    value: async (resource, source = 'durable') =>
      (await get(`/api/v1/counter/${encodeURIComponent(resource)}/like?source=${source}&fresh=true`)).body.value,
  }
}

/** Operations on counters of type `like`, as a batch wants them. */
export function operations(...deltas: readonly (readonly [string, number])[]): unknown[] {
  return deltas.map(([resource_id, delta]) => ({ resource_id, counter_type: 'like', delta }))
}

async function request(url: string, init?: RequestInit): Promise<Answer> {
  const response = await fetch(url, init)
  return { status: response.status, headers: response.headers, body: await response.json() }
}
