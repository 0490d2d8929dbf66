import type { Redis } from 'ioredis'
import { RedisLock } from 'spillway/redis'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { endedAfterEach } from './fleets.ts'
import { granted, LockFleet, saidBy } from './lock-fleet.ts'

const server = await startRedis()
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new LockFleet(), server)
const connect = (): Redis => fleet.redis(url)

/** Keeps this process busy. */
function block(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end; );
}

describe.skipIf(server === undefined)('a process that was held up for longer than its lease lasts', () => {
  test.each([true, false])('finds its signal aborted before anything else happens, with extend: %s', async (extend) => {
    const locker = fleet.locker(connect(), { ttlMs: 100, extend })
    const lease = granted(await locker.lock.acquire('a'))
    const { signal } = lease

    block(110)

    expect([lease.held, signal.aborted, lease.signal.aborted]).toEqual([false, true, true])
    expect(saidBy(locker, 'lost')).toMatchObject([{ reason: 'expired', token: lease.token }])
    await lease.release()
  })

  test('finds out by its signal, too, and extends no more', async () => {
    const locker = fleet.locker(connect(), { ttlMs: 100 })
    const [first, second] = [granted(await locker.lock.acquire('a')), granted(await locker.lock.acquire('b'))]

    block(110)

    expect(first.signal.aborted).toBe(true)
    expect(await second.extend()).toBe(false)
    expect(second.signal.aborted).toBe(true)
    expect([await first.release(), await second.release()]).toEqual([false, false])
    expect(locker.lock.stats()).toMatchObject({ lost: 2, extended: 0, extendFailed: 0 })
  })
})

describe.skipIf(server === undefined)('an attempt that reaches Redis twice', () => {
  test('does not shorten a lease that was extended meanwhile', async () => {
    const redis = connect()
    const { lock } = fleet.locker(redis, { extend: false, ttlMs: 1000 })
    const sent: Parameters<Redis['call']>[] = []
    const { call } = redis
    redis.call = ((...args: Parameters<Redis['call']>) => {
      sent.push(args)
      return call.apply(redis, args)
    }) as Redis['call']
    const lease = granted(await lock.acquire('a'))
    const attempt = sent.at(-1) as Parameters<Redis['call']>

    expect(await lease.extend(60_000)).toBe(true)
    expect(await call.apply(redis, attempt)).toEqual(['taken', String(lease.token)])

    expect(await redis.pttl(fleet.keyOf('a'))).toBeGreaterThan(50_000)
    expect(await redis.pttl(fleet.keyOf('a', 'token'))).toBeGreaterThan(86_400_000 + 50_000)
    await lease.release()
  })
})

describe('a signal that aborts about when Redis answers', () => {
  /** A Redis that answers to every attempt alike, and how often it was asked to release. */
  function staged(answer: unknown[]): {
    lock: RedisLock
    clock: FakeClock
    releases: () => number
    asked: Promise<void>
  } {
    const clock = new FakeClock()
    let releases = 0
    let onAsked = (): void => undefined
    const asked = new Promise<void>((resolve) => {
      onAsked = resolve
    })
    const call = async (_: string, args: string[]): Promise<unknown> => {
      // One key: a release.
      if (args[1] === '1') return ++releases
      onAsked()
      return answer
    }
    const lock = new RedisLock({ isCluster: false, status: 'ready', call } as never, { clock })
    return { lock, clock, releases: () => releases, asked }
  }

  const turns = Array.from({ length: 12 }, (_, count) => count)

  test.each(turns)('ends the wait at once, %d microtasks later', async (count) => {
    const { lock, clock, asked } = staged(['held', '10000'])
    const controller = new AbortController()
    const asks = lock.acquire('a', { waitMs: 60_000, signal: controller.signal })
    await asked
    for (let i = 0; i < count; i++) await undefined

    controller.abort(new Error('enough'))

    await expect(asks).rejects.toThrow('enough')
    expect(clock.pending).toBe(0)
    expect(lock.stats()).toMatchObject({ aborted: 1, pending: 0 })
  })

  test.each(turns)('leaves no lease that nobody has, %d microtasks later', async (count) => {
    const { lock, clock, asked, releases } = staged(['taken', '7'])
    const controller = new AbortController()
    const asks = lock.acquire('a', { signal: controller.signal })
    await asked
    for (let i = 0; i < count; i++) await undefined

    controller.abort(new Error('enough'))

    const lease = await asks.catch(() => undefined)
    await lease?.release()
    for (let i = 0; i < 20; i++) await undefined
    expect(releases()).toBeGreaterThanOrEqual(1)
    expect(clock.pending).toBe(0)
    const { acquired, aborted } = lock.stats()
    expect([acquired + aborted, acquired]).toEqual([1, lease === undefined ? 0 : 1])
  })
})
