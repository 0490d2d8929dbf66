import { AsyncLogBuffer, isSpillwayError, type LogSink } from 'spillway'
import { describe, expect, test } from 'vitest'
import { codeOf, expectBooks, watch } from '../batcher/support/outcomes.js'
import { unhandledDuring, warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { HeldSink, OpenSink, toldIn } from './support/sinks.js'

const messageOf = (call: () => void): string | undefined => {
  try {
    call()
  } catch (error) {
    return (error as Error).message
  }
  return undefined
}

describe('flush', () => {
  inVirtualTime('waits for what was accepted before it, and says what became of that', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 3, clock })
    for (const line of ['a', 'b', 'c', 'lost']) log.write(line)

    const flushed = watch(log.flush())
    await clock.advance(0)
    log.write('later')
    sink.at(0).take()
    await clock.advance(0)

    // A line that found no room was never accepted: it is in the stats, and not in the report.
    expect(flushed).toMatchObject({ status: 'fulfilled', value: { succeeded: 3, failed: 0, dropped: 0 } })
    expectBooks(log, { pending: 1, dropped: 1 })
    sink.takeAll()
    await log.close()
  })

  inVirtualTime('lets go what would wait for its time', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { eager: false, maxWaitMs: 60_000, clock })
    log.write('a')

    expect(await log.flush()).toEqual({ succeeded: 1, failed: 0, dropped: 0 })

    expect(sink.text).toBe('a\n')
    await log.close()
  })

  inVirtualTime('counts lines that were dropped while it waited', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 2, overflow: 'drop-oldest', clock })
    log.write('in flight')
    await clock.advance(0)
    for (const line of ['a', 'b']) log.write(line)
    const flushed = watch(log.flush())

    for (const line of ['c', 'd']) log.write(line)
    sink.takeAll()
    await clock.advance(0)

    expect(flushed.value).toEqual({ succeeded: 1, failed: 0, dropped: 2 })
    sink.takeAll()
    await log.close()
  })

  inVirtualTime('with nothing to wait for answers at once', async (clock) => {
    const log = new AsyncLogBuffer(new OpenSink(), { clock })
    const calls: unknown[] = []

    const report = await log.flush((error) => calls.push(error))

    expect(report).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
    expect(calls).toEqual([undefined])
    await log.close()
    expect(await log.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
  })

  inVirtualTime('calls back without an error when all is written', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { clock })
    log.write('a')
    const calls: unknown[][] = []

    void log.flush((...args) => calls.push(args))
    await clock.advance(0)
    const before = [...calls]
    sink.takeAll()
    await clock.advance(0)

    expect(before).toEqual([])
    expect(calls).toEqual([[]])
    await log.close()
  })

  inVirtualTime('calls back with an error when lines failed', async (clock) => {
    const cause = new Error('no space left on device')
    for (const [lines, message] of [
      [['a'], 'async-log-buffer: 1 log line failed: no space left on device'],
      [['a', 'b'], 'async-log-buffer: 2 log lines failed: no space left on device'],
    ] as const) {
      const log = new AsyncLogBuffer({ write: () => Promise.reject(cause) }, { clock })
      for (const line of lines) log.write(line)
      const errors: (Error | undefined)[] = []

      await log.flush((error) => errors.push(error))

      expect(errors).toEqual([expect.objectContaining({ code: 'ERR_STORE', message, cause })])
      await log.close()
    }
  })

  inVirtualTime('whose callback throws or rejects is reported, and rejects nothing', async (clock) => {
    const log = new AsyncLogBuffer(new OpenSink(), { clock })
    const unreadable = {
      toString(): string {
        throw new Error('no')
      },
    }
    const callbacks: (() => unknown)[] = [
      () => {
        throw new Error('thrown')
      },
      () => Promise.reject(new Error('rejected')),
      () => {
        throw unreadable
      },
    ]

    const warnings = await warningsDuring(async () => {
      for (const callback of callbacks) {
        log.write('a')
        expect(await log.flush(callback as () => void)).toMatchObject({ succeeded: 1 })
      }
    })

    expect(warnings.map((warning) => warning.split('\n')[0])).toEqual([
      'SpillwayWarning: async-log-buffer: the callback of flush threw: Error: thrown',
      'SpillwayWarning: async-log-buffer: the callback of flush threw: Error: rejected',
      'SpillwayWarning: async-log-buffer: the callback of flush threw: an error that could not be read',
    ])
    await log.close()
  })
})

describe('flushSync', () => {
  inVirtualTime('with nothing to write calls nothing, also where the sink could not', async (clock) => {
    const held = new HeldSink()
    for (const sink of [held, new OpenSink()]) {
      const log = new AsyncLogBuffer(sink, { clock })

      log.flushSync()

      await log.close()
      log.flushSync()
    }
    expect(held.syncCalls).toEqual([])
  })

  inVirtualTime('writes what waits before it returns, and what comes later comes after it', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { maxBatchBytes: 2, clock })
    for (const line of ['ab', 'cd', 'e']) log.write(line)

    log.flushSync()
    const then = [...sink.log]
    log.write('f')
    await clock.advance(0)
    sink.takeAll()

    expect(then).toEqual(['ab\n', 'cd\n', 'e\n'])
    expect(sink.log).toEqual(['ab\n', 'cd\n', 'e\n', 'f\n'])
    await log.close()
    expectBooks(log, { succeeded: 4, inFlight: 0 })
  })

  inVirtualTime('brings to an end what is in flight, before what waits', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { clock })
    log.write('a')
    await clock.advance(0)
    log.write('b')

    log.flushSync()

    expect(sink.log).toEqual(['a\n', 'b\n'])
    await log.close()
    expectBooks(log, { succeeded: 2 })
  })

  inVirtualTime('with nothing but a write in flight asks the sink to end that', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { clock })
    log.write('a')
    await clock.advance(0)

    log.flushSync()

    expect(sink.syncCalls).toEqual([''])
    expect(sink.text).toBe('a\n')
    await log.close()
  })

  inVirtualTime('writes a chunk that waits for a retry, before those behind it', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { retry: { attempts: 2, delayMs: 1000 }, random: () => 0.9, clock })
    log.write('a')
    await clock.advance(0)
    sink.at(0).fail(new Error('busy'))
    await clock.advance(0)
    log.write('b')

    log.flushSync()

    expect(sink.log).toEqual(['a\n', 'b\n'])
    await log.close()
    expectBooks(log, { succeeded: 2, retries: 1 })
  })

  inVirtualTime('within a listener that hears of a retry keeps the order too', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { retry: { attempts: 2, delayMs: 1000 }, clock })
    log.on('retried', () => log.flushSync())
    log.write('a')
    await clock.advance(0)
    log.write('b')

    sink.at(0).fail(new Error('busy'))
    await clock.advance(0)

    expect(sink.log).toEqual(['a\n', 'b\n'])
    await log.close()
    expectBooks(log, { succeeded: 2, retries: 1 })
  })

  inVirtualTime('tells of what was dropped, where it stood', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 2, clock })
    for (const line of ['a', 'b', 'lost']) log.write(line)

    log.flushSync()
    log.flushSync()

    expect(sink.lines.slice(0, 2)).toEqual(['a', 'b'])
    expect(toldIn(sink.lines)).toEqual([1])
    await log.close()
    expect(toldIn(sink.lines)).toEqual([1])
    expect(log.stats()).toMatchObject({ dropLines: 1, untoldDrops: 0 })
  })

  inVirtualTime('tells of what failed last, though nothing waits', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { clock })
    log.write('a')
    await clock.advance(0)
    sink.at(0).fail(new Error('no'))
    await clock.advance(0)

    log.flushSync()
    await clock.advance(0)

    expect(toldIn(sink.lines)).toEqual([1])
    expect(log.stats()).toMatchObject({ failed: 1, dropLines: 1, untoldDrops: 0 })
    await log.close()
  })

  inVirtualTime('throws what the sink throws; those lines failed, and later chunks were tried', async (clock) => {
    const got: string[] = []
    const log = new AsyncLogBuffer(
      {
        write: () => undefined,
        writeSync: (chunk) => {
          got.push(chunk)
          if (chunk === 'ab\n') throw new Error('bad descriptor')
        },
      },
      { maxBatchBytes: 2, clock },
    )
    const failed: unknown[] = []
    log.on('failed', ({ lines }) => failed.push(lines))
    for (const line of ['ab', 'cd']) log.write(line)

    const message = messageOf(() => log.flushSync())
    await clock.advance(0)

    expect(message).toBe('bad descriptor')
    expect(got.slice(0, 2)).toEqual(['ab\n', 'cd\n'])
    expect(failed).toEqual([['ab']])
    expectBooks(log, { succeeded: 1, failed: 1 })
    await log.close()
  })

  inVirtualTime('says so when the sink goes on with the rest, and counts it when that is done', async (clock) => {
    const ends: (() => void)[] = []
    const log = new AsyncLogBuffer(
      { write: () => undefined, writeSync: () => new Promise<void>((resolve) => ends.push(resolve)) },
      { clock },
    )
    log.write('a')

    const message = messageOf(() => log.flushSync())
    await clock.advance(0)
    const before = log.stats()
    ends[0]?.()
    await clock.advance(0)

    expect(message).toBe("async-log-buffer: its sink couldn't take all of it at once, and goes on with the rest")
    expect(before).toMatchObject({ pending: 1, succeeded: 0 })
    expectBooks(log, { pending: 0, succeeded: 1 })
    await log.close()
  })

  inVirtualTime('says so when the sink cannot, and writes it later', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { clock })
    log.write('a')

    const message = messageOf(() => log.flushSync())
    await clock.advance(0)

    expect(message).toBe("async-log-buffer: its sink has no writeSync, so what waits can't be written synchronously")
    expect(sink.text).toBe('a\n')
    await log.close()
  })

  inVirtualTime('within the sink does not come in between', async (clock) => {
    const got: string[] = []
    let log: AsyncLogBuffer | undefined
    const sink: LogSink = {
      write: (chunk) => {
        got.push(chunk)
        log?.flushSync()
      },
      writeSync: (chunk) => {
        if (chunk !== '') got.push(chunk)
        log?.flushSync()
      },
    }
    log = new AsyncLogBuffer(sink, { maxBatchBytes: 2, clock })
    for (const line of ['ab', 'cd', 'ef']) log.write(line)

    await clock.advance(0)

    expect(got).toEqual(['ab\n', 'cd\n', 'ef\n'])
    expectBooks(log, { succeeded: 3, inFlight: 0 })
    await log.close()
  })

  inVirtualTime('within listeners unbalances nothing', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 2, clock })
    for (const event of ['dropped', 'written', 'failed', 'rejected'] as const) log.on(event, () => log.flushSync())

    for (let n = 0; n < 10; n++) log.write(`line ${n}`)
    await clock.advance(0)

    expectBooks(log, { offered: 10, pending: 0 })
    expect(sink.lines.filter((line) => line.startsWith('line'))).toHaveLength(log.stats().succeeded)
    await log.close()
    log.write('too late')
    expectBooks(log, { rejected: 1 })
  })

  inVirtualTime('while it closes writes what is left', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { maxBatchBytes: 2, clock })
    for (const line of ['ab', 'cd', 'ef']) log.write(line)
    const closed = log.close()

    log.flushSync()

    expect(sink.log).toEqual(['ab\n', 'cd\n', 'ef\n'])
    expect(await closed).toEqual({ drained: true, abandoned: 0 })
  })

  inVirtualTime('brings to an end the line that close is writing', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { clock })
    log.write('a')
    await clock.advance(0)
    const closed = log.close()
    sink.at(0).fail(new Error('no'))
    await clock.advance(0)

    log.flushSync()

    expect(toldIn(sink.lines)).toEqual([1])
    await closed
    expect(log.stats().dropLines).toBe(1)
  })

  inVirtualTime('after a close that gave lines up tells of them, if the sink still takes that', async (clock) => {
    for (const open of [true, false]) {
      const sink = new HeldSink()
      let closed = false
      const log = new AsyncLogBuffer(
        {
          write: sink.write,
          writeSync: (line) => {
            if (closed) throw new Error('the sink is closed')
            sink.log.push(line)
          },
        },
        { clock },
      )
      log.write('a')
      const closing = log.close({ timeoutMs: 10 })
      await clock.advance(10)
      expect(await closing).toEqual({ drained: false, abandoned: 1 })
      closed = !open

      log.flushSync()
      await clock.advance(0)

      expect(toldIn(sink.lines)).toEqual(open ? [1] : [])
      expect(log.stats().untoldDrops).toBe(open ? 0 : 1)
    }
  })

  inVirtualTime('takes an answer that is no promise for done, as of fs.writeSync', async (clock) => {
    let text = ''
    const writeSync = (chunk: string): number => {
      text += chunk
      return chunk.length
    }
    const log = new AsyncLogBuffer({ write: () => undefined, writeSync: writeSync as never }, { clock })
    log.write('a')
    log.flushSync()
    await clock.advance(0)

    expect(text).toBe('a\n')
    expectBooks(log, { succeeded: 1 })
    await log.close()
  })

  test('never leaves a rejection to nobody, though what the sink goes on with fails', async () => {
    const reasons = await unhandledDuring(async () => {
      for (const lines of [['a'], []]) {
        let sync = false
        const log = new AsyncLogBuffer({
          write: () => new Promise((_, reject) => setImmediate(() => reject(new Error('no')))),
          writeSync: () => {
            sync = true
            return Promise.reject(new Error('still no'))
          },
        })
        log.write('first')
        await new Promise((resolve) => setImmediate(resolve))
        for (const line of lines) log.write(line)
        expect(messageOf(() => log.flushSync())).toContain('goes on with the rest')
        await log.close()
        expect(sync).toBe(true)
        expect(log.stats()).toMatchObject({ failed: 1 + lines.length, untoldDrops: 1 + lines.length })
        log.flushSync()
      }
    })

    expect(reasons).toEqual([])
  })
})

describe('reopen', () => {
  inVirtualTime('asks the sink, and rejects as it does', async (clock) => {
    let calls = 0
    const failure = new Error('no such directory')
    const sinks: [LogSink, unknown][] = [
      [{ write: () => undefined, reopen: () => void calls++ }, undefined],
      [{ write: () => undefined }, undefined],
      [{ write: () => undefined, reopen: () => Promise.reject(failure) }, failure],
      [
        {
          write: () => undefined,
          reopen: () => {
            throw failure
          },
        },
        failure,
      ],
    ]

    for (const [sink, reason] of sinks) {
      const log = new AsyncLogBuffer(sink, { clock })
      const reopened = watch(log.reopen())
      await clock.advance(0)
      expect(reopened).toMatchObject(reason === undefined ? { status: 'fulfilled' } : { status: 'rejected', reason })
      await log.close()
    }
    expect(calls).toBe(1)
  })
})

test('what waits for a sink without writeSync is an ERR_STORE that says which buffer', () => {
  const log = new AsyncLogBuffer({ write: () => undefined }, { name: 'app' })
  log.write('a')

  let error: unknown
  try {
    log.flushSync()
  } catch (thrown) {
    error = thrown
  }

  expect(isSpillwayError(error, 'ERR_STORE')).toBe(true)
  expect(codeOf(error)).toBe('ERR_STORE')
  expect((error as Error).message).toMatch(/^app: /)
  return log.close()
})
