import type { Clock } from '../../core/clock.js'
import type { Emitter } from '../../core/events.js'
import { PassingWork } from './passing-work.js'
import { storeErrorOnce } from './postgres-error.js'
import type { PostgresUsageSinkEvents, UsageCleanUp } from './usage-sink-options.js'

/** What is cleaned up, while it is added up. */
export interface CleanUpTally {
  batchesRemoved: number
  holdsExpired: number
  holdsRemoved: number
  readonly daysDropped: string[]
}

/** Does some of one kind of cleaning up, adds to the tally, and answers whether there is more. */
export type Chore = (tally: CleanUpTally) => Promise<boolean>

/** What {@link UsageCleaning} needs to know. */
export interface UsageCleaningOptions {
  readonly clock: Clock
  readonly random: () => number
  readonly events: Emitter<PostgresUsageSinkEvents>
  readonly everyMs: number
  readonly busy: () => boolean
  /** What is done in passing. */
  readonly chores: readonly Chore[]
  /** What is done by hand. */
  readonly allChores: readonly Chore[]
  readonly onCleaned: (found: UsageCleanUp) => void
  readonly onFailed: () => void
}

/** Removes what is old: a little behind a call that comes by, or all of it when it is told to. */
export class UsageCleaning {
  readonly #options: UsageCleaningOptions
  readonly #passing: PassingWork

  constructor(options: UsageCleaningOptions) {
    this.#options = options
    const { clock, random, everyMs, busy } = options
    this.#passing = new PassingWork({
      clock,
      random,
      everyMs,
      busy,
      work: () => this.#some(),
      onFailed: (error) => this.#recordFailure(storeErrorOnce(action, error)),
    })
  }

  /** Does some of what is due. */
  passBy(): void {
    this.#passing.passBy()
  }

  /**
   * Goes on until nothing is left.
   *
   * @param attempt - makes an attempt at a chore.
   */
  async all(attempt: (action: string, work: () => Promise<boolean>) => Promise<boolean>): Promise<UsageCleanUp> {
    const tally = emptyTally()
    try {
      for (const chore of this.#options.allChores) {
        while (await attempt(action, () => chore(tally)));
      }
    } finally {
      this.#record(tally)
    }
    return tally
  }

  /** Each chore once: one that fails keeps no other from its turn. */
  async #some(): Promise<boolean> {
    const tally = emptyTally()
    const outcomes: PromiseSettledResult<boolean>[] = []
    for (const chore of this.#options.chores) outcomes.push(...(await Promise.allSettled([chore(tally)])))
    this.#record(tally)
    const failed = outcomes.find((outcome) => outcome.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    return outcomes.some((outcome) => outcome.status === 'fulfilled' && outcome.value)
  }

  #record(tally: UsageCleanUp): void {
    const { events, onCleaned } = this.#options
    const { batchesRemoved, holdsExpired, holdsRemoved, daysDropped } = tally
    if (batchesRemoved + holdsExpired + holdsRemoved + daysDropped.length === 0) return
    onCleaned(tally)
    if (events.has('cleaned')) events.emit('cleaned', tally)
  }

  #recordFailure(error: unknown): void {
    const { events, onFailed } = this.#options
    onFailed()
    if (events.has('cleanUpFailed')) events.emit('cleanUpFailed', { error })
  }
}

const action = 'cleaning up'

function emptyTally(): CleanUpTally {
  return { batchesRemoved: 0, holdsExpired: 0, holdsRemoved: 0, daysDropped: [] }
}
