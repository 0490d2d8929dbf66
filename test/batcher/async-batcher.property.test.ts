import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { unhandledDuring } from './support/process-events.js'
import { type Action, type Behaviour, RandomWorld, type World } from './support/random-world.js'

/** How many worlds are tried; `SPILLWAY_PROPERTY_RUNS` asks for more, `SPILLWAY_PROPERTY_SEED` for the same ones again. */
const numRuns = Number(process.env['SPILLWAY_PROPERTY_RUNS'] ?? 3000)
const seed = process.env['SPILLWAY_PROPERTY_SEED']

const behaviour = fc.constantFrom<Behaviour[]>(
  'succeeds',
  'succeeds at once',
  'fails some items',
  'fails with poison',
  'throws',
  'rejects',
  'rejects for good',
  'loses the connection',
  'answers too few',
  'answers no array',
  'hangs',
  'hangs until aborted',
  'is slow',
  'is late',
  'adds to its own batcher',
)

const options: fc.Arbitrary<World['options']> = fc
  .record({
    eager: fc.boolean(),
    concurrency: fc.integer({ min: 1, max: 3 }),
    capacity: fc.integer({ min: 1, max: 8 }),
    maxBatchSize: fc.integer({ min: 1, max: 4 }),
    maxWaitMs: fc.integer({ min: 0, max: 50 }),
    overflow: fc.constantFrom('reject' as const, 'drop-newest' as const, 'drop-oldest' as const),
    timeoutMs: fc.option(fc.integer({ min: 1, max: 40 }), { nil: undefined }),
    timeoutGraceMs: fc.integer({ min: 0, max: 30 }),
    retry: fc.record({
      attempts: fc.integer({ min: 1, max: 3 }),
      delayMs: fc.integer({ min: 0, max: 20 }),
    }),
    bisect: fc.boolean(),
    idempotent: fc.boolean(),
  })
  .map((drawn) => ({ ...drawn, maxBatchSize: Math.min(drawn.maxBatchSize, drawn.capacity) }))

const world: fc.Arbitrary<World> = fc.record({
  seed: fc.nat(),
  options,
  keyed: fc.boolean(),
  grouped: fc.boolean(),
  sized: fc.boolean(),
  listening: fc.boolean(),
  behaviours: fc.array(behaviour, { minLength: 1, maxLength: 6 }),
})

const item = fc.record({
  key: fc.integer({ min: 0, max: 2 }),
  group: fc.integer({ min: 0, max: 2 }),
  bytes: fc.integer({ min: 0, max: 11 }),
})
const someSignal = fc.integer({ min: 0, max: 3 })
const signal = fc.option(someSignal, { nil: undefined })

const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 20, arbitrary: fc.record({ do: fc.constant('add' as const), item, signal }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('addMany' as const), items: fc.array(item, { maxLength: 10 }), signal }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('ready' as const), signal }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('abort' as const), signal: someSignal }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('flush' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('close' as const),
      timeoutMs: fc.option(fc.integer({ min: 0, max: 100 }), { nil: undefined }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('advance' as const), ms: fc.oneof(fc.constant(0), fc.nat(60)) }),
  },
)

test('the books balance and every caller gets its own answer once, whatever happens in whatever order', {
  timeout: 60_000 + numRuns * 100,
}, async () => {
  // Batch functions that add to their own batcher are warned of, in every world anew.
  vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)

  const unhandled = await unhandledDuring(async () => {
    await fc.assert(
      fc.asyncProperty(world, fc.array(action, { minLength: 5, maxLength: 60 }), async (drawn, actions) => {
        const random = new RandomWorld(drawn)
        for (const next of actions) await random.step(next)
        await random.end()
      }),
      { numRuns, ...(seed === undefined ? {} : { seed: Number(seed) }) },
    )
  })

  expect(unhandled).toEqual([])
})
