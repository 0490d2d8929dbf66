import type { Algorithm, Member } from './algorithm.js'
import { sameList } from './member-order.js'
import type { OwnerTable } from './owner-table.js'
import { RoundRobin } from './round-robin.js'
import { hashOf } from './string-hash.js'

/**
 * Equal keys go to the same member, as long as it is there: in every process, whatever order the list has. Members own keys in
 * proportion to their own weight; slow start moves none. Picks without a key go round robin.
 *
 * The table is built when a key is first asked for after the members or their own weights have changed.
 */
export class ConsistentHash<M extends Member> implements Algorithm<M> {
  readonly timed = false
  readonly #withoutKey = new RoundRobin<M>()
  readonly #table: OwnerTable
  #list: readonly M[] = []
  /** The own weight of each in the list when it was taken. */
  #weights: readonly number[] = []
  /** The members that the table's owners stand for, by ascending id. */
  #owners: readonly M[] = []
  #stale = false
  /** What the table was built from: another order of the list, or members that went and came back, build no other. */
  #builtFrom: { readonly ids: readonly string[]; readonly weights: readonly number[] } = { ids: [], weights: [] }

  constructor(table: OwnerTable) {
    this.#table = table
  }

  update(members: readonly M[]): void {
    this.#withoutKey.update(members)
    if (sameList(members, this.#list) && members.every(({ baseWeight }, i) => baseWeight === this.#weights[i])) return
    this.#list = [...members]
    this.#weights = members.map(({ baseWeight }) => baseWeight)
    this.#stale = true
  }

  pick(key: string | undefined): M | undefined {
    if (key === undefined) return this.#withoutKey.pick()
    if (this.#stale) this.#build()
    const table = this.#table
    return this.#owners[table.owners[table.placeOf(hashOf(key))] as number]
  }

  pickExcept(exclude: ReadonlySet<string>, key: string | undefined): M | undefined {
    if (key === undefined) return this.#withoutKey.pickExcept(exclude)
    if (this.#stale) this.#build()
    const candidates = this.#owners.filter(({ id }) => !exclude.has(id))
    if (candidates.length < 2) return candidates[0]
    return this.#firstOwnerFrom(this.#table.placeOf(hashOf(key)), exclude) ?? candidates[0]
  }

  settled(): void {}

  /** Walks on from a place to the first one whose owner isn't excluded; a very light owner may have no place at all. */
  #firstOwnerFrom(place: number, exclude: ReadonlySet<string>): M | undefined {
    const { owners } = this.#table
    for (let i = 0, at = place; i < owners.length; i++, at = at + 1 < owners.length ? at + 1 : 0) {
      const owner = this.#owners[owners[at] as number] as M
      if (!exclude.has(owner.id)) return owner
    }
    return undefined
  }

  #build(): void {
    this.#stale = false
    const owners = this.#list
      .map((member, i) => ({ member, weight: this.#weights[i] as number }))
      .sort((a, b) => (a.member.id < b.member.id ? -1 : 1))
    const ids = owners.map(({ member }) => member.id)
    const weights = owners.map(({ weight }) => weight)
    this.#owners = owners.map(({ member }) => member)
    if (owners.length === 0 || (sameValues(ids, this.#builtFrom.ids) && sameValues(weights, this.#builtFrom.weights)))
      return
    this.#table.build(ids, weights)
    this.#builtFrom = { ids, weights }
  }
}

function sameValues<T>(values: readonly T[], others: readonly T[]): boolean {
  return values.length === others.length && values.every((value, i) => value === others[i])
}
