import { getEventListeners } from 'node:events'
import { AsyncBatcher } from 'spillway'
import type { FakeClock } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { codeOf, expectBooks, reasonOf, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

/** One item in flight, one queued, and no room for more. */
async function full(clock: FakeClock) {
  const gate = new Gate<string>(clock)
  const batcher = new AsyncBatcher(gate.process, { clock, capacity: 1, maxBatchSize: 1, concurrency: 1 })
  batcher.add('in flight')
  await clock.advance(0)
  batcher.add('queued')
  return { gate, batcher }
}

describe('ready', () => {
  inVirtualTime('resolves at once while there is room, and offers nothing', async (clock) => {
    const batcher = new AsyncBatcher((items: string[]) => items, { clock, capacity: 1 })

    await batcher.ready()

    expectBooks(batcher, { offered: 0 })
  })

  inVirtualTime('waits while there is none', async (clock) => {
    const { gate, batcher } = await full(clock)

    const ready = watch(batcher.ready())
    await clock.advance(1000)
    expect(ready.status).toBe('pending')
    gate.echo(0)
    await clock.advance(0)

    expect(ready.status).toBe('fulfilled')
    gate.letGo()
    await clock.advance(0)
  })

  inVirtualTime('lets in who waits, first come, first served', async (clock) => {
    const { gate, batcher } = await full(clock)
    const order: number[] = []

    const all = [1, 2, 3, 4].map(async (n) => {
      await batcher.ready()
      order.push(n)
      return batcher.add(`${n}`)
    })
    gate.letGo()
    await clock.advance(0)

    expect(await Promise.all(all)).toEqual(['1', '2', '3', '4'])
    expect(order).toEqual([1, 2, 3, 4])
    expect(gate.batches.flat()).toEqual(['in flight', 'queued', '1', '2', '3', '4'])
    expectBooks(batcher, { rejected: 0, succeeded: 6 })
  })

  inVirtualTime('who asks while there is room for one, all in one turn, is let in one by one', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock, capacity: 1, concurrency: 1 })

    const all = [1, 2, 3, 4, 5].map(async (n) => {
      await batcher.ready()
      return batcher.add(n)
    })
    await clock.advance(0)

    expect((await Promise.allSettled(all)).map(({ status }) => status)).toEqual(Array(5).fill('fulfilled'))
    expectBooks(batcher, { rejected: 0, succeeded: 5 })
  })

  inVirtualTime('a thousand senders that wait for room are never refused', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 10, maxBatchSize: 5, concurrency: 2 })
    gate.letGo()

    const all = Array.from({ length: 1000 }, async (_, n) => {
      await batcher.ready()
      return batcher.add(n)
    })
    await clock.advance(0)
    await Promise.allSettled(all)

    expectBooks(batcher, { offered: 1000, succeeded: 1000, rejected: 0 })
  })

  inVirtualTime('the room is kept for who was let in, until the end of the turn', async (clock) => {
    const { gate, batcher } = await full(clock)
    const order: string[] = []

    const waiter = batcher.ready().then(() => {
      order.push('let in')
      return batcher.add('the one who waited')
    })
    gate.echo(0)
    // Let the slot free and the waiter's promise resolve, but be there before its continuation adds.
    const intruders = gate
      .call(0)
      .work.then(() => Promise.resolve())
      .then(() => batcher.addMany(['intruder 1', 'intruder 2']))
    gate.letGo()
    await clock.advance(0)

    expect(await waiter).toBe('the one who waited')
    expect((await intruders).map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled'])
    expectBooks(batcher, { rejected: 0 })
  })

  inVirtualTime('addMany doesn’t take the room that was promised in this turn', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 1, eager: false })
    const controller = new AbortController()
    batcher.add('gives up', { signal: controller.signal })

    const waiter = batcher.ready().then(() => batcher.add('the one who waited'))
    controller.abort()
    const many = batcher.addMany(['came later'])
    gate.letGo()
    await clock.advance(1000)

    expect(await waiter).toBe('the one who waited')
    expect(await many).toEqual([{ status: 'fulfilled', value: 'came later' }])
    expectBooks(batcher, { rejected: 0 })
  })

  inVirtualTime('room that nobody used passes on to the next in line at the end of the turn', async (clock) => {
    const { gate, batcher } = await full(clock)

    const unused = watch(batcher.ready())
    const next = watch(batcher.ready())
    gate.echo(0)
    await gate.call(0).work
    await new Promise((resolve) => setImmediate(resolve))
    expect([unused.status, next.status]).toEqual(['fulfilled', 'pending'])
    await clock.advance(0)

    expect(next.status).toBe('fulfilled')
    gate.letGo()
    await clock.advance(0)
  })

  inVirtualTime('gives up with its signal’s reason, leaves the line, and takes its listener away', async (clock) => {
    const { gate, batcher } = await full(clock)
    const controller = new AbortController()
    const reason = new Error('no patience')

    const first = watch(batcher.ready({ signal: controller.signal }))
    const second = watch(batcher.ready())
    controller.abort(reason)
    await clock.advance(0)
    expect(first).toEqual({ status: 'rejected', reason, times: 1 })
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    gate.echo(0)
    await clock.advance(0)

    expect(second.status).toBe('fulfilled')
    gate.letGo()
    await clock.advance(0)
  })

  inVirtualTime('takes its listener away when it was let in', async (clock) => {
    const { gate, batcher } = await full(clock)
    const { signal } = new AbortController()

    const ready = batcher.ready({ signal })
    expect(getEventListeners(signal, 'abort')).toHaveLength(1)
    gate.letGo()
    await clock.advance(0)
    await ready

    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  inVirtualTime('rejects at once when its signal was aborted before, though there is room', async (clock) => {
    const batcher = new AsyncBatcher((items: string[]) => items, { clock })

    expect(await reasonOf(batcher.ready({ signal: AbortSignal.abort('gone') }))).toBe('gone')
    expectBooks(batcher, { offered: 0 })
  })
})

describe('addMany', () => {
  inVirtualTime('gives each item’s outcome in the items’ order', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items.map((n) => (n === 2 ? new Error('two') : n * 10)), {
      clock,
      maxBatchSize: 2,
    })

    const outcomes = batcher.addMany([1, 2, 3])
    await clock.advance(0)

    expect(await outcomes).toEqual([
      { status: 'fulfilled', value: 10 },
      { status: 'rejected', reason: new Error('two') },
      { status: 'fulfilled', value: 30 },
    ])
  })

  inVirtualTime('of nothing resolves to nothing', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock })

    expect(await batcher.addMany([])).toEqual([])
    expectBooks(batcher, { offered: 0 })
  })

  for (const overflow of ['reject', 'drop-newest', 'drop-oldest'] as const) {
    inVirtualTime(`waits for room and neither refuses nor drops (overflow: ${overflow})`, async (clock) => {
      const batcher = new AsyncBatcher((items: number[]) => items, {
        clock,
        overflow,
        capacity: 3,
        maxBatchSize: 2,
        concurrency: 1,
      })

      const outcomes = batcher.addMany(Array.from({ length: 100 }, (_, n) => n))
      expectBooks(batcher, { offered: 3, pending: 3 })
      await clock.advance(0)

      expect((await outcomes).map((outcome) => outcome.status === 'fulfilled' && outcome.value)).toEqual(
        Array.from({ length: 100 }, (_, n) => n),
      )
      expectBooks(batcher, { offered: 100, succeeded: 100, dropped: 0, rejected: 0 })
    })
  }

  inVirtualTime('stands in one line with ready and other addMany calls', async (clock) => {
    const { gate, batcher } = await full(clock)

    const first = batcher.addMany(['a', 'b'])
    const second = batcher.ready().then(() => batcher.add('c'))
    const third = batcher.addMany(['d', 'e'])
    gate.letGo()
    await clock.advance(0)
    await Promise.all([first, second, third])

    expect(gate.batches.flat()).toEqual(['in flight', 'queued', 'a', 'b', 'c', 'd', 'e'])
  })

  inVirtualTime('joins the line even where there is room, when others wait already', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, {
      clock,
      capacity: 2,
      eager: false,
      maxBatchSize: 2,
      concurrency: 1,
    })

    const first = batcher.addMany(['a', 'b', 'c', 'd', 'e'])
    const second = batcher.addMany(['x'])
    gate.letGo()
    await clock.advance(1000)
    await Promise.all([first, second])

    expect(gate.batches.flat()).toEqual(['a', 'b', 'c', 'd', 'e', 'x'])
  })

  inVirtualTime('has its own copy of the items', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, capacity: 1, concurrency: 1 })
    gate.letGo()
    const items = [1, 2, 3]

    const outcomes = batcher.addMany(items)
    items.fill(9)
    items.length = 1
    await clock.advance(0)

    expect(await outcomes).toHaveLength(3)
    expect(gate.batches.flat()).toEqual([1, 2, 3])
  })
})

describe('close and those who wait for room', () => {
  inVirtualTime('rejects them at once with ClosedError, before anything else settles', async (clock) => {
    const { gate, batcher } = await full(clock)

    const ready = watch(batcher.ready())
    const many = watch(batcher.addMany(['a', 'b']))
    const closed = watch(batcher.close())
    await clock.advance(0)

    expect(codeOf(ready.reason)).toBe('ERR_CLOSED')
    expect(many.value?.map((outcome) => outcome.status === 'rejected' && codeOf(outcome.reason))).toEqual([
      'ERR_CLOSED',
      'ERR_CLOSED',
    ])
    expect(closed.status).toBe('pending')
    expectBooks(batcher, { offered: 4, rejected: 2, pending: 2 })
    gate.letGo()
    await clock.advance(0)
    expect(closed.value).toEqual({ drained: true, abandoned: 0 })
  })

  inVirtualTime('what addMany had got in is still answered', async (clock) => {
    const { gate, batcher } = await full(clock)

    const many = watch(batcher.addMany(['a', 'b']))
    gate.echo(0)
    await clock.advance(0)
    batcher.close()
    gate.letGo()
    await clock.advance(0)

    expect(many.value?.[0]).toEqual({ status: 'fulfilled', value: 'a' })
    expect(many.value?.[1]).toMatchObject({ status: 'rejected', reason: { code: 'ERR_CLOSED' } })
  })

  inVirtualTime('ready and addMany after close reject with ClosedError', async (clock) => {
    const batcher = new AsyncBatcher((items: string[]) => items, { clock })
    await batcher.close()

    expect(codeOf(await reasonOf(batcher.ready()))).toBe('ERR_CLOSED')
    expect(await batcher.addMany(['a'])).toMatchObject([{ status: 'rejected', reason: { code: 'ERR_CLOSED' } }])
    expectBooks(batcher, { offered: 1, rejected: 1 })
  })
})
