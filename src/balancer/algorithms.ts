import type { Clock } from '../core/clock.js'
import type { Algorithm, AlgorithmName, Member } from './algorithms/algorithm.js'
import { ConsistentHash } from './algorithms/consistent-hash.js'
import { HashRing } from './algorithms/hash-ring.js'
import { LeastConn } from './algorithms/least-conn.js'
import { MaglevTable } from './algorithms/maglev-table.js'
import { P2c } from './algorithms/p2c.js'
import { PeakEwma } from './algorithms/peak-ewma.js'
import { RoundRobin } from './algorithms/round-robin.js'
import { SmoothWeighted } from './algorithms/smooth-weighted.js'

export { type Algorithm, type AlgorithmName, algorithmNames, type Member } from './algorithms/algorithm.js'

/** What algorithms need besides the members. */
export interface AlgorithmContext {
  /** Numbers from 0 up to, not including, 1. */
  readonly random: () => number
  readonly clock: Clock
  /** How `consistent_hash` finds a key's owner. */
  readonly hash: 'maglev' | 'ring'
}

/** Makes an algorithm, without members yet. */
export function createAlgorithm<M extends Member>(name: AlgorithmName, context: AlgorithmContext): Algorithm<M> {
  switch (name) {
    case 'round_robin':
      return new RoundRobin()
    case 'weighted':
      return new SmoothWeighted()
    case 'least_conn':
      return new LeastConn()
    case 'p2c':
      return new P2c(context.random)
    case 'peak_ewma':
      return new PeakEwma(context.random, context.clock)
    case 'consistent_hash':
      return new ConsistentHash(context.hash === 'ring' ? new HashRing() : new MaglevTable())
  }
}
