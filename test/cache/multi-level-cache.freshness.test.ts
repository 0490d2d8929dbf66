import { describe, expect } from 'vitest'
import { codeOf, reasonOf, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, expectCacheBooks, neverLoad } from './support/caches.js'

const down = new Error('down')

describe('staleMs', () => {
  inVirtualTime('serves an old value at once and loads it behind, once, until it is too old', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 100, staleMs: 50 })
    await cache.set('key', 'old')

    await clock.advance(149)
    expect(await cache.getOrLoad('key', gate.load)).toBe('old')
    expect(await cache.getOrLoad('key', gate.load)).toBe('old')
    expect(await cache.getOrLoadMany(['key'], neverLoad)).toEqual(['old'])
    expect([cache.peek('key'), await cache.get('key')]).toEqual([undefined, undefined])
    expect(gate.calls).toHaveLength(1)
    gate.call(0).answer('new')
    await clock.advance(0)

    expect(cache.peek('key')).toBe('new')
    expectCacheBooks(cache, { stale: 3, missed: 2, loaded: 0 })
    expect(cache.stats().loads).toMatchObject({ started: 1, background: 1 })
    await clock.advance(150)
    const waits = watch(cache.getOrLoad('key', gate.load))
    await clock.advance(0)
    expect(waits.status).toBe('pending')
    gate.call(1).answer('newest')
  })

  inVirtualTime('is what the call says: a reader takes a value as old as it likes', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 100 })
    await cache.set('key', 'old')
    await clock.advance(1000)

    expect(await cache.getOrLoad('key', gate.load, { staleMs: 901 })).toBe('old')
    const strict = cache.getOrLoad('key', gate.load)
    gate.call(0).answer('new')

    expect(await strict).toBe('new')
  })

  inVirtualTime('a refresh behind that fails is told to nobody, and tried again after the throttle', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 100, staleMs: 10_000, errorThrottleMs: 500 })
    const failures: boolean[] = []
    cache.on('loadFailed', ({ servedStale }) => failures.push(servedStale))
    await cache.set('key', 'old')
    await clock.advance(100)

    expect(await cache.getOrLoad('key', gate.load)).toBe('old')
    gate.call(0).fail(down)
    await clock.advance(499)
    expect(await cache.getOrLoad('key', gate.load)).toBe('old')
    expect(gate.calls).toHaveLength(1)
    await clock.advance(1)
    expect(await cache.getOrLoad('key', gate.load)).toBe('old')
    expect(gate.calls).toHaveLength(2)
    gate.call(1).answer('new')
    await clock.advance(0)

    expect(cache.peek('key')).toBe('new')
    expect(failures).toEqual([true])
  })
})

describe('serveStaleOnErrorMs', () => {
  inVirtualTime(
    'serves an old value when the load fails, then without trying until the throttle ends',
    async (clock) => {
      const { cache, gate } = cacheOn(clock, { ttlMs: 100, serveStaleOnErrorMs: 1000, errorThrottleMs: 300 })
      await cache.set('key', 'old')
      await clock.advance(100)

      const first = cache.getOrLoad('key', gate.load)
      const joined = cache.getOrLoad('key', gate.load)
      await clock.advance(50)
      gate.call(0).fail(down)
      expect(await Promise.all([first, joined])).toEqual(['old', 'old'])
      await clock.advance(299)
      expect(await cache.getOrLoad('key', gate.load)).toBe('old')
      expect(cache.peek('key')).toBeUndefined()
      expect(gate.calls).toHaveLength(1)
      await clock.advance(1)
      const next = cache.getOrLoad('key', gate.load)
      gate.call(1).answer('new')

      expect(await next).toBe('new')
      expectCacheBooks(cache, { stale: 3, loaded: 1, failed: 0 })
    },
  )

  inVirtualTime('ends: then the error is thrown, throttle or not', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 100, serveStaleOnErrorMs: 1000, errorThrottleMs: 5000 })
    await cache.set('key', 'old')
    await clock.advance(1099)
    const last = cache.getOrLoad('key', gate.load)
    gate.call(0).fail(down)
    expect(await last).toBe('old')

    await clock.advance(1)
    const late = cache.getOrLoad('key', gate.load)
    gate.call(1).fail(down)

    expect(await reasonOf(late)).toBe(down)
  })

  inVirtualTime('holds for each key of a bulk load', async (clock) => {
    const { cache } = cacheOn(clock, { ttlMs: 100, serveStaleOnErrorMs: 1000 })
    await cache.set('old', 'old')
    await clock.advance(100)

    const all = cache.getOrLoadMany(['old', 'new'], () => [down, 'new'])
    expect(await all).toEqual(['old', 'new'])
    const none = cache.getOrLoadMany(['old', 'other'], () => Promise.reject(down))

    expect(await reasonOf(none)).toBe(down)
    expectCacheBooks(cache, { stale: 2, loaded: 1, failed: 1 })
  })
})

describe('refreshAheadRatio', () => {
  inVirtualTime('loads a fresh value anew behind, once, and throttles where that fails', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 100, refreshAheadRatio: 0.8, errorThrottleMs: 10 })
    await cache.set('key', 'old')

    await clock.advance(79)
    await cache.getOrLoad('key', gate.load)
    expect(gate.calls).toHaveLength(0)
    await clock.advance(1)
    expect(await cache.getOrLoad('key', gate.load)).toBe('old')
    expect(await cache.getOrLoad('key', gate.load)).toBe('old')
    expect(cache.peek('key')).toBe('old')
    expect(gate.calls).toHaveLength(1)
    gate.call(0).fail(down)
    await clock.advance(9)
    await cache.getOrLoad('key', gate.load)
    expect(gate.calls).toHaveLength(1)
    await clock.advance(1)
    await cache.getOrLoad('key', gate.load)
    gate.call(1).answer('new')
    await clock.advance(99)

    expect(cache.peek('key')).toBe('new')
    expectCacheBooks(cache, { hits: { l1: 7, l2: 0 } })
  })

  inVirtualTime('is what the call says, single, bulk and wrapped', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 100 })
    const wrapped = cache.wrap(() => gate.load('w:c', undefined as never), {
      name: 'w',
      key: () => 'c',
      refreshAheadRatio: 0.5,
    })
    await cache.setMany([
      ['a', '1'],
      ['b', '2'],
      ['w:c', '3'],
    ])
    await clock.advance(50)
    const asked: string[][] = []

    await cache.getOrLoad('a', gate.load)
    expect(gate.calls).toHaveLength(0)
    await cache.getOrLoad('a', gate.load, { refreshAheadRatio: 0.5 })
    await cache.getOrLoadMany(['a', 'b'], (keys) => (asked.push(keys) > 0 ? keys : []), { refreshAheadRatio: 0 })
    expect(await wrapped()).toBe('3')
    await clock.advance(0)

    expect(gate.calls.map(({ key }) => key)).toEqual(['a', 'w:c'])
    expect(asked).toEqual([['b']])
    expect(cache.peek('b')).toBe('b')
    gate.calls.forEach((call) => void call.answer('x'))
  })
})

describe('a loader', () => {
  inVirtualTime('learns the old value and its age, and renews it with its tags', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 100, serveStaleOnErrorMs: 1000 })
    await cache.set('key', 'same', { tags: ['tag'] })
    await clock.advance(150)

    const answer = cache.getOrLoad('key', gate.load, { tags: ['other'] })
    expect(gate.call(0).context.stale).toEqual({ value: 'same', ageMs: 150 })
    gate.call(0).answer(gate.call(0).context.notModified())

    expect(await answer).toBe('same')
    await clock.advance(99)
    expect(cache.peek('key')).toBe('same')
    await cache.invalidateTags(['tag'])
    expect(cache.peek('key')).toBeUndefined()
  })

  inVirtualTime(
    'of several keys learns the old value of each, and may renew them and say ttl and tags',
    async (clock) => {
      const { cache } = cacheOn(clock, { ttlMs: 100, serveStaleOnErrorMs: 1000 })
      await cache.set('a', 'old', { tags: ['tag'] })
      await clock.advance(100)

      const all = await cache.getOrLoadMany(['a', 'b'], (keys, { stale, notModified, setTtl, setTags }) => {
        expect(keys).toEqual(['a', 'b'])
        expect([...stale]).toEqual([['a', { value: 'old', ageMs: 100 }]])
        setTtl('a', 10)
        setTags('b', ['tag'])
        return [notModified('a'), 'new']
      })

      expect(all).toEqual(['old', 'new'])
      await clock.advance(10)
      expect(await cache.getMany(['a', 'b'])).toEqual([undefined, 'new'])
      await cache.invalidateTags(['tag'])
      expect(cache.peek('b')).toBeUndefined()
    },
  )

  inVirtualTime('that says something wrong has failed', async (clock) => {
    const { cache } = cacheOn(clock)
    const wrong = [
      cache.getOrLoad('a', (_, { notModified }) => notModified()),
      cache.getOrLoad('b', (_, { setTtl }) => setTtl(Number.NaN) ?? 'x'),
      cache.getOrLoad('c', (_, { setTags }) => setTags('tag' as never) ?? 'x'),
      cache.getOrLoadMany(['d'], (keys, { setTtl }) => setTtl('other', 1) ?? keys),
    ]

    for (const answer of wrong) expect(codeOf(await reasonOf(answer))).toBe('ERR_OPTION')
    expect(cache.stats().l1.entries).toBe(0)
  })
})

describe('loaderSoftTimeoutMs', () => {
  inVirtualTime(
    'gives the old value to those who wait, and to those who come later; the load goes on',
    async (clock) => {
      const { cache, gate } = cacheOn(clock, {
        ttlMs: 100,
        serveStaleOnErrorMs: 10_000,
        loaderSoftTimeoutMs: 20,
        errorThrottleMs: 0,
      })
      await cache.set('key', 'old')
      await clock.advance(100)
      const early = watch(cache.getOrLoad('key', gate.load))

      await clock.advance(19)
      expect(early.status).toBe('pending')
      await clock.advance(1)
      expect(early.value).toBe('old')
      expect(await cache.getOrLoad('key', gate.load)).toBe('old')
      gate.call(0).answer('new')
      await clock.advance(0)

      expect(cache.peek('key')).toBe('new')
      expect(gate.calls).toHaveLength(1)
      expectCacheBooks(cache, { stale: 2, loaded: 0 })
    },
  )

  inVirtualTime('changes nothing where there is no old value', async (clock) => {
    const { cache, gate } = cacheOn(clock, { loaderSoftTimeoutMs: 20 })
    const answer = cache.getOrLoad('key', gate.load)

    await clock.advance(1000)
    gate.call(0).answer('value')

    expect(await answer).toBe('value')
  })
})

describe('loaderTimeoutMs', () => {
  inVirtualTime('rejects those who wait, aborts the signal, and what comes later is not used', async (clock) => {
    const { cache, gate } = cacheOn(clock, { loaderTimeoutMs: 50 })
    const answer = cache.getOrLoad('key', gate.load)
    const signal = gate.call(0).context.signal

    await clock.advance(49)
    expect(signal.aborted).toBe(false)
    await clock.advance(1)
    const error = await reasonOf(answer)
    expect(codeOf(error)).toBe('ERR_TIMEOUT')
    expect(signal.reason).toBe(error)
    gate.call(0).answer('late')
    await clock.advance(0)

    expect(cache.peek('key')).toBeUndefined()
    const next = cache.getOrLoad('key', gate.load)
    gate.call(1).answer('value')
    expect(await next).toBe('value')
    expect(cache.stats().loads).toMatchObject({ started: 2, failed: 1, timedOut: 1, running: 0 })
  })

  inVirtualTime('serves the old value instead where there is one, and frees its place for others', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 100, serveStaleOnErrorMs: 1000, loadConcurrency: 1 })
    await cache.set('key', 'old')
    await clock.advance(100)

    const late = cache.getOrLoad('key', gate.load, { loaderTimeoutMs: 50 })
    const next = cache.getOrLoad('next', gate.load)
    await clock.advance(50)

    expect(await late).toBe('old')
    gate.call(1).answer('value')
    expect(await next).toBe('value')
  })
})
