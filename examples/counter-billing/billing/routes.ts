import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { isSpillwayError } from 'spillway'
import { text } from '../counter/counters.ts'
import {
  balanceAnswers,
  checkAnswers,
  deductAnswers,
  freeQuotaAnswers,
  rechargeAnswers,
  releaseAnswers,
  reserveAnswers,
  settleAnswers,
} from '../http/answer-schemas.ts'
import { retryAfterSeconds } from '../http/error-answers.ts'
import { type Problem, problem, sendProblem } from '../http/problems.ts'
import { type AnsweredKeys, isKeyed, type KeyedAnswer, keyedHeaders } from '../idempotency/idempotency.ts'
import type { BillingServices } from './billing-services.ts'
import { problemOf } from './problem.ts'
import type { Balance, CheckQuotaReply, Deduction, FreeQuota } from './protocol.ts'
import {
  balanceParams,
  type CheckBody,
  checkBody,
  type DeductBody,
  deductBody,
  freeQuotaParams,
  type RechargeBody,
  type ReleaseBody,
  type ReserveBody,
  rechargeBody,
  releaseBody,
  reserveBody,
  type ServiceParams,
  type SettleBody,
  settleBody,
  type UserParams,
} from './schemas.ts'

/** How many billing services are asked, one after the other, before a request has failed: each request counts once, wherever. */
const attempts = 3
const timeoutMs = 5_000
const path = '/api/v1/billing'

/** The HTTP face of the billing services. */
export function addBillingRoutes(
  app: FastifyInstance,
  { pool, metering }: Pick<BillingServices, 'pool' | 'metering'>,
  keys: AnsweredKeys,
): void {
  const options = { attempts, idempotent: true, timeoutMs }
  /** A write, under a key if the request has one: a refusal isn't final, and the same request is judged anew. */
  const write = (request: FastifyRequest, reply: FastifyReply, call: Call): Promise<FastifyReply> =>
    isKeyed(request) ? keys.answer(request, reply, () => keyedAnswerOf(request, call)) : answer(request, reply, call)

  app.get<{ Params: UserParams }>(
    `${path}/balance/:user_id`,
    { schema: { params: balanceParams, response: balanceAnswers }, config: { scope: 'billing:read' } },
    (request, reply) =>
      answer(request, reply, async () =>
        balanceJson(await pool.call('getBalance', { userId: request.params.user_id }, options)),
      ),
  )

  app.get<{ Params: ServiceParams }>(
    `${path}/free-quota/:user_id/:service`,
    { schema: { params: freeQuotaParams, response: freeQuotaAnswers }, config: { scope: 'billing:read' } },
    (request, reply) =>
      answer(request, reply, async () => {
        const { user_id, service } = request.params
        // Before what is stored: what is handed on meanwhile counts twice rather than not at all.
        const pending = metering.pending(user_id, service)
        const quota = await pool.call('getFreeQuota', { userId: user_id, service }, options)
        return { user_id, service, ...quotaJson(quota, pending) }
      }),
  )

  app.post<{ Body: CheckBody }>(
    `${path}/check`,
    { schema: { body: checkBody, response: checkAnswers }, config: { scope: 'billing:read' } },
    (request, reply) =>
      answer(request, reply, async () => {
        const { user_id, service, count } = request.body
        const pending = metering.pending(user_id, service)
        const asked = { userId: user_id, service, count, pending }
        return checkJson(request.body, await pool.call('checkQuota', asked, options), pending)
      }),
  )

  app.post<{ Body: DeductBody }>(
    `${path}/deduct`,
    {
      schema: { body: deductBody, headers: keyedHeaders, response: deductAnswers },
      config: { scope: 'billing:write' },
    },
    (request, reply) =>
      write(request, reply, async () => {
        const { request_id, user_id, service, count } = request.body
        const asked = { requestId: request_id, userId: user_id, service, count }
        return { request_id, ...deductionJson(await pool.call('deductQuota', asked, options)) }
      }),
  )

  app.post<{ Body: RechargeBody }>(
    `${path}/recharge`,
    {
      schema: { body: rechargeBody, headers: keyedHeaders, response: rechargeAnswers },
      config: { scope: 'billing:write' },
    },
    (request, reply) =>
      write(request, reply, async () => {
        const { request_id, user_id, amount } = request.body
        const { balance } = await pool.call('recharge', { requestId: request_id, userId: user_id, amount }, options)
        return { request_id, user_id, amount, balance }
      }),
  )

  app.post<{ Body: ReserveBody }>(
    `${path}/reserve`,
    {
      schema: { body: reserveBody, headers: keyedHeaders, response: reserveAnswers },
      config: { scope: 'billing:write' },
    },
    (request, reply) =>
      write(request, reply, async () => {
        const { request_id, user_id, service, count, ttl_ms } = request.body
        const asked = { requestId: request_id, userId: user_id, service, count, ttlMs: ttl_ms }
        const { free, held, expiresAt } = await pool.call('reserve', asked, options)
        return { reservation_id: request_id, user_id, service, count, free, held, expires_at: timeJson(expiresAt) }
      }),
  )

  app.post<{ Body: SettleBody }>(
    `${path}/settle`,
    {
      schema: { body: settleBody, headers: keyedHeaders, response: settleAnswers },
      config: { scope: 'billing:write' },
    },
    (request, reply) =>
      write(request, reply, async () => {
        const { reservation_id, user_id, count } = request.body
        const deduction = await pool.call('settle', { requestId: reservation_id, userId: user_id, count }, options)
        return { reservation_id, ...deductionJson(deduction) }
      }),
  )

  app.post<{ Body: ReleaseBody }>(
    `${path}/release`,
    {
      schema: { body: releaseBody, headers: keyedHeaders, response: releaseAnswers },
      config: { scope: 'billing:write' },
    },
    (request, reply) =>
      write(request, reply, async () => {
        const { reservation_id, user_id } = request.body
        const { service, state } = await pool.call('release', { requestId: reservation_id, userId: user_id }, options)
        return { reservation_id, user_id, service, state }
      }),
  )
}

type Call = () => Promise<Record<string, unknown>>

/** Answers with what a billing service says, be it a refusal. */
async function answer(request: FastifyRequest, reply: FastifyReply, call: Call): Promise<FastifyReply> {
  try {
    const body = await call()
    return reply.sent ? reply : reply.send(body)
  } catch (error) {
    const { code, detail, details } = refusalOf(request, error)
    return sendProblem(reply, code, detail, details)
  }
}

async function keyedAnswerOf(request: FastifyRequest, call: Call): Promise<KeyedAnswer> {
  try {
    return { status: 200, body: await call(), final: true }
  } catch (error) {
    const { code, detail, details } = refusalOf(request, error)
    const body = problem(code, detail, details)
    return { status: body.status, body, final: false }
  }
}

interface Refusal extends Pick<Problem, 'code' | 'detail'> {
  readonly details: Readonly<Record<string, unknown>>
}

function refusalOf({ params, body }: FastifyRequest, error: unknown): Refusal {
  const refused = problemOf(error)
  if (refused === undefined) {
    // Whether it was done, the same request tells: made again under its id, it counts once.
    const applied = isSpillwayError(error) && error.outcomeUnknown === false ? 'no' : 'unknown'
    const details = { ...(params as object), ...(body as object), applied, retry_after: retryAfterSeconds }
    return { code: 'unavailable', detail: text(error), details }
  }
  const { code, message: detail, details } = refused
  const { resets_at } = details
  if (resets_at === undefined) return { code, detail, details: { ...details, applied: 'no' } }
  const retry_after = Math.max(1, Math.ceil((Date.parse(resets_at) - Date.now()) / 1_000))
  return { code, detail, details: { ...details, applied: 'no', retry_after } }
}

function balanceJson({ userId, balance, held }: Balance): Record<string, unknown> {
  return { user_id: userId, balance, held, available: balance - held }
}

function quotaJson({ limit, used, held, period, resetsAt }: FreeQuota, pending: number): Record<string, unknown> {
  const remaining = Math.max(0, limit - used - held - pending)
  return { limit, used, held, pending, remaining, period, resets_at: timeJson(resetsAt) }
}

function checkJson(
  { user_id, service, count }: CheckBody,
  reply: CheckQuotaReply,
  pending: number,
): Record<string, unknown> {
  const { allowed, free, charged, price = null, quota, balance: account } = reply
  const { balance, held } = account
  return {
    ...{ user_id, service, count, allowed, free, charged, price },
    quota: quotaJson(quota, pending),
    balance: { balance, held, available: balance - held },
  }
}

function deductionJson({ userId, service, count, free, charged, balance }: Deduction): Record<string, unknown> {
  return { user_id: userId, service, count, free, charged, balance }
}

function timeJson(ms: number): string {
  return new Date(ms).toISOString()
}
