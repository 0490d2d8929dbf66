import DataLoader from 'dataloader'
import { AsyncBatcher } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { unhandledDuring } from '../batcher/support/process-events.js'

// What docs/coming-from/dataloader.md says, held against both libraries.

const ignored = (answer: Promise<unknown>) => answer.catch((error: unknown) => error)

/** A batch function that keeps what it was asked for. */
function recorded(answer: (key: string) => string | Error = (key) => key.toUpperCase()) {
  const batches: string[][] = []
  const load = async (keys: readonly string[]) => {
    batches.push([...keys])
    return keys.map(answer)
  }
  return { batches, load }
}

test('one turn: both send equal keys once, and each caller gets its own answer', async () => {
  const clock = new FakeClock()
  const theirs = recorded()
  const ours = recorded()
  const loader = new DataLoader(theirs.load)
  const batcher = new AsyncBatcher<string, string>(ours.load, { keyOf: (key) => key, clock })

  const expected = ['A', 'B', 'A']

  expect(await loader.loadMany(['a', 'b', 'a'])).toEqual(expected)
  expect(await clock.until(Promise.all(['a', 'b', 'a'].map((key) => batcher.add(key))))).toEqual(expected)
  expect(theirs.batches).toEqual([['a', 'b']])
  expect(ours.batches).toEqual([['a', 'b']])
})

describe('what was loaded before', () => {
  test('is remembered by the loader, and asked for anew by the batcher', async () => {
    const clock = new FakeClock()
    const theirs = recorded()
    const ours = recorded()
    const loader = new DataLoader(theirs.load)
    const batcher = new AsyncBatcher<string, string>(ours.load, { keyOf: (key) => key, clock })

    for (let i = 0; i < 2; i++) {
      await loader.load('a')
      await clock.until(batcher.add('a'))
    }

    expect(theirs.batches).toEqual([['a']])
    expect(ours.batches).toEqual([['a'], ['a']])
  })

  test('errors too: the loader hands out the old one until it is cleared', async () => {
    const clock = new FakeClock()
    let broken = true
    const answer = (key: string) => (broken ? new Error('down') : key)
    const loader = new DataLoader(recorded(answer).load)
    const batcher = new AsyncBatcher<string, string>(recorded(answer).load, { clock })
    await ignored(loader.load('a'))
    await ignored(clock.until(batcher.add('a')))

    broken = false

    expect(await ignored(loader.load('a'))).toMatchObject({ message: 'down' })
    expect(await clock.until(batcher.add('a'))).toBe('a')
    expect(await loader.clear('a').load('a')).toBe('a')
  })
})

test('a rejection that nobody looks at is unhandled with the loader, and not with the batcher', async () => {
  const clock = new FakeClock()
  const down = recorded(() => new Error('down'))

  const theirs = await unhandledDuring(async () => {
    void new DataLoader(down.load).load('a')
  })
  const ours = await unhandledDuring(async () => {
    void new AsyncBatcher<string, string>(down.load, { clock }).add('a')
    await clock.advance(0)
  })

  expect(theirs).toEqual([expect.objectContaining({ message: 'down' })])
  expect(ours).toEqual([])
})

test('a batch in flight: the loader begins the next one at once, the batcher gathers behind it', async () => {
  const clock = new FakeClock()
  const batches = { theirs: 0, ours: 0 }
  const hanging = (whose: 'theirs' | 'ours') => () => {
    batches[whose]++
    return new Promise<string[]>(() => undefined)
  }
  const loader = new DataLoader<string, string>(hanging('theirs'))
  const batcher = new AsyncBatcher<string, string>(hanging('ours'), { maxWaitMs: 1000, clock })

  for (const key of ['a', 'b', 'c']) {
    void loader.load(key)
    void batcher.add(key)
    await clock.advance(0)
    await new Promise(setImmediate)
  }

  expect(batches).toEqual({ theirs: 3, ours: 1 })
  expect(batcher.stats()).toMatchObject({ pending: 3, inFlight: 1 })
})
