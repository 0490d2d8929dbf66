import type { RedisClient } from 'spillway/redis'
import { describe, expect, test } from 'vitest'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { BusFleet, keys, type Rider, saidBy, subscribed, waitFor } from './bus-fleet.ts'
import { clusterClients } from './clients.ts'
import { endedAfterEach } from './fleets.ts'

const cluster = await startRedisCluster()
const fleet = endedAfterEach(new BusFleet(), cluster)

describe.skipIf(cluster === undefined).each(Object.entries(clusterClients))('a bus with %s, a cluster', (_, open) => {
  const connect = async (): Promise<RedisClient> => {
    const { client, close } = await open(cluster?.nodes ?? [])
    fleet.cleanUp(close)
    return client
  }

  test('reaches all, whichever node each of them listens to, in order and without a hole', async () => {
    const client = await connect()
    // By turns, so that each node has listeners.
    const riders = Array.from({ length: 6 }, (_, i) => fleet.rider(client, { random: () => (i % 3) / 3 + 0.1 }))
    await subscribed(riders)
    const clients = await Promise.all(
      [0, 1, 2].map((node) => cluster?.command(node, 'PUBSUB', 'NUMSUB', fleet.channel) ?? ''),
    )
    expect(clients.map((text) => Number(/:(\d+)\r\n$/.exec(text)?.[1]))).toEqual([2, 2, 2])
    const [first, ...others] = riders as [Rider, ...Rider[]]

    const names = Array.from({ length: 300 }, (_, i) => `key ${i}`)
    for (const [i, name] of names.entries()) {
      first.link.publish(keys(name))
      if (i % 3 === 0) await first.link.flush()
    }

    for (const other of others) {
      await waitFor(() => expect(other.news()).toHaveLength(300))
      expect(other.news()).toEqual(names.map((name) => `k:${name}`))
      expect(other.bus.stats()).toMatchObject({ holes: 0, gaps: 1 })
    }
    expect(first.bus.stats().batches).toBeGreaterThanOrEqual(100)
  })

  test('a node that ends the subscription is a gap', async () => {
    const [first, second] = [fleet.rider(await connect()), fleet.rider(await connect())] as [Rider, Rider]
    await subscribed([first, second])
    for (const node of cluster?.nodes.keys() ?? []) await cluster?.command(node, 'CLIENT', 'KILL', 'TYPE', 'pubsub')

    await waitFor(() => expect(saidBy(second, 'unsubscribed').length).toBeGreaterThanOrEqual(1))
    await waitFor(() => expect(second.gaps()).toBe(2))
    first.link.publish(keys('a'))
    await waitFor(() => expect(second.news()).toEqual(['k:a']))
  })
})
