import { expect, test } from 'vitest'
import { Remembered } from '../../src/internal/remembered.js'
import { heapInUse } from '../quota/support/heap.js'

test('the latest entries are remembered, in the order in which they were last added', () => {
  const remembered = new Remembered<number>(3)
  for (const [id, value] of [
    ['a', 1],
    ['b', 2],
    ['c', 3],
    ['a', 4],
    ['d', 5],
  ] as const) {
    remembered.add(id, value)
  }

  expect(['a', 'b', 'c', 'd'].map((id) => remembered.get(id))).toEqual([4, undefined, 3, 5])
  expect(remembered.size).toBe(3)
})

test('what is deleted makes room, and is not taken for the oldest', () => {
  const remembered = new Remembered<number>(2)
  remembered.add('a', 1)
  remembered.add('b', 2)
  remembered.delete('a')
  remembered.add('c', 3)
  expect(remembered.get('b')).toBe(2)
  remembered.add('d', 4)

  expect(['a', 'b', 'c', 'd'].map((id) => remembered.get(id))).toEqual([undefined, undefined, 3, 4])
})

test('it does as a list would that is searched from its beginning, whatever comes', () => {
  let seed = 7
  const next = (below: number): number => {
    seed = (seed * 48_271) % 2_147_483_647
    return seed % below
  }
  for (const capacity of [0, 1, 2, 5, 20]) {
    const remembered = new Remembered<number>(capacity)
    let list: [string, number][] = []
    for (let step = 0; step < 2000; step++) {
      const id = `k${next(30)}`
      list = list.filter(([key]) => key !== id)
      if (next(4) === 0) remembered.delete(id)
      else {
        remembered.add(id, step)
        list = [...list, [id, step] as [string, number]].slice(capacity === 0 ? list.length + 1 : -capacity)
      }
      expect(remembered.size).toBe(list.length)
      expect(remembered.get(id)).toBe(list.find(([key]) => key === id)?.[1])
    }
    for (const [id, value] of list) expect(remembered.get(id)).toBe(value)
  }
})

test('an entry costs the same where another one makes room for it', () => {
  const costOf = (capacity: number): number => {
    const remembered = new Remembered<true>(capacity)
    const from = process.cpuUsage()
    for (let i = 0; i < 300_000; i++) remembered.add(`${i}`, true)
    const { user, system } = process.cpuUsage(from)
    return user + system
  }

  const withRoom = costOf(300_000)
  const full = costOf(100_000)

  // It is more than 40 times as much when the oldest is searched for from the beginning each time.
  expect(full / withRoom).toBeLessThan(10)
})

test.each(['added anew', 'deleted and added'])(
  'memory stays bounded while entries are %s below the capacity',
  async (how) => {
    const remembered = new Remembered<number>(10_000)
    const churn = (): void => {
      for (let i = 0; i < 300_000; i++) {
        const id = `k${i % 1000}`
        remembered.add(id, i)
        if (how !== 'added anew') remembered.delete(id)
      }
    }
    churn()
    const before = await heapInUse()

    churn()

    // The tables that the map outgrew would be 30 MB.
    expect((await heapInUse()) - before).toBeLessThan(3_000_000)
    expect(remembered.size).toBeLessThanOrEqual(1000)
  },
)
