import { MultiLevelCache } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { unhandledDuring } from '../batcher/support/process-events.js'
import { type Stage, StagedStore } from './support/staged-store.js'

const keys = ['a', 'b', 'c', 'd']
const tagOf = (key: string): string => (key < 'c' ? 'low' : 'high')

/** A store that is well for a while, and then is slow, refuses, loses answers or hangs. */
function flapping(clock: FakeClock, random: () => number): Stage {
  const pause = (ms: number): Promise<void> => new Promise((resolve) => clock.setTimer(resolve, random() * ms))
  return async (_, work) => {
    const isWell = Math.floor(clock.now() / 700) % 2 === 0
    const fate = isWell ? 0 : random()
    if (fate < 0.3) {
      await pause(20)
      const answers = await work()
      await pause(20)
      return answers
    }
    // Beyond the time that a call has, so that it lands when nobody waits any more.
    if (fate < 0.5) await pause(1500)
    else if (fate < 0.65) throw new Error('refused')
    else if (fate < 0.8) {
      await work()
      await pause(100)
      throw new Error('the answer was lost')
    } else if (fate < 0.9) return new Promise(() => undefined)
    return work()
  }
}

/**
 * One process that writes, invalidates and loads, on a store that flaps. Each value is the number of the write that it comes from, so
 * that an older one can be told.
 */
async function run(seed: number): Promise<string[]> {
  const clock = new FakeClock()
  const random = seededRandom(seed)
  const store = new StagedStore(clock)
  store.stage = flapping(clock, random)
  const options = { clock, random, l2: store, l2TimeoutMs: 150, l1: { ttlMs: 40 }, ttlMs: 60_000 }
  const cache = new MultiLevelCache<number>({ ...options, l2Breaker: { failureThreshold: 4, recoveryTimeoutMs: 300 } })
  const problems: string[] = []
  const truth = new Map(keys.map((key) => [key, 0]))
  let writes = 0

  const write = (key: string): number => {
    truth.set(key, ++writes)
    return writes
  }
  const check = (key: string, what: string, read: Promise<number | undefined>): void => {
    const atLeast = truth.get(key) as number
    read.then(
      (value) => {
        if (value !== undefined && value < atLeast) problems.push(`${what} of ${key} gave ${value}, not ${atLeast}`)
      },
      (error: unknown) => problems.push(`${what} of ${key} failed: ${error}`),
    )
  }
  const load = async (key: string): Promise<number> => {
    if (random() < 0.5) await new Promise<void>((resolve) => clock.setTimer(resolve, random() * 60))
    const value = truth.get(key) as number
    if (random() < 0.5) await new Promise<void>((resolve) => clock.setTimer(resolve, random() * 60))
    return value
  }

  for (let step = 0; step < 120; step++) {
    const key = keys[Math.floor(random() * keys.length)] as string
    const tags = [tagOf(key)]
    const choice = random()
    if (choice < 0.15) void cache.set(key, write(key), { tags })
    else if (choice < 0.25) {
      write(key)
      void cache.delete(key)
    } else if (choice < 0.31) {
      for (const one of keys) if (tagOf(one) === tagOf(key)) write(one)
      void cache.invalidateTags(tags)
    } else if (choice < 0.34) {
      for (const one of keys) write(one)
      void cache.clear()
    } else if (choice < 0.65) check(key, 'get', cache.get(key))
    else check(key, 'getOrLoad', cache.getOrLoad(key, load, { tags }))
    await clock.advance(random() * 40)
  }

  // All is well again, and all that was left behind gets there.
  store.stage = (_, work) => work()
  await clock.advance(60_000)
  for (const key of keys) check(key, 'a later get', cache.get(key))
  await clock.advance(0)
  const other = new MultiLevelCache<number>({ clock, l2: store, l2Breaker: false })
  for (const key of keys) check(key, 'a get elsewhere', other.get(key))
  await clock.advance(0)
  const { l2 } = cache.stats()
  if (l2?.state !== 'closed' || l2.replay.pending !== 0) problems.push(`left behind: ${JSON.stringify(l2)}`)
  await Promise.all([cache.close(), other.close()])
  if (clock.pending !== 0) problems.push(`${clock.pending} timers are left`)
  return problems
}

describe('a shared tier that flaps', () => {
  test('serves nothing that is older than a write, and keeps nothing of it when all is well again', async () => {
    const unhandled = await unhandledDuring(async () => {
      for (let seed = 0; seed < 150; seed++) expect(await run(seed), `seed ${seed}`).toEqual([])
    })

    expect(unhandled).toEqual([])
  })
})
