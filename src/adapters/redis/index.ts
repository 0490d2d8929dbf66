export type { PoolableClient, PoolableIoredis, PoolableNodeRedis } from './pooled-connection.js'
export type { ProbeGateOptions } from './probe-gate.js'
export {
  RedisBreakerShare,
  type RedisBreakerShareEvents,
  type RedisBreakerShareOptions,
  type RedisBreakerShareStats,
} from './redis-breaker-share.js'
export type { IoredisClient, NodeRedisClient, NodeRedisCluster, RedisClient } from './redis-client.js'
export { RedisCounterStore, type RedisCounterStoreOptions } from './redis-counter-store.js'
export {
  createRedisPool,
  RedisPool,
  type RedisPoolEvents,
  type RedisPoolOptions,
  type RedisPoolStats,
} from './redis-pool.js'
export type { PublishVerdict, ShareableBreaker } from './shared-circuit.js'
