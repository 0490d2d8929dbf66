import { Redis } from 'ioredis'
import { CircuitBreaker, isSpillwayError } from 'spillway'
import { describe, expect, test, vi } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { Fleet, type Member, SlowWay, saidBy } from './breaker-fleet.ts'
import { singleClients } from './clients.ts'
import { endedAfterEach } from './fleets.ts'

// One of its own: a test ends every subscription.
const server = await startRedis({ own: true })
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new Fleet(), server)
const connect = (): Redis => fleet.redis(url)
const waitFor = <T>(check: () => T | Promise<T>): Promise<T> => vi.waitFor(check, { timeout: 10_000, interval: 5 })
const states = (members: readonly Member[]): string[] => members.map(({ breaker }) => breaker.state)
const channel = (): string => `${fleet.prefix}:news`
const keyOf = (what: string): string => `{${fleet.prefix}:payments}:${what}`
const newsOf = async (client: Redis): Promise<Record<string, unknown>> =>
  JSON.parse((await client.get(keyOf('news'))) as string)

describe.skipIf(server === undefined)('RedisBreakerShare', () => {
  describe.each(Object.entries(singleClients))('with %s', (_, open) => {
    test('a trip in one process opens the breakers of all, and its recovery closes them', async () => {
      const clients = await Promise.all([open(url), open(url), open(url)])
      for (const { close } of clients) fleet.cleanUp(close)
      const members = clients.map(({ client }) => fleet.member(client, { breaker: { recoveryTimeoutMs: 300 } }))
      expect(await Promise.all(members.map(({ share }) => share.start()))).toEqual([true, true, true])
      const [first, second] = members as [Member, Member, Member]

      await first.trip()

      await waitFor(() => expect(second.changes).toEqual(['requested']))
      await waitFor(() => expect(states(members)).toEqual(['open', 'open', 'open']))

      await waitFor(async () => expect(await first.call()).toBe(true))

      await waitFor(() => expect(states(members)).toEqual(['closed', 'closed', 'closed']))
      expect(first.changes).toEqual(['tripped', 'recovered'])
      expect(second.changes).toEqual(['requested', 'reset'])
      expect(saidBy(first, 'published').map(({ kind, verdict }) => [kind, verdict])).toEqual([
        ['opened', 'published'],
        ['closed', 'published'],
      ])
      expect(saidBy(second, 'published')).toEqual([])
    })

    test('one process probes for all', async () => {
      const clients = await Promise.all([open(url), open(url), open(url)])
      for (const { close } of clients) fleet.cleanUp(close)
      const members = clients.map(({ client }) => fleet.member(client, { breaker: { recoveryTimeoutMs: 50 } }))
      await Promise.all(members.map(({ share }) => share.start()))
      await (members[0] as Member).trip()
      await waitFor(() => expect(states(members)).toEqual(['half-open', 'half-open', 'half-open']))

      let probes = 0
      let end = (): void => undefined
      const probing = new Promise<void>((resolve) => {
        end = resolve
      })
      const probe = (): Promise<void> => {
        probes++
        return probing
      }
      const calls: Promise<boolean>[] = []
      await waitFor(async () => {
        for (const member of members) calls.push(member.call(probe))
        expect(probes).toBe(1)
        expect(members.reduce((sum, { share }) => sum + share.stats().denied, 0)).toBe(2)
      })
      for (let i = 0; i < 10; i++) for (const member of members) calls.push(member.call(probe))

      expect(probes).toBe(1)
      end()
      await Promise.all(calls)
      await waitFor(() => expect(states(members)).toEqual(['closed', 'closed', 'closed']))
    })
  })

  test('the others learn who opened it and for how long, not what had failed', async () => {
    const first = fleet.member(connect(), { share: { instance: 'api-7' } })
    const second = fleet.member(connect())
    await Promise.all([first.share.start(), second.share.start()])
    const errors: unknown[] = []
    second.breaker.on('opened', ({ error }) => errors.push(error))

    await first.trip()

    await waitFor(() => expect(errors).toHaveLength(1))
    const [error] = errors
    expect(isSpillwayError(error, 'ERR_CIRCUIT_OPEN')).toBe(true)
    expect(first.share.instance).toMatch(/^api-7-[0-9a-f]{12}$/)
    expect(String(error)).toBe(`CircuitOpenError: payments was opened by ${first.share.instance}: tripped`)
    const left = second.breaker.retryAfterMs ?? 0
    expect(left).toBeGreaterThan(50_000)
    expect(left).toBeLessThanOrEqual(60_001)
    expect(JSON.stringify(await newsOf(connect()))).not.toContain('hunter2')
    expect(saidBy(second, 'applied')).toEqual([
      {
        circuit: 'payments',
        kind: 'opened',
        by: first.share.instance,
        reason: 'tripped',
        retryAfterMs: expect.closeTo(60_000, -4),
      },
    ])
  })

  test('what trips at once in many processes is one opening and one message', async () => {
    const members = await fleet.started(5, connect)
    const messages = await listen()

    await Promise.all(members.map((member) => member.trip()))
    await Promise.all(members.map(({ share }) => share.flush()))

    await waitFor(() => expect(messages).toHaveLength(1))
    const verdicts = members.flatMap((member) => saidBy(member, 'published').map(({ verdict }) => verdict))
    expect(verdicts.sort()).toEqual(['joined', 'joined', 'joined', 'joined', 'published'])
    expect(members.map(({ changes }) => changes)).toEqual(members.map(() => ['tripped']))
    for (const { breaker } of members) expect(breaker.retryAfterMs).toBeLessThanOrEqual(60_000)
    expect((await newsOf(connect()))['epoch']).toBe(messages[0]?.['epoch'])
  })

  test('a probe that fails opens all again, for its own delay', async () => {
    const [first, second] = (await fleet.started(2, connect, {
      breaker: { recoveryTimeoutMs: 50, recovery: { factor: 1000, maxMs: 50_000 } },
    })) as [Member, Member]
    await first.trip()
    await waitFor(() => expect(states([first, second])).toEqual(['half-open', 'half-open']))

    await waitFor(async () => {
      await first.trip()
      expect(first.changes).toEqual(['tripped', 'probe-failed'])
    })

    await waitFor(() => expect(second.changes).toEqual(['requested']))
    await waitFor(() => expect(second.breaker.retryAfterMs).toBeGreaterThan(40_000))
    expect(saidBy(second, 'applied').map(({ reason }) => reason)).toEqual(['tripped', 'probe-failed'])
    expect(saidBy(second, 'published')).toEqual([])
  })

  describe('news that comes late', () => {
    const closed = (epoch: number, trip: number): string =>
      JSON.stringify({ epoch, circuit: 'payments', by: 'other', reason: 'recovered', kind: 'closed', trip })
    const opened = (epoch: number, forMs: number): string =>
      JSON.stringify({ epoch, circuit: 'payments', by: 'other', reason: 'tripped', kind: 'opened', forMs })

    test('a close from before a trip changes nothing', async () => {
      const [member] = (await fleet.started(1, connect)) as [Member]
      await member.trip()
      await member.share.flush()
      const epoch = Number((await newsOf(connect()))['epoch'])

      await connect().publish(channel(), closed(epoch - 1, epoch - 2))

      await waitFor(() => expect(member.share.stats().late).toBe(1))
      expect(member.breaker.state).toBe('open')
    })

    test('a close of an earlier opening changes nothing, though it comes after the trip', async () => {
      const [member] = (await fleet.started(1, connect)) as [Member]
      await member.trip()
      await member.share.flush()
      const epoch = Number((await newsOf(connect()))['epoch'])

      await connect().publish(channel(), closed(epoch + 1, epoch - 1))
      await connect().publish(channel(), 'the end')

      await waitFor(() => expect(member.share.stats().ignored).toBe(1))
      expect(member.breaker.state).toBe('open')
      expect(member.share.stats().applied).toBe(0)
    })

    test('a close of the opening that a trip joined counts, though it comes before the answer', async () => {
      const way = new SlowWay(connect())
      const member = fleet.member(way.client)
      await member.share.start()
      const redis = connect()
      const epoch = await serverMicros(redis)
      await redis.set(keyOf('news'), opened(epoch, 60_000))
      way.hold()
      await member.trip()
      await waitFor(() => expect(way.held).toBe(1))

      await redis.publish(channel(), closed(epoch + 1, epoch))
      await waitFor(() => expect(member.share.stats().received).toBe(1))
      expect(member.breaker.state).toBe('open')
      way.release()
      await member.share.flush()

      expect(saidBy(member, 'published').map(({ verdict }) => verdict)).toEqual(['joined'])
      expect(member.breaker.state).toBe('closed')
      expect(member.changes).toEqual(['tripped', 'reset'])
    })

    test('a close that crosses a trip on its way changes nothing', async () => {
      const way = new SlowWay(connect())
      const member = fleet.member(way.client)
      await member.share.start()
      const redis = connect()
      const epoch = await serverMicros(redis)
      way.hold()
      await member.trip()
      await waitFor(() => expect(way.held).toBe(1))

      await redis.publish(channel(), closed(epoch + 1, epoch))
      await waitFor(() => expect(member.share.stats().received).toBeGreaterThanOrEqual(1))
      way.release()
      await member.share.flush()

      expect(member.breaker.state).toBe('open')
      expect(member.changes).toEqual(['tripped'])
    })

    test('what ends an opening that a trip joined does not end the trip after it', async () => {
      const way = new SlowWay(connect())
      const member = fleet.member(way.client, {
        breaker: { probeGate: () => true, recoveryTimeoutMs: 20, recovery: { factor: 3000, maxMs: 60_000 } },
      })
      await member.share.start()
      const redis = connect()
      const epoch = await serverMicros(redis)
      await redis.set(keyOf('news'), opened(epoch, 60_000))
      way.hold()
      await member.trip()
      await waitFor(() => expect(way.held).toBe(1))
      await waitFor(async () => {
        await member.trip()
        expect(member.changes).toEqual(['tripped', 'probe-failed'])
      })

      await redis.publish(channel(), closed(epoch + 1, epoch))
      await waitFor(() => expect(member.share.stats().received).toBe(1))
      way.release()
      await waitFor(() => expect(saidBy(member, 'published')).toHaveLength(2))

      expect(member.changes).toEqual(['tripped', 'probe-failed'])
      expect(member.breaker.state).toBe('open')
      expect(await newsOf(redis)).toMatchObject({ kind: 'opened', reason: 'probe-failed' })
    })

    test('a recovery before the answer to its trip is told, too', async () => {
      const way = new SlowWay(connect())
      const member = fleet.member(way.client, { breaker: { recoveryTimeoutMs: 50, probeGate: () => true } })
      await member.share.start()
      const [other] = (await fleet.started(1, connect)) as [Member]
      way.hold()
      await member.trip()
      await waitFor(() => expect(other.breaker.state).toBe('open'))
      await waitFor(async () => expect(await member.call()).toBe(true))

      way.release()

      await waitFor(() => expect(other.breaker.state).not.toBe('open'))
      await member.share.flush()
      await waitFor(() => expect(states([member, other])).toEqual(['closed', 'closed']))
    })

    test('a recovery does not close what was opened again meanwhile, and its process opens, too', async () => {
      const [member] = (await fleet.started(1, connect, { breaker: { recoveryTimeoutMs: 50 } })) as [Member]
      await member.trip()
      await member.share.flush()
      const redis = connect()
      const permit = await waitFor(() => {
        const probe = member.breaker.tryAcquire()
        expect(probe).toBeDefined()
        return probe
      })
      // It probes, and has missed a later trip.
      await redis.set(keyOf('news'), opened((await serverMicros(redis)) + 1, 60_000))

      permit?.success()
      await member.share.flush()

      expect(saidBy(member, 'published').at(-1)).toMatchObject({ kind: 'closed', verdict: 'outdated' })
      expect(member.changes).toEqual(['tripped', 'recovered', 'requested'])
      expect(member.breaker.state).toBe('open')
      expect((await newsOf(redis))['kind']).toBe('opened')
    })

    test('an opening that comes late is as long as what is left of it, by the clock of Redis', async () => {
      const [member] = (await fleet.started(1, connect)) as [Member]
      const redis = connect()

      await redis.publish(channel(), opened((await serverMicros(redis)) - 20_000_000, 50_000))

      await waitFor(() => expect(member.breaker.state).toBe('open'))
      expect(member.breaker.retryAfterMs).toBeGreaterThan(25_000)
      expect(member.breaker.retryAfterMs).toBeLessThanOrEqual(30_001)
    })
  })

  describe('one who comes later', () => {
    test('learns at its start what is open, and for how long still', async () => {
      const [first] = (await fleet.started(1, connect)) as [Member]
      await first.trip()
      await first.share.flush()

      const later = fleet.member(connect())
      expect(later.breaker.state).toBe('closed')
      expect(await later.share.start()).toBe(true)

      expect(later.breaker.state).toBe('open')
      expect(later.breaker.retryAfterMs).toBeGreaterThan(50_000)
      expect(later.breaker.retryAfterMs).toBeLessThanOrEqual(60_001)
    })

    test('learns when it joins a share that has started', async () => {
      const [first, second] = (await fleet.started(2, connect)) as [Member, Member]
      await first.trip()
      await first.share.flush()
      second.leave()
      second.breaker.reset()

      const breaker = new CircuitBreaker({ name: 'payments' })
      second.share.join(breaker)

      await waitFor(() => expect(breaker.state).toBe('open'))
    })

    test('is half-open where the circuit waits for a probe', async () => {
      const [first] = (await fleet.started(1, connect, { breaker: { recoveryTimeoutMs: 20 } })) as [Member]
      await first.trip()
      await first.share.flush()
      await waitFor(() => expect(first.breaker.state).toBe('half-open'))

      const later = fleet.member(connect())
      await later.share.start()

      expect(later.breaker.state).toBe('half-open')
    })

    test('begins closed where it has recovered', async () => {
      const [first] = (await fleet.started(1, connect, { breaker: { recoveryTimeoutMs: 20 } })) as [Member]
      await first.trip()
      await waitFor(async () => expect(await first.call()).toBe(true))
      await first.share.flush()

      const later = fleet.member(connect())
      await later.share.start()

      expect(later.breaker.state).toBe('closed')
      expect(later.changes).toEqual([])
    })

    test('begins closed after rememberMs', async () => {
      const [first] = (await fleet.started(1, connect, {
        breaker: { recoveryTimeoutMs: 50 },
        share: { rememberMs: 50 },
      })) as [Member]
      await first.trip()
      await first.share.flush()
      const redis = connect()
      expect(await redis.pttl(keyOf('news'))).toBeLessThanOrEqual(100)
      await waitFor(async () => expect(await redis.exists(keyOf('news'))).toBe(0))

      const later = fleet.member(connect())
      await later.share.start()

      expect(later.breaker.state).toBe('closed')
    })
  })

  test('one that missed the messages reads them when it is subscribed again', async () => {
    const [first, second] = (await fleet.started(2, connect)) as [Member, Member]
    const redis = connect()
    await first.trip()
    await waitFor(() => expect(second.breaker.state).toBe('open'))
    await redis.call('CLIENT', ['KILL', 'TYPE', 'pubsub'])

    first.share.reset('payments')
    await first.share.flush()

    await waitFor(() => expect(second.breaker.state).toBe('closed'))
    await waitFor(() => expect(saidBy(second, 'unsubscribed').length).toBeGreaterThanOrEqual(1))
    await waitFor(() => expect(second.share.stats().subscribed).toBe(true))
    await waitFor(() => expect(first.share.stats().subscribed).toBe(true))
    await first.trip()
    await waitFor(() => expect(second.breaker.state).toBe('open'))
  })

  test('one that hears nothing reads it every syncMs', async () => {
    const [member] = (await fleet.started(1, connect, { share: { syncMs: 20 } })) as [Member]
    const redis = connect()
    const epoch = await serverMicros(redis)

    await redis.set(
      keyOf('news'),
      JSON.stringify({ epoch, circuit: 'payments', by: 'x', reason: 'y', kind: 'opened', forMs: 9000 }),
    )

    await waitFor(() => expect(member.breaker.state).toBe('open'))
    expect(member.share.stats().received).toBe(0)
  })

  describe('by hand', () => {
    test('open, reset and isolate are this process alone', async () => {
      const [first, second] = (await fleet.started(2, connect)) as [Member, Member]
      const messages = await listen()

      first.breaker.open({ forMs: 60_000 })
      first.breaker.reset()
      first.breaker.isolate()()
      await first.share.flush()

      expect(first.share.stats().offered).toBe(0)
      expect(second.changes).toEqual([])
      expect(messages).toEqual([])
    })

    test('a breaker that was opened by hand stays open when the circuit closes', async () => {
      const [first, second] = (await fleet.started(2, connect, { breaker: { recoveryTimeoutMs: 50 } })) as [
        Member,
        Member,
      ]
      await first.trip()
      await waitFor(() => expect(second.changes).toEqual(['requested']))
      second.breaker.reset()
      second.breaker.open({ forMs: 60_000 })

      await waitFor(async () => expect(await first.call()).toBe(true))
      await first.share.flush()

      await waitFor(() => expect(second.share.stats().received).toBe(2))
      expect(second.breaker.state).toBe('open')
    })

    test('an isolated breaker follows below its isolation', async () => {
      const [first, second] = (await fleet.started(2, connect)) as [Member, Member]
      const release = second.breaker.isolate()

      await first.trip()

      await waitFor(() => expect(second.share.stats().applied).toBe(1))
      expect(second.breaker.state).toBe('isolated')
      release()
      expect(second.breaker.state).toBe('open')
    })

    test('reset of the share closes the circuit everywhere', async () => {
      const members = await fleet.started(3, connect)
      const [first, second] = members as [Member, Member]
      await first.trip()
      await waitFor(() => expect(states(members)).toEqual(['open', 'open', 'open']))

      second.share.reset('payments')

      expect(second.breaker.state).toBe('closed')
      await waitFor(() => expect(states(members)).toEqual(['closed', 'closed', 'closed']))
      expect(saidBy(first, 'applied').at(-1)).toMatchObject({ kind: 'closed', reason: 'reset' })
    })

    test('reset of the share closes what its process had not heard of', async () => {
      const [member] = (await fleet.started(1, connect)) as [Member]
      const redis = connect()
      const epoch = await serverMicros(redis)
      await redis.set(
        keyOf('news'),
        JSON.stringify({ epoch, circuit: 'payments', by: 'x', reason: 'y', kind: 'opened', forMs: 9000 }),
      )

      member.share.reset('payments')
      await member.share.flush()

      expect(await newsOf(redis)).toMatchObject({ kind: 'closed', trip: epoch, reason: 'reset' })
      expect(member.breaker.state).toBe('closed')
    })
  })

  test('what is no message is counted and changes nothing', async () => {
    const [member] = (await fleet.started(1, connect)) as [Member]
    const redis = connect()
    const good = { epoch: await serverMicros(redis), circuit: 'payments', by: 'x', reason: 'y' }
    const garbage = [
      '',
      'null',
      '[]',
      '{',
      '"opened"',
      JSON.stringify({ ...good, kind: 'opened' }),
      JSON.stringify({ ...good, kind: 'opened', forMs: -1 }),
      JSON.stringify({ ...good, kind: 'opened', forMs: 1e12 }),
      JSON.stringify({ ...good, kind: 'opened', forMs: '60000' }),
      JSON.stringify({ ...good, kind: 'closed' }),
      JSON.stringify({ ...good, kind: 'burst', forMs: 1 }),
      JSON.stringify({ ...good, kind: 'opened', forMs: 60_000, epoch: 1.5 }),
      JSON.stringify({ ...good, kind: 'opened', forMs: 60_000, circuit: 7 }),
      JSON.stringify({ ...good, kind: 'opened', forMs: 60_000, by: 'x'.repeat(1000) }),
      JSON.stringify({ ...good, kind: 'opened', forMs: 60_000, more: 'x'.repeat(20_000) }),
    ]

    for (const text of garbage) await redis.publish(channel(), text)
    await redis.publish(channel(), JSON.stringify({ ...good, kind: 'opened', forMs: 60_000, circuit: 'somebody else' }))

    await waitFor(() => expect(member.share.stats().received).toBe(garbage.length + 1))
    expect(member.share.stats().ignored).toBe(garbage.length)
    expect(saidBy(member, 'ignored').at(-1)?.text).toHaveLength(200)
    expect(member.breaker.state).toBe('closed')
  })

  test('garbage in place of the news keeps no trip from being published', async () => {
    const redis = connect()
    await redis.set(keyOf('news'), 'garbage')
    const [first, second] = (await fleet.started(2, connect)) as [Member, Member]
    expect(first.share.stats().ignored).toBe(1)

    await first.trip()

    await waitFor(() => expect(second.breaker.state).toBe('open'))
  })

  test('circuits of other names and other prefixes are left alone', async () => {
    const [first, other] = (await fleet.started(2, connect)) as [Member, Member]
    const another = fleet.member(connect(), { share: { prefix: `${fleet.prefix}2` } })
    const named = fleet.member(connect(), { breaker: { name: 'stock' } })
    await Promise.all([another.share.start(), named.share.start()])

    await first.trip()

    await waitFor(() => expect(other.breaker.state).toBe('open'))
    await waitFor(() => expect(named.share.stats().received).toBe(1))
    expect(states([another, named])).toEqual(['closed', 'closed'])
  })

  test('names may hold anything', async () => {
    const name = 'a}b{c:"d" é\n%'
    const [first, second] = (await fleet.started(2, connect, { breaker: { name, recoveryTimeoutMs: 50 } })) as [
      Member,
      Member,
    ]

    await first.trip()

    await waitFor(() => expect(second.changes).toEqual(['requested']))
    await waitFor(async () => expect(await second.call()).toBe(true))
    await waitFor(() => expect(first.breaker.state).toBe('closed'))
  })

  test('a keyPrefix of ioredis is a part of the prefix', async () => {
    const prefixed = (keyPrefix: string): Redis => {
      const client = new Redis(url, { keyPrefix })
      fleet.cleanUp(() => client.disconnect())
      return client
    }
    const [first, second, other] = [prefixed('a:'), prefixed('a:'), prefixed('b:')].map((client) =>
      fleet.member(client),
    ) as [Member, Member, Member]
    await Promise.all([first, second, other].map(({ share }) => share.start()))

    await first.trip()

    await waitFor(() => expect(second.breaker.state).toBe('open'))
    expect(await connect().exists(`a:${keyOf('news')}`)).toBe(1)
    expect(other.share.stats().received).toBe(0)
    expect(other.breaker.state).toBe('closed')
  })

  test('one that has left neither tells nor is told', async () => {
    const [first, second] = (await fleet.started(2, connect)) as [Member, Member]
    second.leave()
    second.leave()
    await second.trip()
    await second.share.flush()
    expect(second.share.stats()).toMatchObject({ circuits: 0, offered: 0 })
    second.breaker.reset()

    await first.trip()

    await waitFor(() => expect(second.share.stats().received).toBe(1))
    expect(second.breaker.state).toBe('closed')
  })

  test('close waits for what is being published, ends the subscription, and leaves the breakers to themselves', async () => {
    const [first, second] = (await fleet.started(2, connect)) as [Member, Member]
    const redis = connect()
    const subscribers = async (): Promise<unknown> => (await redis.pubsub('NUMSUB', channel()))[1]
    expect(await subscribers()).toBe(2)

    await first.trip()
    const [report] = await Promise.all([first.share.close(), first.share.close()])

    expect(report).toEqual({ drained: true, abandoned: 0 })
    expect(first.share.stats()).toMatchObject({ succeeded: 1, pending: 0, circuits: 0, subscribed: false })
    await waitFor(() => expect(second.breaker.state).toBe('open'))
    await waitFor(async () => expect(await subscribers()).toBe(1))
    expect(first.breaker.state).toBe('open')
    await expect(first.share.start()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(() => first.share.join(new CircuitBreaker())).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
  })
})

/** The messages that come from now on. */
async function listen(): Promise<Record<string, unknown>[]> {
  const messages: Record<string, unknown>[] = []
  const client = connect()
  client.on('message', (_, text) => messages.push(JSON.parse(text)))
  await client.subscribe(channel())
  return messages
}

async function serverMicros(client: Redis): Promise<number> {
  const [seconds, micros] = await client.time()
  return Number(seconds) * 1_000_000 + Number(micros)
}
