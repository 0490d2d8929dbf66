import { BreakerRegistry, CircuitBreaker, LoadBalancer } from 'spillway'
import {
  createHttpClient,
  type HttpClient,
  type HttpInstance,
  type HttpResponse,
  type HttpStreamResponse,
  type HttpTokenSource,
} from 'spillway/http'
import * as undici from 'undici'
import { expectTypeOf } from 'vitest'

// The module itself, its default export's parts, and what the design's primitives look like.
const client = createHttpClient(undici)
expectTypeOf(client).toEqualTypeOf<HttpClient>()
createHttpClient({ Agent: undici.Agent, Pool: undici.Pool, Client: undici.Client })
createHttpClient(undici, { breaker: new CircuitBreaker() })
createHttpClient(undici, { breaker: new BreakerRegistry() })
createHttpClient(undici, { balancer: new LoadBalancer<HttpInstance>([]) })
createHttpClient(undici, { balancer: new LoadBalancer([{ id: 'a', host: 'h', port: 1, weight: 2 }]) })
createHttpClient(undici, { dispatcher: new undici.Agent(), baseUrl: new URL('http://x'), retry: undefined })

/** The shape of TokenCache, whatever its key. */
declare const strings: {
  get(key?: string, options?: { signal?: AbortSignal }): Promise<string>
  invalidate(token: string): void
}
declare const numbers: {
  get(key?: number, options?: { signal?: AbortSignal | undefined }): Promise<string>
  invalidate(token: string): void
}
expectTypeOf(numbers).toExtend<HttpTokenSource>()
createHttpClient(undici, { token: strings, tokenOrigins: ['http://x'] })

expectTypeOf(client.request('/')).toEqualTypeOf<Promise<HttpResponse>>()
expectTypeOf(client.stream('/')).toEqualTypeOf<Promise<HttpStreamResponse>>()
expectTypeOf(client.get(new URL('http://x'))).toEqualTypeOf<Promise<HttpResponse>>()
declare const response: HttpResponse
expectTypeOf(response.json()).toEqualTypeOf<unknown>()
expectTypeOf(response.json<{ a: number }>()).toEqualTypeOf<{ a: number }>()

client.post('/', { json: { any: 'thing' }, query: { a: 1, b: ['x', true, 2n], c: undefined } })
client.on('retried', ({ attempt, delayMs }) => expectTypeOf(attempt + delayMs).toEqualTypeOf<number>())

// @ts-expect-error the method of get is GET
client.get('/', { method: 'POST' })
// @ts-expect-error there is no such event
client.on('lost', () => undefined)
// @ts-expect-error a header is a string
client.get('/', { headers: { a: 1 } })
// @ts-expect-error a body is no number
client.post('/', { body: 7 })
// @ts-expect-error an instance needs an address
createHttpClient(undici, { balancer: new LoadBalancer([{ id: 'a' }]) })
// @ts-expect-error undici is required
createHttpClient()
