import { randomUUID } from 'node:crypto'
import { type CacheEntry, type Cache as CachifiedCache, cachified, totalTtl } from '@epic-web/cachified'
import { createKeyv as createRedisKeyv } from '@keyv/redis'
import { createCache as createDedupe } from 'async-cache-dedupe'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { redisDriver } from 'bentocache/drivers/redis'
import { createCache as createManager } from 'cache-manager'
import { Cacheable, createKeyv } from 'cacheable'
import { MultiLevelCache } from 'spillway'
import { RedisCacheStore } from 'spillway/redis'
import { ColdKeys, Hits, type Item, itemOf, keysOf, neverLoad } from './harness/cache-answers.ts'
import type { Aim, Contender, Contest, Turns } from './harness/contest.ts'
import { atEnd, finish, ioredis, nodeRedis, url } from './harness/redis-contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// Caches on a real Redis: reads that memory can't answer, since it has room for one item of a thousand; a hundred keys in one call; a key
// that is nowhere while a thousand callers want it; and writes to both tiers. Each has a connection of its own, of the client that it
// takes: ioredis, or node-redis for cacheable and cache-manager, by way of @keyv/redis. async-cache-dedupe and cachified have one tier at a
// time, here Redis; the latter through an adapter of a few lines, as its readme shows one.
//
// What is by hand reads and writes JSON, knows no versions, no time-outs and no circuit, and lets old values overwrite new ones.

const count = 1000
const callers = 100
const crowd = 1000
const together = 100
const ttlMs = 300_000
const keys = keysOf(count)

const slower: Aim = { atMost: 1 }

/** A library, with what it has for each contest. */
interface Library {
  get?(key: string): PromiseLike<Item | undefined | null>
  getMany?(keys: string[]): PromiseLike<readonly (Item | undefined | null)[]>
  getOrLoad?(key: string, load: (key: string) => Promise<Item>): PromiseLike<Item | undefined>
  set?(key: string, value: Item): PromiseLike<unknown>
}

interface Named {
  readonly name: string
  readonly aim?: Aim
  /** Makes one whose memory has room for so many. */
  make(maxEntries: number): Promise<Library>
}

async function spillwayOver(
  client: ConstructorParameters<typeof RedisCacheStore>[0],
  maxEntries: number,
): Promise<Library> {
  const l2 = new RedisCacheStore(client, { prefix: randomUUID() })
  const cache = new MultiLevelCache<Item>({ l1: { maxEntries, ttlMs }, l2, ttlMs })
  atEnd(() => cache.close())
  return {
    get: (key) => cache.get(key),
    getMany: (many) => cache.getMany(many),
    getOrLoad: (key, load) => cache.getOrLoad(key, load),
    set: (key, value) => cache.set(key, value),
  }
}

const spillway: Named = {
  name: 'spillway over ioredis',
  make: async (maxEntries) => spillwayOver(await ioredis(), maxEntries),
}

const spillwayOnNodeRedis: Named = {
  name: 'spillway over node-redis',
  make: async (maxEntries) => spillwayOver(await nodeRedis(), maxEntries),
}

const bento: Named = {
  name: 'bentocache',
  async make(maxItems) {
    const store = bentostore()
      .useL1Layer(memoryDriver({ maxItems }))
      .useL2Layer(redisDriver({ connection: await ioredis(), prefix: randomUUID() }))
    const cache = new BentoCache({ default: 'store', stores: { store }, ttl: ttlMs })
    return {
      get: (key) => cache.get<Item>({ key }),
      getMany: (many) => Promise.all(many.map((key) => cache.get<Item>({ key }))),
      getOrLoad: (key, load) => cache.getOrSet({ key, factory: () => load(key) }),
      set: (key, value) => cache.set({ key, value }),
    }
  },
}

async function redisKeyv() {
  const keyv = createRedisKeyv(await url(), { namespace: randomUUID() })
  atEnd(() => keyv.disconnect())
  return keyv
}

const cacheable: Named = {
  name: 'cacheable',
  async make(lruSize) {
    const cache = new Cacheable({ primary: createKeyv({ lruSize }), secondary: await redisKeyv(), ttl: ttlMs })
    return {
      get: (key) => cache.get<Item>(key),
      getMany: (many) => cache.getMany<Item>(many),
      getOrLoad: (key, load) => cache.getOrSet(key, () => load(key)),
      set: (key, value) => cache.set(key, value),
    }
  },
}

const manager: Named = {
  name: 'cache-manager',
  async make(lruSize) {
    const cache = createManager({ stores: [createKeyv({ lruSize }), await redisKeyv()], ttl: ttlMs })
    return {
      get: (key) => cache.get<Item>(key),
      getMany: (many) => cache.mget<Item>(many),
      getOrLoad: (key, load) => cache.wrap(key, () => load(key)),
      set: (key, value) => cache.set(key, value),
    }
  },
}

const dedupe: Named = {
  name: 'async-cache-dedupe, Redis alone',
  async make() {
    let loadItem = neverLoad as (key: string) => Promise<Item>
    const client = await ioredis(`${randomUUID()}:`)
    const cache = createDedupe({ ttl: ttlMs / 1000, storage: { type: 'redis', options: { client: client as never } } })
    const items = cache.define('item', (key: string) => loadItem(key))
    return {
      get: (key) => items.item(key),
      getMany: (many) => Promise.all(many.map((key) => items.item(key))),
      getOrLoad(key, load) {
        loadItem = load
        return items.item(key)
      },
      set: (key, value) => cache.set('item', `item~${key}`, value, ttlMs / 1000),
    }
  },
}

const cachifiedOverRedis: Named = {
  name: 'cachified, Redis alone',
  async make() {
    const client = await ioredis(`${randomUUID()}:`)
    const cache: CachifiedCache<Item> = {
      async get(key) {
        const text = await client.get(key)
        return text === null ? null : (JSON.parse(text) as CacheEntry<Item>)
      },
      set: (key, value) => client.set(key, JSON.stringify(value), 'PX', totalTtl(value.metadata)),
      delete: (key) => client.del(key),
    }
    const read = (key: string, load: (key: string) => Promise<Item>): Promise<Item> =>
      cachified({ key, cache, ttl: ttlMs, getFreshValue: () => load(key) })
    return {
      get: (key) => read(key, neverLoad),
      getMany: (many) => Promise.all(many.map((key) => read(key, neverLoad))),
      getOrLoad: read,
      set: (key, value) => read(key, async () => value),
    }
  },
}

const byHand: Named = {
  name: 'ioredis by hand',
  async make() {
    const client = await ioredis(`${randomUUID()}:`)
    const parse = (text: string | null): Item | undefined => (text === null ? undefined : JSON.parse(text))
    const get = async (key: string): Promise<Item | undefined> => parse(await client.get(key))
    const set = (key: string, value: Item) => client.set(key, JSON.stringify(value), 'PX', ttlMs)
    return {
      get,
      getMany: async (many) => (await client.mget(many)).map(parse),
      async getOrLoad(key, load) {
        const found = await get(key)
        if (found !== undefined) return found
        const item = await load(key)
        await set(key, item)
        return item
      },
      set,
    }
  },
}

// --- what they do

type Method<K extends keyof Library> = NonNullable<Library[K]>

/** Fails where a library lacks what a contest is about. */
function methodOf<K extends keyof Library>(library: Library, method: K): Method<K> {
  const found = library[method]
  if (found === undefined) throw new Error(`it has no ${method}`)
  return found
}

/** Callers that each take one key after the other, until all have been taken. */
async function inTurns(work: (key: string, id: number) => Promise<void>): Promise<void> {
  let next = 0
  const caller = async (): Promise<void> => {
    while (next < count) {
      const id = next++
      await work(keys[id] as string, id)
    }
  }
  await Promise.all(Array.from({ length: callers }, caller))
}

async function fill(library: Library): Promise<void> {
  const set = methodOf(library, 'set')
  await inTurns(async (key, id) => void (await set(key, itemOf(id))))
}

const reads = ({ make, ...named }: Named): Contender => ({
  ...named,
  prepare: async (): Promise<Turns> => {
    const library = await make(1)
    await fill(library)
    const get = methodOf(library, 'get')
    const hits = new Hits(count)
    return {
      async: true,
      turn: async () => {
        let sum = 0
        await inTurns(async (key) => {
          const item = await get(key)
          sum += item?.id ?? Number.NaN
        })
        hits.take(sum)
      },
      check: () => hits.check(),
    }
  },
})

const lots = Array.from({ length: count / together }, (_, lot) => keys.slice(lot * together, (lot + 1) * together))

const bulkReads = ({ make, ...named }: Named): Contender => ({
  ...named,
  prepare: async (): Promise<Turns> => {
    const library = await make(1)
    await fill(library)
    const getMany = methodOf(library, 'getMany')
    const hits = new Hits(count)
    return {
      async: true,
      turn: async () => {
        let sum = 0
        for (const lot of lots) for (const item of await getMany(lot)) sum += item?.id ?? Number.NaN
        hits.take(sum)
      },
      check: () => hits.check(),
    }
  },
})

const stampede = ({ make, ...named }: Named): Contender => ({
  ...named,
  prepare: async (): Promise<Turns> => {
    const getOrLoad = methodOf(await make(count), 'getOrLoad')
    const cold = new ColdKeys(crowd)
    return {
      async: true,
      turn: async () => {
        const key = cold.next()
        cold.take(await Promise.all(Array.from({ length: crowd }, () => getOrLoad(key, cold.load))))
      },
      check: () => cold.check(),
      note: () => cold.loads(),
    }
  },
})

const writes = ({ make, ...named }: Named): Contender => ({
  ...named,
  prepare: async (): Promise<Turns> => {
    const library = await make(count)
    const set = methodOf(library, 'set')
    const get = methodOf(library, 'get')
    let turns = 0
    return {
      async: true,
      turn: () => {
        turns++
        return inTurns(async (key, id) => void (await set(key, itemOf(turns * count + id))))
      },
      check: async () => {
        const id = turns % count
        const item = await get(keys[id] as string)
        if (item?.id !== turns * count + id) throw new Error(`wrong answer: ${item?.id} is there after turn ${turns}`)
      },
    }
  },
})

const peers = [bento, cacheable, manager, dedupe, cachifiedOverRedis]
const aimed = (named: Named, aim: Aim): Named => ({ ...named, aim })

const contest = (
  name: string,
  operation: string,
  contender: (named: Named) => Contender,
  named: readonly [Named, ...Named[]],
): Contest => {
  const [first, ...rest] = named
  return {
    name,
    operation,
    operations: count,
    contenders: [contender(first), ...rest.map(contender)],
    finish,
  }
}

// A bound beside what is by hand holds what versions, times, time-outs and the circuit cost. Callers who want or set a key each share
// commands, so that there is another library for an aim, too.
await serveSuite([
  contest('L2 hit, 100 callers', 'hit', reads, [
    spillway,
    spillwayOnNodeRedis,
    aimed(byHand, { atMost: 2.5 }),
    aimed(bento, slower),
    ...peers.filter((peer) => peer !== bento),
  ]),
  contest('L2 hit, 100 keys a call', 'key', bulkReads, [
    spillway,
    spillwayOnNodeRedis,
    byHand,
    aimed(bento, slower),
    cacheable,
    manager,
    dedupe,
    aimed(cachifiedOverRedis, slower),
  ]),
  contest('a miss in both tiers, 1000 callers of one key at once', 'caller', stampede, [
    spillway,
    aimed(bento, slower),
    aimed(cacheable, slower),
    aimed(manager, slower),
    // All callers get one promise, which none of them can give up alone.
    dedupe,
    aimed(cachifiedOverRedis, slower),
    byHand,
  ]),
  // cachified writes only what it has looked for before.
  contest('a write to both tiers, 100 callers', 'write', writes, [
    spillway,
    spillwayOnNodeRedis,
    aimed(byHand, { atMost: 3 }),
    aimed(bento, slower),
    ...peers.filter((peer) => peer !== bento && peer !== cachifiedOverRedis),
  ]),
])
