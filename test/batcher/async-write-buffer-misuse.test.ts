import { AsyncWriteBuffer, type AsyncWriteBufferOptions, type WriteFunction } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { add } from './async-write-buffer-sink.js'
import { thrownBy } from './support/outcomes.js'

type Options = AsyncWriteBufferOptions<string, number>

const write = (): void => undefined

describe('a wrong option is an OptionError that names field, rule, value and type', () => {
  const count = 'must be a whole number between 1 and 2147483647'
  const duration = 'must be a number between 0 and 2147483647'

  test.each<[string, unknown, string]>([
    ['merge', 'add', 'merge must be a function, got "add" (string)'],
    ['merge', null, 'merge must be a function, got null (null)'],
    ['merge', undefined, 'merge must be a function, got undefined (undefined)'],
    ['maxBatchSize', 0, `maxBatchSize ${count}, got 0 (number)`],
    ['maxBatchSize', 1.5, `maxBatchSize ${count}, got 1.5 (number)`],
    ['maxBatchSize', '10', `maxBatchSize ${count}, got "10" (string)`],
    ['maxBatchSize', 10n, `maxBatchSize ${count}, got 10 (bigint)`],
    ['maxBatchSize', 20_000, 'maxBatchSize must be at most capacity (10000), got 20000 (number)'],
    ['maxWaitMs', '10', `maxWaitMs ${duration}, got "10" (string)`],
    ['maxWaitMs', -1, `maxWaitMs ${duration}, got -1 (number)`],
    ['maxWaitMs', Number.NaN, `maxWaitMs ${duration}, got NaN (number)`],
    ['maxWaitMs', Number.POSITIVE_INFINITY, `maxWaitMs ${duration}, got Infinity (number)`],
    ['maxWaitMs', 2 ** 31, `maxWaitMs ${duration}, got 2147483648 (number)`],
    ['eager', 1, 'eager must be true or false, got 1 (number)'],
    ['concurrency', 0, `concurrency ${count}, got 0 (number)`],
    ['concurrency', Number.POSITIVE_INFINITY, `concurrency ${count}, got Infinity (number)`],
    ['capacity', -5, `capacity ${count}, got -5 (number)`],
    ['overflow', 'explode', `overflow must be one of 'reject', 'drop-newest', 'drop-oldest', got "explode" (string)`],
    ['timeoutMs', [1], 'timeoutMs must be a number between 1 and 2147483647, got [1] (array)'],
    ['timeoutGraceMs', {}, `timeoutGraceMs ${duration}, got {} (object)`],
    ['retry', 3, 'retry must be an object, got 3 (number)'],
    ['idempotent', 'yes', 'idempotent must be true or false, got "yes" (string)'],
    ['groupBy', 'shard', 'groupBy must be a function, got "shard" (string)'],
    ['name', 7, 'name must be a string, got 7 (number)'],
    ['random', 0.5, 'random must be a function, got 0.5 (number)'],
    ['clock', {}, 'clock must have a method now, got {} (object)'],
  ])('%s, case %#', (field, value, message) => {
    const error = thrownBy(() => new AsyncWriteBuffer(write, { merge: add, [field]: value } as Options))

    expect(error.message).toBe(message)
    expect(error.field).toBe(field)
  })

  test.each<[string, object, string]>([
    ['attempts', { attempts: 0 }, `retry.attempts ${count}, got 0 (number)`],
    ['delayMs', { delayMs: -1 }, `retry.delayMs ${duration}, got -1 (number)`],
    ['maxDelayMs', { maxDelayMs: 'long' }, `retry.maxDelayMs ${duration}, got "long" (string)`],
    ['retryable', { retryable: true }, 'retry.retryable must be a function, got true (boolean)'],
  ])('retry.%s', (field, retry, message) => {
    const error = thrownBy(() => new AsyncWriteBuffer(write, { merge: add, retry } as Options))

    expect(error.message).toBe(message)
    expect(error.field).toBe(`retry.${field}`)
  })

  test('a missing write function or missing options', () => {
    const Loose = AsyncWriteBuffer as unknown as new (...args: unknown[]) => unknown

    expect(thrownBy(() => new Loose(undefined, { merge: add })).message).toBe(
      'write must be a function, got undefined (undefined)',
    )
    expect(thrownBy(() => new Loose(write)).message).toBe('merge must be a function, got undefined (undefined)')
    expect(thrownBy(() => new Loose(write, null)).message).toBe('options must be an object, got null (null)')
    expect(thrownBy(() => new Loose(write, 'fast')).message).toBe('options must be an object, got "fast" (string)')
  })

  test('maxBatchSize over a smaller capacity', () => {
    const error = thrownBy(() => new AsyncWriteBuffer(write, { merge: add, capacity: 10, maxBatchSize: 11 }))

    expect(error.message).toBe('maxBatchSize must be at most capacity (10), got 11 (number)')
  })
})

describe('an explicit undefined means the default', () => {
  test('for every option', async () => {
    const clock = new FakeClock()
    const written: unknown[] = []
    const buffer = new AsyncWriteBuffer<string, number>((entries) => void written.push([...entries]), {
      merge: add,
      name: undefined,
      random: undefined,
      maxBatchSize: undefined,
      maxWaitMs: undefined,
      eager: undefined,
      concurrency: undefined,
      capacity: undefined,
      overflow: undefined,
      timeoutMs: undefined,
      timeoutGraceMs: undefined,
      retry: { attempts: undefined, delayMs: undefined, maxDelayMs: undefined, retryable: undefined },
      idempotent: undefined,
      groupBy: undefined,
      clock,
    })
    buffer.put('a', 1)

    await clock.advance(99)
    const at99 = written.length
    await clock.advance(1)

    expect(at99).toBe(0)
    expect(written).toEqual([[['a', 1]]])
    expect(buffer.name).toBe('async-write-buffer')
    await buffer.close()
    expect(clock.pending).toBe(0)
  })

  test('and the defaults are those of the contract', () => {
    expect(AsyncWriteBuffer.defaults).toMatchObject({
      maxBatchSize: 100,
      maxWaitMs: 100,
      eager: false,
      concurrency: 1,
      capacity: 10_000,
      overflow: 'reject',
      timeoutGraceMs: 1000,
      retry: { attempts: 3, delayMs: 100 },
      idempotent: false,
    })
  })
})

describe('a buffer', () => {
  test('starts no timer and calls nothing when it is made', async () => {
    const clock = new FakeClock()
    const calls: string[] = []

    new AsyncWriteBuffer<string, number>(() => void calls.push('write'), {
      merge: () => {
        calls.push('merge')
        return 0
      },
      eager: true,
      clock,
    })
    const { pending } = clock
    await clock.advance(10_000)

    expect(pending).toBe(0)
    expect(calls).toEqual([])
  })

  test('never throws from put after close, however often', async () => {
    const buffer = new AsyncWriteBuffer<string, number>(write, { merge: add })
    buffer.put('a', 1)
    await buffer.close()

    const answers = ['a', 'b', 'a'].map((key) => buffer.put(key, 1))

    expect(answers).toEqual([false, false, false])
    expect(buffer.stats()).toMatchObject({ offered: 4, succeeded: 1, rejected: 3, pending: 0, pendingKeys: 0 })
  })

  test('takes the options as they were when it was made', async () => {
    const clock = new FakeClock()
    const options: Options = { merge: add, maxWaitMs: 10, maxBatchSize: 2, clock }
    const written: unknown[] = []
    const buffer = new AsyncWriteBuffer<string, number>((entries) => void written.push([...entries]), options)

    options.maxWaitMs = 60_000
    options.merge = () => 0
    options.maxBatchSize = 1
    buffer.put('a', 1)
    buffer.put('a', 1)
    await clock.advance(10)

    expect(written).toEqual([[['a', 2]]])
    await buffer.close()
    expect(clock.pending).toBe(0)
  })

  test('refuses a listener that is no function, and says which argument', () => {
    const buffer = new AsyncWriteBuffer<string, number>(write, { merge: add })

    expect(thrownBy(() => buffer.on('written', 'log' as never)).message).toBe(
      'listener must be a function, got "log" (string)',
    )
  })

  test('never causes an unhandled rejection, whatever the write function does', async () => {
    const clock = new FakeClock()
    const unhandled: unknown[] = []
    const note = (reason: unknown): void => void unhandled.push(reason)
    process.on('unhandledRejection', note)
    const writes: WriteFunction<string, number>[] = [
      () => {
        throw new Error('throws')
      },
      () => Promise.reject(new Error('rejects')),
      () => new Promise((_, reject) => clock.setTimer(() => reject(new Error('rejects late')), 500)),
      () => new Promise(() => {}),
      () =>
        Object.defineProperty({}, 'then', {
          get() {
            throw new Error('no then')
          },
        }) as never,
    ]

    for (const each of writes) {
      const buffer = new AsyncWriteBuffer<string, number>(each, {
        merge: add,
        timeoutMs: 50,
        timeoutGraceMs: 50,
        retry: { attempts: 2, delayMs: 1 },
        idempotent: true,
        clock,
      })
      buffer.put('a', 1)
      void buffer.flush()
      void buffer.close({ timeoutMs: 300 })
      await clock.advance(1000)
    }
    await new Promise((resolve) => setImmediate(resolve))
    process.off('unhandledRejection', note)

    expect(unhandled).toEqual([])
    expect(clock.pending).toBe(0)
  })
})
