import rateLimit, { normalizeIP } from '@fastify/rate-limit'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { ApiSettings } from './api-options.ts'
import { callerName } from './auth/caller.ts'
import { ProblemError } from './problem-error.ts'
import type { Count, RequestCounts } from './request-counts.ts'

type Limits = NonNullable<ApiSettings['rateLimit']>

/** Of so many requests, one may be refused for its credentials: who tries more of them than that is told to wait. */
const refusalsShare = 100

/**
 * Limits how many requests a caller makes in a window: whoever its credentials name, else its address. Answers say by the headers of
 * draft-ietf-httpapi-ratelimit-headers (the three of its first versions) how many are left.
 */
export async function limitRates(app: FastifyInstance, limits: Limits, counts: RequestCounts): Promise<void> {
  const { maxRequests, windowMs } = limits
  await app.register(rateLimit, {
    max: (request) => request.caller?.maxRequests ?? maxRequests,
    timeWindow: windowMs,
    enableDraftSpec: true,
    keyGenerator: nameOf,
    store: storeOf(counts),
    errorResponseBuilder: (_request, { max, ttl }) =>
      tooMany(`${max} requests in ${windowMs} ms are as many as may be`, max, ttl),
  })
}

function nameOf(request: FastifyRequest): string {
  return request.caller === undefined ? `address ${normalizeIP(request.ip)}` : callerName(request)
}

function tooMany(detail: string, limit: number, ttl: number): ProblemError {
  return new ProblemError('rate_limited', detail, { limit, applied: 'no', retry_after: Math.ceil(ttl / 1_000) })
}

/** What the plug-in counts with: it makes one of these by itself. */
function storeOf(counts: RequestCounts) {
  return class Store {
    incr(name: string, done: (error: Error | null, count?: Count) => void): void {
      done(null, counts.count(name))
    }

    child(): this {
      return this
    }
  }
}

/** Tells who has been refused too often from an address. */
export function refusalLimit(
  { maxRequests }: Limits,
  counts: RequestCounts,
): (request: FastifyRequest) => ProblemError | undefined {
  const limit = Math.max(1, Math.ceil(maxRequests / refusalsShare))
  return (request) => {
    const { current, ttl } = counts.count(`refused ${normalizeIP(request.ip)}`)
    return current > limit ? tooMany('too many credentials were refused', limit, ttl) : undefined
  }
}
