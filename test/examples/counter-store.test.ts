import { randomUUID } from 'node:crypto'
import pg from 'pg'
import type { BatchContext } from 'spillway'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { PostgresCounterStore } from '../../examples/counter-billing/counter-store.ts'
import type { Database } from '../../examples/counter-billing/database.ts'
import { openTestDatabases } from './databases.ts'

const databases = await openTestDatabases()

afterAll(async () => {
  for (const database of databases) await database.stop()
})

const fresh = (name: string): string => `${name}-${randomUUID()}`
const contextOf = (batchId: string): BatchContext => ({ batchId, attempt: 1, signal: new AbortController().signal })

/** A database that fails every statement with this error. */
const broken = (error: unknown): Database => ({
  name: 'database',
  title: 'broken',
  query: () => Promise.reject(error),
  script: () => Promise.reject(error),
  close: () => Promise.resolve(),
})

const endBlockedSessions = `
  SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE wait_event_type = 'Lock' AND datname = current_database()`

describe.each(databases)('PostgresCounterStore on $title', ({ database }) => {
  const store = new PostgresCounterStore(database)
  beforeAll(() => store.createSchema())

  test('a batch that comes twice is applied once, and gets the same answers though others have counted since', async () => {
    const [a, b] = [fresh('a'), fresh('b')]
    const batch = [a, b, a, '🙂', 'ｅ'].map((key, index) => ({ key: key + a, delta: index + 1 }))
    const context = contextOf(randomUUID())

    const first = await store.increment(batch, context)
    await store.increment([{ key: a + a, delta: 100 }], contextOf(randomUUID()))
    const second = await store.increment(batch, context)

    expect(first).toEqual([1, 2, 4, 4, 5])
    expect(second).toEqual(first)
    expect(await store.getMany([a + a, b + a])).toEqual([104, 2])
  })

  test('sums that come twice are added once', async () => {
    const a = fresh('a')
    const context = contextOf(`${randomUUID()}/0/1`)

    await store.add(new Map([[a, 3]]), context)
    await store.add(new Map([[a, 3]]), context)

    expect(await store.getMany([a])).toEqual([3])
  })

  test('attempts at one batch that run at the same time apply it once and agree', async () => {
    const keys = Array.from({ length: 20 }, (_, index) => fresh(`key-${index}`))
    for (let round = 0; round < 20; round++) {
      const context = contextOf(randomUUID())
      const batch = keys.map((key) => ({ key, delta: 1 }))

      const answers = await Promise.all(Array.from({ length: 4 }, () => store.increment(batch, context)))

      expect(answers).toEqual(Array(4).fill(keys.map(() => round + 1)))
    }
  })

  test('batches that share counters in another order never wait for each other', async () => {
    const keys = Array.from({ length: 50 }, (_, index) => fresh(`key-${index}`))
    const batches = Array.from({ length: 40 }, (_, index) => (index % 2 === 0 ? keys : keys.toReversed()))

    await Promise.all(
      batches.map((some) =>
        store.increment(
          some.map((key) => ({ key, delta: 1 })),
          contextOf(randomUUID()),
        ),
      ),
    )

    expect(await store.getMany(keys)).toEqual(keys.map(() => batches.length))
  })

  test('a batch that takes a counter out of its bounds changes nothing and says so', async () => {
    const [a, b] = [fresh('a'), fresh('b')]
    await store.increment([{ key: b, delta: Number.MAX_SAFE_INTEGER }], contextOf(randomUUID()))
    const batch = [a, b].map((key) => ({ key, delta: 1 }))
    const context = contextOf(randomUUID())

    const attempt = store.increment(batch, context)

    await expect(attempt).rejects.toMatchObject({
      code: 'ERR_STORE',
      retryable: false,
      outcomeUnknown: false,
      message: "applying a batch was refused: a counter can't go beyond 9007199254740991 in either direction",
      cause: { code: '23514' },
    })
    expect(await store.getMany([a, b])).toEqual([0, Number.MAX_SAFE_INTEGER])
    // The id was not kept either: the same batch goes through once there is room.
    await store.increment([{ key: b, delta: -1 }], contextOf(randomUUID()))
    expect(await store.increment(batch, context)).toEqual([1, Number.MAX_SAFE_INTEGER])
  })

  test('old batch ids are forgotten, young ones are kept', async () => {
    const a = fresh('a')
    const [old, young] = [contextOf(randomUUID()), contextOf(randomUUID())]
    for (const context of [old, young]) await store.increment([{ key: a, delta: 1 }], context)
    const age = `UPDATE spillway_batches SET applied_at = now() - interval '61 minutes' WHERE id = $1`
    await database.query(age, [old.batchId])

    await store.forgetOldBatches()

    const rows = await database.query('SELECT id FROM spillway_batches WHERE id = ANY($1)', [
      [old.batchId, young.batchId],
    ])
    expect(rows).toEqual([{ id: young.batchId }])
  })

  test('an empty batch costs no statement', async () => {
    const { writes } = store.statements

    expect(await store.increment([], contextOf(randomUUID()))).toEqual([])

    expect(store.statements.writes).toBe(writes)
  })
})

describe.each(databases.filter(({ url }) => url !== undefined))('a server behind the store', ({ database, url }) => {
  test('a statement whose session the server ends has an unknown outcome', async () => {
    const store = new PostgresCounterStore(database)
    const a = fresh('a')
    await store.add(new Map([[a, 1]]), contextOf(randomUUID()))
    const blocker = new pg.Client({ connectionString: url })
    await blocker.connect()
    await blocker.query('BEGIN')
    await blocker.query('SELECT 1 FROM spillway_counters WHERE key = $1 FOR UPDATE', [a])

    const blocked = store.add(new Map([[a, 1]]), contextOf(randomUUID()))
    const outcome = blocked.catch((error: unknown) => error)
    await vi.waitUntil(async () => (await blocker.query(endBlockedSessions)).rows.length > 0)
    await blocker.end()

    expect(await outcome).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
    expect(await store.getMany([a])).toEqual([1])
  })
})

describe('errors of the database', () => {
  test.each<[string, object, { retryable: boolean; outcomeUnknown: boolean }]>([
    ['a refused connection', { code: 'ECONNREFUSED' }, { retryable: true, outcomeUnknown: false }],
    [
      'no free connection',
      { message: 'timeout exceeded when trying to connect' },
      { retryable: true, outcomeUnknown: false },
    ],
    ['too many sessions', { code: '53300' }, { retryable: true, outcomeUnknown: false }],
    ['a server that starts', { code: '57P03' }, { retryable: true, outcomeUnknown: false }],
    ['a deadlock', { code: '40P01' }, { retryable: true, outcomeUnknown: false }],
    ['a server that stops', { code: '57P01' }, { retryable: true, outcomeUnknown: true }],
    ['a reset connection', { code: 'ECONNRESET' }, { retryable: true, outcomeUnknown: true }],
    ['a lost connection', { message: 'Connection terminated unexpectedly' }, { retryable: true, outcomeUnknown: true }],
    ['overflow', { code: '22003' }, { retryable: false, outcomeUnknown: false }],
    ['a broken constraint', { code: '23514' }, { retryable: false, outcomeUnknown: false }],
  ])('%s', async (_name, fields, expected) => {
    const cause = Object.assign(new Error('boom'), fields)
    const store = new PostgresCounterStore(broken(cause))

    const attempt = store.add(new Map([['a', 1]]), contextOf(randomUUID()))

    await expect(attempt).rejects.toMatchObject({ name: 'StoreError', code: 'ERR_STORE', cause, ...expected })
  })
})
