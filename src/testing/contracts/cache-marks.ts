import { type CacheTest, done, expectBetween, grainMs, oddNames, slackMs } from './cache-world.js'
import { expectEqual, expectThat } from './contract.js'

/** What entries depend on. */
export function cacheMarks(test: CacheTest): void {
  test('an entry comes back with its marks, in their order', async ({ put, get, key, store }) => {
    const names = [...oddNames, 'z', 'y'].map((name) => key(name))
    const states = done(await store.readMarks(names), names.length)
    const marks = states.map(({ name, mark }) => ({ name, mark }))
    await put('a', 1, { marks })
    await put('b', 2)
    const read = (await get('a')).marks.map(({ name, mark }) => ({ name, mark }))
    expectEqual(read, marks, 'its marks')
    expectEqual((await get('b')).marks, [], 'the marks of an entry without any')
  })

  test('an entry keeps the states that it was written with', async ({ put, get, mark, renew, key }) => {
    const before = await mark('m')
    await put('a', 1, { marks: [{ name: key('m'), mark: before.mark }] })
    await renew('m')
    const [read] = (await get('a')).marks
    expectEqual([read?.name, read?.mark], [key('m'), before.mark], 'its mark')
    const version = await put('a', 2, { marks: [{ name: key('m'), mark: (await mark('m')).mark }] })
    const after = await get('a')
    expectEqual([after.version, after.marks[0]?.mark], [version, (await mark('m')).mark], 'its mark, written again')
  })

  test('a mark is made when it is first read, and stays the same until it is renewed', async (world) => {
    const { key, mark, elapse } = world
    const made = await mark('m')
    expectEqual([made.name, made.renewedMs], [key('m'), Number.POSITIVE_INFINITY], 'the first answer')
    expectThat(typeof made.mark === 'string' && made.mark !== '', 'a mark must have a state')
    await elapse(20)
    const other = await world.open()
    for (const store of [world.store, other]) {
      const { name, mark, renewedMs } = await world.mark('m', store)
      expectEqual([name, mark, renewedMs], [key('m'), made.mark, Number.POSITIVE_INFINITY], 'a later answer')
    }
  })

  test('a renewal gives a state that the mark never had', async (world) => {
    const { mark, renew } = world
    const states = [(await mark('m')).mark]
    for (let i = 0; i < 20; i++) {
      const { mark: state } = await renew('m')
      states.push(state)
      expectEqual((await mark('m', await world.open())).mark, state, `the state after renewal ${i}`)
    }
    expectEqual(new Set(states).size, 21, 'how many states differ')
  })

  test('a mark that nobody has read can be renewed', async ({ mark, renew, key }) => {
    const renewed = await renew('m')
    expectEqual(renewed.name, key('m'), 'its name')
    const read = await mark('m')
    expectEqual(read.mark, renewed.mark, 'its state')
    expectThat(Number.isFinite(read.renewedMs), 'it must say when it was renewed')
  })

  test('a mark says how long ago it was renewed', async ({ mark, renew, elapse }) => {
    await mark('m')
    const renewed = await renew('m')
    expectBetween(renewed.renewedMs, 0, slackMs, 'what the renewal says')
    await elapse(150)
    const { renewedMs } = await mark('m')
    expectBetween(renewedMs, 150 - grainMs, 150 + slackMs, 'what is read later')
    await elapse(100)
    expectBetween((await mark('m')).renewedMs - renewedMs, 100 - grainMs, 100 + slackMs, 'how much later that is')
    expectThat((await renew('m')).renewedMs < renewedMs, 'a renewal must count from now')
  })

  test('a mark and a key of the same name have nothing to do with each other', async (world) => {
    const { put, get, mark, renew, remove } = world
    const before = await mark('a')
    const version = await put('a', 1)
    expectEqual((await mark('a')).mark, before.mark, 'the mark after a write')
    const renewed = await renew('a')
    const read = await get('a')
    expectEqual([read.value, read.version], [1, version], 'the key after a renewal')
    await remove('a')
    expectEqual((await mark('a')).mark, renewed.mark, 'the mark after a delete')
  })

  test('names of marks are any text, and none is taken for another', async ({ store, key, mark }) => {
    const names = oddNames.map(key)
    const made = done(await store.readMarks(names), names.length)
    expectEqual(
      made.map(({ name }) => name),
      names,
      'the names',
    )
    for (const [i, name] of oddNames.entries()) {
      const [renewed] = done(await store.renewMarks([key(name)]), 1)
      expectThat(renewed?.mark !== made[i]?.mark, `${JSON.stringify(name)} must be renewed`)
      const next = oddNames[i + 1]
      if (next !== undefined)
        expectEqual((await mark(next)).mark, made[i + 1]?.mark, `the mark ${JSON.stringify(next)}`)
    }
  })

  test('answers about marks are in the order of the names, one that comes twice twice', async ({ store, key }) => {
    const names = [3, 1, 2, 1, 3].map((n) => key(`m${n}`))
    const read = done(await store.readMarks(names), 5)
    expectEqual(
      read.map(({ name }) => name),
      names,
      'the names',
    )
    expectEqual([read[3]?.mark, read[4]?.mark], [read[1]?.mark, read[0]?.mark], 'the same names')
    const renewed = done(await store.renewMarks(names), 5)
    expectEqual(
      renewed.map(({ name }) => name),
      names,
      'the names of the renewed',
    )
    const after = done(await store.readMarks(names), 5)
    expectEqual([after[3]?.mark, after[4]?.mark], [renewed[3]?.mark, renewed[4]?.mark], 'the states after that')
  })

  test('readers that make a mark at the same time agree', async ({ key, open }) => {
    const stores = await Promise.all(Array.from({ length: 4 }, () => open()))
    for (let round = 0; round < 10; round++) {
      const name = key(`m${round}`)
      const answers = await Promise.all([...stores, ...stores].map((store) => store.readMarks([name])))
      const states = answers.map((answer) => done(answer, 1)[0]?.mark)
      expectEqual(new Set(states).size, 1, `how many states there are in round ${round}`)
    }
  })

  test('renewals at the same time give one state in the end, that of one of them', async ({ key, open, mark }) => {
    const stores = await Promise.all(Array.from({ length: 4 }, () => open()))
    for (let round = 0; round < 10; round++) {
      const answers = await Promise.all([...stores, ...stores].map((store) => store.renewMarks([key('m')])))
      const states = answers.map((answer) => done(answer, 1)[0]?.mark)
      expectEqual(new Set(states).size, 8, `how many states differ in round ${round}`)
      expectThat(states.includes((await mark('m')).mark), 'the state must be that of a renewal')
    }
  })
}
