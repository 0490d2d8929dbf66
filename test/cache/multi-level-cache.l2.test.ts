import { OptionError } from 'spillway'
import { MemoryCacheStore } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { codeOf, reasonOf, watch } from '../batcher/support/outcomes.js'
import { warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, expectCacheBooks, GateLoader, neverLoad } from './support/caches.js'
import { at, down, hung, sharedScene } from './support/staged-store.js'

const failure = new Error('the loader is down')

describe('a value in the shared tier', () => {
  for (const value of [null, 0, '', false]) {
    inVirtualTime(`${JSON.stringify(value)} is one, read one by one and in bulk`, async (clock) => {
      const l2 = new MemoryCacheStore({ clock })
      const { cache: writer } = cacheOn<unknown & (string | null)>(clock, { l2 })
      await writer.set('key', value as never)
      const reader = () => cacheOn<string | null>(clock, { l2 }).cache

      expect(await reader().get('key')).toBe(value)
      expect(await reader().getMany(['none', 'key'])).toEqual([undefined, value])
      expect(await reader().getOrLoad('key', neverLoad)).toBe(value)
      expect(await reader().getOrLoadMany(['key', 'key'], neverLoad)).toEqual([value, value])
    })
  }

  inVirtualTime(
    'is read once for a thousand callers, of all kinds, and loaded once where it is not there',
    async (clock) => {
      const { cache, store } = sharedScene(clock)
      const gate = new GateLoader()

      const gets = Array.from({ length: 500 }, () => cache.get('key'))
      const loads = Array.from({ length: 500 }, () => cache.getOrLoad('key', gate.load))
      const bulk = cache.getOrLoadMany(['key'], neverLoad)
      const many = cache.getMany(['key', 'key'])
      await clock.advance(0)
      gate.call(0).answer('value')

      expect(new Set(await Promise.all(gets))).toEqual(new Set([undefined]))
      expect(new Set(await Promise.all(loads))).toEqual(new Set(['value']))
      expect([await bulk, await many]).toEqual([['value'], [undefined, undefined]])
      await clock.advance(0)
      expect(store.log('getMany', 'setMany')).toEqual(['getMany key', 'setMany key'])
      expect(gate.calls).toHaveLength(1)
      expectCacheBooks(cache, { offered: 1003, missed: 502, loaded: 501 })
    },
  )

  inVirtualTime('comes into memory with what is left of its ttl, and for no longer than memory may', async (clock) => {
    const { cache, open, store } = sharedScene(clock, { ttlMs: 6000, l1: { ttlMs: 4000 } })
    await cache.set('key', 'value')

    await clock.advance(3000)
    const other = open()
    expect(await other.get('key')).toBe('value')
    store.log()
    await clock.advance(2999)
    expect(other.peek('key')).toBe('value')
    await clock.advance(1)
    expect(other.peek('key')).toBeUndefined()
    expect(await other.get('key')).toBeUndefined()
    await cache.set('long', 'value', { ttlMs: 100_000 })
    expect(await other.get('long')).toBe('value')
    await clock.advance(4000)
    expect(other.peek('long')).toBeUndefined()
    expect(await other.get('long')).toBe('value')
    expectCacheBooks(other, { hits: { l1: 1, l2: 3 }, missed: 3 })
  })

  inVirtualTime('is asked for again where memory has no more say, so that what others did is seen', async (clock) => {
    const { cache, open } = sharedScene(clock, { ttlMs: 60_000, staleMs: 60_000, l1: { ttlMs: 1000 } })
    const other = open()
    await cache.setMany([
      ['deleted', 'old'],
      ['changed', 'old'],
    ])
    await other.getMany(['deleted', 'changed'])

    await cache.delete('deleted')
    await cache.set('changed', 'new')
    expect(await other.getMany(['deleted', 'changed'])).toEqual(['old', 'old'])
    await clock.advance(1000)

    expect(await other.getOrLoad('deleted', () => 'loaded')).toBe('loaded')
    expect(await other.getOrLoad('changed', neverLoad)).toBe('new')
  })

  inVirtualTime('that is stale is served at once, and loaded anew behind', async (clock) => {
    const { cache, open, store } = sharedScene(clock, { ttlMs: 100, staleMs: 10_000 })
    await cache.set('key', 'old')
    await clock.advance(5000)
    const other = open()
    const gate = new GateLoader()

    expect(await other.getOrLoad('key', gate.load)).toBe('old')
    expect(await other.getOrLoad('key', gate.load)).toBe('old')
    expect(gate.calls).toHaveLength(1)
    expect(gate.call(0).context.stale).toEqual({ value: 'old', ageMs: 5000 })
    gate.call(0).answer('new')
    await clock.advance(0)

    expect(other.peek('key')).toBe('new')
    expect(await store.value('key')).toBe('new')
    expect(await cache.get('key')).toBe('new')
  })

  inVirtualTime(
    'that is old is served where the loader fails, and throttled across what memory may say',
    async (clock) => {
      const options = { ttlMs: 100, serveStaleOnErrorMs: 60_000, errorThrottleMs: 10_000, l1: { ttlMs: 1000 } }
      const { cache, open } = sharedScene(clock, options)
      await cache.set('key', 'old')
      await clock.advance(5000)
      const other = open()
      const gate = new GateLoader()
      const first = other.getOrLoad('key', gate.load)
      await clock.advance(0)
      gate.call(0).fail(failure)
      expect(await first).toBe('old')

      await clock.advance(9999)
      expect(await other.getOrLoad('key', neverLoad)).toBe('old')
      await clock.advance(1)
      const next = other.getOrLoad('key', gate.load)
      await clock.advance(0)
      gate.call(1).answer('new')
      expect(await next).toBe('new')
    },
  )

  inVirtualTime('that another process has refreshed is taken instead of being loaded ahead', async (clock) => {
    const { cache, open } = sharedScene(clock, { ttlMs: 1000, refreshAheadRatio: 0.5 })
    const other = open()
    await cache.set('key', 'old')
    await other.get('key')
    await clock.advance(600)
    const gate = new GateLoader()
    await cache.getOrLoad('key', gate.load)
    await clock.advance(0)
    gate.call(0).answer('new')
    await clock.advance(0)

    expect(await other.getOrLoad('key', neverLoad)).toBe('old')
    await clock.advance(0)

    expect(other.peek('key')).toBe('new')
    expect(other.stats().loads.started).toBe(0)
  })

  inVirtualTime('can be read again by a listener of its read, also where memory has no room for it', async (clock) => {
    const { cache, open } = sharedScene(clock, { l1: { maxBytes: 1, sizeOf: () => 2 } })
    await open().set('key', 'value')
    const again: Promise<unknown>[] = []
    cache.on('hit', () => {
      if (again.length === 0) again.push(cache.getOrLoad('key', () => 'loaded'))
    })

    expect(await cache.getOrLoad('key', neverLoad)).toBe('value')
    expect(await Promise.all(again)).toEqual(['value'])
    expectCacheBooks(cache, { pending: 0 })
  })
})

describe('a fill', () => {
  inVirtualTime(
    'of what somebody else has written meanwhile is refused, and memory takes it neither',
    async (clock) => {
      const { cache, open, store } = sharedScene(clock)
      const other = open()
      const gate = new GateLoader()
      for (const [index, write] of [() => other.set('key', 'written'), () => other.delete('key')].entries()) {
        const answer = cache.getOrLoad('key', gate.load, { tags: ['tag'] })
        await clock.advance(1)

        await write()
        await clock.advance(1)
        gate.call(index).answer('old')

        expect(await answer).toBe('old')
        await clock.advance(1)
        expect(cache.peek('key')).toBeUndefined()
        expect(await cache.get('key')).toBe(index === 0 ? 'written' : undefined)
        await cache.delete('key')
      }
      expect(await store.value('key')).toBeUndefined()
    },
  )

  inVirtualTime(
    'of what was invalidated elsewhere meanwhile is served for no longer than memory has the say',
    async (clock) => {
      const { cache, open } = sharedScene(clock, { l1: { ttlMs: 1000 } })
      const other = open()
      const gate = new GateLoader()
      for (const [index, write] of [() => other.invalidateTags(['tag']), () => other.clear()].entries()) {
        const answer = cache.getOrLoad('key', gate.load, { tags: ['tag'] })
        await clock.advance(400)
        await write()
        await clock.advance(500)
        gate.call(index).answer('old')
        await answer
        await clock.advance(100)

        expect(cache.peek('key')).toBeUndefined()
        expect(await cache.get('key')).toBeUndefined()
      }
    },
  )

  inVirtualTime('answers those who come while it is under way', async (clock) => {
    const { cache, store } = sharedScene(clock)
    store.stage = at('setMany', hung)

    expect(await cache.getOrLoad('key', () => 'value')).toBe('value')
    expect(cache.peek('key')).toBeUndefined()
    expect(await cache.getOrLoad('key', neverLoad)).toBe('value')
    expect(await cache.get('key')).toBe('value')
    expect(await cache.getMany(['key'])).toEqual(['value'])
    await clock.advance(1000)

    expect(cache.peek('key')).toBe('value')
    expectCacheBooks(cache, { loaded: 4, hits: { l1: 1, l2: 0 }, missed: 1 })
    await clock.advance(60_000)
    store.stage = (_, work) => work()
    await cache.close()
  })

  inVirtualTime('under way answers reads of one key and of several, an old value in memory or not', async (clock) => {
    const { cache, store } = sharedScene(clock, { ttlMs: 100, serveStaleOnErrorMs: 1000 })
    await cache.set('key', 'old')
    await clock.advance(100)
    store.stage = at('setMany', hung)

    expect(await cache.getOrLoad('key', () => 'new')).toBe('new')
    expect([await cache.get('key'), await cache.getMany(['key'])]).toEqual(['new', ['new']])

    store.stage = (_, work) => work()
    await clock.advance(1000)
    expect(cache.peek('key')).toBe('new')
    await cache.close()
  })

  inVirtualTime('is not made of a load that took longer than the store remembers', async (clock) => {
    const { cache, store } = sharedScene(clock)
    const gate = new GateLoader()
    const answer = cache.getOrLoad('key', gate.load)
    await clock.advance(store.fenceMs + 1)

    gate.call(0).answer('old')
    expect(await answer).toBe('old')
    await clock.advance(0)

    expect(await store.value('key')).toBeUndefined()
    expect(cache.peek('key')).toBeUndefined()
  })

  inVirtualTime(
    'of what the store cannot carry is left out: memory keeps it, and the process is warned once',
    async (clock) => {
      const encode = (value: unknown): unknown => {
        if (value === 'odd') throw new OptionError('value', 'value must be even, got "odd" (string)')
        return value
      }
      const { cache } = cacheOn(clock, { name: 'encoded', l2: new MemoryCacheStore({ clock, encode }) })
      const failed: string[] = []
      cache.on('storeFailed', ({ operation, keys }) => failed.push(`${operation} ${keys}`))

      const warnings = await warningsDuring(async () => {
        expect(await cache.getOrLoad('a', () => 'odd')).toBe('odd')
        expect(await cache.getOrLoadMany(['b', 'c'], () => ['odd', 'even'])).toEqual(['odd', 'even'])
      })
      await clock.advance(0)

      expect([cache.peek('a'), cache.peek('b'), cache.peek('c')]).toEqual(['odd', 'odd', 'even'])
      expect(failed).toEqual(['encode cache:a', 'encode cache:b'])
      expect(warnings).toEqual([expect.stringMatching(/encoded can't keep a loaded value in its shared tier/)])
      expect(cache.stats().loads.unstorable).toBe(2)
      await cache.set('a', 'even')
      expect(
        codeOf(
          await reasonOf(
            cache.setMany([
              ['a', 'x'],
              ['b', 'odd'],
            ]),
          ),
        ),
      ).toBe('ERR_OPTION')
      expect(cache.peek('a')).toBe('even')
    },
  )

  inVirtualTime('with no ttl takes away the stale value that was there', async (clock) => {
    const { cache, store } = sharedScene(clock, { ttlMs: 100, staleMs: 10_000 })
    await cache.set('key', 'old')
    await clock.advance(100)

    expect(await cache.getOrLoad('key', (_, { setTtl }) => setTtl(0) ?? 'unkept')).toBe('old')
    await clock.advance(0)

    expect(await store.value('key')).toBeUndefined()
    expect(await cache.getOrLoad('key', () => 'new')).toBe('new')
  })
})

describe('a promotion', () => {
  inVirtualTime('of what was written, deleted or invalidated meanwhile stays out of memory', async (clock) => {
    const { cache, open, store } = sharedScene(clock)
    const other = open()
    for (const [write, left] of [
      [() => cache.set('key', 'written'), 'written'],
      [() => cache.delete('key'), undefined],
      [() => cache.deleteMany(['key']), undefined],
      [() => cache.invalidateTags(['tag']), undefined],
      [() => cache.clear(), undefined],
    ] as const) {
      await other.set('key', 'old', { tags: ['tag'] })
      await cache.getOrLoad('warm', () => 'the marks')
      let release: () => void = () => undefined
      store.stage = at('getMany', async (_, work) => {
        const answer = await work()
        await new Promise<void>((resolve) => {
          release = resolve
        })
        return answer
      })
      await clock.advance(6000)
      const before = cache.get('key')
      await clock.advance(0)
      store.stage = (_, work) => work()

      const writing = write()
      const after = cache.get('key')
      release()

      await writing
      expect([undefined, 'old']).toContain(await before)
      expect(await after).toBe(left)
      expect(cache.peek('key')).toBe(left)
    }
  })
})

describe('a shared tier in trouble', () => {
  inVirtualTime('that hangs keeps nobody for longer than its time, and throws at nobody', async (clock) => {
    const { cache, store, failures } = sharedScene(clock, { l2TimeoutMs: 50 })
    store.stage = hung
    const reads = [
      watch(cache.get('a')),
      watch(cache.getMany(['a', 'b'])),
      watch(cache.getOrLoad('c', () => 'c')),
      watch(cache.getOrLoadMany(['d'], (keys) => keys)),
      watch(cache.set('e', 'e')),
      watch(cache.delete('f')),
    ]

    await clock.advance(49)
    expect(cache.peek('e')).toBe('e')
    expect(reads.map(({ status }) => status)).toEqual(reads.map(() => 'pending'))
    await clock.advance(51)

    expect(reads.map(({ status }) => status)).toEqual(reads.map(() => 'fulfilled'))
    expect(reads.slice(0, 4).map(({ value }) => value)).toEqual([undefined, [undefined, undefined], 'c', ['d']])
    expect([cache.peek('c'), cache.peek('d')]).toEqual(['c', 'd'])
    expect(failures.length).toBeGreaterThan(0)
    expectCacheBooks(cache, { pending: 0, failed: 0 })
    const closing = cache.close()
    await clock.advance(10_000)
    expect((await closing).drained).toBe(false)
  })

  inVirtualTime(
    'leaves the value of memory to a failing loader, if a stale one may be served on errors',
    async (clock) => {
      const { cache, store } = sharedScene(clock, { ttlMs: 60_000, serveStaleOnErrorMs: 60_000, l1: { ttlMs: 1000 } })
      await cache.set('key', 'value')
      await clock.advance(1000)
      store.stage = down

      expect(await cache.get('key')).toBeUndefined()
      expect(await cache.getOrLoad('key', () => Promise.reject(failure))).toBe('value')
      expect(await cache.getOrLoad('other', () => 'loaded')).toBe('loaded')
      expect(cache.peek('other')).toBe('loaded')
      expectCacheBooks(cache, { failed: 0, stale: 1 })
    },
  )

  inVirtualTime('takes a failed delete after all once it is back', async (clock) => {
    const { cache, open, store, l2 } = sharedScene(clock)
    await cache.set('key', 'old')
    store.stage = down
    await cache.delete('key')
    expect(l2().replay.pending).toBe(1)
    store.stage = (_, work) => work()

    expect(await cache.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })

    expect(l2().replay).toEqual({ pending: 0, replayed: 1, dropped: 0 })
    expect(await open().get('key')).toBeUndefined()
    expect(await cache.close()).toEqual({ drained: true, abandoned: 0 })
  })
})
