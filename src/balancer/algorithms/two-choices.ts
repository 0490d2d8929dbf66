import type { Algorithm, Member } from './algorithm.js'
import { AliasTable } from './alias-table.js'
import { equalWeights } from './member-order.js'

/** How often a draw that hits an excluded member is made again before the next ones in line are tried. */
const redraws = 8

/**
 * Draws two different members and takes the better one: nearly as even as looking at all of them, at a cost that doesn't
 * grow with their number. The first is drawn by weight and wins where both are equally good, so that an idle service is
 * balanced by weight too.
 *
 * @see Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 12(10), 2001
 */
export abstract class TwoChoices<M extends Member> implements Algorithm<M> {
  abstract readonly timed: boolean
  readonly #random: () => number
  #members: readonly M[] = []
  /** Draws by weight; undefined while all weigh the same. */
  #byWeight: AliasTable | undefined

  constructor(random: () => number) {
    this.#random = random
  }

  update(members: readonly M[]): void {
    this.#members = [...members]
    this.#byWeight = equalWeights(members) ? undefined : new AliasTable(members.map(({ weight }) => weight))
  }

  pick(): M | undefined {
    const members = this.#members
    const { length } = members
    if (length < 2) return members[0]
    const drawn = this.#random() * length
    let first = drawn | 0
    // What a draw has behind the point is as random as what it has before it, and enough for the second one.
    let rest = drawn - first
    const byWeight = this.#byWeight
    if (byWeight !== undefined) {
      first = byWeight.at(first, rest)
      rest = this.#random()
    }
    let second = (rest * (length - 1)) | 0
    if (second >= first) second++
    return this.better(members[first] as M, members[second] as M)
  }

  pickExcept(exclude: ReadonlySet<string>): M | undefined {
    const first = this.#drawExcept(exclude, undefined)
    if (first === undefined) return undefined
    const second = this.#drawExcept(exclude, first)
    return second === undefined ? first : this.better(first, second)
  }

  abstract settled(member: M, latencyMs: number, nowMs: number): void

  /** The better one of two; the first where they are equal. */
  protected abstract better(first: M, second: M): M

  #drawExcept(exclude: ReadonlySet<string>, other: M | undefined): M | undefined {
    const members = this.#members
    const { length } = members
    for (let draw = 0; draw < redraws; draw++) {
      const drawn = this.#random() * length
      const at = drawn | 0
      const member = members[this.#byWeight?.at(at, drawn - at) ?? at]
      if (member !== undefined && member !== other && !exclude.has(member.id)) return member
    }
    const start = (this.#random() * length) | 0
    for (let i = 0; i < length; i++) {
      const member = members[(start + i) % length] as M
      if (member !== other && !exclude.has(member.id)) return member
    }
    return undefined
  }
}
