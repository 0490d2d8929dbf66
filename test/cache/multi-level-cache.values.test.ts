import { MultiLevelCache, type MultiLevelCacheEvents } from 'spillway'
import { describe, expect, test } from 'vitest'
import { warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, expectCacheBooks, neverLoad } from './support/caches.js'

describe('a value', () => {
  const values: readonly unknown[] = [null, 0, '', false, Number.NaN, [], { a: undefined }]

  for (const value of values) {
    inVirtualTime(
      `${JSON.stringify(value)} is one: set, read one by one and in bulk, and not loaded again`,
      async (clock) => {
        const { cache } = cacheOn<never>(clock)

        await cache.set('key', value as never)

        expect(cache.peek('key')).toBe(value)
        expect(await cache.get('key')).toBe(value)
        expect(await cache.getMany(['key', 'other'])).toEqual([value, undefined])
        expect(await cache.getOrLoad('key', neverLoad)).toBe(value)
        expect(await cache.getOrLoadMany(['key'], neverLoad)).toEqual([value])
        expectCacheBooks(cache, { offered: 6, hits: { l1: 5, l2: 0 }, missed: 1 })
      },
    )
  }

  inVirtualTime('undefined is none: a loader that returns it caches nothing and deletes nothing', async (clock) => {
    const { cache } = cacheOn(clock, { ttlMs: 10, staleMs: 1000 })
    let calls = 0
    const nothing = (): undefined => void calls++

    expect(await cache.getOrLoad('key', nothing)).toBeUndefined()
    expect(await cache.getOrLoad('key', nothing)).toBeUndefined()
    await cache.set('stale', 'old')
    await clock.advance(10)
    await cache.getOrLoad('stale', nothing)
    await clock.advance(0)

    expect(calls).toBe(3)
    expect(await cache.getOrLoad('stale', () => 'new')).toBe('old')
    expectCacheBooks(cache, { missed: 2, stale: 2 })
  })

  inVirtualTime('the same promise answers every hit of one entry', async (clock) => {
    const { cache } = cacheOn(clock)
    await cache.set('key', 'value')

    expect(cache.get('key')).toBe(cache.getOrLoad('key', neverLoad))
  })
})

describe('a ttl', () => {
  inVirtualTime('ends a value to the millisecond', async (clock) => {
    const { cache } = cacheOn(clock, { ttlMs: 100 })
    await cache.set('default', 'a')
    await cache.set('own', 'b', { ttlMs: 50 })

    await clock.advance(49)
    expect(await cache.getMany(['default', 'own'])).toEqual(['a', 'b'])
    await clock.advance(1)
    expect(await cache.getMany(['default', 'own'])).toEqual(['a', undefined])
    expect(cache.peek('own')).toBeUndefined()
    await clock.advance(50)
    expect(cache.peek('default')).toBeUndefined()
  })

  for (const ttlMs of [0, -1, Number.NEGATIVE_INFINITY]) {
    inVirtualTime(`of ${ttlMs} stores nothing, and deletes what was there`, async (clock) => {
      const { cache } = cacheOn(clock)
      await cache.set('key', 'old')

      await cache.set('key', 'new', { ttlMs })
      expect(cache.peek('key')).toBeUndefined()
      expect(await cache.getOrLoad('key', () => 'loaded', { ttlMs })).toBe('loaded')
      expect(cache.peek('key')).toBeUndefined()
      expect(cache.stats().l1.entries).toBe(0)
    })
  }

  inVirtualTime('of Infinity, and of thirty days, passes no timer and ends when it says', async (clock) => {
    const month = 30 * 24 * 3_600_000
    const { cache } = cacheOn(clock)
    await cache.set('month', 'a', { ttlMs: month })
    await cache.set('ever', 'b', { ttlMs: Number.POSITIVE_INFINITY })

    expect(clock.pending).toBe(0)
    await clock.advance(month - 1)
    expect(await cache.getMany(['month', 'ever'])).toEqual(['a', 'b'])
    await clock.advance(1)
    expect(await cache.getMany(['month', 'ever'])).toEqual([undefined, 'b'])
    await clock.advance(1000 * month)
    expect(cache.peek('ever')).toBe('b')
  })

  inVirtualTime('notices nothing of a wall clock that jumps', async (clock) => {
    const { cache } = cacheOn(clock, { ttlMs: 100 })
    await cache.set('key', 'value')

    clock.setWall(clock.wallNow() + 3_600_000)
    expect(cache.peek('key')).toBe('value')
    clock.setWall(clock.wallNow() - 7_200_000)
    await clock.advance(100)

    expect(cache.peek('key')).toBeUndefined()
  })

  inVirtualTime('of null may be another one', async (clock) => {
    const { cache } = cacheOn<string | null>(clock, { ttlMs: 100, negativeTtlMs: 10 })
    await cache.set('set', null)
    await cache.getOrLoad('loaded', () => null)
    await cache.set('own', null, { ttlMs: 50 })

    await clock.advance(10)

    expect(cache.peek('set')).toBeUndefined()
    expect(cache.peek('loaded')).toBeUndefined()
    expect(cache.peek('own')).toBeNull()
  })

  inVirtualTime("is the loader's, before that of the call and of the cache", async (clock) => {
    const { cache } = cacheOn(clock, { ttlMs: 1000 })

    await cache.getOrLoad('loader', (_, { setTtl }) => setTtl(10) ?? 'a', { ttlMs: 100 })
    await cache.getOrLoad('call', () => 'b', { ttlMs: 100 })
    await cache.getOrLoadMany(['c', 'd'], (keys, { setTtl }) => setTtl('c', 10) ?? keys, { ttlMs: 100 })

    await clock.advance(10)
    expect(await cache.getMany(['loader', 'call', 'c', 'd'])).toEqual([undefined, 'b', undefined, 'd'])
    await clock.advance(90)
    expect(await cache.getMany(['call', 'd'])).toEqual([undefined, undefined])
  })

  for (const [chance, lifeMs] of [
    [0, 50],
    [0.5, 100],
    [0.75, 125],
  ] as const) {
    inVirtualTime(`with jitter is ${lifeMs} of 100 by a chance of ${chance}`, async (clock) => {
      const { cache } = cacheOn(clock, { ttlMs: 100, jitter: 0.5, random: () => chance })
      await cache.getOrLoad('key', () => 'value')
      await cache.set('ever', 'value', { ttlMs: Number.POSITIVE_INFINITY })

      await clock.advance(lifeMs - 1)
      expect(cache.peek('key')).toBe('value')
      await clock.advance(1)
      expect(cache.peek('key')).toBeUndefined()
      expect(cache.peek('ever')).toBe('value')
    })
  }

  inVirtualTime(
    'of memory ends what may live longer, and without a shared tier there is none by default',
    async (clock) => {
      const { cache } = cacheOn(clock, { l1: { ttlMs: 10 } })
      const { cache: plain } = cacheOn(clock, { ttlMs: 10 })
      await cache.set('key', 'value')
      await plain.set('key', 'value', { ttlMs: 100_000 })

      await clock.advance(10)
      expect(cache.peek('key')).toBeUndefined()
      await clock.advance(99_989)
      expect(plain.peek('key')).toBe('value')
    },
  )
})

describe('memory', () => {
  inVirtualTime('keeps the entries used last', async (clock) => {
    const { cache } = cacheOn(clock, { l1: { maxEntries: 2 } })
    await cache.set('a', '1')
    await cache.set('b', '2')

    await cache.get('a')
    await cache.set('c', '3')

    expect(await cache.getMany(['a', 'b', 'c'])).toEqual(['1', undefined, '3'])
    expect(cache.stats().l1).toMatchObject({ entries: 2, evictions: 1 })
  })

  inVirtualTime('keeps as many bytes as it may, and nothing that is too large alone', async (clock) => {
    const { cache } = cacheOn(clock, { l1: { maxBytes: 10, sizeOf: (value) => value.length } })
    await cache.set('a', 'aaaa')
    await cache.set('b', 'bbbb')
    await cache.set('c', 'cccc')

    expect(await cache.getMany(['a', 'b', 'c'])).toEqual([undefined, 'bbbb', 'cccc'])
    await cache.set('b', 'b'.repeat(11))

    expect(cache.peek('b')).toBeUndefined()
    expect(await cache.getOrLoad('d', () => 'd'.repeat(11))).toHaveLength(11)
    expect(cache.stats().l1).toMatchObject({ entries: 1, bytes: 4, evictions: 1, tooLarge: 2 })
  })

  test('keeps nothing that cannot be measured, and says so once', async () => {
    const cache = new MultiLevelCache<string>({
      name: 'measured',
      l1: { maxBytes: 10, sizeOf: (_, key) => (key === 'throws' ? neverLoad() : Number.NaN) },
    })

    const warnings = await warningsDuring(async () => {
      await cache.set('throws', 'a')
      await cache.set('nan', 'b')
    })

    expect(warnings).toEqual([expect.stringMatching(/measured: l1\.sizeOf failed/)])
    expect(cache.stats().l1).toMatchObject({ entries: 0, tooLarge: 2 })
  })
})

describe('keys', () => {
  inVirtualTime('of any content are their own, whatever a namespace makes of others', async (clock) => {
    const { cache } = cacheOn(clock)
    const users = cache.namespace<string>('users')
    const odd = ['\0cache/users:1', '\0:\0cache/users:1', '\0', '\0:', '1', 'users:1', '__proto__', 'constructor', ' ']
    await users.set('1', 'user')
    await users.set('\x001', 'odd user')

    expect(await cache.getMany(odd)).toEqual(odd.map(() => undefined))
    await cache.setMany(odd.map((key) => [key, `of ${key}`]))

    expect(await cache.getMany(odd)).toEqual(odd.map((key) => `of ${key}`))
    expect(odd.map((key) => cache.peek(key))).toEqual(odd.map((key) => `of ${key}`))
    expect([users.peek('1'), users.peek('\x001')]).toEqual(['user', 'odd user'])
    await cache.deleteMany(odd)
    expect(await users.getMany(['1', '\x001'])).toEqual(['user', 'odd user'])
    expect(cache.stats().l1.entries).toBe(2)
  })
})

describe('events', () => {
  inVirtualTime('each key of a read gives one hit or one miss, and what was loaded is told', async (clock) => {
    const { cache } = cacheOn(clock, { ttlMs: 10, staleMs: 10 })
    const told: string[] = []
    const tell = <E extends keyof MultiLevelCacheEvents>(event: E): void => {
      cache.on(event, (payload) => {
        expect(Object.isFrozen(payload)).toBe(true)
        told.push(`${event} ${JSON.stringify(payload)}`)
      })
    }
    for (const event of ['hit', 'missed', 'loaded', 'loadFailed', 'invalidated'] as const) tell(event)
    const at = '"key":"a","namespace":"cache"'

    await cache.getOrLoad('a', () => 'one')
    expect(told.splice(0)).toEqual([`loaded {${at},"durationMs":0,"background":false}`, `missed {${at}}`])
    cache.peek('a')
    expect(told.splice(0)).toEqual([`hit {${at},"tier":"l1","stale":false}`])
    await clock.advance(10)
    await cache.getOrLoad('a', () => 'two')
    await clock.advance(0)
    expect(told.splice(0)).toEqual([
      `hit {${at},"tier":"l1","stale":true}`,
      `loaded {${at},"durationMs":0,"background":true}`,
    ])
    await cache.delete('a')
    await cache.invalidateTags(['t'])
    await cache.clear()
    expect(told.splice(0)).toEqual([
      'invalidated {"kind":"keys","source":"local","keys":["a"],"namespace":"cache"}',
      'invalidated {"kind":"tags","source":"local","tags":["t"]}',
      'invalidated {"kind":"clear","source":"local","namespace":"cache"}',
    ])
    await cache.getOrLoad('a', () => Promise.reject(new Error('down'))).catch(() => undefined)
    expect(told.splice(0)).toEqual([
      `missed {${at}}`,
      `loadFailed {${at},"error":{},"durationMs":0,"background":false,"servedStale":false}`,
    ])
  })
})
