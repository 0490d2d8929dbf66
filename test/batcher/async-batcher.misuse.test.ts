import { AsyncBatcher, type AsyncBatcherOptions, isSpillwayError } from 'spillway'
import { seededRandom } from 'spillway/testing'
import { describe, expect, test, vi } from 'vitest'
import { Gate } from './support/gate.js'
import { codeOf, expectBooks, reasonOf, thrownBy, watch } from './support/outcomes.js'
import { warningsDuring } from './support/process-events.js'
import { inVirtualTime } from './support/virtual-time.js'

const echo = (items: number[]): number[] => items

const withOption = (name: string, value: unknown): AsyncBatcherOptions<number> => {
  const [outer, inner] = name.split('.') as [string, string | undefined]
  return inner === undefined ? { [outer]: value } : { [outer]: { [inner]: value } }
}

const duration = 'must be a number between 0 and 2147483647'
const count = 'must be a whole number between 1 and 2147483647'
const flag = 'must be true or false'
const fn = 'must be a function'

describe('a wrong option throws OptionError that names field, rule, value and type', () => {
  const rules: [string, string, unknown[]][] = [
    ['maxWaitMs', duration, ['10', -1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, null, true, {}, 10n]],
    ['timeoutMs', 'must be a number between 1 and 2147483647', ['10', -1, 0, Number.NaN, null, []]],
    ['timeoutGraceMs', duration, ['10', -1, Number.NaN, null]],
    ['retry.delayMs', duration, ['10', -1, Number.NaN, null]],
    ['retry.maxDelayMs', duration, ['10', -1, Number.NaN, null]],
    ['maxBatchSize', count, [0, 1.5, '10', -1, Number.NaN, Number.POSITIVE_INFINITY, null, 10n]],
    ['concurrency', count, [0, 1.5, '4', Number.NaN, Number.POSITIVE_INFINITY, null]],
    ['capacity', count, [0, 1.5, '4', Number.NaN, Number.POSITIVE_INFINITY, null]],
    ['retry.attempts', count, [0, 1.5, '3', Number.NaN, null]],
    ['eager', flag, ['true', 1, 0, null]],
    ['bisect', flag, ['true', 1, null]],
    ['idempotent', flag, ['true', 1, null]],
    ['keyOf', fn, ['id', 1, null, {}]],
    ['groupBy', fn, ['tenant', null]],
    ['sizeOf', fn, [100, null]],
    ['retry.retryable', fn, [true, 'always', null]],
    ['random', fn, [4, 'seed', null]],
    ['overflow', "must be one of 'reject', 'drop-newest', 'drop-oldest'", ['drop', '', 1, null]],
    ['retry', 'must be an object', [3, 'twice', null]],
    ['name', 'must be a string', [1, {}, null]],
  ]
  const text = (value: unknown): string => {
    if (value === null) return 'null (null)'
    if (typeof value === 'string') return `"${value}" (string)`
    if (Array.isArray(value)) return '[] (array)'
    return typeof value === 'object' ? '{} (object)' : `${value} (${typeof value})`
  }
  for (const [name, rule, values] of rules) {
    for (const value of values) {
      test(`${name} ${rule}, got ${text(value)}`, () => {
        const error = thrownBy(() => new AsyncBatcher(echo, withOption(name, value)))

        expect(isSpillwayError(error, 'ERR_OPTION')).toBe(true)
        expect(error).toMatchObject({ name: 'OptionError', field: name, retryable: false })
        expect(error.message).toBe(`${name} ${rule}, got ${text(value)}`)
      })
    }
  }

  for (const process of [undefined, null, 'sql', 1, {}, []]) {
    test(`the batch function ${fn}, got ${String(process)}`, () => {
      const error = thrownBy(() => new AsyncBatcher(process as unknown as typeof echo))

      expect(error.code).toBe('ERR_OPTION')
      expect(error.field).toBe('process')
      expect(error.message).toMatch(/^process must be a function, got /)
    })
  }

  for (const options of [null, 1, 'fast', true]) {
    test(`the options must be an object, got ${String(options)}`, () => {
      const error = thrownBy(() => new AsyncBatcher(echo, options as unknown as AsyncBatcherOptions<number>))

      expect(error.message).toMatch(/^options must be an object, got /)
    })
  }

  test('maxBatchSize over capacity, and the other way round', () => {
    expect(thrownBy(() => new AsyncBatcher(echo, { maxBatchSize: 11, capacity: 10 })).message).toBe(
      'maxBatchSize must be at most capacity (10), got 11 (number)',
    )
    expect(() => new AsyncBatcher(echo, { maxBatchSize: 10, capacity: 10 })).not.toThrow()
  })

  test('maxBatchBytes without sizeOf, and one that is no count', () => {
    expect(thrownBy(() => new AsyncBatcher(echo, { maxBatchBytes: 10 })).field).toBe('maxBatchBytes')
    for (const maxBatchBytes of [0, -1, '10', Number.NaN, null]) {
      const options = { sizeOf: () => 1, maxBatchBytes: maxBatchBytes as number }
      expect(thrownBy(() => new AsyncBatcher(echo, options)).field).toBe('maxBatchBytes')
    }
  })

  test('a clock that isn’t one', () => {
    for (const clock of [{}, 'utc', { now: () => 0 }, null]) {
      const error = thrownBy(() => new AsyncBatcher(echo, { clock } as unknown as AsyncBatcherOptions<number>))
      expect(error.message).toMatch(/^clock must have a method /)
    }
  })

  test('a long value is cut short in the message', () => {
    const error = thrownBy(() => new AsyncBatcher(echo, withOption('maxWaitMs', 'x'.repeat(10_000))))

    expect(error.message.length).toBeLessThan(200)
  })

  test('a value that can’t be turned into text still gives an OptionError', () => {
    const hostile = Object.create(null) as { self?: unknown }
    hostile.self = hostile
    for (const value of [hostile, Symbol('ten')]) {
      expect(thrownBy(() => new AsyncBatcher(echo, withOption('maxWaitMs', value))).code).toBe('ERR_OPTION')
    }
  })

  test('a listener that is no function', () => {
    const batcher = new AsyncBatcher(echo)

    expect(thrownBy(() => batcher.on('settled', 'log' as never)).code).toBe('ERR_OPTION')
  })
})

describe('an option of undefined', () => {
  inVirtualTime('means the default', async (clock) => {
    const names = [
      'maxBatchSize',
      'maxBatchBytes',
      'sizeOf',
      'maxWaitMs',
      'eager',
      'concurrency',
      'capacity',
      'overflow',
      'timeoutMs',
      'timeoutGraceMs',
      'retry',
      'keyOf',
      'groupBy',
      'bisect',
      'idempotent',
      'name',
      'random',
    ]
    const options = Object.fromEntries(names.map((name) => [name, undefined]))
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { ...options, clock })

    for (let n = 0; n < 1000; n++) batcher.add(n)
    await clock.advance(0)

    expect(batcher.name).toBe('async-batcher')
    expect(gate.batches.map((batch) => batch.length)).toEqual([100, 100, 100, 100])
    gate.letGo()
    await clock.advance(0)
    expectBooks(batcher, { succeeded: 1000, batches: 10 })
  })

  inVirtualTime('within retry as well', async (clock) => {
    let calls = 0
    const retry = { attempts: undefined, delayMs: undefined, maxDelayMs: undefined, retryable: undefined }
    const batcher = new AsyncBatcher<number, number>(
      () => {
        calls++
        throw new Error('no')
      },
      { clock, retry },
    )

    batcher.add(1)
    await clock.advance(1000)

    expect(calls).toBe(1)
  })

  test('the defaults are those of the documentation', () => {
    expect(AsyncBatcher.defaults).toMatchObject({
      maxBatchSize: 100,
      maxWaitMs: 100,
      eager: true,
      concurrency: 4,
      capacity: 10_000,
      overflow: 'reject',
      retry: { attempts: 1 },
      timeoutGraceMs: 1000,
    })
  })
})

describe('an argument of the wrong kind', () => {
  inVirtualTime('to addMany rejects and never throws', async (clock) => {
    const batcher = new AsyncBatcher(echo, { clock })

    for (const items of [undefined, null, 'items', new Set([1]), { length: 1 }]) {
      expect(codeOf(await reasonOf(batcher.addMany(items as unknown as number[])))).toBe('ERR_OPTION')
    }
    expectBooks(batcher, { offered: 0 })
  })

  inVirtualTime('null for the options of a call is taken as none, or rejects, and never throws', async (clock) => {
    const batcher = new AsyncBatcher(echo, { clock })

    const calls = [
      watch(batcher.add(1, null as never)),
      watch(batcher.addMany([1], null as never)),
      watch(batcher.ready(null as never)),
      watch(batcher.close(null as never)),
    ]
    await clock.advance(0)

    for (const call of calls) expect(call.times).toBe(1)
  })
})

describe('add inside the batch function of its own batcher', () => {
  inVirtualTime('is answered while there is a slot for it', async (clock) => {
    const batcher: AsyncBatcher<number, number> = new AsyncBatcher<number, number>(
      async (items) => Promise.all(items.map(async (n) => (n > 0 ? (await batcher.add(n - 1)) + 1 : 0))),
      { clock, maxWaitMs: 10 },
    )

    const answer = watch(batcher.add(3))
    await clock.advance(100)

    expect(answer.value).toBe(3)
  })

  inVirtualTime('is reported once when every slot is taken, and a deadline ends the deadlock', async (clock) => {
    const batcher: AsyncBatcher<number, number> = new AsyncBatcher<number, number>(
      (items) => Promise.all(items.map((n) => batcher.add(n + 1))),
      { clock, concurrency: 1, name: 'orders' },
    )

    const answers: ReturnType<typeof watch<number>>[] = []
    const warnings = await warningsDuring(async () => {
      for (const n of [1, 2, 3]) answers.push(watch(batcher.add(n)))
      await clock.advance(10_000)
    })
    expect(answers.map(({ status }) => status)).toEqual(['pending', 'pending', 'pending'])
    const closed = watch(batcher.close({ timeoutMs: 100 }))
    await clock.advance(100)

    expect(warnings).toHaveLength(1)
    expect(warnings[0]).toMatch(/^SpillwayWarning: orders: add\(\) was called inside its own batch function/)
    expect(answers.map(({ reason }) => codeOf(reason))).toEqual(['ERR_CLOSED', 'ERR_CLOSED', 'ERR_CLOSED'])
    expect(closed.value?.drained).toBe(false)
    expectBooks(batcher, { pending: 0 })
  })

  inVirtualTime('timeoutMs ends the deadlock, too', async (clock) => {
    vi.spyOn(process, 'emitWarning').mockImplementationOnce(() => undefined)
    const batcher: AsyncBatcher<number, number> = new AsyncBatcher<number, number>(
      (items) => Promise.all(items.map((n) => (n < 2 ? batcher.add(n + 1) : n))),
      { clock, concurrency: 1, timeoutMs: 50, timeoutGraceMs: 10 },
    )

    const answer = watch(batcher.add(1))
    await clock.advance(1000)

    expect(codeOf(answer.reason)).toBe('ERR_TIMEOUT')
    expectBooks(batcher, { pending: 0, inFlightBatches: 0, succeeded: 1, failed: 1 })
  })
})

describe('a listener that fails', () => {
  const ways: [string, () => unknown][] = [
    [
      'throws',
      () => {
        throw new Error('broken listener')
      },
    ],
    ['rejects', () => Promise.reject(new Error('broken listener'))],
  ]
  for (const [how, fail] of ways) {
    inVirtualTime(`(${how}) changes no result, stops no other, and is reported once for each event`, async (clock) => {
      const batcher = new AsyncBatcher<number, number>(
        async (items, { attempt }) => {
          if (items.includes(13) || attempt === 1) throw new Error('no')
          return items
        },
        { clock, capacity: 2, overflow: 'drop-newest', retry: { attempts: 2, delayMs: 1 }, name: 'orders' },
      )
      const heard: string[] = []
      const events = ['dispatched', 'settled', 'retried', 'failed', 'dropped'] as const
      for (const event of events) {
        batcher.on(event, () => fail() as undefined)
        batcher.on(event, () => void heard.push(event))
      }

      const answers: ReturnType<typeof watch<number>>[] = []
      const warnings = await warningsDuring(async () => {
        for (const n of [1, 2, 3]) answers.push(watch(batcher.add(n)))
        await clock.advance(100)
        answers.push(watch(batcher.add(13)))
        await clock.advance(100)
      })

      expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected'])
      expect(new Set(heard)).toEqual(new Set(events))
      expect(heard.filter((event) => event === 'dispatched')).toHaveLength(2)
      expect(warnings).toHaveLength(events.length)
      for (const event of events) {
        expect(warnings.filter((warning) => warning.includes(`orders's '${event}' event`))).toHaveLength(1)
      }
      expectBooks(batcher, { succeeded: 2, failed: 1, dropped: 1 })
    })
  }

  inVirtualTime('one that was taken off hears nothing more', async (clock) => {
    const batcher = new AsyncBatcher(echo, { clock })
    let heard = 0
    const off = batcher.on('settled', () => void heard++)

    batcher.add(1)
    await clock.advance(0)
    off()
    off()
    batcher.add(2)
    await clock.advance(0)

    expect(heard).toBe(1)
  })
})

describe('what nobody waits for', () => {
  // inVirtualTime itself fails a test that leaves a rejection unhandled.
  inVirtualTime('is no unhandledRejection, however it fails', async (clock) => {
    const make = (options: AsyncBatcherOptions<number>, fail = true): AsyncBatcher<number, number> =>
      new AsyncBatcher((items) => (fail ? Promise.reject(new Error('no')) : items), { clock, ...options })
    const controller = new AbortController()

    const failing = make({})
    failing.add(1)
    failing.add(2, { signal: AbortSignal.abort() })
    failing.add(3, { signal: controller.signal })
    failing.add(4, { signal: 'no signal' as never })
    failing.addMany([4, 5])
    failing.addMany('no items' as never)
    const full = make({ capacity: 1, eager: false })
    for (const n of [1, 2, 3]) full.add(n)
    full.ready({ signal: controller.signal })
    full.ready()
    for (const overflow of ['drop-newest', 'drop-oldest'] as const) {
      const dropping = make({ capacity: 1, overflow })
      for (const n of [1, 2, 3]) dropping.add(n)
    }
    const sized = make({ maxBatchBytes: 1, sizeOf: (n) => n })
    sized.add(2)
    sized.add(-1)
    make({ keyOf: () => Promise.reject() as never }, false)
    controller.abort()
    const closed = make({ retry: { attempts: 9, delayMs: 1e6 } })
    closed.add(1)
    await clock.advance(0)
    closed.close({ timeoutMs: 0 })
    closed.add(2)
    closed.ready()
    closed.flush()
    for (const batcher of [failing, full, sized, closed]) batcher.close()
    await clock.advance(1000)

    expectBooks(failing, { offered: 6, failed: 3, rejected: 2, aborted: 1 })
  })
})

describe('stats', () => {
  inVirtualTime('are a fresh JSON-safe snapshot that later work doesn’t change', async (clock) => {
    const batcher = new AsyncBatcher(echo, { clock, random: seededRandom(1), name: 'orders' })

    const before = batcher.stats()
    expect(JSON.parse(JSON.stringify(before))).toEqual(before)
    batcher.addMany([1, 2, 3])
    await clock.advance(0)
    const after = batcher.stats()

    expect(before).toMatchObject({ name: 'orders', offered: 0, batchSize: { mean: 0, p50: 0, p95: 0, max: 0 } })
    expect(after).toMatchObject({
      offered: 3,
      succeeded: 3,
      batches: 1,
      batchSize: { mean: 3, p50: 3, p95: 3, max: 3 },
    })
    expect(JSON.parse(JSON.stringify(after))).toEqual(after)
  })

  inVirtualTime('measure the latency from acceptance to the answer', async (clock) => {
    const gate = new Gate<number>(clock)
    const batcher = new AsyncBatcher(gate.process, { clock })

    batcher.add(1)
    await clock.advance(64)
    gate.letGo()
    await clock.advance(0)

    const { p50, max } = batcher.stats().latencyMs
    expect(max).toBe(64)
    expect(p50).toBeGreaterThan(60)
    expect(p50).toBeLessThanOrEqual(64)
  })
})
