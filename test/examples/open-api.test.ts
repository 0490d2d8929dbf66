import { Validator } from '@seriousme/openapi-schema-validator'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { afterAll, describe, expect, test } from 'vitest'
import { problems } from '../../examples/counter-billing/http/problems.ts'
import { startAuth, type TestAuth } from './auth-client.ts'
import { fresh, openBillingStores, startBilling, tariff } from './billing-client.ts'
import { type Answer, type Client, startClient } from './counter-client.ts'

const all = await openBillingStores()
const [stores] = all as [(typeof all)[number]]

afterAll(async () => {
  for (const { stop } of all) await stop()
})

// biome-ignore lint/suspicious/noExplicitAny: a document is what it is
type Document = any

/** A gateway with everything, and its document. */
async function start(): Promise<{ client: Client; document: Document; auth: TestAuth }> {
  const auth = await startAuth()
  const { address } = await startBilling(stores)
  const { MemoryCounterStore } = await import('spillway/testing')
  const { Metrics } = await import('../../examples/counter-billing/telemetry/metrics.ts')
  const { DatabaseListing } = await import('../../examples/counter-billing/counter/listing.ts')
  const listing = new DatabaseListing(stores.database, ['a secret of some length'])
  await listing.createSchema()
  const client = await startClient(
    { live: new MemoryCounterStore(), durable: new MemoryCounterStore(), listing },
    {
      ...{ billing: { at: address, tariff }, database: stores.database, metrics: new Metrics() },
      auth: { ...auth.client('gateway'), mode: 'required' },
    },
  )
  return { client, auth, document: (await client.get('/openapi.json')).body }
}

test('the document is OpenAPI 3.1, and has every route with its answers, security and an example', async () => {
  const { document } = await start()

  const result = await new Validator().validate(structuredClone(document))
  expect(result.errors).toBeUndefined()
  expect([result.valid, document.openapi]).toEqual([true, '3.1.0'])
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods as Document).map(([method, operation]) => [`${method} ${path}`, operation] as const),
  )
  expect(operations.map(([name]) => name).sort()).toEqual([
    'delete /api/v1/keys/{id}',
    'get /api/v1/billing/balance/{user_id}',
    'get /api/v1/billing/free-quota/{user_id}/{service}',
    'get /api/v1/counter',
    'get /api/v1/counter/{resource_id}/{counter_type}',
    'get /api/v1/keys',
    'get /healthz',
    'get /metrics',
    'get /readyz',
    'get /stats',
    'post /api/v1/billing/check',
    'post /api/v1/billing/deduct',
    'post /api/v1/billing/recharge',
    'post /api/v1/billing/release',
    'post /api/v1/billing/reserve',
    'post /api/v1/billing/settle',
    'post /api/v1/counter/batch-increment',
    'post /api/v1/counter/increment',
    'post /api/v1/counter/invalidate',
    'post /api/v1/keys',
  ])
  expect(new Set(operations.map(([, { operationId }]: Document) => operationId)).size).toBe(operations.length)
  for (const [name, operation] of operations as [string, Document][]) {
    expect(operation.summary, name).toBeTypeOf('string')
    expect(operation.responses[200] ?? operation.responses[201], name).toMatchObject({ content: expect.any(Object) })
    if (!name.includes('/api/')) continue
    expect(operation.security.length, name).toBeGreaterThan(0)
    expect(Object.keys(operation.responses), name).toEqual(expect.arrayContaining(['400', '401', '403', '429', '503']))
    if (name.startsWith('post'))
      expect(operation.requestBody.content['application/json'].example, name).toBeTypeOf('object')
  }
})

test('no route is missing in it that the gateway has, but for the page of the dashboard and the document', async () => {
  const { client, document } = await start()
  const named = new Set(Object.keys(document.paths).map((path) => path.replace(/\{(\w+)\}/g, ':$1')))

  const routes = client.service.routes()

  const missing = routes.filter((route) => !named.has(route) && route !== '/openapi.json')
  expect(routes).toContain('/api/v1/counter/increment')
  expect(missing).toEqual([])
})

describe('what is answered', () => {
  test('is as the document says', async () => {
    const { client, document, auth } = await start()
    const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true })
    ajv.addSchema(document, 'document')
    const token = await auth.token('back-office', 'gateway')
    const loader = await auth.token('load-generator', 'gateway')
    const user_id = fresh('ann')
    const seen: string[] = []
    const ask = async (path: string, name: string, body?: object, { as = token, headers = {}, method = '' } = {}) => {
      const response = await fetch(client.service.url + path, {
        method: method || (body ? 'POST' : 'GET'),
        ...(body && { body: JSON.stringify(body) }),
        headers: {
          ...(as && { authorization: `Bearer ${as}` }),
          ...(body && { 'content-type': 'application/json' }),
          ...headers,
        },
      })
      const answer = { status: response.status, headers: response.headers, body: await response.json() } as Answer
      const [verb, at] = name.split(' ') as [string, string]
      const found = document.paths[at][verb].responses[answer.status]
      expect(found, `${name} answers ${answer.status}: ${JSON.stringify(answer.body)}`).toBeDefined()
      const type = answer.status < 400 ? 'application/json' : 'application/problem+json'
      expect(answer.headers.get('content-type')).toContain(type)
      const escaped = at.replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D')
      const reference = `document#/paths/${escaped}/${verb}/responses/${answer.status}/content/${type.replace('/', '~1')}/schema`
      const validate = ajv.compile({ $ref: reference })
      expect(validate(answer.body), `${name} ${answer.status}: ${JSON.stringify(validate.errors)}`).toBe(true)
      if (answer.status >= 400) {
        expect(found.description).toContain(`\`${answer.body.code}\``)
        expect(problems[answer.body.code as keyof typeof problems].status).toBe(answer.status)
      }
      seen.push(`${answer.status}`)
      return answer
    }
    const increment = 'post /api/v1/counter/increment'
    const like = { resource_id: 'a', counter_type: 'like' }
    const bill = (path: string, body: object) =>
      ask(`/api/v1/billing/${path}`, `post /api/v1/billing/${path}`, { user_id, ...body })
    const own = { as: loader }

    await ask('/api/v1/counter/increment', increment, like, own)
    await ask('/api/v1/counter/increment', increment, { ...like, ack: 'committed' }, own)
    await ask('/api/v1/counter/increment', increment, { ...like, delta: 'x', more: 1 }, own)
    await ask('/api/v1/counter/increment', increment, like, { as: '' })
    await ask('/api/v1/counter/increment', increment, like)
    const tooMuch = { ...like, delta: Number.MAX_SAFE_INTEGER }
    await ask('/api/v1/counter/increment', increment, { ...tooMuch, ack: 'committed' }, own)
    const keyed = { as: loader, headers: { 'idempotency-key': '"one"' } }
    await ask('/api/v1/counter/increment', increment, like, keyed)
    await ask('/api/v1/counter/increment', increment, { ...like, delta: 9 }, keyed)
    const batch = 'post /api/v1/counter/batch-increment'
    await ask('/api/v1/counter/batch-increment', batch, { operations: [{ ...like, resource_id: 'b' }] }, own)
    await ask('/api/v1/counter/batch-increment', batch, { operations: [like], async: true }, own)
    await ask('/api/v1/counter/batch-increment', batch, { operations: [tooMuch, { ...like, resource_id: 'b' }] }, own)
    await ask('/api/v1/counter/a/like', 'get /api/v1/counter/{resource_id}/{counter_type}')
    await ask('/api/v1/counter/a/li:ke', 'get /api/v1/counter/{resource_id}/{counter_type}')
    await ask('/api/v1/counter?resource_id=a', 'get /api/v1/counter')
    await ask('/api/v1/counter?resource_id=a&after=x', 'get /api/v1/counter')
    await ask('/api/v1/counter/invalidate', 'post /api/v1/counter/invalidate', { resource_ids: ['a'] })
    await bill('recharge', { request_id: 'r', amount: 20 })
    await bill('deduct', { request_id: 'd', service: 'print', count: 11 })
    await bill('deduct', { request_id: 'e', service: 'print', count: 1_000 })
    await bill('deduct', { request_id: 'r', service: 'print', count: 1 })
    await bill('deduct', { request_id: 'f', service: 'export', count: 6 })
    await bill('deduct', { request_id: 'g', service: 'none', count: 1 })
    await bill('reserve', { request_id: 'v', service: 'print', count: 1 })
    await bill('settle', { reservation_id: 'v', count: 1 })
    await bill('settle', { reservation_id: 'v', count: 0 })
    await bill('release', { reservation_id: 'v' })
    await bill('release', { reservation_id: 'none' })
    await bill('check', { service: 'print', count: 2 })
    await ask(`/api/v1/billing/balance/${user_id}`, 'get /api/v1/billing/balance/{user_id}')
    await ask(`/api/v1/billing/free-quota/${user_id}/print`, 'get /api/v1/billing/free-quota/{user_id}/{service}')
    const { body: key } = await ask('/api/v1/keys', 'post /api/v1/keys', { user_id })
    await ask(`/api/v1/keys?user_id=${user_id}`, 'get /api/v1/keys')
    await ask('/api/v1/keys', 'post /api/v1/keys', { user_id }, own)
    const other = { as: '', headers: { 'x-api-key': key.key } }
    await ask('/api/v1/billing/balance/bob', 'get /api/v1/billing/balance/{user_id}', undefined, other)
    await ask(`/api/v1/keys/${key.id}`, 'delete /api/v1/keys/{id}', undefined, { method: 'DELETE' })
    await ask('/api/v1/counter/a/like', 'get /api/v1/counter/{resource_id}/{counter_type}', undefined, other)
    const tooLong = 'x'.repeat(9_000)
    await ask(`/api/v1/counter/${tooLong}/like`, 'get /api/v1/counter/{resource_id}/{counter_type}')
    await ask(`/api/v1/billing/balance/${tooLong}`, 'get /api/v1/billing/balance/{user_id}')
    await ask(`/api/v1/billing/free-quota/${tooLong}/print`, 'get /api/v1/billing/free-quota/{user_id}/{service}')
    await ask(`/api/v1/keys/${tooLong}`, 'delete /api/v1/keys/{id}', undefined, { method: 'DELETE' })
    const typed = { method: 'DELETE', headers: { 'content-type': 'text/plain' } }
    await ask(`/api/v1/keys/${key.id}`, 'delete /api/v1/keys/{id}', {}, typed)
    await ask('/stats', 'get /stats')
    await ask('/healthz', 'get /healthz')
    await ask('/readyz', 'get /readyz')

    expect([...new Set(seen)].sort()).toEqual(
      ['200', '201', '202', '207', '400', '401', '402', '403', '404', '409', '414', '415', '422', '429'].sort(),
    )
  })
})
