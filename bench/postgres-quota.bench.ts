import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { QuotaConsumer, type UsageEvent } from 'spillway'
import { PostgresUsageSink, type PostgresUsageSinkOptions } from 'spillway/postgres'
import type { Aim, Contender, Contest } from './harness/contest.ts'
import { connect, connections, finish, inTurns } from './harness/postgres-contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// Usage that is accounted in a real PostgreSQL, end to end: from the first event of a turn until the last one is committed. All share one
// pool. What is one upsert an event uses every connection of it at once, and prepared statements: it can't go faster on this pool. It
// counts an event twice when an answer is lost and the event comes again; so does a transaction of 100 upserts.

const events = 2000
/** All events are of one moment, so that no run sees a month end. */
const timestamp = Date.now()
const period = new Date(timestamp).toISOString().slice(0, 7)
const quotaType = 'requests'

/** The events of each turn: the users rotate, so that a batch has as many keys as events, which is the most work. */
class Source {
  readonly #users: number
  #next = 0

  constructor(users: number) {
    this.#users = users
  }

  take(count: number): UsageEvent[] {
    return Array.from({ length: count }, () => {
      const event = this.#next++
      return { userId: event % this.#users, quotaType, value: 1, timestamp, requestId: `request ${event}` }
    })
  }
}

/** What a contender's table has in common with the others'. */
interface Place {
  readonly pool: pg.Pool
  readonly table: string
  readonly source: Source
}

/** A contender on a table of its own, of which each user's sum is checked after each turn. */
function contender(
  name: string,
  users: number,
  aim: Aim | undefined,
  prepare: (place: Place) => Promise<() => Promise<void>>,
): Contender {
  return {
    name,
    ...(aim && { aim }),
    prepare: async () => {
      const pool = await connect()
      const table = `usage_${randomUUID().replaceAll('-', '')}`
      const turn = await prepare({ pool, table, source: new Source(users) })
      let offered = 0
      return {
        async: true,
        turn,
        check: async () => {
          offered += events
          await checkSums(pool, table, users, offered)
        },
      }
    },
  }
}

/** The first users had one event more when the events don't go round evenly. */
async function checkSums(pool: pg.Pool, table: string, users: number, offered: number): Promise<void> {
  const { rows } = await pool.query(
    `SELECT sum(value) AS sum, count(*) AS users,
      count(*) FILTER (WHERE value <> $1 + CASE WHEN user_id::bigint < $2 THEN 1 ELSE 0 END) AS wrong FROM ${table}`,
    [Math.floor(offered / users), offered % users],
  )
  const [{ sum, users: found, wrong }] = rows
  const expected = Math.min(users, offered)
  if (Number(sum) !== offered || Number(found) !== expected || Number(wrong) !== 0) {
    throw new Error(`expected ${offered} of ${expected} users, got ${sum} of ${found}, ${wrong} of them wrong`)
  }
}

/** Events are offered as fast as there is room, and written exactly once. */
function spillway(
  users: number,
  maxBatchSize: number,
  dedupe: PostgresUsageSinkOptions['dedupe'] = 'batch',
): Contender {
  const once = dedupe === 'request' ? ', each request once' : ''
  return contender(
    `spillway, maxBatchSize ${maxBatchSize}${once}`,
    users,
    undefined,
    async ({ pool, table, source }) => {
      const [batchTable, requestTable] = [`${table}_b`, `${table}_r`]
      const sink = new PostgresUsageSink(pool, { table, batchTable, requestTable, dedupe })
      await sink.createSchema()
      const consumer = new QuotaConsumer(sink, { maxBatchSize, capacity: events })
      return async () => {
        for (const event of source.take(events)) if (!consumer.offer(event)) throw new Error('an event was refused')
        const { succeeded } = await consumer.flush()
        if (succeeded !== events) throw new Error(`of ${events} events ${succeeded} were written`)
      }
    },
  )
}

async function handTable({ pool, table }: Place): Promise<{ name: string; text: string }> {
  await pool.query(`CREATE TABLE ${table} (user_id text, quota_type text, period text, value double precision NOT NULL,
    PRIMARY KEY (user_id, quota_type, period))`)
  return {
    name: table.slice(0, 50),
    text: `INSERT INTO ${table} AS usage (user_id, quota_type, period, value) VALUES ($1, $2, $3, $4)
      ON CONFLICT (user_id, quota_type, period) DO UPDATE SET value = usage.value + excluded.value`,
  }
}

const valuesOf = ({ userId, quotaType, value }: UsageEvent): unknown[] => [String(userId), quotaType, period, value]

/** As many callers as there are connections, so that none waits for one. */
const oneByOne = (users: number, aim?: Aim): Contender =>
  contender(`one prepared upsert an event, ${connections} at a time`, users, aim, async (place) => {
    const upsert = await handTable(place)
    const { pool, source } = place
    return () =>
      inTurns(connections, source.take(events), (event) => pool.query({ ...upsert, values: valuesOf(event) }))
  })

/** As many transactions at a time as there are connections, their upserts in the order of the keys, so that none waits for another in a ring. */
const transactions = (users: number, size: number): Contender =>
  contender(
    `one transaction of ${size} prepared upserts, ${connections} at a time`,
    users,
    undefined,
    async (place) => {
      const upsert = await handTable(place)
      const { pool, source } = place
      const write = async (batch: readonly UsageEvent[]): Promise<void> => {
        const sorted = [...batch].sort((a, b) => Number(a.userId) - Number(b.userId))
        const client = await pool.connect()
        try {
          await client.query('BEGIN')
          for (const event of sorted) await client.query({ ...upsert, values: valuesOf(event) })
          await client.query('COMMIT')
        } finally {
          client.release()
        }
      }
      return () =>
        inTurns(
          connections,
          Array.from({ length: events / size }, () => source.take(size)),
          write,
        )
    },
  )

const contest = (name: string, contenders: Contest['contenders']): Contest => ({
  name,
  operation: 'event',
  operations: events,
  contenders,
  finish,
})
const aim: Aim = { timesFaster: 10 }

await serveSuite([
  contest('1,000 keys, maxBatchSize 100, exactly once', [
    spillway(1000, 100),
    oneByOne(1000, aim),
    transactions(1000, 100),
  ]),
  contest('1,000 keys, maxBatchSize 1000, exactly once', [
    spillway(1000, 1000),
    oneByOne(1000, aim),
    transactions(1000, 100),
  ]),
  contest("1,000 keys, maxBatchSize 100, dedupe 'request'", [
    spillway(1000, 100, 'request'),
    oneByOne(1000),
    transactions(1000, 100),
  ]),
  contest('one hot key, maxBatchSize 100, exactly once', [spillway(1, 100), oneByOne(1), transactions(1, 100)]),
  contest('100,000 keys, maxBatchSize 100, exactly once', [
    spillway(100_000, 100),
    oneByOne(100_000),
    transactions(100_000, 100),
  ]),
])
