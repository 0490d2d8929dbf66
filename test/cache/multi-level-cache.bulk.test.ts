import { describe, expect } from 'vitest'
import { codeOf, reasonOf } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, expectCacheBooks, GateLoader, neverLoad } from './support/caches.js'
import { sharedScene } from './support/staged-store.js'

describe('getOrLoadMany', () => {
  inVirtualTime('reads the shared tier once and loads the rest at once, in the order of the keys', async (clock) => {
    const { cache, store, open } = sharedScene(clock)
    await open().setMany([
      ['shared', 'S'],
      ['also', 'A'],
    ])
    await cache.set('memory', 'M')
    store.log()
    const asked: string[][] = []
    const load = (keys: string[]): string[] => {
      asked.push([...keys])
      return keys.map((key) => key.toUpperCase())
    }

    const values = await cache.getOrLoadMany(['b', 'memory', 'shared', 'a', 'b', 'also'], load)
    await clock.advance(0)

    expect(values).toEqual(['B', 'M', 'S', 'A', 'B', 'A'])
    expect(asked).toEqual([['b', 'a']])
    expect(store.log('getMany', 'setMany')).toEqual(['getMany b,shared,a,also', 'setMany b,a'])
    expect(await cache.getMany(['a', 'b'])).toEqual(['A', 'B'])
    expectCacheBooks(cache, { offered: 8, hits: { l1: 3, l2: 2 }, loaded: 3 })
  })

  inVirtualTime('joins the keys that are in flight, single and bulk, and lets others join its own', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const single = cache.getOrLoad('a', gate.load)
    const asked: string[][] = []
    let answer: (values: string[]) => void = () => undefined
    const load = (keys: string[]): Promise<string[]> => {
      asked.push(keys)
      return new Promise((resolve) => {
        answer = resolve
      })
    }

    const first = cache.getOrLoadMany(['a', 'b'], load)
    const second = cache.getOrLoadMany(['b', 'a'], load)
    const joined = cache.getOrLoad('b', neverLoad)
    gate.call(0).answer('1')
    answer(['2'])

    expect(await Promise.all([single, first, second, joined])).toEqual(['1', ['1', '2'], ['2', '1'], '2'])
    expect(asked).toEqual([['b']])
    expectCacheBooks(cache, { loaded: 6 })
  })

  inVirtualTime('rejects with the first Error and caches the other keys', async (clock) => {
    const { cache } = cacheOn(clock)
    const errors = [new Error('first'), new Error('second')]

    const answer = cache.getOrLoadMany(['a', 'b', 'c', 'd'], () => ['A', errors[0] as Error, errors[1] as Error, 'D'])

    expect(await reasonOf(answer)).toBe(errors[0])
    expect(await cache.getMany(['a', 'b', 'c', 'd'])).toEqual(['A', undefined, undefined, 'D'])
    expectCacheBooks(cache, { loaded: 2, failed: 2, hits: { l1: 2, l2: 0 }, missed: 2 })
  })

  inVirtualTime('gives undefined for what the load has not found, and caches null', async (clock) => {
    const { cache } = cacheOn<string | null>(clock)

    expect(await cache.getOrLoadMany(['a', 'b'], () => [undefined, null])).toEqual([undefined, null])
    expect(await cache.getOrLoadMany(['a', 'b'], (keys) => keys)).toEqual(['a', null])
  })

  for (const [what, results] of [
    ['too few', ['a']],
    ['too many', ['a', 'b', 'c']],
    ['no', undefined],
    ['an object of', { 0: 'a', 1: 'b', length: 2 }],
  ] as const) {
    inVirtualTime(`with ${what} results rejects, and caches nothing`, async (clock) => {
      const { cache } = cacheOn(clock)

      const error = await reasonOf(cache.getOrLoadMany(['a', 'b'], () => results as never))

      expect(codeOf(error)).toBe('ERR_BATCH_RESULT')
      expect(cache.stats().l1.entries).toBe(0)
      expectCacheBooks(cache, { failed: 2 })
    })
  }

  inVirtualTime('with holes for results has found nothing', async (clock) => {
    const { cache } = cacheOn(clock)

    expect(await cache.getOrLoadMany(['a', 'b'], () => new Array(2))).toEqual([undefined, undefined])
  })

  inVirtualTime('of no keys asks nobody', async (clock) => {
    const { cache, store } = sharedScene(clock)

    expect(await cache.getOrLoadMany([], neverLoad)).toEqual([])
    expect(await cache.getMany([])).toEqual([])
    await cache.setMany([])
    await cache.deleteMany([])
    await cache.invalidateTags([])

    expect(store.log()).toEqual([])
  })

  inVirtualTime('keeps what was deleted meanwhile out, and the other keys in', async (clock) => {
    const { cache, store } = sharedScene(clock)
    const gate = new GateLoader<string[]>()
    const answer = cache.getOrLoadMany(['a', 'b'], () => gate.load('', undefined as never))
    await clock.advance(0)

    await cache.delete('a')
    gate.call(0).answer(['A', 'B'])
    expect(await answer).toEqual(['A', 'B'])
    await clock.advance(0)

    expect([cache.peek('a'), cache.peek('b')]).toEqual([undefined, 'B'])
    expect([await store.value('a'), await store.value('b')]).toEqual([undefined, 'B'])
    expect(cache.stats().loads.fenced).toBe(1)
  })

  inVirtualTime('serves stale keys at once, and loads them along with those that are missing', async (clock) => {
    const { cache } = cacheOn(clock, { ttlMs: 100, staleMs: 1000 })
    await cache.set('stale', 'old')
    await clock.advance(100)
    const asked: string[][] = []
    const load = (keys: string[]): string[] => {
      asked.push([...keys])
      return keys.map(() => 'new')
    }

    expect(await cache.getOrLoadMany(['stale', 'missing'], load)).toEqual(['old', 'new'])
    expect(asked).toEqual([['stale', 'missing']])
    expect(cache.peek('stale')).toBe('new')
  })
})

describe('setMany', () => {
  inVirtualTime('writes once, lets the last of two for a key count, and deletes what has no ttl', async (clock) => {
    const { cache, store } = sharedScene(clock)
    await cache.set('gone', 'old')
    await cache.set('other', 'old')
    store.log()

    await cache.setMany([
      ['a', '1'],
      ['gone', 'new', { ttlMs: 0 }],
      ['b', '2', { tags: ['tag'] }],
      ['a', '3'],
    ])

    expect(store.log('setMany', 'deleteMany').sort()).toEqual(['deleteMany gone', 'setMany a,b'])
    expect(await cache.getMany(['a', 'b', 'gone'])).toEqual(['3', '2', undefined])
    expect([await store.value('a'), await store.value('gone')]).toEqual(['3', undefined])
    await cache.invalidateTags(['tag'])
    expect(await cache.getMany(['a', 'b'])).toEqual(['3', undefined])
  })

  inVirtualTime('changes nothing where one of them is wrong', async (clock) => {
    const { cache } = cacheOn(clock)
    await cache.set('a', 'old')

    for (const wrong of [
      ['', 'x'],
      ['b', undefined],
      ['b', 'x', { ttlMs: Number.NaN }],
      'b',
      ['b', 'x', { tags: [''] }],
    ]) {
      expect(codeOf(await reasonOf(cache.setMany([['a', 'new'], wrong as never])))).toBe('ERR_OPTION')
    }

    expect(cache.peek('a')).toBe('old')
  })
})
