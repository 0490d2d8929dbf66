import type { AcceptedUsage } from '../../core/ports.js'
import { type Batch, type Entry, noCohort } from '../../internal/batch.js'
import type { Cohort } from '../../internal/batch-books.js'
import { type Deferred, handled, openPromise } from '../../internal/deferred.js'
import type { ListNode } from '../../internal/linked-list.js'
import { usageToJson } from '../../internal/usage-json.js'
import { withId } from './usage-stream-entry.js'

/** How many bytes an id adds: a UUID, a number and its field's name. */
const idBytes = 54

/** One `publish`: the event, and the promise that waits until Redis has it. */
export class Publication implements Entry, Deferred<void> {
  declare readonly promise: Promise<void>
  declare readonly resolve: () => void
  declare readonly reject: (reason: unknown) => void
  readonly event: AcceptedUsage
  readonly shard: number
  readonly bytes: number
  readonly units = 1
  readonly earlier = undefined
  readonly key = undefined
  cohort: Cohort = noCohort
  batch: Batch<Entry> | undefined = undefined
  done = false
  place: ListNode<Entry> | undefined = undefined
  stopListening: (() => void) | undefined = undefined
  /** Made at once, so that what JSON can't carry is the publisher's error. */
  readonly #json: string

  /** @throws InvalidEventError when JSON can't carry the event's `metadata`. */
  constructor(event: AcceptedUsage, shard: number) {
    this.event = event
    this.shard = shard
    this.#json = usageToJson(event)
    this.bytes = Buffer.byteLength(this.#json) + idBytes
    openPromise(this)
    handled(this.promise)
  }

  /** The text of its entry. */
  textIn(batchId: string, index: number): string {
    return withId(this.#json, this.event, `${batchId}/${index}`)
  }

  succeed(): void {
    this.stopListening?.()
    this.resolve()
  }

  fail(error: unknown): void {
    this.stopListening?.()
    this.reject(error)
  }
}
