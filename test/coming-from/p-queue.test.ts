import PQueue from 'p-queue'
import { AsyncBatcher } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { afterEach, expect, test, vi } from 'vitest'
import { unhandledDuring } from '../batcher/support/process-events.js'

// What docs/coming-from/p-queue.md says, held against both libraries.

const ignored = (answer: Promise<unknown>) => answer.catch((error: unknown) => error)

afterEach(() => {
  vi.useRealTimers()
})

test('a hundred tasks are a hundred calls in the queue, and one call in the batcher', async () => {
  const clock = new FakeClock()
  const calls = { theirs: 0, ours: 0 }
  const queue = new PQueue({ concurrency: 4 })
  const batcher = new AsyncBatcher<number, number>(
    async (items) => {
      calls.ours++
      return items.map((n) => n * 2)
    },
    { concurrency: 4, clock },
  )
  const numbers = Array.from({ length: 100 }, (_, n) => n)
  const doubled = numbers.map((n) => n * 2)

  const theirs = await queue.addAll(
    numbers.map((n) => async () => {
      calls.theirs++
      return n * 2
    }),
  )
  const ours = await clock.until(Promise.all(numbers.map((n) => batcher.add(n))))

  expect([theirs, ours]).toEqual([doubled, doubled])
  expect(calls).toEqual({ theirs: 100, ours: 1 })
})

test('a task that ignores its time-out has lost its slot in the queue, and keeps it for the grace in the batcher', async () => {
  vi.useFakeTimers()
  const clock = new FakeClock()
  const running = { theirs: 0, ours: 0 }
  const hang = (whose: 'theirs' | 'ours') => {
    running[whose]++
    return new Promise<never>(() => undefined)
  }
  const queue = new PQueue({ concurrency: 1, timeout: 100 })
  const batcher = new AsyncBatcher<string, string>(() => hang('ours'), {
    concurrency: 1,
    maxBatchSize: 1,
    timeoutMs: 100,
    timeoutGraceMs: 1000,
    clock,
  })

  for (let i = 0; i < 2; i++) {
    void ignored(queue.add(() => hang('theirs')))
    void ignored(batcher.add('a'))
  }
  await vi.advanceTimersByTimeAsync(150)
  await clock.advance(150)

  expect(running).toEqual({ theirs: 2, ours: 1 })
  await clock.advance(1000)
  expect(running.ours).toBe(2)
})

test('the queue takes whatever comes, the batcher refuses beyond its capacity, or lets you wait', async () => {
  const clock = new FakeClock()
  const queue = new PQueue({ concurrency: 1, autoStart: false })
  const held: (() => void)[] = []
  const batcher = new AsyncBatcher<number, number>(
    (items) => new Promise((resolve) => held.push(() => resolve(items))),
    { concurrency: 1, maxBatchSize: 10, capacity: 10, clock },
  )

  for (let n = 0; n < 1000; n++) void queue.add(async () => n)
  const inFlight = Array.from({ length: 10 }, (_, n) => batcher.add(n))
  await clock.advance(0)
  const waiting = Array.from({ length: 10 }, (_, n) => batcher.add(n))
  const refused = ignored(batcher.add(20))
  let room = false
  void batcher.ready().then(() => {
    room = true
  })
  await clock.advance(0)

  expect(queue.size).toBe(1000)
  expect(await refused).toMatchObject({ code: 'ERR_FULL' })
  expect(room).toBe(false)
  held[0]?.()
  await clock.advance(0)
  expect(room).toBe(true)
  held[1]?.()
  expect(await Promise.all([...inFlight, ...waiting])).toHaveLength(20)
  queue.clear()
})

test('a rejection that nobody looks at is unhandled with the queue, and not with the batcher', async () => {
  const clock = new FakeClock()
  const down = () => Promise.reject(new Error('down'))

  const theirs = await unhandledDuring(async () => {
    void new PQueue().add(down)
  })
  const ours = await unhandledDuring(async () => {
    void new AsyncBatcher<string, string>(down, { clock }).add('a')
    await clock.advance(0)
  })

  expect(theirs).toEqual([expect.objectContaining({ message: 'down' })])
  expect(ours).toEqual([])
})

test('clear leaves the callers of the queue waiting for ever, close rejects those of the batcher', async () => {
  const clock = new FakeClock()
  const queue = new PQueue({ autoStart: false })
  const batcher = new AsyncBatcher<string, string>(() => new Promise(() => undefined), { clock })
  let settled = false

  void queue
    .add(async () => 'a')
    .finally(() => {
      settled = true
    })
  queue.clear()
  await queue.onIdle()
  const answer = ignored(batcher.add('a'))
  await clock.until(batcher.close({ timeoutMs: 0 }))

  expect(settled).toBe(false)
  expect(await answer).toMatchObject({ code: 'ERR_CLOSED' })
})
