import type { Redis } from 'ioredis'
import { type AnswerStore, MemoryAnswers } from './answer-stores.ts'
import type { Log } from './counters.ts'
import type { Database } from './database.ts'
import { DatabaseAnswers } from './database-answers.ts'
import { RedisAnswers } from './redis-answers.ts'

/** Where what was answered under keys is safest: in the database, else in Redis, else in memory. */
export async function openAnswers(
  { database, redis }: { readonly database?: Database | undefined; readonly redis?: Redis | undefined },
  log: Log,
): Promise<AnswerStore> {
  if (database !== undefined) return DatabaseAnswers.open(database, log)
  return redis === undefined ? new MemoryAnswers() : new RedisAnswers(redis)
}
