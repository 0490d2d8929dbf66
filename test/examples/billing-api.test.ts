import { status } from '@grpc/grpc-js'
import { GrpcChannelPool } from 'spillway/grpc'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { problemOf } from '../../examples/counter-billing/billing/problem.ts'
import { billingClient } from '../../examples/counter-billing/billing/protocol.ts'
import { type BillingClient, fresh, openBillingStores, startBilling, startBillingClient } from './billing-client.ts'

const all = await openBillingStores()

afterAll(async () => {
  for (const { stop } of all) await stop()
})

describe.each(all)('billing on $title', (stores) => {
  const start = async (): Promise<{ client: BillingClient; address: string; user_id: string }> => {
    const { address } = await startBilling(stores)
    return { client: await startBillingClient({ at: address }), address, user_id: fresh('ann') }
  }

  test('takes free uses first, then money, all of it or nothing', async () => {
    const { client, user_id } = await start()
    const of = { user_id, service: 'print' }

    expect(await client.account(user_id)).toEqual({ balance: 0, held: 0, free: 10, heldFree: 0 })
    const recharged = await client.bill('recharge', { request_id: 'r', user_id, amount: 20 })
    expect(recharged.body).toEqual({ request_id: 'r', user_id, amount: 20, balance: 20 })
    const free = await client.bill('deduct', { ...of, request_id: 'a', count: 8 })
    expect(free.body).toEqual({ request_id: 'a', ...of, count: 8, free: 8, charged: 0, balance: 20 })
    const mixed = await client.bill('deduct', { ...of, request_id: 'b', count: 5 })
    expect(mixed.body).toEqual({ request_id: 'b', ...of, count: 5, free: 2, charged: 9, balance: 11 })
    const tooMuch = await client.bill('deduct', { ...of, request_id: 'c', count: 4 })

    expect(tooMuch.status).toBe(402)
    expect(tooMuch.body).toMatchObject({
      ...{ code: 'insufficient_balance', ...of, count: 4, request_id: 'c' },
      ...{ charged: 12, balance: 11, held: 0, limit: 10, used: 10 },
    })
    expect(tooMuch.body.detail).toBe(`4 uses of print by ${user_id}, 0 of them free, cost 12, and the balance is 11`)
    expect(await client.account(user_id)).toEqual({ balance: 11, held: 0, free: 0, heldFree: 0 })
  })

  test('has nothing beyond the free uses of what has no price', async () => {
    const { client, user_id } = await start()
    const of = { user_id, service: 'export' }
    await client.bill('recharge', { request_id: 'r', user_id, amount: 1_000 })
    await client.bill('deduct', { ...of, request_id: 'a', count: 3 })

    const refused = await client.bill('deduct', { ...of, request_id: 'b', count: 3 })
    const check = await client.bill('check', { ...of, count: 3 })

    expect(refused.status).toBe(429)
    expect(refused.body).toMatchObject({ code: 'quota_exceeded', ...of, count: 3, limit: 5, used: 3, held: 0 })
    const resetsAt = Date.parse(refused.body.resets_at)
    expect(resetsAt).toBeGreaterThan(Date.now())
    expect(resetsAt).toBeLessThanOrEqual(Date.now() + 86_400_000)
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(check.body).toMatchObject({ ...of, allowed: false, free: 2, charged: 0, price: null })
    expect((await client.bill('deduct', { ...of, request_id: 'c', count: 2 })).status).toBe(200)
  })

  test('a check says what a deduction would do, and does nothing', async () => {
    const { client, user_id } = await start()
    const of = { user_id, service: 'print' }
    await client.bill('recharge', { request_id: 'r', user_id, amount: 6 })

    const affordable = await client.bill('check', { ...of, count: 12 })
    const tooMuch = await client.bill('check', { ...of, count: 13 })

    expect(affordable.body).toEqual({
      ...{ ...of, count: 12, allowed: true, free: 10, charged: 6, price: 3 },
      quota: { limit: 10, used: 0, held: 0, pending: 0, remaining: 10, period: 'month', resets_at: expect.any(String) },
      balance: { balance: 6, held: 0, available: 6 },
    })
    expect(tooMuch.body).toMatchObject({ allowed: false, free: 10, charged: 9 })
    expect(await client.account(user_id)).toEqual({ balance: 6, held: 0, free: 10, heldFree: 0 })
  })

  test('answers a repeated request as it did the first, and counts it once', async () => {
    const { client, user_id } = await start()
    const deduct = { user_id, service: 'print', request_id: 'd', count: 12 }
    const reserve = { user_id, service: 'print', request_id: 'v', count: 2, ttl_ms: 60_000 }
    const times = <T>(run: () => Promise<T>): Promise<T[]> => Promise.all(Array.from({ length: 12 }, run))

    const recharges = await times(() => client.bill('recharge', { request_id: 'r', user_id, amount: 100 }))
    const deductions = await times(() => client.bill('deduct', deduct))
    await client.bill('deduct', { ...deduct, request_id: 'e', count: 1 })
    const later = await client.bill('deduct', deduct)
    const reservations = await times(() => client.bill('reserve', reserve))
    const settled = await times(() => client.bill('settle', { user_id, reservation_id: 'v', count: 1 }))

    expect(new Set(recharges.map(({ body }) => body.balance))).toEqual(new Set([100]))
    for (const { body } of [...deductions, later]) expect(body).toMatchObject({ free: 10, charged: 6, balance: 94 })
    expect(new Set(reservations.map(({ body }) => JSON.stringify(body))).size).toBe(1)
    for (const { body } of settled) expect(body).toMatchObject({ count: 1, free: 0, charged: 3, balance: 88 })
    expect(await client.account(user_id)).toEqual({ balance: 88, held: 0, free: 0, heldFree: 0 })
  })

  test.each([
    ['another count', 'deduct', { service: 'print', count: 2 }],
    ['another service', 'deduct', { service: 'export', count: 1 }],
    ['another operation', 'reserve', { service: 'print', count: 1 }],
    ['a recharge', 'recharge', { amount: 1 }],
  ])('refuses a request id that belongs to something else: %s', async (_what, path, request) => {
    const { client, user_id } = await start()
    await client.bill('deduct', { request_id: 'd', user_id, service: 'print', count: 1 })

    const { status, body } = await client.bill(path, { request_id: 'd', user_id, ...request })

    expect(status).toBe(409)
    expect(body).toMatchObject({ code: 'request_conflict', user_id, request_id: 'd', service: 'print', count: 1 })
    expect(await client.account(user_id)).toEqual({ balance: 0, held: 0, free: 9, heldFree: 0 })
  })

  test('the id of one user is not that of another', async () => {
    const { client, user_id } = await start()
    const bob = fresh('bob')

    for (const user of [user_id, bob]) await client.bill('recharge', { request_id: 'r', user_id: user, amount: 5 })

    expect([await client.account(user_id), await client.account(bob)]).toMatchObject([{ balance: 5 }, { balance: 5 }])
  })

  test('a reservation holds until it is settled, with less than it holds, or released', async () => {
    const { client, user_id } = await start()
    const of = { user_id, service: 'print' }
    await client.bill('recharge', { request_id: 'r', user_id, amount: 30 })

    const { body: held } = await client.bill('reserve', { ...of, request_id: 'v', count: 15 })
    expect(held).toMatchObject({ reservation_id: 'v', ...of, count: 15, free: 10, held: 15 })
    expect(await client.account(user_id)).toEqual({ balance: 30, held: 15, free: 0, heldFree: 10 })
    expect((await client.bill('deduct', { ...of, request_id: 'd', count: 6 })).status).toBe(402)
    const { body: settled } = await client.bill('settle', { user_id, reservation_id: 'v', count: 11 })
    expect(settled).toEqual({ reservation_id: 'v', ...of, count: 11, free: 10, charged: 3, balance: 27 })
    expect(await client.account(user_id)).toEqual({ balance: 27, held: 0, free: 0, heldFree: 0 })

    await client.bill('reserve', { ...of, request_id: 'w', count: 9 })
    expect((await client.account(user_id)).held).toBe(27)
    const released = await client.bill('release', { user_id, reservation_id: 'w' })
    expect(released.body).toEqual({ reservation_id: 'w', user_id, service: 'print', state: 'released' })
    expect(await client.account(user_id)).toEqual({ balance: 27, held: 0, free: 0, heldFree: 0 })
  })

  test('what is over stays over: settled twice, settled after a release, released after a settle', async () => {
    const { client, user_id } = await start()
    const reserve = (request_id: string) => client.bill('reserve', { user_id, service: 'print', request_id, count: 4 })
    const settle = (reservation_id: string, count: number) => client.bill('settle', { user_id, reservation_id, count })
    const release = (reservation_id: string) => client.bill('release', { user_id, reservation_id })
    await reserve('v')
    await reserve('w')
    await settle('v', 3)
    await release('w')

    const answers = [await settle('v', 2), await settle('w', 1), await settle('none', 1), await release('none')]
    const errors = ['reservation_settled', 'reservation_released', 'unknown_reservation', 'unknown_reservation']

    expect(answers.map(({ body }) => body.code)).toEqual(errors)
    expect(answers.map(({ status }) => status)).toEqual([409, 409, 404, 404])
    expect(answers[0]?.body).toMatchObject({ user_id, request_id: 'v', service: 'print', count: 2 })
    expect((await release('v')).body.state).toBe('settled')
    expect((await release('w')).body.state).toBe('released')
    expect((await settle('v', 5)).body).toMatchObject({ code: 'invalid_request', field: 'count' })
    expect(await client.account(user_id)).toEqual({ balance: 0, held: 0, free: 7, heldFree: 0 })
  })

  test('a reservation that nobody settles ends by itself, and gives back what it held', async () => {
    const { client, user_id } = await start()
    await client.bill('recharge', { request_id: 'r', user_id, amount: 6 })
    await client.bill('reserve', { user_id, service: 'print', request_id: 'v', count: 12, ttl_ms: 100 })

    await expect
      .poll(() => client.account(user_id), { timeout: 20_000 })
      .toEqual({ balance: 6, held: 0, free: 10, heldFree: 0 })

    const late = await client.bill('settle', { user_id, reservation_id: 'v', count: 1 })
    expect([late.status, late.body.code]).toEqual([409, 'reservation_expired'])
    expect((await client.bill('release', { user_id, reservation_id: 'v' })).body.state).toBe('expired')
    expect(await client.account(user_id)).toEqual({ balance: 6, held: 0, free: 10, heldFree: 0 })
  })

  test('a write under a key is answered as it was the first time, and a refusal is judged anew', async () => {
    const { client, user_id } = await start()
    const keyed = async (key: string, path: string, body: object) => {
      const headers = { 'content-type': 'application/json', 'idempotency-key': key }
      const init = { method: 'POST', body: JSON.stringify({ user_id, ...body }), headers }
      const response = await fetch(`${client.service.url}/api/v1/billing/${path}`, init)
      return {
        status: response.status,
        replayed: response.headers.get('idempotency-replayed'),
        body: await response.json(),
      }
    }
    const deduct = { request_id: 'd', service: 'print', count: 12 }

    const refused = await keyed('one', 'deduct', deduct)
    await keyed('two', 'recharge', { request_id: 'r', amount: 50 })
    const first = await keyed('one', 'deduct', deduct)
    await client.bill('deduct', { ...deduct, user_id, request_id: 'e', count: 1 })
    const again = await keyed('one', 'deduct', deduct)
    const other = await keyed('one', 'deduct', { ...deduct, count: 1 })

    expect([refused.status, refused.body.code]).toEqual([402, 'insufficient_balance'])
    expect([first.status, first.replayed, first.body.balance]).toEqual([200, null, 44])
    expect([again.status, again.replayed, again.body]).toEqual([200, 'true', first.body])
    expect([other.status, other.body.code]).toEqual([422, 'idempotency_key_reused'])
    expect(await client.account(user_id)).toEqual({ balance: 41, held: 0, free: 0, heldFree: 0 })
  })

  test('over gRPC a refusal has a status, and its details in a trailer', async () => {
    const { address, user_id: userId } = await start()
    const pool = new GrpcChannelPool((options) => billingClient(address, options), { channels: 1 })
    onTestFinished(() => void pool.close())
    const refusal = async (call: Promise<unknown>) => {
      const error = await call.then(
        () => expect.fail('it was accepted'),
        (reason: unknown) => reason,
      )
      return { status: (error as { status: number }).status, ...problemOf(error)?.toJSON() }
    }
    const request = { requestId: 'd', userId, service: 'print', count: 11 }

    expect(await refusal(pool.call('deductQuota', request))).toMatchObject({
      ...{ status: status.FAILED_PRECONDITION, error: 'insufficient_balance' },
      ...{ user_id: userId, service: 'print', count: 11, charged: 3, balance: 0 },
    })
    expect(await refusal(pool.call('deductQuota', { ...request, service: 'none' }))).toMatchObject({
      ...{ status: status.NOT_FOUND, error: 'unknown_service', user_id: userId, service: 'none', count: 11 },
    })
    expect(await refusal(pool.call('deductQuota', { ...request, count: 0 }))).toMatchObject({
      ...{ status: status.INVALID_ARGUMENT, error: 'invalid_request', field: 'count' },
      ...{ user_id: userId, service: 'print', count: 0 },
    })
    expect(await refusal(pool.call('recharge', { requestId: '', userId, amount: 5 }))).toMatchObject({
      ...{ status: status.INVALID_ARGUMENT, field: 'request_id' },
    })
  })
})

describe('a request is refused with the field and the rule', async () => {
  const [stores] = all as [(typeof all)[number]]
  const good = { request_id: 'd', user_id: 'ann', service: 'print', count: 1 }

  test.each<[string, string, object, string]>([
    ['no user', 'deduct', { ...good, user_id: undefined }, 'user_id'],
    ['an empty user', 'check', { user_id: '', service: 'print' }, 'user_id'],
    ['a user with a control character', 'deduct', { ...good, user_id: 'a\nb' }, 'user_id'],
    ['no request id', 'deduct', { ...good, request_id: undefined }, 'request_id'],
    ['a request id of 129', 'recharge', { request_id: 'x'.repeat(129), user_id: 'ann', amount: 1 }, 'request_id'],
    ['a service with a space', 'deduct', { ...good, service: 'a b' }, 'service'],
    ['a count of 0', 'deduct', { ...good, count: 0 }, 'count'],
    ['more than a billion', 'check', { user_id: 'ann', service: 'print', count: 1_000_000_001 }, 'count'],
    ['a fraction', 'reserve', { ...good, count: 1.5 }, 'count'],
    ['an unsafe amount', 'recharge', { request_id: 'r', user_id: 'ann', amount: 2 ** 53 }, 'amount'],
    ['a negative amount', 'recharge', { request_id: 'r', user_id: 'ann', amount: -5 }, 'amount'],
    ['money as text', 'recharge', { request_id: 'r', user_id: 'ann', amount: '5' }, 'amount'],
    ['a ttl of a week', 'reserve', { ...good, ttl_ms: 7 * 86_400_000 }, 'ttl_ms'],
    ['a negative settle', 'settle', { user_id: 'ann', reservation_id: 'v', count: -1 }, 'count'],
    ['an unknown field', 'release', { user_id: 'ann', reservation_id: 'v', cuont: 1 }, 'cuont'],
  ])('%s', async (_what, path, body, field) => {
    const client = await startBillingClient({ at: (await startBilling(stores)).address })

    const answer = await client.bill(path, body)

    expect(answer.status).toBe(400)
    expect(answer.body).toMatchObject({ code: 'invalid_request', field })
    expect(answer.body.detail).toContain(field)
  })
})
