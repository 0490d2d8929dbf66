/** The last `size` outcomes, with a running sum of the failures: a ring that overwrites the oldest. */
export class CountRing {
  readonly #failed: Uint8Array
  #next = 0
  /** How many outcomes it holds, at most `size`. */
  calls = 0
  /** How many of them are failures. */
  failures = 0

  constructor(size: number) {
    this.#failed = new Uint8Array(size)
  }

  /** @param failed - 1 for a failure, 0 for a success. */
  add(failed: 0 | 1): void {
    const ring = this.#failed
    const next = this.#next
    // What was never written is 0, so the first round subtracts nothing.
    this.failures += failed - (ring[next] as number)
    ring[next] = failed
    this.#next = next + 1 === ring.length ? 0 : next + 1
    if (this.calls < ring.length) this.calls++
  }

  clear(): void {
    this.#failed.fill(0)
    this.#next = this.calls = this.failures = 0
  }
}

/**
 * The outcomes of the last `windowMs`, in buckets, with running sums:
 *
 * ```text
 *   | 12 | 9 | 14 | 11 |  7  |
 *     ^ leaves next      ^ now: filled until its time is over
 * ```
 *
 * A bucket leaves as a whole, so the window is between `windowMs - bucketMs` and `windowMs` long.
 */
export class TimeRing {
  readonly #bucketMs: number
  readonly #calls: Float64Array
  readonly #failures: Float64Array
  readonly #slow: Float64Array
  /** The number of the bucket that is filled now, counted from time 0. */
  #bucket = 0
  /** Its place in the ring. */
  #place = 0
  /** When it is over. */
  #endMs = Number.NEGATIVE_INFINITY
  /** How many outcomes the window holds. */
  calls = 0
  /** How many of them are failures. */
  failures = 0
  /** How many of them were slow. */
  slow = 0

  constructor(windowMs: number, buckets: number) {
    this.#bucketMs = windowMs / buckets
    this.#calls = new Float64Array(buckets)
    this.#failures = new Float64Array(buckets)
    this.#slow = new Float64Array(buckets)
  }

  add(nowMs: number, failed: 0 | 1, slow: 0 | 1): void {
    if (nowMs >= this.#endMs) this.#advance(nowMs)
    const place = this.#place
    ;(this.#calls[place] as number)++
    this.calls++
    if (failed === 1) {
      ;(this.#failures[place] as number)++
      this.failures++
    }
    if (slow === 1) {
      ;(this.#slow[place] as number)++
      this.slow++
    }
  }

  clear(): void {
    this.#calls.fill(0)
    this.#failures.fill(0)
    this.#slow.fill(0)
    this.calls = this.failures = this.slow = 0
  }

  #advance(nowMs: number): void {
    const bucket = Math.floor(nowMs / this.#bucketMs)
    const buckets = this.#calls.length
    if (bucket - this.#bucket >= buckets) this.clear()
    else for (let left = this.#bucket + 1; left <= bucket; left++) this.#forget(left % buckets)
    this.#bucket = bucket
    this.#place = ((bucket % buckets) + buckets) % buckets
    this.#endMs = (bucket + 1) * this.#bucketMs
  }

  #forget(place: number): void {
    this.calls -= this.#calls[place] as number
    this.failures -= this.#failures[place] as number
    this.slow -= this.#slow[place] as number
    this.#calls[place] = this.#failures[place] = this.#slow[place] = 0
  }
}
