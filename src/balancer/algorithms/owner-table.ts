/** Which owner a key has: a circle of places, each with its owner, and the way from a key's hash to its place. */
export interface OwnerTable {
  /** The owner of each place, as its index in the ids that the table was built from. */
  readonly owners: Uint32Array
  /** The place of a key whose hash is an unsigned 32-bit number. */
  placeOf(hash: number): number
  /**
   * Builds it.
   *
   * @param ids - in ascending order, so that the table is the same whatever order the list came in.
   * @param weights - each above 0.
   */
  build(ids: readonly string[], weights: readonly number[]): void
}
