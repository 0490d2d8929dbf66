import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { HoldClaim, QuotaKey, QuotaUsage } from 'spillway'
import { seededRandom } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../servers/postgres.ts'
import { startRedis } from '../servers/redis.ts'
import { startRedisCluster } from '../servers/redis-cluster.ts'
import {
  type Outcome,
  type ServiceCall,
  type StoreCall,
  type StorePlace,
  StoreProcess,
} from './support/store-processes.ts'

const redis = await startRedis()
const cluster = await startRedisCluster()
const postgres = await startPostgres()
const processes = 4
/** What each of them asks for at once. */
const each = 25
const all = processes * each
const timeout = 60_000

afterAll(async () => {
  await redis?.stop()
  await cluster?.stop()
  await postgres?.stop()
})

const places: readonly [StorePlace['kind'], StorePlace['target'] | undefined][] = [
  ['redis', redis && [{ host: redis.host, port: redis.port }]],
  ['redis cluster', cluster?.nodes],
  ['postgres', postgres?.url],
]

function claimOf(key: QuotaKey, limit: number, value = 1): HoldClaim {
  return { ...key, value, limit, id: randomUUID(), ttlMs: 600_000 }
}

function repeat(count: number, call: () => StoreCall): StoreCall[] {
  return Array.from({ length: count }, call)
}

function count(outcomes: readonly Outcome[], status: string): number {
  return outcomes.filter((outcome) => outcome.status === status).length
}

async function usageOf(key: QuotaKey, one: StoreProcess): Promise<QuotaUsage> {
  const [usages] = await one.call<QuotaUsage[]>([['readUsage', [key]]])
  return usages?.[0] as QuotaUsage
}

describe.each(places)(`what ${processes} processes ask for at once of a quota in %s`, (kind, target) => {
  let stores: StoreProcess[] = []
  let key: QuotaKey
  const here = (name: string, body: () => Promise<void>): void =>
    test.skipIf(target === undefined)(name, { timeout }, async () => {
      key = { userId: randomUUID(), quotaType: 'calls', period: 'total' }
      await body()
    })
  /** Each process makes its calls, all of them at once. */
  const inAll = async (calls: (process: number) => readonly StoreCall[]): Promise<Outcome[]> =>
    (await Promise.all(stores.map((one, process) => one.call(calls(process))))).flat()

  beforeAll(async () => {
    if (target !== undefined) stores = await StoreProcess.start({ kind, target, prefix: randomUUID() }, processes)
  })
  afterAll(async () => {
    for (const one of stores) await one.kill()
  })

  here(`${all} consumes with a limit of 10 count exactly 10`, async () => {
    const outcomes = await inAll(() => repeat(each, () => ['consume', claimOf(key, 10)]))

    expect([count(outcomes, 'applied'), count(outcomes, 'exceeded')]).toEqual([10, all - 10])
    const told = outcomes.filter(({ status }) => status === 'applied').map((outcome) => (outcome as QuotaUsage).used)
    expect(told.sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    expect(await usageOf(key, stores[0] as StoreProcess)).toEqual({ used: 10, held: 0 })
  })

  here('a test that would see it: what looks first and then counts, overspends', async () => {
    const outcomes = await inAll(() => repeat(each, () => ['consume naively', claimOf(key, 10)]))

    expect(count(outcomes, 'applied')).toBeGreaterThan(10)
  })

  here('the same requests, sent by all of them, count once each', async () => {
    const claims = Array.from({ length: each }, () => claimOf(key, 1000, 3))

    const outcomes = await inAll(() => claims.map((claim) => ['consume', claim]))

    expect([count(outcomes, 'applied'), count(outcomes, 'repeated')]).toEqual([each, all - each])
    expect(await usageOf(key, stores[0] as StoreProcess)).toEqual({ used: 3 * each, held: 0 })
  })

  here('a mix of everything never passes the limit, and what was said is what is there', async () => {
    const random = seededRandom(kind)
    const limit = 40
    const held: string[] = []
    let counted = 0

    for (let round = 0; round < 12; round++) {
      // What one process holds, another one settles or gives back.
      const ending = held.splice(0, 12)
      const calls = stores.map((_, process): StoreCall[] => [
        ...repeat(4, () => ['consume', claimOf(key, limit, Math.floor(random() * 3))]),
        ...repeat(4, () => ['reserve', claimOf(key, limit, 2)]),
        ...ending
          .filter((_, i) => i % processes === process)
          .map((id): StoreCall => (random() < 0.7 ? ['release', id] : ['settle', id, Math.floor(random() * 4)])),
      ])
      const outcomes = (await inAll((process) => calls[process] as StoreCall[])) as readonly (Outcome | undefined)[]

      calls.flat().forEach(([method, about, actual], i) => {
        const outcome = outcomes[i]
        const told = outcome !== undefined && 'used' in outcome ? outcome : (outcome?.usage ?? { used: 0, held: 0 })
        expect(told.used + told.held).toBeLessThanOrEqual(limit)
        if (outcome?.status === 'applied') counted += (about as HoldClaim).value
        if (outcome?.status === 'settled') counted += actual as number
        if (outcome?.status === 'held') held.push((about as HoldClaim).id)
        // What didn't fit is held still.
        if (method === 'settle' && outcome?.status === 'exceeded') held.push(about as string)
      })
      const usage = await usageOf(key, stores[round % processes] as StoreProcess)
      expect(usage).toEqual({ used: counted, held: 2 * held.length })
      expect(usage.used + usage.held).toBeLessThanOrEqual(limit)
    }

    expect(counted).toBeGreaterThan(20)
    await inAll((process) => (process === 0 ? held.map((id) => ['release', id]) : []))
    expect(await usageOf(key, stores[1] as StoreProcess)).toEqual({ used: counted, held: 0 })
  })

  here('what services with consumers check never passes the limit, and nothing is lost or doubled', async () => {
    const random = seededRandom(kind)
    const { userId } = key
    const limit = 200
    const call = (what: ServiceCall['do'], value = 1, actual?: number): StoreCall => [
      'service',
      { do: what, userId, limit, value, actual } satisfies ServiceCall,
    ]

    const unchecked = (await inAll(() => repeat(each, () => call('buffer')))) as readonly { status: string }[]
    const calls = stores.map((): StoreCall[] => [
      ...repeat(15, () => call('consume', 1 + Math.floor(random() * 2))),
      ...repeat(15, () => call('hold', 3, random() < 0.3 ? undefined : Math.floor(random() * 5))),
    ])
    const checked = await inAll((process) => calls[process] as StoreCall[])

    let counted = 0
    calls.flat().forEach(([, about], i) => {
      const { status, used = 0, held = 0 } = checked[i] as Partial<QuotaUsage> & { status: string }
      const { value, actual } = about as ServiceCall
      expect(used + held).toBeLessThanOrEqual(limit)
      if (status === 'applied') counted += value
      if (status === 'settled') counted += actual as number
    })
    // Each kind of thing has happened.
    expect(new Set(checked.map(({ status }) => status as string))).toEqual(
      new Set(['applied', 'exceeded', 'settled', 'released']),
    )
    expect(new Set(unchecked.map(({ status }) => status))).toEqual(new Set(['buffered', 'written']))
    expect(counted).toBeLessThanOrEqual(limit)
    await inAll(() => [call('flush')])
    const used = all + counted
    expect(await usageOf(key, stores[0] as StoreProcess)).toEqual({ used, held: 0 })
    // What others had buffered is all that can have been overlooked.
    expect(used).toBeLessThanOrEqual(limit + each * (processes - 1))
    await inAll(() => repeat(each * 2, () => call('consume')))
    expect(await usageOf(key, stores[0] as StoreProcess)).toEqual({ used: Math.max(limit, used), held: 0 })
  })

  here('a test that would see it: services that check first and then count, overspend', async () => {
    const { userId } = key
    const calls = (what: ServiceCall['do'], times: number): Promise<Outcome[]> =>
      inAll(() => repeat(times, () => ['service', { do: what, userId, limit: 10, value: 1 } satisfies ServiceCall]))

    await calls('naively', each)
    await calls('flush', 1)

    expect((await usageOf(key, stores[0] as StoreProcess)).used).toBeGreaterThan(10)
  })

  here('what a process held that was killed comes back when its time is over', async () => {
    const [doomed, other] = stores as [StoreProcess, StoreProcess]
    const held = await doomed.call(repeat(10, () => ['reserve', { ...claimOf(key, 10), ttlMs: 3000 }]))
    const [early] = await other.call([['consume', claimOf(key, 10)]])
    await doomed.kill()

    const deadline = performance.now() + timeout / 2
    let applied = 0
    while (applied < 10 && performance.now() < deadline) {
      applied += count(await other.call(repeat(10, () => ['consume', claimOf(key, 10)])), 'applied')
      await delay(100)
    }

    expect(count(held, 'held')).toBe(10)
    expect(early?.status).toBe('exceeded')
    expect(await usageOf(key, other)).toEqual({ used: 10, held: 0 })
  })
})
