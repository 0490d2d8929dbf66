import type pg from 'pg'
import { type Page, Paginator, type PaginatorOptions } from 'spillway/postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'

const server = await startPostgres()
const { make: makePool, end: endPools } = poolsOf(server?.url)

afterAll(async () => {
  await endPools()
  await server?.stop()
})

/** A node of EXPLAIN's JSON, as far as it is looked at. */
interface PlanNode {
  readonly 'Node Type': string
  readonly 'Index Cond'?: string
  readonly Filter?: string
  readonly 'Rows Removed by Filter'?: number
  readonly 'Actual Rows': number
  readonly 'Actual Loops': number
  readonly 'Shared Hit Blocks': number
  readonly 'Shared Read Blocks': number
  readonly Plans?: readonly PlanNode[]
}

interface Sent {
  readonly text: string
  readonly values: unknown[]
}

const rowCount = 50_000
const perPage = 25

describe.skipIf(server === undefined)('a page of a table with 50,000 rows', () => {
  let pool: pg.Pool
  let sent: Sent | undefined

  beforeAll(async () => {
    pool = makePool({ max: 1 })
    pool.on('connect', (client) => {
      const query = client.query.bind(client) as (...given: unknown[]) => unknown
      client.query = ((...given: unknown[]) => {
        const [statement] = given as [Sent | string]
        if (typeof statement === 'object' && statement.text.includes('FROM "scores" AS t')) sent = statement
        return query(...given)
      }) as never
    })
    await pool.query(
      `CREATE TABLE scores (id int PRIMARY KEY, score int NOT NULL, bonus int, at timestamptz NOT NULL, filler text)`,
    )
    // 500 rows of each score, a tenth of them without a bonus.
    await pool.query(`INSERT INTO scores SELECT n, n % 100, CASE WHEN n % 10 <> 0 THEN n % 50 END,
        '2024-01-01'::timestamptz + (n / 7) * interval '1 microsecond', repeat('x', 100)
        FROM generate_series(1, ${rowCount}) n`)
    await pool.query('CREATE INDEX ON scores (score, id)')
    await pool.query('CREATE INDEX ON scores (score DESC, id)')
    await pool.query('CREATE INDEX ON scores (bonus, id)')
    await pool.query('CREATE INDEX ON scores (at, id)')
    await pool.query('VACUUM ANALYZE scores')
  })

  const explain = async ({ text, values }: Sent): Promise<PlanNode> => {
    const { rows } = await pool.query({ text: `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${text}`, values })
    return (rows as [{ 'QUERY PLAN': [{ Plan: PlanNode }] }])[0]['QUERY PLAN'][0].Plan
  }
  const nodesOf = (plan: PlanNode): PlanNode[] => [plan, ...(plan.Plans ?? []).flatMap(nodesOf)]
  const buffersOf = (plan: PlanNode): number => plan['Shared Hit Blocks'] + plan['Shared Read Blocks']

  /** The page that so many rows come before, without walking there. */
  const pageAt = async (
    options: Pick<PaginatorOptions, 'orderBy'>,
    order: string,
    place: number,
    side: 'after' | 'before' = 'after',
  ): Promise<PlanNode> => {
    const listing = { from: 'scores', columns: ['id'], limit: perPage, ...options }
    const { rows } = await pool.query(
      `SELECT id FROM scores ORDER BY ${order} OFFSET ${place - 1} FETCH FIRST ROW ONLY`,
    )
    // A cursor of the row is that of a listing which has nothing else; it is good for all for not being bound to conditions.
    const one = new Paginator(pool, { ...listing, bindWhere: false })
    const { cursors = [] }: Page<unknown> = await one.page({ where: { id: rows[0].id }, rowCursors: true })
    const all = new Paginator<{ id: number }>(pool, { ...listing, bindWhere: false })
    const page = await all.page({ [side]: cursors[0] })
    const offset = side === 'after' ? place : place - 1 - perPage
    const expected = await pool.query(`SELECT id FROM scores ORDER BY ${order} OFFSET ${offset} LIMIT ${perPage}`)
    expect(page.rows.map(({ id }) => id)).toEqual(expected.rows.map(({ id }) => id))
    return explain(sent as Sent)
  }

  test.each<[string, PaginatorOptions['orderBy'], string, number]>([
    ['one way', ['score', 'id'], 'score, id', 1],
    [
      'one way, downwards',
      [
        { column: 'score', direction: 'desc' },
        { column: 'id', direction: 'desc' },
      ],
      'score DESC, id DESC',
      1,
    ],
    ['one way, by a timestamp with microseconds', ['at', 'id'], 'at, id', 1],
    ['both ways', [{ column: 'score', direction: 'desc' }, 'id'], 'score DESC, id', 2],
    ['with NULLs', ['bonus', 'id'], 'bonus, id', 3],
  ])('ordered %s is a range of an index, which costs the same far behind', async (_how, orderBy, order, ranges) => {
    const first = await pageAt({ orderBy }, order, 30)
    const thousandth = await pageAt({ orderBy }, order, 25_030)
    const back = await pageAt({ orderBy }, order, 25_030, 'before')

    for (const plan of [first, thousandth, back]) {
      const nodes = nodesOf(plan)
      const scans = nodes.filter((node) => node['Node Type'].includes('Scan') && node['Node Type'] !== 'Subquery Scan')
      expect(scans.length).toBeLessThanOrEqual(ranges)
      for (const scan of scans) {
        expect(scan['Node Type']).toMatch(/^Index (?:Only )?Scan$/)
        expect(scan['Index Cond']).toBeTruthy()
        expect(scan.Filter).toBeUndefined()
        expect(scan['Actual Rows'] * scan['Actual Loops']).toBeLessThanOrEqual(perPage + 1)
      }
      for (const node of nodes) expect(node['Rows Removed by Filter'] ?? 0).toBe(0)
      if (ranges === 1) expect(nodes.map((node) => node['Node Type'])).not.toContain('Sort')
      expect(buffersOf(plan)).toBeLessThan(ranges * (perPage + 10))
    }
    expect(Math.abs(buffersOf(thousandth) - buffersOf(first))).toBeLessThanOrEqual(10 * ranges)
  })

  test('costs a small part of what the same page costs by OFFSET', async () => {
    const text = 'SELECT id, filler FROM scores ORDER BY at, id OFFSET 25030 LIMIT 26'

    const offset = await explain({ text, values: [] })
    const keyset = await pageAt({ orderBy: ['at', 'id'] }, 'at, id', 25_030)

    expect(buffersOf(keyset) * 10).toBeLessThan(buffersOf(offset))
  })

  test('reads by an index what the condition fixes, too', async () => {
    const pages = new Paginator<{ id: number }>(pool, { from: 'scores', orderBy: ['id'], limit: perPage })
    const where = { score: 42 }

    const { next } = await pages.page({ where })
    await pages.page({ where, after: next })
    const plan = await explain(sent as Sent)

    const scan = nodesOf(plan).find((node) => node['Node Type'].startsWith('Index'))
    expect(scan?.['Index Cond']).toMatch(/score = .* AND \(id > /)
    expect(nodesOf(plan).map((node) => node['Node Type'])).not.toContain('Sort')
  })
})
