import { hash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Scope } from './permissions.ts'

/** What a user's API key may allow: nothing that is for services. */
export const keyScopes = [
  'counters:read',
  'counters:write',
  'billing:read',
  'billing:write',
] as const satisfies readonly Scope[]

export type KeyScope = (typeof keyScopes)[number]

/** What is known of an API key, without the key. */
export interface ApiKey {
  readonly id: string
  /** The SHA-256 of the whole key, in hexadecimal: 256 bits of chance need no slow hash. */
  readonly sha256: string
  /** Whose it is. */
  readonly userId: string
  /** What it is for, in the words of whoever asked for it. */
  readonly name: string
  readonly scopes: readonly string[]
  /** Requests in a window, in place of what everybody may make. */
  readonly maxRequests?: number | undefined
  /** In milliseconds since the epoch. */
  readonly createdAt: number
  readonly expiresAt?: number | undefined
  readonly revokedAt?: number | undefined
}

/** A prefix by which scanners of leaked secrets know one, an id to look it up by, and 256 bits of chance. */
const format = /^cbk_([\da-f]{16})_[\w-]{43}$/

/** A new key, which nobody has but whoever it is given to. */
export function newKey(): { readonly id: string; readonly key: string; readonly sha256: string } {
  const id = randomBytes(8).toString('hex')
  const key = `cbk_${id}_${randomBytes(32).toString('base64url')}`
  return { id, key, sha256: hash('sha256', key) }
}

/** The id of what may be a key. */
export function idOfKey(key: string): string | undefined {
  return format.exec(key)?.[1]
}

/** Whether it is the key: by its hash, in a time that doesn't tell how much of it is right. */
export function isKey(key: string, { sha256 }: ApiKey): boolean {
  return timingSafeEqual(Buffer.from(hash('sha256', key), 'hex'), Buffer.from(sha256, 'hex'))
}
