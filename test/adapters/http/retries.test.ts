import { constants } from 'node:http2'
import { Readable } from 'node:stream'
import type { HttpBreaker } from 'spillway/http'
import { FakeClock, seededRandom } from 'spillway/testing'
import { expect, test } from 'vitest'
import { failureOf, makeClient } from './support/client.js'
import { answer, bodyOf, refusedOrigin, startHttp, startHttps, startTcp, trusted, until } from './support/servers.js'

const retry = { attempts: 3, delayMs: 0 }

test('a failing status is tried again, as often as attempts says, and the last answer is the answer', async () => {
  const server = await startHttp((_request, response) => answer(response, 503, { n: server.requests.length }))
  const client = makeClient({ baseUrl: server.origin, retry })
  const retried: unknown[] = []
  client.on('retried', ({ attempt, error }) => retried.push([attempt, (error as { status: number }).status]))

  const response = await client.get('/')

  expect(response.status).toBe(503)
  expect(response.json()).toEqual({ n: 3 })
  expect(server.requests).toHaveLength(3)
  expect(retried).toEqual([
    [1, 503],
    [2, 503],
  ])
  expect(client.stats()).toMatchObject({ offered: 1, succeeded: 1, attempts: 3, retries: 2, statuses: { '5xx': 3 } })
  expect(server.accepted).toBe(1)
})

test('without retry there is one attempt, and a status that is not among retryStatuses has one too', async () => {
  const server = await startHttp((request, response) => answer(response, Number(request.url?.slice(1)), null))
  const once = makeClient({ baseUrl: server.origin })
  const often = makeClient({ baseUrl: server.origin, retry, retryStatuses: [500] })

  await once.get('/503')
  await often.get('/503')
  await often.get('/404')
  expect(server.requests).toHaveLength(3)
  await often.get('/500')
  expect(server.requests).toHaveLength(6)
})

test('a success ends it', async () => {
  const server = await startHttp((_request, response) => {
    answer(response, server.requests.length < 3 ? 502 : 200, server.requests.length)
  })

  expect((await makeClient({ retry }).get(server.origin)).json()).toBe(3)
})

test('what may have been done is tried again only where that does no harm', async () => {
  const server = await startHttp((request) => request.socket.destroy())
  const client = makeClient({ baseUrl: server.origin, retry })
  const attemptsOf = async (options: Parameters<typeof client.request>[1]): Promise<number> => {
    server.requests.length = 0
    expect(await failureOf(client.request('/', options))).toMatchObject({ outcomeUnknown: true })
    return server.requests.length
  }

  expect(await attemptsOf({ method: 'GET' })).toBe(3)
  expect(await attemptsOf({ method: 'PUT', body: 'x' })).toBe(3)
  expect(await attemptsOf({ method: 'DELETE' })).toBe(3)
  expect(await attemptsOf({ method: 'POST' })).toBe(1)
  expect(await attemptsOf({ method: 'PATCH' })).toBe(1)
  expect(await attemptsOf({ method: 'POST', headers: { 'Idempotency-Key': '1' } })).toBe(3)
  expect(await attemptsOf({ method: 'POST', idempotent: true })).toBe(3)
  expect(await attemptsOf({ method: 'GET', idempotent: false })).toBe(1)
})

test('a POST that provably never left is tried again', async () => {
  const client = makeClient({ baseUrl: await refusedOrigin(), retry })

  const error = await failureOf(client.post('/', { body: Readable.from(['never read']) }))

  expect(error).toMatchObject({ outcomeUnknown: false, cause: { code: 'ECONNREFUSED' } })
  expect(client.stats()).toMatchObject({ attempts: 3, retries: 2 })
})

test('a POST that an HTTP/2 server refused unseen is tried again, a stream that it may have read is not', async () => {
  const server = await startHttps((request, response) => {
    if (server.requests.length % 3 === 0) answer(response as never, 200, null)
    else request.stream.close(constants.NGHTTP2_REFUSED_STREAM)
  })
  const client = makeClient({ baseUrl: server.origin, connect: { ca: trusted().cert }, retry })

  expect((await client.post('/', { json: 1 })).status).toBe(200)
  expect(server.requests).toHaveLength(3)
  expect(await failureOf(client.post('/', { body: Readable.from(['x']) }))).toMatchObject({ outcomeUnknown: false })
  expect(server.requests).toHaveLength(4)
})

test('what is given up between two attempts tells what the first one left open', async () => {
  const server = await startHttp((request, response) => answer(response, Number(request.url?.slice(1)), null))
  for (const [status, outcomeUnknown] of [
    [429, false],
    [502, true],
  ]) {
    let executed = 0
    const breaker: HttpBreaker = {
      execute: async (fn, options) => {
        if (++executed > 1) return new Promise(() => undefined)
        return fn({ signal: options?.signal as AbortSignal })
      },
    }
    const client = makeClient({ baseUrl: server.origin, breaker, retry: { attempts: 2, delayMs: 0 } })

    const asked = failureOf(client.put(`/${status}`, { body: 'x' }))
    await until(() => executed === 2, 'the second attempt waits, unsent')
    await client.close({ timeoutMs: 0 })

    expect(await asked, String(status)).toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown })
  }
})

test('an error tells of all attempts: refused in the end, but lost before', async () => {
  const server = await startHttp((request) => {
    request.socket.destroy()
    void server.close()
  })
  const client = makeClient({ baseUrl: server.origin, retry: { attempts: 3, delayMs: 0 } })

  expect(await failureOf(client.put('/', { body: 'x' }))).toMatchObject({
    cause: { code: 'ECONNREFUSED' },
    outcomeUnknown: true,
  })
})

test('a body that can be made again is sent whole each time, a stream once', async () => {
  const bodies: string[] = []
  const server = await startHttp(async (request, response) => {
    bodies.push(await bodyOf(request))
    answer(response, 503, null)
  })
  const client = makeClient({ baseUrl: server.origin, retry })
  const form = new FormData()
  form.set('a', 'b')

  await client.put('/', { json: { a: 1 } })
  await client.put('/', { body: () => Readable.from(['ma', 'de']) })
  await client.put('/', { body: form })
  await client.put('/', { body: Readable.from(['on', 'ce']) })

  expect(bodies.slice(0, 6)).toEqual(['{"a":1}', '{"a":1}', '{"a":1}', 'made', 'made', 'made'])
  expect(new Set(bodies.slice(6, 9)).size).toBe(1)
  expect(bodies.slice(9)).toEqual(['once'])
})

test('an answer that breaks off is tried again, but not once it is being streamed', async () => {
  let connections = 0
  const server = await startTcp((socket) => {
    connections++
    socket.once('data', () => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n${connections === 3 ? 'whole' : 'ha'}`)
      if (connections < 3) setTimeout(() => socket.destroy(), 10)
    })
  })
  const client = makeClient({ baseUrl: server.origin, retry })

  const streamed = await client.stream('/')
  await failureOf(streamed.body.toArray())
  expect(connections).toBe(1)

  expect((await client.get('/')).text()).toBe('whole')
  expect(connections).toBe(3)
})

test('Retry-After is waited for, in seconds and as a date, with jitter on top', async () => {
  const clock = new FakeClock({ wallMs: Date.UTC(2026, 0, 1, 0, 0, 0) })
  const headers = ['7', new Date(Date.UTC(2026, 0, 1, 0, 0, 10)).toUTCString()]
  const server = await startHttp((_request, response) => {
    const retryAfter = headers[server.requests.length - 1]
    if (retryAfter === undefined) answer(response, 200, null)
    else answer(response, 429, null, { 'retry-after': retryAfter })
  })
  const client = makeClient({
    baseUrl: server.origin,
    clock,
    random: () => 0.5,
    retry: { attempts: 3, delayMs: 1000 },
    timeoutMs: 0,
  })
  const delays: number[] = []
  client.on('retried', ({ delayMs }) => delays.push(delayMs))

  const asked = client.get('/')
  await until(() => delays.length === 1, 'the first answer came')
  await clock.advance(7499)
  expect(server.requests).toHaveLength(1)
  await clock.advance(1)
  await until(() => delays.length === 2, 'the second answer came')
  // 7.5 s of the 10 have passed.
  expect(delays).toEqual([7500, 2500 + 1000])
  await clock.advance(3500)

  expect((await asked).status).toBe(200)
})

test('a server that asks for more than maxRetryAfterMs is not asked again', async () => {
  let retryAfter = '11'
  const server = await startHttp((_request, response) => answer(response, 503, null, { 'retry-after': retryAfter }))
  const client = makeClient({ baseUrl: server.origin, retry })

  expect((await client.get('/')).status).toBe(503)
  expect(server.requests).toHaveLength(1)

  const eager = makeClient({ baseUrl: server.origin, retry, maxRetryAfterMs: 0 })
  for (const value of ['-1', '1.5', 'soon', '0']) {
    server.requests.length = 0
    retryAfter = value
    await eager.get('/')
    expect(server.requests, value).toHaveLength(3)
  }
})

test('no wait begins that would pass the deadline of the whole', async () => {
  const clock = new FakeClock()
  const server = await startHttp((_request, response) => answer(response, 503, null, { 'retry-after': '5' }))
  const client = makeClient({ baseUrl: server.origin, clock, retry, totalTimeoutMs: 5000 })

  expect((await client.get('/')).status).toBe(503)

  expect(server.requests).toHaveLength(1)
  expect(client.stats().retries).toBe(0)
})

test('totalTimeoutMs ends attempts, waits and streamed bodies', async () => {
  const clock = new FakeClock()
  const server = await startHttp((request, response) => {
    if (request.url === '/stream') response.write('…')
    else if (request.url === '/503' && !server.requests.slice(0, -1).includes('GET /503')) answer(response, 503, null)
  })
  const client = makeClient({
    baseUrl: server.origin,
    clock,
    random: () => 0.9,
    retry: { attempts: 5, delayMs: 1000 },
    totalTimeoutMs: 950,
    timeoutMs: 0,
  })

  const hanging = failureOf(client.get('/hang'))
  const stream = await client.stream('/stream')
  const body = failureOf(stream.body.toArray())
  const waiting = failureOf(client.get('/503'))
  await until(() => client.stats().retries === 1, 'a wait began')
  await clock.advance(950)

  for (const error of [await hanging, await body, await waiting]) {
    expect(error).toMatchObject({ code: 'ERR_TIMEOUT', timeoutMs: 950 })
  }
  expect(client.stats()).toMatchObject({ pending: 0, failed: 3 })
})

test('an abort ends a wait between attempts at once and takes its listeners off', async () => {
  const clock = new FakeClock()
  const server = await startHttp((_request, response) => answer(response, 503, null))
  const client = makeClient({
    baseUrl: server.origin,
    clock,
    random: seededRandom(1),
    retry: { attempts: 3, delayMs: 60_000, maxDelayMs: 60_000 },
    keepAliveMs: 1,
  })
  const controller = new AbortController()
  const reason = new Error('changed my mind')

  const asked = client.get('/', { signal: controller.signal })
  await until(() => client.stats().retries === 1, 'a wait began')
  controller.abort(reason)

  expect(await asked.catch((error: unknown) => error)).toBe(reason)
  await client.close()
  expect(clock.pending).toBe(0)
  expect(client.stats()).toMatchObject({ aborted: 1, pending: 0 })
  expect(server.requests).toHaveLength(1)
})

test('retry.retryable may forbid more, and one that throws forbids', async () => {
  const server = await startHttp((_request, response) => answer(response, 503, null))
  const picky = makeClient({
    baseUrl: server.origin,
    retry: { ...retry, retryable: (error) => (error as { status?: number }).status !== 503 },
  })
  const broken = makeClient({
    baseUrl: server.origin,
    retry: {
      ...retry,
      retryable: () => {
        throw new Error('broken')
      },
    },
  })

  await picky.get('/')
  expect(server.requests).toHaveLength(1)
  expect((await broken.get('/')).status).toBe(503)
  expect(server.requests).toHaveLength(2)
})
