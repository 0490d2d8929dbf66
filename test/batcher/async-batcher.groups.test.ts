import { AsyncLocalStorage } from 'node:async_hooks'
import { AsyncBatcher } from 'spillway'
import { describe, expect } from 'vitest'
import { Gate } from './support/gate.js'
import { expectBooks } from './support/outcomes.js'
import { inVirtualTime } from './support/virtual-time.js'

const groupOf = (item: string): string => item[0] as string
const numbered = (group: string, count: number): string[] => Array.from({ length: count }, (_, n) => `${group}${n}`)

describe('groupBy', () => {
  inVirtualTime('a batch never mixes groups', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, groupBy: groupOf, maxBatchSize: 3 })
    gate.letGo()

    const answers = ['a0', 'b0', 'a1', 'c0', 'b1', 'a2', 'a3', 'c1'].map((item) => batcher.add(item))
    await clock.advance(0)

    expect(gate.batches.map((batch) => batch.join(' ')).sort()).toEqual(['a0 a1 a2', 'a3', 'b0 b1', 'c0 c1'])
    expect(await Promise.all(answers)).toEqual(['a0', 'b0', 'a1', 'c0', 'b1', 'a2', 'a3', 'c1'])
  })

  inVirtualTime('groups compare as keys of a Map do', async (clock) => {
    const gate = new Gate<unknown>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, groupBy: (item) => item, concurrency: 10 })

    for (const item of [Number.NaN, 1, '1', Number.NaN, 0, -0]) batcher.add(item)
    await clock.advance(0)

    expect(gate.batches).toEqual([[Number.NaN, Number.NaN], [1], ['1'], [0, -0]])
  })

  inVirtualTime('a batch of one group never counts towards the size of another’s', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, groupBy: groupOf, maxBatchSize: 2, eager: false })

    batcher.add('a0')
    batcher.add('b0')
    await clock.advance(0)
    expect(gate.calls).toHaveLength(0)
    batcher.add('a1')
    await clock.advance(0)

    expect(gate.batches).toEqual([['a0', 'a1']])
    gate.letGo()
    await batcher.close()
  })

  inVirtualTime('groups take turns: the backlog of one doesn’t starve another', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, groupBy: groupOf, maxBatchSize: 2, concurrency: 1 })

    for (const item of numbered('a', 40)) batcher.add(item)
    await clock.advance(0)
    for (const item of [...numbered('b', 4), ...numbered('c', 2)]) batcher.add(item)
    for (let settled = 0; settled < 6; settled++) {
      await clock.advance(0)
      gate.echo(settled)
    }
    await clock.advance(0)

    // One batch of a was on its way, and one stood in line, before the others came.
    const order = gate.batches.map((batch) => groupOf(batch[0] as string)).join('')
    expect(order.slice(0, 6)).toMatch(/^aabcab$/)
    gate.letGo()
    await batcher.close()
  })

  inVirtualTime('a newcomer’s lone item waits for at most one batch of each other group', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, groupBy: groupOf, maxBatchSize: 1, concurrency: 1 })

    for (let round = 0; round < 50; round++) for (const group of ['a', 'b', 'c']) batcher.add(`${group}${round}`)
    await clock.advance(0)
    batcher.add('z')
    for (let settled = 0; settled < 8; settled++) {
      await clock.advance(0)
      gate.echo(settled)
    }

    const place = gate.batches.findIndex((batch) => batch[0] === 'z')
    expect(place).toBeGreaterThan(0)
    expect(place).toBeLessThanOrEqual(5)
    gate.letGo()
    await batcher.close()
  })

  inVirtualTime('the limit of concurrency is that of all groups together', async (clock) => {
    const gate = new Gate<string>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock, groupBy: groupOf, concurrency: 2 })

    for (const item of ['a', 'b', 'c', 'd', 'e']) batcher.add(item)
    await clock.advance(0)
    expectBooks(batcher, { inFlightBatches: 2, pending: 5 })
    gate.letGo()
    await clock.advance(0)

    expect(gate.batches).toEqual([['a'], ['b'], ['c'], ['d'], ['e']])
    expectBooks(batcher, { succeeded: 5 })
  })

  inVirtualTime('ten thousand groups that came and went leave an idle batcher behind', async (clock) => {
    const batcher = new AsyncBatcher((items: number[]) => items, { clock, groupBy: (n) => n })

    await Promise.all([batcher.addMany(Array.from({ length: 10_000 }, (_, n) => n)), clock.advance(0)])

    expectBooks(batcher, { succeeded: 10_000, pending: 0, batches: 10_000 })
  })
})

describe('the async context of a batch', () => {
  const tenant = new AsyncLocalStorage<string>()

  /** A batcher made for no tenant in particular, that notes in whose context its function is called. */
  const noting = (clock: ConstructorParameters<typeof AsyncBatcher>[1], fail: (attempt: number) => boolean) => {
    const contexts: (string | undefined)[] = []
    const batcher = tenant.run(
      'the component',
      () =>
        new AsyncBatcher<number, number>(async (items, { attempt }) => {
          contexts.push(tenant.getStore())
          await Promise.resolve()
          contexts.push(tenant.getStore())
          if (fail(attempt)) throw new Error('again')
          return items
        }, clock),
    )
    return { batcher, contexts }
  }

  for (const [how, options] of [
    ['eager', { eager: true }],
    ['full', { eager: false, maxBatchSize: 1 }],
    ['overdue', { eager: false, maxWaitMs: 10 }],
  ] as const) {
    inVirtualTime(`is the one in which the component was made, not a caller’s (${how})`, async (clock) => {
      const { batcher, contexts } = noting({ clock, ...options }, () => false)

      tenant.run('the first caller', () => void batcher.add(1))
      tenant.run('the second caller', () => void batcher.add(2))
      await tenant.run('the time', () => clock.advance(10))

      expect(new Set(contexts)).toEqual(new Set(['the component']))
    })
  }

  inVirtualTime('stays so for retries', async (clock) => {
    const { batcher, contexts } = noting({ clock, retry: { attempts: 3, delayMs: 10 } }, (attempt) => attempt < 3)

    tenant.run('a caller', () => void batcher.add(1))
    await tenant.run('the time', () => clock.advance(1000))

    expect(contexts).toHaveLength(6)
    expect(new Set(contexts)).toEqual(new Set(['the component']))
  })

  inVirtualTime('stays so for batches that leave on flush, on close and behind another one', async (clock) => {
    const { batcher, contexts } = noting({ clock, eager: false, concurrency: 1, maxBatchSize: 2 }, () => false)

    tenant.run('a caller', () => void batcher.addMany([1, 2, 3, 4, 5]))
    await tenant.run('who flushes', () => batcher.flush())
    tenant.run('a caller', () => void batcher.add(6))
    await tenant.run('who closes', () => batcher.close())

    expect(contexts).toHaveLength(8)
    expect(new Set(contexts)).toEqual(new Set(['the component']))
  })

  inVirtualTime('stays so for a retry that close hurries', async (clock) => {
    const { batcher, contexts } = noting(
      { clock, retry: { attempts: 2, delayMs: 1e6 }, random: () => 0.9 },
      (n) => n < 2,
    )

    tenant.run('a caller', () => void batcher.add(1))
    await clock.advance(0)
    await tenant.run('who closes', () => batcher.close())

    expect(contexts).toHaveLength(4)
    expect(new Set(contexts)).toEqual(new Set(['the component']))
  })

  inVirtualTime('of a caller is its own again after its answer', async (clock) => {
    const { batcher } = noting({ clock }, () => false)

    const after = tenant.run('a caller', async () => {
      await batcher.add(1)
      return tenant.getStore()
    })
    await clock.advance(0)

    expect(await after).toBe('a caller')
  })
})
