import { LinkedList, type ListNode } from '../internal/linked-list.js'

/** How many renewals that were given up are remembered. */
const lostCapacity = 10_000

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

/**
 * What didn't reach the store, the newest first. When it is full the oldest delete is given up, and only where there is none the oldest
 * renewal: a delete stands for one key, a renewal for all that bear a tag. What bears a mark whose renewal was given up isn't valid
 * again for that: it is remembered, and made up for as soon as there is room.
 */
export class ReplayQueue {
  /** How much reached the store after all. */
  replayed = 0
  /** How much was given up for want of room. */
  dropped = 0
  readonly #capacity: number
  readonly #orders: Record<ReplayKind, LinkedList<QueuedEntry>> = { key: new LinkedList(), mark: new LinkedList() }
  readonly #entries: Record<ReplayKind, Map<string, QueuedEntry>> = { key: new Map(), mark: new Map() }
  /** The tickets of renewals that were given up. */
  readonly #lost = new Map<string, number>()
  #tickets = 0

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get size(): number {
    return this.#entries.key.size + this.#entries.mark.size
  }

  /** Whether it waits, or was given up and is still remembered. */
  has(kind: ReplayKind, name: string): boolean {
    return this.#entries[kind].has(name) || (kind === 'mark' && this.#lost.has(name))
  }

  /** Puts an entry first, whether it was there or not. */
  add(kind: ReplayKind, name: string): void {
    this.#remove(this.#entries[kind].get(name))
    if (kind === 'mark') this.#lost.delete(name)
    const entry: QueuedEntry = { kind, name, node: undefined as never, ticket: ++this.#tickets }
    entry.node = this.#orders[kind].push(entry)
    this.#entries[kind].set(name, entry)
    if (this.size > this.#capacity) this.#drop(this.#orders.key.first ?? this.#orders.mark.first)
  }

  /** What an attempt takes along when it begins, to settle the entry with, if there is one. */
  ticket(kind: ReplayKind, name: string): number | undefined {
    return this.#entries[kind].get(name)?.ticket ?? (kind === 'mark' ? this.#lost.get(name) : undefined)
  }

  /** Takes an entry out, unless it was added since the attempt began. */
  settle(kind: ReplayKind, name: string, ticket: number | undefined): void {
    if (ticket === undefined || this.ticket(kind, name) !== ticket) return
    this.#remove(this.#entries[kind].get(name))
    if (kind === 'mark') this.#lost.delete(name)
    const [lost] = this.size < this.#capacity ? this.#lost.keys() : []
    if (lost !== undefined) this.add('mark', lost)
  }

  /** The newest entries that suit, up to a number. */
  newest(limit: number, suits: (entry: ReplayEntry) => boolean): readonly ReplayEntry[] {
    const found: ReplayEntry[] = []
    let key = this.#orders.key.last?.node
    let mark = this.#orders.mark.last?.node
    while (found.length < limit) {
      const isKey = key !== undefined && (mark === undefined || key.value.ticket > mark.value.ticket)
      const node = isKey ? key : mark
      if (node === undefined) break
      if (suits(node.value)) found.push(node.value)
      if (isKey) key = node.prev
      else mark = node.prev
    }
    return found
  }

  #drop(entry: QueuedEntry | undefined): void {
    if (entry === undefined) return
    this.#remove(entry)
    this.dropped++
    if (entry.kind === 'key') return
    this.#lost.set(entry.name, entry.ticket)
    const [oldest] = this.#lost.size > lostCapacity ? this.#lost.keys() : []
    if (oldest !== undefined) this.#lost.delete(oldest)
  }

  #remove(entry: QueuedEntry | undefined): void {
    if (entry === undefined) return
    this.#orders[entry.kind].remove(entry.node)
    this.#entries[entry.kind].delete(entry.name)
  }
}
