import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { type CounterIncrement, type CursorError, isSpillwayError } from 'spillway'
import type { ApiOptions } from './api-options.ts'
import { type AuthMode, guardHttp } from './auth/http-guard.ts'
import type { TokenVerifier } from './auth/token-verifier.ts'
import type { BillingServices } from './billing/billing-services.ts'
import type { Metering } from './billing/metering.ts'
import { addBillingRoutes } from './billing/routes.ts'
import { compressAnswers } from './compression.ts'
import { type CounterReads, keptMs, type Read } from './counter-reads.ts'
import { type Acknowledgement, type Counters, isRefusal, type Log, Overload, text } from './counters.ts'
import type { Dashboard } from './dashboard/dashboard.ts'
import { answerPage } from './listing-answer.ts'
import type { Logging } from './logging.ts'
import type { Metrics } from './metrics.ts'
import { answerMetrics } from './metrics-endpoint.ts'
import { answerWithId, requestLogging } from './request-log.ts'
import type { Rule } from './rules.ts'
import {
  type BatchIncrementBody,
  batchIncrementBody,
  type CounterParams,
  type CounterQuery,
  counterParams,
  counterQuery,
  explain,
  type IncrementBody,
  type InvalidateBody,
  incrementBody,
  invalidateBody,
  keyOf,
  type ListQuery,
  listQuery,
  metered,
  type Operation,
  type ReadQuery,
} from './schemas.ts'

/** When to come back after a 503, in seconds: a flush is over by then. */
const retryAfterSeconds = 1

export interface GatewayOptions {
  /** When an increment is answered whose request doesn't say. */
  acknowledgement: Acknowledgement
  /** Limits, and API keys of the configuration. */
  api?: ApiOptions | undefined
  /** What is told of the counter services, if the stores aren't here. */
  services?: (() => Record<string, unknown>) | undefined
  /** Billing services to pass requests on to; the writes of users are metered then. */
  billing?: Pick<BillingServices, 'pool' | 'metering' | 'stats'> | undefined
  /** Verifies the tokens of callers; without it, everybody is let in. */
  auth?: { readonly verifier: TokenVerifier; readonly mode: AuthMode; stats(): Record<string, unknown> } | undefined
  /** Where requests are logged. None are without it. */
  logging?: Logging | undefined
  /** What is answered at `/metrics`. */
  metrics?: Metrics | undefined
  /** The page on which one sees it work. */
  dashboard?: Dashboard | undefined
}

/** The HTTP face of the counters and of billing. */
export async function createGateway(
  counters: Counters,
  reads: CounterReads,
  log: Log,
  options: GatewayOptions,
): Promise<FastifyInstance> {
  const { billing, auth, logging, metrics } = options
  const logger = logging?.logger.child({ service: 'gateway' })
  const metering = billing?.metering
  const bodyOf = (body: Rule): Rule => (metering === undefined ? body : metered(body))
  const app = Fastify({
    ...requestLogging(logger),
    // Long ids must reach the rule that refuses them with a reason.
    routerOptions: { maxParamLength: 8_192 },
    // Say what is wrong, don't mend it: "1" is not a number, and an unknown field may be a misspelt one.
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, verbose: true } },
  })
  app.removeContentTypeParser('text/plain')
  app.setErrorHandler<FastifyError>((error, _request, reply) => answerError(error, reply, log))
  app.setNotFoundHandler((request, reply) => {
    reply.code(404).send({ error: 'not_found', message: `there is no ${request.method} ${request.url}` })
  })

  answerWithId(app)
  if (auth !== undefined) guardHttp(app, auth.verifier, auth.mode)
  metrics?.time('gateway', app)
  await compressAnswers(app)

  app.post<{ Body: IncrementBody }>(
    '/api/v1/counter/increment',
    { schema: { body: bodyOf(incrementBody) }, config: { scope: 'counters:write' }, compress: false },
    // No async function: the answer to what is only accepted needs no promise.
    (request, reply) => {
      const { ack = options.acknowledgement, user_id } = request.body
      const meter = meterOf(metering, user_id)
      if (ack !== 'accepted') return answerOne({ counters, reads }, request.body, ack, meter, reply)
      if (!counters.accept(incrementOf(request.body))) return void overloaded(reply, { accepted: false })
      const room = meter(1)
      if (room !== undefined) return room.then(() => reply.code(202).send({ accepted: true }))
      reply.code(202).send({ accepted: true })
      return undefined
    },
  )

  app.post<{ Body: BatchIncrementBody }>(
    '/api/v1/counter/batch-increment',
    { schema: { body: bodyOf(batchIncrementBody) }, config: { scope: 'counters:write' } },
    async (request, reply) => {
      const { operations, async, ack, user_id } = request.body
      const meter = meterOf(metering, user_id)
      const level = ack ?? (async === true ? 'accepted' : 'committed')
      if (async === true && level !== 'accepted')
        return invalid(reply, 'async', `an ack of '${level}' waits: async can't be true`)
      if (async === false && level === 'accepted')
        return invalid(reply, 'async', `an ack of 'accepted' doesn't wait: async can't be false`)
      return level === 'accepted'
        ? acceptBatch(counters, operations, meter, reply)
        : answerBatch({ counters, reads }, operations, level, meter, reply)
    },
  )

  app.get<{ Params: CounterParams; Querystring: CounterQuery }>(
    '/api/v1/counter/:resource_id/:counter_type',
    { schema: { params: counterParams, querystring: counterQuery }, config: { scope: 'counters:read' } },
    async (request, reply) => {
      const { resource_id, counter_type } = request.params
      const fresh = wantsFresh(request)
      const read = await reads.value(resource_id, keyOf(request.params), { source: request.query.source, fresh })
      sayHowOld(reply, read, fresh)
      return { resource_id, counter_type, value: read.value, source: read.source }
    },
  )

  app.get<{ Querystring: ListQuery }>(
    '/api/v1/counter',
    { schema: { querystring: listQuery }, config: { scope: 'counters:read' } },
    async (request, reply) => {
      if (!reads.canList)
        return reply.code(501).send({ error: 'not_implemented', message: 'these counters have no listing' })
      const { resource_id, after, before, limit } = request.query
      if (after !== undefined && before !== undefined)
        return invalid(reply, 'before', 'before must not stand beside after')
      const fresh = wantsFresh(request)
      const page = { resourceId: resource_id, after, before, limit: Number(limit) }
      const read = await reads.page(page, fresh)
      sayHowOld(reply, read, fresh)
      return reply.send(answerPage(reply, request.query, read.value))
    },
  )

  app.post<{ Body: InvalidateBody }>(
    '/api/v1/counter/invalidate',
    { schema: { body: invalidateBody }, config: { scope: 'counters:invalidate', servicesOnly: true } },
    async ({ body }) => {
      await reads.invalidate(body.resource_ids)
      return { invalidated: body.resource_ids.length }
    },
  )

  app.get('/healthz', async (_request, reply) => {
    const { lost, notLive, failing, reason } = counters.losses
    // A read that goes the way of every read: healthy means that the durable store answers.
    const problem = failing ? reason : await counters.read('healthz', 'durable').then(() => undefined, text)
    if (problem === undefined) return { status: 'ok', lost, notLive }
    return reply.code(503).send({ status: 'failing', reason: problem, lost, notLive })
  })

  app.get('/stats', async () => {
    const services = options.services?.()
    const others = { billing: billing?.stats(), auth: auth?.stats(), log: logging?.stats() }
    return { ...counters.stats(), reads: reads.stats(), services, ...others }
  })

  if (metrics !== undefined) answerMetrics(app, metrics)
  options.dashboard?.serve(app)
  if (billing !== undefined) addBillingRoutes(app, billing)

  return app
}

/** Counts writes as the use of whoever makes them; a promise where too much waits to be counted. */
type Meter = (writes: number) => Promise<void> | undefined

function meterOf(metering: Metering | undefined, userId: string | undefined): Meter {
  if (metering === undefined || userId === undefined) return unmetered
  return (writes) => (writes === 0 ? undefined : metering.record(userId, writes))
}

const unmetered: Meter = () => undefined

/** Takes a batch in without waiting: all of it or, where a sum would no longer be exact, the first part of it. */
async function acceptBatch(
  counters: Counters,
  operations: Operation[],
  meter: Meter,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const accepted = counters.acceptAll(operations.map(incrementOf))
  await meter(accepted)
  if (accepted === operations.length) return reply.code(202).send({ accepted })
  return overloaded(reply, { accepted, refused: operations.length - accepted })
}

/** What an increment that is answered with a value goes to, and what is to know of that value. */
interface AnsweringParts {
  readonly counters: Counters
  readonly reads: CounterReads
}

const sourceOf = { redis: 'live', committed: 'durable' } as const

/** Waits until one increment is applied, and answers with the counter's value. */
async function answerOne(
  { counters, reads }: AnsweringParts,
  operation: Operation,
  ack: 'redis' | 'committed',
  meter: Meter,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const increment = incrementOf(operation)
  try {
    const value = ack === 'redis' ? await counters.incrementLive(increment) : await counters.commit(increment)
    reads.told(operation.resource_id, increment.key, sourceOf[ack])
    await meter(1)
    return reply.send({ value, ack })
  } catch (error) {
    const failure = failureOf(error)
    if (failure.error === 'refused') return reply.code(409).send(failure)
    return reply.code(503).header('retry-after', retryAfterSeconds).send(failure)
  }
}

/** Waits until a batch is applied, and gives every operation its own outcome. */
async function answerBatch(
  { counters, reads }: AnsweringParts,
  operations: Operation[],
  ack: 'redis' | 'committed',
  meter: Meter,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const increments = operations.map(incrementOf)
  const outcomes = await counters.answerAll(increments, ack)
  const results = operations.map(({ resource_id, counter_type }, index) => {
    const outcome = outcomes[index]
    if (outcome?.status === 'fulfilled')
      reads.told(resource_id, (increments[index] as CounterIncrement).key, sourceOf[ack])
    return outcome?.status === 'fulfilled'
      ? { resource_id, counter_type, value: outcome.value }
      : { resource_id, counter_type, error: failureOf(outcome?.reason) }
  })
  const failed = outcomes.filter((outcome) => outcome.status === 'rejected')
  await meter(outcomes.length - failed.length)
  if (failed.length === 0) return reply.send({ results })
  if (failed.length < outcomes.length || failed.some(({ reason }) => isRefusal(reason))) {
    return reply.code(207).send({ results })
  }
  return reply.code(503).header('retry-after', retryAfterSeconds).send({ error: 'unavailable', results })
}

/** What became of one operation: `applied` says whether it may be sent again without counting twice. */
function failureOf(error: unknown): {
  error: 'refused' | 'overloaded' | 'unavailable'
  message: string
  applied: 'no' | 'unknown'
} {
  const unknown = isSpillwayError(error) && error.outcomeUnknown
  return {
    error: isRefusal(error) ? 'refused' : error instanceof Overload ? 'overloaded' : 'unavailable',
    message: text(error),
    applied: unknown ? 'unknown' : 'no',
  }
}

/** Asked for by the query, or the way that HTTP has for it. */
function wantsFresh({ query, headers }: FastifyRequest<{ Querystring: ReadQuery }>): boolean {
  return query.fresh === 'true' || /(?:^|,)\s*no-cache\s*(?:,|$)/i.test(headers['cache-control'] ?? '')
}

/** How old an answer is, and how old it may be made: what was asked for fresh is nothing to keep. */
function sayHowOld(reply: FastifyReply, { at }: Read<unknown>, fresh: boolean): void {
  reply.header('age', Math.max(0, Math.floor((Date.now() - at) / 1_000)))
  reply.header('cache-control', fresh ? 'no-store' : `max-age=${keptMs / 1_000}`)
}

function invalid(reply: FastifyReply, field: string, message: string): FastifyReply {
  return reply.code(400).send({ error: 'invalid_request', field, message })
}

function overloaded(reply: FastifyReply, outcome: Record<string, unknown>): FastifyReply {
  const message = 'too much waits to be written; send what was not accepted again later'
  return reply
    .code(503)
    .header('retry-after', retryAfterSeconds)
    .send({ error: 'overloaded', message, ...outcome })
}

function answerError(error: FastifyError, reply: FastifyReply, log: Log): FastifyReply {
  const [problem] = error.validation ?? []
  if (problem !== undefined) return reply.code(400).send({ error: 'invalid_request', ...explain(problem) })
  if (isSpillwayError(error, 'ERR_CURSOR')) {
    // It was changed, or is of another listing, or its secret is another one by now: the first page is there without any.
    return reply
      .code(400)
      .send({ error: 'invalid_cursor', field: (error as CursorError).field, message: error.message })
  }
  if (isSpillwayError(error)) {
    reply.code(503).header('retry-after', retryAfterSeconds)
    return reply.send({ error: 'unavailable', message: error.message })
  }
  const status = error.statusCode ?? 500
  if (status === 415) {
    return reply.code(415).send({ error: 'invalid_request', message: 'content-type must be application/json' })
  }
  if (status < 500) return reply.code(status).send({ error: 'invalid_request', field: 'body', message: error.message })
  log('error', `request ${reply.request.id}: ${error.stack ?? error.message}`)
  return reply.code(status).send({ error: 'internal_error', message: 'something went wrong here' })
}

function incrementOf({ resource_id, counter_type, delta }: Operation): CounterIncrement {
  return { key: keyOf({ resource_id, counter_type }), delta }
}
