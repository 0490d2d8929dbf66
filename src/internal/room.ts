import { onAbort } from './abort.js'
import { type Deferred, deferred, handled, rejected } from './deferred.js'
import { LinkedList } from './linked-list.js'

/** Somebody who waits for room. */
export interface RoomWaiter {
  /** Takes room for one; returns whether it wants no more. */
  take(): boolean
  /** There will be no room any more. */
  refuse(error: unknown): void
  /** Once it aborts, the waiter wants no room any more, though its listener may not have been called yet. */
  readonly signal: AbortSignal | undefined
}

/** A waiter's place in the line. */
interface Place {
  readonly waiter: RoomWaiter
  waiting: boolean
}

/** Those who wait for room, first come, first served. */
export class Room {
  readonly #line = new LinkedList<Place>()
  readonly #free: () => number
  readonly #defer: (callback: () => void) => void
  /** Room that was promised to a `ready` and not taken yet; it is kept for the rest of the turn. */
  promised = 0
  #admitting = false

  /** @param free - how much room there is now. */
  constructor(free: () => number, defer: (callback: () => void) => void) {
    this.#free = free
    this.#defer = defer
  }

  /** Whether a newcomer can have room without overtaking anybody. */
  get open(): boolean {
    return this.#line.empty && this.#free() > this.promised
  }

  /** Waits in line; returns the function that leaves the line. */
  join(waiter: RoomWaiter): () => void {
    const place: Place = { waiter, waiting: true }
    const node = this.#line.push(place)
    return () => {
      if (!place.waiting) return
      place.waiting = false
      this.#line.remove(node)
      this.admit()
    }
  }

  /** Resolves once there is room for one. */
  ready(signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) return rejected(signal.reason)
    if (this.open) {
      this.#promise()
      return Promise.resolve()
    }
    const wait: Deferred<void> = deferred()
    let stopListening: (() => void) | undefined
    const leave = this.join({
      signal,
      take: () => {
        stopListening?.()
        this.#promise()
        wait.resolve()
        return true
      },
      refuse: (error) => {
        stopListening?.()
        wait.reject(error)
      },
    })
    if (signal !== undefined) {
      stopListening = onAbort(signal, () => {
        leave()
        wait.reject(signal.reason)
      })
    }
    return handled(wait.promise)
  }

  /** Lets in whom there is room for. */
  admit(): void {
    if (this.#line.empty || this.#admitting) return
    this.#admitting = true
    for (let head = this.#line.first; head !== undefined && this.#free() > this.promised; head = this.#line.first) {
      // One whose signal has aborted is about to be told so by its own listener.
      const wantsNoMore = head.waiter.signal?.aborted || head.waiter.take()
      // It may have left the line while it took room; then the next one is already the first.
      if (wantsNoMore && head.waiting) this.#shift()
    }
    this.#admitting = false
  }

  /** Somebody took room who may have been promised it. */
  taken(): void {
    this.promised--
  }

  /** Turns everybody away. */
  refuseAll(error: () => unknown): void {
    while (!this.#line.empty) this.#shift()?.waiter.refuse(error())
  }

  #shift(): Place | undefined {
    const head = this.#line.shift()
    if (head !== undefined) head.waiting = false
    return head
  }

  #promise(): void {
    if (this.promised++ > 0) return
    // Who was woken adds within this turn; room that is left over then goes to the next in line.
    this.#defer(() => {
      this.promised = 0
      this.admit()
    })
  }
}
