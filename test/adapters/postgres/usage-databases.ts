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
