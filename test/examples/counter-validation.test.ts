import { afterAll, describe, expect, test } from 'vitest'
import { openStores } from '../../examples/counter-billing/counter/stores.ts'
import { startGateway } from '../../examples/counter-billing/service.ts'
import { batches, clientOf, increments } from './counter-client.ts'

const stores = await openStores()
const service = await startGateway({ counters: stores, ports: [0], log: () => undefined })
const { get, post, send } = clientOf(service, [])

afterAll(async () => {
  await service.close()
  await stores.close()
})

const good = { resource_id: 'post-1', counter_type: 'like', delta: 1 }
const idRule = 'a string of 1 to 256 characters, none of them a control character'
const typeRule = 'a string of 1 to 64 letters, digits and _ . -'
const deltaRule = 'a whole number from -9007199254740991 to 9007199254740991'

describe('an increment is refused with the field and the rule', () => {
  test.each<[string, unknown, string, string]>([
    ['an empty id', { ...good, resource_id: '' }, 'resource_id', `must be ${idRule}, got "" (string)`],
    ['an id of 257', { ...good, resource_id: 'x'.repeat(257) }, 'resource_id', `must be ${idRule}, got "xxx`],
    ['an id that is a number', { ...good, resource_id: 7 }, 'resource_id', `must be ${idRule}, got 7 (number)`],
    ['an id that is null', { ...good, resource_id: null }, 'resource_id', `must be ${idRule}, got nothing`],
    ['a NUL in the id', { ...good, resource_id: 'a\0b' }, 'resource_id', `must be ${idRule}, got "a\\u0000b" (string)`],
    ['half a surrogate pair', { ...good, resource_id: 'a\ud800' }, 'resource_id', `must be ${idRule}, got "a\\ud800"`],
    [
      'a line break in the id',
      { ...good, resource_id: 'a\n' },
      'resource_id',
      `must be ${idRule}, got "a\\n" (string)`,
    ],
    ['no id', { counter_type: 'like' }, 'resource_id', 'is missing'],
    ['an empty type', { ...good, counter_type: '' }, 'counter_type', `must be ${typeRule}, got "" (string)`],
    ['a type of 65', { ...good, counter_type: 'x'.repeat(65) }, 'counter_type', `must be ${typeRule}, got "xxx`],
    [
      'a colon in the type',
      { ...good, counter_type: 'a:b' },
      'counter_type',
      `must be ${typeRule}, got "a:b" (string)`,
    ],
    ['no type', { resource_id: 'post-1' }, 'counter_type', 'is missing'],
    ['a fraction', { ...good, delta: 1.5 }, 'delta', `must be ${deltaRule}, got 1.5 (number)`],
    ['a number as text', { ...good, delta: '1' }, 'delta', `must be ${deltaRule}, got "1" (string)`],
    ['an unsafe integer', { ...good, delta: 2 ** 53 }, 'delta', `must be ${deltaRule}, got 9007199254740992 (number)`],
    ['an unsafe negative', { ...good, delta: -(2 ** 53) }, 'delta', `must be ${deltaRule}, got -9007199254740992`],
    ['a delta of null', { ...good, delta: null }, 'delta', `must be ${deltaRule}, got nothing`],
    [
      'an unknown field',
      { ...good, detla: 2 },
      'detla',
      'is not a known field; there are resource_id, counter_type, delta, ack',
    ],
    ['an unknown ack', { ...good, ack: 'maybe' }, 'ack', "must be one of 'accepted', 'redis', 'committed', got"],
    ['an array', [good], 'body', 'must be a JSON object, got an array of 1'],
    ['null', null, 'body', 'must be a JSON object, got nothing'],
    ['text', 'like', 'body', 'must be a JSON object, got "like" (string)'],
  ])('%s', async (_name, body, field, problem) => {
    const answer = await post(increments, body)

    expect(answer.status).toBe(400)
    expect(answer.body).toMatchObject({ code: 'invalid_request', field })
    expect(answer.body.detail).toContain(`${field} ${problem}`)
  })
})

describe('a batch is refused as a whole, with the operation that is wrong', () => {
  const rule = 'an array of 1 to 1000 operations'
  test.each<[string, unknown, string, string]>([
    ['no operations', {}, 'operations', 'is missing'],
    ['empty operations', { operations: [] }, 'operations', `must be ${rule}, got an array of 0`],
    ['1001 operations', { operations: Array(1001).fill(good) }, 'operations', `must be ${rule}, got an array of 1001`],
    ['operations that are an object', { operations: {} }, 'operations', `must be ${rule}, got an object`],
    ['a bad operation', { operations: [good, { ...good, delta: 0.5 }] }, 'operations[1].delta', `must be ${deltaRule}`],
    ['an incomplete one', { operations: [{ resource_id: 'a' }] }, 'operations[0].counter_type', 'is missing'],
    ['an unknown field in one', { operations: [{ ...good, x: 1 }] }, 'operations[0].x', 'is not a known field'],
    ['an operation that is null', { operations: [null] }, 'operations[0]', 'must be a JSON object, got nothing'],
    ['async that is text', { operations: [good], async: 'yes' }, 'async', 'must be true or false, got "yes" (string)'],
    [
      'an unknown field',
      { operations: [good], sync: true },
      'sync',
      'is not a known field; there are operations, async',
    ],
  ])('%s', async (_name, body, field, problem) => {
    const { status, body: answer } = await post(batches, body)

    expect(status).toBe(400)
    expect(answer).toMatchObject({ code: 'invalid_request', field })
    expect(answer.detail).toContain(`${field} ${problem}`)
  })
})

describe('what is no JSON never reaches a rule', () => {
  test.each<[string, string, string, number, string]>([
    ['malformed JSON', '{"resource_id":', 'application/json', 400, 'not valid JSON'],
    ['an empty body', '', 'application/json', 400, 'cannot be empty'],
    ['a prototype in disguise', '{"__proto__":{"delta":1}}', 'application/json', 400, 'not valid JSON'],
    ['text', JSON.stringify(good), 'text/plain', 415, 'content-type must be application/json'],
    ['a form', 'resource_id=a', 'application/x-www-form-urlencoded', 415, 'content-type must be application/json'],
    ['a body over a megabyte', JSON.stringify('x'.repeat(1_100_000)), 'application/json', 413, 'too large'],
  ])('%s', async (_name, body, contentType, status, problem) => {
    const answer = await send(increments, body, contentType)

    expect(answer.status).toBe(status)
    expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/)
    expect(answer.body.status).toBe(status)
    expect(answer.body.detail).toContain(problem)
  })

  test('no body at all', async () => {
    const response = await fetch(service.url + increments, { method: 'POST' })

    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ field: 'body', detail: 'body must be a JSON object, got nothing' })
  })
})

describe('a counter that cannot exist cannot be read', () => {
  test.each<[string, string, string, string]>([
    ['a NUL', 'a%00b/like', 'resource_id', idRule],
    ['an id of 257', `${'x'.repeat(257)}/like`, 'resource_id', idRule],
    ['an empty id', '/like', 'resource_id', idRule],
    ['a colon in the type', 'a/li:ke', 'counter_type', typeRule],
    ['a type of 65', `a/${'x'.repeat(65)}`, 'counter_type', typeRule],
    ['an unknown source', 'a/like?source=disk', 'source', "one of 'live', 'durable'"],
  ])('%s', async (_name, path, field, rule) => {
    const { status, body } = await get(`/api/v1/counter/${path}`)

    expect(status).toBe(400)
    expect(body).toMatchObject({ code: 'invalid_request', field })
    expect(body.detail).toContain(`${field} must be ${rule}`)
  })

  test('a broken escape in the URL', async () => {
    expect((await get('/api/v1/counter/%zz/like')).status).toBe(400)
  })
})

test('ids and types at their limits, and a missing delta, are fine', async () => {
  const widest = { resource_id: '🙂'.repeat(256), counter_type: 'A-z_0.9'.padEnd(64, 'x') }

  const { status, body } = await post(batches, { operations: [widest, { ...good, resource_id: 'x' }] })

  expect(status).toBe(200)
  expect(body.results.map(({ value }: { value: number }) => value)).toEqual([1, 1])
  const path = `/api/v1/counter/${encodeURIComponent(widest.resource_id)}/${widest.counter_type}`
  expect((await get(`${path}?source=durable`)).body).toEqual({ ...widest, value: 1, source: 'durable' })
})

test('a batch of 1000 operations is answered in order', async () => {
  const operations = Array.from({ length: 1000 }, (_, index) => ({ ...good, resource_id: `many-${index % 10}` }))

  const { body } = await post(batches, { operations })

  expect(body.results.map(({ value }: { value: number }) => value)).toEqual(
    operations.map((_, i) => Math.floor(i / 10) + 1),
  )
})
