import { type CacheStore, MultiLevelCache } from 'spillway'
import { MemoryCacheStore, MemoryInvalidationBus } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { codeOf, reasonOf, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, expectCacheBooks, neverLoad } from './support/caches.js'
import { at, down, hung, sharedScene } from './support/staged-store.js'

describe('close', () => {
  inVirtualTime('refuses everything new', async (clock) => {
    const { cache } = cacheOn(clock)
    const users = cache.namespace('users')
    const wrapped = cache.wrap(() => 'x', { name: 'w' })
    await cache.set('key', 'value')

    expect(await cache.close()).toEqual({ drained: true, abandoned: 0 })

    expect(cache.peek('key')).toBeUndefined()
    for (const call of [
      cache.get('key'),
      cache.getMany(['key', 'b']),
      cache.set('key', 'x'),
      cache.setMany([['key', 'x']]),
      cache.delete('key'),
      cache.deleteMany(['key']),
      cache.getOrLoad('key', neverLoad),
      cache.getOrLoadMany(['key'], neverLoad),
      cache.invalidateTags(['tag']),
      cache.clear(),
      cache.warm([]),
      users.get('key'),
      wrapped(),
      wrapped.invalidate(),
    ]) {
      expect(codeOf(await reasonOf(call))).toBe('ERR_CLOSED')
    }
    expectCacheBooks(cache, { offered: 8, rejected: 8 })
    expect(await cache.close()).toEqual({ drained: true, abandoned: 0 })
  })

  inVirtualTime('waits for what flies, and writes what it brings', async (clock) => {
    const { cache, store } = sharedScene(clock)
    let answer: (value: string) => void = () => undefined
    const load = cache.getOrLoad(
      'key',
      () =>
        new Promise<string>((resolve) => {
          answer = resolve
        }),
    )
    const set = cache.set('other', 'value')
    await clock.advance(0)
    const closing = watch(cache.close())
    await clock.advance(1000)
    expect(closing.status).toBe('pending')

    answer('loaded')
    expect(await load).toBe('loaded')
    await set
    await clock.advance(0)

    expect(closing.value).toEqual({ drained: true, abandoned: 0 })
    expect([await store.value('key'), await store.value('other')]).toEqual(['loaded', 'value'])
    expect(cache.stats().l1.entries).toBe(0)
  })

  inVirtualTime('gives up at the deadline: callers are rejected, loaders aborted', async (clock) => {
    const { cache, store } = sharedScene(clock, { l2TimeoutMs: 10_000, loadConcurrency: 1 })
    let signal: AbortSignal | undefined
    const load = watch(
      cache.getOrLoad('key', (_, context) => {
        signal = context.signal
        return new Promise<string>(() => undefined)
      }),
    )
    const queued = watch(cache.getOrLoad('queued', neverLoad))
    await clock.advance(0)
    store.stage = hung
    const pending = [
      load,
      queued,
      watch(cache.get('read')),
      watch(cache.getMany(['a', 'b'])),
      watch(cache.set('c', 'x')),
    ]
    await clock.advance(0)

    const closing = cache.close({ timeoutMs: 100 })
    await clock.advance(100)

    expect(await closing).toEqual({ drained: false, abandoned: 6 })
    expect(pending.map(({ reason }) => codeOf(reason))).toEqual(pending.map(() => 'ERR_CLOSED'))
    expect(codeOf(signal?.reason)).toBe('ERR_CLOSED')
    expectCacheBooks(cache, { failed: 5, pending: 0 })
    expect(cache.stats().loads).toMatchObject({ running: 0 })
    await clock.advance(10_000)
  })

  inVirtualTime('tries once what failed in the shared tier, and says what is left of it', async (clock) => {
    const { cache, store } = sharedScene(clock)
    await cache.set('key', 'old')
    store.stage = down
    await cache.delete('key')

    expect(await cache.close()).toEqual({ drained: false, abandoned: 1 })
    expect(await cache.close()).toEqual({ drained: false, abandoned: 1 })
  })

  inVirtualTime('leaves the bus, and neither closes it nor the store', async (clock) => {
    const bus = new MemoryInvalidationBus({ clock })
    const l2 = new MemoryCacheStore({ clock })
    const { cache } = cacheOn(clock, { bus, l2 })
    const { cache: other } = cacheOn(clock, { bus, l2 })
    await cache.set('key', 'value')
    await other.get('key')
    const closing = cache.close()
    await clock.advance(0)
    await closing

    await other.set('key', 'new')
    await clock.advance(0)

    expect(await other.get('key')).toBe('new')
    expect(cache.stats().l1.entries).toBe(0)
  })

  inVirtualTime('rejects a wrong deadline', async (clock) => {
    const { cache } = cacheOn(clock)

    expect(codeOf(await reasonOf(cache.close({ timeoutMs: -1 })))).toBe('ERR_OPTION')
    expect(await cache.getOrLoad('key', () => 'value')).toBe('value')
  })
})

describe('flush', () => {
  inVirtualTime('waits for what flies, and counts what succeeded and failed', async (clock) => {
    const { cache, store } = sharedScene(clock)
    let fail: (error: unknown) => void = () => undefined
    const failing = watch(
      cache.getOrLoad(
        'a',
        () =>
          new Promise<string>((_, reject) => {
            fail = reject
          }),
      ),
    )
    const loading = cache.getOrLoadMany(['b', 'c'], (keys) => keys)
    store.stage = at('deleteMany', down)
    const writes = [cache.set('d', 'x'), cache.delete('e')]
    const flushing = watch(cache.flush())
    await clock.advance(0)
    expect(flushing.status).toBe('pending')

    fail(new Error('down'))
    await Promise.all([loading, ...writes])
    await clock.advance(0)

    expect(failing.status).toBe('rejected')
    expect(flushing.value).toEqual({ succeeded: 3, failed: 2, dropped: 0 })
    store.stage = (_, work) => work()
    await cache.close()
  })
})

test('an idle cache holds no timer, and does no I/O before it is used', async () => {
  const touched: string[] = []
  const l2 = new Proxy({ fenceMs: 60_000 } as unknown as CacheStore, {
    get: (target, name) =>
      name in target || name === 'encode' ? Reflect.get(target, name) : () => touched.push(String(name)),
  })
  const bus = { connect: () => touched.push('connect') as never }

  const cache = new MultiLevelCache({ l2, bus })
  cache.namespace('users')
  cache.wrap(() => 'x', { name: 'w' })
  cache.stats()

  expect(touched).toEqual([])
})
