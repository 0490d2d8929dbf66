import type { Clock } from '../../core/clock.js'

/** For how long one answer is gone by, in milliseconds. */
const validMs = 1000
/** How unsure an answer may be to be gone by at all, in milliseconds: one that came late, since a connection broke, is good for one read. */
const sureMs = 100
/** How much less sure an answer may be than the one before it, for each millisecond since that: clocks drift far less. */
const lessSure = 0.01
/** How far the two clocks of this process may part before an answer is worth nothing: a machine that slept has only one that knows. */
const sleepMs = 100

/** When something was sent, in milliseconds: by the monotonic clock of this process, and by its wall clock. */
interface SentAt {
  readonly ms: number
  readonly wallMs: number
}

/**
 * What the clock of a server says, going by what it said in the last second. It is wrong by half a round trip at the most, and by as much as
 * that clock was set in the meantime.
 */
export class CacheClock {
  readonly #clock: Clock
  #at = Number.NEGATIVE_INFINITY
  #wallAt = 0
  /** What the server's clock is ahead of ours, in microseconds. */
  #aheadUs = 0
  #uncertainMs = Number.POSITIVE_INFINITY

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Whether it is time to ask. */
  get stale(): boolean {
    if (this.#uncertainMs > sureMs) return true
    const elapsed = this.#clock.now() - this.#at
    return !(elapsed < validMs && Math.abs(this.#clock.wallNow() - this.#wallAt - elapsed) < sleepMs)
  }

  /** What both clocks of this process say as something is sent. */
  send(): SentAt {
    return { ms: this.#clock.now(), wallMs: this.#clock.wallNow() }
  }

  /** The server's clock, in microseconds, said so in the answer to what was sent then. */
  observe(serverUs: number, sent: SentAt): void {
    const now = this.#clock.now()
    const wallNow = this.#clock.wallNow()
    const elapsed = now - sent.ms
    // An answer may have waited for a machine that slept: who knows how old it is.
    const slept = !(Math.abs(wallNow - sent.wallMs - elapsed) < sleepMs)
    const uncertainMs = slept ? Number.POSITIVE_INFINITY : elapsed / 2
    if (!this.stale && uncertainMs > this.#uncertainMs + (now - this.#at) * lessSure) return
    this.#at = now
    this.#wallAt = wallNow
    this.#uncertainMs = uncertainMs
    this.#aheadUs = serverUs - (now - elapsed / 2) * 1000
  }

  /** The server's clock now, in microseconds. */
  now(): number {
    return this.#clock.now() * 1000 + this.#aheadUs
  }
}
