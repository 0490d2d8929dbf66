import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { isSpillwayError } from 'spillway'
import type { RedisClient, RedisLease } from 'spillway/redis'
import { describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { singleClients } from './clients.ts'
import { endedAfterEach } from './fleets.ts'
import { aborted, granted, type Locker, LockFleet, saidBy, waitFor } from './lock-fleet.ts'

const server = await startRedis()
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new LockFleet(), server)
const connect = (): Redis => fleet.redis(url)

describe.skipIf(server === undefined)('RedisLock', () => {
  describe.each(Object.entries(singleClients))('with %s', (_, open) => {
    const client = async (): Promise<RedisClient> => {
      const { client, close } = await open(url)
      fleet.cleanUp(close)
      return client
    }

    test('gives a name to one at a time, with a greater token each time', async () => {
      const [first, second] = [fleet.locker(await client()), fleet.locker(await client())] as [Locker, Locker]

      const one = granted(await first.lock.acquire('a{b}%:c'))
      expect(await second.lock.acquire('a{b}%:c')).toBeUndefined()
      const elsewhere = granted(await second.lock.acquire('a'))
      expect([one.name, one.waited, one.held, one.signal.aborted]).toEqual(['a{b}%:c', false, true, false])

      expect(await one.release()).toBe(true)
      const two = granted(await second.lock.acquire('a{b}%:c'))
      expect(two.token).toBeGreaterThan(one.token)
      expect([one.held, one.signal.aborted]).toEqual([false, false])
      expect(await Promise.all([two.release(), elsewhere.release()])).toEqual([true, true])
      expect(second.lock.stats()).toMatchObject({ offered: 3, acquired: 2, busy: 1, released: 2, held: 0 })
    })

    test('who waits gets it soon after it is given back', async () => {
      const [first, second] = [fleet.locker(await client()), fleet.locker(await client())] as [Locker, Locker]
      const one = granted(await first.lock.acquire('a'))

      const waiting = second.lock.acquire('a', { waitMs: 10_000 })
      await waitFor(() => expect(second.lock.stats().pending).toBe(1))
      await delay(50)
      await one.release()
      const given = performance.now()
      const two = granted(await waiting)

      expect(two.waited).toBe(true)
      expect(performance.now() - given).toBeLessThan(2000)
      await two.release()
      expect(saidBy(second, 'acquired')).toMatchObject([{ lock: 'a', token: two.token, waited: true }])
    })
  })

  test('many clients that contend for one name exclude each other, and their tokens grow', async () => {
    const lockers = Array.from({ length: 12 }, () => fleet.locker(connect(), { ttlMs: 5000, pollMs: 2, maxPollMs: 20 }))
    const resource = connect()
    let inside = 0
    let most = 0
    const tokens: number[] = []

    await Promise.all(
      lockers.flatMap(({ lock }) =>
        [1, 2].map(async () => {
          for (let i = 0; i < 10; i++) {
            await lock.run(
              'contended',
              async ({ token }) => {
                most = Math.max(most, ++inside)
                tokens.push(token)
                const value = Number(await resource.get(fleet.keyOf('value')))
                await resource.set(fleet.keyOf('value'), value + 1, 'PX', 60_000)
                inside--
              },
              { waitMs: 15_000 },
            )
          }
        }),
      ),
    )

    expect(most).toBe(1)
    expect(await resource.get(fleet.keyOf('value'))).toBe('240')
    expect(tokens).toEqual([...tokens].sort((a, b) => a - b))
    expect(new Set(tokens).size).toBe(240)
  })

  test('tokens grow across expiry, and where Redis has forgotten the latest', async () => {
    const { lock } = fleet.locker(connect(), { ttlMs: 30, extend: false, tokenMemoryMs: 1 })
    const redis = connect()
    const tokens: number[] = []
    for (let i = 0; i < 5; i++) {
      const lease = granted(await lock.acquire('a', { waitMs: 5000 }))
      tokens.push(lease.token)
      await aborted(lease.signal)
      if (i === 2) await waitFor(async () => expect(await redis.exists(fleet.keyOf('a', 'token'))).toBe(0))
    }

    expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b))
  })

  test('tokens grow while the clock of Redis stands behind the latest', async () => {
    const { lock } = fleet.locker(connect())
    const future = Date.now() * 1000 + 3_600_000_000
    await connect().set(fleet.keyOf('a', 'token'), future, 'PX', 60_000)

    for (const nth of [1, 2]) {
      const lease = granted(await lock.acquire('a'))
      expect(lease.token).toBe(future + nth)
      await lease.release()
    }
  })

  test('leaves nothing in Redis for ever', async () => {
    const { lock } = fleet.locker(connect(), { ttlMs: 5000, tokenMemoryMs: 60_000 })
    const redis = connect()

    const lease = granted(await lock.acquire('a'))
    const ttl = await redis.pttl(fleet.keyOf('a'))
    expect(ttl).toBeGreaterThan(4000)
    expect(ttl).toBeLessThanOrEqual(5000)
    await lease.release()

    expect(await redis.keys(`*${fleet.prefix}*`)).toEqual([fleet.keyOf('a', 'token')])
    const memory = await redis.pttl(fleet.keyOf('a', 'token'))
    expect(memory).toBeGreaterThan(60_000)
    expect(memory).toBeLessThanOrEqual(65_000)
  })

  describe('a lease', () => {
    test('extends itself beyond its time to live', async () => {
      const [owner, other] = [fleet.locker(connect(), { ttlMs: 600 }), fleet.locker(connect())] as [Locker, Locker]
      const lease = granted(await owner.lock.acquire('a'))

      const until = performance.now() + 1500
      while (performance.now() < until) {
        expect(await other.lock.acquire('a')).toBeUndefined()
        await delay(10)
      }

      expect([lease.held, lease.signal.aborted]).toEqual([true, false])
      expect(owner.lock.stats().extended).toBeGreaterThanOrEqual(4)
      expect(await lease.release()).toBe(true)
      expect(granted(await other.lock.acquire('a')).release()).toBeInstanceOf(Promise)
      await waitFor(() => expect(other.lock.stats().held).toBe(0))
    })

    test('that does not extend itself aborts before it ends in Redis', async () => {
      const locker = fleet.locker(connect(), { ttlMs: 1000, extend: false })
      const redis = connect()
      const asked = performance.now()
      const lease = granted(await locker.lock.acquire('a'))

      const at = await aborted(lease.signal)

      expect(at - asked).toBeLessThan(1000)
      expect(at - asked).toBeGreaterThan(900)
      expect(lease.held).toBe(false)
      const { reason } = lease.signal
      expect(isSpillwayError(reason, 'ERR_STORE')).toBe(true)
      expect(String(reason)).toBe('StoreError: redis-lock: the lease of "a" was lost: its time is over')
      expect(saidBy(locker, 'lost')).toEqual([{ lock: 'a', token: lease.token, reason: 'expired', error: reason }])
      await waitFor(async () => expect(await redis.exists(fleet.keyOf('a'))).toBe(0))
      expect(await lease.release()).toBe(false)
      expect(await lease.extend()).toBe(false)
      expect(locker.lock.stats()).toMatchObject({ lost: 1, released: 0, extended: 0 })
    })

    test('can be extended by hand, and never becomes shorter by that', async () => {
      const { lock } = fleet.locker(connect(), { ttlMs: 100, extend: false })
      const redis = connect()
      const lease = granted(await lock.acquire('a'))

      expect(await lease.extend(60_000)).toBe(true)
      expect(await redis.pttl(fleet.keyOf('a'))).toBeGreaterThan(50_000)
      expect(await lease.extend(10)).toBe(true)
      expect(await lease.extend()).toBe(true)
      await delay(150)

      expect(await redis.pttl(fleet.keyOf('a'))).toBeGreaterThan(50_000)
      expect(lease.held).toBe(true)
      await lease.release()
      expect(await lease.extend(1000)).toBe(false)
    })

    test('has the ttlMs of its call', async () => {
      const { lock } = fleet.locker(connect(), { extend: false })

      const lease = granted(await lock.acquire('a', { ttlMs: 50 }))

      await aborted(lease.signal)
      expect(lease.held).toBe(false)
    })

    test('lasts no longer than maxHoldMs, however often it is extended', async () => {
      const locker = fleet.locker(connect(), { ttlMs: 200, maxHoldMs: 700 })
      const redis = connect()
      const asked = performance.now()
      const lease = granted(await locker.lock.acquire('a'))
      expect(await lease.extend(60_000)).toBe(true)
      expect(await redis.pttl(fleet.keyOf('a'))).toBeLessThanOrEqual(700)

      const at = await aborted(lease.signal)

      expect(at - asked).toBeGreaterThan(600)
      expect(at - asked).toBeLessThan(1500)
      await waitFor(async () => expect(await redis.exists(fleet.keyOf('a'))).toBe(0))
      expect(performance.now() - asked).toBeLessThan(5000)
    })

    test.each([
      ['is deleted', (redis: Redis) => redis.del(fleet.keyOf('a'))],
      ['becomes another owner’s', (redis: Redis) => redis.set(fleet.keyOf('a'), 'another', 'PX', 5000)],
    ])('that %s in Redis is lost: its signal aborts', async (_, harm) => {
      const locker = fleet.locker(connect(), { ttlMs: 300 })
      const lease = granted(await locker.lock.acquire('a'))

      await harm(connect())
      await aborted(lease.signal)

      expect(lease.held).toBe(false)
      expect(String(lease.signal.reason)).toContain('the lease of "a" was lost: Redis has it no more')
      expect(saidBy(locker, 'lost')).toMatchObject([{ lock: 'a', reason: 'gone' }])
      expect(await lease.release()).toBe(false)
    })

    test('that is another’s by now is not taken from it by a release', async () => {
      const locker = fleet.locker(connect(), { ttlMs: 60_000 })
      const redis = connect()
      const lease = granted(await locker.lock.acquire('a'))
      await redis.set(fleet.keyOf('a'), 'another', 'PX', 5000)

      expect(await lease.release()).toBe(false)

      expect(await redis.get(fleet.keyOf('a'))).toBe('another')
      expect(lease.signal.aborted).toBe(true)
      expect(locker.lock.stats()).toMatchObject({ lost: 1, released: 0 })
    })

    test('is released once, and at the end of its block', async () => {
      const locker = fleet.locker(connect())
      let kept: RedisLease
      {
        await using lease = granted(await locker.lock.acquire('a'))
        kept = lease
        expect(lease.held).toBe(true)
      }

      expect(kept.held).toBe(false)
      const other = granted(await locker.lock.acquire('a'))
      expect(await Promise.all([kept.release(), kept.release()])).toEqual([true, true])
      expect(other.held).toBe(true)
      expect(await other.release()).toBe(true)
      expect(saidBy(locker, 'released')).toHaveLength(2)
    })
  })

  describe('who waits', () => {
    test('goes away with nothing when the time is over', async () => {
      const [owner, other] = [fleet.locker(connect()), fleet.locker(connect())] as [Locker, Locker]
      const lease = granted(await owner.lock.acquire('a'))
      const asked = performance.now()

      expect(await other.lock.acquire('a', { waitMs: 150 })).toBeUndefined()

      expect(performance.now() - asked).toBeGreaterThanOrEqual(149)
      expect(performance.now() - asked).toBeLessThan(1000)
      expect(other.lock.stats()).toMatchObject({ busy: 1, acquired: 0, pending: 0 })
      await lease.release()
    })

    test('gets what expires, without waiting for a whole pause', async () => {
      const [owner, other] = [
        fleet.locker(connect(), { ttlMs: 100, extend: false }),
        fleet.locker(connect(), { pollMs: 60_000, maxPollMs: 60_000 }),
      ] as [Locker, Locker]
      const lease = granted(await owner.lock.acquire('a'))

      const asked = performance.now()
      const next = granted(await other.lock.acquire('a', { waitMs: 10_000 }))

      expect(performance.now() - asked).toBeLessThan(5000)
      expect(lease.signal.aborted).toBe(true)
      expect(next.token).toBeGreaterThan(lease.token)
      await next.release()
    })

    test('can give up, and leaves nothing behind', async () => {
      const [owner, other] = [fleet.locker(connect()), fleet.locker(connect())] as [Locker, Locker]
      const lease = granted(await owner.lock.acquire('a'))
      const controller = new AbortController()
      const waiting = other.lock.acquire('a', { waitMs: 60_000, signal: controller.signal })
      await delay(30)

      controller.abort(new Error('enough'))

      await expect(waiting).rejects.toThrow('enough')
      expect(other.timers()).toBe(0)
      await lease.release()
      await delay(50)
      expect(await connect().exists(fleet.keyOf('a'))).toBe(0)
    })

    test('and gives up while it is granted leaves nothing behind', async () => {
      const locker = fleet.locker(connect())
      const redis = connect()
      const controller = new AbortController()

      const asked = locker.lock.acquire('a', { signal: controller.signal })
      controller.abort('enough')

      await expect(asked).rejects.toBe('enough')
      await waitFor(async () => {
        expect(await redis.exists(fleet.keyOf('a', 'token'))).toBe(1)
        expect(await redis.exists(fleet.keyOf('a'))).toBe(0)
      })
      await expect(locker.lock.acquire('b', { signal: controller.signal })).rejects.toBe('enough')
      expect(await redis.exists(fleet.keyOf('b', 'token'))).toBe(0)
      expect(locker.lock.stats()).toMatchObject({ offered: 2, aborted: 2 })
    })
  })

  describe('run', () => {
    test('answers what the function does, and gives back whatever happens', async () => {
      const { lock } = fleet.locker(connect())
      const redis = connect()

      expect(await lock.run('a', ({ token, signal }) => [token > 0, signal.aborted])).toEqual([true, false])
      await expect(
        lock.run('a', () => {
          throw new Error('down')
        }),
      ).rejects.toThrow('down')
      await expect(lock.run('a', () => Promise.reject(new Error('late')))).rejects.toThrow('late')

      expect(await redis.exists(fleet.keyOf('a'))).toBe(0)
      expect(lock.stats()).toMatchObject({ acquired: 3, released: 3 })
    })

    test('rejects where somebody else has it', async () => {
      const { lock } = fleet.locker(connect())
      const lease = granted(await lock.acquire('a'))
      let ran = false

      const refused = lock.run('a', () => {
        ran = true
      })

      await expect(refused).rejects.toThrow('redis-lock: "a" was held by others for 0 ms')
      await expect(refused).rejects.toMatchObject({ code: 'ERR_TIMEOUT', retryable: true, outcomeUnknown: false })
      expect(ran).toBe(false)
      await lease.release()
    })

    test('tells the function when the lease is lost, and when the caller gives up', async () => {
      const { lock } = fleet.locker(connect(), { ttlMs: 150 })
      const redis = connect()
      const untilAborted = async ({ signal }: { signal: AbortSignal }): Promise<string> => {
        await aborted(signal)
        return String(signal.reason)
      }
      const controller = new AbortController()
      const losing = lock.run('a', untilAborted, { signal: controller.signal })
      await waitFor(async () => expect(await redis.del(fleet.keyOf('a'))).toBe(1))
      expect(await losing).toContain('was lost')

      const givenUp = lock.run('b', untilAborted, { signal: controller.signal })
      await waitFor(() => expect(lock.stats().held).toBe(1))
      controller.abort('enough')

      expect(await givenUp).toBe('enough')
      expect(await redis.exists(fleet.keyOf('b'))).toBe(0)
    })
  })
})
