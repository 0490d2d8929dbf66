/**
 * Draws indexes in proportion to weights in constant time, after a set-up that is linear in their number: each of n equal
 * slots is shared by at most two indexes, its own and an alias.
 *
 * @see Vose, A linear algorithm for generating random numbers with a given distribution, IEEE TSE 17(9), 1991
 */
export class AliasTable {
  /** Which part of its slot each index keeps. */
  readonly #kept: Float64Array
  readonly #alias: Uint32Array

  constructor(weights: readonly number[]) {
    const { length } = weights
    // Sums of huge weights would overflow, so they are taken relative to the largest.
    const largest = weights.reduce((max, weight) => Math.max(max, weight), 0)
    const total = weights.reduce((sum, weight) => sum + weight / largest, 0)
    this.#kept = Float64Array.from(weights, (weight) => (weight / largest / total) * length)
    this.#alias = Uint32Array.from(weights, (_, i) => i)
    const small: number[] = []
    const large: number[] = []
    for (let i = 0; i < length; i++) ((this.#kept[i] as number) < 1 ? small : large).push(i)
    while (small.length > 0 && large.length > 0) {
      const taker = small.pop() as number
      const giver = large.pop() as number
      this.#alias[taker] = giver
      const left = (this.#kept[giver] as number) - (1 - (this.#kept[taker] as number))
      this.#kept[giver] = left
      ;(left < 1 ? small : large).push(giver)
    }
    // What rounding left over fills its slot alone.
    for (const i of [...small, ...large]) this.#kept[i] = 1
  }

  /**
   * The index that a draw hits.
   *
   * @param slot - a random index.
   * @param point - a random number from 0 up to, not including, 1.
   */
  at(slot: number, point: number): number {
    return point < (this.#kept[slot] as number) ? slot : (this.#alias[slot] as number)
  }
}
