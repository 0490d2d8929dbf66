import { randomBytes } from 'node:crypto'
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifyServerOptions,
} from 'fastify'
import type { Logger } from 'pino'

/** An id that a caller brings: nothing that would make a log hard to read, or a header impossible. */
const callersId = /^[\w.:-]{1,64}$/

/** Ids of this process begin with this, so that no other one has the same. */
const prefix = randomBytes(4).toString('hex')
let requests = 0

/** One line a request, once it is answered, in place of fastify's two. */
class RequestLog extends Fastify.LogController {
  readonly #logger: Logger

  constructor(logger: Logger) {
    super()
    this.#logger = logger
  }

  override incomingRequest(): void {}

  override requestCompleted(error: Error | null | undefined, request: FastifyRequest, reply: FastifyReply): void {
    if (!this.#logger.isLevelEnabled('debug')) return
    const { method, url, ip, headers } = request
    request.log.debug(
      {
        ...{ method, url, ip, status: reply.statusCode, ms: Math.round(reply.elapsedTime * 100) / 100 },
        ...(error && { problem: error.message }),
        // Who asks for this much gets all of it, but for what `redact` takes out.
        ...(this.#logger.isLevelEnabled('trace') && { headers }),
      },
      'request',
    )
  }
}

/** How fastify logs: each request under an id, which is the caller's `x-request-id` where it has one. */
export function requestLogging(
  logger: Logger | undefined,
): Pick<FastifyServerOptions, 'genReqId' | 'logController'> & { loggerInstance?: FastifyBaseLogger } {
  return {
    genReqId: ({ headers }) => {
      const id = headers['x-request-id']
      return typeof id === 'string' && callersId.test(id) ? id : `${prefix}-${(++requests).toString(36)}`
    },
    ...(logger !== undefined && { loggerInstance: logger, logController: new RequestLog(logger) }),
  }
}

/** Answers each request with its id; and, while the server shuts down, as the last one of its connection. */
export function answerWithId(app: FastifyInstance, isClosing: () => boolean = () => false): void {
  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id)
    if (isClosing()) reply.header('connection', 'close')
    done()
  })
}
