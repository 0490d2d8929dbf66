import type { OwnerTable } from './owner-table.js'
import { hashOf } from './string-hash.js'

/**
 * How many places there are: a prime, so that every step width visits all of them. The smaller of the paper's two sizes,
 * 65,537, lets over 1 % of keys move needlessly where two step widths are nearly alike; twice as many places don't.
 */
const size = 131_071

/**
 * Maglev hashing: each owner has its own order of preference over all places, and they take turns in taking the best one that
 * is still free, as often as their weights say. All get their exact share of the places, a lookup is one read, and when an
 * owner leaves, few places move but its own.
 *
 * @see Eisenbud et al., Maglev: a fast and reliable software network load balancer, NSDI 2016, section 3.4
 */
export class MaglevTable implements OwnerTable {
  readonly owners: Uint32Array = new Uint32Array(size)

  placeOf(hash: number): number {
    // The hash as a fraction of its range: cheaper than a division's rest, and as even.
    return (hash * (size / 2 ** 32)) | 0
  }

  build(ids: readonly string[], weights: readonly number[]): void {
    const places = Uint32Array.from(ids, (id) => hashOf(id) % size)
    const steps = Uint32Array.from(ids, (id) => (hashOf(id, 1) % (size - 1)) + 1)
    const taken = new Uint8Array(size)
    const turns = turnsOf(weights)
    for (let turn = 0; turn < size; turn++) {
      const owner = turns[turn] as number
      const step = steps[owner] as number
      let place = places[owner] as number
      while (taken[place] === 1) {
        place += step
        if (place >= size) place -= size
      }
      taken[place] = 1
      this.owners[place] = owner
      places[owner] = place
    }
  }
}

/**
 * Whose turn it is to take a place, for all places: in each round the heaviest has one turn, and the others have one in as
 * many rounds as it is heavier. Sorted by counting.
 */
function turnsOf(weights: readonly number[]): Uint32Array {
  const heaviest = weights.reduce((max, weight) => Math.max(max, weight), 0)
  const shares = weights.map((weight) => weight / heaviest)
  const rounds = Math.ceil(size / shares.reduce((sum, share) => sum + share, 0))
  const starts = new Uint32Array(rounds + 2)
  const eachTurn = (visit: (round: number, owner: number) => void): void => {
    for (let owner = 0; owner < shares.length; owner++) {
      const share = shares[owner] as number
      for (let turn = 0, round = 0; round <= rounds; round = Math.ceil(++turn / share)) visit(round, owner)
    }
  }
  eachTurn((round) => {
    starts[round + 1] = (starts[round + 1] as number) + 1
  })
  for (let round = 1; round < starts.length; round++) {
    starts[round] = (starts[round] as number) + (starts[round - 1] as number)
  }
  const turns = new Uint32Array(starts[rounds + 1] as number)
  eachTurn((round, owner) => {
    const at = starts[round] as number
    turns[at] = owner
    starts[round] = at + 1
  })
  return turns
}
