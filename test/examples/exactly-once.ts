import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { expect } from 'vitest'
import type { Acknowledgement } from '../../examples/counter-billing/counter/counters.ts'
import { openStores } from '../../examples/counter-billing/counter/stores.ts'
import { type LoadOutcome, load, noOutcome } from './load-client.ts'

/** So many increments are acknowledged before anything is done to the service: the machine may be busy. */
const underWay = 200
const underWayMs = 15_000

/** Drives a load at a gateway, does something meanwhile, and returns what became of the increments. */
export async function during(
  gateway: { readonly url: string },
  acknowledgement: Acknowledgement,
  meanwhile: () => Promise<unknown>,
): Promise<LoadOutcome> {
  const stop = new AbortController()
  const prefix = `${acknowledgement}-${randomUUID()}-`
  const { url } = gateway
  const outcome = noOutcome()
  const options = { url, acknowledgement, clients: 16, prefix, signal: stop.signal, maxRequests: 100_000 }
  const running = load(options, outcome)
  const deadline = Date.now() + underWayMs
  while (outcome.acknowledged.length < underWay && Date.now() < deadline) await delay(10)
  await meanwhile()
  stop.abort()
  return running
}

/** Compares what was answered with what each store holds. */
export async function expectStoredOnce(
  outcome: LoadOutcome,
  where: readonly ('live' | 'durable')[],
  servers: { readonly DATABASE_URL: string; readonly REDIS_URL: string },
): Promise<void> {
  const stores = await openStores({ databaseUrl: servers.DATABASE_URL, redisUrl: servers.REDIS_URL })
  try {
    for (const store of where) {
      const values = (resources: readonly string[]): PromiseLike<readonly number[]> =>
        stores[store].getMany(resources.map((resource) => `${resource}:like`))
      const notOnce = (await values(outcome.acknowledged)).filter((value) => value !== 1).length
      const tooOften = (await values(outcome.unknown)).filter((value) => value > 1).length
      const counted = (await values(outcome.refused)).filter((value) => value !== 0).length
      expect({ store, notOnce, tooOften, counted }).toEqual({ store, notOnce: 0, tooOften: 0, counted: 0 })
    }
  } finally {
    await stores.close()
  }
  expect(outcome.acknowledged.length).toBeGreaterThan(100)
}
