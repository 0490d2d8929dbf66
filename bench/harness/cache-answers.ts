/** What is cached: small, and different for each key. */
export interface Item {
  readonly id: number
  readonly name: string
}

/** The value of the i-th key. */
export const itemOf = (id: number): Item => ({ id, name: `item ${id}` })

/** The keys of a contest. */
export const keysOf = (count: number): string[] => Array.from({ length: count }, (_, id) => `item:${id}`)

/** A loader that must not be called, since the value is there. */
export const neverLoad = async (): Promise<Item> => {
  throw new Error('wrong answer: what is cached was loaded')
}

/** The check that what a turn read was the item of each key, once each. */
export class Hits {
  readonly #expected: number
  #sum = 0

  constructor(count: number) {
    this.#expected = (count * (count - 1)) / 2
  }

  /** Takes the sum of the ids that a turn read. */
  take(sum: number): void {
    this.#sum = sum
  }

  check(): void {
    if (this.#sum !== this.#expected) {
      throw new Error(`wrong answer: the ids should add up to ${this.#expected}, got ${this.#sum}`)
    }
    this.#sum = 0
  }
}

/** Another key for each turn, which `callers` want at once; counts how often it is loaded. */
export class ColdKeys {
  readonly #callers: number
  #turns = 0
  #loads = 0
  #answers: readonly (Item | undefined)[] = []

  constructor(callers: number) {
    this.#callers = callers
  }

  /** The key of this turn. */
  next(): string {
    return `item:${++this.#turns}`
  }

  /** Loads what a key names, within a turn of the event loop. */
  readonly load = async (key: string): Promise<Item> => {
    this.#loads++
    await new Promise((resolve) => setImmediate(resolve))
    return itemOf(Number(key.slice(5)))
  }

  /** Takes what the callers of this turn got. */
  take(answers: readonly (Item | undefined)[]): void {
    this.#answers = answers
  }

  /** Throws unless each caller got the item of this turn. */
  check(): void {
    const wrong = this.#answers.filter((item) => item?.id !== this.#turns).length
    if (this.#answers.length !== this.#callers || wrong > 0) {
      throw new Error(`wrong answer: ${wrong} of ${this.#answers.length} callers didn't get item ${this.#turns}`)
    }
    this.#answers = []
  }

  /** How often a key was loaded. */
  loads(): string {
    const each = this.#loads / this.#turns
    return `${each.toFixed(Number.isInteger(each) ? 0 : 2)} loads a key`
  }
}
