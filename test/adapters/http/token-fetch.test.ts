import type { IncomingMessage, ServerResponse } from 'node:http'
import { inspect } from 'node:util'
import { TokenCache } from 'spillway'
import { type HttpTokenSource, tokenFetch } from 'spillway/http'
import * as undici from 'undici'
import { describe, expect, test } from 'vitest'
import { failureOf, makeClient } from './support/client.js'
import { answer, bodyOf, refusedOrigin, startHttp, type TestServer } from './support/servers.js'

/** Tokens `t1`, `t2` and so on, a new one for each that a server refused. */
function source(): TokenCache & { readonly fetched: string[] } {
  const fetched: string[] = []
  const tokens = new TokenCache(async (key) => {
    fetched.push(key)
    return { token: `t${fetched.length}` }
  })
  return Object.assign(tokens, { fetched })
}

interface Seen {
  readonly authorization: string | undefined
  readonly method: string | undefined
  readonly type: string | undefined
  readonly body: string
}

/** A server that refuses some tokens, and notes what it was sent. */
async function startApi(refuses: (authorization: string | undefined) => boolean = () => false) {
  const seen: Seen[] = []
  const server = await startHttp(async (request: IncomingMessage, response: ServerResponse) => {
    const { authorization } = request.headers
    const body = await bodyOf(request)
    seen.push({ authorization, method: request.method, type: request.headers['content-type'], body })
    if (refuses(authorization)) answer(response, 401, { error: 'refused' })
    else answer(response, 200, { path: request.url })
  })
  return { server, seen, url: `${server.origin}/orders` }
}

const refusesFirst = (authorization: string | undefined): boolean => authorization === 'Bearer t1'

describe('the token', () => {
  test('is sent with each request, and fetched once', async () => {
    const { seen, url } = await startApi()
    const tokens = source()
    const api = tokenFetch(tokens)

    const responses = await Promise.all([
      api(url),
      api(new URL(url)),
      api(new Request(url, { method: 'POST', body: 'x' })),
    ])

    expect(responses.map(({ status }) => status)).toEqual([200, 200, 200])
    expect(await responses[0]?.json()).toEqual({ path: '/orders' })
    expect(seen.map(({ authorization }) => authorization)).toEqual(['Bearer t1', 'Bearer t1', 'Bearer t1'])
    expect(tokens.fetched).toEqual([''])
  })

  test('leaves the caller’s headers as they are, and a header of his own wins', async () => {
    const { seen, url } = await startApi()
    const tokens = source()
    const api = tokenFetch(tokens)
    const headers = new Headers({ 'content-type': 'text/x-own' })

    await api(url, { method: 'POST', body: 'x', headers })
    await api(url, { headers: { Authorization: 'Basic abc' } })
    await api(new Request(url, { headers: { authorization: 'Basic def' } }))
    // What init says replaces what the request says.
    await api(new Request(url, { headers: { authorization: 'Basic def' } }), { headers: [['x-own', '1']] })

    expect(seen.map(({ authorization }) => authorization)).toEqual(['Bearer t1', 'Basic abc', 'Basic def', 'Bearer t1'])
    expect(seen[0]?.type).toBe('text/x-own')
    expect([...headers.keys()]).toEqual(['content-type'])
  })

  test('may be that of a key, in a header and with a scheme of one’s own', async () => {
    const seen: unknown[] = []
    const server = await startHttp((request, response) => {
      seen.push([request.headers['x-key'], request.headers.authorization])
      answer(response, 200, {})
    })
    const tokens = source()

    await tokenFetch(tokens, { key: 'billing', header: 'X-Key', scheme: '' })(server.origin)
    await tokenFetch(tokens, { key: 'billing', scheme: 'Token' })(server.origin)
    await tokenFetch(tokens.forKey('billing'))(server.origin)

    expect(seen).toEqual([
      ['t1', undefined],
      [undefined, 'Token t1'],
      [undefined, 'Bearer t1'],
    ])
    expect(tokens.fetched).toEqual(['billing'])
  })

  test('goes to no origin but those that are named', async () => {
    const [api, other] = [await startApi(), await startApi()]
    const tokens = source()
    const fetch = tokenFetch(tokens, { origins: [`${api.server.origin}/any/path`] })

    await fetch(other.url)
    await fetch(api.url)

    expect(other.seen.map(({ authorization }) => authorization)).toEqual([undefined])
    expect(api.seen.map(({ authorization }) => authorization)).toEqual(['Bearer t1'])
    expect(tokens.fetched).toHaveLength(1)
  })

  test('goes out with undici’s own fetch too', async () => {
    const { seen, url } = await startApi(refusesFirst)
    const api = tokenFetch(source(), { fetch: undici.fetch as never })
    const form = new undici.FormData()
    form.set('name', 'Ada')

    expect((await api(url, { method: 'POST', body: form as never })).status).toBe(200)

    expect(seen.map(({ authorization }) => authorization)).toEqual(['Bearer t1', 'Bearer t2'])
    expect(seen[1]?.body).toContain('Ada')
  })
})

describe('a token that is refused', () => {
  const bodies: [string, () => BodyInit | undefined, string][] = [
    ['none', () => undefined, ''],
    ['a text', () => 'hello', 'hello'],
    ['bytes', () => Buffer.from('hello'), 'hello'],
    ['an ArrayBuffer', () => new TextEncoder().encode('hello').buffer as ArrayBuffer, 'hello'],
    ['URLSearchParams', () => new URLSearchParams({ a: '1 2' }), 'a=1+2'],
    ['a Blob', () => new Blob(['hel', 'lo']), 'hello'],
    [
      'FormData',
      () => {
        const form = new FormData()
        form.set('a', 'hello')
        return form
      },
      'hello',
    ],
  ]

  test.each(bodies)(
    'is replaced, and the request goes out once more with the same body: %s',
    async (_name, make, text) => {
      const { seen, url } = await startApi(refusesFirst)
      const tokens = source()
      const body = make()

      const response = await tokenFetch(tokens)(url, { method: 'POST', ...(body === undefined ? {} : { body }) })

      expect(response.status).toBe(200)
      expect(seen.map(({ authorization }) => authorization)).toEqual(['Bearer t1', 'Bearer t2'])
      expect(seen.map(({ method }) => method)).toEqual(['POST', 'POST'])
      for (const one of seen) expect(one.body).toContain(text)
      expect(tokens.stats()).toMatchObject({ invalidated: 1, fetches: 2 })
    },
  )

  test('is replaced for a Request that holds its body, which may be large', async () => {
    const { seen, url } = await startApi(refusesFirst)
    const api = tokenFetch(source())
    const large = 'x'.repeat(1_000_000)

    const response = await api(new Request(url, { method: 'PUT', body: large }))

    expect(response.status).toBe(200)
    expect(seen.map(({ body }) => body.length)).toEqual([1_000_000, 1_000_000])
    expect((await api(new Request(url, { method: 'PUT', body: 'again' }))).status).toBe(200)
  })

  test('is replaced for those to come, and the caller whose stream is used up gets the 401', async () => {
    const { seen, url } = await startApi(refusesFirst)
    const tokens = source()
    const api = tokenFetch(tokens)
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode('hello'))
        controller.close()
      },
    })

    const refused = await api(url, { method: 'POST', body, duplex: 'half' } as RequestInit)

    expect(refused.status).toBe(401)
    expect(await refused.json()).toEqual({ error: 'refused' })
    expect(seen.map((one) => [one.authorization, one.body])).toEqual([['Bearer t1', 'hello']])
    expect(tokens.stats()).toMatchObject({ invalidated: 1, fetches: 1 })
    expect((await api(url)).status).toBe(200)
  })

  test('is replaced once a request, and a server that refuses all of them costs one fetch', async () => {
    const { server, seen, url } = await startApi(() => true)
    const tokens = source()
    const api = tokenFetch(tokens)

    const first = await api(url)
    expect(first.status).toBe(401)
    expect(await first.json()).toEqual({ error: 'refused' })
    expect(seen.map(({ authorization }) => authorization)).toEqual(['Bearer t1', 'Bearer t2'])

    const others = await Promise.all(Array.from({ length: 50 }, () => api(url)))
    expect(others.every(({ status }) => status === 401)).toBe(true)
    expect(server.requests).toHaveLength(52)
    expect(tokens.stats()).toMatchObject({ fetches: 2, invalidated: 1, invalidationsHeld: 50 })
  })

  test('by many requests at once is fetched anew once', async () => {
    const { seen, url } = await startApi(refusesFirst)
    const tokens = source()
    const api = tokenFetch(tokens)
    await tokens.get()

    const responses = await Promise.all(Array.from({ length: 50 }, () => api(url)))

    expect(responses.every(({ status }) => status === 200)).toBe(true)
    expect(seen.filter(({ authorization }) => authorization === 'Bearer t1').length).toBe(50)
    expect(tokens.stats()).toMatchObject({ fetches: 2, invalidated: 1, invalidationsIgnored: 49 })
  })

  test('where there is no new one, the 401 is the answer', async () => {
    const { url } = await startApi(() => true)
    let fetches = 0
    const tokens = new TokenCache(async () => {
      if (++fetches > 1) throw new Error('identity provider down')
      return { token: 't1' }
    })

    const response = await tokenFetch(tokens)(url)

    expect(response.status).toBe(401)
    expect(await response.json()).toEqual({ error: 'refused' })
    expect(fetches).toBe(2)
  })

  test('is what shouldRefresh says, which may read a copy of the response', async () => {
    const seen: unknown[] = []
    const server = await startHttp((request, response) => {
      seen.push(request.headers.authorization)
      if (request.headers.authorization === 'Bearer t1') answer(response, 200, { code: 'TOKEN_EXPIRED' })
      else answer(response, 401, { code: 'NO_RIGHTS' })
    })
    const api = tokenFetch(source(), {
      shouldRefresh: async (response) => ((await response.clone().json()) as { code: string }).code === 'TOKEN_EXPIRED',
    })

    const response = await api(server.origin)

    expect(response.status).toBe(401)
    expect(await response.json()).toEqual({ code: 'NO_RIGHTS' })
    expect(seen).toEqual(['Bearer t1', 'Bearer t2'])
  })

  test('leaves no connection behind that waits for its body to be read', async () => {
    let server: TestServer | undefined
    server = await startHttp((request, response) => {
      if (request.headers.authorization === 'Bearer t1') {
        response.writeHead(401)
        // Never ends by itself.
        response.write('x'.repeat(100_000))
      } else answer(response, 200, { sockets: server?.sockets.size })
    })

    const response = await tokenFetch(source())(server.origin)

    expect(response.status).toBe(200)
    // Node's own fetch takes some seconds for it where no undici of the caller's stands behind it.
    await expect.poll(() => server?.sockets.size, { timeout: 15_000 }).toBeLessThanOrEqual(1)
  })
})

describe('redirects', () => {
  async function twoOrigins(status: number) {
    const seen: unknown[] = []
    const other = await startHttp((request, response) => {
      seen.push(['other', request.headers.authorization, request.headers['x-key']])
      answer(response, status, {})
    })
    const api = await startHttp((request, response) => {
      seen.push([request.url, request.headers.authorization, request.headers['x-key']])
      if (request.url === '/away') response.writeHead(302, { location: `${other.origin}/` }).end()
      else if (request.url === '/here') response.writeHead(302, { location: '/there' }).end()
      else answer(response, 200, {})
    })
    return { api, seen }
  }

  test('to another origin go without the token, and a 401 from there says nothing about it', async () => {
    const { api, seen } = await twoOrigins(401)
    const tokens = source()

    const response = await tokenFetch(tokens)(`${api.origin}/away`)

    expect(response.status).toBe(401)
    expect(seen).toEqual([
      ['/away', 'Bearer t1', undefined],
      ['other', undefined, undefined],
    ])
    expect(tokens.stats()).toMatchObject({ invalidated: 0, fetches: 1 })
  })

  test('to the same origin keep it', async () => {
    const { api, seen } = await twoOrigins(200)

    const response = await tokenFetch(source())(`${api.origin}/here`)

    expect(response.status).toBe(200)
    expect(seen.map((one) => (one as unknown[])[1])).toEqual(['Bearer t1', 'Bearer t1'])
  })

  test('aren’t followed with a header that fetch doesn’t take off, unless the caller says how', async () => {
    const { api, seen } = await twoOrigins(200)
    const fetch = tokenFetch(source(), { header: 'x-key', scheme: '' })

    const response = await fetch(`${api.origin}/away`)
    expect(response.status).toBe(302)
    expect((await fetch(new Request(`${api.origin}/here`))).status).toBe(302)
    await expect(fetch(`${api.origin}/here`, { redirect: 'error' })).rejects.toThrow()

    expect(seen.some((one) => (one as unknown[])[0] === 'other')).toBe(false)
  })
})

describe('failures', () => {
  test('of the token source are the caller’s, and nothing is sent', async () => {
    const { server, url } = await startApi()
    const down = new Error('identity provider down')
    const tokens = new TokenCache(async () => {
      throw down
    })

    await expect(tokenFetch(tokens)(url)).rejects.toBe(down)
    await expect(tokenFetch({ get: () => '', invalidate: () => undefined })(url)).rejects.toMatchObject({
      code: 'ERR_OPTION',
    })
    expect(server.requests).toEqual([])
  })

  test('where it gives what no header can carry name it and don’t quote it; a line break at the end is no harm', async () => {
    const { server, seen, url } = await startApi()
    const giving = (token: string) => tokenFetch({ get: () => token, invalidate: () => undefined })

    for (const token of ['s3cret\r\nx-injected: 1', 's3cret\u20ac', '\n']) {
      const error = await failureOf(giving(token)(url))
      expect(error).toMatchObject({ code: 'ERR_OPTION', field: 'tokens' })
      expect(inspect(error, { depth: 9 })).not.toContain('s3cret')
    }
    expect(server.requests).toEqual([])
    expect((await giving('from-a-file\n')(url)).status).toBe(200)
    expect(seen.map(({ authorization }) => authorization)).toEqual(['Bearer from-a-file'])
  })

  test('of the network are fetch’s own', async () => {
    const origin = await refusedOrigin()

    await expect(tokenFetch(source())(new Request(origin, { method: 'POST', body: 'x' }))).rejects.toThrow(
      'fetch failed',
    )
  })

  test('a signal ends the wait for a token, the request and the wait for another token', async () => {
    const { server, url } = await startApi(() => true)
    const tokens = new TokenCache<string>((_key, { previous, signal }) => {
      if (previous === undefined) return { token: 't1' }
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    })
    const patience = new AbortController()
    const waiting = tokenFetch(tokens)(url, { signal: patience.signal })
    await expect.poll(() => tokens.stats().fetches).toBe(2)
    patience.abort(new Error('enough'))
    expect((await failureOf(waiting)).message).toBe('enough')
    expect(tokens.stats()).toMatchObject({ fetchesAborted: 1, fetching: 0 })

    const deaf: HttpTokenSource = { get: () => new Promise(() => undefined), invalidate: () => undefined }
    const early = new AbortController()
    const never = tokenFetch(deaf)(new Request(url, { signal: early.signal }))
    early.abort(new Error('early'))
    expect((await failureOf(never)).message).toBe('early')
    const before = { signal: AbortSignal.abort(new Error('before')) }
    expect((await failureOf(tokenFetch(deaf)(url, before))).message).toBe('before')
    expect(server.requests).toHaveLength(1)
  })
})

test('a wrong option is an OptionError', () => {
  const messageOf = (options: unknown, tokens: unknown = source()): string => {
    try {
      tokenFetch(tokens as TokenCache, options as never)
    } catch (error) {
      return (error as Error).message
    }
    throw new Error('nothing was thrown')
  }

  expect(messageOf({}, { get: () => 't' })).toBe(
    'tokens must have the methods get and invalidate, got "object" (string)',
  )
  expect(messageOf(7)).toBe('options must be an object, got 7 (number)')
  expect(messageOf({ fetch: 'x' })).toBe('fetch must be a function, got "x" (string)')
  expect(messageOf({ shouldRefresh: true })).toBe('shouldRefresh must be a function, got true (boolean)')
  expect(messageOf({ header: '' })).toBe('header must be the name of a header, got "" (string)')
  expect(messageOf({ header: 'x y' })).toMatch(/^header must have names that are tokens/)
  expect(messageOf({ scheme: 'a b' })).toBe('scheme must be a word, got "a b" (string)')
  expect(messageOf({ origins: 'http://a' })).toBe('origins must be an array, got "http://a" (string)')
  expect(messageOf({ origins: ['a'] })).toBe('origins must be absolute URLs with a scheme, got "a" (string)')
  // A URL too, of the scheme `localhost:`.
  expect(messageOf({ origins: ['localhost:3000'] })).toContain('origins must be absolute URLs with a scheme')
})

test('createHttpClient takes a TokenCache as it is, and one key of another with forKey', async () => {
  const { seen, server } = await startApi(refusesFirst)
  const tokens = source()
  const client = makeClient({ baseUrl: server.origin, token: tokens })

  expect((await client.post('/orders', { json: { a: 1 } })).status).toBe(200)
  expect((await client.get('/orders')).status).toBe(200)
  expect(seen.map(({ authorization }) => authorization)).toEqual(['Bearer t1', 'Bearer t2', 'Bearer t2'])
  expect(client.stats().tokenRefreshes).toBe(1)
  expect(tokens.stats()).toMatchObject({ fetches: 2, invalidated: 1 })

  const other = makeClient({ baseUrl: server.origin, token: tokens.forKey('billing') })
  expect((await other.get('/orders')).status).toBe(200)
  expect(tokens.fetched).toEqual(['', '', 'billing'])
})
