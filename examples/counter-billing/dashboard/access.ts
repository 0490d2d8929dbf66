import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Scope } from '../auth/permissions.ts'
import { AccessError, type TokenVerifier } from '../auth/token-verifier.ts'
import { loopback } from '../telemetry/metrics-endpoint.ts'

/** What a token must allow for its holder to look from elsewhere. */
const scope: Scope = 'counters:read'

/**
 * Whether a request comes from this machine, and was meant for it: a page of somebody else's that has its name lead here (DNS rebinding)
 * has another host.
 */
export function isLocal({ socket, headers }: FastifyRequest): boolean {
  return (
    loopback.test(socket.remoteAddress ?? '') &&
    /^(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?$/.test(headers.host ?? '')
  )
}

/** Lets in who asks from this machine, and who has a token. */
export function onlyForLookers(verifier: TokenVerifier | undefined) {
  return async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> => {
    if (isLocal(request)) return undefined
    const { authorization } = request.headers
    const forbidden = { error: 'forbidden', message: 'the dashboard is for who asks from this machine, or has a token' }
    if (verifier === undefined || authorization === undefined) return reply.code(403).send(forbidden)
    try {
      await verifier.check(authorization, scope)
      return undefined
    } catch (error) {
      if (!(error instanceof AccessError)) throw error
      return reply.code(error.code === 'unavailable' ? 503 : 403).send({ error: error.code, message: error.message })
    }
  }
}
