import { ClosableComponent, type ComponentOptions, type FlushReport } from '../core/component.js'
import { BatchResultError, type SpillwayError } from '../core/errors.js'
import { warn } from '../core/events.js'
import { checkFunction, checkOptionalFunction, checkSignal, failOption, type Overflow } from '../core/options.js'
import type { BatchContext, BatchTracer } from '../core/ports.js'
import type { RetryOptions } from '../core/retry.js'
import type { BatchStats } from '../core/stats.js'
import { onAbort } from '../internal/abort.js'
import { type Batch, type Entry, noCohort } from '../internal/batch.js'
import type { Cohort } from '../internal/batch-books.js'
import { resolveBatchOptions } from '../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../internal/batch-queue.js'
import { checkTracer } from '../internal/batch-tracing.js'
import { type Deferred, handled, openPromise, rejected } from '../internal/deferred.js'
import type { ListNode } from '../internal/linked-list.js'
import type { RoomWaiter } from '../internal/room.js'

/** Options of {@link AsyncBatcher}. */
export interface AsyncBatcherOptions<Item> extends ComponentOptions {
  /**
   * The most items in one batch; with `keyOf`, the most distinct keys. At most `capacity`.
   * @defaultValue 100
   */
  maxBatchSize?: number | undefined
  /** The most bytes in one batch, as `sizeOf` counts them; an item that alone is larger is refused. The default is no limit. */
  maxBatchBytes?: number | undefined
  /** An item's size in bytes; required with `maxBatchBytes`. */
  sizeOf?: ((item: Item) => number) | undefined
  /**
   * The longest that a batch waits for more items, in milliseconds from its first item; later ones don't prolong it.
   * @defaultValue 100
   */
  maxWaitMs?: number | undefined
  /**
   * Whether what is there leaves at the end of the current turn while nothing of its group is in flight, instead of waiting
   * for a full batch or `maxWaitMs` (Nagle's algorithm, RFC 896).
   * @defaultValue true
   */
  eager?: boolean | undefined
  /**
   * The most batches in flight.
   * @defaultValue 4
   */
  concurrency?: number | undefined
  /**
   * The most items accepted and not yet dispatched. In flight there are at most `concurrency * maxBatchSize` more; with
   * `keyOf`, those are distinct keys, each with any number of items.
   * @defaultValue 10_000
   */
  capacity?: number | undefined
  /**
   * What happens to an item when there is no room: `'reject'` refuses it, `'drop-newest'` drops it and counts it as dropped,
   * `'drop-oldest'` drops what has waited longest. Whoever is refused or dropped gets a `FullError`.
   * @defaultValue 'reject'
   */
  overflow?: Overflow | undefined
  /** The longest that one attempt may take, in milliseconds, at least 1. The default is no limit. */
  timeoutMs?: number | undefined
  /**
   * How long a timed-out attempt keeps its slot while it goes on, in milliseconds.
   * @defaultValue 1000
   */
  timeoutGraceMs?: number | undefined
  /**
   * How failed batches are tried again; by default they aren't.
   * @defaultValue { attempts: 1, delayMs: 100, maxDelayMs: 30_000 }
   */
  retry?: RetryOptions | undefined
  /** An item's key: equal keys in one batch are sent once and share the answer. Keys compare as a Map's do; undefined is one. */
  keyOf?: ((item: Item) => unknown) | undefined
  /** An item's group: a batch never mixes groups, and groups take turns. Groups compare as a Map's keys do. */
  groupBy?: ((item: Item) => unknown) | undefined
  /**
   * Whether a batch that failed for good is halved until the item at fault stands alone. Never after an outcome that is
   * unknown, a `SpillwayError` that is `retryable` (a store that is down), an open circuit or a wrong number of results.
   * @defaultValue false
   */
  bisect?: boolean | undefined
  /**
   * Whether the batch function may safely see the same batch twice, so that a batch whose outcome is unknown (a timeout, a
   * lost connection) can be retried.
   * @defaultValue false
   */
  idempotent?: boolean | undefined
  /** Sees each batch in the light of a trace, for instance `batchTracer` of `spillway/metrics`. The default is none. */
  tracer?: BatchTracer | undefined
}

/** Events of {@link AsyncBatcher}. */
export interface AsyncBatcherEvents<Item> {
  /** A batch took its slot. */
  dispatched: { readonly batchId: string; readonly size: number }
  /** All of a batch, or of a part of it after `bisect`, has been answered. */
  settled: {
    readonly batchId: string
    readonly succeeded: number
    readonly failed: number
    readonly attempts: number
    readonly durationMs: number
  }
  /** An attempt failed and another one will be made after `delayMs`, unless every caller gives up before. */
  retried: { readonly batchId: string; readonly attempt: number; readonly delayMs: number; readonly error: unknown }
  /** A batch, or a part of it, failed for good; the callers of these items were told. */
  failed: {
    readonly batchId: string
    readonly items: readonly Item[]
    readonly attempts: number
    readonly error: unknown
  }
  /** An item was dropped because there was no room. */
  dropped: { readonly item: Item; readonly reason: 'drop-newest' | 'drop-oldest' }
}

/** Stats of {@link AsyncBatcher}, in items. */
export interface AsyncBatcherStats extends BatchStats {}

/**
 * A batch function: its i-th result belongs to its i-th item, and an `Error` among the results rejects that item alone.
 * The array is the function's own. Results are values: a promise among them settles its caller, but counts as a success.
 */
export type BatchFunction<Item, Result> = (
  items: Item[],
  context: BatchContext,
) => readonly (Result | Error)[] | PromiseLike<readonly (Result | Error)[]>

/**
 * Turns many single calls into few batch calls, and gives each caller its own answer.
 *
 * Under load batches grow and the number of calls falls; when idle, a lone call leaves at the end of the turn. Awaiting
 * `add` on one's own batcher inside the batch function can deadlock once every slot waits that way; that is reported as a
 * warning of the process where it is seen, in the function's synchronous part.
 *
 * @example
 * ```ts
 * import { AsyncBatcher } from 'spillway'
 *
 * const square = new AsyncBatcher(async (numbers: number[]) => numbers.map((n) => n * n))
 * const [four, nine] = await Promise.all([square.add(2), square.add(3)]) // one call
 * await square.close()
 * ```
 */
export class AsyncBatcher<Item, Result> extends ClosableComponent<AsyncBatcherEvents<Item>, AsyncBatcherStats> {
  /** The options' defaults. */
  static readonly defaults = {
    maxBatchSize: 100,
    maxWaitMs: 100,
    eager: true,
    concurrency: 4,
    capacity: 10_000,
    overflow: 'reject',
    timeoutGraceMs: 1000,
    retry: { attempts: 1, delayMs: 100, maxDelayMs: 30_000 },
    bisect: false,
    idempotent: false,
  } as const

  readonly #queue: BatchQueue<Call<Item, Result>>
  readonly #keyOf: ((item: Item) => unknown) | undefined
  readonly #groupBy: ((item: Item) => unknown) | undefined
  readonly #sizeOf: ((item: Item) => number) | undefined
  /** Whether an item needs no more than a place in the queue: no key, group or size, and nobody takes it out again. */
  readonly #plain: boolean
  #nestingReported = false

  /**
   * @param process - answers a batch with one result for each item.
   * @throws OptionError when an option is wrong.
   */
  constructor(process: BatchFunction<Item, Result>, options: AsyncBatcherOptions<Item> = {}) {
    super('async-batcher', options)
    checkFunction('process', process)
    this.#keyOf = checkOptionalFunction('keyOf', options.keyOf)
    this.#groupBy = checkOptionalFunction('groupBy', options.groupBy)
    this.#sizeOf = checkOptionalFunction('sizeOf', options.sizeOf)
    const keyed = this.#keyOf !== undefined
    const sized = this.#sizeOf !== undefined
    const policy = resolveBatchOptions(options, AsyncBatcher.defaults, { keyed, sized })
    this.#plain = !keyed && !sized && this.#groupBy === undefined && policy.overflow !== 'drop-oldest'
    this.#queue = new BatchQueue(
      {
        name: this.name,
        clock: this.clock,
        random: this.random,
        seeded: options.random !== undefined,
        tracer: checkTracer(options.tracer),
      },
      policy,
      this.#face(process, keyed),
    )
  }

  /**
   * Adds an item to a batch.
   *
   * @param options - `signal` takes the item out while it is queued, and gives up its answer once it is in flight.
   * @returns the item's own result. Rejects with what the batch function threw or gave for it, with `FullError`,
   * `ClosedError`, `TimeoutError`, `TooLargeError`, `BatchResultError`, `OptionError`, or the signal's reason. A rejection that
   * nobody looks at is no `unhandledRejection`; it is in the stats and events.
   */
  add(item: Item, options?: { signal?: AbortSignal | undefined }): Promise<Result> {
    if (this.#queue.saturatedByCaller) this.#reportNesting()
    if (!this.#plain || options !== undefined) return this.#add(item, options?.signal)
    const call = new PlainCall<Item, Result>(item)
    const error = this.#queue.offer(call)
    if (error !== undefined) fail(call, error)
    return call.promise
  }

  /**
   * Adds many items, waiting for room where there is none, first come, first served.
   *
   * @returns each item's outcome, in their order; it never rejects, but for an argument of the wrong kind.
   */
  addMany(
    items: readonly Item[],
    options?: { signal?: AbortSignal | undefined },
  ): Promise<PromiseSettledResult<Result>[]> {
    try {
      if (!Array.isArray(items)) failOption('items', 'must be an array', items)
      checkSignal(options?.signal)
    } catch (error) {
      return rejected(error)
    }
    const origin = this.#queue.origin()
    return new ManyCalls<Item, Result>(items, options?.signal, {
      offer: (call) => this.#offer(call, undefined, true, origin),
      abort: (call, reason) => void this.#queue.abort(call, reason),
      abortUnaccepted: () => this.#queue.abortUnaccepted(),
      reject: () => this.#queue.reject(),
      hasRoom: () => this.#queue.room.open || this.#queue.closed,
      join: (waiter) => this.#queue.room.join(waiter),
    }).outcome
  }

  /**
   * Waits until there is room for one item, first come, first served. The room is kept until the end of the turn, from all
   * who wait in line; an `add` that didn't wait may still take it.
   *
   * @returns rejects with `ClosedError`, or with the signal's reason.
   */
  ready(options?: { signal?: AbortSignal | undefined }): Promise<void> {
    try {
      const signal = checkSignal(options?.signal)
      if (this.#queue.closed) return rejected(this.#queue.closedError())
      return this.#queue.room.ready(signal)
    } catch (error) {
      return rejected(error)
    }
  }

  override flush(): Promise<FlushReport> {
    return this.#queue.flush()
  }

  override stats(): AsyncBatcherStats {
    return this.#queue.books.stats(this.name, this.#queue.running)
  }

  protected override drain(): Promise<void> {
    return this.#queue.drain()
  }

  protected override abandon(): number {
    return this.#queue.abandon()
  }

  /** The long way in: keys, groups, sizes and signals. */
  #add(item: Item, signal: AbortSignal | undefined): Promise<Result> {
    const call = new FullCall<Item, Result>(item)
    const refusal = this.#offer(call, signal)
    if (refusal !== undefined) fail(call, refusal.reason)
    return call.promise
  }

  #offer(
    call: FullCall<Item, Result>,
    signal: AbortSignal | undefined,
    fromLine = false,
    origin?: unknown,
  ): Refusal | undefined {
    let group: unknown
    try {
      if (checkSignal(signal)?.aborted) {
        this.#queue.reject()
        return new Refusal(signal?.reason)
      }
      if (this.#keyOf !== undefined) call.key = this.#keyOf(call.item)
      if (this.#groupBy !== undefined) group = this.#groupBy(call.item)
      if (this.#sizeOf !== undefined) call.bytes = checkSize(this.#sizeOf(call.item))
    } catch (error) {
      this.#queue.reject()
      return new Refusal(error)
    }
    const error = this.#queue.offer(call, group, fromLine, origin)
    if (error !== undefined) return new Refusal(error)
    if (signal !== undefined && !call.done) {
      const abort = (): void => {
        if (this.#queue.abort(call, signal.reason)) fail(call, signal.reason)
      }
      // A callback or listener of the caller's may have aborted it meanwhile.
      if (signal.aborted) abort()
      else call.stopListening = onAbort(signal, abort)
    }
    return undefined
  }

  #reportNesting(): void {
    if (this.#nestingReported) return
    this.#nestingReported = true
    warn(
      `${this.name}: add() was called inside its own batch function while every slot was taken; awaiting it there never ends`,
    )
  }

  #face(process: BatchFunction<Item, Result>, keyed: boolean): BatchFace<Call<Item, Result>> {
    const { events } = this
    return {
      call: (calls, context) => process(keyed ? distinctItems(calls) : itemsOf(calls), context),
      check: (calls, answer) => this.#check(calls, answer, keyed),
      complete: (call, index, answer) => {
        // An element that throws when it is read fails its item alone: the engine sees to that.
        const result = (answer as readonly (Result | Error)[])[keyed ? call.position : index] as Result | Error
        if (typeof result === 'object' || typeof result === 'function') return completeWithObject(call, result)
        if (call.stopListening !== undefined) call.stopListening()
        call.resolve(result)
        return true
      },
      fail: (call, error) => fail(call, error),
      onDispatched: (portion, size) => {
        if (events.has('dispatched')) events.emit('dispatched', { batchId: portion.id, size })
      },
      onRetried: (portion, attempt, delayMs, error) => {
        if (events.has('retried')) events.emit('retried', { batchId: portion.id, attempt, delayMs, error })
      },
      onSettled: (portion, succeeded, failed, durationMs) => {
        if (!events.has('settled')) return
        events.emit('settled', { batchId: portion.id, succeeded, failed, attempts: portion.attempts, durationMs })
      },
      onFailed: (portion, calls, error) => {
        if (!events.has('failed')) return
        events.emit('failed', { batchId: portion.id, items: itemsOf(calls), attempts: portion.attempts, error })
      },
      onDropped: (call, reason) => {
        if (events.has('dropped')) events.emit('dropped', { item: call.item, reason })
      },
    }
  }

  #check(calls: readonly Call<Item, Result>[], answer: unknown, keyed: boolean): SpillwayError | undefined {
    const expected = keyed ? calls.reduce((most, call) => Math.max(most, call.position), -1) + 1 : calls.length
    if (Array.isArray(answer) && answer.length === expected) return undefined
    const got = Array.isArray(answer)
      ? `${answer.length} results`
      : `no array but ${answer === null ? 'null' : typeof answer}`
    return new BatchResultError(
      `${this.name}: the batch function must answer ${expected} items with as many results, got ${got}`,
    )
  }
}

/** One `add`: the item, and the promise that waits for its answer. */
interface Call<Item, Result> extends Entry, Deferred<Result> {
  readonly item: Item
  /** Where its item is in what the batch function gets; only kept with `keyOf`. */
  readonly position: number
  readonly stopListening: (() => void) | undefined
}

/** Why an item was not accepted; an object, since what a callback throws can be anything, undefined included. */
class Refusal {
  constructor(readonly reason: unknown) {}
}

/** An item that only needs a place in the queue. */
class PlainCall<Item, Result> implements Call<Item, Result> {
  declare readonly item: Item
  declare readonly promise: Promise<Result>
  declare readonly resolve: (result: Result | PromiseLike<Result>) => void
  declare readonly reject: (reason: unknown) => void
  declare cohort: Cohort
  declare done: boolean

  constructor(item: Item) {
    this.item = item
    this.cohort = noCohort
    this.done = false
    openPromise(this)
  }

  /** Nobody takes it out of its batch again. */
  get batch(): undefined {
    return undefined
  }

  set batch(_batch: unknown) {}

  get units(): number {
    return 1
  }

  get earlier(): undefined {
    return undefined
  }

  get bytes(): number {
    return 0
  }

  get key(): undefined {
    return undefined
  }

  get place(): undefined {
    return undefined
  }

  set place(_place: unknown) {}

  get position(): number {
    return 0
  }

  get stopListening(): undefined {
    return undefined
  }
}

/** An item that may have a key, a size and a signal. */
class FullCall<Item, Result> implements Call<Item, Result> {
  declare readonly promise: Promise<Result>
  declare readonly resolve: (result: Result | PromiseLike<Result>) => void
  declare readonly reject: (reason: unknown) => void
  readonly item: Item
  readonly units = 1
  readonly earlier = undefined
  cohort: Cohort = noCohort
  batch: Batch<Entry> | undefined = undefined
  done = false
  bytes = 0
  key: unknown = undefined
  place: ListNode<Entry> | undefined = undefined
  position = 0
  stopListening: (() => void) | undefined = undefined

  constructor(item: Item) {
    this.item = item
    openPromise(this)
  }
}

/** Apart from the rest, so that results which can't be errors or promises needn't be looked at. */
function completeWithObject<Item, Result>(call: Call<Item, Result>, result: Result | Error): boolean {
  if (result instanceof Error) {
    fail(call, result)
    return false
  }
  call.stopListening?.()
  // A promise among the results may reject when nobody looks.
  if (result !== null && 'then' in (result as object)) handled(call.promise)
  call.resolve(result)
  return true
}

function fail<Item, Result>(call: Call<Item, Result>, error: unknown): void {
  call.stopListening?.()
  handled(call.promise)
  call.reject(error)
}

/** What {@link ManyCalls} needs of its batcher. */
interface Admission<Item, Result> {
  offer(call: FullCall<Item, Result>): Refusal | undefined
  abort(call: FullCall<Item, Result>, reason: unknown): void
  abortUnaccepted(): void
  reject(): void
  hasRoom(): boolean
  join(waiter: RoomWaiter): () => void
}

/** One `addMany`: admits its items one by one as there is room, and collects their outcomes. */
class ManyCalls<Item, Result> {
  readonly outcome: Promise<PromiseSettledResult<Result>[]>
  readonly #items: readonly Item[]
  readonly #signal: AbortSignal | undefined
  readonly #admission: Admission<Item, Result>
  readonly #results: PromiseSettledResult<Result>[]
  readonly #calls = new Set<FullCall<Item, Result>>()
  #resolve!: (results: PromiseSettledResult<Result>[]) => void
  #next = 0
  #unsettled: number
  #leave: (() => void) | undefined
  #stopListening: (() => void) | undefined

  constructor(items: readonly Item[], signal: AbortSignal | undefined, admission: Admission<Item, Result>) {
    // A copy: what the caller does to its array while items wait for room is its own business.
    this.#items = items.slice()
    this.#signal = signal
    this.#admission = admission
    this.#results = new Array(items.length)
    this.#unsettled = items.length
    this.outcome = new Promise((resolve) => {
      this.#resolve = resolve
    })
    if (items.length === 0) this.#resolve([])
    else this.#begin(signal)
  }

  #begin(signal: AbortSignal | undefined): void {
    if (signal?.aborted) {
      this.#endRest(() => this.#admission.reject(), signal.reason)
      return
    }
    while (this.#next < this.#items.length && this.#admission.hasRoom()) this.#admitNext()
    if (this.#next < this.#items.length) {
      this.#leave = this.#admission.join({
        signal,
        take: () => {
          this.#admitNext()
          return this.#next >= this.#items.length
        },
        refuse: (error) => this.#endRest(() => this.#admission.reject(), error),
      })
    }
    if (signal?.aborted) this.#abort(signal.reason)
    else if (signal !== undefined && this.#unsettled > 0)
      this.#stopListening = onAbort(signal, () => this.#abort(signal.reason))
  }

  #admitNext(): void {
    const index = this.#next++
    const call = new FullCall<Item, Result>(this.#items[index] as Item)
    const refusal = this.#admission.offer(call)
    if (refusal !== undefined) return this.#settle(index, { status: 'rejected', reason: refusal.reason })
    this.#calls.add(call)
    call.promise.then(
      (value) => this.#settleCall(call, index, { status: 'fulfilled', value }),
      (reason: unknown) => this.#settleCall(call, index, { status: 'rejected', reason }),
    )
    // A callback of the batcher's may have aborted it just now, before the call was known here.
    if (this.#signal?.aborted) this.#giveUp(call, this.#signal.reason)
  }

  #abort(reason: unknown): void {
    const waiting = this.#items.length - this.#next
    for (const call of this.#calls) this.#giveUp(call, reason)
    if (waiting > 0) {
      this.#endRest(() => this.#admission.abortUnaccepted(), reason)
      this.#leave?.()
    }
  }

  #giveUp(call: FullCall<Item, Result>, reason: unknown): void {
    this.#admission.abort(call, reason)
    fail(call, reason)
  }

  /** Ends the items that were never accepted. */
  #endRest(record: () => void, reason: unknown): void {
    while (this.#next < this.#items.length) {
      record()
      this.#settle(this.#next++, { status: 'rejected', reason })
    }
  }

  #settleCall(call: FullCall<Item, Result>, index: number, result: PromiseSettledResult<Result>): void {
    this.#calls.delete(call)
    this.#settle(index, result)
  }

  #settle(index: number, result: PromiseSettledResult<Result>): void {
    this.#results[index] = result
    if (--this.#unsettled > 0) return
    this.#stopListening?.()
    this.#resolve(this.#results)
  }
}

function itemsOf<Item>(calls: readonly { readonly item: Item }[]): Item[] {
  const items: Item[] = new Array(calls.length)
  for (let i = 0; i < calls.length; i++) items[i] = (calls[i] as { readonly item: Item }).item
  return items
}

/** Each key's first item, and in every call the place of its key. */
function distinctItems<Item, Result>(calls: readonly Call<Item, Result>[]): Item[] {
  const items: Item[] = []
  const positions = new Map<unknown, number>()
  for (const call of calls) {
    let position = positions.get(call.key)
    if (position === undefined) {
      position = items.push(call.item) - 1
      positions.set(call.key, position)
    }
    ;(call as FullCall<Item, Result>).position = position
  }
  return items
}

function checkSize(bytes: number): number {
  if (typeof bytes !== 'number' || !(bytes >= 0) || bytes === Number.POSITIVE_INFINITY) {
    failOption('sizeOf', 'must return a number of bytes of 0 or more', bytes)
  }
  return bytes
}
