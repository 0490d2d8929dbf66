export type { IoredisClient, NodeRedisClient, NodeRedisCluster, RedisClient } from './redis-client.js'
export { RedisCounterStore, type RedisCounterStoreOptions } from './redis-counter-store.js'
