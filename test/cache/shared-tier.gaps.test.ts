import { MultiLevelCache } from 'spillway'
import { type FakeClock, MemoryInvalidationBus } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { neverLoad } from './support/caches.js'
import { answeredAfter, at, type StoreOperation, sharedScene } from './support/staged-store.js'

const tags = ['t']

/** A store with a value of its own, which answers some calls late, and a cache that has not joined its bus yet. */
async function joiningScene(clock: FakeClock, slow: StoreOperation) {
  const { store, cache: writer } = sharedScene(clock)
  await writer.set('a', 'A', { tags })
  const bus = new MemoryInvalidationBus({ clock })
  const cache = new MultiLevelCache<string>({ clock, l2: store, bus, l2Breaker: false })
  store.stage = at(slow, answeredAfter(clock, 50))
  store.log()
  return { store, cache, writer, bus }
}

describe('what a cache does while it joins its bus, and so forgets what it knows of marks', () => {
  for (const slow of ['getMany', 'readMarks'] as const) {
    inVirtualTime(`reads what is there, where ${slow} is slow`, async (clock) => {
      const { cache } = await joiningScene(clock, slow)

      const read = watch(cache.get('a'))
      const loaded = watch(cache.getOrLoad('a', neverLoad))
      await clock.advance(200)

      expect([read.value, loaded.value]).toEqual(['A', 'A'])
    })
  }

  inVirtualTime('writes what it is told to', async (clock) => {
    const { store, cache, writer } = await joiningScene(clock, 'readMarks')

    const written = watch(cache.set('b', 'B', { tags }))
    await clock.advance(200)

    expect(written.status).toBe('fulfilled')
    expect(cache.stats().l2?.replay).toEqual({ pending: 0, replayed: 0, dropped: 0 })
    expect(await store.value('b')).toBe('B')
    expect(await writer.get('b')).toBe('B')
  })

  inVirtualTime('writes what it loads', async (clock) => {
    const { store, cache, writer } = await joiningScene(clock, 'readMarks')

    const loaded = watch(cache.getOrLoad('b', async () => 'B', { tags }))
    await clock.advance(200)

    expect(loaded.value).toBe('B')
    expect(await store.value('b')).toBe('B')
    expect(await writer.get('b')).toBe('B')
  })

  inVirtualTime('does not ask for ever, while others invalidate on and on', async (clock) => {
    const { store, cache, bus } = await joiningScene(clock, 'readMarks')
    await clock.advance(0)
    const other = new MultiLevelCache<string>({ clock, l2: store.memory, bus, l2Breaker: false })
    await other.get('joined')
    await clock.advance(100)

    const read = watch(cache.get('a'))
    for (let i = 0; i < 60; i++) {
      void other.invalidateTags(tags)
      await clock.advance(10)
    }

    expect(read).toMatchObject({ status: 'fulfilled', value: undefined })
    const asked = store.calls.filter(({ operation, names }) => operation === 'readMarks' && names.includes('cache:t:t'))
    expect(asked.length).toBeLessThanOrEqual(4)
  })
})
