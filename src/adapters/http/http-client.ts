import { ClosableComponent, type FlushReport } from '../../core/component.js'
import { ClosedError, FullError } from '../../core/errors.js'
import { checkBoolean, checkOptions, checkSignal, failOption } from '../../core/options.js'
import type { CallCounts, LatencySnapshot } from '../../core/stats.js'
import { onAbort } from '../../internal/abort.js'
import { CallBooks, type Outcome } from '../../internal/call-books.js'
import { handled, rejected } from '../../internal/deferred.js'
import { type Answer, Attempts, type Call, discard, giveUpExchange, isOutcomeUnknown } from './attempts.js'
import { Connections, type OriginStats, type Undici } from './connections.js'
import {
  bytesOr,
  type HttpClientOptions,
  type HttpRequestOptions,
  type HttpSettings,
  limitOr,
  resolveSettings,
} from './http-options.js'
import { HttpResponse, type HttpStreamResponse } from './http-response.js'
import { disposeUnsent, RequestBody } from './request-body.js'
import { mergeHeaders } from './request-headers.js'
import { resolveTarget } from './request-target.js'

/** The first digit of a status. */
export type StatusClass = '2xx' | '3xx' | '4xx' | '5xx'

/** Events of {@link HttpClient}. URLs are without their queries. */
export interface HttpClientEvents {
  /** An attempt failed and is made again. */
  retried: {
    readonly method: string
    readonly url: string
    /** The attempt that failed, counted from 1. */
    readonly attempt: number
    /** How long until the next one, in milliseconds. */
    readonly delayMs: number
    readonly error: unknown
  }
  /** A request failed for good. */
  failed: {
    readonly method: string
    readonly url: string
    /** How many attempts there were. */
    readonly attempts: number
    readonly durationMs: number
    readonly error: unknown
  }
  /** A server refused a token with 401, and the request goes out once more with a new one. */
  tokenRefreshed: { readonly method: string; readonly url: string }
  /** A connection was made. */
  connected: { readonly origin: string; readonly protocol: 'http/1.1' | 'h2' }
  /** A connection was closed, by whichever side. */
  disconnected: { readonly origin: string }
}

/** Stats of {@link HttpClient}. */
export interface HttpClientStats extends CallCounts {
  /** The client's name. */
  readonly name: string
  /** Attempts, those with a new token after a 401 included. */
  readonly attempts: number
  /** Attempts that were made again because one failed. */
  readonly retries: number
  /** Attempts that were made again with a new token. */
  readonly tokenRefreshes: number
  /** Responses by the class of their status, those of attempts that were made again included. */
  readonly statuses: Readonly<Record<StatusClass, number>>
  /** Open connections, none where the dispatcher is the caller's. */
  readonly connections: number
  /** Those without a request. */
  readonly idleConnections: number
  /** Connections that were made so far. */
  readonly connectionsOpened: number
  /** The same by origin, those with connections or requests. */
  readonly origins: readonly OriginStats[]
  /** From acceptance until settled, in milliseconds; of streamed requests until the body has ended. */
  readonly latencyMs: LatencySnapshot
}

/**
 * An HTTP client with a bounded number of connections, and with token, retry, balancer and breaker in the one order
 * that is right. Made by {@link createHttpClient}.
 *
 * ```
 *   request ── retry ── token ── balancer ── breaker ── undici
 * ```
 */
export class HttpClient extends ClosableComponent<HttpClientEvents, HttpClientStats> {
  readonly #settings: HttpSettings
  readonly #connections: Connections | undefined
  readonly #attempts: Attempts
  readonly #books: CallBooks<Call>
  #closed = false
  #sent = 0
  #retries = 0
  #tokenRefreshes = 0
  readonly #statuses: Record<StatusClass, number> = { '2xx': 0, '3xx': 0, '4xx': 0, '5xx': 0 }

  /**
   * @param undici - the module `undici`, or its classes Agent, Pool and Client.
   * @throws OptionError when an option is wrong.
   */
  constructor(undici: Undici, options: HttpClientOptions = {}) {
    super('http-client', options)
    const settings = resolveSettings(options)
    this.#settings = settings
    this.#books = new CallBooks(this.clock)
    if (settings.dispatcher === undefined) {
      for (const name of ['Agent', 'Pool', 'Client'] as const) {
        if (typeof undici?.[name] !== 'function') failOption('undici', `must have the class ${name}`, undici)
      }
      this.#connections = new Connections(undici, settings, this.clock, {
        connected: (origin, protocol) => this.events.emit('connected', { origin, protocol }),
        disconnected: (origin) => this.events.emit('disconnected', { origin }),
      })
    }
    const owner = { name: this.name, clock: this.clock, random: this.random }
    this.#attempts = new Attempts(owner, settings, this.#connections, {
      sent: () => this.#sent++,
      answered: (status) => this.#recordStatus(status),
      retried: (call, error, delayMs) => this.#recordRetried(call, error, delayMs),
      tokenRefreshed: (call) => this.#recordTokenRefreshed(call),
    })
  }

  /**
   * Makes a request and reads its answer, all of it: the connection is free again when this resolves, and an answer
   * that breaks off is an attempt that failed.
   *
   * @param url - a path under `baseUrl`, or a URL.
   * @returns the answer, whatever its status, unless `throwOnError` is set. Rejects with `HttpError`,
   * `HttpStatusError`, `TimeoutError`, `TooLargeError`, `CircuitOpenError`, `NoInstanceError`, `FullError`,
   * `ClosedError`, `OptionError`, or with the signal's reason. A rejection that nobody looks at is no
   * `unhandledRejection`; it is in the stats and events.
   */
  request(url: string | URL, options?: HttpRequestOptions): Promise<HttpResponse> {
    return this.#begin(url, options, false) as Promise<HttpResponse>
  }

  /**
   * Makes a request and resolves when its answer begins. It is tried again only until then. It counts as pending, and
   * is waited for by `close`, until the body has arrived or is destroyed.
   *
   * @param url - a path under `baseUrl`, or a URL.
   * @returns the answer with its body as a stream. Rejects as {@link HttpClient.request} does.
   */
  stream(url: string | URL, options?: HttpRequestOptions): Promise<HttpStreamResponse> {
    return this.#begin(url, options, true) as Promise<HttpStreamResponse>
  }

  /** {@link HttpClient.request} with GET. */
  get(url: string | URL, options?: Omit<HttpRequestOptions, 'method'>): Promise<HttpResponse> {
    return this.#withMethod('GET', url, options)
  }

  /** {@link HttpClient.request} with POST. */
  post(url: string | URL, options?: Omit<HttpRequestOptions, 'method'>): Promise<HttpResponse> {
    return this.#withMethod('POST', url, options)
  }

  /** {@link HttpClient.request} with PUT. */
  put(url: string | URL, options?: Omit<HttpRequestOptions, 'method'>): Promise<HttpResponse> {
    return this.#withMethod('PUT', url, options)
  }

  /** {@link HttpClient.request} with DELETE. */
  delete(url: string | URL, options?: Omit<HttpRequestOptions, 'method'>): Promise<HttpResponse> {
    return this.#withMethod('DELETE', url, options)
  }

  /** Settles all requests that are in flight now. Never rejects. */
  override flush(): Promise<FlushReport> {
    return this.#books.flush()
  }

  override stats(): HttpClientStats {
    const origins = this.#connections?.stats() ?? []
    return {
      name: this.name,
      ...this.#books.counts(),
      attempts: this.#sent,
      retries: this.#retries,
      tokenRefreshes: this.#tokenRefreshes,
      statuses: { ...this.#statuses },
      connections: origins.reduce((sum, { connections }) => sum + connections, 0),
      idleConnections: this.#connections?.idle ?? 0,
      connectionsOpened: this.#connections?.opened ?? 0,
      origins,
      latencyMs: this.#books.latencyMs(),
    }
  }

  protected override drain(): Promise<void> {
    this.#closed = true
    this.#attempts.hurry()
    return this.#books.empty()
  }

  protected override abandon(): number {
    const left = [...this.#books.open]
    for (const call of left) {
      const message = `${this.name}: closed before ${call.method} ${call.url} was answered`
      call.giveUp('failed', new ClosedError(message, { outcomeUnknown: isOutcomeUnknown(call) }))
    }
    return left.length
  }

  protected override release(): Promise<void> | undefined {
    return this.#connections?.destroy()
  }

  #withMethod(method: string, url: string | URL, options: HttpRequestOptions | undefined): Promise<HttpResponse> {
    // What is no object is left for `request` to refuse.
    const isObject = typeof options === 'object' && options !== null
    return this.request(url, options === undefined || isObject ? { ...options, method } : options)
  }

  #begin(url: string | URL, options: HttpRequestOptions | undefined, stream: boolean): Promise<Answer> {
    let body: unknown
    try {
      body = options?.body
      return handled(this.#run(this.#admit(url, options, stream), options?.signal))
    } catch (error) {
      this.#books.reject()
      disposeUnsent(body)
      return rejected(error)
    }
  }

  #admit(url: string | URL, options: HttpRequestOptions | undefined, stream: boolean): Call {
    checkOptions('options', options)
    const signal = checkSignal(options?.signal)
    if (this.#closed) throw new ClosedError(`${this.name} is closed`)
    if (signal?.aborted) throw signal.reason
    const settings = this.#settings
    const method = options?.method ?? 'GET'
    if (typeof method !== 'string' || !/^[A-Z]+(?:-[A-Z]+)*$/.test(method) || method === 'CONNECT') {
      failOption('method', 'must be a method in capitals, but not CONNECT', method)
    }
    const target = resolveTarget(url, options?.query, settings)
    const headers = new Map(settings.headers)
    mergeHeaders('headers', headers, options?.headers)
    if (options?.idempotent !== undefined) checkBoolean('idempotent', options.idempotent)
    if (options?.throwOnError !== undefined) checkBoolean('throwOnError', options.throwOnError)
    if (options?.balanceKey !== undefined && typeof options.balanceKey !== 'string') {
      failOption('balanceKey', 'must be a string', options.balanceKey)
    }
    const totalTimeoutMs = limitOr('totalTimeoutMs', options?.totalTimeoutMs, settings.totalTimeoutMs)
    const timeoutMs = limitOr('timeoutMs', options?.timeoutMs, settings.timeoutMs)
    const maxResponseBytes = bytesOr(options?.maxResponseBytes, settings.maxResponseBytes)
    if (this.#books.open.size >= settings.capacity) {
      throw new FullError(`${this.name} is full (capacity ${settings.capacity})`, settings.capacity)
    }
    const body = RequestBody.of(options?.body, options?.json)
    const at = this.clock.now()
    return {
      at,
      method,
      target,
      headers,
      stream,
      idempotent: options?.idempotent ?? (idempotentMethods.has(method) || headers.has('idempotency-key')),
      timeoutMs,
      deadline: totalTimeoutMs === 0 ? Number.POSITIVE_INFINITY : at + totalTimeoutMs,
      maxResponseBytes,
      throwOnError: options?.throwOnError ?? settings.throwOnError,
      balanceKey: options?.balanceKey,
      controller: new AbortController(),
      body,
      url: target.origin + target.pathname,
      attempts: 0,
      tries: 0,
      reached: false,
      bodyUsed: false,
      unknown: false,
      token: undefined,
      tokenRefreshed: false,
      exchange: undefined,
      giveUp: () => undefined,
    }
  }

  /** Settles a call once: as its work does, or before it, and then the work is told. */
  #run(call: Call, signal: AbortSignal | undefined): Promise<Answer> {
    this.#books.accept(call)
    return new Promise((resolve, reject) => {
      let stopListening: (() => void) | undefined
      let cancelTimer: (() => void) | undefined
      const settle = (outcome: Outcome): boolean => {
        if (!this.#books.settle(call, outcome)) return false
        stopListening?.()
        cancelTimer?.()
        if (outcome !== 'succeeded') disposeBody(call)
        return true
      }
      call.giveUp = (outcome, reason) => {
        if (!settle(outcome)) return
        reject(reason)
        if (outcome === 'failed') this.#recordFailed(call, reason)
        call.controller.abort(reason)
        call.exchange?.cancel(reason)
      }
      if (signal !== undefined) stopListening = onAbort(signal, () => call.giveUp('aborted', signal.reason))
      if (call.deadline !== Number.POSITIVE_INFINITY) {
        const totalMs = call.deadline - call.at
        cancelTimer = this.clock.setTimer(() => call.giveUp('failed', this.#attempts.lateError(call, totalMs)), totalMs)
      }
      this.#attempts.perform(call).then(
        (answer) => {
          if (!this.#books.open.has(call)) {
            discard(answer)
            return
          }
          if (answer instanceof HttpResponse) {
            settle('succeeded')
            resolve(answer)
            return
          }
          resolve(answer)
          const { exchange } = call
          void exchange?.end.then((error) => {
            const outcome = error === undefined ? 'succeeded' : exchange.dropped ? 'aborted' : 'failed'
            if (settle(outcome) && outcome === 'failed') this.#recordFailed(call, error)
          })
        },
        (error: unknown) => {
          if (!settle('failed')) return
          reject(error)
          this.#recordFailed(call, error)
          // A balancer may have given up before its function did.
          giveUpExchange(call, error)
          call.controller.abort(error)
        },
      )
    })
  }

  #recordStatus(status: number): void {
    const statusClass = `${Math.floor(status / 100)}xx`
    if (isStatusClass(statusClass)) this.#statuses[statusClass]++
  }

  #recordRetried(call: Call, error: unknown, delayMs: number): void {
    this.#retries++
    if (!this.events.has('retried')) return
    const { method, url, tries } = call
    this.events.emit('retried', { method, url, attempt: tries, delayMs, error })
  }

  #recordTokenRefreshed({ method, url }: Call): void {
    this.#tokenRefreshes++
    if (this.events.has('tokenRefreshed')) this.events.emit('tokenRefreshed', { method, url })
  }

  #recordFailed(call: Call, error: unknown): void {
    if (!this.events.has('failed')) return
    const { method, url, attempts, at } = call
    this.events.emit('failed', { method, url, attempts, durationMs: this.clock.now() - at, error })
  }
}

/** Doing these twice is as good as once (RFC 9110, 9.2.2). */
const idempotentMethods: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE'])

function isStatusClass(name: string): name is StatusClass {
  return name === '2xx' || name === '3xx' || name === '4xx' || name === '5xx'
}

function disposeBody(call: Call): void {
  if (call.body instanceof RequestBody) call.body.dispose()
}

/**
 * Makes an {@link HttpClient} on undici 7.
 *
 * @param undici - the module `undici`, or its classes Agent, Pool and Client.
 * @throws OptionError when an option is wrong.
 *
 * @example
 * ```ts
 * import * as undici from 'undici'
 * import { createHttpClient } from 'spillway/http'
 *
 * const client = createHttpClient(undici, { baseUrl: 'https://api.example.com/v1', retry: {} })
 * const user = (await client.get('/users/1', { throwOnError: true })).json<{ name: string }>()
 * console.log(user.name)
 * await client.close({ timeoutMs: 5000 })
 * ```
 */
export function createHttpClient(undici: Undici, options: HttpClientOptions = {}): HttpClient {
  return new HttpClient(undici, options)
}
