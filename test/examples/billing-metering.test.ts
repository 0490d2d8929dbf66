import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type QuotaConsumer, StoreError, type UsageBatch, type UsageSink } from 'spillway'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { Metering } from '../../examples/counter-billing/billing/metering.ts'
import { openStores } from '../../examples/counter-billing/counter/stores.ts'
import { startPostgres } from '../servers/postgres.ts'
import { type BillingClient, fresh, openBillingStores, startBilling, startBillingClient } from './billing-client.ts'
import { batches, increments, operations, startClient } from './counter-client.ts'
import { type ServiceProcess, startProcess } from './processes.ts'

const all = await openBillingStores()
const postgres = await startPostgres()

afterAll(async () => {
  for (const { stop } of all) await stop()
  await postgres?.stop()
})

const service = 'counter-writes'
const write = (client: BillingClient, user_id: string, ack?: string) =>
  client.post(increments, { resource_id: 'post', counter_type: 'like', user_id, ack })

describe.each(all)('the writes of users, metered on $title', (stores) => {
  const start = async () => {
    const client = await startBillingClient({ at: (await startBilling(stores)).address })
    const used = async (user: string): Promise<number> => {
      await client.service.billing?.metering.usage.flush()
      return (await client.get(`/api/v1/billing/free-quota/${user}/${service}`)).body.used
    }
    return { client, used, ann: fresh('ann'), bob: fresh('bob') }
  }

  test('are a use each, whenever they are answered and however they come', async () => {
    const { client, used, ann, bob } = await start()

    for (const ack of ['accepted', 'redis', 'committed'])
      expect((await write(client, ann, ack)).status).toBeLessThan(300)
    await client.post(batches, { user_id: ann, operations: operations(['a', 1], ['b', 5]), async: true })
    await client.post(batches, { user_id: ann, operations: operations(['a', 1], ['b', 5], ['c', -1]) })
    await client.post(batches, { user_id: bob, operations: operations(['a', 1]) })
    await client.post(increments, { resource_id: 'post', counter_type: 'like' })

    expect([await used(ann), await used(bob)]).toEqual([8, 1])
  })

  test('go on beyond the limit, which a check tells', async () => {
    const { client, used, ann } = await start()
    const check = async () => (await client.bill('check', { user_id: ann, service })).body

    expect(await check()).toMatchObject({ allowed: true, quota: { limit: 10, used: 0 } })
    const answers = await Promise.all(Array.from({ length: 12 }, () => write(client, ann)))

    expect(answers.every(({ status }) => status === 202)).toBe(true)
    expect(await used(ann)).toBe(12)
    expect(await check()).toMatchObject({ allowed: false, quota: { limit: 10, used: 12, remaining: 0 } })
    expect((await client.bill('deduct', { user_id: ann, service, request_id: 'd' })).body.code).toBe('quota_exceeded')
  })
})

describe('metering', () => {
  /** A sink that takes nothing until it is told to. */
  const heldSink = () => {
    let open = (): void => undefined
    const opened = new Promise<void>((resolve) => {
      open = resolve
    })
    let events = 0
    const sink: UsageSink = {
      idempotent: true,
      write: async (batch: UsageBatch) => {
        await opened
        events += batch.events.length
      },
    }
    return { sink, open, written: () => events }
  }

  test('keeps no answer waiting, and where there is no room, slows down and counts all the same', async () => {
    const { sink, open, written } = heldSink()
    const at = (await startBilling(all[0] as (typeof all)[number])).address
    const client = await startBillingClient({ at, usageSink: sink })
    onTestFinished(open)
    const usage = client.service.billing?.metering.usage as QuotaConsumer

    // The sink hangs, and the answer is there.
    expect((await write(client, 'ann')).status).toBe(202)
    // Nothing is stored, and a check knows all the same.
    const { quota } = (await client.bill('check', { user_id: 'ann', service })).body
    expect(quota).toMatchObject({ used: 0, pending: 1, remaining: 9 })
    expect((await client.bill('check', { user_id: 'ann', service, count: 9 })).body.allowed).toBe(true)
    expect((await client.bill('check', { user_id: 'ann', service, count: 10 })).body.allowed).toBe(false)
    // As many as there is room for: each worker takes a batch, and then there is none.
    let filled = 1
    for (let before = 0; before < filled; await delay(500)) {
      before = filled
      while (usage.offer({ userId: 'ann', quotaType: `free:${service}`, value: 1 })) filled++
    }
    let answered = 0
    const late = Array.from({ length: 3 }, () => write(client, 'ann').then(() => answered++))
    await client.get('/stats')
    expect(answered).toBe(0)
    open()
    await Promise.all(late)
    await usage.flush()

    expect(written()).toBe(filled + 3)
  })

  const meterOf = (sink: UsageSink, journal?: string) => {
    const log: string[] = []
    return { log, metering: new Metering(sink, { journal, log: (level, message) => log.push(`${level} ${message}`) }) }
  }
  const refusing: UsageSink = {
    idempotent: true,
    write: () => Promise.reject(new StoreError('it refuses', { retryable: false })),
  }

  test('says in the log whose uses it gave up', async () => {
    const { metering, log } = meterOf(refusing)

    await metering.record('ann', 3)
    await metering.usage.close()

    expect(log).toEqual([`error LOST: 1 uses weren't accounted (it refuses): {"ann":3}`])
  })

  test('with a journal, what was given up is handed on after the next start', async () => {
    const journal = mkdtempSync(join(tmpdir(), 'billing-journal-'))
    onTestFinished(() => rmSync(journal, { recursive: true }))
    const first = meterOf(refusing, journal)
    const { sink, open, written } = heldSink()
    open()
    const second = meterOf(sink, journal)

    await first.metering.start()
    await first.metering.record('ann', 3)
    await first.metering.usage.close()
    await second.metering.start()
    await second.metering.usage.close()

    expect(first.log).toEqual(['warn 1 uses are tried again after the next start (it refuses)'])
    expect(written()).toBe(1)
  })

  test('waits for a billing service that comes after its gateway, whose counters go on meanwhile', async () => {
    const stores = all[0] as (typeof all)[number]
    const earlier = await startBilling(stores)
    const { address: at } = earlier
    await earlier.close()
    const client = await startBillingClient({ at, warmUpMs: 200 })
    const [ann, request_id] = [fresh('ann'), 'd']

    expect((await write(client, ann)).status).toBe(202)
    const refused = await client.bill('deduct', { user_id: ann, service, request_id, count: 2 })
    expect(refused.status).toBe(503)
    expect(refused.body).toMatchObject({ code: 'unavailable', user_id: ann, service, request_id, count: 2 })
    await startBilling(stores, Number(at.split(':')[1]))

    await expect
      .poll(async () => (await client.get(`/api/v1/billing/free-quota/${ann}/${service}`)).body, { timeout: 20_000 })
      .toMatchObject({ used: 1, pending: 0 })
  })

  test('needs billing: a gateway without it knows no user', async () => {
    const stores = await openStores()
    onTestFinished(() => stores.close())
    const client = await startClient(stores)

    const { status, body } = await client.post(increments, { resource_id: 'p', counter_type: 'like', user_id: 'ann' })

    expect([status, body.field]).toEqual([400, 'user_id'])
    expect((await client.get('/api/v1/billing/balance/ann')).status).toBe(404)
  })
})

describe.skipIf(postgres === undefined)('the writes of users, metered over processes', { timeout: 180_000 }, () => {
  const env = { DATABASE_URL: postgres?.url ?? '', REDIS_URL: '' }
  const startCounters = () => startProcess(['--role', 'counters', '--grpc-port', '0'], env)
  const startBillingProcess = (port = '0') => startProcess(['--role', 'billing', '--billing-port', port], env)
  const startGateway = (counters: string, billing: string, ...flags: readonly string[]) =>
    startProcess(['--role', 'gateway', '--port', '0', '--counters', counters, '--billing', billing, ...flags], env)

  interface Outcome {
    acknowledged: number
    /** Writes without an answer: each may be counted. */
    unknown: number
  }

  /** Writes as each of some users until it is told to stop, or nobody answers any more. */
  function writeAs(users: readonly string[], url: string, signal: AbortSignal): Promise<Map<string, Outcome>> {
    const outcomes = new Map<string, Outcome>()
    const clients = users.map(async (user_id) => {
      const outcome: Outcome = { acknowledged: 0, unknown: 0 }
      outcomes.set(user_id, outcome)
      while (!signal.aborted) {
        const body = JSON.stringify({ resource_id: user_id, counter_type: 'like', user_id })
        const headers = { 'content-type': 'application/json' }
        try {
          const { status } = await fetch(`${url}${increments}`, { method: 'POST', headers, body })
          if (status === 202) outcome.acknowledged++
        } catch (error) {
          if ((error as { cause?: { code?: string } }).cause?.code === 'ECONNREFUSED') return
          outcome.unknown++
        }
      }
    })
    return Promise.all(clients).then(() => outcomes)
  }

  async function usedBy(users: readonly string[], billing: string): Promise<number[]> {
    const client = await startBillingClient({ at: billing })
    return Promise.all(
      users.map(async (user) => (await client.get(`/api/v1/billing/free-quota/${user}/${service}`)).body.used),
    )
  }

  const users = (): string[] => Array.from({ length: 6 }, (_, index) => fresh(`user${index}`))
  const portOf = ({ url }: ServiceProcess): string => url.slice(url.lastIndexOf(':') + 1)

  test('SIGTERM to the gateway under load loses none, though billing was killed meanwhile', async () => {
    const [counters, billing] = await Promise.all([startCounters(), startBillingProcess()])
    const gateway = await startGateway(counters.url, billing.url)
    const [stop, names] = [new AbortController(), users()]

    const running = writeAs(names, gateway.url, stop.signal)
    await delay(1_000)
    await billing.end('SIGKILL')
    const again = await startBillingProcess(portOf(billing))
    await delay(1_000)
    await gateway.end('SIGTERM')
    const outcomes = await running

    expect(gateway.log()).not.toContain('LOST')
    const used = await usedBy(names, again.url)
    for (const [index, name] of names.entries()) {
      const { acknowledged, unknown } = outcomes.get(name) as Outcome
      expect(acknowledged).toBeGreaterThan(10)
      expect(used[index]).toBeGreaterThanOrEqual(acknowledged)
      expect(used[index]).toBeLessThanOrEqual(acknowledged + unknown)
    }
  })

  test('with a journal, kill -9 loses none that reached the disk, though billing was away all the time', async () => {
    const journal = mkdtempSync(join(tmpdir(), 'billing-journal-'))
    onTestFinished(() => rmSync(journal, { recursive: true }))
    const [counters, billing] = await Promise.all([startCounters(), startBillingProcess()])
    const gateway = await startGateway(counters.url, billing.url, '--journal', journal)
    const [stop, names] = [new AbortController(), users()]
    await billing.end('SIGKILL')

    const running = writeAs(names, gateway.url, stop.signal)
    await delay(1_000)
    stop.abort()
    const outcomes = await running
    await delay(2_000)
    await gateway.end('SIGKILL')
    const again = await startBillingProcess()
    const successor = await startGateway(counters.url, again.url, '--journal', journal)
    await successor.end('SIGTERM')

    const used = await usedBy(names, again.url)
    expect(used).toEqual(names.map((name) => outcomes.get(name)?.acknowledged))
    expect(Math.min(...used)).toBeGreaterThan(0)
  })
})
