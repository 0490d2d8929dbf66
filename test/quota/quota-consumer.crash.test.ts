import { expect, test, vi } from 'vitest'
import { unhandledDuring } from '../batcher/support/process-events.js'
import { CrashWorld } from './support/crash-world.js'

/** How many worlds are tried; `SPILLWAY_PROPERTY_RUNS` asks for more, `SPILLWAY_PROPERTY_SEED` for the first one's seed. */
const runs = Number(process.env['SPILLWAY_PROPERTY_RUNS'] ?? 150)
const firstSeed = Number(process.env['SPILLWAY_PROPERTY_SEED'] ?? 1)

test('killed at any call of its journal or its sink, a consumer loses nothing that publish resolved and counts nothing twice', {
  timeout: 60_000 + runs * 200,
}, async () => {
  vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
  let kills = 0

  const unhandled = await unhandledDuring(async () => {
    for (let seed = firstSeed; seed < firstSeed + runs; seed++) {
      const world = new CrashWorld(seed)
      await world.run(4).catch((error: unknown) => {
        throw new Error(`the world of seed ${seed} is wrong`, { cause: error })
      })
      kills += world.kills
    }
  })

  expect(unhandled).toEqual([])
  // Most lives end by a kill, so that the test is about those.
  expect(kills).toBeGreaterThan(runs)
})
