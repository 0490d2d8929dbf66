import { PGlite } from '@electric-sql/pglite'
import { suggestIndexes } from 'spillway/postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'

const database = new PGlite()

beforeAll(async () => {
  await database.exec(`
    CREATE TABLE "My ""T" (a text, "B c" int, v varchar(9), flag boolean, day date, n numeric, other text);
    CREATE DOMAIN words AS text; CREATE TABLE typed (word words, boxed box, net cidr, tags int[], hashed int);
    INSERT INTO "My ""T" SELECT 'a' || n, n, 'v' || n, n % 50 = 0, '2026-01-01'::date + n, n, 'a' || n + 1 FROM generate_series(1, 1000) AS n;
    INSERT INTO typed SELECT 'w' || n, box(point(n, n), point(0, 0)), '10.0.0.0/8', ARRAY[n], n FROM generate_series(1, 1000) AS n;
    CREATE INDEX ON typed USING hash (hashed);
    CREATE TABLE t AS SELECT n AS id, n % 100 AS tag FROM generate_series(1, 1000) AS n;
    ANALYZE;
    CREATE FUNCTION same(text) RETURNS text STABLE LANGUAGE sql AS 'SELECT $1'`)
})
afterAll(() => database.close())

const columnsFor = async (where: string, values?: unknown[]): Promise<readonly string[][]> => {
  const { suggestions, skipped } = await suggestIndexes(database, {
    queries: [{ text: `SELECT * FROM "My ""T" "X.y" WHERE ${where}`, values }],
    minTableRows: 0,
    maxShare: 1,
  })
  expect(skipped).toEqual([])
  return suggestions.filter(({ kind }) => kind === 'filter').map(({ columns }) => [...columns])
}

test.each<[string, string[]]>([
  [`a = 'x'`, ['a']],
  [`'x' = a`, ['a']],
  [`a = 'it''s ) AND (("X.y"."B c" = 5) OR ' AND flag`, ['a', 'flag']],
  [`a = E'back\\\\slash'' AND ("X.y".n = 1'`, ['a']],
  [`"B c" = ANY (ARRAY[1, 2, 3])`, ['B c']],
  [`"B c" IN (1, 2) AND a IS NULL`, ['a', 'B c']],
  [`"B c" <> 4 AND NOT flag AND a <> 'x'`, ['flag']],
  [`flag AND day > '2026-03-01'`, ['flag', 'day']],
  [`day BETWEEN '2026-03-01' AND '2026-03-05'`, ['day']],
  [`5 < n`, ['n']],
  [`v = 'v7'`, ['v']],
  [`a = same('x')`, ['a']],
  [`flag IS TRUE`, ['flag']],
  // What is worked out for each row anew is nothing to search by; the scan within it is.
  [`a = (SELECT min(i.a) FROM "My ""T" i WHERE i.v = "X.y".v)`, ['v']],
])('of %s the index is %j', async (where, columns) => {
  expect(await columnsFor(where)).toEqual([columns])
})

test.each([
  `a = 'x' OR v = 'y'`,
  `NOT (a = 'x' AND v = 'y')`,
  'a = other',
  `a = "X.y".other || 'x'`,
  `lower(a) = 'x'`,
  `a LIKE '%x'`,
  '"B c" % 2 = 0',
  `day::timestamp = '2026-03-01 10:00'`,
  'n <> ALL (ARRAY[1, 2])',
  `a IS NOT NULL`,
  "(a, v) > ('x', 'y')",
  `CASE WHEN flag THEN a ELSE v END = 'x'`,
])('of %s there is none', async (where) => {
  expect(await columnsFor(where)).toEqual([])
})

test('a condition that compares with another table asks for the column of this one', async () => {
  const { suggestions } = await suggestIndexes(database, {
    queries: [{ text: 'SELECT id, (SELECT count(*) FROM t b WHERE b.tag = a.id) FROM t a WHERE a.id = 5' }],
    minTableRows: 0,
  })

  expect(suggestions.map(({ table, columns }) => [table, columns])).toEqual(
    expect.arrayContaining([
      ['t', ['id']],
      ['t', ['tag']],
    ]),
  )
})

test.each<[string, string[][]]>([
  ['word IS NULL', [['word']]],
  ['net IS NULL', [['net']]],
  ['boxed IS NULL', []],
  [`tags = '{1}'`, [['tags']]],
  [`boxed = '(1,1),(0,0)'`, []],
  ['hashed = 5', []],
  ['hashed < 5', [['hashed']]],
])('of %s on typed columns what a B-tree can do is suggested: %j', async (where, columns) => {
  await database.exec('SET enable_indexscan = off; SET enable_bitmapscan = off')
  const { suggestions } = await suggestIndexes(database, {
    queries: [{ text: `SELECT * FROM typed WHERE ${where}` }],
    minTableRows: 0,
    maxShare: 1,
  })
  await database.exec('RESET enable_indexscan; RESET enable_bitmapscan')

  const made = suggestions.filter(({ kind }) => kind === 'filter')
  expect(made.map((one) => one.columns)).toEqual(columns)
  // The server takes them.
  for (const { statement } of made)
    await database.exec(
      `${statement?.replace(' CONCURRENTLY', '')}; DROP INDEX typed_${columns[0]?.[0]}_idx${where.startsWith('hashed') ? '1' : ''}`,
    )
})

test('of values that are known the rare ones count, not the average', async () => {
  // Of flag = true there are 2 %, of flag = false 98 %.
  expect(await columnsFor('flag = true AND v = $1', ['v1'])).toEqual([['v', 'flag']])
  expect(await columnsFor('flag = false AND v = $1', ['v1'])).toEqual([['v']])
})
