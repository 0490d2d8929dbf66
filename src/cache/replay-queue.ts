import { LinkedList, type ListNode } from '../internal/linked-list.js'

/** What is made up for: the delete of a key, or the renewal of a mark. */
export type ReplayKind = 'key' | 'mark'

/** A delete or a renewal that didn't reach the store. */
export interface ReplayEntry {
  readonly kind: ReplayKind
  readonly name: string
}

interface QueuedEntry extends ReplayEntry {
  node: ListNode<QueuedEntry>
  /** Changes each time it is added, so that an attempt that began before doesn't settle it. */
  ticket: number
}

/** What didn't reach the store, the newest first. When it is full the oldest is given up. */
export class ReplayQueue {
  /** How much reached the store after all. */
  replayed = 0
  /** How much was given up for want of room. */
  dropped = 0
  readonly #capacity: number
  readonly #order = new LinkedList<QueuedEntry>()
  readonly #entries: Record<ReplayKind, Map<string, QueuedEntry>> = { key: new Map(), mark: new Map() }
  #tickets = 0

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get size(): number {
    return this.#entries.key.size + this.#entries.mark.size
  }

  has(kind: ReplayKind, name: string): boolean {
    return this.#entries[kind].has(name)
  }

  /** Puts an entry first, whether it was there or not. */
  add(kind: ReplayKind, name: string): void {
    this.#remove(this.#entries[kind].get(name))
    const entry: QueuedEntry = { kind, name, node: undefined as never, ticket: ++this.#tickets }
    entry.node = this.#order.push(entry)
    this.#entries[kind].set(name, entry)
    if (this.size <= this.#capacity) return
    this.#remove(this.#order.first)
    this.dropped++
  }

  /** What an attempt takes along when it begins, to settle the entry with, if there is one. */
  ticket(kind: ReplayKind, name: string): number | undefined {
    return this.#entries[kind].get(name)?.ticket
  }

  /** Takes an entry out, unless it was added since the attempt began. */
  settle(kind: ReplayKind, name: string, ticket: number | undefined): void {
    const entry = this.#entries[kind].get(name)
    if (entry !== undefined && entry.ticket === ticket) this.#remove(entry)
  }

  /** The newest entries that suit, up to a number. */
  newest(limit: number, suits: (entry: ReplayEntry) => boolean): readonly ReplayEntry[] {
    const found: ReplayEntry[] = []
    for (let node = this.#order.last?.node; node !== undefined && found.length < limit; node = node.prev) {
      if (suits(node.value)) found.push(node.value)
    }
    return found
  }

  #remove(entry: QueuedEntry | undefined): void {
    if (entry === undefined) return
    this.#order.remove(entry.node)
    this.#entries[entry.kind].delete(entry.name)
  }
}
