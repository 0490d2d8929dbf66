import pg from 'pg'
import { type PostgresServer, startPostgres } from '../../test/servers/postgres.ts'

/** How many connections the contenders of a contest share. */
export const connections = 10

let server: PostgresServer | undefined
let pool: pg.Pool

/** The pool, on a real PostgreSQL, that all contenders of a contest share; started by the first one. */
export async function connect(): Promise<pg.Pool> {
  if (server !== undefined) return pool
  server = await startPostgres(undefined, { durable: true })
  if (server === undefined) throw new Error('there is no PostgreSQL')
  pool = new pg.Pool({ connectionString: server.url, max: connections })
  // The server goes away under idle connections at the end.
  pool.on('error', () => undefined)
  return pool
}

/** Stops what `connect` started. */
export async function finish(): Promise<void> {
  await pool?.end()
  await server?.stop()
}

/** Does everything, `callers` at a time: each of them waits for one before it begins the next. */
export async function inTurns<T>(
  callers: number,
  things: readonly T[],
  act: (thing: T) => Promise<unknown>,
): Promise<void> {
  let next = 0
  const caller = async (): Promise<void> => {
    while (next < things.length) await act(things[next++] as T)
  }
  await Promise.all(Array.from({ length: callers }, caller))
}
