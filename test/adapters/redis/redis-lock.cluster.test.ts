import type { RedisClient } from 'spillway/redis'
import { describe, expect, test } from 'vitest'
import { startRedisCluster } from '../../servers/redis-cluster.ts'
import { clusterClients } from './clients.ts'
import { slotOf, slotPlaces } from './cluster-slots.ts'
import { endedAfterEach } from './fleets.ts'
import { aborted, granted, type Locker, LockFleet } from './lock-fleet.ts'

const cluster = await startRedisCluster()
const fleet = endedAfterEach(new LockFleet(), cluster)

describe.skipIf(cluster === undefined).each(Object.entries(clusterClients))(
  'RedisLock with %s, a cluster',
  (_, open) => {
    const connect = async (): Promise<RedisClient> => {
      const { client, close } = await open(cluster?.nodes ?? [])
      fleet.cleanUp(close)
      return client
    }

    test('locks names on different nodes, each for one at a time', async () => {
      const clients = await Promise.all([connect(), connect(), connect()])
      const lockers = clients.map((client) => fleet.locker(client, { pollMs: 2, maxPollMs: 20 }))
      const names = Array.from({ length: 6 }, (_, i) => `name ${i}`)
      const inside = new Map<string, number>()
      const tokens = new Map<string, number[]>(names.map((name) => [name, []]))
      let most = 0

      await Promise.all(
        lockers.flatMap(({ lock }) =>
          names.map(async (name) => {
            for (let i = 0; i < 5; i++) {
              await lock.run(
                name,
                async ({ token }) => {
                  const now = (inside.get(name) ?? 0) + 1
                  inside.set(name, now)
                  most = Math.max(most, now)
                  tokens.get(name)?.push(token)
                  await new Promise((resolve) => setTimeout(resolve, 1))
                  inside.set(name, (inside.get(name) ?? 0) - 1)
                },
                { waitMs: 15_000 },
              )
            }
          }),
        ),
      )

      expect(most).toBe(1)
      for (const all of tokens.values()) {
        expect(all).toHaveLength(15)
        expect(all).toEqual([...new Set(all)].sort((a, b) => a - b))
      }
    })

    test('extends, loses and follows a slot that moves', async () => {
      const [first, second] = (await Promise.all([connect(), connect()])).map((client) =>
        fleet.locker(client, { ttlMs: 800 }),
      ) as [Locker, Locker]
      const lease = granted(await first.lock.acquire('moving'))
      const slot = await slotOf(cluster, fleet.keyOf('moving'))
      const from = (await slotPlaces(cluster))(slot)
      await cluster?.moveSlot(slot, from, (from + 1) % 3)

      await new Promise((resolve) => setTimeout(resolve, 1800))

      expect([lease.held, await second.lock.acquire('moving')]).toEqual([true, undefined])
      expect(await lease.release()).toBe(true)
      const next = granted(await second.lock.acquire('moving', { waitMs: 5000 }))
      expect(next.token).toBeGreaterThan(lease.token)
      for (const node of cluster?.nodes.keys() ?? []) await cluster?.command(node, 'FLUSHALL')
      await aborted(next.signal)
      expect(await next.release()).toBe(false)
    })
  },
)
