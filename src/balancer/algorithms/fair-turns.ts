/** The longest turn, 2 ** 40, where the shortest is 1: a sum of doubles loses what is much smaller. */
const longestTurn = 1_099_511_627_776

/**
 * Turns by weight among whoever happens to want one, which for `least_conn` are those that tie. Each turn begins where the
 * same one's last turn ended, or now, whichever is later, and takes 1/weight; the earliest beginning is first. Who didn't
 * want turns for a while isn't owed any: now is where the latest turn began.
 *
 * @see Goyal et al., Start-time fair queueing, SIGCOMM 1996
 */
export class FairTurns {
  readonly #lengths: Float64Array
  /** Where each one's last turn ended. */
  readonly #ends: Float64Array
  #now = 0

  constructor(weights: readonly number[]) {
    const heaviest = weights.reduce((max, weight) => Math.max(max, weight), 0)
    this.#lengths = Float64Array.from(weights, (weight) => Math.min(longestTurn, heaviest / weight))
    this.#ends = new Float64Array(weights.length)
  }

  /** Takes over from others how far beyond now one's turns reach. */
  carryOver(index: number, other: FairTurns, otherIndex: number): void {
    const turns = ((other.#ends[otherIndex] as number) - other.#now) / (other.#lengths[otherIndex] as number)
    this.#ends[index] = Math.max(0, turns) * (this.#lengths[index] as number)
  }

  /** Whether one's turn would begin before another's. */
  isBefore(one: number, other: number): boolean {
    return (this.#ends[one] as number) < (this.#ends[other] as number) && (this.#ends[other] as number) > this.#now
  }

  take(index: number): void {
    this.#now = Math.max(this.#now, this.#ends[index] as number)
    this.#ends[index] = this.#now + (this.#lengths[index] as number)
  }
}
