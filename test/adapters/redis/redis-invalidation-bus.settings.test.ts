import { setTimeout as delay } from 'node:timers/promises'
import { createClient } from 'redis'
import { createClient as createClient5 } from 'redis5'
import { describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { BusFleet, keys, type Rider, saidBy, subscribed, waitFor } from './bus-fleet.ts'
import { endedAfterEach } from './fleets.ts'

const server = await startRedis({ own: true, settings: ['--proto-max-bulk-len', '1mb'] })
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new BusFleet(), server)

describe.skipIf(server === undefined)('RedisInvalidationBus', () => {
  describe.each([
    ['node-redis 6', createClient],
    ['node-redis 5', createClient5 as unknown as typeof createClient],
  ])('with %s', (_, create) => {
    test('keeps a subscription that hears nothing for longer than the socketTimeout of its client', async () => {
      const client = create({ url, socket: { socketTimeout: 50 } })
      client.on('error', () => undefined)
      await client.connect()
      fleet.cleanUp(() => client.isOpen && client.destroy())
      const rider = fleet.rider(client)
      await subscribed([rider])

      await delay(500)

      expect(saidBy(rider, 'unsubscribed')).toEqual([])
      expect(rider.heard).toEqual(['gap'])
    })

    test.each([2, 3] as const)('hears in version %d of the protocol, and stays through its checks', async (RESP) => {
      const client = create({ url, RESP })
      client.on('error', () => undefined)
      await client.connect()
      fleet.cleanUp(() => client.destroy())
      const [first, second] = (await fleet.riders(2, () => client, { heartbeatMs: 10 })) as [Rider, Rider]

      first.link.publish(keys('a'))

      await waitFor(() => expect(second.news()).toEqual(['k:a']))
      await delay(100)
      expect([first.gaps(), second.gaps()]).toEqual([1, 1])
    })
  })

  test('is taken by a Redis that takes no more than a megabyte at once', async () => {
    const [first, second] = (await fleet.riders(2, () => fleet.redis(url))) as [Rider, Rider]

    // Three bytes each.
    first.link.publish(keys(...Array.from({ length: 500 }, (_, i) => `${i}${'€'.repeat(2000)}`)))
    await first.link.flush()

    await waitFor(() => expect(second.news()).toHaveLength(500))
    expect(second.gaps()).toBe(1)
    expect(first.bus.stats()).toMatchObject({ published: 500, failures: 0 })
  })

  test.each(['', 'app:'])(
    'needs no more than a user of an ACL has by the docs, with keyPrefix %j',
    async (keyPrefix) => {
      const channel = `${keyPrefix}${fleet.channel}`
      const commands = ['+eval', '+evalsha', '+publish', '+subscribe', '+ping']
      const rules = ['on', '>secret', 'resetkeys', `~${channel}`, 'resetchannels', `&${channel}`, '-@all', ...commands]
      await fleet.redis(url).call('ACL', 'SETUSER', 'bus', ...rules)
      const user = { username: 'bus', password: 'secret', keyPrefix, enableReadyCheck: false }

      const [first, second] = (await fleet.riders(2, () => fleet.redis(url, user))) as [Rider, Rider]
      first.link.publish(keys('a'))
      await first.link.flush()

      expect(saidBy(first, 'publishFailed')).toEqual([])
      await waitFor(() => expect(second.news()).toEqual(['k:a']))
    },
  )

  test('works with a client of ioredis that connects late, and queues nothing', async () => {
    const client = fleet.redis(url, { lazyConnect: true, enableOfflineQueue: false })
    const [first, second] = (await fleet.riders(2, () => client)) as [Rider, Rider]

    first.link.publish(keys('a'))
    await first.link.flush()

    await waitFor(() => expect(second.news()).toEqual(['k:a']))
    expect(first.bus.stats()).toMatchObject({ published: 1, lost: 0 })
  })
})
