import { StoreError } from '../../core/errors.js'
import { describeValue } from '../../core/options.js'
import type { ContextRunner } from '../../internal/async-context.js'
import { handled, rejected } from '../../internal/deferred.js'
import { Compaction } from './journal-compaction.js'
import { fileError, type JournalDirectory } from './journal-directory.js'
import { AppendEntry, AssignEntry, type Entry, MovedEntry, SettleEntry } from './journal-entry.js'
import { formatVersion, maxPayloadBytes } from './journal-record.js'
import { segmentName } from './journal-recovery.js'
import type { JournalState, Segment } from './journal-state.js'
import { maxGroupChars, SegmentWriter } from './segment-writer.js'

/** What a log tells of itself. */
export interface JournalLogFace {
  onCommitted(group: readonly Entry[], bytes: number, durationMs: number): void
  onFailed(error: StoreError): void
  onSegmentRemoved(path: string): void
  onCompacted(path: string, records: number): void
}

/** What a log goes by. */
export interface JournalLogPolicy {
  readonly journal: string
  readonly segmentBytes: number
  readonly sync: boolean
  readonly random: () => number
  readonly context: ContextRunner
  readonly now: () => number
}

/** Where a log goes on. */
export interface JournalLogStart {
  readonly state: JournalState
  readonly segments: Segment[]
  readonly nextPosition: number
  readonly nextSegment: number
}

/** How many characters a compaction adds to a write. */
const maxMovedChars = 128 * 1024
/** How many segments there may be before those that are mostly settled are compacted. */
const freeSegments = 4

/**
 * The log of a journal: records are added at its end, many at a time, and its beginning is removed once it is settled.
 *
 * While one group is on its way to the disk, the next one gathers; a group is one write and one sync. All changes of the state are made
 * when a group is durable, in its order.
 */
export class JournalLog {
  readonly #directory: JournalDirectory
  readonly #policy: JournalLogPolicy
  readonly #face: JournalLogFace
  readonly #state: JournalState
  /** Oldest first. The last one is the writer's, once there is a writer. */
  readonly #segments: Segment[]
  #nextPosition: number
  #nextSegment: number
  #writer: SegmentWriter | undefined
  /** Whether nothing more may be added to the writer's segment: the next one says where it ends. */
  #finished = false
  #queue: Entry[] = []
  /** The latest assignment of each batch whose outcome isn't known. */
  readonly #assigning = new Map<string, AssignEntry>()
  /** Batches whose settlement failed to be written: it is as soon as something can be. */
  #unsettled = new Set<string>()
  #pumping: Promise<void> | undefined
  #compaction: Compaction | undefined
  #compactionFailed = false
  #closed = false

  constructor(directory: JournalDirectory, policy: JournalLogPolicy, start: JournalLogStart, face: JournalLogFace) {
    this.#directory = directory
    this.#policy = policy
    this.#face = face
    this.#state = start.state
    this.#segments = start.segments
    this.#nextPosition = start.nextPosition
    this.#nextSegment = start.nextSegment
  }

  get segments(): number {
    return this.#segments.length
  }

  get bytes(): number {
    return this.#segments.reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** How many events aren't settled. */
  get pending(): number {
    return this.#state.events.size
  }

  append(json: string): Promise<number> {
    const entry = new AppendEntry(this.#nextPosition++, json)
    this.#add(entry)
    return entry.promise
  }

  assign(batchId: string, positions: readonly number[]): Promise<void> {
    const unknown = positions.find((position) => !this.#state.events.has(position))
    if (unknown !== undefined) {
      return this.#refuse(`there is no unsettled event at position ${describeValue(unknown)}`)
    }
    const entry = new AssignEntry(batchId, [...positions])
    if (entry.payload.length > maxPayloadBytes / 4) return this.#refuse(`batch ${batchId} has too many events`)
    this.#assigning.set(batchId, entry)
    this.#add(entry)
    const over = (): void => {
      if (this.#assigning.get(batchId) === entry) this.#assigning.delete(batchId)
    }
    entry.promise.then(over, (error: StoreError) => {
      if (!error.outcomeUnknown) over()
    })
    return entry.promise
  }

  settle(batchId: string): Promise<void> {
    // Records that settle nothing would fill a segment that nothing else ends.
    if (!this.#state.batches.has(batchId) && !this.#assigning.has(batchId)) return Promise.resolve()
    const entry = new SettleEntry(batchId)
    this.#add(entry)
    return entry.promise
  }

  /** Writes what was added before; nothing may be added after. */
  async close(): Promise<void> {
    this.#closed = true
    this.#compaction?.stop()
    await this.#pumping
    await this.#commitUnsettled()
    await this.#compaction?.reading?.catch(() => undefined)
    // A full disk has no room for it, and it isn't needed to read the journal again.
    if (!this.#finished) await this.#writer?.seal().catch(() => undefined)
    await this.#writer?.close()
  }

  #refuse(why: string): Promise<never> {
    return rejected(new StoreError(`${this.#policy.journal}: ${why}`, { retryable: false }))
  }

  #add(entry: Entry): void {
    this.#queue.push(entry)
    this.#start()
  }

  #start(): void {
    this.#pumping ??= this.#policy.context(() => this.#pump())
  }

  async #pump(): Promise<void> {
    do {
      // What this turn of the event loop brings in goes out together.
      await new Promise(setImmediate)
      await this.#commitUnsettled()
      const group = this.#take()
      if (group.length > 0) await this.#commit(group)
      await this.removeSettled()
      this.#compact()
    } while (this.#queue.length > 0 || this.#compaction?.ready)
    this.#pumping = undefined
  }

  async #commitUnsettled(): Promise<void> {
    const group = Array.from(this.#unsettled, (batchId) => new SettleEntry(batchId))
    this.#unsettled.clear()
    if (group.length > 0) await this.#commit(group)
  }

  /** The next group: a part of a compaction first, so that what comes after it has the last word. */
  #take(): readonly Entry[] {
    const group: Entry[] = this.#compaction?.ready ? this.#compaction.take(this.#state, maxMovedChars) : []
    let chars = 0
    let count = 0
    while (count < this.#queue.length && chars < maxGroupChars) {
      chars += (this.#queue[count] as Entry).payload.length
      count++
    }
    if (group.length === 0 && count === this.#queue.length) {
      const whole = this.#queue
      this.#queue = []
      return whole
    }
    return group.concat(this.#queue.splice(0, count))
  }

  /** @param mayBeThere - whether an earlier attempt at the same group may have left it behind. */
  async #commit(group: readonly Entry[], mayBeThere = false): Promise<void> {
    const begunAt = this.#policy.now()
    let segment: Segment
    try {
      segment = await this.#write(group)
    } catch (error) {
      const { message, cause, outcomeUnknown } = error as StoreError
      return this.#fail(
        group,
        new StoreError(message, { cause, outcomeUnknown: mayBeThere || outcomeUnknown === true }),
      )
    }
    let bytes = 0
    for (const entry of group) {
      bytes += entry.bytes
      entry.apply(this.#state, segment)
    }
    this.#face.onCommitted(group, bytes, this.#policy.now() - begunAt)
    for (const entry of group) entry.done()
  }

  /** What is new may be too much for a full disk; the rest needs little, and makes room in the end, so it is tried alone. */
  async #fail(group: readonly Entry[], error: StoreError): Promise<void> {
    this.#face.onFailed(error)
    if (group.some((entry) => entry instanceof MovedEntry)) this.#giveCompactionUp()
    const isSmall = (entry: Entry): boolean => entry instanceof AssignEntry || entry instanceof SettleEntry
    const small = group.filter(isSmall)
    for (const entry of group) {
      if (small.length === group.length || !isSmall(entry)) entry.fail(error)
    }
    if (small.length < group.length) {
      if (small.length > 0) await this.#commit(small, error.outcomeUnknown)
      return
    }
    for (const entry of small) {
      if (entry instanceof SettleEntry) this.#unsettled.add(entry.batchId)
    }
  }

  async #write(group: readonly Entry[]): Promise<Segment> {
    const writer = this.#writer
    if (writer === undefined || this.#finished || this.#isFull(writer, group)) return this.#begin(group)
    try {
      await writer.append(group)
      return writer.segment
    } catch (error) {
      const undone = await this.#undo(writer)
      throw fileError(this.#policy.journal, `writing ${writer.segment.path}`, error, !undone)
    }
  }

  /** Assignments and settlements don't ask for a new segment, for which a full disk may have no room. */
  #isFull({ segment }: SegmentWriter, group: readonly Entry[]): boolean {
    return segment.bytes >= this.#policy.segmentBytes && group.some((entry) => entry instanceof AppendEntry)
  }

  /** Sees to it that what a failed write may have left never counts. Answers whether that is certain. */
  async #undo(writer: SegmentWriter): Promise<boolean> {
    if (writer.cuttable) {
      try {
        await writer.cut()
        return true
      } catch {
        // Then the next segment must say where this one ends.
      }
    }
    this.#finished = true
    try {
      await this.#begin([])
      return true
    } catch {
      return false
    }
  }

  /** Begins a segment with a group. */
  async #begin(group: readonly Entry[]): Promise<Segment> {
    const { journal, sync, random } = this.#policy
    const path = this.#directory.file(segmentName(this.#nextSegment))
    const before = this.#segments.at(-1)
    const header = {
      format: formatVersion,
      segment: this.#nextSegment,
      salt: Math.floor(random() * 2 ** 32),
      position: this.#nextPosition,
      before: before?.bytes,
    }
    let writer: SegmentWriter
    try {
      writer = await SegmentWriter.create(this.#directory, path, header, group, sync)
    } catch (error) {
      const undone = await this.#discard(path)
      throw fileError(journal, `writing ${path}`, error, !undone && group.length > 0)
    }
    await this.#writer?.close().catch(() => undefined)
    this.#writer = writer
    this.#segments.push(writer.segment)
    this.#nextSegment++
    this.#finished = false
    this.#compactionFailed = false
    return writer.segment
  }

  async #discard(path: string): Promise<boolean> {
    try {
      await this.#directory.remove(path)
      return true
    } catch {
      // It may be there, and says where the one before it ends: nothing more may be added to that one.
      this.#finished = true
      return false
    }
  }

  /** Segments go from the oldest on: what a later one says of an earlier one is needed as long as that is there. */
  async removeSettled(): Promise<void> {
    while (this.#segments.length > 1 && this.#segments[0]?.pins === 0) {
      const [{ path }] = this.#segments as [Segment]
      try {
        await this.#directory.remove(path)
      } catch (error) {
        this.#face.onFailed(fileError(this.#policy.journal, `removing ${path}`, error))
        return
      }
      this.#segments.shift()
      this.#face.onSegmentRemoved(path)
    }
  }

  #compact(): void {
    if (this.#closed) return
    const current = this.#compaction
    if (current?.finished) {
      this.#compaction = undefined
      this.#face.onCompacted(current.segment.path, current.moved)
    }
    const [oldest] = this.#segments
    if (this.#compaction !== undefined || this.#compactionFailed || oldest === undefined) return
    if (this.#segments.length <= freeSegments) return
    const pinned = this.#segments.reduce((sum, { pinnedBytes }) => sum + pinnedBytes, 0)
    if (pinned * 2 > this.bytes) return
    const compaction = new Compaction(oldest)
    this.#compaction = compaction
    handled(compaction.read(this.#state)).then(
      () => {
        if (compaction.ready) this.#start()
      },
      (error) => {
        // It went without being compacted.
        if (this.#segments[0] !== oldest) return this.#giveCompactionUp()
        this.#face.onFailed(fileError(this.#policy.journal, `compacting ${oldest.path}`, error))
        this.#giveCompactionUp()
      },
    )
  }

  /** Until another segment is begun: what failed now would fail again. */
  #giveCompactionUp(): void {
    this.#compaction = undefined
    this.#compactionFailed = true
  }
}
