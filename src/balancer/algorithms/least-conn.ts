import type { Algorithm, Member } from './algorithm.js'
import { carryOver, equalWeights, sameList } from './member-order.js'

/**
 * The one with the fewest calls in flight for its weight, found by looking at all of them. Where several have equally few,
 * they take turns, in proportion to their weights, as in nginx's `least_conn`: an idle service is balanced too.
 *
 * @see https://nginx.org/en/docs/http/ngx_http_upstream_module.html#least_conn
 */
export class LeastConn<M extends Member> implements Algorithm<M> {
  readonly timed = false
  #list: readonly M[] = []
  #order: M[] = []
  #next = 0
  /** What each has saved up towards winning a tie, by its index in the order; undefined while all weigh the same. */
  #credits: number[] | undefined

  update(members: readonly M[]): void {
    const credits = new Map(this.#credits?.map((credit, i) => [(this.#order[i] as M).id, credit]))
    if (!sameList(members, this.#list)) {
      this.#list = [...members]
      this.#order = carryOver(this.#order, this.#next, members)
      this.#next = 0
    }
    this.#credits = equalWeights(members) ? undefined : this.#order.map(({ id }) => credits.get(id) ?? 0)
  }

  pick(): M | undefined {
    if (this.#credits !== undefined) return this.#pickWeighted(this.#credits)
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
    if (least !== 0) {
      for (let i = 0; i < start; i++) {
        const { inFlight } = order[i] as M
        if (inFlight >= least) continue
        least = inFlight
        best = i
        if (inFlight === 0) break
      }
    }
    this.#next = best + 1 < length ? best + 1 : 0
    return order[best]
  }

  pickExcept(exclude: ReadonlySet<string>): M | undefined {
    if (this.#credits !== undefined) return this.#pickWeighted(this.#credits, exclude)
    const order = this.#order
    const { length } = order
    let best = -1
    let least = Number.POSITIVE_INFINITY
    for (let i = 0, at = this.#next; i < length; i++, at = at + 1 < length ? at + 1 : 0) {
      const { inFlight, id } = order[at] as M
      if (inFlight >= least || exclude.has(id)) continue
      least = inFlight
      best = at
    }
    if (best < 0) return undefined
    this.#next = best + 1 < length ? best + 1 : 0
    return order[best]
  }

  settled(): void {}

  /** Finds the least load, then settles the tie among those who have it by smooth weighted round robin. */
  #pickWeighted(credits: number[], exclude?: ReadonlySet<string>): M | undefined {
    const order = this.#order
    let least: M | undefined
    for (let i = 0; i < order.length; i++) {
      const member = order[i] as M
      if (least !== undefined && member.inFlight * least.weight >= least.inFlight * member.weight) continue
      if (exclude?.has(member.id)) continue
      least = member
    }
    if (least === undefined) return undefined
    let best = -1
    let total = 0
    for (let i = 0; i < order.length; i++) {
      const member = order[i] as M
      if (member.inFlight * least.weight !== least.inFlight * member.weight) continue
      if (exclude?.has(member.id)) continue
      credits[i] = (credits[i] as number) + member.weight
      total += member.weight
      if (best < 0 || (credits[i] as number) > (credits[best] as number)) best = i
    }
    credits[best] = (credits[best] as number) - total
    return order[best]
  }
}
