import { Cluster } from 'ioredis'
import type { RedisClient } from 'spillway/redis'
import { describe, expect, test, vi } from 'vitest'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { Fleet, type Member, saidBy } from './breaker-fleet.ts'
import { clusterClients } from './clients.ts'
import { endedAfterEach } from './fleets.ts'

const cluster = await startRedisCluster()
const fleet = endedAfterEach(new Fleet(), cluster)
const waitFor = <T>(check: () => T | Promise<T>): Promise<T> => vi.waitFor(check, { timeout: 15_000, interval: 5 })

describe.skipIf(cluster === undefined).each(Object.entries(clusterClients))('RedisBreakerShare with %s', (_, open) => {
  const connect = async (): Promise<RedisClient> => {
    const { client, close } = await open(cluster?.nodes ?? [])
    fleet.cleanUp(close)
    return client
  }

  test('shares circuits that lie on different nodes', async () => {
    const names = Array.from({ length: 6 }, (_, i) => `circuit ${i}`)
    const clients = await Promise.all(names.map(connect))
    const pairs = names.map((name, i) => {
      const breaker = { name, recoveryTimeoutMs: 100 }
      const client = clients[i] as RedisClient
      return [fleet.member(client, { breaker }), fleet.member(client, { breaker })] as const
    })
    await waitFor(async () => {
      const started = await Promise.all(pairs.flat().map(({ share }) => share.start()))
      expect(started.length).toBe(12)
      expect(pairs.flat().every(({ share }) => share.stats().subscribed && share.stats().connected)).toBe(true)
    })

    for (const [first] of pairs) await first.trip()

    for (const [, second] of pairs) await waitFor(() => expect(second.changes).toEqual(['requested']))
    for (const [first, second] of pairs) {
      await waitFor(async () => expect(await second.call()).toBe(true))
      await waitFor(() => expect(first.breaker.state).toBe('closed'))
      expect(saidBy(second, 'leased')).toHaveLength(1)
    }
  })

  test('a node that ends the subscription is no loss', async () => {
    const [first, second] = [fleet.member(await connect()), fleet.member(await connect())] as [Member, Member]
    await Promise.all([first.share.start(), second.share.start()])
    await waitFor(() => expect([first, second].map(({ share }) => share.stats().subscribed)).toEqual([true, true]))
    for (const node of cluster?.nodes.keys() ?? []) await cluster?.command(node, 'CLIENT', 'KILL', 'TYPE', 'pubsub')
    await waitFor(() => expect(saidBy(second, 'unsubscribed').length).toBeGreaterThanOrEqual(1))

    await first.trip()

    await waitFor(() => expect(second.breaker.state).toBe('open'))
    await waitFor(() => expect(second.share.stats().subscribed).toBe(true))
  })
})

test.skipIf(cluster === undefined)('a cluster that cannot be reached yet is tried again', async () => {
  const [node] = cluster?.nodes ?? []
  const client = new Cluster([{ host: '127.0.0.1', port: node?.port as number }], { lazyConnect: true })
  fleet.cleanUp(() => client.disconnect())
  const member = fleet.member(client, { share: { syncMs: 50 } })

  await member.share.start()

  await waitFor(() => expect(member.share.stats()).toMatchObject({ connected: true, subscribed: true }))
})
