import { MemoryInvalidationBus } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { GateLoader } from './support/caches.js'
import { answeredAfter, at, doneAfter, down, sharedScene } from './support/staged-store.js'

const tags = ['t']

describe('marks', () => {
  inVirtualTime('are read beside the values, once, and believed for the life of memory', async (clock) => {
    const { store, cache, open } = sharedScene(clock, { l1: { ttlMs: 1000 } })
    await cache.set('a', 'A', { tags })
    const reader = open()
    store.log()

    await reader.get('a')
    expect(store.log()).toEqual(['readMarks ccache', 'getMany a', 'readMarks t:t'])
    for (let i = 0; i < 5; i++) await reader.get(`k${i}`)
    expect(store.log('readMarks')).toEqual([])
    await clock.advance(1001)
    await reader.get('b')
    expect(store.log()).toEqual(['readMarks ccache', 'getMany b'])
  })

  inVirtualTime('are asked for once by readers that come together', async (clock) => {
    const { store, open } = sharedScene(clock)
    const reader = open()

    await Promise.all(Array.from({ length: 10 }, (_, i) => reader.get(`k${i}`)))

    expect(store.log('readMarks')).toEqual(['readMarks ccache'])
  })

  inVirtualTime(
    'keep what others invalidated from being read, after the life of memory at the latest',
    async (clock) => {
      const { store, cache, open } = sharedScene(clock, { l1: { ttlMs: 1000 } })
      await cache.set('a', 'A', { tags })
      const reader = open()
      expect(await reader.get('a')).toBe('A')
      await clock.advance(600)
      await store.memory.renewMarks(['cache:t:t'])

      // Read again by now, and still believed: its mark is 600 ms old.
      expect(reader.peek('a')).toBe('A')
      await clock.advance(401)

      expect(reader.peek('a')).toBeUndefined()
      expect(await reader.get('a')).toBeUndefined()
    },
  )

  inVirtualTime('make no promotion live longer than they count as checked', async (clock) => {
    const { cache, open } = sharedScene(clock, { l1: { ttlMs: 1000 } })
    await cache.setMany([
      ['a', 'A'],
      ['b', 'B'],
    ])
    const reader = open()
    await reader.get('a')
    await clock.advance(900)
    await reader.get('b')

    await clock.advance(101)

    // Promoted 101 ms ago, by a mark that was read 1001 ms ago.
    expect(reader.peek('b')).toBeUndefined()
  })

  inVirtualTime('that contradict a value are read again before they are believed', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    const reader = open()
    await reader.get('warm')
    await cache.set('a', 'before', { tags })
    await reader.get('a')
    // Another process invalidates, and writes anew: what is known here is older than the value.
    await cache.clear()
    await cache.invalidateTags(tags)
    await cache.set('b', 'after', { tags })
    store.log()

    expect(await reader.get('b')).toBe('after')

    expect(store.log()).toEqual(['getMany b', 'readMarks ccache,t:t'])
  })

  inVirtualTime('that a store has forgotten make values invalid', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.set('a', 'A')
    store.stage = at('readMarks', async (call) => {
      return store.memory.renewMarks(call.names)
    })

    expect(await open().get('a')).toBeUndefined()
  })

  inVirtualTime('that can not be read make a miss, and a write that waits to be deleted', async (clock) => {
    const { store, cache, open, failures, l2 } = sharedScene(clock)
    await cache.set('a', 'A', { tags })
    await cache.set('b', 'B')
    const reader = open()
    reader.on('storeFailed', (failure) => failures.push(failure))
    store.stage = at('readMarks', down)

    expect(await reader.get('a')).toBeUndefined()
    expect(failures[0]).toMatchObject({ operation: 'marks', keys: ['cache:ccache'] })
    await cache.set('b', 'new', { tags: ['unknown'] })
    expect(cache.peek('b')).toBe('new')
    expect(l2().replay.pending).toBe(1)
    await clock.advance(1000)

    expect(await store.value('b')).toBeUndefined()
  })

  inVirtualTime('a value without the mark of its namespace is none', async (clock) => {
    const { store, cache } = sharedScene(clock)
    await store.memory.setMany([{ key: 'cache:a', value: 'forged', freshMs: 1000, keptMs: 1000, marks: [] }])

    expect(await cache.get('a')).toBeUndefined()
    expect(await cache.getOrLoad('a', async () => 'loaded')).toBe('loaded')
    expect(await store.value('a')).toBe('loaded')
  })
})

describe('the times of a value', () => {
  inVirtualTime('are less what it took to read it, its marks included', async (clock) => {
    const { store, cache, open } = sharedScene(clock, { ttlMs: 1000 })
    await cache.set('a', 'A', { tags })
    const reader = open()
    store.stage = at(['getMany', 'readMarks'], answeredAfter(clock, 200))

    const read = watch(reader.get('a'))
    await clock.advance(400)
    expect(read.value).toBe('A')
    await clock.advance(599)
    expect(reader.peek('a')).toBe('A')
    await clock.advance(1)

    expect(reader.peek('a')).toBeUndefined()
  })
})

describe('a mark that is renewed', () => {
  inVirtualTime('during a load keeps what was loaded out, whoever renewed it', async (clock) => {
    for (const whose of ['this process', 'another process']) {
      const { store, cache, open } = sharedScene(clock)
      const gate = new GateLoader()
      const load = watch(cache.getOrLoad('a', gate.load, { tags }))
      await clock.advance(1)
      if (whose === 'this process') await cache.invalidateTags(tags)
      else await open().invalidateTags(tags)
      await clock.advance(1)
      gate.call(0).answer('old')
      await clock.advance(0)

      expect(load.value, whose).toBe('old')
      expect(await store.value('a'), whose).toBeUndefined()
      expect(cache.peek('a'), whose).toBeUndefined()
      await store.memory.deleteMany(['cache:a'])
    }
  })

  inVirtualTime('before a load lets it in, also right before', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.invalidateTags(tags)
    await cache.getOrLoad('a', async () => 'new', { tags })
    await clock.advance(0)
    expect(await store.value('a')).toBe('new')
    expect(await open().get('a')).toBe('new')

    // By another process, a while before: the mark says so itself.
    await open().invalidateTags(['u'])
    await clock.advance(5)
    await cache.getOrLoad('b', async () => 'new', { tags: ['u'] })
    await clock.advance(0)
    expect(await store.value('b')).toBe('new')
  })

  inVirtualTime('before a write is waited for, and does not touch it', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.set('a', 'old', { tags })
    store.stage = at('renewMarks', doneAfter(clock, 50))

    const done = watch(Promise.all([cache.invalidateTags(tags), cache.set('a', 'new', { tags })]))
    await clock.advance(50)

    expect(done.status).toBe('fulfilled')
    expect(await open().get('a')).toBe('new')
  })

  inVirtualTime('after a write, and before that reached the store, makes a delete of it', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.set('a', 'old', { tags: ['other'] })
    // The tag isn't known yet, so that the write waits for it.
    store.stage = at('readMarks', doneAfter(clock, 50))

    void cache.set('a', 'new', { tags })
    void cache.invalidateTags(tags)
    expect(cache.peek('a')).toBeUndefined()
    await clock.advance(2000)

    expect(await store.value('a')).toBeUndefined()
    store.stage = (_, work) => work()
    expect(await open().get('a')).toBeUndefined()
  })

  inVirtualTime('makes invalid at once, before the store has acknowledged it', async (clock) => {
    const { store, cache } = sharedScene(clock, { l1: { ttlMs: 1 } })
    await cache.set('a', 'A', { tags })
    await clock.advance(10)
    expect(await cache.get('a')).toBe('A')
    await clock.advance(10)
    store.stage = at('renewMarks', doneAfter(clock, 100))

    const invalidated = watch(cache.invalidateTags(tags))
    const read = watch(cache.get('a'))
    await clock.advance(50)
    expect([invalidated.status, read.status, read.value]).toEqual(['pending', 'fulfilled', undefined])
    await clock.advance(50)

    expect(invalidated.status).toBe('fulfilled')
    expect(await cache.get('a')).toBeUndefined()
  })

  inVirtualTime('in vain stays so: what depends on it is neither read nor written until it is', async (clock) => {
    const { store, cache, open, l2, failures } = sharedScene(clock, { l1: { ttlMs: 1 } })
    await cache.set('a', 'A', { tags })
    await cache.set('b', 'B')
    store.stage = at('renewMarks', down)

    await cache.invalidateTags(tags)
    await clock.advance(10)
    expect(failures).toMatchObject([{ operation: 'marks', keys: ['cache:t:t'] }])
    expect([await cache.get('a'), await cache.get('b')]).toEqual([undefined, 'B'])
    expect(await cache.getOrLoad('a', async () => 'loaded', { tags })).toBe('loaded')
    expect(await store.value('a')).toBe('A')
    expect(l2().replay.pending).toBe(1)

    store.stage = (_, work) => work()
    await clock.advance(2000)
    expect(l2().replay).toEqual({ pending: 0, replayed: 1, dropped: 0 })
    expect(await open().get('a')).toBeUndefined()
    await cache.getOrLoad('a', async () => 'loaded again', { tags })
    await clock.advance(0)
    expect(await open().get('a')).toBe('loaded again')
  })

  inVirtualTime('twice at the same time is read again, since nobody knows which came last', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    let calls = 0
    store.stage = at('renewMarks', async (_, work) => {
      // Done in their order, and answered the other way round.
      const answers = await work()
      await new Promise<void>((resolve) => clock.setTimer(resolve, calls++ === 0 ? 100 : 50))
      return answers
    })
    void cache.invalidateTags(tags)
    void cache.invalidateTags(tags)
    await clock.advance(100)
    store.stage = (_, work) => work()

    await cache.set('a', 'A', { tags })

    expect(await open().get('a')).toBe('A')
  })

  inVirtualTime(
    'by another process while it is being read is asked for again, once the bus has told',
    async (clock) => {
      const bus = new MemoryInvalidationBus({ clock })
      const { store, cache, open } = sharedScene(clock, { bus })
      const other = open()
      await other.set('a', 'A', { tags })
      await other.set('b', 'B', { tags })
      await cache.get('connected')
      await clock.advance(0)
      // The namespace's mark is known again after the gap, so that only the tag's is read.
      await cache.get('warm')
      store.log()
      store.stage = at('readMarks', answeredAfter(clock, 100))

      const read = watch(cache.get('a'))
      await clock.advance(50)
      expect(store.log('readMarks')).toEqual(['readMarks t:t'])
      store.stage = (_, work) => work()
      await other.invalidateTags(tags)
      await clock.advance(0)
      await clock.advance(50)
      expect(read.status).toBe('fulfilled')

      expect([await cache.get('a'), await cache.get('b')]).toEqual([undefined, undefined])
    },
  )

  inVirtualTime('while it is being read is not taken for what it was', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await open().set('a', 'A', { tags })
    store.stage = at('readMarks', answeredAfter(clock, 100))

    const read = watch(cache.get('a'))
    await clock.advance(50)
    await cache.invalidateTags(tags)
    await clock.advance(100)

    expect(read).toMatchObject({ status: 'fulfilled', value: undefined })
    store.stage = (_, work) => work()
    expect(await cache.get('a')).toBeUndefined()
  })
})
