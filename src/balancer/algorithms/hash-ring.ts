import type { OwnerTable } from './owner-table.js'
import { hashOf, mixed } from './string-hash.js'

/** How many points an owner of weight 1 has: enough that the shares of equals differ by about 4 %. */
const mostPointsPerUnit = 512
/** The largest sum of all weights, in units, with which it has so many; with 8 times the sum it has an eighth, and so on. */
const largestCrowd = 2048
const crowdStep = 8
/** The largest weight, in units: heavier ones make the unit larger, by steps of {@link unitStep}. */
const largestInUnits = 10
const unitStep = 20
/** A point and its owner in one number that sorts by the point: 32 and 21 bits of a double's 53. */
const entryBits = 53
const ownersLimit = 2_097_152
const goldenRatio = 0x9e3779b9

/**
 * A ring: each owner has many points on a circle of 2^32, and a key belongs to the owner of the first point from its hash on.
 * When an owner leaves, its keys go to those who come next, and no other key moves at all.
 *
 * An owner's points depend on its id and weight alone as long as the largest weight of all is above 1/2 and at most 10, and
 * their sum at most 2048. Beyond, weights are measured in a unit of 20, 400, ... or 1/20, ..., and an owner has an eighth of
 * the points, a 64th, ..., so that there is never more than about a million: that many are sorted between two calls. Where the
 * largest weight or the sum crosses such a border, many keys move.
 *
 * @see Karger et al., Consistent hashing and random trees, STOC 1997
 */
export class HashRing implements OwnerTable {
  owners: Uint32Array = new Uint32Array(0)
  #points: Uint32Array = new Uint32Array(0)
  /** The first place at or after the beginning of each of equal parts of the circle, about as many as there are places. */
  #firstInPart: Uint32Array = new Uint32Array(0)
  #shift = 0
  /** How many points each id has. */
  #counts = new Map<string, number>()
  #ids: readonly string[] = []

  placeOf(hash: number): number {
    const points = this.#points
    let place = this.#firstInPart[hash >>> this.#shift] as number
    while (place < points.length && (points[place] as number) < hash) place++
    return place < points.length ? place : 0
  }

  build(ids: readonly string[], weights: readonly number[]): void {
    const unit = unitOf(weights)
    const pointsPerUnit = pointsPerUnitOf(weights.reduce((sum, weight) => sum + weight / unit, 0))
    const counts = new Map<string, number>()
    ids.forEach((id, i) => {
      counts.set(id, Math.max(1, Math.round(((weights[i] as number) / unit) * pointsPerUnit)))
    })
    const added = pointsOf(ids, (id) => (counts.get(id) === this.#counts.get(id) ? 0 : (counts.get(id) as number)))
    this.#merge(this.#indexesIn(ids, counts), added)
    this.#counts = counts
    this.#ids = ids
    this.#divide()
  }

  /** What each owner's index so far is now; -1 for those who left or have other points now. */
  #indexesIn(ids: readonly string[], counts: ReadonlyMap<string, number>): Int32Array {
    const indexes = new Map(ids.map((id, i) => [id, i]))
    return Int32Array.from(this.#ids, (id) => {
      return counts.get(id) === this.#counts.get(id) ? (indexes.get(id) as number) : -1
    })
  }

  /** The points of those who stay are sorted already, and so are the added ones. */
  #merge(staying: Int32Array, added: Float64Array): void {
    let kept = 0
    for (const owner of this.owners) if ((staying[owner] as number) >= 0) kept++
    const points = new Uint32Array(kept + added.length)
    const owners = new Uint32Array(points.length)
    let place = 0
    let next = 0
    const put = (entry: number): void => {
      const point = Math.floor(entry / ownersLimit)
      points[place] = point
      owners[place++] = entry - point * ownersLimit
    }
    for (let i = 0; i < this.owners.length; i++) {
      const owner = staying[this.owners[i] as number] as number
      if (owner < 0) continue
      const entry = (this.#points[i] as number) * ownersLimit + owner
      while (next < added.length && (added[next] as number) < entry) put(added[next++] as number)
      put(entry)
    }
    while (next < added.length) put(added[next++] as number)
    this.#points = points
    this.owners = owners
  }

  #divide(): void {
    const points = this.#points
    const bits = Math.max(1, Math.ceil(Math.log2(points.length + 1)))
    this.#shift = 32 - bits
    this.#firstInPart = new Uint32Array(2 ** bits)
    let place = 0
    for (let part = 0; part < this.#firstInPart.length; part++) {
      while (place < points.length && (points[place] as number) >>> this.#shift < part) place++
      this.#firstInPart[part] = place
    }
  }
}

/** The sorted points of some owners, each with its owner's index. */
function pointsOf(ids: readonly string[], countOf: (id: string) => number): Float64Array {
  const points = new Float64Array(ids.reduce((sum, id) => sum + countOf(id), 0))
  let at = 0
  for (let owner = 0; owner < ids.length; owner++) {
    const id = ids[owner] as string
    const count = countOf(id)
    // Two hashes of the id: two ids that share one of them still have points of their own.
    const first = hashOf(id)
    const second = hashOf(id, 1)
    for (let i = 0; i < count; i++) {
      points[at++] = mixed(mixed((first + Math.imul(i, goldenRatio)) | 0) ^ second) * ownersLimit + owner
    }
  }
  return sorted(points)
}

/**
 * Sorts by distribution: points are spread evenly, so that each of as many equal parts of the circle as there are points, or
 * half as many, has next to nothing to sort. A sort that only compares takes about three times as long.
 */
function sorted(entries: Float64Array): Float64Array {
  const { length } = entries
  const bits = Math.max(1, Math.ceil(Math.log2(length + 1)) - 1)
  const partSize = 2 ** (entryBits - bits)
  const starts = new Uint32Array(2 ** bits + 1)
  for (const entry of entries) {
    const after = Math.floor(entry / partSize) + 1
    starts[after] = (starts[after] as number) + 1
  }
  for (let part = 1; part < starts.length; part++) {
    starts[part] = (starts[part] as number) + (starts[part - 1] as number)
  }
  const result = new Float64Array(length)
  for (const entry of entries) {
    const part = Math.floor(entry / partSize)
    const at = starts[part] as number
    result[at] = entry
    starts[part] = at + 1
  }
  for (let i = 1; i < length; i++) {
    const entry = result[i] as number
    let at = i
    for (; at > 0 && (result[at - 1] as number) > entry; at--) result[at] = result[at - 1] as number
    result[at] = entry
  }
  return result
}

function pointsPerUnitOf(units: number): number {
  let points = mostPointsPerUnit
  for (let crowd = largestCrowd; units > crowd && points > 1; crowd *= crowdStep) points /= crowdStep
  return points
}

function unitOf(weights: readonly number[]): number {
  const largest = weights.reduce((max, weight) => Math.max(max, weight), 0)
  const steps = Math.ceil(Math.log(largest / largestInUnits) / Math.log(unitStep))
  // Within what a double can hold, either way.
  return unitStep ** Math.min(236, Math.max(-230, steps))
}
