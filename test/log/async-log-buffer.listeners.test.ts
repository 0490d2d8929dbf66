import { AsyncLogBuffer } from 'spillway'
import { describe, expect } from 'vitest'
import { expectBooks } from '../batcher/support/outcomes.js'
import { warningsDuring } from '../batcher/support/process-events.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { HeldSink, OpenSink } from './support/sinks.js'

describe('a listener that writes to the log that it is told of', () => {
  inVirtualTime('failed: a sink that fails for good is told once for each chunk of others', async (clock) => {
    let writes = 0
    const log = new AsyncLogBuffer(
      {
        write: () => {
          writes++
          throw new Error('no')
        },
      },
      { clock },
    )
    const told: unknown[] = []
    log.on('failed', ({ lines }) => {
      told.push(lines)
      log.write(`the log failed: ${lines.length}`)
    })

    log.write('a')
    await clock.advance(1000)
    log.write('b')
    await clock.advance(1000)

    expect(told).toEqual([['a'], ['b']])
    expect(writes).toBe(4)
    expectBooks(log, { offered: 4, failed: 4 })
    await log.close()
  })

  inVirtualTime('failed: what it writes is in the log once the sink works', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { clock })
    log.on('failed', ({ lines, error }) => void log.write(`${lines.length} failed: ${(error as Error).message}`))
    log.write('a')
    await clock.advance(0)
    log.write('b')

    sink.at(0).fail(new Error('no'))
    await clock.advance(0)
    sink.takeAll()
    await clock.advance(0)
    sink.takeAll()

    await log.close()
    expect(sink.lines.filter((line) => !line.includes('"dropped"'))).toEqual(['b', '1 failed: no'])
    expectBooks(log, { offered: 3, failed: 1, succeeded: 2 })
  })

  inVirtualTime('dropped: neither recurs nor is told of its own lines', async (clock) => {
    for (const overflow of ['drop-newest', 'drop-oldest'] as const) {
      const sink = new HeldSink()
      const log = new AsyncLogBuffer(sink, { capacity: 2, overflow, clock })
      let told = 0
      log.on('dropped', ({ line }) => {
        told++
        log.write(`dropped ${line}`)
        log.write('and again')
      })

      for (let n = 0; n < 20; n++) log.write(`line ${n}`)

      expect(told).toBe(18)
      expectBooks(log, { offered: 20 + 36, dropped: 18 + 36, pending: 2 })
      await clock.advance(0)
      sink.takeAll()
      await log.close()
      expectBooks(log, { pending: 0 })
    }
  })

  inVirtualTime('rejected: neither recurs nor is told of its own lines', async (clock) => {
    const log = new AsyncLogBuffer(new OpenSink(), { capacity: 1, overflow: 'reject', clock })
    let told = 0
    log.on('rejected', () => {
      told++
      log.write('refused')
    })

    for (const line of ['a', 'b']) log.write(line)
    await log.close()
    log.write('c')

    expect(told).toBe(2)
    expectBooks(log, { offered: 5, succeeded: 1, rejected: 4 })
  })

  inVirtualTime('written and retried: each chunk of others is told once', async (clock) => {
    let attempts = 0
    const log = new AsyncLogBuffer(
      {
        write: () => {
          if (++attempts % 2 === 1) throw new Error('busy')
        },
      },
      { retry: { attempts: 2, delayMs: 10 }, clock },
    )
    const told: string[] = []
    for (const event of ['written', 'retried'] as const) {
      log.on(event, () => {
        told.push(event)
        log.write(`${event}, says the log`)
      })
    }

    log.write('a')
    await clock.advance(60_000)

    expect(told).toEqual(['retried', 'written'])
    expectBooks(log, { offered: 3, succeeded: 3 })
    await log.close()
  })

  inVirtualTime('writes lines that may leave with those of others, which keep their events', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 3, overflow: 'reject', clock })
    const off = log.on('rejected', () => void log.write('echo'))
    const failed: unknown[] = []
    log.on('failed', ({ lines }) => failed.push(lines))
    log.write(7 as never)
    off()
    log.write('another')
    await clock.advance(0)

    sink.at(0).fail(new Error('no'))
    await clock.advance(0)

    expect(failed).toEqual([['echo', 'another']])
    void log.close()
    await clock.advance(0)
    sink.takeAll()
  })
})

inVirtualTime('a listener that throws or rejects changes nothing and is reported once', async (clock) => {
  const sink = new OpenSink()
  const log = new AsyncLogBuffer(sink, { capacity: 1, clock })
  log.on('dropped', () => {
    throw new Error('thrown')
  })
  log.on('written', (() => Promise.reject(new Error('rejected'))) as never)

  const warnings = await warningsDuring(async () => {
    for (let n = 0; n < 3; n++) {
      for (const line of ['a', 'b']) log.write(line)
      await clock.advance(0)
    }
  })

  expect(warnings).toHaveLength(2)
  expectBooks(log, { succeeded: 3, dropped: 3 })
  await log.close()
})

inVirtualTime('a listener that was taken off is told nothing', async (clock) => {
  const log = new AsyncLogBuffer(new OpenSink(), { clock })
  const written: unknown[] = []
  const off = log.on('written', (event) => written.push(event))
  log.write('a')
  await clock.advance(0)
  off()
  log.write('b')
  await clock.advance(0)

  expect(written).toEqual([{ lines: 1, attempts: 1, durationMs: 0 }])
  await log.close()
})
