/**
 * What a batch function learns about the attempt that it makes.
 */
export interface BatchContext {
  /** The batch's id, a UUID of version 7: the same for every attempt, so that a sink can apply the batch once. */
  readonly batchId: string
  /** Which attempt this is, counted from 1. */
  readonly attempt: number
  /**
   * Aborts when the attempt has timed out, when every caller of the batch has given up, or at the deadline of `close`.
   * Made when first asked for.
   */
  readonly signal: AbortSignal
}

/** One counter's change within a batch. */
export interface CounterIncrement {
  /** What is counted, for instance `post:1:like`: any string without NUL and without half a surrogate pair. */
  readonly key: string
  /** By how much it changes: a whole number from -(2^53 - 1) to 2^53 - 1. */
  readonly delta: number
}

/** A change that a store refused for good, without any effect; the rest of its batch was applied. */
export interface RefusedIncrement extends CounterIncrement {
  /** Why: a `StoreError` that isn't retryable. */
  readonly error: Error
}

/**
 * A store of counters, changed by whole batches. `increment` is what an AsyncBatcher calls, `add` what an AsyncWriteBuffer
 * calls. Counters stay within -(2^53 - 1) and 2^53 - 1, where a number is exact: an increment that would lead beyond, or whose
 * delta is no such number, is refused alone.
 *
 * Both methods reject only when the store failed. Unless the error's `outcomeUnknown` says otherwise, nothing was applied then.
 */
export interface CounterStore {
  /** Whether it applies each batch id once, however often and from however many processes that batch comes. */
  readonly idempotent: boolean
  /**
   * Applies a batch, its increments in their order, and answers each of them.
   *
   * @returns in the order of the increments, each counter's value right after it, or the error of one that was refused. A
   * batch id that was applied before changes nothing and gets the answers of then.
   */
  increment(increments: readonly CounterIncrement[], context: BatchContext): PromiseLike<readonly (number | Error)[]>
  /**
   * Applies a batch that has one sum for each counter, when nobody waits for the values.
   *
   * @returns what was refused, nothing as a rule. A batch id that was applied before changes nothing and gets the answer of then.
   */
  add(sums: ReadonlyMap<string, number>, context: BatchContext): PromiseLike<readonly RefusedIncrement[]>
  /** Reads counters, in the order of the keys; one that was never changed is 0. */
  getMany(keys: readonly string[]): PromiseLike<readonly number[]>
}

/** Who used something. Users are told apart by the text of their ids: `1`, `1n` and `'1'` are one user. */
export type UserId = string | number | bigint

/** The span over which a quota counts, in UTC: a day, a month, or for ever. */
export type QuotaPeriod = 'day' | 'month' | 'total'

/** One use of a quota. */
export interface UsageEvent {
  /** Who used it: a text of 1 to 256 characters, a safe integer or a bigint. */
  readonly userId: UserId
  /** Which of the user's quotas: 1 to 256 characters. */
  readonly quotaType: string
  /** How much, a number from 0 to 2^53 - 1. Whole numbers are summed exactly: use the smallest unit. */
  readonly value: number
  /** When, as a Date or in milliseconds since the epoch; by default when it was offered. It decides to which period it belongs. */
  readonly timestamp?: number | Date | undefined
  /** The request that caused it, for deduplication: 1 to 256 characters, once for each user and quota. */
  readonly requestId?: string | undefined
  /** Anything else that is worth keeping with it. Journals and streams keep it as JSON. */
  readonly metadata?: Readonly<Record<string, unknown>> | undefined
}

/** A use as it was accepted: complete, and changed by nobody from then on. */
export interface AcceptedUsage extends UsageEvent {
  /** When, in milliseconds since the epoch. */
  readonly timestamp: number
  /** The period to which it belongs, in UTC: `2026-11-20`, `2026-11` or `total`. */
  readonly period: string
  /** The id that a stream gave it: the same at every delivery, whatever batch it comes in. */
  readonly id?: string | undefined
}

/** The uses of one quota by one user in one period, summed. */
export interface UsageTotal {
  /** Who used it, as text. */
  readonly userId: string
  /** Which of the user's quotas. */
  readonly quotaType: string
  /** The period in UTC: `2026-11-20`, `2026-11` or `total`. */
  readonly period: string
  /** The sum. */
  readonly value: number
  /** How many events it sums. */
  readonly count: number
}

/** A batch of usage on its way to a sink. It is frozen: every attempt gets the same. */
export interface UsageBatch {
  /** The batch's id, the same for every attempt, and after a restart where there is a journal. */
  readonly id: string
  /** The events, in the order in which they were accepted. */
  readonly events: readonly AcceptedUsage[]
  /** The same events summed by user, quota type and period; each of those once. */
  readonly totals: readonly UsageTotal[]
}

/** An event that a sink refused for good, without any effect; the rest of its batch was applied. */
export interface RefusedUsage {
  /** Its place in `batch.events`. */
  readonly index: number
  /** Why. */
  readonly error: Error
}

/**
 * What a sink tells apart, so that nothing is counted twice: `'batch'` applies each batch id once; `'event'` also each event's
 * `id` once, in whatever batch it comes; `'request'` also each `requestId` once for a user and a quota type.
 */
export type UsageDedupe = 'batch' | 'event' | 'request'

/** Where usage is accounted. */
export interface UsageSink {
  /** Whether it applies each batch id once, however often that batch comes. */
  readonly idempotent: boolean
  /** What it tells apart, if it does; an idempotent sink that doesn't say tells batches apart. */
  readonly dedupe?: UsageDedupe | undefined
  /**
   * Applies a batch: all of it or none, less what it refuses. Rejects only when the sink failed, or the batch as a whole is wrong.
   *
   * @returns the events that it refused for good, nothing as a rule. For a batch id that was applied before, the answer of then.
   */
  write(
    batch: UsageBatch,
    context: BatchContext,
    // biome-ignore lint/suspicious/noConfusingVoidType: a sink that wraps another returns a promise of either.
  ): void | readonly RefusedUsage[] | PromiseLike<void | readonly RefusedUsage[] | undefined>
}

/** Whose use of what is counted together. */
export interface QuotaKey {
  /** Who, as text. */
  readonly userId: string
  /** Which of the user's quotas. */
  readonly quotaType: string
  /** The period in UTC: `2026-11-20`, `2026-11` or `total`. */
  readonly period: string
}

/** What a store knows about a key. */
export interface QuotaUsage {
  /** What was used. */
  readonly used: number
  /** What is reserved and neither settled nor released nor expired. */
  readonly held: number
}

/** A use that is counted only if it fits. */
export interface QuotaClaim extends QuotaKey {
  /** How much, from 0 to 2^53 - 1. */
  readonly value: number
  /** What `used + held` may come to with it; it is refused beyond. May be `Infinity`. */
  readonly limit: number
  /**
   * What makes it count once: for `consume`, once for each user and quota type; for `reserve`, the reservation's id, which is one
   * for all users.
   */
  readonly id: string
}

/** A claim that holds its value until it is settled, released or expired. */
export interface HoldClaim extends QuotaClaim {
  /** How long it holds, in milliseconds, on the store's own clock. */
  readonly ttlMs: number
  /**
   * The limit that `settle` minds, where it isn't the one that the hold itself must fit: the reservation is remembered with it. The
   * default is `limit`.
   */
  readonly settleLimit?: number | undefined
}

/** What became of a `consume`. */
export interface ConsumeOutcome extends QuotaUsage {
  /** `'applied'` now, `'repeated'`: its id was applied before, or `'exceeded'`: it didn't fit, and has no effect. */
  readonly status: 'applied' | 'repeated' | 'exceeded'
}

/** What became of a `reserve`. */
export interface ReserveOutcome extends QuotaUsage {
  /**
   * `'held'` now; `'repeated'`: the same value of the same key is held under this id already, whatever limit and ttl it came with;
   * `'exceeded'`: it didn't fit, and has no effect; `'conflict'`: the id belongs to another claim, or to one that is over.
   */
  readonly status: 'held' | 'repeated' | 'exceeded' | 'conflict'
  /** When the hold ends by itself, in milliseconds since the epoch on the store's clock; 0 where there is none. */
  readonly expiresAt: number
}

/** What became of a `settle`. */
export interface SettleOutcome {
  /**
   * `'settled'` now; `'repeated'`: it was settled before, with whatever value; `'exceeded'`: what goes beyond the hold, or all of it
   * after the hold has expired, doesn't fit, and nothing has changed; `'released'`: it was released before; `'unknown'`: there is no
   * such reservation, or it was forgotten.
   */
  readonly status: 'settled' | 'repeated' | 'exceeded' | 'released' | 'unknown'
  /** The reservation as it was made, where it is known. */
  readonly claim?: QuotaClaim | undefined
  /** What the store knows about its key after this, where it is known. */
  readonly usage?: QuotaUsage | undefined
}

/**
 * Where quotas are counted. As a `UsageSink` it counts whatever comes; `consume` and `reserve` never let `used + held` pass a limit,
 * from however many processes they come at once.
 *
 * Methods reject only when the store failed. Every method that changes something may be called again with the same id when its
 * outcome is unknown. Holds expire on the store's own clock.
 */
export interface QuotaStore extends UsageSink {
  /** What is used and held, in the order of the keys; zeros for a key that is unknown. */
  readUsage(keys: readonly QuotaKey[]): PromiseLike<readonly QuotaUsage[]>
  /** Counts a use if it fits. */
  consume(claim: QuotaClaim): PromiseLike<ConsumeOutcome>
  /** Holds a value if it fits. */
  reserve(claim: HoldClaim): PromiseLike<ReserveOutcome>
  /**
   * Turns a hold into a use of `actual`. What `actual` has more than was held must fit the claim's limit; so must all of it once the
   * hold has expired.
   */
  settle(id: string, actual: number): PromiseLike<SettleOutcome>
  /** Gives a hold back; nothing happens where there is none. */
  release(id: string): PromiseLike<void>
}

/** An event in a journal. */
export interface JournalledUsage {
  /** Its place in the journal: greater than that of every event before it. */
  readonly position: number
  /** The event. */
  readonly event: AcceptedUsage
}

/** What a journal kept of earlier runs. */
export interface JournalRemains {
  /** Batches that may have reached the sink: they must be written again as they were, under their ids. Oldest first. */
  readonly batches: readonly { readonly id: string; readonly events: readonly JournalledUsage[] }[]
  /** Events that were in no batch yet. Oldest first. */
  readonly events: readonly JournalledUsage[]
}

/** Usage that was given up. */
export interface DeadUsage {
  /** The batch in which it was given up. */
  readonly batchId: string
  /** The events. */
  readonly events: readonly AcceptedUsage[]
  /** Why. */
  readonly error: unknown
  /**
   * Whether the sink refused just these, and applied the rest of their batch: its id is used up, so they can only be sent again under
   * another one. Otherwise the batch was given up whole and may have been applied after all, so it must be sent again under its id.
   */
  readonly refused?: boolean | undefined
}

/**
 * Keeps accepted usage until it is accounted, so that a crash loses none. A batch is assigned before its first attempt; after a
 * crash the same batches come back with the same ids, so that an idempotent sink counts them once.
 *
 * Methods reject when the journal failed; nothing of the call is kept then, unless the error's `outcomeUnknown` says otherwise.
 */
export interface UsageJournal {
  /** Opens it. Called once, before anything else; again only when it failed. */
  open(): PromiseLike<JournalRemains>
  /**
   * Adds an event, behind those of earlier calls.
   *
   * @returns its position, once it is durable.
   */
  append(event: AcceptedUsage): PromiseLike<number>
  /** Notes which events make up a batch; resolves once that is durable. An event may be assigned anew: the latest one counts. */
  assign(batchId: string, positions: readonly number[]): PromiseLike<void>
  /**
   * Forgets a batch that was applied or given up. Whether that is durable doesn't matter much: a batch that comes back is counted
   * once all the same.
   */
  settle(batchId: string): PromiseLike<void>
  /** Keeps what was given up where an operator finds it; resolves once that is durable. */
  deadLetter(usage: DeadUsage): PromiseLike<void>
  /** Makes durable what was called so far, and closes it. */
  close(): PromiseLike<void>
}

/** Where log lines go. Writes come one at a time; `writeSync` and `reopen` may come while one isn't settled. */
export interface LogSink {
  /**
   * Writes a chunk of whole lines.
   *
   * @returns when it is handed over; rejects when it isn't, and won't be.
   */
  write(chunk: string): void | PromiseLike<void>
  /**
   * The same, synchronously, for a process that is about to end. Whatever `write` was given and hasn't settled comes first: both
   * are handed over when this returns, each byte once, and that `write` settles as it would have.
   *
   * @returns nothing when all is handed over; a promise of what couldn't be handed over now, which the sink goes on with as it does
   * with a `write`.
   * @throws when the chunk isn't handed over and won't be.
   */
  writeSync?(chunk: string): void | PromiseLike<void>
  /** Opens the target anew, after it was rotated away. */
  reopen?(): void | PromiseLike<void>
  /** Releases the target. Whoever made the sink calls it, after closing what writes to it. */
  close?(): void | PromiseLike<void>
}

/** A batch, as it is traced. */
export interface TracedBatch {
  /** The name of the component that sends it. */
  readonly component: string
  /** How many items it has: keys where writes are merged by key. */
  readonly size: number
  /**
   * What {@link BatchTracer.enter} answered as its items were accepted; of items in a row with the same origin once. At most 128, which is
   * what OpenTelemetry keeps of links.
   */
  readonly origins: readonly unknown[]
}

/** Sees batches in the light of a trace: where their items came from, and what became of them. `batchTracer` of `spillway/metrics` is one. */
export interface BatchTracer {
  /** Called in the context of whoever brings an item; answers what leads back there, or `undefined` where nothing does. */
  enter(): unknown
  /** Runs an attempt at a batch. It calls `attempt` once and answers what that answers. */
  run<T>(batch: TracedBatch, attempt: () => T): T
}

/** Instances that change while one watches. */
export interface InstanceSource<I> {
  /**
   * Calls `onList` with each new list until the signal aborts.
   *
   * @param onList - takes a whole list, not a change of one.
   */
  watch(
    onList: (instances: readonly I[]) => void,
    context: { readonly signal: AbortSignal; readonly onError: (error: unknown) => void },
  ): void
}

/** What an entry of a cache depends on beside its key: a tag, or the namespace that `clear` empties. */
export interface CacheMark {
  /** Which: the store keeps one for each name. */
  readonly name: string
  /** Its state: no other state of it, before or after, has the same text. An entry is valid as long as its marks are as they were. */
  readonly mark: string
}

/** A mark, as the store has it. */
export interface CurrentMark extends CacheMark {
  /**
   * How long ago it was renewed, in milliseconds by the store's own clock; `Infinity` for one that was made because somebody asked
   * for it, and never renewed since.
   */
  readonly renewedMs: number
}

/** What a cache store knows about a key. */
export interface CachedValue {
  /** The value; undefined where there is none: never written, deleted, expired, or unreadable. */
  readonly value: unknown
  /** Names this state of the key: no other state of it has the same. Empty where the store knows nothing about the key. */
  readonly version: string
  /** How long ago it was written, in milliseconds; 0 where there is no value. */
  readonly ageMs: number
  /** How long it is still fresh, in milliseconds; 0 or less once it is stale. May be `Infinity`. */
  readonly freshMs: number
  /** How long it is still kept, in milliseconds. May be `Infinity`. */
  readonly keptMs: number
  /** The marks that it was written with. */
  readonly marks: readonly CacheMark[]
}

/** A value on its way into a cache store. */
export interface CacheWrite {
  /** Under which key. */
  readonly key: string
  /** The value, as the store's `encode` returned it where it has one. Never undefined. */
  readonly value: unknown
  /** How long it is fresh, in milliseconds: more than 0, may be `Infinity`. */
  readonly freshMs: number
  /** How long it is kept, in milliseconds: at least as long as it is fresh. May be `Infinity`. */
  readonly keptMs: number
  /** The marks that it depends on, in the state that it was made in. */
  readonly marks: readonly CacheMark[]
  /** Writes only where the key's version is still this one. Left out, it writes whatever is there. */
  readonly ifVersion?: string | undefined
}

/** What became of a {@link CacheWrite}. */
export interface CacheWriteOutcome {
  /** Whether it was written; if not, the key's version was another one. */
  readonly written: boolean
  /** The key's version now. */
  readonly version: string
}

/**
 * The shared tier of a cache. It compares versions, so that a value that was loaded before a write never replaces what was written:
 * a key that is deleted leaves a tombstone, which has a version and no value, for `fenceMs`.
 *
 * Answers come in the order of the arguments. Where a part of a call failed, its answers are errors; a method rejects only where all of
 * it failed. Time passes on the store's own clock.
 */
export interface CacheStore {
  /** How long at least it remembers the version of a key after a write or a delete, in milliseconds. */
  readonly fenceMs: number
  /**
   * Turns a value into what `setMany` takes, before anything is written.
   *
   * @throws OptionError - where it can't carry the value, or would change it.
   */
  encode?(value: unknown): unknown
  /** Reads keys, one that was asked twice twice. */
  getMany(keys: readonly string[]): PromiseLike<readonly (CachedValue | Error)[]>
  /** Writes, in the order of the writes where a key comes twice. */
  setMany(writes: readonly CacheWrite[]): PromiseLike<readonly (CacheWriteOutcome | Error)[]>
  /** Deletes keys, whatever is there; answers with the versions of the tombstones. */
  deleteMany(keys: readonly string[]): PromiseLike<readonly (string | Error)[]>
  /**
   * Reads marks, and makes those that don't exist. A mark that the store has forgotten is made anew, and so makes invalid what was
   * written with it: it is never taken for the old one.
   */
  readMarks(names: readonly string[]): PromiseLike<readonly (CurrentMark | Error)[]>
  /** Renews marks, which makes invalid whatever was written with them. */
  renewMarks(names: readonly string[]): PromiseLike<readonly (CurrentMark | Error)[]>
}

/** What other caches must know: a key was written or deleted, a tag invalidated, a namespace cleared. */
export type Invalidation =
  | {
      /** A key was written or deleted. */
      readonly kind: 'key'
      /** The key, its namespace included. */
      readonly key: string
      /** Its version in the store since, where that is known: whoever has just this one may keep it. */
      readonly version?: string | undefined
    }
  | {
      /** All that bears a tag is invalid. */
      readonly kind: 'tag'
      /** The tag. */
      readonly tag: string
    }
  | {
      /** All of a namespace is invalid, and of those within it. */
      readonly kind: 'clear'
      /** The namespace, with those that it is in. */
      readonly namespace: string
    }

/** Who hears of invalidations. */
export interface InvalidationListener {
  /** Others made these, in this order. */
  onInvalidations(invalidations: readonly Invalidation[]): void
  /** Some may have been missed until now; from now on they come. */
  onGap(): void
}

/** A cache's own end of a bus. */
export interface InvalidationLink {
  /** Tells all others. Never throws and never waits: what can't be sent now is sent later, and what is lost is a gap for the others. */
  publish(invalidations: readonly Invalidation[]): void
  /** Resolves once all that was published is sent or lost. */
  flush(): PromiseLike<void>
  /** Hears and tells no more. What wasn't sent yet is lost. */
  close(): void
}

/** Carries invalidations from each cache to all others, those of the same process included. */
export interface InvalidationBus {
  /** Makes an end of the bus, and begins to listen; `onGap` says when that has succeeded, each time. */
  connect(listener: InvalidationListener): InvalidationLink
}

/** The right to load a key. */
export interface LoadLease {
  /** Whether somebody else had it first, so that the value may be there by now. */
  readonly waited: boolean
  /** Gives it back. What it answers is of no concern. */
  release(): unknown
}

/** Lets one process at a time load a key, as far as that is possible: it saves work, and nothing depends on it. */
export interface LoadLock {
  /**
   * Waits for the right to load a key.
   *
   * @returns it, or undefined where it didn't come within `waitMs`. A rejection means the same.
   */
  acquire(
    key: string,
    options: { readonly waitMs: number; readonly signal: AbortSignal },
  ): PromiseLike<LoadLease | undefined>
}
