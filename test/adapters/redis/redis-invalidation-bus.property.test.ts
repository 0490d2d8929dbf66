import fc from 'fast-check'
import { RedisInvalidationBus } from 'spillway/redis'
import { FakeClock, seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { PubSubModel } from './pub-sub-model.ts'

/** What happens next: somebody publishes so many, time passes, a connection breaks, Redis goes away or comes back. */
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('publish' as const), who: fc.nat(5), count: fc.nat(12) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('pass' as const), ms: fc.nat(3000) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('cut' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('down' as const), down: fc.boolean() }) },
)

const faults = fc.record({
  dropped: fc.constantFrom(0, 0.1, 0.5),
  failed: fc.constantFrom(0, 0.3),
  unanswered: fc.constantFrom(0, 0.2),
})

test('whatever is lost on the way, everyone hears of each invalidation or of a gap after it, and the books balance', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer(),
      faults,
      fc.array(step, { minLength: 1, maxLength: 40 }),
      async (seed, wrong, steps) => {
        const random = seededRandom(seed)
        const clock = new FakeClock()
        const redis = new PubSubModel(random, () => clock.now())
        const buses = [0, 1, 2].map(
          () =>
            new RedisInvalidationBus(redis.client(), {
              ...{
                clock,
                random,
                capacity: 20,
                maxBatchSize: 4,
                timeoutMs: 50,
                connectTimeoutMs: 50,
                heartbeatMs: 500,
              },
              retry: { attempts: 2, delayMs: 20 },
            }),
        )
        // Two ends a bus. What each has missed is what was published by another one, and not heard, with no gap since.
        const missed = buses.flatMap(() => [new Set<string>(), new Set<string>()])
        const links = buses.flatMap((bus, b) =>
          [0, 1].map((e) => {
            const own = missed[2 * b + e] as Set<string>
            return bus.connect({
              onInvalidations: (all) => {
                for (const one of all) own.delete(one.kind === 'key' ? one.key : '')
              },
              onGap: () => own.clear(),
            })
          }),
        )
        const balance = (): void => {
          for (const bus of buses) {
            const { offered, published, merged, lost, pending } = bus.stats()
            expect(offered).toBe(published + merged + lost + pending)
            expect(pending).toBeLessThanOrEqual(24)
          }
        }
        await clock.advance(1)
        redis.faults = wrong
        let number = 0
        const publish = (who: number, count: number): void => {
          const keys = Array.from({ length: count }, () => `key ${number++}`)
          for (const [i, own] of missed.entries()) if (i !== who) for (const key of keys) own.add(key)
          links[who]?.publish(keys.map((key) => ({ kind: 'key', key })))
        }

        for (const next of steps) {
          if (next.kind === 'publish') publish(next.who, next.count)
          else if (next.kind === 'pass') await clock.advance(next.ms)
          else if (next.kind === 'cut') redis.cutOne()
          else {
            redis.down = next.down
            if (next.down) redis.cutAll()
          }
          balance()
        }
        // All is well again, and each bus says something more.
        redis.down = false
        redis.faults = { dropped: 0, failed: 0, unanswered: 0 }
        for (let i = 0; i < 60; i++) await clock.advance(500)
        for (const who of [0, 2, 4]) publish(who, 1)
        for (let i = 0; i < 4; i++) await clock.advance(500)

        expect(missed.map((own) => [...own])).toEqual(missed.map(() => []))
        balance()
        expect(buses.map((bus) => bus.stats().pending)).toEqual([0, 0, 0])
        for (const bus of buses) expect(await bus.close()).toEqual({ drained: true, abandoned: 0 })
        expect(clock.pending).toBe(0)
      },
    ),
    { numRuns: 150 },
  )
}, 120_000)

describe('in virtual time', () => {
  /** A bus, and the way on which it goes. */
  function lone(random: () => number): { clock: FakeClock; redis: PubSubModel; bus: RedisInvalidationBus } {
    const clock = new FakeClock()
    const redis = new PubSubModel(random, () => clock.now())
    return { clock, redis, bus: new RedisInvalidationBus(redis.client(), { clock, random, retry: { attempts: 1 } }) }
  }

  test('what comes before it is subscribed is covered by the gap, and not heard before it', async () => {
    const { clock, redis, bus } = lone(() => 0.5)
    const heard: string[] = []
    redis.early = '{"spillway":1,"by":"x","seq":7,"news":[["k","early"]]}'

    bus.connect({ onInvalidations: () => heard.push('news'), onGap: () => heard.push('gap') })
    await clock.advance(1)

    expect(heard).toEqual(['gap'])
    await bus.close()
    expect(clock.pending).toBe(0)
  })

  test('what was sent before one listened is no gap, however long the message after it is tried', async () => {
    const { clock, redis, bus: listener } = lone(() => 0.1)
    const retry = { attempts: 1000, delayMs: 1000, maxDelayMs: 1000 }
    const sender = new RedisInvalidationBus(redis.client(), { clock, random: () => 0.1, retry })
    const link = sender.connect({ onInvalidations: () => undefined, onGap: () => undefined })
    link.publish([{ kind: 'key', key: 'a' }])
    await clock.advance(100)
    redis.faults = { ...redis.faults, failed: 1 }
    link.publish([{ kind: 'key', key: 'b' }])
    await clock.advance(100)
    const heard: string[] = []
    listener.connect({ onInvalidations: (all) => heard.push(...all.map(String)), onGap: () => heard.push('gap') })
    await clock.advance(20_000)
    expect(heard).toEqual(['gap'])

    redis.faults = { ...redis.faults, failed: 0 }
    await clock.advance(1000)

    expect(listener.stats()).toMatchObject({ heard: 1, gaps: 1, holes: 0 })
    for (const bus of [sender, listener]) await bus.close()
    expect(clock.pending).toBe(0)
  })

  test('a gap that waits for its next attempt goes out when the subscription is back', async () => {
    // Pauses of both that are long, and don't end together.
    let calls = 0
    const { clock, redis, bus } = lone(() => (calls++ % 2 === 0 ? 0.7 : 0.99))
    const link = bus.connect({ onInvalidations: () => undefined, onGap: () => undefined })
    await clock.advance(1)
    redis.down = true
    redis.cutAll()
    link.publish([{ kind: 'key', key: 'a' }])
    await clock.advance(60_000)
    expect(bus.stats()).toMatchObject({ lost: 1, subscribed: false, batches: 0 })

    redis.down = false
    while (!bus.stats().subscribed) {
      expect(bus.stats().batches).toBe(0)
      await clock.advance(50)
    }
    await clock.advance(1)

    expect(bus.stats()).toMatchObject({ batches: 1 })
    await bus.close()
    expect(clock.pending).toBe(0)
  })
})
