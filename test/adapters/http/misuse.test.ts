import { createHttpClient, HttpClient, type HttpClientOptions, type HttpRequestOptions } from 'spillway/http'
import * as undici from 'undici'
import { expect, test } from 'vitest'
import { failureOf, makeClient } from './support/client.js'
import { answer, startHttp, startTcp, until } from './support/servers.js'

const wrongOptions: [HttpClientOptions | unknown, string][] = [
  [null, 'options must be an object'],
  [{ baseUrl: 'api' }, 'baseUrl must be a URL'],
  [{ baseUrl: 'ftp://x' }, 'baseUrl must be of http or https'],
  [{ baseUrl: 'http://me:secret@x' }, 'baseUrl must hold no user name and password, got "x" (string)'],
  [{ headers: { 'a b': '1' } }, 'headers must have names that are tokens'],
  [{ headers: { a: 1 } }, 'headers.a must be a string'],
  [{ headers: { a: 'x\r\ny: secret' } }, 'headers.a must hold no line break or control character, got "…" (string)'],
  [{ connectionsPerOrigin: 0 }, 'connectionsPerOrigin must be a whole number between 1'],
  [{ maxIdleConnections: -1 }, 'maxIdleConnections must be a whole number between 0'],
  [{ keepAliveMs: 0 }, 'keepAliveMs must be a number between 1'],
  [{ keepAliveMs: null }, 'keepAliveMs must be a number between 1 and 2147483647, got null (null)'],
  [{ allowH2: 'yes' }, 'allowH2 must be true or false'],
  [{ maxStreamsPerConnection: 1.5 }, 'maxStreamsPerConnection must be a whole number'],
  [{ capacity: 0 }, 'capacity must be a whole number'],
  [{ connectTimeoutMs: 0 }, 'connectTimeoutMs must be a number between 1'],
  [{ headersTimeoutMs: -1 }, 'headersTimeoutMs must be a number between 0'],
  [{ bodyTimeoutMs: '1' }, 'bodyTimeoutMs must be a number between 0'],
  [{ timeoutMs: Number.NaN }, 'timeoutMs must be a number between 0'],
  [{ totalTimeoutMs: -1 }, 'totalTimeoutMs must be a number between 0'],
  [{ maxResponseBytes: 0 }, 'maxResponseBytes must be a whole number between 1'],
  [{ throwOnError: 1 }, 'throwOnError must be true or false'],
  [{ retry: null }, 'retry must be an object'],
  [{ retry: { attempts: 0 } }, 'retry.attempts must be a whole number'],
  [{ retryStatuses: 503 }, 'retryStatuses must be an array'],
  [{ retryStatuses: [99] }, 'retryStatuses must be a whole number between 100 and 599'],
  [{ maxRetryAfterMs: -1 }, 'maxRetryAfterMs must be a number between 0'],
  [{ breaker: {} }, 'breaker.get must be a function'],
  [{ breaker: null }, 'breaker.get must be a function'],
  [{ isFailure: true }, 'isFailure must be a function'],
  [{ token: () => 'x' }, 'token must have the methods get and invalidate'],
  [{ token: { get() {}, invalidate() {} } }, 'tokenOrigins must name who gets the token'],
  [{ tokenHeader: '' }, 'tokenHeader must be the name of a header'],
  [{ tokenHeader: 'a b' }, 'tokenHeader must have names that are tokens'],
  [{ tokenScheme: 'a b' }, 'tokenScheme must be a word'],
  [{ tokenOrigins: 'http://x' }, 'tokenOrigins must be an array'],
  [{ tokenOrigins: ['x'] }, 'tokenOrigins must be a URL'],
  [{ balancer: {} }, 'balancer must have a method run'],
  [{ dispatcher: {} }, 'dispatcher must be a Dispatcher of undici'],
  [{ connect: null }, 'connect must be an object'],
  [{ clock: {} }, 'clock must have a method now'],
]

test.each(wrongOptions.map(([options, message]) => [message, options]))('createHttpClient: %s', (message, options) => {
  expect(() => createHttpClient(undici, options as HttpClientOptions)).toThrow(
    expect.objectContaining({ name: 'OptionError', message: expect.stringContaining(message) }),
  )
})

test('createHttpClient refuses what is not undici, and needs none with a dispatcher', () => {
  expect(() => createHttpClient({} as never)).toThrow('undici must have the class Agent')
  expect(() => createHttpClient(undefined as never)).toThrow('undici must have the class Agent')
  expect(createHttpClient(undefined as never, { dispatcher: new undici.Agent() })).toBeInstanceOf(HttpClient)
})

const wrongRequests: [unknown, HttpRequestOptions | unknown, string][] = [
  ['/', null, 'options must be an object'],
  [7, {}, 'url must be a string or a URL'],
  ['ftp://x/', {}, 'url must be of http or https'],
  ['http://a:b@x/', {}, 'url must hold no user name and password'],
  ['http://[/?token=secret', {}, 'url must be a URL'],
  ['/', { method: 'get' }, 'method must be a method in capitals'],
  ['/', { method: 'CONNECT' }, 'method must be a method in capitals'],
  ['/', { method: 'GET /\r\n' }, 'method must be a method in capitals'],
  ['/', { headers: { 'x\r': '1' } }, 'headers must have names that are tokens'],
  ['/', { query: 'a=b' }, 'query must be an object'],
  ['/', { query: { a: {} } }, 'query.a must be a string, number, bigint or boolean'],
  ['/', { query: { a: null } }, 'query.a must be a string, number, bigint or boolean'],
  ['/', { body: 7 }, 'body must be a string, bytes'],
  ['/', { body: {} }, 'body must be a string, bytes'],
  ['/', { body: null }, 'body must be a string, bytes'],
  ['/', { body: 'x', json: 1 }, 'json must not be given together with body'],
  ['/', { json: () => 1 }, 'json must be something that JSON can express'],
  ['/', { json: 1n }, 'json must be something that JSON can express'],
  ['/', { signal: {} }, 'signal must be an AbortSignal'],
  ['/', { timeoutMs: -1 }, 'timeoutMs must be a number between 0'],
  ['/', { timeoutMs: null }, 'timeoutMs must be a number between 0'],
  ['/', { totalTimeoutMs: 'x' }, 'totalTimeoutMs must be a number between 0'],
  ['/', { maxResponseBytes: 0 }, 'maxResponseBytes must be a whole number'],
  ['/', { throwOnError: 'yes' }, 'throwOnError must be true or false'],
  ['/', { idempotent: 1 }, 'idempotent must be true or false'],
  ['/', { balanceKey: 1 }, 'balanceKey must be a string'],
]

test.each(wrongRequests.map(([url, options, message]) => [message, url, options]))(
  'request: %s',
  async (message, url, options) => {
    const client = makeClient({ baseUrl: 'http://127.0.0.1:1' })

    const error = await failureOf(client.request(url as string, options as HttpRequestOptions))

    expect(error).toMatchObject({ name: 'OptionError', message: expect.stringContaining(message) })
    expect(client.stats()).toMatchObject({ offered: 1, rejected: 1, attempts: 0 })
  },
)

test('a path needs a baseUrl, and a balancer needs a path', async () => {
  expect(await failureOf(makeClient().get('/x?a=secret'))).toMatchObject({
    message: 'url must be a whole URL where there is no baseUrl, got "/x" (string)',
  })
  const balancer = { run: () => Promise.reject(new Error('not asked')) }
  expect(await failureOf(makeClient({ balancer }).get('http://x/y?a=secret'))).toMatchObject({
    message: 'url must be a path where a balancer chooses the origin, got "http://x/y" (string)',
  })
})

test('what is aborted already is refused, with the reason', async () => {
  const reason = new Error('no')
  const client = makeClient({ baseUrl: 'http://127.0.0.1:1' })

  expect(await failureOf(client.get('/', { signal: AbortSignal.abort(reason) }))).toBe(reason)
  expect(client.stats()).toMatchObject({ rejected: 1, attempts: 0 })
})

test('over capacity, requests are refused', async () => {
  const server = await startTcp((socket) => socket.resume())
  const client = makeClient({ baseUrl: server.origin, capacity: 2 })
  const open = [client.get('/'), client.get('/')]

  expect(await failureOf(client.get('/'))).toMatchObject({ code: 'ERR_FULL', capacity: 2, retryable: true })

  await client.close({ timeoutMs: 0 })
  await Promise.allSettled(open)
})

test('nothing that nobody looks at ends the process', async () => {
  const unhandled: unknown[] = []
  const note = (reason: unknown): void => void unhandled.push(reason)
  process.on('unhandledRejection', note)
  const server = await startHttp((request, response) => {
    if (request.url === '/half') response.write('half')
    setTimeout(() => request.socket.destroy(), 5)
  })
  const client = makeClient({ baseUrl: server.origin, retry: { attempts: 2, delayMs: 0 } })

  void client.get('/')
  void client.get('/', { timeoutMs: 1 })
  void client.get('/', { signal: AbortSignal.timeout(1) })
  void client.get(7 as never)
  void client.stream('/half')
  void client.post('/', {
    body: (async function* () {
      yield 'x'
      throw new Error('broken body')
    })(),
  })
  await until(() => client.stats().pending === 0, 'all had failed')
  await new Promise((resolve) => setTimeout(resolve, 20))

  process.off('unhandledRejection', note)
  expect(unhandled).toEqual([])
})

test('a body that breaks is the caller’s error, and is not tried again', async () => {
  const server = await startHttp((request, response) => {
    request.resume().on('end', () => answer(response, 200, null))
  })
  const client = makeClient({ baseUrl: server.origin, retry: { attempts: 3, delayMs: 0 } })
  const cause = new Error('the file is gone')
  let made = 0
  async function* broken(): AsyncGenerator<string> {
    made++
    yield 'x'
    throw cause
  }

  const error = await failureOf(client.put('/', { body: () => broken() }))

  expect(error).toMatchObject({
    message: `http-client: the body of PUT ${server.origin}/ failed: the file is gone`,
    retryable: false,
  })
  expect(error.cause).toBe(cause)
  expect(made).toBe(1)
  const thrown = await failureOf(
    client.put('/', {
      body: () => {
        throw new Error('cannot make one')
      },
    }),
  )
  expect(thrown).toMatchObject({ name: 'HttpError', outcomeUnknown: false })
})

test('a stream that was given is destroyed when its request fails before it was read', async () => {
  const { Readable } = await import('node:stream')
  const body = Readable.from(['never read'])
  const client = makeClient({ baseUrl: 'http://127.0.0.1:1', retry: { attempts: 2, delayMs: 0 } })

  await failureOf(client.post('/', { body }))

  expect(body.destroyed).toBe(true)
})
