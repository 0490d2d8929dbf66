import type { FakeClock } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { neverLoad } from './support/caches.js'
import { at, doneAfter, down, hung, type Stage, sharedScene } from './support/staged-store.js'

const tags = ['t']

/** Writes late, and never answers a read. */
function slowAndHung(clock: FakeClock): Stage {
  const slow = at('setMany', doneAfter(clock, 600))
  return (call, work) => (call.operation === 'getMany' ? hung(call, work) : slow(call, work))
}

describe('a read of the shared tier takes no longer than one call may', () => {
  inVirtualTime('where it waits for a write, and then for an answer that does not come', async (clock) => {
    const { store, cache, failures, l2 } = sharedScene(clock, { l1: { ttlMs: 1 } })
    await cache.set('a', 'old')
    store.stage = slowAndHung(clock)
    void cache.set('a', 'new', { ttlMs: 1000 })
    await clock.advance(10)

    const read = watch(cache.get('a'))
    await clock.advance(999)
    expect(read.status).toBe('pending')
    expect(store.log('getMany')).toEqual(['getMany a'])
    await clock.advance(1)

    expect(read).toMatchObject({ status: 'fulfilled', value: undefined })
    expect(l2()).toMatchObject({ timeouts: 0, misses: 1 })
    // The call has its own time all the same, and counts when that is over.
    await clock.advance(1000)
    expect(l2()).toMatchObject({ timeouts: 1, failed: 1 })
    expect(failures).toMatchObject([{ operation: 'read', keys: ['cache:a'] }])
  })

  inVirtualTime('where the write itself takes longer, and then it does not ask at all', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l1: { ttlMs: 1 } })
    await cache.get('warm')
    store.log()
    store.stage = at('setMany', hung)
    for (const value of ['1', '2', '3']) {
      void cache.set('a', value, { ttlMs: 1000 })
      await clock.advance(1)
    }

    const reads = watch(cache.getMany(['a', 'b']))
    await clock.advance(1000)

    expect(reads).toMatchObject({ status: 'fulfilled', value: [undefined, undefined] })
    expect(store.log('getMany')).toEqual(['getMany b'])
    expect(l2().misses).toBe(3)
    store.stage = (_, work) => work()
    await clock.advance(3000)
    expect(store.log('getMany')).toEqual([])
  })

  inVirtualTime('where values are slow, and marks hang', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.set('a', 'A', { tags })
    await cache.set('b', 'B')
    const reader = open()
    store.stage = (call, work) => {
      if (call.operation === 'getMany') return doneAfter(clock, 600)(call, work)
      return call.names.includes('cache:t:t') ? hung(call, work) : work()
    }

    const read = watch(reader.getMany(['a', 'b']))
    await clock.advance(999)
    expect(read.status).toBe('pending')
    await clock.advance(1)

    // What can be told by then is.
    expect(read).toMatchObject({ status: 'fulfilled', value: [undefined, 'B'] })
    expect(reader.stats().l2).toMatchObject({ hits: 1, misses: 1, timeouts: 0 })
    await clock.advance(600)
    expect(reader.stats().l2).toMatchObject({ failed: 1, timeouts: 1 })
  })

  inVirtualTime('where a mark that says no is to be confirmed, and that hangs', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    const reader = open()
    await cache.set('a', 'before', { tags })
    await reader.get('a')
    await cache.invalidateTags(tags)
    await cache.set('b', 'after', { tags })
    store.stage = (call, work) => {
      if (call.operation === 'getMany') return doneAfter(clock, 700)(call, work)
      return call.operation === 'readMarks' ? hung(call, work) : work()
    }
    store.log()

    const read = watch(reader.getOrLoad('b', async () => 'loaded'))
    await clock.advance(999)
    expect(store.log('readMarks')).toEqual(['readMarks t:t'])
    expect(read.status).toBe('pending')
    await clock.advance(1)

    expect(read).toMatchObject({ status: 'fulfilled', value: 'loaded' })
    await clock.advance(1000)
    expect(await store.value('b')).toBe('after')
  })

  inVirtualTime('and the breaker learns of each call what it would learn anyway', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l1: { ttlMs: 1 }, l2Breaker: { failureThreshold: 1 } })
    await cache.set('a', 'old')
    store.stage = slowAndHung(clock)
    void cache.set('a', 'new', { ttlMs: 1000 })
    await clock.advance(10)

    void cache.get('a')
    await clock.advance(1000)
    expect(l2().state).toBe('closed')
    await clock.advance(600)

    expect(l2().state).toBe('open')
  })
})

describe('a value whose marks can not be asked', () => {
  inVirtualTime('is no reason to forget what memory has', async (clock) => {
    const { store, cache } = sharedScene(clock, { l1: { ttlMs: 100 }, serveStaleOnErrorMs: 60_000 })
    await cache.set('a', 'A', { tags })
    await clock.advance(200)
    store.stage = at('readMarks', down)
    const fail = async (): Promise<string> => {
      throw new Error('the source is down')
    }

    expect(await cache.getOrLoad('a', fail)).toBe('A')
    expect(await store.value('a')).toBe('A')
  })

  inVirtualTime('is not replaced by what is loaded', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.set('a', 'A', { tags })
    const reader = open()
    store.stage = at('readMarks', down)

    const gate = watch(
      reader.getOrLoad('a', async () => {
        store.stage = (_, work) => work()
        return 'loaded'
      }),
    )
    await clock.advance(0)

    expect(gate.value).toBe('loaded')
    expect(await store.value('a')).toBe('A')
    expect(await open().getOrLoad('a', neverLoad)).toBe('A')
  })

  inVirtualTime('but one that a mark is known to speak against is', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.set('a', 'A', { tags })
    await open().invalidateTags(tags)
    const reader = open()

    expect(await reader.getOrLoad('a', async () => 'loaded')).toBe('loaded')
    await clock.advance(0)
    expect(await store.value('a')).toBe('loaded')
  })
})
