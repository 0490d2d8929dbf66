import {
  ClosableComponent,
  type CloseOptions,
  type CloseReport,
  type ComponentOptions,
  type FlushReport,
} from '../../core/component.js'
import { ClosedError, type SpillwayError } from '../../core/errors.js'
import { describeError } from '../../core/events.js'
import { checkCount, checkDuration, checkOptions, failOption, valueOr } from '../../core/options.js'
import type { AcceptedUsage, BatchContext, QuotaKey, UsageSink } from '../../core/ports.js'
import { backoffMs, type RetryOptions, type RetryPolicy, resolveRetry } from '../../core/retry.js'
import type { BatchSizeSnapshot, LatencySnapshot } from '../../core/stats.js'
import { captureContext } from '../../internal/async-context.js'
import { latencyOf } from '../../internal/batch-books.js'
import { batchId } from '../../internal/batch-id.js'
import { resolveBatchOptions } from '../../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../../internal/batch-queue.js'
import { handled, rejected } from '../../internal/deferred.js'
import { Histogram } from '../../internal/histogram.js'
import type { RedisClient } from './redis-client.js'
import { UsageHealth, type UsageTrouble } from './usage-stream-health.js'
import { type Delivery, UsageIntake } from './usage-stream-intake.js'
import { Lot, LotContext, Piece, type Taken } from './usage-stream-lot.js'
import { type ReaderHost, UsageReader } from './usage-stream-reader.js'
import { UsageShards } from './usage-stream-shards.js'
import { UsageTrial, type Verdict } from './usage-stream-trial.js'

/** Options of {@link RedisUsageWorker}. */
export interface RedisUsageWorkerOptions extends ComponentOptions {
  /**
   * The stream's prefix.
   *
   * @defaultValue 'spillway:usage'
   */
  prefix?: string | undefined
  /**
   * Of how many streams in Redis the stream is made; the same number as the stream's.
   *
   * @defaultValue 1
   */
  shards?: number | undefined
  /**
   * The consumer group. Each group gets every event, and its workers share them. One that isn't there is made, and begins with the oldest
   * event that is.
   *
   * @defaultValue 'spillway'
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
   * How often an event is delivered, or fails by itself while others succeed, before it goes to the dead letters; at least 2. Deliveries
   * that ended in an outage of the sink don't count.
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

/** What is done about a batch that couldn't be written. */
export type UsageWriteFailure = 'retry' | 'split' | 'dead-letter' | 'give-back'

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
  /** What it would have moved there, had another worker not finished it meanwhile. */
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
 */
export class RedisUsageWorker extends ClosableComponent<RedisUsageWorkerEvents, RedisUsageWorkerStats> {
  /** The options' defaults. */
  static readonly defaults = {
    prefix: 'spillway:usage',
    shards: 1,
    group: 'spillway',
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
  readonly #sink: UsageSink
  readonly #shards: UsageShards
  readonly #intakes: readonly UsageIntake[]
  readonly #readers: readonly UsageReader[]
  readonly #queue: BatchQueue<Piece>
  readonly #retry: RetryPolicy
  readonly #trial: UsageTrial
  readonly #health: UsageHealth
  readonly #inContext = captureContext()
  readonly #capacity: number
  readonly #maxBatchSize: number
  readonly #maxDeliveries: number
  /** Batches that failed and wait for their next attempt, and how not to wait any longer. */
  readonly #waiting = new Map<Lot, () => void>()
  readonly #flushes = new Set<Flush>()
  readonly #latencyUs = new Histogram()
  readonly #books = {
    ...{ delivered: 0, applied: 0, dead: 0, elsewhere: 0, returned: 0 },
    ...{ redelivered: 0, claimed: 0, vanished: 0, failedBatches: 0, redisFailures: 0, groupsLost: 0 },
  }
  #pending = 0
  /** Of those, what waits in `#waiting`. */
  #waitingEvents = 0
  /** Room that readers have asked for. */
  #reserved = 0
  #starting: Promise<void> | undefined
  #reading: Promise<unknown> | undefined
  #closing = false
  /** Given up: what still comes changes nothing here. */
  #over = false
  #stopWaitingToStart: (() => void) | undefined

  /**
   * @param client - a client of ioredis or node-redis, single or cluster. It stays the caller's to connect and to close.
   * @param sink - must tell events apart: its `dedupe` is `'event'` or `'request'`.
   * @throws OptionError when an option is wrong, the client none that it knows, or the sink can't tell events apart.
   */
  constructor(client: RedisClient, sink: UsageSink, options: RedisUsageWorkerOptions = {}) {
    super('redis-usage-worker', options)
    const { defaults } = RedisUsageWorker
    const { clock, random, name } = this
    this.#sink = checkSink(sink)
    const duration = (
      field: 'timeoutMs' | 'redisTimeoutMs' | 'pollMs' | 'claimIdleMs' | 'trimEveryMs',
      least: number,
    ) => checkDuration(field, valueOr<number>(options[field], defaults[field]), least)
    this.group = checkText('group', valueOr<string>(options.group, defaults.group))
    this.consumer = checkText('consumer', valueOr(options.consumer, batchId(clock.wallNow())))
    const claimIdleMs = Math.ceil(duration('claimIdleMs', 100))
    const trimEveryMs = Math.ceil(duration('trimEveryMs', 1))
    this.#maxDeliveries = checkCount('maxDeliveries', valueOr<number>(options.maxDeliveries, defaults.maxDeliveries), 2)
    const unhealthyAfter = checkCount(
      'unhealthyAfter',
      valueOr<number>(options.unhealthyAfter, defaults.unhealthyAfter),
    )
    checkOptions('retry', options.retry)
    const { delayMs, maxDelayMs, retryable } = options.retry ?? {}
    this.#retry = resolveRetry({ delayMs, maxDelayMs, retryable }, { attempts: 1, ...defaults.retry })
    const policy = resolveBatchOptions(
      { ...batchOptionsOf(options), timeoutMs: duration('timeoutMs', 1) },
      { ...defaults, retry: { attempts: 1, ...defaults.retry }, overflow: 'reject', idempotent: true },
      { keyed: false, sized: false },
    )
    this.#capacity = policy.capacity
    this.#maxBatchSize = policy.maxBatchSize
    this.#trial = new UsageTrial(this.#retry.retryable, this.#maxDeliveries)
    this.#health = new UsageHealth(unhealthyAfter, {
      onUnhealthy: (reason, error) => {
        if (this.events.has('unhealthy')) this.events.emit('unhealthy', { reason, error })
      },
      onRecovered: () => {
        if (this.events.has('recovered')) this.events.emit('recovered', {})
      },
    })
    this.#shards = new UsageShards(client, {
      ...{ name, clock, timeoutMs: duration('redisTimeoutMs', 1) },
      prefix: valueOr<string>(options.prefix, defaults.prefix),
      shards: valueOr<number>(options.shards, defaults.shards),
    })
    this.#intakes = Array.from({ length: this.#shards.count }, (_, shard) =>
      this.#makeIntake(shard, claimIdleMs, trimEveryMs),
    )
    const host = { clock, random, pollMs: duration('pollMs', 1), claimIdleMs, trimEveryMs }
    this.#readers = this.#intakes.map((intake) => new UsageReader(intake, this.#hostOf(intake, host)))
    this.#queue = new BatchQueue<Piece>(
      { name, clock, random, seeded: options.random !== undefined },
      policy,
      this.#face(),
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
    if (this.#closing) return rejected(this.#queue.closedError())
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
    void this.#queue.flush()
    const flush = new Flush(this.#intakes.flatMap(({ held }) => [...held]))
    if (flush.left.size > 0) this.#flushes.add(flush)
    return flush.done
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
    const engine = this.#queue.books.stats(this.name, this.#queue.running)
    const intakes = this.#intakes
    const undelivered = intakes.some((intake) => intake.undelivered < 0)
    return {
      name: this.name,
      healthy: this.isHealthy(),
      ...this.#books,
      pending: this.#pending,
      waiting: this.#waitingEvents,
      batches: engine.batches,
      timeouts: engine.timeouts,
      overruns: engine.overruns,
      batchSize: engine.batchSize,
      latencyMs: latencyOf(this.#latencyUs),
      trimmed: sumOf(intakes, (intake) => intake.trimmed),
      removedConsumers: sumOf(intakes, (intake) => intake.removedConsumers),
      streamLength: sumOf(intakes, (intake) => intake.length),
      groupPending: sumOf(intakes, (intake) => intake.groupPending),
      undelivered: undelivered ? undefined : sumOf(intakes, (intake) => intake.undelivered),
    }
  }

  protected override async drain(): Promise<void> {
    this.#closing = true
    this.#stopWaitingToStart?.()
    for (const reader of this.#readers) reader.stop()
    this.#hurryAll()
    await this.#reading
    await this.#queue.drain()
  }

  protected override abandon(): number {
    this.#closing = true
    this.#over = true
    for (const reader of this.#readers) reader.stop()
    for (const [, cancel] of this.#waiting) cancel()
    this.#waiting.clear()
    this.#waitingEvents = 0
    this.#queue.abandon()
    for (const intake of this.#intakes) this.#giveBack([...intake.held])
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
    if (this.#closing) throw new ClosedError(`${this.name} was closed before it had started`)
    this.#reading = this.#inContext(() => Promise.all(this.#readers.map((reader) => reader.run())))
  }

  async #pause(delayMs: number): Promise<void> {
    if (this.#closing) throw new ClosedError(`${this.name} was closed before it had started`)
    await new Promise<void>((resolve) => {
      const cancelTimer = this.clock.setTimer(resolve, delayMs)
      this.#stopWaitingToStart = () => {
        cancelTimer()
        resolve()
      }
    })
  }

  #makeIntake(shard: number, claimIdleMs: number, trimEveryMs: number): UsageIntake {
    const { group, consumer, events } = this
    const books = this.#books
    return new UsageIntake(this.#shards, shard, {
      ...{ group, consumer, claimIdleMs, trimEveryMs },
      onGroupLost: () => {
        books.groupsLost++
        if (events.has('groupLost')) events.emit('groupLost', { shard })
      },
      onClaimed: (_, from) => {
        for (const count of from.values()) books.claimed += count
        if (events.has('claimed')) events.emit('claimed', { shard, from: Object.fromEntries(from) })
      },
      onVanished: (_, entries) => {
        books.vanished += entries
        if (events.has('vanished')) events.emit('vanished', { shard, entries })
      },
    })
  }

  #hostOf(
    intake: UsageIntake,
    setting: Pick<ReaderHost, 'clock' | 'random' | 'pollMs' | 'claimIdleMs' | 'trimEveryMs'>,
  ): ReaderHost {
    return {
      ...setting,
      reserve: () => this.#reserve(),
      deliver: (reserved, delivery) => this.#deliver(intake, reserved, delivery),
      recordAnswered: () => this.#health.succeed(intake.shard),
      recordFailed: (error) => this.#recordRedisFailed(intake.shard, error),
    }
  }

  #reserve(): number {
    if (this.#closing) return 0
    const share = Math.max(1, Math.floor(this.#capacity / this.#readers.length))
    const free = this.#capacity - this.#pending - this.#reserved
    // Not a few at a time, unless there is nothing else that would make room.
    const least = this.#pending === this.#waitingEvents ? 1 : Math.min(share, this.#maxBatchSize)
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
      for (const entry of all) intake.letGo(entry)
      return
    }
    const now = this.clock.now()
    this.#pending += all.length
    this.#books.delivered += all.length
    for (const entry of all) {
      entry.at = now
      if (entry.deliveries > 1) this.#books.redelivered++
    }
    for (const entry of taken) this.#admit(entry)
    for (const { taken: entry, reason } of unreadable) this.#bury(this.#newLot([entry]), reason)
    if (all.length === 0) this.#wakeReaders()
  }

  #admit(entry: Taken): void {
    const { deliveries } = entry
    if (deliveries > this.#maxDeliveries) {
      const lot = this.#newLot([entry])
      lot.worn = `delivered ${deliveries} times, and never done`
      this.#wait(lot, this.#retry.maxDelayMs)
    } else if (deliveries > 1 && deliveries > this.#maxDeliveries / 2) {
      // Whatever ended its earlier deliveries shall not end those of others.
      this.#try(this.#newLot([entry]))
    } else {
      this.#queue.offer(new Piece(entry))
    }
  }

  #wakeReaders(): void {
    for (const reader of this.#readers) reader.wake()
  }

  // ── write ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #face(): BatchFace<Piece> {
    return {
      call: (pieces, context) => this.#write(pieces, context),
      idOf: ([first]) => first?.lot?.id,
      complete: () => true,
      fail: () => undefined,
      onFailed: (_, pieces, error) => {
        if (!this.#over) this.#recordFailed((pieces[0] as Piece).lot as Lot, error)
      },
    }
  }

  async #write(pieces: readonly Piece[], context: BatchContext): Promise<void> {
    const [first] = pieces as readonly [Piece]
    first.lot ??= this.#newLot(
      pieces.map(({ taken }) => taken),
      context.batchId,
    )
    const { lot } = first
    if (lot.refused === undefined) {
      lot.attempts++
      const answer = await this.#sink.write(lot.batch, new LotContext(lot, context))
      // Another attempt, or this one after its time was up, may have come first.
      if (lot.refused === undefined) this.#recordWritten(lot, answer)
    }
    await this.#settle(lot, lot.refused as ReadonlyMap<number, string>)
  }

  async #settle(lot: Lot, refused: ReadonlyMap<number, string>): Promise<void> {
    const settling = this.#intakes.map(async (intake) => {
      const done = lot.entries.filter(({ shard }, index) => shard === intake.shard && !refused.has(index))
      const dead = [...refused].flatMap(([index, reason]) => {
        const taken = lot.entries[index] as Taken
        return taken.shard === intake.shard ? [{ taken, reason }] : []
      })
      if (done.length + dead.length === 0) return
      const moved = new Set(await intake.settle(done, dead))
      this.#health.succeed(intake.shard)
      if (this.#over) return
      for (const entry of done) this.#recordSettled(entry, 'applied')
      for (const { taken, reason } of dead) {
        if (moved.has(taken.id)) this.#recordDead(taken, reason)
        else this.#recordSettled(taken, 'elsewhere')
      }
    })
    const failed = (await Promise.allSettled(settling)).find(({ status }) => status === 'rejected')
    this.#wakeReaders()
    if (failed !== undefined) throw (failed as PromiseRejectedResult).reason
  }

  /** Tries a batch again, or for the first time. */
  #try(lot: Lot): void {
    // One attempt that was given up may have ended well since.
    const entries = lot.entries.filter((entry) => this.#intakes[entry.shard]?.has(entry))
    if (entries.length > 0) this.#queue.adopt(entries.map((entry) => new Piece(entry, lot)))
  }

  #wait(lot: Lot, delayMs: number): void {
    const go = (): void => {
      this.#stopWaiting(lot)
      this.#inContext(() => this.#try(lot))
    }
    this.#waitingEvents += lot.entries.length
    this.#waiting.set(lot, this.clock.setTimer(go, delayMs, { keepAlive: false }))
    this.#wakeReaders()
  }

  #stopWaiting(lot: Lot): boolean {
    const cancelTimer = this.#waiting.get(lot)
    if (cancelTimer === undefined) return false
    cancelTimer()
    this.#waiting.delete(lot)
    this.#waitingEvents -= lot.entries.length
    return true
  }

  #hurryAll(): void {
    for (const lot of [...this.#waiting.keys()]) {
      this.#stopWaiting(lot)
      this.#try(lot)
    }
  }

  #bury(lot: Lot, reason: string): void {
    lot.refused = new Map([[0, reason]])
    this.#stopWaiting(lot)
    this.#try(lot)
  }

  #newLot(entries: readonly Taken[], id?: string, suspect?: boolean): Lot {
    const { wins, losses } = this.#trial
    const at = { now: this.clock.now(), wins, losses }
    return new Lot(id ?? batchId(this.clock.wallNow()), entries, at, suspect)
  }

  // ── record ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #recordWritten(lot: Lot, answer: unknown): void {
    const refused = refusalsOf(answer, lot.entries.length)
    lot.refused = refused
    this.#trial.wins++
    const wasWell = this.#health.isWell('sink')
    this.#health.succeed('sink')
    if (this.events.has('applied')) {
      const { id, keys, entries, attempts, startedAt } = lot
      const durationMs = this.clock.now() - startedAt
      const counts = { events: entries.length, refused: refused.size }
      this.events.emit('applied', { batchId: id, keys, ...counts, attempts, durationMs })
    }
    if (this.#over) return
    for (const other of [...this.#waiting.keys()]) {
      if (other.worn !== undefined) this.#bury(other, other.worn)
      else if (!wasWell || (other.blamed && other.entries.length === 1)) {
        // What is at fault fails again, and now that counts.
        this.#stopWaiting(other)
        this.#try(other)
      }
    }
  }

  #recordFailed(lot: Lot, error: unknown): void {
    if (lot.refused !== undefined) {
      // It is written: only Redis doesn't know yet.
      this.#recordRedisFailed((lot.entries[0] as Taken).shard, error)
      if (this.#closing) this.#giveBack(lot.entries)
      else this.#wait(lot, backoffMs(Math.max(1, lot.attempts), this.#retry, this.random))
      return
    }
    this.#books.failedBatches++
    const { verdict, speaksAgainstSink } = this.#trial.judge(lot, error)
    lot.worn = undefined
    if (speaksAgainstSink) {
      this.#health.fail('sink', error)
      this.#refund(lot.entries)
    }
    const next = this.#closing && verdict !== 'bury' ? 'give-back' : nextOf[verdict]
    const delayMs = next === 'retry' ? backoffMs(lot.attempts, this.#retry, this.random) : 0
    if (this.events.has('writeFailed')) {
      const { id, entries, attempts } = lot
      const failure = { batchId: id, events: entries.length, attempt: attempts, error, next, delayMs }
      this.events.emit('writeFailed', failure)
    }
    if (next === 'give-back') this.#giveBack(lot.entries)
    else if (next === 'retry') this.#wait(lot, delayMs)
    else if (next === 'dead-letter') this.#bury(lot, `the sink failed: ${textOf(error)}`)
    else this.#split(lot)
  }

  #split({ entries }: Lot): void {
    const middle = Math.ceil(entries.length / 2)
    for (const half of [entries.slice(0, middle), entries.slice(middle)]) this.#try(this.#newLot(half, undefined, true))
  }

  #refund(entries: readonly Taken[]): void {
    const due = entries.filter(({ refunded }) => !refunded)
    for (const intake of this.#intakes) {
      const own = due.filter(({ shard }) => shard === intake.shard)
      for (const entry of own) entry.refunded = true
      if (own.length > 0) intake.refund(own).catch((error: unknown) => this.#recordRedisFailed(intake.shard, error))
    }
  }

  #recordRedisFailed(shard: number, error: unknown): void {
    if (this.#over) return
    this.#books.redisFailures++
    if (this.events.has('redisFailed')) this.events.emit('redisFailed', { shard, error })
    this.#health.fail(shard, error)
  }

  #recordDead(taken: Taken, reason: string): void {
    if (!this.#recordSettled(taken, 'dead') || !this.events.has('deadLettered')) return
    const { shard, id, event, deliveries } = taken
    this.events.emit('deadLettered', { shard, entryId: id, event, reason, deliveries })
  }

  #giveBack(entries: readonly Taken[]): void {
    for (const entry of entries) this.#recordSettled(entry, 'returned')
  }

  #recordSettled(entry: Taken, outcome: 'applied' | 'dead' | 'elsewhere' | 'returned'): boolean {
    if (this.#intakes[entry.shard]?.letGo(entry) !== true) return false
    this.#pending--
    this.#books[outcome]++
    if (outcome !== 'returned') this.#latencyUs.record((this.clock.now() - entry.at) * 1000)
    for (const flush of this.#flushes) if (flush.settle(entry, outcome)) this.#flushes.delete(flush)
    return true
  }
}

const nextOf: Readonly<Record<Verdict, UsageWriteFailure>> = { retry: 'retry', split: 'split', bury: 'dead-letter' }

/** One call of `flush`: what it waits for, and what became of it. */
class Flush {
  readonly done: Promise<FlushReport>
  readonly left: Set<Taken>
  readonly #counts = { applied: 0, dead: 0, elsewhere: 0, returned: 0 }
  #resolve!: (report: FlushReport) => void

  constructor(entries: readonly Taken[]) {
    this.left = new Set(entries)
    this.done = new Promise((resolve) => {
      this.#resolve = resolve
    })
    this.#end()
  }

  /** Whether that was the last one. */
  settle(entry: Taken, outcome: keyof Flush['counts']): boolean {
    if (!this.left.delete(entry)) return false
    this.#counts[outcome]++
    return this.#end()
  }

  get counts(): { applied: number; dead: number; elsewhere: number; returned: number } {
    return this.#counts
  }

  #end(): boolean {
    if (this.left.size > 0) return false
    this.#resolve({ succeeded: this.#counts.applied, failed: this.#counts.dead, dropped: 0 })
    return true
  }
}

/** What a sink's answer says it refused, by place. A function that returns nothing may return anything. */
function refusalsOf(answer: unknown, size: number): ReadonlyMap<number, string> {
  const refused = new Map<number, string>()
  if (!Array.isArray(answer)) return refused
  for (const item of answer as readonly unknown[]) {
    const { index, error } = (item ?? {}) as { index?: unknown; error?: unknown }
    if (!Number.isInteger(index) || (index as number) < 0 || (index as number) >= size) continue
    refused.set(index as number, `the sink refused it: ${textOf(error)}`)
  }
  return refused
}

/** An error in one line that is worth keeping in Redis. */
function textOf(error: unknown): string {
  const [line] = describeError(error).split('\n') as [string]
  return line.length > 1000 ? `${line.slice(0, 999)}…` : line
}

function sumOf(intakes: readonly UsageIntake[], count: (intake: UsageIntake) => number): number {
  return intakes.reduce((sum, intake) => sum + count(intake), 0)
}

function batchOptionsOf(options: RedisUsageWorkerOptions): Parameters<typeof resolveBatchOptions>[0] {
  const { maxBatchSize, maxWaitMs, eager, concurrency, capacity, timeoutGraceMs } = options
  return { maxBatchSize, maxWaitMs, eager, concurrency, capacity, timeoutGraceMs }
}

function checkSink(sink: UsageSink): UsageSink {
  if (typeof sink?.write !== 'function') failOption('sink', 'must have a method write', sink)
  if (sink.dedupe !== 'event' && sink.dedupe !== 'request') {
    failOption(
      'sink.dedupe',
      "must be 'event' or 'request', since what is delivered again comes in other batches",
      sink.dedupe,
    )
  }
  return sink
}

function checkText(field: string, text: string): string {
  if (typeof text !== 'string' || text === '') failOption(field, 'must be a string that is not empty', text)
  return text
}
