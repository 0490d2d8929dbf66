import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type CursorError, isSpillwayError } from 'spillway'
import { type Log, text } from '../counter/counters.ts'
import { brokenRules } from './broken-rules.ts'
import { ProblemError } from './problem-error.ts'
import { type ProblemCode, problem, problems, problemType, sendProblem } from './problems.ts'

/** When to come back after a 503, in seconds: a flush is over by then. */
export const retryAfterSeconds = 1

/** How many broken rules are told in the sentence; the list has all of them. */
const maxSentences = 3

/** Answers what goes wrong with problems (RFC 9457), what isn't there included. Returns the paths that there are. */
export function answerErrors(app: FastifyInstance, log: Log): Pick<Routes, 'paths'> {
  const routes = new Routes()
  app.addHook('onRoute', ({ method, url }) => routes.add(method, url))
  app.setErrorHandler<FastifyError>((error, request, reply) => answerError(error, request, reply, log))
  app.setNotFoundHandler((request, reply) => {
    const { method, url } = request
    const [path = ''] = url.split('?')
    const allowed = routes.methodsOf(path)
    if (allowed.length === 0) return sendProblem(reply, 'not_found', `there is no ${method} ${url}`)
    reply.header('allow', allowed.join(', '))
    return sendProblem(reply, 'method_not_allowed', `${path} takes ${allowed.join(', ')}, not ${method}`, { allowed })
  })
  return routes
}

/** Which methods there are at a path. */
class Routes {
  readonly #methods = new Map<string, { readonly pattern: RegExp; readonly methods: Set<string> }>()

  add(method: string | readonly string[], url: string): void {
    let route = this.#methods.get(url)
    if (route === undefined) {
      const pattern = url.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/:\w+/g, '[^/]+')
      route = { pattern: new RegExp(`^${pattern.replaceAll('\\*', '.*')}$`), methods: new Set() }
      this.#methods.set(url, route)
    }
    for (const one of [method].flat()) route.methods.add(one)
  }

  get paths(): string[] {
    return [...this.#methods.keys()]
  }

  methodsOf(path: string): string[] {
    const found = [...this.#methods.values()].filter(({ pattern }) => pattern.test(path))
    return [...new Set(found.flatMap(({ methods }) => [...methods]))].sort()
  }
}

/** Answers what fails before it has a route: an URL that can't be read. No hook has seen it. */
export function answerFrameworkError(error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  reply.header('x-request-id', request.id)
  if (error.code === 'FST_ERR_MAX_PARAM_LENGTH')
    sendProblem(reply, 'url_too_long', 'a part of the path is longer than a parameter may be')
  else sendProblem(reply, 'invalid_request', error.message, { field: 'url' })
}

/** What Node's parser and its clocks say of a request that never became one. */
const parserProblems: Readonly<Record<string, ProblemCode>> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  HPE_CHUNK_EXTENSIONS_OVERFLOW: 'body_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
}
/** How long whoever sent it has to read the answer. */
const lingerMs = 1_000

/** A connection, and the first answer that it is owed: Node's own handler goes by that, too. */
interface RequestSocket extends Socket {
  readonly _httpMessage?: ServerResponse | null
}

/** Answers what isn't HTTP, or never ends, and closes the connection. */
export function answerParserError(error: Error & { code?: string }, socket: RequestSocket): void {
  // Who waits for the answer to a request that is here would take this for it.
  const isOwed = socket._httpMessage?.req.complete === true
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable || isOwed) {
    socket.destroy()
    return
  }
  const code = parserProblems[error.code ?? ''] ?? 'malformed_http'
  const { status, title } = problems[code]
  const body = JSON.stringify(problem(code, code === 'malformed_http' ? error.message : title))
  const head = [
    `HTTP/1.1 ${status} ${title.replace(/[^\x20-\x7e]/g, '')}`,
    `content-type: ${problemType}`,
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
  ]
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`)
  setTimeout(() => socket.destroy(), lingerMs).unref()
}

function answerError(
  error: FastifyError | ProblemError,
  request: FastifyRequest,
  reply: FastifyReply,
  log: Log,
): FastifyReply {
  if (error instanceof ProblemError) return sendProblem(reply, error.code, error.message, error.details)
  if (error.validation !== undefined) return answerBrokenRules(request, reply, error.validation)
  if (isSpillwayError(error, 'ERR_CURSOR')) {
    // It was changed, or is of another listing, or its secret is another one by now: the first page is there without any.
    return sendProblem(reply, 'invalid_cursor', error.message, { field: (error as CursorError).field })
  }
  if (isSpillwayError(error)) {
    return sendProblem(reply, 'unavailable', error.message, { retry_after: retryAfterSeconds })
  }
  const status = error.statusCode ?? 500
  if (status === 415) return sendProblem(reply, 'unsupported_media_type', 'content-type must be application/json')
  if (status === 413) {
    // Whoever goes on to send is not listened to.
    reply.header('connection', 'close')
    return sendProblem(reply, 'body_too_large', 'the body is too large', { field: 'body' })
  }
  if (status < 500) return sendProblem(reply, 'invalid_request', error.message, { field: 'body' })
  log('error', `request ${request.id}: ${error.stack ?? error.message}`)
  return sendProblem(reply, 'internal_error', 'something went wrong here', fateOf(request))
}

function answerBrokenRules(
  request: FastifyRequest,
  reply: FastifyReply,
  validation: NonNullable<FastifyError['validation']>,
): FastifyReply {
  const errors = brokenRules(request, validation)
  const sentences = errors.slice(0, maxSentences).map(({ message }) => message)
  const more = errors.length - sentences.length
  const detail = `${sentences.join('; ')}${more > 0 ? `; and ${more} more` : ''}`
  return sendProblem(reply, 'invalid_request', detail, { field: errors[0]?.field, errors })
}

/** Answers in place of a handler that is still at it. */
export function tookTooLong(reply: FastifyReply): FastifyReply {
  return sendProblem(reply, 'handler_timeout', 'it is still under way, and nobody waits for it here', {
    ...fateOf(reply.request),
    retry_after: retryAfterSeconds,
  })
}

/** Whether it was done: of what only reads nobody asks. */
export function fateOf({ method }: FastifyRequest): { applied?: 'unknown' } {
  return method === 'GET' || method === 'HEAD' ? {} : { applied: 'unknown' }
}

/** Answers with a rule that was broken, where it took more than a schema to tell. */
export function invalid(reply: FastifyReply, field: string, message: string): FastifyReply {
  return sendProblem(reply, 'invalid_request', message, { field, errors: [{ field, message }] })
}

/** Answers that something can't be had now. */
export function unavailable(reply: FastifyReply, error: unknown, details: Readonly<Record<string, unknown>> = {}) {
  return sendProblem(reply, 'unavailable', text(error), { ...details, retry_after: retryAfterSeconds })
}
