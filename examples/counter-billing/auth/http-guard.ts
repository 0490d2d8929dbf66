import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { retryAfterSeconds } from '../error-answers.ts'
import { sendProblem } from '../problems.ts'
import type { Caller } from './caller.ts'
import type { Scope } from './permissions.ts'
import { AccessError, type TokenVerifier, type VerifiedToken } from './token-verifier.ts'

/** Whether a gateway takes calls without a token. One that is wrong is refused either way. */
export type AuthMode = 'optional' | 'required'

export const authModes: readonly AuthMode[] = ['optional', 'required']

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What a token must allow. Without it, the route is open to everybody. */
    scope?: Scope
    /** Whether a call without a token is refused in any case: it is for services, not for users. */
    servicesOnly?: boolean
  }
}

const realm = 'Bearer realm="counter-billing"'

/** Lets in only those whose token is valid and allows what they ask for (RFC 6750). */
export function guardHttp(app: FastifyInstance, verifier: TokenVerifier, mode: AuthMode): void {
  app.decorateRequest<Caller | undefined>('caller', undefined)
  // No async function: a token that was verified before needs no promise.
  app.addHook('onRequest', (request, reply, done) => {
    const { scope, servicesOnly = false } = request.routeOptions.config
    if (scope === undefined && !isUnknownRoute(request)) return done()
    const { authorization } = request.headers
    if (authorization === undefined && mode === 'optional' && !servicesOnly) return done()
    const refuse = (error: unknown): void => {
      if (error instanceof AccessError) answerRefusal(error, reply)
      else done(error as Error)
    }
    try {
      const token = verifier.check(authorization, scope)
      const admit = ({ client }: VerifiedToken): void => {
        request.caller = { kind: 'client', name: client }
        done()
      }
      if (isPromise(token)) token.then(admit, refuse)
      else admit(token)
    } catch (error) {
      refuse(error)
    }
  })
}

/** What there is under /api, and what isn't, is nobody's business without a token. */
function isUnknownRoute({ is404, url }: FastifyRequest): boolean {
  return is404 && url.startsWith('/api/')
}

function isPromise(token: VerifiedToken | Promise<VerifiedToken>): token is Promise<VerifiedToken> {
  return 'then' in token
}

function answerRefusal({ code, message, scope }: AccessError, reply: FastifyReply): void {
  if (code === 'unavailable') {
    sendProblem(reply, 'unavailable', message, { applied: 'no', retry_after: retryAfterSeconds })
    return
  }
  const needed = scope === undefined ? '' : `, scope="${scope}"`
  if (code === 'insufficient_scope') {
    const challenge = `${realm}, error="insufficient_scope", error_description="${quotable(message)}"${needed}`
    sendProblem(reply.header('www-authenticate', challenge), code, message, { applied: 'no' })
    return
  }
  // Who brought none is told what is needed, and not that it was wrong (section 3.1).
  const challenge =
    code === 'missing_token' ? realm : `${realm}, error="invalid_token", error_description="${quotable(message)}"`
  sendProblem(reply.header('www-authenticate', challenge), code, message, { applied: 'no' })
}

/** The characters that section 3 allows: a message has the name of a client, which may have others. */
function quotable(message: string): string {
  return message.replace(/[^\x20\x21\x23-\x5B\x5D-\x7E]/g, '?')
}
