import { AsyncWriteBuffer, type AsyncWriteBufferOptions } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

/** The delays before the retries of one write that always fails. */
async function delaysOf(
  retry: AsyncWriteBufferOptions<string, number>['retry'],
  random: () => number,
): Promise<{ delays: number[]; calls: number }> {
  const clock = new FakeClock()
  let calls = 0
  const delays: number[] = []
  const buffer = new AsyncWriteBuffer<string, number>(
    () => {
      calls++
      throw new Error('always')
    },
    { merge: (old) => old, maxWaitMs: 0, retry, random, clock },
  )
  const waited: number[] = []
  let failedAt = 0
  buffer.on('retried', ({ delayMs }) => {
    delays.push(delayMs)
    failedAt = clock.now()
  })
  buffer.put('a', 1)
  while (buffer.stats().pending > 0) {
    const before = calls
    await clock.advance(delays.at(-1) ?? 0)
    if (calls > before) waited.push(clock.now() - failedAt)
  }
  await buffer.close()
  expect(clock.pending).toBe(0)
  return { delays, calls }
}

describe('the delay before a retry', () => {
  test('is random between 0 and delayMs * 2^(n-1), at most maxDelayMs', async () => {
    const random = seededRandom('jitter')
    const all: number[][] = []

    for (let run = 0; run < 200; run++) {
      const { delays } = await delaysOf({ attempts: 8, delayMs: 100, maxDelayMs: 2000 }, random)
      all.push(delays)
    }

    const ceilings = [100, 200, 400, 800, 1600, 2000, 2000]
    for (const [n, ceiling] of ceilings.entries()) {
      const delays = all.map((run) => run[n] as number)
      expect(Math.min(...delays)).toBeGreaterThanOrEqual(0)
      expect(Math.max(...delays)).toBeLessThanOrEqual(ceiling)
      // Full jitter: the whole range, evenly. Of 200 uniform numbers these bounds fail once in a billion seeds.
      expect(Math.min(...delays)).toBeLessThan(ceiling * 0.1)
      expect(Math.max(...delays)).toBeGreaterThan(ceiling * 0.9)
      const mean = delays.reduce((sum, delay) => sum + delay, 0) / delays.length
      expect(mean / ceiling).toBeGreaterThan(0.37)
      expect(mean / ceiling).toBeLessThan(0.63)
    }
  })

  test('doubles exactly when chance stands still', async () => {
    const { delays, calls } = await delaysOf({ attempts: 7, delayMs: 10, maxDelayMs: 200 }, () => 0.5)

    expect(delays).toEqual([5, 10, 20, 40, 80, 100])
    expect(calls).toBe(7)
  })

  test('stays finite after more retries than a double has powers of two', async () => {
    const { delays, calls } = await delaysOf({ attempts: 1200, delayMs: 1, maxDelayMs: 1000 }, () => 0.5)

    expect(calls).toBe(1200)
    expect(delays.slice(10).every((delay) => delay === 500)).toBe(true)
  })

  test('is 0 with delayMs 0, however often', async () => {
    const { delays, calls } = await delaysOf({ attempts: 1200, delayMs: 0 }, () => 0.5)

    expect(calls).toBe(1200)
    expect(delays.every((delay) => delay === 0)).toBe(true)
  })

  test('is 0 when maxDelayMs is 0', async () => {
    const { delays } = await delaysOf({ attempts: 3, delayMs: 100, maxDelayMs: 0 }, () => 0.5)

    expect(delays).toEqual([0, 0])
  })
})

test('attempts counts the first try', async () => {
  for (const attempts of [1, 2, 3]) {
    expect((await delaysOf({ attempts, delayMs: 0 }, () => 0)).calls).toBe(attempts)
  }
})
