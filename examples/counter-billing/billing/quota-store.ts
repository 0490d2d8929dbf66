import type { QuotaStore } from 'spillway'
import { PostgresQuotaStore } from 'spillway/postgres'
import { RedisQuotaStore } from 'spillway/redis'
import type { Database } from '../counter/database.ts'
import { connectRedis, type StoresOptions } from '../counter/stores.ts'
import type { Instruments } from '../telemetry/metrics.ts'

/** Where uses are counted. */
export interface QuotaStorage {
  readonly store: QuotaStore
  /** What it is, for people. */
  readonly title: string
  /** What can be measured of it. */
  readonly instruments: Instruments
  close(): Promise<void>
}

/**
 * Opens the quota store that all processes of an installation come to by themselves: in the PostgreSQL that is named, else in the
 * Redis that is, else beside the money in PGlite. It tells the events of a stream apart, so that each counts once.
 */
export async function openQuotaStore(
  { databaseUrl, redisUrl, ...options }: StoresOptions,
  database: Database | undefined,
): Promise<QuotaStorage> {
  if (databaseUrl === undefined && redisUrl !== undefined) {
    const redis = await connectRedis(redisUrl, options)
    const store = new RedisQuotaStore(redis, { prefix: 'billing', dedupe: 'event' })
    const title = `Redis at ${new URL(redisUrl).host}`
    return { store, title, instruments: {}, close: async () => redis.disconnect() }
  }
  if (database === undefined) throw new Error('REDIS_URL or DATABASE_URL must name a server that counts uses')
  const store = new PostgresQuotaStore(database.client, { dedupe: 'event' })
  await store.createSchema()
  return { store, title: database.title, instruments: { uses: store }, close: async () => undefined }
}
