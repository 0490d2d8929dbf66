import { rename } from 'node:fs/promises'
import { usageToJson } from '../../internal/usage-json.js'
import type { DeadLetter } from './dead-letter-file.js'
import { type JournalDirectory, removeIfThere } from './journal-directory.js'
import { MovedEntry } from './journal-entry.js'
import type { JournalLogStart } from './journal-log.js'
import { formatVersion } from './journal-record.js'
import { type Recovered, segmentName } from './journal-recovery.js'
import { JournalState, type Segment } from './journal-state.js'
import { SegmentWriter } from './segment-writer.js'

/** Dead letters that are to be sent again. */
export interface Requeued {
  /** The files in which they are. */
  readonly files: readonly string[]
  readonly letters: readonly DeadLetter[]
}

/** How many characters one write of it takes. */
const maxGroupChars = 1024 * 1024

/**
 * Writes all that counts into one new segment, and with it what is to be sent again. The segment appears at once and whole, and says
 * that those before it count no more.
 */
export async function writeCheckpoint(
  directory: JournalDirectory,
  recovered: Recovered,
  requeued: Requeued,
  { sync, random }: { readonly sync: boolean; readonly random: () => number },
): Promise<JournalLogStart> {
  const number = recovered.nextSegment
  const path = directory.file(segmentName(number))
  const segment: Segment = { number, path, bytes: 0, pins: 0, pinnedBytes: 0 }
  const state = new JournalState()
  const { entries, nextPosition } = entriesOf(recovered, requeued.letters)
  const header = {
    format: formatVersion,
    segment: number,
    salt: Math.floor(random() * 2 ** 32),
    position: nextPosition,
    checkpoint: true,
    requeued: requeued.files,
  }
  const draft = `${path}.tmp`
  const groups = groupsOf(entries)
  try {
    const writer = await SegmentWriter.create(directory, draft, header, groups[0] ?? [], sync)
    try {
      for (const group of groups.slice(1)) await writer.append(group)
    } finally {
      await writer.close()
    }
    segment.bytes = writer.segment.bytes
    await rename(draft, path)
  } catch (error) {
    await removeIfThere(draft).catch(() => undefined)
    throw error
  }
  await directory.sync()
  for (const entry of entries) entry.apply(state, segment)
  return { state, segments: [segment], nextPosition, nextSegment: number + 1 }
}

function entriesOf(
  { state, texts, nextPosition: firstFree }: Recovered,
  letters: readonly DeadLetter[],
): { readonly entries: MovedEntry[]; readonly nextPosition: number } {
  const entries: MovedEntry[] = []
  for (const position of state.events.keys()) entries.push(MovedEntry.event(position, texts.get(position) as string))
  for (const { id, positions } of state.batches.values()) entries.push(MovedEntry.batch(id, positions))
  const ids = new Set(state.batches.keys())
  let nextPosition = firstFree
  for (const { batchId, events, partial } of letters) {
    // One that is in the journal comes back anyway, and will be given up again if it must.
    if (ids.has(batchId)) continue
    const positions = events.map((event) => {
      const json = usageToJson(event)
      texts.set(nextPosition, json)
      entries.push(MovedEntry.event(nextPosition, json))
      return nextPosition++
    })
    if (partial) continue
    ids.add(batchId)
    entries.push(MovedEntry.batch(batchId, positions))
  }
  return { entries, nextPosition }
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
