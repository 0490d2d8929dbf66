/** Turns counts that only grow into what came since the last look. */
export class Rates {
  readonly #counts = new Map<string, number>()

  /** By how much a count grew since the last look; 0 at the first one, and where it began anew. */
  growthOf(name: string, count: number): number {
    const before = this.#counts.get(name)
    this.#counts.set(name, count)
    return before === undefined || count < before ? 0 : count - before
  }
}
