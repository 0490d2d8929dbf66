import type { Server } from 'node:http'
import type { FastifyHttpOptions, FastifyInstance } from 'fastify'
import type { ApiSettings } from './api-options.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The handler keeps the time itself: a clock for each request is dear where the answer is there at once. */
    keepsTime?: boolean
  }
}

/** How often Node looks for requests that take too long, in milliseconds: by so much the limits are exceeded. */
const checkEveryMs = 1_000

/** What one caller may cost a server. */
export function serverLimits(settings: ApiSettings): FastifyHttpOptions<Server> {
  const { maxBodyBytes, maxHeaderBytes, maxParamLength, headersTimeoutMs, requestTimeoutMs } = settings
  return {
    bodyLimit: maxBodyBytes,
    requestTimeout: requestTimeoutMs,
    keepAliveTimeout: settings.keepAliveTimeoutMs,
    // Long ids must reach the rule that refuses them with a reason.
    routerOptions: { maxParamLength },
    http: {
      maxHeaderSize: maxHeaderBytes,
      headersTimeout: headersTimeoutMs,
      connectionsCheckingInterval: Math.min(checkEveryMs, headersTimeoutMs),
    },
    trustProxy: settings.trustedProxies.length === 0 ? false : [...settings.trustedProxies],
  }
}

/** Limits the connections of a server, and the time of its handlers. */
export function limitServer(app: FastifyInstance, { maxConnections, handlerTimeoutMs }: ApiSettings): void {
  app.server.maxConnections = maxConnections
  app.addHook('onRoute', (route) => {
    if (route.config?.keepsTime !== true) route.handlerTimeout ??= handlerTimeoutMs
  })
}
