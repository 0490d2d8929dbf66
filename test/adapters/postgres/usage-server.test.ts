import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { type AcceptedUsage, isSpillwayError, type UsageDedupe } from 'spillway'
import { PostgresUsageSink, type PostgresUsageSinkOptions } from 'spillway/postgres'
import { seededRandom } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'
import { until } from './until.ts'
import { attemptAt, batchOf, dayMs, type HeldRows, holdRows, keyOf, use, waiters, write } from './usage-databases.ts'

const server = await startPostgres()
const { make: makePool, end: endPools } = poolsOf(server?.url)
const dedupes: readonly UsageDedupe[] = ['batch', 'event', 'request']
const max = Number.MAX_SAFE_INTEGER

afterAll(async () => {
  await endPools()
  await server?.stop()
})

/** A use with ids of its own. */
const fresh = (userId: string, value = 1): AcceptedUsage =>
  use(value, { userId, id: randomUUID(), requestId: randomUUID() })

describe.skipIf(server === undefined).each(dedupes)('on a real server, telling apart by %s', (dedupe) => {
  let pool: pg.Pool
  const table = `usage_${dedupe}`
  const tables = { table, batchTable: `batches_${dedupe}`, requestTable: `requests_${dedupe}`, dedupe }
  const open = (on: pg.Pool = pool, options: PostgresUsageSinkOptions = {}): PostgresUsageSink =>
    new PostgresUsageSink(on, { ...tables, ...options })
  const used = async (...users: string[]): Promise<number[]> =>
    (await open().readTotals(users.map((userId) => keyOf(use(0, { userId }))))).map(({ value }) => value)
  const hold = (...users: string[]): Promise<HeldRows> => holdRows(makePool({ max: 1 }), table, ...users)

  beforeAll(async () => {
    pool = makePool()
    await open().createSchema()
  })

  test('tables are made once, by many at the same time', async () => {
    const makers = Array.from({ length: 8 }, () => makePool({ max: 1 }))
    for (let round = 0; round < 4; round++) {
      const name = `${dedupe}_${round}`
      const names = { table: `race_u_${name}`, batchTable: `race_b_${name}`, requestTable: `race_r_${name}` }
      const sinks = makers.map((one) => open(one, names))

      await Promise.all(sinks.map((sink) => sink.createSchema()))
      await Promise.all(sinks.map((sink) => sink.createSchema()))

      expect(await write(sinks[0] as PostgresUsageSink, [fresh('ann')])).toEqual([])
    }
  })

  test('where the tables are there, it needs no privilege to make them', async () => {
    const role = `plain_${dedupe}`
    await pool.query(`CREATE ROLE ${role} LOGIN PASSWORD 'plain'`)
    const needed = [tables.table, tables.batchTable, ...(dedupe === 'batch' ? [] : [tables.requestTable])]
    await pool.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON ${needed.join(', ')} TO ${role}`)
    const { hostname, port, pathname } = new URL(server?.url ?? '')
    const address = { host: hostname, port: Number(port), database: pathname.slice(1) }
    const plain = makePool({ ...address, connectionString: undefined, user: role, password: 'plain' } as pg.PoolConfig)
    const sink = open(plain, { managePartitions: false })

    await sink.createSchema()

    expect(await write(sink, [fresh('by a plain user'), fresh('by a plain user')])).toEqual([])
    expect(await used('by a plain user')).toEqual([2])
    await expect(open(plain, { table: 'other' }).createSchema()).rejects.toThrow('permission')
  })

  test('schemaSql is what a migration needs', async () => {
    const name = `migrated_${dedupe}`
    const sink = open(pool, { table: `u_${name}`, batchTable: `b_${name}`, requestTable: `r_${name}` })
    await pool.query(sink.schemaSql)
    await pool.query(sink.schemaSql)

    expect(await write(sink, [fresh('ann')])).toEqual([])
    expect(sink.stats().partitionsMade).toBe(0)
  })

  test('attempts at one id that both began before either was done: one applies, all get its answers', async () => {
    const sink = open()
    await write(sink, [fresh('raced'), fresh('full', max)])
    const held = await hold('raced')
    const batch = batchOf([fresh('raced'), fresh('full')])

    const attempts = [1, 2, 3].map(() => sink.write(batch, attemptAt(batch)))
    await until(async () => (await waiters(pool)) === 3)
    await held.letGo()

    for (const refused of await Promise.all(attempts)) expect(refused.map(({ index }) => index)).toEqual([1])
    expect(sink.stats()).toMatchObject({ applied: 2, repeated: 2, failed: 0 })
    expect(await used('raced', 'full')).toEqual([2, max])
  })

  test('a deadlock that others cause is retried, and nobody hears of it', async () => {
    const sink = open()
    await write(sink, [fresh('lock a'), fresh('lock b')])
    const held = await hold('lock b')
    const retried: unknown[] = []
    sink.on('retried', ({ error }) => void retried.push((error as { code?: unknown }).code))

    const answer = write(sink, [fresh('lock b'), fresh('lock a')])
    await until(async () => (await waiters(pool)) === 1)
    await held.take('lock a')
    await held.letGo()

    expect(await answer).toEqual([])
    expect(retried).toEqual(['40P01'])
    expect(await used('lock a', 'lock b')).toEqual([2, 2])
    expect(sink.stats()).toMatchObject({ retries: 1, failed: 0 })
  })

  test('a serialization conflict is retried, a bounded number of times', async () => {
    const serializable = makePool({ options: '-c default_transaction_isolation=serializable' })
    const sink = open(serializable, { retry: { attempts: 2, delayMs: 1 } })
    await write(sink, [fresh('serial')])
    const conflict = async (by: PostgresUsageSink): Promise<unknown> => {
      const held = await hold('serial')
      const answer = write(by, [fresh('serial')]).catch((error: unknown) => error)
      await until(async () => (await waiters(pool)) === 1)
      await held.letGo()
      return answer
    }

    expect(await conflict(sink)).toEqual([])
    expect(sink.stats()).toMatchObject({ retries: 1, failed: 0 })
    const once = await conflict(open(serializable, { retry: { attempts: 1 } }))

    expect(isSpillwayError(once, 'ERR_STORE')).toBe(true)
    expect(once).toMatchObject({ retryable: true, outcomeUnknown: false })
    expect(await used('serial')).toEqual([2])
  })

  test('a signal that aborts while a statement runs rejects at once; a retry under the id is exact', async () => {
    const sink = open()
    await write(sink, [fresh('aborted')])
    const held = await hold('aborted')
    const controller = new AbortController()
    const reason = new Error('gone')
    const batch = batchOf([fresh('aborted')])

    const answer = sink.write(batch, attemptAt(batch, controller.signal))
    await until(async () => (await waiters(pool)) === 1)
    controller.abort(reason)

    await expect(answer).rejects.toBe(reason)
    await held.letGo()
    expect(await sink.write(batch, attemptAt(batch))).toEqual([])
    expect(await used('aborted')).toEqual([2])
  })

  test('a signal that aborts while there is no connection sends nothing', async () => {
    const small = makePool({ max: 1 })
    const taken = await small.connect()
    const controller = new AbortController()
    const batch = batchOf([fresh('never sent')])
    const answer = open(small).write(batch, attemptAt(batch, controller.signal))
    controller.abort(new Error('gone'))
    await expect(answer).rejects.toThrow('gone')

    taken.release()

    expect(await used('never sent')).toEqual([0])
  })

  test('a session that was ended under the statement: unknown; a statement timeout: rolled back', async () => {
    await write(open(), [fresh('e')])
    const held = await hold('e')
    const small = makePool({ max: 1 })
    const released: unknown[] = []
    small.on('release', (error: unknown) => void released.push(error))
    const ended = write(open(small), [fresh('e')]).catch((error: unknown) => error)
    await until(async () => (await waiters(pool)) === 1)
    await pool.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`)
    const timedOut = await write(open(makePool({ statement_timeout: 50 })), [fresh('e')]).catch(
      (error: unknown) => error,
    )
    await held.letGo()

    expect(await ended).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: true })
    // The pool gives nobody else the session that is over.
    expect(released).toEqual([expect.objectContaining({ code: '57P01' })])
    expect(timedOut).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
    expect(await used('e')).toEqual([1])
  })

  test('type parsers of the application and a tiny work_mem change nothing', async () => {
    const parsed = new Set([20, 21, 23, 701, 1700, 3802])
    const getTypeParser = (oid: number, format: 'text') =>
      parsed.has(oid) ? (text: string) => ({ text }) : pg.types.getTypeParser(oid, format)
    const sink = open(makePool({ types: { getTypeParser: getTypeParser as never }, options: '-c work_mem=64kB' }))
    const many = Array.from({ length: 3000 }, (_, i) => fresh(`typed ${i % 1000}`))
    const id = randomUUID()

    for (let attempt = 0; attempt < 2; attempt++) expect(await write(sink, many, id)).toEqual([])

    expect(await used('typed 0', 'typed 999')).toEqual([3, 3])
    expect(sink.stats()).toMatchObject({ applied: 1, repeated: 1, counted: 3000 })
  })

  test('statements are prepared, or not', async () => {
    const prepared = async (option: boolean): Promise<number> => {
      const small = makePool({ max: 1 })
      await write(open(small, { prepared: option }), [fresh('prepared')])
      return (await small.query('SELECT FROM pg_prepared_statements')).rowCount ?? 0
    }

    expect(await prepared(true)).toBe(1)
    expect(await prepared(false)).toBe(0)
  })

  test.skipIf(dedupe !== 'request')(
    'a request that comes twice at one moment, with timestamps on both sides of midnight, counts once',
    async () => {
      const sink = open()
      const midnight = Math.floor(Date.now() / dayMs) * dayMs
      const sides = [midnight - 240_000, midnight + 240_000]
      for (const [round, order] of [sides, sides.toReversed()].entries()) {
        const userId = `midnight ${round}`
        await write(sink, [fresh(userId)])
        const held = await hold(userId)

        const writes = order.map((timestamp) => write(sink, [use(1, { userId, requestId: 'twice', timestamp })]))
        await until(async () => (await waiters(pool)) === 2)
        await held.letGo()
        await Promise.all(writes)
        await write(sink, [use(1, { userId, requestId: 'twice', timestamp: midnight })])

        expect(await used(userId)).toEqual([2])
      }
      expect(sink.stats()).toMatchObject({ counted: 4, duplicates: 4, retries: 0 })
    },
  )

  test.skipIf(dedupe === 'batch')('no batch reads all ids, whatever the planner believed of it', async () => {
    const name = `scan_${dedupe}`
    const sink = open(pool, { table: `u_${name}`, batchTable: `b_${name}`, requestTable: `r_${name}` })
    await sink.createSchema()
    const scans = async (): Promise<{ all: number; some: number }> => {
      const { rows } = await pool.query(
        `SELECT sum(seq_scan)::int AS all, sum(idx_scan)::int AS some FROM pg_stat_user_tables WHERE relname LIKE 'r_${name}%'`,
      )
      return rows[0]
    }
    const random = seededRandom(name)
    const writeSome = async (): Promise<unknown> => {
      const size = 1 + Math.floor(random() * 100)
      return write(
        sink,
        Array.from({ length: size }, (_, n) => fresh(`u${n}`)),
      )
    }
    // Plans are made for the values of a call at first, and for any values later on.
    for (let i = 0; i < 8; i++) await writeSome()
    await until(async () => (await scans()).some > 0)
    const before = await scans()

    for (let i = 0; i < 12; i++) await writeSome()
    await until(async () => {
      await writeSome()
      return (await scans()).some > before.some + 12
    })

    expect((await scans()).all).toBe(before.all)
  })
})
