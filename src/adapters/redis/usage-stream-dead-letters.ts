import { checkCount, checkOptions, failOption, valueOr } from '../../core/options.js'
import type { AcceptedUsage } from '../../core/ports.js'
import { readEntry } from './usage-stream-entry.js'
import { readDead, takeDead } from './usage-stream-scripts.js'
import type { UsageShards } from './usage-stream-shards.js'

/** An event that a worker gave up, as it is kept in Redis. */
export interface UsageDeadLetter {
  /** What `requeue` and `discard` know it by. */
  readonly id: string
  /** When it was given up, in milliseconds since the epoch, by the clock of Redis. */
  readonly at: number
  /** The event; undefined where the entry couldn't be read. */
  readonly event: AcceptedUsage | undefined
  /** Why it was given up. */
  readonly reason: string
  /** The group whose worker gave it up. */
  readonly group: string
  /** How often it was delivered. */
  readonly deliveries: number
  /** The id that its entry had in the stream. */
  readonly entryId: string
  /** The entry as it was: names and values in turn. */
  readonly fields: readonly string[]
}

/** Which dead letters to read. */
export interface DeadLettersOptions {
  /** How many at the most. The default is 100. */
  limit?: number | undefined
  /** Those that come after this one, by its `id`. The default is from the start. */
  after?: string | undefined
}

/** How many names and values of ours a dead letter begins with; the entry's own follow. */
const ownFields = 8
const usualLimit = 100
/** How many are taken in one call, so that no call holds up the server. */
const mostTaken = 500
const validId = /^(\d{1,4}):(\d{1,20}-\d{1,20})$/

/** Reads dead letters, shard by shard, oldest first in each. */
export async function readDeadLetters(
  shards: UsageShards,
  options: DeadLettersOptions | undefined,
): Promise<readonly UsageDeadLetter[]> {
  checkOptions('options', options)
  const limit = checkCount('limit', valueOr(options?.limit, usualLimit))
  let [shard, after] = options?.after === undefined ? [0, '0-0'] : placeOf(options.after, shards, 'after')
  const letters: UsageDeadLetter[] = []
  for (; shard < shards.count && letters.length < limit; shard++, after = '0-0') {
    const args = [after, String(limit - letters.length)]
    const call = { operation: 'deadLetters', writes: false, timed: true }
    const found = (await shards.run(readDead, [shards.dead(shard)], args, call)) as [string, string[]][]
    for (const [id, fields] of found) letters.push(letterOf(shards, shard, id, fields))
  }
  return letters
}

/** Takes dead letters out, and appends them to the stream again where that is asked for. */
export async function takeDeadLetters(shards: UsageShards, ids: readonly string[], requeue: boolean): Promise<number> {
  if (!Array.isArray(ids)) failOption('ids', 'must be an array', ids)
  const parts = new Map<number, string[]>()
  for (const id of ids) {
    const [shard, entry] = placeOf(id, shards, 'ids')
    const part = parts.get(shard)
    if (part === undefined) parts.set(shard, [entry])
    else part.push(entry)
  }
  let taken = 0
  for (const [shard, entries] of parts) {
    const keys = [shards.dead(shard), shards.stream(shard)]
    const call = { operation: requeue ? 'requeue' : 'discard', writes: true, timed: true }
    for (let i = 0; i < entries.length; i += mostTaken) {
      const args = [requeue ? '1' : '0', ...entries.slice(i, i + mostTaken)]
      taken += Number(await shards.run(takeDead, keys, args, call))
    }
  }
  return taken
}

function letterOf(shards: UsageShards, shard: number, id: string, all: readonly string[]): UsageDeadLetter {
  const own = new Map<string, string>()
  for (let i = 0; i < ownFields; i += 2) own.set(all[i] as string, all[i + 1] as string)
  const entryId = own.get('entry') ?? ''
  const fields = all.slice(ownFields)
  return {
    id: `${shard}:${id}`,
    at: Number(id.split('-')[0]),
    event: eventOf(fields, entryId, (first) => shards.entryName(shard, first)),
    reason: own.get('reason') ?? '',
    group: own.get('group') ?? '',
    deliveries: Number(own.get('deliveries') ?? 0),
    entryId,
    fields,
  }
}

function eventOf(
  fields: readonly string[],
  entryId: string,
  nameOf: (entryId: string) => string,
): AcceptedUsage | undefined {
  try {
    return readEntry(fields, entryId, nameOf)
  } catch {
    return undefined
  }
}

function placeOf(id: string, shards: UsageShards, field: string): [shard: number, entry: string] {
  const [, shard, entry] = (typeof id === 'string' && validId.exec(id)) || []
  if (entry === undefined || Number(shard) >= shards.count) {
    failOption(field, 'must be the id of a dead letter', id)
  }
  return [Number(shard), entry]
}
