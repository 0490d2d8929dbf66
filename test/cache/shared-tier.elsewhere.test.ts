import { MultiLevelCache } from 'spillway'
import { MemoryInvalidationBus } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { answeredAfter, at, doneAfter, down, hung, sharedScene } from './support/staged-store.js'

const tags = ['t']

describe('what is written after another process has invalidated', () => {
  for (const known of [false, true]) {
    const how = known ? 'which this one does not know of yet' : 'right before'
    inVirtualTime(`is there for all, where it did so ${how}`, async (clock) => {
      const { cache: other, open, store } = sharedScene(clock)
      const cache = open()
      if (known) await cache.set('before', 'old', { tags })
      await clock.advance(known ? 1000 : 0)

      await other.clear()
      await other.invalidateTags(tags)
      await cache.set('a', 'new', { tags })
      await cache.setMany([
        ['b', 'new'],
        ['c', 'new', { tags }],
      ])

      expect(await other.getMany(['a', 'b', 'c', 'before'])).toEqual(['new', 'new', 'new', undefined])
      expect(await open().getMany(['a', 'b', 'c'])).toEqual(['new', 'new', 'new'])
      await clock.advance(6000)
      expect(await cache.getMany(['a', 'b', 'c', 'before'])).toEqual(['new', 'new', 'new', undefined])
      expect(await store.value('before')).toBe(known ? 'old' : undefined)
    })
  }

  inVirtualTime('is there for all, where the bus tells while it is being written', async (clock) => {
    const bus = new MemoryInvalidationBus({ clock })
    const { cache, store, open } = sharedScene(clock, { bus })
    const other = new MultiLevelCache<string>({ clock, l2: store.memory, bus, l2Breaker: false })
    await other.set('before', 'old', { tags })
    await cache.set('before', 'old', { tags })
    await clock.advance(0)
    await cache.set('before', 'old', { tags })
    store.stage = at('readMarks', answeredAfter(clock, 50))

    await other.invalidateTags(tags)
    const written = watch(cache.set('a', 'new', { tags }))
    await clock.advance(200)

    expect(written.status).toBe('fulfilled')
    expect(await other.getMany(['a', 'before'])).toEqual(['new', undefined])
    store.stage = (_, work) => work()
    expect(await open().get('a')).toBe('new')
  })

  inVirtualTime('is written once, where nobody has', async (clock) => {
    const { cache, store } = sharedScene(clock)
    await cache.set('a', '1', { tags })
    store.log()

    await cache.set('a', '2', { tags })

    expect(store.log('setMany', 'deleteMany')).toEqual(['setMany a'])
  })

  inVirtualTime('is written as before, where the marks can not be asked again', async (clock) => {
    const { cache, open, store, l2 } = sharedScene(clock)
    await cache.set('a', '1', { tags })
    for (const stage of [down, hung]) {
      store.stage = at('readMarks', stage)
      const written = watch(cache.set('a', '2', { tags }))
      await clock.advance(1000)
      expect(written.status).toBe('fulfilled')
    }

    store.stage = (_, work) => work()
    expect(await open().get('a')).toBe('2')
    expect(l2().replay.pending).toBe(0)
  })

  inVirtualTime('but not what was written before this process invalidated itself, however often', async (clock) => {
    const { cache, open, store } = sharedScene(clock)
    store.stage = at('readMarks', doneAfter(clock, 50))

    void cache.set('a', 'old', { tags })
    void cache.invalidateTags(tags)
    void cache.invalidateTags(tags)
    await clock.advance(2000)

    store.stage = (_, work) => work()
    expect(await store.value('a')).toBeUndefined()
    expect(await open().get('a')).toBeUndefined()
  })
})

describe('what is loaded while another process invalidates', () => {
  inVirtualTime('is kept out', async (clock) => {
    const { cache: other, open, store } = sharedScene(clock)
    const cache = open()

    const loaded = watch(
      cache.getOrLoad(
        'a',
        async () => {
          await other.invalidateTags(tags)
          return 'old'
        },
        { tags },
      ),
    )
    await clock.advance(0)

    expect(loaded.value).toBe('old')
    expect(await other.get('a')).toBeUndefined()
    expect(await open().get('a')).toBeUndefined()
    expect(await store.value('a')).toBeUndefined()
  })
})
