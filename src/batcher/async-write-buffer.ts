import { ClosableComponent, type ComponentOptions, type FlushReport } from '../core/component.js'
import { checkFunction, checkOptionalFunction, type Overflow } from '../core/options.js'
import type { BatchContext, BatchTracer } from '../core/ports.js'
import type { RetryOptions } from '../core/retry.js'
import type { BatchStats } from '../core/stats.js'
import { type Batch, type EarlierUnits, type Entry, type MergingEntry, noCohort } from '../internal/batch.js'
import type { Cohort } from '../internal/batch-books.js'
import { resolveBatchOptions } from '../internal/batch-options.js'
import { type BatchFace, BatchQueue } from '../internal/batch-queue.js'
import { checkTracer } from '../internal/batch-tracing.js'
import type { ListNode } from '../internal/linked-list.js'

/** Options of {@link AsyncWriteBuffer}. */
export interface AsyncWriteBufferOptions<K, V> extends ComponentOptions {
  /** Joins the value that waits under a key with a newer one. If it throws, the newer one is refused and the old one stays. */
  merge: (old: V, value: V) => V
  /**
   * The most distinct keys in one batch. At most `capacity`.
   * @defaultValue 100
   */
  maxBatchSize?: number | undefined
  /**
   * The longest that a batch waits for more keys, in milliseconds from its first write; later ones don't prolong it.
   * @defaultValue 100
   */
  maxWaitMs?: number | undefined
  /**
   * Whether what is there leaves at the end of the current turn while nothing of its group is in flight. It makes more and
   * smaller batches, sooner.
   * @defaultValue false
   */
  eager?: boolean | undefined
  /**
   * The most batches in flight. With more than one, a key that is in flight still waits for itself.
   * @defaultValue 1
   */
  concurrency?: number | undefined
  /**
   * The most distinct keys that wait to be written; writes to a key that waits always find room.
   * @defaultValue 10_000
   */
  capacity?: number | undefined
  /**
   * What happens to a new key when there is no room: `'reject'` refuses it, `'drop-newest'` drops it and counts it as dropped,
   * `'drop-oldest'` drops the key that has waited longest, with all its writes.
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
   * How failed batches are tried again, as they were and with the same id. Outcomes that are unknown are retried only when
   * `idempotent`.
   * @defaultValue { attempts: 3, delayMs: 100, maxDelayMs: 30_000 }
   */
  retry?: RetryOptions | undefined
  /**
   * Whether the write function may safely see the same batch twice, for instance because it remembers batch ids.
   * @defaultValue false
   */
  idempotent?: boolean | undefined
  /** Sees each batch in the light of a trace, for instance `batchTracer` of `spillway/metrics`. The default is none. */
  tracer?: BatchTracer | undefined
  /** A key's group, for instance a shard: a batch never mixes groups, and groups take turns. */
  groupBy?: ((key: K) => unknown) | undefined
}

/** Events of {@link AsyncWriteBuffer}. */
export interface AsyncWriteBufferEvents<K, V> {
  /** A batch was written. */
  written: {
    readonly batchId: string
    readonly keys: number
    readonly writes: number
    readonly attempts: number
    readonly durationMs: number
  }
  /** An attempt failed and another one will be made after `delayMs`. */
  retried: { readonly batchId: string; readonly attempt: number; readonly delayMs: number; readonly error: unknown }
  /** A batch failed for good. These entries are in nobody's hands now: what must not be lost is taken from here. */
  failed: {
    readonly batchId: string
    readonly entries: ReadonlyMap<K, V>
    readonly writes: number
    readonly attempts: number
    readonly error: unknown
  }
  /** A key was dropped with all its writes, because there was no room. */
  dropped: {
    readonly key: K
    readonly value: V
    readonly writes: number
    readonly reason: 'drop-newest' | 'drop-oldest'
  }
  /** A write was refused: the buffer is full or closed, or `merge` or `groupBy` threw. */
  rejected: { readonly key: K; readonly value: V; readonly error: unknown }
}

/** Stats of {@link AsyncWriteBuffer}, in writes. `latencyMs` and `batchSize` are in keys: from a key's first write until it is settled. */
export interface AsyncWriteBufferStats extends BatchStats {
  /** Distinct keys that wait to be written. */
  readonly pendingKeys: number
}

/** Writes a batch: resolves when all of it is written, rejects when none of it is. */
export type WriteFunction<K, V> = (entries: ReadonlyMap<K, V>, context: BatchContext) => void | PromiseLike<void>

/**
 * Merges writes by key and flushes them together: a thousand increments of one counter become one write.
 *
 * `put` is synchronous and never waits for the store. While a flush fails, new writes merge among themselves; the failed
 * batch is retried as it is. Memory grows with the number of keys, not of writes. What waits is lost if the process is
 * killed: close the buffer before the process ends.
 *
 * @example
 * ```ts
 * import { AsyncWriteBuffer } from 'spillway'
 *
 * declare const database: { add(counts: ReadonlyMap<string, number>): Promise<void> }
 *
 * const likes = new AsyncWriteBuffer<string, number>((counts) => database.add(counts), { merge: (old, n) => old + n })
 * likes.put('post:1', 1)
 * likes.put('post:1', 1)
 * await likes.close() // one write: post:1 -> 2
 * ```
 */
export class AsyncWriteBuffer<K, V> extends ClosableComponent<AsyncWriteBufferEvents<K, V>, AsyncWriteBufferStats> {
  /** The options' defaults. */
  static readonly defaults = {
    maxBatchSize: 100,
    maxWaitMs: 100,
    eager: false,
    concurrency: 1,
    capacity: 10_000,
    overflow: 'reject',
    timeoutGraceMs: 1000,
    retry: { attempts: 3, delayMs: 100, maxDelayMs: 30_000 },
    idempotent: false,
  } as const

  readonly #queue: BatchQueue<KeyEntry<K, V>>
  readonly #merge: (old: V, value: V) => V
  readonly #groupBy: ((key: K) => unknown) | undefined
  /** The entry of each key that hasn't left yet. */
  readonly #entries = new Map<K, KeyEntry<K, V>>()
  /** Keys in flight, each with the entry that waits for it; only kept when batches can overtake each other. */
  readonly #inFlight = new Map<K, KeyEntry<K, V> | undefined>()

  /**
   * @param write - writes a batch of merged entries.
   * @throws OptionError when an option is wrong or `merge` is missing.
   */
  constructor(write: WriteFunction<K, V>, options: AsyncWriteBufferOptions<K, V>) {
    super('async-write-buffer', options)
    checkFunction('write', write)
    this.#merge = checkFunction('merge', options?.merge)
    this.#groupBy = checkOptionalFunction('groupBy', options.groupBy)
    const policy = resolveBatchOptions(options, AsyncWriteBuffer.defaults, { keyed: false, sized: false })
    this.#queue = new BatchQueue(
      {
        name: this.name,
        clock: this.clock,
        random: this.random,
        seeded: options.random !== undefined,
        tracer: checkTracer(options.tracer),
      },
      policy,
      this.#face(write, policy.concurrency > 1),
    )
  }

  /**
   * Accepts a write, merging it with what waits under its key. Never throws and never waits.
   *
   * @returns whether it was accepted; false when the buffer is full (unless it drops the oldest) or closed, or when `merge`
   * threw. The `rejected` and `dropped` events say why.
   */
  put(key: K, value: V): boolean {
    const entry = this.#entries.get(key)
    if (entry === undefined) return this.#putNew(key, value)
    if (this.#queue.closed) return this.#reject(key, value, this.#queue.closedError())
    if (entry.merging) return this.#reject(key, value, new Error('merge wrote to the key that it was merging'))
    entry.merging = true
    let merged: V
    try {
      merged = this.#merge(entry.value, value)
    } catch (error) {
      return this.#reject(key, value, error)
    } finally {
      entry.merging = false
    }
    if (entry.done) return this.#reject(key, value, new Error('merge made the buffer drop the key that it was merging'))
    entry.value = merged
    this.#queue.merge(entry)
    return true
  }

  /** Whether writes to this key wait, so that another one finds room whatever else waits. */
  has(key: K): boolean {
    return this.#entries.has(key)
  }

  /** How many distinct keys wait to be written: what `capacity` bounds. */
  get pendingKeys(): number {
    return this.#entries.size
  }

  override flush(): Promise<FlushReport> {
    return this.#queue.flush()
  }

  override stats(): AsyncWriteBufferStats {
    return { ...this.#queue.books.stats(this.name, this.#queue.running), pendingKeys: this.#entries.size }
  }

  protected override drain(): Promise<void> {
    return this.#queue.drain()
  }

  protected override abandon(): number {
    return this.#queue.abandon()
  }

  #putNew(key: K, value: V): boolean {
    let group: unknown
    if (this.#groupBy !== undefined) {
      try {
        group = this.#groupBy(key)
      } catch (error) {
        return this.#reject(key, value, error)
      }
      // It may have written to this very key.
      if (this.#entries.has(key)) return this.put(key, value)
    }
    const entry = new KeyEntry(key, value)
    const refusal = this.#queue.offer(entry, group)
    if (refusal !== undefined) {
      // A newest that was dropped has had its event.
      if (!entry.dropped) this.#recordRejected(key, value, refusal)
      return false
    }
    return true
  }

  #reject(key: K, value: V, error: unknown): false {
    this.#queue.reject()
    this.#recordRejected(key, value, error)
    return false
  }

  #recordRejected(key: K, value: V, error: unknown): void {
    if (this.events.has('rejected')) this.events.emit('rejected', { key, value, error })
  }

  #face(write: WriteFunction<K, V>, overtaking: boolean): BatchFace<KeyEntry<K, V>> {
    const { events } = this
    const face: BatchFace<KeyEntry<K, V>> = {
      call: (entries, context) => write(mapOf(entries), context),
      complete: () => true,
      fail: () => undefined,
      unitsOf: writesIn,
      entered: (entry) => void this.#entries.set(entry.key, entry),
      left: (entry) => void this.#entries.delete(entry.key),
      onRetried: (portion, attempt, delayMs, error) => {
        if (events.has('retried')) events.emit('retried', { batchId: portion.id, attempt, delayMs, error })
      },
      onSettled: (portion, writes, _failed, durationMs) => {
        if (writes === 0 || !events.has('written')) return
        const { id: batchId, attempts, entries } = portion
        events.emit('written', { batchId, keys: entries.length, writes, attempts, durationMs })
      },
      onFailed: (portion, entries, error) => {
        if (!events.has('failed')) return
        const { id: batchId, attempts } = portion
        events.emit('failed', { batchId, entries: mapOf(entries), writes: writesIn(entries), attempts, error })
      },
      onDropped: (entry, reason) => {
        entry.dropped = true
        if (!events.has('dropped')) return
        events.emit('dropped', { key: entry.key, value: entry.value, writes: entry.units, reason })
      },
    }
    if (overtaking) {
      face.hold = (entry) => {
        if (!this.#inFlight.has(entry.key)) {
          this.#inFlight.set(entry.key, undefined)
          return false
        }
        this.#inFlight.set(entry.key, entry)
        return true
      }
      face.freed = (entries) => this.#free(entries)
    }
    return face
  }

  #free(entries: readonly KeyEntry<K, V>[]): KeyEntry<K, V>[] {
    const waiting: KeyEntry<K, V>[] = []
    for (const { key } of entries) {
      const next = this.#inFlight.get(key)
      this.#inFlight.delete(key)
      if (next !== undefined && !next.done) waiting.push(next)
    }
    return waiting
  }
}

/** All writes to one key that haven't left yet. */
class KeyEntry<K, V> implements MergingEntry {
  readonly key: K
  value: V
  cohort: Cohort = noCohort
  batch: Batch<Entry> | undefined = undefined
  done = false
  units = 1
  readonly bytes = 0
  place: ListNode<Entry> | undefined = undefined
  earlier: EarlierUnits[] | undefined = undefined
  dropped = false
  /** Guards against a `merge` that writes to its own key: the inner write would be overwritten by the outer one. */
  merging = false

  constructor(key: K, value: V) {
    this.key = key
    this.value = value
  }
}

/** A fresh map for each attempt: what a write function does to its map changes no later attempt. */
function mapOf<K, V>(entries: readonly KeyEntry<K, V>[]): Map<K, V> {
  const map = new Map<K, V>()
  for (const entry of entries) map.set(entry.key, entry.value)
  return map
}

function writesIn(entries: readonly Entry[]): number {
  return entries.reduce((sum, entry) => sum + entry.units, 0)
}
