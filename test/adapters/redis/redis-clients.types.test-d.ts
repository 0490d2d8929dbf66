import type { Cluster, Redis } from 'ioredis'
import type { Cluster as Cluster5, Redis as Redis5 } from 'ioredis5'
import type { createClient, createCluster } from 'redis'
import type { createClient as createClient5, createCluster as createCluster5 } from 'redis5'
import type {
  IoredisClient,
  NodeRedisClient,
  NodeRedisCluster,
  PoolableIoredis,
  PoolableNodeRedis,
} from 'spillway/redis'
import { expectTypeOf, test } from 'vitest'

test('the clients of ioredis are what the adapter asks for', () => {
  expectTypeOf<Redis>().toExtend<IoredisClient>()
  expectTypeOf<Redis5>().toExtend<IoredisClient>()
  expectTypeOf<Cluster>().toExtend<IoredisClient>()
  expectTypeOf<Cluster5>().toExtend<IoredisClient>()
  expectTypeOf<Redis>().toExtend<PoolableIoredis>()
  expectTypeOf<Redis5>().toExtend<PoolableIoredis>()
})

test('the clients of node-redis are what the adapter asks for', () => {
  expectTypeOf<ReturnType<typeof createClient>>().toExtend<NodeRedisClient>()
  expectTypeOf<ReturnType<typeof createClient5>>().toExtend<NodeRedisClient>()
  expectTypeOf<ReturnType<typeof createCluster>>().toExtend<NodeRedisCluster>()
  expectTypeOf<ReturnType<typeof createCluster5>>().toExtend<NodeRedisCluster>()
  expectTypeOf<ReturnType<typeof createClient>>().toExtend<PoolableNodeRedis>()
  expectTypeOf<ReturnType<typeof createClient5>>().toExtend<PoolableNodeRedis>()
})
