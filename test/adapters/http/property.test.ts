import fc from 'fast-check'
import { CircuitBreaker } from 'spillway'
import { createHttpClient, type HttpClient } from 'spillway/http'
import * as undici from 'undici'
import { expect, test } from 'vitest'
import { balanced } from './support/client.js'
import { answer, startHttp, startHttps, trusted, until } from './support/servers.js'

/** What a server does to one request. */
const faults = ['ok', '503', '404', '401', 'lost', 'half', 'reset', 'silent', 'large'] as const

const step = fc.record({
  fault: fc.constantFrom(...faults),
  second: fc.constantFrom(...faults),
  method: fc.constantFrom('GET', 'POST', 'PUT'),
  stream: fc.boolean(),
  /** What the caller does with it. */
  caller: fc.constantFrom('waits', 'waits', 'waits', 'aborts', 'aborted', 'drops', 'wrong'),
  throwOnError: fc.boolean(),
})

const plan = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 12 }),
  attempts: fc.integer({ min: 1, max: 3 }),
  connectionsPerOrigin: fc.integer({ min: 1, max: 3 }),
  maxIdleConnections: fc.integer({ min: 0, max: 3 }),
  capacity: fc.integer({ min: 6, max: 20 }),
  breaker: fc.boolean(),
  token: fc.boolean(),
  closeMs: fc.option(fc.integer({ min: 0, max: 30 }), { nil: undefined }),
})

/** A request or response of either protocol, as far as they are used here. */
interface Incoming {
  readonly url?: string | undefined
  readonly socket: { destroy(): unknown }
  readonly stream?: { close(code?: number): void }
  resume(): unknown
}
type Outgoing = Parameters<typeof answer>[0] & { write(chunk: string): unknown }

/** Does to each request what its URL says, to the first attempt and to those after it. */
function faulty(): (request: Incoming, response: Outgoing) => void {
  const seen = new Map<string, number>()
  return (request, response) => {
    const [, id = '', first = '', second = ''] = (request.url ?? '').split('/')
    const attempt = (seen.get(id) ?? 0) + 1
    seen.set(id, attempt)
    request.resume()
    const fault = attempt === 1 ? first : second
    switch (fault) {
      case 'lost':
        request.socket.destroy()
        break
      case 'reset':
        if (request.stream === undefined) request.socket.destroy()
        else request.stream.close(attempt % 2 === 0 ? 7 : 8)
        break
      case 'half':
        response.writeHead(200, { 'content-length': '100' })
        response.write('half')
        setTimeout(() => request.socket.destroy(), 1)
        break
      case 'silent':
        break
      case 'large':
        response.end('x'.repeat(5000))
        break
      default:
        answer(response, fault === 'ok' ? 200 : Number(fault), null)
    }
  }
}

test.each(['http', 'https'])(
  '%s: whatever servers and callers do, each request is settled once and the books balance',
  async (protocol) => {
    const act = faulty()
    const server = await (protocol === 'http' ? startHttp(act) : startHttps(act as never))
    let ids = 0

    await fc.assert(
      fc.asyncProperty(plan, async (run) => {
        let tokens = 0
        const client = createHttpClient(undici, {
          baseUrl: server.origin,
          connect: { ca: trusted().cert },
          timeoutMs: 40,
          maxResponseBytes: 4000,
          retry: { attempts: run.attempts, delayMs: 1 },
          connectionsPerOrigin: run.connectionsPerOrigin,
          maxIdleConnections: run.maxIdleConnections,
          capacity: run.capacity,
          breaker: run.breaker ? new CircuitBreaker({ failureThreshold: 3, recoveryTimeoutMs: 5 }) : undefined,
          token: run.token ? { get: async () => `token-${tokens++}`, invalidate: () => undefined } : undefined,
        })
        const settled = { resolved: 0, rejected: 0 }
        const all = run.steps.map((one) => ask(client, `${ids++}`, one, settled))
        balanced(client)
        const closing = run.closeMs === undefined ? undefined : client.close({ timeoutMs: run.closeMs })
        await Promise.all(all)
        balanced(client)
        await closing
        await until(() => client.stats().pending === 0, 'nothing was pending')
        await client.close({ timeoutMs: 1000 })

        const { offered, pending, connections } = client.stats()
        balanced(client)
        expect(offered).toBe(run.steps.length)
        expect(pending).toBe(0)
        expect(settled.resolved + settled.rejected).toBe(run.steps.length)
        await until(() => client.stats().connections === 0, `all of ${connections} connections were closed`)
      }),
      { numRuns: 60, endOnFailure: true },
    )
    expect(server.mostSockets).toBeGreaterThan(0)
  },
  60_000,
)

async function ask(
  client: HttpClient,
  id: string,
  one: { fault: string; second: string; method: string; stream: boolean; caller: string; throwOnError: boolean },
  settled: { resolved: number; rejected: number },
): Promise<void> {
  const controller = new AbortController()
  if (one.caller === 'aborted') controller.abort()
  const options = {
    method: one.method,
    throwOnError: one.throwOnError,
    signal: controller.signal,
    ...(one.caller === 'wrong' ? { timeoutMs: -1 } : {}),
  }
  const url = `/${id}/${one.fault}/${one.second}`
  if (one.caller === 'aborts') setTimeout(() => controller.abort(), 3)
  try {
    if (one.stream) {
      const { body } = await client.stream(url, options)
      settled.resolved++
      if (one.caller === 'drops') body.destroy()
      else await body.toArray().catch(() => undefined)
    } else {
      await client.request(url, options)
      settled.resolved++
    }
  } catch {
    settled.rejected++
  }
}
