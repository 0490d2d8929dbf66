import { AsyncLogBuffer } from 'spillway'
import { describe, expect } from 'vitest'
import { codeOf, expectBooks, watch } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { HeldSink, OpenSink } from './support/sinks.js'

describe('close', () => {
  inVirtualTime('writes what was accepted, refuses more, and leaves the sink open', async (clock) => {
    let closes = 0
    const sink = Object.assign(new OpenSink(), { close: () => void closes++ })
    const log = new AsyncLogBuffer(sink, { eager: false, maxWaitMs: 60_000, clock })
    const rejected: unknown[] = []
    log.on('rejected', ({ line, error }) => rejected.push([line, codeOf(error), (error as Error).message]))
    log.write('a')

    const closed = log.close()
    const late = log.write('late')
    const report = await closed

    expect(late).toBe(false)
    expect(report).toEqual({ drained: true, abandoned: 0 })
    expect(sink.text).toBe('a\n')
    expect(rejected).toEqual([['late', 'ERR_CLOSED', 'async-log-buffer is closed']])
    expect(closes).toBe(0)
    expectBooks(log, { offered: 2, succeeded: 1, rejected: 1 })
  })

  inVirtualTime('at its deadline gives up what is left, and the event bears the lines', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { maxBatchBytes: 2, clock })
    const failed: unknown[] = []
    log.on('failed', ({ lines, error }) => failed.push([lines, codeOf(error)]))
    for (const line of ['ab', 'cd', 'e']) log.write(line)
    await clock.advance(0)

    const closed = watch(log.close({ timeoutMs: 500 }))
    await clock.advance(499)
    const before = closed.status
    await clock.advance(1)

    expect(before).toBe('pending')
    expect(closed.value).toEqual({ drained: false, abandoned: 3 })
    expect(failed).toEqual([
      [['ab'], 'ERR_CLOSED'],
      [['cd', 'e'], 'ERR_CLOSED'],
    ])
    expectBooks(log, { failed: 3, pending: 0, inFlight: 0, inFlightBatches: 0 })
    expect(log.stats().untoldDrops).toBe(3)
    sink.takeAll()
    await clock.advance(0)
    expectBooks(log, { failed: 3, succeeded: 0 })
  })

  inVirtualTime('is idempotent, and a shorter deadline counts', async (clock) => {
    const log = new AsyncLogBuffer(new HeldSink(), { clock })
    log.write('a')
    const first = watch(log.close())
    const second = watch(log.close({ timeoutMs: 1000 }))
    const third = watch(log.close({ timeoutMs: 10 }))

    await clock.advance(10)

    for (const closed of [first, second, third]) expect(closed.value).toEqual({ drained: false, abandoned: 1 })
    expect(await log.close()).toEqual({ drained: false, abandoned: 1 })
  })

  inVirtualTime('cuts a wait between retries short', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { retry: { attempts: 5, delayMs: 60_000 }, clock })
    log.write('a')
    await clock.advance(0)
    sink.at(0).fail(new Error('busy'))
    await clock.advance(0)

    const closed = watch(log.close())
    await clock.advance(0)
    sink.at(1).take()
    await clock.advance(0)

    expect(closed.value).toEqual({ drained: true, abandoned: 0 })
    expect(clock.now()).toBe(0)
    expect(sink.text).toBe('a\n')
  })

  inVirtualTime('of a buffer that has nothing answers at once and writes nothing', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { clock })

    expect(await log.close({ timeoutMs: 0 })).toEqual({ drained: true, abandoned: 0 })

    expect(sink.chunks).toEqual([])
  })

  inVirtualTime('comes at the end of an await using block', async (clock) => {
    const sink = new OpenSink()
    {
      await using log = new AsyncLogBuffer(sink, { eager: false, clock })
      log.write('a')
    }
    expect(sink.text).toBe('a\n')
  })
})
