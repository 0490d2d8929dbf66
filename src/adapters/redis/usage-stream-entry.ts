import type { AcceptedUsage } from '../../core/ports.js'
import { maxIdLength, problemOfText, problemOfUsage } from '../../internal/usage.js'
import { usageFromJson, usageToJson } from '../../internal/usage-json.js'

/** The one field of an entry: an event as JSON. */
export const usageField = 'usage'
/** The field that a requeued entry has besides: the id that it had at first. */
export const firstField = 'first'

const periodLabel = /^(?:\d{4}-\d{2}(?:-\d{2})?|total)$/

/**
 * An event as an entry's text. It says the event's own id, or else the one given: made of the id of the batch in which it was
 * published, so that it is the same however often that batch is appended, here or to another stream.
 *
 * @throws InvalidEventError when JSON can't carry its `metadata`.
 */
export function entryText(event: AcceptedUsage, id: string): string {
  return withId(usageToJson(event), event, id)
}

/** The text of `usageToJson`, with an id where the event has none. */
export function withId(json: string, event: AcceptedUsage, id: string): string {
  return event.id === undefined ? `${json.slice(0, -1)},"id":${JSON.stringify(id)}}` : json
}

/**
 * The event of an entry.
 *
 * @param entryId - the entry's id in its stream.
 * @param nameOf - what tells the event of such an entry from others if it says no id of its own.
 * @throws Error when there is none; its message says why.
 */
export function readEntry(
  fields: readonly string[],
  entryId: string,
  nameOf: (entryId: string) => string,
): AcceptedUsage {
  const event = eventOf(textOf(fields))
  const { timestamp, period, id = nameOf(fieldOf(fields, firstField) ?? entryId) } = event
  const problem =
    problemOfUsage(event) ??
    (typeof timestamp === 'number' ? undefined : new Error('it has no timestamp')) ??
    (periodLabel.test(period) ? undefined : new Error('it has no period')) ??
    problemOfText('id', id)
  if (problem !== undefined) throw problem
  return event.id === undefined ? Object.freeze({ ...event, id }) : event
}

function textOf(fields: readonly string[]): string {
  const text = fieldOf(fields, usageField)
  if (text === undefined) throw new Error(`it has no field "${usageField}"`)
  return text
}

function fieldOf(fields: readonly string[], name: string): string | undefined {
  for (let i = 0; i < fields.length; i += 2) if (fields[i] === name) return fields[i + 1]
  return undefined
}

function eventOf(text: string): AcceptedUsage {
  const json: unknown = JSON.parse(text)
  if (typeof json !== 'object' || json === null) throw new Error(`its field "${usageField}" is no object`)
  return usageFromJson(json)
}

/** How long a batch's id may be, so that its events' ids are no longer than sinks take. */
export const maxBatchIdLength: number = maxIdLength - 56
