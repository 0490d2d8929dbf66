import type { Session } from './database.js'

/** Makes those who create tables at the same time wait for each other: `IF NOT EXISTS` alone can still collide. */
export const schemaLock = 5_817_239_140

/** Whether every one of some tables is there; one that isn't in the `search_path` isn't. */
const exist = `SELECT bool_and(to_regclass(name) IS NOT NULL) AS found FROM unnest($1::text[]) AS name`

/**
 * Runs the statements that make some tables, in one transaction, unless all of them are there: that takes no privilege to make any.
 *
 * @param tables - their names, quoted.
 */
export async function makeTables(session: Session, tables: readonly string[], schema: string): Promise<void> {
  const found = await session.use((run) => run<{ found: boolean }>(exist, [tables]))
  if (found[0]?.found !== true) await session.script(schema)
}
