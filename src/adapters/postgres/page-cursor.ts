import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { CursorError, OptionError, TooLargeError } from '../../core/errors.js'
import { isStorable } from '../../internal/storable.js'

/** What signs cursors: at least 16 bytes that nobody can guess. */
export type CursorSecret = string | Uint8Array

/** Where a cursor stands: behind a row, or, where there was none left, with it. */
export interface CursorPlace {
  /** The row's values in the columns of the order, as the server writes them; null for NULL. */
  readonly keys: readonly (string | null)[]
  readonly inclusive: boolean
}

/** What a cursor holds. */
export interface OpenedCursor extends CursorPlace {
  /** The listing that made it. */
  readonly listing: Uint8Array
}

const version = 1
const listingBytes = 8
const tagBytes = 16
const headBytes = 2 + listingBytes
/** Longer ones would fit no URL. */
const maxLength = 16_384
const minSecretBytes = 16
/** Whatever else a secret signs, it is no cursor. */
const purpose = 'spillway page cursor\0'

/** Tells listings apart. */
export function listingMark(listing: unknown): Uint8Array {
  return createHash('sha256').update(JSON.stringify(listing)).digest().subarray(0, listingBytes)
}

/**
 * Makes and reads cursors. In base64url:
 *
 *     version  1 byte
 *     flags    1 byte    1: with the row, not behind it
 *     listing  8 bytes   a hash of the table, the order and the conditions
 *     keys     JSON      an array of texts and nulls
 *     tag      16 bytes  of all before it: HMAC-SHA256 with a secret; without one SHA-256, against damage, not against forgery
 */
export class CursorSeal {
  readonly #secrets: readonly Uint8Array[]

  constructor(secret: CursorSecret | readonly CursorSecret[] | undefined) {
    this.#secrets = secret === undefined ? [] : readSecrets(secret)
  }

  seal(listing: Uint8Array, { keys, inclusive }: CursorPlace): string {
    const head = Buffer.concat([Uint8Array.of(version, inclusive ? 1 : 0), listing])
    const body = Buffer.concat([head, Buffer.from(JSON.stringify(keys))])
    const cursor = Buffer.concat([body, tagOf(body, this.#secrets[0])]).toString('base64url')
    if (cursor.length > maxLength) {
      throw new TooLargeError(
        `a cursor of ${cursor.length} bytes is over the limit of ${maxLength}: order by shorter columns`,
        maxLength,
      )
    }
    return cursor
  }

  /** @throws CursorError for what no {@link seal} with these secrets has made. */
  open(field: 'after' | 'before', cursor: unknown, columns: number): OpenedCursor {
    const bytes = decode(cursor)
    if (bytes === undefined) throw malformed(field)
    const body = bytes.subarray(0, -tagBytes)
    const tag = bytes.subarray(-tagBytes)
    if (this.#secrets.length === 0) {
      if (!timingSafeEqual(tagOf(body, undefined), tag)) throw malformed(field)
    } else if (!this.#secrets.some((secret) => timingSafeEqual(tagOf(body, secret), tag))) {
      throw new CursorError(`${field} isn't signed as the cursors of this listing are`, field, 'signature')
    }
    const [, flags] = body
    const keys = readKeys(body.subarray(headBytes))
    if (keys?.length !== columns || flags === undefined || flags > 1) throw malformed(field)
    return { keys, inclusive: flags === 1, listing: body.subarray(2, headBytes) }
  }
}

function decode(cursor: unknown): Buffer | undefined {
  if (typeof cursor !== 'string' || cursor.length > maxLength) return undefined
  const bytes = Buffer.from(cursor, 'base64url')
  // The decoder skips what it doesn't know, and ignores the bits that are left over at the end.
  if (bytes.toString('base64url') !== cursor) return undefined
  return bytes.length > headBytes + tagBytes && bytes[0] === version ? bytes : undefined
}

function readKeys(json: Buffer): readonly (string | null)[] | undefined {
  try {
    const keys: unknown = JSON.parse(json.toString())
    const valid = Array.isArray(keys) && keys.every((key) => key === null || isStorable(key))
    return valid ? (keys as (string | null)[]) : undefined
  } catch {
    return undefined
  }
}

function tagOf(body: Uint8Array, secret: Uint8Array | undefined): Buffer {
  const sum = secret === undefined ? createHash('sha256') : createHmac('sha256', secret)
  return sum.update(purpose).update(body).digest().subarray(0, tagBytes)
}

function malformed(field: 'after' | 'before'): CursorError {
  return new CursorError(`${field} must be a cursor as a page gave it`, field, 'malformed')
}

/** What is wrong is said without what was given: it is a secret. */
function readSecrets(given: CursorSecret | readonly CursorSecret[]): readonly Uint8Array[] {
  const secrets: readonly unknown[] = Array.isArray(given) ? given : [given]
  if (secrets.length === 0) throw new OptionError('secret', 'secret must be a secret or an array of at least one')
  return secrets.map((secret) => {
    if (typeof secret !== 'string' && !(secret instanceof Uint8Array)) {
      throw new OptionError('secret', `secret must be a string or a Uint8Array, got a ${typeof secret}`)
    }
    // A copy: `slice` of a Buffer is none.
    const bytes = typeof secret === 'string' ? Buffer.from(secret) : new Uint8Array(secret)
    if (bytes.length < minSecretBytes) {
      throw new OptionError('secret', `secret must have at least ${minSecretBytes} bytes, got ${bytes.length}`)
    }
    return bytes
  })
}
