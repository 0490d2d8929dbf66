import { randomUUID } from 'node:crypto'
import { PGlite } from '@electric-sql/pglite'
import type pg from 'pg'
import type { HoldClaim, QuotaClaim, UsageDedupe } from 'spillway'
import {
  PostgresQuotaStore,
  type PostgresQuotaStoreOptions,
  PostgresUsageSink,
  type UsageCleanUp,
} from 'spillway/postgres'
import { FakeClock } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'
import { until } from './until.ts'
import { holdRows, use, waiters, write } from './usage-databases.ts'

const server = await startPostgres()
const embedded = new PGlite()
const { make: makePool, end: endPools } = poolsOf(server?.url)
const key = { userId: 'ann', quotaType: 'calls', period: 'total' }
let made = 0

// Starting it takes its time on a busy machine.
beforeAll(() => embedded.waitReady)
afterAll(async () => {
  await endPools()
  await embedded.close()
  await server?.stop()
})

/** Tables of their own. */
const fresh = () => {
  const n = made++
  return { table: `usage_${n}`, batchTable: `batches_${n}`, requestTable: `requests_${n}`, holdTable: `holds_${n}` }
}
const makeStore = async (options: PostgresQuotaStoreOptions = {}): Promise<PostgresQuotaStore> => {
  const store = new PostgresQuotaStore(embedded, { ...fresh(), ...options })
  await store.createSchema()
  return store
}
const claim = (value: number, limit: number, parts: Partial<HoldClaim> = {}): HoldClaim => {
  return { ...key, value, limit, id: randomUUID(), ttlMs: 60_000, ...parts }
}

describe('misuse', () => {
  test.each<[keyof PostgresQuotaStoreOptions, unknown]>([
    ['holdTable', 'x'.repeat(53)],
    ['holdTable', 'spillway_usage'],
    ['holdTable', ''],
    ['holdMemoryMs', 999],
    ['holdMemoryMs', Number.POSITIVE_INFINITY],
    ['requestTable', 'spillway_quota_holds'],
    ['dedupe', 'hold'],
  ])('a wrong %s is refused: %j', (option, value) => {
    expect(() => new PostgresQuotaStore(embedded, { [option]: value })).toThrow(/must/)
  })

  test.each<[string, Partial<HoldClaim>]>([
    ['userId', { userId: 'a\0' }],
    ['quotaType', { quotaType: '' }],
    ['period', { period: 7 as never }],
    ['id', { id: 'x'.repeat(257) }],
    ['value', { value: -1 }],
    ['value', { value: Number.NaN }],
    ['limit', { limit: Number.NaN }],
    ['limit', { limit: '10' as never }],
  ])('a claim with a wrong %s is refused: %j', async (field, parts) => {
    const store = await makeStore()

    for (const refused of [store.consume(claim(1, 10, parts)), store.reserve(claim(1, 10, parts))]) {
      await expect(refused).rejects.toMatchObject({ field })
    }
    expect(await store.readUsage([key])).toEqual([{ used: 0, held: 0 }])
    expect(store.stats()).toMatchObject({ claimsFailed: 2, consumed: 0, reserved: 0 })
  })

  test('wrong times, limits of settlement, ids and values are refused', async () => {
    const store = await makeStore()

    for (const ttlMs of [0, Number.NaN, Number.POSITIVE_INFINITY, '1' as never]) {
      await expect(store.reserve(claim(1, 10, { ttlMs }))).rejects.toMatchObject({ field: 'ttlMs' })
    }
    await expect(store.reserve(claim(1, 10, { settleLimit: Number.NaN }))).rejects.toMatchObject({
      field: 'settleLimit',
    })
    await expect(store.settle('', 1)).rejects.toMatchObject({ field: 'id' })
    await expect(store.settle('a', -1)).rejects.toMatchObject({ field: 'actual' })
    await expect(store.release('a\0')).rejects.toMatchObject({ field: 'id' })
    await expect(store.consume(undefined as never)).rejects.toMatchObject({ field: 'claim' })
  })

  test('keys that can’t be stored were never used', async () => {
    const store = await makeStore()
    await store.consume(claim(2, 10))

    const keys = [{ ...key, userId: 'a\0' }, key, { ...key, quotaType: '' }]
    expect(await store.readUsage(keys)).toEqual([
      { used: 0, held: 0 },
      { used: 2, held: 0 },
      { used: 0, held: 0 },
    ])
  })

  test('names are quoted, whatever is in them', async () => {
    await embedded.exec(`CREATE SCHEMA "Odd "" schema'; --"`)
    const store = await makeStore({
      schema: `Odd " schema'; --`,
      table: 'a"',
      batchTable: "b'",
      requestTable: 'c;',
      holdTable: 'd.e"',
    })
    await store.createSchema()
    const { id } = claim(1, 10)

    await store.reserve(claim(3, 10, { id }))
    await store.settle(id, 2)
    await store.release(id)
    await store.cleanUp()

    expect(await store.readUsage([key])).toEqual([{ used: 2, held: 0 }])
  })
})

describe('reservations that are over', () => {
  const rows = async (table: string): Promise<unknown> =>
    (await embedded.query(`SELECT state, count(*)::int AS count FROM ${table} GROUP BY state ORDER BY state`)).rows
  /** Lets the time of all that is held so far run out. */
  const expire = (table: string): Promise<unknown> =>
    embedded.query(`UPDATE ${table} SET expires_at = now() - interval '1 ms' WHERE state = 'held'`)
  const row = async (table: string): Promise<unknown> =>
    (await embedded.query(`SELECT value, held, holds FROM ${table}`)).rows[0]

  test('expire by the clock of the database, whatever that of the process says', async () => {
    const clock = new FakeClock({ wallMs: 0 })
    const store = await makeStore({ clock })
    const { expiresAt } = await store.reserve(claim(7, 10, { ttlMs: 3000 }))
    const lasting = await store.reserve(claim(1, 10))
    await clock.advance(3_600_000)

    expect(lasting.held).toBe(8)
    expect(Math.abs(expiresAt - Date.now())).toBeLessThan(3_600_000)
    await until(async () => (await store.readUsage([key]))[0]?.held === 1)
    expect(await store.consume(claim(9, 10))).toEqual({ status: 'applied', used: 9, held: 1 })
  })

  test('give back their room from the moment at which they expire, before anybody cleans up', async () => {
    const tables = fresh()
    const store = await makeStore(tables)
    for (let i = 0; i < 3; i++) await store.reserve(claim(2, 10))
    await expire(tables.holdTable)

    expect(await store.readUsage([key])).toEqual([{ used: 0, held: 0 }])
    // Reading cleans nothing up; the next claim does.
    expect(await row(tables.table)).toEqual({ value: 0, held: 6, holds: 3 })
    expect(await store.reserve(claim(10, 10))).toMatchObject({ status: 'held', held: 10 })
    expect(await row(tables.table)).toEqual({ value: 0, held: 10, holds: 1 })
    expect(await rows(tables.holdTable)).toEqual([
      { state: 'expired', count: 3 },
      { state: 'held', count: 1 },
    ])
  })

  test('a claim that is turned away takes what has expired out all the same', async () => {
    const tables = fresh()
    const store = await makeStore(tables)
    await store.reserve(claim(2, 10))
    await expire(tables.holdTable)

    expect(await store.consume(claim(11, 10))).toEqual({ status: 'exceeded', used: 0, held: 0 })
    expect(await row(tables.table)).toEqual({ value: 0, held: 0, holds: 0 })
  })

  test('are cleaned up in passing, and forgotten after holdMemoryMs', async () => {
    const clock = new FakeClock()
    const tables = fresh()
    const store = await makeStore({ ...tables, clock, random: () => 0, holdMemoryMs: 3_600_000, cleanUpChunkSize: 4 })
    const cleaned: UsageCleanUp[] = []
    store.on('cleaned', (event) => void cleaned.push(event))
    const users = Array.from({ length: 10 }, (_, i) => `u${i}`)
    for (const userId of users) await store.reserve(claim(1, 10, { userId, id: `lapsed ${userId}` }))
    await store.reserve(claim(1, 10, { id: 'settled' }))
    await store.settle('settled', 1)
    await expire(tables.holdTable)
    const total = (part: 'holdsExpired' | 'holdsRemoved'): number =>
      cleaned.reduce((sum, event) => sum + event[part], 0)

    await clock.advance(60_000)
    for (let i = 0; i < 20 && total('holdsExpired') < 10; i++) {
      await store.release('nothing')
      await until(() => cleaned.length > i)
    }

    expect(cleaned.map(({ holdsExpired }) => holdsExpired)).toEqual([4, 4, 2])
    expect(
      await embedded.query(`SELECT sum(held) AS held, sum(holds)::int AS holds FROM ${tables.table}`),
    ).toMatchObject({
      rows: [{ held: 0, holds: 0 }],
    })
    expect(await store.settle('lapsed u3', 1)).toMatchObject({ status: 'settled' })
    expect(await store.settle('settled', 1)).toMatchObject({ status: 'repeated' })

    await embedded.query(
      `UPDATE ${tables.holdTable} SET over_at = over_at - interval '2 hours' WHERE id <> 'lapsed u3'`,
    )
    expect(await store.cleanUp()).toMatchObject({ holdsRemoved: 10, holdsExpired: 0 })

    expect(store.stats()).toMatchObject({ holdsRemoved: 10, reserved: 11, settled: 2 })
    expect(await store.settle('settled', 1)).toEqual({ status: 'unknown' })
    expect(await store.settle('lapsed u3', 1)).toMatchObject({ status: 'repeated' })
    expect(await store.reserve(claim(1, 10, { id: 'settled' }))).toMatchObject({ status: 'held' })
  })

  test('an old period may be deleted where nothing is held: what comes for it later counts from 0', async () => {
    const tables = fresh()
    const store = await makeStore(tables)
    const old = { period: '2025-12-31' }
    const forget = (): Promise<unknown> =>
      embedded.query(`DELETE FROM ${tables.table} WHERE period < '2026-01' AND holds = 0`)
    await store.consume(claim(7, 10, old))
    await store.reserve(claim(2, 10, { ...old, id: 'late' }))

    await forget()
    expect(await store.readUsage([{ ...key, ...old }])).toEqual([{ used: 7, held: 2 }])

    await expire(tables.holdTable)
    expect(await store.cleanUp()).toMatchObject({ holdsExpired: 1 })
    await forget()
    expect(await store.settle('late', 1)).toEqual({ status: 'unknown' })
    await store.release('late')
    expect(await store.reserve(claim(10, 10, old))).toMatchObject({ status: 'held', used: 0, held: 10 })
  })

  test('what is held still is never forgotten, however old', async () => {
    const tables = fresh()
    const store = await makeStore({ ...tables, holdMemoryMs: 1000 })
    await store.reserve(claim(1, 10, { id: 'long' }))
    await embedded.query(`UPDATE ${tables.holdTable} SET expires_at = now() + interval '10 years'`)

    expect(await store.cleanUp()).toMatchObject({ holdsRemoved: 0, holdsExpired: 0 })
    expect(await store.settle('long', 1)).toMatchObject({ status: 'settled' })
  })
})

test.each<UsageDedupe>(['batch', 'request'])('a sink and a store share tables, telling apart by %s', async (dedupe) => {
  const tables = fresh()
  const store = await makeStore({ ...tables, dedupe })
  const { holdTable: _, ...names } = tables
  const sink = new PostgresUsageSink(embedded, { ...names, dedupe })
  await sink.createSchema()

  await write(sink, [use(3, { requestId: 'a' })])
  await store.reserve(claim(2, 10))
  const again = await store.consume(claim(3, 10, { id: 'a' }))
  await store.consume(claim(1, 10, { id: 'b' }))
  await write(sink, [use(1, { requestId: 'b' })])

  expect(again.status).toBe(dedupe === 'request' ? 'repeated' : 'applied')
  const used = dedupe === 'request' ? 4 : 8
  expect(await store.readUsage([key])).toEqual([{ used, held: 2 }])
  expect(await sink.readTotals([key])).toEqual([{ ...key, value: used, count: dedupe === 'request' ? 2 : 4 }])
})

test('its stats tell what became of claims', async () => {
  const store = await makeStore()
  await store.consume(claim(5, 10))
  await store.consume(claim(6, 10))
  await store.reserve(claim(5, 10, { id: 'a' }))
  await store.reserve(claim(1, 10, { id: 'b' }))
  await store.settle('a', 6)
  await store.settle('a', 4)
  await store.reserve(claim(1, 10, { id: 'c' }))
  await store.release('c')
  await store.release('c')
  await store.readUsage([key])

  expect(store.stats()).toMatchObject({
    name: 'postgres-quota-store',
    consumed: 1,
    reserved: 2,
    settled: 1,
    released: 1,
  })
  expect(store.stats()).toMatchObject({ exceeded: 3, claimsFailed: 0, reads: 1, counted: 0 })
})

describe.skipIf(server === undefined)('on a real server', () => {
  const open = async (tables = fresh(), config: pg.PoolConfig = {}, options: PostgresQuotaStoreOptions = {}) => {
    const pool = makePool(config)
    const store = new PostgresQuotaStore(pool, { ...tables, ...options })
    await store.createSchema()
    return { pool, store, table: tables.table }
  }

  test('its tables are made once, by many at the same time', async () => {
    const pool = Array.from({ length: 8 }, () => makePool({ max: 1 }))
    for (let round = 0; round < 3; round++) {
      const tables = fresh()
      const stores = pool.map((one) => new PostgresQuotaStore(one, tables))
      await Promise.all(stores.map((store) => store.createSchema()))
      expect(await stores[0]?.consume(claim(1, 1))).toMatchObject({ status: 'applied' })
    }
  })

  test('an id that was consumed while its second call waited is repeated, even if the key is full then', async () => {
    const { pool, store, table } = await open()
    await store.consume(claim(0, 10))
    const held = await holdRows(makePool({ max: 1 }), table, 'ann')
    const once: QuotaClaim = claim(6, 10)

    const calls = [1, 2, 3].map(() => store.consume(once))
    await until(async () => (await waiters(pool)) === 3)
    await held.letGo()

    const statuses = (await Promise.all(calls)).map(({ status }) => status)
    expect(statuses.sort()).toEqual(['applied', 'repeated', 'repeated'])
    expect(await store.readUsage([key])).toEqual([{ used: 6, held: 0 }])
  })

  test('the same for reservations', async () => {
    const { pool, store, table } = await open()
    await store.consume(claim(0, 10))
    const held = await holdRows(makePool({ max: 1 }), table, 'ann')
    const once = claim(6, 10)

    const calls = [once, once, { ...once, value: 7 }].map((one) => store.reserve(one))
    await until(async () => (await waiters(pool)) === 3)
    await held.letGo()

    const statuses = (await Promise.all(calls)).map(({ status }) => status)
    expect(['conflict,held,repeated', 'conflict,conflict,held']).toContain(statuses.sort().join(','))
    expect((await store.readUsage([key]))[0]?.held).toBeGreaterThanOrEqual(6)
  })

  test('the first claims of a key, all at once, make one row', async () => {
    const tables = fresh()
    const stores = await Promise.all(Array.from({ length: 5 }, () => open(tables)))
    for (let round = 0; round < 10; round++) {
      const userId = `new ${round}`
      const outcomes = await Promise.all(
        Array.from({ length: 20 }, (_, i) => stores[i % 5]?.store.consume(claim(1, 7, { userId }))),
      )
      expect(outcomes.filter((outcome) => outcome?.status === 'applied')).toHaveLength(7)
    }
    for (const { store } of stores) expect(store.stats()).toMatchObject({ retries: 0 })
  })

  test('requests that are written and consumed at the same time count once, deadlocks or not', async () => {
    const options = { dedupe: 'request', retry: { attempts: 20, delayMs: 5, maxDelayMs: 50 } } as const
    const { store } = await open(fresh(), { max: 10, options: '-c deadlock_timeout=20ms' }, options)
    for (let round = 0; round < 10; round++) {
      const ids = Array.from({ length: 8 }, (_, i) => `${round}/${i}`)
      const written = ids.map((requestId) => use(1, { requestId }))
      await Promise.all([
        write(store, written),
        ...ids.map((id) => store.consume(claim(1, 1000, { id }))),
        write(store, written.toReversed()),
      ])
      expect(await store.readUsage([key])).toEqual([{ used: 8 * (round + 1), held: 0 }])
    }
    expect(store.stats()).toMatchObject({ failed: 0, claimsFailed: 0 })
  })

  test('a serialization conflict is retried, and nobody hears of it', async () => {
    const tables = fresh()
    const { store, table, pool } = await open(tables, { options: '-c default_transaction_isolation=serializable' })
    await store.consume(claim(1, 10))
    const held = await holdRows(makePool({ max: 1 }), table, 'ann')

    const answer = store.consume(claim(2, 10))
    await until(async () => (await waiters(pool)) === 1)
    await held.letGo()

    expect(await answer).toEqual({ status: 'applied', used: 3, held: 0 })
    expect(store.stats()).toMatchObject({ retries: 1, claimsFailed: 0 })
  })

  test('a session that was ended under a claim: unknown, and the same claim counts once', async () => {
    const { store, table, pool } = await open()
    await store.consume(claim(1, 10))
    const held = await holdRows(makePool({ max: 1 }), table, 'ann')
    const once = claim(2, 10)
    const answer = store.consume(once).catch((error: unknown) => error)
    await until(async () => (await waiters(pool)) === 1)
    await pool.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`)
    await held.letGo()

    expect(await answer).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
    expect(await store.consume(once)).toEqual({ status: 'applied', used: 3, held: 0 })
    expect(await store.consume(once)).toEqual({ status: 'repeated', used: 3, held: 0 })
  })

  test('a missing table, which may still come: rolled back', async () => {
    const store = new PostgresQuotaStore(makePool(), fresh())
    const error = { code: 'ERR_STORE', retryable: true, outcomeUnknown: false }

    await expect(store.consume(claim(1, 10))).rejects.toMatchObject(error)
    await expect(store.reserve(claim(1, 10))).rejects.toMatchObject(error)
    await expect(store.settle('a', 1)).rejects.toMatchObject(error)
    await expect(store.release('a')).rejects.toMatchObject(error)
    await expect(store.readUsage([key])).rejects.toMatchObject(error)
  })
})
