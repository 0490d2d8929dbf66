import { AsyncLogBuffer, type AsyncLogBufferOptions, type LogSink } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { codeOf, expectBooks, reasonOf, thrownBy } from '../batcher/support/outcomes.js'
import { OpenSink } from './support/sinks.js'

const sink: LogSink = { write: () => undefined }
const count = 'must be a whole number between 1 and 2147483647'
const duration = 'must be a number between 0 and 2147483647'

describe('a wrong option throws at once and says how', () => {
  test.each<[string, unknown, string]>([
    ['capacity', 0, `capacity ${count}, got 0 (number)`],
    ['capacity', 1.5, `capacity ${count}, got 1.5 (number)`],
    ['capacity', '10', `capacity ${count}, got "10" (string)`],
    ['capacity', Number.POSITIVE_INFINITY, `capacity ${count}, got Infinity (number)`],
    ['overflow', 'block', `overflow must be one of 'reject', 'drop-newest', 'drop-oldest', got "block" (string)`],
    ['overflow', null, `overflow must be one of 'reject', 'drop-newest', 'drop-oldest', got null (null)`],
    ['eager', 1, 'eager must be true or false, got 1 (number)'],
    ['maxWaitMs', -1, `maxWaitMs ${duration}, got -1 (number)`],
    ['maxWaitMs', '10', `maxWaitMs ${duration}, got "10" (string)`],
    ['maxBatchBytes', 0, `maxBatchBytes ${count}, got 0 (number)`],
    ['maxBatchBytes', Number.NaN, `maxBatchBytes ${count}, got NaN (number)`],
    ['retry', 3, 'retry must be an object, got 3 (number)'],
    ['levelOf', 'level', 'levelOf must be a function, got "level" (string)'],
    ['levelOf', null, 'levelOf must be a function, got null (null)'],
    ['onDropLine', 'dropped', 'onDropLine must be a function, got "dropped" (string)'],
    ['name', 7, 'name must be a string, got 7 (number)'],
    ['random', 0.5, 'random must be a function, got 0.5 (number)'],
    ['clock', {}, 'clock must have a method now, got {} (object)'],
  ])('%s, case %#', (field, value, message) => {
    const error = thrownBy(() => new AsyncLogBuffer(sink, { [field]: value } as AsyncLogBufferOptions))

    expect(error.message).toBe(message)
    expect(error.field).toBe(field)
  })

  test('a sink that is none', () => {
    for (const [wrong, message] of [
      [undefined, 'sink must have a method write, got undefined (undefined)'],
      [null, 'sink must have a method write, got null (null)'],
      ['app.log', 'sink must have a method write, got "app.log" (string)'],
      [{ write: true }, 'sink must have a method write, got {"write":true} (object)'],
      [{ write: () => undefined, writeSync: 1 }, 'sink.writeSync must be a function, got 1 (number)'],
      [{ write: () => undefined, reopen: 'yes' }, 'sink.reopen must be a function, got "yes" (string)'],
    ] as const) {
      expect(thrownBy(() => new AsyncLogBuffer(wrong as never)).message).toBe(message)
    }
  })

  test('levelOf with an overflow that lets nothing go', () => {
    const error = thrownBy(() => new AsyncLogBuffer(sink, { overflow: 'reject', levelOf: () => 1 }))

    expect(error.message).toBe("levelOf needs overflow 'drop-newest' or 'drop-oldest', got levelOf() (function)")
  })

  test('options that are none, retries and listeners', () => {
    expect(thrownBy(() => new AsyncLogBuffer(sink, 'fast' as never)).message).toBe(
      'options must be an object, got "fast" (string)',
    )
    expect(thrownBy(() => new AsyncLogBuffer(sink, { retry: { attempts: 0 } })).message).toBe(
      `retry.attempts ${count}, got 0 (number)`,
    )
    expect(thrownBy(() => new AsyncLogBuffer(sink).on('dropped', 'tell' as never)).message).toBe(
      'listener must be a function, got "tell" (string)',
    )
  })
})

test('an explicit undefined means the default, for every option', async () => {
  const clock = new FakeClock()
  const got = new OpenSink()
  const log = new AsyncLogBuffer(got, {
    name: undefined,
    random: undefined,
    capacity: undefined,
    overflow: undefined,
    eager: undefined,
    maxWaitMs: undefined,
    maxBatchBytes: undefined,
    retry: { attempts: undefined, delayMs: undefined, maxDelayMs: undefined, retryable: undefined },
    levelOf: undefined,
    onDropLine: undefined,
    clock,
  })

  for (let n = 0; n < 1001; n++) log.write('a')
  await clock.advance(0)

  expect(log.name).toBe('async-log-buffer')
  expectBooks(log, { succeeded: 1000, dropped: 1 })
  await log.close()
})

test('the defaults are those of the contract', () => {
  expect(AsyncLogBuffer.defaults).toEqual({
    capacity: 1000,
    overflow: 'drop-newest',
    eager: true,
    maxWaitMs: 100,
    maxBatchBytes: 65_536,
    retry: { attempts: 1, delayMs: 100, maxDelayMs: 30_000 },
  })
})

describe('a buffer', () => {
  test('starts no timer and calls nothing when it is made', async () => {
    const clock = new FakeClock()
    const got = new OpenSink()

    new AsyncLogBuffer(got, { clock, eager: false })
    const { pending } = clock
    await clock.advance(10_000)

    expect(pending).toBe(0)
    expect(got.chunks).toEqual([])
  })

  test('never throws from write, whatever it is given: what is no string is refused', async () => {
    const clock = new FakeClock()
    const got = new OpenSink()
    const log = new AsyncLogBuffer(got, { clock })
    const rejected: unknown[] = []
    const reasons: unknown[] = []
    log.on('rejected', ({ line, error }) => {
      rejected.push(line)
      reasons.push([codeOf(error), (error as Error).message])
    })
    const things = [undefined, null, 7, { toString: () => 'x' }, ['a'], Symbol('s'), Buffer.from('a')]

    const answers = things.map((thing) => log.write(thing as never))

    expect(answers).toEqual(things.map(() => false))
    expect(rejected).toEqual(things)
    expect(reasons[2]).toEqual(['ERR_INVALID_EVENT', 'line must be a string, got 7 (number)'])
    log.write('a')
    // Also where a chunk is open that it could join.
    log.write(undefined as never)
    expectBooks(log, { offered: 9, rejected: 8 })
    await log.close()
    expect(got.text).toBe('a\n')
  })

  test('takes a callback of flush that is none for nothing', async () => {
    const log = new AsyncLogBuffer(sink)
    log.write('a')

    expect(await log.flush('done' as never)).toMatchObject({ succeeded: 1 })
    expect(await log.flush(null as never)).toMatchObject({ succeeded: 0 })

    await log.close()
  })

  test('refuses a wrong deadline by a rejection, and is not closed by it', async () => {
    const log = new AsyncLogBuffer(sink)

    const reason = await reasonOf(log.close({ timeoutMs: -1 }))

    expect((reason as Error).message).toBe(`timeoutMs ${duration}, got -1 (number)`)
    expect(log.write('a')).toBe(true)
    await log.close()
  })

  test('takes the options as they were when it was made', async () => {
    const clock = new FakeClock()
    const got = new OpenSink()
    const options: AsyncLogBufferOptions = { capacity: 1, onDropLine: () => 'mine', clock }
    const log = new AsyncLogBuffer(got, options)

    options.capacity = 100
    options.onDropLine = () => 'another'
    for (const line of ['a', 'b']) log.write(line)

    await log.close()
    expect(got.text).toBe('a\nmine\n')
  })

  test('gives fresh stats that JSON keeps', () => {
    const log = new AsyncLogBuffer(sink)

    const stats = log.stats()

    expect(JSON.parse(JSON.stringify(stats))).toEqual(stats)
    expect(log.stats()).not.toBe(stats)
  })
})
