import { BentoCache, bentostore, errors } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { MultiLevelCache } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'

// What docs/coming-from/bentocache.md says, held against both libraries, in memory. What a Redis changes, `npm run races` shows.

const ignored = (answer: Promise<unknown>) => answer.catch((error: unknown) => error)

function caches() {
  const clock = new FakeClock()
  const theirs = new BentoCache({
    default: 'memory',
    stores: { memory: bentostore().useL1Layer(memoryDriver({ maxItems: 100 })) },
    ttl: 60_000,
  })
  return { clock, theirs, ours: new MultiLevelCache({ ttlMs: 60_000, clock }) }
}

/** A load that begins when it is called and ends when the test says so. */
function gate<T>() {
  let open: (value: T) => void = () => undefined
  const opened = new Promise<T>((resolve) => {
    open = resolve
  })
  let begin: () => void = () => undefined
  const begun = new Promise<void>((resolve) => {
    begin = resolve
  })
  const load = (): Promise<T> => {
    begin()
    return opened
  }
  return { load, begun, answer: (value: T) => open(value) }
}

test('a key that is deleted while it is loaded comes back there, and stays away here', async () => {
  const { theirs, ours } = caches()
  const [first, second] = [gate<string>(), gate<string>()]
  const their = theirs.getOrSet({ key: 'user', factory: first.load })
  const our = ours.getOrLoad('user', second.load)
  await Promise.all([first.begun, second.begun])

  await theirs.delete({ key: 'user' })
  await ours.delete('user')
  first.answer('old')
  second.answer('old')

  expect(await Promise.all([their, our])).toEqual(['old', 'old'])
  expect(await theirs.get({ key: 'user' })).toBe('old')
  expect(await ours.get('user')).toBeUndefined()
})

test('a hit in memory is made of JSON there by default, and is the object itself here', async () => {
  const { theirs, ours } = caches()
  const value = { at: new Date(0) }

  await theirs.set({ key: 'day', value })
  await ours.set('day', value)

  expect(await theirs.get({ key: 'day' })).toEqual({ at: '1970-01-01T00:00:00.000Z' })
  expect(await ours.get('day')).toBe(value)
})

test('an error of the loader comes wrapped there, and as it is here', async () => {
  const { theirs, ours } = caches()
  const down = new Error('down')
  const load = () => Promise.reject(down)

  const their = await ignored(theirs.getOrSet({ key: 'user', factory: load }))

  expect(their).toBeInstanceOf(errors.E_FACTORY_ERROR)
  expect(their).toMatchObject({ cause: down })
  expect(await ignored(ours.getOrLoad('user', load))).toBe(down)
})

test('undefined from a loader is an error there, and an answer that is not kept here', async () => {
  const { theirs, ours } = caches()
  const load = async () => undefined

  expect(await ignored(theirs.getOrSet({ key: 'user', factory: load }))).toBeInstanceOf(errors.E_UNDEFINED_VALUE)
  expect(await ours.getOrLoad('user', load)).toBeUndefined()
  expect(ours.stats().l1.entries).toBe(0)
})

test('a call that joins a load: the ttl of the one that began it counts, in both', async () => {
  const { clock, theirs, ours } = caches()
  let loads = 0
  const load = async () => ++loads

  const answers = await Promise.all([
    theirs.getOrSet({ key: 'n', factory: load }),
    theirs.getOrSet({ key: 'n', factory: load }),
  ])
  const our = await Promise.all([ours.getOrLoad('n', load, { ttlMs: 1000 }), ours.getOrLoad('n', load)])
  await clock.advance(1000)

  expect(answers).toEqual([1, 1])
  expect(our).toEqual([2, 2])
  expect(ours.peek('n')).toBeUndefined()
})
