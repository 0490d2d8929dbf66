import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { failureOf, makeClient } from './support/client.js'
import { answer, bodyOf, refusedOrigin, startHttp, startTcp } from './support/servers.js'

test('a path is put under baseUrl, its query and headers with it, and the answer is read whole', async () => {
  const server = await startHttp(async (request, response) => {
    answer(response, 200, { url: request.url, method: request.method, headers: request.headers })
  })
  const client = makeClient({
    baseUrl: `${server.origin}/v1/`,
    headers: { 'X-Client': 'all', 'x-both': 'client', 'x-gone': 'yes' },
  })

  const response = await client.get('users/1?full=yes', {
    query: { tag: ['a b', 'c&d'], page: 2, none: undefined },
    headers: { 'X-Both': 'request', 'X-Gone': undefined },
  })

  expect(response.status).toBe(200)
  expect(response.ok).toBe(true)
  expect(response.headers['content-type']).toBe('application/json')
  expect(response.url).toBe(`${server.origin}/v1/users/1`)
  const seen = response.json<{ url: string; method: string; headers: Record<string, string> }>()
  expect(seen.url).toBe('/v1/users/1?full=yes&tag=a+b&tag=c%26d&page=2')
  expect(seen.method).toBe('GET')
  expect(seen.headers).toMatchObject({ 'x-client': 'all', 'x-both': 'request' })
  expect(seen.headers).not.toHaveProperty('x-gone')
})

test('a path never leads to another origin, however it begins', async () => {
  const server = await startHttp((request, response) => answer(response, 200, request.url))
  const client = makeClient({ baseUrl: server.origin })

  expect((await client.get('//evil.example/x')).json()).toBe('//evil.example/x')
  expect((await client.get('@evil.example/x')).json()).toBe('/@evil.example/x')
  expect((await client.get('?q=1')).json()).toBe('/?q=1')
})

test('every kind of body arrives, with the content type that it implies', async () => {
  const server = await startHttp(async (request, response) => {
    answer(response, 200, { type: request.headers['content-type'] ?? null, body: await bodyOf(request) })
  })
  const client = makeClient({ baseUrl: server.origin })
  const send = async (options: Parameters<typeof client.post>[1]): Promise<unknown> =>
    (await client.post('/', options)).json()
  async function* parts(): AsyncGenerator<string> {
    yield 'one '
    yield 'two'
  }

  expect(await send({ json: { a: 1 } })).toEqual({ type: 'application/json', body: '{"a":1}' })
  expect(await send({ json: null })).toEqual({ type: 'application/json', body: 'null' })
  expect(await send({ json: 1, headers: { 'Content-Type': 'application/vnd.x+json' } })).toEqual({
    type: 'application/vnd.x+json',
    body: '1',
  })
  expect(await send({ body: 'tëxt' })).toEqual({ type: 'text/plain;charset=UTF-8', body: 'tëxt' })
  expect(await send({ body: '' })).toEqual({ type: 'text/plain;charset=UTF-8', body: '' })
  expect(await send({ body: Buffer.from('bytes') })).toEqual({ type: null, body: 'bytes' })
  expect(await send({ body: new TextEncoder().encode('buffer').buffer as ArrayBuffer })).toEqual({
    type: null,
    body: 'buffer',
  })
  expect(await send({ body: new URLSearchParams({ a: '1 2' }) })).toEqual({
    type: 'application/x-www-form-urlencoded;charset=UTF-8',
    body: 'a=1+2',
  })
  expect(await send({ body: Readable.from(['a', 'b']) })).toEqual({ type: null, body: 'ab' })
  expect(await send({ body: parts() })).toEqual({ type: null, body: 'one two' })
  expect(await send({ body: () => parts() })).toEqual({ type: null, body: 'one two' })
  expect(await send({})).toEqual({ type: null, body: '' })
  const form = new FormData()
  form.set('field', 'value')
  const seen = (await send({ body: form })) as { type: string; body: string }
  expect(seen.type).toMatch(/^multipart\/form-data; boundary=/)
  expect(seen.body).toContain('name="field"\r\n\r\nvalue')
})

test('a body is copied: what the caller writes over it later changes nothing', async () => {
  const server = await startHttp(async (request, response) => answer(response, 200, await bodyOf(request)))
  const client = makeClient({ baseUrl: server.origin })
  const bytes = Buffer.from('before')

  const sent = client.put('/', { body: bytes })
  bytes.write('after!')

  expect((await sent).json()).toBe('before')
})

test('a status of failure is an answer, and with throwOnError an error that holds it', async () => {
  const server = await startHttp((_request, response) => answer(response, 404, { reason: 'gone' }, { 'x-id': '7' }))
  const client = makeClient({ baseUrl: server.origin })

  expect((await client.get('/a?key=secret')).status).toBe(404)
  const error = await failureOf(client.get('/a?key=secret', { throwOnError: true }))

  expect(error).toMatchObject({
    name: 'HttpStatusError',
    code: 'ERR_STORE',
    message: `http-client: GET ${server.origin}/a answered 404`,
    status: 404,
    method: 'GET',
    url: `${server.origin}/a`,
    retryable: false,
    outcomeUnknown: false,
  })
  const { response } = error as unknown as { response: { json(): unknown; headers: Record<string, string> } }
  expect(response.json()).toEqual({ reason: 'gone' })
  expect(Object.keys(error)).not.toContain('response')
  expect(client.stats()).toMatchObject({ succeeded: 1, failed: 1, statuses: { '4xx': 2 } })
})

test('a 5xx leaves open whether the work was done, but for those that say it was not', async () => {
  const server = await startHttp((request, response) => answer(response, Number(request.url?.slice(1)), null))
  const client = makeClient({ baseUrl: server.origin, throwOnError: true })

  for (const [status, unknown] of [
    [500, true],
    [502, true],
    [504, true],
    [501, false],
    [429, false],
    [408, false],
  ]) {
    expect(await failureOf(client.post(`/${status}`)), String(status)).toMatchObject({ outcomeUnknown: unknown })
  }
})

test('a refused connection says that nothing was done, a lost one that nobody knows', async () => {
  const refusing = await refusedOrigin()
  const losing = await startTcp((socket) => socket.once('data', () => socket.destroy()))
  const client = makeClient({ name: 'api' })

  expect(await failureOf(client.post(`${refusing}/x?token=secret`))).toMatchObject({
    name: 'HttpError',
    code: 'ERR_STORE',
    message: expect.stringMatching(/^api: POST http:\/\/127\.0\.0\.1:\d+\/x failed: .*ECONNREFUSED/),
    retryable: true,
    outcomeUnknown: false,
    cause: { code: 'ECONNREFUSED' },
  })
  const lost = await failureOf(client.post(`${losing.origin}/x?token=secret`))
  expect(lost).toMatchObject({ name: 'HttpError', retryable: true, outcomeUnknown: true })
  expect(lost.message).not.toContain('secret')
})

test('an answer that breaks off is a failure, not a short answer', async () => {
  const server = await startTcp((socket) => {
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort')
      setTimeout(() => socket.destroy(), 5)
    })
  })
  const client = makeClient()

  expect(await failureOf(client.get(server.origin))).toMatchObject({ name: 'HttpError', outcomeUnknown: true })
})

test('what is no HTTP is an error that another try would not mend', async () => {
  const server = await startTcp((socket) => socket.once('data', () => socket.write('SSH-2.0-OpenSSH\r\n\r\n')))
  const client = makeClient({ retry: { attempts: 3, delayMs: 0 } })

  expect(await failureOf(client.get(server.origin))).toMatchObject({ name: 'HttpError', retryable: false })
  expect(server.accepted).toBe(1)
})

test('a response over maxResponseBytes fails, announced or not', async () => {
  const server = await startHttp((request, response) => {
    if (request.url === '/announced') response.writeHead(200, { 'content-length': '2000' })
    response.write('x'.repeat(1000))
    setTimeout(() => response.end('x'.repeat(1000)), 5)
  })
  const client = makeClient({ baseUrl: server.origin, maxResponseBytes: 1999 })

  for (const path of ['/announced', '/chunked']) {
    expect(await failureOf(client.get(path))).toMatchObject({
      code: 'ERR_TOO_LARGE',
      maxBytes: 1999,
      message: `http-client: the response to GET ${server.origin}${path} is larger than 1999 bytes`,
    })
    expect((await client.get(path, { maxResponseBytes: 2000 })).body).toHaveLength(2000)
  }
  expect((await client.request('/announced', { method: 'HEAD' })).body).toHaveLength(0)
})

test('bytes are given as they came', async () => {
  const bytes = gzipSync('hello')
  const server = await startHttp((_request, response) => {
    response.writeHead(200, { 'content-encoding': 'gzip' })
    response.end(bytes)
  })

  expect(Buffer.from((await makeClient().get(server.origin)).body).equals(bytes)).toBe(true)
})

test('a redirect is an answer: nothing is sent on to where it points', async () => {
  const other = await startHttp((_request, response) => answer(response, 200, null))
  const server = await startHttp((_request, response) => answer(response, 302, null, { location: `${other.origin}/` }))

  expect((await makeClient().get(server.origin)).headers['location']).toBe(`${other.origin}/`)
  expect(other.requests).toEqual([])
})

test('a streamed answer comes as it is sent, and counts as pending until its body has ended', async () => {
  let finish = (): void => undefined
  const server = await startHttp((_request, response) => {
    response.write('first ')
    finish = () => response.end('last')
  })
  const client = makeClient({ baseUrl: server.origin })

  const response = await client.stream('/')
  expect(client.stats()).toMatchObject({ pending: 1, succeeded: 0 })
  finish()

  expect(await text(response.body)).toBe('first last')
  expect(client.stats()).toMatchObject({ pending: 0, succeeded: 1 })
})

test('a streamed answer that nobody reads is held back, and frees its connection when destroyed', async () => {
  let written = 0
  const server = await startHttp((_request, response) => {
    const more = (): void => {
      while (written < 50_000_000 && response.write('x'.repeat(65_536))) written += 65_536
    }
    response.on('drain', more)
    more()
  })
  const client = makeClient({ baseUrl: server.origin })

  const response = await client.stream('/')
  await new Promise((resolve) => setTimeout(resolve, 100))
  expect(written).toBeLessThan(40_000_000)
  response.body.destroy()

  await client.flush()
  expect(client.stats()).toMatchObject({ pending: 0, aborted: 1 })
})

test('a streamed answer that its reader ends, with an error or without, is aborted, not failed', async () => {
  const server = await startHttp((_request, response) => response.write('first'))
  const client = makeClient({ baseUrl: server.origin })
  const failed: unknown[] = []
  client.on('failed', (event) => failed.push(event))

  for await (const _chunk of (await client.stream('/')).body) break
  const { body } = await client.stream('/')
  body.destroy(new Error('the disk is full'))
  await client.flush()

  expect(client.stats()).toMatchObject({ aborted: 2, failed: 0, pending: 0 })
  expect(failed).toEqual([])
})

test('a streamed answer that breaks off fails whoever reads it', async () => {
  const server = await startTcp((socket) => {
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort')
      setTimeout(() => socket.destroy(), 20)
    })
  })
  const client = makeClient()

  const response = await client.stream(server.origin)

  expect(await failureOf(text(response.body))).toMatchObject({ name: 'HttpError', outcomeUnknown: true })
  expect(client.stats()).toMatchObject({ failed: 1, pending: 0 })
})
