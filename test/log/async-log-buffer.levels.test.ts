import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { AsyncLogBuffer, type AsyncLogBufferOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { expectBooks } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { HeldSink, toldIn } from './support/sinks.js'

/** Lines read `<level> <text>`. */
const levelOf = (line: string): number => Number(line.split(' ')[0])

/** A buffer whose sink holds its first line, so that all others wait. */
async function blocked(clock: FakeClock, options: AsyncLogBufferOptions) {
  const sink = new HeldSink()
  const log = new AsyncLogBuffer(sink, { levelOf, clock, ...options })
  log.write('99 in flight')
  await clock.advance(0)
  const dropped: string[] = []
  log.on('dropped', ({ line }) => dropped.push(line))
  return { sink, log, dropped }
}

/** What the log has in the end, without the line in flight and the one that tells. */
async function written(clock: FakeClock, log: AsyncLogBuffer, sink: HeldSink): Promise<string[]> {
  while (log.stats().pending > 0) {
    sink.takeAll()
    await clock.advance(0)
  }
  await log.close()
  return sink.lines.slice(1).filter((line) => !line.includes('"dropped":'))
}

describe('when there is no room', () => {
  inVirtualTime('the least important lines go first, and those that stay keep their order', async (clock) => {
    const { sink, log, dropped } = await blocked(clock, { capacity: 4 })

    const answers = ['30 a', '20 b', '50 c', '30 d', '40 e', '10 f', '50 g'].map((line) => log.write(line))

    // `10 f` is less important than anything that waits; the other two found something that is less important than they.
    expect(answers).toEqual([true, true, true, true, true, false, true])
    expect(dropped).toEqual(['20 b', '10 f', '30 d'])
    expect(await written(clock, log, sink)).toEqual(['30 a', '50 c', '40 e', '50 g'])
    expect(toldIn(sink.lines)).toEqual([3])
  })

  inVirtualTime(
    'drop-newest: among equals the newest goes, and a newcomer that is no more important',
    async (clock) => {
      const { sink, log, dropped } = await blocked(clock, { capacity: 2, overflow: 'drop-newest' })

      const answers = ['30 a', '30 b', '30 c', '40 d'].map((line) => log.write(line))

      expect(answers).toEqual([true, true, false, true])
      expect(dropped).toEqual(['30 c', '30 b'])
      expect(await written(clock, log, sink)).toEqual(['30 a', '40 d'])
    },
  )

  inVirtualTime('drop-oldest: among equals the oldest goes, for an equal newcomer too', async (clock) => {
    const { sink, log, dropped } = await blocked(clock, { capacity: 2, overflow: 'drop-oldest' })

    const answers = ['30 a', '30 b', '30 c', '20 d', '40 e'].map((line) => log.write(line))

    expect(answers).toEqual([true, true, true, false, true])
    expect(dropped).toEqual(['30 a', '20 d', '30 b'])
    expect(await written(clock, log, sink)).toEqual(['30 c', '40 e'])
  })

  inVirtualTime('what cannot be told is as important as anything', async (clock) => {
    for (const answer of [
      Number.NaN,
      undefined,
      '10',
      null,
      {
        valueOf() {
          throw new Error('no')
        },
      },
    ]) {
      const { sink, log } = await blocked(clock, {
        capacity: 2,
        levelOf: (line) => {
          if (!line.includes('?')) return levelOf(line)
          if (line.includes('throw')) throw new Error('unreadable')
          return answer as never
        },
      })

      for (const line of ['? a', '? throw', '60 c', '? d']) log.write(line)

      expect(await written(clock, log, sink)).toEqual(['? a', '? throw'])
    }
  })

  inVirtualTime('infinite and negative levels are levels', async (clock) => {
    const { sink, log, dropped } = await blocked(clock, { capacity: 2 })

    for (const line of ['-Infinity a', '-1 b', '0 c', 'Infinity d', 'Infinity e']) log.write(line)

    expect(dropped).toEqual(['-Infinity a', '-1 b', '0 c'])
    expect(await written(clock, log, sink)).toEqual(['Infinity d', 'Infinity e'])
  })

  inVirtualTime('many distinct levels are kept apart', async (clock) => {
    const { sink, log } = await blocked(clock, { capacity: 100 })
    const lines = Array.from({ length: 1000 }, (_, n) => `${(n * 7919) % 1000} line`)

    for (const line of lines) log.write(line)

    const kept = await written(clock, log, sink)
    expect(kept).toEqual(lines.filter((line) => levelOf(line) >= 900))
  })

  inVirtualTime('a line that went from the middle is told of where it stood', async (clock) => {
    const { sink, log } = await blocked(clock, { capacity: 3 })
    for (const line of ['50 first', '10 second', '50 third']) {
      log.write(line)
      // The log tells to the millisecond.
      await clock.advance(1)
    }
    log.write('50 fourth')

    sink.takeAll()
    await clock.advance(0)
    sink.takeAll()
    await log.close()

    expect(sink.lines.slice(1)).toEqual([
      '50 first',
      expect.stringContaining('"1 log line was dropped"'),
      '50 third',
      '50 fourth',
    ])
  })
})

describe('levelOf', () => {
  inVirtualTime('is not called while there is room', async (clock) => {
    const asked: string[] = []
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 3, levelOf: (line) => asked.push(line), clock })

    for (let turn = 0; turn < 10; turn++) {
      for (const line of ['a', 'b', 'c']) log.write(`${line} ${turn}`)
      await clock.advance(0)
      sink.takeAll()
      await clock.advance(0)
    }

    expect(asked).toEqual([])
    expectBooks(log, { succeeded: 30 })
    await log.close()
  })

  inVirtualTime('is called at most once a line, in one long overload and in several', async (clock) => {
    for (const overflow of ['drop-newest', 'drop-oldest'] as const) {
      const asked = new Map<string, number>()
      const { sink, log } = await blocked(clock, {
        capacity: 10,
        overflow,
        levelOf: (line) => {
          asked.set(line, (asked.get(line) ?? 0) + 1)
          return levelOf(line)
        },
        maxBatchBytes: 20,
      })

      for (let turn = 0; turn < 30; turn++) {
        for (let n = 0; n < 25; n++) log.write(`${(n * 7) % 5} ${turn}.${n}`)
        await clock.advance(0)
        // Some of what waits leaves, so that the ranks begin anew.
        if (turn % 7 === 6) sink.takeAll()
        await clock.advance(0)
      }

      expect(Math.max(...asked.values())).toBe(1)
      expect(asked.size).toBeGreaterThan(700)
      await written(clock, log, sink)
      expectBooks(log, { pending: 0 })
    }
  })

  inVirtualTime('that writes to the log itself neither recurs nor unbalances the books', async (clock) => {
    let calls = 0
    let log: AsyncLogBuffer | undefined
    const made = await blocked(clock, {
      capacity: 3,
      levelOf: (line) => {
        calls++
        log?.write(`99 asked for ${line}`)
        return levelOf(line)
      },
    })
    log = made.log

    for (const line of ['10 a', '20 b', '30 c', '40 d', '50 e']) log.write(line)

    expect(calls).toBeLessThan(20)
    expectBooks(log, { pending: 4 })
    const kept = await written(clock, log, made.sink)
    expect(kept).toEqual(['30 c', '40 d', '50 e'])
    expectBooks(log, { pending: 0 })
  })

  inVirtualTime('that lets everything go meanwhile unbalances nothing', async (clock) => {
    let log: AsyncLogBuffer | undefined
    const made = await blocked(clock, {
      capacity: 3,
      levelOf: (line) => {
        log?.flushSync()
        return levelOf(line)
      },
    })
    log = made.log

    for (const line of ['10 a', '20 b', '30 c', '40 d', '50 e']) log.write(line)

    expectBooks(log, { offered: 6, dropped: 1 })
    expect(await written(clock, log, made.sink)).toEqual(['10 a', '20 b', '30 c', '50 e'])
    expectBooks(log, { succeeded: 5, pending: 0 })
  })
})

test('whatever comes, what stays is what a list that is searched each time would keep', async () => {
  const scenario = fc.record({
    capacity: fc.integer({ min: 1, max: 6 }),
    overflow: fc.constantFrom('drop-newest' as const, 'drop-oldest' as const),
    levels: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 60 }),
    turnEvery: fc.integer({ min: 1, max: 7 }),
  })
  await fc.assert(
    fc.asyncProperty(scenario, async ({ capacity, overflow, levels, turnEvery }) => {
      const clock = new FakeClock()
      const { sink, log } = await blocked(clock, { capacity, overflow })
      let model: string[] = []
      for (const [n, level] of levels.entries()) {
        const line = `${level} ${n}`
        if (n % turnEvery === 0) await clock.advance(0)
        log.write(line)
        model.push(line)
        if (model.length <= capacity) continue
        const least = Math.min(...model.map(levelOf))
        const candidates = model.filter((other) => levelOf(other) === least)
        const loser = overflow === 'drop-oldest' ? candidates[0] : candidates.at(-1)
        model = model.filter((other) => other !== loser)
      }
      expect(await written(clock, log, sink)).toEqual(model)
      expectBooks(log, { pending: 0 })
      const lost = levels.length - model.length
      expect(toldIn(sink.lines)).toEqual(lost === 0 ? [] : [lost])
    }),
    { numRuns: 300 },
  )
})

test('a long overload with a sink that takes nothing keeps its memory', async () => {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  const clock = new FakeClock()
  const log = new AsyncLogBuffer(new HeldSink(), { capacity: 1000, overflow: 'drop-oldest', levelOf, clock })
  log.write('99 in flight')
  await clock.advance(0)
  const round = async (turns: number): Promise<void> => {
    for (let turn = 0; turn < turns; turn++) {
      // Of each turn one line is important enough to stay. All others are accepted too, and go again.
      log.write(`60 ${turn}`)
      for (let n = 0; n < 4999; n++) log.write(`10 ${turn}.${n}`)
      await clock.advance(0)
    }
    gc()
  }

  await round(1)
  const before = process.memoryUsage().heapUsed
  await round(200)
  const grownBy = process.memoryUsage().heapUsed - before

  // Chunks that remember each line which has gone would take 16 MB.
  expect(grownBy).toBeLessThan(4_000_000)
  expectBooks(log, { offered: 1 + 201 * 5000, pending: 1001 })
  void log.close({ timeoutMs: 0 })
  await clock.advance(0)
}, 60_000)
