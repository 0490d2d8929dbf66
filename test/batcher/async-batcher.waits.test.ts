import { AsyncBatcher } from 'spillway'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { expectBooks, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

describe('maxWaitMs', () => {
  for (const eager of [true, false]) {
    inVirtualTime(`at 50, with an item every 30 ms, no item waits longer (eager: ${eager})`, async (clock) => {
      const waits: number[] = []
      const batcher = new AsyncBatcher<number, number>(
        (items) => {
          waits.push(...items.map((addedAt) => clock.now() - addedAt))
          return items
        },
        { clock, maxWaitMs: 50, eager },
      )

      for (let i = 0; i < 100; i++) {
        batcher.add(clock.now())
        await clock.advance(30)
      }
      await clock.advance(50)

      expect(waits).toHaveLength(100)
      expect(Math.max(...waits)).toBe(eager ? 0 : 50)
    })
  }

  inVirtualTime('is never re-armed: the 50 ms run from the first item, whatever comes later', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 50, eager: false })

    for (let i = 0; i < 5; i++) {
      batcher.add(i)
      await clock.advance(i < 4 ? 10 : 9)
    }
    expect(gate.calls).toHaveLength(0)
    await clock.advance(1)

    expect(gate.calls.map(({ at, items }) => [at, items])).toEqual([[50, [0, 1, 2, 3, 4]]])
  })

  inVirtualTime('runs anew for each batch', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 50, eager: false })
    gate.letGo()

    batcher.add(1)
    await clock.advance(70)
    batcher.add(2)
    await clock.advance(49)
    expect(gate.calls.map(({ at }) => at)).toEqual([50])
    await clock.advance(1)

    expect(gate.calls.map(({ at }) => at)).toEqual([50, 120])
  })

  inVirtualTime('runs from the batch’s own first item, though a full batch left in between', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 50, eager: false, maxBatchSize: 2 })

    batcher.add(1)
    await clock.advance(20)
    batcher.add(2)
    batcher.add(3)
    await clock.advance(100)

    expect(gate.calls.map(({ at, items }) => [at, items])).toEqual([
      [20, [1, 2]],
      [70, [3]],
    ])
  })

  inVirtualTime('is counted for each group on its own', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 50, eager: false, groupBy: (item) => item[0] })

    batcher.add('a1')
    await clock.advance(20)
    batcher.add('b1')
    await clock.advance(20)
    batcher.add('a2')
    await clock.advance(100)

    expect(gate.calls.map(({ at, items }) => [at, items])).toEqual([
      [50, ['a1', 'a2']],
      [70, ['b1']],
    ])
  })

  inVirtualTime('of 0 lets what came in one turn leave at its end, together', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 0, eager: false })

    batcher.add(1)
    batcher.add(2)
    await clock.advance(0)
    batcher.add(3)
    await clock.advance(0)

    expect(gate.batches).toEqual([[1, 2], [3]])
  })

  inVirtualTime('leaves no timer when its batch was withdrawn or left full', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, maxBatchSize: 2 })
    const controller = new AbortController()

    batcher.add(1, { signal: controller.signal })
    expect(clock.pending).toBe(1)
    controller.abort()
    expect(clock.pending).toBe(0)
    batcher.add(2)
    batcher.add(3)
    await clock.advance(0)

    expect(clock.pending).toBe(0)
    expect(gate.batches).toEqual([[2, 3]])
  })
})

describe('a busy batcher', () => {
  inVirtualTime('lets a batch that became due meanwhile leave the moment a slot frees', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, {
      clock,
      maxWaitMs: 50,
      eager: false,
      concurrency: 1,
      maxBatchSize: 2,
    })

    for (const n of [1, 2, 3, 4]) batcher.add(n)
    await clock.advance(33)
    expect(gate.batches).toEqual([[1, 2]])
    gate.echo(0)
    await clock.advance(0)

    expect(gate.calls.map(({ at }) => at)).toEqual([0, 33])
    expect(gate.batches).toEqual([
      [1, 2],
      [3, 4],
    ])
    expectBooks(batcher, { inFlightBatches: 1, inFlight: 2 })
  })

  inVirtualTime('lets a batch that is overdue take in more until it leaves', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 50, concurrency: 1 })

    batcher.add(1)
    await clock.advance(0)
    batcher.add(2)
    await clock.advance(80)
    batcher.add(3)
    gate.echo(0)
    await clock.advance(0)

    expect(gate.batches).toEqual([[1], [2, 3]])
  })

  for (const concurrency of [1, 2, 4]) {
    inVirtualTime(
      `never runs more than ${concurrency} batches at a time, and uses all of these slots`,
      async (clock) => {
        const gate = new Gate<number>(clock)
        const batcher = new AsyncBatcher(gate.process, { clock, maxBatchSize: 2, concurrency })

        const all = batcher.addMany(Array.from({ length: 20 }, (_, n) => n))
        for (let settled = 0; settled < 10; settled++) {
          await clock.advance(1)
          expect(batcher.stats().inFlightBatches).toBe(Math.min(concurrency, 10 - settled))
          gate.echo(settled)
        }
        await clock.advance(0)

        expect(gate.widest).toBe(concurrency)
        expect(await all).toHaveLength(20)
        expect(gate.batches.flat()).toEqual(Array.from({ length: 20 }, (_, n) => n))
      },
    )
  }
})

describe('eager', () => {
  inVirtualTime('a lone call on an idle batcher takes one turn', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock, maxWaitMs: 60_000 })

    const answer = watch(batcher.add(1))
    await clock.advance(0)

    expect(answer.value).toBe(1)
    expect(clock.now()).toBe(0)
  })

  inVirtualTime('all of one turn leaves together, what promises bring in the meantime included', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })

    batcher.add(1)
    Promise.resolve()
      .then(() => Promise.resolve())
      .then(() => void batcher.add(2))
    await clock.advance(0)

    expect(gate.batches).toEqual([[1, 2]])
  })

  inVirtualTime('what gathers behind the last batch in flight leaves when that settles', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 1000 })

    batcher.add(1)
    await clock.advance(0)
    for (const n of [2, 3, 4]) {
      batcher.add(n)
      await clock.advance(10)
    }
    expect(gate.batches).toEqual([[1]])
    gate.echo(0)
    await clock.advance(0)

    expect(gate.calls.map(({ at, items }) => [at, items])).toEqual([
      [0, [1]],
      [30, [2, 3, 4]],
    ])
    gate.letGo()
    await clock.advance(0)
  })

  inVirtualTime('it leaves when that batch fails, too', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 1000 })

    batcher.add(1)
    await clock.advance(0)
    batcher.add(2)
    gate.call(0).fail(new Error('no'))
    await clock.advance(0)

    expect(gate.batches).toEqual([[1], [2]])
  })

  inVirtualTime('only full or due batches use further slots', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 50, maxBatchSize: 2, concurrency: 4 })

    batcher.add(1)
    await clock.advance(0)
    batcher.add(2)
    await clock.advance(10)
    expect(gate.batches).toEqual([[1]])
    // Full: a second slot.
    batcher.add(3)
    await clock.advance(0)
    expect(gate.batches).toEqual([[1], [2, 3]])
    // Overdue: a third one.
    batcher.add(4)
    await clock.advance(49)
    expect(gate.calls).toHaveLength(2)
    await clock.advance(1)

    expect(gate.calls.map(({ at, items }) => [at, items])).toEqual([
      [0, [1]],
      [10, [2, 3]],
      [60, [4]],
    ])
  })

  inVirtualTime('a batch that settles while another is in flight lets nothing go that isn’t due', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 1000, maxBatchSize: 2 })

    for (const n of [1, 2, 3, 4]) batcher.add(n)
    await clock.advance(0)
    batcher.add(5)
    gate.echo(0)
    await clock.advance(10)
    expect(gate.calls).toHaveLength(2)
    gate.echo(1)
    await clock.advance(0)

    expect(gate.batches).toEqual([[1, 2], [3, 4], [5]])
  })

  inVirtualTime('false holds out for a full batch or maxWaitMs, though nothing is in flight', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 50, maxBatchSize: 3, eager: false })
    gate.letGo()

    batcher.add(1)
    await clock.advance(49)
    expect(gate.calls).toHaveLength(0)
    await clock.advance(1)
    for (const n of [2, 3, 4]) batcher.add(n)
    await clock.advance(0)

    expect(gate.calls.map(({ at, items }) => [at, items])).toEqual([
      [50, [1]],
      [50, [2, 3, 4]],
    ])
  })

  inVirtualTime('false holds out behind a batch that settles, as well', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxWaitMs: 50, maxBatchSize: 2, eager: false })

    batcher.add(1)
    batcher.add(2)
    await clock.advance(0)
    batcher.add(3)
    gate.letGo()
    await clock.advance(49)
    expect(gate.calls).toHaveLength(1)
    await clock.advance(1)

    expect(gate.batches).toEqual([[1, 2], [3]])
  })
})
