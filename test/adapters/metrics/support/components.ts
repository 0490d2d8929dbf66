import { credentials, makeGenericClientConstructor } from '@grpc/grpc-js'
import { createPool, type Pool as GenericPool } from 'generic-pool'
import { Redis } from 'ioredis'
import pg from 'pg'
import {
  AsyncBatcher,
  AsyncLogBuffer,
  AsyncWriteBuffer,
  BreakerRegistry,
  CacheWarmer,
  CircuitBreaker,
  LoadBalancer,
  MemoryQuotaStore,
  MultiLevelCache,
  QuotaConsumer,
  QuotaService,
  TokenCache,
} from 'spillway'
import { ConsulRegistration } from 'spillway/consul'
import { FileJournal, FileSink } from 'spillway/file'
import { AckedStream, GrpcBalancedPool, GrpcChannelPool } from 'spillway/grpc'
import { createHttpClient } from 'spillway/http'
import type { Instrumentable } from 'spillway/metrics'
import {
  createPostgresPool,
  Paginator,
  PostgresCounterStore,
  PostgresQuotaStore,
  PostgresUsageSink,
  QueryBatcher,
  SlowQueryLog,
} from 'spillway/postgres'
import {
  createRedisPool,
  RedisBreakerShare,
  RedisCacheStore,
  RedisInvalidationBus,
  RedisLock,
  RedisUsageStream,
  RedisUsageWorker,
} from 'spillway/redis'
import { MemoryCacheStore } from 'spillway/testing'
import * as undici from 'undici'

/** One of each class that can be instrumented, by its class. They are real, and nothing has been asked of them yet. */
export function oneOfEach(): Record<string, Instrumentable> {
  const redis = new Redis({ lazyConnect: true })
  const pool = createPostgresPool(pg)
  const store = new MemoryQuotaStore()
  const consumer = new QuotaConsumer(store)
  const cache = new MultiLevelCache<number>({ l2: new MemoryCacheStore() })
  const balancer = new LoadBalancer([{ id: 'a', address: '127.0.0.1:1' }])
  const Client = makeGenericClientConstructor({}, 'Nothing')
  const registry = new BreakerRegistry()
  registry.get('host')
  return {
    AsyncBatcher: new AsyncBatcher(async (items: number[]) => items),
    AsyncLogBuffer: new AsyncLogBuffer({ write: () => undefined }),
    AsyncWriteBuffer: new AsyncWriteBuffer<string, number>(() => undefined, { merge: (a, b) => a + b }),
    BreakerRegistry: registry,
    CacheWarmer: new CacheWarmer(cache),
    CircuitBreaker: new CircuitBreaker(),
    LoadBalancer: balancer,
    MultiLevelCache: cache,
    QuotaConsumer: consumer,
    QuotaService: new QuotaService({ store, consumer, limitFor: () => 1 }),
    TokenCache: new TokenCache(async () => ({ token: 't' })),
    ConsulRegistration: new ConsulRegistration({
      service: 'web',
      host: '127.0.0.1',
      port: 1,
      check: { ttlMs: 10_000 },
    }),
    FileJournal: new FileJournal('/nowhere'),
    FileSink: new FileSink({ path: '/nowhere/app.log' }),
    AckedStream: new AckedStream(() => undefined as never, { message: (item: string) => item, idOf: String }),
    GrpcBalancedPool: new GrpcBalancedPool(
      balancer,
      ({ address }, options) => new Client(address, credentials.createInsecure(), options),
    ),
    GrpcChannelPool: new GrpcChannelPool((options) => new Client('127.0.0.1:1', credentials.createInsecure(), options)),
    HttpClient: createHttpClient(undici),
    Paginator: new Paginator(pool, { from: 'rows', orderBy: [{ column: 'id' }] } as never),
    PostgresCounterStore: new PostgresCounterStore(pool),
    PostgresQuotaStore: new PostgresQuotaStore(pool),
    PostgresUsageSink: new PostgresUsageSink(pool),
    QueryBatcher: new QueryBatcher(pool),
    RedisBreakerShare: new RedisBreakerShare(redis),
    RedisCacheStore: new RedisCacheStore(redis),
    RedisInvalidationBus: new RedisInvalidationBus(redis),
    RedisLock: new RedisLock(redis),
    RedisPool: createRedisPool(() => new Redis({ lazyConnect: true }), { min: 0 }),
    RedisUsageStream: new RedisUsageStream(redis),
    RedisUsageWorker: new RedisUsageWorker(new RedisUsageStream(redis), new MemoryQuotaStore({ dedupe: 'event' })),
    SlowQueryLog: new SlowQueryLog(createPostgresPool(pg)),
    'Pool of pg': pool,
    'Pool of generic-pool': genericPool(),
    'Agent of undici': new undici.Agent(),
  }
}

/** A pool of resources that are nothing. */
export function genericPool(): GenericPool<object> {
  return createPool({ create: async () => ({}), destroy: async () => undefined }, { max: 7 })
}
