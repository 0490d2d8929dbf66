import {
  AsyncBatcher,
  AsyncWriteBuffer,
  type CounterIncrement,
  type CounterStore,
  isSpillwayError,
  type RetryOptions,
} from 'spillway'

/** Where the service says what people must know of. */
export type Log = (level: 'info' | 'warn' | 'error', message: string) => void

/** When an increment is answered: once it is in memory, in the live store, or committed. */
export type Acknowledgement = 'accepted' | 'redis' | 'committed'

export const acknowledgements: readonly Acknowledgement[] = ['accepted', 'redis', 'committed']

export interface CountersOptions {
  /** Counters that may wait to be written before increments are refused. */
  capacity?: number | undefined
  /** How failed calls of a store are tried again, in place of what suits each way. */
  retry?: RetryOptions | undefined
  /** What becomes of accepted increments where there is no room: new ones are refused by default. */
  overflow?: 'reject' | 'drop-oldest' | undefined
  /** Batches of accepted increments. */
  writes?: WritesOptions | undefined
  /** Batches of increments that are answered with values. */
  answers?: { maxBatchSize?: number | undefined; maxWaitMs?: number | undefined; concurrency?: number | undefined }
  /** Batches of reads. */
  reads?: ReadsOptions | undefined
}

export interface WritesOptions {
  /** Counters in a batch. */
  maxBatchSize?: number | undefined
  /** How long an increment waits to be written. */
  maxWaitMs?: number | undefined
  /** How long a call of the durable store may take, and how long one of the live store. */
  timeoutMs?: number | undefined
  liveTimeoutMs?: number | undefined
  /** How a batch is tried again. */
  retry?: RetryOptions | undefined
}

export interface ReadsOptions {
  maxBatchSize?: number | undefined
  concurrency?: number | undefined
}

/** What went wrong with increments that had been accepted. */
export interface Losses {
  /** Counters whose accepted increments were given up. */
  lost: number
  /** Counters whose live value lacks something that the durable one has. */
  notLive: number
  /** Whether the latest batch was given up because the durable store failed. */
  failing: boolean
  /** Why, for people. */
  reason: string | undefined
}

/** About half a minute of trying: a store may restart without costing a single increment. */
export const patience: RetryOptions = { attempts: 20, delayMs: 100, maxDelayMs: 5_000 }

/** How many times as much may wait for the live store as for the durable one. */
const liveRoom = 10

type CountersPart = 'liveWrites' | 'durableWrites' | 'liveAnswers' | 'durableAnswers' | 'liveReads' | 'durableReads'

/**
 * The core of the gateway and of the counter service: five ways to two stores, each through the primitive that suits it.
 *
 *                   answered from          and then into
 *     accepted      memory                 liveWrites, durableWrites   AsyncWriteBuffer: sums by counter
 *     redis         liveAnswers            durableWrites               AsyncBatcher: everyone's increments in one call,
 *     committed     durableAnswers         liveWrites                  each its own answer; the next call when one is back
 *     reads         liveReads, durableReads                            AsyncBatcher: everyone's keys in one call, each once
 *
 * The stores never wait for each other. Each batch has an id under which the store applies it once, so that it can be tried
 * again after any failure.
 */
export class Counters {
  readonly liveWrites: AsyncWriteBuffer<string, number>
  readonly durableWrites: AsyncWriteBuffer<string, number>
  readonly liveAnswers: AsyncBatcher<CounterIncrement, number>
  readonly durableAnswers: AsyncBatcher<CounterIncrement, number>
  readonly liveReads: AsyncBatcher<string, number>
  readonly durableReads: AsyncBatcher<string, number>
  readonly losses: Losses = { lost: 0, notLive: 0, failing: false, reason: undefined }
  readonly #capacity: number
  /** Whether those that wait longest are given up for new ones. */
  readonly #makesRoom: boolean
  readonly #log: Log
  /** Increments that are on their way to the live store and have a place in `durableWrites` kept for them. */
  #promised = 0

  constructor(stores: { live: CounterStore; durable: CounterStore }, log: Log, options: CountersOptions = {}) {
    const { live, durable } = stores
    const { capacity = AsyncWriteBuffer.defaults.capacity, retry, overflow = 'reject', reads } = options
    const { maxBatchSize = 1_000, maxWaitMs = 100, timeoutMs = 10_000, liveTimeoutMs = 2_000 } = options.writes ?? {}
    const { maxBatchSize: maxAnswers = 500, maxWaitMs: besideMs = 2, concurrency = 2 } = options.answers ?? {}
    this.#log = log
    this.#capacity = capacity
    this.#makesRoom = overflow === 'drop-oldest'
    const writes = {
      merge: addDeltas,
      maxBatchSize: Math.min(maxBatchSize, capacity),
      capacity,
      overflow,
      maxWaitMs,
      retry: retry ?? options.writes?.retry ?? patience,
    }
    this.durableWrites = new AsyncWriteBuffer(
      async (sums, context) => {
        for (const { key, delta, error } of await durable.add(sums, context)) this.#lose([[key, delta]], error)
      },
      { ...writes, name: 'durable-writes', timeoutMs, idempotent: durable.idempotent },
    )
    this.liveWrites = new AsyncWriteBuffer(
      async (sums, context) => {
        for (const { key, error } of await live.add(sums, context)) this.#missLive([key], error)
      },
      {
        ...writes,
        name: 'live-writes',
        // An outage of the live store must not cost the durable one anything, so there is more room to wait in.
        capacity: capacity * liveRoom,
        timeoutMs: liveTimeoutMs,
        idempotent: live.idempotent,
      },
    )
    // While a call is out, the next batch gathers: load makes batches larger, and nobody waits for a clock when it is quiet. One
    // call at a time is best where calls are short. A commit waits for the disk, so a second one may leave after 2 ms; more of
    // them would only wait for each other's locks.
    const answers = { maxBatchSize: Math.min(maxAnswers, capacity), capacity }
    this.durableAnswers = new AsyncBatcher((increments, context) => durable.increment(increments, context), {
      ...answers,
      name: 'durable-answers',
      concurrency,
      maxWaitMs: besideMs,
      timeoutMs,
      idempotent: durable.idempotent,
      retry: retry ?? { attempts: 6, delayMs: 50, maxDelayMs: 1_000 },
    })
    this.liveAnswers = new AsyncBatcher((increments, context) => live.increment(increments, context), {
      ...answers,
      name: 'live-answers',
      concurrency: 1,
      timeoutMs: liveTimeoutMs,
      idempotent: live.idempotent,
      retry: retry ?? { attempts: 4, delayMs: 20, maxDelayMs: 500 },
    })
    this.liveReads = reader('live-reads', live, retry, reads)
    this.durableReads = reader('durable-reads', durable, retry, reads)
    this.#watch()
  }

  /** What holds increments, in the order in which to close it: what answers comes before what it then writes to. */
  get parts(): readonly (AsyncWriteBuffer<string, number> | AsyncBatcher<CounterIncrement, number>)[] {
    return [this.liveAnswers, this.durableAnswers, this.durableWrites, this.liveWrites]
  }

  /** How many counters, or calls, may wait in each of the parts. */
  get capacities(): Readonly<Record<CountersPart, number>> {
    const capacity = this.#capacity
    const { capacity: reads } = AsyncBatcher.defaults
    const answers = { liveAnswers: capacity, durableAnswers: capacity, liveReads: reads, durableReads: reads }
    return { liveWrites: capacity * liveRoom, durableWrites: capacity, ...answers }
  }

  /** Accepts an increment, to be written soon; false when there is no room. */
  accept({ key, delta }: CounterIncrement): boolean {
    const isNew = !this.durableWrites.has(key)
    if (isNew && this.#promised > 0 && this.#room < 1) return false
    if (!this.durableWrites.put(key, delta)) return false
    this.#putLive(key, delta)
    return true
  }

  /**
   * Accepts increments that belong together, all or none where that can be known beforehand: whether there is room can,
   * whether a counter's waiting sum stays exact can't.
   *
   * @returns how many, counted from the first, were accepted.
   */
  acceptAll(increments: readonly CounterIncrement[]): number {
    const keys = new Set(increments.map(({ key }) => key).filter((key) => !this.durableWrites.has(key)))
    if (keys.size > this.#room) return 0
    const refused = increments.findIndex((increment) => !this.accept(increment))
    return refused === -1 ? increments.length : refused
  }

  /** Applies an increment to the live store, answers with the live value, and commits it soon after. */
  async incrementLive(increment: CounterIncrement): Promise<number> {
    // What is in the live store must find room on its way to the durable one.
    if (this.#room < 1) throw new Overload(this.#capacity)
    this.#promised++
    try {
      const value = await this.liveAnswers.add(increment)
      this.#promised--
      if (!this.durableWrites.put(increment.key, increment.delta)) {
        this.#lose([[increment.key, increment.delta]], new Error('the sum that waits would no longer be exact'))
      }
      return value
    } catch (error) {
      this.#promised--
      throw error
    }
  }

  /** Commits an increment, and answers with the committed value; the live value follows. */
  async commit(increment: CounterIncrement): Promise<number> {
    const value = await this.durableAnswers.add(increment)
    this.#putLive(increment.key, increment.delta)
    return value
  }

  /** Applies increments as `acknowledgement` says, and answers each with its counter's new value or with its own error. */
  answerAll(
    increments: readonly CounterIncrement[],
    acknowledgement: 'redis' | 'committed',
  ): Promise<PromiseSettledResult<number>[]> {
    return Promise.allSettled(
      increments.map((increment) =>
        acknowledgement === 'redis' ? this.incrementLive(increment) : this.commit(increment),
      ),
    )
  }

  /** Reads the live value, or the durable one where that is asked for or the live store fails. */
  async read(key: string, source: 'live' | 'durable' = 'live'): Promise<{ value: number; source: 'live' | 'durable' }> {
    if (source === 'live') {
      try {
        return { value: await this.liveReads.add(key), source }
      } catch (error) {
        if (isSpillwayError(error, 'ERR_CLOSED')) throw error
      }
    }
    return { value: await this.durableReads.add(key), source: 'durable' }
  }

  /** Writes all that was accepted before the call. */
  async flush(): Promise<void> {
    await Promise.all([this.liveAnswers.flush(), this.durableAnswers.flush()])
    await Promise.all([this.liveWrites.flush(), this.durableWrites.flush()])
  }

  /** Closes everything, in order. */
  async close(options?: { timeoutMs?: number }): Promise<void> {
    for (const part of [...this.parts, this.liveReads, this.durableReads]) await part.close(options)
  }

  stats(): Record<string, unknown> {
    const { liveWrites, durableWrites, liveAnswers, durableAnswers, liveReads, durableReads } = this
    const parts = { liveWrites, durableWrites, liveAnswers, durableAnswers, liveReads, durableReads }
    return {
      ...this.losses,
      ...Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, part.stats()])),
    }
  }

  /** How many new counters can be accepted. */
  get #room(): number {
    if (this.#makesRoom) return Number.POSITIVE_INFINITY
    return this.#capacity - this.durableWrites.pendingKeys - this.#promised
  }

  #putLive(key: string, delta: number): void {
    if (!this.liveWrites.put(key, delta)) this.#missLive([key], new Error('too much waits for the live store'))
  }

  #watch(): void {
    const parts: readonly Retrying[] = [...this.parts, this.liveReads, this.durableReads]
    for (const part of parts) {
      part.on('retried', ({ attempt, delayMs, error }) => {
        this.#log('warn', `${part.name}: ${text(error)}; attempt ${attempt} follows in ${Math.round(delayMs)} ms`)
      })
    }
    this.durableWrites.on('written', () => {
      this.losses.failing = false
      this.losses.reason = undefined
    })
    this.durableWrites.on('failed', ({ entries, error }) => {
      this.losses.failing = true
      this.losses.reason = text(error)
      this.#lose([...entries], error)
    })
    this.liveWrites.on('failed', ({ entries, error }) => this.#missLive([...entries.keys()], error))
    const noRoom = new Error('there was no more room, and those that waited longest were given up')
    this.durableWrites.on('dropped', ({ key, value }) => this.#lose([[key, value]], noRoom))
    this.liveWrites.on('dropped', ({ key }) => this.#missLive([key], noRoom))
  }

  /** Nobody waits for these any more, so the log is the last place that can know of them. */
  #lose(entries: readonly (readonly [string, number])[], error: unknown): void {
    this.losses.lost += entries.length
    const fate = isSpillwayError(error) && error.outcomeUnknown ? 'MAY BE LOST' : 'LOST'
    const sums = JSON.stringify(Object.fromEntries(entries))
    this.#log('error', `${fate}: accepted increments of ${entries.length} counters (${text(error)}): ${sums}`)
  }

  #missLive(keys: readonly string[], error: unknown): void {
    this.losses.notLive += keys.length
    this.#log('warn', `the live values of ${keys.length} counters fell behind the durable ones (${text(error)})`)
  }
}

/** What the buffers and the batchers have in common here. */
interface Retrying {
  readonly name: string
  on(event: 'retried', listener: (retry: { attempt: number; delayMs: number; error: unknown }) => void): () => void
}

/** There is no room for more counters that wait to be written. */
export class Overload extends Error {
  constructor(capacity: number) {
    super(`${capacity} counters wait to be written, which is as many as may`)
  }
}

/** Adds two deltas of one counter; refuses a sum that would not be exact. */
export function addDeltas(sum: number, delta: number): number {
  const next = sum + delta
  if (Number.isSafeInteger(next)) return next
  throw new Error('the increments of a counter add up to more than a number holds exactly')
}

/** Whether the store has said no, for good and without doing anything. */
export function isRefusal(error: unknown): boolean {
  return isSpillwayError(error, 'ERR_STORE') && !error.retryable && !error.outcomeUnknown
}

export function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function reader(
  name: string,
  store: CounterStore,
  retry: RetryOptions | undefined,
  { maxBatchSize = 500, concurrency = 2 }: ReadsOptions = {},
): AsyncBatcher<string, number> {
  return new AsyncBatcher((keys) => store.getMany(keys), {
    name,
    keyOf: (key) => key,
    maxBatchSize,
    concurrency,
    timeoutMs: 2_000,
    idempotent: true,
    retry: retry ?? { attempts: 2, delayMs: 50 },
  })
}
