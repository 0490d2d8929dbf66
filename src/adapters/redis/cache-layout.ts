import type { Clock } from '../../core/clock.js'
import { StoreError } from '../../core/errors.js'
import { fixLayout } from './counter-scripts.js'
import type { RedisFace } from './redis-client.js'

/** For how long a failed look at the number of buckets isn't repeated. */
const retryMs = 1000

/**
 * Fixes the number of buckets of a cache store in Redis, or finds that it is another one: keys would be looked for elsewhere then, and what
 * others write or delete never seen. Nothing waits for this, so that a node that is down keeps no call from the others.
 */
export class CacheLayout {
  readonly #face: RedisFace
  readonly #clock: Clock
  readonly #key: string
  readonly #buckets: string
  readonly #owner: string
  #state: 'unknown' | 'asked' | 'fits' | StoreError = 'unknown'
  #failedAt = Number.NEGATIVE_INFINITY

  /**
   * @param key - where the number is written down.
   * @param owner - what the store is called.
   */
  constructor(face: RedisFace, clock: Clock, key: string, buckets: number, owner: string) {
    this.#face = face
    this.#clock = clock
    this.#key = key
    this.#buckets = String(buckets)
    this.#owner = owner
  }

  /** @throws StoreError where it is known by now that the number is another one. */
  check(): void {
    if (this.#state === 'fits' || this.#state === 'asked') return
    if (this.#state !== 'unknown') throw this.#state
    if (this.#clock.now() - this.#failedAt < retryMs) return
    this.#state = 'asked'
    fixLayout.run(this.#face, [this.#key], [this.#buckets]).then(
      (fixed) => {
        this.#state = fixed === this.#buckets ? 'fits' : this.#misfit(fixed)
      },
      () => {
        this.#state = 'unknown'
        this.#failedAt = this.#clock.now()
      },
    )
  }

  /** Like `check`, of what is known already: asks nothing. */
  checkKnown(): void {
    if (this.#state instanceof StoreError) throw this.#state
  }

  #misfit(fixed: unknown): StoreError {
    return new StoreError(
      `${this.#owner}: ${JSON.stringify(this.#key)} says that keys lie in ${fixed} buckets, the store was made for ${this.#buckets}`,
      { retryable: false },
    )
  }
}
