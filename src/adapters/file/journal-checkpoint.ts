import { rename } from 'node:fs/promises'
import type { AcceptedUsage } from '../../core/ports.js'
import { usageToJson } from '../../internal/usage-json.js'
import type { DeadLetter } from './dead-letter-file.js'
import { type JournalDirectory, removeIfThere } from './journal-directory.js'
import { MovedEntry } from './journal-entry.js'
import type { JournalLogStart } from './journal-log.js'
import { formatVersion, type SegmentHeader } from './journal-record.js'
import { type Recovered, segmentName } from './journal-recovery.js'
import { JournalState, type Segment } from './journal-state.js'
import { maxGroupChars, SegmentWriter } from './segment-writer.js'

/** Dead letters that are to be sent again. */
export interface Requeued {
  /** The files in which they are. */
  readonly files: readonly string[]
  readonly letters: readonly DeadLetter[]
}

/** All that counts, written into one new segment that isn't one yet. */
export interface Checkpoint {
  /** Where the log goes on behind it. */
  readonly start: JournalLogStart
  /** Makes it a segment, at once and whole, that says that those before it count no more. */
  put(): Promise<void>
}

/** Writes all that counts into one new segment, and with it what is to be sent again. When that fails, nothing has changed. */
export async function draftCheckpoint(
  directory: JournalDirectory,
  recovered: Recovered,
  requeued: Requeued,
  { sync, random }: { readonly sync: boolean; readonly random: () => number },
): Promise<Checkpoint> {
  const number = recovered.nextSegment
  const path = directory.file(segmentName(number))
  const draft = `${path}.tmp`
  const { entries, nextPosition } = entriesOf(recovered, requeued.letters)
  const header = {
    format: formatVersion,
    segment: number,
    salt: Math.floor(random() * 2 ** 32),
    position: nextPosition,
    checkpoint: true,
    requeued: requeued.files,
  }
  const segment: Segment = { number, path, bytes: 0, pins: 0, pinnedBytes: 0 }
  try {
    segment.bytes = await writeSegment(directory, draft, header, groupsOf(entries), sync)
  } catch (error) {
    await removeIfThere(draft).catch(() => undefined)
    throw error
  }
  const state = new JournalState()
  for (const entry of entries) entry.apply(state, segment)
  return {
    start: { state, segments: [segment], nextPosition, nextSegment: number + 1 },
    put: async () => {
      await rename(draft, path)
      await directory.sync()
    },
  }
}

/** Answers how long it is. */
async function writeSegment(
  directory: JournalDirectory,
  path: string,
  header: SegmentHeader,
  groups: readonly (readonly MovedEntry[])[],
  sync: boolean,
): Promise<number> {
  const writer = await SegmentWriter.create(directory, path, header, groups[0] ?? [], sync)
  try {
    for (const group of groups.slice(1)) await writer.append(group)
    await writer.seal()
  } finally {
    await writer.close()
  }
  return writer.segment.bytes
}

function entriesOf(
  { state, texts, nextPosition: firstFree }: Recovered,
  letters: readonly DeadLetter[],
): { readonly entries: MovedEntry[]; readonly nextPosition: number } {
  const entries: MovedEntry[] = []
  for (const position of state.events.keys()) entries.push(MovedEntry.event(position, texts.get(position) as string))
  const batches = new Map<string, number[]>()
  for (const { id, positions } of state.batches.values()) batches.set(id, [...positions])
  let nextPosition = firstFree
  for (const { batchId, events, refused } of letters) {
    // What is in the journal comes back anyway, and will be given up again if it must.
    const kept = batches.get(batchId)
    const positions = missing(events, kept?.map((position) => texts.get(position) as string) ?? []).map((json) => {
      texts.set(nextPosition, json)
      entries.push(MovedEntry.event(nextPosition, json))
      return nextPosition++
    })
    if (refused) continue
    if (kept !== undefined) kept.push(...positions)
    else batches.set(batchId, positions)
  }
  for (const [id, positions] of batches) entries.push(MovedEntry.batch(id, positions))
  return { entries, nextPosition }
}

/** The events, as text, that aren't among others. Of equal ones, as many as there are more. */
export function missing(events: readonly AcceptedUsage[], others: readonly string[]): string[] {
  const counts = new Map<string, number>()
  for (const text of others) counts.set(text, (counts.get(text) ?? 0) + 1)
  return events.map(usageToJson).filter((text) => {
    const count = counts.get(text) ?? 0
    counts.set(text, count - 1)
    return count <= 0
  })
}

function groupsOf(entries: readonly MovedEntry[]): MovedEntry[][] {
  const groups: MovedEntry[][] = []
  let chars = Number.POSITIVE_INFINITY
  for (const entry of entries) {
    if (chars >= maxGroupChars) {
      groups.push([])
      chars = 0
    }
    groups.at(-1)?.push(entry)
    chars += entry.payload.length
  }
  return groups
}
