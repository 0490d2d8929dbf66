import type { InvalidationBus, MultiLevelCacheEvents } from 'spillway'
import { MemoryInvalidationBus } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, GateLoader } from './support/caches.js'
import { down, sharedScene } from './support/staged-store.js'

describe('a bus', () => {
  inVirtualTime('tells other caches what was set, deleted, invalidated and cleared', async (clock) => {
    const { cache, open } = sharedScene(clock, { bus: new MemoryInvalidationBus({ clock }) })
    const other = open()
    await other.get('connects')
    await cache.get('connects')
    await clock.advance(0)
    const users = other.namespace('users')
    for (const [change, left] of [
      [() => cache.set('a', 'new'), [undefined, 'old', 'old']],
      [() => cache.deleteMany(['a', 'b']), [undefined, undefined, 'old']],
      [() => cache.invalidateTags(['red']), ['old', undefined, undefined]],
      [() => cache.clear(), [undefined, undefined, undefined]],
      [() => cache.namespace('users').clear(), ['old', 'old', undefined]],
      [() => cache.namespace('users').delete('c'), ['old', 'old', undefined]],
    ] as const) {
      await other.set('a', 'old')
      await other.set('b', 'old', { tags: ['red'] })
      await users.set('c', 'old', { tags: ['red'] })
      await clock.advance(0)

      await change()
      await clock.advance(0)

      expect([other.peek('a'), other.peek('b'), users.peek('c')]).toEqual(left)
    }
  })

  inVirtualTime('fences what others are loading and reading of the key', async (clock) => {
    const { cache, open, store } = sharedScene(clock, { bus: new MemoryInvalidationBus({ clock }) })
    const other = open()
    const gate = new GateLoader()
    for (const [index, change] of [
      () => cache.delete('a'),
      () => cache.invalidateTags(['red']),
      () => cache.clear(),
    ].entries()) {
      const before = other.getOrLoad('a', gate.load, { tags: ['red'] })
      await clock.advance(0)
      await change()
      await clock.advance(0)
      gate.call(index).answer('old')

      expect(await before).toBe('old')
      await clock.advance(0)
      expect(other.peek('a')).toBeUndefined()
      expect(await other.get('a')).toBeUndefined()
    }
    expect(store.log('setMany').length).toBeLessThan(3)
  })

  inVirtualTime('lets a cache keep what it has read since', async (clock) => {
    const bus = new MemoryInvalidationBus({ clock })
    const { cache, open } = sharedScene(clock, { bus })
    const other = open()
    await other.get('connects')
    await clock.advance(0)
    const invalidated: unknown[] = []
    other.on('invalidated', (event) => invalidated.push(event))

    await cache.set('a', 'new')
    expect(await other.get('a')).toBe('new')
    await clock.advance(0)

    expect(other.peek('a')).toBe('new')
    expect(invalidated).toEqual([])
  })

  inVirtualTime('that had a gap leaves nothing trusted, and what flies goes into no memory', async (clock) => {
    const bus = new MemoryInvalidationBus({ clock })
    const { cache, open } = sharedScene(clock, { bus })
    const other = open()
    const gate = new GateLoader()
    const events: MultiLevelCacheEvents['invalidated'][] = []
    await other.get('connects')
    await clock.advance(0)
    await other.set('a', 'old')
    other.on('invalidated', (event) => events.push(event))
    const flying = other.getOrLoad('b', gate.load)
    await clock.advance(0)

    bus.interrupt()
    await cache.set('a', 'new')
    await clock.advance(0)
    expect(other.peek('a')).toBe('old')
    bus.restore()
    await clock.advance(0)

    expect(other.peek('a')).toBeUndefined()
    expect(await other.get('a')).toBe('new')
    gate.call(0).answer('loaded')
    expect(await flying).toBe('loaded')
    await clock.advance(0)
    expect(other.peek('b')).toBeUndefined()
    expect(await other.get('b')).toBe('loaded')
    expect(events).toEqual([{ kind: 'gap', source: 'bus' }])
  })

  inVirtualTime('is heard in its own namespace alone', async (clock) => {
    const bus = new MemoryInvalidationBus({ clock })
    const { cache } = cacheOn(clock, { bus, namespace: 'one' })
    const { cache: other } = cacheOn(clock, { bus, namespace: 'two' })
    await cache.get('connects')
    await other.get('connects')
    await clock.advance(0)
    await other.set('a', 'value', { tags: ['red'] })

    await cache.set('a', 'other')
    await cache.invalidateTags(['red'])
    await cache.clear()
    await clock.advance(0)

    expect(other.peek('a')).toBe('value')
  })

  inVirtualTime('works without a shared tier: others load anew', async (clock) => {
    const bus = new MemoryInvalidationBus({ clock })
    const [one, two] = [cacheOn(clock, { bus }).cache, cacheOn(clock, { bus }).cache]
    await two.get('connects')
    await one.get('connects')
    await clock.advance(0)
    await two.set('a', 'old')
    await clock.advance(0)

    await one.set('a', 'new')
    await clock.advance(0)

    expect([one.peek('a'), two.peek('a')]).toEqual(['new', undefined])
  })

  inVirtualTime('hears again of a delete that reached the store late', async (clock) => {
    const { cache, open, store } = sharedScene(clock, { bus: new MemoryInvalidationBus({ clock }) })
    const other = open()
    await cache.set('a', 'old', { tags: ['red'] })
    store.stage = down
    await cache.delete('a')
    await clock.advance(0)
    store.stage = (_, work) => work()
    expect(await other.get('a')).toBe('old')

    const flushing = cache.flush()
    await clock.advance(0)
    await flushing

    expect(other.peek('a')).toBeUndefined()
    expect(await other.get('a')).toBeUndefined()
  })

  inVirtualTime('that breaks its word is survived, and warned of once', async (clock) => {
    const broken: InvalidationBus = {
      connect: () => {
        throw new Error('no network')
      },
    }
    const odd: InvalidationBus = {
      connect: (listener) => {
        listener.onInvalidations([{ kind: 'key' }, { kind: 'tag' }, { kind: 'clear' }, { kind: 'new' }] as never)
        return {
          publish: () => {
            throw new Error('broken')
          },
          flush: () => Promise.reject(new Error('broken')),
          close: () => undefined,
        }
      },
    }

    const warnings = await warningsDuring(async () => {
      for (const bus of [broken, odd]) {
        const { cache } = cacheOn(clock, { bus, name: 'survivor' })
        await cache.set('a', 'value')
        await cache.delete('a')
        await cache.flush()
        await cache.close()
      }
    })

    expect(warnings).toHaveLength(2)
    expect(warnings.every((warning) => warning.includes('survivor'))).toBe(true)
  })
})

describe('a bus that never says that it is through', () => {
  inVirtualTime('keeps flush and close no longer than a call of the shared tier may take', async (clock) => {
    const bus: InvalidationBus = {
      connect: () => ({ publish: () => undefined, flush: () => new Promise(() => undefined), close: () => undefined }),
    }
    const { cache } = cacheOn(clock, { bus, l2TimeoutMs: 50 })
    await cache.set('a', 'value')

    const closing = watch(cache.close())
    await clock.advance(49)
    expect(closing.status).toBe('pending')
    await clock.advance(1)

    expect(closing.value).toEqual({ drained: true, abandoned: 0 })
  })
})
