import type { QuotaKey, QuotaStore, QuotaUsage, UsageDedupe } from '../../core/ports.js'
import { maxIdLength, maxUsage } from '../../internal/usage.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'
import { holdCases } from './quota-holds.js'
import { randomCases } from './quota-model.js'
import { expectOutcome, expectTally, expectUsages, nothing, type QuotaTest, QuotaWorld } from './quota-world.js'
import { usageSinkContract } from './usage-sink.js'
import { oddIds } from './usage-world.js'

/** What {@link quotaStoreContract} needs of an implementation. */
export interface QuotaStoreHarness {
  /**
   * Opens a store. Each call gives another one on the same data, as another process would have it. Cases use users and ids of
   * their own, so nothing needs to be cleaned up between them.
   */
  open(): QuotaStore | PromiseLike<QuotaStore>
  /** What the store is to tell apart. Cases beyond that are left out. */
  readonly dedupe: UsageDedupe
  /** Lets time pass on the store's own clock: advances a virtual one, or waits where a real server has it. */
  elapse(ms: number): void | PromiseLike<void>
}

/**
 * What every `QuotaStore` must do, as cases for any test runner; those of `usageSinkContract` are among them.
 *
 * @example
 * ```ts
 * import { MemoryQuotaStore } from 'spillway'
 * import { FakeClock, quotaStoreContract } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const clock = new FakeClock()
 * const store = new MemoryQuotaStore({ clock })
 * const cases = quotaStoreContract({ open: () => store, dedupe: 'batch', elapse: (ms) => clock.advance(ms) })
 * for (const { name, run } of cases) test(name, run)
 * ```
 */
export function quotaStoreContract(harness: QuotaStoreHarness): readonly ContractCase[] {
  let reader: Promise<QuotaStore> | undefined
  const read = async (keys: readonly QuotaKey[]): Promise<readonly number[]> => {
    reader ??= Promise.resolve(harness.open())
    return (await (await reader).readUsage(keys)).map(({ used }) => used)
  }
  const sink = { open: () => harness.open(), read, dedupe: harness.dedupe }
  const cases: ContractCase[] = [...usageSinkContract(sink)]
  const data = { ...sink, elapse: (ms: number) => harness.elapse(ms) }
  const test: QuotaTest = (name, body) => {
    cases.push({ name, run: async () => body(new QuotaWorld(data, await harness.open())) })
  }
  readCases(test)
  consumeCases(test, harness.dedupe)
  holdCases(test)
  parallelCases(test)
  randomCases(test)
  return cases
}

function readCases(test: QuotaTest): void {
  test('readUsage answers in the order of the keys, zeros for unknown ones, twice for one asked twice', async (world) => {
    const { store } = world
    await world.write([world.use(1, { user: 'a' }), world.use(20, { user: 'b' })])
    await world.reserve(300, { user: 'b' })
    const keys = ['x', 'b', 'a', 'y', 'b'].map((user) => world.key(user))
    const b = { used: 20, held: 300 }
    expectUsages(await store.readUsage(keys), [nothing, b, { used: 1, held: 0 }, nothing, b])
    expectUsages(await store.readUsage([]), [])
  })

  test('readUsage tells periods and quota types apart', async (world) => {
    const { store } = world
    await world.write([world.use(1, { kind: 'day' }), world.use(2), world.use(3, { kind: 'total' })])
    await world.reserve(4, { type: 'tokens' })
    const keys = [
      world.key('u', 'requests', 'day'),
      world.key(),
      world.key('u', 'requests', 'total'),
      world.key('u', 'tokens'),
    ]
    const expected = [1, 2, 3].map((used) => ({ used, held: 0 }))
    expectUsages(await store.readUsage(keys), [...expected, { used: 0, held: 4 }])
  })

  test('readUsage takes many keys at once', async (world) => {
    const { store } = world
    await world.write(Array.from({ length: 300 }, (_, i) => world.use(i, { user: `u${i}` })))
    const order = Array.from({ length: 600 }, (_, i) => (i * 617) % 600)
    const usages = await store.readUsage(order.map((i) => world.key(`u${i}`)))
    expectUsages(
      usages,
      order.map((i) => ({ used: i < 300 ? i : 0, held: 0 })),
    )
  })
}

function consumeCases(test: QuotaTest, dedupe: UsageDedupe): void {
  test('consume counts up to its limit, and not beyond', async (world) => {
    expectOutcome(await world.consume(7, 10), 'applied', { used: 7, held: 0 })
    expectOutcome(await world.consume(4, 10), 'exceeded', { used: 7, held: 0 })
    expectOutcome(await world.consume(3, 10), 'applied', { used: 10, held: 0 })
    expectOutcome(await world.consume(1, 10), 'exceeded', { used: 10, held: 0 })
    expectOutcome(await world.consume(1, 11), 'applied', { used: 11, held: 0 })
    await world.expectUsage({ used: 11, held: 0 })
  })

  test('consume takes 0 as a value, and 0 and Infinity as limits', async (world) => {
    expectOutcome(await world.consume(0, 0), 'applied', nothing)
    expectOutcome(await world.consume(1, 0), 'exceeded', nothing)
    expectOutcome(await world.consume(5, Number.POSITIVE_INFINITY), 'applied', { used: 5, held: 0 })
    expectOutcome(await world.consume(0, 5), 'applied', { used: 5, held: 0 })
    expectOutcome(await world.consume(0, 4), 'exceeded', { used: 5, held: 0 })
    await world.expectUsage({ used: 5, held: 0 })
  })

  test('consume counts exactly up to 2^53 - 1, and never beyond, whatever the limit', async (world) => {
    const infinity = Number.POSITIVE_INFINITY
    expectOutcome(await world.consume(maxUsage - 1, maxUsage), 'applied', { used: maxUsage - 1, held: 0 })
    expectOutcome(await world.consume(2, infinity), 'exceeded', { used: maxUsage - 1, held: 0 })
    expectOutcome(await world.consume(1, infinity), 'applied', { used: maxUsage, held: 0 })
    await world.expectUsage({ used: maxUsage, held: 0 })
  })

  test('consume takes fractions', async (world) => {
    expectOutcome(await world.consume(0.5, 1.25), 'applied', { used: 0.5, held: 0 })
    expectOutcome(await world.consume(0.875, 1.25), 'exceeded', { used: 0.5, held: 0 })
    expectOutcome(await world.consume(0.75, 1.25), 'applied', { used: 1.25, held: 0 })
    await world.expectUsage({ used: 1.25, held: 0 })
  })

  test('an id that is consumed again counts once, whatever comes with it', async (world) => {
    const id = world.name('r')
    expectOutcome(await world.consume(2, 10, { id }), 'applied', { used: 2, held: 0 })
    await world.consume(5, 10)
    expectOutcome(await world.consume(2, 10, { id }), 'repeated', { used: 7, held: 0 })
    expectOutcome(await world.consume(9, 3, { id }), 'repeated', { used: 7, held: 0 })
    const other = await world.openStore()
    expectOutcome(await world.consume(2, 10, { id, store: other }), 'repeated', { used: 7, held: 0 })
    await world.expectUsage({ used: 7, held: 0 })
  })

  test('an id that is consumed 20 times at once counts once', async (world) => {
    const stores = await world.openStores(4)
    const id = world.name('r')
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, (_, i) => world.consume(3, 10, { id, store: stores[i % 4] })),
    )
    expectTally(outcomes, { applied: 1, repeated: 19 })
    await world.expectUsage({ used: 3, held: 0 })
  })

  test('an id that was refused is not remembered', async (world) => {
    const id = world.name('r')
    expectOutcome(await world.consume(11, 10, { id }), 'exceeded', nothing)
    expectOutcome(await world.consume(11, 12, { id }), 'applied', { used: 11, held: 0 })
  })

  test('the same id of another user, or for another quota type, counts', async (world) => {
    const id = 'r'
    const whose = [
      { user: 'a' },
      { user: 'b' },
      { user: 'a', type: 'tokens' },
      { user: 'a:b', type: 'c' },
      { user: 'a', type: 'b:c' },
    ]
    for (const who of whose) expectOutcome(await world.consume(1, 1, { id, ...who }), 'applied', { used: 1, held: 0 })
    for (const who of whose) expectOutcome(await world.consume(1, 1, { id, ...who }), 'repeated', { used: 1, held: 0 })
  })

  test('an id counts once for a user and a quota type, in whatever period', async (world) => {
    const id = world.name('r')
    expectOutcome(await world.consume(1, 10, { id, kind: 'day' }), 'applied', { used: 1, held: 0 })
    expectOutcome(await world.consume(1, 10, { id, kind: 'month' }), 'repeated', nothing)
    await world.expectUsage(nothing)
  })

  test('users, types and ids of claims are any text', async (world) => {
    const texts = [...oddIds, 'x'.repeat(maxIdLength)]
    for (const [i, text] of texts.entries()) {
      const who = { user: text.length < maxIdLength ? text : 'u', type: text, id: text }
      const hold = { ...who, id: world.name(text).slice(0, maxIdLength) }
      expectOutcome(await world.consume(i + 1, 1000, who), 'applied', { used: i + 1, held: 0 })
      expectOutcome(await world.consume(i + 1, 1000, who), 'repeated', { used: i + 1, held: 0 })
      expectOutcome(await world.reserve(1, { ...hold, limit: 1000 }), 'held', { used: i + 1, held: 1 })
      expectOutcome(await world.reserve(1, { ...hold, limit: 1000 }), 'repeated', { used: i + 1, held: 1 })
      expectEqual((await world.store.settle(hold.id, 1)).status, 'settled', 'what became of the settle')
    }
    for (const [i, text] of texts.entries()) {
      const key = world.key(text.length < maxIdLength ? text : 'u', text)
      await world.expectUsage({ used: i + 2, held: 0 }, key)
    }
  })

  test('consume sees what was written, and is seen by what is written', async (world) => {
    await world.write([world.use(8)])
    expectOutcome(await world.consume(3, 10), 'exceeded', { used: 8, held: 0 })
    expectOutcome(await world.consume(2, 10), 'applied', { used: 10, held: 0 })
    await world.write([world.use(5)])
    expectOutcome(await world.consume(1, 15), 'exceeded', { used: 15, held: 0 })
    await world.consume(maxUsage - 15, maxUsage)
    await world.expectRefusals([world.use(1)], [0])
    await world.expectUsage({ used: maxUsage, held: 0 })
  })

  if (dedupe !== 'request') return
  test('a request counts once, whether it is consumed or written', async (world) => {
    await world.write([world.use(1, { requestId: 'a' })])
    expectOutcome(await world.consume(1, 10, { id: 'a' }), 'repeated', { used: 1, held: 0 })
    expectOutcome(await world.consume(2, 10, { id: 'b' }), 'applied', { used: 3, held: 0 })
    await world.write([world.use(2, { requestId: 'b' }), world.use(4, { requestId: 'c' })])
    await world.expectUsage({ used: 7, held: 0 })
  })
}

function parallelCases(test: QuotaTest): void {
  test('100 parallel consumes with a limit of 10 count exactly 10', async (world) => {
    const stores = await world.openStores(5)
    const outcomes = await Promise.all(
      Array.from({ length: 100 }, (_, i) => world.consume(1, 10, { store: stores[i % 5] })),
    )
    expectTally(outcomes, { applied: 10, exceeded: 90 })
    const applied = outcomes.filter(({ status }) => status === 'applied').map(({ used }) => used)
    expectEqual(
      applied.sort((a, b) => a - b),
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
      'what each of them was told',
    )
    await world.expectUsage({ used: 10, held: 0 })
  })

  test('100 parallel reserves with a limit of 10 hold exactly 10', async (world) => {
    const stores = await world.openStores(5)
    const outcomes = await Promise.all(
      Array.from({ length: 100 }, (_, i) => world.reserve(1, { limit: 10, store: stores[i % 5] })),
    )
    expectTally(outcomes, { held: 10, exceeded: 90 })
    await world.expectUsage({ used: 0, held: 10 })
  })

  test('consumes, reserves, settles and releases in parallel never pass the limit at any moment', async (world) => {
    const stores = await world.openStores(6)
    const limit = 25
    let counted = 0
    let working = true
    const watcher = (async () => {
      const store = await world.openStore()
      for (let looks = 0; working || looks === 0; looks++) {
        const [usage] = await store.readUsage([world.key()])
        const { used, held } = usage as QuotaUsage
        expectThat(used >= 0 && held >= 0 && used + held <= limit, `saw ${used} used and ${held} held of ${limit}`)
        // Reading a store in memory never leaves the microtasks.
        if (looks % 50 === 49) await new Promise((resolve) => setTimeout(resolve))
      }
    })()
    const seen = ({ used, held }: QuotaUsage, what: string): void =>
      expectThat(used + held <= limit, `${what} told of ${used} used and ${held} held of ${limit}`)
    const worker = async (index: number): Promise<void> => {
      const store = stores[index % 6]
      for (let round = 0; round < 8; round++) {
        const kind = (index + round) % 4
        if (kind === 0) {
          const outcome = await world.consume(1, limit, { store })
          seen(outcome, 'a consume')
          if (outcome.status === 'applied') counted++
          continue
        }
        const id = world.name(`${index}/${round}`)
        const outcome = await world.reserve(2, { id, limit, store })
        seen(outcome, 'a reserve')
        if (outcome.status !== 'held') continue
        if (kind === 1) await stores[(index + 1) % 6]?.release(id)
        else {
          const actual = kind === 2 ? 1 : 3
          const settled = await stores[(index + 1) % 6]?.settle(id, actual)
          if (settled?.usage !== undefined) seen(settled.usage, 'a settle')
          if (settled?.status === 'settled') counted += actual
          else if (settled?.status === 'exceeded') await store?.release(id)
        }
      }
    }
    const work = Promise.all(Array.from({ length: 24 }, (_, index) => worker(index))).finally(() => {
      working = false
    })
    await Promise.all([work, watcher])
    await world.expectUsage({ used: counted, held: 0 })
    for (; counted < limit; counted++) {
      expectOutcome(await world.consume(1, limit), 'applied', { used: counted + 1, held: 0 })
    }
    expectOutcome(await world.consume(1, limit), 'exceeded', { used: limit, held: 0 })
  })

  test('writes and claims in parallel lose nothing and count nothing twice', async (world) => {
    const stores = await world.openStores(4)
    let counted = 0
    await Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        const store = stores[i % 4]
        if (i % 2 === 0) {
          await world.write([world.use(1), world.use(2)], { sink: store })
          counted += 3
        } else if ((await world.consume(5, maxUsage, { store })).status === 'applied') counted += 5
      }),
    )
    expectEqual(counted, 20 * 3 + 20 * 5, 'what was counted')
    await world.expectUsage({ used: counted, held: 0 })
  })
}
