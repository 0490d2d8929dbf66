import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { MemoryCounterStore } from 'spillway/testing'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { ApiOptions } from '../../examples/counter-billing/http/api-options.ts'
import { instancePrefix, problems, typePrefix } from '../../examples/counter-billing/http/problems.ts'
import { batches, type Client, increments, startClient } from './counter-client.ts'
import { incrementHead, rawAnswer, rawConnection } from './raw-http.ts'
import { wrapped } from './stores.ts'

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })
const start = (api?: ApiOptions): Promise<Client> => startClient(newStores(), { api })
const good = { resource_id: 'post-1', counter_type: 'like', delta: 1 }
const goodBody = JSON.stringify(good)

/** A gateway whose durable store answers when it is told to. */
async function startSlow(api?: ApiOptions): Promise<{ client: Client; answer: () => void; store: MemoryCounterStore }> {
  const { live, durable } = newStores()
  let answer = (): void => undefined
  const gate = new Promise<void>((resolve) => {
    answer = resolve
  })
  onTestFinished(() => answer())
  const late =
    <A extends unknown[], R>(method: (...args: A) => PromiseLike<R>) =>
    async (...args: A): Promise<R> => {
      await gate
      return method(...args)
    }
  const slow = { ...wrapped(durable, late), getMany: late(durable.getMany.bind(durable)) }
  return { client: await startClient({ live, durable: slow }, { api }), answer, store: durable }
}

describe('a problem', () => {
  test('has its type, title, status, detail, request and code', async () => {
    const client = await start()

    const { status, headers, body } = await client.post(increments, { ...good, delta: 'x' })

    expect(headers.get('content-type')).toMatch(/^application\/problem\+json/)
    expect([status, body.status, body.code]).toEqual([400, 400, 'invalid_request'])
    expect(body.type).toBe(`${typePrefix}invalid_request`)
    expect(body.title).toBe(problems.invalid_request.title)
    expect(body.detail).toContain('delta must be a whole number')
    expect(body.instance).toBe(`${instancePrefix}${headers.get('x-request-id')}`)
  })

  test('names all fields that are wrong, in the body, the path and the query', async () => {
    const client = await start()

    const body = await client.post(increments, { resource_id: '', counter_type: 'a:b', detla: 1, ack: 'x' })
    const batch = await client.post(batches, { operations: [{ ...good, delta: 0.5 }, {}], async: 'no' })
    const url = await client.get(`/api/v1/counter/a%00b/li:ke?source=disk&fresh=maybe`)

    const fieldsOf = (answer: typeof body): string[] => answer.body.errors.map(({ field }: { field: string }) => field)
    expect(fieldsOf(body).sort()).toEqual(['ack', 'counter_type', 'detla', 'resource_id'])
    const operations = ['operations[0].delta', 'operations[1].counter_type', 'operations[1].resource_id']
    expect(fieldsOf(batch).sort()).toEqual(['async', ...operations])
    expect(fieldsOf(url).sort()).toEqual(['counter_type', 'fresh', 'resource_id', 'source'])
    for (const { status, body: problem } of [body, batch, url]) {
      expect([status, problem.field]).toEqual([400, problem.errors[0].field])
      expect(problem.detail).toContain(problem.errors[0].message)
    }
  })

  test('of a body that is large names the first field alone, and no more than fifty of a small one', async () => {
    const client = await start()
    const names = Array.from({ length: 200 }, (_, index) => [`field-${index}`, index])

    const small = await client.post(increments, { ...good, ...Object.fromEntries(names) })
    const large = await client.post(increments, { ...good, a: 'x'.repeat(70_000), delta: 0.5 })

    expect(small.body.errors).toHaveLength(50)
    expect(large.body.errors).toHaveLength(1)
  })

  test('of a body that is nested deeper than a stack goes is a problem like any other', async () => {
    const client = await start()
    const deep = '['.repeat(400_000) + ']'.repeat(400_000)

    for (const body of [deep, `{"resource_id":${deep}}`]) {
      const { status, headers, body: problem } = await client.send(increments, body)

      expect(headers.get('content-type')).toMatch(/^application\/problem\+json/)
      expect([status, problem.code, problem.errors.length]).toEqual([400, 'invalid_request', 1])
    }
  })

  test('has a code for each that the README tells of', () => {
    const readme = readFileSync('examples/counter-billing/README.md', 'utf8')
    const told = [...readme.matchAll(/^\| (\d{3}) +\| `([a-z_]+)` /gm)].map(([, status, code]) => [
      code,
      Number(status),
    ])

    expect(new Map(told as [string, number][])).toEqual(
      new Map(Object.entries(problems).map(([code, { status }]) => [code, status])),
    )
  })
})

describe('what is no request', () => {
  test.each([
    ['no HTTP', 'hello\r\n\r\n', 400, 'malformed_http'],
    ['two lengths', incrementHead(1, ['content-length: 2']), 400, 'malformed_http'],
    ['a header over 16 KiB', incrementHead(1, [`x: ${'y'.repeat(17_000)}`]), 431, 'headers_too_large'],
  ])('%s is answered with a problem, and the connection is closed', async (_name, text, status, code) => {
    const client = await start()

    const answer = rawAnswer(await rawConnection(client.service.url, text).closed)

    expect([answer.status, answer.body.code]).toEqual([status, code])
    expect(answer.headers).toContain('application/problem+json')
    expect((await client.increment('a')).status).toBe(202)
  })

  test('is no answer to the request before it, which is under way', async () => {
    const { client, answer, store } = await startSlow()
    const body = JSON.stringify({ ...good, ack: 'committed' })
    const connection = rawConnection(client.service.url, `${incrementHead(body.length)}${body}hello\r\n\r\n`)

    expect(await connection.closed).toBe('')
    answer()

    await expect.poll(() => store.getMany(['post-1:like']), { timeout: 20_000 }).toEqual([1])
  })

  test('is answered by the gateway, and not by Node without a word: no host, an expectation that nobody knows', async () => {
    const client = await start()
    const head = incrementHead(goodBody.length, ['expect: more', 'connection: close'])

    const hopeful = rawConnection(client.service.url, head + goodBody)
    const nowhere = rawConnection(client.service.url, head.replace('host: localhost\r\n', '') + goodBody)

    expect(rawAnswer(await hopeful.closed)).toMatchObject({ status: 202, body: { accepted: true } })
    const { status, headers, body } = rawAnswer(await nowhere.closed)
    expect([status, body.code]).toEqual([400, 'malformed_http'])
    expect(headers).toContain(`x-request-id: ${body.instance.slice(instancePrefix.length)}`)
    expect(client.service.counters.durableWrites.stats().offered).toBe(1)
  })

  test.each([
    ['a broken escape', '/api/v1/counter/%zz/like', 400, 'invalid_request'],
    ['a part of the path that is too long', `/api/v1/counter/${'x'.repeat(9_000)}/like`, 414, 'url_too_long'],
  ])('%s is a problem, too', async (_name, path, status, code) => {
    const answer = await (await start()).get(path)

    expect([answer.status, answer.body.code]).toEqual([status, code])
    expect(answer.body.instance).toBe(`${instancePrefix}${answer.headers.get('x-request-id')}`)
  })
})

describe('limits of size and time', () => {
  test('a header that never ends is cut off', async () => {
    const client = await start({ headersTimeoutMs: 200, requestTimeoutMs: 400 })
    const slow = rawConnection(client.service.url, 'POST /api/v1/counter/increment HTTP/1.1\r\nhost: a\r\n')
    const drip = setInterval(() => slow.socket.write('x: y\r\n'), 50)
    onTestFinished(() => clearInterval(drip))

    const answer = rawAnswer(await slow.closed)

    expect([answer.status, answer.body.code]).toEqual([408, 'request_timeout'])
    expect((await client.increment('a')).status).toBe(202)
  })

  test('a body that never ends is cut off, and counts nothing', async () => {
    const client = await start({ headersTimeoutMs: 200, requestTimeoutMs: 400 })

    const answer = rawAnswer(await rawConnection(client.service.url, incrementHead(1_000) + goodBody).closed)

    expect([answer.status, answer.body.code]).toEqual([408, 'request_timeout'])
    expect(client.service.counters.durableWrites.stats().offered).toBe(0)
  })

  test('a body that says it is too large is not waited for', async () => {
    const client = await start({ maxBodyBytes: 2_000 })

    const answer = rawAnswer(await rawConnection(client.service.url, incrementHead(1_000_000)).closed)

    expect([answer.status, answer.body.code]).toEqual([413, 'body_too_large'])
    expect(answer.headers.toLowerCase()).toContain('connection: close')
  })

  test('a body that becomes too large is cut off', async () => {
    const client = await start({ maxBodyBytes: 2_000 })
    const head = incrementHead(0, ['transfer-encoding: chunked']).replace('content-length: 0\r\n', '')

    const { closed } = rawConnection(client.service.url, `${head}${`3e8\r\n${'x'.repeat(1_000)}\r\n`.repeat(3)}`)

    expect(rawAnswer(await closed)).toMatchObject({ status: 413, body: { code: 'body_too_large' } })
  })

  test('connections beyond as many as may be are closed at once', async () => {
    const client = await start({ maxConnections: 2 })
    const held = [rawConnection(client.service.url), rawConnection(client.service.url)]
    await Promise.all(held.map(({ socket }) => new Promise((resolve) => socket.once('connect', resolve))))

    expect(await rawConnection(client.service.url, incrementHead(2)).closed).toBe('')

    for (const { socket } of held) socket.destroy()
    await expect
      .poll(
        () =>
          client.increment('a').then(
            ({ status }) => status,
            () => 0,
          ),
        { timeout: 20_000 },
      )
      .toBe(202)
  })

  test.each(['committed', 'batch', 'read'])('an answer that takes too long is a 504: %s', async (kind) => {
    const { client, answer, store } = await startSlow({ handlerTimeoutMs: 100 })

    const late = await (kind === 'committed'
      ? client.increment('a', 3, 'committed')
      : kind === 'batch'
        ? client.post(batches, { operations: [{ resource_id: 'a', counter_type: 'like', delta: 3 }] })
        : client.get('/api/v1/counter/a/like?source=durable'))

    expect([late.status, late.body.code]).toEqual([504, 'handler_timeout'])
    expect(late.body.applied).toBe(kind === 'read' ? undefined : 'unknown')
    answer()
    // Nobody waits for it, and it is done all the same.
    if (kind !== 'read') await expect.poll(() => store.getMany(['a:like']), { timeout: 20_000 }).toEqual([3])
    expect((await client.increment('b', 1, 'committed')).status).toBe(200)
  })

  test('whoever reads slowly gets all that was answered in time, compressed or not', { timeout: 60_000 }, async () => {
    const client = await start({ handlerTimeoutMs: 1_000 })
    // Nothing that becomes much smaller.
    const operations = Array.from({ length: 1_000 }, () => ({
      resource_id: randomBytes(190).toString('base64'),
      counter_type: 'like',
    }))
    const body = JSON.stringify({ operations })
    const times = 40

    for (const encoding of ['gzip', 'identity']) {
      const head = (more: string): string =>
        incrementHead(body.length, [`accept-encoding: ${encoding}`, more]).replace(increments, batches)
      const connection = rawConnection(client.service.url)
      connection.socket.pause()
      // More than the buffers in between hold.
      for (let n = 1; n < times; n++) connection.socket.write(head('x: y') + body)
      connection.socket.write(head('connection: close') + body)
      await delay(2_500)
      connection.socket.resume()

      const received = await connection.closed

      expect([...received.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status)).toEqual(Array(times).fill('200'))
    }
    expect(client.log).toEqual([])
  })

  test.each([0, 300])('an idle connection is closed after %i ms', async (keepAliveTimeoutMs) => {
    const client = await start({ keepAliveTimeoutMs })
    const { closed } = rawConnection(client.service.url, 'GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n')

    const { status, headers } = rawAnswer(await closed)

    expect(status).toBe(200)
    expect(headers.toLowerCase()).toContain(`connection: ${keepAliveTimeoutMs === 0 ? 'close' : 'keep-alive'}`)
  })

  test('options that can not be meant are a reason not to start', async () => {
    await expect(start({ maxBodyBytes: 3 })).rejects.toThrow('api.maxBodyBytes must be a whole number from 1024')
    await expect(start({ headersTimeoutMs: 500, requestTimeoutMs: 400 })).rejects.toThrow('api.headersTimeoutMs')
    const keys = [{ id: 'a', sha256: 'x', userId: 'ann', scopes: [] }]
    await expect(start({ apiKeys: { keys } })).rejects.toThrow('api.apiKeys.keys: a needs a SHA-256')
  })
})
