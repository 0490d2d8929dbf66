/** After so many picks the sums begin anew, so that they never grow beyond what a double holds exactly. */
const picksPerEpoch = 65_536
/** Two that differ by less than this part of all weights are equally rich: fractional weights don't add up exactly. */
const tieRatio = 2 ** -32

/**
 * The order of smooth weighted round robin, without looking at everyone for each pick.
 *
 * At pick number k, index i has `k * weight + credit`, where its credit falls by the sum of all weights whenever it is picked.
 * - Among equal weights nothing but the credit differs, and it differs the same way until one of them is picked, which then
 *   goes behind: they form a queue.
 * - The heads of these queues are straight lines over k. A tournament tree has their winner at its root, and in each node the
 *   pick at which a loser below it overtakes a winner. Until then a pick replays the matches of the winner's queue alone.
 *
 * So a pick takes O(log d) for d different weights, plus O(log d) for each overtaking, and for equal weights O(1).
 */
export class SmoothSchedule {
  readonly #weights: Float64Array
  readonly #credits: Float64Array
  readonly #total: number
  /** The number of the next pick in this epoch. */
  #pick = 1

  /** The queues, one after the other, each a full ring from its start to its end with a head. */
  readonly #queued: Uint32Array
  readonly #starts: number[] = []
  readonly #ends: number[] = []
  readonly #heads: number[] = []
  readonly #queueOf: Uint32Array

  /** The tree: node 1 is the root, node i has the children 2i and 2i + 1, the leaves are the queues. */
  readonly #winners: Uint32Array
  /** The pick at which a match in the subtree has to be played again. */
  readonly #replayAt: Float64Array

  /**
   * @param weights - each above 0; fractions and huge numbers too.
   * @param owed - how many picks each is owed.
   */
  constructor(weights: readonly number[], owed: readonly number[]) {
    const { length } = weights
    const scale = scaleOf(weights)
    this.#weights = Float64Array.from(weights, (weight) => weight * scale)
    this.#total = this.#weights.reduce((sum, weight) => sum + weight, 0)
    const tie = this.#total * tieRatio
    this.#credits = Float64Array.from(owed, (picks) => Math.round((picks * this.#total) / tie) * tie)
    this.#queued = new Uint32Array(length)
    this.#queueOf = new Uint32Array(length)
    this.#fillQueues()
    const queues = this.#starts.length
    this.#winners = new Uint32Array(2 * queues)
    this.#replayAt = new Float64Array(2 * queues).fill(Number.POSITIVE_INFINITY)
    this.#playAll()
  }

  /** How many picks each is owed, below 0 when it had more than its share. */
  owed(): Float64Array {
    return this.#credits.map((credit, i) => (credit + (this.#pick - 1) * (this.#weights[i] as number)) / this.#total)
  }

  /** Picks an index, -1 when there are none. */
  next(): number {
    const winners = this.#winners
    if (winners.length === 0) return -1
    if ((this.#replayAt[1] as number) <= this.#pick) this.#replay(1)
    const winner = winners[1] as number
    this.#take(winner)
    return winner
  }

  /** Picks the richest of those that are not excluded, -1 when all are. */
  nextExcept(excluded: (index: number) => boolean): number {
    let best = -1
    let slotOfBest = -1
    for (let queue = 0; queue < this.#starts.length; queue++) {
      const slot = this.#firstIn(queue, excluded)
      if (slot < 0) continue
      const index = this.#queued[slot] as number
      if (best >= 0 && !this.#beats(index, best)) continue
      best = index
      slotOfBest = slot
    }
    if (best < 0) return -1
    this.#bringToHead(slotOfBest)
    this.#take(best)
    return best
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

  /** The head of a queue pays for its pick and goes behind; its queue's matches are played again. */
  #take(index: number): void {
    const queue = this.#queueOf[index] as number
    this.#credits[index] = (this.#credits[index] as number) - this.#total
    this.#requeue(queue, index)
    this.#pick++
    if (this.#pick > picksPerEpoch) this.#beginEpoch()
    else this.#playPath(queue)
  }

  /** Moves a queue's head behind all that are at least as rich: but after a change of the list, to the very end. */
  #requeue(queue: number, index: number): void {
    const start = this.#starts[queue] as number
    const end = this.#ends[queue] as number
    let at = this.#heads[queue] as number
    const head = at + 1 === end ? start : at + 1
    this.#heads[queue] = head
    while (at !== head) {
      const before = (at === start ? end : at) - 1
      const other = this.#queued[before] as number
      if (!this.#beats(index, other)) break
      this.#queued[at] = other
      at = before
    }
    this.#queued[at] = index
  }

  #bringToHead(slot: number): void {
    const queue = this.#queueOf[this.#queued[slot] as number] as number
    const start = this.#starts[queue] as number
    const moved = this.#queued[slot] as number
    let at = slot
    while (at !== this.#heads[queue]) {
      const before = (at === start ? (this.#ends[queue] as number) : at) - 1
      this.#queued[at] = this.#queued[before] as number
      at = before
    }
    this.#queued[at] = moved
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

  /** Whether one is richer than another at the next pick, or as rich and before it. */
  #beats(one: number, other: number): boolean {
    const lead = this.#leadOf(one, other)
    const tie = this.#total * tieRatio
    return lead > tie || (lead >= -tie && one < other)
  }

  #leadOf(one: number, other: number): number {
    const gain = (this.#weights[one] as number) - (this.#weights[other] as number)
    return this.#pick * gain + ((this.#credits[one] as number) - (this.#credits[other] as number))
  }

  #playPath(queue: number): void {
    const leaf = this.#starts.length + queue
    this.#winners[leaf] = this.#queued[this.#heads[queue] as number] as number
    for (let node = leaf >> 1; node > 0; node >>= 1) this.#play(node)
  }

  #playAll(): void {
    const queues = this.#starts.length
    for (let queue = 0; queue < queues; queue++) {
      this.#winners[queues + queue] = this.#queued[this.#heads[queue] as number] as number
    }
    for (let node = queues - 1; node > 0; node--) this.#play(node)
  }

  /** Plays again what is due in a subtree. */
  #replay(node: number): void {
    if ((this.#replayAt[node] as number) > this.#pick) return
    this.#replay(2 * node)
    this.#replay(2 * node + 1)
    this.#play(node)
  }

  /** Plays a node's match, and finds out how long its result stays right. */
  #play(node: number): void {
    const left = this.#winners[2 * node] as number
    const right = this.#winners[2 * node + 1] as number
    const leftWins = this.#beats(left, right)
    const winner = leftWins ? left : right
    const loser = leftWins ? right : left
    let replayAt = Math.min(this.#replayAt[2 * node] as number, this.#replayAt[2 * node + 1] as number)
    const gain = (this.#weights[loser] as number) - (this.#weights[winner] as number)
    if (gain > 0) {
      const tie = this.#total * tieRatio
      const lead = this.#leadOf(winner, loser) + (winner < loser ? tie : -tie)
      // Rounded down, this is rather a pick too early than one too late.
      replayAt = Math.min(replayAt, this.#pick + Math.max(1, Math.floor(lead / gain)))
    }
    this.#winners[node] = winner
    this.#replayAt[node] = replayAt
  }

  #beginEpoch(): void {
    const picks = this.#pick - 1
    for (let i = 0; i < this.#credits.length; i++) {
      this.#credits[i] = (this.#credits[i] as number) + picks * (this.#weights[i] as number)
    }
    this.#pick = 1
    this.#playAll()
  }
}

/** A power of two, so that scaling rounds nothing, by which the largest weight comes down, or up, to about 1. */
function scaleOf(weights: readonly number[]): number {
  const largest = weights.reduce((max, weight) => Math.max(max, weight), 0)
  return 2 ** -Math.min(1000, Math.max(-1000, Math.floor(Math.log2(largest))))
}
