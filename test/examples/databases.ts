import { type Database, openDatabase } from '../../examples/counter-billing/database.ts'
import { startPostgres } from '../servers/postgres.ts'

/** A database that a suite runs on. */
export interface TestDatabase {
  readonly title: string
  readonly database: Database
  /** Where more connections can be had. */
  readonly url?: string
  stop(): Promise<void>
}

/** PGlite, and a real server where there is one: what holds on one must hold on the other. */
export async function openTestDatabases(): Promise<TestDatabase[]> {
  const embedded = await openDatabase()
  const databases: TestDatabase[] = [{ title: 'PGlite', database: embedded, stop: () => embedded.close() }]
  const server = await startPostgres()
  if (server !== undefined) {
    const database = await openDatabase({ url: server.url })
    const stop = async (): Promise<void> => {
      await database.close()
      await server.stop()
    }
    databases.push({ title: 'PostgreSQL', database, url: server.url, stop })
  }
  return databases
}
