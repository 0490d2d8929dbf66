import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import type { AcceptedUsage, BatchContext, QuotaKey, RefusedUsage, UsageBatch, UsageSink, UsageTotal } from 'spillway'
import type { PostgresDatabase } from 'spillway/postgres'

/** Databases for many stores, so many of them at the most: a server takes 100 connections. */
export function inTurn(open: () => PostgresDatabase, most = 8): () => PostgresDatabase {
  const opened: PostgresDatabase[] = []
  let turn = 0
  return () => {
    const place = turn++ % most
    opened[place] ??= open()
    return opened[place]
  }
}

export const dayMs = 86_400_000

/** A use by `ann`, of `calls`, for ever, now. */
export function use(value: number, parts: Partial<AcceptedUsage> = {}): AcceptedUsage {
  return { userId: 'ann', quotaType: 'calls', period: 'total', timestamp: Date.now(), value, ...parts }
}

/** The key of a use. */
export function keyOf({ userId, quotaType, period }: AcceptedUsage): QuotaKey {
  return { userId: String(userId), quotaType, period }
}

/** Events as a consumer hands them over. */
export function batchOf(events: readonly AcceptedUsage[], id: string = randomUUID()): UsageBatch {
  const totals = new Map<string, UsageTotal>()
  for (const event of events) {
    const key = keyOf(event)
    const name = JSON.stringify(Object.values(key))
    const { value, count } = totals.get(name) ?? { value: 0, count: 0 }
    totals.set(name, { ...key, value: value + event.value, count: count + 1 })
  }
  return { id, events, totals: [...totals.values()] }
}

export function attemptAt({ id }: UsageBatch, signal: AbortSignal = new AbortController().signal): BatchContext {
  return { batchId: id, attempt: 1, signal }
}

/** Writes events as one batch, and answers what was refused. */
export async function write(
  sink: UsageSink,
  events: readonly AcceptedUsage[],
  id?: string,
): Promise<readonly RefusedUsage[]> {
  const batch = batchOf(events, id)
  return (await sink.write(batch, attemptAt(batch))) ?? []
}

/** The day of a time, in UTC, as a partition is named: `20261120`. */
export function dayOf(at: number): string {
  return new Date(at).toISOString().slice(0, 10).replaceAll('-', '')
}

/** Waits where midnight, in UTC, is so near that it could come in the middle of a test about days. */
export async function awayFromMidnight(): Promise<void> {
  const left = dayMs - (Date.now() % dayMs)
  if (left < 20_000) await delay(left + 100)
}

/** Rows that somebody else has locked. */
export interface HeldRows {
  /** Waits for one more. */
  take(userId: string): Promise<unknown>
  letGo(): Promise<void>
}

/** A session that locks the rows of some users, and never gives way. */
export async function holdRows(pool: pg.Pool, table: string, ...users: string[]): Promise<HeldRows> {
  const client = await pool.connect()
  await client.query(`SET deadlock_timeout = '30s'`)
  await client.query('BEGIN')
  const take = (userId: string): Promise<unknown> =>
    client.query(`UPDATE ${pg.escapeIdentifier(table)} SET value = value WHERE user_id = $1`, [userId])
  for (const user of users) await take(user)
  return {
    take,
    letGo: async () => {
      await client.query('COMMIT')
      client.release()
    },
  }
}

/** How many sessions wait for a lock. */
export async function waiters(pool: pg.Pool): Promise<number> {
  const { rows } = await pool.query(
    `SELECT count(*)::int FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`,
  )
  return rows[0].count
}
