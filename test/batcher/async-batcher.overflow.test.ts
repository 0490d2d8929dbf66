import { AsyncBatcher, type FullError, isSpillwayError } from 'spillway'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { codeOf, expectBooks, reasonOf, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

describe('capacity', () => {
  inVirtualTime('bounds what is accepted and not yet dispatched; what is in flight comes on top', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 3, maxBatchSize: 2, concurrency: 2 })

    const accepted: number[] = []
    for (let n = 0; n < 20; n++) {
      const answer = watch(batcher.add(n))
      await clock.advance(0)
      if (answer.status === 'pending') accepted.push(n)
    }

    // Two slots: the eager first item alone, then a full batch; three wait.
    expect(gate.batches).toEqual([[0], [1, 2]])
    expect(accepted).toEqual([0, 1, 2, 3, 4, 5])
    expectBooks(batcher, { pending: 6, inFlight: 3, rejected: 14 })
    gate.letGo()
    await batcher.close()
  })

  inVirtualTime('is free again once a batch has left', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 1, maxBatchSize: 1, concurrency: 1 })

    batcher.add(1)
    await clock.advance(0)
    batcher.add(2)
    gate.echo(0)
    await clock.advance(0)
    const third = watch(batcher.add(3))
    gate.letGo()
    await clock.advance(0)

    expect(third.value).toBe(3)
  })

  inVirtualTime('lowers the default of maxBatchSize where it is smaller', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 5, eager: false })

    for (let n = 0; n < 5; n++) batcher.add(n)
    await clock.advance(0)

    expect(gate.batches).toEqual([[0, 1, 2, 3, 4]])
  })
})

describe('overflow', () => {
  inVirtualTime('reject refuses the newcomer with FullError', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock, capacity: 2, eager: false, name: 'orders' })
    const dropped: unknown[] = []
    batcher.on('dropped', (event) => void dropped.push(event))

    const kept = [1, 2].map((n) => watch(batcher.add(n)))
    const refused = reasonOf(batcher.add(3))
    await clock.advance(100)

    const reason = (await refused) as FullError
    expect(isSpillwayError(reason, 'ERR_FULL')).toBe(true)
    expect(reason).toMatchObject({ name: 'FullError', retryable: true, capacity: 2 })
    expect(reason.message).toBe('orders is full (capacity 2)')
    expect(kept.map((answer) => answer.value)).toEqual([1, 2])
    expect(dropped).toEqual([])
    expectBooks(batcher, { offered: 3, rejected: 1, dropped: 0, succeeded: 2 })
  })

  inVirtualTime('drop-newest drops the newcomer, tells it, counts it and says so', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, {
      clock,
      capacity: 2,
      eager: false,
      overflow: 'drop-newest',
    })
    const dropped: unknown[] = []
    batcher.on('dropped', (event) => void dropped.push(event))

    const kept = [1, 2].map((n) => watch(batcher.add(n)))
    const lost = reasonOf(batcher.add(3))
    await clock.advance(100)

    expect(codeOf(await lost)).toBe('ERR_FULL')
    expect(kept.map((answer) => answer.value)).toEqual([1, 2])
    expect(dropped).toEqual([{ item: 3, reason: 'drop-newest' }])
    expectBooks(batcher, { offered: 3, dropped: 1, rejected: 0, succeeded: 2 })
  })

  inVirtualTime('drop-oldest drops what has waited longest, tells its caller, counts it and says so', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, {
      clock,
      capacity: 2,
      eager: false,
      overflow: 'drop-oldest',
    })
    const dropped: unknown[] = []
    batcher.on('dropped', (event) => void dropped.push(event))

    const answers: ReturnType<typeof watch<number>>[] = []
    for (const n of [1, 2, 3, 4]) {
      answers.push(watch(batcher.add(n)))
      // Room for two, so that the batch isn't full: keep it from leaving.
      expectBooks(batcher, { pending: Math.min(n, 2) })
    }
    await clock.advance(100)

    expect(answers.map((answer) => answer.value)).toEqual([undefined, undefined, 3, 4])
    expect(answers.slice(0, 2).map((answer) => codeOf(answer.reason))).toEqual(['ERR_FULL', 'ERR_FULL'])
    expect(dropped).toEqual([
      { item: 1, reason: 'drop-oldest' },
      { item: 2, reason: 'drop-oldest' },
    ])
    expectBooks(batcher, { offered: 4, dropped: 2, rejected: 0, succeeded: 2 })
  })

  inVirtualTime('drop-oldest never drops what is in flight', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 1, concurrency: 1, overflow: 'drop-oldest' })

    const first = watch(batcher.add(1))
    await clock.advance(0)
    for (const n of [2, 3, 4]) batcher.add(n)
    gate.letGo()
    await clock.advance(0)

    expect(first.value).toBe(1)
    expect(gate.batches).toEqual([[1], [4]])
  })

  inVirtualTime('drop-oldest takes the oldest of all groups', async (clock) => {
    const gate = new Gate<string>(clock)
    const options = { eager: false, capacity: 3, overflow: 'drop-oldest', groupBy: (item: string) => item[0] } as const
    const batcher = new AsyncBatcher(gate.process, { clock, ...options })
    const dropped: string[] = []
    batcher.on('dropped', ({ item }) => void dropped.push(item))

    for (const item of ['b0', 'a0', 'a1', 'b1', 'c0', 'c1']) {
      batcher.add(item)
      await clock.advance(1)
    }

    expect(dropped).toEqual(['b0', 'a0', 'a1'])
    gate.letGo()
    await clock.advance(100)
  })

  inVirtualTime('drop-oldest takes what was accepted first, even among what came in one turn', async (clock) => {
    const gate = new Gate<string>(clock)
    const options = {
      concurrency: 1,
      capacity: 2,
      overflow: 'drop-oldest',
      groupBy: (item: string) => item[0],
    } as const
    const batcher = new AsyncBatcher(gate.process, { clock, ...options })
    const dropped: string[] = []
    batcher.on('dropped', ({ item }) => void dropped.push(item))

    // Group a is known before group b, since it has a batch in flight.
    batcher.add('a0')
    await clock.advance(0)
    for (const item of ['b0', 'a1', 'c0']) batcher.add(item)

    expect(dropped).toEqual(['b0'])
    gate.letGo()
    await batcher.close()
  })

  inVirtualTime(
    'a listener that adds again when an item is dropped doesn’t lift the queue over its capacity',
    async (clock) => {
      const batcher = new AsyncBatcher((items: number[]) => items, {
        clock,
        capacity: 2,
        eager: false,
        overflow: 'drop-oldest',
      })
      let again = 10
      batcher.on('dropped', () => {
        if (again-- > 0) batcher.add(100 + again)
      })

      for (let n = 0; n < 5; n++) {
        batcher.add(n)
        expect(batcher.stats().pending).toBeLessThanOrEqual(2)
      }

      expectBooks(batcher, { pending: 2 })
      await batcher.close()
    },
  )

  for (const overflow of ['drop-newest', 'drop-oldest'] as const) {
    inVirtualTime(`a dropped item of ${overflow} doesn’t keep a flush or a close waiting`, async (clock) => {
      const gate = new Gate<number>(clock)
      const batcher = new AsyncBatcher(gate.process, { clock, capacity: 1, concurrency: 1, overflow })

      batcher.add(1)
      await clock.advance(0)
      batcher.add(2)
      const flushed = batcher.flush()
      batcher.add(3)
      gate.letGo()

      const report = await flushed
      expect(report).toEqual({
        succeeded: overflow === 'drop-oldest' ? 1 : 2,
        failed: 0,
        dropped: overflow === 'drop-oldest' ? 1 : 0,
      })
      expect(await batcher.close()).toEqual({ drained: true, abandoned: 0 })
      expectBooks(batcher, { dropped: 1, succeeded: 2 })
    })
  }
})
