import type { Clock } from '../core/clock.js'
import type { Algorithm, AlgorithmName, Member } from './algorithms/algorithm.js'
import { RoundRobin } from './algorithms/round-robin.js'

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
export function createAlgorithm<M extends Member>(_name: AlgorithmName, _context: AlgorithmContext): Algorithm<M> {
  return new RoundRobin()
}
