import { CacheWarmer, type CacheWarmerStats, type WarmTask } from 'spillway'
import { describe, expect } from 'vitest'
import { reasonOf, thrownBy, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, neverLoad } from './support/caches.js'

function tasksOf(keys: string, load: WarmTask<string>['load'] = (key) => key): WarmTask<string>[] {
  return [...keys].map((key) => ({ key, load }))
}

function expectBalance(stats: CacheWarmerStats): void {
  const { tasks, loaded, skipped, failed, aborted, pending } = stats
  expect(loaded + skipped + failed + aborted + pending, JSON.stringify(stats)).toBe(tasks)
}

describe('CacheWarmer', () => {
  inVirtualTime('warms all lists in their order, and sums up', async (clock) => {
    const { cache } = cacheOn(clock)
    const warmer = new CacheWarmer(cache, { clock })
    const made: boolean[] = []
    warmer.register('letters', tasksOf('ab'))
    warmer.register('digits', async function* ({ signal }) {
      made.push(signal.aborted)
      yield* tasksOf('1b')
    })

    const running = warmer.run()
    await clock.advance(0)
    const report = await running

    expect(report).toMatchObject({ tasks: 4, loaded: 3, skipped: 1, complete: true })
    expect(report.lists).toMatchObject([
      { list: 'letters', tasks: 2, loaded: 2 },
      { list: 'digits', tasks: 2, loaded: 1, skipped: 1 },
    ])
    expect(made).toEqual([false])
    expect(warmer.stats()).toEqual({
      name: 'cache-warmer',
      lists: 2,
      runs: 1,
      running: 0,
      tasks: 4,
      loaded: 3,
      skipped: 1,
      failed: 0,
      aborted: 0,
      pending: 0,
    })
  })

  inVirtualTime('warms a namespace', async (clock) => {
    const { cache } = cacheOn(clock)
    const users = cache.namespace<{ id: string }>('users')
    const warmer = new CacheWarmer(users, { clock })
    warmer.register('users', [{ key: 'ann', load: (key) => ({ id: key }) }])

    await warmer.run()

    expect(users.peek('ann')).toEqual({ id: 'ann' })
    expect(cache.peek('ann')).toBeUndefined()
  })

  inVirtualTime('runs the lists that are asked for, and not those that were taken off', async (clock) => {
    const { cache } = cacheOn(clock)
    const warmer = new CacheWarmer(cache, { clock })
    const off = warmer.register('a', tasksOf('a', neverLoad))
    warmer.register('b', tasksOf('b'))
    warmer.register('c', tasksOf('c'))

    expect((await warmer.run({ names: ['c', 'b'] })).lists.map(({ list }) => list)).toEqual(['c', 'b'])
    off()
    expect(await warmer.run()).toMatchObject({ tasks: 2, skipped: 2 })
    warmer.register('a', tasksOf('x'))
    off()

    expect(await warmer.run()).toMatchObject({ tasks: 3, loaded: 1 })
  })

  inVirtualTime('tells of keys, lists and runs by events', async (clock) => {
    const { cache } = cacheOn(clock)
    const warmer = new CacheWarmer(cache, { clock, concurrency: 1, name: 'start' })
    const told: unknown[] = []
    const error = new Error('no')
    for (const event of ['warmed', 'skipped', 'failed', 'finished'] as const) {
      warmer.on(event, (payload) => void told.push([event, payload]))
    }
    warmer.register('one', [...tasksOf('aa'), { key: 'b', load: () => Promise.reject(error) }])
    warmer.register('two', () => Promise.reject(error))

    const running = warmer.run()
    await clock.advance(0)
    const report = await running

    expect(told).toEqual([
      ['warmed', { list: 'one', key: 'a', durationMs: 0 }],
      ['skipped', { list: 'one', key: 'a' }],
      ['failed', { list: 'one', key: 'b', error }],
      ['failed', { list: 'two', key: undefined, error }],
      ['finished', report],
    ])
    expect(report).toMatchObject({ loaded: 1, skipped: 1, failed: 1, complete: false, error })
    expect(report.failures).toEqual([{ key: 'b', error }])
  })

  inVirtualTime('goes on with the other lists where one fails', async (clock) => {
    const { cache } = cacheOn(clock)
    const warmer = new CacheWarmer(cache, { clock })
    warmer.register('throws', () => {
      throw new Error('no database')
    })
    warmer.register('none', () => 5 as never)
    warmer.register('fine', tasksOf('a'))

    const report = await warmer.run()

    expect(report.lists).toMatchObject([
      { error: { message: 'no database' }, complete: false },
      { error: { code: 'ERR_OPTION', field: 'tasks' }, complete: false },
      { loaded: 1, complete: true },
    ])
  })

  inVirtualTime('keeps all its runs together to its places and its rate', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const warmer = new CacheWarmer(cache, { clock, concurrency: 2, ratePerSecond: 10 })
    warmer.register('a', tasksOf('abc', gate.load))
    warmer.register('b', tasksOf('def', gate.load))

    const running = [watch(warmer.run({ names: ['a'] })), watch(warmer.run({ names: ['b'] }))]
    await clock.advance(0)
    expect(gate.calls).toHaveLength(1)
    await clock.advance(100)
    expect(gate.calls).toHaveLength(2)
    await clock.advance(10_000)
    expect(gate.calls).toHaveLength(2)
    expect(warmer.stats()).toMatchObject({ running: 2, tasks: 6, pending: 6 })
    for (let i = 0; i < 6; i++) {
      gate.call(i).answer('x')
      await clock.advance(100)
    }

    expect(running.map(({ value }) => value?.loaded)).toEqual([3, 3])
    expect(warmer.stats()).toMatchObject({ running: 0, loaded: 6, pending: 0 })
  })

  inVirtualTime('resolves where its signal aborts, though another run holds all places', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const warmer = new CacheWarmer(cache, { clock, concurrency: 1 })
    const controller = new AbortController()
    warmer.register('long', tasksOf('a', gate.load))
    warmer.register('short', tasksOf('bc', neverLoad))
    warmer.register('never', () => neverLoad())

    const long = watch(warmer.run({ names: ['long'] }))
    await clock.advance(0)
    const short = watch(warmer.run({ names: ['short', 'never'], signal: controller.signal }))
    await clock.advance(0)
    controller.abort()
    await clock.advance(0)

    expect(short.value).toMatchObject({ tasks: 2, aborted: 2, complete: false })
    expect(short.value?.lists).toMatchObject([{ aborted: 2 }, { tasks: 0, complete: false }])
    expect(long.status).toBe('pending')
    expectBalance(warmer.stats())
    gate.call(0).answer('x')
    await clock.advance(0)
    expect(long.value).toMatchObject({ loaded: 1 })
  })

  inVirtualTime('does not wait for a function that hangs where its signal aborts', async (clock) => {
    const { cache } = cacheOn(clock)
    const warmer = new CacheWarmer(cache, { clock })
    const controller = new AbortController()
    let heard: AbortSignal | undefined
    warmer.register('hanging', ({ signal }) => {
      heard = signal
      return new Promise<never>(() => {})
    })

    const running = watch(warmer.run({ signal: controller.signal }))
    await clock.advance(0)
    controller.abort()
    await clock.advance(0)

    expect(running.value).toMatchObject({ tasks: 0, complete: false })
    expect(running.value).not.toHaveProperty('error')
    expect(heard?.aborted).toBe(true)
  })

  inVirtualTime('refuses what is wrong', async (clock) => {
    const { cache } = cacheOn(clock)
    const warmer = new CacheWarmer(cache, { clock })
    warmer.register('a', [])

    expect(thrownBy(() => new CacheWarmer(undefined as never)).field).toBe('cache.getMany')
    expect(thrownBy(() => new CacheWarmer({ getMany: () => [] } as never)).field).toBe('cache.getOrLoad')
    expect(thrownBy(() => new CacheWarmer(cache, { concurrency: 1.5 })).field).toBe('concurrency')
    expect(thrownBy(() => new CacheWarmer(cache, { ratePerSecond: -1 })).field).toBe('ratePerSecond')
    expect(thrownBy(() => warmer.register('', [])).field).toBe('name')
    expect(thrownBy(() => warmer.register('a', [])).message).toBe(
      'name must not be registered already, got "a" (string)',
    )
    expect(thrownBy(() => warmer.register('b', 'abc' as never)).field).toBe('list')
    expect(thrownBy(() => warmer.register('b', {} as never)).field).toBe('list')
    expect(await reasonOf(warmer.run({ names: ['a', 'z'] }))).toMatchObject({ code: 'ERR_OPTION', field: 'names[1]' })
    expect(await reasonOf(warmer.run({ names: 'a' as never }))).toMatchObject({ field: 'names' })
    expect(await reasonOf(warmer.run({ signal: 1 as never }))).toMatchObject({ field: 'signal' })
    expect(warmer.stats()).toMatchObject({ runs: 0, running: 0 })
  })
})
