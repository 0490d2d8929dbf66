import { describe, expect, test } from 'vitest'
import { audit } from './books.ts'
import type { AddEntry, BillEntry, Evidence, LedgerEntry, ReadEntry, RequestRow, Stored } from './evidence.ts'

const nothing: Stored = {
  durable: new Map(),
  live: new Map(),
  metered: new Map(),
  published: new Map(),
  requests: [],
  accounts: new Map(),
  free: new Map(),
}

const add = (entry: Partial<AddEntry>): AddEntry => ({
  ...{ type: 'add', sentAt: 1_000, endedAt: 1_010, gateway: 'gateway-1', ack: 'committed', user: 'ann', status: 200 },
  operations: [['k', 1, 'acked', 1]],
  ...entry,
})
const read = (entry: Partial<ReadEntry>): ReadEntry => ({
  ...{ type: 'read', sentAt: 2_000, endedAt: 2_010, gateway: 'gateway-1', source: 'durable', key: 'k', value: 1 },
  fresh: false,
  ...entry,
})
const bill = (entry: Partial<BillEntry>): BillEntry => ({
  ...{ type: 'bill', endedAt: 1_000, operation: 'deduct', user: 'bob', request: 'd1', count: 2, status: 200 },
  ...{ free: 0, charged: 6, balance: 94 },
  ...entry,
})
const row = (entry: Partial<RequestRow>): RequestRow => ({
  ...{ user: 'bob', request: 'd1', operation: 'deduct', state: 'settled', due: false, count: 2 },
  ...{ usedCount: 2, usedFree: 0, usedCharged: 6 },
  ...entry,
})
const recharge = bill({
  operation: 'recharge',
  request: 'r1',
  count: 100,
  free: undefined,
  charged: undefined,
  balance: 100,
})
const rechargeRow = row({ request: 'r1', operation: 'recharge', count: 100, usedCount: 0, usedCharged: -100 })
const rich = { requests: [rechargeRow, row({})], accounts: new Map([['bob', { balance: 94, held: 0 }]]) }

function problems(entries: readonly LedgerEntry[], stored: Partial<Stored>, more: Partial<Evidence> = {}): string[] {
  const evidence: Evidence = { entries, losses: [], absences: [], stored: { ...nothing, ...stored }, ...more }
  return audit(evidence).flatMap((book) => book.problems.map((problem) => `${book.name}: ${problem}`))
}

const stored = (value: number, live = value, metered = value): Partial<Stored> => ({
  durable: new Map([['k', value]]),
  live: new Map([['k', live]]),
  metered: new Map([['ann', metered]]),
})

describe('the books of counters', () => {
  test('are right where each answered write is stored once', () => {
    const accepted = add({ ack: 'accepted', operations: [['k', 2, 'acked']] })

    expect(problems([add({}), accepted], { ...stored(3), metered: new Map([['ann', 2]]) })).toEqual([])
  })

  test('tell a lost write, a doubled one, and one that was refused and counted', () => {
    expect(problems([add({})], stored(0, 1, 1))).toEqual([expect.stringContaining('durable counters: k LOST 1')])
    expect(problems([add({})], stored(2, 1, 1))).toEqual([expect.stringContaining('durable counters: k DOUBLED 1')])
    expect(problems([add({})], stored(1, 0, 1))).toEqual([expect.stringContaining('live counters: k LOST 1')])
    expect(problems([add({})], stored(1, 2, 1))).toEqual([expect.stringContaining('live counters: k DOUBLED 1')])
    expect(problems([add({})], stored(1, 1, 0))).toEqual([expect.stringContaining('metered uses: ann LOST 1')])
    expect(problems([add({})], stored(1, 1, 2))).toEqual([expect.stringContaining('metered uses: ann DOUBLED 1')])
    const refused = add({ operations: [['k', 1, 'refused']] })
    expect(problems([refused], stored(1, 0, 0))).toEqual([expect.stringContaining('k DOUBLED 1')])
  })

  test('take a write whose outcome is unknown for done or not done, and never for two', () => {
    const unknown = add({ status: 0, operations: [['k', 1, 'unknown']] })

    expect(problems([unknown], stored(0))).toEqual([])
    expect(problems([unknown], stored(1))).toEqual([])
    expect(problems([unknown], stored(2, 1, 1))).toEqual([expect.stringContaining('k DOUBLED 1')])
  })

  test('forgive what waited in a gateway that was killed, and nothing else', () => {
    const losses = (['durable', 'live', 'usage'] as const).map((path) => {
      return { gateway: 'gateway-1', path, from: 900, to: 1_100 }
    })
    const accepted = add({ ack: 'accepted', operations: [['k', 1, 'acked']] })

    expect(problems([accepted], stored(0), { losses })).toEqual([])
    expect(problems([{ ...accepted, gateway: 'gateway-2' }], stored(0), { losses })).toHaveLength(3)
    expect(problems([{ ...accepted, endedAt: 899 }], stored(0), { losses })).toHaveLength(3)
    // What was answered once it was there is there.
    expect(problems([add({})], stored(0), { losses })).toEqual([expect.stringContaining('durable counters: k LOST 1')])
    expect(problems([add({ ack: 'redis' })], stored(0), { losses })).toEqual([
      expect.stringContaining('live counters: k LOST 1'),
    ])
  })

  test('hold an answer under a key for good in the durable store, and know that the live one may be behind', () => {
    const losses = (['durable', 'live'] as const).map((path) => ({ gateway: 'gateway-1', path, from: 900, to: 1_100 }))
    const keyed = add({ ack: 'accepted', keyed: true, user: undefined, operations: [['k', 1, 'acked']] })

    expect(problems([keyed], { ...stored(1, 0), metered: new Map() })).toEqual([])
    expect(problems([keyed], {}, { losses })).toEqual([expect.stringContaining('durable counters: k LOST 1')])
    expect(problems([keyed], { ...stored(2, 1), metered: new Map() })).toEqual([expect.stringContaining('k DOUBLED 1')])
  })

  test('tell an answer that a load of good requests must never get', () => {
    const refused = add({ status: 400, operations: [['k', 1, 'refused']] })
    const nothingStored = { durable: new Map(), live: new Map(), metered: new Map() }

    expect(problems([refused], nothingStored)).toEqual(['durable counters: k was answered with 400'])
    expect(problems([{ ...refused, status: 503 }], nothingStored)).toEqual([])
    expect(problems([add({ status: 500, operations: [['k', 1, 'unknown']] })], nothingStored)).toHaveLength(1)
  })

  test('tell what nobody sent', () => {
    expect(problems([], { durable: new Map([['k', 1]]) })).toEqual([expect.stringContaining('k was never sent')])
  })
})

describe('the book of reads', () => {
  const ten = add({ operations: [['k', 10, 'acked', 10]] })
  const all = { ...stored(10), metered: new Map([['ann', 1]]) }

  test('tells a read that is older than what its gateway had told before', () => {
    expect(problems([ten, read({ value: 10 })], all)).toEqual([])
    expect(problems([ten, read({ value: 9 })], all)).toEqual([
      'reads: gateway-1 answered 9 for k (durable), after it had told 10',
    ])
    expect(
      problems([ten, read({ sentAt: 500, fresh: true, endedAt: 600, value: 9 }), read({ value: 9 })], all),
    ).toHaveLength(1)
  })

  test('asks of no gateway what it can not know', () => {
    const stale = read({ value: 9 })

    // Another one told it; it was told while the read was on its way; of the live value; before the gateway was killed.
    expect(problems([ten, { ...stale, gateway: 'gateway-2' }], all)).toEqual([])
    expect(problems([ten, { ...stale, sentAt: 1_005 }], all)).toEqual([])
    expect(problems([ten, { ...stale, source: 'live' }], all)).toEqual([])
    expect(problems([ten, stale], all, { absences: [{ gateway: 'gateway-1', from: 1_500 }] })).toEqual([])
  })

  test('takes a fresh read for told', () => {
    const fresh = read({ sentAt: 1_500, endedAt: 1_510, value: 10, fresh: true })

    expect(problems([add({ operations: [['k', 10, 'unknown']] }), fresh, read({ value: 9 })], all)).toHaveLength(1)
  })

  test('tells a value that never was: more than there is in the end, as counters only grow', () => {
    expect(problems([ten, read({ value: 11 })], all)).toEqual([
      'reads: gateway-1 answered 11 for k (durable), and there are only 10 in the end',
    ])
    expect(problems([ten, read({ value: 11, source: 'live' })], { ...all, live: new Map([['k', 10]]) })).toHaveLength(1)
  })

  test('tells two increments that were answered with one value', () => {
    const two = { ...stored(2), metered: new Map([['ann', 2]]) }

    expect(problems([add({}), add({ gateway: 'gateway-2' })], two)).toEqual([
      'reads: two increments of k were answered with 1 (durable)',
    ])
  })
})

describe('the books of money', () => {
  test('are right where each request counts once, and the balance is what is left', () => {
    expect(problems([recharge, bill({ status: 503 }), bill({})], rich)).toEqual([])
  })

  test('tell a double charge', () => {
    const twice = { ...rich, accounts: new Map([['bob', { balance: 88, held: 0 }]]) }

    expect(problems([recharge, bill({})], twice)).toEqual([expect.stringContaining('money, by user: bob has 88')])
    const another = row({ request: 'd1-again' })
    expect(problems([recharge, bill({})], { ...twice, requests: [...rich.requests, another] })).toEqual([
      'money, by request: bob d1-again was never made, and is settled',
    ])
  })

  test('tell a charge that is gone, or another one than was answered', () => {
    const without = { requests: [rechargeRow], accounts: new Map([['bob', { balance: 100, held: 0 }]]) }
    expect(problems([recharge, bill({})], without)).toEqual([
      expect.stringContaining('bob d1 LOST: deduct was answered'),
    ])

    const other = {
      requests: [rechargeRow, row({ usedCharged: 3 })],
      accounts: new Map([['bob', { balance: 97, held: 0 }]]),
    }
    expect(problems([recharge, bill({})], other)).toEqual([expect.stringContaining('bob d1 CHARGED otherwise')])
  })

  test('tell a request that was answered in two ways, and one that was refused and done', () => {
    expect(problems([recharge, bill({}), bill({ charged: 3 })], rich)).toEqual([
      expect.stringContaining('bob d1: deduct was answered in 2 ways'),
    ])
    expect(problems([recharge, bill({ status: 402 })], rich)).toEqual([
      'money, by request: bob d1 was refused, and is settled',
    ])
  })

  test('tell a reservation that dangles, of money and of free uses', () => {
    const reserve = bill({ operation: 'reserve', request: 'v1', free: 2, charged: undefined, balance: undefined })
    const held = row({ request: 'v1', operation: 'reserve', state: 'held', usedCount: 0, usedCharged: 0 })
    const dangling = {
      requests: [...rich.requests, held],
      accounts: new Map([['bob', { balance: 94, held: 3 }]]),
      free: new Map([['bob', { used: 0, held: 2 }]]),
    }

    expect(problems([recharge, bill({}), reserve], dangling)).toEqual([
      'money, by request: bob v1 DANGLES: it is held',
      'money, by user: of bob, 3 DANGLE: they are still held',
      'money, by user: of bob, 2 free uses DANGLE: they are still held',
    ])
  })

  test('tell a settlement that came to something else, and a release that did not last', () => {
    const settle = bill({ operation: 'settle', request: 'v1', count: 1, free: 1, charged: 0, balance: 94 })
    const settled = row({ request: 'v1', operation: 'reserve', usedCount: 1, usedFree: 1, usedCharged: 0 })
    const reserve = bill({ operation: 'reserve', request: 'v1', free: 2, charged: undefined, balance: undefined })
    const free = new Map([['bob', { used: 1, held: 0 }]])
    const with1 = (one: RequestRow): Partial<Stored> => ({ ...rich, requests: [...rich.requests, one], free })

    expect(problems([recharge, bill({}), reserve, settle], with1(settled))).toEqual([])
    const expired = { ...settled, state: 'expired', usedCount: 0 }
    expect(problems([recharge, bill({}), reserve, settle], with1(expired))).toHaveLength(1)
    const release = bill({ ...settle, operation: 'release', state: 'released' })
    expect(problems([recharge, bill({}), reserve, release], with1(settled))).toEqual([
      expect.stringContaining('is settled, and nobody has asked for that'),
      expect.stringContaining('was answered as released, and is settled'),
    ])
  })

  test('hold what nobody was answered to what was asked for: done whole, or not at all', () => {
    const asked = bill({ status: 0, free: undefined, charged: undefined, balance: undefined })
    const reserve = bill({ operation: 'reserve', request: 'v1', free: 0, charged: undefined, balance: undefined })
    const settle = { ...reserve, operation: 'settle', count: 1, status: 503 } as const
    const settled = row({ request: 'v1', operation: 'reserve', usedCount: 1, usedCharged: 3 })
    const of = (entries: readonly BillEntry[], one: RequestRow, balance: number): string[] =>
      problems([recharge, ...entries], {
        ...{ requests: [rechargeRow, one], accounts: new Map([['bob', { balance, held: 0 }]]) },
      })

    expect(of([asked], row({}), 94)).toEqual([])
    expect(of([asked], row({ usedCount: 4, usedCharged: 12 }), 88)).toEqual([
      'money, by request: bob d1 CHARGED otherwise: 2 uses were asked for, and 4 are stored',
    ])
    expect(of([reserve, settle], settled, 97)).toEqual([])
    expect(of([reserve, settle], { ...settled, usedCount: 2, usedCharged: 6 }, 94)).toHaveLength(1)
    expect(of([reserve], settled, 97)).toEqual(['money, by request: bob v1 is settled, and nobody has asked for that'])
    expect(of([reserve, { ...settle, status: 409 }], settled, 97)).toHaveLength(1)
    expect(of([reserve], { ...settled, state: 'released', usedCount: 0, usedCharged: 0 }, 100)).toHaveLength(1)
    expect(of([reserve], { ...settled, state: 'expired', usedCount: 0, usedCharged: 0 }, 100)).toEqual([])
    const lost = bill({ ...recharge, request: 'r2', count: 5, status: 0 })
    expect(of([lost], row({ request: 'r2', operation: 'recharge', usedCount: 0, usedCharged: -9 }), 109)).toHaveLength(
      1,
    )
  })

  test('tell free uses that were counted twice', () => {
    const free = new Map([['bob', { used: 1, held: 0 }]])

    expect(problems([recharge, bill({})], { ...rich, free })).toEqual([
      expect.stringContaining('bob has used 1 free uses'),
    ])
  })
})

describe('the book of published uses', () => {
  const sent = { type: 'use', request: 'u1', fate: 'sent' } as const
  const acked = { type: 'use', request: 'u1', fate: 'acked' } as const

  test('tells one that is lost, doubled, or was never published', () => {
    expect(problems([sent, acked], { published: new Map([['u1', 1]]) })).toEqual([])
    expect(problems([sent], {})).toEqual([])
    expect(problems([sent, acked], {})).toEqual([expect.stringContaining('u1 LOST')])
    expect(problems([sent, acked], { published: new Map([['u1', 0]]) })).toEqual([expect.stringContaining('u1 LOST')])
    expect(problems([sent, acked], { published: new Map([['u1', 2]]) })).toEqual([
      expect.stringContaining('u1 DOUBLED'),
    ])
    expect(problems([], { published: new Map([['u1', 1]]) })).toEqual([expect.stringContaining('never published')])
  })
})

test('each book says how much it has to prove, so that a load that was refused proves nothing', () => {
  const evidence = (entries: readonly LedgerEntry[]): Evidence => ({
    ...{ entries, losses: [], absences: [] },
    stored: { ...nothing, ...(entries.length > 0 && stored(1)) },
  })
  const proved = (entries: readonly LedgerEntry[]): Record<string, number> =>
    Object.fromEntries(audit(evidence(entries)).map(({ name, proved }) => [name, proved]))

  expect(Object.values(proved([]))).toEqual([0, 0, 0, 0, 0, 0, 0])
  expect(proved([add({ status: 503, operations: [['k', 1, 'refused']] })])).toMatchObject({ 'durable counters': 0 })
  expect(proved([add({}), read({})])).toMatchObject({ 'durable counters': 1, 'live counters': 1, reads: 1 })
})
