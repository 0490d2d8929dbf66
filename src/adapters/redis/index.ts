export type { PoolableClient, PoolableIoredis, PoolableNodeRedis } from './pooled-connection.js'
export type { IoredisClient, NodeRedisClient, NodeRedisCluster, RedisClient } from './redis-client.js'
export { RedisCounterStore, type RedisCounterStoreOptions } from './redis-counter-store.js'
export {
  createRedisPool,
  RedisPool,
  type RedisPoolEvents,
  type RedisPoolOptions,
  type RedisPoolStats,
} from './redis-pool.js'
