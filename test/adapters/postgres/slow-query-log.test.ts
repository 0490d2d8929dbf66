import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import {
  createPostgresPool,
  PostgresCounterStore,
  type QueryPlan,
  type SlowQuery,
  SlowQueryLog,
  type SlowQueryLogEvents,
} from 'spillway/postgres'
import { FakeClock, seededRandom } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'
import { until } from './until.ts'

const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
process.on('unhandledRejection', onUnhandled)

const server = await startPostgres()
const embedded = new PGlite()
// It keeps the process busy until it is there, and the first test shouldn't wait for that.
await embedded.waitReady
const pools = poolsOf(server?.url)

afterAll(async () => {
  await pools.end()
  await embedded.close()
  await server?.stop()
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled).toEqual([])
})

const heard = (log: SlowQueryLog): SlowQuery[] => {
  const list: SlowQuery[] = []
  log.on('slow', (query) => list.push(query))
  return list
}

const balanced = (log: SlowQueryLog): void => {
  const { offered, succeeded, failed, pending, slow, reported, suppressed } = log.stats()
  expect(offered).toBe(succeeded + failed + pending)
  expect(slow).toBe(reported + suppressed)
}

describe.skipIf(server === undefined)('SlowQueryLog on a pool', () => {
  let pool: pg.Pool

  beforeAll(async () => {
    pool = pools.make()
    await pool.query(`CREATE TABLE items (id int PRIMARY KEY, note text NOT NULL);
      INSERT INTO items SELECT n, 'note ' || n FROM generate_series(1, 20000) AS n; ANALYZE items`)
  })

  test('queries are seen in every form, and answer as they would without', async () => {
    await using log = new SlowQueryLog(pool, { thresholdMs: 0 })
    const slow = heard(log)
    const client = await pool.connect()
    const text = 'SELECT $1::int AS n'
    const called = <T>(start: (callback: (error: Error | null, result: T) => void) => void): Promise<T> =>
      new Promise((resolve, reject) => start((error, result) => (error ? reject(error) : resolve(result))))
    const config = { text, values: [4] }
    const withCallback = (callback: unknown): object => ({ text, values: [9], callback })
    let kept: unknown

    const answers = [
      await pool.query('SELECT 1 AS n'),
      await pool.query(text, [2]),
      await called<pg.QueryResult>((callback) => pool.query(text, [3], callback)),
      await pool.query(config),
      await called<pg.QueryResult>((callback) => pool.query('SELECT 5 AS n', callback)),
      await client.query({ text, name: 'six' }, [6]),
      await client.query({ text, name: 'six', values: [7] }),
      await called<pg.QueryResult>((callback) => client.query(text, [8], callback)),
      await called<pg.QueryResult>((callback) => {
        kept = withCallback(callback)
        client.query(kept as never)
      }),
      await called<pg.QueryResult>((callback) =>
        client.query(new pg.Query('SELECT 10 AS n') as never, callback as never),
      ),
      await called<pg.QueryResult>((callback) => {
        client.query(Object.assign(new pg.Query(text, [11]), { callback }))
      }),
      await new Promise<pg.QueryResult>((resolve) => {
        const query = client.query(new pg.Query('SELECT 12 AS n'))
        const rows: unknown[] = []
        query.on('row', (row) => rows.push(row))
        query.on('end', () => resolve({ rows } as unknown as pg.QueryResult))
      }),
    ]
    client.release()

    expect(answers.map(({ rows }) => rows)).toEqual(answers.map((_, i) => [{ n: i + 1 }]))
    expect(kept).toEqual({ text, values: [9], callback: expect.any(Function) })
    expect(config).toEqual({ text, values: [4] })
    expect(log.stats()).toMatchObject({ offered: 12, succeeded: 12, failed: 0, pending: 0, unmeasured: 0, slow: 12 })
    expect(slow.map(({ text: seen }) => seen)).toContain('SELECT 12 AS n')
    // The connection was checked out once for all of those, and once for each of the pool's own.
    expect(slow.filter(({ waitedMs }) => waitedMs !== undefined)).toHaveLength(6)
    expect(log.stats().waits).toBe(6)
    balanced(log)
  })

  test('errors go where they would go without', async () => {
    await using log = new SlowQueryLog(pool, { thresholdMs: 0 })
    const slow = heard(log)
    const client = await pool.connect()

    await expect(pool.query('SELECT 1 / $1::int', [0])).rejects.toMatchObject({ code: '22012' })
    const called = await new Promise((resolve) => client.query('SELEKT', (error: Error) => resolve(error)))
    expect(called).toMatchObject({ code: '42601' })
    const emitted = await new Promise((resolve) => client.query(new pg.Query('SELEKT 2')).on('error', resolve))
    expect(emitted).toMatchObject({ code: '42601' })
    expect(() => client.query(null as never)).toThrow(TypeError)
    expect(() => client.query({ text: 'SELECT 1', callback: 7 } as never)).toThrow(TypeError)
    client.release()

    expect(log.stats()).toMatchObject({ offered: 3, failed: 3, pending: 0 })
    expect(slow.map(({ failed, errorCode }) => [failed, errorCode])).toEqual([
      [true, '22012'],
      [true, '42601'],
      [true, '42601'],
    ])
    balanced(log)
  })

  test('a rejection that nobody handles stays one, of queries and of connections', async () => {
    await using _log = new SlowQueryLog(pool)
    const nowhere = new pg.Pool({ host: '127.0.0.1', port: 1 })
    await using log = new SlowQueryLog(nowhere)
    const before = unhandled.length

    void pool.query('SELEKT')
    void nowhere.connect()
    await until(() => unhandled.length === before + 2)

    expect(
      unhandled
        .splice(before)
        .map((error) => (error as { code?: string }).code)
        .sort(),
    ).toEqual(['42601', 'ECONNREFUSED'])
    expect(log.stats()).toMatchObject({ waits: 1, waitsFailed: 1 })
    await nowhere.end()
  })

  test('an error that nobody listens to still ends the process as pg means it to', async () => {
    const lone = new pg.Pool({ connectionString: server?.url, max: 1 })
    await using _log = new SlowQueryLog(lone)
    const client = await lone.connect()
    const query = new pg.Query('SELEKT')
    const listeners = query.listenerCount('error')

    client.query(query)

    expect(query.listenerCount('error')).toBe(listeners)
    query.on('error', () => undefined)
    await until(() => lone.totalCount === 1 && client.getTransactionStatus?.() !== undefined)
    client.release()
    await lone.end()
  })

  test('what reads at its own pace is left alone', async () => {
    await using log = new SlowQueryLog(pool)
    const client = await pool.connect()
    class Reader extends pg.Query {
      read(): void {}
    }

    await new Promise((resolve) => client.query(new Reader('SELECT 1')).on('end', resolve))
    client.release()

    expect(log.stats()).toMatchObject({ offered: 0, unmeasured: 1 })
  })

  test('a query is slow from the threshold on, by the clock of the log', async () => {
    const clock = new FakeClock()
    await using log = new SlowQueryLog(pool, { clock })
    const slow = heard(log)
    const takes = async (ms: number): Promise<void> => {
      const client = await pool.connect()
      const answer = client.query('SELECT id, note FROM items WHERE id < $1', [4])
      await clock.advance(ms)
      await answer
      client.release()
    }

    await takes(99)
    await takes(100)

    expect(slow).toEqual([
      {
        text: 'SELECT id, note FROM items WHERE id < $1',
        durationMs: 100,
        waitedMs: 0,
        rows: 3,
        failed: false,
        errorCode: undefined,
        valueTypes: ['number'],
        values: undefined,
        at: clock.wallNow(),
      },
    ])
    expect(log.stats()).toMatchObject({ slow: 1, latencyMs: { max: 100 } })
  })

  test('values are told only where that is asked for', async () => {
    const values = ['secret', 1, null, [1], new Date(0), true, Buffer.from('x')]
    const text = 'SELECT $1::text, $2::int, $3::int, $4::int[], $5::date, $6::bool, $7::bytea'
    await using log = new SlowQueryLog(pool, { thresholdMs: 0 })
    const silent = heard(log)
    await pool.query(text, values)
    await log.close()
    await using open = new SlowQueryLog(pool, { thresholdMs: 0, values: true })
    const telling = heard(open)
    await pool.query(text, values)

    expect(JSON.stringify([silent, log.top()])).not.toContain('secret')
    expect(silent[0]?.valueTypes).toEqual(['string', 'number', 'null', 'array', 'Date', 'boolean', 'Uint8Array'])
    expect(telling[0]?.values).toEqual(values)
  })

  test('a pool that starves is told from queries that are slow', async () => {
    const clock = new FakeClock()
    const small = pools.make({ max: 1 })
    await using log = new SlowQueryLog(small, { clock })
    const slow = heard(log)
    const starved: SlowQueryLogEvents['starved'][] = []
    log.on('starved', (event) => starved.push(event))
    const holder = await small.connect()
    const waiting = [small.query('SELECT 1'), small.query('SELECT 2')]
    await clock.advance(250)

    holder.release()
    await Promise.all(waiting)

    expect(starved).toEqual([
      { waitedMs: 250, failed: false, waiting: 1, connections: 1 },
      { waitedMs: 250, failed: false, waiting: 0, connections: 1 },
    ])
    expect(slow).toEqual([])
    expect(log.stats()).toMatchObject({ waits: 3, starved: 2, slow: 0, waitMs: { max: 250 } })
  })

  test('there are at most so many a minute, and a sample of them; all are counted', async () => {
    const clock = new FakeClock()
    await using few = new SlowQueryLog(pool, { clock, thresholdMs: 0, maxPerMinute: 2 })
    await using half = new SlowQueryLog(pool, {
      thresholdMs: 0,
      maxPerMinute: 1000,
      sampleRate: 0.5,
      random: seededRandom(7),
    })
    const [fewHeard, halfHeard] = [heard(few), heard(half)]

    for (let i = 0; i < 50; i++) await pool.query('SELECT 1')
    await clock.advance(60_000)
    await pool.query('SELECT 1')

    expect(fewHeard).toHaveLength(3)
    expect(few.stats()).toMatchObject({ slow: 51, reported: 3, suppressed: 48 })
    expect(halfHeard.length).toBeGreaterThan(15)
    expect(halfHeard.length).toBeLessThan(36)
    balanced(few)
    balanced(half)
    await half.close()
  })

  test('numbers are kept by statement, for as many as there is room', async () => {
    await using log = new SlowQueryLog(pool, { maxStatements: 3, maxTextLength: 30, thresholdMs: 5 })
    await pool.query('SELECT pg_sleep(0.02)')
    for (let i = 0; i < 5; i++) await pool.query('SELECT 1')
    await pool.query('SELECT id FROM items WHERE id < 11')
    await pool.query('SELECT id FROM items WHERE id < 12345')
    await expect(pool.query('SELEKT')).rejects.toThrow()

    // The sleep was seen the longest ago. Two statements that begin alike are one.
    expect(log.top({ by: 'count' }).map(({ text, count, rows, failed }) => ({ text, count, rows, failed }))).toEqual([
      { text: 'SELECT 1', count: 5, rows: 5, failed: 0 },
      { text: 'SELECT id FROM items WHERE id ', count: 2, rows: 10 + 12_344, failed: 0 },
      { text: 'SELEKT', count: 1, rows: 0, failed: 1 },
    ])
    expect(log.top({ by: 'failed', limit: 1 })[0]?.text).toBe('SELEKT')
    expect(log.stats()).toMatchObject({ statements: 3, statementsEvicted: 1 })
    for (const { totalMs, meanMs, count, latencyMs } of log.top()) {
      expect(meanMs * count).toBeCloseTo(totalMs)
      expect(latencyMs.p50).toBeLessThanOrEqual(latencyMs.p95)
      expect(latencyMs.p99).toBeLessThanOrEqual(latencyMs.max)
      expect(latencyMs.max).toBeGreaterThan(0)
    }
    expect(() => log.top({ by: 'age' as never })).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field: 'by' }))
    expect(() => log.top({ limit: -1 })).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field: 'limit' }))
  })

  test('a slow query is explained afterwards, with its values, and its explain is not a query', async () => {
    await using log = new SlowQueryLog(pool, { thresholdMs: 0, explain: true })
    const plans: [string, QueryPlan][] = []
    log.on('explained', ({ query, plan }) => plans.push([query.text, plan]))

    await pool.query('SELECT * FROM items WHERE note = $1', ['note 7'])
    expect(await log.flush()).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    await pool.query('SELECT * FROM items WHERE note = $1', ['note 8'])
    await log.flush()
    await pool.query('UPDATE items SET note = note WHERE id = 1')
    await log.flush()

    expect(plans).toHaveLength(1)
    expect(plans[0]?.[1]).toMatchObject({ analyzed: false, generic: false })
    expect(plans[0]?.[1].root.conditions.filter).toContain("'note 7'")
    expect(log.stats()).toMatchObject({ offered: 3, explained: 1, explainsSkipped: 0, explainsFailed: 0 })
  })

  test('explain can run the query again, and what cannot be explained is told of', async () => {
    await using log = new SlowQueryLog(pool, { thresholdMs: 0, explain: { analyze: true, repeatMs: 0 } })
    const plans: QueryPlan[] = []
    const failures: unknown[] = []
    log.on('explained', ({ plan }) => plans.push(plan))
    log.on('explainFailed', ({ error }) => failures.push(error))

    await pool.query('/* the items */ SELECT count(*) FROM items')
    await log.flush()
    await pool.query('WITH gone AS (DELETE FROM items WHERE id = 0 RETURNING id) SELECT * FROM gone')
    await log.flush()

    expect(plans).toMatchObject([{ analyzed: true, root: { rows: 1 } }])
    expect(failures).toMatchObject([{ code: 'ERR_STORE', retryable: false }])
    expect(log.stats()).toMatchObject({ explained: 1, explainsFailed: 1 })
  })

  test('explains never pile up, and never take a connection that somebody needs', async () => {
    const small = pools.make({ max: 1 })
    await using log = new SlowQueryLog(small, { thresholdMs: 0, explain: { repeatMs: 0, maxPerMinute: 2 } })

    // The one connection stays with its holder.
    const client = await small.connect()
    await client.query('SELECT 1')
    await log.flush()
    expect(log.stats()).toMatchObject({ explained: 0, explainsSkipped: 1 })
    client.release()

    await Promise.all([small.query('SELECT 2'), small.query('SELECT 3'), small.query('SELECT 4')])
    await log.flush()
    const { explained, explainsSkipped } = log.stats()
    expect(explained).toBeLessThanOrEqual(1)
    expect(explained + explainsSkipped).toBe(4)
    await until(() => small.idleCount === 1 && small.waitingCount === 0)
  })

  test('close gives everything back, while what is under way goes on', async () => {
    const own = pools.make()
    const warm = await own.connect()
    const plainQuery = warm.query
    warm.release()
    const log = new SlowQueryLog(own, { thresholdMs: 0 })
    const slow = heard(log)
    const [client, second] = [await own.connect(), await own.connect()]
    expect(Object.hasOwn(client, 'query')).toBe(true)
    const running = client.query('SELECT pg_sleep(0.05), 1 AS n')

    expect(await log.close()).toEqual({ drained: true, abandoned: 0 })

    expect(Object.hasOwn(own, 'connect')).toBe(false)
    expect(own.listenerCount('remove')).toBe(0)
    expect([Object.hasOwn(client, 'query'), Object.hasOwn(second, 'query')]).toEqual([false, false])
    expect(warm.query).toBe(plainQuery)
    expect((await running).rows).toMatchObject([{ n: 1 }])
    await client.query('SELECT 2')
    client.release()
    second.release()
    await own.query('SELECT 3')
    expect(log.stats()).toMatchObject({ offered: 1, succeeded: 1, pending: 0 })
    expect(slow).toHaveLength(1)
    expect(await log.close()).toEqual({ drained: true, abandoned: 0 })
  })

  test('a query that is under way at the close is not explained any more', async () => {
    const own = pools.make()
    const log = new SlowQueryLog(own, { thresholdMs: 0, explain: true })
    let plans = 0
    for (const event of ['explained', 'explainFailed'] as const) log.on(event, () => plans++)
    const running = own.query('SELECT pg_sleep(0.1)')
    await until(() => log.stats().pending === 1)

    await log.close()
    await running
    await log.flush()

    expect(log.stats()).toMatchObject({ reported: 1, explained: 0, explainsFailed: 0, explainsSkipped: 0 })
    expect(plans).toBe(0)
  })

  test('two logs see the same, and one that is closed under another only passes on', async () => {
    const own = pools.make()
    const first = new SlowQueryLog(own)
    const second = new SlowQueryLog(own)

    await own.query('SELECT 1')
    await first.close()
    await own.query('SELECT 2')
    await second.close()
    await own.query('SELECT 3')

    expect([first.stats().offered, second.stats().offered]).toEqual([1, 2])
  })

  test('a close with a deadline gives an explain up', async () => {
    const own = pools.make()
    const log = new SlowQueryLog(own, { thresholdMs: 0, explain: { analyze: true, timeoutMs: 60_000 } })
    const failures: unknown[] = []
    log.on('explainFailed', ({ error }) => failures.push(error))
    await own.query('SELECT pg_sleep(0.5)')
    const running = log.flush()

    const report = await log.close({ timeoutMs: 0 })

    expect(report).toEqual({ drained: false, abandoned: 1 })
    expect(await running).toEqual({ succeeded: 0, failed: 1, dropped: 0 })
    expect(failures).toMatchObject([{ code: 'ERR_CLOSED' }])
    await until(() => own.idleCount === own.totalCount)
  })

  test('listeners that fail change nothing', async () => {
    await using log = new SlowQueryLog(pool, { thresholdMs: 0, waitThresholdMs: 0 })
    log.on('slow', () => {
      throw new Error('a listener of the test')
    })
    log.on('starved', () => Promise.reject(new Error('a listener of the test')) as never)

    expect((await pool.query('SELECT 1 AS n')).rows).toEqual([{ n: 1 }])
    expect(log.stats().reported).toBe(1)
  })

  test('it sees what primitives do on the pool, connections that pipeline included', async () => {
    const own = createPostgresPool(pg, { config: { connectionString: server?.url } })
    const log = new SlowQueryLog(own)
    const store = new PostgresCounterStore(own)
    await store.createSchema()
    await store.increment([{ key: 'a', delta: 2 }], { batchId: 'b', attempt: 1, signal: new AbortController().signal })

    expect(log.top({ limit: 100 }).some(({ text }) => text.includes('spillway_counter'))).toBe(true)
    balanced(log)
    await log.close()
    await own.close()
  })

  test('connections that are closed are forgotten', async () => {
    const own = pools.make()
    await using log = new SlowQueryLog(own)
    const client = await own.connect()
    client.release(new Error('broken'))
    await until(() => !Object.hasOwn(client, 'query'))

    expect((await own.query('SELECT 1 AS n')).rows).toEqual([{ n: 1 }])
    expect(log.stats().offered).toBe(1)
  })
})

describe('SlowQueryLog on PGlite', () => {
  test('queries, scripts and those of transactions are seen, and given back by close', async () => {
    const log = new SlowQueryLog(embedded, { thresholdMs: 0 })
    const slow = heard(log)

    await embedded.exec('CREATE TABLE things (id int)')
    expect((await embedded.query('INSERT INTO things VALUES ($1), (2)', [1])).affectedRows).toBe(2)
    const inside = await embedded.transaction(async (transaction) => {
      await transaction.exec('SELECT 1')
      return (await transaction.query<{ n: number }>('SELECT count(*)::int AS n FROM things')).rows
    })
    expect((await embedded.sql`SELECT id FROM things WHERE id = ${2}`).rows).toEqual([{ id: 2 }])
    await expect(embedded.query('SELEKT')).rejects.toMatchObject({ code: '42601' })
    await log.close()
    await embedded.query('SELECT 2')

    expect(inside).toEqual([{ n: 2 }])
    expect(slow.map(({ text, rows, failed }) => [text, rows, failed])).toEqual([
      ['CREATE TABLE things (id int)', expect.anything(), false],
      ['INSERT INTO things VALUES ($1), (2)', 2, false],
      ['SELECT 1', 1, false],
      ['SELECT count(*)::int AS n FROM things', 1, false],
      ['SELECT id FROM things WHERE id = $1', 1, false],
      ['SELEKT', undefined, true],
    ])
    for (const method of ['query', 'exec', 'transaction']) expect(Object.hasOwn(embedded, method)).toBe(false)
    balanced(log)
  })

  test('a slow query is explained', async () => {
    await using log = new SlowQueryLog(embedded, { thresholdMs: 0, explain: true })
    const plans: QueryPlan[] = []
    log.on('explained', ({ plan }) => plans.push(plan))

    await embedded.query('SELECT * FROM generate_series(1, $1::int)', [10])
    await log.flush()

    expect(plans).toMatchObject([{ root: { type: 'Function Scan' } }])
    expect(log.stats()).toMatchObject({ offered: 1, explained: 1 })
  })
})

test.each([
  ['database', () => new SlowQueryLog({} as never)],
  ['database', () => new SlowQueryLog(new pg.Client() as never)],
  ['options', () => new SlowQueryLog(embedded, null as never)],
  ['thresholdMs', () => new SlowQueryLog(embedded, { thresholdMs: '10' as never })],
  ['waitThresholdMs', () => new SlowQueryLog(embedded, { waitThresholdMs: -1 })],
  ['sampleRate', () => new SlowQueryLog(embedded, { sampleRate: 2 })],
  ['maxPerMinute', () => new SlowQueryLog(embedded, { maxPerMinute: 0.5 })],
  ['values', () => new SlowQueryLog(embedded, { values: 1 as never })],
  ['explain', () => new SlowQueryLog(embedded, { explain: 'yes' as never })],
  ['explain.analyze', () => new SlowQueryLog(embedded, { explain: { analyze: 1 as never } })],
  ['explain.maxPerMinute', () => new SlowQueryLog(embedded, { explain: { maxPerMinute: -1 } })],
  ['explain.repeatMs', () => new SlowQueryLog(embedded, { explain: { repeatMs: Number.NaN } })],
  ['explain.timeoutMs', () => new SlowQueryLog(embedded, { explain: { timeoutMs: 0 } })],
  ['maxStatements', () => new SlowQueryLog(embedded, { maxStatements: 0 })],
  ['maxTextLength', () => new SlowQueryLog(embedded, { maxTextLength: 0 })],
  ['clock', () => new SlowQueryLog(embedded, { clock: {} as never })],
])('a wrong %s is an OptionError, and nothing is replaced', (field, make) => {
  expect(make).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field }))
  expect(Object.hasOwn(embedded, 'query')).toBe(false)
})
