import type { Closable } from 'spillway/process'
import { RedisCacheStore, RedisInvalidationBus } from 'spillway/redis'
import { closeAll, logToStderr, type Running } from '../running.ts'
import type { Instruments } from '../telemetry/metrics.ts'
import { type Log, text } from './counters.ts'
import type { SharedCache } from './reads.ts'
import { redisClient, type StoresOptions } from './stores.ts'

/** How long the state of a resource's tag is remembered: longer than anything that was read with it is kept. */
const markTtlMs = 60_000

/** Where gateways keep together what they have read: in Redis, where one is named. While it is away, they do without. */
export async function openSharedCache(
  { redisUrl, ...options }: StoresOptions,
  log: Log = logToStderr,
): Promise<(SharedCache & Running & { readonly instruments: Instruments }) | undefined> {
  if (redisUrl === undefined) return undefined
  const redis = await redisClient(redisUrl, options)
  await redis.connect().catch((error: unknown) => log('warn', `Redis keeps no reads yet: ${text(error)}`))
  const bus = new RedisInvalidationBus(redis, { channel: 'counters:invalidations' })
  bus.on('unsubscribed', ({ error }) => log('warn', `other gateways aren't heard, so less is kept: ${text(error)}`))
  bus.on('publishFailed', ({ error }) => log('warn', `other gateways weren't told what is invalid: ${text(error)}`))
  const parts: Closable[] = [bus, { name: 'Redis of the cache', close: async () => redis.disconnect() }]
  const l2 = new RedisCacheStore(redis, { prefix: 'counters:cache', markTtlMs })
  return { l2, bus, redis, instruments: { l2, bus }, parts, close: () => closeAll(parts) }
}
