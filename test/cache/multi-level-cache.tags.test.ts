import { describe, expect } from 'vitest'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, neverLoad } from './support/caches.js'
import { sharedScene } from './support/staged-store.js'

describe('tags', () => {
  inVirtualTime('invalidate what bears them, in both tiers and in every namespace', async (clock) => {
    const { cache, open } = sharedScene(clock)
    const users = cache.namespace<string>('users')
    await cache.set('a', '1', { tags: ['red', 'green'] })
    await cache.set('b', '2', { tags: ['blue'] })
    await users.getOrLoad('a', () => '3', { tags: ['red'] })
    await clock.advance(0)

    await users.invalidateTags(['red', 'unknown'])

    expect([cache.peek('a'), cache.peek('b'), users.peek('a')]).toEqual([undefined, '2', undefined])
    expect(await cache.getMany(['a', 'b'])).toEqual([undefined, '2'])
    expect(await users.get('a')).toBeUndefined()
    const other = open()
    expect(await other.getMany(['a', 'b'])).toEqual([undefined, '2'])
    await cache.set('a', 'again', { tags: ['red'] })
    expect(await other.get('a')).toBe('again')
  })

  inVirtualTime('come along when a value is read from the shared tier', async (clock) => {
    const { cache, open } = sharedScene(clock)
    await cache.set('a', '1', { tags: ['red'] })
    const other = open()
    await other.get('a')

    await other.invalidateTags(['red'])

    expect(other.peek('a')).toBeUndefined()
    expect(await other.get('a')).toBeUndefined()
  })

  inVirtualTime('are forgotten with the entries that had them', async (clock) => {
    const { cache } = cacheOn(clock, { l1: { maxEntries: 2 } })
    await cache.set('a', '1', { tags: ['red'] })
    await cache.set('a', '2', { tags: ['blue'] })
    await cache.invalidateTags(['red'])
    expect(cache.peek('a')).toBe('2')

    await cache.set('b', '3', { tags: ['blue'] })
    await cache.set('c', '4', { tags: ['blue'] })
    await cache.set('a', 'free')
    await cache.invalidateTags(['blue'])

    expect(await cache.getMany(['a', 'b', 'c'])).toEqual(['free', undefined, undefined])
  })

  inVirtualTime('of a stale value keep it from being served', async (clock) => {
    const { cache } = cacheOn(clock, { ttlMs: 100, staleMs: 10_000 })
    await cache.set('a', 'old', { tags: ['red'] })
    await clock.advance(100)

    await cache.invalidateTags(['red'])

    expect(await cache.getOrLoad('a', () => 'new')).toBe('new')
  })
})

describe('clear', () => {
  inVirtualTime('empties the cache and its namespaces, in both tiers', async (clock) => {
    const { cache, open } = sharedScene(clock)
    const users = cache.namespace('users')
    await cache.set('a', '1')
    await users.set('a', '2')

    await cache.clear()

    expect(cache.stats().l1.entries).toBe(0)
    expect(await cache.get('a')).toBeUndefined()
    expect(await users.get('a')).toBeUndefined()
    expect(await open().namespace('users').get('a')).toBeUndefined()
    await users.set('a', 'again')
    expect(await open().namespace('users').get('a')).toBe('again')
  })

  inVirtualTime('of a namespace leaves all outside it, names that look alike included', async (clock) => {
    const { cache, open } = sharedScene(clock)
    const users = (all: ReturnType<typeof open>) => all.namespace('users')
    const lists = (all: ReturnType<typeof open>) => [
      all,
      users(all),
      users(all).namespace('old'),
      all.namespace('users2'),
    ]
    for (const list of lists(cache)) await list.set('a', 'value')

    await users(cache).clear()

    const left = ['value', undefined, undefined, 'value']
    expect(lists(cache).map((list) => list.peek('a'))).toEqual(left)
    expect(await Promise.all(lists(cache).map((list) => list.get('a')))).toEqual(left)
    expect(await Promise.all(lists(open()).map((list) => list.get('a')))).toEqual(left)
  })
})

describe('a namespace', () => {
  inVirtualTime('has keys, a type and defaults of its own, and shares bounds and stats', async (clock) => {
    const { cache } = cacheOn(clock, { ttlMs: 100, l1: { maxEntries: 3 } })
    const numbers = cache.namespace<number>('numbers', { ttlMs: 50 })
    const nested = numbers.namespace<boolean>('nested', { staleMs: 1000 })
    await cache.set('a', 'text')
    await numbers.set('a', 1)
    await nested.set('a', false)

    expect([cache.peek('a'), numbers.peek('a'), nested.peek('a')]).toEqual(['text', 1, false])
    expect([numbers.path, nested.path]).toEqual(['cache/numbers', 'cache/numbers/nested'])
    await clock.advance(50)
    expect([cache.peek('a'), numbers.peek('a'), nested.peek('a')]).toEqual(['text', undefined, undefined])
    expect(await nested.getOrLoad('a', () => true)).toBe(false)
    await clock.advance(0)
    expect(nested.peek('a')).toBe(true)
    await numbers.set('b', 2)
    await numbers.set('c', 3)
    expect(cache.stats().l1).toMatchObject({ entries: 3, evictions: 2 })
  })

  inVirtualTime(
    'is found whatever became of it: emptied, filled by others, pushed out, written over',
    async (clock) => {
      const { cache } = cacheOn(clock, { l1: { maxEntries: 3 } })
      const users = cache.namespace<string>('users')
      const again = cache.namespace<string>('users')
      const peek = (): unknown[] => ['a', 'b', 'c', 'd'].map((key) => users.peek(key))
      await users.set('a', '1', { tags: ['tag'] })
      await again.set('a', '2')
      expect(users.peek('a')).toBe('2')
      await again.delete('a')
      expect(users.peek('a')).toBeUndefined()
      await again.setMany([
        ['a', '3'],
        ['b', '4', { tags: ['tag'] }],
        ['c', '5'],
      ])
      expect(users.peek('a')).toBe('3')
      await users.invalidateTags(['tag'])
      expect(peek()).toEqual(['3', undefined, '5', undefined])
      await again.set('b', '6')
      // A hit counts as a use.
      expect([users.peek('a'), await users.get('c')]).toEqual(['3', '5'])
      await cache.set('a', 'the root’s')
      expect(peek()).toEqual(['3', undefined, '5', undefined])
      expect(cache.peek('a')).toBe('the root’s')
      await users.namespace('within').set('a', '7')
      await users.clear()
      expect(peek()).toEqual([undefined, undefined, undefined, undefined])
      expect([cache.peek('a'), cache.stats().l1.entries]).toEqual(['the root’s', 1])
      await again.set('d', '8')
      expect(peek()).toEqual([undefined, undefined, undefined, '8'])
    },
  )

  inVirtualTime('of one name is one namespace, and its keys are nobody else’s', async (clock) => {
    const { cache, open } = sharedScene(clock)
    await cache.namespace('users').set('42', 'user')
    await cache.set('users:42', 'root')

    expect(cache.namespace('users').peek('42')).toBe('user')
    const other = open()
    expect(await other.namespace('users').get('42')).toBe('user')
    expect(await other.get('users:42')).toBe('root')
    await other.delete('users:42')
    expect(await other.namespace('users').get('42')).toBe('user')
  })
})

describe('wrap', () => {
  inVirtualTime('caches by the arguments, and forgets a result by them', async (clock) => {
    const { cache } = cacheOn<string | null>(clock)
    const calls: unknown[][] = []
    const find = cache.wrap(
      (id: number | string, filter?: { a?: number; b?: number }) => {
        calls.push([id, filter])
        return id === 0 ? null : `user ${id}`
      },
      { name: 'find' },
    )

    expect(await find(1)).toBe('user 1')
    expect(await find(1)).toBe('user 1')
    expect(await find('1')).toBe('user 1')
    expect(await find(1, { a: 1, b: 2 })).toBe('user 1')
    expect(await find(1, { b: 2, a: 1 })).toBe('user 1')
    expect([await find(0), await find(0)]).toEqual([null, null])
    expect(calls).toHaveLength(4)
    await find.invalidate(1)
    await find(1)
    await find('1')
    expect(calls).toHaveLength(5)
    expect(cache.peek('find(1)')).toBe('user 1')
  })

  inVirtualTime('with a key of its own, a ttl and tags; of one name twice shares the results', async (clock) => {
    const { cache } = cacheOn(clock)
    const options = { name: 'user', key: (user: { id: string }) => user.id, ttlMs: 50, tags: ['users'] }
    const one = cache.wrap((user: { id: string }) => user.id, options)
    const two = cache.wrap(neverLoad as (user: { id: string }) => string, options)

    expect(await one({ id: '7' })).toBe('7')
    expect(await two({ id: '7' })).toBe('7')
    expect(cache.peek('user:7')).toBe('7')
    await cache.invalidateTags(['users'])
    expect(cache.peek('user:7')).toBeUndefined()
    await one({ id: '7' })
    await clock.advance(50)
    expect(cache.peek('user:7')).toBeUndefined()
  })

  inVirtualTime('on a namespace keeps its results there', async (clock) => {
    const { cache } = cacheOn(clock)
    const users = cache.namespace<number>('users')

    expect(await users.wrap((n: number) => n * 2, { name: 'twice' })(4)).toBe(8)

    expect([users.peek('twice(4)'), cache.peek('twice(4)')]).toEqual([8, undefined])
  })
})
