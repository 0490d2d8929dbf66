import { AsyncBatcher, isSpillwayError } from 'spillway'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { codeOf, expectBooks, reasonOf, watch } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

interface Sized {
  readonly key: string
  readonly bytes: number
}

const bytesIn = (items: readonly Sized[]): number => items.reduce((sum, item) => sum + item.bytes, 0)

describe('keyOf', () => {
  inVirtualTime('equal keys in one batch are sent once and share the answer', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, keyOf: (item) => item.toLowerCase() })

    const answers = ['a', 'B', 'A', 'b', 'c'].map((item) => watch(batcher.add(item)))
    await clock.advance(0)
    gate.call(0).answer(['answer a', 'answer b', 'answer c'])
    await clock.advance(0)

    expect(gate.batches).toEqual([['a', 'B', 'c']])
    expect(answers.map((answer) => answer.value)).toEqual(['answer a', 'answer b', 'answer a', 'answer b', 'answer c'])
    expectBooks(batcher, { offered: 5, succeeded: 5, batches: 1 })
  })

  inVirtualTime('an Error as a shared answer rejects all who share it', async (clock) => {
    const batcher = new AsyncBatcher<string, string>((items) => items.map((k) => (k === 'a' ? new Error(k) : k)), {
      clock,
      keyOf: (item) => item,
    })

    const answers = ['a', 'b', 'a'].map((item) => watch(batcher.add(item)))
    await clock.advance(0)

    expect(answers.map((answer) => answer.status)).toEqual(['rejected', 'fulfilled', 'rejected'])
    expectBooks(batcher, { succeeded: 1, failed: 2 })
  })

  inVirtualTime('as many results as distinct keys are wanted, not as many as callers', async (clock) => {
    const batcher = new AsyncBatcher<string, string>(() => ['a', 'a'], { clock, keyOf: (item) => item })

    const reasons = ['a', 'a'].map((item) => reasonOf(batcher.add(item)))
    await clock.advance(0)

    expect((await Promise.all(reasons)).map(codeOf)).toEqual(['ERR_BATCH_RESULT', 'ERR_BATCH_RESULT'])
  })

  inVirtualTime(
    'keys compare as those of a Map: NaN is NaN, 0 is -0, 1 is not "1", objects are themselves',
    async (clock) => {
      const gate = new Gate<unknown>(clock)
      const batcher = new AsyncBatcher(gate.process, { clock, keyOf: (item) => item })
      const object = {}

      const items = [Number.NaN, 0, 1, '1', object, Number.NaN, -0, object, {}, null, undefined, null, undefined]
      const answers = items.map((item) => watch(batcher.add(item)))
      await clock.advance(0)
      gate.letGo()
      await clock.advance(0)

      expect(gate.batches).toEqual([[Number.NaN, 0, 1, '1', object, {}, null, undefined]])
      expect(answers.every((answer) => answer.status === 'fulfilled')).toBe(true)
    },
  )

  inVirtualTime('duplicates don’t count towards maxBatchSize', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, keyOf: (n) => n, maxBatchSize: 3, eager: false })

    for (const n of [1, 1, 1, 1, 2, 2]) batcher.add(n)
    await clock.advance(0)
    expect(gate.batches).toEqual([])

    batcher.add(3)
    await clock.advance(0)
    gate.letGo()
    await clock.advance(0)

    expect(gate.batches).toEqual([[1, 2, 3]])
    expectBooks(batcher, { succeeded: 7 })
    expect(batcher.stats().batchSize.max).toBe(3)
  })

  inVirtualTime('a duplicate joins a full batch that hasn’t left', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, keyOf: (n) => n, maxBatchSize: 1, concurrency: 1 })

    for (const n of [1, 2, 2, 2]) batcher.add(n)
    await clock.advance(0)
    batcher.add(2)
    gate.letGo()
    await clock.advance(0)

    expect(gate.batches).toEqual([[1], [2]])
    expectBooks(batcher, { succeeded: 5, batches: 2 })
  })

  inVirtualTime('a key that is in flight is sent again: only one batch shares an answer', async (clock) => {
    const gate = new Gate<string, number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, keyOf: (k) => k })

    const early = batcher.add('a')
    await clock.advance(0)
    const late = batcher.add('a')
    gate.call(0).answer([1])
    await clock.advance(0)
    gate.call(1).answer([2])

    expect(await Promise.all([early, late])).toEqual([1, 2])
  })

  inVirtualTime(
    'when the caller who brought the item gives up, the others of its key still get their answer',
    async (clock) => {
      const gate = new Gate<string>(clock)
      const batcher = new AsyncBatcher(gate.process, { clock, keyOf: (k) => k.toLowerCase(), eager: false })
      const controller = new AbortController()

      const first = watch(batcher.add('a', { signal: controller.signal }))
      const second = watch(batcher.add('A'))
      controller.abort()
      gate.letGo()
      await clock.advance(100)

      expect(gate.batches).toEqual([['A']])
      expect([first.status, second.status]).toEqual(['rejected', 'fulfilled'])
      expectBooks(batcher, { aborted: 1, succeeded: 1 })
    },
  )

  inVirtualTime('when all callers of a key give up, its item isn’t sent', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, keyOf: (k) => k, eager: false })
    const controller = new AbortController()
    const { signal } = controller

    batcher.add('a', { signal })
    batcher.add('b')
    batcher.add('a', { signal })
    controller.abort()
    gate.letGo()
    await clock.advance(100)

    expect(gate.batches).toEqual([['b']])
  })
})

describe('maxBatchBytes', () => {
  const sized = { maxBatchBytes: 10, sizeOf: (item: Sized) => item.bytes }
  const item = (bytes: number, key = ''): Sized => ({ key, bytes })

  inVirtualTime('a batch leaves before it would pass the limit, and no batch passes it', async (clock) => {
    const gate = new Gate<Sized>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, maxWaitMs: 50, ...sized })

    for (const bytes of [4, 4, 4, 10, 1, 0, 9, 0]) batcher.add(item(bytes))
    await clock.advance(0)
    gate.letGo()
    await clock.advance(50)

    expect(gate.batches.map((batch) => batch.map(({ bytes }) => bytes))).toEqual([[4, 4], [4], [10], [1, 0, 9, 0]])
    expectBooks(batcher, { succeeded: 8 })
  })

  inVirtualTime('a batch of exactly the limit is full, and leaves at once', async (clock) => {
    const gate = new Gate<Sized>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, ...sized })

    batcher.add(item(6))
    batcher.add(item(4))
    await clock.advance(0)

    expect(gate.batches.map(bytesIn)).toEqual([10])
  })

  inVirtualTime('an item that alone is too large is refused and hurts nobody else', async (clock) => {
    const gate = new Gate<Sized>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, name: 'orders', ...sized })

    const before = watch(batcher.add(item(5)))
    const refused = reasonOf(batcher.add(item(11)))
    const after = watch(batcher.add(item(5)))
    await clock.advance(0)
    gate.letGo()
    await clock.advance(0)

    const reason = await refused
    expect(isSpillwayError(reason, 'ERR_TOO_LARGE')).toBe(true)
    expect((reason as Error).message).toBe('orders: an item of 11 bytes is over maxBatchBytes (10)')
    expect(gate.batches.map(bytesIn)).toEqual([10])
    expect([before.status, after.status]).toEqual(['fulfilled', 'fulfilled'])
    expectBooks(batcher, { offered: 3, rejected: 1, succeeded: 2 })
  })

  inVirtualTime('a too large item in addMany settles alone', async (clock) => {
    const batcher = new AsyncBatcher((items: Sized[]) => items.map(({ bytes }) => bytes), { clock, ...sized })

    const outcomes = batcher.addMany([item(1), item(11), item(2)])
    await clock.advance(0)

    expect((await outcomes).map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expectBooks(batcher, { rejected: 1, succeeded: 2 })
  })

  inVirtualTime('the bytes of a withdrawn item are free again', async (clock) => {
    const gate = new Gate<Sized>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, ...sized })
    const controller = new AbortController()

    batcher.add(item(6), { signal: controller.signal })
    controller.abort()
    batcher.add(item(6))
    batcher.add(item(3))
    gate.letGo()
    await clock.advance(100)

    expect(gate.batches.map((batch) => batch.map(({ bytes }) => bytes))).toEqual([[6, 3]])
  })

  inVirtualTime('the bytes of a shared item count once', async (clock) => {
    const gate = new Gate<Sized>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, eager: false, keyOf: ({ key }) => key, ...sized })

    batcher.add(item(4, 'a'))
    batcher.add(item(4, 'a'))
    batcher.add(item(4, 'b'))
    gate.letGo()
    await clock.advance(100)

    expect(gate.batches.map((batch) => batch.map(({ key }) => key))).toEqual([['a', 'b']])
  })

  inVirtualTime(
    'no batch passes the limit when a larger item takes the place of a withdrawn one of its key',
    async (clock) => {
      const gate = new Gate<Sized>(clock)
      const batcher = new AsyncBatcher(gate.process, { clock, eager: false, keyOf: ({ key }) => key, ...sized })
      const controller = new AbortController()

      batcher.add(item(1, 'a'), { signal: controller.signal })
      batcher.add(item(8, 'a'))
      batcher.add(item(7, 'b'))
      controller.abort()
      gate.letGo()
      await clock.advance(100)

      for (const batch of gate.batches) expect(bytesIn(batch)).toBeLessThanOrEqual(10)
      expectBooks(batcher, { succeeded: 2, aborted: 1 })
    },
  )

  inVirtualTime('sizeOf alone limits nothing', async (clock) => {
    const gate = new Gate<Sized>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, sizeOf: ({ bytes }) => bytes })

    batcher.add(item(1e9))
    batcher.add(item(1e9))
    await clock.advance(0)

    expect(gate.batches).toHaveLength(1)
  })
})

describe('a callback that goes wrong', () => {
  const broken = (thrown: unknown) => (item: number) => {
    if (item === 13) throw thrown
    return item
  }

  for (const callback of ['keyOf', 'groupBy', 'sizeOf'] as const) {
    for (const thrown of [new Error(`${callback} is broken`), undefined, null]) {
      inVirtualTime(`${callback} that throws ${thrown} rejects that item with it, and no other`, async (clock) => {
        const batcher = new AsyncBatcher((items: number[]) => items, { clock, [callback]: broken(thrown) })

        const good = watch(batcher.add(1))
        const bad = watch(batcher.add(13))
        const many = watch(batcher.addMany([2, 13]))
        await clock.advance(0)

        expect(good.value).toBe(1)
        expect(bad).toEqual({ status: 'rejected', reason: thrown, times: 1 })
        expect(many.value).toEqual([
          { status: 'fulfilled', value: 2 },
          { status: 'rejected', reason: thrown },
        ])
        expectBooks(batcher, { offered: 4, succeeded: 2, rejected: 2, pending: 0 })
      })
    }
  }

  for (const size of [-1, Number.NaN, Number.POSITIVE_INFINITY, '7', null, undefined, 7n, {}]) {
    inVirtualTime(
      `sizeOf that returns ${String(size)} (${typeof size}) rejects that item with ERR_OPTION`,
      async (clock) => {
        const batcher = new AsyncBatcher((items: number[]) => items, {
          clock,
          maxBatchBytes: 10,
          sizeOf: (n) => (n === 13 ? (size as number) : 1),
        })

        const good = watch(batcher.add(1))
        const bad = reasonOf(batcher.add(13))
        await clock.advance(0)

        expect(codeOf(await bad)).toBe('ERR_OPTION')
        expect((await bad) as Error).toHaveProperty('field', 'sizeOf')
        expect(good.value).toBe(1)
        expectBooks(batcher, { succeeded: 1, rejected: 1 })
      },
    )
  }

  inVirtualTime('groupBy that returns nothing puts the item into the group of those without one', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, groupBy: () => undefined })

    batcher.add(1)
    batcher.add(2)
    await clock.advance(0)

    expect(gate.batches).toEqual([[1, 2]])
  })
})
