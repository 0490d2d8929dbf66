import type { WarmTask } from 'spillway'
import { describe, expect } from 'vitest'
import { reasonOf, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, neverLoad } from './support/caches.js'

function tasksOf(keys: string, load: WarmTask<string>['load']): WarmTask<string>[] {
  return [...keys].map((key) => ({ key, load }))
}

describe('a warm-up whose signal aborts', () => {
  inVirtualTime('resolves at once, with what it gave up in the report', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const controller = new AbortController()

    const warming = watch(cache.warm(tasksOf('abcde', gate.load), { concurrency: 2, signal: controller.signal }))
    await clock.advance(0)
    gate.call(0).answer('x')
    await clock.advance(0)
    controller.abort(new Error('enough'))
    await clock.advance(0)

    expect(warming.value).toMatchObject({ tasks: 5, loaded: 1, aborted: 4, failed: 0, complete: false })
    expect(gate.calls).toHaveLength(3)
    expect(gate.calls.map((call) => call.context.signal.aborted)).toEqual([false, true, true])
    expect(cache.peek('b')).toBeUndefined()
  })

  inVirtualTime('leaves alone a load that a reader waits for', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const controller = new AbortController()

    const warming = cache.warm(tasksOf('a', gate.load), { signal: controller.signal })
    await clock.advance(0)
    const reader = cache.getOrLoad('a', neverLoad)
    controller.abort()
    expect(await warming).toMatchObject({ aborted: 1 })
    gate.call(0).answer('read')

    expect(await reader).toBe('read')
    expect(gate.call(0).context.signal.aborted).toBe(false)
  })

  inVirtualTime('leaves no timer while it waits for the rate', async (clock) => {
    const { cache } = cacheOn(clock)
    const controller = new AbortController()
    const tasks = tasksOf('abcdefgh', () => 'x')

    const warming = cache.warm(tasks, { ratePerSecond: 1, signal: controller.signal })
    await clock.advance(1500)
    expect(clock.pending).toBeGreaterThan(0)
    controller.abort()

    expect(await warming).toMatchObject({ loaded: 2, aborted: 6, durationMs: 1500 })
    expect(clock.pending).toBe(0)
  })

  inVirtualTime('takes no task, and calls nothing, where it had aborted before', async (clock) => {
    const { cache } = cacheOn(clock)

    const report = await cache.warm(tasksOf('abc', neverLoad), { signal: AbortSignal.abort() })

    expect(report).toMatchObject({ tasks: 0, aborted: 0, complete: false })
  })

  inVirtualTime('ends a list that hangs, and lets it release what it holds', async (clock) => {
    const { cache } = cacheOn(clock)
    const controller = new AbortController()
    let released = 0
    const hanging: AsyncIterable<WarmTask<string>> = {
      [Symbol.asyncIterator]: () => ({
        next: () => new Promise<never>(() => {}),
        return: async () => {
          released++
          throw new Error('not heard')
        },
      }),
    }

    const warming = watch(cache.warm(hanging, { signal: controller.signal }))
    await clock.advance(1000)
    expect(warming.status).toBe('pending')
    controller.abort()
    await clock.advance(0)

    expect(warming.value).toMatchObject({ tasks: 0, complete: false })
    expect(released).toBe(1)
  })

  inVirtualTime('has ended before: the abort changes nothing', async (clock) => {
    const { cache } = cacheOn(clock)
    const controller = new AbortController()

    const report = await cache.warm(
      tasksOf('a', () => 'x'),
      { signal: controller.signal },
    )
    controller.abort()

    expect(report).toMatchObject({ loaded: 1, aborted: 0, complete: true })
  })
})

describe('a list of tasks', () => {
  inVirtualTime('may have to be waited for: what is there is loaded meanwhile', async (clock) => {
    const { cache } = cacheOn(clock)
    async function* slowly(): AsyncGenerator<WarmTask<string>> {
      for (const key of 'abc') {
        yield { key, load: () => key }
        yield { key: `${key}'`, load: () => key }
        await new Promise<void>((resolve) => clock.setTimer(resolve, 1000))
      }
    }

    const warming = cache.warm(slowly())
    await clock.advance(500)
    expect([cache.peek("a'"), cache.peek('b')]).toEqual(['a', undefined])
    await clock.advance(2500)

    expect(await warming).toMatchObject({ tasks: 6, loaded: 6, complete: true })
  })

  inVirtualTime('may fail in the middle: what came before is loaded, and the report has the error', async (clock) => {
    const { cache } = cacheOn(clock)
    const error = new Error('cursor lost')
    function* broken(): Generator<WarmTask<string>> {
      yield { key: 'a', load: () => 'x' }
      throw error
    }
    async function* brokenLater(): AsyncGenerator<WarmTask<string>> {
      yield { key: 'b', load: () => 'x' }
      throw error
    }

    const warming = [cache.warm(broken()), cache.warm(brokenLater())]
    await clock.advance(0)

    for (const report of await Promise.all(warming)) {
      expect(report).toMatchObject({ tasks: 1, loaded: 1, complete: false, error })
    }
  })

  inVirtualTime('may be long: nothing is kept of what is done, and other work has its turns', async (clock) => {
    const { cache } = cacheOn(clock)
    function* many(): Generator<WarmTask<string>> {
      for (let i = 0; i < 20_000; i++) yield { key: `${i % 50}`, load: () => 'x' }
    }
    let turns = 0
    const count = (): void => {
      turns++
      if (!done) clock.defer(count)
    }
    let done = false
    clock.defer(count)

    const warming = cache.warm(many()).finally(() => {
      done = true
    })
    await clock.advance(0)

    expect(await warming).toMatchObject({ tasks: 20_000, loaded: 50, skipped: 19_950 })
    expect(turns).toBeGreaterThan(150)
  })

  inVirtualTime('that is none is an OptionError, and so are wrong options', async (clock) => {
    const { cache } = cacheOn(clock)
    const warm = (tasks: unknown, options?: unknown): Promise<unknown> =>
      reasonOf(cache.warm(tasks as never, options as never))

    expect(await warm(undefined)).toMatchObject({ code: 'ERR_OPTION', field: 'tasks' })
    expect(await warm('abc')).toMatchObject({ field: 'tasks' })
    expect(await warm([], 1)).toMatchObject({ field: 'options' })
    expect(await warm([], { concurrency: 0 })).toMatchObject({ field: 'concurrency' })
    expect(await warm([], { ratePerSecond: 0 })).toMatchObject({ field: 'ratePerSecond' })
    expect(await warm([], { ratePerSecond: Number.NaN })).toMatchObject({ field: 'ratePerSecond' })
    expect(await warm([], { signal: {} })).toMatchObject({ field: 'signal' })
    await cache.close()
    expect(await warm([])).toMatchObject({ code: 'ERR_CLOSED' })
  })
})
