import { execFile } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { isSpillwayError } from 'spillway'
import type { RedisClient } from 'spillway/redis'
import { describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { TcpProxy } from '../../servers/tcp-proxy.ts'
import { BusFleet, endOf, expectBalance, keys, type Rider, saidBy, subscribed, waitFor } from './bus-fleet.ts'
import { startCuttingProxy } from './cutting-proxy.ts'
import { endedAfterEach } from './fleets.ts'
import { startValve, type Valve } from './valve.ts'

const server = await startRedis({ own: true })
const port = server?.port ?? 1
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new BusFleet(), server)
const connect = (): Redis => fleet.redis(url)

/** A client that queues what it can't send. */
async function queueing(kind: string, to: number): Promise<RedisClient> {
  if (kind === 'ioredis') {
    const client = new Redis(to, '127.0.0.1', { retryStrategy: () => 50 })
    client.on('error', () => undefined)
    fleet.cleanUp(() => client.disconnect())
    return client
  }
  const client = createClient({ url: `redis://127.0.0.1:${to}`, socket: { reconnectStrategy: 50 } })
  client.on('error', () => undefined)
  await client.connect()
  fleet.cleanUp(() => client.destroy())
  return client as unknown as RedisClient
}

const kinds = ['ioredis', 'node-redis'] as const

async function valve(): Promise<Valve> {
  const made = await startValve(port)
  fleet.cleanUp(() => made.close())
  return made
}

/** One who listens on a way of its own, and a publisher behind a valve. */
async function apart(options: object = {}): Promise<{ way: Valve; publisher: Rider; listener: Rider }> {
  const way = await valve()
  const [listener] = (await fleet.riders(1, connect)) as [Rider]
  const client = fleet.redis(`redis://127.0.0.1:${way.port}`)
  const quick = { timeoutMs: 200, connectTimeoutMs: 300, retry: { attempts: 2, delayMs: 10 } }
  const publisher = fleet.rider(client, { ...quick, ...options })
  await subscribed([publisher])
  return { way, publisher, listener }
}

describe.skipIf(server === undefined)('RedisInvalidationBus when things go wrong', () => {
  test.each(kinds)('%s: a connection that is cut is a gap once there is another', async (kind) => {
    const proxy = await TcpProxy.start(port)
    fleet.cleanUp(() => proxy.stop())
    const rider = fleet.rider(await queueing(kind, proxy.port))
    const [other] = (await fleet.riders(1, connect)) as [Rider]
    await subscribed([rider])

    proxy.cutAll()
    await waitFor(() => expect(saidBy(rider, 'unsubscribed')).toHaveLength(1))
    expect(rider.gaps()).toBe(1)
    await waitFor(() => expect(rider.heard).toEqual(['gap', 'gap']))

    other.link.publish(keys('a'))
    await waitFor(() => expect(rider.news()).toEqual(['k:a']))
    rider.link.publish(keys('b'))
    await waitFor(() => expect(other.news()).toEqual(['k:b']))
    expect(saidBy(rider, 'gap').map(({ reason }) => reason)).toEqual(['subscribed', 'subscribed'])
  })

  test.each(kinds)('%s: a connection that gives no sign of life is a gap once there is another', async (kind) => {
    const way = await valve()
    const rider = fleet.rider(await queueing(kind, way.port), { heartbeatMs: 50, timeoutMs: 100 })
    const [other] = (await fleet.riders(1, connect)) as [Rider]
    await subscribed([rider])

    way.freeze()
    other.link.publish(keys('unheard'))
    await other.link.flush()

    await waitFor(() => expect(rider.heard).toEqual(['gap', 'gap']))
    const [failure] = saidBy(rider, 'unsubscribed')
    expect(String(failure?.error)).toContain('PING: no answer within 100 ms')
    other.link.publish(keys('a'))
    await waitFor(() => expect(rider.news()).toEqual(['k:a']))
  })

  test('healthy subscriptions stay through their checks', async () => {
    const [rider] = (await fleet.riders(1, connect, { heartbeatMs: 20 })) as [Rider]

    await delay(200)

    expect(saidBy(rider, 'unsubscribed')).toEqual([])
    expect(rider.heard).toEqual(['gap'])
  })

  test('CLIENT KILL TYPE pubsub is a gap for everybody, and no loss after that', async () => {
    const riders = await fleet.riders(3, connect)

    await connect().call('CLIENT', 'KILL', 'TYPE', 'pubsub')

    for (const rider of riders) await waitFor(() => expect(rider.gaps()).toBe(2))
    const [first, ...others] = riders as [Rider, Rider, Rider]
    first.link.publish(keys('a'))
    for (const other of others) await waitFor(() => expect(other.news()).toEqual(['k:a']))
  })

  test('what was missed before a new subscription is no second gap', async () => {
    const [rider] = (await fleet.riders(1, connect)) as [Rider]
    const say = (seq: number): Promise<unknown> =>
      connect().publish(fleet.channel, `{"spillway":1,"by":"x","seq":${seq},"news":[["k","${seq}"]]}`)
    await say(1)
    await waitFor(() => expect(rider.news()).toEqual(['k:1']))
    await connect().call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await waitFor(() => expect(rider.gaps()).toBe(2))

    await say(5)

    await waitFor(() => expect(rider.heard).toEqual(['gap', 'k:1', 'gap', 'k:5']))
  })

  test('who reads too slowly is cut off by Redis, and told of a gap', async () => {
    const way = await valve()
    const slow = fleet.rider(fleet.redis(`redis://127.0.0.1:${way.port}`))
    const [other] = (await fleet.riders(1, connect)) as [Rider]
    await subscribed([slow])
    const redis = connect()
    const [, limits] = (await redis.config('GET', 'client-output-buffer-limit')) as [string, string]
    await redis.config('SET', 'client-output-buffer-limit', 'pubsub 100000 0 0')
    fleet.cleanUp(() => redis.config('SET', 'client-output-buffer-limit', limits))
    way.freeze()

    const long = 'x'.repeat(500_000)
    const connected = async (): Promise<number> =>
      Number(/connected_clients:(\d+)/.exec(await redis.info('clients'))?.[1])
    const before = await connected()
    for (let i = 0; i < 200 && (await connected()) >= before; i++) {
      other.link.publish(keys(`${long}${i}`))
      await other.link.flush()
    }
    expect(await connected()).toBeLessThan(before)
    await redis.config('SET', 'client-output-buffer-limit', limits)
    way.thaw()

    await waitFor(() => expect(slow.gaps()).toBe(2))
    other.link.publish(keys('the end'))
    await waitFor(() => expect(slow.news().at(-1)).toBe('k:the end'))
    expect(slow.bus.stats().holes).toBe(0)
  })

  test.each(kinds)('%s: while Redis is restarted nothing is lost that nobody is told of', async (kind) => {
    const quick = { timeoutMs: 300, connectTimeoutMs: 500 }
    const [first, second] = (await Promise.all(
      [0, 1].map(async () => fleet.rider(await queueing(kind, port), quick)),
    )) as [Rider, Rider]
    await subscribed([first, second])
    first.link.publish(keys('before'))
    await waitFor(() => expect(second.news()).toEqual(['k:before']))

    await server?.kill()
    await waitFor(() => expect([first, second].some(({ bus }) => bus.stats().subscribed)).toBe(false))
    first.link.publish(keys('during'))
    await first.link.flush()
    await server?.restart()

    await waitFor(() => expect([first, second].every(({ bus }) => bus.stats().subscribed)).toBe(true))
    await waitFor(() => {
      first.link.publish(keys('after'))
      expect(second.news()).toContain('k:after')
    })
    expect(second.gaps()).toBeGreaterThanOrEqual(2)
    expectBalance(first)
    expect(await first.bus.close()).toEqual({ drained: true, abandoned: 0 })
    expectBalance(first)
  })

  describe('a publisher without a Redis', () => {
    test('loses what it has tried often enough, and tells of a gap first when it is back', async () => {
      const { way, publisher, listener } = await apart()
      way.shut()

      publisher.link.publish(keys('a', 'b', 'c'))
      await publisher.link.flush()

      expect(saidBy(publisher, 'publishFailed').map(({ attempt, lost }) => [attempt, lost])).toEqual([
        [1, 0],
        [2, 3],
      ])
      expect(isSpillwayError(saidBy(publisher, 'publishFailed')[0]?.error, 'ERR_STORE')).toBe(true)
      publisher.link.publish(keys('d'))
      expect(publisher.bus.stats()).toMatchObject({ offered: 4, published: 0, lost: 4, pending: 0 })
      expect(listener.heard).toEqual(['gap'])

      way.open()
      await waitFor(() => expect(listener.heard).toEqual(['gap', 'gap']))
      publisher.link.publish(keys('e'))
      await waitFor(() => expect(listener.heard).toEqual(['gap', 'gap', 'k:e']))
      expect(saidBy(listener, 'gap')).toEqual([
        { reason: 'subscribed', by: undefined },
        { reason: 'told', by: publisher.bus.id },
      ])
      expectBalance(publisher)
    })

    test('loses all that waits when there is more than its capacity', async () => {
      const { way, publisher, listener } = await apart({ capacity: 10, maxBatchSize: 5, retry: { attempts: 1000 } })
      publisher.link.publish(keys('first'))
      await waitFor(() => expect(listener.news()).toEqual(['k:first']))
      way.shut()

      publisher.link.publish(keys('a'))
      await waitFor(() => expect(saidBy(publisher, 'publishFailed').length).toBeGreaterThan(0))
      publisher.link.publish(keys(...Array.from({ length: 10 }, (_, i) => `key ${i}`)))
      expect(publisher.bus.stats()).toMatchObject({ pending: 11, lost: 0 })
      publisher.link.publish(keys('key 3'))
      expect(publisher.bus.stats()).toMatchObject({ pending: 11, merged: 1 })
      publisher.link.publish(keys('one too many', 'and another'))
      expect(publisher.bus.stats().lost).toBeGreaterThanOrEqual(12)
      await publisher.link.flush()
      expect(publisher.bus.stats()).toMatchObject({ offered: 15, published: 1, merged: 1, lost: 13, pending: 0 })

      way.open()
      await waitFor(() => expect(listener.heard).toEqual(['gap', 'k:first', 'gap']))
      publisher.link.publish(keys('b'))
      await waitFor(() => expect(listener.heard).toEqual(['gap', 'k:first', 'gap', 'k:b']))
      expectBalance(publisher)
    })

    test('whose retryable throws has tried often enough', async () => {
      const fail = (): never => {
        throw new Error('oops')
      }
      const { way, publisher, listener } = await apart({ retry: { retryable: fail } })
      way.shut()

      publisher.link.publish(keys('a'))
      await publisher.link.flush()

      expect(saidBy(publisher, 'publishFailed').map(({ attempt, lost }) => [attempt, lost])).toEqual([[1, 1]])
      way.open()
      await waitFor(() => expect(listener.heard).toEqual(['gap', 'gap']))
      expectBalance(publisher)
    })

    test('tells its own other links all the same', async () => {
      const { way, publisher } = await apart()
      const other = endOf(publisher.bus)
      await waitFor(() => expect(other.heard).toEqual(['gap']))
      way.shut()

      publisher.link.publish(keys('a'))

      expect(other.heard).toEqual(['gap', 'k:a'])
    })

    test('that hangs, gives up in time', async () => {
      const { way, publisher, listener } = await apart({ heartbeatMs: 60_000 })
      way.freeze()
      const asked = performance.now()

      publisher.link.publish(keys('a'))
      await publisher.link.flush()

      expect(performance.now() - asked).toBeLessThan(2000)
      const failures = saidBy(publisher, 'publishFailed').slice(0, 2)
      expect(failures.map(({ error }) => isSpillwayError(error, 'ERR_TIMEOUT'))).toEqual([true, true])
      // What was sent has arrived: only the answers are kept back.
      await waitFor(() => expect(listener.news()).toContain('k:a'))
      await waitFor(() => expect(listener.gaps()).toBe(2))
      expectBalance(publisher)
    })

    test('whose client is closed loses at once', async () => {
      const [publisher] = (await fleet.riders(1, connect)) as [Rider]
      const client = connect()
      const closed = fleet.rider(client)
      await subscribed([closed])
      client.disconnect()
      await waitFor(() => expect(client.status).toBe('end'))

      closed.link.publish(keys('a'))
      await closed.link.flush()

      expect(saidBy(closed, 'publishFailed')[0]).toMatchObject({ attempt: 1, lost: 1, error: { retryable: false } })
      publisher.link.publish(keys('b'))
      await waitFor(() => expect(closed.news()).toEqual(['k:b']))
    })
  })

  test('a message whose answer was lost comes again under its number, which is no gap', async () => {
    const proxy = await startCuttingProxy(port)
    fleet.cleanUp(() => proxy.close())
    const [listener] = (await fleet.riders(1, connect)) as [Rider]
    const client = fleet.redis(`redis://127.0.0.1:${proxy.port}`)
    const publisher = fleet.rider(client)
    await subscribed([publisher])
    publisher.link.publish(keys('a'))
    await waitFor(() => expect(listener.news()).toEqual(['k:a']))

    proxy.cutNextAnswer()
    publisher.link.publish(keys('b'))
    publisher.link.flush()
    await waitFor(() => expect(proxy.cuts).toBe(1))
    await publisher.link.flush()
    publisher.link.publish(keys('c'))

    await waitFor(() => expect(listener.heard).toEqual(['gap', 'k:a', 'k:b', 'k:b', 'k:c']))
    expect(saidBy(publisher, 'publishFailed')).toMatchObject([{ attempt: 1, lost: 0, error: { outcomeUnknown: true } }])
  })

  test('a script that Redis has forgotten is sent again', async () => {
    const [first, second] = (await fleet.riders(2, connect)) as [Rider, Rider]
    await connect().script('FLUSH')

    first.link.publish(keys('a'))

    await waitFor(() => expect(second.news()).toEqual(['k:a']))
    expect(first.bus.stats().failures).toBe(0)
  })

  describe('close', () => {
    test('sends what was published, and refuses more', async () => {
      const [first, second] = (await fleet.riders(2, connect)) as [Rider, Rider]
      first.link.publish(keys('a'))

      const closing = first.bus.close({ timeoutMs: 5000 })
      first.link.publish(keys('b'))

      expect(await closing).toEqual({ drained: true, abandoned: 0 })
      await waitFor(() => expect(second.news()).toEqual(['k:a']))
      first.link.publish(keys('c'))
      await first.link.flush()
      expect(first.bus.stats()).toMatchObject({ offered: 1, published: 1, pending: 0, links: 0, subscribed: false })
      expect(() => first.bus.connect({ onInvalidations: () => undefined, onGap: () => undefined })).toThrow(
        'redis-invalidation-bus is closed',
      )
    })

    test('without a Redis makes the attempts that are left, the gap’s too, and ends', async () => {
      const { way, publisher } = await apart({ retry: { attempts: 3, delayMs: 100_000, maxDelayMs: 100_000 } })
      way.shut()
      publisher.link.publish(keys('a', 'b'))
      await waitFor(() => expect(saidBy(publisher, 'publishFailed')).toHaveLength(1))

      expect(await publisher.bus.close()).toEqual({ drained: true, abandoned: 0 })

      expect(saidBy(publisher, 'publishFailed').map(({ attempt, lost }) => [attempt, lost])).toEqual([
        [1, 0],
        [2, 0],
        [3, 2],
        [1, 0],
      ])
      expect(publisher.bus.stats()).toMatchObject({ lost: 2, pending: 0 })
    })

    test('at its deadline gives up what is left', async () => {
      const { way, publisher } = await apart({ timeoutMs: 60_000 })
      way.freeze()
      publisher.link.publish(keys('a', 'b'))
      await delay(20)
      publisher.link.publish(keys('c'))
      const flushed = publisher.link.flush()

      expect(await publisher.bus.close({ timeoutMs: 20 })).toEqual({ drained: false, abandoned: 3 })

      await flushed
      expect(publisher.bus.stats()).toMatchObject({ lost: 3, pending: 0 })
    })

    test('before anything has begun sends nothing', async () => {
      const redis = new Redis(1, '127.0.0.1', { lazyConnect: true })
      const bus = fleet.bus(redis)

      expect(await bus.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
      expect(await bus.close()).toEqual({ drained: true, abandoned: 0 })
      expect(redis.status).toBe('wait')
    })
  })

  test('flush waits for what came before it, not for what comes later', async () => {
    const { way, publisher } = await apart({ timeoutMs: 60_000, heartbeatMs: 60_000, maxBatchSize: 2 })
    publisher.link.publish(keys('a', 'b', 'c'))
    const first = publisher.bus.flush()
    expect(await first).toEqual({ succeeded: 3, failed: 0, dropped: 0 })
    way.freeze()
    publisher.link.publish(keys('d'))
    let flushed = false
    const second = publisher.link.flush().then(() => {
      flushed = true
    })
    await delay(50)
    expect(flushed).toBe(false)
    publisher.link.publish(keys('e', 'f', 'g', 'h'))

    way.thaw()
    await second
    expect(publisher.bus.stats().pending).toBeGreaterThan(0)
    await publisher.link.flush()
    expect(publisher.bus.stats()).toMatchObject({ pending: 0, published: 8 })
  })

  test('a bus that was closed, that nobody joined, or whose links were closed lets its process end', async () => {
    const program = `
      import { Redis } from 'ioredis'
      import { RedisInvalidationBus } from './src/adapters/redis/redis-invalidation-bus.ts'
      const redis = new Redis('${url}')
      const bus = () => new RedisInvalidationBus(redis, { channel: '${fleet.channel}' })
      const connect = (bus) => new Promise((resolve) => {
        const link = bus.connect({ onInvalidations: () => {}, onGap: () => resolve(link) })
      })
      bus()
      const left = await connect(bus())
      left.publish([{ kind: 'key', key: 'a' }])
      left.close()
      const closed = bus()
      const link = await connect(closed)
      link.publish([{ kind: 'key', key: 'b' }])
      console.log((await closed.close()).drained)
      redis.quit()`
    const args = ['--import', 'tsx', '--input-type=module', '-e', program]

    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 20_000 })

    expect(stdout.trim()).toBe('true')
  }, 30_000)
})
