import { type CacheEntry, type Cache as CachifiedCache, cachified, totalTtl } from '@epic-web/cachified'
import { createCache as createDedupe } from 'async-cache-dedupe'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { createCache as createManager } from 'cache-manager'
import { Cacheable, createKeyv } from 'cacheable'
import { LRUCache } from 'lru-cache'
import { MultiLevelCache } from 'spillway'
import { ColdKeys, Hits, type Item, itemOf, keysOf, neverLoad } from './harness/cache-answers.ts'
import type { Aim, Contender, Contest, Turns } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// A cache in memory, without a second tier: what a hit costs, read at once, awaited, or through the call that would load; a hundred keys
// in one call; and a key that isn't there while a thousand callers want it. All hold the same small objects for five minutes, in room
// for twice as many. Each contender has a loop of its own, but for the two ways of bentocache and of cacheable, which share theirs: beside
// what their hits take, what a loop of its own saves is little.
//
// By default bentocache keeps JSON, and parses it for each reader, and cacheable copies what it hands out; both can be told not to, which
// is shown as well. lru-cache has its own time to live switched on only where its name says so.

const count = 1000
const callers = 1000
const together = 100
const maxEntries = 2 * count
const ttlMs = 300_000
const keys = keysOf(count)

const own: Aim = { atMost: 1.5 }
const muchFaster: Aim = { timesFaster: 30 }
const slower: Aim = { atMost: 1 }

const hits = (turn: (answers: Hits) => void | Promise<void>, async: boolean): Turns => {
  const answers = new Hits(count)
  return { async, turn: () => turn(answers), check: () => answers.check() }
}
const awaited = (turn: (answers: Hits) => Promise<void>): Turns => hits(turn, true)

const named = (name: string, aim: Aim | undefined, prepare: Contender['prepare']): Contender => ({
  name,
  ...(aim && { aim }),
  prepare,
})

// --- each library, with all the items in it

async function filledSpillway(): Promise<MultiLevelCache<Item>> {
  const cache = new MultiLevelCache<Item>({ l1: { maxEntries }, ttlMs })
  for (const [id, key] of keys.entries()) await cache.set(key, itemOf(id))
  return cache
}

function filledLru(options: { ttl?: number } = {}): LRUCache<string, Item> {
  const cache = new LRUCache<string, Item>({ max: maxEntries, fetchMethod: neverLoad, ...options })
  for (const [id, key] of keys.entries()) cache.set(key, itemOf(id))
  return cache
}

const bentoOf = (serialize: boolean) =>
  new BentoCache({
    default: 'memory',
    stores: { memory: bentostore().useL1Layer(memoryDriver({ maxItems: maxEntries, serialize })) },
    ttl: ttlMs,
  })

async function filledBento(serialize: boolean) {
  const cache = bentoOf(serialize)
  for (const [id, key] of keys.entries()) await cache.set({ key, value: itemOf(id) })
  return cache
}

const cacheableOf = (useClone: boolean): Cacheable =>
  new Cacheable({ primary: createKeyv({ lruSize: maxEntries, useClone }), ttl: ttlMs })

async function filledCacheable(useClone: boolean): Promise<Cacheable> {
  const cache = cacheableOf(useClone)
  for (const [id, key] of keys.entries()) await cache.set(key, itemOf(id))
  return cache
}

const managerOf = () => createManager({ stores: [createKeyv({ lruSize: maxEntries })], ttl: ttlMs })

async function filledManager() {
  const cache = managerOf()
  for (const [id, key] of keys.entries()) await cache.set(key, itemOf(id))
  return cache
}

const dedupeOf = (load: (key: string) => Promise<Item>) =>
  createDedupe({ ttl: ttlMs / 1000, storage: { type: 'memory', options: { size: maxEntries } as never } }).define(
    'item',
    load,
  )

async function filledDedupe() {
  let filled = false
  const cache = dedupeOf((key) => (filled ? neverLoad() : Promise.resolve(itemOf(Number(key.slice(5))))))
  for (const key of keys) await cache.item(key)
  filled = true
  return cache
}

/** As its readme has it. */
function cachifiedLru(): CachifiedCache<Item> {
  const lru = new LRUCache<string, CacheEntry<Item>>({ max: maxEntries })
  return {
    set(key, value) {
      const ttl = totalTtl(value.metadata)
      return lru.set(key, value, {
        ...(ttl !== Number.POSITIVE_INFINITY && { ttl }),
        start: value.metadata.createdTime,
      })
    },
    get: (key) => lru.get(key),
    delete: (key) => lru.delete(key),
  }
}

async function filledCachified(): Promise<CachifiedCache<Item>> {
  const cache = cachifiedLru()
  for (const [id, key] of keys.entries()) await cachified({ key, cache, ttl: ttlMs, getFreshValue: () => itemOf(id) })
  return cache
}

// --- a hit, at once

const peeks: Contest['contenders'] = [
  named('spillway, peek', undefined, async () => {
    const cache = await filledSpillway()
    return hits((answers) => {
      let sum = 0
      for (const key of keys) sum += cache.peek(key)?.id ?? Number.NaN
      answers.take(sum)
    }, false)
  }),
  named('lru-cache, get', own, () => {
    const cache = filledLru()
    return hits((answers) => {
      let sum = 0
      for (const key of keys) sum += cache.get(key)?.id ?? Number.NaN
      answers.take(sum)
    }, false)
  }),
  named('lru-cache with a ttl, get', undefined, () => {
    const cache = filledLru({ ttl: ttlMs })
    return hits((answers) => {
      let sum = 0
      for (const key of keys) sum += cache.get(key)?.id ?? Number.NaN
      answers.take(sum)
    }, false)
  }),
]

// --- a hit, awaited

/** Reads and loads by the same call: it is in two contests, of which each has a process of its own. */
const lruFetch = named('lru-cache, fetch', own, () => {
  const cache = filledLru()
  return awaited(async (answers) => {
    let sum = 0
    for (const key of keys) sum += (await cache.fetch(key))?.id ?? Number.NaN
    answers.take(sum)
  })
})

const bentoGets = (name: string, aim: Aim | undefined, serialize: boolean): Contender =>
  named(name, aim, async () => {
    const cache = await filledBento(serialize)
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.get<Item>({ key })).id
      answers.take(sum)
    })
  })

const cacheableGets = (name: string, aim: Aim | undefined, useClone: boolean): Contender =>
  named(name, aim, async () => {
    const cache = await filledCacheable(useClone)
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.get<Item>(key))?.id ?? Number.NaN
      answers.take(sum)
    })
  })

const gets: Contest['contenders'] = [
  named('spillway, get', undefined, async () => {
    const cache = await filledSpillway()
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.get(key))?.id ?? Number.NaN
      answers.take(sum)
    })
  }),
  lruFetch,
  named('lru-cache, get, awaited', undefined, () => {
    const cache = filledLru()
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.get(key))?.id ?? Number.NaN
      answers.take(sum)
    })
  }),
  bentoGets('bentocache, get', muchFaster, true),
  bentoGets('bentocache, serialize false, get', undefined, false),
  cacheableGets('cacheable, get', muchFaster, true),
  cacheableGets('cacheable, useClone false, get', undefined, false),
  named('cache-manager, get', slower, async () => {
    const cache = await filledManager()
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.get<Item>(key))?.id ?? Number.NaN
      answers.take(sum)
    })
  }),
]

// --- a hit by the call that would load

const bentoLoads = (name: string, aim: Aim | undefined, serialize: boolean): Contender =>
  named(name, aim, async () => {
    const cache = await filledBento(serialize)
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.getOrSet({ key, factory: neverLoad })).id
      answers.take(sum)
    })
  })

const cacheableLoads = (name: string, aim: Aim | undefined, useClone: boolean): Contender =>
  named(name, aim, async () => {
    const cache = await filledCacheable(useClone)
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.getOrSet(key, neverLoad))?.id ?? Number.NaN
      answers.take(sum)
    })
  })

const loads: Contest['contenders'] = [
  named('spillway, getOrLoad', undefined, async () => {
    const cache = await filledSpillway()
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.getOrLoad(key, neverLoad)).id
      answers.take(sum)
    })
  }),
  lruFetch,
  named('lru-cache with a ttl, fetch', undefined, () => {
    const cache = filledLru({ ttl: ttlMs })
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.fetch(key))?.id ?? Number.NaN
      answers.take(sum)
    })
  }),
  bentoLoads('bentocache, getOrSet', muchFaster, true),
  bentoLoads('bentocache, serialize false, getOrSet', undefined, false),
  cacheableLoads('cacheable, getOrSet', muchFaster, true),
  cacheableLoads('cacheable, useClone false, getOrSet', undefined, false),
  named('cache-manager, wrap', slower, async () => {
    const cache = await filledManager()
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.wrap(key, neverLoad)).id
      answers.take(sum)
    })
  }),
  named('async-cache-dedupe', slower, async () => {
    const cache = await filledDedupe()
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cache.item(key)).id
      answers.take(sum)
    })
  }),
  named('cachified over lru-cache', slower, async () => {
    const cache = await filledCachified()
    return awaited(async (answers) => {
      let sum = 0
      for (const key of keys) sum += (await cachified({ key, cache, ttl: ttlMs, getFreshValue: neverLoad })).id
      answers.take(sum)
    })
  }),
]

// --- a hundred keys in a call

const lots = Array.from({ length: count / together }, (_, lot) => keys.slice(lot * together, (lot + 1) * together))
const add = (sum: number, item: Item | undefined | null): number => sum + (item?.id ?? Number.NaN)

const cacheableMany = (name: string, aim: Aim | undefined, useClone: boolean): Contender =>
  named(name, aim, async () => {
    const cache = await filledCacheable(useClone)
    return awaited(async (answers) => {
      let sum = 0
      for (const lot of lots) sum = (await cache.getMany<Item>(lot)).reduce(add, sum)
      answers.take(sum)
    })
  })

const many: Contest['contenders'] = [
  named('spillway, getMany', undefined, async () => {
    const cache = await filledSpillway()
    return awaited(async (answers) => {
      let sum = 0
      for (const lot of lots) sum = (await cache.getMany(lot)).reduce(add, sum)
      answers.take(sum)
    })
  }),
  named('lru-cache, a get for each', undefined, () => {
    const cache = filledLru()
    return awaited(async (answers) => {
      let sum = 0
      for (const lot of lots) sum = lot.map((key) => cache.get(key)).reduce(add, sum)
      answers.take(sum)
    })
  }),
  named('bentocache, a get for each', muchFaster, async () => {
    const cache = await filledBento(true)
    return awaited(async (answers) => {
      let sum = 0
      for (const lot of lots) sum = (await Promise.all(lot.map((key) => cache.get<Item>({ key })))).reduce(add, sum)
      answers.take(sum)
    })
  }),
  cacheableMany('cacheable, getMany', slower, true),
  cacheableMany('cacheable, useClone false, getMany', undefined, false),
  named('cache-manager, mget', slower, async () => {
    const cache = await filledManager()
    return awaited(async (answers) => {
      let sum = 0
      for (const lot of lots) sum = (await cache.mget<Item>(lot)).reduce(add, sum)
      answers.take(sum)
    })
  }),
  named('async-cache-dedupe, a call for each', slower, async () => {
    const cache = await filledDedupe()
    return awaited(async (answers) => {
      let sum = 0
      for (const lot of lots) sum = (await Promise.all(lot.map((key) => cache.item(key)))).reduce(add, sum)
      answers.take(sum)
    })
  }),
  named('cachified over lru-cache, a call for each', slower, async () => {
    const cache = await filledCachified()
    const read = (key: string): Promise<Item> => cachified({ key, cache, ttl: ttlMs, getFreshValue: neverLoad })
    return awaited(async (answers) => {
      let sum = 0
      for (const lot of lots) sum = (await Promise.all(lot.map(read))).reduce(add, sum)
      answers.take(sum)
    })
  }),
]

// --- a key that isn't there, and a thousand who want it

/** All callers call in one turn. */
function stampede(make: (keys: ColdKeys) => (key: string) => Promise<Item | undefined>): () => Turns {
  return () => {
    const cold = new ColdKeys(callers)
    const read = make(cold)
    return {
      async: true,
      turn: async () => {
        const key = cold.next()
        cold.take(await Promise.all(Array.from({ length: callers }, () => read(key))))
      },
      check: () => cold.check(),
      note: () => cold.loads(),
    }
  }
}

const stampedes: Contest['contenders'] = [
  named(
    'spillway, getOrLoad',
    undefined,
    stampede(({ load }) => {
      const cache = new MultiLevelCache<Item>({ l1: { maxEntries }, ttlMs })
      return (key) => cache.getOrLoad(key, load)
    }),
  ),
  named(
    'lru-cache, fetch',
    { atMost: 1.5 },
    stampede(({ load }) => {
      const cache = new LRUCache<string, Item>({ max: maxEntries, fetchMethod: load })
      return (key) => cache.fetch(key)
    }),
  ),
  named(
    'bentocache, getOrSet',
    slower,
    stampede(({ load }) => {
      const cache = bentoOf(true)
      return (key) => cache.getOrSet({ key, factory: () => load(key) })
    }),
  ),
  named(
    'cacheable, getOrSet',
    slower,
    stampede(({ load }) => {
      const cache = cacheableOf(true)
      return (key) => cache.getOrSet(key, () => load(key))
    }),
  ),
  named(
    'cache-manager, wrap',
    slower,
    stampede(({ load }) => {
      const cache = managerOf()
      return (key) => cache.wrap(key, () => load(key))
    }),
  ),
  named(
    // All callers get one promise, which none of them can give up alone.
    'async-cache-dedupe',
    undefined,
    stampede(({ load }) => {
      const cache = dedupeOf(load)
      return (key) => cache.item(key)
    }),
  ),
  named(
    'cachified over lru-cache',
    slower,
    stampede(({ load }) => {
      const cache = cachifiedLru()
      return (key) => cachified({ key, cache, ttl: ttlMs, getFreshValue: () => load(key) })
    }),
  ),
  named(
    'no cache',
    undefined,
    stampede(({ load }) => load),
  ),
]

const contest = (name: string, operation: string, contenders: Contest['contenders']): Contest => ({
  name,
  operation,
  operations: count,
  contenders,
})

await serveSuite([
  contest('L1 hit, at once', 'hit', peeks),
  contest('L1 hit, awaited', 'hit', gets),
  contest('L1 hit, by the call that would load', 'hit', loads),
  contest('L1 hit, 100 keys a call', 'key', many),
  contest(`a miss, ${callers} callers of one key at once`, 'caller', stampedes),
])
