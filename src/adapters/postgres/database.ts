/** What a query answers, as `pg` and PGlite have it in common. */
export interface PostgresResult {
  /** The rows. */
  readonly rows: readonly unknown[]
}

/** One statement, as `pg` takes it. */
export interface PostgresQuery {
  /** The statement. */
  readonly text: string
  /** Its values. */
  readonly values?: unknown[]
  /** The name under which the connection prepares it. */
  readonly name?: string
  /** Held by `pg` itself, though its types don't have it: `'extended'` lets the server refuse several statements in one. */
  readonly queryMode?: 'extended'
}

/** What is used of a client of a `pg` Pool. */
export interface PostgresClientLike {
  /** Runs one statement. */
  query(query: PostgresQuery): Promise<PostgresResult>
  /** Adds a listener for a connection that breaks. */
  on(event: 'error', listener: (error: Error) => void): unknown
  /** Takes it off again. */
  removeListener(event: 'error', listener: (error: Error) => void): unknown
  /** Gives the client back to its pool; with an error, to be closed. */
  release(error?: Error | boolean): void
}

/** What is used of a `pg` Pool. */
export interface PostgresPoolLike {
  /** Checks a client out. */
  connect(): Promise<PostgresClientLike>
  /** Its connections. */
  readonly totalCount: number
  /** How many wait for a connection. */
  readonly waitingCount: number
}

/** What is used of a PGlite, or of one of its transactions. */
export interface PGliteQueryable {
  /** Runs one statement. */
  query<Row>(text: string, values?: unknown[]): Promise<{ rows: Row[]; affectedRows?: number }>
}

/** What is used of a PGlite. */
export interface PGliteLike extends PGliteQueryable {
  /** Runs several statements in one implicit transaction. */
  exec(text: string): Promise<unknown>
  /** Runs a transaction, which is rolled back if the callback fails. */
  transaction<T>(callback: (transaction: PGliteQueryable) => Promise<T>): Promise<T>
}

/** A `pg` Pool, or a PGlite. */
export type PostgresDatabase = PostgresPoolLike | PGliteLike

/** Runs one statement with its values. */
export type RunQuery = <Row>(text: string, values: unknown[]) => Promise<readonly Row[]>

/** A pool and a PGlite behind one face. */
export interface Session {
  /** Whether somebody waits for a connection, so that what can wait should. */
  readonly busy: boolean
  /**
   * Gives a connection to the work alone, for one statement or for a transaction of its own making.
   *
   * @throws NotSentError when there was no connection to be had.
   */
  use<T>(work: (run: RunQuery) => Promise<T>, signal?: AbortSignal): Promise<T>
  /** The same within a transaction, which is rolled back if the work fails. */
  transaction<T>(work: (run: RunQuery) => Promise<T>, signal?: AbortSignal): Promise<T>
  /** Runs several statements in one implicit transaction. */
  script(text: string): Promise<void>
}

/** There was no connection, so nothing was sent; the reason is in `cause`. */
export class NotSentError extends Error {
  constructor(cause: unknown) {
    super('no connection', { cause })
  }
}

/** Tells a PGlite from a pool. */
export function isPGlite(database: unknown): database is PGliteLike {
  return hasMethods(database, ['query', 'exec', 'transaction'])
}

/** Tells a pool from a single client, which has `connect` too but is no pool. */
export function isPool(database: unknown): database is PostgresPoolLike {
  return hasMethods(database, ['connect']) && 'totalCount' in database && !('processID' in database)
}

/** @param prepared - whether statements get names, so that a connection parses each of them once. */
export function openSession(database: PostgresDatabase, prepared: boolean): Session {
  return isPGlite(database) ? new PGliteSession(database) : new PoolSession(database, prepared)
}

class PGliteSession implements Session {
  readonly busy = false
  readonly #database: PGliteLike

  constructor(database: PGliteLike) {
    this.#database = database
  }

  async use<T>(work: (run: RunQuery) => Promise<T>, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted()
    return work(runOn(this.#database))
  }

  async transaction<T>(work: (run: RunQuery) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.#database.transaction(async (transaction) => {
      signal?.throwIfAborted()
      return work(runOn(transaction))
    })
  }

  async script(text: string): Promise<void> {
    await this.#database.exec(text)
  }
}

function runOn(database: PGliteQueryable): RunQuery {
  return async <Row>(text: string, values: unknown[]) => (await database.query<Row>(text, values)).rows
}

class PoolSession implements Session {
  readonly #pool: PostgresPoolLike
  readonly #prepared: boolean

  constructor(pool: PostgresPoolLike, prepared: boolean) {
    this.#pool = pool
    this.#prepared = prepared
  }

  get busy(): boolean {
    return this.#pool.waitingCount > 0
  }

  async use<T>(work: (run: RunQuery) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return withClient(this.#pool, async (client) => {
      // The wait for a connection may have been long: what was given up meanwhile isn't sent.
      signal?.throwIfAborted()
      return work(async <Row>(text: string, values: unknown[]) => {
        const query = this.#prepared ? { name: statementName(text), text, values } : { text, values }
        return (await client.query(query)).rows as readonly Row[]
      })
    })
  }

  async transaction<T>(work: (run: RunQuery) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return withClient(this.#pool, async (client, discard) => {
      signal?.throwIfAborted()
      let result: T
      try {
        await client.query({ text: 'BEGIN' })
        result = await work(async <Row>(text: string, values: unknown[]) => {
          return (await client.query({ text, values })).rows as readonly Row[]
        })
      } catch (error) {
        // Without an answer, by the pool's query_timeout say, the transaction may still be open: nobody else may get it.
        await client.query({ text: 'ROLLBACK' }).catch(discard)
        throw error
      }
      await client.query({ text: 'COMMIT' })
      return result
    })
  }

  async script(text: string): Promise<void> {
    await withClient(this.#pool, (client) => client.query({ text }))
  }
}

/**
 * Checks a client out for some work. A connection that breaks meanwhile fails the work, not the process: a client that is
 * checked out has no listener but ours.
 *
 * @param work - gets a function too, by which it has the connection closed afterwards: for what nobody else may find there.
 */
export async function withClient<T>(
  pool: PostgresPoolLike,
  work: (client: PostgresClientLike, discard: (reason: Error) => void) => Promise<T>,
): Promise<T> {
  let client: PostgresClientLike
  try {
    client = await pool.connect()
  } catch (error) {
    throw new NotSentError(error)
  }
  let broken: Error | undefined
  const onError = (error: Error): void => {
    broken = error
  }
  client.on('error', onError)
  try {
    return await work(client, onError)
  } catch (error) {
    // The socket may tell that the session is over only when somebody else has the client.
    if (endsSession(error)) broken ??= error as Error
    throw error
  } finally {
    client.removeListener('error', onError)
    client.release(broken)
  }
}

/** Shut down, crashed, no such database any more, too long idle. */
const sessionEnds = /^(?:57P0[1-5]|25P0[34])$/

/** Whether the server has ended the session with this error. It says FATAL in its own language, so its codes count too. */
function endsSession(error: unknown): boolean {
  const { severity, code } = (error ?? {}) as { severity?: unknown; code?: unknown }
  return severity === 'FATAL' || (typeof severity === 'string' && sessionEnds.test(String(code)))
}

const names = new Map<string, string>()

/**
 * A statement's name: a hash of its text, since one connection can have two stores on different tables, and two versions of
 * this package.
 */
function statementName(text: string): string {
  let name = names.get(text)
  if (name === undefined) {
    name = `spillway_${hash(text, 0x811c9dc5)}${hash(text, 0x1b873593)}`
    names.set(text, name)
  }
  return name
}

/** FNV-1a, 32 bits. */
function hash(text: string, seed: number): string {
  let sum = seed
  for (let i = 0; i < text.length; i++) sum = Math.imul(sum ^ text.charCodeAt(i), 0x01000193)
  return (sum >>> 0).toString(16).padStart(8, '0')
}

function hasMethods(value: unknown, methods: readonly string[]): value is object {
  return (
    typeof value === 'object' &&
    value !== null &&
    methods.every((method) => typeof (value as Record<string, unknown>)[method] === 'function')
  )
}
