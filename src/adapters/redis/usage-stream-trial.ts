import { isOutcomeUnknown } from '../../internal/outcome.js'
import type { Lot } from './usage-stream-lot.js'

/** What is to be done about a lot that failed. */
export type Verdict =
  /** Try it again, as it is. */
  | 'retry'
  /** Try its halves. */
  | 'split'
  /** Give it up: it is one entry, and at fault. */
  | 'bury'

/** What is thought of a failure. */
export interface Judgement {
  readonly verdict: Verdict
  /** Whether it failed while everything else succeeded. */
  readonly alone: boolean
}

/** After how many failures a lot is halved whose errors don't say what they are about. */
const patience = 3

/**
 * Finds out what is at fault when a write fails: the sink, so that it is tried again for as long as it takes, or an event, so that it
 * must not hold up the others. What a sink says by `retryable` is half of that; the other half is how it fares with the others: whoever
 * fails while everything else succeeds is at fault, and while nothing succeeds nobody is.
 */
export class UsageTrial {
  /** Writes that succeeded. */
  wins = 0
  /** Failures that speak against the sink. */
  losses = 0
  readonly #retryable: (error: unknown) => boolean
  readonly #maxFailures: number

  /**
   * @param retryable - whether an error is about the sink, not about an event.
   * @param maxFailures - how often an event fails by itself while others succeed, before it is given up.
   */
  constructor(retryable: (error: unknown) => boolean, maxFailures: number) {
    this.#retryable = retryable
    this.#maxFailures = maxFailures
  }

  /** Judges a lot whose write has just failed. */
  judge(lot: Lot, error: unknown): Judgement {
    const blamed = !this.#isRetryable(error)
    const othersWon = this.wins > lot.wins
    const alone = othersWon && this.losses === lot.losses
    if (alone) lot.strikes++
    else if (!blamed && !lot.isPart) this.losses++
    const verdict = this.#verdict(lot, error, blamed, othersWon)
    lot.blamed = blamed
    lot.wins = this.wins
    lot.losses = this.losses
    return { verdict, alone: alone || verdict === 'bury' }
  }

  #verdict(lot: Lot, error: unknown, blamed: boolean, othersWon: boolean): Verdict {
    if (lot.entries.length > 1) {
      const unclear = !saysOutage(error) && lot.attempts % patience === 0
      return blamed || unclear || lot.strikes >= patience ? 'split' : 'retry'
    }
    // What a dead sink says of one event it says of all: only where others were written between two failures does it count.
    return (blamed && lot.blamed && othersWon) || lot.strikes >= this.#maxFailures ? 'bury' : 'retry'
  }

  #isRetryable(error: unknown): boolean {
    try {
      return Boolean(this.#retryable(error))
    } catch {
      return true
    }
  }
}

/** Whether an error says that it is about the sink: that the same call may succeed later, or that a connection was lost. */
function saysOutage(error: unknown): boolean {
  try {
    return (error as { retryable?: unknown } | null | undefined)?.retryable === true || isOutcomeUnknown(error)
  } catch {
    return false
  }
}
