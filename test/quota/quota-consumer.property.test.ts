import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { unhandledDuring } from '../batcher/support/process-events.js'
import {
  type ConsumerAction,
  ConsumerWorld,
  type ConsumerWorldOptions,
  type DrawnEvent,
  type JournalMood,
} from './support/consumer-world.js'
import { poison, refusable, sinkMoods } from './support/usage-sink-world.js'

/** How many worlds are tried; `SPILLWAY_PROPERTY_RUNS` asks for more, `SPILLWAY_PROPERTY_SEED` for the same ones again. */
const numRuns = Number(process.env['SPILLWAY_PROPERTY_RUNS'] ?? 1000)
const seed = process.env['SPILLWAY_PROPERTY_SEED']

const options: fc.Arbitrary<ConsumerWorldOptions['options']> = fc
  .record({
    eager: fc.boolean(),
    concurrency: fc.integer({ min: 1, max: 3 }),
    capacity: fc.integer({ min: 1, max: 8 }),
    maxBatchSize: fc.integer({ min: 1, max: 4 }),
    maxWaitMs: fc.integer({ min: 0, max: 50 }),
    overflow: fc.constantFrom('reject' as const, 'drop-newest' as const, 'drop-oldest' as const),
    timeoutMs: fc.option(fc.integer({ min: 1, max: 40 }), { nil: undefined }),
    timeoutGraceMs: fc.integer({ min: 0, max: 30 }),
    retry: fc.record({ attempts: fc.integer({ min: 1, max: 3 }), delayMs: fc.integer({ min: 0, max: 20 }) }),
    bisect: fc.boolean(),
    unhealthyAfter: fc.integer({ min: 1, max: 3 }),
  })
  .map((drawn) => ({ ...drawn, maxBatchSize: Math.min(drawn.maxBatchSize, drawn.capacity) }))

const world: fc.Arbitrary<ConsumerWorldOptions> = fc
  .record({
    seed: fc.nat(),
    options,
    idempotent: fc.boolean(),
    journalled: fc.boolean(),
    sinkMoods: fc.array(fc.constantFrom(...sinkMoods), { minLength: 1, maxLength: 6 }),
    journalMoods: fc.array(
      fc.constantFrom<JournalMood[]>('keeps', 'keeps', 'fails', 'is slow', 'keeps, and the answer is lost'),
      { minLength: 1, maxLength: 5 },
    ),
  })
  .map((drawn) => {
    const journalled = drawn.journalled && drawn.idempotent && drawn.options.overflow !== 'drop-oldest'
    return { ...drawn, journalled }
  })

const event: fc.Arbitrary<DrawnEvent> = fc.record({
  userId: fc.integer({ min: 0, max: 2 }),
  quotaType: fc.constantFrom('daily' as const, 'monthly' as const, 'total' as const),
  value: fc.oneof(
    { weight: 8, arbitrary: fc.integer({ min: 0, max: 9 }) },
    { weight: 1, arbitrary: fc.constantFrom(poison, refusable) },
  ),
  agoMs: fc.option(fc.oneof(fc.nat(30), fc.nat(3 * 86_400_000)), { nil: undefined }),
  wrong: fc.oneof({ weight: 12, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
})
const someSignal = fc.integer({ min: 0, max: 1 })

const action: fc.Arbitrary<ConsumerAction> = fc.oneof(
  { weight: 12, arbitrary: fc.record({ do: fc.constant('offer' as const), event }) },
  {
    weight: 10,
    arbitrary: fc.record({
      do: fc.constant('publish' as const),
      event,
      signal: fc.option(someSignal, { nil: undefined }),
      wait: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('abort' as const), signal: someSignal }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('flush' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('start' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('close' as const),
      timeoutMs: fc.option(fc.integer({ min: 0, max: 100 }), { nil: undefined }),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant('advance' as const), ms: fc.oneof(fc.constant(0), fc.nat(60)) }),
  },
)

test('the books balance, pending counts all, and every accepted event ends once, whatever fails in whatever order', {
  timeout: 60_000 + numRuns * 100,
}, async () => {
  vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)

  const unhandled = await unhandledDuring(async () => {
    await fc.assert(
      fc.asyncProperty(world, fc.array(action, { minLength: 5, maxLength: 60 }), async (drawn, actions) => {
        const random = new ConsumerWorld(drawn)
        for (const next of actions) await random.step(next)
        await random.end()
      }),
      { numRuns, ...(seed === undefined ? {} : { seed: Number(seed) }) },
    )
  })

  expect(unhandled).toEqual([])
})
