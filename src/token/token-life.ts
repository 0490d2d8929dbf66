import { TokenError } from '../core/errors.js'

/** A moment on both clocks. */
export interface Moment {
  readonly now: number
  readonly wallNow: number
}

/** A token and its life, told on the monotonic clock. */
export interface TokenLife {
  readonly token: string
  /** How long it lives in all, from the start of the request that fetched it. */
  readonly lifeMs: number
  readonly expiresAt: number
  /** What the wall clock is ahead of the monotonic one, by which it tells the same moment. */
  readonly wallOffsetMs: number
}

/** As milliseconds since the epoch this is March 1973; as seconds, the year 5138. */
const looksLikeSeconds = 100_000_000_000
/** The last moment that a Date can tell. */
const lastMoment = 8_640_000_000_000_000
const usable = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/

/**
 * Reads what was fetched. None of the messages holds anything of a token.
 *
 * @throws TokenError when it is no token that can be used now.
 */
export function readGrant(grant: unknown, started: Moment, arrived: Moment, defaultTtlMs: number): TokenLife {
  if (typeof grant !== 'object' || grant === null) {
    throw new TokenError('token', `fetchToken must give an object with a token, got ${typeOf(grant)}`)
  }
  const { token, expiresAt, expiresInMs } = grant as { token?: unknown; expiresAt?: unknown; expiresInMs?: unknown }
  checkToken(token)
  const ends = [] as { expiresAt: number; wallOffsetMs: number }[]
  if (expiresAt !== undefined && expiresAt !== null) {
    // What is left of it, counted from now, whatever the wall clock did while it was fetched.
    const wallOffsetMs = arrived.wallNow - arrived.now
    ends.push({ expiresAt: readTime(expiresAt) - wallOffsetMs, wallOffsetMs })
  }
  if ((expiresInMs !== undefined && expiresInMs !== null) || ends.length === 0) {
    ends.push({
      expiresAt: started.now + readDuration(expiresInMs ?? defaultTtlMs),
      wallOffsetMs: started.wallNow - started.now,
    })
  }
  const end = ends.reduce((a, b) => (b.expiresAt < a.expiresAt ? b : a))
  const overdueMs = Math.max(arrived.now, arrived.wallNow - end.wallOffsetMs) - end.expiresAt
  if (overdueMs >= 0) {
    const field = expiresAt === undefined || expiresAt === null ? 'expiresInMs' : 'expiresAt'
    throw new TokenError(field, `fetchToken gave a token that had expired ${Math.round(overdueMs)} ms before`, {
      retryable: true,
    })
  }
  return { token, ...end, lifeMs: end.expiresAt - started.now }
}

function checkToken(token: unknown): asserts token is string {
  if (typeof token !== 'string') throw new TokenError('token', `token must be a string, got ${typeOf(token)}`)
  if (token === '') throw new TokenError('token', 'token must not be empty')
  if (!usable.test(token)) {
    throw new TokenError(
      'token',
      'token must be printable ASCII without a line break, and without a blank at either end',
    )
  }
}

function readTime(value: unknown): number {
  const ms = value instanceof Date ? value.getTime() : value
  if (typeof ms !== 'number' || !(ms > 0 && ms <= lastMoment)) {
    const got = typeof ms === 'number' ? String(ms) : typeOf(ms)
    throw new TokenError('expiresAt', `expiresAt must be a date or milliseconds since the epoch, got ${got}`)
  }
  if (ms < looksLikeSeconds) {
    throw new TokenError(
      'expiresAt',
      `expiresAt must be in milliseconds since the epoch, got ${ms}: are these seconds?`,
    )
  }
  return ms
}

function readDuration(value: unknown): number {
  if (typeof value !== 'number' || Number.isNaN(value)) {
    const got = typeof value === 'number' ? 'NaN' : typeOf(value)
    throw new TokenError('expiresInMs', `expiresInMs must be a number of milliseconds, got ${got}`)
  }
  return value
}

function typeOf(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'an array' : typeof value
}
