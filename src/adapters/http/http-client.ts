import { ClosableComponent, type FlushReport } from '../../core/component.js'
import { ClosedError, FullError, isSpillwayError, OptionError, TimeoutError } from '../../core/errors.js'
import { describeError, warn } from '../../core/events.js'
import { checkBoolean, checkOptions, checkSignal, failOption } from '../../core/options.js'
import { backoffMs } from '../../core/retry.js'
import type { LatencySnapshot } from '../../core/stats.js'
import { onAbort, orAbort } from '../../internal/abort.js'
import { handled, rejected } from '../../internal/deferred.js'
import { type HttpInstance, originOf } from './composition.js'
import { Connections, type OriginStats, type Undici } from './connections.js'
import { Exchange } from './exchange.js'
import { type FailedRequest, HttpError, HttpStatusError, wasRefused, wrapError } from './http-error.js'
import {
  bytesOr,
  type HttpClientOptions,
  type HttpRequestOptions,
  type HttpSettings,
  limitOr,
  resolveSettings,
} from './http-options.js'
import { type HttpHead, HttpResponse, HttpStreamResponse } from './http-response.js'
import { RequestBody } from './request-body.js'
import { type HttpCounts, type Outcome, RequestBooks } from './request-books.js'
import { mergeHeaders } from './request-headers.js'
import { type RequestTarget, resolveTarget } from './request-target.js'
import { retryAfterMs } from './retry-after.js'

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
export interface HttpClientStats extends HttpCounts {
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

/** One request of a caller's, over all its attempts. */
interface Call {
  readonly at: number
  readonly method: string
  readonly target: RequestTarget
  readonly headers: ReadonlyMap<string, string | string[]>
  readonly stream: boolean
  readonly idempotent: boolean
  readonly timeoutMs: number
  readonly deadline: number
  readonly maxResponseBytes: number
  readonly throwOnError: boolean
  readonly balanceKey: string | undefined
  /** Aborts when the call is settled before it was answered. */
  readonly controller: AbortController
  body: RequestBody | Promise<RequestBody>
  /** Where it went last, without the query. */
  url: string
  /** How often it was sent. */
  attempts: number
  /** How often it was tried, in the sense of `retry.attempts`. */
  tries: number
  /** Whether any attempt got as far as a server's code. */
  reached: boolean
  /** Whether any attempt may have been acted on. */
  unknown: boolean
  token: string | undefined
  tokenRefreshed: boolean
  exchange: Exchange | undefined
  /** Ends it for its caller: at the abort, the deadline, or `close`. */
  giveUp: (outcome: Outcome, reason: unknown) => void
}

type Answer = HttpResponse | HttpStreamResponse

/**
 * An HTTP client with a bounded number of connections, and with token, retry, balancer and breaker in the one order that is right.
 * Made by {@link createHttpClient}.
 *
 * ```
 *   request ── retry ── token ── balancer ── breaker ── undici
 * ```
 */
export class HttpClient extends ClosableComponent<HttpClientEvents, HttpClientStats> {
  readonly #settings: HttpSettings
  readonly #connections: Connections | undefined
  readonly #books: RequestBooks<Call>
  #closed = false
  #attempts = 0
  #retries = 0
  #tokenRefreshes = 0
  readonly #statuses: Record<StatusClass, number> = { '2xx': 0, '3xx': 0, '4xx': 0, '5xx': 0 }
  #classifierReported = false

  /**
   * @param undici - the module `undici`, or its classes Agent, Pool and Client.
   * @throws OptionError when an option is wrong.
   */
  constructor(undici: Undici, options: HttpClientOptions = {}) {
    super('http-client', options)
    const settings = resolveSettings(options)
    this.#settings = settings
    this.#books = new RequestBooks(this.clock)
    if (settings.dispatcher !== undefined) return
    for (const name of ['Agent', 'Pool', 'Client'] as const) {
      if (typeof undici?.[name] !== 'function') failOption('undici', `must have the class ${name}`, undici)
    }
    this.#connections = new Connections(undici, settings, this.clock, {
      connected: (origin, protocol) => this.events.emit('connected', { origin, protocol }),
      disconnected: (origin) => this.events.emit('disconnected', { origin }),
    })
  }

  /**
   * Makes a request and reads its answer, all of it: the connection is free again when this resolves, and an answer that breaks off
   * is an attempt that failed.
   *
   * @param url - a path under `baseUrl`, or a URL.
   * @returns the answer, whatever its status, unless `throwOnError` is set. Rejects with `HttpError`, `HttpStatusError`,
   * `TimeoutError`, `TooLargeError`, `CircuitOpenError`, `NoInstanceError`, `FullError`, `ClosedError`, `OptionError`, or with the
   * signal's reason. A rejection that nobody looks at is no `unhandledRejection`; it is in the stats and events.
   */
  request(url: string | URL, options?: HttpRequestOptions): Promise<HttpResponse> {
    return this.#begin(url, options, false) as Promise<HttpResponse>
  }

  /**
   * Makes a request and resolves when its answer begins. It is tried again only until then. It counts as pending, and is waited for
   * by `close`, until the body has arrived or is destroyed.
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
      attempts: this.#attempts,
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
    return this.#books.empty()
  }

  protected override abandon(): number {
    const left = [...this.#books.open]
    for (const call of left) {
      const message = `${this.name}: closed before ${call.method} ${call.url} was answered`
      const outcomeUnknown = call.unknown || (call.exchange?.started ?? false)
      call.giveUp('failed', new ClosedError(message, { outcomeUnknown }))
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
    try {
      return handled(this.#run(this.#admit(url, options, stream), options?.signal))
    } catch (error) {
      this.#books.reject()
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
        cancelTimer = this.clock.setTimer(() => call.giveUp('failed', this.#lateError(call, totalMs)), totalMs)
      }
      this.#perform(call).then(
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
          void call.exchange?.end.then((error) => {
            const givenUp = (error as { code?: unknown } | undefined)?.code === 'UND_ERR_INFO'
            if (!settle(error === undefined ? 'succeeded' : givenUp ? 'aborted' : 'failed')) return
            if (error !== undefined && !givenUp) this.#recordFailed(call, error)
          })
        },
        (error: unknown) => {
          if (!settle('failed')) return
          reject(error)
          this.#recordFailed(call, error)
          // A breaker or balancer may have given up before its function did.
          call.controller.abort(error)
        },
      )
    })
  }

  async #perform(call: Call): Promise<Answer> {
    if (call.body instanceof Promise) call.body = await call.body
    const { balancer } = this.#settings
    const answer = await (balancer === undefined ? this.#performDirect(call) : this.#performBalanced(call))
    if (answer.status < 400 || !call.throwOnError) return answer
    discard(answer)
    throw this.#statusError(call, answer)
  }

  async #performDirect(call: Call): Promise<Answer> {
    const { signal } = call.controller
    for (;;) {
      let answer: Answer | undefined
      let failure: unknown
      call.tries++
      try {
        await this.#fetchToken(call, call.target.origin, signal)
        answer = await this.#attempt(call, call.target.origin, signal)
        if (!this.#settings.retryStatuses.has(answer.status)) return answer
        failure = this.#statusError(call, answer)
        if (!this.#mayRetry(call, failure)) return answer
      } catch (error) {
        failure = error
        // One origin whose circuit is open isn't asked again before it can have recovered.
        if (isSpillwayError(error, 'ERR_CIRCUIT_OPEN') || !this.#mayRetry(call, error)) throw error
      }
      const delayMs = this.#delayBefore(call, failure)
      if (delayMs === undefined) {
        if (answer !== undefined) return answer
        throw failure
      }
      if (answer !== undefined) discard(answer)
      this.#recordRetried(call, failure, delayMs)
      await this.#pause(delayMs, signal)
    }
  }

  async #performBalanced(call: Call): Promise<Answer> {
    const { balancer, base, retry, retryStatuses } = this.#settings
    const { signal } = call.controller
    let failedAt: string | undefined
    let failure: unknown
    const run = async (instance: HttpInstance, context: { readonly signal?: AbortSignal }): Promise<Answer> => {
      const attemptSignal = context?.signal ?? signal
      if (failure !== undefined) {
        // What one instance said about when to come back doesn't bind the others.
        const delayMs = instance.id === failedAt ? this.#delayBefore(call, failure) : this.#backoff(call)
        if (delayMs === undefined) throw failure
        if (failure instanceof HttpStatusError) discard(failure.response)
        this.#recordRetried(call, failure, delayMs)
        await this.#pause(delayMs, attemptSignal)
      }
      const origin = originOf(instance, base?.protocol ?? 'http:')
      failedAt = instance.id
      call.tries++
      call.url = origin + call.target.pathname
      const answer = await this.#attempt(call, origin, attemptSignal)
      if (this.#isFailure(answer) || retryStatuses.has(answer.status)) throw this.#statusError(call, answer)
      return answer
    }
    const retryable = (error: unknown): boolean => {
      if (!this.#mayRetry(call, error)) return false
      failure = error
      return true
    }
    await this.#fetchToken(call, undefined, signal)
    try {
      const { balanceKey } = call
      const key = balanceKey === undefined ? {} : { key: balanceKey }
      return await (balancer as NonNullable<typeof balancer>).run(run, {
        ...key,
        signal,
        attempts: retry.attempts,
        retryable,
      })
    } catch (error) {
      if (error instanceof HttpStatusError) return error.response
      throw error
    }
  }

  /** One attempt, and once in a request another one with a new token where the server refused the token. */
  async #attempt(call: Call, origin: string, signal: AbortSignal): Promise<Answer> {
    const { token: source } = this.#settings
    const answer = await this.#guarded(call, origin, signal)
    const { token } = call
    if (answer.status !== 401 || source === undefined || token === undefined || call.tokenRefreshed) return answer
    call.tokenRefreshed = true
    call.token = undefined
    try {
      source.invalidate(token)
      await this.#fetchToken(call, origin, signal)
    } catch {
      // What the server said tells more than that there is no new token.
      return answer
    }
    if (call.token === token || !(call.body as RequestBody).replayable) return answer
    discard(answer)
    this.#tokenRefreshes++
    if (this.events.has('tokenRefreshed')) {
      this.events.emit('tokenRefreshed', { method: call.method, url: call.url })
    }
    return this.#guarded(call, origin, signal)
  }

  /** @param origin - undefined for instances of the balancer, all of which may have the token. */
  async #fetchToken(call: Call, origin: string | undefined, signal: AbortSignal): Promise<void> {
    const { token: source, tokenHeader, tokenOrigins, balancer } = this.#settings
    if (source === undefined || call.token !== undefined || call.headers.has(tokenHeader)) return
    if (balancer === undefined && !tokenOrigins.has(origin as string)) return
    let token: unknown
    try {
      token = await orAbort(Promise.resolve(source.get(undefined, { signal })), signal)
    } catch (error) {
      if (signal.aborted || isSpillwayError(error)) throw error
      // Its message stays out: a foreign error of a token source may quote what it was sent.
      const message = `${this.name}: no token for ${call.method} ${call.url}`
      throw new HttpError(message, this.#describe(call), { cause: error })
    }
    if (typeof token !== 'string' || token === '') {
      const message = `${this.name}: the token source gave no token for ${call.method} ${call.url}`
      throw new HttpError(message, this.#describe(call), { retryable: false })
    }
    call.token = token
  }

  /** One attempt through the breaker, which hears of a failing status as an error; the caller gets it as the answer it is. */
  async #guarded(call: Call, origin: string, signal: AbortSignal): Promise<Answer> {
    const breaker = this.#settings.breaker?.(origin)
    if (breaker === undefined) return this.#send(call, origin, signal)
    let answer: Answer | undefined
    let refused = false
    try {
      await breaker.execute(
        async (context) => {
          const got = await this.#send(call, origin, context?.signal ?? signal)
          if (refused) discard(got)
          else answer = got
          if (this.#isFailure(got)) throw this.#statusError(call, got)
        },
        { signal },
      )
    } catch (error) {
      refused = true
      if (answer === undefined) throw error
    }
    return answer as Answer
  }

  async #send(call: Call, origin: string, signal: AbortSignal): Promise<Answer> {
    if (signal.aborted) throw signal.reason
    const { headersTimeoutMs, bodyTimeoutMs, tokenHeader, tokenScheme, dispatcher } = this.#settings
    const body = call.body as RequestBody
    const headers: Record<string, string | string[]> = Object.fromEntries(call.headers)
    if (body.contentType !== undefined) headers['content-type'] ??= body.contentType
    if (call.token !== undefined)
      headers[tokenHeader] = tokenScheme === '' ? call.token : `${tokenScheme} ${call.token}`
    const { method, maxResponseBytes, stream, url } = call
    const { path } = call.target
    const exchange = new Exchange(
      { origin, path, method, headers, body, url, stream, maxResponseBytes, headersTimeoutMs, bodyTimeoutMs },
      (failed, cause) => this.#wrap(call, failed, cause),
    )
    call.exchange = exchange
    call.attempts++
    this.#attempts++
    const { timeoutMs } = call
    const cancelTimer =
      timeoutMs === 0
        ? undefined
        : this.clock.setTimer(() => exchange.cancel(this.#lateError(call, timeoutMs)), timeoutMs)
    const stopListening = onAbort(signal, () => exchange.cancel(signal.reason))
    if (this.#connections === undefined) exchange.dispatch(dispatcher as NonNullable<typeof dispatcher>, {})
    else this.#connections.dispatch(exchange)
    try {
      const answer = await exchange.answer
      this.#recordStatus(answer.status)
      return answer
    } catch (error) {
      if (exchange.started && !wasRefused((error as { cause?: unknown } | null)?.cause)) call.unknown = true
      throw error
    } finally {
      if (exchange.started) call.reached = true
      cancelTimer?.()
      stopListening()
    }
  }

  #wrap(call: Call, exchange: Exchange, cause: unknown): Error {
    const sent = exchange.started && !wasRefused(cause)
    const request = { ...this.#describe(call), outcomeUnknown: call.unknown || sent }
    if (exchange.uploadFailed) {
      const message = `${this.name}: the body of ${call.method} ${call.url} failed: ${(cause as Error | null)?.message}`
      return new HttpError(message, request, { cause, retryable: false })
    }
    return wrapError(cause, request, this.#settings)
  }

  #describe(call: Call): FailedRequest {
    return { name: this.name, method: call.method, url: call.url, outcomeUnknown: call.unknown }
  }

  #lateError(call: Call, timeoutMs: number): TimeoutError {
    const outcomeUnknown = call.unknown || (call.exchange?.started ?? false)
    const message = `${this.name}: ${call.method} ${call.url} took longer than ${timeoutMs} ms`
    return new TimeoutError(message, timeoutMs, { outcomeUnknown })
  }

  #statusError(call: Call, answer: Answer): HttpStatusError {
    const retryable = this.#settings.retryStatuses.has(answer.status)
    const afterMs = retryable ? retryAfterMs(answer.headers['retry-after'], this.clock.wallNow()) : undefined
    return new HttpStatusError(answer, this.#describe(call), { retryable, retryAfterMs: afterMs })
  }

  #isFailure(answer: HttpHead): boolean {
    const { isFailure } = this.#settings
    if (isFailure !== undefined) {
      try {
        return isFailure(answer)
      } catch (error) {
        if (!this.#classifierReported) warn(`${this.name}: isFailure failed: ${describeError(error)}`)
        this.#classifierReported = true
      }
    }
    return answer.status >= 500 || answer.status === 429
  }

  /** Whether one more attempt is allowed, does no harm and may help. */
  #mayRetry(call: Call, error: unknown): boolean {
    const { retry } = this.#settings
    if (call.controller.signal.aborted || isSpillwayError(error, 'ERR_CLOSED') || error instanceof OptionError) {
      return false
    }
    if (call.tries >= retry.attempts) return false
    if (call.reached && !call.idempotent) return false
    if (call.reached && !(call.body as RequestBody).replayable) return false
    try {
      return retry.retryable(error)
    } catch (thrown) {
      warn(`${this.name}: retry.retryable failed: ${describeError(thrown)}`)
      return false
    }
  }

  /** How long to wait before the next attempt; undefined where that is too long. */
  #delayBefore(call: Call, failure: unknown): number | undefined {
    const askedMs = (failure as { retryAfterMs?: unknown } | null)?.retryAfterMs
    const afterMs = typeof askedMs === 'number' ? askedMs : 0
    if (afterMs > this.#settings.maxRetryAfterMs) return undefined
    // Not earlier than the server asked for, and not with all others at the same moment.
    const delayMs = afterMs + this.#backoff(call)
    return this.clock.now() + delayMs >= call.deadline ? undefined : delayMs
  }

  #backoff(call: Call): number {
    return backoffMs(call.tries, this.#settings.retry, this.random)
  }

  #pause(delayMs: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.reject(signal.reason)
    return new Promise((resolve, reject) => {
      const stopListening = onAbort(signal, () => {
        cancelTimer()
        reject(signal.reason)
      })
      const cancelTimer = this.clock.setTimer(() => {
        stopListening()
        resolve()
      }, delayMs)
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

function discard(answer: Answer): void {
  if (answer instanceof HttpStreamResponse) answer.discard()
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
