import type { StoreError } from '../../core/errors.js'
import { type Deferred, handled, openPromise } from '../../internal/deferred.js'
import { assignPayload, eventPayload, settlePayload } from './journal-record.js'
import type { JournalState, Segment } from './journal-state.js'

/** A record on its way into the log. */
export abstract class Entry {
  readonly payload: string
  /** How long the record became. */
  bytes = 0

  constructor(payload: string) {
    this.payload = payload
  }

  /** Puts into the state what is durable now. */
  abstract apply(state: JournalState, segment: Segment): void
  /** Tells the caller that it is durable. */
  done(): void {}
  /** Tells the caller that it failed. */
  fail(_error: StoreError): void {}
}

/** A record that somebody waits for. */
abstract class Call<T> extends Entry implements Deferred<T> {
  declare readonly promise: Promise<T>
  declare readonly resolve: (value: T | PromiseLike<T>) => void
  declare readonly reject: (reason: unknown) => void

  constructor(payload: string) {
    super(payload)
    openPromise(this)
  }

  override fail(error: StoreError): void {
    handled(this.promise)
    this.reject(error)
  }
}

/** An event. */
export class AppendEntry extends Call<number> {
  readonly position: number

  constructor(position: number, json: string) {
    super(eventPayload(position, json))
    this.position = position
  }

  override apply(state: JournalState, segment: Segment): void {
    state.add(this.position, segment, this.bytes)
  }

  override done(): void {
    this.resolve(this.position)
  }
}

/** A batch. */
export class AssignEntry extends Call<void> {
  readonly #batchId: string
  readonly #positions: readonly number[]

  constructor(batchId: string, positions: readonly number[]) {
    super(assignPayload(batchId, positions))
    this.#batchId = batchId
    this.#positions = positions
  }

  override apply(state: JournalState, segment: Segment): void {
    state.assign(this.#batchId, this.#positions, segment, this.bytes)
  }

  override done(): void {
    this.resolve()
  }
}

/** The end of a batch. */
export class SettleEntry extends Call<void> {
  readonly batchId: string
  /** How many events it settled, once it is applied. */
  settled = 0

  constructor(batchId: string) {
    super(settlePayload(batchId))
    this.batchId = batchId
  }

  override apply(state: JournalState): void {
    this.settled = state.settle(this.batchId)
  }

  override done(): void {
    this.resolve()
  }
}

/** A record that is written again, so that the segment in which it was can go. */
export class MovedEntry extends Entry {
  readonly #apply: (state: JournalState, segment: Segment, bytes: number) => void

  constructor(payload: string, apply: (state: JournalState, segment: Segment, bytes: number) => void) {
    super(payload)
    this.#apply = apply
  }

  override apply(state: JournalState, segment: Segment): void {
    this.#apply(state, segment, this.bytes)
  }

  /** An event that isn't settled. */
  static event(position: number, json: string): MovedEntry {
    return new MovedEntry(eventPayload(position, json), (state, segment, bytes) => state.add(position, segment, bytes))
  }

  /** A batch as it is now. */
  static batch(id: string, positions: Iterable<number>): MovedEntry {
    const kept = [...positions]
    return new MovedEntry(assignPayload(id, kept), (state, segment, bytes) => state.assign(id, kept, segment, bytes))
  }
}
