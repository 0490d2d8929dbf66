import { isSpillwayError } from '../../core/errors.js'
import type { AcceptedUsage, DeadUsage, JournalledUsage, UsageJournal } from '../../core/ports.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'

/** Where one journal keeps its data, over the lives of several instances. */
export interface UsageJournalPlace {
  /** The next instance on the same data, not opened yet. The one before it was closed, or has crashed. */
  next(): UsageJournal | PromiseLike<UsageJournal>
  /** Ends the latest instance as a crash would, with nothing of it under way. */
  crash(): void | PromiseLike<void>
  /** What was given up there. */
  deadLetters(): PromiseLike<readonly Pick<DeadUsage, 'batchId' | 'events' | 'refused'>[]>
}

/** What {@link usageJournalContract} needs of an implementation. */
export interface UsageJournalHarness {
  /** Makes a place where there is nothing yet, another one at each call. */
  place(): UsageJournalPlace | PromiseLike<UsageJournalPlace>
}

/**
 * What every `UsageJournal` must do, as cases for any test runner.
 *
 * @example
 * ```ts
 * import { MemoryUsageJournal, usageJournalContract } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const place = () => {
 *   let journal = new MemoryUsageJournal()
 *   return {
 *     next: () => (journal = journal.reopen()),
 *     crash: () => undefined,
 *     deadLetters: async () => journal.deadLetters,
 *   }
 * }
 * for (const { name, run } of usageJournalContract({ place })) test(name, run)
 * ```
 */
export function usageJournalContract(harness: UsageJournalHarness): readonly ContractCase[] {
  const cases: ContractCase[] = []
  const test = (name: string, body: (place: UsageJournalPlace) => Promise<void>): void => {
    cases.push({ name, run: async () => body(await harness.place()) })
  }
  events(test)
  batches(test)
  lives(test)
  refusals(test)
  return cases
}

type Test = (name: string, body: (place: UsageJournalPlace) => Promise<void>) => void

function events(test: Test): void {
  test('a new journal has nothing', async (place) => {
    const journal = await place.next()
    expectEqual(await journal.open(), { batches: [], events: [] }, 'what it kept')
    await journal.close()
  })

  test('positions grow in the order of the calls, whether awaited or not', async (place) => {
    const journal = await opened(place)
    const first = await journal.append(usage(1))
    const others = await Promise.all([2, 3, 4, 5].map((value) => journal.append(usage(value))))
    expectGrowing([first, ...others])
    await journal.close()
  })

  for (const [how, end] of ends) {
    test(`events that are in no batch come back in their order, with their positions, after ${how}`, async (place) => {
      const journal = await opened(place)
      const positions = await appendAll(journal, [3, 1, 2])
      await end(place, journal)

      const after = await place.next()
      const remains = await after.open()
      expectEqual(valuesOf(remains.events), [3, 1, 2], 'the events')
      expectEqual(positionsOf(remains.events), positions, 'their positions')
      expectEqual(remains.batches, [], 'the batches')
      await after.close()
    })
  }

  test('an event comes back as it was', async (place) => {
    const all: AcceptedUsage[] = [
      { userId: 'user', quotaType: 'api', value: 1, timestamp: 1_790_000_000_000, period: '2026-09' },
      { userId: '17', quotaType: 'a', value: 0, timestamp: 1_790_000_000_000.5, period: '2026-09-21' },
      { userId: 17, quotaType: 'a', value: 0.1, timestamp: 100_000_000_000, period: 'total' },
      { userId: 17n, quotaType: 'a', value: Number.MAX_SAFE_INTEGER, timestamp: 253_402_300_799_999, period: 'total' },
      { userId: -(2n ** 200n), quotaType: 'a', value: Number.MIN_VALUE, timestamp: 1_790_000_000_000, period: 'total' },
      {
        userId: '"\\\n\u2028é\u{1F600}',
        quotaType: '{"bigint":"1"}',
        value: 1e-7,
        timestamp: 1_790_000_000_000,
        period: 'total',
        requestId: 'r\t1',
        id: '0-1',
        metadata: { path: '/a', tags: ['x', null, 1.5, true, { deep: {} }], '': '' },
      },
    ]
    const journal = await opened(place)
    await Promise.all(all.map((event) => journal.append(event)))
    await journal.close()

    const after = await place.next()
    const remains = await after.open()
    const [got, wanted] = [remains.events.map(({ event }) => event), all].map((list) => list.map(describeUsage))
    expectEqual(got, wanted, 'the events')
    await after.close()
  })

  test('what a caller does to an event later changes nothing', async (place) => {
    const journal = await opened(place)
    const metadata = { path: '/a' }
    const event = { ...usage(1), metadata }
    const appended = journal.append(event)
    event.value = 2
    metadata.path = '/b'
    await appended
    await journal.close()

    const after = await place.next()
    const [kept] = (await after.open()).events
    expectEqual([kept?.event.value, kept?.event.metadata], [1, { path: '/a' }], 'what was kept')
    await after.close()
  })

  test('metadata that JSON cannot carry is refused, and hurts no other event', async (place) => {
    const journal = await opened(place)
    const cycle: Record<string, unknown> = {}
    cycle['self'] = cycle
    const wrong = [cycle, { big: 1n }, { toJSON: () => undefined }, { toJSON: () => 'text' }]
    const appends = wrong.map((metadata) => journal.append({ ...usage(1), metadata }))
    const right = journal.append(usage(2))
    for (const { status, reason } of await settled(appends)) {
      expectThat(
        status === 'rejected' && isSpillwayError(reason, 'ERR_INVALID_EVENT') && reason.message.includes('metadata'),
        'an event whose metadata JSON cannot carry must be refused with an InvalidEventError that names the metadata',
      )
    }
    await right
    await journal.close()
    expectEqual(valuesOf((await reopened(place)).events), [2], 'what was kept')
  })
}

function batches(test: Test): void {
  for (const [how, end] of ends) {
    test(`a batch that was assigned comes back with its id and its events in their order, after ${how}`, async (place) => {
      const journal = await opened(place)
      const [p1, p2, p3, p4] = await appendAll(journal, [1, 2, 3, 4])
      await journal.assign('batch-a', [p2, p1] as number[])
      await journal.assign('batch-b', [p4] as number[])
      await end(place, journal)

      const remains = await reopened(place)
      expectEqual(
        remains.batches.map(({ id, events }) => [id, positionsOf(events), valuesOf(events)]),
        [
          ['batch-a', [p2, p1], [2, 1]],
          ['batch-b', [p4], [4]],
        ],
        'the batches',
      )
      expectEqual(positionsOf(remains.events), [p3], 'the events that are in none')
    })

    test(`a batch that was settled doesn't come back, after ${how}`, async (place) => {
      const journal = await opened(place)
      const [p1, p2, p3] = await appendAll(journal, [1, 2, 3])
      await journal.assign('batch-a', [p1, p2] as number[])
      await journal.assign('batch-b', [p3] as number[])
      await journal.settle('batch-a')
      await end(place, journal)

      const remains = await reopened(place)
      expectEqual(idsOf(remains), ['batch-b'], 'the batches')
      expectEqual(remains.events, [], 'the events')
    })
  }

  test('the latest assignment of an event counts, and a batch that has none left is gone', async (place) => {
    const journal = await opened(place)
    const [p1, p2, p3] = (await appendAll(journal, [1, 2, 3])) as [number, number, number]
    await journal.assign('whole', [p1, p2])
    await journal.assign('partly', [p3])
    await journal.assign('whole/0', [p1])
    await journal.assign('whole/1', [p2])
    await journal.settle('whole')
    await journal.settle('whole/0')
    await place.crash()

    const remains = await reopened(place)
    expectEqual(
      remains.batches.map(({ id, events }) => [id, valuesOf(events)]),
      [
        ['whole/1', [2]],
        ['partly', [3]],
      ],
      'the batches',
    )
    expectEqual(remains.events, [], 'the events')
  })

  test('the same assignment twice is one', async (place) => {
    const journal = await opened(place)
    const positions = await appendAll(journal, [1, 2])
    await journal.assign('batch', positions)
    await journal.assign('batch', positions)
    await journal.close()
    const { batches } = await reopened(place)
    expectEqual(
      batches.map(({ id, events }) => [id, valuesOf(events)]),
      [['batch', [1, 2]]],
      'the batches',
    )
  })

  test('settling what is unknown, or a second time, does nothing', async (place) => {
    const journal = await opened(place)
    const [p1] = await appendAll(journal, [1, 2])
    await journal.assign('batch', [p1 as number])
    await journal.settle('another')
    await journal.settle('batch')
    await journal.settle('batch')
    await journal.close()
    expectEqual(valuesOf((await reopened(place)).events), [2], 'what was kept')
  })

  test('an assignment of what is not there is refused, and changes nothing', async (place) => {
    const journal = await opened(place)
    const [p1] = (await appendAll(journal, [1])) as [number]
    const [{ status }] = (await settled([journal.assign('batch', [p1, p1 + 1000])])) as [PromiseRejectedResult]
    expectEqual(status, 'rejected', 'the outcome')
    await journal.assign('empty', [])
    await journal.close()
    const remains = await reopened(place)
    expectEqual([idsOf(remains), valuesOf(remains.events)], [[], [1]], 'what was kept')
  })

  test('what was given up is found, and once settled does not come back', async (place) => {
    const journal = await opened(place)
    const events: AcceptedUsage[] = [usage(1), { ...usage(2), userId: 2n ** 70n, metadata: { a: 1 } }]
    const positions = await Promise.all(events.map((event) => journal.append(event)))
    await journal.assign('batch', positions)
    await journal.deadLetter({ batchId: 'batch', events, error: new Error('no such plan') })
    await journal.settle('batch')
    await journal.deadLetter({
      batchId: 'another',
      events: [usage(3)],
      error: new Error('no such user'),
      refused: true,
    })
    await place.crash()

    const remains = await reopened(place)
    expectEqual([idsOf(remains), remains.events], [[], []], 'what comes back')
    const letters = await place.deadLetters()
    expectEqual(
      letters.map(({ batchId, events, refused }) => [batchId, events.map(describeUsage), refused === true]),
      [
        ['batch', events.map(describeUsage), false],
        ['another', [describeUsage(usage(3))], true],
      ],
      'the dead letters',
    )
  })
}

function lives(test: Test): void {
  test('positions go on growing over lives, whatever was settled', async (place) => {
    const seen: number[] = []
    for (let life = 0; life < 4; life++) {
      const journal = await opened(place)
      const positions = await appendAll(journal, [1, 2, 3])
      await journal.assign(`batch-${life}`, positions)
      await journal.settle(`batch-${life}`)
      seen.push(...positions)
      await (life % 2 === 0 ? journal.close() : place.crash())
    }
    expectGrowing(seen)
  })

  test('what came back and was not settled comes back again, with what came since', async (place) => {
    const first = await opened(place)
    const [p1, p2] = (await appendAll(first, [1, 2, 3])) as [number, number, number]
    await first.assign('batch-a', [p1])
    await place.crash()

    const second = await opened(place)
    const [p4] = (await appendAll(second, [4])) as [number]
    await second.assign('batch-b', [p2, p4])
    await second.settle('batch-a')
    await place.crash()

    const third = await place.next()
    const remains = await third.open()
    expectEqual(
      remains.batches.map(({ id, events }) => [id, positionsOf(events)]),
      [['batch-b', [p2, p4]]],
      'the batches',
    )
    expectEqual(valuesOf(remains.events), [3], 'the events')
    await third.settle('batch-b')
    await third.close()
    expectEqual(idsOf(await reopened(place)), [], 'the batches at the end')
  })

  test('close keeps what was called before it, and is called more than once without harm', async (place) => {
    const journal = await opened(place)
    const [p1] = (await appendAll(journal, [1])) as [number]
    const calls = [journal.append(usage(2)), journal.assign('batch', [p1]), journal.append(usage(3))]
    await Promise.all([journal.close(), journal.close()])
    await Promise.all(calls)

    const remains = await reopened(place)
    expectEqual([idsOf(remains), valuesOf(remains.events)], [['batch'], [2, 3]], 'what was kept')
  })

  test('many events and batches come back whole', async (place) => {
    const journal = await opened(place)
    const positions = await appendAll(
      journal,
      Array.from({ length: 2000 }, (_, i) => i),
    )
    for (let from = 0; from < 1000; from += 100) {
      await journal.assign(`batch-${from}`, positions.slice(from, from + 100))
      if (from % 200 === 0) await journal.settle(`batch-${from}`)
    }
    await place.crash()

    const remains = await reopened(place)
    expectEqual(idsOf(remains), ['batch-100', 'batch-300', 'batch-500', 'batch-700', 'batch-900'], 'the batches')
    expectEqual(positionsOf(remains.batches[0]?.events ?? []), positions.slice(100, 200), 'the events of one')
    expectEqual(positionsOf(remains.events), positions.slice(1000), 'the events that are in none')
  })
}

function refusals(test: Test): void {
  const calls = (journal: UsageJournal): PromiseLike<unknown>[] => [
    journal.append(usage(1)),
    journal.assign('batch', [1]),
    journal.settle('batch'),
    journal.deadLetter({ batchId: 'batch', events: [usage(1)], error: new Error('any') }),
  ]

  test('after close, every call is refused with a ClosedError', async (place) => {
    const journal = await opened(place)
    const closing = journal.close()
    for (const { status, reason } of await settled([...calls(journal), journal.open()])) {
      expectThat(status === 'rejected' && isSpillwayError(reason, 'ERR_CLOSED'), 'a call after close must be refused')
    }
    await closing
    expectEqual([await reopened(place), await place.deadLetters()], [{ batches: [], events: [] }, []], 'what was kept')
  })

  test('before open, every call is refused; so is a second open', async (place) => {
    const journal = await place.next()
    const early = await settled(calls(journal))
    await journal.open()
    const again = await settled([journal.open()])
    for (const { status, reason } of [...early, ...again]) {
      expectThat(
        status === 'rejected' && isSpillwayError(reason) && !reason.retryable,
        'such a call must be refused for good',
      )
    }
    await journal.close()
  })
}

const ends: readonly (readonly [string, (place: UsageJournalPlace, journal: UsageJournal) => Promise<void>])[] = [
  ['close', async (_, journal) => journal.close()],
  ['a crash', async (place) => place.crash()],
]

function usage(value: number): AcceptedUsage {
  return { userId: 'user', quotaType: 'api', value, timestamp: 1_790_000_000_000, period: '2026-09' }
}

/** The next instance, opened. */
async function opened(place: UsageJournalPlace): Promise<UsageJournal> {
  const journal = await place.next()
  await journal.open()
  return journal
}

/** What the next instance finds; it is closed again. */
async function reopened(place: UsageJournalPlace): Promise<Awaited<ReturnType<UsageJournal['open']>>> {
  const journal = await place.next()
  const remains = await journal.open()
  await journal.close()
  return remains
}

function appendAll(journal: UsageJournal, values: readonly number[]): Promise<number[]> {
  return Promise.all(values.map((value) => journal.append(usage(value))))
}

function valuesOf(events: readonly JournalledUsage[]): number[] {
  return events.map(({ event }) => event.value)
}

function positionsOf(events: readonly JournalledUsage[]): number[] {
  return events.map(({ position }) => position)
}

function idsOf({ batches }: { readonly batches: readonly { readonly id: string }[] }): string[] {
  return batches.map(({ id }) => id)
}

/** Tells `1`, `'1'` and `1n` apart, and numbers to their last bit. */
function describeUsage({ userId, ...event }: AcceptedUsage): unknown {
  return [typeof userId, String(userId), Object.entries(event).sort(([a], [b]) => (a < b ? -1 : 1))]
}

function expectGrowing(positions: readonly number[]): void {
  positions.forEach((position, i) => {
    expectThat(Number.isSafeInteger(position), `position ${position} must be a whole number`)
    const before = positions[i - 1] ?? Number.NEGATIVE_INFINITY
    expectThat(position > before, `position ${position} comes after ${before} and must be greater`)
  })
}

/** The outcomes, each with a `reason` to look at. */
async function settled(calls: readonly PromiseLike<unknown>[]): Promise<{ status: string; reason: unknown }[]> {
  const outcomes = await Promise.allSettled(calls)
  return outcomes.map((outcome) => ({
    status: outcome.status,
    reason: outcome.status === 'rejected' ? outcome.reason : undefined,
  }))
}
