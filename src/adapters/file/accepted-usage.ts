import { InvalidEventError } from '../../core/errors.js'
import type { AcceptedUsage } from '../../core/ports.js'
import { problemOfUsage } from '../../internal/usage.js'
import { usageToJson } from '../../internal/usage-json.js'

/** How long an event's text may be; all but its metadata is a few kilobytes at the most. */
const maxEventChars = 1024 * 1024

/**
 * An event as the text of its record.
 *
 * @throws InvalidEventError when it is wrong, too long, or JSON can't carry it.
 */
export function acceptedText(event: AcceptedUsage): string {
  const json = usageToJson(checkAccepted(event))
  if (json.length <= maxEventChars) return json
  throw new InvalidEventError(
    'metadata',
    `metadata makes an event of ${json.length} characters, at most ${maxEventChars}`,
  )
}

/** Checks an event: what was written wrong couldn't be read again, and dead letters are edited by hand. */
export function checkAccepted(event: AcceptedUsage): AcceptedUsage {
  const problem = problemOfUsage(event)
  if (problem !== undefined) throw problem
  for (const [field, type] of [
    ['timestamp', 'number'],
    ['period', 'string'],
  ] as const) {
    if (typeof event[field] !== type) throw new InvalidEventError(field, `${field} must be a ${type} once accepted`)
  }
  return event
}
