import { text } from 'node:stream/consumers'
import { FakeClock } from 'spillway/testing'
import * as undici from 'undici'
import { expect, test } from 'vitest'
import { failureOf, makeClient } from './support/client.js'
import { answer, bodyOf, refusedOrigin, startHttp, startHttps, startTcp, trusted, until } from './support/servers.js'

const many = <T>(count: number, make: (n: number) => T): T[] => Array.from({ length: count }, (_, n) => make(n))

test('200 requests at once take 20 connections, and the next 200 the same ones', async () => {
  const server = await startHttp((_request, response) => setTimeout(() => answer(response, 200, null), 2))
  const client = makeClient({ baseUrl: server.origin })

  await Promise.all(many(200, () => client.get('/')))
  await Promise.all(many(200, () => client.get('/')))

  expect(server.requests).toHaveLength(400)
  expect(server.mostSockets).toBe(20)
  expect(server.accepted).toBe(20)
  expect(client.stats()).toMatchObject({ connections: 20, idleConnections: 20, connectionsOpened: 20 })
})

test('connectionsPerOrigin holds, and what waits is counted', async () => {
  let release = (): void => undefined
  const gate = new Promise<void>((resolve) => {
    release = resolve
  })
  const server = await startHttp((_request, response) => void gate.then(() => answer(response, 200, null)))
  const client = makeClient({ baseUrl: server.origin, connectionsPerOrigin: 1 })

  const all = many(5, () => client.get('/'))
  await until(() => server.requests.length === 1, 'the first request arrived')
  expect(client.stats().origins).toEqual([
    { origin: server.origin, protocol: 'http/1.1', connections: 1, idle: 0, running: 1, queued: 4 },
  ])
  release()
  await Promise.all(all)

  expect(server.accepted).toBe(1)
  expect(client.stats().origins).toMatchObject([{ connections: 1, idle: 1, running: 0, queued: 0 }])
})

test('over maxIdleConnections, over all origins, the connection that was idle for longest is closed', async () => {
  const servers = await Promise.all(many(4, () => startHttp((_request, response) => answer(response, 200, null))))
  const client = makeClient({ maxIdleConnections: 2 })
  const closed: string[] = []
  client.on('disconnected', ({ origin }) => closed.push(origin))

  for (const { origin } of servers) {
    await client.get(origin)
    await new Promise((resolve) => setImmediate(resolve))
  }
  await until(() => closed.length === 2, 'two connections were closed')

  expect(closed).toEqual([servers[0]?.origin, servers[1]?.origin])
  expect(client.stats()).toMatchObject({ connections: 2, idleConnections: 2 })
  await client.get(servers[0]?.origin as string)
  expect(servers[0]?.accepted).toBe(2)
})

test('without any idle connection allowed, each is closed after its request, and none of a queue is cut', async () => {
  const server = await startHttp((_request, response) => answer(response, 200, null))
  const client = makeClient({ baseUrl: server.origin, maxIdleConnections: 0, connectionsPerOrigin: 2 })

  await Promise.all(many(20, () => client.get('/')))
  await until(() => server.sockets.size === 0, 'all connections were closed')

  expect(client.stats()).toMatchObject({ succeeded: 20, failed: 0, idleConnections: 0 })
})

test('a connection that was idle for keepAliveMs is closed, one in use is not', async () => {
  const clock = new FakeClock()
  const server = await startHttp((request, response) => {
    if (request.url === '/slow') response.write('…')
    else answer(response, 200, null)
  })
  const client = makeClient({ baseUrl: server.origin, keepAliveMs: 90_000, clock, timeoutMs: 0 })

  const slow = await client.stream('/slow')
  await client.get('/')
  expect(client.stats()).toMatchObject({ connections: 2, idleConnections: 1 })
  await clock.advance(89_999)
  expect(client.stats().connections).toBe(2)
  await clock.advance(1)
  await until(() => server.sockets.size === 1, 'the idle connection was closed')

  expect(client.stats()).toMatchObject({ connections: 1, idleConnections: 0, pending: 1 })
  slow.body.destroy()
  await client.close()
  expect(clock.pending).toBe(0)
})

test('where HTTP/2 is offered, all requests, POSTs too, share one connection from the first burst on', async () => {
  let inFlight = 0
  let most = 0
  const server = await startHttps(async (request, response) => {
    most = Math.max(most, ++inFlight)
    const body = await bodyOf(request)
    setTimeout(() => {
      inFlight--
      answer(response as never, 200, { version: request.httpVersion, body })
    }, 20)
  })
  const client = makeClient({ baseUrl: server.origin, connect: { ca: trusted().cert } })

  const answers = await Promise.all(many(50, (n) => (n % 2 === 0 ? client.get('/') : client.post('/', { json: n }))))

  for (const [n, one] of answers.entries()) {
    expect(one.json()).toEqual({ version: '2.0', body: n % 2 === 0 ? '' : String(n) })
  }
  expect(server.accepted).toBe(1)
  expect(most).toBeGreaterThan(25)
  expect(client.stats().origins).toMatchObject([{ protocol: 'h2', connections: 1, idle: 1 }])
})

test('beyond maxStreamsPerConnection, HTTP/2 requests take more connections, up to connectionsPerOrigin', async () => {
  const server = await startHttps((_request, response) => {
    setTimeout(() => answer(response as never, 200, null), 20)
  })
  const client = makeClient({
    baseUrl: server.origin,
    connect: { ca: trusted().cert },
    maxStreamsPerConnection: 10,
    connectionsPerOrigin: 3,
  })

  await client.get('/')
  await Promise.all(many(60, () => client.get('/')))

  expect(server.mostSockets).toBeGreaterThan(1)
  expect(server.mostSockets).toBeLessThanOrEqual(3)
})

test('HTTP/1.1 is spoken where a server offers no more, or where allowH2 is false', async () => {
  const only = await startHttps((request, response) => answer(response as never, 200, request.httpVersion), {
    h2: false,
  })
  const both = await startHttps((request, response) => answer(response as never, 200, request.httpVersion))
  const connect = { ca: trusted().cert }

  const fallback = makeClient({ baseUrl: only.origin, connect })
  const all = await Promise.all(many(40, () => fallback.get('/')))
  expect(new Set(all.map((one) => one.json()))).toEqual(new Set(['1.1']))
  expect(only.mostSockets).toBeLessThanOrEqual(20)
  expect(fallback.stats().origins).toMatchObject([{ protocol: 'http/1.1' }])

  expect((await makeClient({ baseUrl: both.origin, connect, allowH2: false }).get('/')).json()).toBe('1.1')
})

test('an idle HTTP/2 connection is closed after keepAliveMs, which undici alone would not do', async () => {
  const clock = new FakeClock()
  const server = await startHttps((_request, response) => answer(response as never, 200, null))
  const client = makeClient({ baseUrl: server.origin, connect: { ca: trusted().cert }, clock, keepAliveMs: 1000 })

  await client.get('/')
  await clock.advance(1000)
  await until(() => server.sockets.size === 0, 'the connection was closed')

  expect((await client.get('/')).status).toBe(200)
  expect(server.accepted).toBe(2)
})

test('giving up one HTTP/2 request harms none of the others on its connection', async () => {
  const server = await startHttps((request, response) => {
    if (request.url !== '/hang') setTimeout(() => answer(response as never, 200, null), 30)
  })
  const client = makeClient({ baseUrl: server.origin, connect: { ca: trusted().cert } })
  await client.get('/')
  const controller = new AbortController()

  const hanging = client.get('/hang', { signal: controller.signal })
  const others = many(10, () => client.post('/'))
  await until(() => server.requests.length === 12, 'all arrived')
  controller.abort('enough')

  expect(await hanging.catch((reason: unknown) => reason)).toBe('enough')
  expect((await Promise.all(others)).map(({ status }) => status)).toEqual(many(10, () => 200))
  expect(server.accepted).toBe(1)
})

test('a POST on an HTTP/2 connection that is lost is not sent again behind the back', async () => {
  const server = await startHttps((request, response) => {
    if (request.url === '/') answer(response as never, 200, null)
    else if (server.requests.length === 6) for (const socket of server.sockets) socket.destroy()
  })
  const client = makeClient({ baseUrl: server.origin, connect: { ca: trusted().cert } })
  await client.get('/')

  const lost = await Promise.all(many(5, (n) => failureOf(client.post(`/${n}`))))

  for (const error of lost) expect(error).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true })
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(server.requests).toHaveLength(6)
})

test('a certificate that nobody vouches for is an error that another try would not mend', async () => {
  const server = await startHttps((_request, response) => answer(response as never, 200, null))
  const client = makeClient({ retry: { attempts: 3, delayMs: 0 } })

  const failures = await Promise.all(many(3, () => failureOf(client.get(server.origin))))

  for (const error of failures) expect(error).toMatchObject({ retryable: false, outcomeUnknown: false })
  expect(client.stats()).toMatchObject({ attempts: 3, failed: 3 })
})

test('the first request to an HTTP/2 origin that is given up, or refused, holds up nobody behind it', async () => {
  const server = await startHttps((_request, response) => answer(response as never, 200, null))
  const client = makeClient({ baseUrl: server.origin, connect: { ca: trusted().cert } })
  const controller = new AbortController()

  const first = client.get('/', { signal: controller.signal })
  const others = many(5, () => client.get('/'))
  controller.abort()
  await first.catch(() => undefined)
  expect((await Promise.all(others)).map(({ status }) => status)).toEqual([200, 200, 200, 200, 200])
  expect(server.accepted).toBe(1)

  const refusing = (await refusedOrigin()).replace('http:', 'https:')
  const refused = await Promise.all(many(5, () => failureOf(client.get(refusing))))
  expect(refused.map(({ cause }) => (cause as { code: string }).code)).toEqual(many(5, () => 'ECONNREFUSED'))
  expect(client.stats().origins).toHaveLength(1)
})

test('an origin is forgotten with its last connection', async () => {
  const server = await startHttp((_request, response) => answer(response, 200, null, { connection: 'close' }))
  const client = makeClient()

  await client.get(server.origin)
  await until(() => client.stats().origins.length === 0, 'the origin was forgotten')

  expect(client.stats()).toMatchObject({ connections: 0, connectionsOpened: 1 })
})

test('a caller’s own dispatcher is used and not closed', async () => {
  const server = await startHttp((_request, response) => answer(response, 200, null))
  const dispatcher = new undici.Agent()
  const client = makeClient({ baseUrl: server.origin, dispatcher })

  expect((await client.get('/')).status).toBe(200)
  expect(await text((await client.stream('/')).body)).toBe('null')
  expect(client.stats()).toMatchObject({ connections: 0, origins: [] })
  await client.close()

  expect(dispatcher.closed).toBe(false)
  expect((await undici.request(server.origin, { dispatcher })).statusCode).toBe(200)
  await dispatcher.destroy()
})

test('a server that accepts and says nothing is given up after timeoutMs, by the clock of the client', async () => {
  const clock = new FakeClock()
  const server = await startTcp((socket) => socket.resume())
  const client = makeClient({ clock, timeoutMs: 2000 })

  const asked = failureOf(client.get(server.origin))
  await until(() => server.accepted === 1 && client.stats().origins[0]?.running === 1, 'the request was sent')
  await clock.advance(1999)
  expect(client.stats().pending).toBe(1)
  await clock.advance(1)

  expect(await asked).toMatchObject({
    code: 'ERR_TIMEOUT',
    timeoutMs: 2000,
    outcomeUnknown: true,
    message: `http-client: GET ${server.origin}/ took longer than 2000 ms`,
  })
  await until(() => server.sockets.size === 0, 'the connection was closed')
})

test('undici’s own limits become TimeoutErrors that say what was waited for', async () => {
  const silent = await startTcp(() => undefined)
  const stalling = await startTcp((socket) => {
    socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx'))
  })
  const client = makeClient({ headersTimeoutMs: 50, bodyTimeoutMs: 50 })

  const [noHead, noBody] = await Promise.all([
    failureOf(client.get(silent.origin)),
    failureOf(client.get(stalling.origin)),
  ])

  expect(noHead).toMatchObject({ code: 'ERR_TIMEOUT', timeoutMs: 50, message: expect.stringContaining('no response') })
  expect(noBody).toMatchObject({ code: 'ERR_TIMEOUT', timeoutMs: 50, message: expect.stringContaining('no more of') })
})

test('a request that waits for a connection is given up in the queue, and is never sent', async () => {
  const server = await startHttp(() => undefined)
  const client = makeClient({ baseUrl: server.origin, connectionsPerOrigin: 1 })
  const controller = new AbortController()

  const first = client.get('/first', { signal: controller.signal })
  await until(() => server.requests.length === 1, 'the first arrived')
  const queued = failureOf(client.post('/queued', { timeoutMs: 20 }))

  expect(await queued).toMatchObject({ code: 'ERR_TIMEOUT', outcomeUnknown: false })
  controller.abort('done')
  await first.catch(() => undefined)
  await until(() => server.sockets.size === 0, 'the connection was closed')
  expect(server.requests).toEqual(['GET /first'])
})
