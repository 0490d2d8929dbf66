import { Component, type ComponentOptions } from '../core/component.js'
import { CircuitOpenError, TimeoutError } from '../core/errors.js'
import { warn } from '../core/events.js'
import {
  checkCount,
  checkDuration,
  checkFunction,
  checkOptionalFunction,
  checkOptions,
  checkRatio,
  checkSignal,
  failOption,
  valueOr,
} from '../core/options.js'
import { onAbort } from '../internal/abort.js'
import { openPromise, rejected } from '../internal/deferred.js'
import { LazySignal } from '../internal/lazy-signal.js'
import { TurnClock } from '../internal/turn-clock.js'
import { type Admission, BreakerMachine, type MachinePolicy, type OpenReason, type Outcome } from './breaker-machine.js'
import { Classifier } from './classifier.js'
import { consecutive, startCounting, type TripPolicy } from './trip-policy.js'

export type { OpenReason, Outcome } from './breaker-machine.js'

/** The states of a {@link CircuitBreaker}. */
export type BreakerState = 'closed' | 'open' | 'half-open' | 'isolated'

/** How the recovery delay grows while a breaker opens again and again without having been closed. */
export interface RecoveryOptions {
  /** By how much each opening multiplies the delay, at least 1. The default is 1: it stays `recoveryTimeoutMs`. */
  factor?: number | undefined
  /**
   * The most that a delay can be, in milliseconds, at least `recoveryTimeoutMs`. The default is 600 000, or `recoveryTimeoutMs`
   * where that is more.
   */
  maxMs?: number | undefined
  /** By which share of itself, at most, a delay is longer or shorter by chance: 0 to 1. The default is 0. */
  jitter?: number | undefined
}

/** Options of {@link CircuitBreaker}. */
export interface CircuitBreakerOptions extends ComponentOptions {
  /**
   * How many failures in a row open it: short for `trip: consecutive(failureThreshold)`, and not to be given with `trip`.
   * @defaultValue 5
   */
  failureThreshold?: number | undefined
  /** When a closed breaker opens. The default is `consecutive(failureThreshold)`. */
  trip?: TripPolicy | undefined
  /**
   * How long it stays open before it lets a probe through, in milliseconds, at least 1.
   * @defaultValue 30_000
   */
  recoveryTimeoutMs?: number | undefined
  /**
   * How that delay grows with each opening since it was last closed.
   * @defaultValue { factor: 1, maxMs: 600_000, jitter: 0 }
   */
  recovery?: RecoveryOptions | undefined
  /**
   * The most probes at once while it is half-open. Everyone else is turned away.
   * @defaultValue 1
   */
  halfOpenRequests?: number | undefined
  /**
   * How many probes must succeed before it closes. One that fails opens it again.
   * @defaultValue 1
   */
  successThreshold?: number | undefined
  /**
   * How long a probe may take, in milliseconds, at least 1. One that takes longer counts as a failure and gives up its slot,
   * though its caller goes on waiting. The default is `recoveryTimeoutMs`.
   */
  probeTimeoutMs?: number | undefined
  /**
   * How long a caller of `execute` waits, in milliseconds, at least 1; after that it gets a `TimeoutError`, which counts as a
   * failure unless `classifyError` says otherwise. The default is no limit.
   */
  timeoutMs?: number | undefined
  /** What an error says about what the breaker guards. By default every error is a `'failure'`. */
  classifyError?: ((error: unknown) => Outcome) | undefined
  /** What a result says about what the breaker guards. By default every result is a `'success'`. */
  classifyResult?: ((result: unknown) => Outcome) | undefined
  /**
   * Asked before each probe, whether it may be made; false turns the caller away. Whoever limits probes across processes answers
   * here. Called within a call: it must not wait. One that throws, or answers a promise, has said yes.
   */
  probeGate?: (() => boolean) | undefined
}

/** What a call of {@link CircuitBreaker.execute} takes. */
export interface ExecuteOptions {
  /** The caller's own abort: `execute` rejects with its reason at once. It says nothing about what the breaker guards. */
  signal?: AbortSignal | undefined
}

/** What the function given to {@link CircuitBreaker.execute} learns. */
export interface ExecuteContext {
  /** Aborts when the caller has aborted or `timeoutMs` has passed. Made when first asked for. */
  readonly signal: AbortSignal
}

/** The leave to make one call, from {@link CircuitBreaker.tryAcquire}. The first outcome that is told counts, once. */
export interface Permit extends Disposable {
  /** It went well. */
  success(): void
  /** It failed. */
  failure(error?: unknown): void
  /** It says nothing about what the breaker guards. */
  ignore(): void
  /** Tells `ignore`, unless an outcome was told. */
  [Symbol.dispose](): void
}

/** Events of {@link CircuitBreaker}. */
export interface CircuitBreakerEvents {
  /** It opened; once a trip. */
  opened: {
    /**
     * `'tripped'`: the trip policy said so. `'probe-failed'`, `'probe-expired'`: it was half-open. `'requested'`: by `open`.
     */
    readonly reason: OpenReason
    /** The failure that opened it, where there was an error: none if a success completed the minimum of calls. */
    readonly error: unknown
    /** How long until it lets a probe through, in milliseconds. */
    readonly retryAfterMs: number
    /** How often it has opened since it was last closed. */
    readonly openings: number
  }
  /** It lets its first probe through. */
  'half-opened': Readonly<Record<string, never>>
  /** It closed: enough probes succeeded, or it was reset. */
  closed: { readonly reason: 'recovered' | 'reset' }
  /** It was isolated. */
  isolated: Readonly<Record<string, never>>
  /** The last isolation was taken back; `state` is what it is then. */
  released: { readonly state: BreakerState }
  /** A call was turned away. For how long isn't known while it is isolated, or a `probeGate` said no. */
  rejected: { readonly state: BreakerState; readonly retryAfterMs: number | undefined }
  /** A call succeeded. A late one was admitted before the breaker's last change of state, or ended during an isolation. */
  succeeded: { readonly late: boolean }
  /** A call failed; where a result was a failure there is no error. */
  failed: { readonly error: unknown; readonly late: boolean }
}

/** Stats of {@link CircuitBreaker}, in calls: `offered = succeeded + failed + ignored + rejected + pending`. */
export interface CircuitBreakerStats {
  /** Its name. */
  readonly name: string
  /** Its state. */
  readonly state: BreakerState
  /** Calls that came. */
  readonly offered: number
  /** Calls that succeeded. */
  readonly succeeded: number
  /** Calls that failed, time-outs and expired probes included. */
  readonly failed: number
  /** Calls that said nothing: aborted by their caller, or classified so. */
  readonly ignored: number
  /** Calls that were turned away. */
  readonly rejected: number
  /** Calls that were let through and whose outcome isn't known yet. */
  readonly pending: number
  /** Of those that succeeded or failed, how many changed nothing, because the breaker's state had changed meanwhile. */
  readonly late: number
  /** How often it opened. */
  readonly opened: number
  /** How often it has opened since it was last closed. */
  readonly openings: number
  /** Half-open slots that are taken. */
  readonly probes: number
  /** How long until it may let a call through, in milliseconds; absent while it is isolated. */
  readonly retryAfterMs: number | undefined
}

/** What outlives a process: from {@link CircuitBreaker.toJSON}, for {@link CircuitBreaker.restore}. */
export interface BreakerSnapshot {
  /** The format. */
  readonly version: 1
  /** The breaker's name. */
  readonly name: string
  /** Its state; that below it while it was isolated, since nobody could take back an isolation that was restored. */
  readonly state: 'closed' | 'open' | 'half-open'
  /** When an open one lets a probe through, in milliseconds since the epoch. */
  readonly dueAtMs?: number
  /** How often it has opened since it was last closed. */
  readonly openings: number
}

/**
 * Stops calling what is failing. While it is closed calls go through and their outcomes are counted; once the trip policy says
 * so it opens and turns everyone away at once; when `recoveryTimeoutMs` has passed it lets a few probes through, and closes
 * or opens again by what becomes of them.
 *
 * It starts no timer but those of `timeoutMs`, and holds nothing, so there is nothing to close.
 *
 * @see Michael T. Nygard, Release It!, 2nd edition, "Circuit Breaker"
 *
 * @example
 * ```ts
 * import { CircuitBreaker, isSpillwayError } from 'spillway'
 *
 * const payments = new CircuitBreaker({ name: 'payments', failureThreshold: 5, recoveryTimeoutMs: 10_000 })
 * try {
 *   await payments.execute(({ signal }) => fetch('http://127.0.0.1:8080/pay', { signal }))
 * } catch (error) {
 *   if (isSpillwayError(error, 'ERR_CIRCUIT_OPEN')) console.log('try again in', error.retryAfterMs, 'ms')
 * }
 * ```
 */
export class CircuitBreaker extends Component<CircuitBreakerEvents, CircuitBreakerStats> {
  /** The options' defaults. */
  static readonly defaults = {
    failureThreshold: 5,
    recoveryTimeoutMs: 30_000,
    recovery: { factor: 1, maxMs: 600_000, jitter: 0 },
    halfOpenRequests: 1,
    successThreshold: 1,
  } as const

  readonly #machine: BreakerMachine
  readonly #policy: MachinePolicy
  readonly #timeoutMs: number | undefined
  readonly #classifier: Classifier

  /** @throws OptionError when an option is wrong. */
  constructor(options: CircuitBreakerOptions = {}) {
    super('circuit-breaker', options)
    this.#timeoutMs = options.timeoutMs === undefined ? undefined : checkDuration('timeoutMs', options.timeoutMs, 1)
    this.#classifier = new Classifier(this.name, options)
    const trip = tripOf(options)
    const { clock, random } = this
    const counter = startCounting(trip, TurnClock.of(clock))
    this.#policy = resolvePolicy(this.name, options, trip.slowCallMs)
    this.#machine = new BreakerMachine(this.#policy, counter, { clock, random }, this.#owner())
  }

  /**
   * Makes a breaker that goes on where another one was: open until the same moment, as far as wall clocks agree. A half-open
   * one is due for a probe. What can't be read gives a closed breaker and a warning of the process.
   *
   * @param snapshot - from `toJSON`, after any number of trips through JSON. Its name is the breaker's unless the options have
   * one; it is open for `recovery.maxMs` at the most, whatever the clocks say.
   */
  static restore(snapshot: unknown, options?: CircuitBreakerOptions): CircuitBreaker {
    if (isSnapshot(snapshot)) {
      const restored = new CircuitBreaker({ ...options, name: valueOr(options?.name, snapshot.name) })
      restored.#restore(snapshot)
      return restored
    }
    const breaker = new CircuitBreaker(options)
    warn(`${breaker.name}: a snapshot can't be read, so the breaker begins closed`)
    return breaker
  }

  /** Its state. It reads `'half-open'` as soon as a probe would be let through; the event comes with the first one. */
  get state(): BreakerState {
    return this.#machine.isolated ? 'isolated' : this.#machine.phase()
  }

  /**
   * How long until it may let a call through, in milliseconds: 0 if it may now, undefined while it is isolated. Half-open with
   * all its probes in flight, that is when the first of them expires, unless one ends before.
   */
  get retryAfterMs(): number | undefined {
    return this.#machine.retryAfterMs()
  }

  /**
   * Calls a function, unless the circuit is open.
   *
   * @param fn - makes the call. It is called within `execute`; what it throws or rejects with is what the caller gets.
   * @returns its result. Rejects with its error, with `CircuitOpenError` when the call is turned away, with `TimeoutError` after
   * `timeoutMs`, with the signal's reason, or with `OptionError`.
   */
  execute<T>(fn: (context: ExecuteContext) => T | PromiseLike<T>, options?: ExecuteOptions): Promise<T> {
    if (this.#machine.free && options === undefined && this.#timeoutMs === undefined && typeof fn === 'function') {
      return this.#executeFreely(fn)
    }
    return this.#executeGuarded(fn, options)
  }

  /** Makes a function that calls another one through the breaker. */
  wrap<A extends unknown[], T>(fn: (...args: A) => T | PromiseLike<T>): (...args: A) => Promise<T> {
    checkFunction('fn', fn)
    const breaker = this
    return function (this: unknown, ...args) {
      return breaker.execute(() => fn.apply(this, args))
    }
  }

  /**
   * Asks for leave to make a call that the breaker doesn't make itself, a stream for instance.
   *
   * @returns a permit, whose outcome must be told, or undefined where the call is turned away.
   */
  tryAcquire(): Permit | undefined {
    const admission = this.#machine.admit()
    if (admission === undefined && this.events.has('rejected')) this.#tellRejected()
    return admission
  }

  /**
   * Opens it by hand, or on the word of another process. One that is open stays so for at least as long.
   *
   * @param options - `forMs`: for how long, in milliseconds, instead of the recovery delay; `error`: what the event says.
   * @throws OptionError when an option is wrong.
   */
  open(options?: { forMs?: number | undefined; error?: unknown }): void {
    checkOptions('options', options)
    if (options?.forMs !== undefined) checkDuration('forMs', options.forMs)
    this.#machine.open(options?.error, options?.forMs)
  }

  /**
   * Turns everyone away, whatever the outcomes, until the function that it returns is called. Then it is again what it was; what
   * ended meanwhile counts for nothing. Several isolations last until each of them was taken back.
   *
   * @returns the function that takes it back.
   */
  isolate(): () => void {
    const first = !this.#machine.isolated
    const release = this.#machine.isolate()
    if (first && this.events.has('isolated')) this.events.emit('isolated', {})
    return () => {
      if (release() && this.events.has('released')) this.events.emit('released', { state: this.state })
    }
  }

  /** Closes it and forgets its counts; calls in flight count for nothing. It doesn't take back an isolation. */
  reset(): void {
    this.#machine.reset()
  }

  /** What outlives the process. Counts of a closed breaker don't. */
  toJSON(): BreakerSnapshot {
    const state = this.#machine.phase()
    const { openings } = this.#machine
    if (state !== 'open') return { version: 1, name: this.name, state, openings }
    const dueAtMs = this.clock.wallNow() + (this.#machine.dueMs - this.clock.now())
    return { version: 1, name: this.name, state, dueAtMs, openings }
  }

  override stats(): CircuitBreakerStats {
    const machine = this.#machine
    // First, since looking may find that a probe has expired.
    const probes = machine.probesInFlight
    const { state, retryAfterMs } = this
    const { offered, succeeded, failed, ignored, rejected, late, opened, openings } = machine
    const pending = offered - succeeded - failed - ignored - rejected
    return {
      name: this.name,
      state,
      offered,
      succeeded,
      failed,
      ignored,
      rejected,
      pending,
      late,
      opened,
      openings,
      probes,
      retryAfterMs,
    }
  }

  /** The path of nearly all calls: closed, nothing to measure or to wait for. */
  async #executeFreely<T>(fn: (context: ExecuteContext) => T | PromiseLike<T>): Promise<T> {
    const machine = this.#machine
    const { generation } = machine
    machine.offered++
    let result: T
    try {
      result = await fn(new LazySignal())
    } catch (error) {
      const outcome = this.#classifier.outcomeOfError(error)
      if (outcome === 'failure') machine.countFailure(generation, 0, error)
      else if (outcome === 'success') machine.countSuccess(generation, 0)
      else machine.ignored++
      throw error
    }
    const outcome = this.#classifier.outcomeOfResult(result)
    if (outcome === 'success') machine.countSuccess(generation, 0)
    else if (outcome === 'failure') machine.countFailure(generation, 0, undefined)
    else machine.ignored++
    return result
  }

  #executeGuarded<T>(
    fn: (context: ExecuteContext) => T | PromiseLike<T>,
    options: ExecuteOptions | undefined,
  ): Promise<T> {
    let signal: AbortSignal | undefined
    try {
      checkFunction('fn', fn)
      checkOptions('options', options)
      signal = checkSignal(options?.signal)
    } catch (error) {
      return rejected(error)
    }
    if (signal?.aborted) {
      this.#machine.offered++
      this.#machine.ignored++
      return rejected(signal.reason)
    }
    const admission = this.#machine.admit()
    if (admission === undefined) {
      if (this.events.has('rejected')) this.#tellRejected()
      return rejected(this.#refusal())
    }
    if (signal === undefined && this.#timeoutMs === undefined) return this.#executeAdmitted(fn, admission)
    return this.#executeWatched(fn, admission, signal)
  }

  async #executeAdmitted<T>(fn: (context: ExecuteContext) => T | PromiseLike<T>, admission: Admission): Promise<T> {
    let result: T
    try {
      result = await fn(new LazySignal())
    } catch (error) {
      this.#machine.settle(admission, this.#classifier.outcomeOfError(error), error)
      throw error
    }
    this.#machine.settle(admission, this.#classifier.outcomeOfResult(result), undefined)
    return result
  }

  /** A call whose caller may stop waiting before it has ended; its slot is taken until then. */
  #executeWatched<T>(
    fn: (context: ExecuteContext) => T | PromiseLike<T>,
    admission: Admission,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    const machine = this.#machine
    const timeoutMs = this.#timeoutMs
    // A listener that was told of the first probe may have aborted it.
    if (signal?.aborted) {
      machine.settle(admission, 'ignore', undefined)
      return rejected(signal.reason)
    }
    const call = new WatchedCall<T>(timeoutMs === undefined ? signal : undefined)
    const leave = (outcome: Outcome, error: unknown): void => {
      call.end()
      machine.settle(admission, outcome, error, true)
      call.reject(error)
      call.context.abort(error)
    }
    if (signal !== undefined) call.stopListening = onAbort(signal, () => leave('ignore', signal.reason))
    if (timeoutMs !== undefined) {
      call.cancelTimer = this.clock.setTimer(() => {
        const error = new TimeoutError(`a call through ${this.name} took longer than ${timeoutMs} ms`, timeoutMs)
        leave(this.#classifier.outcomeOfError(error), error)
      }, timeoutMs)
    }
    const settled = (outcome: Outcome, error: unknown): void => {
      call.end()
      machine.settle(admission, outcome, error)
    }
    callAsync(fn, call.context).then(
      (result) => {
        settled(call.ended ? 'ignore' : this.#classifier.outcomeOfResult(result), undefined)
        call.resolve(result)
      },
      (error: unknown) => {
        settled(call.ended ? 'ignore' : this.#classifier.outcomeOfError(error), error)
        call.reject(error)
      },
    )
    return call.promise
  }

  #refusal(): CircuitOpenError {
    const { name } = this
    const retryAfterMs = this.#refusedForMs()
    if (retryAfterMs === undefined) {
      return new CircuitOpenError(
        `${name} is ${this.#machine.isolated ? 'isolated' : 'half-open, and others probe it'}`,
      )
    }
    const waitMs = Math.ceil(retryAfterMs)
    const message = this.#machine.probing
      ? `${name} is half-open and waits for its probes, for ${waitMs} ms at most`
      : `${name} is open and lets a call through in ${waitMs} ms`
    return new CircuitOpenError(message, { retryAfterMs })
  }

  #tellRejected(): void {
    this.events.emit('rejected', { state: this.state, retryAfterMs: this.#refusedForMs() })
  }

  #refusedForMs(): number | undefined {
    const retryAfterMs = this.#machine.refusedForMs()
    // Nothing stands in its way but the gate, and when that opens isn't known.
    return retryAfterMs === 0 && this.#policy.probeGate !== undefined ? undefined : retryAfterMs
  }

  #restore(snapshot: BreakerSnapshot): void {
    if (snapshot.state === 'closed') return
    const leftMs = snapshot.state === 'open' ? (snapshot.dueAtMs as number) - this.clock.wallNow() : 0
    // However wall clocks have been set, no longer than a breaker of these options can be open.
    const openMs = Math.min(this.#policy.maxMs, Math.max(0, leftMs))
    this.#machine.restoreOpen(this.clock.now() + openMs, snapshot.openings)
  }

  #owner(): ConstructorParameters<typeof BreakerMachine>[3] {
    const { events } = this
    return {
      onSucceeded: (late) => {
        if (events.has('succeeded')) events.emit('succeeded', { late })
      },
      onFailed: (error, late) => {
        if (events.has('failed')) events.emit('failed', { error, late })
      },
      onOpened: (reason, error) => {
        if (!events.has('opened')) return
        const { openings, dueMs } = this.#machine
        events.emit('opened', { reason, error, retryAfterMs: Math.max(0, dueMs - this.clock.now()), openings })
      },
      onHalfOpened: () => {
        if (events.has('half-opened')) events.emit('half-opened', {})
      },
      onClosed: (reason) => {
        if (events.has('closed')) events.emit('closed', { reason })
      },
    }
  }
}

/** A caller that waits for a call, or has stopped waiting. */
class WatchedCall<T> {
  readonly promise!: Promise<T>
  readonly resolve!: (value: T) => void
  readonly reject!: (reason: unknown) => void
  readonly context: LazySignal
  stopListening: (() => void) | undefined
  cancelTimer: (() => void) | undefined
  ended = false

  constructor(signal: AbortSignal | undefined) {
    this.context = new LazySignal(signal)
    openPromise<T>(this as never)
  }

  /** From here on nothing is waited for. */
  end(): void {
    this.ended = true
    this.stopListening?.()
    this.cancelTimer?.()
  }
}

async function callAsync<T>(fn: (context: ExecuteContext) => T | PromiseLike<T>, context: ExecuteContext): Promise<T> {
  return fn(context)
}

function tripOf(options: CircuitBreakerOptions): TripPolicy {
  const { trip, failureThreshold } = options
  if (trip === undefined) {
    const threshold = valueOr(failureThreshold, CircuitBreaker.defaults.failureThreshold)
    return consecutive(checkCount('failureThreshold', threshold))
  }
  if (failureThreshold !== undefined) failOption('failureThreshold', 'must not be given with trip', failureThreshold)
  return trip
}

function resolvePolicy(name: string, options: CircuitBreakerOptions, slowCallMs: number | undefined): MachinePolicy {
  const { defaults } = CircuitBreaker
  const recoveryTimeoutMs = checkDuration(
    'recoveryTimeoutMs',
    valueOr(options.recoveryTimeoutMs, defaults.recoveryTimeoutMs),
    1,
  )
  const { recovery } = options
  checkOptions('recovery', recovery)
  const fallbackMaxMs = Math.max(recoveryTimeoutMs, defaults.recovery.maxMs)
  const factor = valueOr(recovery?.factor, defaults.recovery.factor)
  if (typeof factor !== 'number' || !(factor >= 1 && factor < Number.POSITIVE_INFINITY)) {
    failOption('recovery.factor', 'must be a number of 1 or more', factor)
  }
  return {
    name,
    recoveryTimeoutMs,
    factor,
    maxMs: checkDuration('recovery.maxMs', valueOr(recovery?.maxMs, fallbackMaxMs), recoveryTimeoutMs),
    jitter: checkRatio('recovery.jitter', valueOr(recovery?.jitter, defaults.recovery.jitter)),
    halfOpenRequests: checkCount('halfOpenRequests', valueOr(options.halfOpenRequests, defaults.halfOpenRequests)),
    successThreshold: checkCount('successThreshold', valueOr(options.successThreshold, defaults.successThreshold)),
    probeTimeoutMs: checkDuration('probeTimeoutMs', valueOr(options.probeTimeoutMs, recoveryTimeoutMs), 1),
    slowCallMs,
    probeGate: checkOptionalFunction('probeGate', options.probeGate),
  }
}

function isSnapshot(value: unknown): value is BreakerSnapshot {
  if (typeof value !== 'object' || value === null) return false
  const { version, name, state, dueAtMs, openings } = value as Partial<Record<keyof BreakerSnapshot, unknown>>
  return (
    version === 1 &&
    (state === 'closed' || state === 'half-open' || (state === 'open' && Number.isFinite(dueAtMs))) &&
    Number.isInteger(openings) &&
    (openings as number) >= 0 &&
    typeof name === 'string'
  )
}
