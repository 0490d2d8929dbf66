import { AsyncBatcher } from 'spillway'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { expectBooks, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

const nothing = { succeeded: 0, failed: 0, dropped: 0 }

describe('flush', () => {
  inVirtualTime('with nothing pending resolves at once to zeros, however often', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })

    expect(await Promise.all([batcher.flush(), batcher.flush()])).toEqual([nothing, nothing])
    expect(gate.calls).toHaveLength(0)
  })

  inVirtualTime('lets all go that holds out for maxWaitMs, and resolves when it is settled', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, maxWaitMs: 60_000 })

    batcher.add(1)
    batcher.add(2)
    const flushed = watch(batcher.flush())
    expect(clock.pending).toBe(0)
    await clock.advance(0)
    expect(gate.batches).toEqual([[1, 2]])
    expect(flushed.status).toBe('pending')
    gate.echo(0)
    await clock.advance(0)

    expect(flushed.value).toEqual({ succeeded: 2, failed: 0, dropped: 0 })
    expect(clock.now()).toBe(0)
  })

  inVirtualTime('lets the batches of all groups go', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, groupBy: (item) => item })
    gate.letGo()

    for (const item of ['a', 'b', 'c', 'd', 'e', 'f']) batcher.add(item)

    expect(await batcher.flush()).toEqual({ succeeded: 6, failed: 0, dropped: 0 })
    expect(gate.calls).toHaveLength(6)
  })

  inVirtualTime('says how many succeeded and how many failed, and never rejects', async (clock) => {
    const batcher = new AsyncBatcher<number, number>(
      async (items) => {
        if (items.includes(9)) throw new Error('nine')
        return items.map((n) => (n === 2 ? new Error('two') : n))
      },
      { clock, eager: false, maxBatchSize: 3 },
    )

    for (const n of [1, 2, 3, 9, 8]) batcher.add(n)

    expect(await batcher.flush()).toEqual({ succeeded: 2, failed: 3, dropped: 0 })
  })

  inVirtualTime('counts only what was pending at the call', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock })
    batcher.add(1)
    batcher.add(2)
    await clock.advance(0)

    batcher.add(3)

    expect(await batcher.flush()).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    expectBooks(batcher, { succeeded: 3 })
  })

  inVirtualTime('waits for what is in flight as well', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })

    batcher.add(1)
    await clock.advance(0)
    const flushed = watch(batcher.flush())
    await clock.advance(1000)
    expect(flushed.status).toBe('pending')
    gate.echo(0)
    await clock.advance(0)

    expect(flushed.value).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
  })

  inVirtualTime('never waits for later items, not even for those of the same turn', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxBatchSize: 1 })

    batcher.add(1)
    const flushed = watch(batcher.flush())
    batcher.add(2)
    await clock.advance(0)
    gate.echo(0)
    await clock.advance(0)

    expect(gate.batches).toEqual([[1], [2]])
    expect(flushed.value).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    expectBooks(batcher, { pending: 1 })
  })

  inVirtualTime('counts no later item that left in the same batch', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, concurrency: 1, maxBatchSize: 2 })

    batcher.add(1)
    batcher.add(2)
    await clock.advance(0)
    batcher.add(3)
    const flushed = watch(batcher.flush())
    batcher.add(4)
    gate.letGo()
    await clock.advance(0)

    expect(gate.batches).toEqual([
      [1, 2],
      [3, 4],
    ])
    expect(flushed.value).toEqual({ succeeded: 3, failed: 0, dropped: 0 })
  })

  inVirtualTime('holds nothing back that comes after it: eager false holds out again', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, maxWaitMs: 50 })
    gate.letGo()

    batcher.add(1)
    await batcher.flush()
    batcher.add(2)
    await clock.advance(49)
    expect(gate.calls).toHaveLength(1)
    await clock.advance(1)

    expect(gate.batches).toEqual([[1], [2]])
  })

  inVirtualTime('one that saw failures never poisons the next', async (clock) => {
    let down = true
    const batcher = new AsyncBatcher<number, number>(
      async (items) => {
        if (down) throw new Error('down')
        return items
      },
      { clock, eager: false },
    )

    batcher.add(1)
    expect(await batcher.flush()).toEqual({ succeeded: 0, failed: 1, dropped: 0 })
    down = false
    batcher.add(2)
    expect(await batcher.flush()).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    expect(await batcher.flush()).toEqual(nothing)
  })

  inVirtualTime('many that overlap each wait for their own, and each count all that was pending', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxBatchSize: 1, concurrency: 10 })

    const flushes = [1, 2, 3].map((n) => {
      batcher.add(n)
      return watch(batcher.flush())
    })
    await clock.advance(0)
    // The last one first: nobody may be told before what came before has settled.
    gate.echo(2)
    await clock.advance(0)
    expect(flushes.map(({ status }) => status)).toEqual(['pending', 'pending', 'pending'])
    gate.echo(0)
    await clock.advance(0)
    expect(flushes.map(({ status }) => status)).toEqual(['fulfilled', 'pending', 'pending'])
    gate.call(1).fail(new Error('no'))
    await clock.advance(0)

    expect(flushes.map(({ value }) => value)).toEqual([
      { succeeded: 1, failed: 0, dropped: 0 },
      { succeeded: 1, failed: 1, dropped: 0 },
      { succeeded: 2, failed: 1, dropped: 0 },
    ])
  })

  inVirtualTime('a later one doesn’t count again what an earlier one saw settle', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, maxBatchSize: 1, concurrency: 10 })

    batcher.add(1)
    const first = watch(batcher.flush())
    batcher.add(2)
    await clock.advance(0)
    gate.echo(1)
    await clock.advance(0)
    const second = watch(batcher.flush())
    gate.echo(0)
    await clock.advance(0)

    expect(first.value).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    expect(second.value).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
  })

  inVirtualTime('waits through back-off, which it doesn’t cut short', async (clock) => {
    const gate = new Gate<number>(clock)
    const retry = { attempts: 2, delayMs: 100 }
    const batcher = new AsyncBatcher(gate.process, { clock, retry, random: () => 0.5 })

    batcher.add(1)
    await clock.advance(0)
    gate.call(0).fail(new Error('no'))
    await clock.advance(0)
    const flushed = watch(batcher.flush())
    gate.letGo()
    await clock.advance(49)
    expect(flushed.status).toBe('pending')
    await clock.advance(1)

    expect(flushed.value).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
  })

  inVirtualTime(
    'ends with what its callers were told: a timed-out batch needn’t give its slot back first',
    async (clock) => {
      const gate = new Gate<number>(clock)
      const batcher = new AsyncBatcher(gate.process, { clock, timeoutMs: 50 })

      batcher.add(1)
      const flushed = watch(batcher.flush())
      await clock.advance(50)

      expect(flushed.value).toEqual({ succeeded: 0, failed: 1, dropped: 0 })
      gate.letGo()
      await clock.advance(0)
    },
  )

  inVirtualTime('an item that its caller gave up counts as nothing, and isn’t waited for', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })
    const controller = new AbortController()

    batcher.add(1, { signal: controller.signal })
    await clock.advance(0)
    const flushed = watch(batcher.flush())
    controller.abort()
    await clock.advance(0)

    expect(flushed.value).toEqual(nothing)
  })

  inVirtualTime('doesn’t wait for what still waits for room: that was not accepted', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 1, maxBatchSize: 1, concurrency: 1 })
    const many = watch(batcher.addMany([1, 2, 3, 4]))

    const flushed = watch(batcher.flush())
    await clock.advance(0)
    gate.echo(0)
    await clock.advance(0)

    expect(flushed.value).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    expect(many.status).toBe('pending')
    gate.letGo()
    await clock.advance(0)
  })
})
