/** How the next instance is chosen. The names are the field's own (gRPC, nginx, Finagle). */
export type AlgorithmName = 'round_robin' | 'weighted' | 'least_conn' | 'p2c' | 'peak_ewma' | 'consistent_hash'

/** All values of {@link AlgorithmName}. */
export const algorithmNames: readonly AlgorithmName[] = [
  'round_robin',
  'weighted',
  'least_conn',
  'p2c',
  'peak_ewma',
  'consistent_hash',
]

/** An instance as an algorithm sees it; the balancer owns it. */
export interface Member {
  readonly id: string
  /** The instance's own weight scaled by slow start: above 0 for those that `update` is given. */
  weight: number
  /** The instance's own weight, which the hash uses: slow start moves no keys. */
  baseWeight: number
  /** How many picks of it are out. The balancer counts. */
  inFlight: number
  /** What `peak_ewma` keeps about it, in milliseconds; 0 as long as there is no sample. */
  ewmaMs: number
  /** When `ewmaMs` was true: it decays from then on. */
  ewmaAtMs: number
}

/** A way of choosing among members. It reads their load and never changes it: the balancer does, right after a pick. */
export interface Algorithm<M extends Member> {
  /**
   * Takes the members that may be picked, whenever the set or a weight changed. The list is copied; its order matters
   * only for those that are new. A member that stays is known by its id.
   */
  update(members: readonly M[]): void
  /** The next member, or undefined when there is none. */
  pick(key: string | undefined): M | undefined
  /** The next member whose id is not in `exclude`, or undefined when there is none. */
  pickExcept(exclude: ReadonlySet<string>, key: string | undefined): M | undefined
  /** Whether it wants `settled`: only then does the balancer read the clock for a pick. */
  readonly timed: boolean
  /** Takes how long a call to a member took, in milliseconds, and when it ended on the monotonic clock. */
  settled(member: M, latencyMs: number, nowMs: number): void
}
