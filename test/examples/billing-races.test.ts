import { QuotaService } from 'spillway'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { Billing } from '../../examples/counter-billing/billing/billing.ts'
import { Ledger } from '../../examples/counter-billing/billing/ledger.ts'
import { limitOf, periodOf } from '../../examples/counter-billing/billing/tariff.ts'
import { fresh, openBillingStores, tariff } from './billing-client.ts'

const all = await openBillingStores()

afterAll(async () => {
  for (const { stop } of all) await stop()
})

/** A ledger to which something happens right before, or right after, its next call of a method. */
function interrupted<Method extends 'find' | 'commit'>(
  ledger: Ledger,
  method: Method,
  { before, after }: { before?: () => Promise<unknown>; after?: () => Promise<unknown> },
): Ledger {
  let due = true
  return new Proxy(ledger, {
    get: (target, name) => {
      const value = Reflect.get(target, name, target) as (...args: unknown[]) => unknown
      if (name !== method) return value.bind(target)
      return async (...args: unknown[]) => {
        const now = due
        due = false
        if (now) await before?.()
        const result = await value.apply(target, args)
        if (now) await after?.()
        return result
      }
    },
  })
}

describe.each(all)(
  'what overtakes each other, or fails half-way, on $title',
  { timeout: 60_000 },
  ({ database, quota: { store } }) => {
    const start = async () => {
      const ledger = new Ledger(database)
      await ledger.createSchema()
      const quota = new QuotaService({
        ...{ store, limitFor: (_user: unknown, type: string) => limitOf(tariff, type) },
        periodOf: (type) => periodOf(tariff, type),
      })
      onTestFinished(async () => void (await quota.close()))
      const log: string[] = []
      const on = (own: Ledger, quotas = quota): Billing =>
        new Billing({ ledger: own, quota: quotas, tariff, log: (_level, message) => log.push(message) })
      return { ledger, quota, billing: on(ledger), on, log, userId: fresh('ann') }
    }

    test('attempts at one request are answered alike, though one took the last money before the other one planned', async () => {
      const { ledger, billing, on, userId } = await start()
      const request = { requestId: 'd', userId, service: 'print', count: 11 }
      await billing.recharge({ requestId: 'r', userId, amount: 3 })

      const late = await on(interrupted(ledger, 'find', { after: () => billing.deduct(request) })).deduct(request)

      expect(late).toMatchObject({ free: 10, charged: 3, balance: 0 })
      expect(late).toEqual(await billing.deduct(request))
    })

    test('attempts at one request are answered alike, though one took the last free uses of what has no price', async () => {
      const { ledger, billing, on, userId } = await start()
      const request = { requestId: 'd', userId, service: 'export', count: 5 }

      const late = await on(interrupted(ledger, 'find', { after: () => billing.deduct(request) })).deduct(request)

      expect(late).toEqual(await billing.deduct(request))
      expect(await billing.freeQuota(request)).toMatchObject({ used: 5, held: 0 })
    })

    test('a request that another took the money from is refused, and holds nothing', async () => {
      const { ledger, billing, on, userId } = await start()
      const request = { requestId: 'd', userId, service: 'print', count: 11 }
      await billing.recharge({ requestId: 'r', userId, amount: 3 })
      const other = () => billing.deduct({ ...request, requestId: 'e', count: 1 })

      const late = on(interrupted(ledger, 'commit', { before: other })).deduct(request)

      await expect(late).rejects.toMatchObject({
        code: 'insufficient_balance',
        details: { user_id: userId, count: 11 },
      })
      expect(await billing.balance(userId)).toMatchObject({ balance: 0, held: 0 })
      expect(await billing.freeQuota(request)).toMatchObject({ used: 0, held: 0 })
    })
    test('what a quota store that is down keeps is told once, and given back when it is there again', async () => {
      const { ledger, quota, on, log, userId } = await start()
      let down = false
      const quotas = new Proxy(quota, {
        get: (target, name) => {
          if (name === 'release' && down) return () => Promise.reject(new Error('it is down'))
          const value: unknown = Reflect.get(target, name, target)
          return typeof value === 'function' ? value.bind(target) : value
        },
      })
      const billing = on(ledger, quotas)
      const reserve = (requestId: string) =>
        billing.reserve({ requestId, userId, service: 'print', count: 2, ttlMs: 100 })
      await Promise.all([reserve('a'), reserve('b'), reserve('c')])

      down = true
      billing.start()
      onTestFinished(() => billing.close())
      await expect.poll(() => log.length, { timeout: 20_000 }).toBe(1)
      expect(log[0]).toContain("3 requests can't be finished: it is down")
      expect(await billing.freeQuota({ userId, service: 'print' })).toMatchObject({ used: 0, held: 6 })
      down = false

      await expect
        .poll(() => billing.freeQuota({ userId, service: 'print' }), { timeout: 30_000 })
        .toMatchObject({ used: 0, held: 0 })
      expect(log).toHaveLength(1)
    })
  },
)
