import {
  ClosableComponent,
  type CloseOptions,
  type CloseReport,
  type ComponentOptions,
  type FlushReport,
} from '../../core/component.js'
import { ClosedError, type SpillwayError } from '../../core/errors.js'
import { checkCount, checkDuration, checkOptions, failOption, valueOr } from '../../core/options.js'
import type { AcceptedUsage, QuotaKey, UsageSink } from '../../core/ports.js'
import { backoffMs, type RetryOptions, type RetryPolicy, resolveRetry } from '../../core/retry.js'
import type { BatchSizeSnapshot, LatencySnapshot } from '../../core/stats.js'
import { captureContext } from '../../internal/async-context.js'
import { batchId } from '../../internal/batch-id.js'
import { type BatchPolicy, resolveBatchOptions } from '../../internal/batch-options.js'
import { handled, rejected } from '../../internal/deferred.js'
import type { RedisUsageStream } from './redis-usage-stream.js'
import { UsageBooks, type UsageOutcome } from './usage-stream-books.js'
import { UsageHealth, type UsageTrouble } from './usage-stream-health.js'
import { type Delivery, UsageIntake } from './usage-stream-intake.js'
import type { Taken } from './usage-stream-lot.js'
import { UsageReader } from './usage-stream-reader.js'
import { checkGroup, UsageShards } from './usage-stream-shards.js'
import { type UsageWriteFailure, UsageWriter, type WriterListener } from './usage-stream-writer.js'

/** Options of {@link RedisUsageWorker}. */
export interface RedisUsageWorkerOptions extends ComponentOptions {
  /**
   * The consumer group. Each group gets every event, and its workers share them. One that isn't there is made, and begins with the oldest
   * event that is. The default is the stream's `group`.
   */
  group?: string | undefined
  /**
   * What it is called in its group. A worker that comes back under the name that it had begins with what it left; no two may have the
   * same at once. The default is a random name: what such a worker leaves is taken over after `claimIdleMs`.
   */
  consumer?: string | undefined
  /**
   * The most events that are written at once. At most `capacity`, to which the default is lowered.
   *
   * @defaultValue 500
   */
  maxBatchSize?: number | undefined
  /**
   * The longest that a batch waits for more events, in milliseconds.
   *
   * @defaultValue 100
   */
  maxWaitMs?: number | undefined
  /**
   * Whether what is there is written at once while nothing else is being written, instead of waiting for a full batch or `maxWaitMs`.
   *
   * @defaultValue true
   */
  eager?: boolean | undefined
  /**
   * The most batches that are written at a time.
   *
   * @defaultValue 2
   */
  concurrency?: number | undefined
  /**
   * The most events that it has in hand: read and not done. It reads no more while it has so many.
   *
   * @defaultValue 2000
   */
  capacity?: number | undefined
  /**
   * The longest that one attempt at a batch may take, in milliseconds, at least 1.
   *
   * @defaultValue 30_000
   */
  timeoutMs?: number | undefined
  /**
   * How long an attempt that timed out keeps its slot while it goes on, in milliseconds.
   *
   * @defaultValue 1000
   */
  timeoutGraceMs?: number | undefined
  /**
   * How a batch that failed is tried again: for as long as it takes. `retryable` says whether an error is about the sink rather than
   * an event; by default every error is, but one that says `retryable: false`.
   *
   * @defaultValue { delayMs: 100, maxDelayMs: 10_000 }
   */
  retry?: Omit<RetryOptions, 'attempts'> | undefined
  /**
   * How long it pauses at the most, when there is nothing to read, before it looks again, in milliseconds, at least 1.
   *
   * @defaultValue 250
   */
  pollMs?: number | undefined
  /**
   * After how long, in milliseconds, at least 100, what another worker was delivered and hasn't done is taken over. A worker that is
   * alive says three times in that time that it still has what it has, however long it takes.
   *
   * @defaultValue 30_000
   */
  claimIdleMs?: number | undefined
  /**
   * How often an event is delivered and never done, or fails by itself while others succeed, before it goes to the dead letters; at
   * least 2. Deliveries that ended in an outage of the sink or in `close` don't count; those that ended with the process do. After half
   * as many an event is tried alone, and then each try counts.
   *
   * @defaultValue 10
   */
  maxDeliveries?: number | undefined
  /**
   * How often the stream is trimmed, in milliseconds, at least 1, by all of its workers together.
   *
   * @defaultValue 1000
   */
  trimEveryMs?: number | undefined
  /**
   * The longest that a call of Redis may take, in milliseconds, at least 1.
   *
   * @defaultValue 5000
   */
  redisTimeoutMs?: number | undefined
  /**
   * After how many failures in a row, of the sink or of Redis, it counts as unhealthy.
   *
   * @defaultValue 3
   */
  unhealthyAfter?: number | undefined
}

/** Events of {@link RedisUsageWorker}. */
export interface RedisUsageWorkerEvents {
  /** A batch is in the sink. */
  applied: {
    readonly batchId: string
    /** Whose usage of what it changed. */
    readonly keys: readonly QuotaKey[]
    /** How many events it had, those included that the sink refused or had before. */
    readonly events: number
    /** How many of them the sink refused. */
    readonly refused: number
    readonly attempts: number
    /** From the first attempt on. */
    readonly durationMs: number
  }
  /** An attempt to write a batch failed. */
  writeFailed: {
    readonly batchId: string
    readonly events: number
    readonly attempt: number
    readonly error: unknown
    /** What is done about it. */
    readonly next: UsageWriteFailure
    /** After how many milliseconds it is tried again, as a whole. */
    readonly delayMs: number
  }
  /** A call of Redis failed; it goes on trying. */
  redisFailed: { readonly shard: number; readonly error: unknown }
  /** Events came that others had been delivered and let lie. */
  claimed: {
    readonly shard: number
    /** How many of whose. */
    readonly from: Readonly<Record<string, number>>
  }
  /** An event is in the dead letters. */
  deadLettered: {
    readonly shard: number
    /** The id of its entry in the stream. */
    readonly entryId: string
    /** Undefined where the entry couldn't be read. */
    readonly event: AcceptedUsage | undefined
    readonly reason: string
    readonly deliveries: number
  }
  /** Somebody had deleted entries of the stream before they were done. */
  vanished: { readonly shard: number; readonly entries: number }
  /** The group wasn't there any more, as after FLUSHALL. It was made again and begins with the oldest event that there is. */
  groupLost: { readonly shard: number }
  /** The sink, or Redis, has failed `unhealthyAfter` times in a row. */
  unhealthy: { readonly reason: UsageTrouble; readonly error: unknown }
  /** Both work again. */
  recovered: Readonly<Record<string, never>>
}

/** Stats of {@link RedisUsageWorker}, in events: `delivered = applied + dead + elsewhere + returned + pending`. */
export interface RedisUsageWorkerStats {
  /** Its name. */
  readonly name: string
  /** Whether both the sink and Redis work. */
  readonly healthy: boolean
  /** What it was delivered. */
  readonly delivered: number
  /** What the sink took; what the sink had before is among it. */
  readonly applied: number
  /** What it moved to the dead letters. */
  readonly dead: number
  /** What it would have moved there, but was acknowledged already: by another worker, or by a call whose answer was lost. */
  readonly elsewhere: number
  /** What it gave back when it was closed: it stays pending in Redis, for others. */
  readonly returned: number
  /** What it has in hand. */
  readonly pending: number
  /** The part of `pending` that failed and waits for its next attempt. */
  readonly waiting: number
  /** The part of `delivered` that had been delivered before, to whomever. */
  readonly redelivered: number
  /** The part of `delivered` that others had let lie. */
  readonly claimed: number
  /** Entries that somebody had deleted before they were done. */
  readonly vanished: number
  /** Attempts to write a batch. */
  readonly batches: number
  /** Attempts that failed. */
  readonly failedBatches: number
  /** Attempts that took longer than `timeoutMs`. */
  readonly timeouts: number
  /** Of those, attempts that were still running when `timeoutGraceMs` had passed too. */
  readonly overruns: number
  /** How large the batches were. */
  readonly batchSize: BatchSizeSnapshot
  /** From delivery until acknowledged, in milliseconds. */
  readonly latencyMs: LatencySnapshot
  /** Calls of Redis that failed. */
  readonly redisFailures: number
  /** How often the group was gone. */
  readonly groupsLost: number
  /** Entries that it trimmed off. */
  readonly trimmed: number
  /** Consumers that it removed. */
  readonly removedConsumers: number
  /** Events in the stream at its last look, those that are done and not yet trimmed included. */
  readonly streamLength: number
  /** What its whole group had in hand at its last housekeeping. */
  readonly groupPending: number
  /** What its group wasn't delivered yet, at its last housekeeping; undefined where Redis doesn't know. */
  readonly undelivered: number | undefined
}

/** How long closing waits at the most for Redis to take note of what is given back. */
const leaveMs = 1000

/**
 * Accounts the events of a RedisUsageStream in a sink, together with the other workers of its group.
 *
 * An event is acknowledged once the sink has it. Until then it stays with this worker, or is taken over by another one when this worker is
 * gone: so it may come to the sink more than once, in other batches, and the sink must count it once. While the sink is down, batches are
 * tried again for as long as it takes, no more is read, and nothing is lost. An event at fault is told from a sink at fault by how the others
 * fare, and goes to the dead letters.
 *
 * @example
 * ```ts
 * import { Redis } from 'ioredis'
 * import type { UsageSink } from 'spillway'
 * import { RedisUsageStream, RedisUsageWorker } from 'spillway/redis'
 *
 * declare const sink: UsageSink
 * const stream = new RedisUsageStream(new Redis('redis://127.0.0.1:6379'))
 * const worker = new RedisUsageWorker(stream, sink)
 * await worker.start()
 * process.once('SIGTERM', () => void worker.close({ timeoutMs: 10_000 }))
 * ```
 */
export class RedisUsageWorker extends ClosableComponent<RedisUsageWorkerEvents, RedisUsageWorkerStats> {
  /** The options' defaults. */
  static readonly defaults = {
    maxBatchSize: 500,
    maxWaitMs: 100,
    eager: true,
    concurrency: 2,
    capacity: 2000,
    timeoutMs: 30_000,
    timeoutGraceMs: 1000,
    retry: { delayMs: 100, maxDelayMs: 10_000 },
    pollMs: 250,
    claimIdleMs: 30_000,
    maxDeliveries: 10,
    trimEveryMs: 1000,
    redisTimeoutMs: 5000,
    unhealthyAfter: 3,
  } as const

  /** Its consumer group. */
  readonly group: string
  /** What it is called in its group. */
  readonly consumer: string
  readonly #shards: UsageShards
  readonly #intakes: readonly UsageIntake[]
  readonly #readers: readonly UsageReader[]
  readonly #writer: UsageWriter
  readonly #retry: RetryPolicy
  readonly #health: UsageHealth
  readonly #inContext = captureContext()
  readonly #capacity: number
  readonly #maxBatchSize: number
  readonly #maxDeliveries: number
  readonly #books = new UsageBooks()
  readonly #troubles = { claimed: 0, vanished: 0, redisFailures: 0, groupsLost: 0 }
  /** Room that readers have asked for. */
  #reserved = 0
  #starting: Promise<void> | undefined
  #reading: Promise<unknown> | undefined
  #closing = false
  /** Given up: what still comes changes nothing here. */
  #over = false
  #stopWaitingToStart: (() => void) | undefined

  /**
   * @param stream - what it works for. It uses the stream's client and never publishes; the stream may be closed before it.
   * @param sink - must tell events apart: its `dedupe` is `'event'` or `'request'`.
   * @throws OptionError when an option is wrong, the stream is none, or the sink can't tell events apart.
   */
  constructor(stream: RedisUsageStream, sink: UsageSink, options: RedisUsageWorkerOptions = {}) {
    super('redis-usage-worker', options)
    const { defaults } = RedisUsageWorker
    const { clock, random, name } = this
    checkStream(stream)
    checkSink(sink)
    const duration = (field: 'redisTimeoutMs' | 'pollMs' | 'claimIdleMs' | 'trimEveryMs', least: number) =>
      Math.ceil(checkDuration(field, valueOr<number>(options[field], defaults[field]), least))
    this.group = checkGroup('group', valueOr(options.group, stream.group))
    this.consumer = checkGroup('consumer', valueOr(options.consumer, batchId(clock.wallNow())))
    const pace = {
      pollMs: duration('pollMs', 1),
      claimIdleMs: duration('claimIdleMs', 100),
      trimEveryMs: duration('trimEveryMs', 1),
    }
    this.#maxDeliveries = checkCount('maxDeliveries', valueOr<number>(options.maxDeliveries, defaults.maxDeliveries), 2)
    this.#retry = retryOf(options)
    const policy = policyOf(options)
    this.#capacity = policy.capacity
    this.#maxBatchSize = policy.maxBatchSize
    this.#health = new UsageHealth(
      checkCount('unhealthyAfter', valueOr<number>(options.unhealthyAfter, defaults.unhealthyAfter)),
      {
        onUnhealthy: (reason, error) => {
          if (this.events.has('unhealthy')) this.events.emit('unhealthy', { reason, error })
        },
        onRecovered: () => {
          if (this.events.has('recovered')) this.events.emit('recovered', {})
        },
      },
    )
    const { prefix, shards } = stream
    const timeoutMs = duration('redisTimeoutMs', 1)
    this.#shards = new UsageShards(stream.client, { name, clock, prefix, shards, timeoutMs })
    this.#intakes = Array.from({ length: shards }, (_, shard) => this.#makeIntake(shard, pace))
    this.#readers = this.#intakes.map((intake) => this.#makeReader(intake, pace))
    const seeded = options.random !== undefined
    this.#writer = new UsageWriter(
      sink,
      this.#intakes,
      { name, clock, random, seeded, policy, retry: this.#retry, maxFailures: this.#maxDeliveries },
      this.#writerListener(),
    )
  }

  /**
   * Begins to work: makes the group where it isn't there, then reads. While Redis can't be reached it goes on trying, and so does a
   * worker that has started.
   *
   * @returns resolves once the group is there. Rejects with a `StoreError` that isn't retryable, such as that the stream has another number
   * of shards, after which it can be called again, or with `ClosedError`.
   */
  start(): Promise<void> {
    if (this.#closing) return rejected(new ClosedError(`${this.name} is closed`))
    this.#starting ??= handled(this.#start())
    return this.#starting
  }

  /** Whether both the sink and Redis work, as far as it knows. */
  isHealthy(): boolean {
    return this.#health.healthy
  }

  /**
   * Settles what it has in hand, of what it is delivered later nothing: it says nothing of what waits in Redis. While the sink is down
   * that takes as long as it is down.
   *
   * @returns how many were applied, and how many went to the dead letters as `failed`. What is given back by `close` is neither.
   */
  override flush(): Promise<FlushReport> {
    this.#writer.flush()
    return this.#books.flush(this.#intakes.flatMap(({ held }) => [...held]))
  }

  /**
   * Reads no more, writes what it has in hand, and leaves the group. What can't be written by then is given back: it stays pending in
   * Redis, where the others of the group take it over, and is counted as `abandoned`. Nothing is lost.
   */
  override close(options?: CloseOptions): Promise<CloseReport> {
    return handled(
      super.close(options).then((report) => {
        const { returned } = this.#books
        return returned === 0 ? report : { drained: false, abandoned: returned }
      }),
    )
  }

  override stats(): RedisUsageWorkerStats {
    const { batches, timeouts, overruns, batchSize } = this.#writer.engineStats()
    const { delivered, applied, dead, elsewhere, returned, pending, redelivered, latencyMs } = this.#books
    const intakes = this.#intakes
    return {
      name: this.name,
      healthy: this.isHealthy(),
      ...{ delivered, applied, dead, elsewhere, returned, pending },
      waiting: this.#writer.waitingEvents,
      redelivered,
      ...this.#troubles,
      ...{ batches, failedBatches: this.#writer.failedBatches, timeouts, overruns, batchSize, latencyMs },
      trimmed: sumOf(intakes, (intake) => intake.trimmed),
      removedConsumers: sumOf(intakes, (intake) => intake.removedConsumers),
      streamLength: sumOf(intakes, (intake) => intake.length),
      groupPending: sumOf(intakes, (intake) => intake.groupPending),
      undelivered: intakes.some((intake) => intake.undelivered < 0)
        ? undefined
        : sumOf(intakes, (intake) => intake.undelivered),
    }
  }

  protected override async drain(): Promise<void> {
    this.#closing = true
    this.#stopWaitingToStart?.()
    for (const reader of this.#readers) reader.stop()
    this.#writer.beginClose()
    await this.#reading
    await this.#writer.drain()
  }

  protected override abandon(): number {
    this.#closing = true
    this.#over = true
    for (const reader of this.#readers) reader.stop()
    this.#writer.abandon()
    for (const intake of this.#intakes) for (const entry of [...intake.held]) this.#recordSettled(entry, 'returned')
    return this.#books.returned
  }

  protected override release(): Promise<void> | undefined {
    this.#over = true
    for (const reader of this.#readers) reader.end()
    if (this.#reading === undefined) return undefined
    return new Promise((resolve) => {
      const cancelTimer = this.clock.setTimer(resolve, leaveMs)
      void Promise.allSettled(this.#intakes.map((intake) => intake.leave())).then(() => {
        cancelTimer()
        resolve()
      })
    })
  }

  // ── read ────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #start(): Promise<void> {
    for (let failures = 1; ; failures++) {
      try {
        await this.#shards.checkLayout()
        await Promise.all(this.#intakes.map((intake) => intake.open()))
        break
      } catch (error) {
        if (!(error as SpillwayError).retryable && !this.#closing) {
          this.#starting = undefined
          throw error
        }
        this.#recordRedisFailed(0, error)
        await this.#pause(backoffMs(failures, this.#retry, this.random))
      }
    }
    if (this.#closing) throw this.#closedTooSoon()
    this.#reading = this.#inContext(() => Promise.all(this.#readers.map((reader) => reader.run())))
  }

  async #pause(delayMs: number): Promise<void> {
    if (this.#closing) throw this.#closedTooSoon()
    await new Promise<void>((resolve) => {
      const cancelTimer = this.clock.setTimer(resolve, delayMs)
      this.#stopWaitingToStart = () => {
        cancelTimer()
        resolve()
      }
    })
  }

  #closedTooSoon(): ClosedError {
    return new ClosedError(`${this.name} was closed before it had started`)
  }

  #makeIntake(shard: number, pace: { readonly claimIdleMs: number; readonly trimEveryMs: number }): UsageIntake {
    const { group, consumer, events } = this
    const troubles = this.#troubles
    return new UsageIntake(this.#shards, shard, {
      ...{ group, consumer, ...pace, suspectFrom: Math.ceil(this.#maxDeliveries / 2) },
      onGroupLost: () => {
        troubles.groupsLost++
        if (events.has('groupLost')) events.emit('groupLost', { shard })
      },
      onClaimed: (from) => {
        for (const count of from.values()) troubles.claimed += count
        if (events.has('claimed')) events.emit('claimed', { shard, from: Object.fromEntries(from) })
      },
      onVanished: (entries) => {
        troubles.vanished += entries
        if (events.has('vanished')) events.emit('vanished', { shard, entries })
      },
    })
  }

  #makeReader(
    intake: UsageIntake,
    pace: { readonly pollMs: number; readonly claimIdleMs: number; readonly trimEveryMs: number },
  ): UsageReader {
    const { clock, random } = this
    return new UsageReader(intake, {
      ...{ clock, random, ...pace },
      reserve: () => this.#reserve(),
      deliver: (reserved, delivery) => this.#deliver(intake, reserved, delivery),
      recordAnswered: () => this.#health.succeed(intake.shard),
      recordFailed: (error) => this.#recordRedisFailed(intake.shard, error),
    })
  }

  #reserve(): number {
    if (this.#closing) return 0
    const { pending } = this.#books
    const share = Math.max(1, Math.floor(this.#capacity / this.#readers.length))
    const free = this.#capacity - pending - this.#reserved
    // Not a few at a time, unless there is nothing else that would make room.
    const least = pending === this.#writer.waitingEvents ? 1 : Math.min(share, this.#maxBatchSize)
    if (free < least) return 0
    const room = Math.min(share, free)
    this.#reserved += room
    return room
  }

  #deliver(intake: UsageIntake, reserved: number, { taken, unreadable }: Delivery): void {
    this.#reserved -= reserved
    const all = [...taken, ...unreadable.map((dead) => dead.taken)]
    if (this.#closing) {
      // It stays pending in Redis, and is given back with the rest.
      for (const entry of all) intake.giveBack(entry)
      return
    }
    this.#books.deliver(all, this.clock.now())
    for (const entry of taken) {
      if (entry.earlier < this.#maxDeliveries) this.#writer.admit(entry)
      else this.#writer.bury(entry, `delivered ${entry.earlier} times, and never done`)
    }
    for (const { taken: entry, reason } of unreadable) this.#writer.bury(entry, reason)
    if (all.length === 0) this.#wakeReaders()
  }

  #wakeReaders(): void {
    for (const reader of this.#readers) reader.wake()
  }

  // ── record ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #writerListener(): WriterListener {
    const { events, clock } = this
    return {
      health: this.#health,
      onApplied: (lot, refused) => {
        if (!events.has('applied')) return
        const { id, keys, entries, attempts, startedAt } = lot
        const durationMs = clock.now() - startedAt
        events.emit('applied', { batchId: id, keys, events: entries.length, refused, attempts, durationMs })
      },
      onWriteFailed: ({ id, entries, attempts }, error, next, delayMs) => {
        if (!events.has('writeFailed')) return
        events.emit('writeFailed', { batchId: id, events: entries.length, attempt: attempts, error, next, delayMs })
      },
      onRedisFailed: (shard, error) => this.#recordRedisFailed(shard, error),
      onSettled: (entry, outcome, reason) => this.#recordSettled(entry, outcome, reason),
      onRoom: () => this.#wakeReaders(),
    }
  }

  #recordRedisFailed(shard: number, error: unknown): void {
    if (this.#over) return
    this.#troubles.redisFailures++
    if (this.events.has('redisFailed')) this.events.emit('redisFailed', { shard, error })
    this.#health.fail(shard, error)
  }

  #recordSettled(entry: Taken, outcome: UsageOutcome, reason = ''): void {
    const intake = this.#intakes[entry.shard] as UsageIntake
    const inHand = outcome === 'returned' ? intake.giveBack(entry) : intake.letGo(entry)
    if (!inHand) return
    this.#books.settle(entry, outcome, this.clock.now())
    if (outcome !== 'dead' || !this.events.has('deadLettered')) return
    const { shard, id, event, deliveries } = entry
    this.events.emit('deadLettered', { shard, entryId: id, event, reason, deliveries })
  }
}

function retryOf(options: RedisUsageWorkerOptions): RetryPolicy {
  checkOptions('retry', options.retry)
  const { delayMs, maxDelayMs, retryable } = options.retry ?? {}
  return resolveRetry({ delayMs, maxDelayMs, retryable }, { attempts: 1, ...RedisUsageWorker.defaults.retry })
}

/** The engine makes one attempt at a batch: whether there is another one is the writer's affair. */
function policyOf(options: RedisUsageWorkerOptions): BatchPolicy {
  const { defaults } = RedisUsageWorker
  const { maxBatchSize, maxWaitMs, eager, concurrency, capacity, timeoutGraceMs } = options
  const timeoutMs = valueOr<number>(options.timeoutMs, defaults.timeoutMs)
  return resolveBatchOptions(
    { maxBatchSize, maxWaitMs, eager, concurrency, capacity, timeoutMs, timeoutGraceMs },
    { ...defaults, retry: { attempts: 1, ...defaults.retry }, overflow: 'reject', idempotent: true },
    { keyed: false, sized: false },
  )
}

function sumOf(intakes: readonly UsageIntake[], count: (intake: UsageIntake) => number): number {
  return intakes.reduce((sum, intake) => sum + count(intake), 0)
}

function checkStream(stream: RedisUsageStream): void {
  if (typeof stream?.shards !== 'number' || typeof stream.prefix !== 'string') {
    failOption('stream', 'must be a RedisUsageStream', stream)
  }
}

function checkSink(sink: UsageSink): void {
  if (typeof sink?.write !== 'function') failOption('sink', 'must have a method write', sink)
  if (sink.dedupe !== 'event' && sink.dedupe !== 'request') {
    failOption(
      'sink.dedupe',
      "must be 'event' or 'request', since what is delivered again comes in other batches",
      sink.dedupe,
    )
  }
}
