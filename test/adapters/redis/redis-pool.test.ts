import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import { createClient } from 'redis'
import { createClient as createClient5 } from 'redis5'
import { isSpillwayError, OptionError } from 'spillway'
import { createRedisPool, type PoolableClient, type RedisPool, type RedisPoolOptions } from 'spillway/redis'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { freePort } from '../../servers/free-port.ts'
import { type OwnRedisServer, startRedis } from '../../servers/redis.ts'

const server = await startRedis({ own: true })
const url = server?.url ?? 'redis://127.0.0.1:1'
const once = { retryStrategy: () => null }
const onceOnly = { url, socket: { reconnectStrategy: false as const } }
const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
process.on('unhandledRejection', onUnhandled)
const pools: RedisPool<PoolableClient>[] = []

const kinds: Readonly<Record<string, () => PoolableClient>> = {
  'ioredis 6': () => new Redis(url, once),
  'ioredis 5': () => new Redis5(url, once),
  'ioredis 6, lazy': () => new Redis(url, { ...once, lazyConnect: true }),
  'ioredis 6, reconnecting': () => new Redis(url),
  'node-redis 6': () => createClient(onceOnly),
  'node-redis 5': () => createClient5(onceOnly),
  'node-redis 6, reconnecting': () => createClient({ url }),
}

function poolOf<C extends PoolableClient = Redis>(
  options: RedisPoolOptions = {},
  create: () => C | PromiseLike<C> = () => new Redis(url, once) as never,
): RedisPool<C> {
  const pool = createRedisPool(create, { min: 0, ...options })
  pools.push(pool as never)
  return pool
}

/** Any command on any kind of client. */
function send(client: PoolableClient, command: string, ...args: string[]): Promise<unknown> {
  return 'call' in client ? client.call(command, args) : client.sendCommand([command, ...args])
}

const idOf = (client: PoolableClient): Promise<unknown> => send(client, 'CLIENT', 'ID')
const failureOf = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    () => {
      throw new Error('it succeeded')
    },
    (error: Error) => error,
  )
/** A use that lasts until it is told to end. */
const hold = (pool: RedisPool<Redis>): { ended: Promise<void>; end: () => void; begun: Promise<void> } => {
  let end = (): void => undefined
  let begin = (): void => undefined
  const until = new Promise<void>((resolve) => {
    end = resolve
  })
  const begun = new Promise<void>((resolve) => {
    begin = resolve
  })
  const ended = pool.use(() => {
    begin()
    return until
  })
  return { ended, end, begun }
}
/** Ends all connections but that of the question, as a crash of the server or a firewall would. */
async function killOthers(): Promise<void> {
  const admin = new Redis(url)
  await admin.call('CLIENT', ['KILL', 'TYPE', 'normal', 'SKIPME', 'yes'])
  admin.disconnect()
}

afterEach(async () => {
  for (const pool of pools.splice(0)) {
    const { offered, succeeded, failed, dropped, rejected, aborted, pending } = pool.stats()
    expect(offered).toBe(succeeded + failed + dropped + rejected + aborted + pending)
    await pool.close({ timeoutMs: 0 })
  }
  expect(unhandled).toEqual([])
})
afterAll(async () => {
  process.off('unhandledRejection', onUnhandled)
  await server?.stop()
})

describe.skipIf(server === undefined)('a pool of exclusive connections', () => {
  describe.each(Object.entries(kinds))('of %s', (_, create) => {
    test('runs uses on connections of their own, keeps them, and ends them at close', async () => {
      const pool = poolOf({ max: 2 }, create)

      const [a, b] = await Promise.all([pool.use(idOf), pool.use(idOf)])
      const c = await pool.use(idOf)

      expect(a).not.toBe(b)
      expect([a, b]).toContain(c)
      expect(pool.stats()).toMatchObject({ offered: 3, succeeded: 3, size: 2, idle: 2, connected: 2 })
      expect(await pool.close()).toEqual({ drained: true, abandoned: 0 })
      expect(pool.stats()).toMatchObject({ size: 0 })
      await expect(pool.use(idOf)).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    })

    test('replaces a connection that broke while it was idle', async () => {
      const pool = poolOf({ max: 1 }, create)
      const before = await pool.use(idOf)

      await killOthers()

      expect(await pool.use(idOf)).not.toBe(before)
      expect(pool.stats()).toMatchObject({ succeeded: 2, size: 1, connected: 2 })
    })

    test('replaces a connection that its use left in a transaction', async () => {
      const pool = poolOf({ max: 1 }, create)
      const before = await pool.use(async (client) => {
        const id = await idOf(client)
        await send(client, 'MULTI')
        return id
      })

      expect(await pool.use(idOf)).not.toBe(before)
    })

    test('a connection that breaks in use fails that use alone', async () => {
      const pool = poolOf({ max: 1 }, create)
      await pool.use(idOf)

      const broken = pool.use((client) => send(client, 'BLPOP', 'nothing', '0'))
      broken.catch(() => undefined)
      await vi.waitFor(async () => {
        await killOthers()
        expect(pool.stats().connected + pool.stats().failed).toBeGreaterThan(0)
      })
      // One that reconnects by itself sends its command again: it never learns that anything happened.
      const outcome = await Promise.race([broken.then(String, String), delay(300).then(() => 'waits')])

      if (outcome === 'waits') await new Redis(url, once).rpush('nothing', 'x').then(() => broken)
      expect(await pool.use(idOf)).toBeDefined()
      expect(pool.stats().connected).toBeGreaterThanOrEqual(2)
    })
  })

  test('a blocked use holds up nobody else', async () => {
    const pool = poolOf({ max: 2 })
    const blocked = pool.use((client) => client.blpop('queue', 0))

    await pool.use((client) => client.rpush('queue', 'job'))

    expect(await blocked).toEqual(['queue', 'job'])
  })

  test('opens nothing before its first use, then keeps min', async () => {
    const create = vi.fn(() => new Redis(url, once))
    const pool = poolOf({ min: 3, max: 5 }, create)
    await delay(20)
    expect(create).not.toHaveBeenCalled()

    await pool.use(idOf)

    await vi.waitFor(() => expect(pool.stats()).toMatchObject({ size: 3, idle: 3 }))
  })

  test('ends idle connections beyond min', async () => {
    const pool = poolOf({ min: 1, max: 4, idleTimeoutMs: 50 })
    const reasons: string[] = []
    pool.on('ended', ({ reason }) => reasons.push(reason))
    await Promise.all(Array.from({ length: 4 }, () => pool.use(() => delay(30))))
    expect(pool.stats().size).toBe(4)

    await vi.waitFor(() => expect(pool.stats().size).toBe(1), 5000)
    expect(reasons).toEqual(['idle', 'idle', 'idle'])
  })

  test('when all are in use, uses wait their turn, up to capacity', async () => {
    const pool = poolOf({ max: 1, capacity: 2 })
    const first = hold(pool)
    await first.begun
    const order: number[] = []
    const waiting = [1, 2].map((n) => pool.use(() => order.push(n)))

    await expect(pool.use(idOf)).rejects.toMatchObject({ code: 'ERR_FULL', retryable: true, capacity: 2 })
    expect(pool.stats()).toMatchObject({ pending: 3, waiting: 2, rejected: 1 })
    first.end()
    await Promise.all(waiting)

    expect(order).toEqual([1, 2])
    expect(pool.stats()).toMatchObject({ connected: 1, succeeded: 3 })
  })

  test('a wait is bounded, and says of which pool', async () => {
    const pool = poolOf({ name: 'jobs', max: 1, acquireTimeoutMs: 30 })
    const first = hold(pool)
    await first.begun

    const error = await failureOf(pool.use(idOf))

    expect(isSpillwayError(error, 'ERR_TIMEOUT')).toBe(true)
    expect(error).toMatchObject({ outcomeUnknown: false, timeoutMs: 30 })
    expect(error.message).toBe('jobs: no connection within 30 ms (1 of 1 exist)')
    first.end()
    await first.ended
    expect(await pool.use(idOf)).toBeDefined()
  })

  test('an abort while waiting leaves the queue; one while running ends the connection', async () => {
    const pool = poolOf({ max: 1 })
    const [waiting, running] = [new AbortController(), new AbortController()]
    const blocked = pool.use((client) => client.blpop('never', 0), { signal: running.signal })
    const queued = pool.use(idOf, { signal: waiting.signal })
    const last = pool.use(idOf)
    await vi.waitFor(() => expect(pool.stats()).toMatchObject({ waiting: 2, connected: 1 }))

    waiting.abort(new Error('no longer'))
    await expect(queued).rejects.toThrow('no longer')
    running.abort(new Error('enough'))
    await expect(blocked).rejects.toThrow('enough')

    expect(await last).toBeDefined()
    expect(pool.stats()).toMatchObject({ aborted: 2, succeeded: 1, connected: 2, size: 1 })
    await expect(pool.use(idOf, { signal: AbortSignal.abort(new Error('before')) })).rejects.toThrow('before')
  })

  test('a use that fails gives its error, and its connection is not kept', async () => {
    const pool = poolOf({ max: 1 })
    const before = await pool.use(idOf)

    await expect(pool.use(() => Promise.reject(new Error('mine')))).rejects.toThrow('mine')
    await expect(
      pool.use(() => {
        throw new Error('mine too')
      }),
    ).rejects.toThrow('mine too')

    expect(await pool.use(idOf)).not.toBe(before)
    expect(pool.stats()).toMatchObject({ failed: 2, succeeded: 2 })
  })

  test('close waits for the uses there are, up to its deadline', async () => {
    const patient = poolOf({ max: 1 })
    const held = hold(patient)
    await held.begun
    const queued = patient.use(idOf)
    const closing = patient.close()
    await expect(patient.use(idOf)).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    held.end()
    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    expect(await queued).toBeDefined()

    const hurried = poolOf({ max: 1 })
    const blocked = hurried.use((client) => client.blpop('never', 0))
    const behind = hurried.use(idOf)
    const outcomes = Promise.allSettled([blocked, behind])
    await vi.waitFor(() => expect(hurried.stats()).toMatchObject({ waiting: 1, connected: 1 }))

    expect(await hurried.close({ timeoutMs: 50 })).toEqual({ drained: false, abandoned: 2 })
    for (const outcome of await outcomes) expect(outcome).toMatchObject({ reason: { code: 'ERR_CLOSED' } })
    expect(hurried.stats()).toMatchObject({ pending: 0, size: 0 })
  })

  test('close keeps its deadline while a connection is being made', async () => {
    const pool = poolOf({ max: 1, connectTimeoutMs: 60_000 }, () => new Promise<Redis>(() => undefined))
    const use = pool.use(idOf)
    use.catch(() => undefined)

    expect(await pool.close({ timeoutMs: 20 })).toEqual({ drained: false, abandoned: 1 })
    await expect(use).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })

  test('flush waits for the uses there are and goes on', async () => {
    const pool = poolOf({ max: 2 })
    const uses = [pool.use(idOf), pool.use(() => Promise.reject(new Error('mine')))]
    uses[1]?.catch(() => undefined)

    expect(await pool.flush()).toEqual({ succeeded: 1, failed: 1, dropped: 0 })
    expect(await pool.use(idOf)).toBeDefined()
  })

  test.each([
    ['ioredis', (port: number) => new Redis(port, '127.0.0.1', once)],
    ['ioredis, reconnecting', (port: number) => new Redis(port, '127.0.0.1')],
    ['node-redis', (port: number) => createClient({ ...onceOnly, url: `redis://127.0.0.1:${port}` })],
    ['node-redis, reconnecting', (port: number) => createClient({ url: `redis://127.0.0.1:${port}` })],
  ])('%s: without a server, a use fails after its attempts; the next one tries anew', async (_, create) => {
    const own = (await startRedis({ own: true })) as OwnRedisServer
    try {
      await own.kill()
      const pool = poolOf<PoolableClient>({ name: 'jobs', max: 2, min: 1, connectRetries: 2, random: () => 0 }, () =>
        create(own.port),
      )
      const attempts: number[] = []
      pool.on('connectFailed', ({ attempt }) => attempts.push(attempt))

      const error = await failureOf(pool.use(idOf))

      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
      expect(error.message).toContain('jobs: no connection after 3 attempts: ')
      expect(error.message).toContain('ECONNREFUSED')
      expect(attempts.slice(0, 3)).toEqual([1, 2, 3])
      await own.restart()
      expect(await pool.use(idOf)).toBeDefined()
    } finally {
      await own.stop()
    }
  })

  test('an attempt that takes too long is given up', async () => {
    const pool = poolOf({ connectTimeoutMs: 30, connectRetries: 0 }, () => new Promise<Redis>(() => undefined))

    await expect(pool.use(idOf)).rejects.toThrow('no client made within 30 ms')
  })
})

describe('a pool that is used wrongly', () => {
  test.each<[string, unknown]>([
    ['max', 0],
    ['max', '10'],
    ['min', -1],
    ['min', 21],
    ['capacity', -1],
    ['acquireTimeoutMs', -1],
    ['connectTimeoutMs', 0],
    ['connectRetries', 1.5],
    ['validateTimeoutMs', null],
    ['idleTimeoutMs', Number.NaN],
    ['name', 1],
  ])('%s: %s throws an OptionError that names it', (field, value) => {
    const make = (): unknown => createRedisPool(() => new Redis(url), { [field]: value } as RedisPoolOptions)

    expect(make).toThrow(OptionError)
    expect(make).toThrow(new RegExp(`^${field} must be `))
  })

  test('what is no function, signal or client is refused, and never thrown by use', async () => {
    expect(() => createRedisPool(undefined as never)).toThrow(/^create must be a function/)
    const pool = poolOf({ connectRetries: 0 }, () => ({}) as never)

    await expect(pool.use(1 as never)).rejects.toThrow(/^fn must be a function/)
    await expect(pool.use(() => 1, { signal: 1 as never })).rejects.toThrow(/^signal must be/)
    await expect(pool.use(() => 1)).rejects.toThrow('create must return a client of ioredis or node-redis')
    expect(pool.stats()).toMatchObject({ rejected: 2, failed: 1, pending: 0 })
  })

  test('an unused pool holds nothing', async () => {
    const pool = createRedisPool(async () => new Redis(await freePort()))

    expect(await pool.close()).toEqual({ drained: true, abandoned: 0 })
  })
})
