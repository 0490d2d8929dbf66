import { seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { batchId } from '../../src/internal/batch-id.js'

const uuid7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

describe('a batch id', () => {
  test('is a UUID of version 7 that begins with the time', () => {
    const id = batchId(0x0123456789ab)

    expect(id).toMatch(uuid7)
    expect(id.slice(0, 13)).toBe('01234567-89ab')
  })

  test('is unique among a hundred thousand of one millisecond', () => {
    const ids = new Set<string>()
    let wellFormed = 0

    for (let i = 0; i < 100_000; i++) {
      const id = batchId(1_767_225_600_000)
      if (uuid7.test(id)) wellFormed++
      ids.add(id)
    }

    expect(ids.size).toBe(100_000)
    expect(wellFormed).toBe(100_000)
  })

  test('sorts by time', () => {
    const times = [0, 1, 255, 256, 65_535, 1_767_225_600_000, 1_767_225_600_001, 2 ** 48 - 1]
    const ids = times.map((time) => batchId(time))

    expect([...ids].sort()).toEqual(ids)
  })

  test('has every random bit both ways, and the fixed bits fixed', () => {
    const ids = Array.from({ length: 500 }, () => BigInt(`0x${batchId(0).replaceAll('-', '')}`))
    const all = ids.reduce((bits, id) => bits & id)
    const some = ids.reduce((bits, id) => bits | id)

    // Version 7 and variant 2 are set in all of them; of the rest, the 74 random bits are set in some.
    expect(all).toBe(0x7000_8000_0000_0000_0000n)
    expect(some).toBe(0x7fff_bfff_ffff_ffff_ffffn)
  })

  test('takes fractions and impossible times', () => {
    for (const time of [1.9, -5, 2 ** 60]) expect(batchId(time)).toMatch(uuid7)
    expect(batchId(1.9).slice(0, 13)).toBe('00000000-0001')
    expect(batchId(-5).slice(0, 13)).toBe('00000000-0000')
  })
})

describe('with a source of chance', () => {
  test('ids are the same for the same seed, and others for another', () => {
    const idsOf = (seed: number): string[] => {
      const random = seededRandom(seed)
      return Array.from({ length: 100 }, (_, i) => batchId(i, random))
    }

    expect(idsOf(1)).toEqual(idsOf(1))
    expect(new Set([...idsOf(1), ...idsOf(2)]).size).toBe(200)
    for (const id of idsOf(1)) expect(id).toMatch(uuid7)
  })

  test('they do not disturb the ids of others', () => {
    const random = seededRandom(1)
    const ids = new Set<string>()

    for (let i = 0; i < 2000; i++) {
      ids.add(batchId(0))
      ids.add(batchId(0, random))
    }

    expect(ids.size).toBe(4000)
  })
})
