import fc from 'fast-check'
import { AsyncLogBuffer, type AsyncLogBufferOptions, type AsyncLogBufferStats } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { expect, test } from 'vitest'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { HeldSink } from './support/sinks.js'

// Lines that join a chunk are counted before somebody reads the counts, and not one by one: whether somebody looks must change nothing.

type Step =
  | { readonly do: 'write'; readonly lengths: readonly number[] }
  | { readonly do: 'advance'; readonly ms: number }
  | { readonly do: 'flush' | 'flushSync' | 'let through' }

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      lengths: fc.array(fc.constantFrom(0, 1, 7, 30), { minLength: 1, maxLength: 15 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('advance' as const), ms: fc.constantFrom(0, 1, 50) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('flush' as const, 'flushSync' as const) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('let through' as const) }) },
)

const options = fc.record({
  capacity: fc.integer({ min: 1, max: 30 }),
  overflow: fc.constantFrom('reject' as const, 'drop-newest' as const, 'drop-oldest' as const),
  maxBatchBytes: fc.constantFrom(1, 20, 100, 65_536),
  eager: fc.boolean(),
})

interface Outcome {
  readonly chunks: readonly string[]
  readonly accepted: readonly boolean[]
  readonly flushes: readonly unknown[]
  readonly stats: AsyncLogBufferStats
}

/** Does the steps, and looks at the stats after each line or never. */
async function outcomeOf(steps: readonly Step[], chosen: AsyncLogBufferOptions, looking: boolean): Promise<Outcome> {
  const clock = new FakeClock({ wallMs: 1_790_000_000_000 })
  const chunks: string[] = []
  const waiting: (() => void)[] = []
  const sink = {
    write: (chunk: string) => {
      chunks.push(chunk)
      return new Promise<void>((resolve) => waiting.push(resolve))
    },
    writeSync: (chunk: string) => {
      chunks.push(`sync ${chunk}`)
    },
  }
  const log = new AsyncLogBuffer(sink, { ...chosen, clock, name: 'log' })
  const accepted: boolean[] = []
  const flushes: Promise<unknown>[] = []
  let number = 0
  for (const one of steps) {
    if (one.do === 'write') {
      for (const length of one.lengths) {
        accepted.push(log.write(`${++number} ${'x'.repeat(length)}`))
        if (looking) log.stats()
      }
    } else if (one.do === 'advance') {
      await clock.advance(one.ms)
    } else if (one.do === 'flush') {
      flushes.push(log.flush())
    } else if (one.do === 'flushSync') {
      log.flushSync()
    } else {
      waiting.shift()?.()
      await clock.advance(0)
    }
  }
  const closing = log.close()
  for (let left = 1000; log.stats().pending > 0 && left > 0; left--) {
    waiting.shift()?.()
    await clock.advance(1)
  }
  while (waiting.length > 0) {
    waiting.shift()?.()
    await clock.advance(0)
  }
  await closing
  expect(clock.pending).toBe(0)
  return { chunks, accepted, flushes: await Promise.all(flushes), stats: log.stats() }
}

test('what is written, answered and counted is the same whether or not somebody looks at the stats after each line', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 25 }), options, async (steps, chosen) => {
      const watched = await outcomeOf(steps, chosen, true)
      const alone = await outcomeOf(steps, chosen, false)

      expect(alone).toEqual(watched)
      const { offered, succeeded, failed, dropped, rejected, pending } = alone.stats
      expect(offered).toBe(alone.accepted.length)
      expect(succeeded + failed + dropped + rejected).toBe(offered)
      expect(pending).toBe(0)
      for (const chunk of alone.chunks) {
        const lines = chunk.split('\n').filter((line) => line !== '' && !line.includes('dropped'))
        if (lines.length > 1 && !chunk.startsWith('sync')) {
          expect(lines.join('').length).toBeLessThanOrEqual(chosen.maxBatchBytes)
        }
      }
    }),
    { numRuns: 400 },
  )
}, 30_000)

inVirtualTime('a line that goes when the text of its chunk is there already is in no text', async (clock) => {
  const sink = new HeldSink()
  const log = new AsyncLogBuffer(sink, { capacity: 8, overflow: 'drop-oldest', maxBatchBytes: 8, clock })
  for (const line of ['1111', '2222']) log.write(line)
  await clock.advance(0)
  // Chunks of two. While the first of them is written, the text of the second is made.
  for (const line of ['3333', '4444', '5555', '6666', '7777', '8888']) log.write(line)
  sink.at(0).take()
  await clock.advance(1)
  expect(sink.at(1).chunk).toBe('3333\n4444\n')

  for (const line of ['9999', 'aaaa', 'bbbb', 'cccc', 'dddd']) log.write(line)

  const closing = log.close()
  for (let time = 0; time < 6; time++) {
    sink.takeAll()
    await clock.advance(0)
  }
  await closing
  const written = sink.lines.filter((line) => !line.includes('dropped'))
  expect(written).toEqual([
    '1111',
    '2222',
    '3333',
    '4444',
    '6666',
    '7777',
    '8888',
    '9999',
    'aaaa',
    'bbbb',
    'cccc',
    'dddd',
  ])
  expect(log.stats()).toMatchObject({ offered: 13, succeeded: 12, dropped: 1 })
})
