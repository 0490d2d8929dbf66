import { createHttpClient } from 'spillway/http'
import { MemoryCounterStore } from 'spillway/testing'
import * as undici from 'undici'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AuthMode } from '../../examples/counter-billing/auth/http-guard.ts'
import { serviceTokens } from '../../examples/counter-billing/auth/service-tokens.ts'
import { type CounterService, startCounterService } from '../../examples/counter-billing/service.ts'
import { startAuth, type TestAuth } from './auth-client.ts'
import { type Client, increments, startClient } from './counter-client.ts'

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })

/** A gateway that has its stores itself, and takes tokens. */
function startGuarded(auth: TestAuth, mode?: AuthMode): Promise<Client> {
  return startClient(newStores(), { auth: { ...auth.client('gateway'), mode } })
}

interface Refusal {
  readonly status: number
  readonly challenge: string | null
  // biome-ignore lint/suspicious/noExplicitAny: each test knows the answer that it asks for
  readonly body: any
}

async function ask({ service }: Client, path: string, token?: string, init: RequestInit = {}): Promise<Refusal> {
  const headers = {
    'content-type': 'application/json',
    ...(token !== undefined && { authorization: `Bearer ${token}` }),
  }
  const response = await fetch(service.url + path, { ...init, headers })
  return { status: response.status, challenge: response.headers.get('www-authenticate'), body: await response.json() }
}

const counter = '/api/v1/counter/a/like'
const increment = { method: 'POST', body: JSON.stringify({ resource_id: 'a', counter_type: 'like' }) }
const invalidate = { method: 'POST', body: JSON.stringify({ resource_ids: ['a'] }) }

describe('a gateway that requires tokens', () => {
  test('tells who has none what is needed, and not that anything was wrong', async () => {
    const client = await startGuarded(await startAuth(), 'required')

    const answers = [await ask(client, counter), await ask(client, increments, undefined, increment)]

    for (const { status, challenge, body } of answers) {
      expect([status, challenge]).toEqual([401, 'Bearer realm="counter-billing"'])
      expect(body).toMatchObject({ code: 'missing_token', applied: 'no' })
    }
    expect(client.service.counters.durableWrites.stats().offered).toBe(0)
  })

  test('tells who has a wrong one what is wrong', async () => {
    const auth = await startAuth()
    const client = await startGuarded(auth, 'required')
    const foreign = await auth.token('gateway', 'counter-service')

    const { status, challenge, body } = await ask(client, increments, foreign, increment)

    expect(status).toBe(401)
    expect(challenge).toMatch(/^Bearer realm="counter-billing", error="invalid_token", error_description="[^"]+"$/)
    expect(body).toMatchObject({ code: 'invalid_token', applied: 'no' })
    expect(JSON.stringify(body) + challenge).not.toContain(foreign.slice(0, 20))
  })

  test('tells whose token does not allow it what would', async () => {
    const auth = await startAuth()
    const client = await startGuarded(auth, 'required')
    const reader = await auth.token('load-generator', 'gateway', 'counters:read')

    const { status, challenge } = await ask(client, increments, reader, increment)

    expect(status).toBe(403)
    expect(challenge).toMatch(/error="insufficient_scope".* scope="counters:write"$/)
    expect((await ask(client, counter, reader)).status).toBe(200)
  })

  test.each([
    '/api/v1/counter?resource_id=a',
    '/api/v1/nothing',
    '/api/v1/counter/%zz/like',
    '/%61pi/v1/counter/a/like',
    '/api/../api/v1/counter/a/like',
  ])('lets nobody in without one, at %s either', async (path) => {
    const client = await startGuarded(await startAuth(), 'required')

    // Neither what is there, nor whether something is.
    expect([400, 401, 404]).toContain((await ask(client, path)).status)
    expect(client.service.reads.stats()).toMatchObject({ reads: { offered: 0 } })
  })

  test('lets nobody look at heads without one', async () => {
    const { service } = await startGuarded(await startAuth(), 'required')

    const response = await fetch(service.url + counter, { method: 'HEAD' })

    expect([response.status, response.headers.get('age')]).toEqual([401, null])
  })

  test('lets everybody see whether it is well', async () => {
    const client = await startGuarded(await startAuth(), 'required')

    const [health, stats] = [await ask(client, '/healthz'), await ask(client, '/stats')]

    expect([health.status, stats.status]).toEqual([200, 200])
    expect(stats.body.auth.callers).toMatchObject({ accepted: 0 })
  })

  test('says that it can’t tell while it can’t have the keys, and lets in whom it knows', async () => {
    const auth = await startAuth()
    const client = await startGuarded(auth, 'required')
    const [known, unknown] = [await auth.token('load-generator', 'gateway'), await auth.token('back-office', 'gateway')]
    const closed = await startAuth()
    const cutOff = await startClient(newStores(), { auth: { ...closed.client('gateway'), mode: 'required' } })
    await closed.service.close()

    expect((await ask(client, counter, known)).status).toBe(200)
    const { status, body } = await ask(cutOff, counter, unknown)
    await auth.service.close()

    expect([status, body.code, body.applied]).toEqual([503, 'unavailable', 'no'])
    expect((await ask(client, counter, known)).status).toBe(200)
    // The keys are known here, too.
    expect((await ask(client, counter, unknown)).status).toBe(200)
  })
})

describe('a gateway that takes tokens', () => {
  test('lets in who has none, and refuses who has a wrong one', async () => {
    const auth = await startAuth()
    const client = await startGuarded(auth)

    expect((await ask(client, counter)).status).toBe(200)
    expect((await ask(client, counter, 'x')).status).toBe(401)
    expect((await ask(client, counter, await auth.token('load-generator', 'gateway'))).status).toBe(200)
  })

  test('lets services alone say what is no longer so', async () => {
    const auth = await startAuth()
    const client = await startGuarded(auth)
    const path = '/api/v1/counter/invalidate'
    const [service, load] = [await auth.token('back-office', 'gateway'), await auth.token('load-generator', 'gateway')]

    expect((await ask(client, path, undefined, invalidate)).status).toBe(401)
    expect((await ask(client, path, load, invalidate)).status).toBe(403)
    expect((await ask(client, path, service, invalidate)).body).toEqual({ invalidated: 1 })
  })

  test('is asked by a service whose client gets its tokens by itself', async () => {
    const auth = await startAuth()
    const client = await startGuarded(auth, 'required')
    const tokens = serviceTokens(auth.client('back-office'))
    const token = tokens.forKey({ audience: 'gateway', scopes: ['counters:read', 'counters:invalidate'] })
    const http = createHttpClient(undici, { baseUrl: client.service.url, token })
    onTestFinished(async () => {
      await http.close()
      await tokens.close()
    })

    const answers = await Promise.all(Array.from({ length: 20 }, () => http.get(counter)))
    const invalidated = await http.post('/api/v1/counter/invalidate', { json: { resource_ids: ['a'] } })

    expect([...answers, invalidated].map(({ status }) => status)).toEqual(Array(21).fill(200))
    expect(auth.service.stats().issued).toBe(1)
    expect(client.service.verifier?.stats()).toMatchObject({ accepted: 21, verifications: 1 })
  })
})

/** A counter service that takes tokens, on a port of its own unless it is told one. */
async function startGuardedService(auth: TestAuth, stores = newStores(), port = 0): Promise<CounterService> {
  const trust = { url: auth.service.url }
  const service = await startCounterService({ ...stores, auth: trust, port, log: () => undefined })
  onTestFinished(() => service.close())
  return service
}

const portOf = (address: string): number => Number(address.slice(address.lastIndexOf(':') + 1))

/** What begins anew has other keys and remembers no token: those that there are become worthless. */
async function restartAuth(auth: TestAuth): Promise<TestAuth> {
  await auth.service.close()
  return startAuth({ secrets: auth.secrets, port: portOf(auth.service.url) })
}

describe('a gateway in front of services that take tokens', () => {
  test('gets a token once, for all of its calls', async () => {
    const auth = await startAuth()
    const service = await startGuardedService(auth)
    const client = await startClient({ at: service.address }, { auth: auth.client('gateway') })

    for (let n = 1; n <= 20; n++) expect((await client.increment('a', 1, 'redis')).body.value).toBe(n)
    await client.service.counters.flush()

    expect(auth.service.stats()).toEqual({ issued: 1, refused: 0 })
    expect(service.verifier?.stats()).toMatchObject({ verifications: 1, refused: 0 })
    expect(Number(service.verifier?.stats()['accepted'])).toBeGreaterThan(20)
    expect(client.service.tokens?.stats()).toMatchObject({ fetches: 1 })
  })

  test('is not let in without one', async () => {
    const auth = await startAuth()
    const service = await startGuardedService(auth)
    const client = await startClient({ at: service.address }, { retry: { attempts: 1 } })

    const { status, body } = await client.increment('a', 1, 'redis')

    // Not a refusal of the increment: the same one may be taken later.
    expect([status, body.code, body.applied]).toEqual([503, 'unavailable', 'no'])
    expect(service.verifier?.stats()).toMatchObject({ accepted: 0 })
  })

  test('gets another one when a service refuses it, and makes the call again, once', async () => {
    const first = await startAuth()
    const stores = newStores()
    const service = await startGuardedService(first, stores)
    const client = await startClient({ at: service.address }, { auth: first.client('gateway') })
    expect((await client.increment('a', 1, 'redis')).body.value).toBe(1)
    await client.service.counters.flush()
    const second = await restartAuth(first)
    await service.close()
    const again = await startGuardedService(second, stores, portOf(service.address))
    await expect.poll(() => client.get('/healthz').then(({ status }) => status)).toBe(200)

    const answers = await Promise.all(Array.from({ length: 10 }, () => client.increment('a', 1, 'committed')))
    await client.service.counters.flush()

    expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(200))
    expect(client.service.tokens?.stats()).toMatchObject({ invalidated: 1, refreshed: 2 })
    expect(second.service.stats()).toEqual({ issued: 1, refused: 0 })
    expect(Number(again.verifier?.stats()['refused'])).toBeGreaterThan(0)
  })

  test('does not ask for ever when no token is good enough', async () => {
    const [auth, others] = [await startAuth(), await startAuth()]
    const service = await startGuardedService(others)
    const client = await startClient({ at: service.address }, { auth: auth.client('gateway'), retry: { attempts: 1 } })

    const answers = await Promise.all(Array.from({ length: 20 }, () => client.increment('a', 1, 'redis')))

    expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(503))
    expect(auth.service.stats().issued).toBeLessThanOrEqual(2)
  })

  test('loses nothing that it accepted while it is not let in', async () => {
    const first = await startAuth()
    const stores = newStores()
    const service = await startGuardedService(first, stores)
    const client = await startClient({ at: service.address }, { auth: first.client('gateway') })
    await client.increment('a', 1, 'committed')
    await first.service.close()
    await service.close()
    const elsewhere = await startAuth()
    // It takes the tokens of somebody else.
    const wrong = await startGuardedService(elsewhere, stores, portOf(service.address))

    expect((await client.increment('a', 1, 'accepted')).status).toBe(202)
    await expect.poll(() => client.log.join(), { timeout: 10_000 }).toMatch(/attempt 3 follows/)
    await wrong.close()
    await startGuardedService(await restartAuth(first), stores, portOf(service.address))
    await client.service.counters.flush()

    expect([await stores.durable.getMany(['a:like']), await stores.live.getMany(['a:like'])]).toEqual([[2], [2]])
    expect(client.service.counters.losses.lost).toBe(0)
  })
})
