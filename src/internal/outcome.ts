import { isSpillwayError } from '../core/errors.js'

/** Codes of a connection that broke after the request may have been sent. A refused connection is not among them. */
const lostConnectionCodes: ReadonlySet<unknown> = new Set([
  // Node's sockets
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'ESOCKETTIMEDOUT',
  'ERR_STREAM_PREMATURE_CLOSE',
  // undici: closed by the other side, no answer in time
  'UND_ERR_SOCKET',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  // HTTP/2
  'ERR_HTTP2_STREAM_ERROR',
  'ERR_HTTP2_SESSION_ERROR',
  // SQLSTATE class 08, 57P01 and 57P02: the server went away under the session
  '08000',
  '08003',
  '08006',
  '08007',
  '57P01',
  '57P02',
])

/** Names of errors that leave it open: `AbortSignal.timeout()`, aborted fetches, ioredis, node-redis. */
const uncertainNames: ReadonlySet<unknown> = new Set([
  'TimeoutError',
  'AbortError',
  'MaxRetriesPerRequestError',
  'SocketClosedUnexpectedlyError',
])

/** Messages that are all that some errors of `pg` and ioredis can be told by. */
const uncertainMessage: RegExp =
  /^(?:Connection terminated|Query read timeout$|Connection is closed\.$|Command timed out$)/

/** gRPC's DEADLINE_EXCEEDED and UNAVAILABLE: the server may have done the work all the same. */
const uncertainGrpcStatus: ReadonlySet<unknown> = new Set([4, 14])

/** How far a chain of causes is followed; wrapped errors are rarely wrapped more than twice. */
const maxDepth = 4

/**
 * Whether an error leaves open if the work was done: a timeout, a lost connection. Work with such an outcome may be
 * done again only where doing it twice does no harm.
 */
export function isOutcomeUnknown(error: unknown): boolean {
  try {
    return leavesOpen(error)
  } catch {
    // An error that can't even be read: whatever it is, it doesn't say that nothing was done.
    return true
  }
}

/**
 * Whether an error of a batch may be about one of its items, so that trying them apart tells more. One that says that the same call may
 * succeed later is about the callee.
 */
export function mayBeOfOneItem(error: unknown): boolean {
  if (!isSpillwayError(error)) return true
  return !error.retryable && error.code !== 'ERR_CIRCUIT_OPEN' && error.code !== 'ERR_BATCH_RESULT'
}

function leavesOpen(error: unknown): boolean {
  let current = error
  for (let depth = 0; depth < maxDepth && typeof current === 'object' && current !== null; depth++) {
    if (isSpillwayError(current)) {
      // Whoever made the error knows best: a connection that was refused in the end may have been lost before.
      if (current.outcomeUnknown !== undefined) return current.outcomeUnknown
    } else {
      const { name, code, message } = current as { name?: unknown; code?: unknown; message?: unknown }
      // A gRPC status is a small number, so it counts only on an error that looks like one of gRPC's.
      if (uncertainGrpcStatus.has(code) && 'details' in current && 'metadata' in current) return true
      if (uncertainNames.has(name) || lostConnectionCodes.has(code)) return true
      if (typeof message === 'string' && uncertainMessage.test(message)) return true
    }
    current = (current as { cause?: unknown }).cause
  }
  return false
}
