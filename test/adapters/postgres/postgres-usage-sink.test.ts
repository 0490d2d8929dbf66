import { randomUUID } from 'node:crypto'
import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import { type AcceptedUsage, isSpillwayError, type UsageDedupe } from 'spillway'
import { PostgresUsageSink, type PostgresUsageSinkOptions, type UsageCleanUp } from 'spillway/postgres'
import { FakeClock } from 'spillway/testing'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { until } from './until.ts'
import { keyOf, use, write } from './usage-databases.ts'

const embedded = new PGlite()
const max = Number.MAX_SAFE_INTEGER
const dedupes: readonly UsageDedupe[] = ['batch', 'event', 'request']
let made = 0

// Starting it takes its time on a busy machine.
beforeAll(() => embedded.waitReady)
afterAll(() => embedded.close())

/** A sink on tables of its own. */
const makeSink = async (options: PostgresUsageSinkOptions = {}): Promise<PostgresUsageSink> => {
  const n = made++
  const names = { table: `usage_${n}`, batchTable: `batches_${n}`, requestTable: `requests_${n}` }
  const sink = new PostgresUsageSink(embedded, { ...names, ...options })
  await sink.createSchema()
  return sink
}
const used = async (sink: PostgresUsageSink, ...events: AcceptedUsage[]): Promise<number[]> =>
  (await sink.readTotals(events.map(keyOf))).map(({ value }) => value)

describe('misuse', () => {
  test.each<[keyof PostgresUsageSinkOptions, unknown]>([
    ['dedupe', 'user'],
    ['table', ''],
    ['table', 'x'.repeat(64)],
    ['table', 'a\0'],
    ['batchTable', 'x'.repeat(53)],
    ['batchTable', 'spillway_usage'],
    ['requestTable', 'x'.repeat(55)],
    ['requestTable', 'spillway_usage_batches'],
    ['schema', null],
    ['requestRetentionDays', 0],
    ['requestRetentionDays', 3661],
    ['requestSpanDays', 8],
    ['requestSpanDays', -1],
    ['managePartitions', 1],
    ['batchMemoryMs', 999],
    ['cleanUpEveryMs', -1],
    ['cleanUpChunkSize', 0],
    ['prepared', 'yes'],
    ['retry', 3],
    ['clock', {}],
    ['name', 7],
  ])('a wrong %s is refused: %j', (option, value) => {
    expect(() => new PostgresUsageSink(embedded, { [option]: value })).toThrow(option)
  })

  test.each([undefined, null, {}, 'postgres://localhost', new pg.Client()])(
    'a database that is none is refused: %#',
    (database) => {
      expect(() => new PostgresUsageSink(database as never)).toThrow(/^database must be a pg Pool or a PGlite/)
    },
  )

  test.each(dedupes)('names are quoted, whatever is in them, telling apart by %s', async (dedupe) => {
    const schema = `Odd " schema'; DROP TABLE x; -- ${dedupe}`
    await embedded.exec(`CREATE SCHEMA "${schema.replaceAll('"', '""')}"`)
    const sink = await makeSink({
      dedupe,
      schema,
      table: 'Some.Table"',
      batchTable: "Batches'; --",
      requestTable: `Req"'\\_$1%s;`,
    })
    await sink.createSchema()
    const events = [1, 2].map((value, i) => use(value, { id: `e${i}`, requestId: `r${i}` }))

    await write(sink, events)
    await write(sink, events)
    await sink.cleanUp()

    expect(await used(sink, use(0))).toEqual([dedupe === 'batch' ? 6 : 3])
    expect(sink.stats().partitionsMade).toBe(0)
  })

  test.each(dedupes)(
    'an id that was used for another batch is refused, where it shows, telling apart by %s',
    async (dedupe) => {
      const sink = await makeSink({ dedupe })
      const id = randomUUID()
      await write(sink, [use(max)])
      expect(await write(sink, [use(1, { userId: 'bob' }), use(1)], id)).toHaveLength(1)

      await expect(write(sink, [use(1, { userId: 'bob' })], id)).rejects.toMatchObject({
        code: 'ERR_STORE',
        retryable: false,
        outcomeUnknown: false,
      })
    },
  )
})

describe.each(dedupes)('telling apart by %s', (dedupe) => {
  test.each<[string, Partial<AcceptedUsage>]>([
    ['value', { value: Number.NaN }],
    ['value', { value: -1 }],
    ['value', { value: Number.POSITIVE_INFINITY }],
    ['userId', { userId: 'a\0b' }],
    ['userId', { userId: '' }],
    ['quotaType', { quotaType: '\ud800' }],
    ['period', { period: 'x'.repeat(257) }],
    ['requestId', { requestId: '' }],
    ['timestamp', { timestamp: Number.NaN }],
    ['id', { id: 'x'.repeat(257) }],
  ])('an event with a wrong %s fails alone: %j', async (field, wrong) => {
    const sink = await makeSink({ dedupe })
    const events = [use(1), use(2, wrong), use(4), use(8, { userId: 'bob' })]

    const refused = await write(sink, events)

    // What a batch's sums don't show does no harm there.
    const shows = dedupe !== 'batch' || ['value', 'userId', 'quotaType', 'period'].includes(field)
    expect(refused.map(({ index }) => index)).toEqual(shows ? [1] : [])
    if (shows) expect(refused[0]?.error).toMatchObject({ code: 'ERR_INVALID_EVENT', field })
    expect(await used(sink, use(0), use(0, { userId: 'bob' }))).toEqual([shows ? 5 : 7, 8])
    expect(sink.stats()).toMatchObject({ counted: shows ? 3 : 4, refused: shows ? 1 : 0, failed: 0 })
  })

  test('a batch in which all is wrong is refused without asking the server', async () => {
    const sink = new PostgresUsageSink(embedded, { dedupe, table: 'there is none' })

    expect(await write(sink, [use(Number.NaN)])).toMatchObject([{ index: 0, error: { field: 'value' } }])
  })

  test('its stats account for every event', async () => {
    const sink = await makeSink({ dedupe })
    await write(sink, [use(max, { userId: 'full' })])
    const id = randomUUID()
    const events = [
      use(1, { id: 'e1', requestId: 'r1' }),
      use(1, { id: 'e2', requestId: 'r2' }),
      use(1, { id: 'e1', requestId: 'r1' }),
      use(1, { userId: 'full', id: 'e3', requestId: 'r3' }),
      use(Number.NaN, { id: 'e4', requestId: 'r4' }),
    ]

    for (let attempt = 0; attempt < 2; attempt++) {
      expect((await write(sink, events, id)).map(({ index }) => index)).toEqual([3, 4])
    }

    const duplicates = dedupe === 'batch' ? 0 : 1
    expect(sink.stats()).toMatchObject({ applied: 2, repeated: 1, counted: 4 - duplicates, duplicates, refused: 2 })
    expect(await used(sink, use(0))).toEqual([3 - duplicates])
  })
})

test('a session that the server has ended goes to nobody else', async () => {
  const ended = Object.assign(new Error('terminating connection'), { code: '57P01', severity: 'FATAL' })
  const released: unknown[] = []
  const client = {
    query: () => Promise.reject(ended),
    on: () => undefined,
    removeListener: () => undefined,
    release: (error?: unknown) => void released.push(error),
  }
  const sink = new PostgresUsageSink({ connect: async () => client, totalCount: 1, waitingCount: 0 })

  await expect(write(sink, [use(1)])).rejects.toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true })

  expect(released).toEqual([ended])
})

describe('what is old', () => {
  const clock = new FakeClock()
  const options = { clock, random: () => 0, cleanUpChunkSize: 10 }
  let sink: PostgresUsageSink
  let table: string
  const age = (): Promise<unknown> => embedded.query(`UPDATE ${table} SET applied_at = now() - interval '25 hours'`)

  beforeEach(async () => {
    sink = await makeSink(options)
    table = `batches_${made - 1}`
  })

  test('is removed in passing, in chunks, one at a time, when it is due', async () => {
    const cleaned: UsageCleanUp[] = []
    sink.on('cleaned', (event) => void cleaned.push(event))
    for (let i = 0; i < 25; i++) await write(sink, [use(1)])
    await age()

    await write(sink, [use(1)])
    expect(cleaned).toEqual([])
    await clock.advance(60_000)
    for (let i = 0; i < 10 && cleaned.length < 3; i++) {
      await write(sink, [use(1)])
      await until(() => cleaned.length > i || cleaned.length === 3)
    }

    expect(cleaned.map(({ batchesRemoved }) => batchesRemoved)).toEqual([10, 10, 5])
    expect(sink.stats()).toMatchObject({ batchesRemoved: 25, cleanUpFailures: 0 })
  })

  test('is removed by hand, all of it, and what is not old stays', async () => {
    for (let i = 0; i < 25; i++) await write(sink, [use(1)])
    await age()
    const id = randomUUID()
    await write(sink, [use(1)], id)

    expect(await sink.cleanUp()).toEqual({ batchesRemoved: 25, holdsExpired: 0, holdsRemoved: 0, daysDropped: [] })
    await write(sink, [use(1)], id)

    expect(await used(sink, use(0))).toEqual([26])
    await expect(sink.cleanUp({ signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough')
  })

  test('fails no batch when it cannot be removed', async () => {
    const failures: unknown[] = []
    sink.on('cleanUpFailed', ({ error }) => void failures.push(error))
    await write(sink, [use(1)])
    await age()
    await embedded.exec(`CREATE OR REPLACE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
      CREATE TRIGGER no BEFORE DELETE ON ${table} EXECUTE FUNCTION no()`)

    await clock.advance(60_000)
    expect(await write(sink, [use(1)])).toEqual([])
    await until(() => failures.length === 1)

    expect(isSpillwayError(failures[0], 'ERR_STORE')).toBe(true)
    expect(sink.stats()).toMatchObject({ applied: 2, failed: 0, cleanUpFailures: 1 })
  })
})
