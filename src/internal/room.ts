import { onAbort } from './abort.js'
import { type Deferred, deferred, handled, rejected } from './deferred.js'
import { LinkedList } from './linked-list.js'

/** Somebody who waits for room. */
export interface RoomWaiter {
  /** Takes room for one; returns whether it wants no more. */
  take(): boolean
  /** There will be no room any more. */
  refuse(error: unknown): void
}

/** Those who wait for room, first come, first served. */
export class Room {
  readonly #waiters = new LinkedList<RoomWaiter>()
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
    return this.#waiters.empty && this.#free() > this.promised
  }

  /** Waits in line; returns the function that leaves the line. */
  join(waiter: RoomWaiter): () => void {
    let waiting = true
    const node = this.#waiters.push({
      take: () => {
        if (!waiter.take()) return false
        waiting = false
        return true
      },
      refuse: (error) => {
        waiting = false
        waiter.refuse(error)
      },
    })
    return () => {
      if (!waiting) return
      waiting = false
      this.#waiters.remove(node)
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
    if (this.#waiters.empty || this.#admitting) return
    this.#admitting = true
    for (let head = this.#waiters.first; head !== undefined; head = this.#waiters.first) {
      if (this.#free() <= this.promised) break
      // The head may have left the line while it took room; then the next one is already the first.
      if (head.take() && this.#waiters.first === head) this.#waiters.shift()
    }
    this.#admitting = false
  }

  /** Somebody took room who may have been promised it. */
  taken(): void {
    this.promised--
  }

  /** Turns everybody away. */
  refuseAll(error: () => unknown): void {
    for (let waiter = this.#waiters.shift(); waiter !== undefined; waiter = this.#waiters.shift())
      waiter.refuse(error())
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
