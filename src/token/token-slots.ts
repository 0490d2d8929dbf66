import { LinkedList } from '../internal/linked-list.js'
import { TokenSlot } from './token-slot.js'

const none: ReadonlySet<never> = new Set()

/** The keys that a cache knows: by their text, by their last use, and by the token that they hold. */
export class TokenSlots<K> {
  readonly #slots = new Map<string, TokenSlot<K>>()
  /** Least recently used first. */
  readonly #byUse = new LinkedList<TokenSlot<K>>()
  #latest: TokenSlot<K> | undefined
  /** Who holds a token: several keys may be given the same. */
  readonly #holders = new Map<string, Set<TokenSlot<K>>>()

  get size(): number {
    return this.#slots.size
  }

  get(id: string): TokenSlot<K> | undefined {
    return this.#slots.get(id)
  }

  /** All of them, as of now. */
  all(): TokenSlot<K>[] {
    return [...this.#slots.values()]
  }

  /** The one that was asked for least recently. */
  get oldest(): TokenSlot<K> | undefined {
    return this.#byUse.first
  }

  add(id: string, key: K): TokenSlot<K> {
    const slot = new TokenSlot(id, key)
    this.#slots.set(id, slot)
    this.touch(slot)
    return slot
  }

  /** Notes that it was asked for. */
  touch(slot: TokenSlot<K>): void {
    if (slot === this.#latest) return
    if (slot.node !== undefined) this.#byUse.remove(slot.node)
    slot.node = this.#byUse.push(slot)
    this.#latest = slot
  }

  delete(slot: TokenSlot<K>): void {
    if (slot.node === undefined) return
    this.#slots.delete(slot.id)
    this.#byUse.remove(slot.node)
    slot.node = undefined
    if (this.#latest === slot) this.#latest = undefined
    this.noteGone(slot)
  }

  /** Those who hold a token. */
  holding(token: string): ReadonlySet<TokenSlot<K>> {
    return this.#holders.get(token) ?? none
  }

  /** Enters a slot under the token that it has got. */
  noteHeld(slot: TokenSlot<K>): void {
    if (slot.token === undefined) return
    const holders = this.#holders.get(slot.token)
    if (holders === undefined) this.#holders.set(slot.token, new Set([slot]))
    else holders.add(slot)
  }

  /** Takes a slot off those who hold its token, before it gets another one or none. */
  noteGone(slot: TokenSlot<K>): void {
    if (slot.token === undefined) return
    const holders = this.#holders.get(slot.token)
    holders?.delete(slot)
    if (holders?.size === 0) this.#holders.delete(slot.token)
  }
}
