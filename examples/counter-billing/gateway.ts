import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply } from 'fastify'
import { type CounterIncrement, isSpillwayError } from 'spillway'
import { type Counters, isRefusal, type Log, text } from './counters.ts'
import {
  type BatchIncrementBody,
  batchIncrementBody,
  type CounterParams,
  counterParams,
  explain,
  type IncrementBody,
  incrementBody,
  keyOf,
} from './schemas.ts'

/** When to come back after a 503, in seconds: a flush is over by then. */
const retryAfterSeconds = 1

/** The HTTP face of the counters. */
export function createGateway(counters: Counters, log: Log): FastifyInstance {
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
    { schema: { body: incrementBody } },
    (request, reply) => {
      if (counters.accept(incrementOf(request.body))) reply.code(202).send({ accepted: true })
      else overloaded(reply, { accepted: false })
    },
  )

  app.post<{ Body: BatchIncrementBody }>(
    '/api/v1/counter/batch-increment',
    { schema: { body: batchIncrementBody } },
    async (request, reply) => {
      const { operations, async } = request.body
      return async ? acceptBatch(counters, operations, reply) : commitBatch(counters, operations, reply)
    },
  )

  app.get<{ Params: CounterParams }>(
    '/api/v1/counter/:resource_id/:counter_type',
    { schema: { params: counterParams } },
    async ({ params: { resource_id, counter_type } }) => {
      const value = await counters.read(keyOf({ resource_id, counter_type }))
      return { resource_id, counter_type, value }
    },
  )

  app.get('/healthz', async (_request, reply) => {
    const { lost, failing, reason } = counters.losses
    // A read that goes the way of every read: ready means that the database answers.
    const problem = failing ? reason : await counters.read('healthz').then(() => undefined, text)
    if (problem === undefined) return { status: 'ok', lost }
    return reply.code(503).send({ status: 'failing', reason: problem, lost })
  })

  app.get('/stats', async () => counters.stats())

  return app
}

/** Takes a batch in without waiting: all of it or, where a sum would no longer be exact, the first part of it. */
function acceptBatch(counters: Counters, operations: IncrementBody[], reply: FastifyReply): FastifyReply {
  const accepted = counters.acceptAll(operations.map(incrementOf))
  if (accepted === operations.length) return reply.code(202).send({ accepted })
  return overloaded(reply, { accepted, refused: operations.length - accepted })
}

/** Waits until a batch is committed, and gives every operation its own outcome. */
async function commitBatch(
  counters: Counters,
  operations: IncrementBody[],
  reply: FastifyReply,
): Promise<FastifyReply> {
  const outcomes = await counters.commitAll(operations.map(incrementOf))
  const results = operations.map(({ resource_id, counter_type }, index) => {
    const outcome = outcomes[index]
    return outcome?.status === 'fulfilled'
      ? { resource_id, counter_type, value: outcome.value }
      : { resource_id, counter_type, error: failureOf(outcome?.reason) }
  })
  const failed = outcomes.filter((outcome) => outcome.status === 'rejected')
  if (failed.length === 0) return reply.send({ results })
  if (failed.length < outcomes.length || failed.some(({ reason }) => isRefusal(reason))) {
    return reply.code(207).send({ results })
  }
  return reply.code(503).header('retry-after', retryAfterSeconds).send({ error: 'unavailable', results })
}

/** What became of one operation: `applied` says whether it may be sent again without counting twice. */
function failureOf(error: unknown): { error: string; message: string; applied: 'no' | 'unknown' } {
  const unknown = isSpillwayError(error) && error.outcomeUnknown
  return {
    error: isRefusal(error) ? 'refused' : 'unavailable',
    message: text(error),
    applied: unknown ? 'unknown' : 'no',
  }
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

function incrementOf({ resource_id, counter_type, delta }: IncrementBody): CounterIncrement {
  return { key: keyOf({ resource_id, counter_type }), delta }
}
