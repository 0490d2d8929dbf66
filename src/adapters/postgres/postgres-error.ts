import { type SpillwayError, StoreError } from '../../core/errors.js'
import { NotSentError } from './database.js'

/**
 * The server's answers that are the same however often one asks: bad data (class 22), a broken constraint (23), what the
 * server can't do (0A), what is beyond its limits (54), statements that are wrong in themselves (42), and the wrong number of values (08P01).
 */
const finalAnswers = /^(?:22|23|0A|42|54|08P01)/
/** Of class 42, what somebody can mend meanwhile: a missing table, column, function or type, or a missing privilege. */
const mendable: ReadonlySet<string> = new Set(['42P01', '42703', '42883', '42704', '42501'])
/** The session ended under the statement, or the server itself doesn't know. Any other SQLSTATE says: rolled back. */
const lostSessions = /^(?:08(?!P01|001|004)|57P0[12]|40003)/
/** Deadlock and serialization failure: somebody else went first, and the same statement may well succeed now. */
const conflicts: ReadonlySet<unknown> = new Set(['40P01', '40001'])
/** What `pg` says of a client that was broken or closed before it was asked. */
const notQueryable = /is not queryable$|not supported in pipeline mode$/

/** The SQLSTATE that the server answered with; undefined where the error comes from elsewhere. */
export function sqlStateOf(error: unknown): string | undefined {
  const { code } = (error ?? {}) as { code?: unknown }
  // Node's codes are as long at times: EPIPE. Those of the server come with a severity.
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) && 'severity' in (error as object) ? code : undefined
}

/** Whether a statement lost against another one and was rolled back for it. */
export function isConflict(error: unknown): boolean {
  return conflicts.has(sqlStateOf(error))
}

/** Wraps an error of `pg`, PGlite or the server. */
export function storeError(action: string, error: unknown): SpillwayError {
  if (error instanceof NotSentError) {
    const reason = error.cause
    return new StoreError(`${action} failed: there was no connection: ${messageOf(reason)}`, {
      cause: reason,
      retryable: true,
      outcomeUnknown: false,
    })
  }
  const state = sqlStateOf(error)
  if (state === undefined) {
    const neverSent = notQueryable.test(messageOf(error))
    return new StoreError(`${action} failed: ${messageOf(error)}`, { cause: error, outcomeUnknown: !neverSent })
  }
  // PgBouncer ends a session with a fatal 08P01, whatever the reason; the server itself refuses a statement so.
  const ended = state === '08P01' && (error as { severity?: unknown }).severity === 'FATAL'
  const final = !ended && finalAnswers.test(state) && !mendable.has(state)
  return new StoreError(`${action} ${final ? 'was refused' : 'failed'}: ${messageOf(error)} (SQLSTATE ${state})`, {
    cause: error,
    retryable: !final,
    outcomeUnknown: ended || lostSessions.test(state),
  })
}

/** The same, for what may have been wrapped already. */
export function storeErrorOnce(action: string, error: unknown): Error {
  return error instanceof StoreError ? error : storeError(action, error)
}

function messageOf(error: unknown): string {
  const { message, code } = (error ?? {}) as { message?: unknown; code?: unknown }
  // A connection that was refused on several addresses is an AggregateError without a message.
  return String(message || code || error)
}
