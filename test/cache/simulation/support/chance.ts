import { seededRandom } from 'spillway/testing'

/** Everything that is left to chance, all of it from one seed. */
export class Chance {
  readonly random: () => number

  constructor(seed: number | string) {
    this.random = seededRandom(seed)
  }

  /** True in a share of all cases. */
  happens(share: number): boolean {
    return this.random() < share
  }

  /** A whole number from 0 up to, not including, a limit. */
  below(limit: number): number {
    return Math.floor(this.random() * limit)
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T
  }

  /** Some of a list, at least one, in an order of its own; now and then one of them twice. */
  some<T>(from: readonly T[]): T[] {
    return Array.from({ length: 1 + this.below(from.length) }, () => this.pick(from))
  }

  /** One of several, each as likely as it weighs. */
  weighted<T>(from: readonly (readonly [weight: number, one: T])[]): T {
    let left = this.random() * from.reduce((sum, [weight]) => sum + weight, 0)
    for (const [weight, one] of from) {
      left -= weight
      if (left < 0) return one
    }
    return (from.at(-1) as readonly [number, T])[1]
  }

  /** A duration: often none, mostly short, sometimes long. */
  shortMs(): number {
    return this.weighted([
      [4, 0],
      [4, 1 + this.below(4)],
      [2, 5 + this.below(20)],
    ])
  }
}
