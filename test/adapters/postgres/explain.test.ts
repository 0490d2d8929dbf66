import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import { explain, type PostgresDatabase, planNodes } from 'spillway/postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { embeddedPostgres, startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'
import { until } from './until.ts'

const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
process.on('unhandledRejection', onUnhandled)

const server = await startPostgres()
// The newest there is, beside what the machine has.
const newest = process.env['DATABASE_URL'] ? undefined : await startPostgres([embeddedPostgres], { own: true })
const embedded = new PGlite()
// It keeps the process busy until it is there, and the first test shouldn't wait for that.
await embedded.waitReady
const pools = poolsOf(server?.url)
const newestPools = poolsOf(newest?.url)

afterAll(async () => {
  await Promise.all([pools.end(), newestPools.end(), embedded.close()])
  await Promise.all([server?.stop(), newest?.stop()])
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled).toEqual([])
})

const schema = `
  CREATE TABLE orders (id int PRIMARY KEY, status text NOT NULL, note text NOT NULL);
  INSERT INTO orders SELECT n, CASE WHEN n % 100 = 0 THEN 'open' ELSE 'done' END, repeat('x', 50) FROM generate_series(1, 20000) AS n;
  CREATE SEQUENCE numbers;
  ANALYZE orders;`

const databases: [string, () => PostgresDatabase & { query(text: string): Promise<{ rows: unknown[] }> }][] = [
  ['PGlite', () => embedded],
]
if (server !== undefined) databases.push(['a server', () => pools.make()])
if (newest !== undefined) databases.push(['the newest server', () => newestPools.make()])

describe.each(databases)('explain on %s', (_, open) => {
  let database: ReturnType<typeof open>
  const first = async (text: string): Promise<unknown> =>
    Object.values((await database.query(text)).rows[0] as Record<string, unknown>)[0]

  beforeAll(async () => {
    database = open()
    if ('exec' in database) await database.exec(schema)
    else await database.query(schema)
  })

  test('by default it plans and does not run', async () => {
    const plan = await explain(database, { text: "SELECT nextval('numbers') FROM orders WHERE id = $1", values: [7] })

    expect(plan).toMatchObject({ analyzed: false, generic: false, executionMs: undefined })
    expect(planNodes(plan).some(({ index }) => index === 'orders_pkey')).toBe(true)
    expect(plan.worst).toEqual({ cost: expect.objectContaining({ sentence: expect.stringContaining('orders_pkey') }) })
    expect(await first('SELECT is_called FROM numbers')).toBe(false)
  })

  test('a statement that is run tells rows, times, pages and what a filter threw away', async () => {
    const plan = await explain(
      database,
      { text: 'SELECT * FROM orders WHERE status = $1', values: ['open'] },
      { analyze: true },
    )

    const { root } = plan
    expect(root).toMatchObject({
      type: 'Seq Scan',
      schema: 'public',
      relation: 'orders',
      rows: 200,
      loops: 1,
      rowsRemovedByFilter: 19_800,
      neverExecuted: false,
      spilledBytes: 0,
    })
    expect(root.conditions.filter).toContain("orders.status = 'open'")
    expect(root.totalMs).toBeGreaterThan(0)
    expect(root.ownMs).toBe(root.totalMs)
    expect((root.buffers?.hit ?? 0) + (root.buffers?.read ?? 0)).toBeGreaterThan(100)
    expect(plan.executionMs).toBeGreaterThan(0)
    expect(plan.worst.filter?.sentence).toMatch(
      /^Seq Scan on public\.orders read 20000 rows and threw 19800 away by .*'open'/,
    )
    expect(plan.worst.time?.node).toBe(root)
    expect(JSON.parse(JSON.stringify(plan))).toMatchObject({ analyzed: true })
  })

  test('a sort that does not fit work_mem is named, with what it wrote', async () => {
    const text = `SELECT a.note, a.id FROM orders a, generate_series(1, 10) ORDER BY a.note, a.id DESC`

    const plan = await explain(database, { text }, { analyze: true })

    const sort = planNodes(plan).find(({ type }) => type === 'Sort')
    expect(sort?.sort).toMatchObject({ onDisk: true, method: expect.stringContaining('external') })
    expect(plan.worst.spill?.node).toBe(sort)
    expect(plan.worst.spill?.amount).toBeGreaterThan(1_000_000)
    expect(plan.worst.spill?.sentence).toMatch(/^Sort wrote \d+ kB to temporary files \(external .*work_mem$/)
  })

  test('an estimate that is far off is named, but none below a LIMIT that had enough', async () => {
    const text = 'SELECT * FROM generate_series(1, $1::int) AS n JOIN orders ON orders.id = n WHERE n % 2 = 0'

    const off = await explain(
      database,
      { text: `${text} AND n % 3 = 0 AND n % 5 = 0`, values: [20_000] },
      { analyze: true },
    )
    const limited = await explain(
      database,
      { text: `SELECT * FROM (${text}) x LIMIT 1`, values: [20_000] },
      { analyze: true },
    )

    expect(off.worst.misestimate?.amount).toBeGreaterThanOrEqual(10)
    expect(off.worst.misestimate?.sentence).toMatch(/ gave \d+ rows where \d+ were expected, .* times (more|fewer)/)
    expect(planNodes(limited).some(({ mayStopEarly }) => mayStopEarly)).toBe(true)
    const found = limited.worst.misestimate
    if (found?.node.mayStopEarly) expect(found.node.actualRows).toBeGreaterThan(found.node.plannedRows)
  })

  test('nodes that were not needed are told from those that gave nothing', async () => {
    const text = 'SELECT * FROM orders a JOIN orders b ON b.note = a.note WHERE a.id = -1'

    const plan = await explain(database, { text }, { analyze: true })

    const idle = planNodes(plan).filter(({ neverExecuted }) => neverExecuted)
    expect(idle.length).toBeGreaterThan(0)
    expect(idle[0]).toMatchObject({ loops: 0, rows: undefined, totalMs: undefined, misestimate: undefined })
  })

  test.each(['materialized expressions', 'scalar subqueries'])('%s count where they are read', async (what) => {
    const text =
      what === 'scalar subqueries'
        ? 'SELECT count(*) FROM orders WHERE id > (SELECT avg(id) FROM orders WHERE note LIKE $1)'
        : `WITH c AS MATERIALIZED (SELECT * FROM orders WHERE note LIKE $1) SELECT count(*) FROM c a JOIN c b ON a.id = b.id`

    const plan = await explain(database, { text, values: ['x%'] }, { analyze: true })

    const nodes = planNodes(plan)
    const sum = nodes.reduce((total, { ownMs = 0 }) => total + ownMs, 0)
    expect(nodes.some(({ subplan }) => subplan !== undefined)).toBe(true)
    expect(sum).toBeCloseTo(plan.root.totalMs ?? 0, 6)
    expect(Math.min(...nodes.map(({ ownMs = 0 }) => ownMs))).toBeGreaterThanOrEqual(0)
    // The subplan's scan keeps its time: nothing was subtracted twice.
    const scan = nodes.find(({ conditions }) => conditions.filter?.includes('~~'))
    expect(scan?.ownMs).toBeCloseTo(scan?.totalMs ?? 0, 6)
  })

  test('without timing there are rows and no times', async () => {
    const plan = await explain(database, { text: 'SELECT count(*) FROM orders' }, { analyze: true, timing: false })

    expect(plan.root).toMatchObject({ rows: 1, totalMs: undefined, ownMs: undefined })
    expect(plan.worst.time).toBeUndefined()
  })

  test('without values a statement with parameters gets its generic plan, and leaves no prepared statement', async () => {
    const plan = await explain(database, { text: 'SELECT * FROM orders WHERE id = $1 AND status = $2' })

    expect(plan.generic).toBe(true)
    expect(plan.root.conditions.index).toBe('(orders.id = $1)')
    expect(plan.settings).not.toHaveProperty('plan_cache_mode')
    await expect(explain(database, { text: 'SELECT * FROM nowhere WHERE id = $1' })).rejects.toMatchObject({
      code: 'ERR_STORE',
    })
    // One that can be prepared and not be planned.
    await expect(explain(database, { text: 'SELECT 1 / 0 FROM orders WHERE id = $1' })).rejects.toMatchObject({
      code: 'ERR_STORE',
    })
    expect(await first('SELECT count(*)::int FROM pg_prepared_statements')).toBe(0)
    expect(await explain(database, { text: "SELECT '$1'" })).toMatchObject({ generic: false })
  })

  test('a statement that writes is planned, refused, or run and rolled back', async () => {
    const statement = { text: 'DELETE FROM orders WHERE id < $1', values: [100] }

    const planned = await explain(database, statement)
    const refused = explain(database, statement, { analyze: true })
    await expect(refused).rejects.toMatchObject({
      code: 'ERR_STORE',
      retryable: false,
      outcomeUnknown: false,
      message: expect.stringContaining('writes: true'),
    })
    const run = await explain(database, statement, { analyze: true, writes: true })

    expect(planned.root).toMatchObject({
      type: 'ModifyTable',
      operation: 'Delete',
      label: expect.stringContaining('(Delete)'),
    })
    expect(run.root.children[0]).toMatchObject({ rows: 99 })
    expect(await first('SELECT count(*)::int FROM orders')).toBe(20_000)
  })

  test('a function that writes is refused too', async () => {
    const refused = explain(database, { text: "SELECT nextval('numbers')" }, { analyze: true })

    await expect(refused).rejects.toMatchObject({ code: 'ERR_STORE', retryable: false })
    expect(await first('SELECT is_called FROM numbers')).toBe(false)
  })

  test('triggers are told of', async () => {
    await database.query(`CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'`)
    await database.query('CREATE TRIGGER passing BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION pass()')

    const plan = await explain(
      database,
      { text: 'UPDATE orders SET note = note WHERE id < 11' },
      { analyze: true, writes: true },
    )

    expect(plan.triggers).toEqual([{ name: 'passing', relation: 'orders', calls: 10, timeMs: expect.any(Number) }])
  })

  test.each([
    ['SELECT 1; DROP TABLE orders', 'one at a time'],
    ['SELECT $1::int; DROP TABLE orders', 'one at a time'],
    ['SELECT 1; COMMIT; DROP TABLE orders', 'one at a time'],
    ['ANALYZE DELETE FROM orders', 'have a plan'],
    ['VACUUM orders', 'have a plan'],
    ['CREATE TABLE x ()', 'have a plan'],
  ])('%s is refused, and nothing is done', async (text, hint) => {
    for (const analyze of [false, true]) {
      await expect(explain(database, { text }, { analyze, writes: true })).rejects.toMatchObject({
        code: 'ERR_STORE',
        retryable: false,
        outcomeUnknown: false,
        message: expect.stringContaining(hint),
        cause: expect.objectContaining({ code: '42601' }),
      })
    }
    expect(await first('SELECT count(*)::int FROM orders')).toBe(20_000)
  })

  test('values that do not fit are an error, and the database goes on', async () => {
    const statement = { text: 'SELECT $1::int + $2::int', values: [1] }

    await expect(explain(database, statement)).rejects.toMatchObject({ code: 'ERR_STORE', retryable: false })
    await expect(explain(database, { text: 'SELECT $1::int' }, { analyze: true })).rejects.toMatchObject({
      code: 'ERR_STORE',
    })
    expect(await first('SELECT 1')).toBe(1)
  })

  test('an aborted signal rejects with its reason, before and in between', async () => {
    const reason = new Error('enough')
    const before = explain(database, { text: 'SELECT 1' }, { signal: AbortSignal.abort(reason) })
    const controller = new AbortController()
    const during = explain(database, { text: 'SELECT 1' }, { signal: controller.signal })
    controller.abort(reason)

    await expect(before).rejects.toBe(reason)
    await expect(during).rejects.toBe(reason)
    expect(await first('SELECT 1')).toBe(1)
  })
})

describe.skipIf(server === undefined)('explain in a pool', () => {
  const running = (pool: pg.Pool): Promise<number> =>
    pool
      .query(
        "SELECT count(*)::int AS n FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()",
      )
      .then(({ rows }) => rows[0].n)

  test('a statement that takes too long is ended by the server', async () => {
    const pool = pools.make()

    const late = explain(pool, { text: 'SELECT pg_sleep(60)' }, { analyze: true, timeoutMs: 50 })

    await expect(late).rejects.toMatchObject({ code: 'ERR_TIMEOUT', timeoutMs: 50, outcomeUnknown: false })
    expect(await running(pool)).toBe(0)
    // The limit was the transaction's own.
    expect((await pool.query('SHOW statement_timeout')).rows).toEqual([{ statement_timeout: '0' }])
  })

  test('an abort cancels what the server runs', async () => {
    const pool = pools.make({ max: 2 })
    const controller = new AbortController()
    const given = explain(
      pool,
      { text: 'SELECT pg_sleep(60)' },
      { analyze: true, signal: controller.signal, timeoutMs: 70_000 },
    )
    await until(async () => (await running(pool)) === 1)

    controller.abort()

    await expect(given).rejects.toBe(controller.signal.reason)
    await until(async () => (await running(pool)) === 0 && pool.idleCount === pool.totalCount, 5000)
    expect(pool.totalCount).toBe(2)
  })

  test('an abort in a pool of one connection waits for the limit, and hits nobody else', async () => {
    const pool = pools.make({ max: 1 })
    const controller = new AbortController()
    const given = explain(
      pool,
      { text: 'SELECT pg_sleep(60)' },
      { analyze: true, signal: controller.signal, timeoutMs: 2_000 },
    )
    await until(async () => (await running(pools.make())) === 1)

    controller.abort()
    await expect(given).rejects.toBe(controller.signal.reason)

    expect((await pool.query('SELECT pg_sleep(0.01), 1 AS n')).rows).toMatchObject([{ n: 1 }])
    await until(() => pool.idleCount === 1 && pool.waitingCount === 0)
  })

  test('a query_timeout of the pool that ends sooner leaves nobody in the transaction', async () => {
    const pool = pools.make({ max: 1, query_timeout: 150 })

    await expect(explain(pool, { text: 'SELECT pg_sleep(1)' }, { analyze: true })).rejects.toThrow('Query read timeout')

    expect((await pool.query('SHOW transaction_read_only')).rows).toEqual([{ transaction_read_only: 'off' }])
  })

  test('a session lock that the statement took ends with its connection, and only that', async () => {
    const pool = pools.make({ max: 1, idleTimeoutMillis: 0 })
    const pid = async (): Promise<unknown> => (await pool.query('SELECT pg_backend_pid() AS pid')).rows[0].pid
    const before = await pid()
    await explain(pool, { text: 'SELECT pg_advisory_xact_lock(4711)' }, { analyze: true })
    expect(await pid()).toBe(before)

    await explain(pool, { text: 'SELECT pg_advisory_lock(4711)' }, { analyze: true })

    const other = pools.make({ max: 1 })
    await until(async () => (await other.query('SELECT pg_try_advisory_lock(4711) AS free')).rows[0].free === true)
    expect(await pid()).not.toBe(before)
  })

  test('a prepared statement that cannot be taken away again goes with its connection', async () => {
    const pool = pools.make({ max: 1 })
    const client = await pool.connect()
    const query = client.query.bind(client) as (...args: unknown[]) => unknown
    Object.assign(client, {
      query: (statement: { text?: string }, ...rest: unknown[]) =>
        query(statement.text?.startsWith('ROLLBACK TO') ? { text: 'SELECT 1 / 0' } : statement, ...rest),
    })
    client.release()

    await explain(pool, { text: 'SELECT $1::int' })

    expect((await pool.query('SELECT name FROM pg_prepared_statements')).rows).toEqual([])
  })

  test('parallel processes count as the time that passed', async () => {
    const pool = pools.make({ max: 1 })
    await pool.query(`SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
      SET max_parallel_workers_per_gather = 2`)

    const plan = await explain(
      pool,
      { text: 'SELECT count(*) FROM orders WHERE note > $1', values: ['a'] },
      { analyze: true },
    )

    const gather = planNodes(plan).find(({ type }) => type.startsWith('Gather'))
    const scan = planNodes(plan).find(({ type }) => type === 'Seq Scan')
    expect(gather?.workersPlanned).toBe(2)
    expect(scan).toMatchObject({ label: expect.stringMatching(/^Parallel Seq Scan/) })
    // The server tells averages of loops.
    expect(Math.abs((scan?.rows ?? 0) - 20_000)).toBeLessThan(3)
    expect(scan?.totalMs).toBeLessThanOrEqual((gather?.totalMs ?? 0) * 1.5)
    const sum = planNodes(plan).reduce((total, { ownMs = 0 }) => total + ownMs, 0)
    expect(sum).toBeCloseTo(plan.root.totalMs ?? 0, 6)
    expect(plan.settings).toMatchObject({ parallel_setup_cost: '0' })
  })

  test('without a connection nothing was sent', async () => {
    const pool = new pg.Pool({ host: '127.0.0.1', port: 1, connectionTimeoutMillis: 2000 })

    await expect(explain(pool, { text: 'SELECT 1' })).rejects.toMatchObject({
      code: 'ERR_STORE',
      outcomeUnknown: false,
    })

    await pool.end()
  })
})

test.each([
  ['database', () => explain({} as never, { text: 'SELECT 1' })],
  ['statement', () => explain(embedded, undefined as never)],
  ['text', () => explain(embedded, { text: ' ' })],
  ['text', () => explain(embedded, { text: 1 as never })],
  ['values', () => explain(embedded, { text: 'SELECT 1', values: 'a' as never })],
  ['analyze', () => explain(embedded, { text: 'SELECT 1' }, { analyze: 1 as never })],
  ['writes', () => explain(embedded, { text: 'SELECT 1' }, { writes: 'no' as never })],
  ['timing', () => explain(embedded, { text: 'SELECT 1' }, { timing: null as never })],
  ['timeoutMs', () => explain(embedded, { text: 'SELECT 1' }, { timeoutMs: 0 })],
  ['signal', () => explain(embedded, { text: 'SELECT 1' }, { signal: {} as never })],
  ['options', () => explain(embedded, { text: 'SELECT 1' }, null as never)],
])('a wrong %s is an OptionError, as a rejection', async (field, call) => {
  await expect(call()).rejects.toMatchObject({ code: 'ERR_OPTION', field })
})
