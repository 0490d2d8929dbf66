import { createHash, randomUUID } from 'node:crypto'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { newKey } from '../../examples/counter-billing/auth/api-key.ts'
import { ApiKeyTable } from '../../examples/counter-billing/auth/api-key-table.ts'
import { ApiKeys } from '../../examples/counter-billing/auth/api-keys.ts'
import type { AuthMode } from '../../examples/counter-billing/auth/http-guard.ts'
import type { Database } from '../../examples/counter-billing/counter/database.ts'
import type { ApiOptions } from '../../examples/counter-billing/http/api-options.ts'
import { redact } from '../../examples/counter-billing/telemetry/redaction.ts'
import { startAuth, type TestAuth } from './auth-client.ts'
import { type BillingStores, fresh, openBillingStores, startBilling, tariff } from './billing-client.ts'
import { type Answer, type Client, increments, startClient } from './counter-client.ts'

const all = await openBillingStores()
let auth: TestAuth

beforeEach(async () => {
  auth = await startAuth()
})

afterAll(async () => {
  for (const { stop } of all) await stop()
})

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })
const counter = '/api/v1/counter/a/like'
const keys = '/api/v1/keys'

/** A gateway that knows API keys, and asks everybody who he is. */
function startKeyed(
  database: Database | undefined,
  api: ApiOptions = {},
  mode: AuthMode = 'required',
): Promise<Client> {
  return startClient(newStores(), { database, api, auth: { ...auth.client('gateway'), mode } })
}

type Headers = Readonly<Record<string, string>>

async function ask(
  { service }: Client,
  path: string,
  headers: Headers,
  body?: object,
  method?: string,
): Promise<Answer> {
  const init = body && { method: 'POST', body: JSON.stringify(body) }
  const response = await fetch(service.url + path, {
    ...init,
    ...(method && { method }),
    headers: { ...headers, ...(body && { 'content-type': 'application/json' }) },
  })
  return { status: response.status, headers: response.headers, body: await response.json() }
}

const bearer = async (client: 'back-office' | 'load-generator'): Promise<Headers> => ({
  authorization: `Bearer ${await auth.token(client, 'gateway')}`,
})

async function issue(client: Client, body: object): Promise<{ key: string; id: string }> {
  const { status, body: issued } = await ask(client, keys, await bearer('back-office'), body)
  expect(status).toBe(201)
  return issued
}

const like = (more: object = {}) => ({ resource_id: 'a', counter_type: 'like', ...more })

describe.each(all.filter(({ title }) => !title.includes('Redis')))('API keys in $title', (stores: BillingStores) => {
  const { database } = stores

  test('are issued once, listed without what they are, and stored as a hash', async () => {
    const client = await startKeyed(database)
    const user_id = fresh('ann')

    const { key, id } = await issue(client, { user_id, name: 'phone', max_requests: 5, ttl_seconds: 60 })
    const { body } = await ask(client, `${keys}?user_id=${user_id}`, await bearer('back-office'))
    const rows = await database.query<Record<string, unknown>>('SELECT * FROM api_keys WHERE id = $1', [id])

    expect(key).toMatch(/^cbk_[\da-f]{16}_[\w-]{43}$/)
    expect(body.keys).toEqual([
      {
        ...{ id, user_id, name: 'phone', scopes: ['counters:read', 'counters:write', 'billing:read'], max_requests: 5 },
        ...{ created_at: expect.any(String), expires_at: expect.any(String), revoked_at: null },
      },
    ])
    expect(rows[0]?.['sha256']).toBe(createHash('sha256').update(key).digest('hex'))
    expect(JSON.stringify([rows, body])).not.toContain(key.slice(-43))
    expect(redact(`{"url":"/a?b=${key}"}`)).toBe('{"url":"/a?b=[redacted]"}')
  })

  test('let in by their own header or as an authorization, for their scopes', async () => {
    const client = await startKeyed(database)
    const { key } = await issue(client, { user_id: fresh('ann'), scopes: ['counters:read'] })

    const own = await ask(client, counter, { 'x-api-key': key })
    const scheme = await ask(client, counter, { authorization: `ApiKey ${key}` })
    const write = await ask(client, increments, { 'x-api-key': key }, like())
    const both = await ask(client, counter, { 'x-api-key': key, ...(await bearer('back-office')) })

    expect([own.status, scheme.status]).toEqual([200, 200])
    expect([write.status, write.body.code]).toEqual([403, 'insufficient_scope'])
    expect(write.headers.get('www-authenticate')).toContain('scope="counters:write"')
    expect([both.status, both.body.code]).toEqual([401, 'invalid_api_key'])
  })

  test('are for their user alone, whom nobody needs to name', async () => {
    const { address } = await startBilling(stores)
    const billing = { at: address, tariff }
    const mode = 'required' as const
    const client = await startClient(newStores(), { database, billing, auth: { ...auth.client('gateway'), mode } })
    const [ann, bob] = [fresh('ann'), fresh('bob')]
    const { key } = await issue(client, { user_id: ann })
    const headers = { 'x-api-key': key }

    const unnamed = await ask(client, increments, headers, like())
    const named = await ask(client, increments, headers, like({ user_id: ann }))
    const others = [
      await ask(client, increments, headers, like({ user_id: bob })),
      await ask(client, `/api/v1/billing/balance/${bob}`, headers),
      await ask(client, '/api/v1/billing/check', headers, { user_id: bob, service: 'print' }),
    ]
    await client.service.billing?.metering.usage.flush()
    const quota = await ask(client, `/api/v1/billing/free-quota/${ann}/counter-writes`, headers)

    expect([unnamed.status, named.status]).toEqual([202, 202])
    expect(others.map(({ status, body }) => [status, body.code, body.field])).toEqual(
      Array(3).fill([403, 'other_user', 'user_id']),
    )
    expect(quota.body.used + quota.body.pending).toBe(2)
  })

  test('make an idempotency key their user’s: another user’s is another one, and all keys of a user share it', async () => {
    const client = await startKeyed(database, {}, 'optional')
    const resource_id = fresh('post')
    const [ann, bob] = [fresh('ann'), fresh('bob')]
    const callers: Headers[] = [
      { 'x-api-key': (await issue(client, { user_id: ann })).key },
      { 'x-api-key': (await issue(client, { user_id: ann })).key },
      { 'x-api-key': (await issue(client, { user_id: bob })).key },
      await bearer('load-generator'),
      {},
    ]
    const key = { 'idempotency-key': fresh('key') }

    const answers: Answer[] = []
    for (const caller of callers)
      answers.push(await ask(client, increments, { ...caller, ...key }, like({ resource_id, ack: 'committed' })))

    expect(answers.map(({ status, body }) => [status, body.value])).toEqual([
      [200, 1],
      [200, 1],
      [200, 2],
      [200, 3],
      [200, 4],
    ])
    expect(answers.map(({ headers }) => headers.get('idempotency-replayed'))).toEqual([null, 'true', null, null, null])
  })

  test('that were revoked let nobody in: here at once, elsewhere as soon as it looks again', async () => {
    const [here, there] = [await startKeyed(database), await startKeyed(database, { apiKeys: { cacheMs: 300 } })]
    const { key, id } = await issue(here, { user_id: fresh('ann') })
    const headers = { 'x-api-key': key }
    expect([(await ask(here, counter, headers)).status, (await ask(there, counter, headers)).status]).toEqual([
      200, 200,
    ])

    const revoked = await ask(here, `${keys}/${id}`, await bearer('back-office'), undefined, 'DELETE')
    const again = await ask(here, `${keys}/${id}`, await bearer('back-office'), undefined, 'DELETE')

    expect([revoked.status, again.body.revoked_at]).toEqual([200, revoked.body.revoked_at])
    expect((await ask(here, counter, headers)).body).toMatchObject({ code: 'invalid_api_key', applied: 'no' })
    await expect.poll(() => ask(there, counter, headers).then(({ status }) => status), { timeout: 20_000 }).toBe(401)
    expect(
      (await ask(here, `${keys}/0123456789abcdef`, await bearer('back-office'), undefined, 'DELETE')).body.code,
    ).toBe('unknown_api_key')
  })

  test('that have expired, that are wrong or that there never were let nobody in', async () => {
    const client = await startKeyed(database)
    const table = await ApiKeyTable.open(database)
    const { id, key, sha256 } = newKey()
    const scopes = ['counters:read']
    await table.add({ id, sha256, userId: 'ann', name: 'old', scopes, expiresAt: Date.now() - 1 })
    const { key: good } = await issue(client, { user_id: 'ann' })
    const other = `${good.slice(0, 21)}${randomUUID().replaceAll('-', '')}${'x'.repeat(11)}`

    for (const wrong of [key, other, newKey().key, 'cbk_1', '', good.slice(0, -1)]) {
      const { status, body, headers } = await ask(client, counter, { 'x-api-key': wrong })

      expect([status, body.code]).toEqual([401, 'invalid_api_key'])
      expect(headers.get('www-authenticate')).toMatch(/^ApiKey realm="counter-billing", error="invalid_token"/)
    }
    expect((await ask(client, counter, { 'x-api-key': good })).status).toBe(200)
  })

  test('are looked up once, those that there aren’t included', async () => {
    const table = await ApiKeyTable.open(database)
    let lookUps = 0
    const counted = Object.assign(Object.create(table) as ApiKeyTable, {
      find: (id: string) => {
        lookUps++
        return table.find(id)
      },
    })
    const api = new ApiKeys({ table: counted, configured: [], cacheMs: 60_000 })
    onTestFinished(() => api.close())
    const { id, key, sha256 } = newKey()
    await table.add({ id, sha256, userId: 'ann', name: 'phone', scopes: ['counters:read'] })
    const unknown = newKey().key

    const callers = await Promise.all(Array.from({ length: 20 }, async () => api.check(key, 'counters:read')))
    const refused = await Promise.allSettled(
      Array.from({ length: 20 }, async () => api.check(unknown, 'counters:read')),
    )

    expect(callers[19]).toMatchObject({ kind: 'user', name: 'ann' })
    // It is known by now, and needs no promise.
    expect(api.check(key, 'counters:read')).toMatchObject({ name: 'ann' })
    expect(refused.every(({ status }) => status === 'rejected')).toBe(true)
    await expect(async () => api.check(unknown, 'counters:read')).rejects.toThrow('there is no such API key')
    expect(lookUps).toBe(2)
  })

  test('can not be issued, listed or revoked while the database is away, which is no mistake of the service', async () => {
    const away = { ...database }
    const client = await startKeyed(away)
    const headers = await bearer('back-office')
    Object.assign(away, { query: () => Promise.reject(new Error('connect ECONNREFUSED')) })

    const answers = [
      await ask(client, keys, headers, { user_id: 'ann' }),
      await ask(client, `${keys}?user_id=ann`, headers),
      await ask(client, `${keys}/0123456789abcdef`, headers, undefined, 'DELETE'),
    ]

    expect(answers.map(({ status, body }) => [status, body.code, body.applied])).toEqual([
      [503, 'unavailable', 'unknown'],
      [503, 'unavailable', undefined],
      [503, 'unavailable', 'unknown'],
    ])
    for (const { headers } of answers) expect(headers.get('retry-after')).toBe('1')
    expect(client.log.filter((line) => line.startsWith('error'))).toEqual([])
  })

  test('are issued by services that may, and by nobody else', async () => {
    const client = await startKeyed(database, {}, 'optional')
    const { key } = await issue(client, { user_id: fresh('ann'), scopes: ['billing:write', 'counters:write'] })
    const body = { user_id: 'bob' }

    const answers = [
      await ask(client, keys, {}, body),
      await ask(client, keys, await bearer('load-generator'), body),
      await ask(client, keys, { 'x-api-key': key }, body),
      await ask(client, keys, await bearer('back-office'), { ...body, scopes: ['keys:manage'] }),
    ]

    expect(answers.map(({ status }) => status)).toEqual([401, 403, 403, 400])
    expect(answers[3]?.body.field).toBe('scopes[0]')
  })
})

test('a key of the configuration lets in without a database, and nobody can issue any', async () => {
  const { id, key, sha256 } = newKey()
  const configured = [{ id, sha256, userId: 'ann', scopes: ['counters:read', 'counters:write'] }]
  const client = await startKeyed(undefined, { apiKeys: { keys: configured } })

  expect((await ask(client, increments, { 'x-api-key': key }, like())).status).toBe(202)
  // No cache in between may give it to who has no key.
  const read = await ask(client, counter, { 'x-api-key': key })
  expect([read.status, read.headers.get('cache-control')]).toEqual([200, 'private, max-age=5'])
  expect((await ask(client, keys, await bearer('back-office'), { user_id: 'ann' })).status).toBe(404)
})
