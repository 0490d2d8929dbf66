import { AsyncLocalStorage } from 'node:async_hooks'
import { AsyncLogBuffer, StoreError } from 'spillway'
import { seededRandom } from 'spillway/testing'
import { describe, expect } from 'vitest'
import { expectBooks } from '../batcher/support/outcomes.js'
import { inVirtualTime } from '../batcher/support/virtual-time.js'
import { HeldSink, OpenSink } from './support/sinks.js'

describe('a newline', () => {
  inVirtualTime('is added where it is missing, and only there', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { clock })

    for (const line of ['none', 'one\n', 'two\n\n', '', '\n', 'wind\r\n', 'with\nin', '\r', 'ls \u2028', '💧'])
      log.write(line)

    await log.close()
    expect(sink.text).toBe('none\none\ntwo\n\n\n\nwind\r\nwith\nin\n\r\nls \u2028\n💧\n')
  })

  inVirtualTime(
    'is looked for at the end of each line, wherever the others of its chunk have theirs',
    async (clock) => {
      const sink = new OpenSink()
      const log = new AsyncLogBuffer(sink, { clock })
      const turns = [
        ['a\n', 'b\n'],
        ['c', 'd\n'],
        ['e\n', ''],
        ['', 'f'],
        ['g\n', '\n', 'h'],
      ]

      for (const lines of turns) {
        for (const line of lines) log.write(line)
        await clock.advance(0)
      }

      expect(sink.chunks).toEqual(['a\nb\n', 'c\nd\n', 'e\n\n', '\nf\n', 'g\n\nh\n'])
      await log.close()
    },
  )

  inVirtualTime('is added to ropes and to slices too, and their text is what it was', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { clock })
    const random = seededRandom(7)
    const expected: string[] = []

    for (let n = 0; n < 500; n++) {
      let rope = ''
      for (let part = 0; part < 10; part++) rope += `${Math.floor(random() * 1000)} of some text, `
      const line = random() < 0.5 ? rope.slice(3, 60) : `${rope}\n`
      expected.push(line.endsWith('\n') ? line : `${line}\n`)
      log.write(line)
    }

    await log.close()
    expect(sink.text).toBe(expected.join(''))
  })

  inVirtualTime('comes behind half a character as well: what is written is what was given', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { clock })

    for (const line of ['\ud83d', '\udca7', 'a\ud83d']) log.write(line)

    await log.close()
    // The halves don't become one character: a newline is between them.
    expect(sink.text).toBe('\ud83d\n\udca7\na\ud83d\n')
  })
})

describe('maxBatchBytes', () => {
  inVirtualTime(
    'reached exactly: the chunk leaves before the end of the turn, and the next line begins another',
    async (clock) => {
      const sink = new HeldSink()
      const log = new AsyncLogBuffer(sink, { maxBatchBytes: 6, clock })

      for (const line of ['abc', 'def', 'g']) log.write(line)
      const within = sink.writes.length
      await Promise.resolve()
      const aMicrotaskLater = sink.writes.map(({ chunk }) => chunk)

      expect(within).toBe(0)
      expect(aMicrotaskLater).toEqual(['abc\ndef\n'])
      sink.takeAll()
      await clock.advance(0)
      sink.takeAll()
      await log.close()
      expect(sink.log).toEqual(['abc\ndef\n', 'g\n'])
    },
  )

  inVirtualTime('passed by the next line: that line begins another chunk', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { maxBatchBytes: 5, clock })

    for (const line of ['abc', 'def', 'gh', 'i']) log.write(line)

    await log.close()
    expect(sink.chunks).toEqual(['abc\n', 'def\ngh\n', 'i\n'])
  })

  inVirtualTime('a longer line is a chunk of its own', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { maxBatchBytes: 5, clock })
    const long = 'x'.repeat(100)

    for (const line of ['a', long, 'b', long, long, 'c']) log.write(line)

    await log.close()
    expect(sink.chunks).toEqual(['a\n', `${long}\n`, 'b\n', `${long}\n`, `${long}\n`, 'c\n'])
    expectBooks(log, { offered: 6, succeeded: 6, batches: 6 })
  })

  inVirtualTime('reached while a chunk is in flight: what is full waits for it, one chunk at a time', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { maxBatchBytes: 2, clock })

    for (const line of ['ab', 'cd', 'ef']) log.write(line)
    await clock.advance(1000)
    const first = sink.writes.length
    sink.at(0).take()
    await clock.advance(0)

    expect(first).toBe(1)
    expect(sink.writes.map(({ chunk }) => chunk)).toEqual(['ab\n', 'cd\n'])
    expect(log.stats()).toMatchObject({ inFlightBatches: 1, inFlight: 1, pending: 2 })
    sink.at(1).take()
    await clock.advance(0)
    sink.takeAll()
    await log.close()
  })

  inVirtualTime('lines of several turns share a chunk up to it', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { maxBatchBytes: 6, clock })
    log.write('in flight')
    await clock.advance(0)

    for (const line of ['ab', 'cd', 'ef', 'gh']) {
      log.write(line)
      await clock.advance(0)
    }
    for (let n = 0; n < 3; n++) {
      sink.takeAll()
      await clock.advance(0)
    }

    expect(sink.log).toEqual(['in flight\n', 'ab\ncd\nef\n', 'gh\n'])
    await log.close()
  })
})

describe('eager', () => {
  inVirtualTime(
    'what is there leaves at the end of the turn, and what comes meanwhile as one chunk after it',
    async (clock) => {
      const sink = new HeldSink()
      const log = new AsyncLogBuffer(sink, { clock })

      for (const line of ['a', 'b']) log.write(line)
      await clock.advance(0)
      for (let turn = 0; turn < 5; turn++) {
        log.write(`turn ${turn}`)
        await clock.advance(5)
      }
      sink.at(0).take()
      await clock.advance(0)
      sink.takeAll()

      expect(sink.log).toEqual(['a\nb\n', 'turn 0\nturn 1\nturn 2\nturn 3\nturn 4\n'])
      await log.close()
      expect(log.stats().batchSize).toMatchObject({ max: 5 })
    },
  )

  inVirtualTime('false: a chunk waits maxWaitMs from its first line, or until it is full', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { eager: false, maxWaitMs: 50, maxBatchBytes: 4, clock })

    log.write('a')
    await clock.advance(30)
    log.write('b')
    await clock.advance(19)
    const at49 = [...sink.chunks]
    await clock.advance(1)
    const at50 = [...sink.chunks]
    for (const line of ['cc', 'dd']) log.write(line)
    await clock.advance(0)

    expect(at49).toEqual([])
    expect(at50).toEqual(['a\nb\n'])
    expect(sink.chunks).toEqual(['a\nb\n', 'cc\ndd\n'])
    await log.close()
  })

  inVirtualTime('false with maxWaitMs 0 leaves at the end of the turn', async (clock) => {
    const sink = new OpenSink()
    const log = new AsyncLogBuffer(sink, { eager: false, maxWaitMs: 0, clock })

    for (const line of ['a', 'b']) log.write(line)
    await clock.advance(0)

    expect(sink.chunks).toEqual(['a\nb\n'])
    await log.close()
  })
})

describe('retry', () => {
  inVirtualTime(
    'a chunk that the sink rejected is tried again as it was, and newer lines come behind it',
    async (clock) => {
      const sink = new HeldSink()
      const log = new AsyncLogBuffer(sink, { retry: { attempts: 3, delayMs: 100 }, random: () => 0.5, clock })
      const events: unknown[] = []
      log.on('retried', ({ attempt, delayMs }) => events.push(['retried', attempt, delayMs]))
      log.on('written', ({ lines, attempts, durationMs }) => events.push(['written', lines, attempts, durationMs]))
      log.write('a')
      await clock.advance(0)
      sink.at(0).fail(new Error('busy'))
      await clock.advance(0)
      log.write('b')

      await clock.advance(50)
      sink.at(1).fail(new Error('busy'))
      await clock.advance(100)
      sink.at(2).take()
      await clock.advance(0)
      sink.takeAll()

      await log.close()
      expect(sink.writes.map(({ chunk }) => chunk)).toEqual(['a\n', 'a\n', 'a\n', 'b\n'])
      expect(events).toEqual([
        ['retried', 2, 50],
        ['retried', 3, 100],
        ['written', 1, 3, 150],
        ['written', 1, 1, 0],
      ])
      expectBooks(log, { succeeded: 2, retries: 2 })
    },
  )

  inVirtualTime(
    'is over after the attempts, for what must not be retried, and where the outcome is unknown',
    async (clock) => {
      for (const [error, attempts] of [
        [new Error('no'), 2],
        [new StoreError('never', { retryable: false }), 1],
        [new StoreError('torn', { outcomeUnknown: true }), 1],
      ] as const) {
        const failed: unknown[] = []
        const log = new AsyncLogBuffer(
          { write: () => Promise.reject(error) },
          { retry: { attempts: 2, delayMs: 10 }, clock },
        )
        log.on('failed', (event) => failed.push(event))
        for (const line of ['a', 'b']) log.write(line)

        await clock.advance(1000)

        expect(failed).toEqual([{ lines: ['a', 'b'], attempts, error }])
        void log.close()
        await clock.advance(1000)
      }
    },
  )

  inVirtualTime('by default there is none', async (clock) => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { clock })
    const failed: unknown[] = []
    log.on('failed', ({ lines, attempts, error }) => failed.push([lines, attempts, (error as Error).message]))
    log.write('a\n')
    await clock.advance(0)

    sink.at(0).fail(new Error('no'))
    await clock.advance(10_000)

    expect(failed).toEqual([[['a\n'], 1, 'no']])
    expect(sink.writes).toHaveLength(1)
    void log.close()
    await clock.advance(0)
    sink.takeAll()
  })
})

describe('the sink', () => {
  inVirtualTime('may answer at once, throw, or answer a foreign thenable', async (clock) => {
    const outcomes: Record<string, () => unknown> = {
      nothing: () => undefined,
      // biome-ignore lint/suspicious/noThenProperty: a thenable of foreign make
      thenable: () => ({ then: (done: () => void) => done() }),
      throws: () => {
        throw new Error('thrown')
      },
    }
    for (const [what, write] of Object.entries(outcomes)) {
      const log = new AsyncLogBuffer({ write: write as () => undefined }, { clock })
      log.write('a')

      await clock.advance(0)

      expectBooks(log, what === 'throws' ? { failed: 1 } : { succeeded: 1 })
      await log.close()
    }
  })

  inVirtualTime('is called as a method, in the async context in which the buffer was made', async (clock) => {
    const tenant = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    class Sink {
      readonly #prefix = 'mine'
      failing = false
      write(chunk: string): void {
        seen.push([`${this.#prefix} ${chunk}`, tenant.getStore()])
        if (this.failing) throw new Error('no')
      }
      writeSync(chunk: string): void {
        this.write(chunk)
      }
    }
    const sink = new Sink()
    const log = tenant.run('maker', () => new AsyncLogBuffer(sink, { clock, onDropLine: () => 'lost' }))

    tenant.run('writer', () => log.write('a'))
    await clock.advance(0)
    tenant.run('writer', () => {
      log.write('b')
      log.flushSync()
    })
    sink.failing = true
    tenant.run('writer', () => log.write('c'))
    await clock.advance(0)
    sink.failing = false
    await tenant.run('closer', () => log.close())

    expect(seen).toEqual([
      ['mine a\n', 'maker'],
      ['mine b\n', 'maker'],
      ['mine c\n', 'maker'],
      ['mine lost\n', 'maker'],
    ])
  })
})
