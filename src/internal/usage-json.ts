import { InvalidEventError } from '../core/errors.js'
import { describeError } from '../core/events.js'
import type { AcceptedUsage, UserId } from '../core/ports.js'
import { frozenUsage } from './usage.js'

/** A user's id as JSON has it: JSON has no bigint, so one becomes an object with its text. */
type UserIdJson = string | number | { readonly bigint: string }

/**
 * An event as JSON text, from which `usageFromJson` makes an equal one: but for `metadata`, which comes back as JSON has it.
 *
 * @throws InvalidEventError when JSON can't carry the `metadata`.
 */
export function usageToJson(event: AcceptedUsage): string {
  const { userId, quotaType, value, timestamp, period, requestId, id, metadata } = event
  const user: UserIdJson = typeof userId === 'bigint' ? { bigint: String(userId) } : userId
  const text = JSON.stringify({ userId: user, quotaType, value, timestamp, period, requestId, id })
  return metadata === undefined ? text : `${text.slice(0, -1)},"metadata":${metadataToJson(metadata)}}`
}

function metadataToJson(metadata: Readonly<Record<string, unknown>>): string {
  let text: string | undefined
  try {
    text = JSON.stringify(metadata)
  } catch (error) {
    const [why] = describeError(error).split('\n')
    throw new InvalidEventError('metadata', `metadata must be what JSON can carry: ${why}`, { cause: error })
  }
  // A `toJSON` of its own may have made something else of it, or nothing at all.
  if (text?.startsWith('{') || text?.startsWith('[')) return text
  throw new InvalidEventError('metadata', `metadata must be an object as JSON too, got ${text}`)
}

/** The event of what `JSON.parse` made of `usageToJson`'s text. */
export function usageFromJson(json: unknown): AcceptedUsage {
  const { userId, quotaType, value, timestamp, period, requestId, id, metadata } = json as AcceptedUsage
  const user = userIdFromJson(userId as UserIdJson)
  return frozenUsage({ userId: user, quotaType, value, timestamp, period, requestId, metadata, id })
}

function userIdFromJson(userId: UserIdJson): UserId {
  return typeof userId === 'object' && userId !== null ? BigInt(userId.bigint) : userId
}
