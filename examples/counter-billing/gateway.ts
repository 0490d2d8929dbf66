import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply } from 'fastify'
import { type CounterIncrement, isSpillwayError } from 'spillway'
import type { BillingServices } from './billing/billing-services.ts'
import type { Metering } from './billing/metering.ts'
import { addBillingRoutes } from './billing/routes.ts'
import { type Acknowledgement, type Counters, isRefusal, type Log, Overload, text } from './counters.ts'
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
  incrementBody,
  keyOf,
  metered,
  type Operation,
} from './schemas.ts'

/** When to come back after a 503, in seconds: a flush is over by then. */
const retryAfterSeconds = 1

export interface GatewayOptions {
  /** When an increment is answered whose request doesn't say. */
  acknowledgement: Acknowledgement
  /** What is told of the counter services, if the stores aren't here. */
  services?: (() => Record<string, unknown>) | undefined
  /** Billing services to pass requests on to; the writes of users are metered then. */
  billing?: Pick<BillingServices, 'pool' | 'metering' | 'stats'> | undefined
}

/** The HTTP face of the counters and of billing. */
export function createGateway(counters: Counters, log: Log, options: GatewayOptions): FastifyInstance {
  const { billing } = options
  const metering = billing?.metering
  const bodyOf = (body: Rule): Rule => (metering === undefined ? body : metered(body))
  const app = Fastify({
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

  app.post<{ Body: IncrementBody }>(
    '/api/v1/counter/increment',
    { schema: { body: bodyOf(incrementBody) } },
    // No async function: the answer to what is only accepted needs no promise.
    (request, reply) => {
      const { ack = options.acknowledgement, user_id } = request.body
      const increment = incrementOf(request.body)
      const meter = meterOf(metering, user_id)
      if (ack !== 'accepted') return answerOne(counters, increment, ack, meter, reply)
      if (!counters.accept(increment)) return void overloaded(reply, { accepted: false })
      const room = meter(1)
      if (room !== undefined) return room.then(() => reply.code(202).send({ accepted: true }))
      reply.code(202).send({ accepted: true })
      return undefined
    },
  )

  app.post<{ Body: BatchIncrementBody }>(
    '/api/v1/counter/batch-increment',
    { schema: { body: bodyOf(batchIncrementBody) } },
    async (request, reply) => {
      const { operations, async, ack, user_id } = request.body
      const meter = meterOf(metering, user_id)
      const level = ack ?? (async === true ? 'accepted' : 'committed')
      if (async === true && level !== 'accepted')
        return contradiction(reply, `an ack of '${level}' waits: async can't be true`)
      if (async === false && level === 'accepted')
        return contradiction(reply, `an ack of 'accepted' doesn't wait: async can't be false`)
      return level === 'accepted'
        ? acceptBatch(counters, operations, meter, reply)
        : answerBatch(counters, operations, level, meter, reply)
    },
  )

  app.get<{ Params: CounterParams; Querystring: CounterQuery }>(
    '/api/v1/counter/:resource_id/:counter_type',
    { schema: { params: counterParams, querystring: counterQuery } },
    async ({ params: { resource_id, counter_type }, query }) => {
      const { value, source } = await counters.read(keyOf({ resource_id, counter_type }), query.source)
      return { resource_id, counter_type, value, source }
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
    return { ...counters.stats(), services: options.services?.(), billing: billing?.stats() }
  })

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

/** Waits until one increment is applied, and answers with the counter's value. */
async function answerOne(
  counters: Counters,
  increment: CounterIncrement,
  ack: 'redis' | 'committed',
  meter: Meter,
  reply: FastifyReply,
): Promise<FastifyReply> {
  try {
    const value = ack === 'redis' ? await counters.incrementLive(increment) : await counters.commit(increment)
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
  counters: Counters,
  operations: Operation[],
  ack: 'redis' | 'committed',
  meter: Meter,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const outcomes = await counters.answerAll(operations.map(incrementOf), ack)
  const results = operations.map(({ resource_id, counter_type }, index) => {
    const outcome = outcomes[index]
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

function contradiction(reply: FastifyReply, message: string): FastifyReply {
  return reply.code(400).send({ error: 'invalid_request', field: 'async', message })
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
  if (isSpillwayError(error)) {
    reply.code(503).header('retry-after', retryAfterSeconds)
    return reply.send({ error: 'unavailable', message: error.message })
  }
  const status = error.statusCode ?? 500
  if (status === 415) {
    return reply.code(415).send({ error: 'invalid_request', message: 'content-type must be application/json' })
  }
  if (status < 500) return reply.code(status).send({ error: 'invalid_request', field: 'body', message: error.message })
  log('error', error.stack ?? error.message)
  return reply.code(status).send({ error: 'internal_error', message: 'something went wrong here' })
}

function incrementOf({ resource_id, counter_type, delta }: Operation): CounterIncrement {
  return { key: keyOf({ resource_id, counter_type }), delta }
}
