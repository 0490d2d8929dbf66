import { readFileSync } from 'node:fs'
import { MemoryCounterStore } from 'spillway/testing'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { redact } from '../../examples/counter-billing/telemetry/redaction.ts'
import { startAuth } from './auth-client.ts'
import { increments, startClient } from './counter-client.ts'
import { type LogLine, linesOf, startLog, temporaryFile } from './log-file.ts'
import { startProcess } from './processes.ts'

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })
const requestsIn = (lines: readonly LogLine[]): LogLine[] => lines.filter(({ msg }) => msg === 'request')

describe('the log of a gateway', () => {
  test('has a line a request, under the id that the answer has', async () => {
    const log = startLog()
    const client = await startClient(newStores(), { logging: log })

    const answers = [await client.increment('post'), await client.get('/nowhere'), await client.send(increments, '{')]

    const lines = requestsIn(await log.written())
    expect(lines.map(({ service, method, url, status }) => [service, method, url, status])).toEqual([
      ['gateway', 'POST', increments, 202],
      ['gateway', 'GET', '/nowhere', 404],
      ['gateway', 'POST', increments, 400],
    ])
    expect(lines.map(({ reqId }) => reqId)).toEqual(answers.map(({ headers }) => headers.get('x-request-id')))
    expect(new Set(lines.map(({ reqId }) => reqId)).size).toBe(3)
    for (const { ms } of lines) expect(ms).toBeGreaterThan(0)
  })

  test.each([
    ['that names it', 'order-17.a:b', 'order-17.a:b'],
    ['whose id is no name', 'a b', expect.stringMatching(/^[\da-f]{8}-[\da-z]+$/)],
    ['whose id is endless', 'a'.repeat(65), expect.stringMatching(/^[\da-f]{8}-[\da-z]+$/)],
  ])('has the id of a caller %s', async (_name, id, expected) => {
    const log = startLog()
    const { service } = await startClient(newStores(), { logging: log })

    const { headers } = await fetch(`${service.url}/healthz`, { headers: { 'x-request-id': id } })

    expect(headers.get('x-request-id')).toEqual(expected)
    expect(requestsIn(await log.written())).toMatchObject([{ reqId: expected }])
  })

  test('has no requests from info on', async () => {
    const log = startLog('info')
    const client = await startClient(newStores(), { logging: log })

    await client.increment('post')
    log.log('info', 'something that people must know')

    const lines = await log.written()
    expect(requestsIn(lines)).toEqual([])
    expect(lines.at(-1)).toMatchObject({ level: 30, role: 'test', msg: 'something that people must know' })
  })

  test('has no token, no secret and no cookie, not even where it has whole requests', async () => {
    const stderr = vi.spyOn(process.stderr, 'write').mockReturnValue(true)
    onTestFinished(() => stderr.mockRestore())
    const log = startLog('trace')
    const auth = await startAuth({ logging: log })
    const client = await startClient(newStores(), { auth: auth.client('gateway'), logging: log })
    const token = await auth.token('load-generator', 'gateway')
    const headers = { authorization: `Bearer ${token}`, cookie: 'session=top-secret', 'x-trace': 'harmless' }

    await fetch(`${client.service.url}/api/v1/counter/a/like?access_token=${token}`, { headers })
    await fetch(`${client.service.url}/api/v1/counter/a/like`, { headers: { authorization: 'Bearer made-up-token' } })
    log.log('error', `the client said ${JSON.stringify({ authorization: `Bearer ${token}` })}`)

    const lines = await log.written()
    const text = readFileSync(log.file, 'utf8') + stderr.mock.calls.join()
    expect(requestsIn(lines).map(({ service }) => service)).toEqual(expect.arrayContaining(['auth', 'gateway']))
    expect(text).toContain('harmless')
    expect(stderr.mock.calls.join()).toContain('the client said')
    expect(text).toContain('"cookie":"[redacted]"')
    for (const secret of [token, token.split('.')[2], 'top-secret', 'made-up-token', ...Object.values(auth.secrets)])
      expect(text).not.toContain(secret)
    // Basic credentials are secrets in another spelling.
    for (const secret of Object.values(auth.secrets)) expect(text).not.toContain(btoa(`load-generator:${secret}`))
  })

  test('says what was dropped, keeps what matters most, and holds no request up while the disk takes nothing', async () => {
    const log = startLog()
    let release = (): void => undefined
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    vi.spyOn(log.sink, 'write').mockImplementationOnce(() => held)
    const client = await startClient(newStores(), { logging: log })

    for (let n = 0; n < 25_000; n++) log.logger.debug({ n }, 'one of many')
    log.log('error', 'the one that matters')
    const { status } = await client.increment('post')
    release()

    expect(status).toBe(202)
    const lines = await log.written()
    const { offered, succeeded, dropped } = log.stats()
    expect(lines.some(({ msg }) => msg === 'the one that matters')).toBe(true)
    expect(dropped).toBeGreaterThan(4_000)
    expect(offered).toBe(succeeded + dropped)
    expect(lines.find((line) => line['dropped'] !== undefined)).toMatchObject({ dropped, level: 40 })
  })

  test('is told of in the stats', async () => {
    const log = startLog()
    const client = await startClient(newStores(), { logging: log })
    await client.increment('post')

    const { body } = await client.get('/stats')

    expect(body.log).toMatchObject({ name: 'log', dropped: 0 })
    expect(body.log.offered).toBeGreaterThan(0)
  })
})

describe('in a process of its own', { timeout: 120_000 }, () => {
  const none = { DATABASE_URL: '', REDIS_URL: '', CONSUL_HTTP_ADDR: '', AUTH_URL: '' }
  const flags = ['--port', '0', '--grpc-port', '0', '--billing-port', '0']

  test('the file that the environment names has all requests to the last one after SIGTERM', async () => {
    const file = temporaryFile('logs/service.log')
    const service = await startProcess(flags, { ...none, LOG_FILE: file })
    const send = (id: number): Promise<Response> =>
      fetch(`${service.url}/healthz`, { headers: { 'x-request-id': `n-${id}` } })

    const last = Array.from({ length: 300 }, (_, id) => send(id))
    const answered = (await Promise.all(last)).filter(({ status }) => status === 200)

    expect(await service.end('SIGTERM')).toBe('SIGTERM')
    // The auth service of the process is asked for its keys, too.
    const requests = requestsIn(linesOf(file)).filter(({ service }) => service === 'gateway')
    expect(answered).toHaveLength(300)
    expect(new Set(requests.map(({ reqId }) => reqId))).toEqual(new Set(last.map((_, id) => `n-${id}`)))
    expect(requests[0]).toMatchObject({ level: 20, role: 'all', service: 'gateway' })
  })

  test('without a file, stderr has what people must know, as JSON, and no requests', async () => {
    const service = await startProcess(flags, none)
    await (await fetch(`${service.url}/healthz`)).text()
    await service.end('SIGTERM')

    const lines = service
      .log()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as LogLine)
    expect(lines.map(({ msg }) => msg)).toContainEqual(expect.stringMatching(/^Server listening at/))
    expect(requestsIn(lines)).toEqual([])
  })

  test.each([
    ['a level that is none', { LOG_LEVEL: 'loud' }, /log\.level must be one of trace, .*, got "loud"/],
    ['a file that can not be made', { LOG_FILE: '/dev/null/service.log' }, /can't start: .*\/dev\/null/],
  ])('%s is a reason not to start', async (_name, env, reason) => {
    await expect(startProcess(flags, { ...none, ...env })).rejects.toThrow(reason)
  })
})

describe('what is redacted', () => {
  test.each([
    ['a field', '{"client_secret":"hush","a":1}', '{"client_secret":"[redacted]","a":1}'],
    [
      'a field of JSON in a text',
      '{"msg":"got {\\"password\\":\\"hush\\"}"}',
      '{"msg":"got {\\"password\\":\\"[redacted]\\"}"}',
    ],
    ['a bearer token in a text', '{"msg":"Bearer abcdef.123== failed"}', '{"msg":"Bearer [redacted] failed"}'],
    ['Basic credentials', '{"msg":"basic QWxhZGRpbjpvcGVu"}', '{"msg":"basic [redacted]"}'],
    ['a token by itself', '{"msg":"eyJhbGci.eyJzdWIi.c2ln-_x is wrong"}', '{"msg":"[redacted] is wrong"}'],
    ['a parameter', '{"url":"/a?token=hush&b=1"}', '{"url":"/a?token=[redacted]&b=1"}'],
    ["a URL's password", '{"msg":"postgres://ann:hush@db/x"}', '{"msg":"postgres://ann:[redacted]@db/x"}'],
    ['one that nobody has escaped', '{"msg":"redis://:hu/sh@hu@db/0"}', '{"msg":"redis://:[redacted]@db/0"}'],
    [
      'a field with blanks',
      '{"msg":"got {\\"password\\": \\"hush\\"}"}',
      '{"msg":"got {\\"password\\": \\"[redacted]\\"}"}',
    ],
    [
      'no port, though somebody has an address behind it',
      '{"msg":"http://db:80/ of ann@db"}',
      '{"msg":"http://db:80/ of ann@db"}',
    ],
    ['several', '{"msg":"Bearer hush-hush Bearer hush-hush"}', '{"msg":"Bearer [redacted] Bearer [redacted]"}'],
  ])('%s', (_name, line, expected) => {
    expect(redact(line)).toBe(expected)
  })

  test('and nothing else', () => {
    const line =
      '{"level":20,"reqId":"a-1","url":"/api/v1/counter/a/like?fresh=true","tokens":3,"msg":"authorization must be a bearer token"}\n'

    expect(redact(line)).toBe(line)
  })
})
