import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Histogram } from '../../src/internal/histogram.js'

/** The nearest-rank percentile of numbers, by sorting them. */
function exact(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(1, Math.ceil(share * sorted.length)) - 1] as number
}

const shares = [0, 0.01, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1]

test('a percentile is never below the exact one, and at most 1/32 above it', () => {
  // Every order of magnitude is as likely as any other.
  const value = fc.integer({ min: 0, max: 31 }).chain((bits) => fc.integer({ min: 0, max: 2 ** bits - 1 }))
  fc.assert(
    fc.property(fc.array(value, { minLength: 1, maxLength: 300 }), (values) => {
      const histogram = new Histogram()
      for (const each of values) histogram.record(each)

      for (const share of shares) {
        const percentile = histogram.percentile(share)
        const wanted = exact(values, share)
        expect(percentile).toBeGreaterThanOrEqual(wanted)
        expect(percentile).toBeLessThanOrEqual(wanted * (1 + 1 / 32))
      }
      expect(histogram.count).toBe(values.length)
      expect(histogram.max).toBe(Math.max(...values))
      expect(histogram.mean).toBeCloseTo(values.reduce((sum, each) => sum + each, 0) / values.length, 5)
    }),
    { numRuns: 500 },
  )
})

test('values below 64 are exact', () => {
  const histogram = new Histogram()
  for (let value = 0; value < 64; value++) histogram.record(value)

  for (let value = 0; value < 64; value++) expect(histogram.percentile((value + 1) / 64)).toBe(value)
})

test('many at once are the same as one by one', () => {
  const atOnce = new Histogram()
  const oneByOne = new Histogram()

  for (const [value, count] of [
    [5, 1000],
    [70_000, 3],
    [12, 1],
  ] as const) {
    atOnce.record(value, count)
    for (let i = 0; i < count; i++) oneByOne.record(value)
  }

  for (const share of shares) expect(atOnce.percentile(share)).toBe(oneByOne.percentile(share))
  expect([atOnce.count, atOnce.max, atOnce.mean]).toEqual([oneByOne.count, oneByOne.max, oneByOne.mean])
})

describe('an empty histogram', () => {
  test('says 0 to everything', () => {
    const histogram = new Histogram()

    expect(shares.map((share) => histogram.percentile(share))).toEqual(shares.map(() => 0))
    expect([histogram.count, histogram.max, histogram.mean]).toEqual([0, 0, 0])
  })
})

describe('odd values', () => {
  test('are counted where they can be: negative and NaN as 0, the huge at the top', () => {
    const histogram = new Histogram()

    for (const value of [-5, Number.NaN, Number.NEGATIVE_INFINITY]) histogram.record(value)
    expect([histogram.max, histogram.mean, histogram.percentile(1)]).toEqual([0, 0, 0])
    for (const value of [2 ** 31 - 1, 2 ** 31, 1e300, Number.POSITIVE_INFINITY]) histogram.record(value)

    expect(histogram.count).toBe(7)
    expect(histogram.max).toBe(2 ** 31 - 1)
    expect(histogram.percentile(1)).toBe(2 ** 31 - 1)
    expect(Number.isFinite(histogram.mean)).toBe(true)
  })

  test('that are fractions are rounded', () => {
    const histogram = new Histogram()
    histogram.record(2.5)
    histogram.record(2.4)

    expect([histogram.percentile(0.5), histogram.percentile(1)]).toEqual([2, 3])
  })
})
