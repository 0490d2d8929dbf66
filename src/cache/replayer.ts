import type { Clock } from '../core/clock.js'
import { backoffMs } from '../core/retry.js'
import type { ReplayEntry, ReplayQueue } from './replay-queue.js'

/** How many deletes and renewals go out together. */
const batchSize = 100
/** How long after a pass that failed the next one may begin, in milliseconds. */
const minPauseMs = 1_000
/** How attempts that nothing else sets off are spaced. */
const backoff = { delayMs: 1_000, maxDelayMs: 30_000 }

/** What a {@link Replayer} needs. */
export interface ReplayerSettings {
  readonly queue: ReplayQueue
  readonly clock: Clock
  readonly random: () => number
  /** How long the breaker turns calls away, in milliseconds; undefined where that isn't known. */
  readonly retryAfterMs: () => number | undefined
  /** Whether it may be made up for now, nothing else being under way for it. */
  readonly isFree: (entry: ReplayEntry) => boolean
  /** Tries a batch, and takes out of the queue what reached the store. Says whether anything did. Never rejects. */
  readonly replay: (batch: readonly ReplayEntry[]) => Promise<boolean>
}

/** Makes up for what didn't reach the store: as soon as the store answers anything, and from time to time. */
export class Replayer {
  readonly #settings: ReplayerSettings
  #passing: Promise<void> | undefined
  #cancelTimer: (() => void) | undefined
  #dueAt = Number.POSITIVE_INFINITY
  /** Passes in a row that left something behind. */
  #failures = 0
  #notBefore = Number.NEGATIVE_INFINITY
  #closed = false

  constructor(settings: ReplayerSettings) {
    this.#settings = settings
  }

  /** Something was queued: it is tried later, if nothing sets it off before. */
  queued(): void {
    if (this.#passing === undefined && this.#dueAt === Number.POSITIVE_INFINITY) this.#schedule()
  }

  /** The store answered, which may have taken entries out of the queue. */
  storeAnswered(): void {
    const { queue, clock } = this.#settings
    if (this.#passing !== undefined || this.#closed) return
    if (queue.size === 0) return this.#rest()
    // One node of a store may fail for long while others answer: that must not make a pass of every answer.
    const now = clock.now()
    if (now >= this.#notBefore) void this.attempt()
    else if (this.#dueAt > this.#notBefore) this.#arm(this.#notBefore - now)
  }

  /** Makes one pass over the queue, or waits for the one that is under way. Never rejects. */
  attempt(): Promise<void> {
    if (this.#closed || this.#settings.queue.size === 0) return Promise.resolve()
    this.#passing ??= this.#run()
    return this.#passing
  }

  close(): void {
    this.#closed = true
    this.#disarm()
  }

  async #run(): Promise<void> {
    this.#disarm()
    const progress = await this.#pass()
    this.#passing = undefined
    if (this.#settings.queue.size === 0) return this.#rest()
    if (progress) this.#failures = 0
    this.#notBefore = this.#settings.clock.now() + minPauseMs
    this.#schedule()
  }

  /** From the newest to the oldest, until a batch fails altogether. Says whether anything reached the store. */
  async #pass(): Promise<boolean> {
    const { queue, isFree, replay } = this.#settings
    const tried = new Set<ReplayEntry>()
    let progress = false
    while (!this.#closed) {
      const batch = queue.newest(batchSize, (entry) => !tried.has(entry) && isFree(entry))
      if (batch.length === 0) break
      for (const entry of batch) tried.add(entry)
      if (!(await replay(batch))) break
      progress = true
    }
    return progress
  }

  /** Nothing is left to do. */
  #rest(): void {
    this.#disarm()
    this.#failures = 0
    this.#notBefore = Number.NEGATIVE_INFINITY
  }

  #schedule(): void {
    const { clock, random, retryAfterMs, queue } = this.#settings
    if (this.#closed || queue.size === 0) return
    this.#failures++
    const pauseMs = Math.max(backoffMs(this.#failures, backoff, random), this.#notBefore - clock.now(), 100)
    // An open circuit would turn it away before, and lets it through as a probe then.
    const openMs = retryAfterMs()
    this.#arm(openMs === undefined || openMs === 0 ? pauseMs : Math.max(openMs, 100))
  }

  #arm(delayMs: number): void {
    this.#disarm()
    const { clock } = this.#settings
    this.#dueAt = clock.now() + delayMs
    this.#cancelTimer = clock.setTimer(
      () => {
        this.#dueAt = Number.POSITIVE_INFINITY
        void this.attempt()
      },
      delayMs,
      { keepAlive: false },
    )
  }

  #disarm(): void {
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    this.#dueAt = Number.POSITIVE_INFINITY
  }
}
