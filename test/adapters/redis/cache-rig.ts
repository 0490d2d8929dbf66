import { randomUUID } from 'node:crypto'
import type { CachedValue, CacheWrite, CacheWriteOutcome } from 'spillway'
import type { RedisCacheStore } from 'spillway/redis'

/** A write of a value that is kept for an hour. */
export function writeOf(
  store: RedisCacheStore,
  key: string,
  value: unknown,
  more: Partial<CacheWrite> = {},
): CacheWrite {
  return { key, value: store.encode(value), freshMs: 3_600_000, keptMs: 3_600_000, marks: [], ...more }
}

/** Writes one key. */
export async function put(
  store: RedisCacheStore,
  key: string,
  value: unknown,
  more?: Partial<CacheWrite>,
): Promise<CacheWriteOutcome> {
  return only(await store.setMany([writeOf(store, key, value, more)]))
}

/** Reads one key. */
export async function get(store: RedisCacheStore, key: string): Promise<CachedValue> {
  return only(await store.getMany([key]))
}

/** Deletes one key. */
export async function remove(store: RedisCacheStore, key: string): Promise<string> {
  return only(await store.deleteMany([key]))
}

/** The one answer of a call. */
export function only<T>(answers: readonly (T | Error)[]): T {
  const [answer] = answers
  if (answers.length !== 1 || answer instanceof Error) throw answer ?? new Error(`${answers.length} answers`)
  return answer as T
}

/** What a call was rejected with. */
export async function errorOf(call: PromiseLike<unknown>): Promise<Error & { readonly code?: string }> {
  const outcome = await Promise.resolve(call).then(
    (value) => ({ value }),
    (error: Error) => ({ error }),
  )
  if ('error' in outcome) return outcome.error
  throw new Error(`it was answered: ${JSON.stringify(outcome.value)}`)
}

/** What all keys of one test begin with. */
export const somePrefix = (): string => `test:${randomUUID()}`
