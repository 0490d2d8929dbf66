import {
  type ClosableComponent,
  TokenCache,
  type TokenCacheEvents,
  type TokenCacheStats,
  tokenAudienceKey,
} from 'spillway'
import type { HttpTokenSource } from 'spillway/http'
import { expectTypeOf } from 'vitest'

const tokens = new TokenCache(async () => ({ token: 't' }))

expectTypeOf(tokens).toEqualTypeOf<TokenCache<string>>()
expectTypeOf(tokens).toExtend<ClosableComponent<TokenCacheEvents<string>, TokenCacheStats>>()
expectTypeOf(tokens.get()).toEqualTypeOf<Promise<string>>()
expectTypeOf(tokens.get('a', { signal: new AbortController().signal })).toEqualTypeOf<Promise<string>>()
expectTypeOf(tokens.invalidate('t')).toEqualTypeOf<void>()
expectTypeOf(tokens.stats()).toEqualTypeOf<TokenCacheStats>()
// @ts-expect-error: keys are strings
tokens.get(7)

// What createHttpClient asks for.
expectTypeOf(tokens).toExtend<HttpTokenSource>()

new TokenCache((key, context) => {
  expectTypeOf(key).toEqualTypeOf<string>()
  expectTypeOf(context.signal).toEqualTypeOf<AbortSignal>()
  expectTypeOf(context.previous).toEqualTypeOf<string | undefined>()
  return { token: 't', expiresAt: new Date() }
})
// @ts-expect-error: a token is a string
new TokenCache(() => ({ token: 7 }))
// @ts-expect-error: there must be a token
new TokenCache(() => ({ expiresInMs: 1 }))

interface Wanted {
  readonly audience: string
  readonly scopes?: readonly string[]
}
const keyed = new TokenCache(async ({ audience }: Wanted) => ({ token: audience }), { keyOf: tokenAudienceKey })
expectTypeOf(keyed).toEqualTypeOf<TokenCache<Wanted>>()
expectTypeOf(keyed.get({ audience: 'api' })).toEqualTypeOf<Promise<string>>()
// @ts-expect-error: there is no key to default to
keyed.get()
expectTypeOf(keyed).not.toExtend<HttpTokenSource>()
expectTypeOf(keyed.forKey({ audience: 'api' })).toExtend<HttpTokenSource>()
// @ts-expect-error: keys that aren't strings need keyOf
new TokenCache<Wanted>(async () => ({ token: 't' }))
// @ts-expect-error: keys that aren't strings need keyOf
new TokenCache<Wanted>(async () => ({ token: 't' }), { capacity: 5 })
new TokenCache<Wanted>(async () => ({ token: 't' }), { keyOf: (key) => key.audience })

const optional = new TokenCache<Wanted | undefined>(async () => ({ token: 't' }), {
  keyOf: (key) => key?.audience ?? '',
})
expectTypeOf(optional.get()).toEqualTypeOf<Promise<string>>()
const literal = new TokenCache<'a' | 'b'>(async () => ({ token: 't' }))
// @ts-expect-error: no key is none of these
literal.get()
literal.get('a')

keyed.on('refreshed', ({ key, expiresAt }) => {
  expectTypeOf(key).toEqualTypeOf<Wanted>()
  expectTypeOf(expiresAt).toEqualTypeOf<number>()
})
