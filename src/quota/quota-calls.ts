import type { Clock } from '../core/clock.js'
import { ClosableComponent, type FlushReport } from '../core/component.js'
import { ClosedError, isSpillwayError } from '../core/errors.js'
import { checkOptions, checkSignal } from '../core/options.js'
import type { CallCounts, LatencySnapshot } from '../core/stats.js'
import { onAbort } from '../internal/abort.js'
import { CallBooks, type OpenEntry, type Outcome } from '../internal/call-books.js'
import { deferred, handled, rejected } from '../internal/deferred.js'
import { LazySignal } from '../internal/lazy-signal.js'
import { Tasks } from '../internal/tasks.js'
import type { WaitOptions } from './reservation.js'

/** What a QuotaService is called for. */
export type QuotaOperation = 'check' | 'consume' | 'consume-sync' | 'reserve' | 'settle' | 'release'

/** What is measured together: checks, uses that nobody checks, and what is atomic in the store. */
export type QuotaOperationKind = 'check' | 'consume' | 'sync'

/** The work behind a call; `ended` aborts when nobody waits for it any more. */
export type QuotaWork<T> = (ended: LazySignal) => Promise<T>

/** Who is told what becomes of calls. */
export interface QuotaCallsListener {
  /** A call ended with an error, and is in the books so. */
  ended(operation: QuotaOperation, outcome: Outcome, error: unknown): void
  /** No call is accepted any more. */
  closing(): void
  /** Nobody waits for what still goes on. */
  abandoned(): void
  closed(): void
}

/** One call that was accepted. */
interface OpenCall extends OpenEntry {
  readonly operation: QuotaOperation
  /** Ends it with an error before its work has ended. */
  readonly giveUp: (outcome: Outcome, error: unknown) => void
}

/** Codes of errors that say no, and not that something broke. */
const refusals: readonly string[] = ['ERR_INVALID_EVENT', 'ERR_QUOTA_EXCEEDED', 'ERR_RESERVATION']

/** The calls of a QuotaService from start to end, and their books: each call is in them once, so that they balance at every moment. */
export class QuotaCalls extends ClosableComponent<Record<never, never>, CallCounts> {
  readonly #books: Readonly<Record<QuotaOperationKind, CallBooks<OpenCall>>>
  readonly #listener: QuotaCallsListener
  /** What goes on at the store though no caller waits for it any more. */
  readonly #left = new Tasks()
  #closed = false

  constructor(name: string, clock: Clock, listener: QuotaCallsListener) {
    super(name, { clock })
    this.#listener = listener
    this.#books = { check: new CallBooks(clock), consume: new CallBooks(clock), sync: new CallBooks(clock) }
  }

  /**
   * Makes a call.
   *
   * @param prepare - checks the arguments, in the caller's own turn, and returns the work. What it throws refuses the call.
   */
  run<T>(operation: QuotaOperation, options: WaitOptions | undefined, prepare: () => QuotaWork<T>): Promise<T> {
    let signal: AbortSignal | undefined
    let work: QuotaWork<T>
    try {
      checkOptions('options', options)
      signal = checkSignal(options?.signal)
      signal?.throwIfAborted()
      if (this.#closed) throw new ClosedError(`${this.name} is closed`)
      work = prepare()
    } catch (error) {
      this.#of(operation).reject()
      return rejected(error)
    }
    return this.#start(operation, signal, work)
  }

  /** Does what no call waits for, but `close` does. What it fails with is nobody's concern. */
  runBehind(work: () => unknown): void {
    this.#left.run(work, () => undefined)
  }

  override async flush(): Promise<FlushReport> {
    const reports = await Promise.all(this.#all().map((books) => books.flush()))
    const sum = (part: 'succeeded' | 'failed'): number => reports.reduce((total, report) => total + report[part], 0)
    return { succeeded: sum('succeeded'), failed: sum('failed'), dropped: 0 }
  }

  override stats(): CallCounts {
    const counts = this.#all().map((books) => books.counts())
    const sum = (part: keyof CallCounts): number => counts.reduce((total, count) => total + count[part], 0)
    return {
      offered: sum('offered'),
      succeeded: sum('succeeded'),
      failed: sum('failed'),
      rejected: sum('rejected'),
      aborted: sum('aborted'),
      pending: sum('pending'),
    }
  }

  latencyMs(): Record<QuotaOperationKind, LatencySnapshot> {
    const { check, consume, sync } = this.#books
    return { check: check.latencyMs(), consume: consume.latencyMs(), sync: sync.latencyMs() }
  }

  protected override async drain(): Promise<void> {
    this.#closed = true
    this.#listener.closing()
    await Promise.all(this.#all().map((books) => books.empty()))
    await this.#left.settled()
    // What those had to clear up.
    await this.#left.settled()
  }

  protected override abandon(): number {
    const left = this.#all().flatMap(({ open }) => [...open])
    this.#listener.abandoned()
    for (const { operation, giveUp } of left) {
      const outcomeUnknown = operation !== 'check'
      giveUp('failed', new ClosedError(`${this.name} was closed before ${operation} was answered`, { outcomeUnknown }))
    }
    return left.length
  }

  protected override release(): void {
    this.#listener.closed()
  }

  #start<T>(operation: QuotaOperation, signal: AbortSignal | undefined, work: QuotaWork<T>): Promise<T> {
    const { promise, resolve, reject } = deferred<T>()
    const ended = new LazySignal()
    const books = this.#of(operation)
    const fail = (outcome: Outcome, error: unknown): boolean => {
      if (!books.settle(call, outcome)) return false
      stopListening?.()
      this.#listener.ended(operation, outcome, error)
      reject(error)
      return true
    }
    const giveUp = (outcome: Outcome, error: unknown): void => {
      if (!fail(outcome, error)) return
      ended.abort(error)
      // A read that nobody hears of may be cut off.
      if (operation !== 'check') this.runBehind(() => Promise.resolve().then(() => done))
    }
    let done: Promise<unknown> | undefined
    const call: OpenCall = { operation, at: this.clock.now(), giveUp }
    books.accept(call)
    const stopListening = signal === undefined ? undefined : onAbort(signal, () => giveUp('aborted', signal.reason))
    done = work(ended).then(
      (answer) => {
        if (!books.settle(call, 'succeeded')) return
        stopListening?.()
        resolve(answer)
      },
      (error: unknown) => fail(outcomeOf(error), error),
    )
    return handled(promise)
  }

  #of(operation: QuotaOperation): CallBooks<OpenCall> {
    return this.#books[operation === 'check' || operation === 'consume' ? operation : 'sync']
  }

  #all(): readonly CallBooks<OpenCall>[] {
    const { check, consume, sync } = this.#books
    return [check, consume, sync]
  }
}

/** How a call ended whose work ended with an error. */
function outcomeOf(error: unknown): 'failed' | 'rejected' {
  return isSpillwayError(error) && refusals.includes(error.code) ? 'rejected' : 'failed'
}
