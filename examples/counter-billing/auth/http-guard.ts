import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { retryAfterSeconds } from '../http/error-answers.ts'
import type { ProblemError } from '../http/problem-error.ts'
import { sendProblem } from '../http/problems.ts'
import type { ApiKeys } from './api-keys.ts'
import type { Caller } from './caller.ts'
import type { Scope } from './permissions.ts'
import { AccessError, type TokenVerifier } from './token-verifier.ts'

/** Whether a gateway takes calls without a token. One that is wrong is refused either way. */
export type AuthMode = 'optional' | 'required'

export const authModes: readonly AuthMode[] = ['optional', 'required']

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What a token or a key must allow. Without it, the route is open to everybody. */
    scope?: Scope
    /** Whether a call without a token is refused in any case: it is for services, not for users. */
    servicesOnly?: boolean
  }
}

export interface GuardOptions {
  /** Verifies the tokens of services. Without it, nobody has any, and who has no key is let in. */
  readonly verifier: TokenVerifier | undefined
  /** Knows users by their keys. */
  readonly keys: ApiKeys | undefined
  readonly mode: AuthMode
  /** Tells who has been refused too often. */
  readonly tooOften: ((request: FastifyRequest) => ProblemError | undefined) | undefined
}

const bearerRealm = 'Bearer realm="counter-billing"'
const keyRealm = 'ApiKey realm="counter-billing"'
const apiKeyScheme = /^apikey +/i

/** Lets in only those whose token or key is valid and allows what they ask for (RFC 6750). */
export function guardHttp(app: FastifyInstance, options: GuardOptions): void {
  const { verifier, keys, mode, tooOften } = options
  app.decorateRequest<Caller | undefined>('caller', undefined)
  if (verifier === undefined && keys === undefined) return
  // No async function: a token or a key that is known needs no promise.
  app.addHook('onRequest', (request, reply, done) => {
    const { scope, servicesOnly = false } = request.routeOptions.config
    if (scope === undefined && !isUnknownRoute(request)) return done()
    const { authorization } = request.headers
    const key = keys === undefined ? undefined : keyIn(request)
    if (authorization === undefined && key === undefined) {
      if (verifier === undefined || (mode === 'optional' && !servicesOnly)) return done()
    }
    const refuse = (error: unknown): void => {
      if (!(error instanceof AccessError)) return done(error as Error)
      const barred = error.code === 'unavailable' ? undefined : tooOften?.(request)
      if (barred === undefined) answerRefusal(error, reply, options)
      else done(barred)
    }
    const admit = (caller: Caller | undefined): void => {
      request.caller = caller
      done()
    }
    try {
      const caller = key === undefined ? clientOf(authorization, scope, verifier) : userOf(key, request, options)
      if (caller instanceof Promise) caller.then(admit, refuse)
      else admit(caller)
    } catch (error) {
      refuse(error)
    }
  })
  if (keys !== undefined) app.addHook('preHandler', keepToUser)
}

/** What there is under /api, and what isn't, is nobody's business without a token. */
function isUnknownRoute({ is404, url }: FastifyRequest): boolean {
  return is404 && url.startsWith('/api/')
}

/** The API key of a request, by its own header or as an authorization. */
function keyIn({ headers }: FastifyRequest): string | undefined {
  const own = headers['x-api-key']
  if (own !== undefined) return String(own)
  const { authorization } = headers
  if (authorization === undefined || !apiKeyScheme.test(authorization)) return undefined
  return authorization.replace(apiKeyScheme, '')
}

function userOf(key: string, request: FastifyRequest, { keys }: GuardOptions): Caller | Promise<Caller> {
  const { scope, servicesOnly = false } = request.routeOptions.config
  const { 'x-api-key': own, authorization } = request.headers
  if (own !== undefined && authorization !== undefined)
    throw new AccessError('invalid_api_key', 'an API key stands alone: there is an authorization beside it', scope)
  if (servicesOnly) throw new AccessError('insufficient_scope', 'this is for services, not for users', scope)
  return (keys as ApiKeys).check(key, scope)
}

function clientOf(
  authorization: string | undefined,
  scope: Scope | undefined,
  verifier: TokenVerifier | undefined,
): Caller | undefined | Promise<Caller> {
  // Nobody has tokens here, so one says nothing.
  if (verifier === undefined) return undefined
  const token = verifier.check(authorization, scope)
  if ('then' in token) return token.then(({ client }): Caller => ({ kind: 'client', name: client }))
  return { kind: 'client', name: token.client }
}

/** A key is its user's: for whom else it is sent is refused, and who isn't named is he. */
function keepToUser(request: FastifyRequest, reply: FastifyReply, done: () => void): void {
  const { caller, params, body, routeOptions } = request
  if (caller?.kind !== 'user') return done()
  const named = (params as Named | undefined)?.user_id ?? (body as Named | undefined)?.user_id
  if (named !== undefined && named !== caller.name) {
    const detail = `the API key is for ${caller.name}, and not for whom the request names`
    sendProblem(reply, 'other_user', detail, { field: 'user_id', applied: 'no' })
    return
  }
  const schema = routeOptions.schema?.body as { properties?: object } | undefined
  if (named === undefined && schema?.properties !== undefined && 'user_id' in schema.properties) {
    Object.assign(body as object, { user_id: caller.name })
  }
  done()
}

interface Named {
  readonly user_id?: string
}

function answerRefusal(
  { code, message, scope }: AccessError,
  reply: FastifyReply,
  { verifier, keys }: GuardOptions,
): void {
  if (code === 'unavailable') {
    sendProblem(reply, code, message, { applied: 'no', retry_after: retryAfterSeconds })
    return
  }
  const needed = scope === undefined ? '' : `, scope="${scope}"`
  const realm = code === 'invalid_api_key' || verifier === undefined ? keyRealm : bearerRealm
  const description = `error_description="${quotable(message)}"`
  const challenges = {
    insufficient_scope: `${realm}, error="insufficient_scope", ${description}${needed}`,
    // Who brought none is told what is needed, and not that it was wrong (section 3.1).
    missing_token: keys === undefined ? realm : `${realm}, ${keyRealm}`,
    invalid_token: `${realm}, error="invalid_token", ${description}`,
    invalid_api_key: `${realm}, error="invalid_token", ${description}`,
  }
  sendProblem(reply.header('www-authenticate', challenges[code]), code, message, { applied: 'no' })
}

/** The characters that section 3 allows: a message has the name of a client, which may have others. */
function quotable(message: string): string {
  return message.replace(/[^\x20\x21\x23-\x5B\x5D-\x7E]/g, '?')
}
