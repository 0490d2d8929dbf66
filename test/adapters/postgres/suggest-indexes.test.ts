import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import { explain, type IndexReport, type IndexSuggestion, planNodes, suggestIndexes } from 'spillway/postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { embeddedPostgres, startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'
import { until } from './until.ts'

const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
process.on('unhandledRejection', onUnhandled)

const server = await startPostgres()
// The newest there is, with the extension that counts statements.
const counting = await startPostgres([embeddedPostgres], {
  own: true,
  settings: { shared_preload_libraries: 'pg_stat_statements' },
})
const embedded = new PGlite()
// It keeps the process busy until it is there, and the first test shouldn't wait for that.
await embedded.waitReady
const pools = poolsOf(server?.url)
const countingPools = poolsOf(counting?.url)

afterAll(async () => {
  await Promise.all([pools.end(), countingPools.end(), embedded.close()])
  await Promise.all([server?.stop(), counting?.stop()])
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled).toEqual([])
})

const schema = [
  'CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL)',
  `CREATE TABLE orders (id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customers, status text NOT NULL,
     kind varchar(10) NOT NULL, flag boolean NOT NULL, created_at timestamptz NOT NULL, "Mixed Case" int)`,
  `INSERT INTO customers SELECT n, 'c' || n FROM generate_series(1, 1000) AS n`,
  `INSERT INTO orders SELECT n, n % 1000 + 1, CASE WHEN n % 500 = 0 THEN 'open' ELSE 'done' END, 'k' || n % 20, n % 2 = 0,
     '2026-01-01'::timestamptz + n * interval '1 minute', n % 5000 FROM generate_series(1, 100000) AS n`,
  'ANALYZE customers',
  'ANALYZE orders',
]

interface Queryable {
  query(text: string, values?: unknown[]): Promise<{ rows: unknown[] }>
}

const databases: [string, () => (PGlite | pg.Pool) & Queryable][] = [['PGlite', () => embedded]]
if (server !== undefined) databases.push(['a server', () => pools.make()])
if (counting !== undefined) databases.push(['the newest server', () => countingPools.make()])

const of = (report: IndexReport, kind: IndexSuggestion['kind']): IndexSuggestion[] =>
  report.suggestions.filter((suggestion) => suggestion.kind === kind)

describe.each(databases)('suggestIndexes on %s', (_, open) => {
  let database: ReturnType<typeof open>
  const run = async (...statements: string[]): Promise<void> => {
    for (const statement of statements) await database.query(statement)
  }

  beforeAll(async () => {
    database = open()
    await run(...schema)
  })

  test('a scan of 100,000 rows becomes a search of the index that was suggested', async () => {
    const statement = { text: 'SELECT * FROM orders WHERE status = $1', values: ['open'] }
    const before = await explain(database, statement, { analyze: true })
    expect(before.root).toMatchObject({ type: 'Seq Scan', rowsRemovedByFilter: 99_800 })

    const report = await suggestIndexes(database, { queries: [statement], schemas: ['public'] })

    const [suggestion] = of(report, 'filter')
    expect(suggestion).toMatchObject({
      schema: 'public',
      table: 'orders',
      columns: ['status'],
      statement: 'CREATE INDEX CONCURRENTLY ON "public"."orders" ("status")',
      confidence: 0.7,
    })
    expect(suggestion?.rowsSpared).toBeGreaterThan(99_000)
    expect(suggestion?.reason).toMatch(/all 100,000 rows of "public"\."orders" .*; status alone keeps 0\.\d+ %$/)

    await run(String(suggestion?.statement), 'ANALYZE orders')
    const after = await explain(database, statement, { analyze: true })
    expect(planNodes(after).map(({ index }) => index)).toContain('orders_status_idx')
    expect(planNodes(after).some(({ type }) => type === 'Seq Scan')).toBe(false)
    expect(after.root.rows).toBe(200)
    // It isn't suggested again, and the statement that is served by it neither.
    expect(of(await suggestIndexes(database, { queries: [statement], plans: [before] }), 'filter')).toEqual([])
    await run('DROP INDEX orders_status_idx')
  })

  test('what was measured is surer than what was planned, and that than a plan for any values', async () => {
    const text = 'SELECT * FROM orders WHERE "Mixed Case" = $1'
    const measured = await explain(database, { text, values: [7] }, { analyze: true })
    const confidence = async (options: Parameters<typeof suggestIndexes>[1]): Promise<number | undefined> =>
      of(await suggestIndexes(database, options), 'filter')[0]?.confidence

    expect(await confidence({ plans: [measured] })).toBe(0.9)
    expect(await confidence({ queries: [{ text, values: [7] }] })).toBe(0.7)
    expect(await confidence({ queries: [{ text }] })).toBe(0.5)
    const [suggestion] = of(await suggestIndexes(database, { plans: [measured] }), 'filter')
    expect(suggestion?.statement).toBe('CREATE INDEX CONCURRENTLY ON "public"."orders" ("Mixed Case")')
    expect(suggestion?.reason).toContain('kept 20 of them')
  })

  test('columns come in the order in which an index needs them', async () => {
    const text = `SELECT * FROM orders o WHERE created_at > $1 AND kind = $2 AND "Mixed Case" IN (1, 2, 3) AND flag`

    const report = await suggestIndexes(database, { queries: [{ text, values: ['2026-02-01', 'k1'] }] })

    // Three values of 5000 keep less than one of 20, and a range comes last. Every second row has the flag.
    expect(of(report, 'filter').map(({ columns }) => columns)).toEqual([['Mixed Case', 'kind', 'created_at']])
  })

  test('of several filters the index that begins with the others is enough', async () => {
    const report = await suggestIndexes(database, {
      queries: [
        { text: 'SELECT * FROM orders WHERE "Mixed Case" = 1' },
        { text: `SELECT * FROM orders WHERE kind = 'k1' AND "Mixed Case" = 1` },
        { text: 'DELETE FROM orders WHERE "Mixed Case" = 2' },
      ],
    })

    expect(of(report, 'filter').map(({ columns }) => columns)).toEqual([['Mixed Case', 'kind']])
  })

  test.each([
    ['keeps much', 'SELECT * FROM orders WHERE flag'],
    ['is a common value', "SELECT * FROM orders WHERE status = 'done'"],
    ['is an expression', "SELECT * FROM orders WHERE upper(status) = 'OPEN'"],
    ['converts the column', 'SELECT * FROM orders WHERE created_at::date = current_date'],
    ['is one of several', `SELECT * FROM orders WHERE status = 'open' OR "Mixed Case" = 1`],
    ['compares two columns', 'SELECT * FROM orders WHERE customer_id = id'],
    ['is of a small table', "SELECT * FROM customers WHERE name = 'c1'"],
    ['is found already', 'SELECT * FROM orders WHERE id = 1'],
  ])('no index is suggested where the filter %s', async (_why, text) => {
    const report = await suggestIndexes(database, { queries: [{ text }] })

    expect(of(report, 'filter')).toEqual([])
    expect(report.skipped).toEqual([])
  })

  test('what has no plan is told of, and the rest is looked at', async () => {
    const report = await suggestIndexes(database, {
      queries: [
        { text: 'VACUUM' },
        { text: 'SELECT * FROM nowhere' },
        { text: 'SELECT * FROM orders WHERE "Mixed Case" = 1' },
      ],
    })

    expect(report.skipped.map(({ text }) => text)).toEqual(['VACUUM', 'SELECT * FROM nowhere'])
    expect(of(report, 'filter')).toHaveLength(1)
  })

  test('a foreign key without an index is named, and with one is not', async () => {
    const [suggestion] = of(await suggestIndexes(database), 'foreign-key')
    expect(suggestion).toMatchObject({
      table: 'orders',
      columns: ['customer_id'],
      statement: 'CREATE INDEX CONCURRENTLY ON "public"."orders" ("customer_id")',
      reason: expect.stringContaining('orders_customer_id_fkey references customers'),
    })
    // An index that a filter asks for does for the key too.
    const filter = { text: 'SELECT * FROM orders WHERE customer_id = $1', values: [5] }
    const both = await suggestIndexes(database, { queries: [filter] })
    expect([of(both, 'filter').length, of(both, 'foreign-key').length]).toEqual([1, 0])

    await run(String(suggestion?.statement))
    expect(of(await suggestIndexes(database), 'foreign-key')).toEqual([])

    await run('DROP INDEX orders_customer_id_idx')
    await run(`CREATE INDEX partly ON orders (customer_id) WHERE flag`)
    expect(of(await suggestIndexes(database), 'foreign-key')).toHaveLength(1)
    await run('DROP INDEX partly')
  })

  test('an index whose work another one does is named, and of equals one stays', async () => {
    await run(
      'CREATE INDEX short ON orders (kind)',
      'CREATE INDEX long ON orders (kind, flag)',
      'CREATE INDEX again ON orders (kind, flag)',
      'CREATE INDEX other_order ON orders (kind DESC)',
      'CREATE INDEX partial ON orders (kind) WHERE flag',
      'CREATE INDEX lower_kind ON orders (lower(kind))',
      'CREATE INDEX lower_again ON orders (lower(kind))',
      'CREATE INDEX hashed ON orders USING hash (kind)',
      'CREATE UNIQUE INDEX id_kind ON orders (id, kind)',
    )

    const found = of(await suggestIndexes(database), 'duplicate')

    expect(found.map(({ index }) => index)).toEqual(['short', 'again', 'lower_again'])
    expect(found[0]).toMatchObject({
      statement: 'DROP INDEX CONCURRENTLY "public"."short"',
      reason: expect.stringMatching(/^"public"\."long" finds all that "public"\."short" does/),
    })
    expect(found[0]?.bytesFreed).toBeGreaterThan(100_000)
    for (const { statement } of found) await run(String(statement))
    expect(of(await suggestIndexes(database), 'duplicate')).toEqual([])
    await run('DROP INDEX long, other_order, partial, lower_kind, hashed, id_kind')
  })

  test('an index that was never read is named once the server has counted long enough', async () => {
    await run('CREATE INDEX idle ON orders (kind)', 'CREATE INDEX for_key ON orders (customer_id)')

    expect(of(await suggestIndexes(database), 'unused')).toEqual([])
    const found = of(await suggestIndexes(database, { unusedAfterMs: 0 }), 'unused')

    // Not the one of the foreign key, and none that is unique.
    expect(found.map(({ index }) => index)).toEqual(['idle'])
    expect(found[0]).toMatchObject({
      statement: 'DROP INDEX CONCURRENTLY "public"."idle"',
      reason: expect.stringContaining('had 0 scans in less than a day on this server'),
    })
    await run('DROP INDEX idle, for_key')
  })

  test('a table without statistics is told of', async () => {
    await run(
      'CREATE SCHEMA fresh',
      // Else the server may make some meanwhile.
      'CREATE TABLE fresh.events WITH (autovacuum_enabled = false) AS SELECT n AS id, n % 10000 AS user_id FROM generate_series(1, 20000) AS n',
    )
    if (!(database instanceof PGlite)) await run('SELECT pg_sleep(1.1)')
    const queries = [{ text: 'SELECT * FROM fresh.events WHERE user_id = 1' }]

    const plan = await explain(database, queries[0] as { text: string }, { analyze: true })
    const report = await suggestIndexes(database, { schemas: ['fresh'], queries, plans: [plan] })

    expect(report.stale).toEqual([
      {
        schema: 'fresh',
        table: 'events',
        reason: expect.stringContaining('no statistics'),
        statement: 'ANALYZE "fresh"."events"',
      },
    ])
    expect(of(report, 'filter')[0]?.reason).toContain('there are no statistics')
    await run(String(report.stale[0]?.statement))
    expect((await suggestIndexes(database, { schemas: ['fresh'] })).stale).toEqual([])
    await run('DROP SCHEMA fresh CASCADE')
  })

  test('an index of a partition is suggested for the whole', async () => {
    await run(
      'CREATE TABLE parts (id int, day int, note int) PARTITION BY LIST (day)',
      'CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)',
      'INSERT INTO parts SELECT n, 1, n % 2000 FROM generate_series(1, 20000) AS n',
      'ANALYZE parts',
    )

    const report = await suggestIndexes(database, { queries: [{ text: 'SELECT * FROM parts WHERE note = 5' }] })

    const [suggestion] = of(report, 'filter')
    expect(suggestion).toMatchObject({ table: 'parts', statement: 'CREATE INDEX ON "public"."parts" ("note")' })
    expect(suggestion?.reason).toContain('with writers waiting')
    await run(String(suggestion?.statement))
    // Its parts are not to be dropped one by one.
    expect(of(await suggestIndexes(database, { unusedAfterMs: 0 }), 'unused')).toEqual([])
    await run('DROP TABLE parts')
  })

  test('nothing is written, and other schemas are left alone', async () => {
    const report = await suggestIndexes(database, { schemas: ['nowhere'], unusedAfterMs: 0 })

    expect(report).toMatchObject({ suggestions: [], stale: [], skipped: [] })
    expect(report.statsAgeMs).toBeGreaterThanOrEqual(0)
    const all = await suggestIndexes(database, { minTableRows: 0, minSeqScans: 1, unusedAfterMs: 0 })
    expect(all.suggestions.filter(({ schema }) => schema.startsWith('pg_') || schema === 'information_schema')).toEqual(
      [],
    )
  })
})

describe.skipIf(server === undefined)('suggestIndexes on a server', () => {
  test('a table that is often read from end to end is named, without columns', async () => {
    const pool = new pg.Pool({ connectionString: server?.url, max: 1 })
    await pool.query('CREATE TABLE scanned AS SELECT n AS id, n AS other FROM generate_series(1, 20000) AS n')
    for (let i = 0; i < 5; i++) await pool.query('SELECT count(*) FROM scanned WHERE other > 0')
    // A session tells what it counted when it is done.
    await pool.end()

    const report = await suggestIndexes(pools.make(), { minSeqScans: 5 })

    expect(of(report, 'scanned-table').filter(({ table }) => table === 'scanned')).toMatchObject([
      { table: 'scanned', columns: [], statement: undefined, reason: expect.stringContaining('20,000 rows each time') },
    ])
  })

  test('an index that was never finished is named', async () => {
    const pool = pools.make()
    await pool.query('CREATE TABLE twice AS SELECT n % 2 AS n FROM generate_series(1, 10) AS n')
    await expect(pool.query('CREATE UNIQUE INDEX CONCURRENTLY broken ON twice (n)')).rejects.toThrow()

    const [found] = of(await suggestIndexes(pool), 'invalid')

    expect(found).toMatchObject({ index: 'broken', reason: expect.stringContaining('never finished') })
    await pool.query(String(found?.statement))
    expect(of(await suggestIndexes(pool), 'invalid')).toEqual([])
  })

  test('an index that somebody else builds right now is not called unfinished', async () => {
    const pool = pools.make()
    await pool.query('CREATE TABLE slowly AS SELECT 1 AS n; CREATE ROLE onlooker; GRANT SELECT ON slowly TO onlooker')
    const onlooker = pools.make({ options: '-c role=onlooker' })
    const writer = await pool.connect()
    await writer.query('BEGIN')
    await writer.query('INSERT INTO slowly VALUES (2)')
    const building = pool.query('CREATE INDEX CONCURRENTLY slowly_made ON slowly (n)')
    const there = `SELECT FROM pg_index WHERE indexrelid = to_regclass('slowly_made') AND NOT indisvalid`
    await until(async () => (await pool.query(there)).rowCount === 1)

    const seen = [of(await suggestIndexes(pool), 'invalid'), of(await suggestIndexes(onlooker), 'invalid')]

    await writer.query('COMMIT')
    writer.release()
    await building
    expect(seen).toEqual([[], []])
  })

  test('a session that cannot be had is one error', async () => {
    const pool = new pg.Pool({ host: '127.0.0.1', port: 1 })

    await expect(suggestIndexes(pool)).rejects.toMatchObject({ code: 'ERR_STORE', outcomeUnknown: false })

    await pool.end()
  })

  test('an abort rejects with its reason, and gives the connection back', async () => {
    const pool = pools.make()
    const controller = new AbortController()
    const given = suggestIndexes(pool, { signal: controller.signal, queries: [{ text: 'SELECT 1' }] })
    controller.abort()

    await expect(given).rejects.toBe(controller.signal.reason)
    expect((await pool.query('SELECT 1 AS n')).rows).toEqual([{ n: 1 }])
  })
})

describe.skipIf(counting === undefined)('suggestIndexes with pg_stat_statements', () => {
  test('statements that took long are looked at by the plan for any values', async () => {
    const pool = countingPools.make()
    await pool.query('CREATE SCHEMA counted; CREATE EXTENSION pg_stat_statements SCHEMA counted')
    await pool.query('CREATE TABLE visits AS SELECT n AS id, n % 3000 AS user_id FROM generate_series(1, 30000) AS n')
    await pool.query('ANALYZE visits')
    await pool.query('SELECT * FROM visits WHERE user_id = 17')

    const with20 = await suggestIndexes(pool)
    const without = await suggestIndexes(pool, { statements: 0 })

    expect(of(with20, 'filter').filter(({ table }) => table === 'visits')).toMatchObject([
      { columns: ['user_id'], confidence: 0.5 },
    ])
    expect(of(without, 'filter')).toEqual([])
  })

  test('an extension that is there and not loaded is none', async () => {
    if (server === undefined) return
    const pool = pools.make()
    const { rows } = await pool.query("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_stat_statements'")
    if (rows.length === 0) return
    await pool.query('CREATE EXTENSION IF NOT EXISTS pg_stat_statements')

    await expect(suggestIndexes(pool)).resolves.toBeDefined()
  })
})

test.each([
  ['database', () => suggestIndexes('x' as never)],
  ['options', () => suggestIndexes(embedded, null as never)],
  ['schemas', () => suggestIndexes(embedded, { schemas: 'public' as never })],
  ['schemas', () => suggestIndexes(embedded, { schemas: [1] as never })],
  ['queries', () => suggestIndexes(embedded, { queries: ['SELECT 1'] as never })],
  ['values', () => suggestIndexes(embedded, { queries: [{ text: 'SELECT 1', values: 1 as never }] })],
  ['plans', () => suggestIndexes(embedded, { plans: [{}] as never })],
  ['statements', () => suggestIndexes(embedded, { statements: -1 })],
  ['minTableRows', () => suggestIndexes(embedded, { minTableRows: 0.5 })],
  ['minSeqScans', () => suggestIndexes(embedded, { minSeqScans: 0 })],
  ['maxShare', () => suggestIndexes(embedded, { maxShare: 2 })],
  ['unusedAfterMs', () => suggestIndexes(embedded, { unusedAfterMs: -1 })],
  ['timeoutMs', () => suggestIndexes(embedded, { timeoutMs: 0 })],
  ['signal', () => suggestIndexes(embedded, { signal: 1 as never })],
])('a wrong %s is an OptionError, as a rejection', async (field, call) => {
  await expect(call()).rejects.toMatchObject({ code: 'ERR_OPTION', field })
})
