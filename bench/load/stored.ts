import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import pg from 'pg'
import { RedisCounterStore } from 'spillway/redis'

/** Where a target's sums are to be looked up. */
export interface Places {
  /** A table of counters in Postgres. */
  readonly table?: string
  /** Plain Redis keys with this prefix, or those of `RedisCounterStore`. */
  readonly redis?: { readonly prefix: string } | 'spillway'
}

/** Reads what the stores hold, past all targets. */
export class Stored {
  readonly #pool: pg.Pool
  readonly #redis: Redis
  readonly #counters: RedisCounterStore

  constructor(databaseUrl: string, redisUrl: string) {
    this.#pool = new pg.Pool({ connectionString: databaseUrl, max: 1 })
    this.#redis = new Redis(redisUrl)
    this.#counters = new RedisCounterStore(this.#redis)
  }

  /** The sums of a run in each place, once they don't change any more or have reached `expected`. */
  async settled(places: Places, prefix: string, keys: number, expected: number): Promise<number[]> {
    const deadline = performance.now() + 20_000
    for (let before: number[] = []; ; await delay(300)) {
      const now = await this.#sums(places, prefix, keys)
      const quiet = now.every((sum, index) => sum === before[index] && sum >= expected)
      if (quiet || performance.now() > deadline) return now
      before = now
    }
  }

  async close(): Promise<void> {
    await this.#pool.end()
    this.#redis.disconnect()
  }

  async #sums({ table, redis }: Places, prefix: string, keys: number): Promise<number[]> {
    const sums: number[] = []
    if (table !== undefined) {
      const query = `SELECT coalesce(sum(value), 0) AS sum FROM ${table} WHERE starts_with(key, $1)`
      sums.push(Number((await this.#pool.query(query, [prefix])).rows[0]?.sum))
    }
    if (redis !== undefined) {
      const names = Array.from({ length: keys }, (_, index) => `${prefix}${index + 1}:view`)
      const values =
        redis === 'spillway'
          ? await this.#counters.getMany(names)
          : await this.#redis.mget(names.map((name) => redis.prefix + name))
      sums.push(values.reduce<number>((sum, value) => sum + Number(value ?? 0), 0))
    }
    return sums
  }
}
