import type { Algorithm, Member } from './algorithm.js'
import { FairTurns } from './fair-turns.js'
import { carryOver, equalWeights, sameList } from './member-order.js'

/**
 * The one with the fewest calls in flight for its weight, found by looking at all of them. Where several have equally few,
 * they take turns, by weight where their weights differ, so that an idle service is balanced too.
 *
 * @see https://nginx.org/en/docs/http/ngx_http_upstream_module.html#least_conn
 */
export class LeastConn<M extends Member> implements Algorithm<M> {
  readonly timed = false
  #list: readonly M[] = []
  #order: M[] = []
  /** Where a look begins: behind the one that was picked last. */
  #next = 0
  /** How ties are settled; undefined while all weigh the same. */
  #turns: FairTurns | undefined

  update(members: readonly M[]): void {
    const before = this.#turns
    const places = new Map(this.#order.map(({ id }, i) => [id, i]))
    if (!sameList(members, this.#list)) {
      this.#list = [...members]
      this.#order = carryOver(this.#order, this.#next, members)
      this.#next = 0
    }
    this.#turns = equalWeights(members) ? undefined : new FairTurns(this.#order.map(({ weight }) => weight))
    if (this.#turns === undefined || before === undefined) return
    for (let i = 0; i < this.#order.length; i++) {
      const place = places.get((this.#order[i] as M).id)
      if (place !== undefined) this.#turns.carryOver(i, before, place)
    }
  }

  pick(): M | undefined {
    if (this.#turns !== undefined) return this.#pickByWeight(this.#turns, undefined)
    const order = this.#order
    const { length } = order
    const start = this.#next
    let best = start
    let least = Number.POSITIVE_INFINITY
    for (let i = start; i < length; i++) {
      const { inFlight } = order[i] as M
      if (inFlight >= least) continue
      least = inFlight
      best = i
      // Nobody has fewer than none.
      if (inFlight === 0) break
    }
    if (least > 0) {
      for (let i = 0; i < start; i++) {
        const { inFlight } = order[i] as M
        if (inFlight >= least) continue
        least = inFlight
        best = i
        if (inFlight === 0) break
      }
    }
    return this.#take(best)
  }

  pickExcept(exclude: ReadonlySet<string>): M | undefined {
    if (this.#turns !== undefined) return this.#pickByWeight(this.#turns, exclude)
    const order = this.#order
    let best = -1
    let least = Number.POSITIVE_INFINITY
    for (let i = 0, at = this.#next; i < order.length; i++, at = at + 1 < order.length ? at + 1 : 0) {
      const { inFlight, id } = order[at] as M
      if (inFlight >= least || exclude.has(id)) continue
      least = inFlight
      best = at
    }
    return best < 0 ? undefined : this.#take(best)
  }

  settled(): void {}

  #take(index: number): M | undefined {
    this.#next = index + 1 < this.#order.length ? index + 1 : 0
    return this.#order[index]
  }

  #pickByWeight(turns: FairTurns, exclude: ReadonlySet<string> | undefined): M | undefined {
    const order = this.#order
    let best = -1
    let bestLoad = 0
    let bestWeight = 0
    for (let i = 0; i < order.length; i++) {
      const { inFlight, weight, id } = order[i] as M
      if (best >= 0) {
        // Multiplied crosswise: a division would cost more, and round equal loads apart.
        const load = inFlight * bestWeight
        const least = bestLoad * weight
        if (load > least || (load === least && !turns.isBefore(i, best))) continue
      }
      if (exclude?.has(id)) continue
      best = i
      bestLoad = inFlight
      bestWeight = weight
    }
    if (best < 0) return undefined
    turns.take(best)
    return order[best]
  }
}
