import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import { type PageRequest, Paginator, type PaginatorOptions, paginate } from 'spillway/postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const database = new PGlite()
const base: PaginatorOptions = { from: 'things', orderBy: ['id'] }

beforeAll(() =>
  database.exec(
    'CREATE TABLE things (id int PRIMARY KEY, s text, at timestamptz); INSERT INTO things VALUES (1, $$a$$, $$1970-01-01 00:00:00Z$$)',
  ),
)
afterAll(() => database.close())

const make = (options: Record<string, unknown>): Paginator => new Paginator(database, { ...base, ...options })
const tooLong = 'é'.repeat(32)

test.each<[string, unknown]>([
  ['from', ''],
  ['from', undefined],
  ['from', 5],
  ['from', 'a\0'],
  ['from', tooLong],
  ['from', ['things']],
  ['schema', ''],
  ['schema', null],
  ['columns', []],
  ['columns', 'id'],
  ['columns', ['id', 'id']],
  ['columns', null],
  ['orderBy', undefined],
  ['orderBy', []],
  ['orderBy', 'id'],
  ['orderBy', ['id', { column: 'id' }]],
  ['orderBy', Array.from({ length: 9 }, (_, n) => `c${n}`)],
  ['limit', 0],
  ['limit', -1],
  ['limit', 1.5],
  ['limit', Number.NaN],
  ['limit', 1001],
  ['limit', '10'],
  ['limit', null],
  ['maxLimit', 0],
  ['maxLimit', Number.POSITIVE_INFINITY],
  ['bindWhere', 1],
  ['assumeUnique', 'yes'],
  ['prepared', null],
  ['name', 5],
  ['clock', {}],
])('a wrong %s is refused at once: %o', (field, value) => {
  expect(() => make({ [field]: value })).toThrowError(expect.objectContaining({ code: 'ERR_OPTION', field }))
})

test.each<[string, unknown]>([
  ['columns[1]', { columns: ['id', ''] }],
  ['columns[0]', { columns: [5] }],
  ['orderBy[0]', { orderBy: [''] }],
  ['orderBy[1]', { orderBy: ['id', null] }],
  ['orderBy[0].column', { orderBy: [{}] }],
  ['orderBy[0].direction', { orderBy: [{ column: 'id', direction: 'DESC' }] }],
  ['orderBy[0].direction', { orderBy: [{ column: 'id', direction: 'desc; DROP TABLE things' }] }],
  ['orderBy[0].nulls', { orderBy: [{ column: 'id', nulls: 'between' }] }],
])('a wrong %s is refused at once', (field, options) => {
  expect(() => make(options as Record<string, unknown>)).toThrowError(
    expect.objectContaining({ code: 'ERR_OPTION', field }),
  )
})

test.each<[string, unknown]>([
  ['a short one', 'short'],
  ['an empty one', ''],
  ['none of several', []],
  ['a short one of several', ['a secret of 16 bytes', 'hunter2']],
  ['a number', 1234567890123456],
  ['null', null],
  ['an object', { secret: 'a secret of 16 bytes' }],
])('a wrong secret is refused, and never shown: %s', (_what, secret) => {
  let error: unknown
  try {
    make({ secret })
  } catch (thrown) {
    error = thrown
  }

  expect(error).toMatchObject({ code: 'ERR_OPTION', field: 'secret' })
  expect(String(error)).not.toMatch(/hunter2|short"|123456|a secret of/)
})

test.each([
  ['a Uint8Array', new Uint8Array(16).fill(7)],
  ['a Buffer', Buffer.alloc(16, 7)],
])('a secret that its owner overwrites is still the one that was given: %s', async (_what, secret) => {
  const pages = make({ secret, limit: 1 })
  const { cursors: [cursor] = [] } = await pages.page({ rowCursors: true })

  secret.fill(0)

  await expect(pages.page({ after: cursor })).resolves.toMatchObject({ rows: [] })
})

test.each<[string, unknown]>([
  ['a client', new pg.Client()],
  ['an address', 'postgres://localhost'],
  ['nothing', undefined],
])('what is no database is refused: %s', async (_what, wrong) => {
  expect(() => new Paginator(wrong as never, base)).toThrow(/pg Pool or a PGlite/)
  await expect(paginate(wrong as never, base)).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'database' })
})

test('options that are none are refused', async () => {
  expect(() => new Paginator(database, undefined as never)).toThrowError(
    expect.objectContaining({ code: 'ERR_OPTION' }),
  )
  expect(() => new Paginator(database, null as never)).toThrowError(expect.objectContaining({ code: 'ERR_OPTION' }))
  await expect(paginate(database, undefined as never)).rejects.toMatchObject({ code: 'ERR_OPTION' })
})

test('a maxLimit below the usual limit is the limit', async () => {
  await database.exec('CREATE TABLE ten AS SELECT generate_series(1, 10) AS id; ALTER TABLE ten ADD PRIMARY KEY (id)')

  const page = await make({ from: 'ten', maxLimit: 4, limit: undefined }).page()

  expect(page.rows).toHaveLength(4)
})

describe('a request', () => {
  const pages = make({ maxLimit: 100 })
  const page = (request: unknown): Promise<unknown> => pages.page(request as PageRequest)

  test.each<[string, unknown]>([
    ['request', null],
    ['request', 'after'],
    ['limit', { limit: 0 }],
    ['limit', { limit: Number.NaN }],
    ['limit', { limit: 101 }],
    ['limit', { limit: 2 ** 53 }],
    ['limit', { limit: '5' }],
    ['limit', { limit: '1; DROP TABLE things' }],
    ['rowCursors', { rowCursors: 'yes' }],
    ['signal', { signal: {} }],
    ['before', { after: 'a', before: 'b' }],
    ['where', { where: null }],
    ['where', { where: 's = 1' }],
    ['where', { where: [['s', 1]] }],
    ['where', { where: new Map([['s', 1]]) }],
    ['where', { where: { '': 1 } }],
    ['where', { where: { 's" = $1 OR true --': 'x' } }],
    ['where', { where: { 'id) = 1 OR (1': 1 } }],
    ['where', { where: JSON.parse('{"__proto__": 1}') }],
    ['where', { where: { constructor: 'x' } }],
    ['where.s', { where: { s: undefined } }],
    ['where.s', { where: { s: {} } }],
    ['where.s', { where: { s: () => 'x' } }],
    ['where.s', { where: { s: Symbol('x') } }],
    ['where.s', { where: { s: new Map() } }],
    ['where.s', { where: { s: new Date(Number.NaN) } }],
    ['where.s', { where: { s: Number.NaN } }],
    ['where.s', { where: { s: 'a\0' } }],
    ['where.s', { where: { s: '\ud800' } }],
    ['where.s[1]', { where: { s: ['a', null] } }],
    ['where.s[0]', { where: { s: [['a']] } }],
    ['where.s.eq', { where: { s: { eq: undefined } } }],
    ['where.s.eq', { where: { s: { eq: { ne: 'a' } } } }],
    ['where.s.gt', { where: { s: { gt: null } } }],
    ['where.s.in', { where: { s: { in: 'a' } } }],
    ['where.s.notIn[0]', { where: { s: { notIn: [undefined] } } }],
    ['where.s.like', { where: { s: { like: 5 } } }],
    ['where.s.startsWith', { where: { s: { startsWith: 'a\0' } } }],
    ['where.s.$gt', { where: { s: { $gt: '' } } }],
    ['where.s.= 1 OR 1 =', { where: { s: { '= 1 OR 1 =': 1 } } }],
    ['where.s.toString', { where: { s: { toString: 'x' } } }],
    ['where.s.__proto__', { where: { s: JSON.parse('{"__proto__": 1}') } }],
  ])('whose %s is wrong rejects, and is sent nowhere: %o', async (field, request) => {
    await expect(page(request)).rejects.toMatchObject({ code: 'ERR_OPTION', field })
  })

  test('has what is its own, and nothing that a prototype has', async () => {
    const inherited = Object.create({ s: 'nothing is so' }) as Record<string, string>
    const prototype = Object.prototype as Record<string, unknown>
    prototype['s'] = 'polluted'
    try {
      await expect(page({ where: {} })).resolves.toMatchObject({ rows: [{ id: 1 }] })
      await expect(page({ where: { s: { gte: 'a' } } })).resolves.toMatchObject({ rows: [{ id: 1 }] })
    } finally {
      delete prototype['s']
    }
    await expect(page({ where: Object.assign(Object.create(null), { s: 'a' }) })).resolves.toMatchObject({
      rows: [{ id: 1 }],
    })
    await expect(page({ where: inherited })).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'where' })
  })

  test('is what it was when it was made, whatever becomes of it', async () => {
    const ids = [1]
    const at = new Date(0)
    const where = { id: ids, s: { ne: 'b' } as { ne: string | null }, at: { lte: at } }

    const answer = page({ where })
    ids[0] = 7
    where.s.ne = 'a'
    at.setTime(-1)

    await expect(answer).resolves.toMatchObject({ rows: [{ id: 1 }] })
  })

  test('keeps its bytes, in a Buffer too', async () => {
    await database.exec(`CREATE TABLE blobs (id int PRIMARY KEY, raw bytea); INSERT INTO blobs VALUES (1, '\\x0102')`)
    for (const raw of [new Uint8Array([1, 2]), Buffer.from([1, 2])]) {
      const answer = make({ from: 'blobs' }).page({ where: { raw } })
      raw.fill(0)

      await expect(answer).resolves.toMatchObject({ rows: [{ id: 1 }] })
    }
  })

  test('may be left out', async () => {
    await expect(pages.page()).resolves.toMatchObject({ rows: [{ id: 1 }] })
  })

  test('that is wrong rejects an iteration when it begins', async () => {
    const iteration = pages.pages({ limit: 0 })

    await expect(iteration.next()).rejects.toMatchObject({ field: 'limit' })
  })
})

describe('SQL in a name', () => {
  test.each(['things; DROP TABLE things', 'things" WHERE true --', "things'", '(SELECT 1)', 'pg_catalog.pg_class'])(
    'is a name of nothing: %s',
    async (from) => {
      await expect(make({ from }).page()).rejects.toMatchObject({ code: 'ERR_STORE' })
      await expect(make({ schema: from }).page()).rejects.toMatchObject({ code: 'ERR_STORE' })
      await expect(make({ columns: [from] }).page()).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'columns[0]' })
      await expect(make({ orderBy: [from] }).page()).rejects.toMatchObject({ code: 'ERR_OPTION', field: 'orderBy' })
    },
  )

  test('is part of the name where a table is called so', async () => {
    const name = 'a"; DROP TABLE things; --'
    const column = `x' "y" $1 */ \\`
    await database.exec(
      `CREATE TYPE "m */ood" AS ENUM ('x');
       CREATE TABLE "a""; DROP TABLE things; --" (id int PRIMARY KEY, "x' ""y"" $1 */ \\" "m */ood");
       INSERT INTO "a""; DROP TABLE things; --" VALUES (1, 'x'), (2, 'x')`,
    )
    const pages = make({ from: name, orderBy: [column, 'id'], limit: 1 })

    const { next } = await pages.page({ where: { [column]: 'x' } })

    await expect(pages.page({ where: { [column]: 'x' }, after: next })).resolves.toMatchObject({ rows: [{ id: 2 }] })
    await expect(make({}).page()).resolves.toMatchObject({ rows: [{ id: 1 }] })
  })
})
