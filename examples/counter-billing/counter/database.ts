import { mkdir } from 'node:fs/promises'
import type { PGlite } from '@electric-sql/pglite'
import type { Pool } from 'pg'
import { SlowQueryLog } from 'spillway/postgres'
import type { Instruments } from '../telemetry/metrics.ts'

/** Runs one statement with parameters. */
export type Query = <Row>(statement: string, values?: readonly unknown[]) => Promise<Row[]>

/** The little of SQL that the service needs, the same for a server and for PGlite. */
export interface Database {
  readonly name: 'database'
  /** What it is, for people. */
  readonly title: string
  /** What the stores of `spillway/postgres` take. */
  readonly client: Pool | PGlite
  readonly query: Query
  /** Sees every query of the client, and tells of slow ones. */
  readonly slowQueries: SlowQueryLog
  /** What can be measured of it. */
  readonly instruments: Instruments
  /** Runs statements in one transaction, which is rolled back if the work fails; again, if it only lost a conflict with another one. */
  transaction<T>(work: (query: Query) => Promise<T>): Promise<T>
  /** Runs a script in one transaction. */
  script(statements: string): Promise<void>
  close(): Promise<void>
}

export interface DatabaseOptions {
  /** A PostgreSQL server: `postgres://user:password@host:port/database`. Without it, PGlite runs inside the process. */
  url?: string | undefined
  /** Where PGlite keeps its data. Without it, in memory only. */
  dataDir?: string | undefined
  /** Told of connections that break while nobody uses them. */
  onError?: ((error: Error) => void) | undefined
  /** From how many milliseconds on a query is slow, in place of what is usual. */
  slowQueryMs?: number | undefined
  /** Whether a server is asked for the plans of slow queries; it is by default. */
  explain?: boolean | undefined
  /** The connections to a server. */
  pool?: PoolOptions | undefined
  /** Told of slow queries, of what a plan says of them, and of long waits for a connection, in words. Values aren't in them. */
  onSlow?: ((message: string) => void) | undefined
}

export interface PoolOptions {
  maxConnections?: number | undefined
  /** How many of them stay when nobody needs them. */
  minConnections?: number | undefined
  connectTimeoutMs?: number | undefined
  idleTimeoutMs?: number | undefined
  maxLifetimeMs?: number | undefined
}

/** How many connections a service holds. Writers are few by design, so this is plenty. */
const maxConnections = 8

export function openDatabase(options: DatabaseOptions = {}): Promise<Database> {
  return options.url === undefined ? openPGlite(options) : openServer(options.url, options)
}

async function openServer(url: string, options: DatabaseOptions): Promise<Database> {
  const { onError = () => undefined } = options
  const { default: pg } = await import('pg')
  const { createPostgresPool } = await import('spillway/postgres')
  const config = { connectionString: url, application_name: 'counter-billing' }
  const pool = createPostgresPool(pg, { maxConnections, ...options.pool, onError, config })
  const slowQueries = watchQueries(pool, options)
  return {
    name: 'database',
    title: `PostgreSQL at ${hostOf(url)}`,
    client: pool,
    slowQueries,
    instruments: { pool, queries: slowQueries },
    query: async (statement, values = []) => (await pool.query(statement, [...values])).rows,
    transaction: (work) => untilNoConflict(() => inTransaction(pool, work)),
    // Statements sent together without parameters are one transaction on one connection.
    script: async (statements) => void (await pool.query(statements)),
    close: async () => {
      await slowQueries.close()
      await pool.close({ timeoutMs: 5_000 })
    },
  }
}

async function openPGlite(options: DatabaseOptions): Promise<Database> {
  const { dataDir } = options
  const { PGlite } = await import('@electric-sql/pglite')
  if (dataDir !== undefined) await mkdir(dataDir, { recursive: true })
  const database = await PGlite.create(dataDir)
  const slowQueries = watchQueries(database, options)
  return {
    name: 'database',
    client: database,
    slowQueries,
    instruments: { queries: slowQueries },
    title: dataDir === undefined ? 'PGlite in memory' : `PGlite in ${dataDir}`,
    query: queryOf(database),
    transaction: (work) => database.transaction((transaction) => work(queryOf(transaction))),
    script: async (statements) => void (await database.exec(statements)),
    close: async () => {
      await slowQueries.close()
      await database.close()
    },
  }
}

/** How much of a statement a line of the log has. */
const maxStatement = 500

function watchQueries(client: Pool | PGlite, options: DatabaseOptions): SlowQueryLog {
  const { slowQueryMs, onSlow } = options
  // A server has connections to spare for plans; PGlite has one for all.
  const explain = 'totalCount' in client && (options.explain ?? true)
  const slowQueries = new SlowQueryLog(client, { name: 'queries', thresholdMs: slowQueryMs, explain })
  if (onSlow === undefined) return slowQueries
  slowQueries.on('slow', ({ text, durationMs, rows, errorCode }) => {
    const outcome = errorCode === undefined ? `${rows ?? 'no'} rows` : `error ${errorCode}`
    const statement = text.replaceAll(/\s+/g, ' ').slice(0, maxStatement)
    onSlow(`a query took ${Math.round(durationMs)} ms (${outcome}): ${statement}`)
  })
  slowQueries.on('explained', ({ plan }) => {
    const { cost } = plan.worst
    if (cost !== undefined) onSlow(`of its plan: ${cost.sentence}`)
  })
  slowQueries.on('starved', ({ waitedMs, waiting, connections }) =>
    onSlow(
      `a connection was waited for ${Math.round(waitedMs)} ms: there are ${connections}, and ${waiting} others wait`,
    ),
  )
  return slowQueries
}

function queryOf(database: Pick<PGlite, 'query'>): Query {
  return async <Row>(statement: string, values: readonly unknown[] = []) =>
    (await database.query<Row>(statement, [...values])).rows
}

async function inTransaction<T>(pool: Pool, work: (query: Query) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  let broken: Error | undefined
  const onError = (error: Error): void => {
    broken = error
  }
  client.on('error', onError)
  try {
    await client.query('BEGIN')
    const result = await work(async (statement, values = []) => (await client.query(statement, [...values])).rows)
    await client.query('COMMIT')
    return result
  } catch (error) {
    // If this fails, so has the connection, and the server rolls back by itself.
    await client.query('ROLLBACK').catch((failure: Error) => {
      broken ??= failure
    })
    throw error
  } finally {
    client.off('error', onError)
    client.release(broken)
  }
}

/** What lost a deadlock (40P01) or a serialization conflict (40001) was rolled back, and has done nothing. */
async function untilNoConflict<T>(attempt: () => Promise<T>): Promise<T> {
  for (let left = 5; ; left--) {
    try {
      return await attempt()
    } catch (error) {
      const { code } = error as { code?: unknown }
      if ((code !== '40P01' && code !== '40001') || left === 0) throw error
    }
  }
}

/** The part of a URL that may be shown: no user, no password. */
function hostOf(url: string): string {
  return URL.canParse(url) ? `${new URL(url).host}${new URL(url).pathname}` : 'DATABASE_URL'
}
