import type { Cohort, Epoch } from './batch-books.js'
import { LinkedList, type ListNode } from './linked-list.js'

/** How many withdrawn entries a batch keeps before it closes the gaps. */
const gapsAllowed = 32

/**
 * One thing that the engine holds. Faces implement it in one flat class whose constructor assigns every field: an entry's
 * size and the way it is built are most of what accepting it costs (a base class with field initialisers took 20 ns more,
 * out of 80). What the smallest face never uses can be an accessor of its prototype.
 */
export interface Entry {
  /** When it was accepted; set by the engine. */
  cohort: Cohort
  /** Where it is, queued or in flight; undefined while its key is held back. */
  batch: Batch<Entry> | undefined
  /** Settled, dropped or aborted: whatever comes later for it is ignored. */
  done: boolean
  /** How many offers it stands for; more than one when offers were merged. */
  readonly units: number
  /** Of `units`, those that were accepted before a flush that came before the cohort's epoch. */
  readonly earlier: readonly EarlierUnits[] | undefined
  /** What it adds to `maxBatchBytes`. */
  readonly bytes: number
  /** Equal keys within a batch are one item; undefined is no key. */
  readonly key: unknown
  /** Its place in the line of those that haven't left; only kept where the oldest is dropped. */
  place: ListNode<Entry> | undefined
}

/** The cohort of an entry that wasn't accepted yet. */
export const noCohort: Cohort = undefined as never

/** An entry that takes in further offers until it leaves. */
export interface MergingEntry extends Entry {
  units: number
  earlier: EarlierUnits[] | undefined
}

/** An entry that takes in further offers of its own turn, and grows with each. */
export interface GrowingEntry extends MergingEntry {
  bytes: number
}

/** How many of an entry's units belong to an epoch that a flush has ended. */
export interface EarlierUnits {
  readonly epoch: Epoch
  readonly units: number
}

/** Batches of one group: only the last may have room, all before it are full and due. */
export class Group<E extends Entry> {
  readonly key: unknown
  readonly batches: LinkedList<Batch<E>> = new LinkedList()
  /** Batches of this group that hold a slot. */
  running = 0
  /** Its place among the groups that have a due batch. */
  ready: ListNode<Group<E>> | undefined

  constructor(key: unknown) {
    this.key = key
  }
}

/** What a batch needs to know of the run that it became: that one of its entries' callers has gone. */
export interface Forsakable {
  forsake(reason: unknown): void
}

/** Equal keys of a batch: one item. */
interface SharedItem {
  /** How many entries that weren't withdrawn bear the key. */
  entries: number
  /** The size of the largest of all that joined, so that no batch passes the limit whichever of them is sent in the end. */
  bytes: number
}

/** Entries that leave together. */
export class Batch<E extends Entry> {
  readonly group: Group<E>
  /** The entries in their order, withdrawn ones among them; what is beyond `#length` isn't there yet. */
  #entries: E[]
  #length = 0
  /** How many of those before `#length` are withdrawn. */
  #gone = 0
  bytes = 0
  /** Ready to leave, waiting for a slot at most. It still takes entries while it has room. */
  due = false
  /** When its first entry was accepted. */
  readonly openedAt: number
  /** The item of each key; only where keys are used. */
  readonly #shared: Map<unknown, SharedItem> | undefined
  /** Set once it has left. */
  run: Forsakable | undefined
  /** Where its items came from, as a tracer tells it. */
  origins: unknown[] | undefined
  /** Its place among the batches of its group. */
  inGroup: ListNode<Batch<E>> | undefined
  /** Its place among the batches that wait to become due. */
  waiting: ListNode<Batch<E>> | undefined

  /** @param sizeHint - how large it will probably get: growing an array bit by bit costs more than filling it. */
  constructor(group: Group<E>, openedAt: number, keyed: boolean, sizeHint: number) {
    this.group = group
    this.#entries = new Array(sizeHint)
    this.openedAt = openedAt
    this.#shared = keyed ? new Map() : undefined
  }

  /** How many entries there are that weren't withdrawn. */
  get live(): number {
    return this.#length - this.#gone
  }

  /** What counts towards `maxBatchSize`: equal keys once. */
  get size(): number {
    return this.#shared === undefined ? this.#length - this.#gone : this.#shared.size
  }

  /** Whether an entry can join without passing a limit. */
  fits(entry: E, maxSize: number, maxBytes: number): boolean {
    const shared = this.#shared?.get(entry.key)
    if (shared !== undefined) return this.bytes + Math.max(0, entry.bytes - shared.bytes) <= maxBytes
    return this.size < maxSize && this.bytes + entry.bytes <= maxBytes
  }

  /** Takes in an entry without a key or a size. */
  append(entry: E): void {
    this.#entries[this.#length++] = entry
    entry.batch = this as unknown as Batch<Entry>
  }

  add(entry: E): void {
    this.append(entry)
    if (this.#shared !== undefined) {
      const shared = this.#shared.get(entry.key)
      if (shared !== undefined) {
        shared.entries++
        this.bytes += Math.max(0, entry.bytes - shared.bytes)
        shared.bytes = Math.max(shared.bytes, entry.bytes)
        return
      }
      this.#shared.set(entry.key, { entries: 1, bytes: entry.bytes })
    }
    this.bytes += entry.bytes
  }

  /** Takes an entry out that is already marked as done. */
  withdraw(entry: E): void {
    this.#gone++
    if (this.#gone > this.live + gapsAllowed) this.#closeGaps()
    const shared = this.#shared?.get(entry.key)
    if (shared !== undefined) {
      if (--shared.entries > 0) return
      this.#shared?.delete(entry.key)
    }
    this.bytes -= shared?.bytes ?? entry.bytes
  }

  /** The entries that weren't withdrawn. */
  take(): E[] {
    if (this.#gone > 0) this.#closeGaps()
    else if (this.#entries.length !== this.#length) this.#entries.length = this.#length
    return this.#entries
  }

  #closeGaps(): void {
    this.#entries = this.#entries.filter((entry) => !entry.done)
    this.#length = this.#entries.length
    this.#gone = 0
  }
}
