/** A segment, and what of it still counts. */
export interface Segment {
  readonly number: number
  readonly path: string
  /** How long it is, as far as it counts. */
  bytes: number
  /** How many unsettled events and batches have their record in it. */
  pins: number
  /** How many bytes those records have. */
  pinnedBytes: number
}

/** A record that counts. */
interface Place {
  segment: Segment
  bytes: number
}

/** An event that isn't settled. */
export interface KeptEvent extends Place {
  batch: KeptBatch | undefined
}

/** A batch that isn't settled. */
export interface KeptBatch extends Place {
  readonly id: string
  /** In the order in which they were assigned. */
  readonly positions: Set<number>
}

/**
 * What the records of a journal add up to. The same steps are taken while it is written and when it is read again, so that both come
 * to the same.
 */
export class JournalState {
  /** All that isn't settled. */
  readonly events: Map<number, KeptEvent> = new Map()
  /** The batches of those, none of them empty. */
  readonly batches: Map<string, KeptBatch> = new Map()

  /** An event was written, or written again, which changes nothing about its batch. */
  add(position: number, segment: Segment, bytes: number): void {
    const event = this.events.get(position)
    if (event === undefined) {
      this.events.set(position, pin({ segment, bytes, batch: undefined }))
    } else move(event, segment, bytes)
  }

  /** Events were put into a batch, each taken out of the one in which it was. Those that are settled already stay so. */
  assign(batchId: string, positions: Iterable<number>, segment: Segment, bytes: number): void {
    let batch = this.batches.get(batchId)
    for (const position of positions) {
      const event = this.events.get(position)
      if (event === undefined) continue
      batch ??= this.#begin(batchId, segment, bytes)
      const before = event.batch
      before?.positions.delete(position)
      event.batch = batch
      batch.positions.add(position)
      if (before?.positions.size === 0) this.#forget(before)
    }
    if (batch !== undefined) move(batch, segment, bytes)
  }

  /** A batch was settled: it and its events count no more. Answers how many those are. */
  settle(batchId: string): number {
    const batch = this.batches.get(batchId)
    if (batch === undefined) return 0
    for (const position of batch.positions) {
      unpin(this.events.get(position) as KeptEvent)
      this.events.delete(position)
    }
    this.#forget(batch)
    return batch.positions.size
  }

  #begin(id: string, segment: Segment, bytes: number): KeptBatch {
    const batch = pin<KeptBatch>({ id, positions: new Set(), segment, bytes })
    this.batches.set(id, batch)
    return batch
  }

  #forget(batch: KeptBatch): void {
    unpin(batch)
    this.batches.delete(batch.id)
  }
}

function pin<P extends Place>(place: P): P {
  place.segment.pins++
  place.segment.pinnedBytes += place.bytes
  return place
}

function unpin(place: Place): void {
  place.segment.pins--
  place.segment.pinnedBytes -= place.bytes
}

function move(place: Place, segment: Segment, bytes: number): void {
  unpin(place)
  place.segment = segment
  place.bytes = bytes
  pin(place)
}
