import { Ajv, type ValidateFunction } from 'ajv'
import type { FastifyRequest } from 'fastify'
import type { FastifySchemaValidationError } from 'fastify/types/schema.js'
import { explain } from './schemas.ts'

/** A rule that was broken, in words. */
export interface BrokenRule {
  readonly field: string
  readonly message: string
}

/** The most rules that are told of. */
const maxRules = 50
/** Of what is larger, only the first wrong field is told: to look for all of them would be work that anybody could order. */
const maxLength = 65_536

const parts = ['params', 'body', 'querystring', 'headers'] as const

/** Finds everything that is wrong, where the validators of the routes stop at the first thing: those are on the path of each request. */
const ajv = new Ajv({ allErrors: true, verbose: true, strict: false })
const validators = new WeakMap<object, ValidateFunction>()

/** All rules that a request breaks, each field once, the one that was found first at the front. */
export function brokenRules(request: FastifyRequest, found: readonly FastifySchemaValidationError[]): BrokenRule[] {
  const rules = new Map<string, BrokenRule>()
  const add = (error: FastifySchemaValidationError): void => {
    // What it led to is told by itself.
    if (error.keyword === 'if') return
    const rule = explain(error)
    if (rules.size < maxRules && !rules.has(rule.field)) rules.set(rule.field, rule)
  }
  for (const error of found) add(error)
  const { params, body, query: querystring, headers } = request
  const values = { params, body, querystring, headers }
  if (isSmall(body)) {
    for (const part of parts) for (const error of errorsOf(request, part, values[part])) add(error)
  }
  return [...rules.values()]
}

function isSmall(body: unknown): boolean {
  try {
    return (JSON.stringify(body) ?? '').length <= maxLength
  } catch {
    // It is nested deeper than the stack goes.
    return false
  }
}

function errorsOf(
  { routeOptions }: FastifyRequest,
  part: (typeof parts)[number],
  value: unknown,
): readonly FastifySchemaValidationError[] {
  const schema = routeOptions.schema?.[part] as object | undefined
  if (schema === undefined) return []
  let validate = validators.get(schema)
  if (validate === undefined) {
    validate = ajv.compile(schema)
    validators.set(schema, validate)
  }
  return validate(value ?? null) ? [] : ((validate.errors ?? []) as FastifySchemaValidationError[])
}
