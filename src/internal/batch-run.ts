import { TimeoutError } from '../core/errors.js'
import type { BatchContext } from '../core/ports.js'
import { backoffMs, type RetryPolicy } from '../core/retry.js'
import type { Batch, Entry } from './batch.js'
import { LazySignal } from './lazy-signal.js'
import { isOutcomeUnknown, mayBeOfOneItem } from './outcome.js'

/** How batches are tried. */
export interface RunPolicy {
  readonly name: string
  readonly timeoutMs: number | undefined
  readonly timeoutGraceMs: number
  readonly retry: RetryPolicy
  readonly idempotent: boolean
  readonly bisect: boolean
  readonly keyed: boolean
}

/** What a run needs of the queue that it came from. */
export interface RunHost<E extends Entry> {
  readonly policy: RunPolicy
  now(): number
  /** Runs a function in the component's own async context. */
  inContext(fn: () => void): void
  /** Calls back in that context. */
  setTimer(callback: () => void, delayMs: number): () => void
  readonly random: () => number
  /** Whether the queue is closing, so that nothing should wait longer than it must. */
  readonly closing: boolean
  /** Whether whatever starts now is let go past the slots, all at once. */
  readonly expelling: boolean
  newBatchId(entries: readonly E[]): string
  /** Hands entries of a batch to the user's function. */
  call(entries: readonly E[], context: BatchContext, batch: Batch<E>): unknown
  /** What is wrong with an answer as a whole. */
  check(entries: readonly E[], answer: unknown): Error | undefined
  recordTimeout(): void
  recordOverrun(): void
  /** A retry was decided on; it isn't made if every caller gives up meanwhile. */
  recordRetry(portion: Portion<E>, attempt: number, delayMs: number, error: unknown): void
  recordSuccess(portion: Portion<E>, answer: unknown): void
  recordFailure(portion: Portion<E>, error: unknown): void
  /** The slot is free again. */
  release(run: BatchRun<E>): void
}

/** Entries that are tried together under one id: the whole batch, or after `bisect` a part of it. */
export class Portion<E extends Entry> {
  readonly entries: readonly E[]
  /** When it was formed. */
  readonly startedAt: number
  /** How many attempts were made. */
  attempts = 0
  /** The error of the latest attempt that may have done the work in spite of it. */
  doubt: { readonly error: unknown } | undefined
  readonly #makeId: () => string
  #id: string | undefined

  constructor(entries: readonly E[], startedAt: number, makeId: () => string) {
    this.entries = entries
    this.startedAt = startedAt
    this.#makeId = makeId
  }

  /** Made when first asked for: an id costs as much as several items, and many batch functions don't use it. */
  get id(): string {
    this.#id ??= this.#makeId()
    return this.#id
  }

  /** Whether nobody waits for any of it any more. */
  get settled(): boolean {
    return this.entries.every((entry) => entry.done)
  }
}

/** One attempt, and what the user's function sees of it. */
class Attempt extends LazySignal implements BatchContext {
  readonly attempt: number
  /** Its time is over; its answer won't count, but it may still hold the slot. */
  expired = false
  readonly #portion: { readonly id: string }

  constructor(portion: { readonly id: string }, attempt: number) {
    super()
    this.#portion = portion
    this.attempt = attempt
  }

  get batchId(): string {
    return this.#portion.id
  }
}

/**
 * One batch in its slot, from dispatch until the slot is free: attempts, timeouts, back-off, bisection.
 *
 *     try ──ok──────────────────────────────► settle ─► next portion, or release
 *      │ ├─error──► retry? ──yes──► back off ──► try
 *      │ │            └─no──► bisect? ──yes──► two portions
 *      │ │                       └─no──► fail ─► next portion, or release
 *      │ └─timeout─► abort the signal; fail now or note the retry
 *      │                └─► wait until the work settles, `timeoutGraceMs` at most ─► retry or release
 */
export class BatchRun<E extends Entry> {
  readonly batch: Batch<E>
  /** What took the slot, in its order. */
  readonly entries: readonly E[]
  /** How many entries somebody still waits for. */
  live: number
  readonly #host: RunHost<E>
  /** Portions still to be tried, the next one last. */
  readonly #rest: Portion<E>[] = []
  #portion: Portion<E>
  #bisecting = false
  /** The attempt whose answer, or whose end, is waited for. */
  #current: Attempt | undefined
  /** Why the expired attempt will be retried; undefined when its portion has been settled. */
  #retryAfterExpiry: unknown
  #cancelTimer: (() => void) | undefined
  #backingOff = false
  /** No further attempt: it would have no slot to make it in. */
  #final = false
  #over = false

  constructor(host: RunHost<E>, batch: Batch<E>, entries: readonly E[], startedAt: number) {
    this.#host = host
    this.batch = batch
    this.entries = entries
    this.live = entries.length
    this.#portion = new Portion(entries, startedAt, () => host.newBatchId(entries))
  }

  /** What is being tried now. */
  get portion(): Portion<E> {
    return this.#portion
  }

  /** What hasn't been settled, and whether the work may have been done. */
  get open(): readonly { readonly portion: Portion<E>; readonly inDoubt: boolean }[] {
    const rest = this.#rest.map((portion) => ({ portion, inDoubt: false })).reverse()
    const { doubt } = this.#portion
    return [{ portion: this.#portion, inDoubt: this.#current !== undefined || doubt !== undefined }, ...rest]
  }

  /** Makes the next attempt, unless nobody waits for it any more. */
  start(): void {
    if (this.#forsaken) return this.#next()
    const host = this.#host
    const { policy } = host
    if (host.expelling) this.#final = true
    const portion = this.#portion
    const attempt = new Attempt(portion, ++portion.attempts)
    this.#current = attempt
    if (policy.timeoutMs !== undefined) {
      this.#cancelTimer = host.setTimer(() => this.#expire(attempt), policy.timeoutMs)
    }
    let work: Promise<unknown>
    try {
      work = Promise.resolve(this.#host.call(portion.entries, attempt, this.batch))
    } catch (error) {
      work = Promise.reject(error)
    }
    work.then(
      (answer) => this.#answered(attempt, answer),
      (error: unknown) => this.#threw(attempt, error),
    )
  }

  /** One of its entries has just been aborted by its caller, for this reason. */
  forsake(reason: unknown): void {
    this.live--
    if (!this.#forsaken || this.#over) return
    this.#current?.abort(reason)
    if (!this.#backingOff) return
    this.#clearTimer()
    this.#backingOff = false
    // Later, since this is the caller's turn, and the user's function never runs in that.
    queueMicrotask(() => this.#host.inContext(() => this.#next()))
  }

  /** Makes the retry at once that was being waited for. */
  hurry(): void {
    if (!this.#backingOff) return
    this.#clearTimer()
    this.#backingOff = false
    this.start()
  }

  /** Gives up: whatever still comes is ignored. The queue has settled the entries. */
  abandon(reason: unknown): void {
    this.#over = true
    this.#clearTimer()
    this.#current?.abort(reason)
    this.#current = undefined
  }

  #answered(attempt: Attempt, answer: unknown): void {
    if (attempt !== this.#current) return
    if (attempt.expired) return this.#afterExpiry()
    const portion = this.#portion
    const problem = this.#host.check(portion.entries, answer)
    if (problem !== undefined) return this.#failed(problem)
    this.#endAttempt()
    this.#host.recordSuccess(portion, answer)
    this.#next()
  }

  #threw(attempt: Attempt, error: unknown): void {
    if (attempt !== this.#current) return
    if (attempt.expired) this.#afterExpiry()
    else this.#failed(error)
  }

  #failed(error: unknown): void {
    this.#endAttempt()
    if (isOutcomeUnknown(error)) this.#portion.doubt = { error }
    if (this.#mayRetry(error)) this.#backOff(error)
    else this.#fail(error)
  }

  #expire(attempt: Attempt): void {
    const host = this.#host
    const { policy } = host
    const timeoutMs = policy.timeoutMs as number
    const error = new TimeoutError(
      `${policy.name}: attempt ${attempt.attempt} at batch ${attempt.batchId} took longer than ${timeoutMs} ms`,
      timeoutMs,
    )
    this.#host.recordTimeout()
    attempt.expired = true
    this.#portion.doubt = { error }
    this.#cancelTimer = host.setTimer(() => {
      this.#host.recordOverrun()
      this.#afterExpiry()
    }, policy.timeoutGraceMs)
    if (this.#mayRetry(error)) {
      this.#retryAfterExpiry = error
      attempt.abort(error)
    } else {
      attempt.abort(error)
      // Its callers needn't wait for the grace: only the slot does.
      this.#host.recordFailure(this.#portion, error)
    }
  }

  /** The expired attempt has settled, or its grace is over. */
  #afterExpiry(): void {
    this.#endAttempt()
    const error = this.#retryAfterExpiry
    this.#retryAfterExpiry = undefined
    if (error === undefined) this.#next()
    else if (this.#forsaken) this.#next()
    else this.#backOff(error)
  }

  #mayRetry(error: unknown): boolean {
    const { retry, idempotent } = this.#host.policy
    if (this.#over || this.#final || this.#forsaken || this.#portion.attempts >= retry.attempts) return false
    if (!idempotent && isOutcomeUnknown(error)) return false
    try {
      return Boolean(retry.retryable(error))
    } catch {
      return false
    }
  }

  #backOff(error: unknown): void {
    const host = this.#host
    const { policy, random, closing } = host
    const delayMs = closing ? 0 : backoffMs(this.#portion.attempts, policy.retry, random)
    // Listeners may abort, hurry or close: they find it waiting already.
    this.#backingOff = true
    this.#host.recordRetry(this.#portion, this.#portion.attempts + 1, delayMs, error)
    if (this.#over || !this.#backingOff) return
    if (delayMs <= 0 || host.closing) return this.hurry()
    this.#cancelTimer = host.setTimer(() => this.hurry(), delayMs)
  }

  #fail(error: unknown): void {
    if (this.#over) return
    const halves = this.#mayBisect(error) ? this.#halve() : undefined
    // A later attempt that surely did nothing takes nothing away from what an earlier one may have done.
    if (halves === undefined) this.#host.recordFailure(this.#portion, (this.#portion.doubt ?? { error }).error)
    else this.#rest.push(...halves)
    this.#next()
  }

  #mayBisect(error: unknown): boolean {
    return this.#host.policy.bisect && this.#portion.doubt === undefined && mayBeOfOneItem(error)
  }

  /** The portion's two halves, the first one last; undefined where it is one item. */
  #halve(): Portion<E>[] | undefined {
    const whole = this.#portion
    const { entries } = whole
    if (whole.settled) return undefined
    const items = this.#host.policy.keyed ? byKey(entries) : entries.map((entry) => [entry])
    if (items.length === 1) return undefined
    this.#bisecting = true
    const middle = Math.ceil(items.length / 2)
    const half = (part: readonly E[], index: number): Portion<E> =>
      new Portion(
        part.filter((entry) => !entry.done),
        this.#host.now(),
        () => `${whole.id}/${index}`,
      )
    return [half(items.slice(middle).flat(), 1), half(items.slice(0, middle).flat(), 0)]
  }

  /** Goes on with what bisection left, or gives the slot back. */
  #next(): void {
    if (this.#over) return
    for (let portion = this.#rest.pop(); portion !== undefined; portion = this.#rest.pop()) {
      if (portion.settled) continue
      this.#portion = portion
      return this.start()
    }
    this.#over = true
    this.#host.release(this)
  }

  #endAttempt(): void {
    this.#clearTimer()
    this.#current = undefined
  }

  #clearTimer(): void {
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
  }

  get #forsaken(): boolean {
    return this.live === 0 || (this.#bisecting && this.#portion.settled)
  }
}

/** Entries that share an item, together. */
function byKey<E extends Entry>(entries: readonly E[]): E[][] {
  const items = new Map<unknown, E[]>()
  for (const entry of entries) {
    const same = items.get(entry.key)
    if (same === undefined) items.set(entry.key, [entry])
    else same.push(entry)
  }
  return [...items.values()]
}
