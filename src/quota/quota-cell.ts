import type { QuotaClaim } from '../core/ports.js'
import { endOfPeriod } from './quota-periods.js'

/** A reservation. */
export interface Hold {
  readonly claim: QuotaClaim
  readonly cell: QuotaCell
  /** When it ends by itself, on the monotonic clock. */
  readonly endsAt: number
  /** The same in milliseconds since the epoch, for whoever made it. */
  readonly expiresAt: number
  state: 'held' | 'settled' | 'released' | 'expired'
}

/** What is used and held of one key. */
export class QuotaCell {
  used = 0
  held = 0
  /** No hold ends before this. */
  nextEndsAt: number = Number.POSITIVE_INFINITY
  /** When its period is over, in milliseconds since the epoch. */
  readonly periodEnd: number
  readonly #holds = new Set<Hold>()

  constructor(period: string) {
    this.periodEnd = endOfPeriod(period)
  }

  /** How many holds there are. */
  get holds(): number {
    return this.#holds.size
  }

  hold(hold: Hold): void {
    this.#holds.add(hold)
    this.held += hold.claim.value
    this.nextEndsAt = Math.min(this.nextEndsAt, hold.endsAt)
  }

  unhold(hold: Hold): void {
    this.#holds.delete(hold)
    // Fractions leave traces: what nobody holds is nothing.
    this.held = this.#holds.size === 0 ? 0 : this.held - hold.claim.value
    if (this.#holds.size === 0) this.nextEndsAt = Number.POSITIVE_INFINITY
  }

  /** The holds that have come to their end. */
  due(now: number): readonly Hold[] {
    const due: Hold[] = []
    let next = Number.POSITIVE_INFINITY
    for (const hold of this.#holds) {
      if (hold.endsAt <= now) due.push(hold)
      else next = Math.min(next, hold.endsAt)
    }
    this.nextEndsAt = next
    return due
  }
}
