import { randomUUID } from 'node:crypto'
import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import { type BatchContext, type CounterIncrement, isSpillwayError } from 'spillway'
import { PostgresCounterStore, type PostgresCounterStoreOptions } from 'spillway/postgres'
import { FakeClock, MemoryCounterStore, seededRandom } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'
import { until } from './until.ts'

const server = await startPostgres()
const { make: makePool, end: endPools } = poolsOf(server?.url)
const max = Number.MAX_SAFE_INTEGER
const embedded = new PGlite()

afterAll(async () => {
  await endPools()
  await embedded.close()
  await server?.stop()
})

const batch = (signal = new AbortController().signal): BatchContext => ({ batchId: randomUUID(), attempt: 1, signal })
const ones = (...keys: string[]): CounterIncrement[] => keys.map((key) => ({ key, delta: 1 }))

test('answers are those of a plain count, near the limits too', async () => {
  const store = new PostgresCounterStore(embedded)
  await store.createSchema()
  const model = new MemoryCounterStore()
  const random = seededRandom('near the limits')
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T
  const deltas = [1, -1, 2, max, -max, max - 1, 1 - max, 0, 2 ** 52, -(2 ** 52), 0.5]
  const show = (answers: readonly (number | Error)[]): unknown[] =>
    answers.map((answer) => (typeof answer === 'number' ? answer : answer.message))

  for (let round = 0; round < 60; round++) {
    const increments = Array.from({ length: 1 + Math.floor(random() * 6) }, () => {
      return { key: pick(['a', 'b', 'c']), delta: pick(deltas) }
    })
    const context = batch()

    const answers = await store.increment(increments, context)
    const again = await store.increment(increments, { ...context, attempt: 2 })

    expect(show(answers)).toEqual(show(await model.increment(increments, context)))
    expect(show(again)).toEqual(show(answers))
  }
  expect(await store.getMany(['a', 'b', 'c'])).toEqual(await model.getMany(['a', 'b', 'c']))
  expect(store.stats().walked).toBeGreaterThan(10)
}, 60_000)

describe('misuse', () => {
  test.each<[keyof PostgresCounterStoreOptions, unknown]>([
    ['table', ''],
    ['table', 'x'.repeat(64)],
    ['table', 'a\0'],
    ['batchTable', 'x'.repeat(53)],
    ['batchTable', 'spillway_counters'],
    ['schema', null],
    ['batchMemoryMs', 999],
    ['cleanUpEveryMs', -1],
    ['cleanUpChunkSize', 0],
    ['prepared', 'yes'],
    ['retry', 3],
    ['clock', {}],
  ])('a wrong %s is refused: %j', (option, value) => {
    expect(() => new PostgresCounterStore(embedded, { [option]: value })).toThrow(option)
  })

  test.each([undefined, null, {}, 'postgres://localhost', new pg.Client()])(
    'a database that is none is refused: %#',
    (database) => {
      expect(() => new PostgresCounterStore(database as never)).toThrow(/^database must be a pg Pool or a PGlite/)
    },
  )

  test('an id that was used for another batch is refused', async () => {
    const store = new PostgresCounterStore(embedded)
    await store.createSchema()
    const context = batch()
    await store.increment(ones('m1', 'm2'), context)

    await expect(store.increment(ones('m1'), context)).rejects.toMatchObject({ code: 'ERR_STORE', retryable: false })
  })

  test('names are quoted, whatever is in them', async () => {
    await embedded.exec(`CREATE SCHEMA "Odd "" schema; --"`)
    const store = new PostgresCounterStore(embedded, {
      schema: 'Odd " schema; --',
      table: 'Some.Table"',
      batchTable: "Batches'",
    })
    await store.createSchema()
    await store.createSchema()

    expect(await store.increment(ones('a'), batch())).toEqual([1])
    expect(await store.getMany(['a'])).toEqual([1])
    expect(await store.forgetOldBatches()).toBe(0)
    const { rows } = await embedded.query('SELECT key, value FROM "Odd "" schema; --"."Some.Table"""')
    expect(rows).toEqual([{ key: 'a', value: 1 }])
  })

  test('a key that no index holds is refused alone', async () => {
    const store = new PostgresCounterStore(embedded)
    await store.createSchema()
    const long = Array.from({ length: 1300 }, (_, i) => String.fromCharCode(0x100 + ((i * 7919) % 1500))).join('')
    const answers = await store.increment(ones(long, `${long}y`, 'short'), batch())

    expect(answers[0]).toBe(1)
    expect(isSpillwayError(answers[1], 'ERR_STORE')).toBe(true)
    expect(answers[2]).toBe(1)
    expect((await store.add(new Map([[`${long}y`, 1]]), batch())).length).toBe(1)
    expect(await store.getMany([long, `${long}y`])).toEqual([1, 0])
  })
})

describe('old batch ids', () => {
  const clock = new FakeClock()
  const options = { clock, random: () => 0, table: 'cleaned', batchTable: 'cleaned_batches', cleanUpChunkSize: 10 }
  const ids = async (): Promise<number> => {
    const { rows } = await embedded.query<{ count: number }>('SELECT count(*)::int FROM cleaned_batches')
    return rows[0]?.count ?? 0
  }
  const age = (): Promise<unknown> =>
    embedded.query(`UPDATE cleaned_batches SET applied_at = now() - interval '61 minutes'`)

  test('are removed in passing, in chunks, one at a time, when they are due', async () => {
    const store = new PostgresCounterStore(embedded, options)
    await store.createSchema()
    const removed: number[] = []
    store.on('cleaned', (event) => void removed.push(event.removed))
    for (let i = 0; i < 25; i++) await store.add(new Map([['a', 1]]), batch())
    await age()

    await store.add(new Map([['a', 1]]), batch())
    expect(removed).toEqual([])
    await clock.advance(60_000)
    for (let i = 0; i < 10 && removed.length < 3; i++) {
      await store.add(new Map([['a', 1]]), batch())
      await until(() => removed.length > i || removed.length === 3)
    }

    expect(removed).toEqual([10, 10, 5])
    expect(store.stats()).toMatchObject({ batchesRemoved: 25, cleanUpFailures: 0 })
  })

  test('can be removed by hand', async () => {
    const store = new PostgresCounterStore(embedded, options)
    await age()
    const before = await ids()

    expect(await store.forgetOldBatches()).toBe(before)
    expect(await ids()).toBe(0)
  })

  test('that cannot be removed fail no batch', async () => {
    const store = new PostgresCounterStore(embedded, { ...options, cleanUpEveryMs: 0 })
    await store.add(new Map([['a', 1]]), batch())
    await age()
    await embedded.exec(`CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
      CREATE TRIGGER no BEFORE DELETE ON cleaned_batches EXECUTE FUNCTION no()`)
    const failures: unknown[] = []
    store.on('cleanUpFailed', ({ error }) => void failures.push(error))

    expect(await store.add(new Map([['a', 1]]), batch())).toEqual([])
    await until(() => failures.length === 1)

    expect(isSpillwayError(failures[0], 'ERR_STORE')).toBe(true)
    expect(store.stats()).toMatchObject({ applied: 2, failed: 0, cleanUpFailures: 1 })
    await embedded.exec('DROP TRIGGER no ON cleaned_batches')
  })
})

describe.skipIf(server === undefined)('on a real server', () => {
  let pool: pg.Pool
  beforeAll(async () => {
    pool = makePool()
    await new PostgresCounterStore(pool).createSchema()
  })

  /** A session that holds counters, until it is told to let go. */
  const holdRows = async (...keys: string[]) => {
    const client = await makePool({ max: 1 }).connect()
    await client.query(`SET deadlock_timeout = '30s'`)
    await client.query('BEGIN')
    const take = (key: string): Promise<unknown> =>
      client.query('UPDATE spillway_counters SET value = value WHERE key = $1', [key])
    for (const key of keys) await take(key)
    return {
      take,
      letGo: async (): Promise<void> => {
        await client.query('COMMIT')
        client.release()
      },
    }
  }
  const waiters = async (): Promise<number> => {
    const { rows } = await pool.query(
      `SELECT count(*)::int FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`,
    )
    return rows[0].count
  }

  test('tables are made once, by many at the same time', async () => {
    for (let round = 0; round < 5; round++) {
      const tables = { table: `race_${round}`, batchTable: `race_batches_${round}` }
      const stores = Array.from({ length: 8 }, () => new PostgresCounterStore(makePool({ max: 1 }), tables))

      await Promise.all(stores.map((store) => store.createSchema()))

      expect(await stores[0]?.increment(ones('a'), batch())).toEqual([1])
    }
  })

  test('where the tables are there, it needs no privilege to make them', async () => {
    await pool.query(`CREATE ROLE plain_user LOGIN PASSWORD 'plain'`)
    await pool.query(
      'GRANT SELECT, INSERT, UPDATE, DELETE ON spillway_counters, spillway_counter_batches TO plain_user',
    )
    const plain = makePool({ ...addressOf(server), user: 'plain_user', password: 'plain' })
    const store = new PostgresCounterStore(plain)

    await store.createSchema()

    expect(await store.increment(ones('by a plain user'), batch())).toEqual([1])
    expect(await store.forgetOldBatches()).toBe(0)
    await expect(new PostgresCounterStore(plain, { table: 'other' }).createSchema()).rejects.toThrow('permission')
  })

  test('schemaSql is what a migration needs', async () => {
    const store = new PostgresCounterStore(pool, { table: 'migrated', batchTable: 'migrated_batches' })
    await pool.query(store.schemaSql)
    await pool.query(store.schemaSql)

    expect(await store.increment(ones('a'), batch())).toEqual([1])
  })

  test('attempts at one id that both began before either was done: one applies, both get its answers', async () => {
    const store = new PostgresCounterStore(pool)
    await store.increment(ones('raced', 'raced 2'), batch())
    const held = await holdRows('raced')
    const context = batch()

    const attempts = [1, 2, 3].map((attempt) => store.increment(ones('raced', 'raced 2'), { ...context, attempt }))
    await until(async () => (await waiters()) === 3)
    await held.letGo()

    expect(await Promise.all(attempts)).toEqual([
      [2, 2],
      [2, 2],
      [2, 2],
    ])
    expect(store.stats()).toMatchObject({ applied: 2, repeated: 2, failed: 0 })
    expect(await store.getMany(['raced', 'raced 2'])).toEqual([2, 2])
  })

  test('the same for batches that are walked', async () => {
    const store = new PostgresCounterStore(pool)
    await store.add(new Map([['raced full', max]]), batch())
    const increments = [
      { key: 'raced full', delta: 1 },
      { key: 'raced full', delta: -2 },
    ]
    const held = await holdRows('raced full')
    const context = batch()

    const attempts = [1, 2].map((attempt) => store.increment(increments, { ...context, attempt }))
    await until(async () => (await waiters()) === 2)
    await held.letGo()

    for (const [refused, value] of await Promise.all(attempts)) {
      expect(refused).toBeInstanceOf(Error)
      expect(value).toBe(max - 2)
    }
    expect(store.stats()).toMatchObject({ walked: 1, repeated: 1 })
  })

  test('a transaction that the query_timeout of the pool gives up is nobody else’s', async () => {
    // Starting it holds up the timers of this process.
    await embedded.waitReady
    await new PostgresCounterStore(pool).add(new Map([['given up', max]]), batch())
    const hasty = makePool({ max: 1, query_timeout: 300, idleTimeoutMillis: 0 })
    const client = await hasty.connect()
    const query = client.query.bind(client) as (...args: unknown[]) => unknown
    let last: string | undefined
    Object.assign(client, {
      query: (statement: { text?: string }, ...rest: unknown[]) => {
        const first = last === 'BEGIN'
        last = statement.text
        return query(first ? { text: 'SELECT pg_sleep(3)' } : statement, ...rest)
      },
    })
    client.release()
    const sleeping = async (): Promise<number | null> =>
      (await pool.query(`SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3)' AND state = 'active'`))
        .rowCount
    const store = new PostgresCounterStore(hasty, { retry: { attempts: 1 } })

    const increments = [1, -2].map((delta) => ({ key: 'given up', delta }))
    await expect(store.increment(increments, batch())).rejects.toThrow('Query read timeout')
    await until(async () => (await sleeping()) === 0)

    // With that connection, this would run behind BEGIN, and nobody would say COMMIT.
    await store.add(new Map([['after given up', 1]]), batch())
    expect(await new PostgresCounterStore(pool).getMany(['after given up'])).toEqual([1])
  })

  test('a deadlock that others cause is retried, and nobody hears of it', async () => {
    const store = new PostgresCounterStore(pool)
    await store.increment(ones('lock a', 'lock b'), batch())
    const held = await holdRows('lock b')
    const retried: unknown[] = []
    store.on('retried', ({ error }) => void retried.push((error as { code?: unknown }).code))

    const answer = store.increment(ones('lock b', 'lock a'), batch())
    await until(async () => (await waiters()) === 1)
    await held.take('lock a')
    await held.letGo()

    expect(await answer).toEqual([2, 2])
    expect(retried).toEqual(['40P01'])
    expect(store.stats()).toMatchObject({ retries: 1, failed: 0 })
  })

  test('a serialization conflict is retried, a bounded number of times', async () => {
    const serializable = makePool({ options: '-c default_transaction_isolation=serializable' })
    const store = new PostgresCounterStore(serializable, { retry: { attempts: 2, delayMs: 1 } })
    await store.increment(ones('serial'), batch())
    const conflict = async (): Promise<readonly (number | Error)[]> => {
      const held = await holdRows('serial')
      const answer = store.increment(ones('serial'), batch())
      await until(async () => (await waiters()) === 1)
      await held.letGo()
      return answer
    }

    expect(await conflict()).toEqual([2])
    expect(store.stats()).toMatchObject({ retries: 1, failed: 0 })
    const once = new PostgresCounterStore(serializable, { retry: { attempts: 1 } })
    const held = await holdRows('serial')
    const failed = once.increment(ones('serial'), batch())
    await until(async () => (await waiters()) === 1)
    await held.letGo()

    await expect(failed).rejects.toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
  })

  test('a signal that aborts while a statement runs rejects at once; a retry under the id is exact', async () => {
    const store = new PostgresCounterStore(pool)
    await store.increment(ones('aborted'), batch())
    const held = await holdRows('aborted')
    const controller = new AbortController()
    const reason = new Error('gone')
    const context = batch(controller.signal)

    const answer = store.increment(ones('aborted'), context)
    await until(async () => (await waiters()) === 1)
    controller.abort(reason)

    await expect(answer).rejects.toBe(reason)
    await held.letGo()
    expect(await store.increment(ones('aborted'), { ...batch(), batchId: context.batchId })).toEqual([2])
    expect(await store.getMany(['aborted'])).toEqual([2])
  })

  test('a signal that aborts while there is no connection sends nothing', async () => {
    const small = makePool({ max: 1 })
    const store = new PostgresCounterStore(small)
    const taken = await small.connect()
    const controller = new AbortController()
    const answer = store.increment(ones('never sent'), batch(controller.signal))
    controller.abort(new Error('gone'))
    await expect(answer).rejects.toThrow('gone')

    taken.release()

    expect(await store.getMany(['never sent'])).toEqual([0])
  })

  test('statements are prepared, or not', async () => {
    const prepared = async (option: boolean): Promise<number> => {
      const small = makePool({ max: 1 })
      const store = new PostgresCounterStore(small, { prepared: option })
      await store.increment(ones('prepared'), batch())
      return (await small.query('SELECT FROM pg_prepared_statements')).rowCount ?? 0
    }

    expect(await prepared(true)).toBe(1)
    expect(await prepared(false)).toBe(0)
  })

  test('type parsers of the application change nothing', async () => {
    const whole = new Set([20, 21, 23, 1016])
    const getTypeParser = (oid: number, format: 'text') =>
      whole.has(oid) ? () => 'parsed by the application' : pg.types.getTypeParser(oid, format)
    const store = new PostgresCounterStore(makePool({ types: { getTypeParser: getTypeParser as never } }))

    expect(await store.increment(ones('typed'), batch())).toEqual([1])
    expect(await store.add(new Map([['typed', 1]]), batch())).toEqual([])
    expect(await store.getMany(['typed'])).toEqual([2])
  })

  describe('errors say what is known', () => {
    const outcome = async (store: PostgresCounterStore): Promise<unknown> => {
      const error = await store.increment(ones('e'), batch()).catch((error: unknown) => error)
      expect(isSpillwayError(error, 'ERR_STORE')).toBe(true)
      const { retryable, outcomeUnknown, cause } = error as Error & { retryable: boolean; outcomeUnknown: boolean }
      expect(cause).toBeInstanceOf(Error)
      return { retryable, outcomeUnknown }
    }
    const rolledBack = { retryable: true, outcomeUnknown: false }

    test('nobody listens: not sent', async () => {
      expect(await outcome(new PostgresCounterStore(makePool({ ...addressOf(server), port: 1 })))).toEqual(rolledBack)
    })

    test('no connection in time: not sent', async () => {
      const small = makePool({ max: 1 })
      const taken = await small.connect()
      small.options.connectionTimeoutMillis = 20
      expect(await outcome(new PostgresCounterStore(small))).toEqual(rolledBack)
      taken.release()
    })

    test('a missing table, which may still come: rolled back', async () => {
      expect(await outcome(new PostgresCounterStore(pool, { table: 'missing' }))).toEqual(rolledBack)
    })

    test('a statement timeout: rolled back', async () => {
      const store = new PostgresCounterStore(makePool({ statement_timeout: 50 }))
      await new PostgresCounterStore(pool).increment(ones('e'), batch())
      const held = await holdRows('e')
      expect(await outcome(store)).toEqual(rolledBack)
      await held.letGo()
    })

    test('a broken constraint: final', async () => {
      await pool.query('ALTER TABLE spillway_counters ADD CONSTRAINT no_e CHECK (key <> $$e$$) NOT VALID')
      expect(await outcome(new PostgresCounterStore(pool))).toEqual({ retryable: false, outcomeUnknown: false })
      await pool.query('ALTER TABLE spillway_counters DROP CONSTRAINT no_e')
    })

    test('a session that was ended under the statement: unknown', async () => {
      const held = await holdRows('e')
      const result = outcome(new PostgresCounterStore(makePool()))
      await until(async () => (await waiters()) === 1)
      await pool.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`)
      expect(await result).toEqual({ retryable: true, outcomeUnknown: true })
      await held.letGo()
    })
  })
})

function addressOf(running: typeof server): pg.PoolConfig {
  const { hostname, port, pathname } = new URL(running?.url ?? 'postgres://localhost/x')
  return {
    connectionString: undefined,
    host: hostname,
    port: Number(port),
    database: pathname.slice(1),
  } as pg.PoolConfig
}
