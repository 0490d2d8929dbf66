import { ClosableComponent, type ComponentOptions, type FlushReport } from '../../core/component.js'
import { ClosedError, isSpillwayError, type SpillwayError, TooLargeError } from '../../core/errors.js'
import {
  checkCount,
  checkDuration,
  checkFunction,
  checkOneOf,
  checkOptions,
  checkSignal,
  failOption,
  valueOr,
} from '../../core/options.js'
import type {
  AcceptedUsage,
  BatchContext,
  QuotaPeriod,
  RefusedUsage,
  UsageBatch,
  UsageEvent,
  UsageSink,
} from '../../core/ports.js'
import type { RetryOptions } from '../../core/retry.js'
import type { BatchStats } from '../../core/stats.js'
import { onAbort, orAbort } from '../../internal/abort.js'
import { resolveBatchOptions } from '../../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../../internal/batch-queue.js'
import { rejected } from '../../internal/deferred.js'
import { isStorable } from '../../internal/storable.js'
import { checkContext, checkUsageBatch } from '../../internal/store-arguments.js'
import { TurnClock } from '../../internal/turn-clock.js'
import { acceptUsage, problemOfUsage, quotaPeriods } from '../../internal/usage.js'
import type { RedisClient } from './redis-client.js'
import { partlyFailed } from './redis-error.js'
import {
  type DeadLettersOptions,
  readDeadLetters,
  takeDeadLetters,
  type UsageDeadLetter,
} from './usage-stream-dead-letters.js'
import { entryText, maxBatchIdLength } from './usage-stream-entry.js'
import { Publication } from './usage-stream-publication.js'
import { ensureGroup, inspectStream } from './usage-stream-scripts.js'
import { checkGroup, UsageShards } from './usage-stream-shards.js'

/** Options of {@link RedisUsageStream}. */
export interface RedisUsageStreamOptions extends ComponentOptions {
  /**
   * What all keys of the stream begin with; streams with different prefixes know nothing of each other. At most 160 characters, without
   * braces, which Redis Cluster reads as hash tags.
   *
   * @defaultValue 'spillway:usage'
   */
  prefix?: string | undefined
  /**
   * Of how many streams in Redis it is made, from 1 to 1024. Each lies on one node of a cluster; an event's user decides in which of
   * them it is. The first to publish or work fixes the number in Redis; whoever was made for another one fails every call.
   *
   * @defaultValue 1
   */
  shards?: number | undefined
  /**
   * The consumer group of its workers. Each group gets every event, and its workers share them.
   *
   * @defaultValue 'spillway'
   */
  group?: string | undefined
  /** Over which span a quota type counts. The default is `'month'` for every type. An event's period is fixed when it is published. */
  periodOf?: ((quotaType: string) => QuotaPeriod) | undefined
  /**
   * The most events that `publish` has taken and that haven't left yet; beyond, it waits for room, first come, first served.
   *
   * @defaultValue 10_000
   */
  capacity?: number | undefined
  /**
   * The most events that are appended in one call. At most `capacity`, to which the default is lowered.
   *
   * @defaultValue 500
   */
  maxBatchSize?: number | undefined
  /**
   * The most bytes that are appended in one call; an event that alone is larger is refused.
   *
   * @defaultValue 1_048_576
   */
  maxBatchBytes?: number | undefined
  /**
   * The most calls in flight. Alone, a call takes what the turn brought in; further ones leave only when they are full.
   *
   * @defaultValue 4
   */
  concurrency?: number | undefined
  /**
   * The longest that one attempt to append may take, and any other call, in milliseconds, at least 1.
   *
   * @defaultValue 5000
   */
  timeoutMs?: number | undefined
  /**
   * How long an attempt that timed out keeps its slot while it goes on, in milliseconds.
   *
   * @defaultValue 1000
   */
  timeoutGraceMs?: number | undefined
  /**
   * How a batch that failed is tried again, under its id, so that Redis has it once. A full stream isn't tried again.
   *
   * @defaultValue { attempts: 5, delayMs: 100, maxDelayMs: 2000 }
   */
  retry?: RetryOptions | undefined
  /**
   * For how long Redis remembers the id of a batch, in milliseconds, at least 1. One that comes again within that time isn't appended
   * again; one that comes later is, and its events, which keep their ids, are counted once by the sink all the same.
   *
   * @defaultValue 60_000
   */
  publishMemoryMs?: number | undefined
  /**
   * How many events each shard may hold before it takes no more: what is published then is refused with `FullError`, and nothing
   * is dropped. A batch is taken whole, so it may be passed by one batch of each publisher. The default is no limit but Redis' own.
   */
  maxLength?: number | undefined
}

/** Events of {@link RedisUsageStream}. */
export interface RedisUsageStreamEvents {
  /** Redis has a batch of one shard. */
  appended: {
    readonly batchId: string
    readonly shard: number
    readonly events: number
    /** Whether it had it already, of an attempt whose answer was lost. */
    readonly repeated: boolean
  }
  /** An attempt at a batch of `publish` failed, and another one will be made after `delayMs`. */
  retried: { readonly batchId: string; readonly attempt: number; readonly delayMs: number; readonly error: unknown }
  /** A batch of `publish` failed for good; its publishers were told. */
  failed: {
    readonly batchId: string
    readonly events: readonly AcceptedUsage[]
    readonly attempts: number
    readonly error: unknown
  }
  /** Dead letters were appended to the stream again. */
  requeued: { readonly events: number }
}

/** Stats of {@link RedisUsageStream}: the books count what was published here; `write` isn't in them. */
export interface RedisUsageStreamStats extends BatchStats {
  /** Events that Redis has from here, by `publish` or `write`. */
  readonly appended: number
  /** Of those, events that it had already, of attempts whose answers were lost. */
  readonly repeated: number
}

/** A consumer group, as Redis knows it. */
export interface UsageGroupStatus {
  /** Its name. */
  readonly name: string
  /** Workers that it knows; of several shards, the most that one of them knows. */
  readonly consumers: number
  /** Events that were delivered and aren't done. */
  readonly pending: number
  /**
   * Events that weren't delivered yet; undefined where Redis doesn't know: before 7.0, after a restart until all has once been delivered,
   * and after somebody has deleted entries.
   */
  readonly undelivered: number | undefined
}

/** What is in Redis. */
export interface UsageStreamStatus {
  /** Events in the stream: those that some group still needs, and those since the last trimming. */
  readonly length: number
  /** Dead letters. */
  readonly dead: number
  /** The groups. */
  readonly groups: readonly UsageGroupStatus[]
}

/** How long a batch gathers behind those in flight before it may take a slot of its own though it isn't full. */
const maxWaitMs = 100

/**
 * Usage on its way through a stream in Redis: published in many processes, accounted in many others, by workers that share a consumer group.
 *
 * `publish` resolves once Redis has the event; those of a turn are appended together, in one call of a script. Each event gets an
 * id when it is published, by which a sink counts it once, however often it is appended or delivered. As a sink, the stream takes the batches
 * of a QuotaConsumer.
 *
 * @example
 * ```ts
 * import { Redis } from 'ioredis'
 * import { RedisUsageStream } from 'spillway/redis'
 *
 * const stream = new RedisUsageStream(new Redis('redis://127.0.0.1:6379'))
 * await stream.publish({ userId: 'u1', quotaType: 'api_calls', value: 1 })
 * await stream.close()
 * ```
 */
export class RedisUsageStream
  extends ClosableComponent<RedisUsageStreamEvents, RedisUsageStreamStats>
  implements UsageSink
{
  /** The options' defaults. */
  static readonly defaults = {
    prefix: 'spillway:usage',
    shards: 1,
    group: 'spillway',
    capacity: 10_000,
    maxBatchSize: 500,
    maxBatchBytes: 1_048_576,
    concurrency: 4,
    timeoutMs: 5000,
    timeoutGraceMs: 1000,
    retry: { attempts: 5, delayMs: 100, maxDelayMs: 2000 },
    publishMemoryMs: 60_000,
  } as const

  /** It appends each batch id once, as long as Redis remembers it. */
  readonly idempotent = true
  /** It tells batches apart. */
  readonly dedupe = 'batch'
  /** The client that it was given; its workers use it too. */
  readonly client: RedisClient
  /** What its keys begin with. */
  readonly prefix: string
  /** Of how many streams in Redis it is made. */
  readonly shards: number
  /** The consumer group of its workers. */
  readonly group: string
  readonly #shards: UsageShards
  readonly #queue: BatchQueue<Publication>
  readonly #turnClock: TurnClock
  readonly #periodOf: (quotaType: string) => QuotaPeriod
  readonly #maxBatchBytes: number
  readonly #memoryMs: number
  readonly #maxLength: number
  /** Calls of `write` under way. */
  readonly #writes = new Set<Promise<unknown>>()
  #appended = 0
  #repeated = 0

  /**
   * @param client - a client of ioredis or node-redis, single or cluster. It stays the caller's to connect and to close.
   * @throws OptionError when an option is wrong, or the client none that it knows.
   */
  constructor(client: RedisClient, options: RedisUsageStreamOptions = {}) {
    super('redis-usage-stream', options)
    const { defaults } = RedisUsageStream
    const { clock, random, name } = this
    this.client = client
    this.prefix = valueOr<string>(options.prefix, defaults.prefix)
    this.shards = valueOr<number>(options.shards, defaults.shards)
    this.group = checkGroup('group', valueOr<string>(options.group, defaults.group))
    const timeoutMs = checkDuration('timeoutMs', valueOr<number>(options.timeoutMs, defaults.timeoutMs), 1)
    this.#shards = new UsageShards(client, { name, clock, prefix: this.prefix, shards: this.shards, timeoutMs })
    const periodOf = checkFunction(
      'periodOf',
      valueOr(options.periodOf, () => 'month' as const),
    )
    this.#periodOf = (quotaType) => checkOneOf('periodOf', periodOf(quotaType), quotaPeriods)
    const memoryMs = valueOr<number>(options.publishMemoryMs, defaults.publishMemoryMs)
    this.#memoryMs = Math.ceil(checkDuration('publishMemoryMs', memoryMs, 1))
    this.#maxLength = options.maxLength === undefined ? 0 : checkCount('maxLength', options.maxLength)
    const { capacity, maxBatchSize, concurrency, timeoutGraceMs, retry } = options
    const policy = resolveBatchOptions(
      {
        ...{ capacity, maxBatchSize, concurrency, timeoutMs, timeoutGraceMs, retry },
        maxBatchBytes: valueOr<number>(options.maxBatchBytes, defaults.maxBatchBytes),
      },
      { ...defaults, maxWaitMs, eager: true, overflow: 'reject', idempotent: true },
      { keyed: false, sized: true },
    )
    this.#maxBatchBytes = policy.maxBatchBytes
    const { retryable } = policy.retry
    this.#turnClock = TurnClock.of(clock)
    this.#queue = new BatchQueue<Publication>(
      // Its ids tell events apart for good: they come from the platform's chance, whatever `random` is.
      { name, clock, random, seeded: false },
      {
        ...policy,
        retry: { ...policy.retry, retryable: (error) => !isSpillwayError(error, 'ERR_FULL') && retryable(error) },
      },
      this.#face(),
    )
  }

  /**
   * Publishes an event. Where `capacity` leaves no room it waits, first come, first served.
   *
   * @param options - `signal` takes the event out while it waits; once its batch is under way, whether Redis gets it is unknown.
   * @returns resolves once Redis has the event. Rejects with `InvalidEventError`, `TooLargeError`, `FullError` when the stream holds
   * `maxLength`, `StoreError` or `TimeoutError` when Redis failed (its `outcomeUnknown` says whether Redis may have the event),
   * `ClosedError`, `OptionError`, or the signal's reason. A rejection that nobody looks at is no `unhandledRejection`.
   */
  publish(event: UsageEvent, options?: { signal?: AbortSignal | undefined }): Promise<void> {
    let publication: Publication
    let signal: AbortSignal | undefined
    try {
      checkOptions('options', options)
      signal = checkSignal(options?.signal)
      if (signal?.aborted) throw signal.reason
      publication = this.#accept(event)
    } catch (error) {
      this.#queue.reject()
      return rejected(error)
    }
    if (this.#queue.closed || this.#queue.room.open) this.#offer(publication, signal, false)
    else this.#waitForRoom(publication, signal)
    return publication.promise
  }

  /**
   * Publishes many events, each as `publish` does.
   *
   * @returns each event's outcome, in their order; it never rejects, but for an argument of the wrong kind.
   */
  publishMany(
    events: readonly UsageEvent[],
    options?: { signal?: AbortSignal | undefined },
  ): Promise<PromiseSettledResult<void>[]> {
    try {
      if (!Array.isArray(events)) failOption('events', 'must be an array', events)
      checkOptions('options', options)
      checkSignal(options?.signal)
    } catch (error) {
      return rejected(error)
    }
    return Promise.allSettled(events.map((event) => this.publish(event, options)))
  }

  /**
   * Appends a batch, once for each batch id: what a QuotaConsumer calls. With several shards a batch isn't atomic, but what is
   * missing after a failure comes with the next attempt.
   *
   * @returns the events that JSON can't carry, or that are larger than `maxBatchBytes`. Rejects with `FullError`, `StoreError`,
   * `TimeoutError` after `timeoutMs`, `ClosedError`, `OptionError` for a batch id that is none, or the signal's reason.
   */
  async write(batch: UsageBatch, context: BatchContext): Promise<readonly RefusedUsage[]> {
    checkContext(context).signal.throwIfAborted()
    checkUsageBatch(batch)
    if (this.#queue.closed) throw this.#queue.closedError()
    if (!isStorable(batch.id) || batch.id.length === 0 || batch.id.length > maxBatchIdLength) {
      failOption('batch.id', `must be a text of 1 to ${maxBatchIdLength} characters`, batch.id)
    }
    const { parts, refused } = this.#partsOf(batch)
    const work = this.#appendAll(batch.id, parts)
    this.#writes.add(work)
    try {
      await orAbort(work, context.signal)
    } finally {
      this.#writes.delete(work)
    }
    return refused
  }

  /**
   * Makes a group that gets every event that is in the stream from now on, unless it is there. Nothing that it hasn't done is
   * trimmed. A worker makes its own when it starts; this is for groups whose workers come later.
   *
   * @returns rejects with a `StoreError` when Redis failed, or `ClosedError`.
   */
  async addGroup(group: string = this.group): Promise<void> {
    this.#checkOpen()
    checkGroup('group', group)
    await this.#shards.checkLayout()
    const call = { operation: 'addGroup', writes: true, timed: true }
    await this.#onEach((shard) => this.#shards.run(ensureGroup, [this.#shards.stream(shard)], [group], call))
  }

  /**
   * Looks at what is in Redis.
   *
   * @returns rejects with a `StoreError` when Redis failed, or `ClosedError`.
   */
  async status(): Promise<UsageStreamStatus> {
    this.#checkOpen()
    const call = { operation: 'status', writes: false, timed: true }
    const answers = await this.#onEach((shard) =>
      this.#shards.run(inspectStream, [this.#shards.stream(shard), this.#shards.dead(shard)], [], call),
    )
    const groups = new Map<string, UsageGroupStatus>()
    let [length, dead] = [0, 0]
    type Count = number | string
    for (const [entries, letters, found] of answers as [Count, Count, [string, Count, Count, Count][]][]) {
      length += Number(entries)
      dead += Number(letters)
      for (const [name, ...counts] of found) {
        const [consumers, pending, lag] = counts.map(Number) as [number, number, number]
        const before = groups.get(name) ?? { name, consumers: 0, pending: 0, undelivered: 0 }
        groups.set(name, {
          name,
          consumers: Math.max(before.consumers, consumers),
          pending: before.pending + pending,
          undelivered: before.undelivered === undefined || lag < 0 ? undefined : before.undelivered + lag,
        })
      }
    }
    return { length, dead, groups: [...groups.values()] }
  }

  /**
   * Reads the events that workers gave up, oldest first in each shard.
   *
   * @returns rejects with a `StoreError` when Redis failed, `OptionError`, or `ClosedError`.
   */
  async deadLetters(options?: DeadLettersOptions): Promise<readonly UsageDeadLetter[]> {
    this.#checkOpen()
    return readDeadLetters(this.#shards, options)
  }

  /**
   * Appends dead letters to the stream again, whatever `maxLength` says, and takes them out of the dead letters in the same step. Events keep
   * their ids, so that one that was counted after all isn't counted again.
   *
   * @param ids - of the dead letters.
   * @returns how many were still there. Rejects as `deadLetters` does.
   */
  async requeue(ids: readonly string[]): Promise<number> {
    this.#checkOpen()
    const events = await takeDeadLetters(this.#shards, ids, true)
    if (events > 0 && this.events.has('requeued')) this.events.emit('requeued', { events })
    return events
  }

  /**
   * Deletes dead letters.
   *
   * @param ids - of the dead letters.
   * @returns how many were still there. Rejects as `deadLetters` does.
   */
  async discard(ids: readonly string[]): Promise<number> {
    this.#checkOpen()
    return takeDeadLetters(this.#shards, ids, false)
  }

  override flush(): Promise<FlushReport> {
    return this.#queue.flush()
  }

  override stats(): RedisUsageStreamStats {
    return {
      ...this.#queue.books.stats(this.name, this.#queue.running),
      appended: this.#appended,
      repeated: this.#repeated,
    }
  }

  protected override async drain(): Promise<void> {
    await this.#queue.drain()
    await Promise.allSettled(this.#writes)
  }

  protected override abandon(): number {
    return this.#queue.abandon()
  }

  #accept(event: UsageEvent): Publication {
    const problem = problemOfUsage(event)
    if (problem !== undefined) throw problem
    const accepted = acceptUsage(event, this.#turnClock.wallNow(), this.#periodOf)
    const publication = new Publication(accepted, this.#shards.of(accepted.userId))
    if (publication.bytes > this.#maxBatchBytes) throw this.#tooLarge(publication.bytes)
    return publication
  }

  #offer(publication: Publication, signal: AbortSignal | undefined, fromLine: boolean): void {
    // A batch is of one shard: it is there or it isn't.
    const group = this.shards === 1 ? undefined : publication.shard
    const refusal = this.#queue.offer(publication, group, fromLine)
    if (refusal !== undefined) return publication.fail(refusal)
    if (signal === undefined) return
    publication.stopListening = onAbort(signal, () => {
      if (this.#queue.abort(publication, signal.reason)) publication.fail(signal.reason)
    })
  }

  #waitForRoom(publication: Publication, signal: AbortSignal | undefined): void {
    const leave = this.#queue.room.join({
      signal,
      take: () => {
        publication.stopListening?.()
        this.#offer(publication, signal, true)
        return true
      },
      refuse: (error) => {
        this.#queue.reject()
        publication.fail(error)
      },
    })
    if (signal === undefined) return
    publication.stopListening = onAbort(signal, () => {
      leave()
      this.#queue.abortUnaccepted()
      publication.fail(signal.reason)
    })
  }

  #face(): BatchFace<Publication> {
    const { events } = this
    return {
      call: (publications, { batchId, signal }) => {
        const texts = publications.map((publication, index) => publication.textIn(batchId, index))
        const { shard } = publications[0] as Publication
        // The engine watches its time.
        return orAbort(this.#append(shard, batchId, texts, false), signal)
      },
      complete: (publication) => {
        publication.succeed()
        return true
      },
      fail: (publication, error) => publication.fail(error),
      onRetried: ({ id }, attempt, delayMs, error) => {
        if (events.has('retried')) events.emit('retried', { batchId: id, attempt, delayMs, error })
      },
      onFailed: ({ id, attempts }, publications, error) => {
        if (!events.has('failed')) return
        events.emit('failed', { batchId: id, events: publications.map(({ event }) => event), attempts, error })
      },
    }
  }

  /** The texts of a batch's entries by shard, and the events that it can't have. */
  #partsOf(batch: UsageBatch): { parts: Map<number, string[]>; refused: RefusedUsage[] } {
    const parts = new Map<number, string[]>()
    const refused: RefusedUsage[] = []
    for (const [index, event] of batch.events.entries()) {
      try {
        const text = entryText(event, `${batch.id}/${index}`)
        const bytes = Buffer.byteLength(text)
        if (bytes > this.#maxBatchBytes) throw this.#tooLarge(bytes)
        const shard = this.#shards.of(event.userId)
        const part = parts.get(shard)
        if (part === undefined) parts.set(shard, [text])
        else part.push(text)
      } catch (error) {
        refused.push({ index, error: error as Error })
      }
    }
    return { parts, refused }
  }

  async #appendAll(batchId: string, parts: ReadonlyMap<number, readonly string[]>): Promise<void> {
    const appends = [...parts].map(([shard, texts]) => this.#append(shard, batchId, texts, true))
    const outcomes = await Promise.allSettled(appends)
    const errors = outcomes.flatMap((outcome) =>
      outcome.status === 'rejected' ? [outcome.reason as SpillwayError] : [],
    )
    const [first] = errors
    if (first === undefined) return
    // Of a batch that is full everywhere nothing was appended; of any other, who knows.
    const sameForAll = errors.length === parts.size && errors.every(({ code }) => code === 'ERR_FULL')
    throw parts.size === 1 || sameForAll ? first : partlyFailed(`${this.name}: append`, errors, parts.size, 'shards')
  }

  async #append(shard: number, batchId: string, texts: readonly string[], timed: boolean): Promise<void> {
    const [memoryMs, maxLength] = [this.#memoryMs, this.#maxLength]
    const repeated = await this.#shards.append(shard, batchId, texts, { memoryMs, maxLength, timed })
    this.#appended += texts.length
    if (repeated) this.#repeated += texts.length
    if (this.events.has('appended')) {
      this.events.emit('appended', { batchId, shard, events: texts.length, repeated })
    }
  }

  #onEach<T>(act: (shard: number) => Promise<T>): Promise<T[]> {
    return Promise.all(Array.from({ length: this.shards }, (_, shard) => act(shard)))
  }

  #tooLarge(bytes: number): TooLargeError {
    const limit = this.#maxBatchBytes
    return new TooLargeError(`${this.name}: an event of ${bytes} bytes is over maxBatchBytes (${limit})`, limit)
  }

  #checkOpen(): void {
    if (this.#queue.closed) throw new ClosedError(`${this.name} is closed`)
  }
}
