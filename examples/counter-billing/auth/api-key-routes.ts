import type { FastifyInstance, FastifyRequest } from 'fastify'
import { id as userId } from '../billing/schemas.ts'
import { text as textOf } from '../counter/counters.ts'
import { allOf, answers, ofDeletions } from '../http/answer-schemas.ts'
import { fateOf, retryAfterSeconds } from '../http/error-answers.ts'
import { ProblemError } from '../http/problem-error.ts'
import { sendProblem } from '../http/problems.ts'
import { type Rule, text, whole } from '../http/rules.ts'
import { type ApiKey, type KeyScope, keyScopes } from './api-key.ts'
import type { ApiKeys } from './api-keys.ts'

/** What a key allows that doesn't say: money is another matter. */
const usualScopes: readonly KeyScope[] = ['counters:read', 'counters:write', 'billing:read']
const maxLifeSeconds = 10 * 366 * 86_400

const issueBody: Rule = {
  type: 'object',
  required: ['user_id'],
  additionalProperties: false,
  properties: {
    user_id: userId,
    name: { ...text(128), default: 'API key' },
    scopes: {
      type: 'array',
      minItems: 1,
      uniqueItems: true,
      items: { enum: keyScopes, description: `one of ${keyScopes.join(', ')}` },
      default: usualScopes,
      description: 'an array of scopes, each once',
    },
    max_requests: whole(1, 1_000_000_000),
    ttl_seconds: whole(1, maxLifeSeconds),
  },
  description: 'a JSON object',
}

const listQuery: Rule = {
  type: 'object',
  required: ['user_id'],
  additionalProperties: false,
  properties: { user_id: userId },
  description: 'an object',
}

const keyParams: Rule = {
  type: 'object',
  required: ['id'],
  properties: { id: { type: 'string', pattern: '^[\\da-f]{16}$', description: 'the id of a key, 16 digits' } },
  description: 'an object',
}

const time = { type: ['string', 'null'], format: 'date-time' }
const keySchema = {
  id: { type: 'string' },
  ...{ user_id: userId, name: text(128) },
  scopes: { type: 'array', items: { type: 'string' } },
  max_requests: { type: ['integer', 'null'] },
  ...{ created_at: time, expires_at: time, revoked_at: time },
}
const issued = { ...keySchema, key: { type: 'string', description: 'the key itself, this once' } }
const keyList = { keys: { type: 'array', items: allOf('a key', keySchema) } }

interface IssueBody {
  readonly user_id: string
  readonly name: string
  readonly scopes: readonly string[]
  readonly max_requests?: number
  readonly ttl_seconds?: number
}

const config = { scope: 'keys:manage', servicesOnly: true } as const

/** Issues, lists and revokes the API keys of users, for services that may. */
export function addApiKeyRoutes(app: FastifyInstance, keys: ApiKeys): void {
  app.post<{ Body: IssueBody }>(
    '/api/v1/keys',
    { schema: { body: issueBody, response: answers({ 201: allOf('issued', issued) }, [], { body: true }) }, config },
    async (request, reply) => {
      const { user_id, name, scopes, max_requests, ttl_seconds } = request.body
      const expiresAt = ttl_seconds === undefined ? undefined : Date.now() + ttl_seconds * 1_000
      const wanted = { userId: user_id, name, scopes, maxRequests: max_requests, expiresAt }
      const { key, record } = await reached(request, keys.issue(wanted))
      reply.code(201).header('cache-control', 'no-store').header('location', `/api/v1/keys/${record.id}`)
      return { ...keyJson(record), key }
    },
  )

  app.get<{ Querystring: { user_id: string } }>(
    '/api/v1/keys',
    { schema: { querystring: listQuery, response: answers({ 200: allOf('keys of a user', keyList) }, []) }, config },
    async (request) => ({ keys: (await reached(request, keys.list(request.query.user_id))).map(keyJson) }),
  )

  app.delete<{ Params: { id: string } }>(
    '/api/v1/keys/:id',
    {
      schema: {
        params: keyParams,
        response: answers({ 200: allOf('revoked', keySchema) }, ['unknown_api_key', ...ofDeletions]),
      },
      config,
    },
    async (request, reply) => {
      const { id } = request.params
      const revoked = await reached(request, keys.revoke(id))
      if (revoked === undefined) return sendProblem(reply, 'unknown_api_key', `there is no API key ${id}`)
      return keyJson(revoked)
    },
  )
}

/** What the database doesn't answer is to be asked for again, and no mistake in here. */
async function reached<T>(request: FastifyRequest, answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (error) {
    throw new ProblemError('unavailable', textOf(error), { ...fateOf(request), retry_after: retryAfterSeconds })
  }
}

function keyJson(key: ApiKey): Record<string, unknown> {
  const { id, userId, name, scopes, maxRequests = null, createdAt, expiresAt, revokedAt } = key
  return {
    ...{ id, user_id: userId, name, scopes, max_requests: maxRequests },
    ...{ created_at: timeJson(createdAt), expires_at: timeJson(expiresAt), revoked_at: timeJson(revokedAt) },
  }
}

function timeJson(ms: number | undefined): string | null {
  return ms === undefined ? null : new Date(ms).toISOString()
}
