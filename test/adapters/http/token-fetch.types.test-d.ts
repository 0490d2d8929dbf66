import { TokenCache, tokenAudienceKey } from 'spillway'
import { type FetchFunction, type HttpTokenSource, tokenFetch } from 'spillway/http'
import { expectTypeOf } from 'vitest'

const tokens = new TokenCache(async () => ({ token: 't' }))
const keyed = new TokenCache<{ audience: string }>(async () => ({ token: 't' }), { keyOf: tokenAudienceKey })
declare const source: HttpTokenSource

expectTypeOf(tokenFetch(tokens)).toEqualTypeOf<FetchFunction>()
expectTypeOf(tokenFetch(tokens)('https://api.example.com')).toEqualTypeOf<Promise<Response>>()
tokenFetch(tokens, { key: 'billing' })
tokenFetch(source)
tokenFetch(keyed, { key: { audience: 'api' } })
tokenFetch(keyed.forKey({ audience: 'api' }))
// @ts-expect-error: these tokens have keys
tokenFetch(keyed)
// @ts-expect-error: this is no such key
tokenFetch(keyed, { key: 'api' })
// @ts-expect-error: a cache is needed
tokenFetch({ get: () => 't' })

// It goes where the global fetch goes.
const plain: typeof fetch = tokenFetch(tokens)
tokenFetch(tokens, { fetch: plain })
tokenFetch(tokens, { fetch })
tokenFetch(tokens, { fetch: tokenFetch(tokens) })
