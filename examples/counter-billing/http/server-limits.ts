import type { Server } from 'node:http'
import type { FastifyHttpOptions, FastifyInstance, FastifyReply } from 'fastify'
import type { ApiSettings } from './api-options.ts'
import { tookTooLong } from './error-answers.ts'
import { ProblemError } from './problem-error.ts'

/** How often Node looks for requests that take too long, in milliseconds: by so much the limits are exceeded. */
const checkEveryMs = 1_000
/** Methods of requests whose bodies are of no interest. */
const bodiless: ReadonlySet<string | undefined> = new Set(['GET', 'HEAD'])

/** How long a request may take to arrive. */
export function arrivalLimits({ headersTimeoutMs, requestTimeoutMs }: ApiSettings) {
  const connectionsCheckingInterval = Math.min(checkEveryMs, headersTimeoutMs)
  return { requestTimeout: requestTimeoutMs, http: { headersTimeout: headersTimeoutMs, connectionsCheckingInterval } }
}

/** What one caller may cost a server. */
export function serverLimits(settings: ApiSettings): FastifyHttpOptions<Server> {
  const { requestTimeout, http } = arrivalLimits(settings)
  return {
    bodyLimit: settings.maxBodyBytes,
    requestTimeout,
    keepAliveTimeout: settings.keepAliveTimeoutMs,
    // Long ids must reach the rule that refuses them with a reason.
    routerOptions: { maxParamLength: settings.maxParamLength },
    // Without a host, Node would refuse it without saying why.
    http: { ...http, maxHeaderSize: settings.maxHeaderBytes, requireHostHeader: false },
    trustProxy: settings.trustedProxies.length === 0 ? false : [...settings.trustedProxies],
  }
}

/** Limits the connections of a server, and the time of its handlers; and has it, and not Node, answer all that is a request. */
export function limitServer(app: FastifyInstance, { maxConnections, handlerTimeoutMs }: ApiSettings): void {
  app.server.maxConnections = maxConnections
  // An expectation that nobody knows may be passed over (RFC 9110, section 10.1.1).
  app.server.on('checkExpectation', app.routing)
  app.addHook('onRequest', ({ raw }, reply, done) => {
    const { host, 'content-encoding': encoding = 'identity' } = raw.headers
    if (host === undefined && raw.httpVersion === '1.1') {
      reply.header('connection', 'close')
      return done(new ProblemError('malformed_http', 'a request of HTTP/1.1 needs a host'))
    }
    if (encoding === 'identity' || bodiless.has(raw.method)) return done()
    reply.header('accept-encoding', 'identity')
    done(new ProblemError('unsupported_media_type', 'a body must come as it is, without a content-encoding'))
  })
  // Fastify's own clock stops with the last byte of the request, and runs where the answer is there at once.
  app.addHook('onRoute', (route) => {
    const { handler } = route
    route.handler = function (request, reply) {
      const answer: unknown = handler.call(this, request, reply)
      return answer instanceof Promise ? inTime(reply, handlerTimeoutMs, answer) : answer
    }
  })
}

/** Whether there is an answer, be it on its way to who reads slowly. One that is compressed says so before its header is written. */
function isAnswered(reply: FastifyReply): boolean {
  return reply.sent || reply.raw.headersSent || reply.hasHeader('content-encoding')
}

/** Answers 504 where an answer isn't there in time. What is under way goes on, and is told to nobody. */
async function inTime(reply: FastifyReply, limitMs: number, answer: Promise<unknown>): Promise<unknown> {
  const timer = setTimeout(() => {
    if (!isAnswered(reply)) tookTooLong(reply)
  }, limitMs)
  try {
    const payload = await answer
    return reply.sent ? reply : payload
  } catch (error) {
    if (reply.sent) return reply
    throw error
  } finally {
    clearTimeout(timer)
  }
}
