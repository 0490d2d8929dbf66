import type { Clock } from '../../core/clock.js'
import { isSpillwayError, OptionError, TimeoutError } from '../../core/errors.js'
import { describeError, warn } from '../../core/events.js'
import { backoffMs } from '../../core/retry.js'
import { onAbort, orAbort } from '../../internal/abort.js'
import type { Outcome } from '../../internal/call-books.js'
import { type HttpInstance, originOf } from './composition.js'
import type { Connections } from './connections.js'
import { Exchange } from './exchange.js'
import { type FailedRequest, HttpError, HttpStatusError, isMisuse, wasRefused, wrapError } from './http-error.js'
import type { HttpSettings } from './http-options.js'
import { type HttpHead, type HttpResponse, HttpStreamResponse } from './http-response.js'
import type { RequestBody } from './request-body.js'
import type { RequestTarget } from './request-target.js'
import { retryAfterMs } from './retry-after.js'

/** One request of a caller's, over all its attempts. */
export interface Call {
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
  /** Whether any attempt may have read of the body. */
  bodyUsed: boolean
  /** Whether any attempt may have been acted on. */
  unknown: boolean
  token: string | undefined
  tokenRefreshed: boolean
  exchange: Exchange | undefined
  /** Ends it for its caller: at the abort, the deadline, or `close`. */
  giveUp: (outcome: Outcome, reason: unknown) => void
}

/** What a call is answered with. */
export type Answer = HttpResponse | HttpStreamResponse

/** Hears of what is done for a call. */
export interface AttemptsObserver {
  sent(): void
  answered(status: number): void
  retried(call: Call, error: unknown, delayMs: number): void
  tokenRefreshed(call: Call): void
}

/**
 * The attempts at one call, in this order, so that each part sees what it can judge:
 *
 * ```
 *   retry ── token ── balancer ── breaker ── undici
 * ```
 *
 * The token comes before balancer and breaker, because a token source that is down says nothing about any server.
 * Breaker and balancer hear of a failing status as an error; the caller gets it as the answer it is.
 */
export class Attempts {
  readonly #name: string
  readonly #settings: HttpSettings
  readonly #connections: Connections | undefined
  readonly #clock: Clock
  readonly #random: () => number
  readonly #observer: AttemptsObserver
  #classifierReported = false
  /** Ends each wait between two attempts. */
  readonly #waits = new Set<() => void>()
  #hurrying = false

  constructor(
    owner: { readonly name: string; readonly clock: Clock; readonly random: () => number },
    settings: HttpSettings,
    connections: Connections | undefined,
    observer: AttemptsObserver,
  ) {
    this.#name = owner.name
    this.#clock = owner.clock
    this.#random = owner.random
    this.#settings = settings
    this.#connections = connections
    this.#observer = observer
  }

  /** Makes as many attempts as it takes and is allowed. */
  async perform(call: Call): Promise<Answer> {
    if (call.body instanceof Promise) call.body = await call.body
    const { balancer } = this.#settings
    const answer = await (balancer === undefined ? this.#performDirect(call) : this.#performBalanced(call))
    if (answer.status < 400 || !call.throwOnError) return answer
    discard(answer)
    throw this.#statusError(call, answer)
  }

  /** Cuts waits between attempts short, those to come too: the client is being closed. */
  hurry(): void {
    this.#hurrying = true
    for (const end of this.#waits) end()
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
      if (answer !== undefined) this.#leave(call, failure as HttpStatusError)
      this.#observer.retried(call, failure, delayMs)
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
        if (failure instanceof HttpStatusError) this.#leave(call, failure)
        this.#observer.retried(call, failure, delayMs)
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
    await this.#fetchTokenPatiently(call, signal)
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
      // The balancer may have wanted another attempt and then found nobody to make it.
      if (failure instanceof HttpStatusError) discard(failure.response)
      throw error
    }
  }

  /** The token comes before the balancer's attempts, and so is tried again without it, within the same number. */
  async #fetchTokenPatiently(call: Call, signal: AbortSignal): Promise<void> {
    for (;;) {
      try {
        await this.#fetchToken(call, undefined, signal)
        return
      } catch (error) {
        call.tries++
        const delayMs = this.#mayRetry(call, error) ? this.#delayBefore(call, error) : undefined
        if (delayMs === undefined) throw error
        this.#observer.retried(call, error, delayMs)
        await this.#pause(delayMs, signal)
      }
    }
  }

  /** Leaves an answer behind for another attempt. */
  #leave(call: Call, failure: HttpStatusError): void {
    if (failure.outcomeUnknown) call.unknown = true
    discard(failure.response)
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
      await orAbort(Promise.resolve(source.invalidate(token)), signal)
      await this.#fetchToken(call, origin, signal)
    } catch {
      // What the server said tells more than that there is no new token.
      return answer
    }
    if (call.token === token || !(call.body as RequestBody).replayable) return answer
    discard(answer)
    this.#observer.tokenRefreshed(call)
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
      if (signal.aborted) throw error
      // Its message stays out: a token source's error may quote what it was sent. What it leaves open is no outcome of
      // this request, which wasn't sent.
      const message = `${this.#name}: no token for ${call.method} ${call.url}`
      const { retryable, retryAfterMs } = isSpillwayError(error) ? error : { retryable: true }
      throw new HttpError(message, this.#describe(call), { cause: error, retryable, retryAfterMs })
    }
    if (typeof token !== 'string' || token === '') {
      const message = `${this.#name}: the token source gave no token for ${call.method} ${call.url}`
      throw new HttpError(message, this.#describe(call), { retryable: false })
    }
    call.token = token
  }

  /** One attempt through the breaker. */
  async #guarded(call: Call, origin: string, signal: AbortSignal): Promise<Answer> {
    const breaker = this.#settings.breaker?.(origin)
    if (breaker === undefined) return this.#send(call, origin, signal)
    const { exchange: before } = call
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
      if (answer === undefined) {
        if (call.exchange !== before) giveUpExchange(call, error)
        throw error
      }
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
      {
        name: this.#name,
        origin,
        path,
        method,
        headers,
        body,
        url,
        stream,
        maxResponseBytes,
        headersTimeoutMs,
        bodyTimeoutMs,
      },
      (failed, cause) => this.#wrap(call, failed, cause),
    )
    call.exchange = exchange
    call.attempts++
    this.#observer.sent()
    const { timeoutMs } = call
    const cancelTimer =
      timeoutMs === 0
        ? undefined
        : this.#clock.setTimer(() => exchange.cancel(this.lateError(call, timeoutMs)), timeoutMs)
    const stopListening = onAbort(signal, () => exchange.cancel(signal.reason))
    if (this.#connections === undefined) exchange.dispatch(dispatcher as NonNullable<typeof dispatcher>, {})
    else this.#connections.dispatch(exchange)
    let refused = false
    try {
      const answer = await exchange.answer
      this.#observer.answered(answer.status)
      return answer
    } catch (error) {
      const cause = (error as { cause?: unknown } | null)?.cause
      refused = wasRefused(cause)
      if (exchange.started && !refused) call.unknown = true
      // What is no fault of any server's ends the call here, as an abort does: breaker and balancer don't count it.
      if (exchange.uploadFailed || isMisuse(cause)) call.giveUp('failed', error)
      throw error
    } finally {
      if (exchange.started) call.bodyUsed = true
      if (exchange.started && !refused) call.reached = true
      cancelTimer?.()
      stopListening()
    }
  }

  #wrap(call: Call, exchange: Exchange, cause: unknown): Error {
    if (cause instanceof OptionError) return cause
    const sent = exchange.started && !wasRefused(cause)
    const request = { ...this.#describe(call), outcomeUnknown: call.unknown || sent }
    if (exchange.uploadFailed) {
      const why = (cause as Error | null)?.message
      const message = `${this.#name}: the body of ${call.method} ${call.url} failed: ${why}`
      return new HttpError(message, request, { cause, retryable: false })
    }
    return wrapError(cause, request, this.#settings)
  }

  #describe(call: Call): FailedRequest {
    return { name: this.#name, method: call.method, url: call.url, outcomeUnknown: call.unknown }
  }

  /** What is told when a limit has passed. */
  lateError(call: Call, timeoutMs: number): TimeoutError {
    const outcomeUnknown = isOutcomeUnknown(call)
    const message = `${this.#name}: ${call.method} ${call.url} took longer than ${timeoutMs} ms`
    return new TimeoutError(message, timeoutMs, { outcomeUnknown })
  }

  #statusError(call: Call, answer: Answer): HttpStatusError {
    const retryable = this.#settings.retryStatuses.has(answer.status)
    const afterMs = retryable ? retryAfterMs(answer.headers['retry-after'], this.#clock.wallNow()) : undefined
    return new HttpStatusError(answer, this.#describe(call), { retryable, retryAfterMs: afterMs })
  }

  #isFailure(answer: HttpHead): boolean {
    const { isFailure } = this.#settings
    if (isFailure !== undefined) {
      try {
        return isFailure(answer)
      } catch (error) {
        if (!this.#classifierReported) warn(`${this.#name}: isFailure failed: ${describeError(error)}`)
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
    if (call.bodyUsed && !(call.body as RequestBody).replayable) return false
    try {
      return retry.retryable(error)
    } catch (thrown) {
      warn(`${this.#name}: retry.retryable failed: ${describeError(thrown)}`)
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
    return this.#clock.now() + delayMs >= call.deadline ? undefined : delayMs
  }

  #backoff(call: Call): number {
    return backoffMs(call.tries, this.#settings.retry, this.#random)
  }

  #pause(delayMs: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.reject(signal.reason)
    if (this.#hurrying) return Promise.resolve()
    return new Promise((resolve, reject) => {
      const end = (): void => {
        this.#waits.delete(end)
        cancelTimer()
        stopListening()
        if (signal.aborted) reject(signal.reason)
        else resolve()
      }
      const stopListening = onAbort(signal, end)
      const cancelTimer = this.#clock.setTimer(end, delayMs)
      this.#waits.add(end)
    })
  }
}

/** Whether a call that is given up now may have been acted on, or be. */
export function isOutcomeUnknown({ unknown, exchange }: Call): boolean {
  return unknown || (exchange?.started === true && !exchange.ended)
}

/**
 * Gives up what a breaker or balancer no longer waits for, so that no other attempt runs beside it. What was sent of it
 * counts as sent at once.
 */
export function giveUpExchange(call: Call, reason: unknown): void {
  const { exchange } = call
  if (exchange === undefined || exchange.answered) return
  if (exchange.started) {
    call.unknown = true
    call.reached = true
    call.bodyUsed = true
  }
  exchange.cancel(reason)
}

/** Gives up what nobody is going to read. */
export function discard(answer: Answer): void {
  if (answer instanceof HttpStreamResponse) answer.discard()
}
