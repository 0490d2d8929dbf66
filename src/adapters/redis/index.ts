export type { CacheCompression, CacheSerializer } from './cache-payload.js'
export type { UnreadableReason } from './cache-record.js'
export { jsonSerializer } from './json-serializer.js'
export type { PoolableClient, PoolableIoredis, PoolableNodeRedis } from './pooled-connection.js'
export type { ProbeGateOptions } from './probe-gate.js'
export {
  RedisBreakerShare,
  type RedisBreakerShareEvents,
  type RedisBreakerShareOptions,
  type RedisBreakerShareStats,
} from './redis-breaker-share.js'
export { RedisCacheStore } from './redis-cache-store.js'
export type {
  RedisCacheStoreEvents,
  RedisCacheStoreOptions,
  RedisCacheStoreStats,
} from './redis-cache-store-options.js'
export type { IoredisClient, NodeRedisClient, NodeRedisCluster, RedisClient } from './redis-client.js'
export { RedisCounterStore, type RedisCounterStoreOptions } from './redis-counter-store.js'
export { RedisInvalidationBus } from './redis-invalidation-bus.js'
export type {
  RedisInvalidationBusEvents,
  RedisInvalidationBusOptions,
  RedisInvalidationBusStats,
} from './redis-invalidation-bus-options.js'
export type { LeaseLoss, RedisLease } from './redis-lease.js'
export { RedisLock } from './redis-lock.js'
export type { AcquireOptions, RedisLockEvents, RedisLockOptions, RedisLockStats } from './redis-lock-options.js'
export {
  createRedisPool,
  RedisPool,
  type RedisPoolEvents,
  type RedisPoolOptions,
  type RedisPoolStats,
} from './redis-pool.js'
export { RedisQuotaStore, type RedisQuotaStoreOptions } from './redis-quota-store.js'
export {
  RedisUsageStream,
  type RedisUsageStreamEvents,
  type RedisUsageStreamOptions,
  type RedisUsageStreamStats,
  type UsageGroupStatus,
  type UsageStreamStatus,
} from './redis-usage-stream.js'
export {
  RedisUsageWorker,
  type RedisUsageWorkerEvents,
  type RedisUsageWorkerOptions,
  type RedisUsageWorkerStats,
} from './redis-usage-worker.js'
export type { PublishVerdict, ShareableBreaker } from './shared-circuit.js'
export type { DeadLettersOptions, UsageDeadLetter } from './usage-stream-dead-letters.js'
export type { UsageTrouble } from './usage-stream-health.js'
export type { UsageWriteFailure } from './usage-stream-writer.js'
