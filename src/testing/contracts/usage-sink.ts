import type { AcceptedUsage, QuotaKey, UsageDedupe, UsageSink } from '../../core/ports.js'
import { maxIdLength, maxUsage } from '../../internal/usage.js'
import { seededRandom } from '../seeded-random.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'
import { oddIds, UsageWorld } from './usage-world.js'

/** What {@link usageSinkContract} needs of an implementation. */
export interface UsageSinkHarness {
  /**
   * Opens a sink. Each call gives another one on the same data, as another process would have it. Cases use users and ids of
   * their own, so nothing needs to be cleaned up between them.
   */
  open(): UsageSink | PromiseLike<UsageSink>
  /** Reads what the data says was used, in the order of the keys; 0 for a key that is unknown. */
  read(keys: readonly QuotaKey[]): readonly number[] | PromiseLike<readonly number[]>
  /** What the sink is to tell apart; `null` for one that isn't idempotent. Cases beyond that are left out. */
  readonly dedupe: UsageDedupe | null
}

/**
 * What every `UsageSink` must do, as cases for any test runner.
 *
 * @example
 * ```ts
 * import { MemoryQuotaStore } from 'spillway'
 * import { usageSinkContract } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const store = new MemoryQuotaStore({ dedupe: 'request' })
 * const cases = usageSinkContract({
 *   open: () => store,
 *   read: async (keys) => (await store.readUsage(keys)).map(({ used }) => used),
 *   dedupe: 'request',
 * })
 * for (const { name, run } of cases) test(name, run)
 * ```
 */
export function usageSinkContract(harness: UsageSinkHarness): readonly ContractCase[] {
  const cases: ContractCase[] = []
  const test = (name: string, body: (world: UsageWorld) => Promise<void>): void => {
    cases.push({ name, run: async () => body(new UsageWorld(harness, await harness.open())) })
  }

  test('says what it tells apart', async ({ sink }) => {
    expectEqual(sink.idempotent, harness.dedupe !== null, 'whether it is idempotent')
    if (harness.dedupe !== null) expectEqual(sink.dedupe ?? 'batch', harness.dedupe, 'what it tells apart')
  })

  test('a batch adds to what was used, each user, quota type and period for itself', async (world) => {
    const uses = [
      world.use(1, { user: 'a' }),
      world.use(20, { user: 'b' }),
      world.use(300, { user: 'a', type: 'tokens' }),
      world.use(4000, { user: 'a' }),
      world.use(50_000, { user: 'a', at: world.now - 86_400_000, kind: 'day' }),
      world.use(600_000, { user: 'a', kind: 'day' }),
      world.use(7_000_000, { user: 'a', kind: 'total' }),
    ]
    expectEqual(await world.write(uses), [], 'what was refused')
    expectEqual(await world.used(uses), [4001, 20, 300, 4001, 50_000, 600_000, 7_000_000], 'what was used')
    await world.write(uses.slice(0, 2).map(({ value }, i) => world.use(value, { user: i === 0 ? 'a' : 'b' })))
    expectEqual(await world.used(uses.slice(0, 3)), [4002, 40, 300], 'what was used after the second batch')
  })

  test('an empty batch does nothing', async (world) => {
    expectEqual(await world.write([]), [], 'what was refused')
  })

  test('a value of 0 is counted like any other', async (world) => {
    const uses = [world.use(0), world.use(0, { user: 'b' }), world.use(5, { user: 'b' })]
    expectEqual(await world.write(uses), [], 'what was refused')
    expectEqual(await world.used(uses), [0, 5, 5], 'what was used')
  })

  test('fractions add up as doubles do', async (world) => {
    const uses = [0.5, 0.25, 0.125].map((value) => world.use(value, { user: 'a' }))
    const small = Array.from({ length: 10 }, () => world.use(0.1, { user: 'b' }))
    const tiny = world.use(1e-300, { user: 'c' })
    const digits = world.use(0.1 + 0.2, { user: 'd' })
    await world.write([...uses, ...small, tiny, digits])
    const [a, b, c, d] = await world.used([uses[0], small[0], tiny, digits] as AcceptedUsage[])
    expectEqual([a, c, d], [0.875, 1e-300, 0.1 + 0.2], 'what was used')
    expectThat(Math.abs((b as number) - 1) < 1e-9, `ten times 0.1 must be 1, nearly, got ${b}`)
  })

  test('sums are exact up to 2^53 - 1', async (world) => {
    const uses = [maxUsage - 12, 1, 11].map((value) => world.use(value))
    for (const use of uses) expectEqual(await world.write([use]), [], 'what was refused')
    expectEqual(await world.used(uses.slice(0, 1)), [maxUsage], 'what was used')
  })

  test('a sum that would pass 2^53 - 1 is refused alone, all its events by their places', async (world) => {
    await world.write([world.use(maxUsage - 2, { user: 'full' }), world.use(7, { user: 'full', type: 'tokens' })])
    const uses = [
      world.use(1, { user: 'a' }),
      world.use(1, { user: 'full' }),
      world.use(2, { user: 'full', type: 'tokens' }),
      world.use(2, { user: 'full' }),
      world.use(1, { user: 'b' }),
    ]
    await world.expectRefusals(uses, [1, 3])
    expectEqual(await world.used(uses), [1, maxUsage - 2, 9, maxUsage - 2, 1], 'what was used')
    expectEqual(await world.write([world.use(2, { user: 'full' })]), [], 'what still fits')
  })

  test('a batch whose own sum passes 2^53 - 1 is refused in that sum', async (world) => {
    const uses = [world.use(maxUsage, { user: 'a' }), world.use(3, { user: 'b' }), world.use(1, { user: 'a' })]
    await world.expectRefusals(uses, [0, 2])
    expectEqual(await world.used(uses), [0, 3, 0], 'what was used')
  })

  test('ids are any text, and none is taken for another', async (world) => {
    const uses = oddIds.flatMap((id, i) => [
      world.use(i + 1, { user: id }),
      world.use(1000 + i, { user: 'typed', type: `t${id}` }),
    ])
    const long = world.name('').padEnd(maxIdLength, '\u00e9')
    const joined = [
      ['a:b', 'c'],
      ['a', 'b:c'],
      ['a}', '{b'],
      ['a', '}{b'],
    ].map(([user, type], i) => world.use(2000 + i, { user, type }))
    const all = [
      ...uses,
      ...joined,
      world.use(3000, { userId: long }),
      world.use(3001, { userId: `${long.slice(0, -1)}e`, type: 'T'.repeat(maxIdLength) }),
    ]
    expectEqual(await world.write(all), [], 'what was refused')
    expectEqual(
      await world.used(all),
      all.map(({ value }) => value),
      'what was used',
    )
  })

  test('a user is who his id reads as, whether it is a number, a bigint or a text', async (world) => {
    const number = Number.parseInt(crypto.randomUUID().slice(0, 8), 16) * 1000 + 1
    const uses = [number, String(number), BigInt(number)].map((userId, i) => world.use(10 ** i, { userId }))
    const others = [`${number}n`, ` ${number}`, `0${number}`, -number].map((userId) => world.use(5, { userId }))
    expectEqual(await world.write([...uses, ...others]), [], 'what was refused')
    expectEqual(await world.used(uses), [111, 111, 111], 'what the user used')
    expectEqual(await world.used(others), [5, 5, 5, 5], 'what others used')
  })

  test('metadata does no harm', async (world) => {
    const metadata = { text: '\u{1F600} \'"\\ %s $1 {}', nested: { list: [1, null, true] }, empty: {} }
    const use = world.use(1, { metadata })
    expectEqual(await world.write([use]), [], 'what was refused')
    expectEqual(await world.used([use]), [1], 'what was used')
  })

  test('a batch of many keys is applied whole', async (world) => {
    const uses = Array.from({ length: 1000 }, (_, i) => world.use(i, { user: `u${(i * 617) % 500}` }))
    expectEqual(await world.write(uses), [], 'what was refused')
    expectEqual(
      (await world.used(uses.slice(0, 500))).reduce((sum, value) => sum + value, 0),
      (999 * 1000) / 2,
      'the sum of what was used',
    )
  })

  test('batches that come at the same time, on keys that overlap, add up', async (world) => {
    const sinks = await Promise.all(Array.from({ length: 8 }, () => world.open()))
    const users = Array.from({ length: 20 }, (_, i) => `u${i}`)
    await Promise.all(
      sinks.map(async (sink, writer) => {
        for (let round = 0; round < 5; round++) {
          const step = [1, 3, 7, 9, 11, 13, 17, 19][writer] as number
          const uses = users.map((_, i) => world.use(1, { user: users[(i * step) % 20] }))
          expectEqual(await world.write(uses, { sink }), [], 'what was refused')
        }
      }),
    )
    const used = await world.used(users.map((user) => world.use(0, { user })))
    expectEqual(used, Array(20).fill(8 * 5), 'what was used')
  })

  test('a batch whose signal has aborted is not applied', async (world) => {
    const use = world.use(1)
    const context = { ...world.context(crypto.randomUUID()), signal: AbortSignal.abort(new Error('gone')) }
    const [outcome] = await Promise.allSettled([
      (async () => world.sink.write(world.batch([use], context.batchId), context))(),
    ])
    expectEqual(outcome?.status, 'rejected', 'the outcome')
    expectEqual(await world.used([use]), [0], 'what was used')
  })

  if (harness.dedupe !== null) batchCases(test)
  if (harness.dedupe === 'event' || harness.dedupe === 'request') eventCases(test)
  if (harness.dedupe === 'request') requestCases(test)
  return cases
}

type Test = (name: string, body: (world: UsageWorld) => Promise<void>) => void

/** Each batch id once. */
function batchCases(test: Test): void {
  test('a batch id that comes again changes nothing, and gets the same refusals', async (world) => {
    await world.write([world.use(maxUsage, { user: 'full' })])
    const uses = [world.use(1, { user: 'a' }), world.use(1, { user: 'full' }), world.use(1, { user: 'b' })]
    const id = crypto.randomUUID()
    await world.expectRefusals(uses, [1], { id })
    await world.write([world.use(100, { user: 'a' })])
    await world.expectRefusals(uses, [1], { id, attempt: 2 })
    expectEqual(await world.used(uses), [101, maxUsage, 1], 'what was used')
  })

  test('a batch id that was applied is not refused later, when it would not fit any more', async (world) => {
    const uses = [world.use(2)]
    const id = crypto.randomUUID()
    await world.write(uses, { id })
    await world.write([world.use(maxUsage - 2)])
    expectEqual(await world.write(uses, { id, attempt: 2 }), [], 'what was refused')
    expectEqual(await world.used(uses), [maxUsage], 'what was used')
  })

  test('a batch id that comes from another process changes nothing', async (world) => {
    const uses = [world.use(1)]
    const id = crypto.randomUUID()
    await world.write(uses, { id })
    expectEqual(await world.write(uses, { id, sink: await world.open() }), [], 'what was refused')
    expectEqual(await world.used(uses), [1], 'what was used')
  })

  test('attempts at one batch that run at the same time apply it once, with one answer', async (world) => {
    const sinks = await Promise.all(Array.from({ length: 4 }, () => world.open()))
    await world.write([world.use(maxUsage, { user: 'full' })])
    for (let round = 1; round <= 5; round++) {
      const uses = ['a', 'full', 'b'].map((user) => world.use(1, { user }))
      const id = crypto.randomUUID()
      await Promise.all(
        [...sinks, ...sinks].map((sink, i) => world.expectRefusals(uses, [1], { id, sink, attempt: i + 1 })),
      )
      expectEqual(await world.used(uses), [round, maxUsage, round], `what was used after round ${round}`)
    }
  })

  test('the halves of a batch are batches of their own', async (world) => {
    const use = world.use(1)
    const id = crypto.randomUUID()
    for (const half of [id, `${id}/0`, `${id}/1`, `${id}/1/0`, `${id}/1`]) await world.write([use], { id: half })
    expectEqual(await world.used([use]), [4], 'what was used')
  })
}

/** Each event's id once, whatever batch it comes in. None of these has a request's id, so they hold for both ways of telling. */
function eventCases(test: Test): void {
  test('an event that comes again in other batches counts once', async (world) => {
    const [a, b, c] = ['a', 'b', 'c'].map((id, i) => world.use(10 ** i, { id: world.name(id) }))
    await world.write([a, b] as AcceptedUsage[])
    expectEqual(await world.write([b, c] as AcceptedUsage[]), [], 'what was refused')
    expectEqual(await world.write([c, a, b] as AcceptedUsage[], { sink: await world.open() }), [], 'what was refused')
    expectEqual(await world.used([a] as AcceptedUsage[]), [111], 'what was used')
  })

  test('an event that comes twice in a batch counts once', async (world) => {
    const [a, b] = ['a', 'b'].map((id, i) => world.use(10 ** i, { id: world.name(id) })) as [
      AcceptedUsage,
      AcceptedUsage,
    ]
    await world.write([a, b, a, a, b])
    expectEqual(await world.used([a]), [11], 'what was used')
  })

  test('events without an id count once a batch each', async (world) => {
    const uses = [world.use(1), world.use(1), world.use(1, { id: world.name('a') })]
    const id = crypto.randomUUID()
    for (const batchId of [id, id, crypto.randomUUID()]) await world.write(uses, { id: batchId })
    expectEqual(await world.used(uses), [5, 5, 5], 'what was used')
  })

  test('what was refused is not remembered as counted, what was counted is not refused', async (world) => {
    const counted = world.use(maxUsage, { id: world.name('a') })
    const refused = world.use(1, { id: world.name('b') })
    await world.write([counted])
    for (let round = 0; round < 2; round++) await world.expectRefusals([counted, refused], [1])
    expectEqual(await world.used([counted]), [maxUsage], 'what was used')
  })

  redelivery(test, 'an event id', (world, id) => ({ id: world.name(id) }))
}

/** Each request's id once for a user and a quota type. */
function requestCases(test: Test): void {
  test('a request that comes again in other batches counts once', async (world) => {
    const [a, b, c] = ['a', 'b', 'c'].map((requestId, i) => world.use(10 ** i, { requestId })) as AcceptedUsage[]
    await world.write([a, b] as AcceptedUsage[])
    expectEqual(await world.write([b, c] as AcceptedUsage[]), [], 'what was refused')
    expectEqual(await world.write([c, a, b] as AcceptedUsage[], { sink: await world.open() }), [], 'what was refused')
    expectEqual(await world.used([a] as AcceptedUsage[]), [111], 'what was used')
  })

  test('of equal requests in a batch the first one counts', async (world) => {
    const uses = [1, 10, 100, 1000].map((value, i) => world.use(value, { requestId: i < 3 ? 'a' : 'b' }))
    await world.write(uses)
    expectEqual(await world.used(uses.slice(0, 1)), [1001], 'what was used')
  })

  test('a request that a stream delivers twice, with two event ids, counts once', async (world) => {
    const uses = ['1-0', '2-0'].map((id) => world.use(1, { requestId: 'a', id: world.name(id) }))
    for (const use of uses) await world.write([use])
    expectEqual(await world.used(uses.slice(0, 1)), [1], 'what was used')
  })

  test('the same request of another user, or for another quota type, counts', async (world) => {
    const requestId = 'a'
    const uses = [
      world.use(1, { requestId, user: 'a' }),
      world.use(2, { requestId, user: 'b' }),
      world.use(3, { requestId, user: 'a', type: 'tokens' }),
      world.use(4, { requestId: 'c', user: 'a:b', type: 't' }),
      world.use(5, { requestId: 'b:c', user: 'a', type: 't' }),
      world.use(6, { requestId: 'c', user: 'a', type: 'b:t' }),
    ]
    for (let round = 0; round < 2; round++) await world.write(uses)
    expectEqual(await world.used(uses), [1, 2, 3, 4, 5, 6], 'what was used')
  })

  test("a request's id is no event's id, even where they read the same", async (world) => {
    const id = world.name('1-0')
    const uses = [world.use(1, { id }), world.use(10, { requestId: id })]
    for (let round = 0; round < 2; round++) await world.write(uses)
    expectEqual(await world.used(uses.slice(0, 1)), [11], 'what was used')
  })

  test('a request of an earlier period that comes again in a later one counts once, in its own', async (world) => {
    const yesterday = world.now - 86_400_000
    const late = world.use(1, { requestId: 'late', at: yesterday, kind: 'day' })
    const today = world.use(10, { requestId: 'today', kind: 'day' })
    await world.write([late])
    expectEqual(await world.write([today, late]), [], 'what was refused')
    await world.write([late, today])
    expectEqual(await world.used([late, today]), [1, 10], 'what was used yesterday and today')
  })

  test('ids of requests are any text, and none is taken for another', async (world) => {
    const ids = [...oddIds, 'r'.repeat(maxIdLength), `${'r'.repeat(maxIdLength - 1)}s`]
    const uses = ids.map((requestId) => world.use(1, { requestId }))
    for (let round = 0; round < 2; round++) expectEqual(await world.write(uses), [], 'what was refused')
    expectEqual(await world.used(uses.slice(0, 1)), [ids.length], 'what was used')
  })

  test('a refused request is not remembered as counted, a counted one is not refused', async (world) => {
    const counted = world.use(maxUsage, { requestId: 'a' })
    const refused = world.use(1, { requestId: 'b' })
    await world.write([counted])
    for (let round = 0; round < 2; round++) await world.expectRefusals([counted, refused], [1])
    expectEqual(await world.used([counted]), [maxUsage], 'what was used')
  })

  redelivery(test, 'a request', (_, requestId) => ({ requestId }))
}

/** The hardest of deliveries: many at once, each in its own order and in batches of its own. */
function redelivery(
  test: Test,
  what: string,
  identify: (world: UsageWorld, id: string) => { id: string } | { requestId: string },
): void {
  test(`${what} counts once through 12 concurrent shuffled redeliveries`, async (world) => {
    const random = seededRandom(what)
    const uses = Array.from({ length: 60 }, (_, i) =>
      world.use(2 ** (i % 10), {
        user: `u${i % 6}`,
        at: world.now - (i % 2) * 86_400_000,
        kind: 'total',
        ...identify(world, `r${i}`),
      }),
    )
    const sinks = await Promise.all(Array.from({ length: 4 }, () => world.open()))
    await Promise.all(
      Array.from({ length: 12 }, async (_, delivery) => {
        const order = shuffled(uses, random)
        while (order.length > 0) {
          const portion = order.splice(0, 1 + Math.floor(random() * 15))
          expectEqual(await world.write(portion, { sink: sinks[delivery % 4] }), [], 'what was refused')
        }
      }),
    )
    const expected = Array<number>(6).fill(0)
    for (const [i, { value }] of uses.entries()) (expected[i % 6] as number) += value
    expectEqual(await world.used(uses.slice(0, 6)), expected, 'what was used')
  })
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const order = [...items]
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    ;[order[i], order[j]] = [order[j] as T, order[i] as T]
  }
  return order
}
