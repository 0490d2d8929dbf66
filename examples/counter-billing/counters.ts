import { AsyncBatcher, AsyncWriteBuffer, type CounterIncrement, isSpillwayError, type RetryOptions } from 'spillway'
import { addDeltas, type PostgresCounterStore } from './counter-store.ts'

/** Where the service says what people must know of. */
export type Log = (level: 'info' | 'warn' | 'error', message: string) => void

export interface CountersOptions {
  /** Counters that may wait to be written before increments are refused. */
  capacity?: number | undefined
  /** How failed statements are tried again, in place of what suits each of the three ways. */
  retry?: RetryOptions | undefined
}

/** What went wrong with increments that had been accepted. */
export interface Losses {
  /** Counters whose accepted increments were given up. */
  lost: number
  /** Whether the latest batch was given up because the store failed. */
  failing: boolean
  /** Why, for people. */
  reason: string | undefined
}

/** About half a minute of trying: a database may restart without costing a single increment. */
const patience: RetryOptions = { attempts: 20, delayMs: 100, maxDelayMs: 5_000 }

/**
 * The service's core: three ways to the store, each through the primitive that suits it.
 *
 *     accept ──► AsyncWriteBuffer  sums by counter, ten statements a second at most when it is quiet
 *     commit ──► AsyncBatcher      everyone's increments in one statement, each its own answer
 *     read   ──► AsyncBatcher      everyone's reads in one SELECT, equal keys once
 */
export class Counters {
  readonly buffer: AsyncWriteBuffer<string, number>
  readonly commits: AsyncBatcher<CounterIncrement, number>
  readonly reads: AsyncBatcher<string, number>
  readonly losses: Losses = { lost: 0, failing: false, reason: undefined }
  readonly #store: PostgresCounterStore
  readonly #capacity: number
  readonly #log: Log

  constructor(store: PostgresCounterStore, log: Log, options: CountersOptions = {}) {
    this.#store = store
    this.#log = log
    this.#capacity = options.capacity ?? AsyncWriteBuffer.defaults.capacity
    this.buffer = new AsyncWriteBuffer((totals, context) => store.add(totals, context), {
      name: 'increments',
      merge: addDeltas,
      maxBatchSize: Math.min(1_000, this.#capacity),
      capacity: this.#capacity,
      timeoutMs: 10_000,
      idempotent: store.idempotent,
      retry: options.retry ?? patience,
    })
    this.commits = new AsyncBatcher((increments, context) => store.increment(increments, context), {
      name: 'commits',
      maxBatchSize: 500,
      // Writers that share counters only wait for each other's locks: one is faster than four.
      concurrency: 1,
      timeoutMs: 10_000,
      idempotent: store.idempotent,
      retry: options.retry ?? { attempts: 4, delayMs: 50, maxDelayMs: 1_000 },
      // One increment that its counter can't take must not cost the others theirs.
      bisect: true,
    })
    this.reads = new AsyncBatcher((keys) => store.getMany(keys), {
      name: 'reads',
      keyOf: (key) => key,
      maxBatchSize: 500,
      concurrency: 2,
      timeoutMs: 2_000,
      idempotent: true,
      retry: options.retry ?? { attempts: 2, delayMs: 50 },
    })
    this.#watch()
  }

  /** Accepts an increment, to be written within about a tenth of a second; false when there is no room. */
  accept({ key, delta }: CounterIncrement): boolean {
    return this.buffer.put(key, delta)
  }

  /**
   * Accepts increments that belong together, all or none where that can be known beforehand: whether there is room can,
   * whether a counter's waiting sum stays exact can't.
   *
   * @returns how many, counted from the first, were accepted.
   */
  acceptAll(increments: readonly CounterIncrement[]): number {
    const keys = new Set(increments.map(({ key }) => key))
    if (keys.size > this.#capacity - this.buffer.stats().pendingKeys) return 0
    const refused = increments.findIndex((increment) => !this.accept(increment))
    return refused === -1 ? increments.length : refused
  }

  /** Commits increments, and answers each with its counter's new value or with its own error. */
  commitAll(increments: readonly CounterIncrement[]): Promise<PromiseSettledResult<number>[]> {
    return this.commits.addMany(increments)
  }

  /** Reads what is stored; what still waits to be written is not in it. */
  read(key: string): Promise<number> {
    return this.reads.add(key)
  }

  /** How many statements the store has sent. */
  get statements(): { readonly writes: number; readonly reads: number } {
    return this.#store.statements
  }

  stats(): Record<string, unknown> {
    const { buffer, commits, reads, statements } = this
    return { ...this.losses, statements, buffer: buffer.stats(), commits: commits.stats(), reads: reads.stats() }
  }

  #watch(): void {
    const { buffer, commits, reads } = this
    buffer.on('retried', (retry) => this.#logRetry(buffer.name, retry))
    commits.on('retried', (retry) => this.#logRetry(commits.name, retry))
    reads.on('retried', (retry) => this.#logRetry(reads.name, retry))
    buffer.on('written', () => {
      this.losses.failing = false
      this.losses.reason = undefined
    })
    buffer.on('failed', ({ entries, error }) => {
      if (isRefusal(error)) void this.#commitApart(entries)
      else this.#lose(entries, error, true)
    })
  }

  #logRetry(name: string, { attempt, delayMs, error }: { attempt: number; delayMs: number; error: unknown }): void {
    this.#log('warn', `${name}: ${text(error)}; attempt ${attempt} follows in ${Math.round(delayMs)} ms`)
  }

  /** The store refused a batch because of some of its counters: the batcher finds out which and writes the others. */
  async #commitApart(entries: ReadonlyMap<string, number>): Promise<void> {
    const increments = Array.from(entries, ([key, delta]) => ({ key, delta }))
    const outcomes = await this.commitAll(increments)
    for (const [index, outcome] of outcomes.entries()) {
      const increment = increments[index]
      if (increment === undefined || outcome.status === 'fulfilled') continue
      this.#lose(new Map([[increment.key, increment.delta]]), outcome.reason, !isRefusal(outcome.reason))
    }
  }

  /** Nobody waits for these any more, so the log is the last place that can know of them. */
  #lose(entries: ReadonlyMap<string, number>, error: unknown, failing: boolean): void {
    this.losses.lost += entries.size
    if (failing) {
      this.losses.failing = true
      this.losses.reason = text(error)
    }
    const fate = isSpillwayError(error) && error.outcomeUnknown ? 'MAY BE LOST' : 'LOST'
    const sums = JSON.stringify(Object.fromEntries(entries))
    this.#log('error', `${fate}: accepted increments of ${entries.size} counters (${text(error)}): ${sums}`)
  }
}

/** Whether the store has said no, for good and without doing anything. */
export function isRefusal(error: unknown): boolean {
  return isSpillwayError(error, 'ERR_STORE') && !error.retryable && !error.outcomeUnknown
}

export function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
