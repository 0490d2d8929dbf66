import type { UsageTotal } from 'spillway'
import { shuffled } from './sums.ts'

/** Who uses what in one event of a turn. */
export interface Use {
  readonly userId: number
  readonly quotaType: string
}

/** A use and how much, as one keeps it by hand. */
export interface CountedUse extends Use {
  readonly value: number
}

/** Sums by user and quota type, as one keeps them by hand: in a Map of Maps, or under one text of both. */
export type HandSums = ReadonlyMap<number, ReadonlyMap<string, number>> | ReadonlyMap<string, number>

/** What the contenders accounted in a turn, and the check that each user's sum of each quota type is right. */
export class UsageSums {
  readonly #expected = new Map<string, number>()
  #value = 0
  #stored: (readonly UsageTotal[] | readonly CountedUse[] | HandSums)[] = []
  #refused = 0

  /** @param uses - who uses what in a turn. */
  constructor(uses: readonly Use[]) {
    for (const use of uses) this.#expected.set(keyOf(use), (this.#expected.get(keyOf(use)) ?? 0) + 1)
  }

  /** The value of each event of this turn. It differs from turn to turn, so that no old sum passes. */
  next(): number {
    this.#value = (this.#value % 1000) + 1
    return this.#value
  }

  /** The store of every contender. It keeps what it is given, and adds up later, when nobody's time is taken. */
  readonly store = async (usage: readonly UsageTotal[] | readonly CountedUse[] | HandSums): Promise<void> => {
    this.#stored.push(usage)
  }

  /** Takes note of an event that wasn't accepted, which is wrong here. */
  refused(): void {
    this.#refused++
  }

  /** Throws unless what was stored since the last check sums up to this turn's events. */
  check(): void {
    if (this.#refused > 0) throw new Error(`wrong answer: ${this.#refused} events were refused`)
    const sums = new Map<string, number>()
    const add = (key: string, value: number): void => void sums.set(key, (sums.get(key) ?? 0) + value)
    for (const usage of this.#stored) for (const [key, value] of pairsOf(usage)) add(key, value)
    this.#stored = []
    if (sums.size !== this.#expected.size) {
      throw new Error(`wrong answer: expected ${this.#expected.size} sums, got ${sums.size}`)
    }
    for (const [key, events] of this.#expected) {
      const expected = events * this.#value
      if (sums.get(key) !== expected) {
        throw new Error(`wrong answer: ${key} should be ${expected}, got ${sums.get(key)}`)
      }
    }
  }
}

/** `events` uses by so many users of so many quota types, each of them equally often, in an order that is always the same. */
export function shuffledUses(users: number, types: number, events: number): Use[] {
  const quotaTypes = ['requests', 'storage', 'tokens', 'exports'].slice(0, types)
  const uses = Array.from({ length: events }, (_, i) => ({
    userId: 10_000 + (i % users),
    quotaType: quotaTypes[Math.floor(i / users) % types] as string,
  }))
  return shuffled(uses)
}

/** The text by which a user's quota type is known. */
export function keyOf({ userId, quotaType }: { readonly userId: number | string; readonly quotaType: string }): string {
  return `${userId}:${quotaType}`
}

function pairsOf(usage: readonly UsageTotal[] | readonly CountedUse[] | HandSums): (readonly [string, number])[] {
  if (usage instanceof Map) {
    return [...usage].flatMap(([key, value]): (readonly [string, number])[] =>
      typeof value === 'number'
        ? [[key, value]]
        : [...value].map(([quotaType, sum]: [string, number]) => [keyOf({ userId: key, quotaType }), sum]),
    )
  }
  return (usage as readonly (UsageTotal | CountedUse)[]).map((use) => [keyOf(use), use.value])
}
