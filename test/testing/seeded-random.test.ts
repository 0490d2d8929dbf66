import { seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

const take = (seed: number | string, count: number): number[] => {
  const random = seededRandom(seed)
  return Array.from({ length: count }, random)
}

test('the same seed gives the same numbers, another seed others', () => {
  expect(take('flood', 1000)).toEqual(take('flood', 1000))
  for (const other of ['Flood', 'flood ', 'drought', '']) expect(take(other, 10)).not.toEqual(take('flood', 10))
})

test('two of one seed do not disturb each other', () => {
  const [a, b] = [seededRandom(1), seededRandom(1)]

  const mixed = [a(), a(), b(), a(), b(), b()]

  expect(mixed.slice(0, 2).concat(mixed[3] as number)).toEqual([mixed[2], mixed[4], mixed[5]])
})

describe('the numbers', () => {
  test('are from 0 up to, not including, 1, for any seed', () => {
    for (const seed of [0, 1, -1, 0.5, 2 ** 53, Number.NaN, 'ü', 'a'.repeat(10_000)]) {
      for (const number of take(seed, 2000)) {
        expect(number).toBeGreaterThanOrEqual(0)
        expect(number).toBeLessThan(1)
      }
    }
  })

  test('are spread evenly: a hundred bins of a hundred thousand', () => {
    const bins = new Array<number>(100).fill(0)
    for (const number of take('even', 100_000)) {
      const bin = Math.floor(number * 100)
      bins[bin] = (bins[bin] as number) + 1
    }

    // Chi-squared with 99 degrees of freedom: 1 in 10,000 is above 161.
    const chiSquared = bins.reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0)
    expect(chiSquared).toBeLessThan(161)
    expect(chiSquared).toBeGreaterThan(50)
  })

  test('do not follow from the one before', () => {
    const numbers = take('serial', 50_000)
    let product = 0
    for (let i = 1; i < numbers.length; i++) {
      product += ((numbers[i] as number) - 0.5) * ((numbers[i - 1] as number) - 0.5)
    }

    // The correlation of independent numbers is within 5 standard errors of 0.
    expect(Math.abs((product / numbers.length) * 12)).toBeLessThan(5 / Math.sqrt(numbers.length))
  })

  test('differ from the first on between neighbouring seeds', () => {
    const firsts = Array.from({ length: 1000 }, (_, seed) => take(seed, 1)[0] as number)

    expect(new Set(firsts).size).toBe(1000)
    const mean = firsts.reduce((sum, first) => sum + first, 0) / 1000
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.05)
  })
})
