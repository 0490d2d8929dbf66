import type { Redis } from 'ioredis'
import { describe, expect, test, vi } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { Fleet, type Member, type MemberOptions, SlowWay, saidBy } from './breaker-fleet.ts'
import { endedAfterEach } from './fleets.ts'

const server = await startRedis()
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new Fleet(), server)
const connect = (): Redis => fleet.redis(url)
const waitFor = <T>(check: () => T | Promise<T>): Promise<T> => vi.waitFor(check, { timeout: 10_000, interval: 2 })
const leases = (): Promise<number> => connect().zcard(`{${fleet.prefix}:payments}:probes`)

/** The leases that haven't ended, by the clock of Redis. */
async function held(): Promise<number> {
  const redis = connect()
  const [seconds, micros] = await redis.time()
  const nowMs = Number(seconds) * 1000 + Math.ceil(Number(micros) / 1000)
  return redis.zcount(`{${fleet.prefix}:payments}:probes`, nowMs - 2, '+inf')
}

/** Members whose circuit is half-open, since the first of them tripped. */
async function halfOpen(count: number, options: MemberOptions = {}): Promise<Member[]> {
  const members = await fleet.started(count, connect, {
    ...options,
    breaker: { recoveryTimeoutMs: 20, ...options.breaker },
  })
  const [first] = members
  await first?.trip()
  // Who asks before it knows of its own trip's number is told that, and gets no lease yet.
  await waitFor(() => expect(first?.share.stats().pending).toBe(0))
  await waitFor(() => expect(members.map(({ breaker }) => breaker.state)).toEqual(members.map(() => 'half-open')))
  return members
}

/** A probe, once there may be one. */
function probe(member: Member) {
  return waitFor(() => {
    const permit = member.breaker.tryAcquire()
    expect(permit).toBeDefined()
    return permit as NonNullable<typeof permit>
  })
}

describe.skipIf(server === undefined)('the probes of a fleet', () => {
  test('the first call asks for a lease and is turned away, those after its answer probe', async () => {
    const [member] = (await halfOpen(1)) as [Member]

    expect(member.breaker.tryAcquire()).toBeUndefined()
    expect(member.breaker.tryAcquire()).toBeUndefined()
    await waitFor(() => expect(saidBy(member, 'leased')).toEqual([{ circuit: 'payments' }]))

    expect(member.breaker.tryAcquire()).toBeDefined()
    expect(member.breaker.tryAcquire()).toBeUndefined()
    expect(member.share.stats()).toMatchObject({ leasesAsked: 1, leased: 1, denied: 0, leasesFailed: 0 })
  })

  test('who is denied asks no more until the lease would have ended', async () => {
    const [first, second] = (await halfOpen(2, { gate: { leaseMs: 1500 } })) as [Member, Member]
    await probe(first)

    await waitFor(() => {
      second.breaker.tryAcquire()
      expect(saidBy(second, 'denied')).toHaveLength(1)
    })

    const [denial] = saidBy(second, 'denied')
    expect(denial?.retryAfterMs).toBeGreaterThan(0)
    expect(denial?.retryAfterMs).toBeLessThanOrEqual(1500)
    for (let i = 0; i < 100; i++) expect(second.breaker.tryAcquire()).toBeUndefined()
    expect(second.share.stats().leasesAsked).toBe(1)
    // Its holder says nothing more, so its lease ends by itself.
    await probe(second)
    expect(second.share.stats().leased).toBe(1)
  })

  test('a process that closed the circuit lets no lease behind', async () => {
    const [first, second] = (await halfOpen(2)) as [Member, Member]
    const permit = await probe(first)
    expect(await leases()).toBe(1)

    permit.success()

    await waitFor(() => expect(second.breaker.state).toBe('closed'))
    expect(await leases()).toBe(0)
  })

  test('a process that needs several probes makes them one by one with one lease', async () => {
    const [first] = (await halfOpen(2, { breaker: { successThreshold: 3 } })) as [Member, Member]
    const permit = await probe(first)
    permit.success()
    for (let i = 0; i < 2; i++) first.breaker.tryAcquire()?.success()

    expect(first.breaker.state).toBe('closed')
    expect(first.share.stats()).toMatchObject({ leasesAsked: 1, leased: 1 })
  })

  test('a lease whose probe said nothing is used again, or given back after idleMs', async () => {
    const [first, second] = (await halfOpen(2, { gate: { idleMs: 60 } })) as [Member, Member]
    const permit = await probe(first)
    await waitFor(() => {
      second.breaker.tryAcquire()
      expect(saidBy(second, 'denied')).toHaveLength(1)
    })

    permit.ignore()
    const again = first.breaker.tryAcquire()
    expect(again).toBeDefined()
    again?.ignore()

    await waitFor(async () => expect(await leases()).toBe(0))
    // The message of that ended the denial.
    await probe(second)
  })

  test.each([
    ['is given back after idleMs', { idleMs: 60 }],
    ['ends after leaseMs', { leaseMs: 60, idleMs: 60_000 }],
  ])('a lease that no call comes for %s, and a call that comes later probes without one, once', async (_, gate) => {
    const [first] = (await halfOpen(1, { gate })) as [Member]
    expect(first.breaker.tryAcquire()).toBeUndefined()
    await waitFor(() => expect(saidBy(first, 'leased')).toHaveLength(1))
    await waitFor(async () => expect(await held()).toBe(0))

    const permit = first.breaker.tryAcquire()
    expect(permit).toBeDefined()
    permit?.ignore()

    expect(first.breaker.tryAcquire()).toBeUndefined()
    expect(first.share.stats().leasesAsked).toBe(2)
  })

  test('a lease is kept as long as its probe is in flight', async () => {
    const [first] = (await halfOpen(1, { gate: { idleMs: 10 }, breaker: { probeTimeoutMs: 60_000 } })) as [Member]
    const permit = await probe(first)

    for (let i = 0; i < 20; i++) expect(await leases()).toBe(1)
    permit.ignore()
    await waitFor(async () => expect(await leases()).toBe(0))
  })

  test('as many processes probe at once as there are leases', async () => {
    const members = await halfOpen(4, { gate: { probes: 2 }, breaker: { successThreshold: 2 } })
    const permits: { member: Member; success(): void }[] = []

    await waitFor(() => {
      for (const member of members) {
        const permit = member.breaker.tryAcquire()
        if (permit !== undefined) permits.push({ member, success: () => permit.success() })
      }
      expect(members.reduce((sum, { share }) => sum + share.stats().denied, 0)).toBeGreaterThanOrEqual(2)
      expect(permits).toHaveLength(2)
    })

    expect(new Set(permits.map(({ member }) => member)).size).toBe(2)
    expect(await leases()).toBe(2)
  })

  test('one process may hold several leases', async () => {
    const [first] = (await halfOpen(1, {
      gate: { probes: 2 },
      breaker: { halfOpenRequests: 5, successThreshold: 5 },
    })) as [Member]

    await probe(first)
    await probe(first)

    expect(await leases()).toBe(2)
    for (let i = 0; i < 10; i++) expect(first.breaker.tryAcquire()).toBeUndefined()
    expect(first.share.stats().leasesAsked).toBe(2)
  })

  test('a lease that comes after the round was decided is given back', async () => {
    const way = new SlowWay(connect())
    const member = fleet.member(way.client, { breaker: { recoveryTimeoutMs: 20 }, gate: { idleMs: 60_000 } })
    await member.share.start()
    await member.trip()
    await waitFor(() => expect(member.breaker.state).toBe('half-open'))
    await member.share.flush()
    way.hold()
    member.breaker.tryAcquire()
    await waitFor(async () => expect(await leases()).toBe(1))

    member.breaker.reset()
    way.release()

    await waitFor(async () => expect(await leases()).toBe(0))
    expect(member.breaker.state).toBe('closed')
  })

  test('who asks for a lease learns what it has missed', async () => {
    const [member] = (await halfOpen(1)) as [Member]
    const redis = connect()
    const key = `{${fleet.prefix}:payments}:news`
    const news = JSON.parse((await redis.get(key)) as string)
    await redis.set(
      key,
      JSON.stringify({
        epoch: news.epoch + 1,
        circuit: 'payments',
        by: 'x',
        reason: 'r',
        kind: 'closed',
        trip: news.epoch,
      }),
    )

    member.breaker.tryAcquire()

    await waitFor(() => expect(member.breaker.state).toBe('closed'))
    expect(saidBy(member, 'applied')).toMatchObject([{ kind: 'closed', by: 'x' }])
    expect(await leases()).toBe(0)
  })

  test('a process that leaves gives its lease back', async () => {
    const [first, second] = (await halfOpen(2)) as [Member, Member]
    await probe(first)
    expect(await leases()).toBe(1)

    await first.share.close()

    expect(await leases()).toBe(0)
    await probe(second)
  })

  test('before start, without a breaker and after close, the gate says yes', async () => {
    const member = fleet.member(connect(), { breaker: { recoveryTimeoutMs: 5 } })
    const gate = member.share.probeGate('payments')
    expect(gate()).toBe(true)
    await member.trip()
    await waitFor(async () => expect(await member.call()).toBe(true))

    await member.share.start()
    expect(member.share.probeGate('stock')()).toBe(true)
    expect(gate()).toBe(false)

    await member.share.close()
    expect(gate()).toBe(true)
  })
})
