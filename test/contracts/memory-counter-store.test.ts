import type { CounterIncrement } from 'spillway'
import { counterStoreContract, MemoryCounterStore } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

describe('MemoryCounterStore keeps the contract of counter stores', () => {
  const store = new MemoryCounterStore()
  for (const { name, run } of counterStoreContract({ open: () => store })) test(name, run)
})

test.each([
  [null, 'options must be'],
  [{ rememberBatches: -1 }, 'rememberBatches must be a whole number between 0 and'],
  [{ initial: 5 }, 'initial must be an iterable of keys and values'],
  [{ initial: [['a', 0.5]] }, 'initial must have whole numbers'],
  [{ initial: [['a']] }, 'initial must have whole numbers'],
])('MemoryCounterStore refuses %o', (options, message) => {
  expect(() => new MemoryCounterStore(options as never)).toThrow(
    expect.objectContaining({ name: 'OptionError', message: expect.stringContaining(message) }),
  )
})

describe('the contract of counter stores', () => {
  /** Runs the contract against a broken store, and says which cases fail. */
  const failures = async (store: MemoryCounterStore): Promise<string[]> => {
    const failed: string[] = []
    for (const { name, run } of counterStoreContract({ open: () => store })) {
      await run().catch(() => failed.push(name))
    }
    return failed
  }

  test('fails a store that forgets batch ids', async () => {
    const failed = await failures(new MemoryCounterStore({ rememberBatches: 0 }))

    expect(failed).toContain('a batch id that comes again changes nothing, and gets the same answers')
    expect(failed).toContain('a batch id that comes from another process changes nothing')
    expect(failed).toContain('the same for add')
  })

  test('fails a store that answers in an order of its own', async () => {
    class Sorted extends MemoryCounterStore {
      override async increment(
        increments: readonly CounterIncrement[],
        context: Parameters<MemoryCounterStore['add']>[1],
      ) {
        const sorted = [...increments].sort((a, b) => (a.key < b.key ? -1 : 1))
        return super.increment(sorted, context)
      }
    }

    expect(await failures(new Sorted())).toContain(
      'answers are in the order of the increments, whatever order the store works in',
    )
  })

  test('fails a store that rounds', async () => {
    class Rounding extends MemoryCounterStore {
      override async getMany(keys: readonly string[]) {
        return (await super.getMany(keys)).map(Math.fround)
      }
    }

    expect(await failures(new Rounding())).toContain('a counter holds 2^53 - 1 exactly, both ways')
  })
})
