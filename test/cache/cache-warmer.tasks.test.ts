import type { LoadContext, WarmTask } from 'spillway'
import { MemoryCacheStore } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, expectCacheBooks, neverLoad } from './support/caches.js'

/** Tasks whose values are their keys. */
class Numbered implements Iterable<WarmTask<string>> {
  readonly #count: number

  constructor(count: number) {
    this.#count = count
  }

  *[Symbol.iterator](): Generator<WarmTask<string>> {
    for (let i = 0; i < this.#count; i++) yield { key: `key ${i}`, load: () => `key ${i}` }
  }
}

describe('warm', () => {
  inVirtualTime('loads what is not there and skips what is, null too', async (clock) => {
    const { cache } = cacheOn<string | null>(clock)
    await cache.setMany([
      ['text', 'there'],
      ['null', null],
    ])

    const report = await cache.warm([
      { key: 'text', load: neverLoad },
      { key: 'new', load: (key) => `loaded ${key}` },
      { key: 'null', load: neverLoad },
    ])

    expect(report).toEqual({
      tasks: 3,
      loaded: 1,
      skipped: 2,
      failed: 0,
      aborted: 0,
      failures: [],
      complete: true,
      durationMs: 0,
    })
    expect(cache.peek('new')).toBe('loaded new')
  })

  inVirtualTime('gives values the ttl and the tags of their tasks', async (clock) => {
    const { cache } = cacheOn(clock)
    const longer = (_key: string, context: LoadContext<string>): string => {
      context.setTtl(20)
      return 'x'
    }

    await cache.warm([
      { key: 'short', load: () => 'x', ttlMs: 10 },
      { key: 'tagged', load: () => 'x', tags: ['t'] },
      { key: 'own', load: longer, ttlMs: 10 },
    ])

    await clock.advance(10)
    expect(['short', 'tagged', 'own'].map((key) => cache.peek(key))).toEqual([undefined, 'x', 'x'])
    await cache.invalidateTags(['t'])
    expect(cache.peek('tagged')).toBeUndefined()
  })

  inVirtualTime('runs so many loads at a time, and begins the next as one ends', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const keys = Array.from({ length: 7 }, (_, i) => `${i}`)

    const warming = cache.warm(
      keys.map((key) => ({ key, load: gate.load })),
      { concurrency: 3 },
    )
    await clock.advance(0)
    expect(gate.calls.map((call) => call.key)).toEqual(['0', '1', '2'])
    gate.call(1).answer('x')
    await clock.advance(0)
    expect(gate.calls.map((call) => call.key)).toEqual(['0', '1', '2', '3'])
    for (let i = 0; i < 7; i++) {
      gate.call(i).answer('x')
      await clock.advance(0)
    }

    expect(await warming).toMatchObject({ loaded: 7 })
  })

  inVirtualTime('begins loads evenly, and makes up for no pause by a burst', async (clock) => {
    const { cache } = cacheOn(clock)
    const starts: number[] = []
    const task = (key: string, ms: number): WarmTask<string> => ({
      key,
      load: async () => {
        starts.push(clock.now())
        if (ms > 0) await new Promise<void>((resolve) => clock.setTimer(resolve, ms))
        return 'x'
      },
    })

    const warming = cache.warm([task('a', 0), task('b', 1000), task('c', 0), task('d', 0), task('e', 0)], {
      concurrency: 1,
      ratePerSecond: 10,
    })
    await clock.advance(2000)
    await warming

    expect(starts).toEqual([0, 100, 1100, 1200, 1300])
  })

  inVirtualTime('spends no time of the rate on what is there', async (clock) => {
    const { cache } = cacheOn(clock)
    await cache.setMany(Array.from({ length: 50 }, (_, i) => [`key ${i}`, 'x'] as const))

    const warming = watch(cache.warm(new Numbered(52), { ratePerSecond: 1 }))
    await clock.advance(999)
    expect(warming.status).toBe('pending')
    await clock.advance(1)

    expect(warming.value).toMatchObject({ skipped: 50, loaded: 2 })
  })

  inVirtualTime('takes tasks as there is room for them, a hundred at a time', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    let taken = 0
    function* endless(): Generator<WarmTask<string>> {
      for (;;) yield { key: `${taken++}`, load: gate.load }
    }
    const controller = new AbortController()

    const warming = cache.warm(endless(), { concurrency: 2, signal: controller.signal })
    await clock.advance(0)
    expect(taken).toBe(100)
    for (let i = 0; i < 97; i++) {
      gate.call(i).answer('x')
      await clock.advance(0)
    }
    expect(taken).toBe(100)
    gate.call(97).answer('x')
    await clock.advance(0)
    expect(taken).toBe(200)
    controller.abort()

    expect(await warming).toMatchObject({ tasks: 200, loaded: 98, aborted: 102, complete: false })
  })

  inVirtualTime('looks up a chunk by one call, one round trip to the shared tier', async (clock) => {
    const store = new MemoryCacheStore({ clock })
    const { cache: elsewhere } = cacheOn(clock, { l2: store })
    const set = elsewhere.setMany(Array.from({ length: 100 }, (_, i) => [`key ${i}`, 'x'] as const))
    await clock.advance(0)
    await set
    let reads = 0
    const getMany = store.getMany.bind(store)
    store.getMany = (keys) => {
      reads++
      return getMany(keys)
    }
    const { cache } = cacheOn(clock, { l2: store })

    const warming = cache.warm(new Numbered(100))
    await clock.advance(0)

    expect(await warming).toMatchObject({ skipped: 100, loaded: 0 })
    expect(reads).toBe(1)
    expect(cache.peek('key 99')).toBe('x')
  })

  inVirtualTime('lets a reader join the same load, and be answered with it', async (clock) => {
    const { cache, gate } = cacheOn(clock)

    const warming = cache.warm([{ key: 'key', load: gate.load }])
    await clock.advance(0)
    const reader = cache.getOrLoad('key', neverLoad)
    gate.call(0).answer('warm')

    expect(await reader).toBe('warm')
    expect(await warming).toMatchObject({ loaded: 1 })
    expectCacheBooks(cache, { loaded: 2 })
  })

  inVirtualTime('waits for the rate before its load begins, so that a reader is not held up by it', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: Number.POSITIVE_INFINITY })
    const tasks = ['first', 'second'].map((key) => ({ key, load: () => 'warm' }))

    const warming = cache.warm(tasks, { ratePerSecond: 0.001 })
    await clock.advance(10)
    const reader = cache.getOrLoad('second', gate.load)
    gate.call(0).answer('read')
    expect(await reader).toBe('read')
    await clock.advance(1_000_000)

    expect(await warming).toMatchObject({ loaded: 1, skipped: 1 })
  })

  inVirtualTime('replaces what is past its ttl, and waits for that', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 10, staleMs: 1000, serveStaleOnErrorMs: 1000 })
    await cache.setMany([
      ['a', 'old'],
      ['b', 'old'],
    ])
    await clock.advance(10)

    const warming = watch(cache.warm(['a', 'b'].map((key) => ({ key, load: gate.load }))))
    await clock.advance(0)
    expect(warming.status).toBe('pending')
    gate.call(0).answer('new')
    gate.call(1).fail(new Error('down'))
    await clock.advance(0)

    expect(warming.value).toMatchObject({ loaded: 1, failed: 1, failures: [{ key: 'b', error: { message: 'down' } }] })
    expect(cache.peek('a')).toBe('new')
  })

  inVirtualTime('counts all failures, names the first hundred, and goes on', async (clock) => {
    const { cache } = cacheOn(clock)
    const tasks = Array.from({ length: 150 }, (_, i) => ({
      key: `${i}`,
      load: () => {
        if (i > 0) throw new Error(`no ${i}`)
        return 'x'
      },
    }))

    const warming = cache.warm(tasks)
    await clock.advance(0)
    const report = await warming

    expect(report).toMatchObject({ tasks: 150, loaded: 1, failed: 149, complete: true })
    expect(report.failures.map(({ key }) => key)).toEqual(Array.from({ length: 100 }, (_, i) => `${i + 1}`))
    expect(report.failures[41]).toEqual({ key: '42', error: new Error('no 42') })
  })

  inVirtualTime('takes a task that is none for one that failed', async (clock) => {
    const { cache } = cacheOn(clock)
    const hostile = {
      get key(): never {
        throw new Error('hostile')
      },
    }
    const tasks = [null, { key: '' }, { key: 'a' }, hostile, { key: 'b', load: () => 'x', ttlMs: Number.NaN }, 1]

    const report = await cache.warm([...(tasks as never[]), { key: 'c', load: () => 'x' }])

    expect(report).toMatchObject({ tasks: 7, loaded: 1, failed: 6 })
    expect(report.failures.map(({ error }) => (error as Error).message)).toEqual([
      'tasks[0] must be an object, got null (null)',
      'tasks[1].key must be a non-empty string, got "" (string)',
      'tasks[2].load must be a function, got undefined (undefined)',
      'hostile',
      'tasks[5] must be an object, got 1 (number)',
      'ttlMs must be a number, got NaN (number)',
    ])
  })
})
