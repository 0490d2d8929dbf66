import Fastify from 'fastify'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { openQuotaStore } from '../../examples/counter-billing/billing/quota-store.ts'
import { startBillingService } from '../../examples/counter-billing/billing/service.ts'
import { openDatabase } from '../../examples/counter-billing/counter/database.ts'
import { startCounterService } from '../../examples/counter-billing/service.ts'
import { Metrics } from '../../examples/counter-billing/telemetry/metrics.ts'
import { answerMetrics, startMetricsServer } from '../../examples/counter-billing/telemetry/metrics-endpoint.ts'
import { freePort } from '../servers/free-port.ts'
import { startAuth } from './auth-client.ts'
import { type Client, increments, startClient } from './counter-client.ts'
import { type Exposition, readExposition } from './exposition.ts'
import { startLog } from './log-file.ts'
import { startProcess } from './processes.ts'
import { openTestStores } from './stores.ts'

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })

const newMetrics = (): Metrics => {
  const metrics = new Metrics()
  onTestFinished(() => metrics.close())
  return metrics
}

async function scrape(url: string): Promise<Exposition> {
  const response = await fetch(`${url}/metrics`)
  expect([response.status, response.headers.get('content-type')]).toEqual([
    200,
    'text/plain; version=0.0.4; charset=utf-8',
  ])
  return readExposition(await response.text())
}

/** The components that have series. */
const componentsOf = ({ series }: Exposition): Set<string> =>
  new Set([...series.keys()].map((key) => /component="([^"]+)"/.exec(key)?.[1] ?? '').filter((name) => name !== ''))

// Opened beforehand: what takes PGlite long on a busy machine is no test's time.
const database = await openDatabase()
afterAll(() => database.close())

describe('the metrics of a gateway', () => {
  test('move with the load, and say how long its requests took', async () => {
    const client = await startClient(newStores(), { metrics: newMetrics() })
    const before = await scrape(client.service.url)

    await Promise.all(Array.from({ length: 20 }, (_, n) => client.increment(`post-${n}`, 1, 'committed')))
    await client.get('/api/v1/counter/post-1/like')
    await client.send(increments, '{')
    await client.get('/nowhere/at/all')
    const after = await scrape(client.service.url)

    const grown = (name: string, labels: Record<string, string>) => after.sum(name, labels) - before.sum(name, labels)
    const answers = { component: 'gateway.durable-answers', outcome: 'succeeded' }
    expect(grown('spillway_batch_items_total', answers)).toBe(20)
    const requests = 'http_server_request_duration_seconds_count'
    const of = (route: string, status: string) => grown(requests, { service: 'gateway', route, status })
    expect([of(increments, '200'), of(increments, '400'), of('none', '404')]).toEqual([20, 1, 1])
    expect(of('/api/v1/counter/:resource_id/:counter_type', '200')).toBe(1)
    expect(grown('http_server_request_duration_seconds_sum', { route: increments })).toBeGreaterThan(0)
  })

  test('have all that is in it, whichever services run beside it, and the delay of the event loop', async () => {
    const metrics = newMetrics()
    const log = startLog()
    metrics.add('log', { lines: log.lines, sink: log.sink })
    const auth = await startAuth({ metrics })
    const quota = await openQuotaStore({}, database)
    const common = { port: 0, log: () => undefined, metrics }
    const billing = await startBillingService({ database, quotaStore: quota.store, ...common })
    onTestFinished(() => billing.close())
    const issuer = { url: auth.service.url }
    const service = await startCounterService({ ...newStores(), ...common, auth: issuer })
    onTestFinished(() => service.close())
    const client = await startClient(
      { at: service.address },
      { billing: { at: billing.address }, auth: auth.client('gateway'), metrics, logging: log },
    )

    await client.post(increments, { resource_id: 'post', counter_type: 'like', user_id: 'ann', ack: 'committed' })
    await client.post('/api/v1/billing/recharge', { request_id: 'r', user_id: 'ann', amount: 5 })
    const scraped = await scrape(client.service.url)

    const own = ['durable-writes', 'live-writes', 'durable-answers', 'live-answers', 'live-reads', 'durable-reads']
    expect(componentsOf(scraped)).toEqual(
      new Set([
        ...own.map((name) => `gateway.${name}`),
        ...own.map((name) => `counter-service.${name}`),
        'gateway.live store',
        'gateway.durable store',
        'gateway.reads',
        'gateway.usage',
        'gateway.tokens',
        'gateway.verified tokens',
        'gateway.counter-service',
        'gateway.calls of counter-service',
        'gateway.billing-service',
        'gateway.calls of billing-service',
        'counter-service.verified tokens',
        'billing-service.quota',
        'log.lines',
        'log.sink',
      ]),
    )
    expect(scraped.sum('counter_billing_issued_tokens_total', { service: 'auth' })).toBeGreaterThan(0)
    expect(scraped.sum('counter_billing_accepted_calls_total', { service: 'counter-service' })).toBeGreaterThan(0)
    expect([...scraped.types.keys()]).toContainEqual(expect.stringMatching(/^nodejs_eventloop_delay/))
  })

  test('need no token, and are gone with the service', async () => {
    const metrics = newMetrics()
    const auth = await startAuth()
    const client = await startClient(newStores(), { auth: { ...auth.client('gateway'), mode: 'required' }, metrics })

    const during = await scrape(client.service.url)
    await client.service.close()
    const after = readExposition(await metrics.text())

    expect(componentsOf(during).size).toBeGreaterThan(5)
    expect(componentsOf(after).size).toBe(0)
    expect(after.sum('counter_billing_refused_calls_total')).toBe(0)
  })

  test('are not there where nothing is measured', async () => {
    expect((await (await startClient(newStores())).get('/metrics')).status).toBe(404)
  })

  test('have no series that a caller makes up', async () => {
    const client: Client = await startClient(newStores(), { metrics: newMetrics() })
    // Those of the event loop are there once it was sampled since the last scrape, which follows at once here.
    const series = async (): Promise<string[]> =>
      [...(await scrape(client.service.url)).series.keys()]
        .filter((name) => !name.startsWith('nodejs_eventloop'))
        .sort()
    await client.get('/nowhere')
    await client.increment('post')
    // Whatever is told once a batch has its series, and a scrape its own.
    await client.service.counters.flush()
    await series()
    const before = await series()

    for (let n = 0; n < 20; n++) {
      await client.get(`/nowhere/${n}`)
      await client.increment(`post-${n}`)
    }
    await client.service.counters.flush()

    expect(await series()).toEqual(before)
    expect(before.length).toBeGreaterThan(100)
  })
})

describe('metrics', () => {
  test.each([
    ['127.0.0.1', 200],
    ['127.8.8.8', 200],
    ['::1', 200],
    ['::ffff:127.0.0.1', 200],
    ['10.0.0.1', 403],
    ['::ffff:10.0.0.1', 403],
    ['2001:db8::127.0.0.1', 403],
  ])('that %s asks for are answered with %i', async (remoteAddress, status) => {
    const app = Fastify()
    answerMetrics(app, newMetrics())

    const headers = { 'x-forwarded-for': '127.0.0.1' }
    const { statusCode } = await app.inject({ url: '/metrics', remoteAddress, headers })

    expect(statusCode).toBe(status)
  })

  test('have a server of their own where there is no other one', async () => {
    const metrics = newMetrics()
    const service = await startCounterService({ ...newStores(), port: 0, log: () => undefined, metrics })
    onTestFinished(() => service.close())
    const server = await startMetricsServer(metrics, 0)
    onTestFinished(() => server.close())

    const scraped = await scrape(new URL(server.url).origin)

    expect(componentsOf(scraped)).toContain('counter-service.durable-writes')
  })
})

describe('on stores', async () => {
  const all = await openTestStores()
  const { servers = {} } = all.at(-1) ?? {}
  afterAll(async () => {
    for (const { stop } of all) await stop()
  })

  test.each(all)('the pool and the statements are measured, too: $title', async ({ stores }) => {
    const metrics = newMetrics()
    metrics.add('stores', stores.instruments)
    const client = await startClient(stores, { metrics })

    await client.increment('post', 1, 'committed')
    await client.get('/api/v1/counter?resource_id=post')
    const scraped = await scrape(client.service.url)

    const isServer = 'totalCount' in stores.database.client
    expect([...componentsOf(scraped)]).toEqual(
      expect.arrayContaining(['stores.counters', 'stores.listing', 'stores.queries']),
    )
    const pool = scraped.sum('db_client_connection_count', { db_client_connection_pool_name: 'stores.pool' })
    expect(pool > 0).toBe(isServer)
  })

  test('a process without a gateway has its metrics at the port that it is told', { timeout: 120_000 }, async () => {
    const port = await freePort()
    const flags = ['--role', 'counters', '--grpc-port', '0', '--metrics-port', String(port)]
    const env = { DATABASE_URL: servers.databaseUrl ?? '', REDIS_URL: servers.redisUrl ?? '' }
    await startProcess(flags, { ...env, CONSUL_HTTP_ADDR: '', AUTH_URL: '' })

    const components = componentsOf(await scrape(`http://127.0.0.1:${port}`))

    const expected = ['counter-service.durable-writes', 'stores.counters', 'stores.listing', 'log.lines', 'log.sink']
    expect([...components]).toEqual(expect.arrayContaining(expected))
  })
})
