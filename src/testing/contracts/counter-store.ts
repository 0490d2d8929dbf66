import { isSpillwayError } from '../../core/errors.js'
import type { BatchContext, CounterStore } from '../../core/ports.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'
import { oddIds } from './usage-world.js'

/** What {@link counterStoreContract} needs of an implementation. */
export interface CounterStoreHarness {
  /**
   * Opens a store. Each call gives another one on the same data, as another process would have it. Cases use keys and ids of
   * their own, so nothing needs to be cleaned up between them.
   */
  open(): CounterStore | PromiseLike<CounterStore>
}

const max = Number.MAX_SAFE_INTEGER
const neverAborted = new AbortController().signal

/**
 * What every `CounterStore` must do, as cases for any test runner.
 *
 * @example
 * ```ts
 * import { counterStoreContract, MemoryCounterStore } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const store = new MemoryCounterStore()
 * for (const { name, run } of counterStoreContract({ open: () => store })) test(name, run)
 * ```
 */
export function counterStoreContract(harness: CounterStoreHarness): readonly ContractCase[] {
  const cases: ContractCase[] = []
  const test = (name: string, body: (world: World) => Promise<void>): void => {
    cases.push({ name, run: async () => body(new World(harness, await harness.open())) })
  }

  test('an increment answers with the new value', async ({ store, key, batch }) => {
    expectEqual(await store.increment([{ key: key('a'), delta: 5 }], batch()), [5], 'the first increment')
    expectEqual(await store.increment([{ key: key('a'), delta: 2 }], batch()), [7], 'the second one')
    expectEqual(await store.getMany([key('a')]), [7], 'what is stored')
  })

  test('several increments of one counter are each answered with the value right after it', async (world) => {
    const { store, key, batch } = world
    const increments = [1, 10, -4, 0, 100].map((delta, i) => ({ key: key(i === 1 ? 'b' : 'a'), delta }))
    expectEqual(await store.increment(increments, batch()), [1, 10, -3, -3, 97], 'the answers')
    expectEqual(await store.getMany([key('a'), key('b')]), [97, 10], 'what is stored')
  })

  test('answers are in the order of the increments, whatever order the store works in', async (world) => {
    const { store, key, batch } = world
    const numbers = Array.from({ length: 1000 }, (_, i) => (i * 617) % 1000)
    const increments = numbers.map((n) => ({ key: key(`k${n}`), delta: n + 1 }))
    expectEqual(
      await store.increment(increments, batch()),
      numbers.map((n) => n + 1),
      'the answers',
    )
  })

  test('counters go below zero', async ({ store, key, batch }) => {
    expectEqual(await store.increment([{ key: key('a'), delta: -3 }], batch()), [-3], 'the answer')
  })

  test('add applies sums, and says that it refused none', async ({ store, key, batch }) => {
    const sums = new Map([
      [key('b'), 2],
      [key('a'), -1],
    ])
    expectEqual(await store.add(sums, batch()), [], 'what was refused')
    await store.add(sums, batch())
    expectEqual(await store.getMany([key('a'), key('b')]), [-2, 4], 'what is stored')
  })

  test('getMany answers in the order of the keys, 0 for unknown ones, twice for one asked twice', async (world) => {
    const { store, key, batch } = world
    await store.add(new Map([[key('a'), 1]]), batch())
    expectEqual(await store.getMany([key('x'), key('a'), key('y'), key('a')]), [0, 1, 0, 1], 'the values')
    expectEqual(await store.getMany([]), [], 'the values of no keys')
  })

  test('an empty batch does nothing', async ({ store, batch }) => {
    expectEqual(await store.increment([], batch()), [], 'increment')
    expectEqual(await store.add(new Map(), batch()), [], 'add')
  })

  test('keys are any strings', async ({ store, key, batch }) => {
    const odd = ['', ...oddIds, 'K'.repeat(512)]
    const increments = odd.map((text, i) => ({ key: key(text), delta: i + 1 }))
    const expected = odd.map((_, i) => i + 1)
    expectEqual(await store.increment(increments, batch()), expected, 'the answers')
    expectEqual(await store.getMany(odd.map(key)), expected, 'what is stored')
  })

  test('a counter holds 2^53 - 1 exactly, both ways', async ({ store, key, batch }) => {
    const increments = [
      { key: key('a'), delta: max - 1 },
      { key: key('b'), delta: -max },
      { key: key('a'), delta: 1 },
    ]
    expectEqual(await store.increment(increments, batch()), [max - 1, -max, max], 'the answers')
    expectEqual(await store.getMany([key('a'), key('b')]), [max, -max], 'what is stored')
  })

  test('an increment that would lead beyond 2^53 - 1 is refused alone', async ({ store, key, batch }) => {
    await store.add(new Map([[key('full'), max]]), batch())
    const increments = [
      { key: key('a'), delta: 1 },
      { key: key('full'), delta: 1 },
      { key: key('full'), delta: -2 },
      { key: key('b'), delta: 1 },
    ]
    const answers = await store.increment(increments, batch())
    expectRefused(answers[1], 'the second answer')
    expectEqual([answers[0], answers[2], answers[3]], [1, max - 2, 1], 'the other answers')
    expectEqual(await store.getMany([key('full'), key('a')]), [max - 2, 1], 'what is stored')
  })

  test('a sum that would lead beyond 2^53 - 1 is refused alone, and named', async ({ store, key, batch }) => {
    await store.add(new Map([[key('full'), max]]), batch())
    const sums = new Map([
      [key('a'), 1],
      [key('full'), 1],
    ])
    const refused = await store.add(sums, batch())
    expectEqual(
      refused.map((refusal) => [refusal.key, refusal.delta]),
      [[key('full'), 1]],
      'what was refused',
    )
    expectRefused(refused[0]?.error, 'its error')
    expectEqual(await store.getMany([key('full'), key('a')]), [max, 1], 'what is stored')
  })

  test('a delta that is no whole number, and a key that cannot be stored, are refused alone', async (world) => {
    const { store, key, batch } = world
    const wrong = [1.5, Number.NaN, Number.POSITIVE_INFINITY, max + 1].map((delta) => ({ key: key('a'), delta }))
    const increments = [...wrong, { key: key('nul\0'), delta: 1 }, { key: key('half \ud800'), delta: 1 }]
    const answers = await store.increment([...increments, { key: key('a'), delta: 1 }], batch())
    increments.forEach((_, i) => {
      expectRefused(answers[i], `answer ${i}`)
    })
    expectEqual(answers.at(-1), 1, 'the answer to the right one')
    const refused = await store.add(
      new Map(increments.map(({ key, delta }) => [key, delta])).set(key('a'), 1.5),
      batch(),
    )
    expectEqual(refused.length, 3, 'how many sums were refused')
  })

  test('what a batch function does to its arguments later changes nothing', async ({ store, key, batch }) => {
    const increments = [{ key: key('a'), delta: 1 }]
    const answer = store.increment(increments, batch())
    increments.length = 0
    expectEqual(await answer, [1], 'the answer')
  })

  test('batches that come at the same time, on keys that overlap, add up', async (world) => {
    const { key, batch } = world
    const writers = await Promise.all(Array.from({ length: 8 }, () => world.open()))
    await Promise.all(
      writers.map(async (store, writer) => {
        for (let round = 0; round < 5; round++) {
          const increments = Array.from({ length: 50 }, (_, i) => ({
            key: key(`k${(i * (writer + 1)) % 50}`),
            delta: 1,
          }))
          const answers = await store.increment(increments, batch())
          expectThat(
            answers.every((answer) => typeof answer === 'number'),
            'an increment was refused',
          )
        }
      }),
    )
    const values = await writers[0]?.getMany(Array.from({ length: 50 }, (_, i) => key(`k${i}`)))
    expectEqual(
      values?.reduce((sum, value) => sum + value, 0),
      8 * 5 * 50,
      'the sum of all counters',
    )
  })

  test('a batch whose signal has aborted is not applied', async ({ store, key, batch }) => {
    const context = { ...batch(), signal: AbortSignal.abort(new Error('gone')) }
    const outcomes = await Promise.allSettled([
      store.increment([{ key: key('a'), delta: 1 }], context),
      store.add(new Map([[key('a'), 1]]), context),
    ])
    expectEqual(
      outcomes.map(({ status }) => status),
      ['rejected', 'rejected'],
      'the outcomes',
    )
    expectEqual(await store.getMany([key('a')]), [0], 'what is stored')
  })

  exactlyOnce(test)
  return cases
}

/** The cases of stores that say that they are idempotent; others pass them by. */
function exactlyOnce(test: (name: string, body: (world: World) => Promise<void>) => void): void {
  const once = (name: string, body: (world: World) => Promise<void>): void =>
    test(name, async (world) => (world.store.idempotent ? body(world) : undefined))

  once('a batch id that comes again changes nothing, and gets the same answers', async ({ store, key, batch }) => {
    await store.add(new Map([[key('full'), max]]), batch())
    const increments = ['a', 'full', 'b', 'a'].map((name) => ({ key: key(name), delta: 1 }))
    const context = batch()
    const first = await store.increment(increments, context)
    await store.add(new Map([[key('a'), 100]]), batch())
    const again = await store.increment(increments, { ...context, attempt: 2 })
    for (const answers of [first, again]) {
      expectRefused(answers[1], 'the second answer')
      expectEqual([answers[0], answers[2], answers[3]], [1, 1, 2], 'the other answers')
    }
    expectEqual(await store.getMany([key('a')]), [102], 'what is stored')
  })

  once('the same for add', async ({ store, key, batch }) => {
    await store.add(new Map([[key('full'), max]]), batch())
    const sums = new Map([
      [key('full'), 1],
      [key('a'), 1],
    ])
    const context = batch()
    const first = await store.add(sums, context)
    await store.add(new Map([[key('full'), -1]]), batch())
    const again = await store.add(sums, { ...context, attempt: 2 })
    for (const refused of [first, again])
      expectEqual(
        refused.map(({ key }) => key),
        [key('full')],
        'what was refused',
      )
    expectEqual(await store.getMany([key('a'), key('full')]), [1, max - 1], 'what is stored')
  })

  once('a batch id that comes from another process changes nothing', async (world) => {
    const { store, key, batch } = world
    const other = await world.open()
    const context = batch()
    await store.increment([{ key: key('a'), delta: 1 }], context)
    expectEqual(await other.increment([{ key: key('a'), delta: 1 }], context), [1], 'the answer')
    expectEqual(await other.getMany([key('a')]), [1], 'what is stored')
  })

  once('attempts at one batch that run at the same time apply it once, with one answer', async (world) => {
    const { key, batch } = world
    const stores = await Promise.all(Array.from({ length: 4 }, () => world.open()))
    for (let round = 0; round < 10; round++) {
      const context = batch()
      const increments = ['a', 'b', 'c'].map((name) => ({ key: key(name), delta: 1 }))
      const answers = await Promise.all(
        [...stores, ...stores].map((store, i) => store.increment(increments, { ...context, attempt: i + 1 })),
      )
      const expected = Array(3).fill(round + 1)
      for (const answer of answers) expectEqual(answer, expected, `an answer of round ${round}`)
    }
  })

  once('the halves of a batch are batches of their own', async ({ store, key, batch }) => {
    const { batchId, ...context } = batch()
    const increments = [{ key: key('a'), delta: 1 }]
    for (const id of [batchId, `${batchId}/0`, `${batchId}/1`, `${batchId}/1/0`, `${batchId}/1`]) {
      await store.increment(increments, { ...context, batchId: id })
    }
    expectEqual(await store.getMany([key('a')]), [4], 'what is stored')
  })
}

/** One case's surroundings: a store, and keys and ids that no other case uses. */
class World {
  readonly store: CounterStore
  readonly #harness: CounterStoreHarness
  readonly #prefix = crypto.randomUUID()

  constructor(harness: CounterStoreHarness, store: CounterStore) {
    this.#harness = harness
    this.store = store
  }

  /** Another store on the same data. */
  open = async (): Promise<CounterStore> => this.#harness.open()

  key = (name: string): string => `${this.#prefix}:${name}`

  /** The context of a new batch. */
  batch = (): BatchContext => ({ batchId: crypto.randomUUID(), attempt: 1, signal: neverAborted })
}

function expectRefused(answer: unknown, what: string): void {
  expectThat(
    isSpillwayError(answer, 'ERR_STORE') && !answer.retryable && !answer.outcomeUnknown,
    `${what} must be a StoreError that is neither retryable nor of unknown outcome`,
  )
}
