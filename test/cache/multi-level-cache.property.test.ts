import fc from 'fast-check'
import { MultiLevelCache } from 'spillway'
import { FakeClock, MemoryCacheStore, MemoryInvalidationBus, seededRandom } from 'spillway/testing'
import { expect, test } from 'vitest'
import { unhandledDuring } from '../batcher/support/process-events.js'
import { expectCacheBooks } from './support/caches.js'

const keys = ['a', 'b', 'c']
const key = fc.constantFrom(...keys)
const tags = fc.subarray(['red', 'blue'])
const loads = fc.constantFrom(
  'succeeds',
  'succeeds at once',
  'fails',
  'throws',
  'is slow',
  'hangs until aborted',
  'nothing',
)

/** One step of a random life. */
const step = fc.oneof(
  fc.record({ kind: fc.constant('peek' as const), key }),
  fc.record({ kind: fc.constant('get' as const), key }),
  fc.record({ kind: fc.constant('getMany' as const), keys: fc.array(key, { maxLength: 4 }) }),
  fc.record({ kind: fc.constant('getOrLoad' as const), key, load: loads, tags, abortable: fc.boolean() }),
  fc.record({
    kind: fc.constant('getOrLoadMany' as const),
    keys: fc.array(key, { maxLength: 4 }),
    load: loads,
    abortable: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('set' as const), key, tags, ttlMs: fc.constantFrom(0, 10, 100, undefined) }),
  fc.record({ kind: fc.constant('delete' as const), key }),
  fc.record({ kind: fc.constant('invalidate' as const), tags }),
  fc.record({ kind: fc.constant('clear' as const) }),
  fc.record({ kind: fc.constant('abort' as const) }),
  fc.record({ kind: fc.constant('advance' as const), ms: fc.constantFrom(0, 1, 9, 50, 200) }),
  fc.record({ kind: fc.constant('misuse' as const) }),
)

const setup = fc.record({
  staleMs: fc.constantFrom(0, 50),
  serveStaleOnErrorMs: fc.constantFrom(0, 200),
  refreshAheadRatio: fc.constantFrom(1, 0.5, 0),
  loaderTimeoutMs: fc.constantFrom(undefined, 20),
  loaderSoftTimeoutMs: fc.constantFrom(undefined, 10),
  loadConcurrency: fc.constantFrom(undefined, 1),
  shared: fc.boolean(),
  closeMs: fc.constantFrom(undefined, 0, 30),
  seed: fc.nat(),
})

type Step = typeof step extends fc.Arbitrary<infer S> ? S : never
type Setup = typeof setup extends fc.Arbitrary<infer S> ? S : never

/** Loads as it is told. */
function loader(clock: FakeClock, how: string, signal: AbortSignal): Promise<string | undefined> | string | undefined {
  const later = (ms: number) => new Promise<void>((resolve) => void clock.setTimer(resolve, ms))
  switch (how) {
    case 'succeeds':
      return later(5).then(() => 'value')
    case 'fails':
      return later(5).then(() => Promise.reject(new Error('down')))
    case 'throws':
      throw new Error('thrown')
    case 'is slow':
      return later(40).then(() => 'slow')
    case 'hangs until aborted':
      return new Promise((_, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason))
        clock.setTimer(() => reject(new Error('in the end')), 500)
      })
    case 'nothing':
      return undefined
    default:
      return 'at once'
  }
}

async function live(steps: readonly Step[], { shared, closeMs, seed, ...options }: Setup): Promise<void> {
  const clock = new FakeClock()
  const random = seededRandom(seed)
  const l2 = shared ? new MemoryCacheStore({ clock }) : undefined
  const bus = new MemoryInvalidationBus({ clock })
  const cache = new MultiLevelCache<string>({ clock, random, l2, bus, ttlMs: 100, jitter: 0.1, ...options })
  const controllers: AbortController[] = []
  const settled: Promise<unknown>[] = []
  let offered = 0
  const read = (promise: Promise<unknown>, count = 1): void => {
    offered += count
    settled.push(promise.catch(() => undefined))
  }
  const signal = (abortable: boolean): AbortSignal | undefined => {
    if (!abortable) return undefined
    controllers.push(new AbortController())
    return controllers.at(-1)?.signal
  }
  for (const one of steps) {
    switch (one.kind) {
      case 'peek':
        offered++
        cache.peek(one.key)
        break
      case 'get':
        read(cache.get(one.key))
        break
      case 'getMany':
        read(cache.getMany(one.keys), one.keys.length)
        break
      case 'getOrLoad': {
        const load = (_: string, context: { signal: AbortSignal }) => loader(clock, one.load, context.signal)
        read(cache.getOrLoad(one.key, load, { signal: signal(one.abortable), tags: one.tags }))
        break
      }
      case 'getOrLoadMany': {
        const load = async (of: string[], context: { signal: AbortSignal }) => {
          const value = await loader(clock, one.load, context.signal)
          return of.map(() => value)
        }
        read(cache.getOrLoadMany(one.keys, load, { signal: signal(one.abortable) }), one.keys.length)
        break
      }
      case 'set':
        settled.push(cache.set(one.key, 'set', { tags: one.tags, ttlMs: one.ttlMs }))
        break
      case 'delete':
        settled.push(cache.delete(one.key))
        break
      case 'invalidate':
        settled.push(cache.invalidateTags(one.tags))
        break
      case 'clear':
        settled.push(cache.clear())
        break
      case 'abort':
        for (const controller of controllers.splice(0)) controller.abort()
        break
      case 'advance':
        await clock.advance(one.ms)
        break
      case 'misuse':
        read(cache.get(''))
        break
    }
    expectCacheBooks(cache, { offered })
  }
  const closing = cache.close({ timeoutMs: closeMs })
  await clock.advance(2000)
  const report = await closing
  await Promise.all(settled.map((promise) => promise.catch(() => undefined)))
  expectCacheBooks(cache, { offered, pending: 0 })
  expect(cache.stats().loads.running).toBe(0)
  expect(cache.stats().l1.entries).toBe(0)
  if (closeMs === undefined) expect(report).toEqual({ drained: true, abandoned: 0 })
  expect(clock.pending).toBe(0)
}

test('whatever happens the books balance, nothing is left pending and no timer is left behind', async () => {
  const unhandled = await unhandledDuring(async () => {
    await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 25 }), setup, live), { numRuns: 300 })
  })

  expect(unhandled).toEqual([])
}, 60_000)
