import { getEventListeners } from 'node:events'
import { describe, expect } from 'vitest'
import { reasonOf, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { cacheOn, expectCacheBooks } from './support/caches.js'

const reason = { why: 'the user has left' }

describe("a caller's abort", () => {
  inVirtualTime('rejects that caller alone', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const controller = new AbortController()
    const patient = cache.getOrLoad('key', gate.load)
    const hasty = watch(cache.getOrLoad('key', gate.load, { signal: controller.signal }))
    const alsoPatient = cache.getOrLoad('key', gate.load, { signal: new AbortController().signal })

    controller.abort(reason)
    await clock.advance(0)

    expect(hasty).toEqual({ status: 'rejected', reason, times: 1 })
    expect(gate.call(0).context.signal.aborted).toBe(false)
    gate.call(0).answer('value')
    expect(await Promise.all([patient, alsoPatient])).toEqual(['value', 'value'])
    expectCacheBooks(cache, { aborted: 1, loaded: 2 })
  })

  inVirtualTime('aborts the loader once it was the last; the next caller begins anew', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const controllers = [new AbortController(), new AbortController()]
    const answers = controllers.map(({ signal }) => watch(cache.getOrLoad('key', gate.load, { signal })))

    controllers[0]?.abort(reason)
    expect(gate.call(0).context.signal.aborted).toBe(false)
    controllers[1]?.abort(reason)
    expect(gate.call(0).context.signal.reason).toBe(reason)
    const next = cache.getOrLoad('key', gate.load)
    gate.call(0).answer('late')
    gate.call(1).answer('value')

    expect(await next).toBe('value')
    expect(answers.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    expect(cache.peek('key')).toBe('value')
    expectCacheBooks(cache, { aborted: 2, loaded: 1 })
    expect(cache.stats().loads).toMatchObject({ started: 2, succeeded: 1, failed: 1, running: 0 })
  })

  inVirtualTime('what comes of a loader that everybody left is used for nothing', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const controller = new AbortController()
    const answer = cache.getOrLoad('key', gate.load, { signal: controller.signal })

    controller.abort(reason)
    gate.call(0).answer('late')
    expect(await reasonOf(answer)).toBe(reason)
    await clock.advance(0)

    expect(cache.peek('key')).toBeUndefined()
  })

  inVirtualTime('before the call refuses it: nothing is loaded, and a hit is no exception', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const signal = AbortSignal.abort(reason)
    await cache.set('there', 'value')

    expect(await reasonOf(cache.getOrLoad('key', gate.load, { signal }))).toBe(reason)
    expect(await reasonOf(cache.getOrLoad('there', gate.load, { signal }))).toBe(reason)
    expect(await reasonOf(cache.getOrLoadMany(['key', 'there'], () => [], { signal }))).toBe(reason)

    expect(gate.calls).toHaveLength(0)
    expectCacheBooks(cache, { offered: 4, rejected: 4 })
  })

  inVirtualTime('does not end a refresh behind', async (clock) => {
    const { cache, gate } = cacheOn(clock, { ttlMs: 10, staleMs: 1000 })
    const controller = new AbortController()
    await cache.set('key', 'old')
    await clock.advance(10)

    expect(await cache.getOrLoad('key', gate.load, { signal: controller.signal })).toBe('old')
    controller.abort(reason)
    gate.call(0).answer('new')
    await clock.advance(0)

    expect(gate.call(0).context.signal.aborted).toBe(false)
    expect(cache.peek('key')).toBe('new')
  })

  inVirtualTime('leaves no listener behind, however the call ends', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const { signal } = new AbortController()
    const listeners = (): number => getEventListeners(signal, 'abort').length

    const answers = [1, 2, 3].map(() => cache.getOrLoad('key', gate.load, { signal }))
    expect(listeners()).toBe(1)
    gate.call(0).answer('value')
    await Promise.all(answers)
    expect(listeners()).toBe(0)
    await cache.getOrLoad('key', gate.load, { signal })
    expect(listeners()).toBe(0)
    const failing = cache.getOrLoad('other', gate.load, { signal })
    gate.call(1).fail(new Error('down'))
    await reasonOf(failing)
    expect(listeners()).toBe(0)
  })

  inVirtualTime('of a bulk call leaves each of its keys', async (clock) => {
    const { cache, gate } = cacheOn(clock)
    const controller = new AbortController()
    const single = cache.getOrLoad('joined', gate.load)
    let batchSignal: AbortSignal | undefined
    const bulk = cache.getOrLoadMany(
      ['joined', 'a', 'b', 'a'],
      (_, context) => {
        batchSignal = context.signal
        return new Promise(() => undefined)
      },
      { signal: controller.signal },
    )
    await clock.advance(0)

    controller.abort(reason)

    expect(await reasonOf(bulk)).toBe(reason)
    expect(batchSignal?.reason).toBe(reason)
    gate.call(0).answer('value')
    expect(await single).toBe('value')
    expectCacheBooks(cache, { aborted: 4, loaded: 1, pending: 0 })
  })

  inVirtualTime('does not end a bulk load that somebody waits for one key of', async (clock) => {
    const { cache } = cacheOn(clock)
    const controller = new AbortController()
    let resolve: (values: string[]) => void = () => undefined
    const promise = new Promise<string[]>((settle) => {
      resolve = settle
    })
    let batchSignal: AbortSignal | undefined
    const bulk = cache.getOrLoadMany(
      ['a', 'b'],
      (_, context) => {
        batchSignal = context.signal
        return promise
      },
      { signal: controller.signal },
    )
    const single = cache.getOrLoad('b', () => 'own')

    controller.abort(reason)
    await reasonOf(bulk)
    expect(batchSignal?.aborted).toBe(false)
    resolve(['1', '2'])

    expect(await single).toBe('2')
    expect(cache.peek('a')).toBe('1')
  })
})
