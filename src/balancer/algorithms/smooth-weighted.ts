import type { Algorithm, Member } from './algorithm.js'
import { carryOver, sameList } from './member-order.js'
import { SmoothSchedule } from './smooth-schedule.js'

/**
 * By weight, and smoothly: weights 5, 1, 1 give a a b a c a a, not a a a a a b c. This is nginx's algorithm: with every pick
 * each member earns its weight, the richest is picked and pays the sum of all weights, and of equally rich ones the first is.
 * Where nginx looks at everyone for each pick, this looks at few (see {@link SmoothSchedule}).
 *
 * What a member is owed when the list or a weight changes, it is owed afterwards; new members begin owed nothing.
 *
 * @see https://github.com/nginx/nginx/commit/52327e0627f49dbda1e8db695e63a4b0af4448b1
 */
export class SmoothWeighted<M extends Member> implements Algorithm<M> {
  readonly timed = false
  #list: readonly M[] = []
  /** The members in the order in which ties are settled. */
  #order: M[] = []
  #schedule = new SmoothSchedule([], [])

  update(members: readonly M[]): void {
    const owed = this.#schedule.owed()
    const owedTo = new Map(this.#order.map(({ id }, i) => [id, owed[i] as number]))
    if (!sameList(members, this.#list)) {
      this.#list = [...members]
      this.#order = carryOver(this.#order, 0, members)
    }
    const carried = this.#order.map(({ id }) => owedTo.get(id))
    // Together nobody is owed anything: what those who left were owed, or owe, is shared by those who stay.
    const staying = carried.filter((owed) => owed !== undefined)
    const mean = staying.reduce((sum, owed) => sum + owed, 0) / Math.max(1, staying.length)
    this.#schedule = new SmoothSchedule(
      this.#order.map(({ weight }) => weight),
      carried.map((owed) => (owed === undefined ? 0 : owed - mean)),
    )
  }

  pick(): M | undefined {
    return this.#order[this.#schedule.next()]
  }

  pickExcept(exclude: ReadonlySet<string>): M | undefined {
    return this.#order[this.#schedule.nextExcept((index) => exclude.has((this.#order[index] as M).id))]
  }

  settled(): void {}
}
