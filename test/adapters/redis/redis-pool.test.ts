import { spawn } from 'node:child_process'
import { getEventListeners, once as happens } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { Cluster, Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import { createClient, createClientPool, createCluster } from 'redis'
import { createClient as createClient5 } from 'redis5'
import { isSpillwayError, OptionError } from 'spillway'
import { createRedisPool, type PoolableClient, type RedisPool, type RedisPoolOptions } from 'spillway/redis'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { freePort } from '../../servers/free-port.ts'
import { type OwnRedisServer, startRedis } from '../../servers/redis.ts'
import { startCuttingProxy } from './cutting-proxy.ts'

const server = await startRedis({ own: true })
const url = server?.url ?? 'redis://127.0.0.1:1'
const once = { retryStrategy: () => null }
const onceOnly = { url, socket: { reconnectStrategy: false as const } }
const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
process.on('unhandledRejection', onUnhandled)
const pools: RedisPool<PoolableClient>[] = []

const kinds: Readonly<Record<string, (to?: string) => PoolableClient>> = {
  'ioredis 6': (to = url) => new Redis(to, once),
  'ioredis 5': (to = url) => new Redis5(to, once),
  'ioredis 6, lazy': (to = url) => new Redis(to, { ...once, lazyConnect: true }),
  'ioredis 6, reconnecting': (to = url) => new Redis(to),
  'ioredis 5, reconnecting': (to = url) => new Redis5(to),
  'node-redis 6': (to = url) => createClient({ ...onceOnly, url: to }),
  'node-redis 5': (to = url) => createClient5({ ...onceOnly, url: to }),
  'node-redis 6, reconnecting': (to = url) => createClient({ url: to }),
  'node-redis 5, reconnecting': (to = url) => createClient5({ url: to }),
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

/** The clients that the server knows, but for the one who asks. */
async function others(): Promise<string[]> {
  const admin = new Redis(url)
  const [id, list] = await Promise.all([admin.client('ID'), admin.call('CLIENT', ['LIST', 'TYPE', 'normal'])])
  admin.disconnect()
  return String(list)
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith(`id=${id} `))
}
const nobodyElse = (): Promise<void> => vi.waitFor(async () => expect(await others()).toEqual([]), 5000)
const blockedClients = (count: number): Promise<void> =>
  vi.waitFor(async () => {
    expect((await others()).filter((line) => line.includes('flags=b'))).toHaveLength(count)
  }, 5000)

afterEach(async () => {
  for (const pool of pools.splice(0)) {
    const { offered, succeeded, failed, dropped, rejected, aborted, pending } = pool.stats()
    expect(offered).toBe(succeeded + failed + dropped + rejected + aborted + pending)
    await pool.close({ timeoutMs: 0 })
    expect(pool.stats()).toMatchObject({ size: 0, pending: 0 })
  }
  if (server !== undefined) await nobodyElse()
  expect(unhandled).toEqual([])
})
afterAll(async () => {
  process.off('unhandledRejection', onUnhandled)
  await server?.stop()
})

describe.skipIf(server === undefined)('a pool of exclusive connections', () => {
  describe.each(Object.entries(kinds))('of %s', (_, create) => {
    test('runs uses on connections of their own, keeps them, and ends them at close', async () => {
      const pool = poolOf({ max: 2 }, () => create())
      let used = 0
      // Not before the other one has one, too, however long it takes to connect.
      const heldTogether: typeof idOf = async (connection) => {
        const id = await idOf(connection)
        used++
        await vi.waitFor(() => expect(used).toBe(2), { timeout: 10_000 })
        return id
      }

      const [a, b] = await Promise.all([pool.use(heldTogether), pool.use(heldTogether)])
      const c = await pool.use(idOf)

      expect(a).not.toBe(b)
      expect([a, b]).toContain(c)
      expect(pool.stats()).toMatchObject({ offered: 3, succeeded: 3, size: 2, idle: 2, connected: 2 })
      expect(await pool.close()).toEqual({ drained: true, abandoned: 0 })
      expect(pool.stats()).toMatchObject({ size: 0 })
      await expect(pool.use(idOf)).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    })

    test('replaces a connection that broke while it was idle', async () => {
      const pool = poolOf({ max: 1 }, () => create())
      const before = await pool.use(idOf)

      await killOthers()

      expect(await pool.use(idOf)).not.toBe(before)
      expect(pool.stats()).toMatchObject({ succeeded: 2, size: 1, connected: 2 })
    })

    test('replaces a connection that its use left in a transaction', async () => {
      const pool = poolOf({ max: 1 }, () => create())
      const before = await pool.use(async (client) => {
        const id = await idOf(client)
        await send(client, 'MULTI')
        return id
      })

      expect(await pool.use(idOf)).not.toBe(before)
    })

    test('a connection that breaks in use fails that use alone', async () => {
      const pool = poolOf({ max: 1 }, () => create())
      await pool.use(idOf)

      let later: Promise<unknown> | undefined
      const broken = failureOf(
        pool.use(async (client) => {
          try {
            return await send(client, 'BLPOP', 'nothing', '0')
          } finally {
            later = failureOf(send(client, 'PING'))
          }
        }),
      )
      await blockedClients(1)
      const next = pool.use(idOf)
      await killOthers()

      expect(await broken).toBeInstanceOf(Error)
      // Whatever its options, the client doesn't reconnect behind its user's back.
      expect(await later).toBeInstanceOf(Error)
      expect(await next).toBeDefined()
      expect(pool.stats()).toMatchObject({ failed: 1, succeeded: 2, connected: 2, size: 1 })
    })

    test('a watch is of its connection alone, and is let go before the next use', async () => {
      const pool = poolOf({ max: 2 }, () => create())
      const changed = await pool.use(async (client) => {
        await send(client, 'WATCH', 'watched')
        await pool.use((other) => send(other, 'SET', 'watched', 'changed'))
        await send(client, 'MULTI')
        // The transaction is no concern of the other connection.
        const seen = await pool.use((other) => send(other, 'GET', 'watched'))
        await send(client, 'GET', 'watched')
        return [seen, await send(client, 'EXEC')]
      })
      const one = poolOf({ max: 1 }, () => create())
      await one.use((client) => send(client, 'WATCH', 'watched'))
      await pool.use((other) => send(other, 'SET', 'watched', 'changed again'))
      const after = await one.use(async (client) => {
        await send(client, 'MULTI')
        await send(client, 'GET', 'watched')
        return send(client, 'EXEC')
      })

      expect(changed).toEqual(['changed', null])
      expect(JSON.stringify(after)).toContain('changed again')
      expect(one.stats().connected).toBe(1)
    })

    test('replaces a connection that its use left subscribed', async () => {
      const pool = poolOf({ max: 1 }, () => create())
      const before = await pool.use(async (client) => {
        const id = await idOf(client)
        if ('call' in client) await (client as Redis).subscribe('news')
        else await (client as ReturnType<typeof createClient>).subscribe('news', () => undefined)
        return id
      })

      expect(await pool.use(idOf)).not.toBe(before)
    })

    test('a client made while the pool closes is ended', async () => {
      const pool = poolOf({ max: 2 }, async () => {
        await delay(50)
        const client = create()
        if ('isOpen' in client && !client.isOpen) client.connect().catch(() => undefined)
        return client
      })
      const uses = [pool.use(idOf), pool.use(idOf)].map(failureOf)

      await pool.close({ timeoutMs: 1 })
      for (const error of await Promise.all(uses)) expect(error).toMatchObject({ code: 'ERR_CLOSED' })
      await delay(60)

      await nobodyElse()
    })

    test('a server that accepts and never answers: the attempts are bounded, the sockets ended', async () => {
      const sockets = new Set<Socket>()
      let accepted = 0
      const mute = createServer((socket) => {
        accepted++
        sockets.add(socket)
        socket.on('error', () => undefined)
        socket.resume()
        socket.on('close', () => sockets.delete(socket))
      }).listen(0, '127.0.0.1')
      await happens(mute, 'listening')
      const { port } = mute.address() as AddressInfo
      const pool = poolOf({ name: 'jobs', connectTimeoutMs: 60, connectRetries: 1, random: () => 0 }, () =>
        create(`redis://127.0.0.1:${port}`),
      )

      const error = await failureOf(pool.use(idOf))

      expect(error).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
      expect(error.message).toBe('jobs: no connection after 2 attempts: not connected within 60 ms')
      await vi.waitFor(() => expect(accepted).toBe(2))
      await vi.waitFor(() => expect(sockets.size).toBe(0), 5000)
      mute.close()
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
    const pool = poolOf({ min: 3, max: 5 }, () => create())
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

  test('a signal that never aborts is left without a listener, however its use ended', async () => {
    const pool = poolOf({ max: 1, capacity: 1, acquireTimeoutMs: 1_000 })
    const { signal } = new AbortController()
    const first = hold(pool)
    await first.begun
    const late = failureOf(pool.use(idOf, { signal }))
    await failureOf(pool.use(idOf, { signal }))
    await late
    first.end()

    await pool.use(idOf, { signal })
    await failureOf(pool.use(() => Promise.reject(new Error('mine')), { signal }))

    expect(getEventListeners(signal, 'abort')).toEqual([])
  })

  test('a function that never settles once it was given up costs its connection, not its turn', async () => {
    const pool = poolOf({ max: 1 })
    const reasons: string[] = []
    pool.on('ended', ({ reason }) => reasons.push(reason))
    const controller = new AbortController()
    let begin = (): void => undefined
    const begun = new Promise<void>((resolve) => {
      begin = resolve
    })
    const stuck = failureOf(
      pool.use(
        () => {
          begin()
          return new Promise(() => undefined)
        },
        { signal: controller.signal },
      ),
    )
    await begun

    controller.abort(new Error('enough'))

    expect(await stuck).toMatchObject({ message: 'enough' })
    expect(await pool.use(idOf)).toBeDefined()
    expect(pool.stats()).toMatchObject({ aborted: 1, succeeded: 1, size: 1, idle: 1 })
    expect(await pool.close()).toEqual({ drained: true, abandoned: 0 })
    expect(reasons).toEqual(['use failed', 'closed'])
  })

  test('with a capacity of 0, who has awaited a use finds its connection free', async () => {
    const pool = poolOf({ max: 1, capacity: 0 })

    for (let i = 0; i < 20; i++)
      await pool.use((client) => (i % 3 === 1 ? failureOf(client.call('NOSUCH')) : idOf(client)))
    await failureOf(pool.use(() => Promise.reject(new Error('mine'))))
    await pool.use(idOf)

    expect(pool.stats()).toMatchObject({ succeeded: 21, failed: 1, rejected: 0 })
  })

  test('a trickle of uses keeps one connection, not each in turn', async () => {
    const pool = poolOf({ max: 3, idleTimeoutMs: 100 })
    await Promise.all(Array.from({ length: 3 }, () => pool.use(() => delay(20))))
    expect(pool.stats().size).toBe(3)

    for (let i = 0; i < 100 && pool.stats().size > 1; i++) {
      await pool.use(idOf)
      await delay(10)
    }

    expect(pool.stats().size).toBe(1)
  })

  test('never has more than max, which many uses share first come, first served', async () => {
    const pool = poolOf({ max: 3 })
    const [order, active] = [[] as number[], { now: 0, most: 0 }]
    const uses = Array.from({ length: 60 }, (_, i) =>
      failureOf(
        pool.use(async (client) => {
          order.push(i)
          active.most = Math.max(active.most, ++active.now)
          await client.ping()
          active.now--
          throw new Error(i % 5 === 0 ? 'fails' : 'fails too')
        }),
      ),
    )
    const seen: number[] = []
    const sampling = setInterval(() => seen.push(pool.stats().size), 1)

    await Promise.all(uses)
    clearInterval(sampling)

    expect(order).toEqual(Array.from({ length: 60 }, (_, i) => i))
    expect(active).toEqual({ now: 0, most: 3 })
    expect(Math.max(...seen, 0)).toBeLessThanOrEqual(3)
  })

  test("an idle connection that doesn't answer is replaced after validateTimeoutMs", async () => {
    const proxy = await startCuttingProxy(server?.port as number)
    try {
      let port = proxy.port
      const pool = poolOf({ max: 1, validateTimeoutMs: 40 }, () => new Redis(port, '127.0.0.1', once))
      const reasons: string[] = []
      pool.on('ended', ({ reason }) => reasons.push(reason))
      await pool.use(idOf)

      proxy.hold()
      port = server?.port as number

      expect(await pool.use(idOf)).toBeDefined()
      expect(reasons).toEqual(['broken'])
      expect(pool.stats()).toMatchObject({ connected: 2, size: 1 })
    } finally {
      await proxy.close()
    }
  })

  test('the books balance at each step, and events agree with them', async () => {
    const pool = poolOf({ max: 2, capacity: 1, name: 'jobs' })
    const check = (): void => {
      const { offered, succeeded, failed, dropped, rejected, aborted, pending } = pool.stats()
      expect(offered).toBe(succeeded + failed + dropped + rejected + aborted + pending)
    }
    let [made, ended] = [0, 0]
    pool.on('connected', () => {
      made++
      check()
    })
    pool.on('ended', () => {
      ended++
      check()
    })
    const controller = new AbortController()
    const held = [hold(pool), hold(pool)]
    check()
    const aborted = failureOf(pool.use(idOf, { signal: controller.signal }))
    const refused = failureOf(pool.use(idOf))
    check()
    controller.abort()
    check()
    await Promise.all([aborted, refused, ...held.map(({ begun }) => begun)])
    held[0]?.end()
    await held[0]?.ended
    check()
    const lost = failureOf(held[1]?.ended as Promise<void>)
    expect(await pool.close({ timeoutMs: 1 })).toEqual({ drained: false, abandoned: 1 })
    check()
    await lost
    held[1]?.end()
    await failureOf(pool.use(idOf))

    expect(pool.stats()).toMatchObject({
      offered: 5,
      succeeded: 1,
      failed: 1,
      aborted: 1,
      rejected: 2,
      pending: 0,
      size: 0,
    })
    expect([made, ended]).toEqual([2, 2])
  })

  test("a pool that isn't closed keeps the process alive while it has connections", async () => {
    const run = async (options: string): Promise<'exits' | 'stays'> => {
      const script = `
        import { Redis } from 'ioredis'
        import { createRedisPool } from './src/adapters/redis/redis-pool.ts'
        const pool = createRedisPool(() => new Redis('${url}'), ${options})
        if (process.argv.includes('use')) await pool.use((client) => client.ping())
        console.log('done')`
      const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script, 'use'], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const exited = happens(child, 'exit').then(() => 'exits' as const)
      await happens(child.stdout, 'data')
      const outcome = await Promise.race([exited, delay(1500).then(() => 'stays' as const)])
      child.kill('SIGKILL')
      await exited
      return outcome
    }

    expect(await run('{ min: 0, idleTimeoutMs: 100 }')).toBe('exits')
    expect(await run('{ min: 1, idleTimeoutMs: 100 }')).toBe('stays')
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
    // The one may have popped a job, the other did nothing.
    expect(await outcomes).toMatchObject([
      { reason: { code: 'ERR_CLOSED', outcomeUnknown: true } },
      { reason: { code: 'ERR_CLOSED', outcomeUnknown: false } },
    ])
    expect(await hurried.close()).toEqual({ drained: false, abandoned: 2 })
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
  test.each<[string, unknown, string]>([
    ['max', 0, 'a whole number between 1 and 2147483647, got 0 (number)'],
    ['max', '10', 'a whole number between 1 and 2147483647, got "10" (string)'],
    ['max', null, 'a whole number between 1 and 2147483647, got null (null)'],
    ['min', -1, 'a whole number between 0 and 20, got -1 (number)'],
    ['min', 21, 'a whole number between 0 and 20, got 21 (number)'],
    ['min', null, 'a whole number between 0 and 20, got null (null)'],
    ['capacity', -1, 'a whole number between 0 and 2147483647, got -1 (number)'],
    ['capacity', null, 'a whole number between 0 and 2147483647, got null (null)'],
    ['acquireTimeoutMs', 0, 'a number between 1 and 2147483647, got 0 (number)'],
    ['acquireTimeoutMs', null, 'a number between 1 and 2147483647, got null (null)'],
    ['connectTimeoutMs', 0, 'a number between 1 and 2147483647, got 0 (number)'],
    ['connectTimeoutMs', null, 'a number between 1 and 2147483647, got null (null)'],
    ['connectRetries', 1.5, 'a whole number between 0 and 2147483647, got 1.5 (number)'],
    ['connectRetries', null, 'a whole number between 0 and 2147483647, got null (null)'],
    ['validateTimeoutMs', 0, 'a number between 1 and 2147483647, got 0 (number)'],
    ['validateTimeoutMs', null, 'a number between 1 and 2147483647, got null (null)'],
    ['idleTimeoutMs', Number.NaN, 'a number between 1 and 2147483647, got NaN (number)'],
    ['idleTimeoutMs', null, 'a number between 1 and 2147483647, got null (null)'],
    ['name', 1, 'a string, got 1 (number)'],
    ['random', 1, 'a function, got 1 (number)'],
  ])('%s: %s throws an OptionError that names the field, the rule and the value', (field, value, rule) => {
    const make = (): unknown => createRedisPool(() => new Redis(url), { [field]: value } as RedisPoolOptions)

    expect(make).toThrow(OptionError)
    expect(make).toThrow(expect.objectContaining({ field, message: `${field} must be ${rule}` }))
  })

  test('options that are null or no object are refused', async () => {
    for (const options of [null, 1]) {
      expect(() => createRedisPool(() => new Redis(url), options as never)).toThrow(/^options must be an object/)
    }
    expect(() => createRedisPool(null as never)).toThrow(/^create must be a function, got null \(null\)/)
    const pool = poolOf()

    await expect(pool.use(() => 1, null as never)).rejects.toThrow(/^options must be an object, got null/)
    await expect(pool.use(() => 1, 1 as never)).rejects.toThrow(/^options must be an object, got 1/)
    await expect(pool.use(() => 1, { signal: null as never })).rejects.toThrow(/^signal must be an AbortSignal/)
    await expect(pool.close({ timeoutMs: -1 })).rejects.toThrow(/^timeoutMs must be/)
  })

  test.each<[string, () => unknown]>([
    ['a cluster of ioredis', () => new Cluster([{ host: '127.0.0.1', port: 1 }], { lazyConnect: true })],
    ['a cluster of node-redis', () => createCluster({ rootNodes: [{ url }] })],
    ['a pool of node-redis', () => createClientPool({ url })],
    ['nothing', () => undefined],
  ])('%s is no connection: refused at once, as an OptionError', async (_, create) => {
    const made = vi.fn(create)
    const pool = poolOf({ connectRetries: 5 }, made as never)

    const error = await failureOf(pool.use(() => 1))

    expect(error).toMatchObject({ code: 'ERR_OPTION', field: 'create' })
    expect(made).toHaveBeenCalledTimes(1)
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
