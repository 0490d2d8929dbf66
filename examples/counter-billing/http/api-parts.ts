import type { Redis } from 'ioredis'
import type { Closable } from 'spillway/process'
import { ApiKeyTable } from '../auth/api-key-table.ts'
import { ApiKeys } from '../auth/api-keys.ts'
import type { Log } from '../counter/counters.ts'
import type { Database } from '../counter/database.ts'
import { type AnswerStore, MemoryAnswers } from '../idempotency/answer-stores.ts'
import { DatabaseAnswers } from '../idempotency/database-answers.ts'
import { RedisAnswers } from '../idempotency/redis-answers.ts'
import type { Instruments } from '../telemetry/metrics.ts'
import type { ApiSettings } from './api-options.ts'
import { RequestCounts } from './request-counts.ts'

/** Where the HTTP face keeps what it must know beside the counters. */
export interface ApiPlaces {
  readonly database?: Database | undefined
  readonly redis?: Redis | undefined
}

/** What the HTTP face knows of its callers. */
export interface ApiParts {
  /** What was answered under keys. */
  readonly answers: AnswerStore
  /** Users by their API keys; nobody has one without a database, unless the configuration does. */
  readonly keys: ApiKeys | undefined
  /** How many requests callers make, where that is limited. */
  readonly counts: RequestCounts | undefined
  readonly instruments: Instruments
  /** What is open, in the order in which to close it. */
  readonly parts: readonly Closable[]
}

/** Opens what the HTTP face keeps: in the database, else in Redis, else in memory; requests are counted in Redis. */
export async function openApiParts(
  { database, redis }: ApiPlaces,
  { rateLimit, apiKeys }: ApiSettings,
  log: Log,
): Promise<ApiParts> {
  const answers = await openAnswers({ database, redis }, log)
  const table = database && (await ApiKeyTable.open(database))
  const { keys: configured, cacheMs } = apiKeys
  const keys = table === undefined && configured.length === 0 ? undefined : new ApiKeys({ table, configured, cacheMs })
  const counts = rateLimit && new RequestCounts(rateLimit.windowMs, redis, log)
  return {
    ...{ answers, keys, counts },
    instruments: {
      ...(keys !== undefined && { 'api keys': keys.cache }),
      ...(counts?.telling !== undefined && { 'request counts': counts.telling }),
    },
    parts: [answers, ...(keys === undefined ? [] : [keys]), ...(counts?.telling === undefined ? [] : [counts.telling])],
  }
}

async function openAnswers({ database, redis }: ApiPlaces, log: Log): Promise<AnswerStore> {
  if (database !== undefined) return DatabaseAnswers.open(database, log)
  return redis === undefined ? new MemoryAnswers() : new RedisAnswers(redis)
}
