import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { PGlite } from '@electric-sql/pglite'
import { type AcceptedUsage, isSpillwayError } from 'spillway'
import { PostgresUsageSink, type PostgresUsageSinkOptions } from 'spillway/postgres'
import { seededRandom } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { startPostgres } from '../../servers/postgres.ts'
import { poolsOf } from './pools.ts'
import { until } from './until.ts'
import { awayFromMidnight, dayMs, dayOf, keyOf, use, write } from './usage-databases.ts'

const server = await startPostgres()
const embedded = new PGlite()
const { make: makePool, end: endPools } = poolsOf(server?.url)

beforeAll(async () => {
  await embedded.waitReady
  await awayFromMidnight()
})
afterAll(async () => {
  await endPools()
  await embedded.close()
  await server?.stop()
})

/** Tables of their own. */
const fresh = (): Record<'table' | 'batchTable' | 'requestTable', string> => {
  const name = randomUUID().slice(0, 8)
  return { table: `usage ${name}`, batchTable: `batches ${name}`, requestTable: `requests ${name}` }
}
const makeSink = async (options: PostgresUsageSinkOptions = {}): Promise<PostgresUsageSink> => {
  const sink = new PostgresUsageSink(embedded, { ...fresh(), dedupe: 'request', ...options })
  await sink.createSchema()
  return sink
}
const used = async (sink: PostgresUsageSink, event: AcceptedUsage = use(0)): Promise<number | undefined> =>
  (await sink.readTotals([keyOf(event)]))[0]?.value
const places = (refused: readonly { readonly index: number }[]): number[] => refused.map(({ index }) => index)

/** A request's use, so many days ago. */
const ago = (days: number, requestId: string, value = 1): AcceptedUsage =>
  use(value, { requestId, timestamp: Date.now() - days * dayMs })
/** The days that have a partition. */
const daysOf = async (database: { query(text: string): Promise<{ rows: unknown[] }> }, table: string) => {
  const { rows } = await database.query(
    `SELECT right(inhrelid::regclass::text, 9) AS name FROM pg_inherits WHERE inhparent = '"${table}"'::regclass ORDER BY 1`,
  )
  return (rows as { name: string }[]).map(({ name }) => name.replace('"', ''))
}

describe('an id belongs to the day of its event, in UTC', () => {
  test('what is redelivered after midnight meets what was counted before', async () => {
    const options = fresh()
    const sink = await makeSink(options)
    const midnight = Math.floor(Date.now() / dayMs) * dayMs
    const hour = 3_600_000
    const events = [midnight - hour, midnight + hour, midnight - dayMs + hour].map((timestamp, i) =>
      use(10 ** i, { requestId: `r${i}`, timestamp }),
    )
    for (let round = 0; round < 3; round++) await write(sink, round === 1 ? [...events].reverse() : events)

    expect(await used(sink)).toBe(111)
    const idsOf = async (at: number): Promise<unknown> => {
      const { rows } = await embedded.query(`SELECT count(*)::int AS ids FROM "${options.requestTable}_${dayOf(at)}"`)
      return (rows as { ids: number }[])[0]?.ids
    }
    expect([await idsOf(midnight - 1), await idsOf(midnight)]).toEqual([2, 1])
  })

  test('what is some minutes from midnight is noted on both sides, as far as ids are remembered', async () => {
    const options = fresh()
    const sink = await makeSink({ ...options, requestRetentionDays: 2 })
    const midnight = Math.floor(Date.now() / dayMs) * dayMs
    const near = [0, -1, 299_999, -300_000, 300_000, -300_001].map((ms) => midnight + ms)
    const events = near.map((timestamp, i) => use(10 ** i, { requestId: `r${i}`, timestamp }))
    const edge = use(1e6, { requestId: 'edge', timestamp: midnight - 2 * dayMs })
    const id = randomUUID()

    for (let round = 0; round < 2; round++) expect(await write(sink, [...events, edge], id)).toEqual([])
    expect(await write(sink, [edge, ...events.toReversed()])).toEqual([])

    expect(await used(sink)).toBe(1_111_111)
    expect(sink.stats()).toMatchObject({ counted: 7, duplicates: 7 })
    const { rows } = await embedded.query(
      `SELECT count(*)::int AS days, id FROM "${options.requestTable}" GROUP BY id ORDER BY id`,
    )
    expect(rows).toEqual([1, 2, 2, 2, 2, 1, 1].map((days, i) => ({ days, id: i === 0 ? 'r:edge' : `r:r${i - 1}` })))
  })

  test('what is refused near midnight leaves its id on neither side', async () => {
    const options = fresh()
    const sink = await makeSink(options)
    const midnight = Math.floor(Date.now() / dayMs) * dayMs
    const event = use(1, { requestId: 'a', timestamp: midnight })
    await write(sink, [use(Number.MAX_SAFE_INTEGER)])

    expect(places(await write(sink, [event, { ...event, userId: 'bob' }]))).toEqual([0])

    const { rows } = await embedded.query(`SELECT DISTINCT user_id FROM "${options.requestTable}"`)
    expect(rows).toEqual([{ user_id: 'bob' }])
  })

  test.skipIf(server === undefined).each(['Pacific/Kiritimati', 'Etc/GMT+12'])(
    'whatever the time zone of a session: %s',
    async (zone) => {
      const pool = makePool({ options: `-c timezone=${zone}` })
      const tables = fresh()
      const sink = new PostgresUsageSink(pool, { ...tables, dedupe: 'request' })
      await sink.createSchema()
      const now = Date.now()

      await write(sink, [ago(7, 'oldest'), ago(0, 'now')])
      expect(places(await write(sink, [ago(8, 'too old'), ago(7, 'oldest'), ago(-8, 'too early')]))).toEqual([0, 2])

      const near = [-1, 0, 1, 2, 3].map((days) => dayOf(now + days * dayMs))
      expect(await daysOf(pool, tables.requestTable)).toEqual([dayOf(now - 7 * dayMs), ...near])
      expect(await used(sink)).toBe(2)
    },
  )

  test('a request that is sent anew, with a timestamp of the next day, counts once', async () => {
    const sink = await makeSink()
    await write(sink, [ago(1, 'a')])
    await write(sink, [ago(0, 'a'), ago(2, 'a')])
    expect(await used(sink)).toBe(1)

    const within = await makeSink({ requestSpanDays: 3 })
    for (const days of [3, 0, 6]) await write(within, [ago(days, 'a')])
    expect(await used(within)).toBe(1)

    const strict = await makeSink({ requestSpanDays: 0 })
    for (const days of [1, 0, 1]) await write(strict, [ago(days, 'a')])
    expect(await used(strict)).toBe(2)
  })
})

describe('retention', () => {
  test('what is further away than the ids are remembered is refused alone', async () => {
    const sink = await makeSink({ requestRetentionDays: 2 })
    const id = randomUUID()
    const events = [ago(3, 'a'), ago(2, 'b', 10), ago(-3, 'c'), ago(-2, 'd', 100), ago(0, 'e', 1000)]

    for (let attempt = 0; attempt < 2; attempt++) {
      const refused = await write(sink, events, id)

      expect(places(refused)).toEqual([0, 2])
      for (const { error } of refused) {
        expect(isSpillwayError(error, 'ERR_STORE')).toBe(true)
        expect(error).toMatchObject({ retryable: false, outcomeUnknown: false })
        expect(error.message).toMatch(/^calls of user "ann", "[ac]" of 20.* can't be told apart: .* for 2 days$/)
      }
    }
    expect(await used(sink)).toBe(1110)
    expect(sink.stats()).toMatchObject({ counted: 3, refused: 2, duplicates: 0 })
  })

  test('what has no id is counted, however old', async () => {
    const sink = await makeSink({ requestRetentionDays: 1 })
    expect(await write(sink, [use(5, { timestamp: Date.UTC(2020, 1, 1) })])).toEqual([])
    expect(await used(sink)).toBe(5)
  })

  test('old partitions are dropped, and what comes late then is refused, never counted again', async () => {
    const tables = fresh()
    const long = await makeSink({ ...tables, requestRetentionDays: 30 })
    const events = [20, 9, 8, 7, 0].map((days, i) => ago(days, `r${i}`, 10 ** i))
    expect(await write(long, events)).toEqual([])
    const sink = await makeSink(tables)
    const dropped: string[] = []
    sink.on('cleaned', ({ daysDropped }) => void dropped.push(...daysDropped))

    const report = await sink.cleanUp()

    // A day more than it remembers, for what is on its way at midnight.
    const expected = [20, 9].map((days) => new Date(Date.now() - days * dayMs).toISOString().slice(0, 10))
    expect(report.daysDropped).toEqual(expected)
    expect(dropped).toEqual(expected)
    expect(sink.stats().partitionsDropped).toBe(2)
    expect(await daysOf(embedded, tables.requestTable)).not.toContain(dayOf(Date.now() - 9 * dayMs))
    // What was counted and is known still is no news; what nobody can tell any more is refused.
    expect(places(await write(sink, events))).toEqual([0, 1])
    expect(await used(sink)).toBe(11_111)
    expect((await sink.cleanUp()).daysDropped).toEqual([])
  })

  test('a partition stays as long as somebody may look into it', async () => {
    const tables = fresh()
    const sink = await makeSink({ ...tables, requestRetentionDays: 4, requestSpanDays: 3 })
    const long = await makeSink({ ...tables, requestRetentionDays: 30 })
    await write(long, [ago(7, 'a'), ago(8, 'b')])

    expect((await sink.cleanUp()).daysDropped).toHaveLength(1)
    expect(await write(sink, [ago(4, 'a', 100)])).toEqual([])
    expect(await used(sink)).toBe(2)
  })

  test('they are dropped in passing too, many of them a few at a time', async () => {
    const tables = fresh()
    const long = await makeSink({ ...tables, requestRetentionDays: 40 })
    await write(
      long,
      Array.from({ length: 25 }, (_, i) => ago(10 + i, `r${i}`)),
    )
    const sink = await makeSink({ ...tables, cleanUpEveryMs: 0 })
    const dropped: number[] = []
    sink.on('cleaned', ({ daysDropped }) => void dropped.push(daysDropped.length))

    for (let i = 0; sink.stats().partitionsDropped < 25 && i < 1000; i++) await write(sink, [ago(0, `now ${i}`)])

    await until(() => sink.stats().partitionsDropped === 25)
    expect(dropped).toEqual([10, 10, 5])
  })
})

describe('partitions', () => {
  test('are made ahead, and when one is missing', async () => {
    const tables = fresh()
    const sink = await makeSink(tables)
    const made: string[] = []
    sink.on('partitioned', ({ days }) => void made.push(...days))
    expect(await daysOf(embedded, tables.requestTable)).toEqual(
      [-1, 0, 1, 2, 3].map((days) => dayOf(Date.now() + days * dayMs)),
    )

    await write(sink, [ago(5, 'a'), ago(3, 'b'), ago(0, 'c')])
    await write(sink, [ago(5, 'd')])

    expect(made).toEqual([5, 3].map((days) => new Date(Date.now() - days * dayMs).toISOString().slice(0, 10)))
    expect(sink.stats()).toMatchObject({ partitionsMade: 2, applied: 2, failed: 0 })
  })

  test('are somebody else’s business where managePartitions is false', async () => {
    const tables = fresh()
    const sink = await makeSink({ ...tables, managePartitions: false, cleanUpEveryMs: 0 })
    const job = await makeSink(tables)
    await embedded.exec(`DROP TABLE "${tables.requestTable}_${dayOf(Date.now())}"`)

    // Not the event's fault: whoever tries again later, after the job has run, loses nothing.
    await expect(write(sink, [ago(0, 'a')])).rejects.toMatchObject({
      code: 'ERR_STORE',
      retryable: true,
      outcomeUnknown: false,
    })
    await job.cleanUp()
    expect(await write(sink, [ago(0, 'a')])).toEqual([])
    expect(sink.stats()).toMatchObject({ partitionsMade: 0, failed: 1, applied: 1 })

    await embedded.exec(`DROP TABLE "${tables.requestTable}_${dayOf(Date.now())}"`)
    await sink.cleanUp()
    expect(sink.stats().partitionsMade).toBe(1)
  })

  test.skipIf(server === undefined)('are made once by many that miss one at the same time', async () => {
    const tables = fresh()
    const sinks = Array.from({ length: 8 }, () => {
      return new PostgresUsageSink(makePool({ max: 1 }), { ...tables, dedupe: 'request', requestRetentionDays: 60 })
    })
    await Promise.all(sinks.map((sink) => sink.createSchema()))

    for (let days = 10; days < 15; days++) {
      await Promise.all(sinks.map((sink, i) => write(sink, [ago(days, `shared ${days}`), ago(days, `${days}/${i}`)])))
    }

    expect(await used(sinks[0] as PostgresUsageSink)).toBe(5 * (1 + 8))
    for (const sink of sinks) expect(sink.stats()).toMatchObject({ applied: 5, failed: 0 })
  })

  test.skipIf(server === undefined)('come and go while others write', async () => {
    const tables = fresh()
    const options = { ...tables, dedupe: 'request', requestRetentionDays: 60 } as const
    const writers = [1, 2, 3].map(() => new PostgresUsageSink(makePool({ max: 2 }), options))
    await writers[0]?.createSchema()
    const cleaner = new PostgresUsageSink(makePool({ max: 1 }), { ...options, requestRetentionDays: 5 })
    let working = true
    // Of a test that has failed, too: against a pool that is closed it would go round for ever.
    onTestFinished(() => {
      working = false
    })
    let dropped = 0
    const cleaning = (async () => {
      while (working) {
        // It waits only so long for its turn, since all others wait behind it.
        dropped += (await cleaner.cleanUp().catch(() => ({ daysDropped: [] }))).daysDropped.length
        // A day that is gone as soon as it is made, four times in a row, is one that a write gives up for this time.
        await delay(1)
      }
    })()

    const random = seededRandom('days')
    await Promise.all(
      writers.map(async (sink, writer) => {
        for (let round = 0; round < 60; round++) {
          const days = round % 4 === 0 ? 7 + Math.floor(random() * 20) : 0
          expect(await write(sink, [ago(days, `${writer}/${round}`)])).toEqual([])
        }
      }),
    )
    working = false
    await cleaning

    expect(await used(writers[0] as PostgresUsageSink)).toBe(3 * 60)
    expect(dropped).toBeGreaterThan(0)
    for (const sink of writers) expect(sink.stats()).toMatchObject({ failed: 0, applied: 60 })
  })
})
