import type { Clock } from '../../core/clock.js'
import { backoffMs } from '../../core/retry.js'
import type { Delivery, UsageIntake } from './usage-stream-intake.js'

/** What a reader needs of its worker. */
export interface ReaderHost {
  readonly clock: Clock
  readonly random: () => number
  /** How long an idle reader waits at the most before it looks again. */
  readonly pollMs: number
  readonly claimIdleMs: number
  readonly trimEveryMs: number
  /** How many entries it may take now, kept for it until `deliver` or `gaveBack`; 0 where it must wait for `wake`. */
  reserve(): number
  /** Takes what was found; the room that was reserved for it is no longer. */
  deliver(reserved: number, delivery: Delivery): void
  recordAnswered(): void
  recordFailed(error: unknown): void
}

/** The shortest pause after a look that didn't fill the room, so that a trickle of events doesn't become a stream of looks. */
const leastPauseMs = 10
/** After failures. */
const backoff = { delayMs: 100, maxDelayMs: 5000 } as const
/** How often within `claimIdleMs` it says what it has, and looks for what others have let lie. */
const looksPerClaim = 3

const nothing: Delivery = { taken: [], unreadable: [] }

/**
 * Reads one shard for as long as its worker works. It asks rather than blocks: a blocking read would need a connection of its own for
 * each shard, one that follows its slot around a cluster. An idle one asks ever more rarely, up to `pollMs`; one that finds something
 * asks again at once.
 */
export class UsageReader {
  readonly #intake: UsageIntake
  readonly #host: ReaderHost
  #stopped = false
  #ended = false
  /** Ends the pause. */
  #resume: (() => void) | undefined
  #waitsForRoom = false
  #cancelTouch: (() => void) | undefined
  /** When it next looks after what others have let lie. */
  #claimAt = 0
  /** When it next keeps house; undefined where nothing has changed since. */
  #houseAt: number | undefined

  constructor(intake: UsageIntake, host: ReaderHost) {
    this.#intake = intake
    this.#host = host
  }

  /** Reads until it is stopped. Never rejects. */
  async run(): Promise<void> {
    this.#scheduleTouch()
    let failures = 0
    let pauseMs = 0
    while (!this.#stopped) {
      const room = this.#host.reserve()
      if (room === 0) {
        await this.#pause(undefined)
        continue
      }
      try {
        const found = await this.#look(room)
        failures = 0
        if (found >= room) pauseMs = 0
        else if (found > 0) pauseMs = Math.min(this.#host.pollMs, leastPauseMs)
        else pauseMs = Math.min(this.#host.pollMs, Math.max(leastPauseMs, pauseMs * 2))
      } catch (error) {
        this.#host.recordFailed(error)
        failures++
        pauseMs = Math.max(leastPauseMs, backoffMs(failures, backoff, this.#host.random))
      }
      if (pauseMs > 0) await this.#pause(pauseMs)
    }
  }

  /** There may be room. */
  wake(): void {
    if (this.#waitsForRoom) this.#resume?.()
  }

  /** Makes `run` end after the look that is under way. What is in hand is still kept from others. */
  stop(): void {
    this.#stopped = true
    this.#resume?.()
  }

  /** Keeps nothing from others any more. */
  end(): void {
    this.#ended = true
    this.#cancelTouch?.()
  }

  /** Looks once; returns how much it found. */
  async #look(room: number): Promise<number> {
    const host = this.#host
    const now = host.clock.now()
    const claims = now >= this.#claimAt
    if (claims) {
      this.#intake.claimSoon()
      // Not all workers at once, nor always the same one first.
      this.#claimAt = now + (host.claimIdleMs * (0.75 + host.random() / 2)) / looksPerClaim
    }
    let delivery: Delivery = nothing
    try {
      delivery = await this.#intake.take(room)
    } finally {
      host.deliver(room, delivery)
    }
    const found = delivery.taken.length + delivery.unreadable.length
    if (found > 0) this.#houseAt ??= now + host.trimEveryMs
    if (claims || now >= (this.#houseAt ?? Number.POSITIVE_INFINITY)) {
      // As long as something isn't done, there will be more to trim.
      this.#houseAt = this.#intake.size === 0 ? undefined : now + host.trimEveryMs
      await this.#intake.keepHouse()
    }
    host.recordAnswered()
    return found
  }

  #pause(pauseMs: number | undefined): Promise<void> {
    if (this.#stopped) return Promise.resolve()
    this.#waitsForRoom = pauseMs === undefined
    return new Promise((resolve) => {
      let cancelTimer: (() => void) | undefined
      this.#resume = () => {
        cancelTimer?.()
        this.#resume = undefined
        this.#waitsForRoom = false
        resolve()
      }
      // What it waits for lies safe in Redis, and the connection keeps the process alive for as long as there is one.
      if (pauseMs !== undefined) cancelTimer = this.#host.clock.setTimer(this.#resume, pauseMs, { keepAlive: false })
    })
  }

  #scheduleTouch(): void {
    const { clock, claimIdleMs } = this.#host
    this.#cancelTouch = clock.setTimer(() => void this.#touch(), claimIdleMs / looksPerClaim, { keepAlive: false })
  }

  async #touch(): Promise<void> {
    try {
      await this.#intake.touch()
    } catch (error) {
      this.#host.recordFailed(error)
    }
    if (!this.#ended) this.#scheduleTouch()
  }
}
