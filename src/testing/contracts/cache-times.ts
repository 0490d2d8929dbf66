import { type CacheTest, expectBetween, expectValue, grainMs, slackMs } from './cache-world.js'
import { expectEqual, expectThat } from './contract.js'

const day = 86_400_000

/** How long values are fresh and kept. */
export function cacheTimes(test: CacheTest): void {
  test('its times count down on the clock of the store', async ({ put, get, elapse }) => {
    await put('a', 1, { freshMs: 60_000, keptMs: 90_000 })
    const before = await get('a')
    expectBetween(before.ageMs, -grainMs, slackMs, 'the age at first')
    expectBetween(before.freshMs, 60_000 - slackMs, 60_000, 'how long it is fresh at first')
    expectBetween(before.keptMs, 90_000 - slackMs, 90_000, 'how long it is kept at first')
    await elapse(150)
    const after = await get('a')
    expectBetween(after.ageMs - before.ageMs, 150 - grainMs, 150 + slackMs, 'how much older it is')
    expectBetween(before.freshMs - after.freshMs, 150 - grainMs, 150 + slackMs, 'how much less it is fresh')
    expectBetween(before.keptMs - after.keptMs, 150 - grainMs, 150 + slackMs, 'how much less it is kept')
  })

  test('a value is kept when it is not fresh any more', async ({ put, get, elapse }) => {
    const version = await put('a', 1, { freshMs: 50, keptMs: 60_000 })
    await elapse(120)
    const read = await get('a')
    expectEqual([read.value, read.version], [1, version], 'what is stored')
    expectThat(read.freshMs <= 0, `it must not be fresh any more, got ${read.freshMs}`)
    expectBetween(read.keptMs, 60_000 - 120 - slackMs, 60_000 - 120 + grainMs, 'how long it is kept')
    expectBetween(read.ageMs, 120 - grainMs, 120 + slackMs, 'its age')
  })

  test('a value is gone when it is not kept any more', async ({ put, get, elapse, key, open }) => {
    await put('a', 1, { freshMs: 50, keptMs: 80, marks: [{ name: key('m'), mark: 'x' }] })
    await elapse(120)
    const { value, ageMs, freshMs, keptMs, marks } = await get('a', await open())
    const gone = { value: undefined, ageMs: 0, freshMs: 0, keptMs: 0, marks: [] }
    expectValue({ value, ageMs, freshMs, keptMs, marks }, gone, 'what is left')
  })

  test('what is fresh for ever stays so, and what is kept for ever too', async ({ put, get, elapse }) => {
    await put('a', 1, { freshMs: Number.POSITIVE_INFINITY })
    await put('b', 1, { freshMs: 50, keptMs: Number.POSITIVE_INFINITY })
    await elapse(120)
    const [a, b] = [await get('a'), await get('b')]
    expectEqual([a.value, a.freshMs, a.keptMs], [1, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY], 'the first')
    expectEqual([b.value, b.freshMs <= 0, b.keptMs], [1, true, Number.POSITIVE_INFINITY], 'the second')
    expectBetween(a.ageMs, 120 - grainMs, 120 + slackMs, 'the age of the first')
  })

  test('months and centuries are times like any other', async ({ put, get }) => {
    for (const freshMs of [30 * day, 366 * day, 36_525 * day]) {
      await put('a', 1, { freshMs, keptMs: freshMs + day })
      const read = await get('a')
      expectEqual(read.value, 1, 'what is stored')
      expectBetween(read.freshMs, freshMs - slackMs, freshMs + grainMs, 'how long it is fresh')
      expectBetween(read.keptMs, freshMs + day - slackMs, freshMs + day + grainMs, 'how long it is kept')
    }
  })

  test('parts of a millisecond do no harm', async ({ put, get, elapse }) => {
    await put('a', 1, { freshMs: 30_000.75, keptMs: 30_000.8 })
    const read = await get('a')
    expectEqual(read.value, 1, 'what is stored')
    expectBetween(read.freshMs, 30_000 - slackMs, 30_001, 'how long it is fresh')
    await put('b', 1, { freshMs: 0.01, keptMs: 0.02 })
    await elapse(20)
    expectEqual((await get('b')).value, undefined, 'what is left of a value for no time')
  })

  test('every write brings times of its own', async ({ put, get, elapse }) => {
    const minute = 60_000
    const version = await put('a', 1, { freshMs: Number.POSITIVE_INFINITY })
    await put('a', 2, { freshMs: minute, ifVersion: version })
    expectBetween((await get('a')).keptMs, minute - slackMs, minute, 'how long the second is kept')
    await put('a', 3, { freshMs: 50 })
    await put('a', 4, { freshMs: day })
    await elapse(120)
    const read = await get('a')
    expectEqual(read.value, 4, 'what is stored')
    expectBetween(read.freshMs, day - 120 - slackMs, day - 120 + grainMs, 'how long the last is fresh')
  })

  test('a value that is written again is as old as the last write', async ({ put, get, elapse }) => {
    await put('a', 1)
    await elapse(150)
    const { ageMs } = await get('a')
    await put('a', 2)
    expectThat((await get('a')).ageMs < ageMs, 'a new value must be younger than the one before')
  })
}
