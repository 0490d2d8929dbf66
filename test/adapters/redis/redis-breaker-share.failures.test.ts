import { execFile } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { isSpillwayError } from 'spillway'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { freePort } from '../../servers/free-port.ts'
import { startRedis } from '../../servers/redis.ts'
import { Fleet, type Member, saidBy } from './breaker-fleet.ts'
import { startCuttingProxy } from './cutting-proxy.ts'
import { endedAfterEach } from './fleets.ts'

const server = await startRedis({ own: true })
const url = server?.url ?? 'redis://127.0.0.1:1'
const warnings: unknown[] = []
const onWarning = (warning: Error): void => void warnings.push(warning)
process.on('warning', onWarning)
// Held after the fleet has ended: the hook that is set last runs first.
afterEach(() => expect(warnings.filter((warning) => (warning as Error).name === 'SpillwayWarning')).toEqual([]))
afterAll(() => void process.off('warning', onWarning))

const fleet = endedAfterEach(new Fleet(), server)
const connect = (): Redis => fleet.redis(url)
const waitFor = <T>(check: () => T | Promise<T>): Promise<T> => vi.waitFor(check, { timeout: 15_000, interval: 5 })

/** A client that queues what it can't send. */
async function queueing(kind: string, port: number) {
  if (kind === 'ioredis') {
    const client = new Redis(port, '127.0.0.1', { retryStrategy: () => 50 })
    client.on('error', () => undefined)
    fleet.cleanUp(() => client.disconnect())
    return client
  }
  const client = createClient({ url: `redis://127.0.0.1:${port}`, socket: { reconnectStrategy: 50 } })
  client.on('error', () => undefined)
  await client.connect()
  fleet.cleanUp(() => client.destroy())
  return client
}

const kinds = ['ioredis', 'node-redis'] as const

describe.skipIf(server === undefined)('RedisBreakerShare when things go wrong', () => {
  test('without a Redis it starts unconnected, and breakers work alone', async () => {
    const port = await freePort()
    const member = fleet.member(fleet.redis(`redis://127.0.0.1:${port}`), {
      share: { connectTimeoutMs: 300, timeoutMs: 300 },
      breaker: { recoveryTimeoutMs: 5 },
    })

    expect(await member.share.start()).toBe(false)
    await member.trip()
    await waitFor(async () => expect(await member.call()).toBe(true))

    expect(member.changes).toEqual(['tripped', 'recovered'])
    expect(member.share.stats()).toMatchObject({ connected: false, subscribed: false, offered: 0, leasesAsked: 0 })
    const [down] = saidBy(member, 'disconnected')
    expect(isSpillwayError(down?.error, 'ERR_STORE')).toBe(true)
    expect(isSpillwayError(saidBy(member, 'unsubscribed')[0]?.error, 'ERR_STORE')).toBe(true)
    expect(await member.share.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
    expect(await member.share.close()).toEqual({ drained: true, abandoned: 0 })
  })

  test.each(kinds)('%s: what trips while Redis is down is told when it is back', async (kind) => {
    const quick = { share: { syncMs: 50, timeoutMs: 200, connectTimeoutMs: 500, leaseTimeoutMs: 100 } }
    const first = fleet.member((await queueing(kind, server?.port as number)) as never, quick)
    const second = fleet.member((await queueing(kind, server?.port as number)) as never, quick)
    expect(await Promise.all([first.share.start(), second.share.start()])).toEqual([true, true])

    await server?.kill()
    await waitFor(() => expect(first.share.stats()).toMatchObject({ connected: false, subscribed: false }))
    await first.trip()
    await delay(300)
    expect(second.breaker.state).toBe('closed')
    await server?.restart()

    await waitFor(() => expect(second.breaker.state).toBe('open'))
    expect(second.breaker.retryAfterMs).toBeLessThan(60_000)
    await waitFor(() => expect(first.share.stats()).toMatchObject({ connected: true, subscribed: true }))
    await waitFor(() => expect(second.share.stats()).toMatchObject({ connected: true, subscribed: true }))
    const { offered, succeeded, failed, pending } = first.share.stats()
    expect(offered).toBe(succeeded + failed + pending)
    expect(saidBy(first, 'published')).toMatchObject([{ kind: 'opened', verdict: 'published' }])

    second.share.reset('payments')
    await waitFor(() => expect(first.breaker.state).toBe('closed'))
  })

  test('what has passed before Redis is back is not told any more', async () => {
    const quick = { syncMs: 20, timeoutMs: 100, connectTimeoutMs: 500 }
    const [member] = (await fleet.started(1, connect, {
      share: quick,
      breaker: { recoveryTimeoutMs: 100 },
    })) as [Member]
    await server?.kill()
    await waitFor(() => expect(member.share.stats().connected).toBe(false))

    await member.trip()
    await waitFor(() => expect(member.breaker.state).toBe('half-open'))
    await server?.restart()

    await waitFor(() => expect(member.share.stats().connected).toBe(true))
    await member.share.flush()
    expect(saidBy(member, 'published')).toEqual([])
    expect(await connect().exists(`{${fleet.prefix}:payments}:news`)).toBe(0)
  })

  test.each(kinds)('%s: a Redis that hangs holds up no call, and probes are decided alone', async (kind) => {
    const proxy = await startCuttingProxy(server?.port as number)
    fleet.cleanUp(() => proxy.close())
    const member = fleet.member((await queueing(kind, proxy.port)) as never, {
      share: { leaseTimeoutMs: 100, timeoutMs: 300, connectTimeoutMs: 300 },
      breaker: { recoveryTimeoutMs: 20 },
    })
    await member.share.start()
    await member.trip()
    await member.share.flush()
    await waitFor(() => expect(member.breaker.state).toBe('half-open'))
    proxy.hold()

    const asked = performance.now()
    expect(await member.call()).toBe(false)
    expect(await member.call()).toBe(false)
    await waitFor(async () => expect(await member.call()).toBe(true))

    expect(performance.now() - asked).toBeGreaterThanOrEqual(99)
    expect(member.breaker.state).toBe('closed')
    const [failure] = saidBy(member, 'leaseFailed')
    expect(failure?.circuit).toBe('payments')
    expect(isSpillwayError(failure?.error, 'ERR_TIMEOUT')).toBe(true)
    expect(member.share.stats()).toMatchObject({ leasesAsked: 1, leasesFailed: 1, connected: false })
    // Alone, there is nobody to tell.
    await member.trip()
    expect(member.breaker.state).toBe('open')
    expect(member.share.stats().offered).toBe(1)
  })

  test.each(kinds)('%s: a subscription that hangs is given up and made anew', async (kind) => {
    const proxy = await startCuttingProxy(server?.port as number)
    fleet.cleanUp(() => proxy.close())
    const member = fleet.member((await queueing(kind, proxy.port)) as never, {
      share: { syncMs: 50, timeoutMs: 100, connectTimeoutMs: 200 },
    })
    expect(await member.share.start()).toBe(true)

    proxy.hold()

    await waitFor(() => expect(saidBy(member, 'unsubscribed').length).toBeGreaterThanOrEqual(2))
    expect(saidBy(member, 'disconnected')).toHaveLength(1)
    expect(await member.share.close({ timeoutMs: 200 })).toMatchObject({ abandoned: 0 })
  })

  test.each(kinds)('%s: healthy subscriptions stay through their checks', async (kind) => {
    const [first, second] = (await Promise.all(
      [0, 1].map(async () =>
        fleet.member((await queueing(kind, server?.port as number)) as never, { share: { syncMs: 20 } }),
      ),
    )) as [Member, Member]
    await Promise.all([first.share.start(), second.share.start()])

    await delay(300)

    expect(saidBy(first, 'unsubscribed')).toEqual([])
    expect(saidBy(first, 'subscribed')).toHaveLength(1)
    await first.trip()
    await waitFor(() => expect(second.share.stats().received).toBe(1))
  })

  test('a publication that Redis gets to after its deadline does nothing', async () => {
    const client = connect()
    const [member] = (await fleet.started(1, () => client, { share: { timeoutMs: 100 } })) as [Member]
    // So that Redis knows the script, and one call is all.
    await member.trip()
    member.share.reset('payments')
    await member.share.flush()
    await connect().client('PAUSE', 600, 'ALL')

    await member.trip()
    await member.share.flush()

    expect(saidBy(member, 'publishFailed')).toMatchObject([{ circuit: 'payments', kind: 'opened' }])
    expect(member.share.stats()).toMatchObject({ failed: 1, pending: 0, connected: false })
    expect(member.breaker.state).toBe('open')
    // It was sent, and Redis comes to it before this.
    const news = JSON.parse((await client.get(`{${fleet.prefix}:payments}:news`)) as string)
    expect(news).toMatchObject({ kind: 'closed', reason: 'reset' })
  })

  test('a script that Redis has forgotten is sent again', async () => {
    const [first, second] = (await fleet.started(2, connect)) as [Member, Member]
    await connect().script('FLUSH')

    await first.trip()

    await waitFor(() => expect(second.breaker.state).toBe('open'))
  })

  test('close at its deadline gives up what is under way', async () => {
    const [member] = (await fleet.started(1, connect, { share: { timeoutMs: 5000 } })) as [Member]
    const redis = connect()
    await redis.client('PAUSE', 400, 'ALL')
    await member.trip()

    const report = await member.share.close({ timeoutMs: 20 })

    expect(report).toEqual({ drained: false, abandoned: 1 })
    await redis.ping()
  })

  test('a client that is closed counts as a Redis that is down', async () => {
    const client = connect()
    const [member] = (await fleet.started(1, () => client)) as [Member]
    client.disconnect()
    await waitFor(() => expect(client.status).toBe('end'))

    await member.trip()
    await member.share.flush()

    expect(saidBy(member, 'publishFailed')).toMatchObject([{ error: { code: 'ERR_STORE', retryable: false } }])
    expect(member.breaker.state).toBe('open')
  })

  test('a share that was closed, or never started, lets its process end', async () => {
    const program = `
      import { Redis } from 'ioredis'
      import { CircuitBreaker } from './src/breaker/circuit-breaker.ts'
      import { RedisBreakerShare } from './src/adapters/redis/redis-breaker-share.ts'
      const redis = new Redis('${url}')
      const idle = new RedisBreakerShare(redis, { prefix: '${fleet.prefix}' })
      idle.join(new CircuitBreaker({ name: 'idle', probeGate: idle.probeGate('idle') }))
      const share = new RedisBreakerShare(redis, { prefix: '${fleet.prefix}' })
      share.join(new CircuitBreaker({ name: 'payments', probeGate: share.probeGate('payments') }))
      console.log(await share.start())
      await share.close()
      redis.disconnect()`
    const args = ['--import', 'tsx', '--input-type=module', '-e', program]

    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 20_000 })

    expect(stdout.trim()).toBe('true')
  }, 30_000)
})
