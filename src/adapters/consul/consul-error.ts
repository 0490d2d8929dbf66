import { type SpillwayErrorOptions, StoreError, TimeoutError } from '../../core/errors.js'

/**
 * `ERR_STORE` from Consul: it refused a request, failed, or could not be reached; then `cause` has the original error.
 */
export class ConsulError extends StoreError {
  /** The HTTP status of its answer; undefined where there was none. */
  readonly status: number | undefined

  constructor(message: string, status: number | undefined, options: SpillwayErrorOptions) {
    super(message, options)
    this.status = status
  }
  override get name(): string {
    return 'ConsulError'
  }
}

/** The request that failed. */
export interface FailedRequest {
  /** Who made it. */
  readonly name: string
  readonly host: string
  readonly method: 'GET' | 'PUT'
  readonly path: string
  /** What must not be told. */
  readonly token: string | undefined
}

/** Statuses by which a refusal says that it may pass. */
const passing: ReadonlySet<number> = new Set([408, 429])

/** A proxy's ways of saying that the agent behind it took too long, or wasn't there. */
const proxyStatuses: ReadonlySet<number | undefined> = new Set([408, 502, 503, 504])

/** What became of a request that brought no answer. */
export function transportError(
  error: unknown,
  request: FailedRequest & { readonly sent: boolean; readonly limitMs?: number },
): ConsulError {
  const { limitMs, method } = request
  const outcomeUnknown = request.sent && method === 'PUT'
  const text = limitMs === undefined ? textOf(error) : `no answer within ${limitMs} ms`
  const cause = limitMs === undefined ? error : new TimeoutError(text, limitMs, { outcomeUnknown })
  return new ConsulError(describe(request, text), undefined, { cause, retryable: true, outcomeUnknown })
}

/** What a status other than 200 means. */
export function answerError(status: number, body: string, request: FailedRequest): ConsulError {
  const text = `HTTP ${status}${body.trim() === '' ? '' : `: ${body.trim()}`}`
  const failed = status >= 500
  return new ConsulError(describe(request, text), status, {
    retryable: failed || passing.has(status),
    // It failed on the way, and how far it came isn't told.
    outcomeUnknown: failed && request.method === 'PUT',
  })
}

/** An answer that is not what Consul gives. */
export function unreadableError(request: FailedRequest, cause: unknown): ConsulError {
  return new ConsulError(describe(request, `the answer is none of Consul's: ${textOf(cause)}`), 200, {
    cause,
    retryable: true,
    outcomeUnknown: false,
  })
}

/** Whether an error looks like a request that was cut on its way, rather than one that Consul itself answered. */
export function wasCut(error: unknown): boolean {
  return error instanceof ConsulError && (error.status === undefined || proxyStatuses.has(error.status))
}

function describe({ name, host, method, path, token }: FailedRequest, text: string): string {
  // Before it is cut short, so that no part of the token stays.
  const safe = token === undefined ? text : text.replaceAll(token, '…')
  return `${name}: ${method} ${path} at ${host} failed: ${safe.length > 300 ? `${safe.slice(0, 299)}…` : safe}`
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  // Several addresses were tried, and Node leaves the message empty.
  const first = error.message === '' ? (error as { errors?: unknown[] }).errors?.[0] : undefined
  return first instanceof Error ? first.message : error.message || ((error as { code?: string }).code ?? error.name)
}
