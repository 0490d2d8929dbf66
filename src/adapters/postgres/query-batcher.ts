import { ClosableComponent, type ComponentOptions, type FlushReport } from '../../core/component.js'
import { OptionError, TimeoutError } from '../../core/errors.js'
import { checkDuration, checkSignal, failOption, type Overflow } from '../../core/options.js'
import type { BatchContext } from '../../core/ports.js'
import type { BatchStats } from '../../core/stats.js'
import { onAbort } from '../../internal/abort.js'
import { type Batch, type Entry, noCohort } from '../../internal/batch.js'
import type { Cohort } from '../../internal/batch-books.js'
import { resolveBatchOptions } from '../../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../../internal/batch-queue.js'
import { type Deferred, handled, openPromise, rejected } from '../../internal/deferred.js'
import type { ListNode } from '../../internal/linked-list.js'
import {
  isPGlite,
  isPool,
  NotSentError,
  type PGliteLike,
  type PostgresClientLike,
  type PostgresDatabase,
  type PostgresPoolLike,
} from './database.js'
import { storeError } from './postgres-error.js'
import { refusedStatement } from './refused-statement.js'

/** Options of {@link QueryBatcher}. */
export interface QueryBatcherOptions extends ComponentOptions {
  /**
   * The most queries in one round trip. At most `capacity`.
   * @defaultValue 100
   */
  maxBatchSize?: number | undefined
  /**
   * The longest that a query waits for others, in milliseconds from the first one of its batch.
   * @defaultValue 5
   */
  maxWaitMs?: number | undefined
  /**
   * Whether what is there leaves at the end of the current turn while nothing is in flight, instead of waiting for a full
   * batch or `maxWaitMs` (Nagle's algorithm, RFC 896).
   * @defaultValue true
   */
  eager?: boolean | undefined
  /**
   * The most batches in flight, each on a connection of its own; no more than the pool has.
   * @defaultValue 2
   */
  concurrency?: number | undefined
  /**
   * The most queries accepted and not yet sent. In flight there are at most `concurrency * maxBatchSize` more.
   * @defaultValue 10_000
   */
  capacity?: number | undefined
  /**
   * What happens to a query when there is no room: `'reject'` refuses it, `'drop-newest'` drops it and counts it as dropped,
   * `'drop-oldest'` drops what has waited longest. Whoever is refused or dropped gets a `FullError`.
   * @defaultValue 'reject'
   */
  overflow?: Overflow | undefined
  /**
   * The longest that a batch may take, the wait for a connection included, in milliseconds, at least 1. Queries without an
   * answer then fail with `TimeoutError`, those that have one keep it, and the connection is given up. The default is no limit.
   */
  timeoutMs?: number | undefined
}

/** Events of {@link QueryBatcher}. */
export interface QueryBatcherEvents {
  /** A batch took its slot. */
  dispatched: { readonly batchId: string; readonly size: number }
  /** All of a batch has been answered. */
  settled: {
    readonly batchId: string
    readonly succeeded: number
    readonly failed: number
    readonly durationMs: number
  }
  /** A batch got no answers at all: there was no connection, or `close` gave it up. */
  failed: { readonly batchId: string; readonly queries: readonly BatchedQuery[]; readonly error: unknown }
  /** A query was dropped because there was no room. */
  dropped: { readonly query: BatchedQuery; readonly reason: 'drop-newest' | 'drop-oldest' }
}

/** Stats of {@link QueryBatcher}, in queries. */
export interface QueryBatcherStats extends BatchStats {}

/** A query as it was handed over. */
export interface BatchedQuery {
  /** The statement, with `$1` and so on for its values. */
  readonly text: string
  /** Its values. */
  readonly values: readonly unknown[]
}

/** What a query answered. */
export interface QueryAnswer<Row> {
  /** The rows. */
  readonly rows: Row[]
  /** How many rows it returned or changed; 0 where the statement has no such number. */
  readonly rowCount: number
}

/**
 * Sends many queries in one round trip, and gives each its own answer: a query that fails fails alone, and each is an implicit
 * transaction of its own. Queries of one batch run in their order on one connection; those of two batches run side by side.
 *
 * Not for transactions, `COPY` and what changes the session (`SET`, `LISTEN`): they need a connection of their own.
 *
 * @example
 * ```ts
 * import pg from 'pg'
 * import { createPostgresPool, QueryBatcher } from 'spillway/postgres'
 *
 * const pool = createPostgresPool(pg, { config: { connectionString: process.env['DATABASE_URL'] } })
 * const queries = new QueryBatcher(pool)
 * const [user, orders] = await Promise.all([
 *   queries.query<{ name: string }>('SELECT name FROM users WHERE id = $1', [1]),
 *   queries.query<{ id: number }>('SELECT id FROM orders WHERE user_id = $1', [1]),
 * ]) // one round trip
 * await queries.close()
 * await pool.close()
 * ```
 */
export class QueryBatcher extends ClosableComponent<QueryBatcherEvents, QueryBatcherStats> {
  /** The options' defaults. */
  static readonly defaults = {
    maxBatchSize: 100,
    maxWaitMs: 5,
    eager: true,
    concurrency: 2,
    capacity: 10_000,
    overflow: 'reject',
  } as const

  readonly #queue: BatchQueue<Call>
  readonly #timeoutMs: number | undefined
  readonly #run: (calls: readonly Call[], trip: Trip) => Promise<void>

  /**
   * @param database - a `pg` Pool whose clients pipeline (`pipeline: true`, as `createPostgresPool` makes them), or a PGlite,
   * which has no round trip to save and runs queries one after the other. It stays the caller's.
   * @throws OptionError when an option is wrong, or the database is neither.
   */
  constructor(database: PostgresDatabase, options: QueryBatcherOptions = {}) {
    super('query-batcher', options)
    if (isPGlite(database)) this.#run = (calls, trip) => runInOrder(database, calls, trip)
    else if (isPool(database)) this.#run = pipelinedRun(database)
    else failOption('database', 'must be a pg Pool or a PGlite', database)
    this.#timeoutMs = options.timeoutMs === undefined ? undefined : checkDuration('timeoutMs', options.timeoutMs, 1)
    const { maxBatchSize, maxWaitMs, eager, concurrency, capacity, overflow } = options
    const policy = resolveBatchOptions(
      { maxBatchSize, maxWaitMs, eager, concurrency, capacity, overflow },
      { ...QueryBatcher.defaults, ...neverRepeated },
      { keyed: false, sized: false },
    )
    this.#queue = new BatchQueue(
      { name: this.name, clock: this.clock, random: this.random, seeded: options.random !== undefined },
      policy,
      this.#face(),
    )
  }

  /**
   * Sends a query with the next batch.
   *
   * @param values - what stands for `$1` and so on. The list is copied and objects are turned into JSON at once; arrays, buffers and dates
   * in it must not change until the query was sent.
   * @param options - `signal` takes the query out while it waits; once it was sent, it gives up its answer alone.
   * @returns rejects with `StoreError`, whose `outcomeUnknown` is true when the connection was lost; with `TimeoutError`,
   * `FullError`, `ClosedError`, `OptionError` or the signal's reason. A rejection that nobody looks at is no
   * `unhandledRejection`; it is in the stats and events.
   */
  query<Row = Record<string, unknown>>(
    text: string,
    values?: readonly unknown[],
    options?: { signal?: AbortSignal | undefined },
  ): Promise<QueryAnswer<Row>> {
    let call: Call
    try {
      const signal = checkSignal(options?.signal)
      call = new Call(checkText(text), checkValues(values))
      if (signal?.aborted) {
        this.#queue.reject()
        return rejected(signal.reason)
      }
      const refusal = this.#queue.offer(call)
      if (refusal !== undefined) fail(call, refusal)
      else if (signal !== undefined && !call.done) {
        call.stopListening = onAbort(signal, () => {
          if (this.#queue.abort(call, signal.reason)) fail(call, signal.reason)
        })
      }
    } catch (error) {
      this.#queue.reject()
      return rejected(error)
    }
    return call.promise as Promise<QueryAnswer<Row>>
  }

  override flush(): Promise<FlushReport> {
    return this.#queue.flush()
  }

  override stats(): QueryBatcherStats {
    return this.#queue.books.stats(this.name, this.#queue.running)
  }

  protected override drain(): Promise<void> {
    return this.#queue.drain()
  }

  protected override abandon(): number {
    return this.#queue.abandon()
  }

  /** Makes one trip, bounded in time, and answers with one outcome for each query. */
  async #travel(calls: readonly Call[], context: BatchContext): Promise<readonly Outcome[]> {
    const trip = new Trip(calls.length)
    const timeoutMs = this.#timeoutMs
    const cancelTimer =
      timeoutMs === undefined
        ? undefined
        : this.clock.setTimer(() => {
            this.#queue.books.timeouts++
            trip.giveUp((sent) => timeoutError(this.name, timeoutMs, sent))
          }, timeoutMs)
    const stop = onAbort(context.signal, () => trip.giveUp(() => context.signal.reason))
    try {
      // Whatever it still does after it was given up is nobody's business any more.
      return await Promise.race([trip.givenUp, handled(this.#run(calls, trip)).then(() => trip.outcomes())])
    } finally {
      cancelTimer?.()
      stop()
    }
  }

  #face(): BatchFace<Call> {
    const { events } = this
    return {
      call: (calls, context) => this.#travel(calls, context),
      complete: (call, index, answer) => {
        const outcome = (answer as readonly Outcome[])[index] as Outcome
        if ('error' in outcome) {
          fail(call, outcome.error)
          return false
        }
        call.stopListening?.()
        call.resolve(outcome)
        return true
      },
      fail,
      onDispatched: (portion, size) => {
        if (events.has('dispatched')) events.emit('dispatched', { batchId: portion.id, size })
      },
      onSettled: (portion, succeeded, failed, durationMs) => {
        if (events.has('settled')) events.emit('settled', { batchId: portion.id, succeeded, failed, durationMs })
      },
      onFailed: (portion, calls, error) => {
        if (events.has('failed')) events.emit('failed', { batchId: portion.id, queries: calls.map(queryOf), error })
      },
      onDropped: (call, reason) => {
        if (events.has('dropped')) events.emit('dropped', { query: queryOf(call), reason })
      },
    }
  }
}

/** A query may do anything, so none is ever sent again. */
const neverRepeated = {
  timeoutGraceMs: 0,
  retry: { attempts: 1, delayMs: 0, maxDelayMs: 0 },
  idempotent: false,
} as const

type Outcome = QueryAnswer<unknown> | { readonly error: unknown }

/** A batch on its way: what was answered so far, and whether it was given up. */
class Trip {
  readonly givenUp: Promise<readonly Outcome[]>
  /** Whether queries may have reached the server. */
  sent = false
  /** Lets go of what the trip holds; set by who holds it. */
  onGivenUp: (() => void) | undefined
  over = false
  readonly #outcomes: (Outcome | undefined)[]
  #resolve!: (outcomes: readonly Outcome[]) => void

  constructor(size: number) {
    this.#outcomes = new Array(size).fill(undefined)
    this.givenUp = new Promise((resolve) => {
      this.#resolve = resolve
    })
  }

  set(index: number, outcome: Outcome): void {
    if (!this.over) this.#outcomes[index] = outcome
  }

  outcomes(): readonly Outcome[] {
    return this.#outcomes as readonly Outcome[]
  }

  /** Ends the trip now: what has no answer gets an error, what has one keeps it. */
  giveUp(error: (sent: boolean) => unknown): void {
    if (this.over) return
    for (let index = 0; index < this.#outcomes.length; index++) {
      this.#outcomes[index] ??= { error: error(this.sent) }
    }
    this.over = true
    this.onGivenUp?.()
    this.#resolve(this.outcomes())
  }
}

/** Sends all queries of a batch to one client, without waiting between them. */
function pipelinedRun(pool: PostgresPoolLike): (calls: readonly Call[], trip: Trip) => Promise<void> {
  const { options } = pool as { options?: { pipeline?: unknown } }
  if (options !== undefined && options.pipeline !== true) throw notPipelining()
  return async (calls, trip) => {
    let client: PipeliningClient
    try {
      client = (await pool.connect()) as PipeliningClient
    } catch (error) {
      throw storeError('getting a connection', new NotSentError(error))
    }
    if (trip.over) return client.release()
    if (client.pipeline !== true) {
      client.release()
      throw notPipelining()
    }
    return new Pipeline(client, trip).send(calls)
  }
}

function notPipelining(): OptionError {
  return new OptionError(
    'database',
    'database must be a pool whose clients pipeline: make it with createPostgresPool, or new Pool({ pipeline: true }) of pg 8.23 or later',
  )
}

/** A client that sends a query while others wait for their answers. */
interface PipeliningClient extends PostgresClientLike {
  readonly pipeline?: boolean
  end(): Promise<void>
  getTransactionStatus?(): string | null
  readonly connection?: { readonly stream?: { cork?(): void; uncork?(): void; destroy(): unknown } }
}

/** A client for the time of one batch. */
class Pipeline {
  readonly #client: PipeliningClient
  readonly #trip: Trip
  #broken: Error | undefined

  constructor(client: PipeliningClient, trip: Trip) {
    this.#client = client
    this.#trip = trip
    client.on('error', this.#onError)
    trip.onGivenUp = () => this.#cut()
  }

  async send(calls: readonly Call[]): Promise<void> {
    const client = this.#client
    const trip = this.#trip
    const { stream } = client.connection ?? {}
    trip.sent = true
    // One packet where it fits: each query alone would be a write of its own.
    stream?.cork?.()
    const answers = calls.map((call, index) => this.#sendOne(call, index))
    stream?.uncork?.()
    await Promise.all(answers)
    if (trip.over) return
    trip.onGivenUp = undefined
    client.removeListener('error', this.#onError)
    // A statement that left a transaction open must not leave it to the next one.
    const status = client.getTransactionStatus?.()
    client.release(this.#broken ?? (status === 'T' || status === 'E'))
  }

  async #sendOne(call: Call, index: number): Promise<void> {
    const { text, values } = call
    try {
      // `extended` lets the server refuse several statements in one text, which would be one transaction.
      const result = await this.#client.query({ text, values, queryMode: 'extended' })
      const { rows, rowCount } = result as { rows: unknown[]; rowCount?: number | null }
      this.#trip.set(index, { rows, rowCount: rowCount ?? 0 })
    } catch (error) {
      // On its `query_timeout` pg destroys a pipelining connection, but hasn't marked it as broken yet.
      if ((error as Error | null)?.message === 'Query read timeout') this.#broken ??= error as Error
      this.#trip.set(index, { error: storeError('a query', error) })
    }
  }

  /** Gives the connection up: a client that pipelines would otherwise wait for every answer that is outstanding. */
  #cut(): void {
    const client = this.#client
    client.removeListener('error', this.#onError)
    client.on('error', () => undefined)
    client.release(true)
    client.connection?.stream?.destroy()
  }

  readonly #onError = (error: Error): void => {
    this.#broken = error
  }
}

/** PGlite runs in this process: there is no trip, and one query at a time. */
async function runInOrder(database: PGliteLike, calls: readonly Call[], trip: Trip): Promise<void> {
  for (let index = 0; index < calls.length; index++) {
    const { text, values, done } = calls[index] as Call
    if (trip.over) return
    if (done) continue
    trip.sent = true
    try {
      const { rows, affectedRows } = await database.query<unknown>(text, values)
      trip.set(index, { rows, rowCount: affectedRows || rows.length })
    } catch (error) {
      trip.set(index, { error: storeError('a query', error) })
    }
  }
}

function timeoutError(name: string, timeoutMs: number, sent: boolean): TimeoutError {
  const what = sent ? 'a query had no answer' : 'there was no connection'
  return new TimeoutError(`${name}: ${what} after ${timeoutMs} ms`, timeoutMs, { outcomeUnknown: sent })
}

/** One `query`: the statement, and the promise that waits for its answer. */
class Call implements Entry, Deferred<QueryAnswer<unknown>> {
  declare readonly promise: Promise<QueryAnswer<unknown>>
  declare readonly resolve: (answer: QueryAnswer<unknown> | PromiseLike<QueryAnswer<unknown>>) => void
  declare readonly reject: (reason: unknown) => void
  readonly text: string
  readonly values: unknown[]
  readonly units = 1
  readonly earlier = undefined
  readonly bytes = 0
  readonly key = undefined
  cohort: Cohort = noCohort
  batch: Batch<Entry> | undefined = undefined
  done = false
  place: ListNode<Entry> | undefined = undefined
  stopListening: (() => void) | undefined = undefined

  constructor(text: string, values: unknown[]) {
    this.text = text
    this.values = values
    openPromise(this)
  }
}

function queryOf({ text, values }: Call): BatchedQuery {
  return { text, values }
}

function fail(call: Call, error: unknown): void {
  call.stopListening?.()
  handled(call.promise)
  call.reject(error)
}

function checkText(text: string): string {
  if (typeof text !== 'string' || text.trim() === '') failOption('text', 'must be a statement', text)
  const refused = refusedStatement(text)
  if (refused !== undefined) failOption('text', `must not be ${refused}: it needs a connection of its own`, text)
  return text
}

function checkValues(values: readonly unknown[] | undefined): unknown[] {
  if (values === undefined) return []
  if (!Array.isArray(values)) failOption('values', 'must be an array', values)
  return values.map(plainValue)
}

/** What `pg` would turn into JSON becomes JSON here: what can't be is refused before anything is sent. */
function plainValue(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Date) return value
  if (ArrayBuffer.isView(value) || typeof (value as { toPostgres?: unknown }).toPostgres === 'function') return value
  try {
    return JSON.stringify(value) ?? null
  } catch {
    return failOption('values', 'must be values that JSON can hold', value)
  }
}
