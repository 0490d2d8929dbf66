import type { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import type { ComponentOptions } from '../../core/component.js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkFunction,
  checkOptionalFunction,
  checkOptions,
  failOption,
  maxCount,
  valueOr,
} from '../../core/options.js'
import { type RetryOptions, type RetryPolicy, resolveRetry } from '../../core/retry.js'
import type { HttpBalancer, HttpBreaker, HttpBreakers, HttpTokenSource } from './composition.js'
import type { HttpHead } from './http-response.js'
import { type HttpHeaders, resolveHeaders } from './request-headers.js'

/** Options of `createHttpClient`. */
export interface HttpClientOptions extends ComponentOptions {
  /** What paths are relative to, its own path included: `/users` under `https://host/v1` is `https://host/v1/users`. */
  baseUrl?: string | URL | undefined
  /** Headers of every request; those of a request win. */
  headers?: HttpHeaders | undefined
  /**
   * The most connections to one origin; what finds none free waits in a queue.
   * @defaultValue 20
   */
  connectionsPerOrigin?: number | undefined
  /**
   * The most idle connections, those to all origins together. The one that was idle for longest is closed first.
   * @defaultValue 100
   */
  maxIdleConnections?: number | undefined
  /**
   * How long a connection may be idle before it is closed, in milliseconds, at least 1. A server that announces less
   * (`Keep-Alive: timeout=5`) is obeyed.
   * @defaultValue 90_000
   */
  keepAliveMs?: number | undefined
  /**
   * Whether HTTP/2 is spoken to `https` origins that offer it.
   * @defaultValue true
   */
  allowH2?: boolean | undefined
  /**
   * The most requests at a time on one HTTP/2 connection; beyond it another connection is opened.
   * @defaultValue 100
   */
  maxStreamsPerConnection?: number | undefined
  /**
   * The most requests that are accepted and not yet settled; more are refused with `FullError`.
   * @defaultValue 10_000
   */
  capacity?: number | undefined
  /**
   * How long a connection may take to be made, TLS included, in milliseconds, at least 1; kept by undici, to about a
   * second.
   * @defaultValue 5000
   */
  connectTimeoutMs?: number | undefined
  /**
   * How long the server may take from the request to the response's head, in milliseconds; 0 is for ever. Kept by
   * undici, to about a second.
   * @defaultValue 30_000
   */
  headersTimeoutMs?: number | undefined
  /**
   * How long the server may be silent within a body, in milliseconds; 0 is for ever. Kept by undici, to about a second.
   * @defaultValue 30_000
   */
  bodyTimeoutMs?: number | undefined
  /**
   * How long one attempt may take, in milliseconds, the wait for a connection and the body included; of a streamed
   * request, until the response's head is there. 0 is for ever.
   * @defaultValue 30_000
   */
  timeoutMs?: number | undefined
  /**
   * How long a request may take in all, in milliseconds: token, attempts, waits and body, a streamed one too. 0 is for
   * ever.
   * @defaultValue 0
   */
  totalTimeoutMs?: number | undefined
  /**
   * The most bytes of a response's body that are held; a larger one fails with `TooLargeError`. Streamed bodies have no
   * limit.
   * @defaultValue 10_485_760
   */
  maxResponseBytes?: number | undefined
  /**
   * Whether a status from 400 on, once retries are over, rejects with `HttpStatusError` instead of being answered.
   * @defaultValue false
   */
  throwOnError?: boolean | undefined
  /**
   * How failed attempts are made again, where that does no harm. Without it there is one attempt; what it leaves out is
   * `{ attempts: 3, delayMs: 100, maxDelayMs: 5000 }`. `retryable` may only forbid more.
   */
  retry?: RetryOptions | undefined
  /**
   * The statuses that are worth a retry.
   * @defaultValue [408, 429, 502, 503, 504]
   */
  retryStatuses?: readonly number[] | undefined
  /**
   * The longest `Retry-After` that is waited for, in milliseconds. A server that asks for more isn't asked again.
   * @defaultValue 10_000
   */
  maxRetryAfterMs?: number | undefined
  /** A circuit breaker for all requests, or one for each origin. */
  breaker?: HttpBreaker | HttpBreakers | undefined
  /**
   * Whether a breaker and a balancer count an answer as a failure. By default 429 and everything from 500 on are. To a
   * balancer what is in `retryStatuses` is one too.
   */
  isFailure?: ((response: HttpHead) => boolean) | undefined
  /** Where the token of each request comes from. */
  token?: HttpTokenSource | undefined
  /**
   * The header that carries the token.
   * @defaultValue 'authorization'
   */
  tokenHeader?: string | undefined
  /**
   * What stands before the token, a space between; nothing if it is empty.
   * @defaultValue 'Bearer'
   */
  tokenScheme?: string | undefined
  /** The origins that get the token. The default is that of `baseUrl`; the instances of `balancer` always do. */
  tokenOrigins?: readonly string[] | undefined
  /** Chooses the instance of each attempt; requests then name paths only, and `baseUrl` gives protocol and path. */
  balancer?: HttpBalancer | undefined
  /**
   * A dispatcher of undici that is used in place of an Agent of the client's own, for instance a ProxyAgent. It isn't
   * closed, and the options about connections don't apply.
   */
  dispatcher?: Dispatcher | undefined
  /** What `tls.connect` and `net.connect` take: certificates, for instance `{ ca, cert, key }`. */
  connect?: Readonly<Record<string, unknown>> | undefined
}

/** The defaults of {@link HttpClientOptions}. */
export const httpClientDefaults = {
  connectionsPerOrigin: 20,
  maxIdleConnections: 100,
  keepAliveMs: 90_000,
  allowH2: true,
  maxStreamsPerConnection: 100,
  capacity: 10_000,
  connectTimeoutMs: 5000,
  headersTimeoutMs: 30_000,
  bodyTimeoutMs: 30_000,
  timeoutMs: 30_000,
  totalTimeoutMs: 0,
  maxResponseBytes: 10_485_760,
  throwOnError: false,
  retryStatuses: [408, 429, 502, 503, 504],
  maxRetryAfterMs: 10_000,
  tokenHeader: 'authorization',
  tokenScheme: 'Bearer',
} as const

const retryDefaults = { attempts: 3, delayMs: 100, maxDelayMs: 5000 }

/** What a body can be. A function makes a new one for each attempt; a stream goes out once and is never sent again. */
export type HttpBody =
  | string
  | Uint8Array
  | ArrayBuffer
  | URLSearchParams
  | FormData
  | Readable
  | AsyncIterable<string | Uint8Array>
  | (() => Readable | AsyncIterable<string | Uint8Array>)

/** A value of `query`; a list gives the name several times, undefined leaves it out. */
export type HttpQueryValue = string | number | bigint | boolean | undefined

/** Options of one request. */
export interface HttpRequestOptions {
  /** The method, in capitals. The default is GET. */
  method?: string | undefined
  /** Its headers; undefined takes one of the client's away. */
  headers?: HttpHeaders | undefined
  /** Added to the query of the URL. */
  query?: Readonly<Record<string, HttpQueryValue | readonly HttpQueryValue[]>> | undefined
  /** The body. */
  body?: HttpBody | undefined
  /** The body as JSON; `content-type` is set unless it is given. */
  json?: unknown
  /** Gives the request up. */
  signal?: AbortSignal | undefined
  /** The limit of one attempt, in milliseconds. The default is the client's `timeoutMs`. */
  timeoutMs?: number | undefined
  /** The limit of the whole request, in milliseconds. The default is the client's `totalTimeoutMs`. */
  totalTimeoutMs?: number | undefined
  /** The most bytes of the response's body. The default is the client's `maxResponseBytes`. */
  maxResponseBytes?: number | undefined
  /** Whether an error status rejects. The default is the client's `throwOnError`. */
  throwOnError?: boolean | undefined
  /**
   * Whether doing it twice does no harm, so that it may be tried again. The default is true for GET, HEAD, OPTIONS,
   * TRACE, PUT and DELETE, and with a header `Idempotency-Key`.
   */
  idempotent?: boolean | undefined
  /** What a consistent hash of the balancer chooses by. */
  balanceKey?: string | undefined
}

/** {@link HttpClientOptions} with every value filled in and checked. */
export interface HttpSettings {
  readonly base: URL | undefined
  readonly headers: ReadonlyMap<string, string | string[]>
  readonly connectionsPerOrigin: number
  readonly maxIdleConnections: number
  readonly keepAliveMs: number
  readonly allowH2: boolean
  readonly maxStreamsPerConnection: number
  readonly capacity: number
  readonly connectTimeoutMs: number
  readonly headersTimeoutMs: number
  readonly bodyTimeoutMs: number
  readonly timeoutMs: number
  readonly totalTimeoutMs: number
  readonly maxResponseBytes: number
  readonly throwOnError: boolean
  readonly retry: RetryPolicy
  readonly retryStatuses: ReadonlySet<number>
  readonly maxRetryAfterMs: number
  readonly breaker: ((origin: string) => HttpBreaker) | undefined
  readonly isFailure: ((response: HttpHead) => boolean) | undefined
  readonly token: HttpTokenSource | undefined
  readonly tokenHeader: string
  readonly tokenScheme: string
  readonly tokenOrigins: ReadonlySet<string>
  readonly balancer: HttpBalancer | undefined
  readonly dispatcher: Dispatcher | undefined
  readonly connect: Readonly<Record<string, unknown>> | undefined
}

/** Checks the client's options and fills in what they leave out. */
export function resolveSettings(options: HttpClientOptions): HttpSettings {
  const defaults = httpClientDefaults
  const count = (field: 'connectionsPerOrigin' | 'maxStreamsPerConnection' | 'capacity' | 'maxResponseBytes'): number =>
    checkCount(field, valueOr(options[field], defaults[field]))
  const duration = (
    field: 'headersTimeoutMs' | 'bodyTimeoutMs' | 'timeoutMs' | 'totalTimeoutMs' | 'maxRetryAfterMs',
  ): number => checkDuration(field, valueOr(options[field], defaults[field]))
  const base = options.baseUrl === undefined ? undefined : checkBase(options.baseUrl)
  checkOptions('connect', options.connect)
  const { breaker, token, balancer, dispatcher } = options
  if (token !== undefined && (typeof token?.get !== 'function' || typeof token.invalidate !== 'function')) {
    failOption('token', 'must have the methods get and invalidate', token)
  }
  if (balancer !== undefined && typeof balancer?.run !== 'function') {
    failOption('balancer', 'must have a method run', balancer)
  }
  if (dispatcher !== undefined && typeof dispatcher?.dispatch !== 'function') {
    failOption('dispatcher', 'must be a Dispatcher of undici', dispatcher)
  }
  const tokenOrigins = resolveOrigins(options.tokenOrigins) ?? (base === undefined ? [] : [base.origin])
  if (token !== undefined && balancer === undefined && tokenOrigins.length === 0) {
    failOption('tokenOrigins', 'must name who gets the token where there is no baseUrl', options.tokenOrigins)
  }
  return {
    base,
    headers: resolveHeaders('headers', options.headers),
    connectionsPerOrigin: count('connectionsPerOrigin'),
    maxIdleConnections: checkCount(
      'maxIdleConnections',
      valueOr(options.maxIdleConnections, defaults.maxIdleConnections),
      0,
    ),
    keepAliveMs: checkDuration('keepAliveMs', valueOr(options.keepAliveMs, defaults.keepAliveMs), 1),
    allowH2: checkBoolean('allowH2', valueOr(options.allowH2, defaults.allowH2)),
    maxStreamsPerConnection: count('maxStreamsPerConnection'),
    capacity: count('capacity'),
    connectTimeoutMs: checkDuration(
      'connectTimeoutMs',
      valueOr(options.connectTimeoutMs, defaults.connectTimeoutMs),
      1,
    ),
    headersTimeoutMs: duration('headersTimeoutMs'),
    bodyTimeoutMs: duration('bodyTimeoutMs'),
    timeoutMs: duration('timeoutMs'),
    totalTimeoutMs: duration('totalTimeoutMs'),
    maxResponseBytes: count('maxResponseBytes'),
    throwOnError: checkBoolean('throwOnError', valueOr(options.throwOnError, defaults.throwOnError)),
    retry: resolveRetry(options.retry, options.retry === undefined ? { ...retryDefaults, attempts: 1 } : retryDefaults),
    retryStatuses: resolveStatuses(valueOr(options.retryStatuses, defaults.retryStatuses)),
    maxRetryAfterMs: duration('maxRetryAfterMs'),
    breaker: resolveBreaker(breaker),
    isFailure: checkOptionalFunction('isFailure', options.isFailure),
    token,
    tokenHeader: checkTokenHeader(valueOr(options.tokenHeader, defaults.tokenHeader)),
    tokenScheme: checkTokenScheme(valueOr(options.tokenScheme, defaults.tokenScheme)),
    tokenOrigins: new Set(tokenOrigins),
    balancer,
    dispatcher,
    connect: options.connect,
  }
}

function checkBase(value: string | URL): URL {
  const base = checkUrl('baseUrl', value)
  // Not shown: it may hold a key. It would be sent with no request.
  if (base.search !== '' || base.hash !== '') failOption('baseUrl', 'must have no query or fragment', base.host)
  return base
}

/** Checks a URL that requests can go to. */
export function checkUrl(field: string, value: string | URL): URL {
  let url: URL
  try {
    url = new URL(value)
  } catch {
    failOption(field, 'must be a URL', value)
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') failOption(field, 'must be of http or https', value)
  // Not shown: it holds a password.
  if (url.username !== '' || url.password !== '') failOption(field, 'must hold no user name and password', url.host)
  return url
}

function resolveOrigins(origins: readonly string[] | undefined): string[] | undefined {
  if (origins === undefined) return undefined
  if (!Array.isArray(origins)) failOption('tokenOrigins', 'must be an array', origins)
  return origins.map((origin) => checkUrl('tokenOrigins', origin).origin)
}

function resolveStatuses(statuses: readonly number[]): ReadonlySet<number> {
  if (!Array.isArray(statuses)) failOption('retryStatuses', 'must be an array', statuses)
  return new Set(statuses.map((status: number) => checkCount('retryStatuses', status, 100, 599)))
}

function resolveBreaker(breaker: HttpBreaker | HttpBreakers | undefined): HttpSettings['breaker'] {
  if (breaker === undefined) return undefined
  if (typeof (breaker as HttpBreaker | null)?.execute === 'function') return () => breaker as HttpBreaker
  const registry = breaker as HttpBreakers
  checkFunction('breaker.get', registry?.get)
  return (origin) => registry.get(origin)
}

function checkTokenHeader(header: string): string {
  if (typeof header !== 'string' || header === '') failOption('tokenHeader', 'must be the name of a header', header)
  const [name] = resolveHeaders('tokenHeader', { [header]: '' }).keys()
  return name as string
}

function checkTokenScheme(scheme: string): string {
  if (typeof scheme !== 'string' || !/^[\x21-\x7e]*$/.test(scheme)) failOption('tokenScheme', 'must be a word', scheme)
  return scheme
}

/** One limit of a request, or the client's. */
export function limitOr(field: 'timeoutMs' | 'totalTimeoutMs', value: number | undefined, fallback: number): number {
  return value === undefined ? fallback : checkDuration(field, value)
}

/** The size limit of a request, or the client's. */
export function bytesOr(value: number | undefined, fallback: number): number {
  return value === undefined ? fallback : checkCount('maxResponseBytes', value, 1, maxCount)
}
