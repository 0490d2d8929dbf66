/** After so many picks the sums begin anew, so that they never grow beyond what a double holds exactly. */
const picksPerEpoch = 65_536
/** Two that differ by less than this part of all weights, 2 ** -32, are equally rich: fractional weights don't add up exactly. */
const tieRatio = 2.3283064365386963e-10

/**
 * The order of smooth weighted round robin, without looking at everyone for each pick.
 *
 * At pick number k, index i has `k * weight + credit`, where its credit falls by the sum of all weights whenever it is picked.
 * Among equal weights nothing but the credit differs, and it differs the same way until one of them is picked, which then goes
 * behind: they form a queue, and only the heads of the queues have to be compared. So a pick takes O(d) for d different
 * weights, however many there are of each.
 */
export class SmoothSchedule {
  readonly #weights: Float64Array
  readonly #credits: Float64Array
  readonly #total: number
  readonly #tie: number
  /** The number of the next pick in this epoch. */
  #pick = 1

  /** The queues, one after the other, each a full ring from its start to its end. */
  readonly #queued: Uint32Array
  readonly #queueOf: Uint32Array
  readonly #starts: number[] = []
  readonly #ends: number[] = []
  /** The slot of each queue's head. */
  readonly #heads: number[] = []
  /** Each queue's weight, and its head's credit: all that most picks have to read. */
  readonly #headWeights: Float64Array
  readonly #headCredits: Float64Array

  /**
   * @param weights - each above 0; fractions and huge numbers too.
   * @param owed - how many picks each is owed.
   */
  constructor(weights: readonly number[], owed: readonly number[]) {
    const scale = scaleOf(weights)
    this.#weights = Float64Array.from(weights, (weight) => weight * scale)
    this.#total = this.#weights.reduce((sum, weight) => sum + weight, 0)
    this.#tie = this.#total * tieRatio
    this.#credits = Float64Array.from(owed, (picks) => Math.round(picks / tieRatio) * this.#tie)
    this.#queued = new Uint32Array(weights.length)
    this.#queueOf = new Uint32Array(weights.length)
    this.#fillQueues()
    this.#headWeights = Float64Array.from(this.#heads, (slot) => this.#weights[this.#queued[slot] as number] as number)
    this.#headCredits = new Float64Array(this.#heads.length)
    this.#readHeads()
  }

  /** How many picks an index is owed, below 0 when it had more than its share. */
  owed(index: number): number {
    const earned = (this.#pick - 1) * (this.#weights[index] as number)
    return ((this.#credits[index] as number) + earned) / this.#total
  }

  /** The part of all picks that an index gets. */
  shareOf(index: number): number {
    return (this.#weights[index] as number) / this.#total
  }

  /** Picks an index, -1 when there are none. */
  next(): number {
    const credits = this.#headCredits
    const weights = this.#headWeights
    if (credits.length === 0) return -1
    const pick = this.#pick
    const tie = this.#tie
    let best = 0
    let most = (credits[0] as number) + pick * (weights[0] as number)
    for (let queue = 1; queue < credits.length; queue++) {
      const wealth = (credits[queue] as number) + pick * (weights[queue] as number)
      if (wealth < most - tie || (wealth <= most + tie && this.#headOf(queue) > this.#headOf(best))) continue
      best = queue
      most = wealth
    }
    return this.#takeHead(best)
  }

  /** Picks the richest of those that are not excluded, -1 when all are. */
  nextExcept(excluded: (index: number) => boolean): number {
    let best = -1
    for (let queue = 0; queue < this.#heads.length; queue++) {
      const slot = this.#firstIn(queue, excluded)
      if (slot >= 0 && (best < 0 || this.#isBefore(this.#queued[slot] as number, this.#queued[best] as number)))
        best = slot
    }
    if (best < 0) return -1
    const queue = this.#queueOf[this.#queued[best] as number] as number
    this.#bringToHead(queue, best)
    return this.#takeHead(queue)
  }

  #fillQueues(): void {
    const byWeight = new Map<number, number[]>()
    for (let i = 0; i < this.#weights.length; i++) {
      const weight = this.#weights[i] as number
      const equals = byWeight.get(weight)
      if (equals === undefined) byWeight.set(weight, [i])
      else equals.push(i)
    }
    let end = 0
    for (const indexes of byWeight.values()) {
      indexes.sort((a, b) => (this.#credits[b] as number) - (this.#credits[a] as number) || a - b)
      this.#queued.set(indexes, end)
      for (const index of indexes) this.#queueOf[index] = this.#starts.length
      this.#starts.push(end)
      this.#heads.push(end)
      end += indexes.length
      this.#ends.push(end)
    }
  }

  #headOf(queue: number): number {
    return this.#queued[this.#heads[queue] as number] as number
  }

  /** The head of a queue pays for its pick and goes behind. */
  #takeHead(queue: number): number {
    const index = this.#headOf(queue)
    this.#credits[index] = (this.#credits[index] as number) - this.#total
    this.#moveBehind(queue, index)
    this.#headCredits[queue] = this.#credits[this.#headOf(queue)] as number
    if (++this.#pick > picksPerEpoch) this.#beginEpoch()
    return index
  }

  /** Moves a queue's head behind all that are at least as rich: unless the list has just changed, to the very end. */
  #moveBehind(queue: number, index: number): void {
    const start = this.#starts[queue] as number
    const end = this.#ends[queue] as number
    let at = this.#heads[queue] as number
    const head = at + 1 === end ? start : at + 1
    this.#heads[queue] = head
    while (at !== head) {
      const before = (at === start ? end : at) - 1
      const other = this.#queued[before] as number
      if (!this.#isBefore(index, other)) break
      this.#queued[at] = other
      at = before
    }
    this.#queued[at] = index
  }

  #bringToHead(queue: number, slot: number): void {
    const start = this.#starts[queue] as number
    const end = this.#ends[queue] as number
    const index = this.#queued[slot] as number
    let at = slot
    while (at !== this.#heads[queue]) {
      const before = (at === start ? end : at) - 1
      this.#queued[at] = this.#queued[before] as number
      at = before
    }
    this.#queued[at] = index
  }

  #firstIn(queue: number, excluded: (index: number) => boolean): number {
    const start = this.#starts[queue] as number
    const end = this.#ends[queue] as number
    let slot = this.#heads[queue] as number
    for (let i = start; i < end; i++) {
      if (!excluded(this.#queued[slot] as number)) return slot
      slot = slot + 1 === end ? start : slot + 1
    }
    return -1
  }

  /** Whether one is richer than another at the next pick, or as rich and earlier in the list. */
  #isBefore(one: number, other: number): boolean {
    const gain = (this.#weights[one] as number) - (this.#weights[other] as number)
    const lead = this.#pick * gain + ((this.#credits[one] as number) - (this.#credits[other] as number))
    return lead > this.#tie || (lead >= -this.#tie && one < other)
  }

  #beginEpoch(): void {
    const picks = this.#pick - 1
    for (let i = 0; i < this.#credits.length; i++) {
      this.#credits[i] = (this.#credits[i] as number) + picks * (this.#weights[i] as number)
    }
    this.#pick = 1
    this.#readHeads()
  }

  #readHeads(): void {
    for (let queue = 0; queue < this.#heads.length; queue++) {
      this.#headCredits[queue] = this.#credits[this.#headOf(queue)] as number
    }
  }
}

/** A power of two, so that scaling rounds nothing, by which the largest weight comes down, or up, to about 1. */
function scaleOf(weights: readonly number[]): number {
  const largest = weights.reduce((max, weight) => Math.max(max, weight), 0)
  return 2 ** -Math.min(1000, Math.max(-1000, Math.floor(Math.log2(largest))))
}
