import type { FastifyRequest } from 'fastify'

/** Who asks, as far as credentials tell. */
export interface Caller {
  /** A user by an API key, or a service by a token. */
  readonly kind: 'user' | 'client'
  readonly name: string
  /** The id of the API key, of which a user may have several. */
  readonly key?: string | undefined
  /** Requests in a window, in place of what everybody may make. */
  readonly maxRequests?: number | undefined
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks; nobody knows, where there were no credentials. */
    caller: Caller | undefined
  }
}

/** A name that no two callers share; those without credentials share one. */
export function callerName({ caller }: FastifyRequest): string {
  return caller === undefined ? 'anybody' : `${caller.kind} ${caller.name}`
}
