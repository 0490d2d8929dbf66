import * as grpc from '@grpc/grpc-js'
import { TokenCache, tokenAudienceKey } from 'spillway'
import { tokenCredentials, tokenInterceptor } from 'spillway/grpc'
import { expectTypeOf } from 'vitest'

const tokens = new TokenCache(async () => ({ token: 't' }))
const keyed = new TokenCache<{ audience: string }>(async () => ({ token: 't' }), { keyOf: tokenAudienceKey })

expectTypeOf(tokenInterceptor(grpc, tokens)).toExtend<grpc.Interceptor>()
expectTypeOf(tokenCredentials(grpc, tokens)).toEqualTypeOf<grpc.CallCredentials>()
tokenInterceptor(grpc, tokens, { key: 'billing' })
tokenInterceptor(grpc, keyed, { key: { audience: 'api' } })
tokenInterceptor(grpc, keyed.forKey({ audience: 'api' }))
// @ts-expect-error: these tokens have keys
tokenInterceptor(grpc, keyed)
// @ts-expect-error: these tokens have keys
tokenCredentials(grpc, keyed, { scheme: 'Token' })
// @ts-expect-error: the module comes first
tokenInterceptor(tokens)
