import { BreakerRegistry, CircuitBreaker, LoadBalancer } from 'spillway'
import type { HttpBalancer, HttpInstance } from 'spillway/http'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { failureOf, makeClient } from './support/client.js'
import { answer, refusedOrigin, startHttp, startHttps, type TestServer, trusted, until } from './support/servers.js'

test('an open circuit refuses at once: no connection is made', async () => {
  const server = await startHttp((_request, response) => answer(response, 500, { n: server.requests.length }))
  const breaker = new CircuitBreaker({ failureThreshold: 2 })
  const client = makeClient({ baseUrl: server.origin, breaker, retry: { attempts: 5, delayMs: 0 } })

  expect((await client.get('/')).json()).toEqual({ n: 1 })
  expect((await client.get('/')).status).toBe(500)
  expect(breaker.state).toBe('open')
  const accepted = server.accepted
  const error = await failureOf(client.get('/'))

  expect(error).toMatchObject({ code: 'ERR_CIRCUIT_OPEN', retryAfterMs: expect.any(Number) })
  expect(server.requests).toHaveLength(2)
  expect(server.accepted).toBe(accepted)
  expect(client.stats()).toMatchObject({ attempts: 2, retries: 0, failed: 1, succeeded: 2 })
})

test('a circuit that opens between two attempts ends them', async () => {
  const server = await startHttp((_request, response) => answer(response, 503, null))
  const client = makeClient({
    baseUrl: server.origin,
    breaker: new CircuitBreaker({ failureThreshold: 2 }),
    retry: { attempts: 5, delayMs: 0 },
  })

  expect(await failureOf(client.get('/'))).toMatchObject({ code: 'ERR_CIRCUIT_OPEN' })
  expect(server.requests).toHaveLength(2)
})

test('429, 5xx and lost connections are failures to a breaker, unless isFailure decides otherwise', async () => {
  const server = await startHttp((request, response) => {
    if (request.url === '/lost') request.socket.destroy()
    else answer(response, Number(request.url?.slice(1)), null)
  })
  const opens = async (path: string, isFailure?: (head: { status: number }) => boolean): Promise<boolean> => {
    const breaker = new CircuitBreaker({ failureThreshold: 1 })
    const client = makeClient({ baseUrl: server.origin, breaker, isFailure })
    await client.get(path).catch(() => undefined)
    return breaker.state === 'open'
  }

  expect(await opens('/200')).toBe(false)
  expect(await opens('/404')).toBe(false)
  expect(await opens('/401')).toBe(false)
  expect(await opens('/429')).toBe(true)
  expect(await opens('/500')).toBe(true)
  expect(await opens('/lost')).toBe(true)
  expect(await opens('/404', ({ status }) => status === 404)).toBe(true)
  expect(await opens('/500', ({ status }) => status === 404)).toBe(false)
  expect(
    await opens('/500', () => {
      throw new Error('broken')
    }),
  ).toBe(true)
})

test('a caller that gives up is no failure to the breaker', async () => {
  const server = await startHttp(() => undefined)
  const breaker = new CircuitBreaker({ failureThreshold: 1 })
  const client = makeClient({ baseUrl: server.origin, breaker })
  const controller = new AbortController()

  const asked = client.get('/', { signal: controller.signal })
  await until(() => server.requests.length === 1, 'it arrived')
  controller.abort('enough')

  expect(await asked.catch((reason: unknown) => reason)).toBe('enough')
  expect(breaker.state).toBe('closed')
})

test('a token source that is down opens no circuit', async () => {
  const server = await startHttp((_request, response) => answer(response, 200, null))
  const breaker = new CircuitBreaker({ failureThreshold: 1 })
  const client = makeClient({
    baseUrl: server.origin,
    breaker,
    token: { get: () => Promise.reject(new Error('down')), invalidate: () => undefined },
  })

  await failureOf(client.get('/'))

  expect(breaker.stats()).toMatchObject({ offered: 0 })
})

test('a registry keeps one breaker for each origin', async () => {
  const bad = await startHttp((_request, response) => answer(response, 500, null))
  const good = await startHttp((_request, response) => answer(response, 200, null))
  const breaker = new BreakerRegistry({ failureThreshold: 1 })
  const client = makeClient({ breaker })

  await client.get(bad.origin)
  expect(await failureOf(client.get(bad.origin))).toMatchObject({ code: 'ERR_CIRCUIT_OPEN' })
  expect((await client.get(good.origin)).status).toBe(200)
  expect(breaker.get(bad.origin).state).toBe('open')
})

test('a breaker’s own timeout ends the attempt', async () => {
  const clock = new FakeClock()
  const server = await startHttp((request) => request.resume())
  const breaker = new CircuitBreaker({ clock, timeoutMs: 100 })
  const client = makeClient({ baseUrl: server.origin, breaker })

  const asked = failureOf(client.get('/'))
  await until(() => server.requests.length === 1, 'it arrived')
  await clock.advance(100)

  expect(await asked).toMatchObject({ code: 'ERR_TIMEOUT' })
  await until(() => server.sockets.size === 0, 'the connection was closed')
})

/** Round robin over what hasn't failed in this run: the shape of LoadBalancer, with nothing else in it. */
function balancerOf(...servers: Pick<TestServer, 'port'>[]): HttpBalancer & { runs: string[][] } {
  const instances = servers.map(({ port }, n): HttpInstance => ({ id: `i${n}`, host: '127.0.0.1', port }))
  let next = 0
  const runs: string[][] = []
  return {
    runs,
    async run(fn, options) {
      const tried: string[] = []
      runs.push(tried)
      const signal = options?.signal ?? new AbortController().signal
      for (let attempt = 1; ; attempt++) {
        const instance = instances[next++ % instances.length] as HttpInstance
        tried.push(instance.id)
        try {
          return await fn(instance, { signal, attempt })
        } catch (error) {
          if (attempt >= (options?.attempts ?? 1) || options?.retryable?.(error) === false) throw error
        }
      }
    },
  }
}

test('with a balancer each attempt goes to an instance of its choice', async () => {
  const bad = await startHttp((_request, response) => answer(response, 503, 'bad', { 'retry-after': '9' }))
  const good = await startHttp((request, response) => answer(response, 200, request.url))
  const balancer = balancerOf(bad, good)
  const clock = new FakeClock()
  const client = makeClient({
    baseUrl: 'http://orders/v1',
    balancer,
    retry: { attempts: 3, delayMs: 0 },
    timeoutMs: 0,
    clock,
  })
  const retried: string[] = []
  client.on('retried', ({ url, delayMs }) => retried.push(`${url} ${delayMs}`))

  const asked = client.get('/items', { query: { q: 1 } })
  await until(() => retried.length === 1, 'the first one answered')
  await clock.advance(0)

  expect((await asked).json()).toBe('/v1/items?q=1')
  expect(balancer.runs).toEqual([['i0', 'i1']])
  // What the first one said about coming back doesn't bind the second one.
  expect(retried).toEqual([`${bad.origin}/v1/items 0`])
  expect(bad.requests).toHaveLength(1)
})

test('with a balancer the last answer is the answer, and what must not be done twice is done once', async () => {
  const bad = await startHttp((_request, response) => answer(response, 503, 'bad'))
  const balancer = balancerOf(bad, bad)
  const client = makeClient({ balancer, retry: { attempts: 3, delayMs: 0 } })

  expect((await client.get('items')).status).toBe(503)
  expect((await client.post('items')).status).toBe(503)
  const streamed = await client.stream('items')
  expect(streamed.status).toBe(503)
  streamed.discard()

  expect(balancer.runs).toEqual([['i0', 'i1', 'i0'], ['i1'], ['i0', 'i1', 'i0']])
  await client.flush()
  expect(client.stats()).toMatchObject({ succeeded: 3, pending: 0, retries: 4 })
})

test('an open circuit of one instance sends the request to another one', async () => {
  const bad = await startHttp((_request, response) => answer(response, 500, null))
  const good = await startHttp((_request, response) => answer(response, 200, null))
  const breaker = new BreakerRegistry({ failureThreshold: 1 })
  const client = makeClient({ balancer: balancerOf(bad, good), breaker, retry: { attempts: 2, delayMs: 0 } })

  expect((await client.get('/')).status).toBe(500)
  expect((await client.get('/')).status).toBe(200)
  expect((await client.get('/')).status).toBe(200)
  expect(bad.requests).toHaveLength(1)
  expect(client.stats()).toMatchObject({ retries: 1 })
})

test('instances get the token, by their own protocol, and a POST to a refusing one goes elsewhere', async () => {
  const secure = await startHttps((request, response) => {
    answer(response as never, 200, request.headers.authorization)
  })
  const instances: HttpInstance[] = [
    { id: 'gone', host: '127.0.0.1', port: Number(new URL(await refusedOrigin()).port) },
    { id: 'tls', host: '127.0.0.1', port: secure.port, protocol: 'https' },
  ]
  const tried: string[] = []
  const balancer: HttpBalancer = {
    async run(fn, options) {
      for (const [n, instance] of instances.entries()) {
        tried.push(instance.id)
        try {
          return await fn(instance, { signal: new AbortController().signal, attempt: n + 1 })
        } catch (error) {
          if (options?.retryable?.(error) !== true) throw error
        }
      }
      throw new Error('none left')
    },
  }
  const client = makeClient({
    balancer,
    connect: { ca: trusted().cert },
    token: { get: () => 'token', invalidate: () => undefined },
    retry: { attempts: 2, delayMs: 0 },
  })

  expect((await client.post('/', { json: 1 })).json()).toBe('Bearer token')
  expect(tried).toEqual(['gone', 'tls'])
})

test('a LoadBalancer spreads requests, follows their outcomes and sends retries elsewhere', async () => {
  const bad = await startHttp((_request, response) => answer(response, 503, null))
  const good = await startHttp((_request, response) => answer(response, 200, null))
  const balancer = new LoadBalancer<HttpInstance>(
    [bad, good].map(({ port }, n) => ({ id: `i${n}`, host: '127.0.0.1', port })),
    { ejection: { failureThreshold: 2 } },
  )
  const client = makeClient({ balancer, retry: { attempts: 2, delayMs: 0 } })

  for (let n = 0; n < 10; n++) expect((await client.get('/')).status).toBe(200)

  expect(bad.requests.length).toBe(2)
  expect(balancer.instances().map(({ state }) => state)).toEqual(['ejected', 'healthy'])
  await balancer.close()
  expect(await failureOf(client.get('/'))).toMatchObject({ code: 'ERR_CLOSED' })
})

test('a LoadBalancer without instances is told as it is', async () => {
  const balancer = new LoadBalancer<HttpInstance>([])

  expect(await failureOf(makeClient({ balancer }).get('/'))).toMatchObject({ code: 'ERR_NO_INSTANCE' })
  await balancer.close()
})
