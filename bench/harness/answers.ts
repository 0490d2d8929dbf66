/** The numbers that a turn asks about, and the check that each caller got its own one doubled. */
export class Answers {
  readonly #count: number
  #first = 0
  #given: ArrayLike<unknown> | undefined

  constructor(count: number) {
    this.#count = count
  }

  /** The first of this turn's numbers; the others follow. They differ from turn to turn, so that no old answer passes. */
  ask(): number {
    this.#first = (this.#first + this.#count) % 1_000_000
    return this.#first
  }

  /** Takes the turn's answers, in the order of the questions. */
  take(given: ArrayLike<unknown>): void {
    this.#given = given
  }

  /** Throws unless the i-th answer is the i-th number doubled. */
  check(): void {
    this.checkEach((i) => 2 * (this.#first + i))
  }

  /** Throws unless the i-th answer is what `expected` says. */
  checkEach(expected: (i: number) => unknown): void {
    const given = this.#given
    this.#given = undefined
    if (given?.length !== this.#count) {
      throw new Error(`wrong answer: expected ${this.#count} results, got ${given?.length}`)
    }
    for (let i = 0; i < this.#count; i++) {
      if (given[i] !== expected(i)) {
        throw new Error(`wrong answer: result ${i} should be ${expected(i)}, got ${given[i]}`)
      }
    }
  }
}

/** The batch function of every contender: doubles each number. */
export async function double(numbers: readonly number[]): Promise<number[]> {
  return numbers.map((n) => 2 * n)
}
