import {
  InvalidEventError,
  isSpillwayError,
  QuotaConsumer,
  type QuotaConsumerOptions,
  type QuotaPeriod,
  type UsageEvent,
  type UsageSink,
} from 'spillway'
import { FakeClock, MemoryUsageJournal } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { thrownBy } from '../batcher/support/outcomes.js'
import { unhandledDuring } from '../batcher/support/process-events.js'
import { expectQuotaBooks } from './support/books.js'
import { GateSink } from './support/gate-sink.js'

const sink: UsageSink = { idempotent: true, write: () => undefined }
const right = { userId: 'u', quotaType: 'api', value: 1 }

describe('a wrong event is refused, naming the field', () => {
  const id = 'must be a text of 1 to 256 characters without NUL and half surrogate pairs'
  const user = 'must be a text of 1 to 256 characters, a safe integer or a bigint'
  const value = 'must be a number between 0 and 9007199254740991'
  const time = 'must be a Date or milliseconds since the epoch, between 100000000000 and 253402300799999'
  const cases: [string, string, unknown[]][] = [
    ['userId', id, ['', 'a\0b', '\ud800', 'x\udc00', 'x'.repeat(257)]],
    ['userId', user, [undefined, null, Number.NaN, 1.5, 2 ** 53, Number.POSITIVE_INFINITY, {}, true, Symbol('u')]],
    ['userId', user, [10n ** 256n]],
    ['quotaType', id, ['', 'a\0b', '\ud800', 'x'.repeat(257), undefined, null, 1, {}]],
    ['value', value, [Number.NaN, -1, -0.1, Number.POSITIVE_INFINITY, 2 ** 53, '1', undefined, null, 1n]],
    ['timestamp', time, [Number.NaN, 0, -1, 1_767_225_600, 1e15, new Date(Number.NaN), '2026-01-01', null, {}, true]],
    ['requestId', id, ['', 'a\0b', '\udfff', 'x'.repeat(257), 1, null, {}]],
    ['metadata', 'must be an object', ['text', 1, null, true]],
  ]
  for (const [field, rule, values] of cases) {
    for (const [index, wrong] of values.entries()) {
      test(`${field} ${rule}, case ${index}`, async () => {
        const consumer = new QuotaConsumer(sink, { clock: new FakeClock() })
        const rejected: unknown[] = []
        consumer.on('rejected', (event) => rejected.push(event))
        const event = { ...right, [field]: wrong } as unknown as UsageEvent

        expect(consumer.offer(event)).toBe(false)
        const error = await consumer.publish(event).catch((thrown: unknown) => thrown)

        expect(error).toBeInstanceOf(InvalidEventError)
        expect(isSpillwayError(error, 'ERR_INVALID_EVENT')).toBe(true)
        expect(error).toMatchObject({ field, retryable: false, message: expect.stringContaining(`${field} ${rule}`) })
        expect(rejected).toEqual([
          { event, error: expect.objectContaining({ field }) },
          { event, error },
        ])
        expectQuotaBooks(consumer, { offered: 2, rejected: 2, totalEvents: 0, pending: 0 })
        await consumer.close()
      })
    }
  }

  test('so is what is no event at all', async () => {
    const consumer = new QuotaConsumer(sink, { clock: new FakeClock() })
    for (const event of [undefined, null, 1, 'event', true, () => right]) {
      expect(consumer.offer(event as unknown as UsageEvent)).toBe(false)
      await expect(consumer.publish(event as unknown as UsageEvent)).rejects.toMatchObject({ field: 'event' })
    }
    await expect(consumer.publish([] as unknown as UsageEvent)).rejects.toMatchObject({ field: 'userId' })
    expectQuotaBooks(consumer, { rejected: 13 })
  })

  test('a known user and type are no excuse for a wrong value', async () => {
    const consumer = new QuotaConsumer(sink, { clock: new FakeClock() })
    consumer.offer(right)

    for (const value of [Number.NaN, -1, '1', undefined] as number[]) {
      expect(consumer.offer({ ...right, value })).toBe(false)
    }

    expect(consumer.pending('u', 'api')).toBe(1)
    await consumer.close()
  })

  test('an event whose getters throw rejects with what they throw', async () => {
    const consumer = new QuotaConsumer(sink, { clock: new FakeClock() })
    const hostile = Object.defineProperty({ ...right }, 'value', {
      get: () => {
        throw new Error('getter')
      },
    })

    expect(consumer.offer(hostile)).toBe(false)
    await expect(consumer.publish(hostile)).rejects.toThrow('getter')
    expectQuotaBooks(consumer, { rejected: 2 })
  })

  test('what lies on the edges is right', async () => {
    const clock = new FakeClock()
    const gate = new GateSink(clock)
    const consumer = new QuotaConsumer(gate, { clock })
    const edges: Partial<UsageEvent>[] = [
      { userId: 'x'.repeat(256) },
      { userId: '\ud83d\ude00' },
      { userId: Number.MIN_SAFE_INTEGER },
      { userId: 0 },
      { userId: -(10n ** 200n) },
      { value: 0 },
      { value: Number.MAX_SAFE_INTEGER },
      { value: 0.5 },
      { timestamp: 100_000_000_000 },
      { timestamp: 253_402_300_799_999 },
      { timestamp: undefined, requestId: undefined, metadata: undefined },
      { requestId: 'x'.repeat(256), metadata: {} },
    ]

    for (const edge of edges) expect(consumer.offer({ ...right, ...edge })).toBe(true)

    gate.letGo()
    await consumer.close()
    expectQuotaBooks(consumer, { succeeded: edges.length })
  })

  test('under dedupe request, one without a requestId is', async () => {
    const clock = new FakeClock()
    const gate = new GateSink(clock, { dedupe: 'request' })
    const consumer = new QuotaConsumer(gate, { clock, dedupe: 'request' })

    expect(consumer.offer(right)).toBe(false)
    await expect(consumer.publish(right)).rejects.toMatchObject({ field: 'requestId', code: 'ERR_INVALID_EVENT' })
    await consumer.publish({ ...right, requestId: 'r' })

    gate.letGo()
    await consumer.close()
    expectQuotaBooks(consumer, { succeeded: 1, rejected: 2 })
  })
})

describe('a wrong option throws OptionError that names field, rule, value and type', () => {
  const duration = 'must be a number between 0 and 2147483647'
  const count = 'must be a whole number between 1 and 2147483647'
  const flag = 'must be true or false'
  const fn = 'must be a function'
  const rules: [string, string, unknown[]][] = [
    ['maxWaitMs', duration, ['10', -1, Number.NaN, null]],
    ['timeoutMs', 'must be a number between 1 and 2147483647', ['10', 0, null]],
    ['timeoutGraceMs', duration, ['10', -1, null]],
    ['retry.delayMs', duration, [-1, '1']],
    ['retry.maxDelayMs', duration, [-1, '1']],
    ['retry.attempts', count, [0, 1.5]],
    ['retry.retryable', fn, [true]],
    ['retry', 'must be an object', [3, null]],
    ['maxBatchSize', count, [0, 1.5, '10', null]],
    ['concurrency', count, [0, '3', null]],
    ['capacity', count, [0, Number.POSITIVE_INFINITY, null]],
    ['unhealthyAfter', count, [0, 1.5, '3', null]],
    ['eager', flag, ['true', 1, null]],
    ['bisect', flag, ['true', 1, null]],
    ['overflow', "must be one of 'reject', 'drop-newest', 'drop-oldest'", ['drop', null]],
    ['dedupe', "must be one of 'batch', 'request'", ['event', true, null]],
    ['periodOf', fn, ['month', null]],
    ['onFailed', fn, ['log', {}]],
    ['onApplied', fn, ['log', {}]],
    ['journal', 'must have a method open', [{}, 'journal', null]],
    ['random', fn, [4, null]],
    ['name', 'must be a string', [1, null]],
    ['clock', 'must have a method now', [{}, null]],
  ]
  for (const [name, rule, values] of rules) {
    test(`${name} ${rule}`, () => {
      for (const value of values) {
        const [outer, inner] = name.split('.') as [string, string | undefined]
        const options = inner === undefined ? { [outer]: value } : { [outer]: { [inner]: value } }
        const error = thrownBy(() => new QuotaConsumer(sink, options))

        expect(isSpillwayError(error, 'ERR_OPTION')).toBe(true)
        expect(error).toMatchObject({ field: name })
        expect(error.message).toContain(`${name} ${rule}, got `)
      }
    })
  }

  test('the sink, too', () => {
    for (const wrong of [undefined, null, {}, { idempotent: true }, () => undefined]) {
      expect(thrownBy(() => new QuotaConsumer(wrong as unknown as UsageSink))).toMatchObject({ field: 'sink' })
    }
    const forgetful = { write: () => undefined } as unknown as UsageSink
    expect(thrownBy(() => new QuotaConsumer(forgetful)).message).toMatch(/^sink.idempotent must be true or false, got/)
  })

  test('what doesn’t go together: batches over capacity, journals and sinks, dedupe and sinks', () => {
    const journal = new MemoryUsageJournal()
    const forgetful: UsageSink = { idempotent: false, write: () => undefined }

    expect(thrownBy(() => new QuotaConsumer(sink, { maxBatchSize: 11, capacity: 10 })).message).toBe(
      'maxBatchSize must be at most capacity (10), got 11 (number)',
    )
    expect(thrownBy(() => new QuotaConsumer(forgetful, { journal })).message).toMatch(
      /^journal needs an idempotent sink, since it brings batches back, got/,
    )
    expect(thrownBy(() => new QuotaConsumer(sink, { journal, overflow: 'drop-oldest' })).message).toMatch(
      /^overflow can't drop the oldest of what a journal keeps, got "drop-oldest"/,
    )
    expect(thrownBy(() => new QuotaConsumer(sink, { dedupe: 'request' })).message).toMatch(
      /^dedupe needs a sink whose dedupe is 'request', got/,
    )
    expect(() => new QuotaConsumer(sink, { capacity: 5 })).not.toThrow()
  })

  test('an explicit undefined is the default', () => {
    const names = [...Object.keys(QuotaConsumer.defaults), 'timeoutMs', 'periodOf', 'journal', 'onFailed', 'onApplied']
    const options = Object.fromEntries(names.map((name) => [name, undefined])) as QuotaConsumerOptions

    expect(() => new QuotaConsumer(sink, options)).not.toThrow()
  })

  test('a constructor starts nothing', () => {
    const clock = new FakeClock()
    for (let i = 0; i < 100; i++) new QuotaConsumer(sink, { clock })

    expect(clock.pending).toBe(0)
  })
})

describe('wrong arguments of methods', () => {
  test('publish rejects with an OptionError and never throws; the event counts as rejected', async () => {
    const consumer = new QuotaConsumer(sink, { clock: new FakeClock() })
    const wrong: [unknown, string][] = [
      ['options', 'options'],
      [null, 'options'],
      [{ signal: {} }, 'signal'],
      [{ signal: 'now' }, 'signal'],
      [{ wait: 'yes' }, 'wait'],
      [{ wait: null }, 'wait'],
    ]
    const unhandled = await unhandledDuring(async () => {
      for (const [options, field] of wrong) {
        const promise = consumer.publish(right, options as { wait: boolean })
        await expect(promise).rejects.toMatchObject({ code: 'ERR_OPTION', field })
        // Left alone, it is no unhandled rejection.
        void consumer.publish(right, options as { wait: boolean })
      }
    })

    expect(unhandled).toEqual([])
    expectQuotaBooks(consumer, { rejected: 12, pending: 0 })
  })

  test('pending throws for a time that is none, and knows nothing of ids that can’t be', () => {
    const consumer = new QuotaConsumer(sink, { clock: new FakeClock() })
    consumer.offer(right)

    for (const at of [Number.NaN, new Date(Number.NaN), '2026-01-01', null, 9e15]) {
      expect(thrownBy(() => consumer.pending('u', 'api', at as number)).field).toBe('at')
    }
    // A time that no event can have is nothing wrong, there is just nothing then.
    expect(consumer.pending('u', 'api', 0)).toBe(0)
    for (const id of ['', Number.NaN, undefined, {}] as string[]) expect(consumer.pending(id, 'api')).toBe(0)
    expect(consumer.pending('u', undefined as unknown as string)).toBe(0)
  })

  test('on takes functions only', () => {
    const consumer = new QuotaConsumer(sink)

    expect(thrownBy(() => consumer.on('applied', 'log' as never)).field).toBe('listener')
  })
})

describe('periodOf that is wrong', () => {
  const wrong: [string, () => QuotaPeriod, string][] = [
    ['answers nonsense', () => 'week' as QuotaPeriod, "periodOf must be one of 'day', 'month', 'total'"],
    ['answers later', () => Promise.resolve('day') as never, "periodOf must be one of 'day', 'month', 'total'"],
    [
      'throws',
      () => {
        throw new Error('no such quota')
      },
      'no such quota',
    ],
  ]
  for (const [what, periodOf, message] of wrong) {
    test(`because it ${what} refuses the event, and nothing else`, async () => {
      const clock = new FakeClock()
      const gate = new GateSink(clock)
      const consumer = new QuotaConsumer(gate, {
        clock,
        periodOf: (quotaType) => (quotaType === 'good' ? 'day' : periodOf()),
      })

      expect(consumer.offer(right)).toBe(false)
      await expect(consumer.publish(right)).rejects.toThrow(message)
      expect(consumer.offer({ ...right, quotaType: 'good' })).toBe(true)
      // Nothing of that type is known, so nothing is pending.
      expect(consumer.pending('u', 'api')).toBe(0)

      gate.letGo()
      await consumer.close()
      expectQuotaBooks(consumer, { succeeded: 1, rejected: 2 })
    })
  }

  test('is asked once for a type that is in use', async () => {
    const asked: string[] = []
    const clock = new FakeClock()
    const consumer = new QuotaConsumer(sink, {
      clock,
      periodOf: (quotaType) => {
        asked.push(quotaType)
        return 'day'
      },
    })

    for (let n = 0; n < 500; n++) consumer.offer({ userId: n, quotaType: n % 2 === 0 ? 'a' : 'b', value: 1 })
    await consumer.flush()
    consumer.offer({ userId: 1, quotaType: 'a', value: 1, timestamp: Date.UTC(2020, 1, 1) })

    expect(asked).toEqual(['a', 'b'])
    await consumer.close()
  })
})
