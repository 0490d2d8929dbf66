import type { FakeClock } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { type Batch, type EarlierUnits, type Entry, type GrowingEntry, noCohort } from '../../src/internal/batch.js'
import type { Cohort } from '../../src/internal/batch-books.js'
import { resolveBatchOptions } from '../../src/internal/batch-options.js'
import { BatchQueue } from '../../src/internal/batch-queue.js'
import type { ListNode } from '../../src/internal/linked-list.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'

/** An entry that others of its turn join. */
class Pile implements GrowingEntry {
  cohort: Cohort = noCohort
  batch: Batch<Entry> | undefined = undefined
  done = false
  units = 1
  earlier: EarlierUnits[] | undefined = undefined
  bytes: number
  readonly key = undefined
  place: ListNode<Entry> | undefined = undefined

  constructor(bytes: number) {
    this.bytes = bytes
  }
}

function queueOf(clock: FakeClock, options: { eager?: boolean; attempts?: number; answer?: () => unknown } = {}) {
  const { eager = true, attempts = 1, answer } = options
  const policy = resolveBatchOptions(
    { maxBatchBytes: 10 },
    {
      maxBatchSize: 100,
      maxWaitMs: 50,
      eager,
      concurrency: 1,
      capacity: 100,
      overflow: 'reject',
      timeoutGraceMs: 0,
      retry: { attempts, delayMs: 1000, maxDelayMs: 1000 },
      idempotent: false,
    },
    { keyed: false, sized: true },
  )
  const calls: number[][] = []
  const left: Pile[] = []
  const queue = new BatchQueue<Pile>({ name: 'piles', clock, random: () => 0.5, seeded: true }, policy, {
    alike: true,
    unitsOf: (piles) => piles.reduce((sum, pile) => sum + pile.units, 0),
    call: (piles) => {
      calls.push(piles.map((pile) => pile.units))
      return answer?.()
    },
    complete: () => true,
    fail: () => undefined,
    left: (pile) => void left.push(pile),
  })
  const offer = (bytes: number, units = 99): Pile => {
    const pile = new Pile(bytes)
    queue.offer(pile)
    queue.grow(pile, units)
    return pile
  }
  return { queue, calls, left, offer }
}

describe('an entry that grows', () => {
  inVirtualTime(
    'takes in offers of its turn while its batch has room, and is one entry of many units',
    async (clock) => {
      const { queue, calls, offer } = queueOf(clock)
      const pile = offer(4)

      const joined = [queue.join(pile, 3), queue.join(pile, 4), queue.join(pile, 2)]

      expect(joined).toEqual([true, false, true])
      // They are counted when somebody reads the books.
      expect(queue.books.snapshot()).toMatchObject({ offered: 3, pending: 3 })
      expect(pile).toMatchObject({ units: 3, bytes: 9 })
      await clock.advance(0)
      expect(calls).toEqual([[3]])
      expect(queue.books.snapshot()).toMatchObject({ succeeded: 3, pending: 0 })
      expect(queue.books.batchSizes.max).toBe(3)
      await queue.drain()
    },
  )

  inVirtualTime('takes in as many units as it was said to, whoever reads the books meanwhile', async (clock) => {
    const { queue, calls, offer } = queueOf(clock)
    const pile = offer(1, 2)

    const joined = [queue.join(pile, 1), queue.books.offered, queue.join(pile, 1), queue.join(pile, 1)]

    expect(joined).toEqual([true, 2, true, false])
    expect(queue.books.snapshot()).toMatchObject({ offered: 3, pending: 3 })
    await clock.advance(0)
    expect(calls).toEqual([[3]])
    await queue.drain()
  })

  inVirtualTime('that fills its batch leaves before the end of the turn, and takes in no more', async (clock) => {
    const { queue, calls, offer } = queueOf(clock)
    const pile = offer(4)

    const joined = [queue.join(pile, 6), queue.join(pile, 0)]
    await Promise.resolve()

    expect(joined).toEqual([true, false])
    expect(calls).toEqual([[2]])
    await clock.advance(0)
    await queue.drain()
  })

  inVirtualTime('takes in what comes in a later turn of the same millisecond', async (clock) => {
    const { queue, calls, offer } = queueOf(clock, { eager: false })
    const pile = offer(1)
    await clock.advance(0.9)

    expect(queue.join(pile, 1)).toBe(true)
    expect(queue.books.snapshot()).toMatchObject({ offered: 2 })
    await queue.drain()
    expect(calls).toEqual([[2]])
  })

  inVirtualTime('takes in nothing a millisecond later, behind another entry, or after a flush', async (clock) => {
    const { queue, offer } = queueOf(clock, { eager: false })
    const first = offer(1)
    await clock.advance(1)
    const aMillisecondLater = queue.join(first, 1)
    const second = offer(1)
    const third = offer(1)
    const behindAnother = queue.join(second, 1)
    void queue.flush()
    const afterAFlush = queue.join(third, 1)

    expect([aMillisecondLater, behindAnother, afterAFlush]).toEqual([false, false, false])
    await clock.advance(0)
    expect(queue.books.snapshot()).toMatchObject({ offered: 3, succeeded: 3 })
    await queue.drain()
  })

  inVirtualTime('gives up single units, and with the last of them its place', async (clock) => {
    const { queue, calls, left, offer } = queueOf(clock)
    const pile = offer(5)
    queue.join(pile, 5)
    await Promise.resolve()
    const next = offer(4)
    queue.join(next, 4)

    queue.dropOne(next, 4)
    const room = queue.join(next, 6)
    queue.dropOne(next, 6)
    queue.dropOne(next, 4)

    expect(room).toBe(true)
    expect(next.done).toBe(true)
    expect(left).toContain(next)
    expect(queue.books.snapshot()).toMatchObject({ offered: 5, dropped: 3, pending: 2 })
    await clock.advance(0)
    expect(calls).toEqual([[2]])
    await queue.drain()
  })
})

describe('expel', () => {
  inVirtualTime('lets all go within the call, past the slots and in order', async (clock) => {
    const { queue, calls, offer } = queueOf(clock, {
      answer: () => new Promise((resolve) => clock.setTimer(() => resolve(0), 5)),
    })
    for (const bytes of [10, 9, 8]) offer(bytes)
    await clock.advance(0)
    const before = calls.length

    queue.expel()

    expect([before, calls.length, queue.running]).toEqual([1, 3, 3])
    await clock.advance(5)
    expect(queue.books.snapshot()).toMatchObject({ succeeded: 3, pending: 0 })
    await queue.drain()
  })

  inVirtualTime('makes a retry at once, and what it starts has no further one', async (clock) => {
    let attempts = 0
    const { queue, offer } = queueOf(clock, {
      attempts: 5,
      answer: () => {
        attempts++
        throw new Error('busy')
      },
    })
    offer(10)
    await clock.advance(0)
    offer(9)

    queue.expel()
    await clock.advance(10_000)

    // The first try of the one, its retry, and the only try of the other.
    expect(attempts).toBe(3)
    expect(queue.books.snapshot()).toMatchObject({ failed: 2, pending: 0 })
    await queue.drain()
  })
})

inVirtualTime('what the face refuses or drops itself is in the books', async (clock) => {
  const { queue } = queueOf(clock)

  queue.reject()
  queue.dropNewcomer()

  expect(queue.books.snapshot()).toMatchObject({ offered: 2, rejected: 1, dropped: 1, pending: 0 })
  await queue.drain()
})
