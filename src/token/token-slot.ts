import type { ListNode } from '../internal/linked-list.js'
import type { TokenFlight } from './token-flight.js'
import type { TokenLife } from './token-life.js'

/** How a token's life is divided. */
export interface TokenWindows {
  readonly refreshAheadMs: number
  readonly mandatoryMs: number
  readonly jitter: number
}

/**
 * What is known of one key. Without a valid token, all its times have passed.
 *
 * ```text
 *   fetched            refreshAt            mandatoryAt      expiresAt
 *      ├── served ─────────┼── served, refreshed ──┼── waits ────┤
 * ```
 */
export class TokenSlot<K> {
  readonly id: string
  readonly key: K
  /** Its place among the others, by use. */
  node: ListNode<TokenSlot<K>> | undefined
  /** The token as callers get it: one promise for all of them. */
  promise: Promise<string> | undefined
  token: string | undefined
  refreshAt: number = Number.NEGATIVE_INFINITY
  mandatoryAt: number = Number.NEGATIVE_INFINITY
  expiresAt: number = Number.NEGATIVE_INFINITY
  wallOffsetMs = 0
  /** The turn in which it was found to be fresh last. */
  freshIn = -1
  /** The token before, once it is gone. */
  previous: string | undefined
  flight: TokenFlight<K, TokenSlot<K>> | undefined
  /** Whether its last token was invalidated and hasn't been replaced. */
  invalidated = false
  /** Until when its token can't be invalidated, since it replaced one that was. */
  protectedUntil: number = Number.NEGATIVE_INFINITY
  /** Refreshes that failed since the last one that didn't. */
  failures = 0
  /** When the next refresh may be tried while the token is valid. */
  refreshAfter: number = Number.NEGATIVE_INFINITY
  /** What callers get without another fetch, and until when. */
  refusal: { readonly error: unknown; readonly until: number; readonly terminal: boolean } | undefined

  constructor(id: string, key: K) {
    this.id = id
    this.key = key
  }

  /** Takes a token, and forgets all that went wrong before. */
  hold(life: TokenLife, windows: TokenWindows, random: () => number): void {
    const { token, expiresAt, lifeMs, wallOffsetMs } = life
    const mandatoryMs = Math.min(windows.mandatoryMs, lifeMs / 10)
    const aheadMs = Math.min(windows.refreshAheadMs, lifeMs / 2) * (1 - windows.jitter * random())
    this.token = token
    this.promise = Promise.resolve(token)
    this.expiresAt = expiresAt
    this.mandatoryAt = expiresAt - mandatoryMs
    this.refreshAt = Math.min(expiresAt - aheadMs, this.mandatoryAt)
    this.wallOffsetMs = wallOffsetMs
    this.freshIn = -1
    this.previous = undefined
    this.invalidated = false
    this.protectedUntil = Number.NEGATIVE_INFINITY
    this.failures = 0
    this.refreshAfter = Number.NEGATIVE_INFINITY
    this.refusal = undefined
  }

  /** Lets its token go because a server refused it. What a terminal failure has stopped may be tried again. */
  drop(): void {
    this.previous = this.token
    this.token = undefined
    this.promise = undefined
    this.refreshAt = this.mandatoryAt = this.expiresAt = Number.NEGATIVE_INFINITY
    this.freshIn = -1
    this.invalidated = true
    this.failures = 0
    this.refreshAfter = Number.NEGATIVE_INFINITY
    if (this.refusal?.terminal) this.refusal = undefined
  }

  /** Whether there is nothing in it that is worth its place. */
  get empty(): boolean {
    return (
      this.token === undefined && this.previous === undefined && this.flight === undefined && this.refusal === undefined
    )
  }
}
