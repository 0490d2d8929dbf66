import type { CounterStore } from 'spillway'
import type { Closable } from 'spillway/process'
import { RedisCounterStore } from 'spillway/redis'
import { type Database, openDatabase } from '../counter/database.ts'
import { connectRedis, type Stores, type StoresOptions } from '../counter/stores.ts'
import { closeAll } from '../running.ts'

/** Asks the stores themselves for the sum of some counters: past every buffer, every cache and every fault. */
export class StoredSums implements Closable {
  readonly name = 'sums'
  readonly #live: CounterStore
  readonly #database: Pick<Database, 'query'>
  readonly #opened: readonly Closable[]

  private constructor(live: CounterStore, database: Pick<Database, 'query'>, opened: readonly Closable[]) {
    this.#live = live
    this.#database = database
    this.#opened = opened
  }

  /** With connections of its own to servers that are named; what is in this process is asked as it is. */
  static async open({ redisUrl, databaseUrl, onError }: StoresOptions, stores: Stores): Promise<StoredSums> {
    const opened: Closable[] = []
    let { live, database } = stores
    if (redisUrl !== undefined) {
      const redis = await connectRedis(redisUrl, { onError })
      opened.push({ name: 'Redis', close: async () => redis.disconnect() })
      live = new RedisCounterStore(redis)
    }
    if (databaseUrl !== undefined) {
      database = await openDatabase({ url: databaseUrl, onError })
      opened.push(database)
    }
    return new StoredSums(live, database, opened)
  }

  /** Nothing of a store that doesn't answer. */
  async of(keys: readonly string[]): Promise<{ live: number | undefined; durable: number | undefined }> {
    const statement = 'SELECT coalesce(sum(value), 0) AS sum FROM spillway_counters WHERE key = ANY($1)'
    const [live, durable] = await Promise.allSettled([
      this.#live.getMany(keys),
      this.#database.query<{ sum: unknown }>(statement, [keys]),
    ])
    return {
      live: live.status === 'fulfilled' ? live.value.reduce((sum, value) => sum + value, 0) : undefined,
      durable: durable.status === 'fulfilled' ? Number(durable.value[0]?.sum ?? 0) : undefined,
    }
  }

  close(): Promise<void> {
    return closeAll(this.#opened)
  }
}
