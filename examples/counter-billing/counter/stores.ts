import { randomBytes } from 'node:crypto'
import type { Redis } from 'ioredis'
import type { CounterStore } from 'spillway'
import { PostgresCounterStore } from 'spillway/postgres'
import { RedisCounterStore } from 'spillway/redis'
import { MemoryCounterStore } from 'spillway/testing'
import { BegunCounterStore, keyedBatchesIn, rememberKeyed } from '../idempotency/keyed-batches.ts'
import type { Instruments } from '../telemetry/metrics.ts'
import { type Database, openDatabase, type PoolOptions } from './database.ts'
import { type CounterListing, DatabaseListing } from './listing.ts'

/** Where counters are kept. */
export interface CounterStores {
  readonly live: CounterStore
  readonly durable: CounterStore
  /** Lists what the durable one has. */
  readonly listing: CounterListing
  /** What they are, for people. */
  readonly title: string
  close(): Promise<void>
}

/** Stores that this process has itself. */
export interface Stores extends CounterStores {
  readonly database: Database
  /** What can be measured of them. */
  readonly instruments: Instruments
}

export interface StoresOptions {
  /** A Redis server for the live values: `redis://host:port`. Without it, they are in this process's memory. */
  redisUrl?: string | undefined
  /** A PostgreSQL server for the durable values. Without it, PGlite runs inside the process. */
  databaseUrl?: string | undefined
  /** Where PGlite keeps its data. Without it, in memory only. */
  dataDir?: string | undefined
  /** Told of connections that break while nobody uses them. */
  onError?: ((error: Error) => void) | undefined
  /** From how many milliseconds on a query is slow, in place of what is usual, and who is told of it. */
  slowQueryMs?: number | undefined
  onSlow?: ((message: string) => void) | undefined
  /** Sign the cursors of listings, the first one all new ones. By default cursors are good as long as this process lives. */
  cursorSecrets?: readonly string[] | undefined
  /** The most counters of a page. */
  maxPageSize?: number | undefined
  /** Whether a server is asked for the plans of slow queries; it is by default. */
  explain?: boolean | undefined
  /** The connections to a PostgreSQL server. */
  pool?: PoolOptions | undefined
  /** The connections to Redis. */
  redis?: RedisConnectionOptions | undefined
}

export interface RedisConnectionOptions {
  connectTimeoutMs?: number | undefined
  /** How long a command may take before it counts as failed. */
  commandTimeoutMs?: number | undefined
  /** How long a connection is idle before the system probes it. */
  keepAliveMs?: number | undefined
}

/** Opens both stores and makes what they need. */
export async function openStores(options: StoresOptions = {}): Promise<Stores> {
  const { redisUrl, cursorSecrets, maxPageSize } = options
  const database = await openDatabase({ url: options.databaseUrl, ...options })
  try {
    const durable = new PostgresCounterStore(database.client)
    await durable.createSchema()
    const listing = new DatabaseListing(database, cursorSecrets ?? [randomBytes(32)], maxPageSize)
    await listing.createSchema()
    const keyed = await rememberKeyed(durable, database)
    const live = redisUrl === undefined ? await openMemory(database) : await openRedis(redisUrl, options)
    return {
      live: live.store,
      durable: keyed,
      listing,
      database,
      instruments: { ...database.instruments, counters: durable, listing: listing.pages },
      title: `${live.title} and ${database.title}`,
      close: async () => {
        await live.close()
        await database.close()
      },
    }
  } catch (error) {
    await database.close()
    throw error
  }
}

interface LiveStore {
  readonly store: CounterStore
  readonly title: string
  close(): Promise<void>
}

/** How to connect, and who is told of a connection that breaks. */
export type RedisClientOptions = Pick<StoresOptions, 'redis' | 'onError'>

/** A connection to Redis. Commands fail at once while it is broken: what batches them tries again, and no queue grows here. */
export async function connectRedis(url: string, options: RedisClientOptions = {}): Promise<Redis> {
  const redis = await redisClient(url, options)
  try {
    await redis.connect()
    return redis
  } catch (error) {
    // It would go on to try, and keep a process alive that has given up.
    redis.disconnect()
    throw error
  }
}

/** The same before it is connected, which `connect` does, and goes on to try where it fails. */
export async function redisClient(url: string, options: RedisClientOptions = {}): Promise<Redis> {
  const { onError = () => undefined } = options
  const { connectTimeoutMs = 10_000, commandTimeoutMs = 5_000, keepAliveMs = 0 } = options.redis ?? {}
  const { Redis } = await import('ioredis')
  const redis = new Redis(url, {
    lazyConnect: true,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    connectTimeout: connectTimeoutMs,
    commandTimeout: commandTimeoutMs,
    keepAlive: keepAliveMs,
  })
  redis.on('error', onError)
  return redis
}

async function openRedis(url: string, options: StoresOptions): Promise<LiveStore> {
  const redis = await connectRedis(url, options)
  return {
    store: new RedisCounterStore(redis),
    title: `Redis at ${new URL(url).host}`,
    close: async () => redis.disconnect(),
  }
}

/** Nobody else writes to these, so the live values can begin as the durable ones. */
async function openMemory(database: Database): Promise<LiveStore> {
  const rows = await database.query<{ key: string; value: unknown }>('SELECT key, value FROM spillway_counters')
  const initial = rows.map(({ key, value }): [string, number] => [key, Number(value)])
  const store = new BegunCounterStore(new MemoryCounterStore({ initial }), await keyedBatchesIn(database))
  return { store, title: 'memory', close: async () => undefined }
}
