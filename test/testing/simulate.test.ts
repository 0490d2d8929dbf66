import { AsyncWriteBuffer } from 'spillway'
import {
  commitThenDrop,
  type SimulateOptions,
  SimulationError,
  type SimulationWorld,
  seededRandom,
  simulate,
  simulateDefaults,
  slow,
} from 'spillway/testing'
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest'

/** Whatever the environment of the test run asks for, it doesn't mean these. */
const quiet = { environment: false } as const

afterEach(() => vi.unstubAllEnvs())

async function failureOf(
  scenario: (world: SimulationWorld) => unknown,
  options: SimulateOptions = {},
): Promise<SimulationError> {
  const error = await simulate(scenario, { ...quiet, ...options }).catch((reason: unknown) => reason)
  expect(error).toBeInstanceOf(SimulationError)
  return error as SimulationError
}

describe('a simulation', () => {
  test('runs the scenario once for each seed, and returns what it found', async () => {
    const report = await simulate(
      async ({ seed, sleep, clock }) => {
        await sleep(1000)
        return [seed, clock.now()]
      },
      { ...quiet, seeds: 3, firstSeed: 7 },
    )

    expect(report).toEqual({
      seeds: 3,
      results: [
        [7, 1000],
        [8, 1000],
        [9, 1000],
      ],
      virtualMs: 3000,
      steps: 3,
      complete: true,
    })
  })

  test('takes seeds of any kind, in their order, and scenarios that return at once', async () => {
    const report = await simulate(({ seed }) => seed, { ...quiet, seeds: ['one', 2, -3.5] })

    expect(report.results).toEqual(['one', 2, -3.5])
  })

  test('runs a hundred seeds from 1 on unless told otherwise', async () => {
    const { results } = await simulate(({ seed }) => seed, quiet)

    expect([results.length, results[0], results.at(-1)]).toEqual([100, 1, 100])
    expect(simulateDefaults).toMatchObject({ seeds: 100, firstSeed: 1 })
  })

  test('gives each seed its own chance, and the same each time', async () => {
    const scenario = async ({ random, below, happens, pick, sleep, clock }: SimulationWorld): Promise<unknown[]> => {
      await sleep(below(100))
      return [random(), below(1000), happens(0.5), pick(['a', 'b', 'c']), clock.now()]
    }

    const first = await simulate(scenario, quiet)
    const second = await simulate(scenario, quiet)

    expect(first).toEqual(second)
    expect(new Set(first.results.map(([number]) => number)).size).toBe(100)
    const same = seededRandom(5)
    same()
    expect(first.results[4]?.[0]).toBe(same())
  })

  test('has dice that keep to their bounds', async () => {
    await simulate(
      ({ below, happens, pick }) => {
        const numbers = Array.from({ length: 100 }, () => below(3))
        expect(new Set(numbers)).toEqual(new Set([0, 1, 2]))
        expect([happens(0), happens(1)]).toEqual([false, true])
        expect(['a', 'b']).toContain(pick(['a', 'b']))
        expect(() => pick([])).toThrow(RangeError)
      },
      { ...quiet, seeds: 20 },
    )
  })

  test.each<[string, (world: SimulationWorld) => unknown]>([
    ['chance must be a number between 0 and 1, got undefined', ({ happens }) => happens(undefined as never)],
    ['chance must be a number between 0 and 1, got 5', ({ happens }) => happens(5)],
    ['n must be a number between 0 and', ({ below }) => below(Number.NaN)],
    ['n must be a number between 0 and', ({ below }) => below(-1)],
    ['delayMs must be a number, got NaN', ({ sleep }) => sleep(Number.NaN)],
  ])('fails where dice can never fall, or sleep never ends: %s', async (message, scenario) => {
    const { cause } = await failureOf(scenario, { seeds: 1 })

    expect(cause).toMatchObject({ name: 'OptionError', message: expect.stringContaining(message) })
  })

  test('lets the scenario move the clock too', async () => {
    const { results } = await simulate(
      async ({ clock, sleep }) => {
        const slept = sleep(10).then(() => clock.now())
        await clock.advance(50)
        return [await slept, clock.now()]
      },
      { ...quiet, seeds: 1 },
    )

    expect(results).toEqual([[10, 50]])
  })

  test('wakes a sleeper whose signal aborts, and leaves no timer', async () => {
    await simulate(
      async ({ sleep, clock }) => {
        const controller = new AbortController()
        const woken = sleep(1000, { signal: controller.signal }).catch((reason: unknown) => [reason, clock.now()])
        await sleep(10)
        controller.abort('enough')
        expect(await woken).toEqual(['enough', 10])
        await expect(sleep(10, { signal: controller.signal })).rejects.toBe('enough')
      },
      { ...quiet, seeds: 1 },
    )
  })

  test('begins at the wall time that is asked for', async () => {
    const { results } = await simulate(({ clock }) => clock.wallNow(), { ...quiet, seeds: 1, wallMs: 1234 })

    expect(results).toEqual([1234])
  })

  test('of a sound write buffer whose store loses answers finds nothing, in hundreds of seeds', async () => {
    const { results, virtualMs } = await simulate(
      async ({ clock, random, below, sleep }) => {
        const applied = new Map<string, number>()
        const store = async (entries: ReadonlyMap<string, number>, { batchId }: { batchId: string }): Promise<void> => {
          if (!applied.has(batchId))
            applied.set(
              batchId,
              [...entries.values()].reduce((sum, n) => sum + n, 0),
            )
        }
        const write = commitThenDrop(slow(store, { delayMs: () => random() * 50, clock }), { failureRate: 0.3, random })
        const retry = { attempts: 50 }
        const buffer = new AsyncWriteBuffer(write, { merge: (a, b) => a + b, clock, random, idempotent: true, retry })
        for (let i = 0; i < 50; i++) {
          buffer.put(`key:${below(10)}`, 1)
          await sleep(below(20))
        }
        await buffer.close()
        return [...applied.values()].reduce((sum, n) => sum + n, 0)
      },
      { ...quiet, seeds: 200, twice: true },
    )

    expect(new Set(results)).toEqual(new Set([50]))
    expect(virtualMs).toBeGreaterThan(200 * 300)
  })
})

describe('a seed fails', () => {
  test('when the scenario does, and the error names it, and says how to run it alone', async () => {
    const boom = new Error('boom')
    const error = await failureOf(
      async ({ seed, sleep, log }) => {
        log('seed', seed, { kept: 1n })
        await sleep(12.5)
        if (seed === 17) throw boom
      },
      { name: 'my buffer' },
    )

    expect(error.message).toBe(
      [
        'my buffer: seed 17 failed at 12.5 ms: Error: boom',
        'run it alone: SIMULATION_SEED=17, or { seeds: [17] }',
        'trace:',
        '  0 ms: seed 17 {"kept":"1n"}',
      ].join('\n'),
    )
    expect(error).toMatchObject({ name: 'SimulationError', seed: 17, atMs: 12.5, repeats: true, cause: boom })
    expect(error.trace).toEqual(['0 ms: seed 17 {"kept":"1n"}'])
  })

  test('when the scenario throws at once, or rejects with no error', async () => {
    expect(
      await failureOf(() => {
        throw new Error('at once')
      }),
    ).toMatchObject({ seed: 1, atMs: 0, cause: { message: 'at once' } })
    expect((await failureOf(() => Promise.reject('text'))).message).toContain('seed 1 failed at 0 ms: text')
  })

  test('when it waits for what never comes', async () => {
    const error = await failureOf(async ({ sleep }) => {
      await sleep(10)
      await new Promise(() => {})
    })

    expect(error).toMatchObject({ atMs: 10, cause: { name: 'StuckError', reason: 'deadlock' } })
  })

  test('when it takes too much time, or too many steps', async () => {
    const endless = async ({ sleep }: SimulationWorld): Promise<void> => {
      for (;;) await sleep(1000)
    }

    expect((await failureOf(endless, { maxMs: 5000 })).cause).toMatchObject({ reason: 'time' })
    expect((await failureOf(endless, { maxSteps: 100 })).cause).toMatchObject({ reason: 'steps' })
  })

  test('when a timer throws', async () => {
    const error = await failureOf(async ({ clock, sleep }) => {
      clock.setTimer(() => {
        throw new Error('in a timer')
      }, 5)
      await sleep(10)
    })

    expect(error).toMatchObject({ atMs: 5, cause: { message: 'in a timer' } })
  })

  test('when a rejection is left unhandled, and nobody else hears of it', async () => {
    const heard: unknown[] = []
    const listener = (reason: unknown): void => void heard.push(reason)
    process.on('unhandledRejection', listener)
    onTestFinished(() => void process.off('unhandledRejection', listener))
    const before = process.listeners('unhandledRejection')

    const error = await failureOf(async ({ sleep }) => {
      void sleep(5).then(() => Promise.reject(new Error('nobody looked')))
      await sleep(10)
    })

    expect(error.message).toContain('a rejection was left unhandled: Error: nobody looked')
    expect((error.cause as Error).cause).toMatchObject({ message: 'nobody looked' })
    expect(error.repeats).toBe(true)
    expect(heard).toEqual([])
    expect(process.listeners('unhandledRejection')).toEqual(before)
  })

  test('for the rejection that made others wait for ever, rather than for their waiting', async () => {
    const error = await failureOf(async ({ sleep }) => {
      await new Promise((resolve) => {
        void (async () => {
          await sleep(5)
          throw new Error('before it could resolve')
          // biome-ignore lint/correctness/noUnreachable: that is the point.
          resolve(undefined)
        })()
      })
    })

    expect(error.message).toContain('a rejection was left unhandled: Error: before it could resolve')
  })

  test('when timers are left at its end, unless that is allowed', async () => {
    const leaving = ({ clock }: SimulationWorld): void => void clock.setTimer(() => undefined, 10)

    expect((await failureOf(leaving)).message).toContain("the clock's pending is 1 at the end: timers are left")
    await simulate(leaving, { ...quiet, timersLeft: true })
  })

  test('with the latest entries of its trace', async () => {
    const talking = async ({ log, sleep }: SimulationWorld): Promise<void> => {
      for (let i = 0; i < 1000; i++) {
        log('entry', i)
        await sleep(1)
      }
      throw new Error('boom')
    }

    const error = await failureOf(talking, { traceLength: 3 })
    expect(error.trace).toEqual(['997 ms: entry 997', '998 ms: entry 998', '999 ms: entry 999'])
    expect(error.message).toContain('trace (the last 3 of 1000):\n  997 ms')
    const silent = await failureOf(talking, { traceLength: 0 })
    expect([silent.trace, silent.message.includes('trace')]).toEqual([[], false])
  })

  test('and says so where it did something else the second time', async () => {
    let runs = 0
    const error = await failureOf(() => {
      if (runs++ === 0) throw new Error('once')
    })

    expect(error.repeats).toBe(false)
    expect(error.message).toContain('a second run of the seed went another way')
  })
})

describe('with twice, a seed fails that takes something from elsewhere', () => {
  test.each<[string, (world: SimulationWorld, run: number) => unknown, string]>([
    [
      'in its trace',
      ({ log }, run) => log('run', run),
      'its trace says "0 ms: run 2" where the first says "0 ms: run 1"',
    ],
    [
      'in the length of its trace',
      ({ log }, run) => run > 1 && log('more'),
      'its trace says "0 ms: more" where the first',
    ],
    ['in its chance', ({ random }, run) => run > 1 && random(), '1 random numbers and 0 steps to 0 ms instead of 0'],
    ['in its time', ({ sleep }, run) => sleep(run), '0 random numbers and 1 steps to 2 ms instead of'],
    ['in its end', (_, run) => run > 1 && Promise.reject(new Error('second')), 'Error: second'],
  ])('%s', async (_, scenario, message) => {
    let runs = 0

    const error = await failureOf((world) => scenario(world, ++runs), { twice: true, seeds: [4] })

    expect(error.message).toContain(message)
    expect(error).toMatchObject({ seed: 4, repeats: false })
    expect(runs).toBe(2)
  })
})

describe('the environment', () => {
  const scenario = ({ seed }: SimulationWorld): number | string => seed

  test('may ask for one seed, and then the report is not complete', async () => {
    vi.stubEnv('SIMULATION_SEED', '17')

    expect(await simulate(scenario)).toMatchObject({ results: [17], complete: false })
    expect(await simulate(scenario, { seeds: ['a', 'b'] })).toMatchObject({ results: [17], complete: false })
    expect(await simulate(scenario, { ...quiet, seeds: [1] })).toMatchObject({ results: [1], complete: true })
    vi.stubEnv('SIMULATION_SEED', 'a name')
    expect((await simulate(scenario)).results).toEqual(['a name'])
  })

  test('may ask for more seeds, or for fewer', async () => {
    vi.stubEnv('SIMULATION_RUNS', '5')

    expect(await simulate(scenario, { seeds: 3, firstSeed: 2 })).toMatchObject({
      results: [2, 3, 4, 5, 6],
      complete: true,
    })
    expect(await simulate(scenario, { seeds: 6 })).toMatchObject({ seeds: 5, complete: false })
  })

  test('that asks for what is no number is refused, and one that is empty asks for nothing', async () => {
    vi.stubEnv('SIMULATION_RUNS', 'many')
    await expect(simulate(scenario)).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'SIMULATION_RUNS' })

    vi.stubEnv('SIMULATION_RUNS', '')
    vi.stubEnv('SIMULATION_SEED', '')
    expect((await simulate(scenario, { seeds: 2 })).results).toEqual([1, 2])
  })
})

describe('simulations', () => {
  test('that are started together run one after the other, also after one that fails', async () => {
    const order: string[] = []
    const scenario =
      (name: string) =>
      async ({ sleep }: SimulationWorld): Promise<void> => {
        order.push(`${name} begins`)
        await sleep(10)
        order.push(`${name} ends`)
        if (name === 'a') throw new Error('boom')
      }

    await Promise.allSettled([
      simulate(scenario('a'), { ...quiet, seeds: ['x'] }),
      simulate(scenario('b'), { ...quiet, seeds: ['x'] }),
    ])

    // The one that fails runs a second time.
    expect(order).toEqual(['a begins', 'a ends', 'a begins', 'a ends', 'b begins', 'b ends'])
  })

  test('within simulations are found out', async () => {
    const error = await failureOf(() => simulate(() => 'inner', quiet))

    expect(error.cause).toMatchObject({ reason: 'deadlock' })
  })
})

test.each([
  ['scenario', [undefined], 'scenario must be a function'],
  ['options', [() => 1, 7], 'options must be an object'],
  ['name', [() => 1, { name: 7 }], 'name must be a string, got 7 (number)'],
  ['seeds', [() => 1, { seeds: 0 }], 'seeds must be a whole number between 1 and'],
  ['seeds', [() => 1, { seeds: [] }], 'seeds must be a number, or a list of numbers and strings that is not empty'],
  ['seeds', [() => 1, { seeds: [1, null] }], 'seeds must be a number, or a list'],
  ['firstSeed', [() => 1, { firstSeed: 0.5 }], 'firstSeed must be a safe integer'],
  ['maxMs', [() => 1, { maxMs: -1 }], 'maxMs must be a number between 0 and'],
  ['maxSteps', [() => 1, { maxSteps: 0 }], 'maxSteps must be a whole number'],
  ['timersLeft', [() => 1, { timersLeft: 'yes' }], 'timersLeft must be true or false'],
  ['twice', [() => 1, { twice: 1 }], 'twice must be true or false'],
  ['traceLength', [() => 1, { traceLength: -1 }], 'traceLength must be a whole number between 0 and'],
  ['environment', [() => 1, { environment: {} }], 'environment must be true or false'],
  ['wallMs', [() => 1, { wallMs: 'now' }], 'wallMs must be a number'],
])('a wrong %s is refused, by a rejection', async (field, args, message) => {
  const refused = simulate(...(args as Parameters<typeof simulate>))

  await expect(refused).rejects.toMatchObject({ code: 'ERR_OPTION', field })
  await expect(refused).rejects.toThrow(message)
})
