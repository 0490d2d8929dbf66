import type { Algorithm, Member } from './algorithm.js'
import { carryOver, sameList } from './member-order.js'
import { SmoothSchedule } from './smooth-schedule.js'

/** With more different weights than this, the members are divided into classes. */
const weightsPerSchedule = 32

/** Members of like weight, which are scheduled among themselves. */
interface WeightClass {
  /** Where they are in the order. */
  readonly indexes: readonly number[]
  /** The sum of their weights. */
  readonly weight: number
  /** How many picks they are owed together. */
  readonly owed: number
  readonly schedule: SmoothSchedule
}

/**
 * By weight, and smoothly: weights 5, 1, 1 give a a b a c a a, not a a a a a b c. This is nginx's algorithm: with every pick
 * each member earns its weight, the richest is picked and pays the sum of all weights, and of equally rich ones the first is.
 * Where nginx looks at everyone for each pick, this looks at one of each weight (see {@link SmoothSchedule}).
 *
 * With more than 32 different weights, there are classes of members whose weights are next to each other: the algorithm
 * chooses a class by the sum of its weights, and in it a member. Everyone has the same share then too, and a pick looks at
 * about the square root of so many weights, twice; the exact order is no longer nginx's.
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
  #classes: readonly WeightClass[] = []
  /** The schedule of the classes; of a single one, its members' own. */
  #schedule = new SmoothSchedule([], [])

  update(members: readonly M[]): void {
    const owedTo = this.#owed()
    if (!sameList(members, this.#list)) {
      this.#list = [...members]
      this.#order = carryOver(this.#order, 0, members)
    }
    const carried = this.#order.map(({ id }) => owedTo.get(id))
    // Together nobody is owed anything: what those who left were owed, or owe, is shared by those who stay.
    const staying = carried.filter((owed) => owed !== undefined)
    const mean = staying.reduce((sum, owed) => sum + owed, 0) / Math.max(1, staying.length)
    this.#reschedule(carried.map((owed) => (owed === undefined ? 0 : owed - mean)))
  }

  pick(): M | undefined {
    const first = this.#schedule.next()
    if (this.#classes.length < 2) return this.#order[first]
    const { indexes, schedule } = this.#classes[first] as WeightClass
    return this.#order[indexes[schedule.next()] as number]
  }

  pickExcept(exclude: ReadonlySet<string>): M | undefined {
    const excluded = (index: number): boolean => exclude.has((this.#order[index] as M).id)
    if (this.#classes.length < 2) return this.#order[this.#schedule.nextExcept(excluded)]
    const first = this.#schedule.nextExcept((index) => (this.#classes[index] as WeightClass).indexes.every(excluded))
    if (first < 0) return undefined
    const { indexes, schedule } = this.#classes[first] as WeightClass
    return this.#order[indexes[schedule.nextExcept((i) => excluded(indexes[i] as number))] as number]
  }

  settled(): void {}

  /** How many picks each is owed by id: what its class owes it, and its part of what its class is owed. */
  #owed(): Map<string, number> {
    const owed = new Map<string, number>()
    this.#classes.forEach(({ indexes, schedule }, at) => {
      const ofClass = this.#classes.length < 2 ? 0 : this.#schedule.owed(at)
      indexes.forEach((index, i) => {
        owed.set((this.#order[index] as M).id, schedule.owed(i) + ofClass * schedule.shareOf(i))
      })
    })
    return owed
  }

  #reschedule(owed: readonly number[]): void {
    this.#classes = classesOf(this.#order).map((indexes) => {
      const weights = indexes.map((index) => (this.#order[index] as M).weight)
      const owedToClass = sumOf(indexes.map((index) => owed[index] as number))
      const total = sumOf(weights)
      const owedWithin = indexes.map(
        (index, i) => (owed[index] as number) - owedToClass * ((weights[i] as number) / total),
      )
      return { indexes, weight: total, owed: owedToClass, schedule: new SmoothSchedule(weights, owedWithin) }
    })
    const [only] = this.#classes
    this.#schedule =
      only !== undefined && this.#classes.length === 1
        ? only.schedule
        : new SmoothSchedule(
            this.#classes.map(({ weight }) => weight),
            this.#classes.map(({ owed }) => owed),
          )
  }
}

/** The indexes of the members, in the list's order, of each class. */
function classesOf(members: readonly Member[]): number[][] {
  const indexes = members.map((_, i) => i)
  const weights = [...new Set(members.map(({ weight }) => weight))].sort((a, b) => a - b)
  if (weights.length <= weightsPerSchedule) return members.length === 0 ? [] : [indexes]
  const perClass = Math.ceil(Math.sqrt(weights.length))
  const classOf = new Map(weights.map((weight, i) => [weight, Math.floor(i / perClass)]))
  const classes: number[][] = Array.from({ length: Math.ceil(weights.length / perClass) }, () => [])
  for (const index of indexes) classes[classOf.get((members[index] as Member).weight) as number]?.push(index)
  return classes
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0)
}
