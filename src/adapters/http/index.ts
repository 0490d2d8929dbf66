export type { HttpBalancer, HttpBreaker, HttpBreakers, HttpInstance, HttpTokenSource } from './composition.js'
export type { OriginStats, Undici } from './connections.js'
export {
  createHttpClient,
  HttpClient,
  type HttpClientEvents,
  type HttpClientStats,
  type StatusClass,
} from './http-client.js'
export { HttpError, HttpStatusError } from './http-error.js'
export {
  type HttpBody,
  type HttpClientOptions,
  type HttpQueryValue,
  type HttpRequestOptions,
  httpClientDefaults,
} from './http-options.js'
export { type HttpHead, HttpResponse, type HttpResponseHeaders, HttpStreamResponse } from './http-response.js'
export type { HttpHeaders } from './request-headers.js'
export {
  type FetchFunction,
  type HttpKeyedTokenSource,
  type TokenFetchOptions,
  type TokenFetchSetting,
  tokenFetch,
  tokenFetchDefaults,
} from './token-fetch.js'
