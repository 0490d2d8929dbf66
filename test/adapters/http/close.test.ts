import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { balanced, failureOf, makeClient } from './support/client.js'
import { answer, startHttp, startHttps, trusted, until } from './support/servers.js'

test('close refuses more, waits for what is in flight, closes all connections', async () => {
  const server = await startHttp((_request, response) => setTimeout(() => answer(response, 200, 'late'), 30))
  const client = makeClient({ baseUrl: server.origin })

  const asked = client.get('/')
  const closing = client.close()
  expect(await failureOf(client.get('/'))).toMatchObject({ code: 'ERR_CLOSED', message: 'http-client is closed' })

  expect((await asked).json()).toBe('late')
  expect(await closing).toEqual({ drained: true, abandoned: 0 })
  await until(() => server.sockets.size === 0, 'all connections were closed')
  expect(client.stats()).toMatchObject({ offered: 2, succeeded: 1, rejected: 1, connections: 0 })
})

test('at its deadline close gives up what is left, says what is known of it, and cuts the connections', async () => {
  const server = await startHttp((request, response) => {
    if (request.url === '/stream') response.write('…')
  })
  const client = makeClient({ baseUrl: server.origin, connectionsPerOrigin: 2 })

  const sent = failureOf(client.post('/'))
  const streamed = await client.stream('/stream')
  const body = failureOf(text(streamed.body))
  const queued = failureOf(client.post('/queued'))

  expect(await client.close({ timeoutMs: 20 })).toEqual({ drained: false, abandoned: 3 })
  expect(await sent).toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
  expect(await queued).toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: false })
  expect(await body).toMatchObject({ code: 'ERR_CLOSED' })
  await until(() => server.sockets.size === 0, 'all connections were closed')
  expect(client.stats()).toMatchObject({ failed: 3, pending: 0 })
  expect(server.requests).not.toContain('POST /queued')
})

test('close waits for a streamed body, but not for one that nobody reads and that has arrived', async () => {
  const server = await startHttp((_request, response) => answer(response, 200, 'small'))
  const client = makeClient({ baseUrl: server.origin })

  const streamed = await client.stream('/')

  expect(await client.close()).toEqual({ drained: true, abandoned: 0 })
  expect(await text(streamed.body)).toBe('"small"')
})

test('close of an idle HTTP/2 client closes its connection', async () => {
  const server = await startHttps((_request, response) => answer(response as never, 200, null))
  const client = makeClient({ baseUrl: server.origin, connect: { ca: trusted().cert } })

  await client.get('/')
  await client.close()

  await until(() => server.sockets.size === 0, 'the connection was closed')
})

test('flush settles what was there before it, and goes on', async () => {
  const server = await startHttp((request, response) => {
    if (request.url !== '/never') setTimeout(() => answer(response, 200, null), 10)
  })
  const client = makeClient({ baseUrl: server.origin })

  const all = [client.get('/'), client.get('/'), failureOf(client.get('/', { timeoutMs: 5 }))]
  const flushed = client.flush()
  const later = client.get('/never').catch(() => undefined)

  expect(await flushed).toEqual({ succeeded: 2, failed: 1, dropped: 0 })
  await Promise.all(all)
  expect(client.stats().pending).toBe(1)
  await client.close({ timeoutMs: 0 })
  await later
  balanced(client)
})

test('an idle client with open connections lets the process exit', async () => {
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', fileURLToPath(new URL('./support/idle-process.ts', import.meta.url))],
    { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, TSX_TSCONFIG_PATH: 'tsconfig.check.json' } },
  )
  const [output, code] = await Promise.all([text(child.stdout), new Promise((resolve) => child.once('exit', resolve))])

  expect({ output, code }).toEqual({ output: 'answered 200, 1 idle\n', code: 0 })
})
