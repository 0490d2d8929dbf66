import { MultiLevelCache, type MultiLevelCacheOptions } from 'spillway'
import { FakeClock, MemoryCacheStore } from 'spillway/testing'
import { expect, test } from 'vitest'
import { GateLoader } from '../support/caches.js'

type Cache = MultiLevelCache<string>

/** What happens to a key while an older value of it is on its way. */
const writes: Readonly<Record<string, (cache: Cache) => Promise<void>>> = {
  delete: (cache) => cache.delete('key("x")'),
  deleteMany: (cache) => cache.deleteMany(['other', 'key("x")']),
  set: (cache) => cache.set('key("x")', 'new'),
  setMany: (cache) => cache.setMany([['key("x")', 'new']]),
  'set that lives no time': (cache) => cache.set('key("x")', 'new', { ttlMs: 0 }),
  invalidateTags: (cache) => cache.invalidateTags(['tag']),
  clear: (cache) => cache.clear(),
}

/** Ways on which a value comes into a cache. The key is what `wrap` calls it. */
interface Way {
  readonly options?: MultiLevelCacheOptions<string>
  /** What is to be there before. */
  readonly prepare?: (cache: Cache, elapse: (ms: number) => Promise<void>) => Promise<void>
  readonly begin: (cache: Cache, gate: GateLoader) => Promise<unknown>
}

const key = 'key("x")'
const tags = ['tag']
const setOld = (cache: Cache): Promise<void> => cache.set(key, 'old', { tags })

const ways: Readonly<Record<string, Way>> = {
  getOrLoad: { begin: (cache, gate) => cache.getOrLoad(key, gate.load, { tags }) },
  getOrLoadMany: {
    begin: (cache, gate) =>
      cache.getOrLoadMany([key], async ([only], context) => {
        context.setTags(key, tags)
        return [await gate.load(only as string, context as never)]
      }),
  },
  wrap: {
    begin: (cache, gate) => cache.wrap((_x: string) => gate.load(key, undefined as never), { name: 'key', tags })('x'),
  },
  warm: {
    begin: (cache, gate) => cache.warm([{ key, load: (one, context) => gate.load(one, context as never), tags }]),
  },
  'refresh ahead': {
    options: { refreshAheadRatio: 0 },
    prepare: setOld,
    begin: (cache, gate) => cache.getOrLoad(key, gate.load, { tags }),
  },
  'refresh of a stale value': {
    options: { ttlMs: 10, staleMs: 10_000 },
    prepare: async (cache, elapse) => {
      const set = setOld(cache)
      await elapse(20)
      await set
    },
    begin: (cache, gate) => cache.getOrLoad(key, gate.load, { tags }),
  },
  'notModified of a stale value': {
    options: { ttlMs: 10, serveStaleOnErrorMs: 10_000 },
    prepare: async (cache, elapse) => {
      const set = setOld(cache)
      await elapse(20)
      await set
    },
    begin: (cache, gate) =>
      cache.getOrLoad(
        key,
        async (one, context) => {
          await gate.load(one, context as never)
          return context.notModified()
        },
        { tags },
      ),
  },
  'promotion by get': { begin: (cache) => cache.get(key) },
  'promotion by getMany': { begin: (cache) => cache.getMany([key]) },
}

/** A store that answers reads when the test says so, as they were when they were asked. */
class HeldStore extends MemoryCacheStore {
  held: (() => void)[] | undefined

  override async getMany(keys: readonly string[]): ReturnType<MemoryCacheStore['getMany']> {
    const answer = await super.getMany(keys)
    const { held } = this
    if (held !== undefined) await new Promise<void>((resolve) => held.push(resolve))
    return answer
  }
}

const cases = Object.keys(ways).flatMap((way) =>
  Object.keys(writes).flatMap((write) =>
    ([true, false] as const).map((isShared) => [way, write, isShared ? 'a shared tier' : 'memory alone'] as const),
  ),
)

test.each(cases.filter(([way, , tiers]) => tiers !== 'memory alone' || !way.startsWith('promotion')))(
  '%s that %s overtakes leaves nothing old behind, with %s',
  async (wayName, writeName, tiers) => {
    const clock = new FakeClock()
    const store = new HeldStore({ clock })
    const way = ways[wayName] as Way
    const options = { clock, ...way.options, ...(tiers === 'a shared tier' ? { l2: store } : {}) }
    const gate = new GateLoader()
    const cache: Cache = new MultiLevelCache(options)
    const preparing = way.prepare?.(cache, (ms) => clock.advance(ms))
    await clock.advance(0)
    await preparing
    const isPromotion = wayName.startsWith('promotion')
    if (isPromotion) {
      const elsewhere: Cache = new MultiLevelCache(options)
      const set = setOld(elsewhere)
      await clock.advance(0)
      await set
      store.held = []
    }

    const reading = way.begin(cache, gate)
    await clock.advance(0)
    expect(isPromotion ? store.held : gate.calls).toHaveLength(1)
    const writing = (writes[writeName] as (cache: Cache) => Promise<void>)(cache)
    if (isPromotion) {
      for (const answer of store.held ?? []) answer()
      store.held = undefined
    } else gate.call(0).answer('old')
    await clock.advance(0)
    await Promise.allSettled([reading, writing])
    await clock.advance(0)

    const expected = writeName === 'set' || writeName === 'setMany' ? 'new' : undefined
    const heir: Cache = new MultiLevelCache(options)
    const found = Promise.all([cache.get(key), heir.get(key)])
    expect(cache.peek(key)).toBe(expected)
    await clock.advance(0)
    expect(await found).toEqual([expected, tiers === 'a shared tier' ? expected : undefined])
    const closing = Promise.all([cache.close(), heir.close()])
    await clock.advance(0)
    await closing
    expect(clock.pending).toBe(0)
  },
)
