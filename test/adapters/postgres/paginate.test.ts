import { randomUUID } from 'node:crypto'
import { PGlite } from '@electric-sql/pglite'
import type { CursorError } from 'spillway'
import {
  type OrderColumn,
  type Page,
  type PageRequest,
  type PageWhere,
  Paginator,
  type PaginatorOptions,
  PostgresCounterStore,
  type PostgresDatabase,
  paginate,
} from 'spillway/postgres'
import { FakeClock } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'

const server = await startPostgres()
const embedded = new PGlite()
const { make: makePool, end: endPools } = poolsOf(server?.url)
const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
process.on('unhandledRejection', onUnhandled)

beforeAll(() => embedded.waitReady)
afterAll(async () => {
  await endPools()
  await embedded.close()
  await server?.stop()
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled).toEqual([])
})

type Database = PostgresDatabase & { query(text: string, values?: unknown[]): Promise<{ rows: unknown[] }> }
type Loose = Record<string, unknown>

let made = 0
const fresh = (): string => `t_${made++}`
const databases: [string, () => Database][] = [['PGlite', () => embedded]]
if (server !== undefined) databases.push(['PostgreSQL', () => makePool() as Database])

/** All values of a column, page by page forwards, and the same backwards. */
async function walk(
  paginator: Paginator<Loose>,
  request: PageRequest = {},
): Promise<{ forth: Loose[]; back: Loose[] }> {
  const forth: Loose[] = []
  let last: Page<Loose> | undefined
  for await (const page of paginator.pages(request)) {
    forth.push(...page.rows)
    last = page
    if (forth.length > 1000) throw new Error('it has no end')
  }
  const back = [...(last?.rows ?? [])]
  if (last?.previous !== undefined) {
    for await (const page of paginator.pages({ ...request, before: last.previous })) back.unshift(...page.rows)
  }
  return { forth, back }
}

describe.each(databases)('pages on %s', (_name, open) => {
  let database: Database
  beforeAll(async () => {
    database = open()
  })
  const create = async (columns: string, ...values: string[]): Promise<string> => {
    const table = fresh()
    await database.query(`CREATE TABLE ${table} (${columns})`)
    if (values.length > 0) await database.query(`INSERT INTO ${table} VALUES ${values.join(', ')}`)
    return table
  }
  const numbers = (count: number): Promise<string> =>
    create('id int PRIMARY KEY', ...Array.from({ length: count }, (_, n) => `(${n + 1})`))
  const ids = (page: Page<Loose>): unknown[] => page.rows.map(({ id }) => id)

  test('go forth and back, and say where they end', async () => {
    const pages = new Paginator<Loose>(database, { from: await numbers(5), orderBy: ['id'], limit: 2 })

    const first = await pages.page()
    const second = await pages.page({ after: first.next })
    const third = await pages.page({ after: second.next })
    const again = await pages.page({ before: third.previous })
    const begin = await pages.page({ before: again.previous })

    expect([first, second, third, again, begin].map(ids)).toEqual([[1, 2], [3, 4], [5], [3, 4], [1, 2]])
    expect(first).toMatchObject({ hasNext: true, hasPrevious: false, previous: undefined })
    expect(second).toMatchObject({ hasNext: true, hasPrevious: true })
    expect(third).toMatchObject({ hasNext: false, hasPrevious: true, next: undefined })
    expect(again).toEqual(second)
    expect(begin).toEqual(first)
    expect(first.rows).toEqual([{ id: 1 }, { id: 2 }])
    expect('cursors' in first).toBe(false)
  })

  test('that are full at the end say that nothing follows', async () => {
    const pages = new Paginator<Loose>(database, { from: await numbers(4), orderBy: ['id'], limit: 2 })

    const { next } = await pages.page()
    const second = await pages.page({ after: next })

    expect([ids(second), second.hasNext, second.next]).toEqual([[3, 4], false, undefined])
  })

  test('of nothing are empty and lead nowhere', async () => {
    const page = await paginate(database, { from: await numbers(0), orderBy: ['id'] })

    expect(page).toEqual({ rows: [], next: undefined, previous: undefined, hasNext: false, hasPrevious: false })
  })

  test('that have become empty lead back to the row they began behind', async () => {
    const table = await numbers(4)
    const pages = new Paginator<Loose>(database, { from: table, orderBy: ['id'], limit: 2 })
    const { next } = await pages.page()
    await database.query(`DELETE FROM ${table} WHERE id > 2`)

    const empty = await pages.page({ after: next })
    const back = await pages.page({ before: empty.previous })
    await database.query(`INSERT INTO ${table} VALUES (3)`)
    const filled = await pages.page({ after: next })

    expect(empty).toMatchObject({ rows: [], hasNext: false, next: undefined, hasPrevious: true })
    expect(ids(back)).toEqual([1, 2])
    expect(ids(filled)).toEqual([3])
  })

  test('before a beginning that was deleted lead forth with the row they began at', async () => {
    const table = await numbers(4)
    const pages = new Paginator<Loose>(database, {
      from: table,
      orderBy: [{ column: 'id', direction: 'desc' }],
      limit: 2,
    })
    const { next } = await pages.page()
    const { previous } = await pages.page({ after: next })
    await database.query(`DELETE FROM ${table} WHERE id > 2`)

    const empty = await pages.page({ before: previous })
    const forth = await pages.page({ after: empty.next })

    expect(empty).toMatchObject({ rows: [], hasNext: true, hasPrevious: false, previous: undefined })
    expect(ids(forth)).toEqual([2, 1])
  })

  test('go on behind a row that is gone', async () => {
    const table = await numbers(6)
    const pages = new Paginator<Loose>(database, { from: table, orderBy: ['id'], limit: 2 })
    const { next } = await pages.page()
    await database.query(`DELETE FROM ${table} WHERE id IN (1, 2, 3)`)

    expect(ids(await pages.page({ after: next }))).toEqual([4, 5])
  })

  test('have a cursor for each row where one is asked for', async () => {
    const pages = new Paginator<Loose>(database, { from: await numbers(6), orderBy: ['id'], limit: 4 })

    const { cursors = [], next } = await pages.page({ rowCursors: true })

    expect(cursors).toHaveLength(4)
    expect(cursors[3]).toBe(next)
    expect(ids(await pages.page({ after: cursors[1] }))).toEqual([3, 4, 5, 6])
    expect(ids(await pages.page({ before: cursors[1] }))).toEqual([1])
  })

  test('have the columns that were asked for, whatever their names, and no others', async () => {
    const table = await create(
      'id int PRIMARY KEY, "Up.per" text, spillway_keys text, k text, c0 text, "a""b" int',
      "(1, 'x', 'y', 'k1', 'c', 1)",
      "(2, 'x', 'y', 'k2', 'c', 2)",
    )
    const orderBy: OrderColumn[] = [{ column: 'a"b', direction: 'desc', nulls: 'last' }, { column: 'id' }]
    const some = new Paginator<Loose>(database, { from: table, columns: ['Up.per', 'k'], orderBy, limit: 1 })
    const all = new Paginator<Loose>(database, { from: table, orderBy, limit: 1 })

    const first = await some.page()

    expect(first.rows).toEqual([{ 'Up.per': 'x', k: 'k2' }])
    expect((await some.page({ after: first.next })).rows).toEqual([{ 'Up.per': 'x', k: 'k1' }])
    const { forth } = await walk(all)
    expect(forth).toEqual([
      { id: 2, 'Up.per': 'x', spillway_keys: 'y', k: 'k2', c0: 'c', 'a"b': 2 },
      { id: 1, 'Up.per': 'x', spillway_keys: 'y', k: 'k1', c0: 'c', 'a"b': 1 },
    ])
  })

  test('are of a schema, a view or a partitioned table', async () => {
    const name = fresh()
    await database.query(`CREATE SCHEMA "S ${name}"`)
    await database.query(`CREATE TABLE "S ${name}"."T.${name}" (id int PRIMARY KEY) PARTITION BY RANGE (id)`)
    await database.query(`CREATE TABLE ${name}_1 PARTITION OF "S ${name}"."T.${name}" FOR VALUES FROM (0) TO (10)`)
    await database.query(`CREATE TABLE ${name}_2 PARTITION OF "S ${name}"."T.${name}" FOR VALUES FROM (10) TO (20)`)
    await database.query(`INSERT INTO "S ${name}"."T.${name}" SELECT generate_series(5, 14)`)
    await database.query(`CREATE VIEW ${name}_v AS SELECT id, id % 3 AS rest FROM "S ${name}"."T.${name}"`)

    const table = new Paginator<Loose>(database, { from: `T.${name}`, schema: `S ${name}`, orderBy: ['id'], limit: 3 })
    const view = new Paginator<Loose>(database, {
      from: `${name}_v`,
      orderBy: ['rest', { column: 'id', direction: 'desc' }],
      assumeUnique: true,
      limit: 3,
    })

    expect((await walk(table)).forth.map(({ id }) => id)).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
    const { forth, back } = await walk(view)
    expect(forth.map(({ id }) => id)).toEqual([12, 9, 6, 13, 10, 7, 14, 11, 8, 5])
    expect(back).toEqual(forth)
  })

  test.each<[string, string, string[]]>([
    ['bigint', 'bigint', ['-9223372036854775808', '9007199254740992', '9007199254740993', '9223372036854775807']],
    ['numeric', 'numeric', ['-Infinity', '-1e-30', '0', '0.10', '1e40', '12345678901234567890.123456789', 'NaN']],
    ['float8', 'float8', ['-Infinity', '-0', '5e-324', '0.1', '0.30000000000000004', '1e300', 'Infinity', 'NaN']],
    ['float4', 'float4', ['-Infinity', '1e-45', '0.1', '16777216', 'NaN']],
    [
      'timestamptz with microseconds',
      'timestamptz',
      [
        '-infinity',
        '0044-03-15 12:00:00+00 BC',
        '1850-01-01 00:00:00.000001+00',
        '2024-03-01 00:00:00.123456+00',
        '2024-03-01 00:00:00.123457+00',
        '12024-03-01 00:00:00+00',
        'infinity',
      ],
    ],
    ['timestamp', 'timestamp', ['-infinity', '2024-03-31 02:30:00.123456', '2024-03-31 02:30:00.123457', 'infinity']],
    ['date', 'date', ['-infinity', '0044-03-15 BC', '1999-12-31', '2024-02-29', '20240-01-01', 'infinity']],
    ['time', 'time', ['00:00:00.000001', '12:00', '24:00']],
    ['interval', 'interval', ['-1 day -02:00:00.5', '1 day', '1 mon 3 days', '178000 years']],
    ['uuid', 'uuid', [...Array(5)].map(() => randomUUID()).sort()],
    ['bytea', 'bytea', ['\\x', '\\x00', '\\x005c27', '\\xff']],
    ['boolean', 'boolean', ['false', 'true']],
    ['text', 'text COLLATE "C"', ['', ' ', '"', "''", '$1', "'); DROP TABLE x; --", '\\', '\\n', 'é', '日本', '🙂']],
    ['char(4)', 'char(4)', ['', 'a', 'abc', 'abcd']],
    ['varchar', 'varchar(40) COLLATE "C"', ['A', 'B', 'a']],
    ['"char"', '"char"', ['a', 'b']],
    ['name', 'name', ['a', 'b']],
    ['an array', 'int[]', ['{}', '{-1}', '{1,NULL}', '{2,1}', '{2,10}']],
    ['inet', 'inet', ['10.0.0.1', '10.0.0.2/8', '::1']],
    ['jsonb', 'jsonb', ['null', '"a"', '1', '2.50']],
    ['a timestamptz[]', 'timestamptz[]', ['{"2024-03-01 00:00:00.123456+00"}', '{"2024-03-01 00:00:00.123457+00"}']],
  ])('find their way through %s, value by value and with NULLs', async (_type, type, values) => {
    const table = await create(`id int PRIMARY KEY, v ${type}`)
    for (const [id, value] of [...values, null, null].entries()) {
      const text = value === null ? 'NULL' : `'${value.replaceAll("''", "'").replaceAll("'", "''")}'`
      await database.query(`INSERT INTO ${table} VALUES (${id}, ${text})`)
    }
    const orders: OrderColumn[] = [
      { column: 'v' },
      { column: 'v', direction: 'desc' },
      { column: 'v', nulls: 'first' },
      { column: 'v', direction: 'desc', nulls: 'last' },
    ]
    for (const order of orders) {
      const { direction = 'asc', nulls = direction === 'asc' ? 'last' : 'first' } = order
      const { rows } = await database.query(`SELECT id FROM ${table} ORDER BY v ${direction} NULLS ${nulls}, id`)
      const expected = (rows as Loose[]).map(({ id }) => id)

      const pages = new Paginator<Loose>(database, { from: table, columns: ['id'], orderBy: [order, 'id'], limit: 1 })
      const { forth, back } = await walk(pages)

      expect(forth.map(({ id }) => id)).toEqual(expected)
      expect(back.map(({ id }) => id)).toEqual(expected)
      // A listing that is told apart by the value alone has no other column to help.
      const alone = new Paginator<Loose>(database, {
        from: table,
        columns: ['id'],
        orderBy: [order],
        assumeUnique: true,
        limit: 1,
      })
      const { forth: told } = await walk(alone, { where: { v: { ne: null } } })
      expect(told.map(({ id }) => id)).toEqual(expected.filter((id) => (id as number) < values.length))
    }
  })

  test('know enums, domains and collations, in the order that they have', async () => {
    const n = fresh()
    await database.query(`CREATE TYPE "Mood ${n}" AS ENUM ('sad', 'it''s ok', 'happy')`)
    await database.query(`CREATE DOMAIN later_${n} AS timestamptz CHECK (VALUE > '2000-01-01')`)
    await database.query(
      `CREATE COLLATION any_case_${n} (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
    )
    const table = await create(
      `id int PRIMARY KEY, mood "Mood ${n}", since later_${n}, name text COLLATE any_case_${n}`,
      "(1, 'happy', '2024-01-01 00:00:00.000001+00', 'b')",
      "(2, 'sad', '2024-01-01 00:00:00.000003+00', 'A')",
      "(3, 'it''s ok', '2024-01-01 00:00:00.000002+00', 'a')",
      '(4, NULL, NULL, NULL)',
      "(5, 'sad', '2024-01-01 00:00:00.000002+00', 'B')",
    )
    const ids = async (text: string): Promise<unknown[]> => {
      const { rows } = await database.query(`SELECT id FROM ${table} ${text}`)
      return (rows as Loose[]).map(({ id }) => id)
    }
    const orders: [string, (string | OrderColumn)[]][] = [
      ['mood, id', ['mood', 'id']],
      ['since DESC, id', [{ column: 'since', direction: 'desc' }, 'id']],
      ['name, id DESC', ['name', { column: 'id', direction: 'desc' }]],
      ['name DESC, mood, id', [{ column: 'name', direction: 'desc' }, 'mood', 'id']],
    ]
    for (const [text, orderBy] of orders) {
      const { forth, back } = await walk(new Paginator<Loose>(database, { from: table, orderBy, limit: 1 }))
      expect(forth.map(({ id }) => id)).toEqual(await ids(`ORDER BY ${text}`))
      expect(back).toEqual(forth)
    }
    const { rows } = await paginate<Loose>(database, {
      from: table,
      orderBy: ['id'],
      where: { mood: ['sad', "it's ok"], name: { gte: 'b' } },
    })
    expect(rows.map(({ id }) => id)).toEqual(await ids("WHERE mood IN ('sad', 'it''s ok') AND name >= 'b' ORDER BY id"))
    expect(await ids('ORDER BY mood, id')).toEqual([2, 5, 3, 1, 4])
  })

  test.each<[PageWhere, number[]]>([
    [{ n: 1 }, [1]],
    [{ n: '1' }, [1]],
    [{ n: 1n }, [1]],
    [{ n: null }, [4]],
    [{ n: { eq: null } }, [4]],
    [{ n: { ne: null } }, [1, 2, 3]],
    [{ n: { ne: 1 } }, [2, 3]],
    [{ n: [1, 3] }, [1, 3]],
    [{ n: [] }, []],
    [{ n: { in: [2] } }, [2]],
    [{ n: { notIn: [2] } }, [1, 3]],
    [{ n: { notIn: [] } }, [1, 2, 3, 4]],
    [{ n: { gt: 1, lte: 3 } }, [2, 3]],
    [{ n: { gte: 2, lt: 3 } }, [2]],
    [{ s: { startsWith: 'a%' } }, [1]],
    [{ s: { startsWith: 'a' } }, [1, 2]],
    [{ s: { startsWith: '\\' } }, [3]],
    [{ s: { like: 'a__' } }, [2]],
    [{ s: { notLike: 'a%' } }, [3, 4]],
    [{ s: ['a%', '\\"{,}', 'NULL'] }, [1, 3, 4]],
    [{ b: true }, [1, 3]],
    [{ b: { in: [false] } }, [2]],
    [{ at: new Date('2024-01-01T00:00:00.123Z') }, [1]],
    [{ at: { gte: new Date('2024-01-01T00:00:00.124Z') } }, [2]],
    [{ at: [new Date('2024-01-01T00:00:00.123Z')] }, [1]],
    [{ local: { lt: new Date(2024, 0, 1, 12) } }, [1]],
    [{ local: new Date(2024, 0, 1, 12) }, [2]],
    [{ day: new Date(2024, 0, 2) }, [2]],
    [{ raw: new Uint8Array([0, 255]) }, [1]],
    [{ raw: [new Uint8Array([1])] }, [2]],
    [{ list: '{1,2}' }, [1]],
    [{ list: ['{1,2}', '{}'] }, [1, 3]],
    [{ list: { notIn: ['{1,2}'] } }, [2, 3]],
    [{ list: { in: [] } }, []],
    [{ n: { gte: 1 }, s: { like: 'a%' }, b: true }, [1]],
    [{ s: "x' OR '1'='1" }, []],
  ])('have only the rows that are asked for: %o', async (where, expected) => {
    const columns =
      'id int PRIMARY KEY, n int, s text, b boolean, at timestamptz, local timestamp, day date, raw bytea, list int[]'
    const table = await create(
      columns,
      `(1, 1, 'a%', true, '2024-01-01 00:00:00.123+00', '2024-01-01 11:59:59.999', '2024-01-01', '\\x00ff', '{1,2}')`,
      `(2, 2, 'abc', false, '2024-01-01 00:00:00.124+00', '2024-01-01 12:00', '2024-01-02', '\\x01', '{2}')`,
      `(3, 3, '\\"{,}', true, NULL, NULL, NULL, NULL, '{}')`,
      `(4, NULL, 'NULL', NULL, NULL, NULL, NULL, NULL, NULL)`,
    )

    const { forth, back } = await walk(new Paginator<Loose>(database, { from: table, orderBy: ['id'], limit: 1 }), {
      where,
    })

    expect(forth.map(({ id }) => id)).toEqual(expected)
    expect(back).toEqual(forth)
  })

  test('take a Date for its moment or its local time, whatever the zone, the year and the domain', async () => {
    const n = fresh()
    await database.query(`CREATE DOMAIN moment_${n} AS timestamptz`)
    await database.query(`CREATE DOMAIN day_${n} AS date`)
    const table = await create(`id int PRIMARY KEY, at timestamptz, moment moment_${n}, local timestamp, day day_${n}`)
    const two = (part: number): string => String(part).padStart(2, '0')
    const zone = process.env['TZ']
    try {
      // Half hours, seconds of former times, an hour that comes twice, and years that ISO 8601 writes with a sign.
      for (const TZ of ['UTC', 'Asia/Kathmandu', 'Europe/Amsterdam', 'America/New_York']) {
        process.env['TZ'] = TZ
        for (const [index, at] of [
          new Date('2024-11-03T05:30:00.123Z'),
          new Date('2024-11-03T06:30:00.123Z'),
          new Date('1900-01-01T00:00:01Z'),
          new Date('0000-06-01T00:00:00Z'),
          new Date('-001000-03-01T12:00:00Z'),
          new Date(8.64e15),
        ].entries()) {
          const year = at.getFullYear()
          const years = String(year > 0 ? year : 1 - year).padStart(4, '0')
          const day = `${years}-${two(at.getMonth() + 1)}-${two(at.getDate())}`
          const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${at.getMilliseconds()}`
          const era = year > 0 ? '' : ' BC'
          await database.query(
            `INSERT INTO ${table} SELECT $1::int, moment, moment, $3::text::timestamp, $4::text::date
              FROM (SELECT 'epoch'::timestamptz + $2::text::numeric * interval '1 ms' AS moment) q`,
            [index, String(at.getTime()), `${day} ${time}${era}`, day + era],
          )
          for (const where of [{ at }, { moment: at }, { local: at }, { moment: [at] }]) {
            const { rows } = await paginate<Loose>(database, { from: table, columns: ['id'], orderBy: ['id'], where })
            expect([TZ, at, where, rows.some(({ id }) => id === index)]).toEqual([TZ, at, where, true])
          }
          const { rows } = await paginate<Loose>(database, {
            from: table,
            orderBy: ['id'],
            where: { id: index, day: at },
          })
          expect(rows).toHaveLength(1)
        }
        await database.query(`TRUNCATE ${table}`)
      }
    } finally {
      if (zone === undefined) delete process.env['TZ']
      else process.env['TZ'] = zone
    }
  })

  test('list the counters of a resource, and none of another one', async () => {
    const table = fresh()
    const store = new PostgresCounterStore(database, { table, batchTable: `${table}_batches` })
    await store.createSchema()
    const keys = ['a_:view', 'a_:Zap', 'a_:like', 'a_:b:c', 'a_;x', 'ab:view', 'a_', 'a', 'a_:']
    const context = { batchId: randomUUID(), attempt: 1, signal: new AbortController().signal }
    await store.add(new Map(keys.map((key, index) => [key, index + 1])), context)
    const resource = 'a_:'
    const further = `${resource.replace(/[\\%_]/g, '\\$&')}%:%`
    const where = { key: { gt: resource, startsWith: resource, notLike: further } }

    const { forth, back } = await walk(new Paginator<Loose>(database, { from: table, orderBy: ['key'], limit: 1 }), {
      where,
    })

    expect(forth.map(({ key, value }) => [key, Number(value)])).toEqual([
      ['a_:Zap', 2],
      ['a_:like', 3],
      ['a_:view', 1],
    ])
    expect(back).toEqual(forth)
  })

  describe('an order', () => {
    const refusal = { code: 'ERR_OPTION', field: 'orderBy' }

    test('that no index proves to be unique is refused', async () => {
      const table = await create(
        'id int PRIMARY KEY, a int NOT NULL, b int NOT NULL, c int, d int NOT NULL, UNIQUE (a, b), UNIQUE (c)',
      )
      await database.query(`CREATE UNIQUE INDEX ON ${table} (d) WHERE a > 0`)
      await database.query(`CREATE UNIQUE INDEX ON ${table} (abs(d))`)
      await database.query(`CREATE UNIQUE INDEX ON ${table} (a) INCLUDE (d) WHERE b = 1`)
      const by = (orderBy: string[], where?: PageWhere): Promise<unknown> =>
        paginate(database, { from: table, orderBy, ...(where && { where }) })

      for (const order of [['a'], ['b'], ['c'], ['d'], ['a', 'c', 'd']]) {
        await expect(by(order)).rejects.toMatchObject(refusal)
      }
      await expect(by(['b'], { a: { gte: 1 } })).rejects.toMatchObject(refusal)
      await expect(by(['b'], { a: null })).rejects.toMatchObject(refusal)
      await expect(by(['b'], { a: [1, 2] })).rejects.toMatchObject(refusal)
      for (const order of [['id'], ['d', 'id'], ['b', 'a'], ['id', 'c']]) await expect(by(order)).resolves.toBeDefined()
      await expect(by(['b'], { a: 1 })).resolves.toBeDefined()
      await expect(by(['a'], { c: { eq: 1 } })).resolves.toBeDefined()
    })

    test('is trusted on a word, until two rows are seen that are equal in it', async () => {
      const table = await create('a int, b int', '(1, 1)', '(2, 1)', '(2, 2)')
      const pages = new Paginator(database, { from: table, orderBy: ['a'], assumeUnique: true, limit: 1 })

      const { next } = await pages.page()

      await expect(pages.page({ after: next })).rejects.toMatchObject(refusal)
      await expect(pages.page({ where: { b: 1 } })).resolves.toMatchObject({ hasNext: true })
    })

    test('by an inheriting table is not proven by the index of the parent', async () => {
      const table = await numbers(2)
      await database.query(`CREATE TABLE ${table}_child () INHERITS (${table})`)
      await database.query(`INSERT INTO ${table}_child VALUES (1)`)

      await expect(paginate(database, { from: table, orderBy: ['id'] })).rejects.toMatchObject(refusal)
    })

    test('by a table whose children are gone is proven again', async () => {
      const table = await numbers(2)
      await database.query(`CREATE TABLE ${table}_child () INHERITS (${table})`)
      await database.query(`DROP TABLE ${table}_child`)

      await expect(paginate(database, { from: table, orderBy: ['id'] })).resolves.toMatchObject({ hasNext: false })
    })

    test('by an index that tells apart what the order does not is not unique', async () => {
      const n = fresh()
      await database.query(
        `CREATE COLLATION ci_${n} (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
      )
      const table = await create(`s text COLLATE ci_${n} NOT NULL`, "('a')", "('A')")
      await database.query(`CREATE UNIQUE INDEX ON ${table} (s COLLATE "C")`)
      const other = await create('s text NOT NULL')
      await database.query(`CREATE UNIQUE INDEX ON ${other} (s COLLATE "C")`)

      await expect(paginate(database, { from: table, orderBy: ['s'] })).rejects.toMatchObject(refusal)
      await expect(paginate(database, { from: other, orderBy: ['s'] })).resolves.toBeDefined()
    })

    test('by a nullable column is unique where NULLs are not distinct', async () => {
      const table = await create('a int, UNIQUE NULLS NOT DISTINCT (a)', '(1)', '(NULL)', '(2)')

      const { forth, back } = await walk(new Paginator<Loose>(database, { from: table, orderBy: ['a'], limit: 1 }))

      expect(forth).toEqual([{ a: 1 }, { a: 2 }, { a: null }])
      expect(back).toEqual(forth)
    })
  })

  describe('a relation', () => {
    test('that is not there is a StoreError, a column an OptionError', async () => {
      const table = await numbers(1)
      const from = (options: Partial<PaginatorOptions & PageRequest>): Promise<unknown> =>
        paginate(database, { from: table, orderBy: ['id'], ...options })

      await expect(from({ from: 'nowhere' })).rejects.toMatchObject({ code: 'ERR_STORE', retryable: true })
      await expect(from({ from: `public.${table}` })).rejects.toMatchObject({ code: 'ERR_STORE' })
      await expect(from({ columns: ['id', 'x'] })).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'columns[1]' })
      await expect(from({ orderBy: ['x', 'id'] })).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'orderBy' })
      await expect(from({ where: { x: 1 } })).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'where' })
      await expect(from({ where: { ctid: '(0,1)' } })).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'where' })
    })

    test('is read from the catalog once, and again when a statement fails for its change', async () => {
      const table = await create('id int PRIMARY KEY, gone int', '(1, 1)', '(2, 2)')
      const pages = new Paginator<Loose>(database, { from: table, orderBy: ['id'], limit: 1, clock: new FakeClock() })
      /** The page behind a cursor, and the cursor of its last row. */
      const read = async (after: string | undefined): Promise<[Loose[], string | undefined]> => {
        const { rows, cursors = [] } = await pages.page({ after, rowCursors: true })
        return [rows, cursors.at(-1)]
      }
      const [, first] = await read(undefined)
      await read(first)
      expect(pages.stats().catalogReads).toBe(1)

      await database.query(`ALTER TABLE ${table} DROP gone, ADD came int DEFAULT 7`)
      const [second, secondCursor] = await read(first)
      await database.query(`ALTER TABLE ${table} ALTER id TYPE bigint`)
      await database.query(`INSERT INTO ${table} VALUES (9007199254740993)`)
      const [third, thirdCursor] = await read(secondCursor)
      await database.query(`INSERT INTO ${table} VALUES (9007199254740995)`)
      const [fourth] = await read(thirdCursor)

      expect(second).toEqual([{ id: 2, came: 7 }])
      expect([...third, ...fourth].map(({ id }) => String(id))).toEqual(['9007199254740993', '9007199254740995'])
      expect(pages.stats()).toMatchObject({ catalogReads: 3, failed: 0 })
    })

    test('whose columns are longer now, or of another collation, is read on', async () => {
      const table = await create('id int PRIMARY KEY, s varchar(3), n numeric(4, 2), t text', "(1, 'a', 1, 't')")
      const pages = new Paginator<Loose>(database, { from: table, orderBy: ['id'], clock: new FakeClock() })
      const before = await pages.page()

      for (const change of ['s TYPE varchar(9)', 'n TYPE numeric(5, 2)', 't TYPE text COLLATE "C"']) {
        await database.query(`ALTER TABLE ${table} ALTER ${change}`)
        // A pool has several connections, each of which may have prepared the statement.
        const again = await Promise.all([pages.page(), pages.page(), pages.page(), pages.page()])
        expect(again).toEqual([before, before, before, before])
      }
      expect(pages.stats()).toMatchObject({ failed: 0 })
    })

    test('is read once for all that page through a database', async () => {
      const table = await numbers(3)
      const catalog = /pg_catalog/
      const sent: string[] = []
      const counting = {
        exec: embedded.exec.bind(embedded),
        transaction: embedded.transaction.bind(embedded),
        query: (text: string, values?: unknown[]) => {
          sent.push(text)
          return embedded.query(text, values)
        },
      } as unknown as PostgresDatabase
      await embedded.query(`CREATE TABLE IF NOT EXISTS ${table} (id int PRIMARY KEY)`)

      for (const limit of [1, 2, 3]) await paginate(counting, { from: table, orderBy: ['id'], limit })

      expect(sent.filter((text) => catalog.test(text))).toHaveLength(1)
      expect(sent).toHaveLength(4)
    })

    test('whose column may be NULL by now is read so within a minute', async () => {
      const clock = new FakeClock()
      const table = await create('a int NOT NULL, id int PRIMARY KEY', '(1, 1)')
      const pages = new Paginator<Loose>(database, { from: table, orderBy: ['a', 'id'], clock })
      const { cursors: [cursor] = [] } = await pages.page({ rowCursors: true })
      await database.query(`ALTER TABLE ${table} ALTER a DROP NOT NULL`)
      await database.query(`INSERT INTO ${table} VALUES (NULL, 2)`)

      await clock.advance(60_000)

      expect((await pages.page({ after: cursor })).rows).toEqual([{ a: null, id: 2 }])
    })

    test('that has a column more is known for it at once', async () => {
      const table = await numbers(1)
      const clock = new FakeClock()
      await new Paginator(database, { from: table, orderBy: ['id'], clock }).page()
      await database.query(`ALTER TABLE ${table} ADD more int DEFAULT 5`)

      const later = new Paginator(database, { from: table, columns: ['more'], orderBy: ['id'], clock })

      await expect(later.page()).resolves.toMatchObject({ rows: [{ more: 5 }] })
    })
  })

  describe('a failure', () => {
    test('of a value is a StoreError that says so, where it is one of the conditions', async () => {
      const pages = new Paginator(database, { from: await numbers(3), orderBy: ['id'], limit: 1, bindWhere: false })
      const { next } = await pages.page()

      for (const after of [undefined, next]) {
        const error = pages.page({ where: { id: 'one' }, after })
        await expect(error).rejects.toMatchObject({ code: 'ERR_STORE', retryable: false, outcomeUnknown: false })
      }
      expect(pages.stats()).toMatchObject({ pages: 1, failed: 2, refused: 0, pending: 0 })
    })

    test('of a value is a CursorError, where a cursor was forged for want of a secret', async () => {
      const table = await numbers(3)
      // What a client could compute: a listing of texts under the same name makes cursors for one of numbers.
      const pages = new Paginator(database, { from: table, orderBy: ['id'], limit: 1 })
      await pages.page()
      await database.query(`ALTER TABLE ${table} ALTER id TYPE text`)
      await database.query(`UPDATE ${table} SET id = 'x' || id`)
      const forged = new Paginator(database, { from: table, orderBy: ['id'], limit: 1, clock: new FakeClock() })
      const { next } = await forged.page()
      await database.query(`ALTER TABLE ${table} ALTER id TYPE int USING substr(id, 2)::int`)
      const refused: CursorError[] = []
      pages.on('refused', ({ error }) => refused.push(error))

      const answer = pages.page({ where: {}, after: next })

      await expect(answer).rejects.toMatchObject({ code: 'ERR_CURSOR', field: 'after', reason: 'value' })
      expect(refused).toHaveLength(1)
      expect(pages.stats()).toMatchObject({ refused: 1, failed: 0 })
    })

    test.each([
      ['tsquery', "'x'", 'a b'],
      ['regclass', "'pg_class'", 'no such table'],
      ['regtype', "'int'", 'no such type'],
      ['regnamespace', "'pg_catalog'", 'no_such_schema'],
      ['jsonb', "'1'", '['.repeat(11_000)],
    ])('of a value is a CursorError, however %s says that it has none such', async (type, value, none) => {
      // PGlite has no end of the stack to tell of, and answers with nothing.
      if (type === 'jsonb' && database === (embedded as unknown)) return
      const table = await create('id int PRIMARY KEY, v text', '(1)', '(2)')
      await database.query(`UPDATE ${table} SET v = $1`, [none])
      const listing: PaginatorOptions = { from: table, orderBy: ['v', 'id'], limit: 1 }
      const { next } = await paginate(database, { ...listing, clock: new FakeClock() })
      await database.query(`ALTER TABLE ${table} ALTER v TYPE ${type} USING ${value}::${type}`)
      const pages = new Paginator(database, { ...listing, clock: new FakeClock() })

      for (const _ of ['with the catalog', 'by what is known']) {
        const answer = pages.page({ after: next })
        await expect(answer).rejects.toMatchObject({ code: 'ERR_CURSOR', field: 'after', reason: 'value' })
      }
      await expect(pages.page()).resolves.toMatchObject({ hasNext: true })
    })

    test('by abort rejects with the reason, at once', async () => {
      const pages = new Paginator(database, { from: await numbers(1), orderBy: ['id'] })
      const controller = new AbortController()
      const reason = new Error('enough')

      const answer = pages.page({ signal: controller.signal })
      controller.abort(reason)

      await expect(answer).rejects.toBe(reason)
      await expect(pages.page({ signal: controller.signal })).rejects.toBe(reason)
      expect(pages.stats()).toMatchObject({ aborted: 2, failed: 0, pending: 0, pages: 0 })
    })
  })

  test('that are given up between two statements send no second one', async () => {
    const table = await create('id int PRIMARY KEY')
    const controller = new AbortController()
    const sent: string[] = []
    const given = {
      exec: embedded.exec.bind(embedded),
      transaction: embedded.transaction.bind(embedded),
      query: async (text: string, values?: unknown[]) => {
        sent.push(text)
        const result = await embedded.query(text, values)
        controller.abort(new Error('enough'))
        return result
      },
    } as unknown as PostgresDatabase
    await embedded.query(`CREATE TABLE IF NOT EXISTS ${table} (id int PRIMARY KEY)`)
    const pages = new Paginator(given, { from: table, orderBy: ['id'] })

    await expect(pages.page({ signal: controller.signal })).rejects.toThrow('enough')
    // As many turns as the page would have needed.
    await embedded.query('SELECT 1')

    expect(sent).toHaveLength(1)
    expect(pages.stats()).toMatchObject({ aborted: 1, pending: 0, catalogReads: 1 })
  })

  test('and their books balance', async () => {
    const pages = new Paginator(database, { from: await numbers(5), orderBy: ['id'], limit: 2, name: 'numbers' })

    for await (const _ of pages.pages());
    await expect(pages.page({ after: 'x' })).rejects.toMatchObject({ code: 'ERR_CURSOR' })
    await expect(pages.page({ limit: 0 })).rejects.toMatchObject({ code: 'ERR_OPTION' })

    const counts = { pages: 3, rows: 5, refused: 1, failed: 1, aborted: 0, pending: 0 }
    expect(pages.stats()).toMatchObject({ name: 'numbers', ...counts })
  })
})

describe.skipIf(server === undefined)('on a server', () => {
  test('rows that stay are seen once while others come and go at the same time', async () => {
    const pool = makePool({ max: 8 })
    const table = fresh()
    await pool.query(`CREATE TABLE ${table} (a int, id int PRIMARY KEY, stays boolean NOT NULL)`)
    await pool.query(`INSERT INTO ${table} SELECT nullif(n % 10, 0), n, n % 3 = 0 FROM generate_series(1, 3000) n`)
    await pool.query(`CREATE INDEX ON ${table} (a DESC, id)`)
    const orderBy: OrderColumn[] = [{ column: 'a', direction: 'desc', nulls: 'last' }, { column: 'id' }]
    const pages = new Paginator<{ id: number; stays: boolean }>(pool, { from: table, orderBy, limit: 20 })
    const { rows } = await pool.query(`SELECT id FROM ${table} WHERE stays ORDER BY a DESC NULLS LAST, id`)
    const expected = rows.map(({ id }) => id)
    let walking = true
    let changes = 0
    const write = async (writer: number): Promise<void> => {
      for (let id = 10_000 + writer; walking; id += 2) {
        await pool.query(`INSERT INTO ${table} VALUES ($1, $2, false)`, [id % 11 || null, id])
        await pool.query(`DELETE FROM ${table} WHERE id = $1 AND NOT stays`, [(id * 7) % 3000])
        changes++
      }
    }
    const writers = [write(0), write(1)]

    const walkOver = async (backwards: boolean): Promise<void> => {
      const seen: { id: number; stays: boolean }[] = []
      let last: string | undefined
      if (backwards) {
        for await (const { cursors } of pages.pages({ rowCursors: true })) last = cursors?.at(-1) ?? last
      }
      for await (const page of pages.pages(backwards ? { before: last } : {})) {
        if (backwards) seen.unshift(...page.rows)
        else seen.push(...page.rows)
      }
      const staying = seen.filter(({ stays }) => stays).map(({ id }) => id)
      // The row at which the way back begins isn't on it.
      expect(staying).toEqual(backwards ? expected.filter((id) => staying.includes(id)) : expected)
      expect(staying.length).toBeGreaterThanOrEqual(expected.length - 1)
      expect(new Set(seen.map(({ id }) => id)).size).toBe(seen.length)
    }
    try {
      await Promise.all([walkOver(false), walkOver(true), walkOver(false)])
    } finally {
      walking = false
      await Promise.all(writers)
    }

    expect(changes).toBeGreaterThan(20)
  })

  test('sessions of any settings read the same cursors', async () => {
    const table = fresh()
    const iso = makePool()
    const german = makePool({ options: '-c DateStyle=German,DMY -c TimeZone=Asia/Kathmandu -c bytea_output=escape' })
    await iso.query(`CREATE TABLE ${table} (at timestamptz, day date, raw bytea, id int PRIMARY KEY)`)
    await iso.query(
      `INSERT INTO ${table} SELECT '2024-02-01 00:00:00.000001Z'::timestamptz + n * interval '9 days 1 microsecond',
        '2024-02-01'::date + n, decode(lpad(to_hex(n), 2, '0'), 'hex'), n FROM generate_series(0, 20) n`,
    )
    for (const column of ['at', 'day', 'raw']) {
      const listing = { from: table, columns: ['id'], orderBy: [column, 'id'], limit: 2 }
      const ids: unknown[] = []
      let after: string | undefined
      do {
        const pool = ids.length % 4 === 0 ? iso : german
        const page: Page<Loose> = await paginate(pool, { ...listing, after })
        ids.push(...page.rows.map(({ id }) => id))
        after = page.next
      } while (after !== undefined)

      expect(ids).toEqual(Array.from({ length: 21 }, (_, n) => n))
    }
  })

  test('a NOT NULL that was not validated is not relied on', async () => {
    const pool = makePool()
    const { rows } = await pool.query('SHOW server_version_num')
    if (Number(rows[0].server_version_num) < 180_000) return
    const table = fresh()
    await pool.query(`CREATE TABLE ${table} (a int, id int PRIMARY KEY)`)
    await pool.query(`INSERT INTO ${table} VALUES (1, 1), (NULL, 2)`)
    await pool.query(`ALTER TABLE ${table} ADD CONSTRAINT later NOT NULL a NOT VALID`)

    const { forth } = await walk(new Paginator<Loose>(pool, { from: table, orderBy: ['a', 'id'], limit: 1 }))

    expect(forth.map(({ id }) => id)).toEqual([1, 2])
  })

  test('a signal that has aborted waits for no connection', async () => {
    const pool = makePool({ max: 1 })
    const pages = new Paginator(pool, { from: 'pg_class', orderBy: ['oid'], limit: 1 })
    const reason = new Error('enough')
    const held = await pool.connect()
    try {
      const iteration = pages.pages({ signal: AbortSignal.abort(reason) })

      await expect(pages.page({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
      await expect(iteration.next()).rejects.toBe(reason)

      expect(pool.waitingCount).toBe(0)
    } finally {
      held.release()
    }
    expect(pages.stats()).toMatchObject({ aborted: 2, failed: 0, pending: 0 })
    await expect(pages.page()).resolves.toMatchObject({ hasNext: true })
  })

  test('no connection is a retryable StoreError, and nothing was sent', async () => {
    const pool = makePool({ connectionString: 'postgres://postgres@127.0.0.1:1/postgres' })

    const answer = paginate(pool, { from: 't', orderBy: ['id'] })

    await expect(answer).rejects.toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
  })

  test('a statement is the same text for every page of its kind, so a connection prepares few', async () => {
    const pool = makePool({ max: 1 })
    const table = fresh()
    await pool.query(`CREATE TABLE ${table} (a int NOT NULL, id int PRIMARY KEY)`)
    await pool.query(`INSERT INTO ${table} SELECT n % 7, n FROM generate_series(1, 100) n`)
    const pages = new Paginator<Loose>(pool, { from: table, orderBy: ['a', 'id'] })

    for (const limit of [3, 7, 11]) {
      for (const n of [1, 2, 3]) for await (const _ of pages.pages({ limit, where: { id: { gt: n } } }));
    }
    const { rows } = await pool.query(`SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%${table}%'`)
    const bare = new Paginator<Loose>(pool, { from: table, orderBy: ['id'], prepared: false })
    await bare.page()
    const { rows: after } = await pool.query(`SELECT FROM pg_prepared_statements WHERE statement LIKE '%${table}%'`)

    expect(rows).toHaveLength(2)
    expect(after).toHaveLength(2)
  })
})
