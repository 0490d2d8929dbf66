import { AsyncLocalStorage } from 'node:async_hooks'
import type { Redis } from 'ioredis'
import { type Clock, systemClock } from 'spillway'
import type { RedisInvalidationBusOptions } from 'spillway/redis'
import { describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { BusFleet, endOf, expectBalance, key, keys, type Rider, saidBy, subscribed, waitFor } from './bus-fleet.ts'
import { singleClients } from './clients.ts'
import { endedAfterEach } from './fleets.ts'

const server = await startRedis()
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new BusFleet(), server)
const connect = (): Redis => fleet.redis(url)

/** The messages on the channel, as they come. */
async function listen(): Promise<string[]> {
  const messages: string[] = []
  const redis = connect()
  redis.on('message', (_, text) => messages.push(text))
  await redis.subscribe(fleet.channel)
  return messages
}

describe.skipIf(server === undefined)('RedisInvalidationBus', () => {
  describe.each(Object.entries(singleClients))('with %s', (_, open) => {
    test('tells all others in their order, and not its own end', async () => {
      const riders: Rider[] = []
      for (let i = 0; i < 3; i++) {
        const { client, close } = await open(url)
        fleet.cleanUp(close)
        riders.push(fleet.rider(client))
      }
      await subscribed(riders)
      const [first, second, third] = riders as [Rider, Rider, Rider]
      expect(riders.map(({ heard }) => heard)).toEqual([['gap'], ['gap'], ['gap']])

      first.link.publish([key('a', '1'), { kind: 'tag', tag: 'red' }])
      first.link.publish([{ kind: 'clear', namespace: 'app/users' }, key('é\u2028"\ud800', '')])
      await first.link.flush()

      const told = ['gap', 'k:a@1', 't:red', 'c:app/users', 'k:é\u2028"\ud800@']
      await waitFor(() => expect([second.heard, third.heard]).toEqual([told, told]))
      await waitFor(() => expect(first.bus.stats().own).toBe(1))
      expect(first.heard).toEqual(['gap'])
      expect(first.bus.stats()).toMatchObject({ offered: 4, published: 4, batches: 1, pending: 0 })
      expect(second.bus.stats()).toMatchObject({ received: 1, heard: 4, gaps: 1, senders: 1, holes: 0 })
    })
  })

  test('sends what a turn brings in as one message, and what gathers meanwhile as the next', async () => {
    const [first, second] = (await fleet.riders(2, connect)) as [Rider, Rider]
    const messages = await listen()

    for (let i = 0; i < 50; i++) first.link.publish(keys(`a${i}`))
    await new Promise(setImmediate)
    for (let i = 0; i < 50; i++) first.link.publish(keys(`b${i}`))
    await first.link.flush()

    await waitFor(() => expect(second.news()).toHaveLength(100))
    expect(messages).toHaveLength(2)
    expect(second.news()[99]).toBe('k:b49')
  })

  test('cuts what waits into messages of maxBatchSize', async () => {
    const [first, second] = (await fleet.riders(2, connect, { maxBatchSize: 10 })) as [Rider, Rider]
    const names = Array.from({ length: 25 }, (_, i) => `key ${i}`)

    first.link.publish(keys(...names))
    await first.link.flush()

    await waitFor(() => expect(second.news()).toEqual(names.map((name) => `k:${name}`)))
    expect(first.bus.stats().batches).toBe(3)
    expect(second.bus.stats()).toMatchObject({ received: 3, holes: 0 })
  })

  test('cuts what waits by its length, too', async () => {
    const [first, second] = (await fleet.riders(2, connect)) as [Rider, Rider]
    const long = 'x'.repeat(200_000)

    first.link.publish(keys(`${long}1`, `${long}2`, 'short', `${long}${long}${long}`))
    await first.link.flush()

    await waitFor(() => expect(second.news().map(({ length }) => length)).toEqual([200_003, 200_003, 7, 600_002]))
    expect(first.bus.stats().batches).toBe(3)
  })

  test('tells a key that comes twice once, with its latest version', async () => {
    const [first, second] = (await fleet.riders(2, connect)) as [Rider, Rider]

    first.link.publish([key('a', '1'), key('b', '1'), { kind: 'tag', tag: 'a' }])
    first.link.publish([key('a', '2'), { kind: 'tag', tag: 'a' }, { kind: 'clear', namespace: 'a' }, key('b')])
    await first.link.flush()

    await waitFor(() => expect(second.news()).toEqual(['k:a@2', 'k:b', 't:a', 'c:a']))
    expect(first.bus.stats()).toMatchObject({ offered: 7, published: 4, merged: 3, pending: 0 })
  })

  test('tells a key without a version where several links of a bus told of it: which was the last, nobody knows', async () => {
    const [first, second] = (await fleet.riders(2, connect)) as [Rider, Rider]
    const other = endOf(first.bus)

    other.link.publish([key('a', '2'), key('b', '1')])
    first.link.publish([key('a', '1'), key('c', '1')])
    other.link.publish([key('a', '3'), key('b', '2')])
    await first.link.flush()

    await waitFor(() => expect(second.news()).toEqual(['k:a', 'k:b@2', 'k:c@1']))
  })

  test('what an object says later changes nothing', async () => {
    const [first, second] = (await fleet.riders(2, connect)) as [Rider, Rider]
    const one = { kind: 'key' as const, key: 'a', version: '1' }

    first.link.publish([one])
    one.key = 'b'
    await first.link.flush()

    await waitFor(() => expect(second.news()).toEqual(['k:a@1']))
  })

  test('many publish at once, and everyone hears all of the others, without a gap', async () => {
    const riders = await fleet.riders(4, connect, { maxBatchSize: 20 })
    const told = riders.map((_, i) => Array.from({ length: 500 }, (_, n) => `k:${i}-${n}`))

    for (let n = 0; n < 500; n++) {
      for (const [i, { link }] of riders.entries()) link.publish(keys(`${i}-${n}`))
      if (n % 50 === 0) await new Promise(setImmediate)
    }
    await Promise.all(riders.map(({ link }) => link.flush()))

    for (const [i, rider] of riders.entries()) {
      await waitFor(() => expect(rider.news()).toHaveLength(1500))
      for (const [other, all] of told.entries()) {
        const from = rider.news().filter((one) => one.startsWith(`k:${other}-`))
        expect(from).toEqual(other === i ? [] : all)
      }
      expect(rider.gaps()).toBe(1)
      expectBalance(rider)
    }
  })

  describe('links of one bus', () => {
    test('hear each other at once, and each message once', async () => {
      const [first, other] = (await fleet.riders(2, connect)) as [Rider, Rider]
      const second = endOf(first.bus)

      first.link.publish(keys('a'))

      expect(second.news()).toEqual(['k:a'])
      second.link.publish(keys('b'))
      expect(first.news()).toEqual(['k:b'])
      await first.link.flush()
      await waitFor(() => expect(other.news()).toEqual(['k:a', 'k:b']))
      await waitFor(() => expect(first.bus.stats().own).toBeGreaterThan(0))
      expect([first.news(), second.news()]).toEqual([['k:b'], ['k:a']])
    })

    test('hear each other without a Redis', () => {
      const first = fleet.rider(fleet.redis('redis://127.0.0.1:1'))
      const second = endOf(first.bus)

      first.link.publish([key('a', '7')])

      expect(second.heard).toEqual(['k:a@7'])
    })

    test('that come later are told of a gap, once they have been returned', async () => {
      const [first] = (await fleet.riders(1, connect)) as [Rider]

      const later = endOf(first.bus)

      expect(later.heard).toEqual([])
      await Promise.resolve()
      expect(later.heard).toEqual(['gap'])
      expect(first.heard).toEqual(['gap'])
    })

    test('that answer while they hear tell everybody in one order', async () => {
      const { bus } = fleet.rider(connect())
      const heard: string[] = []
      const link = bus.connect({
        onInvalidations: () => link.publish(keys('answer')),
        onGap: () => undefined,
      })
      bus.connect({
        onInvalidations: (all) => heard.push(...all.map((one) => (one.kind === 'key' ? one.key : '?'))),
        onGap: () => undefined,
      })
      const asker = endOf(bus)

      asker.link.publish(keys('question'))

      expect(heard).toEqual(['question', 'answer'])
      expect(asker.news()).toEqual(['k:answer'])
    })

    test('that are closed neither hear nor tell', async () => {
      const [first, other] = (await fleet.riders(2, connect)) as [Rider, Rider]
      const second = endOf(first.bus)
      await Promise.resolve()
      second.link.close()
      second.link.close()

      second.link.publish(keys('a'))
      first.link.publish(keys('b'))
      other.link.publish(keys('c'))
      await Promise.all([second.link.flush(), first.link.flush(), other.link.flush()])

      await waitFor(() => expect([first.news(), other.news()]).toEqual([['k:c'], ['k:b']]))
      expect(second.heard).toEqual(['gap'])
      expect(first.bus.stats()).toMatchObject({ links: 1, offered: 1 })
    })

    test('end the subscription with the last of them, and begin a new one', async () => {
      const [first, other] = (await fleet.riders(2, connect)) as [Rider, Rider]
      first.link.publish(keys('a'))
      first.link.close()

      expect(first.bus.stats()).toMatchObject({ subscribed: false, links: 0 })
      await waitFor(() => expect(other.news()).toEqual(['k:a']))
      const again = endOf(first.bus)
      await waitFor(() => expect(again.heard).toEqual(['gap']))
      other.link.publish(keys('b'))
      await waitFor(() => expect(again.news()).toEqual(['k:b']))
    })

    test('whose listener throws hurt no other, and are reported once', async () => {
      const warnings: string[] = []
      const onWarning = (warning: Error): void => void warnings.push(warning.message)
      process.on('warning', onWarning)
      const [first] = (await fleet.riders(1, connect)) as [Rider]
      const fail = (): never => {
        throw new Error('the password is hunter2')
      }
      first.bus.connect({ onInvalidations: fail, onGap: fail })
      first.bus.connect({ onInvalidations: async () => fail(), onGap: async () => fail() })
      const third = endOf(first.bus)

      first.link.publish(keys('a'))
      first.link.publish(keys('b'))

      expect(third.news()).toEqual(['k:a', 'k:b'])
      await new Promise(setImmediate)
      process.off('warning', onWarning)
      const reported = expect.stringContaining('what listens to invalidations failed: Error: the password')
      expect(warnings).toEqual([reported, reported])
    })
  })

  test('listeners run in the context in which the bus was made', async () => {
    const storage = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    const [other] = (await fleet.riders(1, connect)) as [Rider]
    const bus = storage.run('made', () => fleet.bus(connect()))
    const listener = {
      onInvalidations: () => seen.push(storage.getStore()),
      onGap: () => seen.push(storage.getStore()),
    }
    storage.run('request', () => bus.connect(listener))
    await waitFor(() => expect(seen).toHaveLength(1))

    other.link.publish(keys('a'))
    await waitFor(() => expect(seen).toHaveLength(2))
    const second = storage.run('other request', () => bus.connect({ ...listener, onInvalidations: () => undefined }))
    await waitFor(() => expect(seen).toHaveLength(3))
    storage.run('request', () => second.publish(keys('b')))

    expect(seen).toEqual(['made', 'made', 'made', 'made'])
  })

  test('buses on other channels hear nothing; a keyPrefix of ioredis is a part of the channel', async () => {
    const prefixed = fleet.rider(fleet.redis(url, { keyPrefix: 'app:' }))
    const same = fleet.rider(connect(), { channel: `app:${fleet.channel}` })
    const [other] = (await fleet.riders(1, connect)) as [Rider]
    await subscribed([prefixed, same])

    prefixed.link.publish(keys('a'))
    await waitFor(() => expect(same.news()).toEqual(['k:a']))
    same.link.publish(keys('b'))
    await waitFor(() => expect(prefixed.news()).toEqual(['k:b']))

    expect(other.news()).toEqual([])
    expect(other.bus.stats().received).toBe(0)
  })

  test('what is no message is counted and left alone', async () => {
    const [rider] = (await fleet.riders(1, connect)) as [Rider]
    const redis = connect()
    const head = '{"spillway":1,"by":"x","seq":1,'
    const foreign = [
      ...['', 'null', '{}', '[]', 'flushed', '{"spillway":1,', '{"spillway":1,"by":"x"}', `${head}"news":{}}`],
      ...[`${head}"news":[null]}`, `${head}"news":[["k"]]}`, `${head}"news":[["k",1]]}`, `${head}"news":[["z","a"]]}`],
      ...[`${head}"ago":-1,"gap":true}`, `${head}"ago":"1","gap":true}`],
      ...[`${head}"news":[["k","a"],["k","b",7]]}`, `${head}"beat":1}`, `${head}}`],
      '{"spillway":1,"by":"x","seq":0,"news":[["k","a"]]}',
      '{"spillway":1,"by":"x","seq":"1","news":[["k","a"]]}',
      '{"spillway":1,"by":7,"seq":1,"news":[["k","a"]]}',
      `{"spillway":1,"by":"${'x'.repeat(65)}","seq":1,"gap":true}`,
    ]

    for (const text of foreign) await redis.publish(fleet.channel, text)
    await redis.publish(fleet.channel, `${head}"news":[["k","the end"]]}`)

    await waitFor(() => expect(rider.news()).toEqual(['k:the end']))
    expect(rider.bus.stats()).toMatchObject({ malformed: foreign.length, received: 1, gaps: 1 })
    expect(saidBy(rider, 'ignored').map(({ text }) => text)).toEqual(foreign)
  })

  describe('numbers', () => {
    const say = (seq: number, rest: string, by = 'x'): Promise<unknown> =>
      connect().publish(fleet.channel, `{"spillway":1,"by":"${by}","seq":${seq},${rest}}`)
    const news = (name: string): string => `"news":[["k","${name}"]]`

    /** One that has listened for so long. */
    const later = async (ms: number, options: RedisInvalidationBusOptions = {}): Promise<[Rider]> => {
      let aheadMs = 0
      const clock: Clock = { ...systemClock, now: () => systemClock.now() + aheadMs }
      const riders = (await fleet.riders(1, connect, { clock, ...options })) as [Rider]
      aheadMs = ms
      return riders
    }

    test('what was sent up to five seconds before one listened is not missed', async () => {
      const [rider] = await later(4000)

      await say(2, `"ago":20,${news('a')}`)

      await waitFor(() => expect(rider.heard).toEqual(['gap', 'k:a']))
    })

    test('a hole is a gap, before what comes after it; an unknown sender is none', async () => {
      const [rider] = (await fleet.riders(1, connect)) as [Rider]

      await say(7, news('a'))
      await say(8, news('b'))
      await say(10, news('c'))
      await say(11, news('d'))
      await say(100, news('e'), 'y')

      await waitFor(() => expect(rider.heard).toEqual(['gap', 'k:a', 'k:b', 'gap', 'k:c', 'k:d', 'k:e']))
      expect(saidBy(rider, 'gap')).toEqual([
        { reason: 'subscribed', by: undefined },
        { reason: 'missed', by: 'x' },
      ])
      expect(rider.bus.stats()).toMatchObject({ gaps: 2, holes: 1, senders: 2 })
    })

    test('what comes again, or late, is heard and is no gap', async () => {
      const [rider] = (await fleet.riders(1, connect)) as [Rider]

      await say(8, news('b'))
      await say(7, news('a'))
      await say(8, news('b'))
      await say(9, news('c'))

      await waitFor(() => expect(rider.heard).toEqual(['gap', 'k:b', 'k:a', 'k:b', 'k:c']))
    })

    test('a sender that lost some says so, and is believed once', async () => {
      const [rider] = (await fleet.riders(1, connect)) as [Rider]

      await say(3, '"gap":true', 'unknown')
      await say(1, news('a'))
      await say(2, '"gap":true')
      await say(2, '"gap":true')
      await say(4, '"gap":true')
      await say(5, news('b'))

      await waitFor(() => expect(rider.heard).toEqual(['gap', 'gap', 'k:a', 'gap', 'gap', 'k:b']))
      expect(saidBy(rider, 'gap').map(({ reason }) => reason)).toEqual(['subscribed', 'told', 'told', 'told'])
    })

    test('gaps that come together are one, and what comes with them is heard', async () => {
      const [rider] = (await fleet.riders(1, connect)) as [Rider]
      const redis = connect()
      const head = (seq: number): string => `{"spillway":1,"by":"x","seq":${seq}`

      const pipeline = redis.pipeline()
      for (let seq = 1; seq <= 50; seq++) pipeline.publish(fleet.channel, `${head(seq)},"gap":true}`)
      pipeline.publish(fleet.channel, `${head(51)},${news('a')}}`)
      await pipeline.exec()

      await waitFor(() => expect(rider.news()).toEqual(['k:a']))
      // The first, and what a network packet more may bring.
      expect(rider.gaps()).toBeLessThan(5)
      expect(rider.bus.stats()).toMatchObject({ received: 51, holes: 0, gaps: rider.gaps() })
      const before = rider.gaps()
      await say(52, '"gap":true')
      await waitFor(() => expect(rider.gaps()).toBe(before + 1))
    })

    test('a beat that knows a later message is a gap', async () => {
      const [rider] = (await fleet.riders(1, connect)) as [Rider]

      await say(5, '"beat":true')
      await say(6, news('a'))
      await say(6, '"beat":true')
      await say(7, '"beat":true')
      await say(8, news('b'))

      await waitFor(() => expect(rider.heard).toEqual(['gap', 'k:a', 'gap', 'k:b']))
      expect(rider.bus.stats()).toMatchObject({ received: 5, heard: 2 })
    })

    test('after its last message a bus beats once', async () => {
      const [first, second] = (await fleet.riders(2, connect, { heartbeatMs: 20 })) as [Rider, Rider]
      const messages = await listen()

      first.link.publish(keys('a'))

      await waitFor(() => expect(messages).toHaveLength(2))
      await new Promise((resolve) => setTimeout(resolve, 100))
      expect(messages).toHaveLength(2)
      expect(JSON.parse(messages[1] as string)).toEqual({
        ...{ spillway: 1, by: first.bus.id, seq: 1, ago: expect.any(Number), beat: true },
      })
      expect(second.heard).toEqual(['gap', 'k:a'])
    })

    test('an unknown sender that has told something since one listens is a gap', async () => {
      const [rider] = await later(6000)

      await say(2, `"ago":3600000,${news('a')}`, 'x')
      await say(2, `"ago":20,${news('b')}`, 'y')
      await say(3, `"ago":20,${news('c')}`, 'y')
      await say(1, `"ago":3600000,"beat":true`, 'v')
      await say(1, `"ago":20,"beat":true`, 'w')
      await say(2, `"ago":20,${news('d')}`, 'w')

      await waitFor(() => expect(rider.heard).toEqual(['gap', 'k:a', 'gap', 'k:b', 'k:c', 'gap', 'k:d']))
      expect(saidBy(rider, 'gap').map(({ by }) => by)).toEqual([undefined, 'y', 'w'])
    })

    test('one that was forgotten is none', async () => {
      const [rider] = await later(6000, { maxSenders: 1 })

      await say(1, news('a'), 'x')
      await say(1, news('b'), 'y')
      await say(2, `"ago":0,${news('c')}`, 'x')

      await waitFor(() => expect(rider.heard).toEqual(['gap', 'k:a', 'k:b', 'k:c']))
    })

    test('senders are forgotten, those first that were silent for longest', async () => {
      const [rider] = (await fleet.riders(1, connect, { maxSenders: 3 })) as [Rider]

      for (const by of ['a', 'b', 'c']) await say(1, news(by), by)
      await say(2, news('a again'), 'a')
      await say(1, news('d'), 'd')
      // b is forgotten, a isn't.
      await say(9, news('b again'), 'b')
      await say(9, news('a at last'), 'a')

      await waitFor(() => expect(rider.news()).toHaveLength(7))
      expect(saidBy(rider, 'gap').map(({ by }) => by)).toEqual([undefined, 'a'])
      expect(rider.bus.stats().senders).toBe(3)
    })
  })
})
