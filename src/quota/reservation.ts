import { isSpillwayError } from '../core/errors.js'
import type { QuotaKey } from '../core/ports.js'
import { handled } from '../internal/deferred.js'

/** What waits for a call takes. */
export interface WaitOptions {
  /** Gives up the wait. What was sent to the store may be done all the same. */
  signal?: AbortSignal | undefined
}

/**
 * A part of a quota that is held for its owner. At the end of an `await using` block it is given back, unless it was settled or a
 * settle may have been done.
 */
export interface Reservation extends QuotaKey, AsyncDisposable {
  /** Its id. */
  readonly id: string
  /** How much is held. */
  readonly value: number
  /** When the hold ends by itself, in milliseconds since the epoch on the store's clock. */
  readonly expiresAt: number
  /** The same as `QuotaService.settle` with its id. */
  settle(actual: number, options?: WaitOptions): Promise<void>
  /** The same as `QuotaService.release` with its id. */
  release(options?: WaitOptions): Promise<void>
}

/** What a reservation is settled and released by. */
export interface ReservationKeeper {
  settle(id: string, actual: number, options?: WaitOptions): Promise<void>
  release(id: string, options?: WaitOptions): Promise<void>
}

/** A reservation as its maker has it in hand. */
export class HeldReservation implements Reservation {
  readonly id: string
  readonly userId: string
  readonly quotaType: string
  readonly period: string
  readonly value: number
  readonly expiresAt: number
  readonly #keeper: ReservationKeeper
  /** Whether it was settled, or may have been. */
  #settled = false

  constructor(keeper: ReservationKeeper, key: QuotaKey, id: string, value: number, expiresAt: number) {
    this.id = id
    this.userId = key.userId
    this.quotaType = key.quotaType
    this.period = key.period
    this.value = value
    this.expiresAt = expiresAt
    this.#keeper = keeper
  }

  settle(actual: number, options?: WaitOptions): Promise<void> {
    return handled(this.#settle(actual, options))
  }

  release(options?: WaitOptions): Promise<void> {
    return this.#keeper.release(this.id, options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What can't be given back expires; that mustn't hide what the block ended with.
    if (!this.#settled) await this.release().catch(() => undefined)
  }
  async #settle(actual: number, options: WaitOptions | undefined): Promise<void> {
    const before = this.#settled
    this.#settled = true
    try {
      await this.#keeper.settle(this.id, actual, options)
    } catch (error) {
      // A refusal changes nothing, so what is held can still be given back. After any other error a later settle may yet count it.
      const refused = ['ERR_QUOTA_EXCEEDED', 'ERR_INVALID_EVENT', 'ERR_OPTION']
      if (refused.some((code) => isSpillwayError(error, code))) this.#settled = before
      throw error
    }
  }
}
