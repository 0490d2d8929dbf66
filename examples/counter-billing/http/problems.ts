import type { FastifyReply } from 'fastify'

interface ProblemKind {
  readonly status: number
  readonly title: string
}

/** All that the HTTP face answers in place of what was asked for, by the code that a program goes by. The README has them as a table. */
export const problems = {
  invalid_request: { status: 400, title: 'The request breaks a rule' },
  invalid_cursor: { status: 400, title: 'The cursor is not one of this listing' },
  malformed_http: { status: 400, title: 'The request is not HTTP' },
  missing_token: { status: 401, title: 'Credentials are needed' },
  invalid_token: { status: 401, title: 'The token is not valid' },
  invalid_api_key: { status: 401, title: 'The API key is not valid' },
  insufficient_balance: { status: 402, title: 'The balance is too small' },
  forbidden: { status: 403, title: 'This is not for who asks' },
  insufficient_scope: { status: 403, title: 'The credentials do not allow it' },
  other_user: { status: 403, title: 'The API key is another user’s' },
  not_found: { status: 404, title: 'There is no such thing' },
  unknown_api_key: { status: 404, title: 'There is no such API key' },
  unknown_service: { status: 404, title: 'The tariff has no such service' },
  unknown_reservation: { status: 404, title: 'There is no such reservation' },
  method_not_allowed: { status: 405, title: 'There is something here, but not for this method' },
  request_timeout: { status: 408, title: 'The request took too long to arrive' },
  refused: { status: 409, title: 'The counter can’t take the increment' },
  request_in_progress: { status: 409, title: 'The same request is still under way' },
  balance_limit: { status: 409, title: 'The balance can’t grow further' },
  request_conflict: { status: 409, title: 'The request id belongs to another request' },
  reservation_settled: { status: 409, title: 'The reservation is settled' },
  reservation_released: { status: 409, title: 'The reservation was released' },
  reservation_expired: { status: 409, title: 'The reservation has expired' },
  body_too_large: { status: 413, title: 'The body is too large' },
  url_too_long: { status: 414, title: 'A part of the URL is too long' },
  unsupported_media_type: { status: 415, title: 'The body must be JSON' },
  idempotency_key_reused: { status: 422, title: 'The idempotency key belongs to another request' },
  rate_limited: { status: 429, title: 'Too many requests' },
  quota_exceeded: { status: 429, title: 'The quota of the period is used up' },
  headers_too_large: { status: 431, title: 'The header is too large' },
  internal_error: { status: 500, title: 'Something went wrong here' },
  not_implemented: { status: 501, title: 'This gateway can’t do that' },
  overloaded: { status: 503, title: 'Too much waits to be written' },
  unavailable: { status: 503, title: 'What it takes is out of reach' },
  not_ready: { status: 503, title: 'A part of the service doesn’t answer' },
  handler_timeout: { status: 504, title: 'The answer took too long' },
} as const satisfies Readonly<Record<string, ProblemKind>>

export type ProblemCode = keyof typeof problems

/** What is told beyond what every problem has: which field, whether it was applied, what there is instead. */
export type ProblemDetails = Readonly<Record<string, unknown>>

/** What went wrong, as RFC 9457 has it. */
export interface Problem extends ProblemDetails {
  readonly type: string
  readonly title: string
  readonly status: number
  /** What went wrong this time, for people. */
  readonly detail: string
  /** The request. */
  readonly instance?: string
  /** What went wrong, for programs: the last part of `type`. */
  readonly code: ProblemCode
}

export const problemType = 'application/problem+json'

/** What a problem's type begins with; its code follows. */
export const typePrefix = 'urn:counter-billing:problem:'

/** What a problem's instance begins with; the id of the request follows. */
export const instancePrefix = 'urn:counter-billing:request:'

export function problem(code: ProblemCode, detail: string, details: ProblemDetails = {}, requestId?: string): Problem {
  const { status, title } = problems[code]
  const instance = requestId === undefined ? {} : { instance: `${instancePrefix}${requestId}` }
  return { type: `${typePrefix}${code}`, title, status, detail, ...instance, code, ...details }
}

/** Answers with a problem. A `retry_after`, in seconds, is a header, too. */
export function sendProblem(
  reply: FastifyReply,
  code: ProblemCode,
  detail: string,
  details: ProblemDetails = {},
): FastifyReply {
  // Whoever waited has been told by now that it takes too long.
  if (reply.sent) return reply
  const retryAfter = details['retry_after']
  if (retryAfter !== undefined) reply.header('retry-after', retryAfter)
  const { status } = problems[code]
  return reply
    .code(status)
    .type(problemType)
    .send(problem(code, detail, details, reply.request.id))
}
