import { isSpillwayError, type SpillwayError, StoreError } from '../../core/errors.js'
import type { RedisFace } from './redis-client.js'

/** What a failed call was, beyond its error. */
export interface FailedCall {
  /** Who made it, for the message. */
  readonly name: string
  /** What it was doing, for the message: `increment`. */
  readonly operation: string
  /** Whether it could change anything. */
  readonly writes: boolean
  /** Whether the client was closed before the call. */
  readonly closed: boolean
  /** Whether the client may have sent it more than once, since it got a new connection meanwhile. */
  readonly resent: boolean
}

/**
 * The first word of an answer by which Redis refuses a command before it runs, for a reason that passes: another node, a
 * restart, a failover, no memory, no disk, a script that runs too long.
 */
const passing: ReadonlySet<string> = new Set([
  'MOVED',
  'ASK',
  'TRYAGAIN',
  'CLUSTERDOWN',
  'LOADING',
  'READONLY',
  'MASTERDOWN',
  'NOREPLICAS',
  'OOM',
  'MISCONF',
  'BUSY',
  'NOSCRIPT',
])

/** A connection that was never there. */
const neverSentCodes: ReadonlySet<unknown> = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
])

/** Clients that refuse a command since they have no connection, by the error's class (node-redis) or text (ioredis). */
const neverSentNames: ReadonlySet<string> = new Set([
  'ClientClosedError',
  'ClientOfflineError',
  'RootNodesUnavailableError',
])
const neverSentTexts: readonly string[] = [
  "Stream isn't writeable and enableOfflineQueue options is false",
  "Cluster isn't ready and enableOfflineQueue options is false",
]

/** Wraps what a client rejected with, once. */
export function redisError(error: unknown, call: FailedCall): SpillwayError {
  if (isSpillwayError(error)) return error
  const text = error instanceof Error ? error.message : String(error)
  const options = { cause: error, ...verdict(error, text, call) }
  return new StoreError(`${call.name}: ${call.operation} failed: ${text}`, options)
}

/** Makes a call, and wraps what it rejects with. */
export async function wrapped<T>(
  face: RedisFace,
  call: Pick<FailedCall, 'name' | 'operation' | 'writes'>,
  send: () => Promise<T>,
): Promise<T> {
  const { closed, epoch } = face
  try {
    return await send()
  } catch (error) {
    throw redisError(error, { ...call, closed, resent: face.epoch !== epoch })
  }
}

/**
 * One error for a call in several parts, of which some failed: what holds for the whole, not for one part.
 *
 * @param what - who failed in doing what: `redis-counter-store: increment`.
 * @param errors - those of the parts that failed.
 * @param parts - how many parts there were.
 * @param kind - what they are: `buckets`.
 */
export function partlyFailed(
  what: string,
  errors: readonly SpillwayError[],
  parts: number,
  kind: string,
): SpillwayError {
  const [first] = errors as readonly [SpillwayError]
  return new StoreError(`${what} failed in ${errors.length} of ${parts} ${kind}: ${first.message}`, {
    cause: errors.length === 1 ? first.cause : new AggregateError(errors.map((error) => error.cause ?? error)),
    retryable: errors.every((error) => error.retryable),
    outcomeUnknown: errors.length < parts || errors.some((error) => error.outcomeUnknown),
  })
}

function verdict(error: unknown, text: string, call: FailedCall): { retryable: boolean; outcomeUnknown: boolean } {
  if (call.closed) return { retryable: false, outcomeUnknown: false }
  const reply = replyCode(error, text)
  if (reply !== undefined) {
    const retryable = passing.has(reply) || text.startsWith('ERR max number of clients')
    return { retryable, outcomeUnknown: call.writes && call.resent }
  }
  return { retryable: true, outcomeUnknown: call.writes && !wasNeverSent(error, text, call) }
}

/** The first word of Redis' own answer; undefined where the error is the client's. */
function replyCode(error: unknown, text: string): string | undefined {
  if (!(error instanceof Error)) return undefined
  // ioredis names them ReplyError; node-redis has classes without names, of which ErrorReply is the base.
  const isReply = error.name === 'ReplyError' || classesOf(error).includes('ErrorReply')
  if (isReply) return /^[A-Z]+/.exec(text)?.[0] ?? ''
  // node-redis gives up after too many redirections, each of which was an answer.
  return classesOf(error).includes('MaxCommandRedirectionsError') ? 'MOVED' : undefined
}

function wasNeverSent(error: unknown, text: string, call: FailedCall): boolean {
  if (typeof error !== 'object' || error === null) return false
  if (neverSentTexts.includes(text) && !call.resent) return true
  if (classesOf(error).some((name) => neverSentNames.has(name))) return true
  return neverSentCodes.has((error as { code?: unknown }).code) && !call.resent
}

/** The names of an error's class and of those it extends: node-redis gives its errors no other names. */
function classesOf(error: object): string[] {
  const names: string[] = []
  for (let proto = Object.getPrototypeOf(error); proto !== null; proto = Object.getPrototypeOf(proto)) {
    const { name } = (proto as { constructor?: { name?: unknown } }).constructor ?? {}
    if (typeof name === 'string') names.push(name)
  }
  return names
}
