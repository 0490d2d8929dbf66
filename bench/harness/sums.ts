/** One write that was not merged. */
export interface Write {
  readonly key: string
  readonly value: number
}

/** What the contenders wrote in a turn, and the check that the sum under each key is right. */
export class Sums {
  readonly #expected: ReadonlyMap<string, number>
  #value = 0
  #written: (ReadonlyMap<string, number> | readonly Write[])[] = []

  /** @param sequence - the key of each put of a turn. */
  constructor(sequence: readonly string[]) {
    const expected = new Map<string, number>()
    for (const key of sequence) expected.set(key, (expected.get(key) ?? 0) + 1)
    this.#expected = expected
  }

  /** The value of each put of this turn. It differs from turn to turn, so that no old sum passes. */
  next(): number {
    this.#value = (this.#value % 1000) + 1
    return this.#value
  }

  /** The store of every contender. It keeps what it is given, and adds up later, when nobody's time is taken. */
  readonly store = async (writes: ReadonlyMap<string, number> | readonly Write[]): Promise<void> => {
    this.#written.push(writes)
  }

  /** Throws unless what was stored since the last check sums up to this turn's puts. */
  check(): void {
    const sums = new Map<string, number>()
    const add = (value: number, key: string): void => void sums.set(key, (sums.get(key) ?? 0) + value)
    for (const writes of this.#written) {
      if (writes instanceof Map) writes.forEach(add)
      else for (const { key, value } of writes as readonly Write[]) add(value, key)
    }
    this.#written = []
    if (sums.size !== this.#expected.size) {
      throw new Error(`wrong answer: expected ${this.#expected.size} keys, got ${sums.size}`)
    }
    for (const [key, puts] of this.#expected) {
      const expected = puts * this.#value
      if (sums.get(key) !== expected) {
        throw new Error(`wrong answer: ${key} should be ${expected}, got ${sums.get(key)}`)
      }
    }
  }
}

/** `puts` keys, each of `keys` distinct ones equally often, in an order that is shuffled but the same in every run. */
export function shuffledKeys(keys: number, puts: number): string[] {
  // One string a key: comparing equal strings that are two objects would cost everyone more than the rest of a put.
  const distinct = Array.from({ length: keys }, (_, i) => `post:${i}:like`)
  return shuffled(Array.from({ length: puts }, (_, i) => distinct[i % keys] as string))
}

/** Puts items into an order that is shuffled but the same in every run. */
export function shuffled<T>(items: readonly T[]): T[] {
  const sequence = [...items]
  let seed = 20_261_120
  for (let i = sequence.length - 1; i > 0; i--) {
    // Numerical Recipes' linear congruential generator: its high bits are good enough to shuffle with.
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
    const j = Math.floor((seed / 2 ** 32) * (i + 1))
    const swapped = sequence[i] as T
    sequence[i] = sequence[j] as T
    sequence[j] = swapped
  }
  return sequence
}
