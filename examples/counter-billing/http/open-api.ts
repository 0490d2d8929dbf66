import swagger from '@fastify/swagger'
import type { FastifyInstance, FastifySchema, RouteOptions } from 'fastify'
import type { AuthMode } from '../auth/http-guard.ts'
import { type Answers, metricsAnswers, statsAnswers } from './answer-schemas.ts'

/** Whose credentials the document tells of. */
export interface DocumentOptions {
  /** Whether services have tokens, and whether callers must have one. */
  readonly auth: AuthMode | undefined
  /** Whether users have API keys. */
  readonly keys: boolean
}

const description = `Counters that are incremented fast, and what their use costs.

What goes wrong is told as RFC 9457 has it, and \`code\` is for programs. \`applied\` says whether a write may be sent again:
\`no\` may, \`unknown\` may not, unless it has an \`Idempotency-Key\`, under which it counts once.`

const tags = [
  { name: 'counters', description: 'Increments and values' },
  { name: 'billing', description: 'Quotas and money' },
  { name: 'keys', description: 'API keys of users, for services that may issue them' },
  { name: 'operation', description: 'For those who run it' },
]

const securitySchemes = {
  token: {
    type: 'http',
    scheme: 'bearer',
    bearerFormat: 'JWT',
    description: 'A token of the auth service, for the audience `gateway`',
  },
  apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key', description: 'The API key of a user' },
} as const

const summaries: Readonly<Record<string, string>> = {
  'POST /api/v1/counter/increment': 'Increments a counter',
  'POST /api/v1/counter/batch-increment': 'Increments up to a thousand counters',
  'GET /api/v1/counter/:resource_id/:counter_type': 'Reads a counter',
  'GET /api/v1/counter': 'Lists the counters of a resource',
  'POST /api/v1/counter/invalidate': 'Has all gateways forget what they have read of resources',
  'GET /api/v1/billing/balance/:user_id': 'Reads the balance of a user',
  'GET /api/v1/billing/free-quota/:user_id/:service': 'Reads what is free of a service',
  'POST /api/v1/billing/check': 'Tells what a deduction would do',
  'POST /api/v1/billing/deduct': 'Takes free uses first, the price of the others after',
  'POST /api/v1/billing/recharge': 'Adds to a balance',
  'POST /api/v1/billing/reserve': 'Holds what a deduction would take',
  'POST /api/v1/billing/settle': 'Takes what was used of a reservation',
  'POST /api/v1/billing/release': 'Gives a reservation back',
  'POST /api/v1/keys': 'Issues an API key',
  'GET /api/v1/keys': 'Lists the API keys of a user',
  'DELETE /api/v1/keys/:id': 'Revokes an API key',
  'GET /healthz': 'Tells whether the process lives',
  'GET /readyz': 'Tells whether it can answer requests',
  'GET /stats': 'Tells what every part has done',
  'GET /metrics': 'The same for Prometheus',
}

/** What is answered by routes that aren't of this API. */
const otherAnswers: Readonly<Record<string, Answers>> = { 'GET /stats': statsAnswers, 'GET /metrics': metricsAnswers }

/** Requests that one may send as they are. */
const examples: Readonly<Record<string, unknown>> = {
  'POST /api/v1/counter/increment': { resource_id: 'post-1', counter_type: 'like', delta: 2, ack: 'committed' },
  'POST /api/v1/counter/batch-increment': {
    operations: [
      { resource_id: 'post-1', counter_type: 'like' },
      { resource_id: 'post-1', counter_type: 'view', delta: 10 },
    ],
  },
  'POST /api/v1/counter/invalidate': { resource_ids: ['post-1'] },
  'POST /api/v1/billing/check': { user_id: 'ann', service: 'thumbnail', count: 120 },
  'POST /api/v1/billing/deduct': { request_id: 'd1', user_id: 'ann', service: 'thumbnail', count: 120 },
  'POST /api/v1/billing/recharge': { request_id: 'r1', user_id: 'ann', amount: 500 },
  'POST /api/v1/billing/reserve': { request_id: 'v1', user_id: 'ann', service: 'thumbnail', count: 30 },
  'POST /api/v1/billing/settle': { reservation_id: 'v1', user_id: 'ann', count: 10 },
  'POST /api/v1/billing/release': { reservation_id: 'v1', user_id: 'ann' },
  'POST /api/v1/keys': { user_id: 'ann', name: 'ann’s phone', scopes: ['counters:write'], ttl_seconds: 2_592_000 },
}

/** Makes the OpenAPI document of all routes that come after it, from the schemas by which they check requests. */
export async function documentApi(app: FastifyInstance, { auth, keys }: DocumentOptions): Promise<void> {
  const { token, apiKey } = securitySchemes
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Counters and billing', description, version: '1' },
      servers: [{ url: '/' }],
      tags,
      components: { securitySchemes: { ...(auth !== undefined && { token }), ...(keys && { apiKey }) } },
    },
    // Schemas keep their names.
    refResolver: {
      buildLocalReference: (schema, _base, _fragment, index) => String(schema['$id'] ?? `schema-${index}`),
    },
    transform: ({ schema, url, route }) => ({
      schema: documented(schema, url, route, { auth, keys }),
      url,
    }),
  })
}

/** Answers `GET /openapi.json`. */
export function answerDocument(app: FastifyInstance): void {
  let text: string | undefined
  app.get('/openapi.json', { config: { rateLimit: false } }, (_request, reply) => {
    text ??= JSON.stringify(app.swagger())
    return reply.type('application/json').header('cache-control', 'max-age=60').send(text)
  })
}

function documented(
  schema: FastifySchema | undefined,
  url: string,
  { method, config }: RouteOptions,
  { auth, keys }: DocumentOptions,
): FastifySchema & Record<string, unknown> {
  const name = `${method} ${url}`
  if (summaries[name] === undefined) return { ...schema, hide: true }
  const { scope, servicesOnly = false } = config ?? {}
  const security =
    scope === undefined
      ? []
      : [
          ...(auth === undefined ? [] : [{ token: [scope] }]),
          ...(keys && !servicesOnly ? [{ apiKey: [scope] }] : []),
          ...(auth === 'required' || (auth !== undefined && servicesOnly) ? [] : [{}]),
        ]
  const { body } = (schema ?? {}) as { body?: object }
  return {
    ...schema,
    ...(otherAnswers[name] !== undefined && { response: otherAnswers[name] }),
    ...(body !== undefined && { body: { ...body, examples: [examples[name]] } }),
    summary: summaries[name],
    operationId: idOf(name),
    tags: [tagOf(url)],
    security,
  }
}

function tagOf(url: string): string {
  return /^\/api\/v1\/(counter|billing|keys)/.exec(url)?.[1]?.replace(/^counter$/, 'counters') ?? 'operation'
}

/** `POST /api/v1/counter/batch-increment` is `postCounterBatchIncrement`. */
function idOf(name: string): string {
  const words = name
    .replace('/api/v1', '')
    .split(/[^A-Za-z]+/)
    .filter((word) => word !== '')
  return words
    .map((word, index) => (index === 0 ? word.toLowerCase() : word[0]?.toUpperCase() + word.slice(1).toLowerCase()))
    .join('')
}
