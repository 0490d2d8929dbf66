import { Redis } from 'ioredis'
import pg from 'pg'
import { RedisCounterStore } from 'spillway/redis'
import type { LedgerEntry, RequestRow, Stored } from './evidence.ts'

const chunk = 500

/** Reads what the stores hold, past all proxies. */
export async function readStored(
  servers: { readonly databaseUrl: string; readonly redisUrl: string },
  entries: readonly LedgerEntry[],
): Promise<Stored> {
  const client = new pg.Client({ connectionString: servers.databaseUrl })
  await client.connect()
  try {
    const rowsOf = async <Row>(statement: string): Promise<Row[]> => (await client.query(statement)).rows
    const counters = await rowsOf<{ key: string; value: string }>('SELECT key, value FROM spillway_counters')
    const usage = await rowsOf<{ user_id: string; quota_type: string; value: string; held: string }>(
      'SELECT user_id, quota_type, sum(value) AS value, sum(held) AS held FROM spillway_usage GROUP BY user_id, quota_type',
    )
    const requests = await rowsOf<Record<string, unknown>>(
      `SELECT user_id, request_id, operation, state, due, count, used_count, used_free, used_charged FROM billing_requests`,
    )
    const accounts = await rowsOf<{ user_id: string; balance: string; held: string }>(
      'SELECT user_id, balance, held FROM billing_accounts',
    )
    const usesOf = (service: string): Map<string, number> =>
      new Map(
        usage
          .filter(({ quota_type }) => quota_type === `free:${service}`)
          .map(({ user_id, value }) => [user_id, Number(value)]),
      )
    return {
      durable: new Map(counters.map(({ key, value }) => [key, Number(value)])),
      live: await readLive(servers.redisUrl, entries),
      metered: usesOf('counter-writes'),
      published: usesOf('published'),
      requests: requests.map(rowFrom),
      accounts: new Map(
        accounts.map(({ user_id, balance, held }) => [user_id, { balance: Number(balance), held: Number(held) }]),
      ),
      free: new Map(
        usage
          .filter(({ quota_type }) => quota_type === 'free:print')
          .map(({ user_id, value, held }) => [user_id, { used: Number(value), held: Number(held) }]),
      ),
    }
  } finally {
    await client.end()
  }
}

function rowFrom(row: Record<string, unknown>): RequestRow {
  return {
    user: String(row['user_id']),
    request: String(row['request_id']),
    operation: String(row['operation']),
    state: String(row['state']),
    due: row['due'] === true,
    count: Number(row['count']),
    usedCount: Number(row['used_count']),
    usedFree: Number(row['used_free']),
    usedCharged: Number(row['used_charged']),
  }
}

/** The live values of all that was sent. */
async function readLive(url: string, entries: readonly LedgerEntry[]): Promise<Map<string, number>> {
  const keys = [
    ...new Set(entries.flatMap((entry) => (entry.type === 'add' ? entry.operations.map(([key]) => key) : []))),
  ]
  const redis = new Redis(url)
  const values = new Map<string, number>()
  try {
    const store = new RedisCounterStore(redis)
    for (let from = 0; from < keys.length; from += chunk) {
      const some = keys.slice(from, from + chunk)
      const found = await store.getMany(some)
      some.forEach((key, index) => {
        values.set(key, found[index] as number)
      })
    }
  } finally {
    redis.disconnect()
  }
  return values
}
