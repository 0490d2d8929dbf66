import type { FastifyInstance, FastifyReply } from 'fastify'
import { isSpillwayError } from 'spillway'
import { text } from '../counters.ts'
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
const retryAfterSeconds = 1
const path = '/api/v1/billing'

/** The HTTP face of the billing services. */
export function addBillingRoutes(
  app: FastifyInstance,
  { pool, metering }: Pick<BillingServices, 'pool' | 'metering'>,
): void {
  const options = { attempts, idempotent: true, timeoutMs }

  app.get<{ Params: UserParams }>(
    `${path}/balance/:user_id`,
    { schema: { params: balanceParams }, config: { scope: 'billing:read' } },
    ({ params }, reply) =>
      answer(reply, async () => balanceJson(await pool.call('getBalance', { userId: params.user_id }, options))),
  )

  app.get<{ Params: ServiceParams }>(
    `${path}/free-quota/:user_id/:service`,
    { schema: { params: freeQuotaParams }, config: { scope: 'billing:read' } },
    ({ params: { user_id, service } }, reply) =>
      answer(reply, async () => {
        // Before what is stored: what is handed on meanwhile counts twice rather than not at all.
        const pending = metering.pending(user_id, service)
        const quota = await pool.call('getFreeQuota', { userId: user_id, service }, options)
        return { user_id, service, ...quotaJson(quota, pending) }
      }),
  )

  app.post<{ Body: CheckBody }>(
    `${path}/check`,
    { schema: { body: checkBody }, config: { scope: 'billing:read' } },
    ({ body }, reply) =>
      answer(reply, async () => {
        const { user_id, service, count } = body
        const pending = metering.pending(user_id, service)
        const request = { userId: user_id, service, count, pending }
        return checkJson(body, await pool.call('checkQuota', request, options), pending)
      }),
  )

  app.post<{ Body: DeductBody }>(
    `${path}/deduct`,
    { schema: { body: deductBody }, config: { scope: 'billing:write' } },
    ({ body }, reply) =>
      answer(reply, async () => {
        const { request_id, user_id, service, count } = body
        const request = { requestId: request_id, userId: user_id, service, count }
        return { request_id, ...deductionJson(await pool.call('deductQuota', request, options)) }
      }),
  )

  app.post<{ Body: RechargeBody }>(
    `${path}/recharge`,
    { schema: { body: rechargeBody }, config: { scope: 'billing:write' } },
    ({ body }, reply) =>
      answer(reply, async () => {
        const { request_id, user_id, amount } = body
        const { balance } = await pool.call('recharge', { requestId: request_id, userId: user_id, amount }, options)
        return { request_id, user_id, amount, balance }
      }),
  )

  app.post<{ Body: ReserveBody }>(
    `${path}/reserve`,
    { schema: { body: reserveBody }, config: { scope: 'billing:write' } },
    ({ body }, reply) =>
      answer(reply, async () => {
        const { request_id, user_id, service, count, ttl_ms } = body
        const request = { requestId: request_id, userId: user_id, service, count, ttlMs: ttl_ms }
        const { free, held, expiresAt } = await pool.call('reserve', request, options)
        return { reservation_id: request_id, user_id, service, count, free, held, expires_at: timeJson(expiresAt) }
      }),
  )

  app.post<{ Body: SettleBody }>(
    `${path}/settle`,
    { schema: { body: settleBody }, config: { scope: 'billing:write' } },
    ({ body }, reply) =>
      answer(reply, async () => {
        const { reservation_id, user_id, count } = body
        const deduction = await pool.call('settle', { requestId: reservation_id, userId: user_id, count }, options)
        return { reservation_id, ...deductionJson(deduction) }
      }),
  )

  app.post<{ Body: ReleaseBody }>(
    `${path}/release`,
    { schema: { body: releaseBody }, config: { scope: 'billing:write' } },
    ({ body }, reply) =>
      answer(reply, async () => {
        const { reservation_id, user_id } = body
        const { service, state } = await pool.call('release', { requestId: reservation_id, userId: user_id }, options)
        return { reservation_id, user_id, service, state }
      }),
  )
}

/** Answers with what a billing service says, be it a refusal. */
async function answer(reply: FastifyReply, call: () => Promise<Record<string, unknown>>): Promise<FastifyReply> {
  try {
    return reply.send(await call())
  } catch (error) {
    const problem = problemOf(error)
    if (problem === undefined) return unavailable(error, reply)
    const { resets_at } = problem.details
    if (resets_at !== undefined) {
      reply.header('retry-after', Math.max(1, Math.ceil((Date.parse(resets_at) - Date.now()) / 1_000)))
    }
    return reply.code(problem.httpStatus).send(problem.toJSON())
  }
}

/** Whether it was done, the same request tells: made again under its id, it counts once. */
function unavailable(error: unknown, reply: FastifyReply): FastifyReply {
  const applied = isSpillwayError(error) && error.outcomeUnknown === false ? 'no' : 'unknown'
  const { params, body } = reply.request
  return reply
    .code(503)
    .header('retry-after', retryAfterSeconds)
    .send({ error: 'unavailable', message: text(error), applied, ...(params as object), ...(body as object) })
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
