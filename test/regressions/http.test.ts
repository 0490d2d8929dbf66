import { createReadStream } from 'node:fs'
import type { ServerHttp2Session } from 'node:http2'
import { Readable } from 'node:stream'
import { CircuitBreaker, LoadBalancer, NoInstanceError, TimeoutError } from 'spillway'
import type { HttpBalancer, HttpBreaker, HttpInstance } from 'spillway/http'
import { FakeClock } from 'spillway/testing'
import * as undici from 'undici'
import { expect, onTestFinished, test } from 'vitest'
import { failureOf, makeClient } from '../adapters/http/support/client.js'
import {
  answer,
  bodyOf,
  startHttp,
  startHttps,
  type TestServer,
  trusted,
  until,
} from '../adapters/http/support/servers.js'

const echo = (): Promise<TestServer> =>
  startHttp(async (request, response) => answer(response, 200, await bodyOf(request)))

const later = (delayMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, delayMs))

test('a POST that a breaker gave up while it was on its way is cut, and not sent beside itself again', async () => {
  const server = await startHttp((request) => request.resume())
  const impatient: HttpBreaker = {
    execute: (fn) => {
      const work = Promise.resolve(fn({ signal: new AbortController().signal }))
      const arrived = until(() => server.requests.length > 0, 'it arrived')
      return Promise.race([work, arrived.then(() => Promise.reject(new Error('late')))])
    },
  }
  const client = makeClient({ baseUrl: server.origin, breaker: impatient, retry: { attempts: 3, delayMs: 0 } })

  expect(await failureOf(client.post('/', { json: 1 }))).toMatchObject({ message: 'late' })
  await until(() => server.sockets.size === 0, 'the connection was closed')

  expect(server.requests).toEqual(['POST /'])
  const breaker = new CircuitBreaker({ timeoutMs: 30 })
  const own = makeClient({ baseUrl: server.origin, breaker, retry: { attempts: 3, delayMs: 0 } })
  expect(await failureOf(own.post('/', { json: 1 }))).toMatchObject({ code: 'ERR_TIMEOUT' })
  expect(own.stats().attempts).toBe(1)
})

test('what a balancer gave up is cut, whatever signal it passed on', async () => {
  const server = await startHttp((request) => request.resume())
  const balancer: HttpBalancer = {
    run: (fn) => {
      const instance = { id: 'a', host: '127.0.0.1', port: server.port }
      const work = fn(instance, { signal: new AbortController().signal, attempt: 1 })
      const arrived = until(() => server.requests.length > 0, 'it arrived')
      return Promise.race([work, arrived.then(() => Promise.reject(new Error('late')))])
    },
  }

  expect(await failureOf(makeClient({ balancer }).get('/'))).toMatchObject({ message: 'late' })
  await until(() => server.sockets.size === 0, 'the connection was closed')
})

test('a streamed answer is let go when the balancer then finds nobody for another attempt', async () => {
  const server = await startHttp((_request, response) => {
    response.writeHead(503)
    response.write('x'.repeat(300_000))
  })
  const balancer: HttpBalancer = {
    run: async (fn, options) => {
      const instance = { id: 'a', host: '127.0.0.1', port: server.port }
      try {
        return await fn(instance, { signal: new AbortController().signal, attempt: 1 })
      } catch (error) {
        options?.retryable?.(error)
        throw new NoInstanceError('none left')
      }
    },
  }
  const client = makeClient({ balancer, retry: { attempts: 2, delayMs: 0 } })

  expect(await failureOf(client.stream('/'))).toMatchObject({ code: 'ERR_NO_INSTANCE' })
  await until(() => server.sockets.size === 0, 'the connection was closed')
})

test('a body that breaks, or headers that can’t be sent, open no circuit and eject no instance', async () => {
  const server = await echo()
  const breaker = new CircuitBreaker({ failureThreshold: 1 })
  const balancer = new LoadBalancer<HttpInstance>([{ id: 'a', host: '127.0.0.1', port: server.port }], {
    ejection: { failureThreshold: 1, maxEjectedRatio: 1 },
  })
  const client = makeClient({ balancer, breaker, retry: { attempts: 3, delayMs: 0 } })
  const broken = async function* (): AsyncGenerator<string> {
    yield 'a'
    throw new Error('broken')
  }

  const faults = await Promise.all([
    failureOf(client.put('/', { body: broken() })),
    failureOf(client.put('/', { body: broken })),
    failureOf(client.get('/', { headers: { upgrade: 'websocket' } })),
    failureOf(client.put('/', { body: 'abc', headers: { 'content-length': '7' } })),
  ])

  for (const fault of faults) expect(fault).toMatchObject({ code: 'ERR_STORE', retryable: false })
  expect(client.stats()).toMatchObject({ failed: 4, retries: 0 })
  expect(breaker.stats()).toMatchObject({ state: 'closed', failed: 0 })
  expect(balancer.instances()).toMatchObject([{ state: 'healthy', inFlight: 0 }])
  await balancer.close()
})

test('a function that makes no body is asked once, and is a wrong option', async () => {
  const server = await echo()
  const breaker = new CircuitBreaker({ failureThreshold: 1 })
  const client = makeClient({ baseUrl: server.origin, breaker, retry: { attempts: 3, delayMs: 0 } })
  let calls = 0
  const body = (): Readable => {
    calls++
    throw new Error('no file')
  }

  expect(await failureOf(client.put('/', { body }))).toMatchObject({ retryable: false, outcomeUnknown: false })
  expect(await failureOf(client.put('/', { body: (() => 5) as never }))).toMatchObject({ field: 'body' })

  expect(calls).toBe(1)
  expect(breaker.state).toBe('closed')
  expect(server.requests).toEqual([])
})

test('a stream that broke while the token was waited for is not sent at all', async () => {
  const server = await echo()
  const body = createReadStream('/no/such/file')
  const broke = new Promise<void>((resolve) => body.once('close', resolve))
  const client = makeClient({
    baseUrl: server.origin,
    token: { get: () => broke.then(() => 'token'), invalidate: () => undefined },
  })

  const error = await failureOf(client.post('/', { body }))

  expect(error).toMatchObject({ retryable: false, outcomeUnknown: false, cause: { code: 'ENOENT' } })
  expect(server.requests).toEqual([])
})

test('a stream that was given to a refused request is destroyed, and ends no process when it breaks', async () => {
  const client = makeClient({ baseUrl: 'http://127.0.0.1:9' })
  await client.close()
  const body = createReadStream('/no/such/file')

  expect(await failureOf(client.post('/', { body }))).toMatchObject({ code: 'ERR_CLOSED' })
  expect(body.destroyed).toBe(true)
})

test('one stream over many attempts gathers no listeners', async () => {
  const body = Readable.from(['x'])
  let most = 0
  const client = makeClient({
    dispatcher: {
      dispatch: (_options: unknown, handler: undici.Dispatcher.DispatchHandler) => {
        most = Math.max(most, body.listenerCount('error'))
        handler.onResponseError?.(undefined as never, Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }))
        return true
      },
    } as never,
    retry: { attempts: 20, delayMs: 0 },
  })

  await failureOf(client.post('http://127.0.0.1:9/', { body }))

  expect(client.stats().attempts).toBe(20)
  expect(most).toBeLessThan(5)
})

test.each([
  ['redirects', undici.interceptors.redirect({ maxRedirections: 3 })],
  ['retries', undici.interceptors.retry({ minTimeout: 1 })],
] as const)('a dispatcher of the caller’s own makes its %s', async (what, interceptor) => {
  const server = await startHttp((_request, response) => {
    if (server.requests.length > 1) answer(response, 200, 'there')
    else answer(response, what === 'retries' ? 503 : 302, null, { location: '/there' })
  })
  const agent = new undici.Agent()
  onTestFinished(() => agent.close())
  const client = makeClient({ baseUrl: server.origin, dispatcher: agent.compose(interceptor) })

  expect((await client.get('/')).json()).toBe('there')
  expect(server.requests).toHaveLength(2)
})

test('a token that came too late says nothing about a request that was never sent', async () => {
  const client = makeClient({
    baseUrl: 'http://127.0.0.1:9',
    token: { get: () => Promise.reject(new TimeoutError('late', 10)), invalidate: () => undefined },
  })

  const error = await failureOf(client.post('/'))

  expect(error).toMatchObject({ name: 'HttpError', outcomeUnknown: false, retryable: true })
  expect(error.cause).toMatchObject({ code: 'ERR_TIMEOUT' })
})

test('with a balancer too, a token source that fails is tried again', async () => {
  const server = await echo()
  const balancer = new LoadBalancer<HttpInstance>([{ id: 'a', host: '127.0.0.1', port: server.port }])
  onTestFinished(async () => void (await balancer.close()))
  let left = 2
  const get = async (): Promise<string> => {
    if (left-- > 0) throw new Error('down')
    return 'token'
  }
  const client = makeClient({
    balancer,
    token: { get, invalidate: () => undefined },
    retry: { attempts: 3, delayMs: 0 },
  })

  expect((await client.get('/')).status).toBe(200)
  expect(client.stats()).toMatchObject({ attempts: 1, retries: 2 })
  left = 9
  expect(await failureOf(client.get('/'))).toMatchObject({ name: 'HttpError' })
  expect(left).toBe(6)
})

test('a token source whose invalidate rejects leaves the answer as it is, and nothing unhandled', async () => {
  const server = await startHttp((_request, response) => answer(response, 401, null))
  const unhandled: unknown[] = []
  const note = (reason: unknown): void => void unhandled.push(reason)
  process.on('unhandledRejection', note)
  onTestFinished(() => void process.off('unhandledRejection', note))
  const client = makeClient({
    baseUrl: server.origin,
    token: { get: () => 'token', invalidate: () => Promise.reject(new Error('down')) },
  })

  expect((await client.get('/')).status).toBe(401)
  await later(5)
  expect(unhandled).toEqual([])
})

test('close cuts waits between retries short', async () => {
  const clock = new FakeClock()
  const server = await startHttp((_request, response) => answer(response, 503, null))
  const client = makeClient({ baseUrl: server.origin, clock, timeoutMs: 0, retry: { attempts: 3, delayMs: 5000 } })
  const waiting = new Promise<void>((resolve) => void client.on('retried', () => resolve()))
  const asked = client.get('/')

  await waiting
  const closing = client.close()

  expect((await asked).status).toBe(503)
  expect(await closing).toEqual({ drained: true, abandoned: 0 })
  expect(client.stats()).toMatchObject({ attempts: 3, retries: 2 })
  expect(clock.pending).toBe(0)
})

test('headers and queries that would come to nothing are refused', async () => {
  const client = makeClient({ baseUrl: 'http://127.0.0.1:9' })

  for (const headers of [new Headers({ a: 'b' }), new Map([['a', 'b']]), [['a', 'b']]]) {
    expect(await failureOf(client.get('/', { headers: headers as never }))).toMatchObject({ field: 'headers' })
    expect(() => makeClient({ headers: headers as never })).toThrow('headers must be a plain object')
  }
  expect(await failureOf(client.get('/', { query: new URLSearchParams('a=b') as never }))).toMatchObject({
    field: 'query',
  })
  expect(() => makeClient({ baseUrl: 'http://host/v1?key=secret' })).toThrow(
    'baseUrl must have no query or fragment, got "host" (string)',
  )
})

test('a streamed answer survives an abort whose reason can’t be turned into text', async () => {
  const server = await startHttp((_request, response) => void response.write('x'))
  const client = makeClient({ baseUrl: server.origin })
  const controller = new AbortController()
  const { body } = await client.stream('/', { signal: controller.signal })

  controller.abort(Object.create(null))

  expect(body.destroyed).toBe(true)
  expect(client.stats()).toMatchObject({ aborted: 1, pending: 0 })
})

test('an HTTP/2 connection that undici’s pool forgot after a GOAWAY is not left open', async () => {
  const server = await startHttps((request, response) => {
    if (request.url === '/goaway') (request.stream.session as ServerHttp2Session).goaway(0)
    else answer(response as never, 200, null)
  })
  const client = makeClient({
    baseUrl: server.origin,
    connect: { ca: trusted().cert },
    connectionsPerOrigin: 1,
    maxStreamsPerConnection: 1,
  })
  await client.get('/')

  const [lost, ...waited] = await Promise.allSettled(['/goaway', '/', '/', '/'].map((path) => client.get(path)))

  expect(lost?.status).toBe('rejected')
  expect(waited.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled'])
  await client.get('/')
  await client.close()
  await until(() => server.sockets.size === 0, 'all connections were closed')
  expect(client.stats()).toMatchObject({ connections: 0, origins: [] })
})
