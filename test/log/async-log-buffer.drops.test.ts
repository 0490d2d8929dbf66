import { AsyncLogBuffer } from 'spillway'
import { describe, expect } from 'vitest'
import { expectBooks } from '../batcher/support/outcomes.js'
import { warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { HeldSink, linesIn, OpenSink, toldIn } from './support/sinks.js'

const numbered = (from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, index) => `line ${from + index}`)

const dropLine = (count: number, time = 1_767_225_600_000): string =>
  `{"level":40,"time":${time},"name":"async-log-buffer","dropped":${count},"msg":"${count} log lines were dropped"}`

describe('1000 places, a sink that takes nothing, 5000 lines', () => {
  inVirtualTime(
    'in one turn: the first 1000 are kept, and one line behind them says that 4000 were dropped',
    async (clock) => {
      const sink = new HeldSink()
      const log = new AsyncLogBuffer(sink, { clock })

      const accepted = numbered(1, 5000).filter((line) => log.write(line))

      expect(accepted).toEqual(numbered(1, 1000))
      expectBooks(log, { offered: 5000, dropped: 4000, pending: 1000, rejected: 0 })
      expect(log.stats().untoldDrops).toBe(4000)
      await clock.advance(0)
      sink.takeAll()
      await log.close()
      expect(sink.lines).toEqual([...numbered(1, 1000), dropLine(4000)])
      expectBooks(log, { succeeded: 1000, dropped: 4000, pending: 0 })
      expect(log.stats()).toMatchObject({ dropLines: 1, untoldDrops: 0 })
    },
  )

  inVirtualTime(
    'over many turns: what is in flight counts apart, 1000 wait, the rest are dropped and told of',
    async (clock) => {
      const sink = new HeldSink()
      const log = new AsyncLogBuffer(sink, { clock })
      log.write('first')
      await clock.advance(0)

      const all = numbered(1, 5000)
      for (let turn = 0; turn < 50; turn++) {
        for (const line of all.slice(turn * 100, turn * 100 + 100)) log.write(line)
        await clock.advance(10)
        expectBooks(log, { offered: 1 + (turn + 1) * 100, inFlight: 1 })
      }

      expectBooks(log, { dropped: 4000, pending: 1001 })
      expect(sink.writes).toHaveLength(1)
      sink.takeAll()
      await clock.advance(0)
      sink.takeAll()
      await log.close()
      expect(sink.lines).toEqual(['first', ...numbered(1, 1000), dropLine(4000, 1_767_225_600_500)])
    },
  )

  inVirtualTime('no write ever waits: each has answered before it returns', async (clock) => {
    const log = new AsyncLogBuffer(new HeldSink(), { clock })

    const answers = new Set(numbered(1, 5000).map((line) => log.write(line)))

    expect(answers).toEqual(new Set([true, false]))
    void log.close({ timeoutMs: 0 })
    await clock.advance(1)
  })
})

describe('the line that tells', () => {
  inVirtualTime('stands where the first lost line would have stood', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 2, clock })
    log.write('in flight')
    await clock.advance(0)
    for (const line of ['before 1', 'before 2', 'lost']) log.write(line)

    sink.at(0).take()
    await clock.advance(0)
    for (const line of ['after 1', 'after 2']) log.write(line)
    sink.at(1).take()
    await clock.advance(0)
    sink.takeAll()

    expect(sink.lines).toEqual([
      'in flight',
      'before 1',
      'before 2',
      expect.stringContaining('"1 log line was dropped"'),
      'after 1',
      'after 2',
    ])
    await log.close()
  })

  inVirtualTime('stands between lines that leave together', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 4, maxBatchBytes: 4, clock })
    log.write('in flight')
    await clock.advance(0)
    for (const line of ['aa', 'bb']) log.write(line)
    await clock.advance(0)
    for (const line of ['c', 'd', 'lost']) log.write(line)
    await clock.advance(0)

    sink.at(0).take()
    await clock.advance(0)
    for (const line of ['e', 'f']) log.write(line)
    sink.at(1).take()
    await clock.advance(0)

    expect(linesIn(sink.at(2).chunk)).toEqual(['c', 'd', expect.stringContaining('"dropped":1'), 'e', 'f'])
    sink.takeAll()
    await log.close()
  })

  inVirtualTime('is one for each outage', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 10, clock })

    for (let outage = 1; outage <= 4; outage++) {
      for (let n = 0; n < 10 + outage; n++) log.write(`outage ${outage}, line ${n}`)
      await clock.advance(0)
      sink.takeAll()
      await clock.advance(0)
    }

    expect(toldIn(sink.lines)).toEqual([1, 2, 3, 4])
    expect(log.stats()).toMatchObject({ dropLines: 4, untoldDrops: 0 })
    await log.close()
  })

  inVirtualTime('is told again, with what was lost meanwhile, when its own chunk fails', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 2, clock })
    for (const line of ['a', 'b', 'lost', 'lost too']) log.write(line)
    await clock.advance(0)
    const first = sink.at(0)

    first.fail(new Error('the disk is gone'))
    await clock.advance(0)

    expect(linesIn(first.chunk)).toEqual(['a', 'b', dropLine(2)])
    expect(log.stats()).toMatchObject({ dropped: 2, failed: 2, dropLines: 0, untoldDrops: 4 })
    log.write('c')
    await clock.advance(0)
    sink.takeAll()
    await clock.advance(0)
    expect(sink.lines).toEqual([dropLine(4), 'c'])
    expect(log.stats()).toMatchObject({ dropLines: 1, untoldDrops: 0 })
    await log.close()
  })

  inVirtualTime('counts as untold while it is on its way', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 1, clock })
    for (const line of ['a', 'lost']) log.write(line)

    await clock.advance(0)

    expect(sink.at(0).chunk).toContain('"dropped":1')
    expect(log.stats()).toMatchObject({ dropLines: 0, untoldDrops: 1 })
    sink.takeAll()
    await log.close()
    expect(log.stats()).toMatchObject({ dropLines: 1, untoldDrops: 0 })
  })

  inVirtualTime('is written at close for what failed last', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { clock })
    log.write('a')
    await clock.advance(0)

    const closed = log.close()
    sink.at(0).fail(new Error('no'))
    await clock.advance(0)
    sink.takeAll()

    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expect(sink.lines).toEqual([expect.stringContaining('"1 log line was dropped"')])
    expect(log.stats()).toMatchObject({ failed: 1, dropLines: 1, untoldDrops: 0 })
  })

  inVirtualTime('stays untold when the sink fails at close too, or never answers', async (clock) => {
    for (const ending of ['fail', 'hang'] as const) {
      const sink = new HeldSink()
      const log = new AsyncLogBuffer(sink, { clock })
      log.write('a')
      await clock.advance(0)
      const closed = log.close({ timeoutMs: 100 })
      sink.at(0).fail(new Error('no'))
      await clock.advance(0)

      if (ending === 'fail') sink.at(1).fail(new Error('still no'))
      await clock.advance(100)

      await closed
      expect(log.stats()).toMatchObject({ failed: 1, dropLines: 0, untoldDrops: 1 })
    }
  })

  inVirtualTime('bears the name of the buffer, as JSON whatever the name', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { capacity: 1, name: 'app "log"\n', clock })
    for (const line of ['a', 'lost']) log.write(line)

    await log.close()

    expect(JSON.parse(sink.lines[1] as string)).toEqual({
      level: 40,
      time: clock.wallNow(),
      name: 'app "log"\n',
      dropped: 1,
      msg: '1 log line was dropped',
    })
  })
})

describe('onDropLine', () => {
  inVirtualTime('writes the line, and a newline is added when it has none', async (clock) => {
    for (const ending of ['', '\n']) {
      const sink = new OpenSink()
      const log = new AsyncLogBuffer(sink, { capacity: 1, onDropLine: (count) => `lost ${count}${ending}`, clock })
      for (const line of ['a', 'b', 'c']) log.write(line)

      await log.close()

      expect(sink.text).toBe('a\nlost 2\n')
    }
  })

  inVirtualTime('that answers an empty text writes no line, and it is as if it had been told', async (clock) => {
    const sink = new OpenSink()
    const counts: number[] = []
    const onDropLine = (count: number): string => {
      counts.push(count)
      return ''
    }
    const log = new AsyncLogBuffer(sink, { capacity: 1, onDropLine, clock })
    for (const line of ['a', 'b', 'c']) log.write(line)

    await log.close()

    expect(counts).toEqual([2])
    expect(sink.text).toBe('a\n')
    expect(log.stats()).toMatchObject({ dropped: 2, dropLines: 0, untoldDrops: 0 })
  })

  inVirtualTime('that throws or answers no string is replaced by the default and reported once', async (clock) => {
    const thrower = (): never => {
      throw new Error('a bad day')
    }
    const unreadable = (): never => {
      throw { toString: thrower }
    }
    for (const [onDropLine, what] of [
      [thrower, 'onDropLine threw: Error: a bad day'],
      [unreadable, 'onDropLine threw: an error that could not be read'],
      [() => 7 as never, 'onDropLine answered 7 (number) and no string'],
      [() => undefined as never, 'onDropLine answered undefined (undefined) and no string'],
    ] as const) {
      const sink = new OpenSink()
      const log = new AsyncLogBuffer(sink, { capacity: 1, onDropLine, clock })

      const warnings = await warningsDuring(async () => {
        for (let outage = 0; outage < 3; outage++) {
          for (const line of ['a', 'lost']) log.write(line)
          await clock.advance(0)
        }
      })

      expect(toldIn(sink.lines)).toEqual([1, 1, 1])
      expect(warnings).toHaveLength(1)
      expect(warnings[0]).toContain(what)
      await log.close()
    }
  })

  inVirtualTime('may write to the log itself: what is dropped of that is told of next time', async (clock) => {
    const sink = new OpenSink()
    let told = 0
    const log: AsyncLogBuffer = new AsyncLogBuffer(sink, {
      capacity: 1,
      onDropLine: (count) => {
        if (++told === 1) for (const line of ['about it', 'too much', 'far too much']) log.write(line)
        return `lost ${count}`
      },
      clock,
    })
    for (const line of ['a', 'lost']) log.write(line)

    await clock.advance(0)

    expect(sink.lines).toEqual(['a', 'lost 1', 'about it', 'lost 2'])
    expectBooks(log, { offered: 5, succeeded: 2, dropped: 3 })
    expect(log.stats().untoldDrops).toBe(0)
    await log.close()
  })
})

describe('overflow', () => {
  inVirtualTime(
    'drop-oldest: what has waited longest goes, and the first lines of the log tell of it',
    async (clock) => {
      const sink = new HeldSink()
      const log = new AsyncLogBuffer(sink, { capacity: 1000, overflow: 'drop-oldest', clock })
      log.write('in flight')
      await clock.advance(0)

      const answers = numbered(1, 5000).map((line) => log.write(line))

      expect(answers).not.toContain(false)
      expectBooks(log, { offered: 5001, dropped: 4000, pending: 1001 })
      sink.takeAll()
      await clock.advance(0)
      sink.takeAll()
      await log.close()
      expect(sink.lines).toEqual(['in flight', dropLine(4000), ...numbered(4001, 5000)])
    },
  )

  inVirtualTime('drop-oldest: lines of many turns go one by one, whichever chunk they are in', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 5, overflow: 'drop-oldest', clock })
    log.write('in flight')
    await clock.advance(0)
    const dropped: string[] = []
    log.on('dropped', ({ line, reason }) => dropped.push(`${reason} ${line}`))

    for (const line of numbered(1, 12)) {
      log.write(line)
      if (/[258]$/.test(line)) await clock.advance(0)
    }

    expect(dropped).toEqual(numbered(1, 7).map((line) => `drop-oldest ${line}`))
    sink.takeAll()
    await clock.advance(0)
    sink.takeAll()
    await log.close()
    expect(sink.lines).toEqual(['in flight', expect.stringContaining('"dropped":7'), ...numbered(8, 12)])
  })

  inVirtualTime('reject: a line is refused with ERR_FULL, and the log says nothing of it', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { capacity: 2, overflow: 'reject', clock })
    const rejected: unknown[] = []
    log.on('rejected', ({ line, error }) =>
      rejected.push([line, (error as Error).message, (error as { code: string }).code]),
    )

    const answers = ['a', 'b', 'c'].map((line) => log.write(line))

    expect(answers).toEqual([true, true, false])
    expect(rejected).toEqual([['c', 'async-log-buffer is full (capacity 2)', 'ERR_FULL']])
    await log.close()
    expect(sink.text).toBe('a\nb\n')
    expectBooks(log, { offered: 3, succeeded: 2, rejected: 1, dropped: 0 })
    expect(log.stats().untoldDrops).toBe(0)
  })

  inVirtualTime('drop-newest: the event bears the line that was dropped', async (clock) => {
    const log = new AsyncLogBuffer(new OpenSink(), { capacity: 1, clock })
    const dropped: unknown[] = []
    log.on('dropped', (event) => dropped.push(event))

    for (const line of ['a', 'b', 'c']) log.write(line)

    expect(dropped).toEqual([
      { line: 'b', reason: 'drop-newest' },
      { line: 'c', reason: 'drop-newest' },
    ])
    await log.close()
  })

  inVirtualTime(
    'a chunk whose lines go as fast as they come keeps no more of them than there is room',
    async (clock) => {
      const sink = new HeldSink()
      const log = new AsyncLogBuffer(sink, { capacity: 100, overflow: 'drop-oldest', maxBatchBytes: 1_000_000, clock })
      log.write('in flight')
      await clock.advance(0)

      // All in one turn, so that they are one chunk.
      for (let n = 0; n < 100_000; n++) log.write(`line ${n}`)

      sink.takeAll()
      await clock.advance(0)
      sink.takeAll()
      await log.close()
      expect(sink.lines.at(-100)).toBe('line 99900')
      expect(sink.lines).toHaveLength(102)
      expectBooks(log, { offered: 100_001, succeeded: 101, dropped: 99_900 })
    },
  )
})
