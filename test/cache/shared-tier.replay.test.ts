import { MultiLevelCache } from 'spillway'
import { MemoryInvalidationBus } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { at, doneAfter, down, hung, sharedScene, writing } from './support/staged-store.js'

describe('what a shared tier failed to write', () => {
  inVirtualTime('is neither read nor served until it is deleted there', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l1: { ttlMs: 10 } })
    await cache.set('a', 'old')
    store.stage = at(writing, down)

    await cache.set('a', 'new')
    await clock.advance(20)
    store.log()
    expect(await cache.get('a')).toBeUndefined()
    expect(store.log('getMany')).toEqual([])
    expect(l2()).toMatchObject({ replay: { pending: 1 } })

    store.stage = (_, work) => work()
    await clock.advance(1000)
    expect(await store.value('a')).toBeUndefined()
    expect(await cache.get('a')).toBeUndefined()
    expect(store.log('getMany')).toEqual(['getMany a'])
  })

  inVirtualTime('is made up for as soon as the store answers anything', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    await cache.setMany([
      ['a', 'old'],
      ['b', 'old'],
    ])
    store.stage = at(writing, down)
    await cache.set('a', 'new')
    await cache.delete('b')
    store.stage = (_, work) => work()
    store.log()

    await cache.get('c')
    await clock.advance(0)

    expect(store.log('deleteMany')).toEqual(['deleteMany b,a'])
    expect([await store.value('a'), await store.value('b')]).toEqual([undefined, undefined])
    expect(l2().replay).toEqual({ pending: 0, replayed: 2, dropped: 0 })
  })

  inVirtualTime('is settled by a later write of the same key', async (clock) => {
    const { store, cache, open, l2 } = sharedScene(clock)
    store.stage = at(writing, down)
    await cache.set('a', 'one')
    store.stage = (_, work) => work()
    store.log()

    await cache.set('a', 'two')
    await clock.advance(5000)

    expect(store.log('deleteMany')).toEqual([])
    expect(await open().get('a')).toBe('two')
    expect(l2().replay).toEqual({ pending: 0, replayed: 0, dropped: 0 })
  })

  inVirtualTime('goes out the newest first, a hundred at a time, and the oldest is given up', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l2ReplayCapacity: 250 })
    store.stage = at(writing, down)
    for (let i = 0; i < 260; i++) await cache.delete(`k${i}`)
    // Failed again: the newest of all.
    await cache.delete('k20')
    expect(l2().replay).toMatchObject({ pending: 250, dropped: 10 })
    store.stage = (_, work) => work()
    await clock.advance(0)
    store.log()

    await cache.get('x')
    await clock.advance(1000)

    const lots = store.calls.filter(({ operation }) => operation === 'deleteMany').map(({ names }) => names)
    expect(lots.map((names) => names.length)).toEqual([100, 100, 50])
    const newest = Array.from({ length: 250 }, (_, i) => 259 - i).filter((i) => i !== 20)
    expect(lots.flat()).toEqual([20, ...newest].map((i) => `cache:k${i}`))
    expect(l2().replay).toEqual({ pending: 0, replayed: 250, dropped: 10 })
  })

  inVirtualTime('gives up deletes before renewals, which stand for more', async (clock) => {
    const { store, cache, open, l2 } = sharedScene(clock, { l2ReplayCapacity: 2 })
    await cache.set('a', 'A', { tags: ['t'] })
    await cache.set('b', 'B', { tags: ['u'] })
    await cache.set('c', 'C')
    store.stage = at(writing, down)

    await cache.invalidateTags(['t'])
    await cache.delete('c')
    await cache.delete('d')
    expect(l2().replay).toMatchObject({ pending: 2, dropped: 1 })
    await cache.invalidateTags(['u'])
    await cache.delete('e')
    expect(l2().replay).toMatchObject({ pending: 2, dropped: 3 })
    store.stage = (_, work) => work()
    store.log()
    await clock.advance(1000)

    expect(store.log('renewMarks', 'deleteMany')).toEqual(['renewMarks t:u,t:t'])
    expect(l2().replay).toEqual({ pending: 0, replayed: 2, dropped: 3 })
    expect(await open().getMany(['a', 'b', 'c'])).toEqual([undefined, undefined, 'C'])
  })

  inVirtualTime(
    'makes nothing valid again by giving up a renewal, and makes up for it when there is room',
    async (clock) => {
      const { store, cache, open, l2 } = sharedScene(clock, { l2ReplayCapacity: 1, l1: { ttlMs: 10 } })
      const tags = Array.from({ length: 250 }, (_, i) => `t${i}`)
      await cache.setMany(tags.map((tag) => [tag, 'old', { tags: [tag] }]))
      store.stage = at('renewMarks', down)
      await cache.invalidateTags(tags)
      expect(l2().replay).toEqual({ pending: 1, replayed: 0, dropped: 249 })

      await clock.advance(100)
      expect(new Set(await cache.getMany(tags))).toEqual(new Set([undefined]))
      await cache.getOrLoad('t7', async () => 'new', { tags: ['t7'] })
      expect(await store.value('t7')).toBe('old')

      store.stage = (_, work) => work()
      await clock.advance(5000)
      expect(l2().replay).toEqual({ pending: 0, replayed: 250, dropped: 249 })
      expect(new Set(await open().getMany(tags))).toEqual(new Set([undefined]))
      await clock.advance(0)
      await cache.getOrLoad('t7', async () => 'new', { tags: ['t7'] })
      await clock.advance(0)
      expect(await open().get('t7')).toBe('new')
    },
  )

  inVirtualTime('a renewal that was given up is settled by a later one', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l2ReplayCapacity: 1, l1: { ttlMs: 10 } })
    store.stage = at('renewMarks', down)
    await cache.invalidateTags(['t'])
    await cache.invalidateTags(['u'])
    store.stage = at('deleteMany', down)

    await cache.invalidateTags(['t'])
    await cache.set('a', 'new', { tags: ['t'] })
    await clock.advance(20)

    expect(await cache.get('a')).toBe('new')
    expect(l2().replay).toEqual({ pending: 0, replayed: 1, dropped: 1 })
  })

  inVirtualTime(
    'is tried again and again, more and more seldom, and by no timer that holds the process',
    async (clock) => {
      const keepsAlive: unknown[] = []
      const { setTimer } = clock
      clock.setTimer = (callback, delayMs, options?: { keepAlive?: boolean }) => {
        if (delayMs >= 100 && delayMs !== 1000 + 1e-9) keepsAlive.push(options?.keepAlive)
        return setTimer.call(clock, callback, delayMs)
      }
      const { store, cache } = sharedScene(clock, { l2TimeoutMs: 50 })
      const tried: number[] = []
      store.stage = at(writing, async () => {
        tried.push(clock.now())
        throw new Error('down')
      })

      await cache.delete('a')
      await clock.advance(120_000)

      const pauses = tried.slice(1).map((time, i) => time - (tried[i] as number))
      expect(pauses.slice(0, 7)).toEqual([500, 1000, 2000, 4000, 8000, 15_000, 15_000])
      expect(new Set(keepsAlive)).toEqual(new Set([false]))
      store.stage = (_, work) => work()
      await clock.advance(15_000)
    },
  )

  inVirtualTime('goes out as the probe of an open circuit', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l2Breaker: { failureThreshold: 1, recoveryTimeoutMs: 7000 } })
    store.stage = at(writing, down)
    await cache.delete('a')
    expect(l2().state).toBe('open')
    store.stage = (_, work) => work()
    store.log()

    await clock.advance(6999)
    expect(store.log()).toEqual([])
    await clock.advance(1)

    expect(store.log()).toEqual(['deleteMany a'])
    expect(l2()).toMatchObject({ state: 'closed', replay: { pending: 0, replayed: 1 } })
  })

  inVirtualTime('does not make an attempt of every answer while one part of the store stays away', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    store.stage = at(writing, down)
    await cache.delete('a')
    store.log()

    for (let i = 0; i < 100; i++) {
      await cache.get(`k${i}`)
      await clock.advance(10)
    }

    // One at the first answer; then at most one a second.
    expect(store.log('deleteMany').length).toBeLessThanOrEqual(2)
    expect(l2().replay.pending).toBe(1)
    store.stage = (_, work) => work()
    await clock.advance(5000)
    expect(l2().replay.pending).toBe(0)
  })

  inVirtualTime('is not held up by keys that fail for themselves', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    store.stage = at(writing, down)
    for (let i = 0; i < 150; i++) await cache.delete(`k${i}`)
    const error = new Error('node 2 is down')
    store.stage = at('deleteMany', async (call, work) => {
      return (await work()).map((answer, i) => (Number(call.names[i]?.slice(7)) % 2 === 0 ? error : answer))
    })

    await cache.get('x')
    await clock.advance(0)

    expect(l2().replay).toEqual({ pending: 75, replayed: 75, dropped: 0 })
    store.stage = (_, work) => work()
    await clock.advance(2000)
    expect(l2().replay.pending).toBe(0)
  })

  inVirtualTime('of a store that hangs does not pile up', async (clock) => {
    const { store, cache } = sharedScene(clock)
    store.stage = at(writing, hung)
    for (let i = 0; i < 5; i++) void cache.delete(`k${i}`)
    await clock.advance(1000)
    store.log()

    await clock.advance(30_000)

    // Each attempt ends before the next one begins: they hang for a second each.
    expect(store.log('deleteMany').length).toBeLessThan(8)
    store.stage = (_, work) => work()
    await clock.advance(30_000)
  })
})

describe('others', () => {
  inVirtualTime('are told again of what reached the store after all', async (clock) => {
    const bus = new MemoryInvalidationBus({ clock })
    const { store, cache } = sharedScene(clock, { bus })
    const other = new MultiLevelCache<string>({ clock, l2: store, bus, l2Breaker: false })
    await other.set('a', 'old')
    await other.set('b', 'old', { tags: ['t'] })
    await cache.get('a')
    await clock.advance(0)
    store.stage = at(writing, down)

    await cache.delete('a')
    await cache.invalidateTags(['t'])
    await clock.advance(0)
    // It was told, but the store still has the old values.
    expect([await other.get('a'), await other.get('b')]).toEqual(['old', 'old'])
    store.stage = (_, work) => work()
    await clock.advance(1000)

    expect([other.peek('a'), other.peek('b')]).toEqual([undefined, undefined])
    expect([await other.get('a'), await other.get('b')]).toEqual([undefined, undefined])
  })
})

describe('flush and close', () => {
  inVirtualTime('wait for writes under way and one attempt at what waits', async (clock) => {
    const { store, cache } = sharedScene(clock)
    await cache.setMany([
      ['a', 'old'],
      ['b', 'old'],
    ])
    store.stage = at(writing, down)
    await cache.delete('a')
    store.stage = at('deleteMany', doneAfter(clock, 300))
    void cache.delete('b')

    const closed = watch(cache.close())
    await clock.advance(500)
    expect(closed.status).toBe('pending')
    await clock.advance(200)

    expect(closed.value).toEqual({ drained: true, abandoned: 0 })
    expect([await store.value('a'), await store.value('b')]).toEqual([undefined, undefined])
  })

  inVirtualTime('give up what the store does not take, and leave no timer', async (clock) => {
    const { store, cache } = sharedScene(clock)
    store.stage = down
    await cache.delete('a')
    await cache.delete('b')

    await cache.close()

    expect(clock.pending).toBe(0)
    store.log()
    await clock.advance(60_000)
    expect(store.log()).toEqual([])
  })

  inVirtualTime('what lands after close sets off nothing', async (clock) => {
    const { store, cache } = sharedScene(clock)
    store.stage = at('setMany', doneAfter(clock, 5000))
    void cache.set('a', 'value')
    await clock.advance(1000)
    const closed = cache.close()
    await clock.advance(0)
    await closed
    store.log()

    await clock.advance(10_000)

    expect(store.log()).toEqual([])
  })
})
