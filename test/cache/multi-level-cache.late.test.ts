import { MultiLevelCache } from 'spillway'
import { MemoryInvalidationBus } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { reasonOf, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, expectCacheBooks, type GateContext, GateLoader, neverLoad } from './support/caches.js'
import { at, sharedScene } from './support/staged-store.js'

/** A loader that says what its value bears when it has it. */
function tagging(gate: GateLoader, tags: readonly string[]) {
  return async (key: string, context: GateContext<string>): Promise<string> => {
    const value = await gate.load(key, context)
    context.setTags(tags)
    return value
  }
}

describe('a load that runs while a tag is invalidated', () => {
  inVirtualTime('is shared with those who come later, if its value does not bear the tag', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const keys = Array.from({ length: 100 }, (_, i) => `key ${i}`)
    const read = () => keys.map((key) => cache.getOrLoad(key, tagging(gate, ['mine'])))
    const before = read()
    await cache.invalidateTags(['tag'])
    const after = read()
    const bulk = cache.getOrLoadMany(keys, neverLoad)

    for (const call of gate.calls) call.answer(call.key)

    expect(await Promise.all([...before, ...after])).toEqual([...keys, ...keys])
    expect(await bulk).toEqual(keys)
    expect(gate.calls).toHaveLength(keys.length)
    expect(keys.map((key) => cache.peek(key))).toEqual(keys)
    expectCacheBooks(cache, { loaded: 300 })
  })

  inVirtualTime('goes only to those who came before, if its value turns out to bear it', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const read = () => cache.getOrLoad('key', tagging(gate, ['tag']))
    const before = read()
    await cache.invalidateTags(['other', 'tag'])
    const after = [read(), read()]
    expect(gate.calls).toHaveLength(1)

    gate.call(0).answer('old')
    expect(await before).toBe('old')
    await clock.advance(0)
    expect(cache.peek('key')).toBeUndefined()
    expect(gate.calls).toHaveLength(2)
    expectCacheBooks(cache, { loaded: 1, pending: 2 })
    gate.call(1).answer('new')

    expect(await Promise.all(after)).toEqual(['new', 'new'])
    expect(cache.peek('key')).toBe('new')
    expectCacheBooks(cache, { loaded: 3, pending: 0 })
  })

  inVirtualTime('makes nobody wait for more than one other load', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const read = () => cache.getOrLoad('key', tagging(gate, ['tag']))
    void read()
    await cache.invalidateTags(['tag'])
    const answer = read()
    gate.call(0).answer('first')
    await clock.advance(0)
    await cache.invalidateTags(['tag'])
    gate.call(1).answer('second')

    expect(await answer).toBe('second')
    expect(cache.peek('key')).toBeUndefined()
  })

  inVirtualTime(
    'tells those who came later nothing that may be outdated: neither nothing, nor an error',
    async (clock) => {
      const { cache } = cacheOn(clock)
      const gate = new GateLoader<string | undefined>()
      const load = (key: string): Promise<string | undefined> => gate.load(key, undefined as never)
      const none = cache.getOrLoad('none', load)
      const wrong = cache.getOrLoad('wrong', load)
      await cache.invalidateTags(['tag'])
      const later = [cache.getOrLoad('none', load), cache.getOrLoad('wrong', load)]
      const error = new Error('no such user')
      gate.call(0).answer(undefined)
      gate.call(1).fail(error)
      expect([await none, await reasonOf(wrong)]).toEqual([undefined, error])
      await clock.advance(0)
      gate.call(2).answer('made')
      gate.call(3).answer('made too')

      expect(await Promise.all(later)).toEqual(['made', 'made too'])
      expectCacheBooks(cache, { missed: 1, failed: 1, loaded: 2 })
    },
  )

  inVirtualTime('that takes too long fails for all', async (clock) => {
    const { cache, gate } = cacheOn(clock, { loaderTimeoutMs: 100 })
    const before = reasonOf(cache.getOrLoad('key', gate.load))
    await cache.invalidateTags(['tag'])
    const after = reasonOf(cache.getOrLoad('key', gate.load))
    await clock.advance(100)

    expect(await after).toBe(await before)
    expect(gate.calls).toHaveLength(1)
    expectCacheBooks(cache, { failed: 2 })
  })

  inVirtualTime('is not waited for where its call or the old value bears the tag', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 10, serveStaleOnErrorMs: 1000 })
    await cache.set('old', 'value', { tags: ['tag'] })
    await clock.advance(10)
    void cache.getOrLoad('old', gate.load)
    void cache.getOrLoad('planned', gate.load, { tags: ['tag'] })
    await cache.invalidateTags(['tag'])
    const after = [cache.getOrLoad('old', gate.load), cache.getOrLoad('planned', gate.load)]

    expect(gate.calls).toHaveLength(4)
    gate.call(2).answer('1')
    gate.call(3).answer('2')
    expect(await Promise.all(after)).toEqual(['1', '2'])
    gate.call(0).answer('3')
    gate.call(1).answer('4')
    await clock.advance(0)
    expect([cache.peek('old'), cache.peek('planned')]).toEqual(['1', '2'])
  })

  inVirtualTime('of several keys is followed by one other load of those that bear the tag', async (clock) => {
    const { cache } = cacheOn(clock)
    const gate = new GateLoader<(string | Error | undefined)[]>()
    const asked: string[][] = []
    const read = () =>
      cache.getOrLoadMany(['a', 'b', 'c', 'd'], async (keys, context) => {
        asked.push(keys)
        const values = await gate.load(keys.join(), undefined as never)
        for (const key of keys) context.setTags(key, key === 'b' ? ['safe'] : ['tag'])
        return values
      })
    const before = read()
    await cache.invalidateTags(['tag'])
    const after = read()
    const single = cache.getOrLoad('a', neverLoad)
    gate.call(0).answer(['1', '2', '3', undefined])
    expect(await before).toEqual(['1', '2', '3', undefined])
    await clock.advance(0)

    expect(asked).toEqual([
      ['a', 'b', 'c', 'd'],
      ['c', 'd'],
    ])
    await expect(single).rejects.toThrow('the loader was called')
    await expect(after).rejects.toThrow('the loader was called')
    gate.call(1).answer(['new', 'made'])
    await clock.advance(0)
    expect(['b', 'c', 'd'].map((key) => cache.peek(key))).toEqual(['2', 'new', 'made'])
    expectCacheBooks(cache, { pending: 0 })
  })

  inVirtualTime('goes on while one who came later waits for it, and no longer', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const callers = [new AbortController(), new AbortController(), new AbortController()] as const
    const [first, second, third] = callers
    const before = reasonOf(cache.getOrLoad('key', gate.load, { signal: first.signal }))
    await cache.invalidateTags(['tag'])
    const after = [second, third].map(({ signal }) => reasonOf(cache.getOrLoad('key', gate.load, { signal })))
    const { signal } = gate.call(0).context

    first.abort('1')
    second.abort('2')
    expect(await before).toBe('1')
    expect(await after[0]).toBe('2')
    expect(signal.aborted).toBe(false)
    third.abort('3')
    expect(await after[1]).toBe('3')
    expect(signal.aborted).toBe(true)
    await clock.advance(0)
    expectCacheBooks(cache, { aborted: 3, pending: 0 })
  })

  inVirtualTime('can be left after it brought what was too old, alone or with several keys', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const load = tagging(gate, ['tag'])
    void cache.getOrLoad('key', load)
    await cache.invalidateTags(['tag'])
    const caller = new AbortController()
    const { signal } = caller
    const one = reasonOf(cache.getOrLoad('key', load, { signal }))
    const many = reasonOf(cache.getOrLoadMany(['key'], neverLoad, { signal }))
    gate.call(0).answer('old')
    await clock.advance(0)
    caller.abort('enough')

    expect([await one, await many]).toEqual(['enough', 'enough'])
    expect(gate.call(1).context.signal.aborted).toBe(true)
    await clock.advance(0)
    expectCacheBooks(cache, { loaded: 1, aborted: 2, pending: 0 })
  })

  inVirtualTime('serves an old value that does not bear it to all when the loader is late', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 10, serveStaleOnErrorMs: 1000, loaderSoftTimeoutMs: 50 })
    await cache.set('key', 'old', { tags: ['mine'] })
    await clock.advance(10)
    const before = cache.getOrLoad('key', gate.load)
    await cache.invalidateTags(['tag'])
    const after = cache.getOrLoad('key', gate.load)
    await clock.advance(50)

    expect(await Promise.all([before, after])).toEqual(['old', 'old'])
    expect(await cache.getOrLoad('key', gate.load)).toBe('old')
    expect(gate.calls).toHaveLength(1)
    expectCacheBooks(cache, { stale: 3, pending: 0 })
  })

  inVirtualTime('remembers no more than so many tags: then whatever bears any is outdated', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const before = [cache.getOrLoad('tagged', tagging(gate, ['mine'])), cache.getOrLoad('bare', gate.load)]
    for (let i = 0; i < 1001; i++) await cache.invalidateTags([`tag ${i}`])
    const after = cache.getOrLoad('tagged', tagging(gate, ['mine']))
    for (const call of gate.calls) call.answer(call.key === 'bare' ? 'bare' : `${gate.calls.indexOf(call)}`)

    expect(await Promise.all([...before, after])).toEqual(['0', 'bare', '2'])
    expect([cache.peek('tagged'), cache.peek('bare')]).toEqual(['2', 'bare'])
  })

  inVirtualTime('is waited for by close, and so is what follows it', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const read = () => cache.getOrLoad('key', tagging(gate, ['tag']))
    void read()
    await cache.invalidateTags(['tag'])
    const after = read()
    const many = cache.getOrLoadMany(['key'], neverLoad)
    const closed = watch(cache.close())
    gate.call(0).answer('old')
    await clock.advance(0)
    expect(closed.status).toBe('pending')
    gate.call(1).answer('new')

    expect(await after).toBe('new')
    expect(await many).toEqual(['new'])
    await clock.advance(0)
    expect(closed.value).toEqual({ drained: true, abandoned: 0 })
  })

  inVirtualTime('is the same when the bus tells of the tag', async (clock) => {
    const bus = new MemoryInvalidationBus({ clock })
    const { cache, gate } = cacheOn(clock, { bus })
    const other = new MultiLevelCache<string>({ clock, bus })
    const read = (key: string) => cache.getOrLoad(key, tagging(gate, [key]))
    await Promise.all([cache.get('key'), other.get('key')])
    await clock.advance(0)
    const before = ['tag', 'safe'].map(read)
    await other.invalidateTags(['tag'])
    await clock.advance(0)
    const after = ['tag', 'safe'].map(read)
    gate.call(0).answer('old')
    gate.call(1).answer('safe')
    await clock.advance(0)
    gate.call(2).answer('new')

    expect(await Promise.all([...before, ...after])).toEqual(['old', 'safe', 'new', 'safe'])
    expect(gate.calls).toHaveLength(3)
  })
})

describe('a read of the shared tier that runs while a tag is invalidated', () => {
  for (const [tag, expected, loads] of [
    ['tag', ['new', 'new'], 1],
    ['other', ['old', 'old'], 0],
  ] as const) {
    inVirtualTime(
      `within a load is ${loads ? 'followed by one loader for all' : 'shared by all'}, where it is ${tag}`,
      async (clock) => {
        const { cache, store, open } = sharedScene(clock)
        await open().set('key', 'old', { tags: ['tag'] })
        store.calls = []
        let answer: () => void = () => undefined
        const held = new Promise<void>((resolve) => {
          answer = resolve
        })
        store.stage = at('getMany', async (_, work) => {
          const found = await work()
          await held
          return found
        })
        let count = 0
        const read = () =>
          cache.getOrLoad('key', () => {
            count++
            return 'new'
          })
        const before = read()
        await clock.advance(0)
        await cache.invalidateTags([tag])
        const after = read()
        answer()

        expect(await Promise.all([before, after])).toEqual(expected)
        expect(count).toBe(loads)
        expect(store.log('getMany')).toHaveLength(1)
        await clock.advance(0)
        expect(cache.peek('key')).toBe(expected[1])
        expectCacheBooks(cache, { pending: 0 })
      },
    )
  }
})
