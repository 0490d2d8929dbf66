import { MultiLevelCache, type MultiLevelCacheOptions, OptionError } from 'spillway'
import { MemoryCacheStore } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { reasonOf, thrownBy } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, expectCacheBooks, neverLoad } from './support/caches.js'

describe('the constructor refuses', () => {
  const cases: readonly (readonly [string, string, unknown])[] = [
    ['options that are no object', 'options', 5],
    ['null for options', 'options', null],
    ['an l1 that is no object', 'l1', { l1: 5 }],
    ['no entries', 'l1.maxEntries', { l1: { maxEntries: 0 } }],
    ['no bytes', 'l1.maxBytes', { l1: { maxBytes: 0, sizeOf: () => 1 } }],
    ['bytes without a measure', 'l1.sizeOf', { l1: { maxBytes: 1 } }],
    ['a measure that is none', 'l1.sizeOf', { l1: { sizeOf: 1 } }],
    ['an l1 of no time', 'l1.ttlMs', { l1: { ttlMs: 0 } }],
    ['an l2 that is none', 'l2', { l2: {} }],
    ['a bus that is none', 'bus', { bus: {} }],
    ['a lock that is none', 'loadLock', { loadLock: {} }],
    ['a namespace with a colon', 'namespace', { namespace: 'a:b' }],
    ['a namespace with a slash', 'namespace', { namespace: 'a/b' }],
    ['an empty namespace', 'namespace', { namespace: '' }],
    ['a ttl that is none', 'ttlMs', { ttlMs: Number.NaN }],
    ['a ttl in words', 'ttlMs', { ttlMs: '1000' }],
    ['a wrong negativeTtlMs', 'negativeTtlMs', { negativeTtlMs: Number.NaN }],
    ['a negative staleMs', 'staleMs', { staleMs: -1 }],
    ['a negative serveStaleOnErrorMs', 'serveStaleOnErrorMs', { serveStaleOnErrorMs: -1 }],
    ['a negative errorThrottleMs', 'errorThrottleMs', { errorThrottleMs: -1 }],
    ['a ratio over 1', 'refreshAheadRatio', { refreshAheadRatio: 1.1 }],
    ['a jitter over 1', 'jitter', { jitter: 1.1 }],
    ['a soft timeout of no time', 'loaderSoftTimeoutMs', { loaderSoftTimeoutMs: 0 }],
    ['a timeout of no time', 'loaderTimeoutMs', { loaderTimeoutMs: 0 }],
    ['a timeout of l2 of no time', 'l2TimeoutMs', { l2TimeoutMs: 0 }],
    ['no room for replays', 'l2ReplayCapacity', { l2ReplayCapacity: 0 }],
    ['a breaker that is none', 'l2Breaker', { l2Breaker: true }],
    ['a breaker of no failures', 'failureThreshold', { l2: store(), l2Breaker: { failureThreshold: 0 } }],
    ['no loader at once', 'loadConcurrency', { loadConcurrency: 0 }],
    ['a wrong wait for the lock', 'loadLockWaitMs', { loadLockWaitMs: -1 }],
    ['a clock that is none', 'clock', { clock: {} }],
  ]

  for (const [what, field, options] of cases) {
    test(what, () => {
      const error = thrownBy(() => new MultiLevelCache(options as MultiLevelCacheOptions<string>))

      expect(error).toBeInstanceOf(OptionError)
      expect([error.code, error.field]).toEqual(['ERR_OPTION', field])
      expect(error.message.startsWith(`${field} `)).toBe(true)
    })
  }

  test('nothing that is undefined, and no edge that is allowed', () => {
    new MultiLevelCache<string>({
      l1: undefined,
      l2: undefined,
      ttlMs: undefined,
      negativeTtlMs: undefined,
      l2Breaker: undefined,
      loadConcurrency: undefined,
      loaderTimeoutMs: undefined,
    })
    new MultiLevelCache<string>({
      l1: { maxEntries: 1, maxBytes: undefined, ttlMs: Number.POSITIVE_INFINITY },
      ttlMs: -1,
      staleMs: Number.POSITIVE_INFINITY,
      refreshAheadRatio: 0,
      l2Breaker: false,
      loadConcurrency: Number.POSITIVE_INFINITY,
    })
  })
})

describe('a call with a wrong argument', () => {
  inVirtualTime('rejects, names the field, and does nothing', async (clock) => {
    const { cache } = cacheOn(clock)
    const any = cache as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>
    const load = (options: unknown): Promise<unknown> => cache.getOrLoad('a', neverLoad, options as never)
    const cases: readonly (readonly [string, Promise<unknown> | undefined])[] = [
      ['key', cache.get('')],
      ['key', any['get']?.(1)],
      ['key', any['get']?.()],
      ['keys', any['getMany']?.('a')],
      ['keys', cache.getMany(['a', ''])],
      ['key', cache.set('', 'x')],
      ['value', any['set']?.('a', undefined)],
      ['options', any['set']?.('a', 'x', 5)],
      ['ttlMs', cache.set('a', 'x', { ttlMs: Number.NaN })],
      ['tags', cache.set('a', 'x', { tags: 'red' as never })],
      ['tags', cache.set('a', 'x', { tags: [''] })],
      ['entries', any['setMany']?.({})],
      ['entries', any['setMany']?.(['a'])],
      ['key', any['delete']?.(null)],
      ['keys', any['deleteMany']?.('a')],
      ['tags', any['invalidateTags']?.('red')],
      ['tags', any['invalidateTags']?.()],
      ['loader', any['getOrLoad']?.('a')],
      ['key', any['getOrLoad']?.(Symbol('a'), neverLoad)],
      ['options', load(5)],
      ['options', load(null)],
      ['signal', load({ signal: {} })],
      ['ttlMs', load({ ttlMs: '1' })],
      ['tags', load({ tags: [1] })],
      ['staleMs', load({ staleMs: -1 })],
      ['serveStaleOnErrorMs', load({ serveStaleOnErrorMs: Number.NaN })],
      ['refreshAheadRatio', load({ refreshAheadRatio: 2 })],
      ['loaderSoftTimeoutMs', load({ loaderSoftTimeoutMs: 0 })],
      ['loaderTimeoutMs', load({ loaderTimeoutMs: 0 })],
      ['keys', any['getOrLoadMany']?.('a', neverLoad)],
      ['load', any['getOrLoadMany']?.(['a'])],
      ['options', any['getOrLoadMany']?.(['a'], neverLoad, null)],
    ]

    for (const [field, call] of cases) {
      const error = (await reasonOf(call as Promise<unknown>)) as OptionError
      expect([error.code, error.field], String(error)).toEqual(['ERR_OPTION', field])
    }
    expectCacheBooks(cache, { pending: 0, loaded: 0, missed: 0 })
    expect(cache.stats().l1.entries).toBe(0)
  })

  test('throws where nothing is promised', () => {
    const cache = new MultiLevelCache<string>()

    expect(thrownBy(() => cache.peek('')).field).toBe('key')
    expect(thrownBy(() => cache.peek(Symbol('a') as never)).field).toBe('key')
    for (const name of ['', 'a:b', 'a/b', 'a\0b', 5]) {
      expect(thrownBy(() => cache.namespace(name as string)).field).toBe('name')
      expect(thrownBy(() => cache.namespace('users').namespace(name as string)).field).toBe('name')
    }
    expect(thrownBy(() => cache.namespace('users', 5 as never)).field).toBe('options')
    expect(thrownBy(() => cache.namespace('users', { jitter: 5 })).field).toBe('jitter')
    expect(thrownBy(() => cache.wrap(5 as never, { name: 'w' })).field).toBe('fn')
    expect(thrownBy(() => cache.wrap(() => 'x', undefined as never)).field).toBe('options')
    expect(thrownBy(() => cache.wrap(() => 'x', {} as never)).field).toBe('name')
    expect(thrownBy(() => cache.wrap(() => 'x', { name: 'a:b' })).field).toBe('name')
    expect(thrownBy(() => cache.wrap(() => 'x', { name: 'a(b' })).field).toBe('name')
    expect(thrownBy(() => cache.wrap(() => 'x', { name: 'w', key: 5 as never })).field).toBe('key')
    expect(thrownBy(() => cache.wrap(() => 'x', { name: 'w', staleMs: -1 })).field).toBe('staleMs')
  })

  inVirtualTime('of a wrapped function rejects where the arguments make no key', async (clock) => {
    const { cache } = cacheOn(clock)
    const wrapped = cache.wrap((of: unknown) => String(of), { name: 'w' })
    const odd = cache.wrap((of: unknown) => String(of), { name: 'w', key: (of) => of as string })
    const broken = cache.wrap(() => 'x', { name: 'w', key: neverLoad })

    for (const call of [wrapped(() => 1), wrapped.invalidate(Symbol('a')), odd(5), odd.invalidate(5)]) {
      expect(((await reasonOf(call)) as OptionError).code).toBe('ERR_OPTION')
    }
    expect(String(await reasonOf(broken()))).toContain('the loader was called')
  })
})

function store(): MemoryCacheStore {
  return new MemoryCacheStore()
}

describe('a promise for a value', () => {
  inVirtualTime('is refused by set, and nothing is changed', async (clock) => {
    const { cache } = cacheOn<unknown & {}>(clock)
    await cache.set('key', 'old')
    const promises = [Promise.resolve('new'), Promise.reject(new Error('nobody’s')), thenable(neverLoad)]

    for (const promise of promises) {
      expect(await reasonOf(cache.set('key', promise))).toMatchObject({ code: 'ERR_OPTION', field: 'value' })
      expect(await reasonOf(cache.setMany([['key', promise]]))).toMatchObject({ code: 'ERR_OPTION', field: 'value' })
    }
    expect(cache.peek('key')).toBe('old')
  })

  inVirtualTime('is refused from a loader of several keys, and nothing is kept', async (clock) => {
    const { cache } = cacheOn<unknown & {}>(clock)
    const load = (keys: string[]) => keys.map((key) => (key === 'b' ? Promise.reject(new Error(key)) : key))

    expect(await reasonOf(cache.getOrLoadMany(['a', 'b'], load))).toMatchObject({ code: 'ERR_BATCH_RESULT' })
    expect(cache.stats().l1.entries).toBe(0)
    expectCacheBooks(cache, { failed: 2 })
  })

  inVirtualTime('is waited for where a loader of one key returns it, whatever kind it is', async (clock) => {
    const { cache } = cacheOn(clock)
    const error = new Error('later')

    expect(await cache.getOrLoad('a', () => thenable((resolve) => resolve('value')))).toBe('value')
    const failing = cache.getOrLoad('b', () => thenable((_, reject) => void clock.setTimer(() => reject(error), 10)))
    await clock.advance(10)
    expect(await reasonOf(failing)).toBe(error)
    expect([cache.peek('a'), cache.peek('b')]).toEqual(['value', undefined])
  })
})

describe('a loader that calls the cache', () => {
  inVirtualTime('may write and delete its own key: what it returns is then kept nowhere', async (clock) => {
    const { cache } = cacheOn(clock)
    const set = cache.getOrLoad('set', async (key) => {
      await cache.set(key, 'written')
      return 'loaded'
    })
    const deleted = cache.getOrLoad('deleted', async (key) => {
      await cache.delete(key)
      return 'loaded'
    })

    expect(await Promise.all([set, deleted])).toEqual(['loaded', 'loaded'])
    expect([cache.peek('set'), cache.peek('deleted')]).toEqual(['written', undefined])
  })

  inVirtualTime('may read its own key and load others, but waits for itself where it loads its own', async (clock) => {
    const { cache } = cacheOn(clock, { loaderTimeoutMs: 100 })
    const nested = cache.getOrLoad('outer', async (key) => {
      const inner = await cache.getOrLoad('inner', () => 'inner')
      return `${await cache.get(key)} ${inner}`
    })
    expect(await nested).toBe('undefined inner')

    const stuck = cache.getOrLoad('own', (key) => cache.getOrLoad(key, neverLoad))
    await clock.advance(100)
    expect(await reasonOf(stuck)).toMatchObject({ code: 'ERR_TIMEOUT' })
    expectCacheBooks(cache, { pending: 0 })
  })
})

/** A promise of some other library. */
function thenable(then: (resolve: (value: string) => void, reject: (error: unknown) => void) => void) {
  return { then } as PromiseLike<string>
}
