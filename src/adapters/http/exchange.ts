import { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import { TooLargeError } from '../../core/errors.js'
import { describeError } from '../../core/events.js'
import { type Deferred, deferred, handled } from '../../internal/deferred.js'
import { type HttpHead, HttpResponse, HttpStreamResponse } from './http-response.js'
import type { RequestBody } from './request-body.js'

/** What one attempt sends, and how much of an answer it takes. */
export interface ExchangeRequest {
  /** The component that makes it. */
  readonly name: string
  readonly origin: string
  readonly path: string
  readonly method: string
  readonly headers: Record<string, string | string[]>
  readonly body: RequestBody
  /** Without the query. */
  readonly url: string
  /** Whether the answer's body is streamed. */
  readonly stream: boolean
  readonly maxResponseBytes: number
  readonly headersTimeoutMs: number
  readonly bodyTimeoutMs: number
}

/** What follows an exchange: its connection, and whoever counts. */
export interface ExchangeObserver {
  /** It is being written to a connection: from now on the server may act on it. */
  started(): void
  /** It needs its connection no more. */
  ended(): void
}

/**
 * One request on its way, as a handler of undici.
 *
 * ```
 *   dispatch ── queued ── onRequestStart ── onResponseStart ── onResponseData … ── onResponseEnd
 *                  │            │                  │                                    │
 *               started: no    yes         answer (streamed)                    answer (whole), ended
 * ```
 */
export class Exchange implements Dispatcher.DispatchHandler {
  readonly request: ExchangeRequest
  /** Set before it is dispatched; not set where the dispatcher is the caller's. */
  observer: ExchangeObserver | undefined
  readonly #answer: Deferred<HttpResponse | HttpStreamResponse> = deferred()
  readonly #wrap: (exchange: Exchange, cause: unknown) => Error
  /** Resolves once it has ended, with the error that ended it. */
  readonly #end: Deferred<Error | undefined> = deferred()
  #controller: Dispatcher.DispatchController | undefined
  #head: HttpHead | undefined
  #chunks: Uint8Array[] = []
  #bytes = 0
  #stream: Readable | undefined
  #upload: Readable | undefined
  #uploadError: unknown
  #ended = false
  #dropped = false

  /** @param wrap - makes what the caller is told of an error of undici's. */
  constructor(request: ExchangeRequest, wrap: (exchange: Exchange, cause: unknown) => Error) {
    this.request = request
    this.#wrap = wrap
    handled(this.#answer.promise)
  }

  get answer(): Promise<HttpResponse | HttpStreamResponse> {
    return this.#answer.promise
  }

  get end(): Promise<Error | undefined> {
    return this.#end.promise
  }

  get ended(): boolean {
    return this.#ended
  }

  /** Whether anything of it can have reached the server. */
  get started(): boolean {
    return this.#controller !== undefined
  }

  /** Whether it was the reader of a streamed body who ended it. */
  get dropped(): boolean {
    return this.#dropped
  }

  /** Whether there is an answer, or none will come. */
  get answered(): boolean {
    return this.#ended || this.#stream !== undefined
  }

  /** Whether it was the request's own body that broke. */
  get uploadFailed(): boolean {
    return this.#uploadError !== undefined
  }

  dispatch(dispatcher: Pick<Dispatcher, 'dispatch'>, tags: object): void {
    if (this.#ended) return
    const { origin, path, method, headers, headersTimeoutMs, bodyTimeoutMs } = this.request
    let body: ReturnType<RequestBody['next']>['body']
    try {
      const next = this.request.body.next()
      body = next.body
      this.#upload = next.stream
      // It may have broken while the token or an earlier attempt was waited for.
      if (next.stream?.destroyed) throw next.stream.errored ?? givenUp('it was destroyed before it was sent')
      next.stream?.on('error', this.#noteUploadError)
    } catch (error) {
      this.#noteUploadError(error)
      this.#fail(this.#wrap(this, this.#uploadError))
      return
    }
    try {
      dispatcher.dispatch(
        {
          ...tags,
          origin,
          path,
          method,
          headers,
          body,
          // Of pipelining alone, which is off. Left false, HTTP/2 would send a POST only while nothing else is in
          // flight.
          idempotent: true,
          headersTimeout: headersTimeoutMs,
          bodyTimeout: bodyTimeoutMs,
        },
        this,
      )
    } catch (error) {
      this.#fail(this.#wrap(this, error))
    }
  }

  /** Gives it up: whoever waits for it learns the reason at once, and its connection or stream is closed. */
  cancel(reason: unknown): void {
    this.#fail(reason)
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (this.#ended) {
      controller.abort(givenUp())
      return
    }
    if (this.#controller === undefined) {
      this.#controller = controller
      this.observer?.started()
      return
    }
    this.#controller = controller
    // A dispatcher of the caller's own may follow redirects or retry: that is what it was made for.
    if (this.observer === undefined) return
    // undici sends what was on a lost connection again by itself. Whether that is safe is not for it to say.
    this.#fail(this.#wrap(this, givenUp('the connection was lost before the response')))
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number, headers: HttpHead['headers']): void {
    if (status < 200 || this.#ended) return
    this.#head = { status, headers, url: this.request.url }
    if (!this.request.stream) {
      const length = Number(headers['content-length'])
      if (this.request.method !== 'HEAD' && length > this.request.maxResponseBytes) this.#failTooLarge()
      return
    }
    this.#stream = new Readable({
      highWaterMark: 65_536,
      read: () => controller.resume(),
      destroy: (error, callback) => {
        if (!this.#ended) this.#dropped = true
        this.#finish(error ?? givenUp())
        callback(error)
      },
    })
    // Whoever reads it gets the error all the same.
    this.#stream.on('error', ignore)
    this.#answer.resolve(new HttpStreamResponse(this.#head, this.#stream))
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Uint8Array): void {
    if (this.#ended) return
    if (this.#stream !== undefined) {
      if (!this.#stream.push(chunk)) controller.pause()
      return
    }
    this.#bytes += chunk.length
    if (this.#bytes > this.request.maxResponseBytes) this.#failTooLarge()
    else this.#chunks.push(chunk)
  }

  onResponseEnd(): void {
    if (this.#ended) return
    const body = this.#stream === undefined ? Buffer.concat(this.#chunks) : undefined
    this.#finish(undefined)
    if (body === undefined) this.#stream?.push(null)
    else this.#answer.resolve(new HttpResponse(this.#head as HttpHead, body))
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (!this.#ended) this.#fail(this.#wrap(this, this.#uploadError ?? error))
  }

  #failTooLarge(): void {
    const { name, maxResponseBytes, method, url } = this.request
    const message = `${name}: the response to ${method} ${url} is larger than ${maxResponseBytes} bytes`
    this.#fail(new TooLargeError(message, maxResponseBytes, { outcomeUnknown: true }))
  }

  #fail(reason: unknown): void {
    if (this.#ended) return
    this.#answer.reject(reason)
    const stream = this.#stream
    this.#finish(reason)
    stream?.destroy(asError(reason))
  }

  readonly #noteUploadError = (error: unknown): void => {
    this.#uploadError ??= error ?? givenUp('it broke')
  }

  /** Lets the connection go; one that is still busy with this exchange is closed, or its HTTP/2 stream is. */
  #finish(error: unknown): void {
    if (this.#ended) return
    this.#ended = true
    this.#chunks = []
    if (error !== undefined) {
      this.#controller?.abort(givenUp())
      if (this.#controller !== undefined || this.request.body.replayable) this.#upload?.destroy()
    }
    this.#upload?.off('error', this.#noteUploadError)
    this.observer?.ended()
    this.#end.resolve(error === undefined ? undefined : asError(error))
  }
}

const ignore = (): void => {}

/** What streams are destroyed with: an abort's reason can be anything. */
function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : givenUp(describeError(reason))
}

/** What undici is told. Its own code for what isn't the connection's fault keeps it from failing others with it. */
function givenUp(message = 'the request was given up'): Error {
  return Object.assign(new Error(message), { code: 'UND_ERR_INFO' })
}
