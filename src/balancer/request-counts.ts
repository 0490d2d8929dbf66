import type { Clock } from '../core/clock.js'
import type { FlushReport } from '../core/component.js'
import type { BatchContext } from '../core/ports.js'
import type { ContextRunner } from '../internal/async-context.js'
import { type Batch, type Entry, noCohort } from '../internal/batch.js'
import type { Cohort } from '../internal/batch-books.js'
import { resolveBatchOptions } from '../internal/batch-options.js'
import { BatchQueue } from '../internal/batch-queue.js'
import type { ListNode } from '../internal/linked-list.js'

/** Takes how often each instance was picked since the last time, by id. */
export type CountsFunction = (counts: ReadonlyMap<string, number>, context: BatchContext) => void | PromiseLike<void>

interface Setting {
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
  readonly seeded: boolean
  readonly inContext: ContextRunner
  readonly everyMs: number
  readonly timeoutMs: number
  /** Takes what was counted since it was last asked. */
  readonly take: (into: Map<string, number>) => void
  /** The timer has fired: the next pick must arm it again. */
  readonly onDisarmed: () => void
  readonly onDelivered: (batchId: string, counts: ReadonlyMap<string, number>, attempts: number) => void
  readonly onRetried: (batchId: string, attempt: number, delayMs: number, error: unknown) => void
  readonly onFailed: (
    batchId: string,
    counts: ReadonlyMap<string, number>,
    attempts: number,
    error: unknown,
    kept: boolean,
  ) => void
}

const most = 2_147_483_647
/** As for every write of a batch: three attempts before something else is done about it. */
const engineDefaults = {
  maxBatchSize: most,
  maxWaitMs: 0,
  eager: false,
  concurrency: 1,
  capacity: most,
  overflow: 'reject',
  timeoutGraceMs: 1000,
  retry: { attempts: 3, delayMs: 100, maxDelayMs: 30_000 },
  // Lost counts never come back; counts that came twice can be told by their batch's id.
  idempotent: true,
} as const

/**
 * Hands the picks of each instance on in batches. A pick itself only adds to a number of its instance's; a timer, armed by the
 * first pick after the last round, brings those numbers to the engine. While a batch is on its way nothing more is brought, so
 * there is never more here than one number an instance. A batch that failed for good goes back among the numbers.
 */
export class RequestCounts {
  readonly #setting: Setting
  readonly #onCounts: CountsFunction
  #queue: BatchQueue<CountEntry>
  /** The queue of before `beginClose`, and what it waits for. */
  #first: { readonly queue: BatchQueue<CountEntry>; readonly drained: Promise<void> } | undefined
  /** Counts of instances that are gone, and of batches that failed. */
  #kept = new Map<string, number>()
  #cancelTimer: (() => void) | undefined
  #closing = false
  #abandoned = false
  /** Picks that were brought to the engine and aren't settled. */
  #queued = 0
  /** Picks that `onCounts` has taken. */
  delivered = 0
  /** Picks that were given up. */
  lost = 0
  /** Picks whose batch failed and that went back. */
  #returned = 0

  constructor(onCounts: CountsFunction, setting: Setting) {
    this.#setting = setting
    this.#onCounts = onCounts
    this.#queue = this.#makeQueue()
  }

  /** Picks that were brought here and aren't settled; those that wait at their instances are not among them. */
  get pending(): number {
    return this.#queued + total(this.#kept)
  }

  /** Sees to it that what was counted leaves in time. What was counted is accepted, so the timer keeps the process alive. */
  arm(): void {
    if (this.#cancelTimer !== undefined || this.#first !== undefined) return
    this.#cancelTimer = this.#setting.clock.setTimer(() => {
      this.#cancelTimer = undefined
      this.#setting.onDisarmed()
      if (this.#queue.running > 0) this.arm()
      else this.#collect()
    }, this.#setting.everyMs)
  }

  /** Keeps the counts of an instance that is about to be forgotten. */
  keep(id: string, picks: number): void {
    if (picks > 0) this.#kept.set(id, (this.#kept.get(id) ?? 0) + picks)
  }

  /** Hands on what is there, and waits for that. */
  async flush(): Promise<FlushReport> {
    this.#collect()
    const { delivered, lost } = this
    const returned = this.#returned
    await this.#queue.flush()
    return {
      succeeded: this.delivered - delivered,
      failed: this.lost - lost + this.#returned - returned,
      dropped: 0,
    }
  }

  /**
   * Hands on what is there without any more waits between attempts. Runs that were accepted may still pick, to retry: what they
   * add leaves with `drain`, or a `flush` before it.
   */
  beginClose(): void {
    this.#disarm()
    this.#collect()
    const queue = this.#queue
    // A queue works in the context in which it was made, and whoever closes has one of his own.
    this.#setting.inContext(() => {
      this.#queue = this.#makeQueue()
    })
    this.#first = { queue, drained: queue.drain() }
  }

  /** Hands on the rest, for the last time, and waits for all of it. */
  async drain(): Promise<void> {
    await this.#first?.drained
    this.#closing = true
    this.#collect()
    await this.#queue.drain()
  }

  /** Gives up what is left, and says how much that was. */
  abandon(): number {
    const { lost } = this
    this.#closing = true
    this.#disarm()
    this.#collect()
    this.#abandoned = true
    this.#first?.queue.abandon()
    this.#queue.abandon()
    return this.lost - lost
  }

  #disarm(): void {
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
  }

  #makeQueue(): BatchQueue<CountEntry> {
    const setting = this.#setting
    const { name, clock, random, seeded, timeoutMs } = setting
    const policy = resolveBatchOptions({ timeoutMs }, engineDefaults, { keyed: false, sized: false })
    return new BatchQueue<CountEntry>({ name: `${name}: onCounts`, clock, random, seeded }, policy, {
      call: (entries, context) => this.#onCounts(sumsOf(entries), context),
      complete: () => true,
      fail: () => undefined,
      onSettled: ({ id, entries, attempts }, succeeded) => {
        if (succeeded === 0) return
        const counts = sumsOf(entries)
        const picks = total(counts)
        this.delivered += picks
        this.#queued -= picks
        setting.onDelivered(id, counts, attempts)
      },
      onRetried: ({ id }, attempt, delayMs, error) => setting.onRetried(id, attempt, delayMs, error),
      onFailed: ({ id, attempts }, entries, error) => this.#recordFailed(id, sumsOf(entries), attempts, error),
    })
  }

  #collect(): void {
    const counts = this.#kept
    this.#kept = new Map()
    this.#setting.take(counts)
    if (this.#abandoned) {
      this.lost += total(counts)
      return
    }
    for (const [id, picks] of counts) {
      this.#queued += picks
      this.#queue.offer(new CountEntry(id, picks))
    }
  }

  #recordFailed(batchId: string, counts: ReadonlyMap<string, number>, attempts: number, error: unknown): void {
    const picks = total(counts)
    const kept = !this.#closing && !isFinal(error)
    this.#queued -= picks
    if (kept) {
      this.#returned += picks
      for (const [id, count] of counts) this.keep(id, count)
      this.arm()
    } else {
      this.lost += picks
    }
    this.#setting.onFailed(batchId, counts, attempts, error, kept)
  }
}

/** How often one instance was picked. */
class CountEntry implements Entry {
  readonly key: string
  readonly picks: number
  cohort: Cohort = noCohort
  batch: Batch<Entry> | undefined = undefined
  done = false
  readonly units = 1
  readonly earlier = undefined
  readonly bytes = 0
  place: ListNode<Entry> | undefined = undefined

  constructor(id: string, picks: number) {
    this.key = id
    this.picks = picks
  }
}

/** Two rounds in one batch may bring the same instance twice. */
function sumsOf(entries: readonly CountEntry[]): Map<string, number> {
  const sums = new Map<string, number>()
  for (const { key, picks } of entries) sums.set(key, (sums.get(key) ?? 0) + picks)
  return sums
}

function total(counts: ReadonlyMap<string, number>): number {
  let sum = 0
  for (const picks of counts.values()) sum += picks
  return sum
}

/** Whether an error says itself that the same batch can't succeed later. */
function isFinal(error: unknown): boolean {
  try {
    return (error as { retryable?: unknown } | null | undefined)?.retryable === false
  } catch {
    return false
  }
}
