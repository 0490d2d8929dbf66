import type { Redis } from 'ioredis'

/** How many scripts a server has run, by their hashes. */
export async function scriptCalls(redis: Redis): Promise<number> {
  const [, calls] = /cmdstat_evalsha:calls=(\d+)/.exec(await redis.info('commandstats')) ?? []
  return Number(calls ?? 0)
}
