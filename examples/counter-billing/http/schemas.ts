import type { FastifySchemaValidationError } from 'fastify/types/schema.js'
import { id as userId } from '../billing/schemas.ts'
import { type Acknowledgement, acknowledgements } from '../counter/counters.ts'
import { name, type Rule, text, whole } from './rules.ts'

/** The most operations in one batch. */
export const maxOperations = 1_000

const delta = whole(-Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, 1)

const acknowledgement: Rule = {
  enum: acknowledgements,
  description: `one of ${acknowledgements.map((name) => `'${name}'`).join(', ')}`,
}

const fresh: Rule = { enum: ['true', 'false'], default: 'false', description: `one of 'true', 'false'` }

export const counterQuery: Rule = {
  type: 'object',
  additionalProperties: false,
  properties: {
    source: { enum: ['live', 'durable'], default: 'live', description: `one of 'live', 'durable'` },
    fresh,
  },
  description: 'an object',
}

/** A cursor, as a page gave it. Whether it is one, the listing tells. */
const cursor: Rule = {
  type: 'string',
  pattern: '^[A-Za-z0-9_-]{1,4096}$',
  description: 'a cursor as a page gave it',
}

/** How many counters a page has where nobody says, and how many it may have. */
export interface PageSizes {
  readonly usual: number
  readonly max: number
}

/** A query has text only, so that the number is one of digits. */
export const listQuery = (sizes: PageSizes): Rule => ({
  type: 'object',
  required: ['resource_id'],
  additionalProperties: false,
  properties: {
    resource_id: text(256),
    after: cursor,
    before: cursor,
    limit: {
      type: 'string',
      pattern: `^(?:${wholeUpTo(sizes.max)})$`,
      default: String(sizes.usual),
      description: `a whole number from 1 to ${sizes.max}`,
    },
    fresh,
  },
  description: 'an object',
})

/** What digits say a whole number from 1 to another one, as a pattern: `[1-9]|1\d|2[0-4]` up to 24. */
function wholeUpTo(max: number): string {
  const digits = [...String(max)].map(Number)
  const shorter = digits.slice(1).map((_, length) => `[1-9]\\d{${length}}`)
  const below = digits.flatMap((digit, place) => {
    const least = place === 0 ? 1 : 0
    if (digit <= least) return []
    return [`${digits.slice(0, place).join('')}[${least}-${digit - 1}]\\d{${digits.length - place - 1}}`]
  })
  return [...shorter, ...below, String(max)].join('|')
}

/** The most resources of one invalidation. */
const maxResources = 100

export const invalidateBody: Rule = {
  type: 'object',
  required: ['resource_ids'],
  additionalProperties: false,
  properties: {
    resource_ids: {
      type: 'array',
      minItems: 1,
      maxItems: maxResources,
      items: text(256),
      description: `an array of 1 to ${maxResources} ids`,
    },
  },
  description: 'a JSON object',
}

export const counterParams: Rule = {
  type: 'object',
  required: ['resource_id', 'counter_type'],
  properties: { resource_id: text(256), counter_type: name },
  description: 'an object',
}

const operation = {
  type: 'object',
  required: ['resource_id', 'counter_type'],
  additionalProperties: false,
  properties: { resource_id: text(256), counter_type: name, delta },
  description: 'a JSON object',
} satisfies Rule

export const incrementBody: Rule = {
  ...operation,
  properties: { ...operation.properties, ack: acknowledgement },
}

export const batchIncrementBody: Rule = {
  type: 'object',
  required: ['operations'],
  additionalProperties: false,
  properties: {
    operations: {
      type: 'array',
      minItems: 1,
      maxItems: maxOperations,
      items: operation,
      description: `an array of 1 to ${maxOperations} operations`,
    },
    async: { type: 'boolean', description: 'true or false' },
    ack: acknowledgement,
  },
  description: 'a JSON object',
}

/** The body of a write whose user is metered. */
export function metered(body: Rule): Rule {
  return { ...body, properties: { ...(body['properties'] as object), user_id: userId } }
}

/** One counter in a URL. */
export interface CounterParams {
  resource_id: string
  counter_type: string
}

/** One increment of a batch, after validation. */
export interface Operation extends CounterParams {
  delta: number
}

/** Who writes, where writes are metered. */
export interface MeteredBody {
  user_id?: string
}

export interface IncrementBody extends Operation, MeteredBody {
  ack?: Acknowledgement
}

export interface BatchIncrementBody extends MeteredBody {
  operations: Operation[]
  /** The same as an `ack` of `accepted`, or of what waits. */
  async?: boolean
  ack?: Acknowledgement
}

/** Whether a read may be answered with what was read before. */
export interface ReadQuery {
  fresh: 'true' | 'false'
}

/** Where to read a counter. */
export interface CounterQuery extends ReadQuery {
  source: 'live' | 'durable'
}

/** Which page of a resource's counters to read. */
export interface ListQuery extends ReadQuery {
  resource_id: string
  /** The `next` of another page: the page behind it. */
  after?: string
  /** The `previous` of another page: the page in front of it. */
  before?: string
  limit: string
}

export interface InvalidateBody {
  resource_ids: string[]
}

/** A counter's key in the store. A counter type has no colon, so no two counters share a key. */
export function keyOf({ resource_id, counter_type }: CounterParams): string {
  return `${resource_id}:${counter_type}`
}

/** Says which field broke which rule, and with what. */
export function explain(error: FastifySchemaValidationError): { field: string; message: string } {
  const { keyword, params, parentSchema, data } = error as typeof error & { parentSchema?: Rule; data?: unknown }
  const at = error.instancePath
    .slice(1)
    .replace(/\/(\d+)/g, '[$1]')
    .replaceAll('/', '.')
  const inside = (name: unknown): string => (at === '' ? String(name) : `${at}.${name}`)
  if (keyword === 'required') {
    const field = inside(params['missingProperty'])
    return { field, message: `${field} is missing` }
  }
  if (keyword === 'additionalProperties') {
    const field = inside(params['additionalProperty'])
    const known = Object.keys((parentSchema?.['properties'] as object | undefined) ?? {}).join(', ')
    return { field, message: `${field} is not a known field; there are ${known}` }
  }
  const field = at === '' ? 'body' : at
  return { field, message: `${field} must be ${parentSchema?.description}, got ${show(data)}` }
}

/** A value and its type, cut short. */
function show(value: unknown): string {
  if (value === null || value === undefined) return 'nothing'
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (typeof value === 'object') return 'an object'
  const json = JSON.stringify(value)
  return `${json.length > 50 ? `${json.slice(0, 50)}…` : json} (${typeof value})`
}
