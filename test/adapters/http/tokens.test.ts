import { Readable } from 'node:stream'
import { inspect } from 'node:util'
import type { HttpTokenSource } from 'spillway/http'
import { expect, test } from 'vitest'
import { failureOf, makeClient } from './support/client.js'
import { answer, bodyOf, startHttp } from './support/servers.js'

/** A source that gives `secret-1`, and the next one once it is told that one was refused. */
function source(): HttpTokenSource & { refused: string[]; asked: number } {
  const made = {
    refused: [] as string[],
    asked: 0,
    get: async () => {
      made.asked++
      return `secret-${made.refused.length + 1}`
    },
    invalidate: (token: string) => void made.refused.push(token),
  }
  return made
}

test('a token is sent to the origin of baseUrl and to nobody else', async () => {
  const seen = (server: { requests: string[] }): string | undefined => server.requests.at(-1)
  const api = await startHttp((request, response) => answer(response, 200, request.headers.authorization ?? null))
  const other = await startHttp((request, response) => answer(response, 200, request.headers.authorization ?? null))
  const token = source()
  const client = makeClient({ baseUrl: api.origin, token })

  expect((await client.get('/')).json()).toBe('Bearer secret-1')
  expect((await client.get(`${api.origin}/whole`)).json()).toBe('Bearer secret-1')
  expect((await client.get(other.origin)).json()).toBe(null)
  expect(seen(other)).toBe('GET /')
  expect(token.asked).toBe(2)

  const both = makeClient({ token, tokenOrigins: [api.origin, other.origin], tokenHeader: 'X-Key', tokenScheme: '' })
  const keyed = await startHttp((request, response) => answer(response, 200, request.headers['x-key'] ?? null))
  expect((await both.get(keyed.origin)).json()).toBe(null)
  expect(token.asked).toBe(2)
  await both.get(other.origin)
  expect(token.asked).toBe(3)
})

test('tokenHeader and tokenScheme say how it is sent', async () => {
  const server = await startHttp((request, response) => answer(response, 200, request.headers['x-key'] ?? null))
  const token = source()

  const bare = makeClient({ baseUrl: server.origin, token, tokenHeader: 'X-Key', tokenScheme: '' })
  expect((await bare.get('/')).json()).toBe('secret-1')
  const other = makeClient({ baseUrl: server.origin, token, tokenHeader: 'X-Key', tokenScheme: 'Token' })
  expect((await other.get('/')).json()).toBe('Token secret-1')
})

test('a header of the caller’s own wins, and no token is asked for', async () => {
  const server = await startHttp((request, response) => answer(response, 200, request.headers.authorization))
  const token = source()
  const client = makeClient({ baseUrl: server.origin, token })

  expect((await client.get('/', { headers: { Authorization: 'Basic abc' } })).json()).toBe('Basic abc')
  expect(token.asked).toBe(0)
})

test('a 401 invalidates the token and is answered with a new one, once, and not as a retry', async () => {
  const server = await startHttp(async (request, response) => {
    const body = await bodyOf(request)
    if (request.headers.authorization === 'Bearer secret-2') answer(response, 200, body)
    else answer(response, 401, null)
  })
  const token = source()
  const client = makeClient({ baseUrl: server.origin, token })
  const refreshed: unknown[] = []
  client.on('tokenRefreshed', (event) => refreshed.push(event))

  const response = await client.post('/?q=1', { json: 'body' })

  expect(response.status).toBe(200)
  expect(response.json()).toBe('"body"')
  expect(token.refused).toEqual(['secret-1'])
  expect(refreshed).toEqual([{ method: 'POST', url: `${server.origin}/` }])
  expect(client.stats()).toMatchObject({ attempts: 2, retries: 0, tokenRefreshes: 1, succeeded: 1 })
})

test('a server that refuses the new token too has answered 401', async () => {
  const server = await startHttp((_request, response) => answer(response, 401, null))
  const token = source()
  const client = makeClient({ baseUrl: server.origin, token, retry: { attempts: 3, delayMs: 0 } })

  expect((await client.get('/')).status).toBe(401)
  expect(server.requests).toHaveLength(2)
  expect(token.refused).toEqual(['secret-1'])
  const streamed = await client.stream('/')
  expect(streamed.status).toBe(401)
  streamed.discard()
  await client.flush()
  expect(client.stats()).toMatchObject({ succeeded: 2, pending: 0 })
})

test('a stream that was sent is not sent again, and the same token is not tried twice', async () => {
  const server = await startHttp((request, response) => {
    request.resume()
    answer(response, 401, null)
  })
  const same: HttpTokenSource = { get: () => 'always-the-same', invalidate: () => undefined }

  const client = makeClient({ baseUrl: server.origin, token: source() })
  expect((await client.post('/', { body: Readable.from(['x']) })).status).toBe(401)
  expect(server.requests).toHaveLength(1)
  expect((await makeClient({ baseUrl: server.origin, token: same }).get('/')).status).toBe(401)
  expect(server.requests).toHaveLength(2)
})

test('attempts after a 401 have the new token, and their number is still that of retry', async () => {
  const server = await startHttp((request, response) => {
    answer(response, request.headers.authorization === 'Bearer secret-2' ? 503 : 401, null)
  })
  const client = makeClient({ baseUrl: server.origin, token: source(), retry: { attempts: 3, delayMs: 0 } })

  expect((await client.get('/')).status).toBe(503)
  expect(server.requests).toHaveLength(4)
  expect(client.stats()).toMatchObject({ attempts: 4, retries: 2, tokenRefreshes: 1 })
})

test('a source that fails is tried again, and its error is told without its words', async () => {
  const server = await startHttp((_request, response) => answer(response, 200, null))
  let calls = 0
  const flaky: HttpTokenSource = {
    get: async () => {
      if (++calls < 3) throw new Error('client_secret=hunter2 was wrong')
      return 'token'
    },
    invalidate: () => undefined,
  }

  const once = makeClient({ baseUrl: server.origin, token: flaky })
  expect(await failureOf(once.get('/'))).toMatchObject({
    code: 'ERR_STORE',
    message: `http-client: no token for GET ${server.origin}/`,
    outcomeUnknown: false,
  })
  // A failed fetch of a token is no attempt at the server, but has the same limit.
  const often = makeClient({ baseUrl: server.origin, token: flaky, retry: { attempts: 2, delayMs: 0 } })
  expect((await often.get('/')).status).toBe(200)
  const never: HttpTokenSource = { get: () => Promise.reject(new Error('down')), invalidate: () => undefined }
  const down = makeClient({ baseUrl: server.origin, token: never, retry: { attempts: 3, delayMs: 0 } })
  await failureOf(down.get('/'))
  expect(down.stats()).toMatchObject({ attempts: 0, retries: 2 })
})

test('a source that gives no token, and one that can’t be sent, are errors without it', async () => {
  const server = await startHttp((_request, response) => answer(response, 200, null))
  const none = makeClient({ baseUrl: server.origin, token: { get: () => '', invalidate: () => undefined } })
  const broken = makeClient({
    baseUrl: server.origin,
    token: { get: () => 'secret\r\nx-injected: 1', invalidate: () => undefined },
  })

  expect(await failureOf(none.get('/'))).toMatchObject({ retryable: false })
  const error = await failureOf(broken.get('/'))
  expect(error).toMatchObject({ retryable: false })
  expect(inspect(error, { depth: 9 })).not.toContain('secret')
  expect(server.requests).toEqual([])
})

test('the token is in no error, event, stat or inspection', async () => {
  const server = await startHttp((request) => request.socket.destroy())
  const client = makeClient({
    baseUrl: server.origin,
    token: source(),
    retry: { attempts: 2, delayMs: 0 },
    throwOnError: true,
  })
  const seen: unknown[] = []
  client.on('retried', (event) => seen.push(event))
  client.on('failed', (event) => seen.push(event))

  seen.push(await failureOf(client.get('/')), client, client.stats())

  expect(seen).toHaveLength(5)
  expect(inspect(seen, { depth: 12, showHidden: true, getters: true })).not.toContain('secret-')
})

test('a caller that gives up does not wait for a token', async () => {
  const client = makeClient({
    baseUrl: 'http://127.0.0.1:9',
    token: { get: () => new Promise(() => undefined), invalidate: () => undefined },
  })
  const controller = new AbortController()

  const asked = client.get('/', { signal: controller.signal })
  controller.abort('enough')

  expect(await asked.catch((reason: unknown) => reason)).toBe('enough')
})
