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

describe.each(all)('attempts at one request that overtake each other, on $title', ({ database, quota: { store } }) => {
  const start = async () => {
    const ledger = new Ledger(database)
    await ledger.createSchema()
    const quota = new QuotaService({
      ...{ store, limitFor: (_user: unknown, type: string) => limitOf(tariff, type) },
      periodOf: (type) => periodOf(tariff, type),
    })
    onTestFinished(async () => void (await quota.close()))
    const log: string[] = []
    const on = (own: Ledger): Billing =>
      new Billing({ ledger: own, quota, tariff, log: (_level, message) => log.push(message) })
    return { ledger, billing: on(ledger), on, log, userId: fresh('ann') }
  }

  test('are answered alike, though one took the last money before the other one planned', async () => {
    const { ledger, billing, on, userId } = await start()
    const request = { requestId: 'd', userId, service: 'print', count: 11 }
    await billing.recharge({ requestId: 'r', userId, amount: 3 })

    const late = await on(interrupted(ledger, 'find', { after: () => billing.deduct(request) })).deduct(request)

    expect(late).toMatchObject({ free: 10, charged: 3, balance: 0 })
    expect(late).toEqual(await billing.deduct(request))
  })

  test('are answered alike, though one took the last free uses of what has no price', async () => {
    const { ledger, billing, on, userId } = await start()
    const request = { requestId: 'd', userId, service: 'export', count: 5 }

    const late = await on(interrupted(ledger, 'find', { after: () => billing.deduct(request) })).deduct(request)

    expect(late).toEqual(await billing.deduct(request))
    expect(await billing.freeQuota(request)).toMatchObject({ used: 5, held: 0 })
  })

  test('and one that another took the money from is refused, and holds nothing', async () => {
    const { ledger, billing, on, userId } = await start()
    const request = { requestId: 'd', userId, service: 'print', count: 11 }
    await billing.recharge({ requestId: 'r', userId, amount: 3 })
    const other = () => billing.deduct({ ...request, requestId: 'e', count: 1 })

    const late = on(interrupted(ledger, 'commit', { before: other })).deduct(request)

    await expect(late).rejects.toMatchObject({ code: 'insufficient_balance', details: { user_id: userId, count: 11 } })
    expect(await billing.balance(userId)).toMatchObject({ balance: 0, held: 0 })
    expect(await billing.freeQuota(request)).toMatchObject({ used: 0, held: 0 })
  })
})
