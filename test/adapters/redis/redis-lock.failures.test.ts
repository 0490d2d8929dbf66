import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { isSpillwayError } from 'spillway'
import { describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { startCuttingProxy } from './cutting-proxy.ts'
import { endedAfterEach } from './fleets.ts'
import { aborted, granted, type Locker, LockFleet, saidBy, waitFor } from './lock-fleet.ts'
import { startValve, type Valve } from './valve.ts'

const server = await startRedis({ own: true })
const port = server?.port ?? 1
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new LockFleet(), server)
const connect = (): Redis => fleet.redis(url)

async function behindValve(options?: object): Promise<{ way: Valve; locker: Locker }> {
  const way = await startValve(port)
  fleet.cleanUp(() => way.close())
  return { way, locker: fleet.locker(fleet.redis(`redis://127.0.0.1:${way.port}`), options) }
}

describe.skipIf(server === undefined)('RedisLock when things go wrong', () => {
  test('FLUSHALL loses every lease: the signals abort, and the tokens go on growing', async () => {
    const lockers = [0, 1, 2].map(() => fleet.locker(connect(), { ttlMs: 150 }))
    const leases = await Promise.all(lockers.map(async ({ lock }, i) => granted(await lock.acquire(`name ${i}`))))

    await connect().flushall()
    await Promise.all(leases.map(({ signal }) => aborted(signal)))

    expect(leases.map(({ held }) => held)).toEqual([false, false, false])
    for (const [i, { lock }] of lockers.entries()) {
      const again = granted(await lock.acquire(`name ${i}`))
      expect(again.token).toBeGreaterThan(leases[i]?.token ?? 0)
      await again.release()
    }
  })

  test('a Redis that hangs: the signal aborts before the lease can have ended there', async () => {
    const { way, locker } = await behindValve({ ttlMs: 1000, timeoutMs: 100 })
    const redis = connect()
    const asked = performance.now()
    const lease = granted(await locker.lock.acquire('a'))
    await waitFor(() => expect(locker.lock.stats().extended).toBeGreaterThanOrEqual(1))
    way.freeze()
    const frozen = performance.now()

    const at = await aborted(lease.signal)

    // An extension that was sent, and not answered, may have been made: nobody else has it while it is thought to be held.
    expect(await redis.exists(fleet.keyOf('a'))).toBe(1)
    expect(at - asked).toBeGreaterThan(1000)
    expect(at - frozen).toBeLessThan(1000)
    expect(lease.held).toBe(false)
    expect(String(lease.signal.reason)).toContain('the lease of "a" was lost: not extended: ')
    expect(isSpillwayError((lease.signal.reason as Error).cause, 'ERR_TIMEOUT')).toBe(true)
    const failures = saidBy(locker, 'extendFailed')
    expect(failures.length).toBeGreaterThanOrEqual(1)
    expect(failures.every(({ lock, token }) => lock === 'a' && token === lease.token)).toBe(true)
    await waitFor(() => expect(locker.timers()).toBe(0))
    await expect(lease.release()).rejects.toMatchObject({ code: 'ERR_TIMEOUT' })
    expect(locker.lock.stats()).toMatchObject({ lost: 1, releaseFailed: 0 })
  })

  test('a Redis that is away for less than a lease loses none', async () => {
    const { way, locker } = await behindValve({ ttlMs: 2000, timeoutMs: 100 })
    const lease = granted(await locker.lock.acquire('a'))

    way.shut()
    await waitFor(() => expect(saidBy(locker, 'extendFailed').length).toBeGreaterThan(0))
    way.open()

    await waitFor(() => expect(locker.lock.stats().extended).toBeGreaterThanOrEqual(1))
    expect([lease.held, lease.signal.aborted]).toEqual([true, false])
    await delay(1000)
    expect(await lease.release()).toBe(true)
  })

  test('to extend by hand rejects where Redis cannot be asked, and the lease is held on', async () => {
    const { way, locker } = await behindValve({ extend: false, timeoutMs: 100 })
    const lease = granted(await locker.lock.acquire('a'))
    way.shut()

    await expect(lease.extend()).rejects.toMatchObject({ name: expect.stringMatching(/^(Store|Timeout)Error$/) })

    expect([lease.held, lease.signal.aborted]).toEqual([true, false])
    way.open()
    await waitFor(async () => expect(await lease.extend()).toBe(true))
    await lease.release()
  })

  test('an acquire whose answer was lost recognises itself', async () => {
    const proxy = await startCuttingProxy(port)
    fleet.cleanUp(() => proxy.close())
    // Resends nothing by itself: it is the lock that asks again.
    const client = fleet.redis(`redis://127.0.0.1:${proxy.port}`, { autoResendUnfulfilledCommands: true })
    const locker = fleet.locker(client)
    await granted(await locker.lock.acquire('warm up')).release()

    proxy.cutNextAnswer()
    const lease = granted(await locker.lock.acquire('a'))

    expect(proxy.cuts).toBe(1)
    expect([lease.waited, lease.held]).toEqual([false, true])
    expect(String(lease.token)).toBe(await connect().get(fleet.keyOf('a', 'token')))
    expect(await lease.release()).toBe(true)
  })

  test('a release whose answer was lost is one all the same', async () => {
    const proxy = await startCuttingProxy(port)
    fleet.cleanUp(() => proxy.close())
    const locker = fleet.locker(fleet.redis(`redis://127.0.0.1:${proxy.port}`))
    await granted(await locker.lock.acquire('warm up')).release()
    const lease = granted(await locker.lock.acquire('a'))

    proxy.cutNextAnswer()
    expect(await lease.release()).toBe(true)

    expect(proxy.cuts).toBe(1)
    expect(lease.signal.aborted).toBe(false)
    expect(await connect().exists(fleet.keyOf('a'))).toBe(0)
    expect(locker.lock.stats()).toMatchObject({ released: 2, lost: 0 })
  })

  test('who gives up while Redis hangs leaves nothing behind', async () => {
    const { way, locker } = await behindValve({ timeoutMs: 5000 })
    const redis = connect()
    await granted(await locker.lock.acquire('warm up')).release()
    way.freeze()
    const controller = new AbortController()
    const asked = locker.lock.acquire('a', { signal: controller.signal })
    await waitFor(async () => expect(await redis.exists(fleet.keyOf('a'))).toBe(1))

    controller.abort(new Error('enough'))
    await expect(asked).rejects.toThrow('enough')
    expect(locker.timers()).toBe(0)
    way.thaw()

    await waitFor(async () => expect(await redis.exists(fleet.keyOf('a'))).toBe(0))
  })

  test('an acquire that takes too long fails, and what it got is given back when the answer comes', async () => {
    const { way, locker } = await behindValve({ timeoutMs: 100 })
    const redis = connect()
    await granted(await locker.lock.acquire('warm up')).release()
    way.freeze()
    const asked = performance.now()

    await expect(locker.lock.acquire('a', { waitMs: 250 })).rejects.toMatchObject({ code: 'ERR_TIMEOUT' })

    expect(performance.now() - asked).toBeGreaterThanOrEqual(249)
    expect(performance.now() - asked).toBeLessThan(1000)
    expect(await redis.exists(fleet.keyOf('a'))).toBe(1)
    way.thaw()
    await waitFor(async () => expect(await redis.exists(fleet.keyOf('a'))).toBe(0))
    expect(locker.lock.stats()).toMatchObject({ failed: 1, pending: 0 })
  })

  test('who waits while Redis is restarted goes on', async () => {
    const locker = fleet.locker(connect(), { ttlMs: 100 })
    const waiter = fleet.locker(connect(), { timeoutMs: 200 })
    const lease = granted(await locker.lock.acquire('a'))
    const waiting = waiter.lock.acquire('a', { waitMs: 15_000 })
    await waitFor(() => expect(waiter.lock.stats().pending).toBe(1))

    await server?.kill()
    await aborted(lease.signal)
    await delay(100)
    await server?.restart()

    const next = granted(await waiting)
    expect(next.token).toBeGreaterThan(lease.token)
    await next.release()
  })

  test('without a Redis acquire fails with what happened', async () => {
    const { way, locker } = await behindValve({ timeoutMs: 100 })
    way.shut()

    const refused = locker.lock.acquire('a')

    await expect(refused).rejects.toMatchObject({
      name: expect.stringMatching(/^(Store|Timeout)Error$/),
      retryable: true,
    })
    expect(locker.lock.stats()).toMatchObject({ offered: 1, failed: 1 })
  })

  test('a closed client, and a key that holds something else, fail at once', async () => {
    const client = connect()
    const locker = fleet.locker(client)
    const redis = connect()
    await redis.rpush(fleet.keyOf('list'), 'x')

    const asked = performance.now()
    await expect(locker.lock.acquire('list', { waitMs: 10_000 })).rejects.toMatchObject({
      code: 'ERR_STORE',
      message: expect.stringContaining('WRONGTYPE'),
    })
    const lease = granted(await locker.lock.acquire('a'))
    client.disconnect()
    await waitFor(() => expect(client.status).toBe('end'))
    await expect(locker.lock.acquire('b', { waitMs: 10_000 })).rejects.toMatchObject({ retryable: false })
    expect(performance.now() - asked).toBeLessThan(5000)

    await expect(lease.release()).rejects.toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(saidBy(locker, 'releaseFailed')).toMatchObject([{ lock: 'a', token: lease.token }])
    await lease[Symbol.asyncDispose]()
    await redis.del(fleet.keyOf('list'), fleet.keyOf('a'))
  })

  test('a lease that is never given back does not hold its process', async () => {
    const { execFile } = await import('node:child_process')
    const { promisify } = await import('node:util')
    const program = `
      import { Redis } from 'ioredis'
      import { RedisLock } from './src/adapters/redis/redis-lock.ts'
      const redis = new Redis('${url}')
      const lock = new RedisLock(redis, { prefix: '${fleet.prefix}' })
      const lease = await lock.acquire('left')
      console.log(lease.held)
      await redis.quit()`
    const args = ['--import', 'tsx', '--input-type=module', '-e', program]

    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 20_000 })

    expect(stdout.trim()).toBe('true')
  }, 30_000)
})
