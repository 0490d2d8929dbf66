/** 2^5 buckets an octave: a value is off by at most 1/32 of itself. */
const subBits = 5
const subBuckets = 1 << subBits

/**
 * Counts of whole numbers in log-linear buckets, in the manner of HdrHistogram: exact below 32, within 3 % above. It
 * takes no memory until the first record and then grows with the largest value's logarithm.
 */
export class Histogram {
  #counts: Float64Array | undefined
  #total = 0
  #sum = 0
  #max = 0

  /** Adds `count` values at once. Negative values count as 0, those over 2^31 - 1 as 2^31 - 1 in the percentiles. */
  record(value: number, count = 1): void {
    const whole = value > 0 ? (value < 2_147_483_647 ? Math.round(value) : 2_147_483_647) : 0
    const index = bucketOf(whole)
    if (this.#counts === undefined || index >= this.#counts.length) this.#grow(index)
    ;(this.#counts as Float64Array)[index] = ((this.#counts as Float64Array)[index] as number) + count
    this.#total += count
    this.#sum += whole * count
    if (whole > this.#max) this.#max = whole
  }

  /** How many values there are. */
  get count(): number {
    return this.#total
  }

  /** The largest value, 0 without any. */
  get max(): number {
    return this.#max
  }

  /** The mean, 0 without any value. */
  get mean(): number {
    return this.#total === 0 ? 0 : this.#sum / this.#total
  }

  /** The value that a share of the values don't exceed, from 0 to 1; 0 without any value. */
  percentile(share: number): number {
    if (this.#counts === undefined) return 0
    const rank = Math.max(1, Math.ceil(share * this.#total))
    let seen = 0
    for (let index = 0; index < this.#counts.length; index++) {
      seen += this.#counts[index] as number
      if (seen >= rank) return Math.min(highestOf(index), this.#max)
    }
    return this.#max
  }

  #grow(index: number): void {
    const counts = new Float64Array(Math.max(subBuckets, (Math.floor(index / subBuckets) + 1) * subBuckets))
    if (this.#counts !== undefined) counts.set(this.#counts)
    this.#counts = counts
  }
}

function bucketOf(value: number): number {
  if (value < subBuckets) return value
  const octave = 31 - Math.clz32(value) - subBits
  return octave * subBuckets + (value >>> octave)
}

/** The largest value that falls into a bucket: a percentile errs upwards. */
function highestOf(index: number): number {
  if (index < 2 * subBuckets) return index
  const octave = Math.floor(index / subBuckets) - 1
  return (index - octave * subBuckets + 1) * 2 ** octave - 1
}
