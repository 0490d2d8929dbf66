/** Every code that a {@link SpillwayError} can carry. */
export type SpillwayErrorCode =
  | 'ERR_CLOSED'
  | 'ERR_FULL'
  | 'ERR_TIMEOUT'
  | 'ERR_CIRCUIT_OPEN'
  | 'ERR_NO_INSTANCE'
  | 'ERR_QUOTA_EXCEEDED'
  | 'ERR_RESERVATION'
  | 'ERR_BATCH_RESULT'
  | 'ERR_TOO_LARGE'
  | 'ERR_INVALID_EVENT'
  | 'ERR_STORE'
  | 'ERR_TOKEN'
  | 'ERR_CURSOR'
  | 'ERR_OPTION'

/** What the constructor of a {@link SpillwayError} takes beside its message. */
export interface SpillwayErrorOptions {
  /** The error that this one wraps. */
  cause?: unknown
  /** Whether the same call may succeed later. */
  retryable?: boolean
  /** How long to wait before the next try, in milliseconds, where that is known. */
  retryAfterMs?: number
  /**
   * Whether the work may have been done in spite of the error: a timeout, a lost connection. Left out, it is what the `cause`
   * says; without a cause, false.
   */
  outcomeUnknown?: boolean
}

/**
 * The brand that tells our errors from others. It is a registered symbol because the ESM and the CJS copy of the package
 * have different classes.
 */
const brand: unique symbol = Symbol.for('spillway.error') as never

/**
 * The base of every error that this package makes. Test for it with {@link isSpillwayError}, never with `instanceof`: the
 * ESM and the CJS copy of a class differ.
 */
export class SpillwayError extends Error {
  /** What kind of error this is; stable across releases. */
  readonly code: SpillwayErrorCode
  /** Whether the same call may succeed later. */
  readonly retryable: boolean
  /** How long to wait before the next try, in milliseconds, where that is known. */
  readonly retryAfterMs: number | undefined
  /** Whether the work may have been done in spite of the error; undefined where only the `cause` can tell. */
  readonly outcomeUnknown: boolean | undefined

  constructor(code: SpillwayErrorCode, message: string, options: SpillwayErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined)
    this.code = code
    this.retryable = options.retryable ?? false
    this.retryAfterMs = options.retryAfterMs
    this.outcomeUnknown = options.outcomeUnknown ?? (options.cause === undefined ? false : undefined)
  }

  // An accessor: off the error's own keys, known when the stack is captured, safe from minifiers, and, unlike a static
  // block, no reason for a bundler to keep a subclass that nobody uses.
  /** The class's name. */
  override get name(): string {
    return 'SpillwayError'
  }

  static {
    Object.defineProperty(SpillwayError.prototype, brand, { value: true })
  }
}

/**
 * Tells whether an error comes from this package, whichever copy of it.
 *
 * @param code - when given, the error must also carry this code.
 */
export function isSpillwayError(error: unknown, code?: string): error is SpillwayError {
  return (
    typeof error === 'object' &&
    error !== null &&
    (error as { [brand]?: unknown })[brand] === true &&
    (code === undefined || (error as SpillwayError).code === code)
  )
}

/** `ERR_CLOSED`: the component was closed, or closed before it could finish this. */
export class ClosedError extends SpillwayError {
  constructor(message: string, options?: SpillwayErrorOptions) {
    super('ERR_CLOSED', message, options)
  }
  override get name(): string {
    return 'ClosedError'
  }
}

/** `ERR_FULL`: there was no room, or what was held made room for something newer. Retryable. */
export class FullError extends SpillwayError {
  /** How much the component holds at the most. */
  readonly capacity: number

  constructor(message: string, capacity: number, options?: SpillwayErrorOptions) {
    super('ERR_FULL', message, { retryable: true, ...options })
    this.capacity = capacity
  }
  override get name(): string {
    return 'FullError'
  }
}

/** `ERR_TIMEOUT`: an attempt took longer than its limit. Whether it was applied is unknown. */
export class TimeoutError extends SpillwayError {
  /** The limit that was passed, in milliseconds. */
  readonly timeoutMs: number

  constructor(message: string, timeoutMs: number, options?: SpillwayErrorOptions) {
    super('ERR_TIMEOUT', message, { retryable: true, outcomeUnknown: true, ...options })
    this.timeoutMs = timeoutMs
  }
  override get name(): string {
    return 'TimeoutError'
  }
}

/** `ERR_BATCH_RESULT`: a batch function answered with something that is not one result for each item. */
export class BatchResultError extends SpillwayError {
  constructor(message: string, options?: SpillwayErrorOptions) {
    super('ERR_BATCH_RESULT', message, options)
  }
  override get name(): string {
    return 'BatchResultError'
  }
}

/** `ERR_TOO_LARGE`: one item alone is over the limit. */
export class TooLargeError extends SpillwayError {
  /** The limit, in bytes. */
  readonly maxBytes: number

  constructor(message: string, maxBytes: number, options?: SpillwayErrorOptions) {
    super('ERR_TOO_LARGE', message, options)
    this.maxBytes = maxBytes
  }
  override get name(): string {
    return 'TooLargeError'
  }
}

/**
 * `ERR_CIRCUIT_OPEN`: a circuit breaker turned the call away. `retryAfterMs` says when it next lets one through, where that is
 * known. It has no stack: it is made for every call that an open circuit refuses, and says nothing about the code that called.
 */
export class CircuitOpenError extends SpillwayError {
  constructor(message: string, options?: SpillwayErrorOptions) {
    const limit = Error.stackTraceLimit
    setStackTraceLimit(0)
    super('ERR_CIRCUIT_OPEN', message, { retryable: true, ...options })
    setStackTraceLimit(limit)
  }
  override get name(): string {
    return 'CircuitOpenError'
  }
}

/** Where the limit can't be set, in a hardened realm or on another engine, errors keep their stacks. */
function setStackTraceLimit(limit: number): void {
  try {
    Error.stackTraceLimit = limit
  } catch {
    // Read-only.
  }
}

/** `ERR_NO_INSTANCE`: a load balancer has no instance to choose. */
export class NoInstanceError extends SpillwayError {
  constructor(message: string, options?: SpillwayErrorOptions) {
    super('ERR_NO_INSTANCE', message, { retryable: true, ...options })
  }
  override get name(): string {
    return 'NoInstanceError'
  }
}

/**
 * `ERR_STORE`: a store, sink or other server behind a port failed. The original error is in `cause`; adapters say by
 * `outcomeUnknown` whether the work may have been done.
 */
export class StoreError extends SpillwayError {
  constructor(message: string, options?: SpillwayErrorOptions) {
    super('ERR_STORE', message, { retryable: true, ...options })
  }
  override get name(): string {
    return 'StoreError'
  }
}

/** `ERR_INVALID_EVENT`: a usage event is wrong. The message names the field, the rule, the value and its type. */
export class InvalidEventError extends SpillwayError {
  /** The field that is wrong. */
  readonly field: string

  constructor(field: string, message: string, options?: SpillwayErrorOptions) {
    super('ERR_INVALID_EVENT', message, options)
    this.field = field
  }
  override get name(): string {
    return 'InvalidEventError'
  }
}

/**
 * `ERR_TOKEN`: what was fetched is no token that can be used. The message names the field and the rule, and never holds the token.
 * `retryable` where only a clock may be wrong.
 */
export class TokenError extends SpillwayError {
  /** The field that is wrong. */
  readonly field: string

  constructor(field: string, message: string, options?: SpillwayErrorOptions) {
    super('ERR_TOKEN', message, options)
    this.field = field
  }
  override get name(): string {
    return 'TokenError'
  }
}

/**
 * `ERR_CURSOR`: what was given as the cursor of a page is none that this listing can have made. Cursors come back from clients, so it
 * is the client's mistake: an HTTP service answers it with 400. The message never holds what was given.
 */
export class CursorError extends SpillwayError {
  /** Where it was given. */
  readonly field: 'after' | 'before'
  /**
   * What is wrong with it: it is no cursor, or a damaged one; no secret has signed it so; it was made under another listing, order or
   * condition; or its values are none that the columns can have.
   */
  readonly reason: 'malformed' | 'signature' | 'listing' | 'value'

  constructor(
    message: string,
    field: 'after' | 'before',
    reason: 'malformed' | 'signature' | 'listing' | 'value',
    options?: SpillwayErrorOptions,
  ) {
    super('ERR_CURSOR', message, options)
    this.field = field
    this.reason = reason
  }
  override get name(): string {
    return 'CursorError'
  }
}

/** What a {@link QuotaExceededError} knows. */
export interface QuotaExceededDetails {
  /** Whose quota it is. */
  readonly userId: string
  /** Which of the user's quotas. */
  readonly quotaType: string
  /** How much was asked for. */
  readonly value: number
  /** What may be used in a period. */
  readonly limit: number
  /** What was used by then. */
  readonly used: number
  /** What was reserved by then. */
  readonly held: number
  /** What was accepted in this process by then and not accounted yet; 0 by default. */
  readonly pending?: number | undefined
  /** When the quota's next period begins, in milliseconds since the epoch; undefined for one without an end. */
  readonly resetsAt?: number | undefined
}

/** `ERR_QUOTA_EXCEEDED`: a use doesn't fit what is left of a quota, and wasn't counted. */
export class QuotaExceededError extends SpillwayError implements QuotaExceededDetails {
  /** Whose quota it is. */
  readonly userId: string
  /** Which of the user's quotas. */
  readonly quotaType: string
  /** How much was asked for. */
  readonly value: number
  /** What may be used in a period. */
  readonly limit: number
  /** What was used by then. */
  readonly used: number
  /** What was reserved by then. */
  readonly held: number
  /** What was accepted in this process by then and not accounted yet. */
  readonly pending: number
  /** When the quota's next period begins, in milliseconds since the epoch; undefined for one without an end. */
  readonly resetsAt: number | undefined

  constructor(message: string, details: QuotaExceededDetails, options?: SpillwayErrorOptions) {
    super('ERR_QUOTA_EXCEEDED', message, options)
    this.userId = details.userId
    this.quotaType = details.quotaType
    this.value = details.value
    this.limit = details.limit
    this.used = details.used
    this.held = details.held
    this.pending = details.pending ?? 0
    this.resetsAt = details.resetsAt
  }
  override get name(): string {
    return 'QuotaExceededError'
  }
}

/** `ERR_RESERVATION`: a reservation's id is unknown, in use for another one, or was released before it was to be settled. */
export class ReservationError extends SpillwayError {
  /** The reservation's id. */
  readonly id: string
  /** What is wrong with it. */
  readonly reason: 'unknown' | 'released' | 'conflict'

  constructor(
    message: string,
    id: string,
    reason: 'unknown' | 'released' | 'conflict',
    options?: SpillwayErrorOptions,
  ) {
    super('ERR_RESERVATION', message, options)
    this.id = id
    this.reason = reason
  }
  override get name(): string {
    return 'ReservationError'
  }
}

/** `ERR_OPTION`: an option or argument is wrong. The message names the field, the rule, the value and its type. */
export class OptionError extends SpillwayError {
  /** The option's name. */
  readonly field: string

  constructor(field: string, message: string) {
    super('ERR_OPTION', message)
    this.field = field
  }
  override get name(): string {
    return 'OptionError'
  }
}
