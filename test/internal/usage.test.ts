import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AcceptedUsage, QuotaPeriod, UsageBatch, UsageEvent } from '../../src/core/ports.js'
import {
  acceptUsage,
  checkTime,
  keyText,
  maxUsage,
  periodAt,
  problemOfText,
  problemOfUsage,
  problemOfUser,
  problemOfValue,
  refusalsOf,
  refuseTotals,
  totalsOf,
  userText,
} from '../../src/internal/usage.js'

const day = 86_400_000
/** Any time of an event, in the years 1973 to 9999. */
const someTime = fc.integer({ min: 100_000_000_000, max: 253_402_300_799_999 })

const accepted = (more: Partial<AcceptedUsage> = {}): AcceptedUsage => ({
  userId: 'u',
  quotaType: 'api',
  value: 1,
  timestamp: 1_770_000_000_000,
  period: '2026-02',
  ...more,
})

describe('periodAt', () => {
  test('gives the span in which a time lies, labelled as ISO 8601 has it', () => {
    fc.assert(
      fc.property(someTime, fc.constantFrom<QuotaPeriod[]>('day', 'month', 'total'), (at, kind) => {
        const { label, from, until } = periodAt(kind, at)

        expect(from <= at && at < until).toBe(true)
        const iso = new Date(at).toISOString()
        expect(label).toBe({ day: iso.slice(0, 10), month: iso.slice(0, 7), total: 'total' }[kind])
        if (kind === 'total') return
        // Its edges: the neighbours on either side are of other periods.
        expect(periodAt(kind, from)).toEqual({ label, from, until })
        expect(periodAt(kind, until - 1)).toEqual({ label, from, until })
        expect(periodAt(kind, from - 1).until).toBe(from)
        if (until < 253_402_300_800_000) expect(periodAt(kind, until).from).toBe(until)
        if (kind === 'day') expect(until - from).toBe(day)
      }),
    )
  })

  test('knows leap years and the last day of all', () => {
    expect(periodAt('month', Date.UTC(2028, 1, 29)).until).toBe(Date.UTC(2028, 2, 1))
    expect(periodAt('month', Date.UTC(2100, 1, 28)).until - periodAt('month', Date.UTC(2100, 1, 28)).from).toBe(
      28 * day,
    )
    expect(periodAt('day', 253_402_300_799_999).label).toBe('9999-12-31')
  })
})

describe('totalsOf', () => {
  test('sums exactly, each key once in the order of its first event, users told apart by their text', () => {
    const user = fc.constantFrom<(string | number | bigint)[]>(1, '1', 1n, 2, 'a', 'b\u0001')
    const event = fc.record({
      userId: user,
      quotaType: fc.constantFrom('api', 'tokens'),
      period: fc.constantFrom('2026-01', '2026-02'),
      value: fc.integer({ min: 0, max: 2 ** 40 }),
    })
    fc.assert(
      fc.property(fc.array(event), (events) => {
        const totals = totalsOf(events.map((one) => accepted(one)))

        const sums = new Map<string, [bigint, number]>()
        for (const { userId, quotaType, period, value } of events) {
          const key = JSON.stringify([String(userId), quotaType, period])
          const [sum, count] = sums.get(key) ?? [0n, 0]
          sums.set(key, [sum + BigInt(value), count + 1])
        }
        expect(
          totals.map(({ userId, quotaType, period, value, count }) => [
            JSON.stringify([userId, quotaType, period]),
            [BigInt(value), count],
          ]),
        ).toEqual([...sums])
      }),
    )
  })
})

test('keyText: no two keys have one text', () => {
  const text = fc.string({ minLength: 1 }).filter((one) => !one.includes('\0'))
  fc.assert(
    fc.property(fc.tuple(text, text, text), fc.tuple(text, text, text), (a, b) => {
      expect(keyText(...a) === keyText(...b)).toBe(JSON.stringify(a) === JSON.stringify(b))
    }),
  )
})

test('userText: one user is one text', () => {
  expect([userText(1), userText('1'), userText(1n), userText(-0), userText(10n ** 30n)]).toEqual([
    '1',
    '1',
    '1',
    '0',
    `1${'0'.repeat(30)}`,
  ])
})

describe('what is wrong with an event', () => {
  test('is its first field that is wrong, in the order of the fields', () => {
    const wrong = { userId: '', quotaType: '', value: -1, timestamp: 1, requestId: '', metadata: 1 }
    const right = { userId: 'u', quotaType: 'api', value: 1, timestamp: new Date(), requestId: 'r', metadata: {} }
    const fields = Object.keys(wrong) as (keyof typeof wrong)[]

    fields.forEach((field, index) => {
      const event = { ...right, ...Object.fromEntries(fields.slice(index).map((name) => [name, wrong[name]])) }
      expect(problemOfUsage(event as unknown as UsageEvent)?.field).toBe(field)
    })
    expect(problemOfUsage(right)).toBeUndefined()
    expect(problemOfUsage(null as unknown as UsageEvent)?.field).toBe('event')
  })

  test('is nothing on the edges', () => {
    expect(problemOfUser('x'.repeat(256))).toBeUndefined()
    expect(problemOfUser(-(10n ** 254n))).toBeUndefined()
    expect(problemOfUser(10n ** 256n)?.field).toBe('userId')
    expect(problemOfText('name', 'x'.repeat(257))?.message).toMatch(/^name must be a text of 1 to 256 characters/)
    expect([0, maxUsage, 0.5].map((value) => problemOfValue('actual', value))).toEqual(Array(3).fill(undefined))
    expect(problemOfValue('actual', 2 ** 53)?.field).toBe('actual')
  })

  test('takes dates of other realms, and reads each field once', () => {
    const foreign = { getTime: () => 1_770_000_000_000, [Symbol.toPrimitive]: () => 1_770_000_000_000 }
    expect(problemOfUsage({ ...accepted(), timestamp: foreign as unknown as Date })).toBeUndefined()
    const reads: string[] = []
    const watched = new Proxy(accepted(), {
      get: (target, name) => {
        reads.push(String(name))
        return target[name as keyof AcceptedUsage]
      },
    })
    problemOfUsage(watched)
    expect(reads).toEqual([...new Set(reads)])
  })
})

test('checkTime takes what a Date can be, and names the field of what it can’t', () => {
  expect([checkTime('at', 0), checkTime('at', new Date(8.64e15)), checkTime('at', -8.64e15)]).toEqual([
    0, 8.64e15, -8.64e15,
  ])
  for (const wrong of [8.64e15 + 1, Number.NaN, new Date(Number.NaN), '0', null, undefined, {}]) {
    expect(() => checkTime('at', wrong as number)).toThrow(/^at must be a Date or milliseconds since the epoch, got /)
  }
})

test('acceptUsage completes an event and makes it its own', () => {
  const timestamp = new Date('2026-02-28T23:59:59.999Z')
  const event = { userId: 7n, quotaType: 'api', value: 1, timestamp, requestId: 'r', metadata: { a: 1 } }
  const made = acceptUsage(event, 0, () => 'day', 'id-1')
  timestamp.setTime(0)

  expect(made).toEqual({
    ...event,
    timestamp: Date.parse('2026-02-28T23:59:59.999Z'),
    period: '2026-02-28',
    id: 'id-1',
  })
  expect(Object.isFrozen(made)).toBe(true)
  expect(acceptUsage({ userId: 1, quotaType: 'api', value: 1 }, Date.UTC(2026, 0, 5), () => 'month')).toEqual({
    userId: 1,
    quotaType: 'api',
    value: 1,
    timestamp: Date.UTC(2026, 0, 5),
    period: '2026-01',
  })
})

test('refuseTotals: the events of a refused total, whatever the form of their ids', () => {
  const events = [
    accepted({ userId: 1 }),
    accepted({ userId: '2' }),
    accepted({ userId: '1' }),
    accepted({ userId: 1n }),
  ]
  const batch: UsageBatch = { id: 'b', events, totals: totalsOf(events) }
  const error = new Error('over')

  const refused = refuseTotals(batch, new Map([[batch.totals[0] as (typeof batch.totals)[0], error]]))

  expect(refused).toEqual([0, 2, 3].map((index) => ({ index, error })))
  expect(refuseTotals(batch, new Map())).toEqual([])
})

describe('refusalsOf', () => {
  const error = new Error('no')
  const wrongs = (answer: unknown): number => {
    let wrong = 0
    expect(refusalsOf(answer, 2, () => wrong++)).toBeUndefined()
    return wrong
  }

  test('reads refusals by their index', () => {
    const fail = (): never => {
      throw new Error('not wrong')
    }
    expect([...(refusalsOf([{ index: 1, error }], 2, fail) ?? [])]).toEqual([[1, error]])
    expect([
      ...(refusalsOf(
        [
          { index: 1, error },
          { index: 0, error },
        ],
        2,
        fail,
      )?.keys() ?? []),
    ]).toEqual([1, 0])
  })

  test('takes nothing from what is no list, or an empty one, without a word', () => {
    for (const answer of [undefined, null, [], {}, 'OK', 1, { length: 1, 0: { index: 0, error } }]) {
      expect(wrongs(answer)).toBe(0)
    }
  })

  test('takes nothing at all from a list with anything wrong in it, and says so', () => {
    const right = { index: 0, error }
    for (const wrong of [null, undefined, 1, {}, { index: 2, error }, { index: -1, error }, { index: 0 }, { error }]) {
      expect(wrongs([right, wrong])).toBe(1)
    }
    expect(wrongs([{ index: '0', error }])).toBe(1)
    expect(wrongs([{ index: 0, error: { message: 'no error' } }])).toBe(1)
  })
})
