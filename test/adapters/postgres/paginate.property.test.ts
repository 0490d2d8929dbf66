import { PGlite } from '@electric-sql/pglite'
import fc from 'fast-check'
import { type OrderColumn, type Page, Paginator, type PostgresDatabase } from 'spillway/postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'

const server = await startPostgres()
const embedded = new PGlite()
const { make: makePool, end: endPools } = poolsOf(server?.url)

beforeAll(() => embedded.waitReady)
afterAll(async () => {
  await endPools()
  await embedded.close()
  await server?.stop()
})

type Row = { id: number; a: number | null; b: string | null; c: number; d: boolean }
type Query = (text: string, values?: unknown[]) => Promise<{ rows: unknown[] }>

const databases: [string, () => PostgresDatabase & { query: Query }][] = [['PGlite', () => embedded as never]]
if (server !== undefined) databases.push(['PostgreSQL', () => makePool() as never])

const table = `CREATE TABLE things (
  id int PRIMARY KEY, a int, b text COLLATE "C", c smallint NOT NULL, d boolean NOT NULL)`

const rowOf = fc.record({
  a: fc.option(fc.integer({ min: -2, max: 2 })),
  b: fc.option(fc.constantFrom('', 'a', 'B', 'é', '\\', '"', "'", '€uro', 'null')),
  c: fc.integer({ min: 0, max: 2 }),
  d: fc.boolean(),
})
const rowsOf = fc.array(rowOf, { maxLength: 40 }).map((rows) => rows.map((row, id) => ({ id, ...row })))

const directionOf = {
  direction: fc.constantFrom('asc' as const, 'desc' as const, undefined),
  nulls: fc.constantFrom('first' as const, 'last' as const, undefined),
}
/** An order that is unique for the id somewhere in it, which needn't be at the end. */
const orderOf: fc.Arbitrary<OrderColumn[]> = fc
  .shuffledSubarray(['a', 'b', 'c', 'd'])
  .chain((columns) => fc.tuple(fc.constant(columns), fc.nat({ max: columns.length })))
  .map(([columns, place]) => columns.toSpliced(columns.length - (place === 1 ? 1 : 0), 0, 'id'))
  .chain((columns) => fc.tuple(...columns.map((column) => fc.record({ column: fc.constant(column), ...directionOf }))))

const whereOf = fc.constantFrom<[Record<string, never>, string][]>(
  [{}, 'true'],
  [{ d: true } as never, 'd'],
  [{ a: null } as never, 'a IS NULL'],
  [{ a: { gte: -1, lt: 2 } } as never, 'a >= -1 AND a < 2'],
  [{ b: ['a', 'B', '\\'] } as never, `b IN ('a', 'B', '\\')`],
  [{ c: { notIn: [1] }, b: { ne: null } } as never, 'c <> 1 AND b IS NOT NULL'],
)

function orderText(order: readonly OrderColumn[]): string {
  return order
    .map(({ column, direction = 'asc', nulls }) => `${column} ${direction}${nulls ? ` NULLS ${nulls}` : ''}`)
    .join(', ')
}

async function collect(pages: AsyncIterable<Page<Row>>): Promise<Page<Row>[]> {
  const all: Page<Row>[] = []
  for await (const page of pages) {
    all.push(page)
    expect(all.length).toBeLessThan(200)
  }
  return all
}

describe.each(databases)('on %s', (_name, open) => {
  let database: ReturnType<typeof open>
  const put = async (rows: readonly Row[]): Promise<void> => {
    await database.query('TRUNCATE things')
    await database.query('INSERT INTO things SELECT * FROM json_populate_recordset(NULL::things, $1)', [
      JSON.stringify(rows),
    ])
  }
  beforeAll(async () => {
    database = open()
    await database.query(table)
  })

  test('a walk to the end, and one back, equal the whole listing read in one go', { timeout: 120_000 }, async () => {
    const limitOf = fc.integer({ min: 1, max: 12 })
    const property = fc.asyncProperty(
      rowsOf,
      orderOf,
      whereOf,
      limitOf,
      async (rows, orderBy, [where, text], limit) => {
        await put(rows)
        const { rows: expected } = await database.query(
          `SELECT * FROM things WHERE ${text} ORDER BY ${orderText(orderBy)}`,
        )
        const paginator = new Paginator<Row>(database, { from: 'things', orderBy, secret: 'a secret of 16 bytes' })

        const forth = await collect(paginator.pages({ where, limit }))
        const end = forth.at(-1)
        const back = end?.previous ? await collect(paginator.pages({ where, limit, before: end.previous })) : []

        expect(forth.flatMap((page) => page.rows)).toEqual(expected)
        expect([...back.reverse(), end].flatMap((page) => page?.rows ?? [])).toEqual(expected)
        expect(forth.map(({ hasNext }) => hasNext)).toEqual(forth.map((_, n) => n < forth.length - 1))
        expect(forth[0]?.hasPrevious).toBe(false)
        for (const page of forth.slice(0, -1)) expect(page.rows.length).toBe(limit)
      },
    )
    await fc.assert(property, { numRuns: 150 })
  })

  test('whatever is inserted and deleted, what stays is seen once', { timeout: 120_000 }, async () => {
    const changesOf = fc.array(fc.record({ goes: fc.nat({ max: 39 }), comes: rowOf }), { maxLength: 30 })
    const property = fc.asyncProperty(
      rowsOf,
      orderOf,
      fc.integer({ min: 1, max: 5 }),
      changesOf,
      fc.boolean(),
      async (rows, orderBy, limit, changes, backwards) => {
        await put(rows)
        const paginator = new Paginator<Row>(database, { from: 'things', orderBy })
        const staying = new Set(rows.map(({ id }) => id))
        let made = 0
        const change = async (): Promise<void> => {
          for (const { goes, comes } of changes.splice(0, 3)) {
            await database.query('DELETE FROM things WHERE id = $1', [goes])
            staying.delete(goes)
            // Ids that no row had before, on both sides of all others.
            const id = made++ % 2 === 0 ? 100 + made : -made
            const values = [id, comes.a, comes.b, comes.c, comes.d]
            await database.query('INSERT INTO things VALUES ($1, $2, $3, $4, $5)', values)
          }
        }
        const last = backwards ? (await collect(paginator.pages({ limit }))).at(-1) : undefined
        const seen: number[] = last?.rows.map(({ id }) => id) ?? []
        if (!backwards || last?.previous !== undefined) {
          await change()
          for await (const page of paginator.pages({ limit, ...(backwards && { before: last?.previous }) })) {
            const ids = page.rows.map(({ id }) => id)
            if (backwards) seen.unshift(...ids)
            else seen.push(...ids)
            await change()
          }
        }
        const { rows: left } = await database.query(`SELECT id FROM things ORDER BY ${orderText(orderBy)}`)
        const kept = (left as Row[]).map(({ id }) => id).filter((id) => staying.has(id))

        expect(seen.filter((id) => staying.has(id))).toEqual(kept)
        expect(new Set(seen).size).toBe(seen.length)
      },
    )
    await fc.assert(property, { numRuns: 80 })
  })
})
