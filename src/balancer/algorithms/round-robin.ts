import type { Algorithm, Member } from './algorithm.js'
import { carryOver, sameList } from './member-order.js'

/**
 * One after the other, whatever their weights. When the list changes, the turn goes on where it was, in the order that it
 * had: a refresh never begins again with the first one, and nobody is passed over or picked twice because of it.
 *
 * A member in slow start takes only that share of its turns which its weight is of its full weight.
 */
export class RoundRobin<M extends Member> implements Algorithm<M> {
  readonly timed = false
  #list: readonly M[] = []
  #order: M[] = []
  #next = 0
  /** The share of its turns that each takes, by its index in the order, or undefined while everyone takes all of them. */
  #shares: number[] | undefined
  /** What each has saved up of a turn. */
  #saved: number[] = []

  update(members: readonly M[]): void {
    const saved = this.#shares === undefined ? undefined : new Map(this.#order.map(({ id }, i) => [id, this.#saved[i]]))
    if (!sameList(members, this.#list)) {
      this.#list = [...members]
      this.#order = carryOver(this.#order, this.#next, members)
      this.#next = 0
    }
    this.#shares = sharesOf(this.#order)
    if (this.#shares !== undefined) this.#saved = this.#order.map(({ id }) => saved?.get(id) ?? 0)
  }

  pick(): M | undefined {
    if (this.#shares !== undefined) this.#passOver(this.#shares)
    const order = this.#order
    const at = this.#next
    this.#next = at + 1 < order.length ? at + 1 : 0
    return order[at]
  }

  pickExcept(exclude: ReadonlySet<string>): M | undefined {
    const order = this.#order
    if (order.length === 0) return undefined
    if (this.#shares !== undefined) this.#passOver(this.#shares)
    let at = this.#next
    while (exclude.has((order[at] as M).id)) {
      at = at + 1 < order.length ? at + 1 : 0
      if (at === this.#next) return undefined
    }
    this.#bringForward(at)
    const picked = order[this.#next]
    this.#next = this.#next + 1 < order.length ? this.#next + 1 : 0
    return picked
  }

  settled(): void {}

  /** Moves on to the first one that takes its turn. Someone's share is 1, so that there is one within a round. */
  #passOver(shares: readonly number[]): void {
    const saved = this.#saved
    for (;;) {
      const at = this.#next
      const sum = (saved[at] as number) + (shares[at] as number)
      if (sum >= 1) {
        saved[at] = sum - 1
        return
      }
      saved[at] = sum
      this.#next = at + 1 < shares.length ? at + 1 : 0
    }
  }

  /** Lets the one at an index go before those whose turn came earlier: they keep theirs. */
  #bringForward(index: number): void {
    for (const list of [this.#order, this.#shares, this.#saved] as unknown[][]) {
      if (list === undefined || list.length === 0) continue
      const moved = list[index]
      for (let at = index; at !== this.#next; ) {
        const before = at === 0 ? list.length - 1 : at - 1
        list[at] = list[before]
        at = before
      }
      list[this.#next] = moved
    }
  }
}

/** Each one's share relative to the largest, or undefined when all are the same. */
function sharesOf(members: readonly Member[]): number[] | undefined {
  if (members.every(({ weight, baseWeight }) => weight === baseWeight)) return undefined
  const shares = members.map(({ weight, baseWeight }) => weight / baseWeight)
  const largest = shares.reduce((max, share) => Math.max(max, share), 0)
  return shares.map((share) => share / largest)
}
