import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import { createPostgresPool, type PostgresDatabase } from 'spillway/postgres'
import type { PostgresServer } from '../../servers/postgres.ts'

/** A way to reach a database, with one more of the same kind for each call. */
export interface Connector {
  readonly name: string
  /** On the real server, its address; PGlite has none. */
  readonly open: (url: string) => PostgresDatabase
  readonly close: () => Promise<void>
}

/** Every kind of database that the adapter takes, the ones with a server only where there is one. */
export function connectors(server: PostgresServer | undefined): Connector[] {
  const opened: { end?: () => Promise<unknown>; close?: () => Promise<unknown> }[] = []
  const close = async (): Promise<void> => {
    for (const one of opened.splice(0)) await (one.end?.() ?? one.close?.())
  }
  const embedded = new PGlite()
  const pglite: Connector = { name: 'PGlite', open: () => embedded, close: () => embedded.close() }
  if (server === undefined) return [pglite]
  const plain: Connector = {
    name: 'a plain pool',
    open: (connectionString) => {
      const pool = new pg.Pool({ connectionString, max: 4 })
      pool.on('error', () => undefined)
      opened.push(pool)
      return pool
    },
    close,
  }
  const ours: Connector = {
    name: 'a pool of createPostgresPool',
    open: (connectionString) => {
      const pool = createPostgresPool(pg, { config: { connectionString } })
      opened.push(pool)
      return pool
    },
    close,
  }
  return [plain, ours, pglite]
}
