import { isSpillwayError, MultiLevelCache, type MultiLevelCacheOptions, OptionError } from 'spillway'
import { FakeClock, MemoryCacheStore } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { neverLoad } from './support/caches.js'
import { answeredAfter, at, down, hung, sharedScene } from './support/staged-store.js'

const load = async (key: string): Promise<string> => `loaded ${key}`

describe('a shared tier that hangs', () => {
  inVirtualTime('costs a reader its time-out, and no more', async (clock) => {
    const { store, cache, failures, l2 } = sharedScene(clock, { l2TimeoutMs: 200 })
    store.stage = hung

    const read = watch(cache.get('a'))
    const loaded = watch(cache.getOrLoad('b', load))
    await clock.advance(199)
    expect([read.status, loaded.status]).toEqual(['pending', 'pending'])
    await clock.advance(1)

    expect(read).toMatchObject({ status: 'fulfilled', value: undefined })
    expect(loaded).toMatchObject({ status: 'fulfilled', value: 'loaded b' })
    expect(cache.peek('b')).toBe('loaded b')
    expect(failures.filter(({ operation }) => operation === 'read').map(({ keys }) => keys)).toEqual([
      ['cache:a'],
      ['cache:b'],
    ])
    expect(failures.every(({ error }) => isSpillwayError(error, 'ERR_TIMEOUT'))).toBe(true)
    expect(l2()).toMatchObject({ reads: 2, hits: 0, misses: 2 })
    expect(l2().timeouts).toBe(store.calls.length)
  })

  inVirtualTime('is not listened to when it answers after all', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.set('a', 'value')
    const reader = open()
    store.stage = at('getMany', answeredAfter(clock, 1500))

    const read = watch(reader.get('a'))
    await clock.advance(1000)
    expect(read).toMatchObject({ status: 'fulfilled', value: undefined })
    await clock.advance(1000)

    expect(reader.peek('a')).toBeUndefined()
    expect(reader.stats().l2).toMatchObject({ reads: 1, hits: 0, timeouts: 1 })
  })

  inVirtualTime('for marks alone costs no more than for values', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.set('a', 'value', { tags: ['t'] })
    const reader = open()
    store.stage = at('readMarks', hung)

    const read = watch(reader.get('b'))
    const tagged = watch(reader.get('a'))
    await clock.advance(1000)
    expect([read, tagged]).toMatchObject(Array(2).fill({ status: 'fulfilled', value: undefined }))
    // The tag is asked for when the value that bears it is there.
    expect(store.log('readMarks').slice(-2)).toEqual(['readMarks ccache', 'readMarks t:t'])
  })

  inVirtualTime('lets a write through to memory, and deletes the key later', async (clock) => {
    const { store, cache, open } = sharedScene(clock)
    await cache.set('a', 'old')
    store.stage = at('setMany', hung)

    const written = watch(cache.set('a', 'new'))
    expect(cache.peek('a')).toBe('new')
    await clock.advance(999)
    expect(written.status).toBe('pending')
    await clock.advance(1)
    expect(written.status).toBe('fulfilled')
    await clock.advance(1000)

    expect(await store.value('a')).toBeUndefined()
    expect(await open().get('a')).toBeUndefined()
    expect(cache.peek('a')).toBe('new')
  })
})

describe('a shared tier that fails', () => {
  inVirtualTime('is a miss for readers, and says so', async (clock) => {
    const { store, cache, failures, l2 } = sharedScene(clock)
    store.stage = at('getMany', down)

    expect(await cache.get('a')).toBeUndefined()
    expect(await cache.getOrLoad('a', load)).toBe('loaded a')

    expect(failures).toHaveLength(2)
    expect(failures[0]).toMatchObject({ operation: 'read', keys: ['cache:a'], error: { message: 'getMany is down' } })
    expect(l2()).toMatchObject({ failed: 2, reads: 2, hits: 0 })
    // Nobody knows what is there, so nothing may be put in its place.
    expect(store.log('setMany')).toEqual([])
  })

  inVirtualTime('that throws at once, or rejects with no error, is one that rejects', async (clock) => {
    const { store, cache, failures } = sharedScene(clock)
    store.stage = () => {
      throw new Error('thrown')
    }
    expect(await cache.get('a')).toBeUndefined()
    store.stage = () => Promise.reject('a text')
    expect(await cache.get('a')).toBeUndefined()

    const [first, last] = [failures[0]?.error, failures.at(-1)?.error]
    expect(first).toMatchObject({ message: 'thrown' })
    expect(isSpillwayError(last, 'ERR_STORE')).toBe(true)
    expect(last).toMatchObject({ cause: 'a text' })
  })

  inVirtualTime('for some keys serves the others', async (clock) => {
    const { store, cache, open, failures } = sharedScene(clock)
    await cache.setMany([
      ['a', 'A'],
      ['b', 'B'],
      ['c', 'C'],
    ])
    const reader = open()
    reader.on('storeFailed', (failure) => failures.push(failure))
    const error = new Error('node 2 is down')
    store.stage = at('getMany', async (_, work) => (await work()).map((answer, i) => (i === 1 ? error : answer)))

    expect(await reader.getMany(['a', 'b', 'c'])).toEqual(['A', undefined, 'C'])
    expect(failures).toEqual([{ operation: 'read', keys: ['cache:b'], error }])
    expect(reader.stats().l2).toMatchObject({ reads: 3, hits: 2, misses: 1, failed: 1 })
  })

  inVirtualTime('for some writes makes up for those alone', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    await cache.setMany([
      ['a', 'old'],
      ['b', 'old'],
    ])
    store.stage = at('setMany', async (_, work) => {
      const [first] = await work()
      return [first, new Error('node 2 is down')]
    })

    await cache.setMany([
      ['a', 'new'],
      ['b', 'new'],
    ])
    expect(l2()).toMatchObject({ writes: 3, failed: 1 })
    await clock.advance(1000)

    expect([await store.value('a'), await store.value('b')]).toEqual(['new', undefined])
    expect(l2().replay).toEqual({ pending: 0, replayed: 1, dropped: 0 })
  })

  const corrupt: readonly [what: string, answer: (answers: readonly unknown[]) => unknown][] = [
    ['no array', () => 'OK'],
    ['nothing', () => undefined],
    ['too few answers', (answers) => answers.slice(1)],
    ['too many answers', (answers) => [...answers, ...answers]],
    ['answers that are none', (answers) => answers.map(() => null)],
    ['answers without what they need', (answers) => answers.map(() => ({}))],
    ['holes', (answers) => new Array(answers.length)],
    ['a value without a version', (answers) => answers.map((answer) => ({ ...(answer as object), version: '' }))],
    ['times that are none', (answers) => answers.map((answer) => ({ ...(answer as object), freshMs: Number.NaN }))],
    ['marks that are none', (answers) => answers.map((answer) => ({ ...(answer as object), marks: [null] }))],
  ]
  for (const [what, answer] of corrupt) {
    inVirtualTime(`with ${what} is a miss`, async (clock) => {
      const { store, cache, open } = sharedScene(clock)
      await cache.setMany([
        ['a', 'A'],
        ['b', 'B'],
      ])
      store.stage = at('getMany', async (_, work) => answer(await work()))
      const reader = open()
      const errors: unknown[] = []
      reader.on('storeFailed', ({ error }) => errors.push(error))

      expect(await reader.getMany(['a', 'b'])).toEqual([undefined, undefined])
      expect(await reader.getOrLoad('a', load)).toBe('loaded a')

      expect(errors.length).toBeGreaterThan(0)
      for (const error of errors) expect(isSpillwayError(error, 'ERR_BATCH_RESULT')).toBe(true)
    })
  }

  inVirtualTime('with wrong answers to writes has not written', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock)
    for (const answer of ['OK', [], [{ written: true, version: '' }], [{ written: false, version: '7' }], [7]]) {
      store.stage = at('setMany', () => Promise.resolve(answer))
      await cache.set('a', 'new')
      expect(l2().replay.pending, JSON.stringify(answer)).toBe(1)
      store.stage = at('deleteMany', () => Promise.resolve(['']))
      await cache.delete('a')
      expect(l2().replay.pending).toBe(1)
      store.stage = (_, work) => work()
      await cache.delete('a')
      expect(l2().replay.pending).toBe(0)
    }
  })
})

describe('the breaker of a shared tier', () => {
  inVirtualTime('keeps calls away from what is down, and lets them through when it is back', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l2Breaker: { failureThreshold: 3, recoveryTimeoutMs: 10_000 } })
    await cache.set('there', 'value')
    store.stage = down
    for (let i = 0; i < 3; i++) await cache.get(`k${i}`)
    expect(l2().state).toBe('open')
    store.log()

    await Promise.all(Array.from({ length: 10 }, (_, i) => cache.getOrLoad(`m${i}`, load)))
    expect(store.log()).toEqual([])
    expect(l2().rejected).toBeGreaterThanOrEqual(10)

    store.stage = (_, work) => work()
    await clock.advance(10_000)
    expect(l2().state).toBe('half-open')
    await cache.get('k0')
    expect(l2().state).toBe('closed')
    expect(await cache.getOrLoad('there', neverLoad)).toBe('value')
  })

  inVirtualTime('stays closed while a part of the store answers', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l2Breaker: { failureThreshold: 2 } })
    const error = new Error('node 2 is down')
    store.stage = at('getMany', async (_, work) => (await work()).map((answer, i) => (i === 0 ? error : answer)))

    for (let i = 0; i < 10; i++) await cache.getMany(['a', 'b'])

    expect(l2()).toMatchObject({ state: 'closed', failed: 10 })
  })

  inVirtualTime('opens when every part of a call fails, and on answers that are none', async (clock) => {
    for (const stage of [
      at('getMany', async ({ names }) => names.map((name) => new Error(`${name} is down`))),
      at('getMany', async () => 'OK'),
    ]) {
      const { store, cache, l2 } = sharedScene(clock, { l2Breaker: { failureThreshold: 2 } })
      store.stage = stage
      await cache.getMany(['a', 'b'])
      await cache.getMany(['a', 'b'])
      expect(l2().state).toBe('open')
    }
  })

  inVirtualTime('is not told of keys that the store can not carry', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, { l2Breaker: { failureThreshold: 2 } })
    store.stage = async () => {
      throw new OptionError('key', 'key must not be odd')
    }

    for (let i = 0; i < 5; i++) await cache.get('odd')
    await cache.delete('odd')

    expect(l2()).toMatchObject({ state: 'closed', rejected: 0, replay: { pending: 0 } })
  })

  inVirtualTime('may have a time-out and a classifier of its own', async (clock) => {
    const { store, cache, l2 } = sharedScene(clock, {
      l2Breaker: { failureThreshold: 1, timeoutMs: 50, classifyError: () => 'ignore' },
    })
    store.stage = hung

    const read = watch(cache.get('a'))
    await clock.advance(50)

    expect(read.status).toBe('fulfilled')
    expect(l2().state).toBe('closed')
    await clock.advance(1000)
  })
})

describe('a store that is none', () => {
  const clock = new FakeClock()
  const { store } = sharedScene(clock)
  const like = (overrides: object): MultiLevelCacheOptions['l2'] => {
    const methods = Object.fromEntries(
      (['getMany', 'setMany', 'deleteMany', 'readMarks', 'renewMarks'] as const).map((name) => [name, () => undefined]),
    )
    return { ...methods, fenceMs: store.fenceMs, ...overrides } as never
  }

  test.each([undefined, Number.NaN, -1, '60'])('says nothing of its fences: %s', (fenceMs) => {
    expect(() => new MultiLevelCache({ clock, l2: like({ fenceMs }) })).toThrow('l2.fenceMs must be a number between 0')
  })

  test('encodes with what is no function', () => {
    expect(() => new MultiLevelCache({ clock, l2: like({ encode: 'json' }) })).toThrow('l2.encode must be a function')
    expect(() => new MultiLevelCache({ clock, l2: like({ encode: undefined }) })).not.toThrow()
  })

  inVirtualTime('throws something of its own at a value', async (clock) => {
    const cache = new MultiLevelCache({ clock, l2: new MemoryCacheStore({ clock, encode: structuredClone }) })

    const error = await cache.set('a', () => 1).catch((thrown: unknown) => thrown)

    expect(error).toMatchObject({ code: 'ERR_OPTION', field: 'value', cause: { name: 'DataCloneError' } })
    expect(error).toMatchObject({ message: expect.stringContaining('could not be cloned') })
    expect(cache.peek('a')).toBeUndefined()
  })
})
