import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type CounterIncrement, isSpillwayError } from 'spillway'
import type { Metering } from '../billing/metering.ts'
import {
  batchAnswers,
  counterAnswers,
  incrementAnswers,
  invalidateAnswers,
  listAnswers,
} from '../http/answer-schemas.ts'
import { invalid, retryAfterSeconds } from '../http/error-answers.ts'
import { type Problem, type ProblemCode, problem, sendProblem } from '../http/problems.ts'
import type { Rule } from '../http/rules.ts'
import {
  type BatchIncrementBody,
  batchIncrementBody,
  type CounterParams,
  type CounterQuery,
  counterParams,
  counterQuery,
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
} from '../http/schemas.ts'
import { type AnsweredKeys, isKeyed, type KeyedAnswer, keyedHeaders } from '../idempotency/idempotency.ts'
import { isWithoutEffect, type KeyedWrites } from '../idempotency/keyed-writes.ts'
import { type Acknowledgement, type Counters, isRefusal, Overload, text } from './counters.ts'
import { answerPage } from './listing-answer.ts'
import type { CounterReads, Read } from './reads.ts'

export interface CounterRoutesOptions {
  readonly counters: Counters
  readonly reads: CounterReads
  /** When an increment is answered whose request doesn't say. */
  readonly acknowledgement: Acknowledgement
  /** Meters the writes of users, where there is billing. */
  readonly metering: Metering | undefined
  /** What was answered under an `Idempotency-Key`, and how a write under one is made. */
  readonly keys: AnsweredKeys
  readonly keyedWrites: KeyedWrites
}

/** The HTTP face of the counters. */
export function addCounterRoutes(app: FastifyInstance, options: CounterRoutesOptions): void {
  const { counters, reads, acknowledgement, metering, keys, keyedWrites } = options
  const parts = { counters, reads }
  const bodyOf = (body: Rule): Rule => (metering === undefined ? body : metered(body))

  app.post<{ Body: IncrementBody }>(
    '/api/v1/counter/increment',
    {
      schema: { body: bodyOf(incrementBody), headers: keyedHeaders, response: incrementAnswers },
      config: { scope: 'counters:write', isHot: true },
      compress: false,
    },
    // No async function: the answer to what is only accepted needs no promise.
    (request, reply) => {
      const { ack = acknowledgement, user_id } = request.body
      const meter = meterOf(metering, user_id)
      if (isKeyed(request)) {
        const { body } = request
        return keys.answer(
          request,
          reply,
          (keyed) => keyedOne({ ...parts, keyedWrites, keyed, meter }, body, ack),
          (answer) => noteReplayed(reads, [body], [answer.body], ack),
        )
      }
      if (ack !== 'accepted') return answerOne(parts, request.body, ack, meter, reply)
      if (!counters.accept(incrementOf(request.body))) return void overloaded(reply, { accepted: false, applied: 'no' })
      const room = meter(1)
      if (room !== undefined) return room.then(() => (reply.sent ? reply : reply.code(202).send({ accepted: true })))
      reply.code(202).send({ accepted: true })
      return undefined
    },
  )

  app.post<{ Body: BatchIncrementBody }>(
    '/api/v1/counter/batch-increment',
    {
      schema: { body: bodyOf(batchIncrementBody), headers: keyedHeaders, response: batchAnswers },
      config: { scope: 'counters:write' },
    },
    async (request, reply) => {
      const { operations, async, ack, user_id } = request.body
      const meter = meterOf(metering, user_id)
      const level = ack ?? (async === true ? 'accepted' : 'committed')
      if (async === true && level !== 'accepted')
        return invalid(reply, 'async', `an ack of '${level}' waits: async can't be true`)
      if (async === false && level === 'accepted')
        return invalid(reply, 'async', `an ack of 'accepted' doesn't wait: async can't be false`)
      if (isKeyed(request)) {
        return keys.answer(
          request,
          reply,
          (keyed) => keyedBatch({ ...parts, keyedWrites, keyed, meter }, operations, level),
          ({ body }) => noteReplayed(reads, operations, body['results'], level),
        )
      }
      return level === 'accepted'
        ? acceptBatch(counters, operations, meter, reply)
        : answerBatch(parts, operations, level, meter, reply)
    },
  )

  app.get<{ Params: CounterParams; Querystring: CounterQuery }>(
    '/api/v1/counter/:resource_id/:counter_type',
    {
      schema: { params: counterParams, querystring: counterQuery, response: counterAnswers },
      config: { scope: 'counters:read' },
    },
    async (request, reply) => {
      const { resource_id, counter_type } = request.params
      const fresh = wantsFresh(request)
      const read = await reads.value(resource_id, keyOf(request.params), { source: request.query.source, fresh })
      sayHowOld(reply, reads, read, fresh)
      return { resource_id, counter_type, value: read.value, source: read.source }
    },
  )

  app.get<{ Querystring: ListQuery }>(
    '/api/v1/counter',
    { schema: { querystring: listQuery(reads.pageSizes), response: listAnswers }, config: { scope: 'counters:read' } },
    async (request, reply) => {
      if (!reads.canList) return sendProblem(reply, 'not_implemented', 'these counters have no listing')
      const { resource_id, after, before, limit } = request.query
      if (after !== undefined && before !== undefined)
        return invalid(reply, 'before', 'before must not stand beside after')
      const fresh = wantsFresh(request)
      const page = { resourceId: resource_id, after, before, limit: Number(limit) }
      const read = await reads.page(page, fresh)
      sayHowOld(reply, reads, read, fresh)
      return answerPage(reply, request.query, read.value)
    },
  )

  app.post<{ Body: InvalidateBody }>(
    '/api/v1/counter/invalidate',
    {
      schema: { body: invalidateBody, response: invalidateAnswers },
      config: { scope: 'counters:invalidate', servicesOnly: true },
    },
    async ({ body }) => {
      await reads.invalidate(body.resource_ids)
      return { invalidated: body.resource_ids.length }
    },
  )
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
  if (reply.sent) return reply
  if (accepted === operations.length) return reply.code(202).send({ accepted })
  const outcome = { accepted, refused: operations.length - accepted }
  return overloaded(reply, accepted === 0 ? { ...outcome, applied: 'no' } : outcome)
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
    return reply.sent ? reply : reply.send({ value, ack })
  } catch (error) {
    const failure = failureOf(error)
    const details = { applied: failure['applied'], ...(failure.status === 503 && { retry_after: retryAfterSeconds }) }
    return sendProblem(reply, failure.code, failure.detail, details)
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
  const answers = outcomes.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value : outcome.reason))
  const results = resultsOf({ reads }, operations, increments, answers, ack)
  const failed = outcomes.filter((outcome) => outcome.status === 'rejected')
  await meter(outcomes.length - failed.length)
  if (reply.sent) return reply
  if (failed.length === 0) return reply.send({ results })
  if (failed.length < outcomes.length || failed.some(({ reason }) => isRefusal(reason))) {
    return reply.code(207).send({ results })
  }
  const applied = results.some((result) => 'problem' in result && result.problem['applied'] === 'unknown')
  const details = { applied: applied ? 'unknown' : 'no', retry_after: retryAfterSeconds, results }
  return sendProblem(reply, 'unavailable', `none of ${results.length} increments is known to be applied`, details)
}

type Result = CounterParams & ({ readonly value: number } | { readonly problem: Problem })

/** What became of each operation; values that are told now are noted, so that no read is older. */
function resultsOf(
  { reads }: Pick<AnsweringParts, 'reads'>,
  operations: readonly Operation[],
  increments: readonly CounterIncrement[],
  answers: readonly unknown[],
  ack: 'redis' | 'committed',
): Result[] {
  return operations.map(({ resource_id, counter_type }, index) => {
    const answer = answers[index]
    if (typeof answer !== 'number') return { resource_id, counter_type, problem: failureOf(answer) }
    reads.told(resource_id, (increments[index] as CounterIncrement).key, sourceOf[ack])
    return { resource_id, counter_type, value: answer }
  })
}

/** Values that another gateway has told, and that this one tells again: from now on no read here is older, either. */
function noteReplayed(
  reads: CounterReads,
  operations: readonly Operation[],
  results: unknown,
  ack: Acknowledgement,
): void {
  if (!Array.isArray(results)) return
  for (const [index, operation] of operations.entries()) {
    const { value } = (results[index] ?? {}) as { value?: unknown }
    if (typeof value !== 'number') continue
    reads.told(operation.resource_id, keyOf(operation), sourceOf[ack === 'redis' ? ack : 'committed'])
  }
}

/** What a write under a key takes. */
interface KeyedParts extends AnsweringParts {
  readonly keyedWrites: KeyedWrites
  readonly keyed: Parameters<KeyedWrites['apply']>[0]
  readonly meter: Meter
}

/** Applies one increment under a key. Every acknowledgement waits for the commit then: what was answered is there for good. */
async function keyedOne(parts: KeyedParts, operation: Operation, ack: Acknowledgement): Promise<KeyedAnswer> {
  const increment = incrementOf(operation)
  const answers = await applyKeyed(parts, [increment], ack)
  if ('status' in answers) return answers
  const [answer] = answers.values
  if (typeof answer !== 'number') {
    const failure = failureOf(answer)
    return { status: failure.status, body: failure, final: true }
  }
  parts.reads.told(operation.resource_id, increment.key, sourceOf[ack === 'redis' ? ack : 'committed'])
  if (ack === 'accepted') return { status: 202, body: { accepted: true }, final: true }
  return { status: 200, body: { value: answer, ack }, final: true }
}

async function keyedBatch(parts: KeyedParts, operations: Operation[], ack: Acknowledgement): Promise<KeyedAnswer> {
  const increments = operations.map(incrementOf)
  const answers = await applyKeyed(parts, increments, ack)
  if ('status' in answers) return answers
  const results = resultsOf(parts, operations, increments, answers.values, ack === 'redis' ? ack : 'committed')
  const failed = results.some((result) => 'problem' in result)
  if (failed) return { status: 207, body: { results }, final: true }
  if (ack === 'accepted') return { status: 202, body: { accepted: results.length }, final: true }
  return { status: 200, body: { results }, final: true }
}

/** What the stores have said; or a problem, where nothing is known to be done, and the same request is to be made again. */
async function applyKeyed(
  { keyedWrites, keyed, meter }: KeyedParts,
  increments: readonly CounterIncrement[],
  ack: Acknowledgement,
): Promise<{ readonly values: readonly (number | Error)[] } | KeyedAnswer> {
  try {
    const values = await keyedWrites.apply(keyed, increments, ack)
    await meter(values.filter((value) => typeof value === 'number').length)
    return { values }
  } catch (error) {
    // What an earlier attempt under the key has done counts, too.
    const applied = keyed.ageMs === 0 && isWithoutEffect(error) ? 'no' : 'unknown'
    const body = problem('unavailable', text(error), { applied, retry_after: retryAfterSeconds })
    return { status: body.status, body, final: false }
  }
}

/** What became of one operation: `applied` says whether it may be sent again without counting twice. */
function failureOf(error: unknown): Problem {
  const unknown = isSpillwayError(error) && error.outcomeUnknown
  const code: ProblemCode = isRefusal(error) ? 'refused' : error instanceof Overload ? 'overloaded' : 'unavailable'
  return problem(code, text(error), { applied: unknown ? 'unknown' : 'no' })
}

/** Asked for by the query, or the way that HTTP has for it. */
function wantsFresh({ query, headers }: FastifyRequest<{ Querystring: ReadQuery }>): boolean {
  return query.fresh === 'true' || /(?:^|,)\s*no-cache\s*(?:,|$)/i.test(headers['cache-control'] ?? '')
}

/**
 * How old an answer is, and how old it may be made: what was asked for fresh is nothing to keep. What took credentials is for who has
 * them: a proxy knows that of an `Authorization`, and not of an `X-API-Key`.
 */
function sayHowOld(reply: FastifyReply, { keptMs }: CounterReads, { at }: Read<unknown>, fresh: boolean): void {
  const whose = reply.request.caller === undefined ? '' : 'private, '
  reply.header('age', Math.max(0, Math.floor((Date.now() - at) / 1_000)))
  reply.header('cache-control', fresh ? 'no-store' : `${whose}max-age=${Math.floor(keptMs / 1_000)}`)
}

function overloaded(reply: FastifyReply, outcome: Record<string, unknown>): FastifyReply {
  const message = 'too much waits to be written; send what was not accepted again later'
  return sendProblem(reply, 'overloaded', message, { ...outcome, retry_after: retryAfterSeconds })
}

function incrementOf({ resource_id, counter_type, delta }: Operation): CounterIncrement {
  return { key: keyOf({ resource_id, counter_type }), delta }
}
