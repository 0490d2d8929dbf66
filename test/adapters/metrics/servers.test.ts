import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import pg from 'pg'
import {
  AsyncLogBuffer,
  CacheWarmer,
  LoadBalancer,
  MemoryQuotaStore,
  MultiLevelCache,
  QuotaConsumer,
  QuotaService,
} from 'spillway'
import { FileJournal, FileSink } from 'spillway/file'
import { GrpcBalancedPool, GrpcChannelPool } from 'spillway/grpc'
import { createHttpClient } from 'spillway/http'
import { type Components, instrument } from 'spillway/metrics'
import { createPostgresPool, PostgresCounterStore, PostgresQuotaStore, QueryBatcher } from 'spillway/postgres'
import {
  createRedisPool,
  RedisCacheStore,
  RedisInvalidationBus,
  RedisLock,
  RedisUsageStream,
  RedisUsageWorker,
} from 'spillway/redis'
import * as undici from 'undici'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { startRedis } from '../../servers/redis.ts'
import { clientOf, startServer } from '../grpc/support/counter-service.js'
import { genericPool } from './support/components.js'
import { Otel, type Reading } from './support/otel-reader.js'

const [redisServer, postgresServer] = await Promise.all([startRedis(), startPostgres()])
const cleanUps: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
})
afterAll(() => Promise.all([redisServer?.stop(), postgresServer?.stop()]))

/** Reads what components tell, from before anything happened. */
function watch(components: Components): () => Promise<Reading> {
  const otel = new Otel()
  cleanUps.push(instrument(otel.meter(), components, { eventLoop: false }))
  return () => otel.read()
}

async function until<T>(look: () => Promise<T>, done: (seen: T) => boolean): Promise<T> {
  for (const end = Date.now() + 10_000; ; await new Promise((resolve) => setTimeout(resolve, 5))) {
    const seen = await look()
    if (done(seen) || Date.now() > end) return seen
  }
}

const usage = { userId: 'ann', quotaType: 'api', value: 1 }

describe.skipIf(redisServer === undefined)('with a real Redis', () => {
  const connect = (): Redis => {
    const redis = new Redis(redisServer?.url ?? '')
    cleanUps.push(() => redis.disconnect())
    return redis
  }

  it('usage goes through a stream to a worker, and its lag is told', async () => {
    const prefix = `metrics:${randomUUID()}`
    const stream = new RedisUsageStream(connect(), { prefix })
    const worker = new RedisUsageWorker(
      new RedisUsageStream(connect(), { prefix }),
      new MemoryQuotaStore({ dedupe: 'event' }),
    )
    const read = watch({ stream, worker })

    await Promise.all(Array.from({ length: 20 }, () => stream.publish(usage)))
    const published = await read()
    await worker.start()
    const done = await until(read, (one) => one.value('spillway.redis.worker.events', { outcome: 'applied' }) === 20)
    await worker.close()
    await stream.close()

    expect(published.value('spillway.batch.items', { component: 'stream', outcome: 'succeeded' })).toBe(20)
    expect(published.value('spillway.redis.stream.appended_events')).toBe(20)
    expect(published.value('spillway.batch.size', { component: 'stream' })).toBeGreaterThan(0)
    expect(done.value('spillway.redis.worker.events', { outcome: 'applied' })).toBe(20)
    expect(done.value('spillway.component.healthy', { component: 'worker' })).toBe(1)
    expect(done.value('spillway.redis.worker.event_latency', { quantile: '0.5' })).toBeGreaterThan(0)
    expect(done.value('spillway.batch.duration', { component: 'worker' })).toBeGreaterThan(0)
  })

  it('a cache over it tells its tiers, and the store its keys and bytes', async () => {
    const store = new RedisCacheStore(connect(), { prefix: `metrics:${randomUUID()}` })
    const users = new MultiLevelCache<string>({ l2: store, l1: { ttlMs: 1 } })
    const bus = new RedisInvalidationBus(connect(), { channel: `metrics:${randomUUID()}` })
    const warmer = new CacheWarmer(users)
    warmer.register('all', () => [{ key: 'b', load: async () => 'B' }])
    const read = watch({ users, store, bus, warmer })
    const link = bus.connect({ onInvalidations: () => undefined, onGap: () => undefined })

    await users.getOrLoad('a', async () => 'A')
    await users.flush()
    await new Promise((resolve) => setTimeout(resolve, 5))
    await users.get('a')
    await warmer.run()
    link.publish([{ kind: 'key', key: 'a' }])
    await link.flush()
    const reading = await read()
    link.close()
    await Promise.all([bus.close(), users.close()])

    expect(reading.value('spillway.cache.reads', { outcome: 'l2_hit' })).toBe(1)
    expect(reading.value('spillway.cache.lookups', { tier: 'l2', result: 'hit' })).toBe(1)
    expect(reading.value('spillway.cache.store.state', { state: 'closed' })).toBe(1)
    expect(reading.value('spillway.redis.cache.reads', { outcome: 'hit' })).toBe(1)
    expect(reading.value('spillway.redis.cache.io', { direction: 'write' })).toBeGreaterThan(0)
    expect(reading.value('spillway.redis.bus.invalidations', { outcome: 'published' })).toBe(1)
    expect(reading.value('spillway.cache.warmer.tasks', { outcome: 'loaded' })).toBe(1)
  })

  it('a pool of connections and a lock tell who has what', async () => {
    const pool = createRedisPool(() => new Redis(redisServer?.url ?? ''), { max: 2, min: 0 })
    const lock = new RedisLock(connect())
    const read = watch({ pool, lock })

    const lease = await lock.acquire(`metrics:${randomUUID()}`)
    let during: Reading | undefined
    await pool.use(async (client) => {
      await client.ping()
      during = await read()
    })
    await lease?.release()
    const after = await read()
    await pool.close()

    const connections = (of: Reading | undefined, state: string) =>
      of?.value('db.client.connection.count', {
        'db.client.connection.pool.name': 'pool',
        'db.client.connection.state': state,
      })
    expect([connections(during, 'used'), connections(during, 'idle')]).toEqual([1, 0])
    expect([connections(after, 'used'), connections(after, 'idle')]).toEqual([0, 1])
    expect(after.value('spillway.redis.pool.uses', { component: 'pool', outcome: 'succeeded' })).toBe(1)
    expect([during?.value('spillway.redis.lock.held'), after.value('spillway.redis.lock.held')]).toEqual([1, 0])
    expect(after.value('spillway.redis.lock.releases', { outcome: 'succeeded' })).toBe(1)
  })
})

describe.skipIf(postgresServer === undefined)('with a real PostgreSQL', () => {
  it.skipIf(postgresServer === undefined)(
    'a pool tells its connections by the conventions, and who waits',
    async () => {
      const pool = createPostgresPool(pg, {
        maxConnections: 1,
        config: { connectionString: postgresServer?.url ?? '' },
      })
      const queries = new QueryBatcher(pool)
      const read = watch({ database: pool, queries })

      const client = await pool.connect()
      const waiting = queries.query('SELECT 1 AS one')
      const busy = await until(read, (one) => one.value('db.client.connection.pending_requests') === 1)
      client.release()
      await waiting
      const idle = await read()
      await queries.close()
      await pool.close()

      const count = (of: Reading, state: string) =>
        of.value('db.client.connection.count', {
          'db.client.connection.pool.name': 'database',
          'db.client.connection.state': state,
        })
      expect([count(busy, 'used'), busy.value('db.client.connection.pending_requests')]).toEqual([1, 1])
      expect([count(idle, 'idle'), idle.value('db.client.connection.pending_requests')]).toEqual([1, 0])
      expect(idle.value('db.client.connection.max')).toBe(1)
      expect(idle.value('spillway.batch.items', { component: 'queries', outcome: 'succeeded' })).toBe(1)
      expect(idle.value('spillway.batch.duration', { component: 'queries' })).toBe(1)
    },
  )

  it('stores tell batches, duplicates and claims', async () => {
    const database = createPostgresPool(pg, { config: { connectionString: postgresServer?.url ?? '' } })
    cleanUps.push(() => database.close())
    const store = new PostgresQuotaStore(database, { dedupe: 'request' })
    const counters = new PostgresCounterStore(database)
    await Promise.all([store.createSchema(), counters.createSchema()])
    const consumer = new QuotaConsumer(store, { maxWaitMs: 1 })
    const quotas = new QuotaService({ store, consumer, limitFor: () => 3 })
    const read = watch({ store, counters, quotas })

    for (const id of ['r1', 'r1', 'r2']) await quotas.consumeQuota('ann', 'api', 1, { requestId: id })
    await consumer.flush()
    await quotas.consumeQuotaSync('ann', 'api', 5).catch(() => undefined)
    await counters.increment([{ key: 'a', delta: 1 }], {
      batchId: randomUUID(),
      attempt: 1,
      signal: new AbortController().signal,
    })
    const reading = await read()
    await quotas.close()
    await consumer.close()

    expect(reading.value('spillway.postgres.events', { outcome: 'counted' })).toBe(2)
    expect(reading.value('spillway.postgres.events', { outcome: 'duplicate' })).toBe(1)
    expect(reading.value('spillway.postgres.claims', { outcome: 'exceeded' })).toBe(1)
    expect(reading.value('spillway.postgres.batches', { component: 'counters', outcome: 'applied' })).toBe(1)
    expect(reading.value('spillway.quota.unchecked_uses', { path: 'buffered' })).toBe(3)
    expect(reading.value('spillway.quota.calls', { outcome: 'rejected' })).toBe(1)
    expect(reading.value('spillway.quota.call_latency', { operation: 'consume', quantile: '1' })).toBeDefined()
  })
})

describe('with real servers of HTTP and gRPC', () => {
  it('a client tells requests, statuses and connections by origin, and so does an agent of undici', async () => {
    let answer: () => void = () => undefined
    let reached: () => void = () => undefined
    const arrived = new Promise<void>((resolve) => {
      reached = resolve
    })
    const server = createServer((request, response) => {
      response.statusCode = request.url === '/gone' ? 404 : 200
      if (request.url !== '/slow') return void response.end('ok')
      answer = () => response.end('ok')
      reached()
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    cleanUps.push(() => server.close())
    const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const api = createHttpClient(undici, { baseUrl: origin })
    const agent = new undici.Agent()
    const read = watch({ api, agent })

    await api.get('/gone')
    await undici.request(`${origin}/`, { dispatcher: agent }).then(({ body }) => body.text())
    const slow = api.get('/slow')
    await arrived
    const busy = await read()
    answer()
    await slow
    const idle = await until(
      read,
      (one) => one.value('spillway.http.connections', { component: 'api', state: 'idle' }) === 1,
    )

    expect(busy.value('spillway.http.connections', { component: 'api', target: origin, state: 'used' })).toBe(1)
    expect(busy.value('spillway.http.pending_requests')).toBe(1)
    expect(idle.value('spillway.http.connections', { component: 'api', target: origin, state: 'used' })).toBe(0)
    expect(idle.value('spillway.http.connections', { component: 'agent', target: origin, state: 'idle' })).toBe(1)
    expect(idle.value('spillway.http.responses', { status_class: '4xx' })).toBe(1)
    expect(idle.value('spillway.http.requests', { outcome: 'succeeded' })).toBe(2)
    await Promise.all([api.close(), agent.close()])
  })

  it('pools of channels tell calls, alone and by instance', async () => {
    const counter = await startServer({ get: (_call, answer) => answer(null, { value: 1 }) })
    cleanUps.push(() => counter.kill())
    const alone = new GrpcChannelPool(clientOf(counter.address))
    const balancer = new LoadBalancer([{ id: 'a', address: counter.address }])
    const fleet = new GrpcBalancedPool(balancer, ({ address }, options) => clientOf(address)(options))
    const read = watch({ alone, fleet })

    await alone.call('get', { key: 'k' })
    await fleet.call('get', { key: 'k' })
    const reading = await read()
    await Promise.all([alone.close(), fleet.close()])
    await balancer.close()

    expect(reading.value('spillway.grpc.calls', { component: 'alone', outcome: 'succeeded' })).toBe(1)
    expect(reading.value('spillway.grpc.channels', { component: 'alone', state: 'ready' })).toBeGreaterThan(0)
    expect(reading.value('spillway.grpc.balanced.calls', { component: 'fleet', outcome: 'succeeded' })).toBe(1)
    expect(reading.value('spillway.grpc.calls', { component: 'fleet', target: 'a', outcome: 'succeeded' })).toBe(1)
    expect(reading.value('spillway.grpc.call_latency', { component: 'alone', quantile: '1' })).toBeGreaterThan(0)
  })
})

describe('with an instance that moves', () => {
  it('its pools are told as one, as long as the old one has calls in flight', async () => {
    const [old, next] = await Promise.all([
      startServer({ get: () => undefined }),
      startServer({ get: (_call, answer) => answer(null, { value: 1 }) }),
    ])
    cleanUps.push(
      () => old.kill(),
      () => next.kill(),
    )
    let list = [{ id: 'a', address: old.address }]
    const balancer = new LoadBalancer(async () => list)
    await balancer.start()
    const fleet = new GrpcBalancedPool(balancer, ({ address }, options) => clientOf(address)(options))
    const read = watch({ fleet })

    const stuck = fleet.call('get', { key: 'k' }).catch(() => undefined)
    list = [{ id: 'a', address: next.address }]
    await balancer.refresh()
    await fleet.call('get', { key: 'k' })

    const reading = await read()
    const of = { component: 'fleet', target: 'a' }
    expect(reading.value('spillway.grpc.pending_calls', of)).toBe(1)
    expect(reading.value('spillway.grpc.calls', { ...of, outcome: 'succeeded' })).toBe(1)
    await fleet.close({ timeoutMs: 0 })
    await stuck
    await balancer.close()
  })
})

describe('with real files', () => {
  it('a journal and a log tell what is on disk', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'spillway-metrics-'))
    cleanUps.push(() => rmSync(folder, { recursive: true }))
    const journal = new FileJournal(join(folder, 'journal'))
    const consumer = new QuotaConsumer(new MemoryQuotaStore(), { journal, maxWaitMs: 60_000 })
    const sink = new FileSink({ path: join(folder, 'app.log') })
    const log = new AsyncLogBuffer(sink)
    const read = watch({ journal, sink, log })

    await consumer.publish(usage)
    log.write('a line')
    await log.flush()
    const waiting = await read()
    await consumer.close()
    const settled = await read()
    await log.close()
    await sink.close()

    expect(waiting.value('spillway.journal.appended_events')).toBe(1)
    expect(waiting.value('spillway.journal.pending_events')).toBe(1)
    expect(waiting.value('spillway.journal.written')).toBeGreaterThan(0)
    expect(settled.value('spillway.journal.pending_events')).toBe(0)
    expect(waiting.value('spillway.log.sink.written')).toBe('a line\n'.length)
    expect(waiting.value('spillway.log.sink.chunks', { outcome: 'succeeded' })).toBe(1)
    expect(waiting.value('spillway.batch.items', { component: 'log', outcome: 'succeeded' })).toBe(1)
    expect(waiting.value('spillway.batch.size', { component: 'log' })).toBe(1)
  })
})

describe('with a pool of generic-pool', () => {
  it('its resources are told as connections', async () => {
    const pool = genericPool()
    const read = watch({ things: pool })

    const thing = await pool.acquire()
    const busy = await read()
    await pool.release(thing)
    const idle = await read()
    await pool.drain()
    await pool.clear()

    const count = (of: Reading, state: string) =>
      of.value('db.client.connection.count', { 'db.client.connection.state': state })
    expect([count(busy, 'used'), count(busy, 'idle'), busy.value('db.client.connection.max')]).toEqual([1, 0, 7])
    expect([count(idle, 'used'), count(idle, 'idle')]).toEqual([0, 1])
  })
})
