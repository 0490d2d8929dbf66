// A cache whose shared store is slow, dead and back: readers don't notice, and the circuit tells.
import assert from 'node:assert/strict'
import { MultiLevelCache } from 'spillway'
import { FakeClock, FaultSwitch, faulty, MemoryCacheStore } from 'spillway/testing'

const clock = new FakeClock()
const power = new FaultSwitch({ clock, delayMs: 5000 })
const l2 = faulty(new MemoryCacheStore({ clock }), { power })
const cache = new MultiLevelCache<string>({ clock, l2, l2TimeoutMs: 100 })

const read = (key: string): Promise<string> => clock.until(cache.getOrLoad(key, async () => `value of ${key}`))

for (const mode of ['ok', 'slow', 'dead', 'ok'] as const) {
  power.turn(mode)
  const before = clock.now()
  for (let n = 0; n < 10; n++) assert.equal(await read(`${mode}:${n}`), `value of ${mode}:${n}`)
  console.log(`${mode}: ten reads in ${clock.now() - before} ms, circuit ${cache.stats().l2?.state}`)
  await clock.advance(60_000)
}

const { ok, slow, dead } = power.counts
console.log(`calls of the store: ${ok} while it was well, ${slow} while it was slow, ${dead} while it was dead`)
assert.ok(slow + dead < 20, 'the circuit kept most calls away from a store that was not well')
assert.deepEqual(await clock.until(cache.close()), { drained: true, abandoned: 0 })
assert.equal(clock.pending, 0)
