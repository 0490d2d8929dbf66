import { isSpillwayError } from '../../core/errors.js'
import type { CacheWriteOutcome } from '../../core/ports.js'
import { cacheMarks } from './cache-marks.js'
import { cacheTimes } from './cache-times.js'
import { type CacheStoreHarness, type CacheTest, CacheWorld, done, expectValue, oddNames } from './cache-world.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'

export type { CacheStoreHarness } from './cache-world.js'

/** What every store carries: all that JSON has. */
const values: readonly unknown[] = [
  null,
  0,
  '',
  false,
  true,
  -1.5,
  1e300,
  5e-324,
  Number.MAX_SAFE_INTEGER,
  'text',
  'null',
  '{"a":1}',
  'a\0b',
  '\u00e9 e\u0301 \u{1F600} \u2028 \ufeff \r\n "\\',
  [],
  {},
  [null, [0, ''], { a: [] }],
  { a: { b: { c: [1, 'two', false, null] } }, '': 0, 'k\0': '\0', constructor: 1 },
  'x'.repeat(100_000),
]

/**
 * What every `CacheStore` must do, as cases for any test runner.
 *
 * @example
 * ```ts
 * import { cacheStoreContract, FakeClock, MemoryCacheStore } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const clock = new FakeClock()
 * const store = new MemoryCacheStore({ clock })
 * for (const { name, run } of cacheStoreContract({ open: () => store, elapse: (ms) => clock.advance(ms) })) test(name, run)
 * ```
 */
export function cacheStoreContract(harness: CacheStoreHarness): readonly ContractCase[] {
  const cases: ContractCase[] = []
  const test: CacheTest = (name, body) => {
    cases.push({ name, run: async () => body(new CacheWorld(harness, await harness.open())) })
  }
  cacheValues(test)
  cacheVersions(test)
  cacheRaces(test)
  cacheTimes(test)
  cacheMarks(test)
  return cases
}

function cacheValues(test: CacheTest): void {
  test('says how long it remembers versions', async ({ store }) => {
    expectThat(typeof store.fenceMs === 'number' && store.fenceMs >= 10_000, 'fenceMs must be 10 seconds or more')
  })

  test('a key that nobody has written has no value and no version', async ({ get }) => {
    const absent = { value: undefined, version: '', ageMs: 0, freshMs: 0, keptMs: 0, marks: [] }
    expectValue({ ...(await get('absent')) }, absent, 'the answer')
  })

  test('every value comes back as it was, alone', async ({ harness, put, get, open }) => {
    const other = await open()
    for (const value of [...values, ...(harness.values ?? [])]) {
      await put('one', value)
      expectValue((await get('one', other)).value, value, 'the value')
    }
  })

  test('every value comes back as it was, among others', async ({ harness, store, key, writeOf }) => {
    const all = [...values, ...(harness.values ?? [])]
    done(await store.setMany(all.map((value, i) => writeOf(`k${i}`, value))), all.length)
    const read = done(await store.getMany(all.map((_, i) => key(`k${i}`))), all.length)
    all.forEach((value, i) => {
      expectValue(read[i]?.value, value, `value ${i}`)
    })
  })

  test('keys are any text, and none is taken for another', async ({ store, key, writeOf, remove, get }) => {
    const versions = done(await store.setMany(oddNames.map((name, i) => writeOf(name, i))), oddNames.length)
    const read = done(await store.getMany(oddNames.map(key)), oddNames.length)
    read.forEach(({ value, version }, i) => {
      expectEqual([value, version], [i, versions[i]?.version], `what is stored under ${JSON.stringify(oddNames[i])}`)
    })
    for (const [i, name] of oddNames.entries()) {
      await remove(name)
      expectEqual((await get(name)).value, undefined, `what is stored under ${JSON.stringify(name)} when it is deleted`)
      const next = oddNames[i + 1]
      if (next !== undefined)
        expectEqual((await get(next)).value, i + 1, `what is stored under ${JSON.stringify(next)}`)
    }
  })

  test('answers are in the order of the arguments', async ({ store, key, writeOf }) => {
    const numbers = Array.from({ length: 200 }, (_, i) => (i * 37) % 200)
    const writes = numbers.filter((n) => n % 3 !== 0).map((n) => writeOf(`k${n}`, n))
    done(await store.setMany(writes), writes.length)
    const shuffled = numbers.map((n) => (n * 73) % 200)
    const read = done(await store.getMany(shuffled.map((n) => key(`k${n}`))), 200)
    expectEqual(
      read.map(({ value }) => value ?? null),
      shuffled.map((n) => (n % 3 === 0 ? null : n)),
      'the values',
    )
  })

  test('a key that is asked twice is answered twice', async ({ store, key, put }) => {
    const version = await put('a', 1)
    const read = done(await store.getMany([key('a'), key('b'), key('a'), key('b')]), 4)
    expectEqual(
      read.map((answer) => [answer.value ?? null, answer.version]),
      [
        [1, version],
        [null, ''],
        [1, version],
        [null, ''],
      ],
      'the answers',
    )
  })

  test('a key that is written twice in a call has the second value', async ({ store, writeOf, get }) => {
    const [first, other, second] = done(
      await store.setMany([writeOf('a', 'first'), writeOf('b', 'other'), writeOf('a', 'second')]),
      3,
    )
    expectEqual([first?.written, other?.written, second?.written], [true, true, true], 'what was written')
    const read = await get('a')
    expectEqual([read.value, read.version], ['second', second?.version], 'what is stored')
  })

  test('a call without keys is answered without answers', async ({ store }) => {
    expectEqual(
      await Promise.all([
        store.getMany([]),
        store.setMany([]),
        store.deleteMany([]),
        store.readMarks([]),
        store.renewMarks([]),
      ]),
      [[], [], [], [], []],
      'the answers',
    )
  })

  test('a call takes a thousand keys, and a thousand marks', async ({ store, key, writeOf }) => {
    const numbers = Array.from({ length: 1000 }, (_, i) => i)
    const written = done(await store.setMany(numbers.map((n) => writeOf(`k${n}`, n))), 1000)
    const read = done(await store.getMany(numbers.map((n) => key(`k${n}`))), 1000)
    expectEqual(
      read.map(({ value, version }) => [value, version]),
      numbers.map((n) => [n, written[n]?.version]),
      'what is stored',
    )
    const gone = done(await store.deleteMany(numbers.map((n) => key(`k${n}`))), 1000)
    const after = done(await store.getMany(numbers.map((n) => key(`k${n}`))), 1000)
    expectEqual(
      after.map(({ value, version }) => [value ?? null, version]),
      numbers.map((n) => [null, gone[n]]),
      'what is left',
    )
    const names = numbers.map((n) => key(`m${n}`))
    const made = done(await store.readMarks(names), 1000)
    expectEqual(
      made.map(({ name }) => name),
      names,
      'the marks',
    )
    expectEqual(new Set(made.map(({ mark }) => mark)).size > 0, true, 'whether marks have states')
    const renewed = done(await store.renewMarks(names), 1000)
    expectThat(
      renewed.every(({ name, mark }, i) => name === names[i] && mark !== made[i]?.mark),
      'every mark must be renewed',
    )
  })

  test('what is done to the arguments later changes nothing', async ({ store, key, writeOf, put, get }) => {
    await put('a', 1)
    const keys = [key('a'), key('b')]
    const reading = store.getMany(keys)
    keys.length = 0
    expectEqual((await reading).length, 2, 'how many answers came')
    const writes = [writeOf('b', 2)]
    const writing = store.setMany(writes)
    writes.length = 0
    expectEqual((await writing).length, 1, 'how many writes were answered')
    const gone = [key('a')]
    const deleting = store.deleteMany(gone)
    gone[0] = key('b')
    await deleting
    expectEqual([(await get('a')).value, (await get('b')).value], [undefined, 2], 'what is stored')
  })

  test('what it refuses to carry is an OptionError, before anything is written', async ({ harness, store }) => {
    for (const value of harness.refused ?? []) {
      let error: unknown
      try {
        store.encode?.(value)
      } catch (thrown) {
        error = thrown
      }
      expectThat(isSpillwayError(error, 'ERR_OPTION'), `${String(value)} must be refused with an OptionError`)
    }
  })
}

function cacheVersions(test: CacheTest): void {
  test('every write and every delete has a version that no other has', async ({ put, remove, open, key, get }) => {
    const versions: string[] = []
    for (let i = 0; i < 20; i++) {
      versions.push(await put('a', 1), await put('a', 1), await remove('a'), await remove('a'))
      versions.push(await put('b', 1))
    }
    const other = await open()
    versions.push(...done(await other.deleteMany([key('a')]), 1))
    const ofKeyA = versions.filter((_, i) => i % 5 !== 4)
    expectEqual(new Set(ofKeyA).size, ofKeyA.length, 'how many versions of one key differ')
    expectEqual((await get('a')).version, versions.at(-1), 'its version')
  })

  test('reading leaves the version as it is', async ({ put, get, open }) => {
    const version = await put('a', 1)
    const other = await open()
    for (const store of [undefined, other, undefined])
      expectEqual((await get('a', store)).version, version, 'its version')
  })

  test('a delete leaves a tombstone, which has a version and no value, where there was nothing too', async (world) => {
    const { store, key, put, get, open } = world
    await put('a', 1, { marks: [{ name: key('m'), mark: 'x' }] })
    const versions = done(await store.deleteMany([key('a'), key('absent')]), 2)
    const other = await open()
    for (const [i, name] of ['a', 'absent'].entries()) {
      const { value, version, marks, ageMs } = await get(name, other)
      expectEqual([value, version, marks, ageMs], [undefined, versions[i], [], 0], `what is left of ${name}`)
      expectThat(version !== '', 'a tombstone must have a version')
    }
  })

  test('a conditional write is made where the version is still the same', async ({ put, get, remove }) => {
    const first = await put('a', 1, { ifVersion: '' })
    const second = await put('a', 2, { ifVersion: first })
    const tombstone = await remove('a')
    const third = await put('a', 3, { ifVersion: tombstone })
    const read = await get('a')
    expectEqual([read.value, read.version], [3, third], 'what is stored')
    expectEqual(new Set([first, second, tombstone, third]).size, 4, 'how many versions differ')
  })

  test('a conditional write is refused where somebody wrote, and is told the version', async (world) => {
    const { put, tryPut, get } = world
    const first = await put('a', 1)
    const second = await put('a', 2)
    for (const ifVersion of ['', first, `${second}0`, 'x']) {
      expectEqual(await tryPut('a', 9, { ifVersion }), { written: false, version: second }, `a write if ${ifVersion}`)
    }
    const read = await get('a')
    expectEqual([read.value, read.version], [2, second], 'what is stored')
  })

  test('a conditional write is refused where somebody deleted', async ({ put, tryPut, get, remove }) => {
    const version = await put('a', 1)
    const tombstones = { a: await remove('a'), absent: await remove('absent') }
    expectEqual(await tryPut('a', 9, { ifVersion: version }), { written: false, version: tombstones.a }, 'the first')
    expectEqual(await tryPut('a', 9, { ifVersion: '' }), { written: false, version: tombstones.a }, 'the second')
    const onAbsent = await tryPut('absent', 9, { ifVersion: '' })
    expectEqual(onAbsent, { written: false, version: tombstones.absent }, 'the third')
    expectEqual([(await get('a')).value, (await get('absent')).value], [undefined, undefined], 'what is stored')
  })

  test('a conditional write is refused where somebody wrote a version that is not there any more', async (world) => {
    const { tryPut, get } = world
    const outcome = await tryPut('a', 1, { ifVersion: '17' })
    expectEqual(outcome, { written: false, version: '' }, 'the outcome')
    const { value, version } = await get('a')
    expectEqual([value, version], [undefined, ''], 'what is stored')
  })

  test('a version outlives its value, for what was loaded before', async ({ put, tryPut, get, elapse }) => {
    const version = await put('a', 1, { freshMs: 50 })
    await put('b', 1, { freshMs: 50 })
    await elapse(120)
    const expired = await get('a')
    expectThat(expired.version !== '', 'an expired key must have a version')
    expectEqual([expired.value, expired.freshMs <= 0, expired.marks], [undefined, true, []], 'what is left')
    expectEqual((await tryPut('b', 9, { ifVersion: '' })).written, false, 'whether it wrote what was loaded before')
    expectEqual((await tryPut('a', 2, { ifVersion: expired.version })).written, true, 'whether it wrote what is new')
    expectThat((await get('a')).version !== version, 'the new value must have a version of its own')
  })

  test('a tombstone outlives what was loaded since, if that is kept for a shorter time', async (world) => {
    const { put, remove, tryPut, elapse } = world
    const before = await put('a', 1)
    const tombstone = await remove('a')
    await put('a', 2, { ifVersion: tombstone, freshMs: 50 })
    await elapse(120)
    for (const ifVersion of ['', before, tombstone]) {
      expectEqual((await tryPut('a', 9, { ifVersion })).written, false, `whether a write if ${ifVersion} was made`)
    }
  })

  test('each write of a call stands for itself', async ({ store, key, writeOf, put, get, remove }) => {
    const versions = [await put('a', 1), await put('b', 1), await remove('c')]
    const outcomes = done(
      await store.setMany([
        writeOf('a', 2, { ifVersion: versions[0] as string }),
        writeOf('b', 2, { ifVersion: 'x' }),
        writeOf('c', 2, { ifVersion: versions[2] as string }),
        writeOf('d', 2, { ifVersion: '' }),
        writeOf('d', 3, { ifVersion: '' }),
        writeOf('b', 4),
        writeOf('a', 5, { ifVersion: versions[0] as string }),
      ]),
      7,
    )
    expectEqual(
      outcomes.map(({ written }) => written),
      [true, false, true, true, false, true, false],
      'what was written',
    )
    const read = done(await store.getMany(['a', 'b', 'c', 'd'].map(key)), 4)
    expectEqual(
      read.map(({ value }) => value),
      [2, 4, 2, 2],
      'what is stored',
    )
    expectEqual(outcomes[6]?.version, (await get('a')).version, 'the version that a refused write is told')
    expectEqual(outcomes[1]?.version, versions[1], 'the version that was there')
  })
}

function cacheRaces(test: CacheTest): void {
  test('of writers that race on one version exactly one wins, and the others are told', async (world) => {
    const { get, put, remove, writeOf } = world
    const stores = await Promise.all(Array.from({ length: 4 }, () => world.open()))
    let version = ''
    for (let round = 0; round < 12; round++) {
      const outcomes = await Promise.all(
        [...stores, ...stores].map(async (store, i) => {
          const [outcome] = done(await store.setMany([writeOf('a', `${round}/${i}`, { ifVersion: version })]), 1)
          return outcome as CacheWriteOutcome
        }),
      )
      const winners = outcomes.flatMap(({ written }, i) => (written ? [i] : []))
      expectEqual(winners.length, 1, `how many wrote in round ${round}`)
      const read = await get('a')
      expectEqual(read.value, `${round}/${winners[0]}`, 'what is stored')
      for (const outcome of outcomes) expectEqual(outcome.version, read.version, 'a version that was told')
      version = round % 3 === 0 ? await remove('a') : round % 3 === 1 ? await put('a', 'between') : read.version
    }
  })

  test('a delete that races with a conditional write leaves nothing', async (world) => {
    const { key, get, writeOf, put } = world
    const [writer, deleter] = [await world.open(), await world.open()]
    for (let round = 0; round < 12; round++) {
      const ifVersion = await put('a', 'before')
      const write = (): PromiseLike<unknown> => writer.setMany([writeOf('a', 'loaded', { ifVersion })])
      const remove = (): PromiseLike<unknown> => deleter.deleteMany([key('a')])
      await Promise.all(round % 2 === 0 ? [write(), remove()] : [remove(), write()])
      expectEqual((await get('a')).value, undefined, `what is stored after round ${round}`)
    }
  })
}
