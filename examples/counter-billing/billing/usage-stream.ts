import type { QuotaStore } from 'spillway'
import type { Closable } from 'spillway/process'
import { RedisUsageStream, RedisUsageWorker } from 'spillway/redis'
import { type Log, text } from '../counter/counters.ts'
import { connectRedis, type StoresOptions } from '../counter/stores.ts'
import { closeAll, logToStderr, type Running } from '../running.ts'
import { periodOf, type Tariff } from './tariff.ts'

export interface UsageStreamOptions {
  readonly stores: StoresOptions
  readonly tariff: Tariff
}

/** The stream through which gateways hand usage on to workers. */
export async function openUsageStream(options: UsageStreamOptions): Promise<Running & { stream: RedisUsageStream }> {
  const { redisUrl, ...others } = options.stores
  if (redisUrl === undefined) throw new Error('REDIS_URL must name the server that has the stream of usage')
  const redis = await connectRedis(redisUrl, others)
  const stream = new RedisUsageStream(redis, {
    prefix: 'billing:usage',
    periodOf: (quotaType) => periodOf(options.tariff, quotaType),
  })
  const parts: Closable[] = [stream, { name: 'Redis', close: async () => redis.disconnect() }]
  return { stream, parts, close: () => closeAll(parts) }
}

/** Accounts what gateways publish, beside any number of other workers. Whoever opened stream and store closes them, after it. */
export async function startUsageWorker(
  stream: RedisUsageStream,
  store: QuotaStore,
  log: Log = logToStderr,
): Promise<Running & { worker: RedisUsageWorker }> {
  const worker = new RedisUsageWorker(stream, store)
  worker.on('writeFailed', ({ events, error, next }) => log('warn', `${events} uses failed (${text(error)}): ${next}`))
  worker.on('deadLettered', ({ entryId, reason }) => log('error', `${entryId} is in the dead letters: ${reason}`))
  worker.on('unhealthy', ({ reason, error }) => log('warn', `usage isn't accounted (${reason}): ${text(error)}`))
  worker.on('recovered', () => log('info', 'usage is accounted again'))
  let accounted = 0
  worker.on('applied', ({ events, refused }) => {
    accounted += events - refused
  })
  await worker.start()
  const report: Closable = {
    name: 'report',
    close: async () => log('info', `a usage worker accounted ${accounted} events`),
  }
  const parts = [worker, report]
  return { worker, parts, close: () => closeAll(parts) }
}
