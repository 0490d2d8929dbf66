import { StoreError, TimeoutError } from '../../core/errors.js'
import type { HttpResponse, HttpStreamResponse } from './http-response.js'

/** Which request an error is about. */
export interface FailedRequest {
  /** The component that made it. */
  readonly name: string
  /** Its method. */
  readonly method: string
  /** Where it went, without the query. */
  readonly url: string
  /** Whether anything of this attempt, or of one before it, can have reached a server that may have acted on it. */
  readonly outcomeUnknown: boolean
}

/** A `StoreError` (`ERR_STORE`) of a request: no answer came, or not all of it. The original error is in `cause`. */
export class HttpError extends StoreError {
  /** The request's method. */
  readonly method: string
  /** Where it went, without the query, which may hold secrets. */
  readonly url: string
  /** The status, where there was one. */
  readonly status: number | undefined

  constructor(
    message: string,
    request: FailedRequest,
    options: { cause?: unknown; retryable?: boolean; retryAfterMs?: number | undefined; status?: number } = {},
  ) {
    super(message, {
      outcomeUnknown: request.outcomeUnknown,
      ...('cause' in options ? { cause: options.cause } : {}),
      ...(options.retryable === undefined ? {} : { retryable: options.retryable }),
      ...(options.retryAfterMs === undefined ? {} : { retryAfterMs: options.retryAfterMs }),
    })
    this.method = request.method
    this.url = request.url
    this.status = options.status
  }
  override get name(): string {
    return 'HttpError'
  }
}

/**
 * An `HttpError` for an answer whose status counts as a failure. Breakers, balancers and `retry.retryable` see it;
 * callers only with `throwOnError`. The work may have been done where the status says so little as a 5xx (but 501 and
 * 505) does.
 */
export class HttpStatusError extends HttpError {
  /** The status. */
  declare readonly status: number
  readonly #response: HttpResponse | HttpStreamResponse

  constructor(
    response: HttpResponse | HttpStreamResponse,
    request: FailedRequest,
    options: { retryable: boolean; retryAfterMs?: number | undefined },
  ) {
    const { status } = response
    const done = status >= 500 && status !== 501 && status !== 505
    super(
      `${request.name}: ${request.method} ${request.url} answered ${status}`,
      { ...request, outcomeUnknown: request.outcomeUnknown || done },
      { ...options, status },
    )
    this.#response = response
  }

  // An accessor, so that a logged error doesn't print headers and bodies.
  /** The answer. Of a streamed request, the body is gone. */
  get response(): HttpResponse | HttpStreamResponse {
    return this.#response
  }
  override get name(): string {
    return 'HttpStatusError'
  }
}

/** Wraps what undici, a socket or TLS reported; its timeouts become ours. */
export function wrapError(cause: unknown, request: FailedRequest, timeouts: UndiciTimeouts): HttpError | TimeoutError {
  const { name, code, message } = readError(cause)
  const what = `${request.name}: ${request.method} ${request.url}`
  const { outcomeUnknown } = request
  switch (code) {
    case 'UND_ERR_CONNECT_TIMEOUT':
      return new TimeoutError(
        `${what} got no connection within ${timeouts.connectTimeoutMs} ms`,
        timeouts.connectTimeoutMs,
        { cause, outcomeUnknown },
      )
    case 'UND_ERR_HEADERS_TIMEOUT':
      return new TimeoutError(
        `${what} got no response within ${timeouts.headersTimeoutMs} ms`,
        timeouts.headersTimeoutMs,
        { cause, outcomeUnknown },
      )
    case 'UND_ERR_BODY_TIMEOUT':
      return new TimeoutError(
        `${what} got no more of the response for ${timeouts.bodyTimeoutMs} ms`,
        timeouts.bodyTimeoutMs,
        { cause, outcomeUnknown },
      )
    default: {
      const label = code === undefined || message.includes(code) ? '' : `${code}: `
      return new HttpError(`${what} failed: ${label}${message}`, request, {
        cause,
        retryable: !isPermanent(name, code),
      })
    }
  }
}

/** The limits that undici itself keeps, for the messages. */
export interface UndiciTimeouts {
  readonly connectTimeoutMs: number
  readonly headersTimeoutMs: number
  readonly bodyTimeoutMs: number
}

/** Whether a request can't be sent as it was asked for, whoever it goes to: the fault of its caller. */
export function isMisuse(error: unknown): boolean {
  const { code } = readError(error)
  return code !== undefined && misuseCodes.test(code)
}

const misuseCodes = /^UND_ERR_(?:INVALID_ARG|REQ_CONTENT_LENGTH_MISMATCH|NOT_SUPPORTED)$/

/** Whether an HTTP/2 server said that it never looked at the request (RFC 9113, 8.7). */
export function wasRefused(error: unknown): boolean {
  const { code, message } = readError(error)
  return code === 'ERR_HTTP2_STREAM_ERROR' && message.includes('NGHTTP2_REFUSED_STREAM')
}

function readError(error: unknown): { name: unknown; code: string | undefined; message: string } {
  let current = error as
    | { name?: unknown; code?: unknown; message?: unknown; errors?: readonly unknown[] }
    | null
    | undefined
  // A name with several addresses fails with an AggregateError that says nothing itself.
  if (Array.isArray(current?.errors) && current.errors.length > 0 && !current.message) {
    current = current.errors[0] as typeof current
  }
  return {
    name: current?.name,
    code: typeof current?.code === 'string' ? current.code : undefined,
    message: typeof current?.message === 'string' ? current.message : String(error),
  }
}

/** What would go wrong the next time too: what was asked for, what the server speaks, whom it claims to be. */
function isPermanent(name: unknown, code: string | undefined): boolean {
  if (name === 'HTTPParserError') return true
  if (code === undefined) return false
  return (
    misuseCodes.test(code) ||
    /^UND_ERR_(?:HEADERS_OVERFLOW|MAX_ORIGINS_REACHED)$/.test(code) ||
    /^(?:ERR_TLS_|ERR_SSL_|CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|HOSTNAME_MISMATCH|ERR_INVALID_)/.test(code)
  )
}
