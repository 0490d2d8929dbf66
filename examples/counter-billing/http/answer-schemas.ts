import { type ProblemCode, problems, problemType, typePrefix } from './problems.ts'
import { name, text, whole } from './rules.ts'

/** A JSON schema of an answer. What is answered is compared with it in the tests, and not at run time. */
export type AnswerSchema = Readonly<Record<string, unknown>>

/** What a route answers, by status, as fastify and the OpenAPI document have it. */
export type Answers = Readonly<Record<string, AnswerSchema>>

const integer: AnswerSchema = { type: 'integer' }
const string: AnswerSchema = { type: 'string' }

/** An object of which all members are there. */
export function allOf(description: string, properties: Readonly<Record<string, AnswerSchema>>): AnswerSchema {
  return { type: 'object', description, required: Object.keys(properties), properties, additionalProperties: false }
}

/** The schema that all problems have, under its name in the document. */
export const problemSchema = {
  $id: 'Problem',
  type: 'object',
  description: 'What went wrong, as RFC 9457 has it; `code` is for programs, `detail` for people.',
  required: ['type', 'title', 'status', 'detail', 'code'],
  properties: {
    type: { type: 'string', pattern: `^${typePrefix}[a-z_]+$`, description: 'the same as `code`, as a URI' },
    title: string,
    status: integer,
    detail: string,
    instance: { type: 'string', description: 'the id of the request, as a URI' },
    code: { enum: Object.keys(problems) },
    field: { type: 'string', description: 'the first field that is wrong' },
    errors: {
      type: 'array',
      description: 'all fields that are wrong',
      items: allOf('a rule that was broken', { field: string, message: string }),
    },
    applied: { enum: ['no', 'unknown'], description: '`no`: it may be sent again without counting twice' },
    retry_after: { type: 'integer', minimum: 0, description: 'when to come back, in seconds' },
  },
} as const

/** What any route under /api may answer. */
const usual: readonly ProblemCode[] = [
  ...(['invalid_request', 'missing_token', 'invalid_token', 'invalid_api_key', 'insufficient_scope'] as const),
  ...(['rate_limited', 'internal_error', 'unavailable', 'handler_timeout'] as const),
]
/** What any route that takes a body may answer. */
const ofBodies: readonly ProblemCode[] = ['body_too_large', 'unsupported_media_type', 'other_user']
/** What any route that takes an `Idempotency-Key` may answer. */
export const ofKeys: readonly ProblemCode[] = ['request_in_progress', 'idempotency_key_reused']

/** What a route may answer that deletes: some clients send it a body. */
export const ofDeletions: readonly ProblemCode[] = ['url_too_long', 'body_too_large', 'unsupported_media_type']

/** What a route answers: what was asked for, and problems. */
export function answers(
  good: Readonly<Record<number, AnswerSchema>>,
  codes: readonly ProblemCode[],
  { body = false } = {},
): Answers {
  return { ...good, ...problemAnswers([...usual, ...(body ? ofBodies : []), ...codes]) }
}

/** Problems by status, as answers. */
export function problemAnswers(codes: readonly ProblemCode[]): Answers {
  const byStatus = new Map<number, ProblemCode[]>()
  for (const code of new Set(codes)) {
    const { status } = problems[code]
    byStatus.set(status, [...(byStatus.get(status) ?? []), code])
  }
  return Object.fromEntries(
    [...byStatus].map(([status, all]) => [
      status,
      {
        description: all.map((code) => `\`${code}\`: ${problems[code].title}`).join('. '),
        content: { [problemType]: { schema: { $ref: 'Problem#' } } },
      },
    ]),
  )
}

const counter = { resource_id: text(256), counter_type: name }
const value = { type: 'integer', description: 'the counter’s value' }
const operationResult: AnswerSchema = {
  type: 'object',
  description: 'what became of an operation',
  required: ['resource_id', 'counter_type'],
  properties: { ...counter, value, problem: { $ref: 'Problem#' } },
  oneOf: [{ required: ['value'] }, { required: ['problem'] }],
  additionalProperties: false,
}
const results = allOf('each operation’s outcome, in order', { results: { type: 'array', items: operationResult } })

export const incrementAnswers = answers(
  {
    200: allOf('applied; the value right after it', { value, ack: { enum: ['redis', 'committed'] } }),
    202: allOf('accepted', { accepted: { const: true } }),
  },
  ['overloaded', 'refused', ...ofKeys],
  { body: true },
)

export const batchAnswers = answers(
  {
    200: results,
    202: allOf('accepted, as many as there were', { accepted: integer }),
    207: { ...results, description: 'some were applied, and some were not' },
  },
  ['overloaded', ...ofKeys],
  { body: true },
)

const source = { enum: ['live', 'durable'] }

export const counterAnswers = answers({ 200: allOf('a counter', { ...counter, value, source }) }, ['url_too_long'])

const cursor = { type: ['string', 'null'] }

export const listAnswers = answers(
  {
    200: allOf('a page of counters, and the cursors of its neighbours', {
      resource_id: text(256),
      counters: { type: 'array', items: allOf('a counter', { counter_type: name, value }) },
      next: cursor,
      previous: cursor,
    }),
  },
  ['invalid_cursor', 'not_implemented'],
)

export const invalidateAnswers = answers({ 200: allOf('forgotten', { invalidated: integer }) }, [], { body: true })

const money = whole(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)
const time = { type: 'string', format: 'date-time' }
const user_id = text(256)
const quota = {
  ...{ limit: integer, used: integer, held: integer, pending: integer, remaining: integer },
  ...{ period: { enum: ['day', 'month'] }, resets_at: time },
}
const account = { balance: money, held: money, available: money }
const refusals: readonly ProblemCode[] = ['unknown_service', 'insufficient_balance', 'quota_exceeded']
const reservationRefusals: readonly ProblemCode[] = ['unknown_reservation', 'reservation_settled']
const deduction = { user_id, service: name, count: integer, free: integer, charged: money, balance: money }

export const balanceAnswers = answers({ 200: allOf('an account', { user_id, ...account }) }, [
  ...(['other_user', 'url_too_long'] as const),
])
export const freeQuotaAnswers = answers({ 200: allOf('a free quota', { user_id, service: name, ...quota }) }, [
  ...(['unknown_service', 'other_user', 'url_too_long'] as const),
])
export const checkAnswers = answers(
  {
    200: allOf('what a deduction would do', {
      ...{ user_id, service: name, count: integer, allowed: { type: 'boolean' }, free: integer, charged: money },
      price: { type: ['integer', 'null'] },
      quota: allOf('the free quota', quota),
      balance: allOf('the account', account),
    }),
  },
  ['unknown_service'],
  { body: true },
)

const written = (
  description: string,
  properties: Readonly<Record<string, AnswerSchema>>,
  codes: readonly ProblemCode[],
) => answers({ 200: allOf(description, properties) }, [...codes, 'request_conflict', ...ofKeys], { body: true })

export const deductAnswers = written('what was taken', { request_id: text(128), ...deduction }, refusals)
export const rechargeAnswers = written(
  'the balance after it',
  { request_id: text(128), user_id, amount: money, balance: money },
  ['balance_limit'],
)
export const reserveAnswers = written(
  'what is held',
  {
    ...{ reservation_id: text(128), user_id, service: name, count: integer },
    ...{ free: integer, held: money, expires_at: time },
  },
  refusals,
)
export const settleAnswers = written('what was taken', { reservation_id: text(128), ...deduction }, [
  ...reservationRefusals,
  ...(['reservation_released', 'reservation_expired'] as const),
])
export const releaseAnswers = written(
  'what the reservation is now',
  {
    ...{ reservation_id: text(128), user_id, service: name },
    state: { enum: ['released', 'settled', 'expired'] },
  },
  reservationRefusals,
)

const tally = { lost: integer, notLive: integer }

export const healthAnswers: Answers = {
  200: allOf('the process lives', { status: { const: 'ok' }, ...tally }),
}
export const readyAnswers: Answers = {
  200: allOf('all of it answers', {
    ...{ status: { const: 'ready' }, parts: { type: 'object', additionalProperties: string } },
    ...tally,
  }),
  ...problemAnswers(['not_ready']),
}

export const statsAnswers: Answers = {
  200: { type: 'object', description: 'the stats of each part by its name' },
  ...problemAnswers(['rate_limited', 'internal_error']),
}
export const metricsAnswers: Answers = {
  200: { description: 'the text format of Prometheus', content: { 'text/plain': { schema: string } } },
  ...problemAnswers(['forbidden', 'internal_error']),
}
