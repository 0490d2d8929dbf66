import type { Stores } from '../counter/stores.ts'
import { counterType, type LoadReport } from './load-process.ts'
import { sumOf, whole } from './table.ts'

/** What was sent, and what the stores hold of it. */
export interface Sums {
  readonly sent: number
  readonly stored: number
  readonly live: number
  readonly counters: number
  /** What is wrong, for people; nothing where every counter holds exactly what was sent to it, in both stores. */
  readonly problems: readonly string[]
}

/** Asks the stores themselves, past every buffer and batcher. */
export async function sumsOf({ database, live }: Stores, prefix: string, report: LoadReport): Promise<Sums> {
  const { sent, increments, unanswered } = report
  const statement = 'SELECT key, value FROM spillway_counters WHERE starts_with(key, $1)'
  const rows = await database.query<{ key: string; value: unknown }>(statement, [prefix])
  const ids = sent.map(([id]) => id)
  const values = await live.getMany(ids.map((id) => `${id}:${counterType}`))
  const stored = new Map(rows.map(({ key, value }) => [key.slice(0, -counterType.length - 1), Number(value)]))
  const alive = new Map(ids.map((id, index) => [id, values[index] ?? 0]))
  const wrong = sent.filter(([id, sum]) => stored.get(id) !== sum)
  const notLive = sent.filter(([id, sum]) => alive.get(id) !== sum)
  const extra = [...stored.keys()].filter((id) => !alive.has(id))
  const problems = [
    ...(increments === 0 ? ['nothing was sent'] : []),
    ...wrong.slice(0, 5).map(([id, sum]) => `${id}: sent ${sum}, stored ${stored.get(id) ?? 0}`),
    ...notLive.slice(0, 5).map(([id, sum]) => `${id}: sent ${sum}, live ${alive.get(id) ?? 0}`),
    ...extra.slice(0, 5).map((id) => `${id}: never sent, stored ${stored.get(id)}`),
    ...(wrong.length + notLive.length > 10 ? [`and ${whole(wrong.length + notLive.length - 10)} more`] : []),
    ...(wrong.length + notLive.length > 0 && unanswered > 0 ? ['requests without an answer may be the reason'] : []),
  ]
  return { sent: sumOf(sent), stored: sumOf(stored), live: sumOf(alive), counters: sent.length, problems }
}
