import { AsyncWriteBuffer } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { add, ControlledSink } from './async-write-buffer-sink.js'

test('a million writes to ten keys while the sink is stuck keep ten keys and no more memory', async () => {
  const clock = new FakeClock()
  const sink = new ControlledSink<string, number>()
  const buffer = new AsyncWriteBuffer(sink.write, { merge: add, maxWaitMs: 10, clock })
  const keys = Array.from({ length: 10 }, (_, i) => `key ${i}`)
  const putRound = (): void => {
    for (const key of keys) buffer.put(key, 1)
  }
  putRound()
  await clock.advance(10)
  const heap = await heapAfter(async () => {
    for (let i = 0; i < 1000; i++) putRound()
    await clock.advance(50)
  })

  let accepted = 10 + 10_000
  const grown = await heapAfter(async () => {
    for (let turn = 0; turn < 100; turn++) {
      for (let i = 0; i < 1000; i++) putRound()
      accepted += 10_000
      expect(buffer.stats().pendingKeys).toBe(10)
      await clock.advance(50)
    }
  })

  expect(sink.attempts).toHaveLength(1)
  expect(buffer.stats()).toMatchObject({ offered: accepted, pending: accepted, pendingKeys: 10 })
  // A write that was kept would be at least a number in an array: 8 MB for the million.
  expect(grown - heap).toBeLessThan(2_000_000)
  const closed = buffer.close()
  await clock.advance(0)
  sink.at(0).succeed()
  await clock.advance(0)
  sink.at(1).succeed()
  await closed
  expect(sink.at(1).seen).toEqual(keys.map((key) => [key, (accepted - 10) / 10]))
  expect(clock.pending).toBe(0)
})

test('keys that were written, dropped or failed are forgotten', async () => {
  const clock = new FakeClock()
  let calls = 0
  const buffer = new AsyncWriteBuffer<string, { payload: string }>(
    () => {
      if (calls++ % 2 === 0) throw new Error('every other one fails')
    },
    {
      merge: (_, value) => value,
      concurrency: 3,
      capacity: 50,
      maxBatchSize: 10,
      overflow: 'drop-oldest',
      retry: { attempts: 1 },
      groupBy: (key) => key,
      clock,
    },
  )
  const round = async (name: string): Promise<void> => {
    for (let i = 0; i < 100; i++) buffer.put(`${name} ${i}`, { payload: 'x'.repeat(1000) })
    await buffer.flush()
  }
  const heap = await heapAfter(() => round('first'))

  const grown = await heapAfter(async () => {
    for (let i = 0; i < 100; i++) await round(`round ${i}`)
  })

  expect(buffer.stats()).toMatchObject({ offered: 10_100, pending: 0, pendingKeys: 0 })
  expect(buffer.stats().dropped).toBe(5050)
  expect(grown - heap).toBeLessThan(2_000_000)
  await buffer.close()
  expect(clock.pending).toBe(0)
})

test('many flushes that wait for a stuck sink cost no more than themselves', async () => {
  const clock = new FakeClock()
  const sink = new ControlledSink<string, number>()
  const buffer = new AsyncWriteBuffer(sink.write, { merge: add, maxWaitMs: 10, clock })
  buffer.put('blocker', 1)
  await clock.advance(10)
  const flushes = 20_000
  const reports: { succeeded: number }[] = []

  for (let i = 0; i < flushes; i++) {
    buffer.put('a', 1)
    buffer.flush().then((report) => reports.push(report))
  }
  sink.at(0).succeed()
  await clock.advance(0)
  sink.at(1).succeed()
  await buffer.close()

  // The n-th one waited for the blocker and for n writes.
  expect(reports).toHaveLength(flushes)
  expect(reports.every(({ succeeded }, i) => succeeded === i + 2)).toBe(true)
  expect(clock.pending).toBe(0)
})

/** How much is in use once the work is done and all garbage is gone. */
async function heapAfter(work: () => Promise<void>): Promise<number> {
  await work()
  const { setFlagsFromString } = await import('node:v8')
  const { runInNewContext } = await import('node:vm')
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  for (let i = 0; i < 3; i++) {
    gc()
    await new Promise((resolve) => setImmediate(resolve))
  }
  return process.memoryUsage().heapUsed
}
