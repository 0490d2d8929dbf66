import { Component, type ComponentOptions } from '../../core/component.js'
import { StoreError } from '../../core/errors.js'
import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkOptions,
  checkSignal,
  failOption,
  valueOr,
} from '../../core/options.js'
import type { BatchContext, CounterIncrement, CounterStore, RefusedIncrement } from '../../core/ports.js'
import { type RetryOptions, resolveRetry } from '../../core/retry.js'
import { type CounterSum, invalidIncrement, maxCounter, refusal } from '../../internal/counter-batch.js'
import { handled } from '../../internal/deferred.js'
import { checkIdentified, checkList, checkSums } from '../../internal/store-arguments.js'
import { ConflictRetries, type ConflictRetry } from './conflict-retries.js'
import { type CounterStatements, counterStatements, indexSuffix, parseBigints } from './counter-statements.js'
import { isPGlite, isPool, openSession, type PostgresDatabase, type Session } from './database.js'
import { makeTables } from './make-tables.js'
import { PassingWork } from './passing-work.js'
import { sqlStateOf, storeErrorOnce } from './postgres-error.js'
import { checkName, quoteName } from './table-name.js'

/** Options of {@link PostgresCounterStore}. */
export interface PostgresCounterStoreOptions extends ComponentOptions {
  /**
   * The table of the counters. It is quoted: upper case and dots stay as they are.
   * @defaultValue 'spillway_counters'
   */
  table?: string | undefined
  /**
   * The table of the batch ids, of at most 52 bytes.
   * @defaultValue 'spillway_counter_batches'
   */
  batchTable?: string | undefined
  /** The schema of both tables, which must be there. The default is the connection's `search_path`. */
  schema?: string | undefined
  /**
   * How long a batch id is remembered, in milliseconds, at least 1000: for so long, a batch that comes again is applied once.
   * Longer than any retry can take, restarts included.
   * @defaultValue 3_600_000
   */
  batchMemoryMs?: number | undefined
  /**
   * How often old batch ids are removed in passing, in milliseconds. While there is a backlog it goes on with the next batch.
   * @defaultValue 60_000
   */
  cleanUpEveryMs?: number | undefined
  /**
   * The most batch ids that one removal takes.
   * @defaultValue 1000
   */
  cleanUpChunkSize?: number | undefined
  /**
   * How a batch or a read that lost a deadlock (SQLSTATE 40P01) or a serialization conflict (40001), and so was rolled back, is
   * tried again by the store itself. Every other error is left to the caller.
   * @defaultValue { attempts: 5, delayMs: 10, maxDelayMs: 1000 }
   */
  retry?: Omit<RetryOptions, 'retryable'> | undefined
  /**
   * Whether statements are prepared, once a connection. `false` for PgBouncer older than 1.21 in transaction mode. PGlite has
   * no use for it.
   * @defaultValue true
   */
  prepared?: boolean | undefined
}

/** Events of {@link PostgresCounterStore}. */
export interface PostgresCounterStoreEvents {
  /** A statement lost a deadlock or a serialization conflict, and is tried again after `delayMs`. */
  retried: { readonly attempt: number; readonly delayMs: number; readonly error: unknown }
  /** Old batch ids were removed. */
  cleaned: { readonly removed: number }
  /** Removing old batch ids in passing failed; it is tried again. No batch has failed for it. */
  cleanUpFailed: { readonly error: unknown }
}

/** Stats of {@link PostgresCounterStore}. */
export interface PostgresCounterStoreStats {
  /** The store's name. */
  readonly name: string
  /** Batches that were applied. */
  readonly applied: number
  /** Batches that had been applied before, and only got their answers again. */
  readonly repeated: number
  /** Batches whose attempt failed. */
  readonly failed: number
  /** Of the batches applied, those that were walked increment by increment because a counter was close to its limit. */
  readonly walked: number
  /** Increments and sums that were refused alone. */
  readonly refused: number
  /** Calls of `getMany` that were answered. */
  readonly reads: number
  /** Retries after a deadlock or a serialization conflict. */
  readonly retries: number
  /** Old batch ids that were removed. */
  readonly batchesRemoved: number
  /** Removals of old batch ids that failed. */
  readonly cleanUpFailures: number
}

type Counts = { -readonly [Name in Exclude<keyof PostgresCounterStoreStats, 'name'>]: number }

/**
 * Counters in PostgreSQL or PGlite. A batch is one statement, which carries the batch's id: all of it is applied or nothing,
 * and once, however often and from wherever it comes within `batchMemoryMs`.
 *
 * @example
 * ```ts
 * import { PGlite } from '@electric-sql/pglite'
 * import { AsyncBatcher, type CounterIncrement } from 'spillway'
 * import { PostgresCounterStore } from 'spillway/postgres'
 *
 * const store = new PostgresCounterStore(new PGlite())
 * await store.createSchema()
 * const likes = new AsyncBatcher<CounterIncrement, number>((increments, context) => store.increment(increments, context), {
 *   idempotent: store.idempotent,
 *   retry: { attempts: 5 },
 * })
 * await likes.add({ key: 'post:1', delta: 1 }) // 1
 * await likes.close()
 * ```
 */
export class PostgresCounterStore
  extends Component<PostgresCounterStoreEvents, PostgresCounterStoreStats>
  implements CounterStore
{
  /** The options' defaults. */
  static readonly defaults = {
    table: 'spillway_counters',
    batchTable: 'spillway_counter_batches',
    batchMemoryMs: 3_600_000,
    cleanUpEveryMs: 60_000,
    cleanUpChunkSize: 1000,
    retry: { attempts: 5, delayMs: 10, maxDelayMs: 1000 },
    prepared: true,
  } as const

  /** Every batch id is applied once. */
  readonly idempotent = true
  readonly #session: Session
  readonly #statements: CounterStatements
  readonly #tables: readonly [string, string]
  readonly #batchTable: string
  readonly #batchMemoryMs: number
  readonly #cleanUpChunkSize: number
  readonly #retries: ConflictRetries
  readonly #cleanUp: PassingWork
  readonly #counts: Counts = {
    applied: 0,
    repeated: 0,
    failed: 0,
    walked: 0,
    refused: 0,
    reads: 0,
    retries: 0,
    batchesRemoved: 0,
    cleanUpFailures: 0,
  }

  /**
   * @param database - a `pg` Pool, or a PGlite; it stays the caller's, to be closed after everything that uses this store.
   * @throws OptionError when an option is wrong, or the database is neither.
   */
  constructor(database: PostgresDatabase, options: PostgresCounterStoreOptions = {}) {
    super('postgres-counter-store', options)
    if (!isPGlite(database) && !isPool(database)) failOption('database', 'must be a pg Pool or a PGlite', database)
    const { defaults } = PostgresCounterStore
    const counters = checkName('table', valueOr(options.table, defaults.table))
    const batches = checkName('batchTable', valueOr(options.batchTable, defaults.batchTable), indexSuffix.length)
    if (counters === batches) failOption('batchTable', 'must not be the table of the counters', batches)
    const schema = options.schema === undefined ? undefined : checkName('schema', options.schema)
    this.#batchMemoryMs = checkDuration('batchMemoryMs', valueOr(options.batchMemoryMs, defaults.batchMemoryMs), 1000)
    const everyMs = checkDuration('cleanUpEveryMs', valueOr(options.cleanUpEveryMs, defaults.cleanUpEveryMs))
    this.#cleanUpChunkSize = checkCount(
      'cleanUpChunkSize',
      valueOr(options.cleanUpChunkSize, defaults.cleanUpChunkSize),
    )
    const retry = resolveRetry(options.retry, defaults.retry)
    this.#retries = new ConflictRetries(retry, this.clock, this.random, (event) => this.#recordRetry(event))
    const session = openSession(database, checkBoolean('prepared', valueOr(options.prepared, defaults.prepared)))
    this.#session = session
    this.#cleanUp = new PassingWork({
      clock: this.clock,
      random: this.random,
      everyMs,
      busy: () => session.busy,
      work: () => this.#forgetSome(),
      onFailed: (error) => this.#recordCleanUpFailure(storeErrorOnce('removing old batch ids', error)),
    })
    this.#statements = counterStatements({ schema, counters, batches })
    this.#batchTable = batches
    const prefix = schema === undefined ? '' : `${quoteName(schema)}.`
    this.#tables = [prefix + quoteName(counters), prefix + quoteName(batches)]
  }

  /** The statements that make the tables, for a migration: they are to run in one transaction, and may run again. */
  get schemaSql(): string {
    return this.#statements.schema
  }

  /**
   * Makes the tables where they are missing. Any number of processes may do so at the same time; where the tables are there
   * already, it needs no privilege to make any.
   *
   * @returns rejects with `StoreError`.
   */
  createSchema(): Promise<void> {
    const make = (): Promise<void> => makeTables(this.#session, this.#tables, this.#statements.schema)
    return handled(this.#retries.run('making the tables', undefined, make))
  }

  /**
   * Applies a batch, its increments in their order, and answers each of them.
   *
   * @returns in the order of the increments, each counter's value right after it, or a `StoreError` for one that was refused; for
   * a batch id that was applied before, the answers of then. Rejects with `StoreError`, or with the reason of `context.signal`: at once, while a statement that was sent goes on.
   */
  increment(increments: readonly CounterIncrement[], context: BatchContext): Promise<readonly (number | Error)[]> {
    return handled(this.#increment(increments, context))
  }

  /**
   * Applies a batch that has one sum for each counter, when nobody waits for the values.
   *
   * @returns what was refused; for a batch id that was applied before, the answer of then. Rejects with `StoreError`, or with the reason of `context.signal`: at once, while a statement that was sent goes on.
   */
  add(sums: ReadonlyMap<string, number>, context: BatchContext): Promise<readonly RefusedIncrement[]> {
    return handled(this.#add(sums, context))
  }

  /**
   * Reads counters.
   *
   * @returns in the order of the keys; 0 for one that was never changed. Rejects with `StoreError`.
   */
  getMany(keys: readonly string[]): Promise<readonly number[]> {
    return handled(this.#getMany(keys))
  }

  /**
   * Removes batch ids that are older than `batchMemoryMs`, chunk by chunk until none is left. The store does it in passing; this
   * is for a job of its own, or for a test.
   *
   * @returns how many were removed; rejects with `StoreError`, or with the signal's reason.
   */
  forgetOldBatches(options?: { signal?: AbortSignal | undefined }): Promise<number> {
    return handled(this.#forgetOldBatches(options))
  }

  override stats(): PostgresCounterStoreStats {
    return { name: this.name, ...this.#counts }
  }

  async #increment(
    increments: readonly CounterIncrement[],
    context: BatchContext,
  ): Promise<readonly (number | Error)[]> {
    checkIdentified(context)
    const batch = new IncrementBatch(checkList('increments', increments))
    if (batch.keys.length > 0) batch.answer(await this.#applyIncrements(batch, context))
    else context.signal.throwIfAborted()
    this.#counts.refused += batch.refused
    return batch.answers
  }

  async #add(sums: ReadonlyMap<string, number>, context: BatchContext): Promise<readonly RefusedIncrement[]> {
    checkIdentified(context)
    const valid: CounterSum[] = []
    const refused: RefusedIncrement[] = []
    for (const [key, delta] of checkSums(sums)) {
      const error = problemOf({ key, delta })
      if (error === undefined) valid.push({ key, delta })
      else refused.push({ key, delta, error })
    }
    if (valid.length > 0) {
      const keys = valid.map(({ key }) => key)
      const deltas = valid.map(({ delta }) => delta)
      const outcome = await this.#write(context.signal, () =>
        this.#send(this.#statements.add, [context.batchId, keys, deltas], context),
      )
      if (outcome.refused) {
        const beyond = new Set(JSON.parse(outcome.refused) as string[])
        for (const { key, delta } of valid) if (beyond.has(key)) refused.push({ key, delta, error: refusal(key) })
      }
    } else context.signal.throwIfAborted()
    this.#counts.refused += refused.length
    return refused
  }

  async #getMany(keys: readonly string[]): Promise<readonly number[]> {
    if (checkList('keys', keys).length === 0) return []
    // What can't be stored was never changed, and the server would refuse to look for it.
    const storable = keys.map((key) => (invalidIncrement({ key, delta: 0 }) === undefined ? key : null))
    const rows = await this.#retries.run('reading counters', undefined, () =>
      this.#session.use((run) => run<{ values: string }>(this.#statements.read, [storable])),
    )
    this.#counts.reads++
    return parseBigints(rows[0]?.values ?? '{}').map((value) => value ?? 0)
  }

  async #forgetOldBatches(options: { signal?: AbortSignal | undefined } | undefined): Promise<number> {
    checkOptions('options', options)
    checkSignal(options?.signal)
    let all = 0
    for (let removed = this.#cleanUpChunkSize; removed >= this.#cleanUpChunkSize; all += removed) {
      removed = await this.#retries.run('removing old batch ids', options?.signal, () => this.#forgetChunk())
      this.#recordRemoved(removed)
    }
    return all
  }

  /** Sends a batch's statement; where a counter turns out to be close to its limit, walks the batch instead. */
  #applyIncrements(batch: IncrementBatch, context: BatchContext): Promise<Outcome> {
    const { keys, sums, room } = batch
    const values = [context.batchId, keys, sums, room]
    return this.#write(context.signal, async () => {
      if (room >= 0) {
        try {
          return await this.#send(this.#statements.increment, values, context)
        } catch (error) {
          if (sqlStateOf(error) !== divisionByZero) throw error
        }
      }
      return this.#walk(batch, context)
    })
  }

  /** A batch id that was applied while its statement was on the way breaks the primary key, and gets what was answered then. */
  #send(statement: string, values: unknown[], { batchId, signal }: BatchContext): Promise<Outcome | undefined> {
    return this.#session.use(async (run) => {
      try {
        return (await run<Outcome>(statement, values))[0]
      } catch (error) {
        if (!this.#isRepeat(error)) throw error
      }
      return (await run<Outcome>(this.#statements.recall, [batchId]))[0]
    }, signal)
  }

  /**
   * Applies increments one by one, where it takes a counter's value to know which of them it can't take: in a transaction, with
   * the counters locked.
   */
  async #walk(batch: IncrementBatch, { batchId, signal }: BatchContext): Promise<Outcome | undefined> {
    const { claim, lock, set, remember, recall } = this.#statements
    const outcome = await this.#session.transaction(async (run): Promise<Outcome | undefined> => {
      const claimed = await run<{ id: string }>(claim, [batchId])
      if (claimed.length === 0) return (await run<Outcome>(recall, [batchId]))[0]
      const locked = await run<{ key: string; value: string }>(lock, [batch.keys])
      const values = new Map(locked.map(({ key, value }) => [key, Number(value)]))
      const walked = batch.walk(values)
      await run(set, [[...values.keys()], [...values.values()]])
      await run(remember, [batchId, walked])
      return { walked: arrayText(walked), repeated: false }
    }, signal)
    if (outcome?.repeated === false) this.#counts.walked++
    return outcome
  }

  /** Makes an attempt at a batch, and counts its outcome. */
  async #write(signal: AbortSignal, send: () => Promise<Outcome | undefined>): Promise<Outcome> {
    let outcome: Outcome | undefined
    try {
      outcome = await this.#retries.run('applying a batch', signal, send)
      if (outcome === undefined) throw new StoreError('a batch was applied, but its answers are gone', goneForGood)
    } catch (error) {
      this.#counts.failed++
      throw error
    }
    if (outcome.repeated) this.#counts.repeated++
    else this.#counts.applied++
    this.#cleanUp.passBy()
    return outcome
  }

  #isRepeat(error: unknown): boolean {
    return sqlStateOf(error) === uniqueViolation && (error as { table?: unknown }).table === this.#batchTable
  }

  async #forgetSome(): Promise<boolean> {
    const removed = await this.#forgetChunk()
    this.#recordRemoved(removed)
    return removed >= this.#cleanUpChunkSize
  }

  async #forgetChunk(): Promise<number> {
    const values = [this.#batchMemoryMs, this.#cleanUpChunkSize]
    const rows = await this.#session.use((run) => run<{ removed: number }>(this.#statements.forget, values))
    return Number(rows[0]?.removed ?? 0)
  }

  #recordRetry(retry: ConflictRetry): void {
    this.#counts.retries++
    if (this.events.has('retried')) this.events.emit('retried', retry)
  }

  #recordRemoved(removed: number): void {
    this.#counts.batchesRemoved += removed
    if (removed > 0 && this.events.has('cleaned')) this.events.emit('cleaned', { removed })
  }

  #recordCleanUpFailure(error: unknown): void {
    this.#counts.cleanUpFailures++
    if (this.events.has('cleanUpFailed')) this.events.emit('cleanUpFailed', { error })
  }
}

const uniqueViolation = '23505'
const divisionByZero = '22012'
const goneForGood = { retryable: false, outcomeUnknown: true } as const

/** What a batch's id was answered, then or now: the text of arrays. */
interface Outcome {
  /** Each key's value after the batch, in the order of its keys; NULL where the key's only increment was refused. */
  readonly answers?: string | null
  /** Each increment's answer, where the batch was walked. */
  readonly walked?: string | null
  /** The keys that were refused, as JSON. */
  readonly refused?: string | null
  readonly repeated: boolean
}

/** A batch of increments, one sum for each key. */
class IncrementBatch {
  readonly keys: string[] = []
  readonly sums: number[] = []
  /** Up to what value, either way, a counter surely takes every one of its increments; below 0 where none does. */
  readonly room: number
  readonly answers: (number | Error)[]
  refused = 0
  /** The increments that can be stored: each one's place in the batch, its key's place, and its key's sum up to it. */
  readonly #valid: { place: number; keyPlace: number; increment: CounterIncrement; running: number }[] = []

  constructor(increments: readonly CounterIncrement[]) {
    const places = new Map<string, number>()
    this.answers = new Array(increments.length)
    // How far the running sums go where a counter has several increments; a lone one is a matter of its sum.
    let reach = 0
    for (let place = 0; place < increments.length; place++) {
      const { key, delta } = increments[place] as CounterIncrement
      const increment = { key, delta }
      const invalid = problemOf(increment)
      if (invalid !== undefined) {
        this.#refuse(place, invalid)
        continue
      }
      let keyPlace = places.get(key)
      let running = delta
      if (keyPlace === undefined) {
        keyPlace = this.keys.push(key) - 1
        places.set(key, keyPlace)
        this.sums.push(delta)
      } else {
        const before = this.sums[keyPlace] as number
        running += before
        this.sums[keyPlace] = running
        reach = Math.max(reach, Math.abs(before), Math.abs(running))
      }
      this.#valid.push({ place, keyPlace, increment, running })
    }
    this.room = maxCounter - reach
  }

  /** Applies the increments to counters, and returns each one's answer; null where it was refused. */
  walk(values: Map<string, number>): (number | null)[] {
    return this.#valid.map(({ increment: { key, delta } }) => {
      const value = (values.get(key) ?? 0) + delta
      if (Math.abs(value) > maxCounter) return null
      values.set(key, value)
      return value
    })
  }

  /** Turns what the batch was answered into one answer for each increment. */
  answer(outcome: Outcome): void {
    const walked = outcome.walked ? parseBigints(outcome.walked) : undefined
    const finals = outcome.answers ? parseBigints(outcome.answers) : undefined
    const expected = walked === undefined ? this.keys.length : this.#valid.length
    if ((walked ?? finals)?.length !== expected) {
      throw new StoreError('this batch id was used before, for another batch', { retryable: false })
    }
    this.#valid.forEach(({ place, keyPlace, increment, running }, index) => {
      const final = finals?.[keyPlace]
      // Exact: what comes off first is the counter's value before the batch.
      const value =
        walked !== undefined
          ? walked[index]
          : final === undefined
            ? undefined
            : final - (this.sums[keyPlace] as number) + running
      if (value === undefined) this.#refuse(place, refusal(increment.key))
      else this.answers[place] = value
    })
  }

  #refuse(place: number, error: Error): void {
    this.refused++
    this.answers[place] = error
  }
}

/** What an entry of a B-tree holds for sure, 2704 bytes, less some for its header. */
const maxKeyBytes = 2600

/** Why an increment can't be stored: one that the server would refuse would take its batch along. */
function problemOf(increment: CounterIncrement): StoreError | undefined {
  const invalid = invalidIncrement(increment)
  if (invalid !== undefined) return invalid
  const { key } = increment
  // A character is three bytes at the most, or four in two units.
  if (key.length * 3 <= maxKeyBytes) return undefined
  const bytes = new TextEncoder().encode(key).length
  if (bytes <= maxKeyBytes) return undefined
  return new StoreError(`a key must be at most ${maxKeyBytes} bytes, got ${bytes}`, { retryable: false })
}

function arrayText(values: readonly (number | null)[]): string {
  return `{${values.map((value) => value ?? 'NULL').join(',')}}`
}
