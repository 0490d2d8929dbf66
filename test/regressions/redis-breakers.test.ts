import type { Redis } from 'ioredis'
import { RedisBreakerShare } from 'spillway/redis'
import { describe, expect, test, vi } from 'vitest'
import { Fleet, type Member, type MemberOptions, SlowWay, saidBy } from '../adapters/redis/breaker-fleet.ts'
import { endedAfterEach } from '../adapters/redis/fleets.ts'
import { startRedis } from '../servers/redis.ts'

// One of its own: a test makes a user.
const server = await startRedis({ own: true })
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new Fleet(), server)
const connect = (): Redis => fleet.redis(url)
const waitFor = <T>(check: () => T | Promise<T>): Promise<T> => vi.waitFor(check, { timeout: 10_000, interval: 2 })
const keyOf = (what: 'news' | 'probes'): string => `{${fleet.prefix}:payments}:${what}`
const leases = (): Promise<number> => connect().zcard(keyOf('probes'))
const half = { recoveryTimeoutMs: 20 }

async function started(client: Redis | SlowWay, options: MemberOptions = {}): Promise<Member> {
  const member = fleet.member(client instanceof SlowWay ? client.client : client, options)
  expect(await member.share.start()).toBe(true)
  return member
}

/** A member whose circuit is half-open, since it tripped, and who has told so. */
async function halfOpen(way: SlowWay, options: MemberOptions = {}): Promise<Member> {
  const member = await started(way, { ...options, breaker: { ...half, ...options.breaker } })
  await member.trip()
  await member.share.flush()
  await waitFor(() => expect(member.breaker.state).toBe('half-open'))
  return member
}

async function serverMicros(client: Redis): Promise<number> {
  const [seconds, micros] = await client.time()
  return Number(seconds) * 1_000_000 + Number(micros)
}

describe.skipIf(server === undefined)('shared breakers', () => {
  test('a denial that comes after the lease was given back holds nobody up', async () => {
    const redis = connect()
    const way = new SlowWay(connect())
    const member = await halfOpen(way)
    await redis.zadd(keyOf('probes'), Date.now() + 600_000, 'of another')
    way.hold()
    expect(member.breaker.tryAcquire()).toBeUndefined()
    await waitFor(() => expect(way.held).toBe(1))

    await redis.zrem(keyOf('probes'), 'of another')
    const { received } = member.share.stats()
    await redis.publish(`${fleet.prefix}:news`, JSON.stringify({ circuit: 'payments', kind: 'released' }))
    await waitFor(() => expect(member.share.stats().received).toBe(received + 1))
    way.release()
    await waitFor(() => expect(saidBy(member, 'denied')).toHaveLength(1))

    await waitFor(() => expect(member.breaker.tryAcquire()).toBeDefined())
  })

  test('a lease that is on its way when the share is closed is given back', async () => {
    const way = new SlowWay(connect())
    const member = await halfOpen(way, { share: { leaseTimeoutMs: 10_000 } })
    way.hold()
    member.breaker.tryAcquire()
    await waitFor(async () => expect(await leases()).toBe(1))

    const closed = member.share.close()
    way.release()
    expect(await closed).toEqual({ drained: true, abandoned: 0 })

    expect(await leases()).toBe(0)
  })

  test('a lease whose answer came too late is given back', async () => {
    const way = new SlowWay(connect())
    const member = await halfOpen(way, { share: { leaseTimeoutMs: 500 } })
    way.hold()
    member.breaker.tryAcquire()
    await waitFor(async () => expect(await leases()).toBe(1))

    await waitFor(() => expect(saidBy(member, 'leaseFailed')).toHaveLength(1))

    await waitFor(async () => expect(await leases()).toBe(0))
    way.release()
  })

  test('an answer that came while this process was busy is no late one', async () => {
    const member = await halfOpen(new SlowWay(connect()), { share: { leaseTimeoutMs: 300 } })
    member.breaker.tryAcquire()

    const busySince = performance.now()
    while (performance.now() - busySince < 400);

    await waitFor(() => expect(saidBy(member, 'leased')).toHaveLength(1))
    expect(member.share.stats()).toMatchObject({ leasesFailed: 0, connected: true })
  })

  test('a reset that was outdated closes what it had missed, though a recovery came before its answer', async () => {
    const redis = connect()
    const way = new SlowWay(connect())
    const member = await started(way, { breaker: { probeGate: () => true } })
    const missed = { epoch: await serverMicros(redis), circuit: 'payments', by: 'other', reason: 'tripped' }
    await redis.set(keyOf('news'), JSON.stringify({ ...missed, kind: 'opened', forMs: 60_000 }))
    way.hold()
    member.share.reset('payments')
    await waitFor(() => expect(way.held).toBe(1))
    const heard = { ...missed, epoch: missed.epoch - 1, kind: 'opened', forMs: 0 }
    await redis.publish(`${fleet.prefix}:news`, JSON.stringify(heard))
    await waitFor(async () => {
      await member.call()
      expect(member.changes).toEqual(['requested', 'recovered'])
    })

    way.release()
    await member.share.flush()

    expect(member.breaker.state).toBe('closed')
    expect(JSON.parse((await redis.get(keyOf('news'))) as string)).toMatchObject({ kind: 'closed', trip: missed.epoch })
  })

  test('a trip from before the start is told, though Redis remembers an older opening that is due', async () => {
    const redis = connect()
    const epoch = (await serverMicros(redis)) - 10_000_000
    const older = { epoch, circuit: 'payments', by: 'other', reason: 'tripped', kind: 'opened', forMs: 5000 }
    await redis.set(keyOf('news'), JSON.stringify(older))
    const member = fleet.member(connect())
    await member.trip()

    expect(await member.share.start()).toBe(true)
    await member.share.flush()

    expect(saidBy(member, 'published')).toEqual([{ circuit: 'payments', kind: 'opened', verdict: 'published' }])
    const { by } = JSON.parse((await redis.get(keyOf('news'))) as string)
    expect(by).toBe(member.share.instance)
  })

  test('a recovery is told, though neither the answer to its trip came nor the message', async () => {
    const redis = connect()
    const way = new SlowWay(connect())
    const member = await started(way, {
      share: { timeoutMs: 500, syncMs: 50 },
      breaker: { ...half, probeGate: () => true },
    })
    const other = await started(connect())
    way.hold()
    // It subscribes again only when the message has gone by.
    await redis.call('CLIENT', ['KILL', 'TYPE', 'pubsub'])
    await member.trip()
    await waitFor(async () => expect(await member.call()).toBe(true))
    await waitFor(() => expect(saidBy(member, 'publishFailed')).toHaveLength(1))
    expect(member.share.stats().received).toBe(0)
    expect(await redis.exists(keyOf('news'))).toBe(1)

    way.release()

    await waitFor(() => expect(other.changes).toEqual(['requested', 'reset']))
    expect(member.changes).toEqual(['tripped', 'recovered'])
  })

  test('a reading that fails changes nothing, and its error says so', async () => {
    const way = new SlowWay(connect())
    const member = fleet.member(way.client, { share: { timeoutMs: 50 } })
    way.hold()

    expect(await member.share.start()).toBe(false)

    expect(saidBy(member, 'disconnected')).toMatchObject([{ error: { code: 'ERR_TIMEOUT', outcomeUnknown: false } }])
    way.release()
  })

  test('the longest instance can be read by the others', async () => {
    const first = await started(connect(), { share: { instance: 'x'.repeat(499) } })
    const second = await started(connect())

    await first.trip()

    await waitFor(() => expect(second.breaker.state).toBe('open'))
    expect(() => new RedisBreakerShare(connect(), { instance: 'x'.repeat(500) })).toThrow(
      'instance must have at most 499 characters',
    )
  })

  test('a user with the rights that the guide names can share, with breakers and without', async () => {
    const { prefix } = fleet
    const commands = 'eval evalsha time get set del publish subscribe ping pttl pexpire @sortedset'.split(' ')
    // Of ioredis itself: it warns without.
    commands.push('info')
    const rights = [`~{${prefix}:*`, `&${prefix}:news`, ...commands.map((command) => `+${command}`)]
    await connect().call('ACL', ['SETUSER', 'sharer', 'reset', 'on', '>secret', ...rights])
    const limited = (): Redis => fleet.redis(url.replace('//', '//sharer:secret@'))
    const idle = new RedisBreakerShare(limited(), { prefix })
    fleet.cleanUp(() => idle.close())
    const first = await started(limited(), { breaker: half })
    const second = await started(limited(), { breaker: half })

    expect(await idle.start()).toBe(true)
    await first.trip()
    await waitFor(() => expect(second.changes).toEqual(['requested']))
    await waitFor(async () => expect(await second.call()).toBe(true))

    await waitFor(() => expect(first.changes).toEqual(['tripped', 'reset']))
    expect(second.share.stats()).toMatchObject({ leased: 1, leasesFailed: 0 })
  })

  test('what trips while it is told of a close is told, too', async () => {
    const first = await started(connect())
    const second = await started(connect())
    first.breaker.on('closed', () => first.breaker.tryAcquire()?.failure())
    await second.trip()
    await waitFor(() => expect(first.breaker.state).toBe('open'))

    second.share.reset('payments')

    await waitFor(() => expect(second.changes).toEqual(['tripped', 'reset', 'requested']))
    expect(first.changes).toEqual(['requested', 'reset', 'tripped'])
  })

  test('a process takes no lease that a probe from before would keep it from using', async () => {
    const breaker = { ...half, halfOpenRequests: 2, probeTimeoutMs: 60_000 }
    const first = await halfOpen(new SlowWay(connect()), { breaker: { ...breaker, timeoutMs: 20 } })
    const second = await started(connect(), { breaker })
    // It times out and goes on running, so that its slot stays taken.
    await waitFor(async () => {
      const hanging = first.breaker.execute(() => new Promise(() => undefined))
      await expect(hanging).rejects.toMatchObject({ code: 'ERR_TIMEOUT' })
    })
    expect(first.breaker.stats().probes).toBe(1)
    await first.share.flush()
    await waitFor(() => expect([first, second].map((one) => one.breaker.state)).toEqual(['half-open', 'half-open']))
    const { leasesAsked } = first.share.stats()

    expect(first.breaker.tryAcquire()).toBeUndefined()

    expect(first.share.stats().leasesAsked).toBe(leasesAsked)
    await waitFor(() => expect(second.breaker.tryAcquire()).toBeDefined())
  })

  test('every gate of a circuit hears that a round of probes is decided', async () => {
    const member = await halfOpen(new SlowWay(connect()))
    const [gate, other] = [member.share.probeGate('payments'), member.share.probeGate('payments')]
    await waitFor(() => expect(gate()).toBe(true))
    expect(other()).toBe(false)

    member.share.reset('payments')
    await member.share.flush()

    expect(await leases()).toBe(0)
    expect(gate()).toBe(false)
  })

  test('reset of a share that was closed says so', async () => {
    const member = await started(connect())
    await member.share.close()

    expect(() => member.share.reset('payments')).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
  })
})
