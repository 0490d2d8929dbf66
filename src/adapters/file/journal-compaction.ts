import { readFile } from 'node:fs/promises'
import { MovedEntry } from './journal-entry.js'
import { readHeader, readPosition, recordAt } from './journal-record.js'
import type { JournalState, KeptBatch, Segment } from './journal-state.js'

/** How many bytes are looked through in one turn of the event loop. */
const bytesATurn = 256 * 1024

/**
 * Writes what still counts of a segment again, at the end of the log, so that the segment can go. Events of a batch move together
 * and the batch is said again behind them: read in whatever part, the log never says that they are in none.
 */
export class Compaction {
  readonly segment: Segment
  /** How many records it moved. */
  moved = 0
  /** Set while the segment is read. */
  reading: Promise<void> | undefined
  /** The events that counted when the segment was read, with their texts; those that were not looked at since. */
  readonly #texts = new Map<number, string>()
  /** Batches that the present group says again. */
  readonly #taken = new Set<KeptBatch>()
  #stage: 'reading' | 'moving' | 'finished' = 'reading'

  constructor(segment: Segment) {
    this.segment = segment
  }

  /** Whether there may be something to move. */
  get ready(): boolean {
    return this.#stage === 'moving'
  }

  /** Whether everything was handed out. */
  get finished(): boolean {
    return this.#stage === 'finished'
  }

  /** Reads the segment. */
  read(state: JournalState): Promise<void> {
    this.reading = this.#read(state)
    return this.reading
  }

  /** Moves nothing more. */
  stop(): void {
    this.#stage = 'finished'
  }

  /** The next records to write, some more than so many characters at the most. None are left when it gives none. */
  take(state: JournalState, maxChars: number): MovedEntry[] {
    const entries: MovedEntry[] = []
    let chars = 0
    const add = (entry: MovedEntry): void => {
      entries.push(entry)
      chars += entry.payload.length
    }
    for (const [position, json] of this.#texts) {
      if (chars >= maxChars) break
      this.#texts.delete(position)
      const event = state.events.get(position)
      if (event?.segment !== this.segment) continue
      if (event.batch === undefined) add(MovedEntry.event(position, json))
      else this.#takeBatch(state, event.batch, position, json, add)
    }
    if (this.#texts.size === 0) {
      // Of these only the assignment is here; their events are further on.
      for (const batch of state.batches.values()) {
        if (batch.segment === this.segment && !this.#taken.has(batch)) this.#sayAgain(batch, add)
      }
      this.stop()
    }
    this.#taken.clear()
    this.moved += entries.length
    return entries
  }

  #takeBatch(
    state: JournalState,
    batch: KeptBatch,
    first: number,
    firstJson: string,
    add: (entry: MovedEntry) => void,
  ): void {
    add(MovedEntry.event(first, firstJson))
    for (const position of batch.positions) {
      const json = this.#texts.get(position)
      this.#texts.delete(position)
      if (json !== undefined && state.events.get(position)?.segment === this.segment) {
        add(MovedEntry.event(position, json))
      }
    }
    this.#sayAgain(batch, add)
  }

  #sayAgain(batch: KeptBatch, add: (entry: MovedEntry) => void): void {
    this.#taken.add(batch)
    add(MovedEntry.batch(batch.id, batch.positions))
  }

  async #read(state: JournalState): Promise<void> {
    const bytes = (await readFile(this.segment.path)).subarray(0, this.segment.bytes)
    const header = readHeader(bytes)
    let at = header?.end ?? 0
    for (let turnEnd = bytesATurn; at < bytes.length; ) {
      const record = header && recordAt(bytes, at, bytes.length, header.header.salt)
      if (record === undefined) throw new Error(`it can't be read at byte ${at}`)
      if (record.kind === 'e') {
        const { position, textFrom } = readPosition(bytes, record)
        if (state.events.get(position)?.segment === this.segment) {
          this.#texts.set(position, bytes.toString('utf8', textFrom, record.end))
        }
      }
      at = record.end
      if (at < turnEnd) continue
      turnEnd = at + bytesATurn
      await new Promise(setImmediate)
      if (this.finished) return
    }
    if (!this.finished) this.#stage = 'moving'
  }
}
