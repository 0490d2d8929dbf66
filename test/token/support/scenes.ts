import { TokenCache, type TokenCacheOptions } from 'spillway'
import { expect } from 'vitest'
import { always, Identity, minutes } from './identity.js'

/** A cache on an identity provider that waits for the test, with no jitter unless options say so. */
export function setUp(options: TokenCacheOptions<string> = {}) {
  const identity = new Identity()
  const tokens = new TokenCache(identity.fetchToken, { clock: identity.clock, random: always(0), ...options })
  return { identity, clock: identity.clock, tokens }
}

/** Lets a new cache fetch its first token, which lasts an hour. */
export async function withHour<M extends ReturnType<typeof setUp>>(made: M): Promise<M> {
  const first = made.tokens.get()
  await made.identity.last.give('t1', { expiresInMs: minutes(60) })
  expect(await first).toBe('t1')
  return made
}

/** A cache with a token of an hour. */
export const withToken = (options?: TokenCacheOptions<string>) => withHour(setUp(options))
