import { describe, expect } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { at, doneAfter, down, hung, type Stage, type StagedCall, sharedScene } from './support/staged-store.js'

/** Holds calls until a test lets them go on, in whatever order. */
function gate(): { stage: Stage; held: HeldCall[] } {
  const held: HeldCall[] = []
  const stage: Stage = (call, work) =>
    new Promise((resolve, reject) => {
      held.push({ ...call, pass: () => work().then(resolve, reject), fail: reject })
    })
  return { stage, held }
}

interface HeldCall extends StagedCall {
  pass(): Promise<void>
  fail(error: unknown): void
}

describe('writes of one key', () => {
  inVirtualTime('go out one after the other, and the last of those that wait stands for them', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    const { stage, held } = gate()
    store.stage = at(['setMany', 'deleteMany'], stage)

    const writes = [watch(cache.set('a', '1'))]
    await clock.advance(0)
    writes.push(...['2', '3', '4'].map((value) => watch(cache.set('a', value))))
    await clock.advance(0)
    expect(held).toHaveLength(1)
    await held[0]?.pass()
    await clock.advance(0)
    expect(writes.map(({ status }) => status)).toEqual(['fulfilled', 'pending', 'pending', 'pending'])
    expect(await store.value('a')).toBe('1')
    await held[1]?.pass()
    await clock.advance(0)

    expect(writes.map(({ status }) => status)).toEqual(Array(4).fill('fulfilled'))
    expect(await store.value('a')).toBe('4')
    expect(held).toHaveLength(2)
    expect(l2().writes).toBe(2)
  })

  inVirtualTime(
    'that are asked for in one go leave in one call, of one key only the last, with all others',
    async (clock) => {
      const { store, cache, l2 } = sharedScene(clock)
      await cache.get('warm')
      store.log()

      const writes = [
        cache.set('a', '1'),
        cache.set('b', '1'),
        cache.delete('c'),
        cache.set('a', '2'),
        cache.set('c', '3'),
      ]
      await clock.advance(0)
      await Promise.all(writes)

      expect(store.log('setMany', 'deleteMany')).toEqual(['setMany a,b,c'])
      expect(await Promise.all(['a', 'b', 'c'].map((key) => store.value(key)))).toEqual(['2', '1', '3'])
      expect(l2().writes).toBe(3)
    },
  )

  inVirtualTime('keep their order, deletes among them', async (clock) => {
    const { store, cache } = sharedScene(clock)
    const { stage, held } = gate()
    store.stage = at(['setMany', 'deleteMany'], stage)

    void cache.set('a', '1')
    await clock.advance(0)
    void cache.delete('a')
    void cache.set('b', '1')
    await clock.advance(0)
    void cache.set('b', '2')
    void cache.delete('b')
    await clock.advance(0)
    expect(held.map(({ operation, names }) => `${operation} ${names}`)).toEqual(['setMany cache:a', 'setMany cache:b'])
    // The second one is answered first.
    await held[1]?.pass()
    await held[0]?.pass()
    await clock.advance(0)
    for (const call of held.slice(2)) await call.pass()
    await clock.advance(0)

    expect(held.slice(2).map(({ operation, names }) => `${operation} ${names}`)).toEqual([
      'deleteMany cache:b',
      'deleteMany cache:a',
    ])
    expect([await store.value('a'), await store.value('b')]).toEqual([undefined, undefined])
  })

  inVirtualTime('of many keys leave in one call, those that are busy apart', async (clock) => {
    const { store, cache } = sharedScene(clock)
    await cache.get('warm')
    const { stage, held } = gate()
    store.stage = at('setMany', stage)
    store.log()

    void cache.set('b', 'first')
    await clock.advance(0)
    const bulk = watch(
      cache.setMany([
        ['a', 'A'],
        ['b', 'B'],
        ['c', 'C'],
      ]),
    )
    await clock.advance(0)
    expect(store.log('setMany')).toEqual(['setMany b', 'setMany a,c'])
    await held[1]?.pass()
    await clock.advance(0)
    expect(bulk.status).toBe('pending')
    await held[0]?.pass()
    await clock.advance(0)
    expect(store.log('setMany')).toEqual(['setMany b'])
    await held[2]?.pass()
    await clock.advance(0)

    expect(bulk.status).toBe('fulfilled')
    expect(await Promise.all(['a', 'b', 'c'].map((key) => store.value(key)))).toEqual(['A', 'B', 'C'])
  })

  inVirtualTime('are waited for by a read of that key, and by no other', async (clock) => {
    const { store, cache } = sharedScene(clock, { l1: { ttlMs: 10 } })
    await cache.set('a', 'old')
    await cache.set('b', 'B')
    await clock.advance(20)
    const { stage, held } = gate()
    store.stage = at('deleteMany', stage)

    void cache.delete('a')
    const [a, b] = [watch(cache.get('a')), watch(cache.get('b'))]
    await clock.advance(0)
    expect([a.status, b.value]).toEqual(['pending', 'B'])
    await held[0]?.pass()
    await clock.advance(0)

    expect(a).toMatchObject({ status: 'fulfilled', value: undefined })
  })

  inVirtualTime('that hang let the next one go when their time is over', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    let calls = 0
    store.stage = at('setMany', (call, work) => (calls++ === 0 ? hung(call, work) : work()))

    const first = watch(cache.set('a', '1'))
    await clock.advance(0)
    const second = watch(cache.set('a', '2'))
    await clock.advance(1000)

    expect([first.status, second.status]).toEqual(['fulfilled', 'fulfilled'])
    expect(await store.value('a')).toBe('2')
    expect(l2()).toMatchObject({ timeouts: 1, replay: { pending: 0, replayed: 0 } })
  })
})

describe('a write that was given up', () => {
  inVirtualTime('and lands late on a newer value is deleted', async (clock) => {
    const { store, cache, open, l2 } = sharedScene(clock)
    let calls = 0
    store.stage = at('setMany', async (_, work) => {
      if (calls++ === 0) await new Promise<void>((resolve) => clock.setTimer(resolve, 3000))
      return work()
    })

    void cache.set('a', 'old')
    await clock.advance(1000)
    await cache.set('a', 'new')
    expect(await store.value('a')).toBe('new')
    await clock.advance(2000)

    // It landed, and was answered; nobody may read it.
    expect(await store.value('a')).toBeUndefined()
    expect(await open().get('a')).toBeUndefined()
    expect(l2().replay).toEqual({ pending: 0, replayed: 1, dropped: 0 })
  })

  inVirtualTime('and lands after its replay is deleted again', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    store.stage = at('setMany', doneAfter(clock, 10_000))

    void cache.set('a', 'old')
    await clock.advance(3000)
    expect(l2().replay).toMatchObject({ pending: 0, replayed: 1 })
    await clock.advance(7000)

    expect(await store.value('a')).toBeUndefined()
    expect(l2().replay).toMatchObject({ pending: 0, replayed: 2 })
  })

  inVirtualTime('and fails late may have landed too', async (clock) => {
    const { store, cache } = sharedScene(clock)
    let failing = true
    store.stage = at('setMany', async (_, work) => {
      if (!failing) return work()
      failing = false
      await new Promise<void>((resolve) => clock.setTimer(resolve, 3000))
      await work()
      throw new Error('the connection was lost')
    })

    void cache.set('a', 'old')
    await clock.advance(1000)
    await cache.set('a', 'new')
    await clock.advance(4000)

    expect(await store.value('a')).toBeUndefined()
  })

  inVirtualTime('and lands while its replay is under way is deleted again', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    const wait = (ms: number): Promise<void> => new Promise((resolve) => clock.setTimer(resolve, ms))
    store.stage = async ({ operation }, work) => {
      if (operation === 'setMany') await wait(2000)
      const answers = await work()
      if (operation === 'deleteMany') await wait(800)
      return answers
    }

    void cache.set('a', 'old')
    await clock.advance(1600)
    // Deleted by now, though not acknowledged.
    expect(store.log('deleteMany')).toEqual(['deleteMany a'])
    await clock.advance(5000)

    expect(store.log('deleteMany')).toEqual(['deleteMany a'])
    expect(await store.value('a')).toBeUndefined()
    expect(l2().replay.pending).toBe(0)
  })

  inVirtualTime('and fails late keeps out what is loaded meanwhile, until it is deleted', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    const wait = (ms: number): Promise<void> => new Promise((resolve) => clock.setTimer(resolve, ms))
    store.stage = at('setMany', async () => {
      await wait(3000)
      throw new Error('the connection was lost')
    })
    void cache.set('a', 'old', { ttlMs: 10 })
    await clock.advance(2000)
    store.log()

    const load = watch(cache.getOrLoad('a', () => wait(2000).then(() => 'loaded')))
    await clock.advance(500)
    expect(store.log()).toEqual(['getMany a'])
    store.stage = at('deleteMany', down)
    await clock.advance(1500)

    expect(load.value).toBe('loaded')
    expect(store.log('setMany')).toEqual([])
    store.stage = (_, work) => work()
    await clock.advance(5000)
    expect(l2().replay.pending).toBe(0)
  })

  inVirtualTime('to load a key is kept out by its version while the store remembers', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    store.stage = at('setMany', doneAfter(clock, 3000))

    const read = watch(cache.getOrLoad('a', async () => 'loaded'))
    await clock.advance(1000)
    expect(read.value).toBe('loaded')
    store.stage = (_, work) => work()
    await cache.delete('a')
    await clock.advance(3000)

    expect(await store.value('a')).toBeUndefined()
    expect(l2().replay.replayed).toBe(0)
  })

  inVirtualTime('to load a key and lands when nobody remembers is deleted', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    store.stage = at('setMany', doneAfter(clock, 90_000))

    void cache.getOrLoad('a', async () => 'loaded')
    await clock.advance(1000)
    store.stage = (_, work) => work()
    await cache.delete('a')
    // The tombstone is gone by then, so that the store takes it.
    await clock.advance(90_000)

    expect(await store.value('a')).toBeUndefined()
    expect(l2().replay.replayed).toBe(1)
  })
})

describe('what was loaded', () => {
  inVirtualTime('is not written when the load took longer than the store remembers', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    const load = watch(
      cache.getOrLoad('a', async () => {
        await new Promise<void>((resolve) => clock.setTimer(resolve, 60_001))
        return 'old'
      }),
    )
    await clock.advance(0)
    await store.memory.deleteMany(['cache:a'])
    await clock.advance(60_001)

    expect(load.value).toBe('old')
    expect(await store.value('a')).toBeUndefined()
    expect(l2().superseded).toBe(1)
    expect(store.log('setMany')).toEqual([])
  })

  inVirtualTime('is deleted where the write itself outlasts what the store remembers', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l2TimeoutMs: 100_000 })
    store.stage = at('setMany', doneAfter(clock, 70_000))

    void cache.getOrLoad('a', async () => 'old')
    await clock.advance(0)
    await store.memory.deleteMany(['cache:a'])
    await clock.advance(75_000)

    expect(await store.value('a')).toBeUndefined()
    expect(cache.peek('a')).toBeUndefined()
    expect(l2()).toMatchObject({ superseded: 1, replay: { pending: 0, replayed: 1 } })
  })

  inVirtualTime('is not written while the key waits for its replay', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    await cache.set('a', 'old')
    store.stage = at('deleteMany', async () => {
      throw new Error('down')
    })
    await cache.delete('a')
    store.log()

    expect(await cache.getOrLoad('a', async () => 'loaded')).toBe('loaded')
    expect(cache.peek('a')).toBe('loaded')
    expect(store.log('getMany', 'setMany')).toEqual([])
    expect(l2().replay.pending).toBe(1)

    store.stage = (_, work) => work()
    await clock.advance(1000)
    expect(await store.value('a')).toBeUndefined()
  })
})
