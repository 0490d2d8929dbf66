import { randomUUID } from 'node:crypto'
import { MemoryCounterStore } from 'spillway/testing'
import { onTestFinished } from 'vitest'
import { openQuotaStore, type QuotaStorage } from '../../examples/counter-billing/billing/quota-store.ts'
import { type BillingService, startBillingService } from '../../examples/counter-billing/billing/service.ts'
import type { Tariff } from '../../examples/counter-billing/billing/tariff.ts'
import type { Database } from '../../examples/counter-billing/counter/database.ts'
import type { GatewayServiceOptions } from '../../examples/counter-billing/service.ts'
import { type Answer, type Client, startClient } from './counter-client.ts'
import { openTestStores } from './stores.ts'

/** What billing stands on in a suite. */
export interface BillingStores {
  readonly title: string
  readonly database: Database
  readonly quota: QuotaStorage
  stop(): Promise<void>
}

/** Money in PGlite or PostgreSQL, uses beside it or in Redis: what holds on one must hold on the others. */
export async function openBillingStores(): Promise<BillingStores[]> {
  const all: BillingStores[] = []
  for (const { title, servers, stores, stop } of await openTestStores()) {
    const { database } = stores
    const quota = await openQuotaStore(servers, database)
    const stopAll = async (): Promise<void> => {
      await quota.close()
      await stop()
    }
    if (servers.redisUrl !== undefined) {
      const inRedis = await openQuotaStore({ redisUrl: servers.redisUrl }, undefined)
      all.push({ title: 'PostgreSQL, uses in Redis', database, quota: inRedis, stop: () => inRedis.close() })
    }
    all.push({ title: servers.databaseUrl === undefined ? title : 'PostgreSQL', database, quota, stop: stopAll })
  }
  return all
}

export const tariff: Tariff = new Map([
  ['counter-writes', { free: 10, period: 'month' }],
  ['print', { free: 10, period: 'month', price: 3 }],
  ['export', { free: 5, period: 'day' }],
])

export const fresh = (name: string): string => `${name}-${randomUUID()}`

/** A gateway in front of billing services, and what one asks of them by HTTP. */
export interface BillingClient extends Client {
  bill(path: string, body: object): Promise<Answer>
  account(userId: string, service?: string): Promise<{ balance: number; held: number; free: number; heldFree: number }>
}

/** A billing service on these stores, on a free port unless one is named; it ends with the test. */
export async function startBilling(
  { database, quota }: Omit<BillingStores, 'title' | 'stop'>,
  port = 0,
): Promise<BillingService> {
  const options = { database, quotaStore: quota.store, tariff, port, log: () => undefined }
  const service = await startBillingService(options)
  onTestFinished(() => service.close())
  return service
}

/** A gateway whose counters are in memory; it ends with the test. */
export async function startBillingClient(
  billing: Omit<NonNullable<GatewayServiceOptions['billing']>, 'tariff'>,
): Promise<BillingClient> {
  const counters = { live: new MemoryCounterStore(), durable: new MemoryCounterStore() }
  return billingClientOf(await startClient(counters, { billing: { tariff, ...billing } }))
}

export function billingClientOf(client: Client): BillingClient {
  const account: BillingClient['account'] = async (userId, service = 'print') => {
    const [{ body: money }, { body: uses }] = await Promise.all([
      client.get(`/api/v1/billing/balance/${userId}`),
      client.get(`/api/v1/billing/free-quota/${userId}/${service}`),
    ])
    return { balance: money.balance, held: money.held, free: uses.remaining, heldFree: uses.held }
  }
  return { ...client, account, bill: (path, body) => client.post(`/api/v1/billing/${path}`, body) }
}
