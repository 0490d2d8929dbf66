import rateLimit, { normalizeIP } from '@fastify/rate-limit'
import type { FastifyInstance, FastifyRequest, onRequestHookHandler } from 'fastify'
import { callerName } from '../auth/caller.ts'
import type { ApiSettings } from './api-options.ts'
import { ProblemError } from './problem-error.ts'
import type { Count, RequestCounts } from './request-counts.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Whether each microsecond counts: requests are then counted without the plug-in, whose promises are dear. */
    isHot?: boolean
  }
}

type Limits = NonNullable<ApiSettings['rateLimit']>

/** Of so many requests, one may be refused for its credentials: who tries more of them than that is told to wait. */
const refusalsShare = 100

/**
 * Limits how many requests a caller makes in a window: an API key, a service by its token, else an address. Answers say by the headers of
 * draft-ietf-httpapi-ratelimit-headers (the three of its first versions) how many are left.
 */
export async function limitRates(app: FastifyInstance, limits: Limits, counts: RequestCounts): Promise<void> {
  const { windowMs } = limits
  const maxOf = ({ caller }: FastifyRequest): number => caller?.maxRequests ?? limits.maxRequests
  const refusal = (max: number, ttl: number): ProblemError =>
    tooMany(`${max} requests in ${windowMs} ms are as many as may be`, max, ttl)
  // Before the plug-in has its own look at the routes.
  app.addHook('onRoute', (route) => {
    if (route.config?.isHot !== true) return
    route.config.rateLimit = false
    route.onRequest = [...[route.onRequest ?? []].flat(), limitInline(counts, maxOf, refusal)]
  })
  await app.register(rateLimit, {
    max: maxOf,
    timeWindow: windowMs,
    enableDraftSpec: true,
    keyGenerator: nameOf,
    store: storeOf(counts),
    errorResponseBuilder: (_request, { max, ttl }) => refusal(max, ttl),
  })
}

/** Each key by itself: it may have a limit of its own, which another one of the same user must not use up. */
function nameOf(request: FastifyRequest): string {
  const { caller, ip } = request
  if (caller === undefined) return nameOfAddress(ip)
  return caller.key === undefined ? callerName(request) : `key ${caller.key}`
}

/** The names of addresses that were seen lately: an IPv6 address takes 10 µs to read. */
const names = new Map<string, string>()
const maxNames = 10_000

/** Without an address is whose connection has gone while this process stood still, or came by a socket of this machine. */
function nameOfAddress(ip: string | undefined): string {
  if (ip === undefined) return 'no address'
  let name = names.get(ip)
  if (name === undefined) {
    if (names.size >= maxNames) names.clear()
    name = `address ${normalizeIP(ip)}`
    names.set(ip, name)
  }
  return name
}

function tooMany(detail: string, limit: number, ttl: number): ProblemError {
  return new ProblemError('rate_limited', detail, { limit, applied: 'no', retry_after: Math.ceil(ttl / 1_000) })
}

/** What the plug-in does, in the same turn; what is left is told from the second half on, as the headers cost more than all the rest. */
function limitInline(
  counts: RequestCounts,
  maxOf: (request: FastifyRequest) => number,
  refusal: (max: number, ttl: number) => ProblemError,
): onRequestHookHandler {
  return (request, reply, done) => {
    const max = maxOf(request)
    const { current, ttl } = counts.count(nameOf(request))
    if (current > max / 2) {
      reply.header('ratelimit-limit', max)
      reply.header('ratelimit-remaining', Math.max(0, max - current))
      reply.header('ratelimit-reset', Math.ceil(ttl / 1_000))
    }
    if (current > max) done(refusal(max, ttl))
    else done()
  }
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
    const { current, ttl } = counts.count(`refused ${nameOfAddress(request.ip)}`)
    return current > limit ? tooMany('too many credentials were refused', limit, ttl) : undefined
  }
}
