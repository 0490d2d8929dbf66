import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import { isSpillwayError } from 'spillway'
import { createPostgresPool, QueryBatcher } from 'spillway/postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { readyForQuery, TcpProxy } from '../../servers/tcp-proxy.ts'
import { until } from './until.ts'

const server = await startPostgres()
const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
process.on('unhandledRejection', onUnhandled)

const embedded = new PGlite()

afterAll(async () => {
  await embedded.close()
  await server?.stop()
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled).toEqual([])
})

const codeOf = (outcome: PromiseSettledResult<unknown> | undefined): unknown =>
  outcome?.status === 'rejected' ? (outcome.reason as { code?: unknown }).code : outcome?.status

describe.skipIf(server === undefined)('QueryBatcher on pipelining clients', () => {
  const makePool = (port?: number, maxConnections = 3) => {
    const url = new URL(server?.url ?? 'postgres://localhost')
    if (port !== undefined) url.port = String(port)
    return createPostgresPool(pg, { maxConnections, config: { connectionString: url.href } })
  }
  let pool: ReturnType<typeof makePool>

  beforeAll(async () => {
    pool = makePool()
    await pool.query('CREATE TABLE rows (id int PRIMARY KEY, note text NOT NULL)')
  })
  afterAll(() => pool.close())

  test('queries of one turn share a trip, and each gets its own rows', async () => {
    await using queries = new QueryBatcher(pool)

    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, i) => queries.query<{ n: number }>('SELECT $1::int AS n', [i])),
    )

    expect(answers.map(({ rows }) => rows[0]?.n)).toEqual(Array.from({ length: 50 }, (_, i) => i))
    expect(queries.stats()).toMatchObject({ batches: 1, succeeded: 50 })
  })

  test('a query that fails fails alone, whatever is wrong with it', async () => {
    await using queries = new QueryBatcher(pool)

    const outcomes = await Promise.allSettled([
      queries.query('INSERT INTO rows VALUES (1, $1)', ['a']),
      queries.query('INSERT INTO rows VALUES (1, $1)', ['again']),
      queries.query('SELECT nonsense'),
      queries.query('SELEKT 1'),
      queries.query('SELECT 1 / $1::int', [0]),
      queries.query('SELECT 1; SELECT 2'),
      queries.query('SELECT $1::int', []),
      queries.query('INSERT INTO rows VALUES (2, $1)', ['b']),
      queries.query<{ count: number }>('SELECT count(*)::int FROM rows'),
    ])

    expect(outcomes.map(codeOf)).toEqual(['fulfilled', ...Array(6).fill('ERR_STORE'), 'fulfilled', 'fulfilled'])
    for (const outcome of outcomes.slice(1, 7)) {
      const { reason } = outcome as PromiseRejectedResult
      expect(reason).toMatchObject({ outcomeUnknown: false })
      expect((reason as Error).cause).toBeInstanceOf(Error)
    }
    expect((outcomes[1] as PromiseRejectedResult).reason).toMatchObject({ retryable: false })
    expect(outcomes[7]).toMatchObject({ value: { rowCount: 1, rows: [] } })
    expect(outcomes[8]).toMatchObject({ value: { rows: [{ count: 2 }] } })
    expect(queries.stats()).toMatchObject({ batches: 1, succeeded: 3, failed: 6 })
  })

  test('queries of one batch run in their order', async () => {
    await pool.query('CREATE TABLE steps (n int PRIMARY KEY)')
    await using queries = new QueryBatcher(pool, { concurrency: 1 })

    const answers = await Promise.all(
      Array.from({ length: 200 }, () =>
        queries.query<{ n: number }>('INSERT INTO steps SELECT count(*) FROM steps RETURNING n'),
      ),
    )

    expect(answers.map(({ rows }) => rows[0]?.n)).toEqual(Array.from({ length: 200 }, (_, i) => i))
  })

  test.each([
    'BEGIN',
    'begin read only',
    ' ; COMMIT',
    '-- a\n/* b /* c */ */ ROLLBACK',
    'START TRANSACTION',
    "PREPARE TRANSACTION 'x'",
    'SAVEPOINT a',
    'COPY rows FROM STDIN',
  ])('%j is refused before anything is sent', async (text) => {
    await using queries = new QueryBatcher(pool)

    await expect(queries.query(text)).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'text' })
    expect(queries.stats()).toMatchObject({ rejected: 1, batches: 0 })
  })

  test.each([['PREPARE a AS SELECT 1'], ['/* BEGIN */ SELECT 1'], ['WITH x AS (SELECT 1) SELECT * FROM x']])(
    '%j is a query like others',
    async (text) => {
      await using queries = new QueryBatcher(pool)

      await expect(queries.query(text)).resolves.toBeDefined()
    },
  )

  test('values become what pg makes of them, and are those of the call', async () => {
    await using queries = new QueryBatcher(pool)
    const object = { a: [1] }
    const values = [object, [1, 2], new Date(0), Buffer.from('x'), null, undefined, true, 2n]

    const answer = queries.query(
      'SELECT $1::jsonb a, $2::int[] b, $3::timestamptz c, $4::bytea d, $5::int e, $6::int f, $7::bool g, $8::int h',
      values,
    )
    object.a = []
    values.length = 0

    expect((await answer).rows).toEqual([
      { a: { a: [1] }, b: [1, 2], c: new Date(0), d: Buffer.from('x'), e: null, f: null, g: true, h: 2 },
    ])
  })

  test('what cannot be sent fails alone', async () => {
    await using queries = new QueryBatcher(pool)
    const circle: Record<string, unknown> = {}
    circle['self'] = circle
    const throws = {
      toPostgres: () => {
        throw new Error('no')
      },
    }

    const outcomes = await Promise.allSettled([
      queries.query('SELECT 1'),
      queries.query('SELECT $1::json', [circle]),
      queries.query('SELECT $1::text', [throws]),
      queries.query(undefined as never),
      queries.query('SELECT 1', 1 as never),
      queries.query('SELECT 1'),
    ])

    expect(outcomes.map(codeOf)).toEqual([
      'fulfilled',
      'ERR_OPTION',
      'ERR_STORE',
      'ERR_OPTION',
      'ERR_OPTION',
      'fulfilled',
    ])
  })

  test('a query whose signal aborts is taken out, or gives up its answer alone', async () => {
    await using queries = new QueryBatcher(pool)
    const before = new AbortController()
    const queued = new AbortController()
    const sent = new AbortController()
    const reason = new Error('gone')
    before.abort(reason)

    const refused = queries.query('INSERT INTO rows VALUES (100, $1)', ['x'], { signal: before.signal })
    const withdrawn = queries.query('INSERT INTO rows VALUES (101, $1)', ['x'], { signal: queued.signal })
    const slow = queries.query('SELECT pg_sleep(0.3)', [], { signal: sent.signal })
    const other = queries.query('SELECT 1 AS one')
    queued.abort(reason)
    await until(() => queries.stats().inFlight === 2)
    sent.abort(reason)

    await expect(refused).rejects.toBe(reason)
    await expect(withdrawn).rejects.toBe(reason)
    await expect(slow).rejects.toBe(reason)
    expect((await other).rows).toEqual([{ one: 1 }])
    expect((await pool.query('SELECT FROM rows WHERE id >= 100')).rowCount).toBe(0)
    expect(queries.stats()).toMatchObject({ offered: 4, rejected: 1, aborted: 2, succeeded: 1 })
  })

  test('close settles what was accepted and refuses more', async () => {
    const queries = new QueryBatcher(pool)
    const slow = queries.query('SELECT pg_sleep(0.1)')
    const queued = Array.from({ length: 20 }, () => queries.query('SELECT 1'))

    const closing = queries.close()

    await expect(queries.query('SELECT 1')).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    expect((await Promise.all([slow, ...queued])).length).toBe(21)
  })

  test('at the deadline of close, what is in flight is unknown, and the connection is given up', async () => {
    await using own = makePool(undefined, 1)
    const queries = new QueryBatcher(own, { concurrency: 1, maxBatchSize: 2 })
    const outcomes = Promise.allSettled(
      ['SELECT pg_sleep(30)', 'SELECT 1', 'SELECT 1'].map((text) => queries.query(text)),
    )
    await until(() => queries.stats().inFlight === 2)

    expect(await queries.close({ timeoutMs: 20 })).toEqual({ drained: false, abandoned: 3 })

    const errors = (await outcomes).map((outcome) => (outcome as PromiseRejectedResult).reason)
    expect(errors.map((error) => [error.code, error.outcomeUnknown])).toEqual([
      ['ERR_CLOSED', true],
      ['ERR_CLOSED', true],
      ['ERR_CLOSED', false],
    ])
    expect((await own.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }])
  })

  test('after timeoutMs, what was answered keeps its answer, and the rest is told', async () => {
    await using own = makePool(undefined, 1)
    await using queries = new QueryBatcher(own, { timeoutMs: 500 })

    const [first, slow, behind] = await Promise.allSettled([
      queries.query('SELECT 1 AS one'),
      queries.query('SELECT pg_sleep(30)'),
      queries.query('SELECT 2'),
    ])

    expect(first).toMatchObject({ value: { rows: [{ one: 1 }] } })
    expect(slow).toMatchObject({ reason: { code: 'ERR_TIMEOUT', outcomeUnknown: true } })
    expect(behind).toMatchObject({ reason: { code: 'ERR_TIMEOUT', outcomeUnknown: true } })
    expect(queries.stats()).toMatchObject({ timeouts: 1, inFlightBatches: 0 })
    expect((await queries.query('SELECT 3 AS three')).rows).toEqual([{ three: 3 }])
  })

  test('a timeout while there is no connection says that nothing was sent', async () => {
    await using own = makePool(undefined, 1)
    await using queries = new QueryBatcher(own, { timeoutMs: 50 })
    const taken = await own.connect()

    await expect(queries.query('SELECT 1')).rejects.toMatchObject({ code: 'ERR_TIMEOUT', outcomeUnknown: false })
    taken.release()

    expect((await queries.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }])
  })

  test('a connection lost mid-batch: what was answered keeps its answer, the rest is unknown', async () => {
    await using own = makePool(undefined, 1)
    await using queries = new QueryBatcher(own)
    const outcomes = Promise.allSettled([
      queries.query('SELECT 1'),
      queries.query("SELECT pg_sleep(30), 'to be killed'"),
      queries.query("INSERT INTO rows VALUES (200, 'x')"),
      queries.query('SELECT 2'),
    ])
    await until(async () => {
      const { rowCount } = await pool.query(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE query LIKE '%to be killed%' AND pid <> pg_backend_pid() AND state = 'active'`,
      )
      return rowCount === 1
    })

    const [first, ...rest] = await outcomes
    expect(first?.status).toBe('fulfilled')
    for (const outcome of rest) expect(outcome).toMatchObject({ reason: { code: 'ERR_STORE', outcomeUnknown: true } })
    expect((await queries.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }])
  })

  test('an answer lost on the way leaves the outcome open, though the work was done', async () => {
    const proxy = await TcpProxy.start(Number(new URL(server?.url ?? '').port))
    const own = makePool(proxy.port, 1)
    await using queries = new QueryBatcher(own)
    proxy.cutOnce({ request: (chunk) => chunk.includes('INSERT INTO rows'), answer: readyForQuery })

    const lost = queries.query("INSERT INTO rows VALUES (300, 'x')")

    await expect(lost).rejects.toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true, retryable: true })
    expect((await queries.query('SELECT FROM rows WHERE id = 300')).rowCount).toBe(1)
    await own.close()
    await proxy.stop()
  })

  test('no server: nothing was sent', async () => {
    await using own = makePool(1, 1)
    await using queries = new QueryBatcher(own)
    const failed: number[] = []
    queries.on('failed', ({ queries }) => void failed.push(queries.length))

    const outcomes = await Promise.allSettled([queries.query('SELECT 1'), queries.query('SELECT 2')])

    for (const outcome of outcomes) {
      expect(outcome).toMatchObject({ reason: { code: 'ERR_STORE', outcomeUnknown: false, retryable: true } })
    }
    expect(failed).toEqual([2])
  })

  test('a huge batch, with large values and answers', async () => {
    await using queries = new QueryBatcher(pool, { maxBatchSize: 5000, capacity: 5000 })
    const text = 'x'.repeat(4000)

    const answers = await Promise.all(
      Array.from({ length: 5000 }, (_, i) => queries.query<{ t: string }>('SELECT $1::text AS t', [`${i}${text}`])),
    )

    expect(answers.every(({ rows }, i) => rows[0]?.t === `${i}${text}`)).toBe(true)
    expect(queries.stats().batches).toBe(1)
  })

  test('many callers on few connections', async () => {
    await using queries = new QueryBatcher(pool, { maxBatchSize: 20, concurrency: 3 })

    const outcomes = await Promise.allSettled(
      Array.from({ length: 1000 }, (_, i) => queries.query<{ n: number }>('SELECT 100 / $1::int AS n', [i % 7])),
    )

    outcomes.forEach((outcome, i) => {
      if (i % 7 === 0) expect(outcome.status).toBe('rejected')
      else expect(outcome).toMatchObject({ value: { rows: [{ n: Math.trunc(100 / (i % 7)) }] } })
    })
    const { offered, succeeded, failed, pending } = queries.stats()
    expect({ offered, succeeded, failed, pending }).toEqual({ offered: 1000, succeeded: 857, failed: 143, pending: 0 })
    expect(pool.totalCount).toBeLessThanOrEqual(3)
  })

  test('a pool whose clients do not pipeline is refused', async () => {
    const plain = new pg.Pool({ connectionString: server?.url })

    expect(() => new QueryBatcher(plain)).toThrow(/createPostgresPool/)
    await plain.end()
  })
})

test('on PGlite queries run one after the other, each with its own outcome', async () => {
  await using queries = new QueryBatcher(embedded)

  const outcomes = await Promise.allSettled([
    queries.query('CREATE TABLE rows (id int PRIMARY KEY)'),
    queries.query('INSERT INTO rows VALUES ($1)', [1]),
    queries.query('INSERT INTO rows VALUES ($1)', [1]),
    queries.query<{ id: number }>('SELECT id FROM rows'),
    queries.query('SELECT $1::jsonb AS j', [{ a: 1 }]),
  ])

  expect(outcomes.map(codeOf)).toEqual(['fulfilled', 'fulfilled', 'ERR_STORE', 'fulfilled', 'fulfilled'])
  expect(outcomes[1]).toMatchObject({ value: { rowCount: 1 } })
  expect(outcomes[3]).toMatchObject({ value: { rows: [{ id: 1 }], rowCount: 1 } })
  expect(outcomes[4]).toMatchObject({ value: { rows: [{ j: { a: 1 } }] } })
})

test.each([[undefined], [null], [{}], [new pg.Client()]])('a database that is none is refused: %s', (database) => {
  try {
    new QueryBatcher(database as never)
    expect.unreachable()
  } catch (error) {
    expect(isSpillwayError(error, 'ERR_OPTION')).toBe(true)
  }
})

test.each([
  ['maxBatchSize', 0],
  ['maxWaitMs', -1],
  ['concurrency', null],
  ['capacity', 1.5],
  ['overflow', 'explode'],
  ['timeoutMs', 0],
  ['eager', 1],
])('a wrong %s throws', (option, value) => {
  expect(() => new QueryBatcher(embedded, { [option]: value })).toThrow(option)
})
