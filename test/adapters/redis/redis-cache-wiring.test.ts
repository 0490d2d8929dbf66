import { setTimeout as delay } from 'node:timers/promises'
import { MultiLevelCache } from 'spillway'
import { RedisCacheStore, RedisInvalidationBus, RedisLock } from 'spillway/redis'
import { describe, expect, test } from 'vitest'
import { startRedis } from '../../servers/redis.ts'
import { BusFleet, waitFor } from './bus-fleet.ts'
import { singleClients } from './clients.ts'
import { endedAfterEach } from './fleets.ts'

const server = await startRedis()
const url = server?.url ?? 'redis://127.0.0.1:1'
const fleet = endedAfterEach(new BusFleet(), server)

describe.skipIf(server === undefined).each(Object.entries(singleClients))('caches over Redis with %s', (_, open) => {
  /** What one process has. */
  async function start() {
    const { client, close } = await open(url)
    fleet.cleanUp(close)
    const bus = new RedisInvalidationBus(client, { channel: fleet.channel })
    fleet.cleanUp(() => bus.close({ timeoutMs: 1000 }))
    const cache = new MultiLevelCache<string>({
      namespace: fleet.channel.replaceAll(':', '-'),
      l1: { ttlMs: 60_000 },
      l2: new RedisCacheStore(client),
      bus,
      loadLock: new RedisLock(client, { prefix: fleet.channel }),
    })
    fleet.cleanUp(() => cache.close({ timeoutMs: 1000 }))
    return { cache, bus }
  }

  test('what one writes, deletes or invalidates leaves the memory of the others at once', async () => {
    const [one, other] = [await start(), await start()]
    await Promise.all([one.cache.get('warm up'), other.cache.get('warm up')])
    await waitFor(() => expect([one.bus, other.bus].every((bus) => bus.stats().subscribed)).toBe(true))

    await one.cache.set('a', 'first', { tags: ['red'] })
    // The message of the first write may come while this reads, and keeps what it reads out of memory.
    await waitFor(async () => {
      expect(await other.cache.get('a')).toBe('first')
      expect(other.cache.peek('a')).toBe('first')
    })
    await one.cache.set('a', 'second', { tags: ['red'] })
    await waitFor(() => expect(other.cache.peek('a')).toBeUndefined())
    expect(await other.cache.get('a')).toBe('second')
    expect(one.cache.peek('a')).toBe('second')

    await other.cache.invalidateTags(['red'])
    await waitFor(() => expect(one.cache.peek('a')).toBeUndefined())
    expect(await one.cache.get('a')).toBeUndefined()
  })

  test('of many processes that miss one key, one loads it', async () => {
    const all = await Promise.all([start(), start(), start(), start()])
    let loads = 0
    const load = async (): Promise<string> => {
      loads++
      await delay(100)
      return 'loaded'
    }

    const values = await Promise.all(all.map(({ cache }) => cache.getOrLoad('a', load)))

    expect(values).toEqual(['loaded', 'loaded', 'loaded', 'loaded'])
    expect(loads).toBe(1)
  })
})
