import { onAbort, orAbort } from '../../internal/abort.js'
import { isPGlite, type PGliteLike, type PostgresDatabase, type PostgresPoolLike, withClient } from './database.js'

/** Runs one statement by the extended protocol, which refuses several in one. */
export type RunStatement = <Row>(text: string, values?: readonly unknown[]) => Promise<readonly Row[]>

/** Has the connection closed afterwards. */
export type Discard = (reason: Error) => void

/** What a transaction that leaves nothing behind is like. */
export interface PassingTransactionOptions {
  /** Whether the server refuses what writes. */
  readonly readOnly: boolean
  /**
   * Whether what runs may take locks that outlive the transaction. If it did, the connection is closed, and they go with it.
   */
  readonly mayLock?: boolean
  /** How long one statement may take, in milliseconds. */
  readonly timeoutMs: number
  /** Gives it up: what runs in the server is cancelled. */
  readonly signal: AbortSignal | undefined
}

/** Does some work in a transaction that is always rolled back. When the signal aborts it rejects at once, with the signal's reason. */
export function inPassingTransaction<T>(
  database: PostgresDatabase,
  options: PassingTransactionOptions,
  work: (run: RunStatement, discard: Discard) => Promise<T>,
): Promise<T> {
  const { signal } = options
  if (signal?.aborted) return Promise.reject(signal.reason)
  return orAbort(isPGlite(database) ? inPGlite(database, options, work) : inPool(database, options, work), signal)
}

async function inPGlite<T>(
  database: PGliteLike,
  { readOnly, timeoutMs, signal }: PassingTransactionOptions,
  work: (run: RunStatement, discard: Discard) => Promise<T>,
): Promise<T> {
  // It commits unless something is thrown.
  const done: { answer?: T } = {}
  try {
    await database.transaction(async (transaction) => {
      signal?.throwIfAborted()
      const run: RunStatement = async <Row>(text: string, values: readonly unknown[] = []) =>
        (await transaction.query<Row>(text, [...values])).rows
      if (readOnly) await run('SET TRANSACTION READ ONLY')
      await run(limitTime, [limitOf(timeoutMs)])
      done.answer = await work(run, () => undefined)
      throw done
    })
  } catch (error) {
    if (error !== done) throw error
  }
  return done.answer as T
}

async function inPool<T>(
  pool: PostgresPoolLike,
  { readOnly, timeoutMs, signal, mayLock = false }: PassingTransactionOptions,
  work: (run: RunStatement, discard: Discard) => Promise<T>,
): Promise<T> {
  return withClient(pool, async (client, discard) => {
    // The wait for a connection may have been long.
    signal?.throwIfAborted()
    const run: RunStatement = async <Row>(text: string, values: readonly unknown[] = []) =>
      (await client.query({ text, values: [...values], queryMode: 'extended' })).rows as readonly Row[]
    const countLocks = async (): Promise<number> => (await run<{ count: number }>(sessionLocks))[0]?.count ?? 0
    let locks = 0
    let cancellation: Cancellation | undefined
    try {
      await client.query({ text: readOnly ? 'BEGIN READ ONLY' : 'BEGIN' })
      if (mayLock) locks = await countLocks()
      const [session] = await run<{ pid: number }>(limitTime, [limitOf(timeoutMs)])
      signal?.throwIfAborted()
      cancellation = new Cancellation(pool, session?.pid ?? 0, signal)
      return await work(run, discard)
    } finally {
      await cancellation?.end()
      const rollBack = (): Promise<unknown> => client.query({ text: 'ROLLBACK' })
      // A cancellation that came late may have met the first. If the second fails too, so has the connection, or it is still busy with
      // what the pool's query_timeout gave up: whoever got it next would be in this transaction.
      const checkLocks = async (): Promise<void> => {
        if (mayLock && (await countLocks()) > locks) throw new Error('a lock outlived its transaction')
      }
      await rollBack().catch(rollBack).then(checkLocks).catch(discard)
    }
  })
}

const limitTime = `SELECT set_config('statement_timeout', $1, true), pg_backend_pid() AS pid`

const sessionLocks = `SELECT count(*)::int AS count FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()`

function limitOf(timeoutMs: number): string {
  return String(Math.ceil(timeoutMs))
}

/** Cancels what a session runs, when a signal aborts, by another connection of the pool. */
class Cancellation {
  readonly #stop: (() => void) | undefined
  #ended = false
  #sent: Promise<unknown> | undefined

  constructor(pool: PostgresPoolLike, pid: number, signal: AbortSignal | undefined) {
    if (signal === undefined) return
    this.#stop = onAbort(signal, () => {
      withClient(pool, async (client) => {
        // By the time that there was a connection, the session may be somebody else's.
        if (this.#ended) return
        this.#sent = client.query({ text: 'SELECT pg_cancel_backend($1)', values: [pid] })
        await this.#sent
      }).catch(() => undefined)
    })
  }

  /** Resolves when nothing can hit the session any more. One that waits for a connection isn't waited for: that may be this one. */
  async end(): Promise<void> {
    this.#ended = true
    this.#stop?.()
    await this.#sent?.catch(() => undefined)
  }
}
