import { once } from 'node:events'
import { createServer, IncomingMessage, ServerResponse } from 'node:http'
import { type AddressInfo, connect, Socket } from 'node:net'
import Fastify, { type FastifyRequest } from 'fastify'
import { MemoryCounterStore } from 'spillway/testing'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { isLocal } from '../../examples/counter-billing/dashboard/access.ts'
import { EventStream } from '../../examples/counter-billing/dashboard/event-stream.ts'
import type { FaultControl } from '../../examples/counter-billing/dashboard/fault-control.ts'
import { GatewayView } from '../../examples/counter-billing/dashboard/gateway-view.ts'
import { LoopDelay } from '../../examples/counter-billing/dashboard/loop-delay.ts'
import { RequestTimes } from '../../examples/counter-billing/dashboard/request-times.ts'
import type { FaultAction, FaultState } from '../../examples/counter-billing/dashboard/sample.ts'
import { Sampler } from '../../examples/counter-billing/dashboard/sampler.ts'
import { startGateway } from '../../examples/counter-billing/service.ts'
import { startAuth } from './auth-client.ts'
import { startClient } from './counter-client.ts'
import { askForFault, Viewer } from './dashboard-demo.ts'

const patience = { timeout: 30_000, interval: 50 }

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })

async function look(url: string): Promise<Viewer> {
  const viewer = new Viewer()
  onTestFinished(() => viewer.close())
  await viewer.open(url)
  return viewer
}

/** Remembers what it was asked for. */
class Asked implements FaultControl {
  readonly actions: FaultAction[] = []

  state(): FaultState {
    const load = { state: 'running', requestsPerSecond: 1, burst: undefined, endsAt: 0, skipped: 0 } as const
    return { redis: 'ok', postgres: 'ok', titles: { redis: '', postgres: '' }, instances: [], load }
  }

  async apply(action: FaultAction): Promise<void> {
    this.actions.push(action)
  }

  async sums() {
    return { acknowledged: 3, unsure: 0, live: 2, durable: 1, audit: undefined }
  }
}

describe('the page', () => {
  test('has a policy that allows nothing from elsewhere, and asks for nothing from elsewhere', async () => {
    const { service } = await startClient(newStores(), { dashboard: {} })

    const response = await fetch(`${service.url}/dashboard`)
    const page = await response.text()

    expect(response.headers.get('content-security-policy')).toMatch(
      /^default-src 'none'; script-src 'self'; style-src 'self'/,
    )
    expect(response.headers.get('content-security-policy')).not.toMatch(/unsafe|https?:|\*/)
    const asked = [...page.matchAll(/(?:src|href)="([^"#][^"]*)"/g)].map(([, address]) => address as string)
    expect(asked.length).toBeGreaterThan(2)
    for (const address of asked) {
      expect(address).toMatch(/^\/(?:dashboard|stats)/)
      expect((await fetch(service.url + address)).status).toBe(200)
    }
    expect(page).not.toMatch(/<style|style=|<script>|onclick/)
  })

  test('is not there unless it is asked for', async () => {
    const { service } = await startClient(newStores())

    expect((await fetch(`${service.url}/dashboard`)).status).toBe(404)
    expect((await fetch(`${service.url}/dashboard/events`)).status).toBe(404)
  })

  test('is for this machine, under a name of this machine, and for who has a token', async () => {
    const auth = await startAuth()
    const { service } = await startClient(newStores(), { dashboard: {}, auth: auth.client('gateway') })
    const { port } = new URL(service.url)
    const elsewhere = { host: `gateway.example:${port}` }
    const ask = async (headers: Record<string, string>): Promise<number> => (await rawGet(Number(port), headers)).status

    expect(await ask({ host: `127.0.0.1:${port}` })).toBe(200)
    expect(await ask({ host: `localhost:${port}` })).toBe(200)
    expect(await ask(elsewhere)).toBe(403)
    expect(await ask({ ...elsewhere, authorization: 'Bearer wrong' })).toBe(403)
    const token = await auth.token('back-office', 'gateway', 'counters:read')
    expect(await ask({ ...elsewhere, authorization: `Bearer ${token}` })).toBe(200)
    const other = await auth.token('back-office', 'gateway', 'billing:read')
    expect(await ask({ ...elsewhere, authorization: `Bearer ${other}` })).toBe(403)
  })
})

describe('the stream', () => {
  test('has a sample a second, whose rates add up to what was answered', async () => {
    const client = await startClient(newStores(), { dashboard: {} })
    const viewer = await look(client.service.url)
    await expect.poll(() => viewer.samples.length, patience).toBeGreaterThan(0)

    const before = viewer.samples.length
    for (let n = 0; n < 40; n++) await client.increment('post')
    expect((await client.get('/api/v1/counter/post/unknown?limit=x')).status).toBe(400)
    const counted = (answer: '2xx' | '4xx'): number =>
      Math.round(
        viewer.samples.reduce((sum, { at, requests }, index) => {
          const seconds = index === 0 ? 1 : (at - (viewer.samples[index - 1]?.at ?? at)) / 1_000
          return sum + requests.rates[answer] * seconds
        }, 0),
      )

    await expect.poll(() => counted('4xx'), patience).toBe(1)
    // A sample's length is known to the millisecond.
    expect(counted('2xx')).toBeGreaterThanOrEqual(39)
    expect(counted('2xx')).toBeLessThanOrEqual(41)
    const after = viewer.samples.slice(before)
    expect(after.some(({ requests }) => (requests.latencyMs?.p99 ?? 0) > 0)).toBe(true)
    await expect
      .poll(() => viewer.samples.some(({ buffers }) => buffers['durable writes']?.batchSize === 1), patience)
      .toBe(true)
    expect(viewer.latest?.breakers).toMatchObject({
      'live store': { state: 'closed' },
      'durable store': { state: 'closed' },
    })
    expect(viewer.latest?.sums).toBeUndefined()
  })

  test('begins with what was before, for whoever comes later', async () => {
    const { service } = await startClient(newStores(), { dashboard: {} })
    const first = await look(service.url)
    await expect.poll(() => first.samples.length, patience).toBeGreaterThan(1)

    const second = await look(service.url)
    await expect.poll(() => second.hello, patience).toBeDefined()

    expect(first.hello?.history).toEqual([])
    expect(second.hello?.history.slice(0, 2)).toEqual(first.samples.slice(0, 2))
    await expect.poll(() => second.samples.length, patience).toBeGreaterThan(0)
    expect(first.samples).toContainEqual(second.samples[0])
  })

  test('ends with the gateway, which doesn’t wait for those who look', async () => {
    const service = await startGateway({ counters: newStores(), ports: [0], dashboard: {}, log: () => undefined })
    const viewer = await look(service.url)
    await expect.poll(() => viewer.hello, patience).toBeDefined()

    await service.close()

    await expect(fetch(`${service.url}/dashboard`)).rejects.toThrow()
  })

  test('is not for HEAD, which would get one without an end', async () => {
    const { service } = await startClient(newStores(), { dashboard: {} })

    const response = await fetch(`${service.url}/dashboard/events`, { method: 'HEAD' })

    expect(response.status).toBe(405)
  })

  /** A stream with viewers who read nothing, and what went wrong with their responses. */
  async function startStream(viewers: number) {
    const changes: number[] = []
    const errors: Error[] = []
    const stream = new EventStream((count) => changes.push(count))
    const responses: ServerResponse[] = []
    const server = createServer((_request, response) => {
      response.on('error', (error) => errors.push(error))
      responses.push(response)
      stream.add(response, {})
    }).listen(0, '127.0.0.1')
    onTestFinished(() => void server.close())
    onTestFinished(() => server.closeAllConnections())
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const look = async (): Promise<Socket> => {
      const socket = connect(port, '127.0.0.1').pause()
      onTestFinished(() => void socket.destroy())
      socket.write('GET / HTTP/1.1\r\nhost: h\r\n\r\n')
      const before = responses.length
      await expect.poll(() => responses.length, patience).toBe(before + 1)
      return socket
    }
    for (let n = 0; n < viewers; n++) await look()
    return { stream, look, responses, changes, errors }
  }

  test('sends nothing to those whom it has ended, who may still be reading, and begins nothing anew', async () => {
    const { stream, look, responses, changes, errors } = await startStream(2)
    // More than what the system keeps for a socket, so that nobody is done when it ends.
    stream.send('sample', 'x'.repeat(3_500_000))
    const told = changes.length

    stream.close()
    stream.send('sample', 'late')
    await look()
    stream.send('sample', 'late', responses)
    for (const response of responses) response.destroy()
    await expect.poll(() => responses.every(({ closed }) => closed), patience).toBe(true)

    expect(responses.map(({ writableEnded }) => writableEnded)).toEqual([true, true, true])
    expect(errors).toEqual([])
    expect(changes.slice(told).filter((viewers) => viewers > 0)).toEqual([])
  })

  test('cuts off who reads nothing at all', async () => {
    const { stream, responses, errors } = await startStream(1)

    for (let n = 0; n < 20; n++) stream.send('sample', 'x'.repeat(1_000_000))

    await expect.poll(() => responses[0]?.closed, patience).toBe(true)
    expect(stream.viewers).toBe(0)
    expect(errors).toEqual([])
  })
})

describe('sampling', () => {
  test('begins with the first who looks, and ends two minutes after the last one has gone', async () => {
    const { service } = await startClient(newStores())
    const { counters, reads } = service
    vi.useFakeTimers()
    onTestFinished(() => void vi.useRealTimers())
    const sampler = new Sampler(new GatewayView({ counters, reads, breakers: {} }), undefined)
    onTestFinished(() => sampler.close())
    const viewer = (): ServerResponse => new ServerResponse(new IncomingMessage(new Socket()))
    const [first, second] = [viewer(), viewer()]

    expect(sampler.running).toBe(false)
    sampler.add(first, {})
    sampler.add(second, {})
    first.emit('close')
    await vi.advanceTimersByTimeAsync(300_000)
    expect(sampler.running).toBe(true)
    second.emit('close')
    await vi.advanceTimersByTimeAsync(115_000)
    expect(sampler.running).toBe(true)
    await vi.advanceTimersByTimeAsync(10_000)
    expect(sampler.running).toBe(false)
    expect(vi.getTimerCount()).toBe(0)
  })
})

describe('a request is local', () => {
  const is = (remoteAddress: string, host: string): boolean => {
    return isLocal({ socket: { remoteAddress }, headers: { host } } as unknown as FastifyRequest)
  }

  test.each([
    ['127.0.0.1', '127.0.0.1:8080'],
    ['127.0.0.1', 'localhost'],
    ['::1', '[::1]:8080'],
    ['::ffff:127.0.0.1', 'localhost:8080'],
  ])('from %s, for %s', (address, host) => expect(is(address, host)).toBe(true))

  test.each([
    ['10.0.0.1', 'localhost:8080'],
    ['127.0.0.1', 'evil.example'],
    ['127.0.0.1', 'localhost.evil.example:8080'],
    ['127.0.0.1', '127.0.0.1.evil.example'],
    ['127.0.0.1', ''],
  ])('not from %s, for "%s"', (address, host) => expect(is(address, host)).toBe(false))
})

describe('faults', () => {
  const clear = { do: 'clear' } as const

  async function start() {
    const faults = new Asked()
    const { service } = await startClient(newStores(), { dashboard: { faults } })
    const page = await (await fetch(`${service.url}/dashboard`)).text()
    const token = /name="faults-token" content="([^"]+)"/.exec(page)?.[1] ?? ''
    const post = (headers: Record<string, string>, body: unknown = clear): Promise<Response> =>
      fetch(`${service.url}/dashboard/faults`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(body),
      })
    const right = { origin: service.url, 'x-dashboard-token': token }
    return { faults, service, post, right }
  }

  test('can be asked for by the page alone: its origin, its token', async () => {
    const { faults, service, post, right } = await start()

    const refused = [
      {},
      { 'x-dashboard-token': right['x-dashboard-token'] },
      { origin: right.origin },
      { ...right, origin: 'http://evil.example' },
      { ...right, origin: service.url.replace('127.0.0.1', 'localhost') },
      { ...right, origin: 'null' },
      { ...right, 'sec-fetch-site': 'cross-site' },
      { ...right, 'x-dashboard-token': 'x'.repeat(32) },
      { ...right, 'x-dashboard-token': `${right['x-dashboard-token']}x` },
    ]
    for (const headers of refused) expect((await post(headers as Record<string, string>)).status).toBe(403)
    expect(faults.actions).toEqual([])

    expect((await post(right)).status).toBe(202)
    expect((await askForFault(service.url, { do: 'redis', condition: 'dead' })).status).toBe(202)
    expect(faults.actions).toEqual([clear, { do: 'redis', condition: 'dead' }])
  })

  test.each([
    [{}, 'do is missing'],
    [{ do: 'format' }, /^do must be one of redis, .*, got "format"/],
    [{ do: 'redis', condition: 'gone' }, /^condition must be one of .*dead.*, got "gone"/],
    [{ do: 'burst', factor: 1_000, seconds: 10 }, 'factor must be a whole number from 2 to 10, got 1000 (number)'],
    [{ do: 'burst', factor: 5, seconds: 1e9 }, /^seconds must be a whole number from 1 to 60/],
    [{ do: 'kill' }, 'instance is missing'],
    [{ do: 'clear', more: 1 }, /more is not a known field/],
    [{ do: 'clear', condition: 'dead' }, 'body must be do, got an object'],
    ['clear', /must be a JSON object/],
  ])('that make no sense are refused: %j', async (body, why) => {
    const { faults, post, right } = await start()

    const refused = await post(right, body)

    expect(refused.status).toBe(400)
    expect(((await refused.json()) as { detail: string }).detail).toEqual(
      typeof why === 'string' ? why : expect.stringMatching(why),
    )
    expect(faults.actions).toEqual([])
  })

  test('have another token at each start', async () => {
    const [first, second] = [await start(), await start()]

    expect(first.right['x-dashboard-token']).toHaveLength(32)
    expect(first.right['x-dashboard-token']).not.toBe(second.right['x-dashboard-token'])
  })

  test('are not there where nothing makes any', async () => {
    const { service } = await startClient(newStores(), { dashboard: {} })

    expect((await askForFault(service.url, clear)).status).toBe(404)
    expect(await (await fetch(`${service.url}/dashboard`)).text()).toContain('name="faults-token" content=""')
  })
})

describe('request times', () => {
  test('have the percentiles of what was since the last look, by class', async () => {
    const times = new RequestTimes()
    const app = Fastify()
    onTestFinished(() => app.close())
    times.watch(app, '/dashboard')
    app.get('/:status', async (request, reply) =>
      reply.code(Number((request.params as { status: string }).status)).send(),
    )
    app.get('/dashboard', async () => 'not counted')

    await app.inject('/200')
    times.start()
    for (const status of [200, 202, 304, 400, 404, 500, 503]) await app.inject(`/${status}`)
    await app.inject('/dashboard')
    const first = times.take(2)
    const second = times.take(1)

    expect(first.rates).toEqual({ '2xx': 1.5, '4xx': 1, '5xx': 1 })
    expect(first.latencyMs?.p99).toBeGreaterThanOrEqual(first.latencyMs?.p50 ?? Number.POSITIVE_INFINITY)
    expect(second).toEqual({ rates: { '2xx': 0, '4xx': 0, '5xx': 0 }, latencyMs: undefined })
  })
})

describe('the delay of the event loop', () => {
  test('is what blocked it', async () => {
    const delay = new LoopDelay()
    delay.start()
    onTestFinished(() => delay.stop())

    await new Promise((resolve) => setTimeout(resolve, 30))
    const until = performance.now() + 150
    while (performance.now() < until);
    await new Promise((resolve) => setTimeout(resolve, 30))

    expect(delay.take().maxMs).toBeGreaterThan(100)
  })
})

/** `fetch` lets nobody choose a host. */
async function rawGet(port: number, headers: Record<string, string>): Promise<{ status: number }> {
  const { get } = await import('node:http')
  return new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', port, path: '/dashboard', headers }, (response) => {
      response.resume()
      resolve({ status: response.statusCode ?? 0 })
    }).once('error', reject)
  })
}
