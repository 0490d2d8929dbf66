import {
  type CacheEntry,
  type Cache as CachifiedCache,
  cachified,
  createCacheEntry,
  totalTtl,
} from '@epic-web/cachified'
import { createKeyv as createRedisKeyv } from '@keyv/redis'
import { createCache as createDedupe } from 'async-cache-dedupe'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { redisBusDriver, redisDriver } from 'bentocache/drivers/redis'
import { createCache as createManager } from 'cache-manager'
import { Cacheable, createKeyv, type Keyv } from 'cacheable'
import { Redis } from 'ioredis'
import { LRUCache } from 'lru-cache'
import { MultiLevelCache } from 'spillway'
import { RedisCacheStore, RedisInvalidationBus } from 'spillway/redis'

/** Where the second tier is, if there is one, and under which prefix. */
export interface Shared {
  readonly port: number
  readonly prefix: string
}

/** A cache of a process, whatever the library calls its methods. */
export interface RacingCache {
  getOrLoad(key: string, load: () => Promise<string>): Promise<string | undefined>
  delete(key: string): Promise<unknown>
  /** Left out where the library has no way to write a value. */
  set?(key: string, value: string): Promise<unknown>
  close(): Promise<unknown>
}

/** A library, as its documentation has it used. */
export interface Contestant {
  readonly name: string
  /** The version, by the package's name. */
  readonly package: string
  /** Which tiers it has together: some have one at a time. */
  readonly tiers: 'L1, L2 and a bus' | 'L1 and L2' | 'L1 or L2' | 'L1'
  /** Makes a process's cache; undefined where it can't be had with a second tier. */
  make(shared: Shared | undefined): RacingCache | undefined
}

const ttlMs = 300_000
const max = 1000

const connectTo = ({ port }: Shared): Redis => new Redis({ port, host: '127.0.0.1' })

const spillway: Contestant = {
  name: 'spillway',
  package: 'spillway',
  tiers: 'L1, L2 and a bus',
  make(shared) {
    if (shared === undefined) {
      const cache = new MultiLevelCache<string>({ ttlMs })
      return {
        getOrLoad: (key, load) => cache.getOrLoad(key, load),
        delete: (key) => cache.delete(key),
        set: (key, value) => cache.set(key, value),
        close: () => cache.close(),
      }
    }
    const redis = connectTo(shared)
    const bus = new RedisInvalidationBus(redis, { channel: `${shared.prefix}:bus` })
    const cache = new MultiLevelCache<string>({
      ttlMs,
      l1: { ttlMs },
      l2: new RedisCacheStore(redis, { prefix: shared.prefix }),
      bus,
    })
    return {
      getOrLoad: (key, load) => cache.getOrLoad(key, load),
      delete: (key) => cache.delete(key),
      set: (key, value) => cache.set(key, value),
      async close() {
        await cache.close()
        await bus.close()
        redis.disconnect()
      },
    }
  },
}

const bento: Contestant = {
  name: 'bentocache',
  package: 'bentocache',
  tiers: 'L1, L2 and a bus',
  make(shared) {
    const memory = bentostore().useL1Layer(memoryDriver({ maxItems: max }))
    const redis = shared && connectTo(shared)
    const store =
      shared && redis
        ? memory
            .useL2Layer(redisDriver({ connection: redis, prefix: shared.prefix }))
            .useBus(redisBusDriver({ connection: { port: shared.port, host: '127.0.0.1' } }))
        : memory
    const cache = new BentoCache({ default: 'store', stores: { store }, ttl: ttlMs })
    return {
      getOrLoad: (key, load) => cache.getOrSet({ key, factory: load }),
      delete: (key) => cache.delete({ key }),
      set: (key, value) => cache.set({ key, value }),
      close: () => cache.disconnectAll(),
    }
  },
}

/** What cacheable and cache-manager take for a second tier. */
const keyvOverRedis = ({ port, prefix }: Shared): Keyv =>
  createRedisKeyv(`redis://127.0.0.1:${port}`, { namespace: prefix })

const cacheable: Contestant = {
  name: 'cacheable',
  package: 'cacheable',
  tiers: 'L1 and L2',
  make(shared) {
    const secondary = shared && keyvOverRedis(shared)
    const cache = new Cacheable({ ttl: ttlMs, ...(secondary && { secondary }) })
    return {
      getOrLoad: (key, load) => cache.getOrSet(key, load),
      delete: (key) => cache.delete(key),
      set: (key, value) => cache.set(key, value),
      close: () => cache.disconnect(),
    }
  },
}

const manager: Contestant = {
  name: 'cache-manager',
  package: 'cache-manager',
  tiers: 'L1 and L2',
  make(shared) {
    const cache = createManager({
      ttl: ttlMs,
      stores: [createKeyv({ lruSize: max }), ...(shared ? [keyvOverRedis(shared)] : [])],
    })
    return {
      getOrLoad: (key, load) => cache.wrap(key, load),
      delete: (key) => cache.del(key),
      set: (key, value) => cache.set(key, value),
      close: () => cache.disconnect(),
    }
  },
}

const dedupe: Contestant = {
  name: 'async-cache-dedupe',
  package: 'async-cache-dedupe',
  tiers: 'L1 or L2',
  make(shared) {
    const redis = shared && new Redis({ port: shared.port, host: '127.0.0.1', keyPrefix: `${shared.prefix}:` })
    const loads = new Map<string, () => Promise<string>>()
    const cache = createDedupe({
      ttl: ttlMs / 1000,
      storage: (redis ? { type: 'redis', options: { client: redis } } : { type: 'memory', options: {} }) as never,
    }).define('item', (key: string) => loads.get(key)?.() ?? Promise.reject(new Error(`no loader for ${key}`)))
    return {
      getOrLoad(key, load) {
        loads.set(key, load)
        return cache.item(key)
      },
      delete: (key) => cache.clear('item', key),
      close: async () => redis?.disconnect(),
    }
  },
}

/** cachified takes a cache of one's own, here as its readme has it: lru-cache, or strings in Redis. */
function cachifiedCache(redis: Redis | undefined, prefix: string): CachifiedCache<string> {
  const lru = new LRUCache<string, CacheEntry<string>>({ max })
  if (redis === undefined) {
    return {
      get: (key) => lru.get(key),
      set: (key, value) => lru.set(key, value, { ttl: totalTtl(value.metadata), start: value.metadata.createdTime }),
      delete: (key) => lru.delete(key),
    }
  }
  return {
    async get(key) {
      const text = await redis.get(`${prefix}:${key}`)
      return text === null ? null : JSON.parse(text)
    },
    set: (key, value) => redis.set(`${prefix}:${key}`, JSON.stringify(value), 'PX', totalTtl(value.metadata)),
    delete: (key) => redis.del(`${prefix}:${key}`),
  }
}

const epicCachified: Contestant = {
  name: 'cachified',
  package: '@epic-web/cachified',
  tiers: 'L1 or L2',
  make(shared) {
    const redis = shared && connectTo(shared)
    const cache = cachifiedCache(redis, shared?.prefix ?? '')
    return {
      getOrLoad: (key, load) => cachified({ key, cache, ttl: ttlMs, getFreshValue: load }),
      delete: async (key) => cache.delete(key),
      set: async (key, value) => cache.set(key, createCacheEntry(value, { ttl: ttlMs })),
      close: async () => redis?.disconnect(),
    }
  },
}

const lru: Contestant = {
  name: 'lru-cache',
  package: 'lru-cache',
  tiers: 'L1',
  make(shared) {
    if (shared) return undefined
    const cache = new LRUCache<string, string, () => Promise<string>>({
      max,
      fetchMethod: (_key, _stale, { context }) => context(),
    })
    return {
      getOrLoad: (key, load) => cache.fetch(key, { context: load }),
      delete: async (key) => cache.delete(key),
      set: async (key, value) => cache.set(key, value),
      close: async () => undefined,
    }
  },
}

export const contestants: readonly Contestant[] = [spillway, bento, cacheable, manager, dedupe, epicCachified, lru]
