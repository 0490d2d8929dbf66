import { ClosableComponent, type FlushReport } from '../core/component.js'
import { ClosedError, OptionError } from '../core/errors.js'
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
import { backoffMs, resolveRetry } from '../core/retry.js'
import { onAbort } from '../internal/abort.js'
import { type ContextRunner, captureContext } from '../internal/async-context.js'
import { CallBooks } from '../internal/call-books.js'
import { rejected } from '../internal/deferred.js'
import { TurnClock } from '../internal/turn-clock.js'
import { isTerminalByDefault, retryAfterMsOf } from './fetch-failure.js'
import type { TokenCacheEvents, TokenCacheStats } from './token-cache-events.js'
import type {
  FetchToken,
  TokenCacheSetting,
  TokenGetArguments,
  TokenGetOptions,
  TokenSource,
} from './token-cache-options.js'
import { type FlightEnd, TokenFlight, TokenWaiter } from './token-flight.js'
import { type Moment, readGrant, type TokenLife } from './token-life.js'
import type { TokenSlot, TokenWindows } from './token-slot.js'
import { TokenSlots } from './token-slots.js'

type Flight<K> = TokenFlight<K, TokenSlot<K>>
type Waiter<K> = TokenWaiter<K, TokenSlot<K>>

/**
 * Keeps tokens and replaces them early: one fetch for everyone, behind its callers, before the token expires.
 *
 * @example
 * ```ts
 * import { TokenCache } from 'spillway'
 *
 * declare function login(signal: AbortSignal): Promise<{ access_token: string; expires_in: number }>
 *
 * const tokens = new TokenCache(async (_key, { signal }) => {
 *   const { access_token, expires_in } = await login(signal)
 *   return { token: access_token, expiresInMs: expires_in * 1000 }
 * })
 * const headers = { authorization: `Bearer ${await tokens.get()}` }
 * ```
 */
export class TokenCache<K = string> extends ClosableComponent<TokenCacheEvents<K>, TokenCacheStats> {
  /** The options' defaults. */
  static readonly defaults = {
    defaultTtlMs: 3_600_000,
    refreshAheadMs: 600_000,
    mandatoryMs: 60_000,
    jitter: 0.1,
    timeoutMs: 10_000,
    capacity: 1000,
    invalidateCooldownMs: 5000,
    terminalCooldownMs: 1000,
    retry: { delayMs: 1000, maxDelayMs: 60_000 },
  } as const

  readonly #fetchToken: FetchToken<K>
  readonly #keyOf: ((key: K) => string) | undefined
  readonly #isTerminal: (error: unknown) => boolean
  readonly #windows: TokenWindows
  readonly #defaultTtlMs: number
  readonly #timeoutMs: number
  readonly #capacity: number
  readonly #invalidateCooldownMs: number
  readonly #terminalCooldownMs: number
  readonly #backoff: { readonly delayMs: number; readonly maxDelayMs: number }
  readonly #turns: TurnClock
  readonly #inContext: ContextRunner

  readonly #slots = new TokenSlots<K>()
  /** All that fetches, also for keys that had to go. */
  readonly #flights = new Set<Flight<K>>()
  readonly #idle = new Set<() => void>()
  readonly #books: CallBooks<Waiter<K>>
  #closed = false
  #warned = false

  #hits = 0
  /** Calls that were given the error of an earlier fetch. */
  #refused = 0
  #fetches = 0
  #refreshed = 0
  #discarded = 0
  #refreshFailures = 0
  #fetchesAborted = 0
  #timeouts = 0
  #invalidated = 0
  #invalidationsIgnored = 0
  #invalidationsHeld = 0
  #evicted = 0

  /**
   * @param fetchToken - fetches the token of a key.
   * @param options - its {@link TokenCacheOptions}; `keyOf` is needed where keys aren't strings.
   * @throws OptionError when an option is wrong.
   */
  constructor(fetchToken: FetchToken<K>, ...[options]: TokenCacheSetting<K>) {
    super('token-cache', options)
    const { defaults } = TokenCache
    this.#fetchToken = checkFunction('fetchToken', fetchToken)
    this.#keyOf = checkOptionalFunction('keyOf', options?.keyOf)
    this.#isTerminal = checkOptionalFunction('isTerminal', options?.isTerminal) ?? isTerminalByDefault
    this.#windows = {
      refreshAheadMs: checkDuration('refreshAheadMs', valueOr(options?.refreshAheadMs, defaults.refreshAheadMs)),
      mandatoryMs: checkDuration('mandatoryMs', valueOr(options?.mandatoryMs, defaults.mandatoryMs)),
      jitter: checkRatio('jitter', valueOr(options?.jitter, defaults.jitter)),
    }
    const defaultTtlMs = valueOr(options?.defaultTtlMs, defaults.defaultTtlMs)
    // No timer waits for it, so that it may be longer than one can.
    this.#defaultTtlMs = checkDuration('defaultTtlMs', defaultTtlMs, 1, Number.POSITIVE_INFINITY)
    this.#timeoutMs = checkDuration('timeoutMs', valueOr(options?.timeoutMs, defaults.timeoutMs), 1)
    this.#capacity = checkCount('capacity', valueOr(options?.capacity, defaults.capacity))
    this.#invalidateCooldownMs = checkDuration(
      'invalidateCooldownMs',
      valueOr(options?.invalidateCooldownMs, defaults.invalidateCooldownMs),
    )
    this.#terminalCooldownMs = checkDuration(
      'terminalCooldownMs',
      valueOr(options?.terminalCooldownMs, defaults.terminalCooldownMs),
    )
    this.#backoff = resolveRetry(options?.retry, { attempts: 1, ...defaults.retry })
    this.#turns = TurnClock.of(this.clock)
    this.#inContext = captureContext()
    this.#books = new CallBooks(this.clock)
  }

  /**
   * The token of a key. One that is fresh is there at once; one that will expire soon is there at once too, and is replaced behind the
   * callers; who comes when it is about to expire, or when there is none, waits for the one fetch.
   *
   * @param args - the key, where there are several, and {@link TokenGetOptions}: `get(key, { signal })`.
   * @returns the token. Rejects with what `fetchToken` failed with, `TimeoutError` when it took too long, `TokenError` when it gave no
   * token that can be used, `ClosedError`, `OptionError` when an argument is wrong, or the signal's reason. A rejection need not be
   * looked at.
   */
  get(...args: TokenGetArguments<K>): Promise<string>
  get(key?: K, options?: TokenGetOptions): Promise<string> {
    if (this.#keyOf === undefined && isPatient(options)) {
      const slot = this.#slots.get(key === undefined ? '' : (key as string))
      if (slot !== undefined && this.#isFresh(slot)) return this.#hit(slot)
    }
    return this.#find(key as K, options)
  }

  /**
   * Drops a token that a server refused, whichever key holds it; the next call fetches another one, and what a fetch brings that is
   * running now isn't kept. Nothing happens when nobody holds it any more: of many requests that were refused together the first one
   * counts. One that replaced an invalidated token is kept for `invalidateCooldownMs`.
   *
   * @throws OptionError unless it is a string.
   */
  invalidate(token: string): void {
    // Not by describing it: it may be a secret in another shape.
    if (typeof token !== 'string') throw new OptionError('token', `token must be a string, got ${typeof token}`)
    const holders = [...this.#slots.holding(token)]
    if (holders.length === 0) this.#invalidationsIgnored++
    const now = this.clock.now()
    for (const slot of holders) {
      if (now < slot.protectedUntil) this.#invalidationsHeld++
      else this.#recordInvalidated(slot)
    }
  }

  /** The tokens of one key, for what asks for them without one. Its `keyOf` is called now, and not for each token. */
  forKey(key: K): TokenSource {
    const id = this.#idOf(key)
    return {
      get: (_key?: undefined, options?: TokenGetOptions): Promise<string> => {
        if (isPatient(options)) {
          const slot = this.#slots.get(id)
          if (slot !== undefined && this.#isFresh(slot)) return this.#hit(slot)
        }
        return this.#find(key, options, id)
      },
      invalidate: (token: string): void => this.invalidate(token),
    }
  }

  /** Waits for all that is being fetched now, with or without somebody who waits for it; reports on those who do. */
  async flush(): Promise<FlushReport> {
    const running = [...this.#flights]
    // Who comes from now on is not in the report.
    for (const flight of running) flight.crowd = undefined
    const report = await this.#books.flush()
    while (running.some((flight) => !flight.ended)) {
      await new Promise<void>((resolve) => {
        this.#idle.add(resolve)
      })
    }
    return report
  }

  stats(): TokenCacheStats {
    const counts = this.#books.counts()
    return {
      name: this.name,
      ...counts,
      offered: counts.offered + this.#hits + this.#refused,
      succeeded: counts.succeeded + this.#hits,
      failed: counts.failed + this.#refused,
      hits: this.#hits,
      keys: this.#slots.size,
      fetches: this.#fetches,
      fetching: this.#flights.size,
      refreshed: this.#refreshed,
      discarded: this.#discarded,
      refreshFailures: this.#refreshFailures,
      fetchesAborted: this.#fetchesAborted,
      timeouts: this.#timeouts,
      invalidated: this.#invalidated,
      invalidationsIgnored: this.#invalidationsIgnored,
      invalidationsHeld: this.#invalidationsHeld,
      evicted: this.#evicted,
      latencyMs: this.#books.latencyMs(),
    }
  }

  protected drain(): Promise<void> {
    this.#closed = true
    for (const slot of this.#slots.all()) this.#remove(slot, this.#closedError())
    return this.#books.empty()
  }

  protected abandon(): number {
    const left = [...this.#books.open]
    for (const waiter of left) this.#settle(waiter, 'failed', this.#closedError())
    for (const flight of [...this.#flights]) this.#cancel(flight, this.#closedError())
    return left.reduce((calls, waiter) => calls + waiter.count, 0)
  }

  /** Whether a token needs nothing but to be given away, by either clock. */
  #isFresh(slot: TokenSlot<K>): boolean {
    const turns = this.#turns
    if (slot.freshIn === turns.turn) return true
    if (turns.now() >= slot.refreshAt || turns.wallNow() - slot.wallOffsetMs >= slot.refreshAt) return false
    // It stays so for the rest of the turn, whose time stands still.
    slot.freshIn = turns.turn
    return true
  }

  #hit(slot: TokenSlot<K>): Promise<string> {
    this.#hits++
    this.#slots.touch(slot)
    return slot.promise as Promise<string>
  }

  #idOf(key: K): string {
    if (this.#keyOf !== undefined) {
      const id = this.#keyOf(key)
      if (typeof id !== 'string') failOption('keyOf', 'must give a string', id)
      return id
    }
    if (key === undefined) return ''
    if (typeof key !== 'string') failOption('key', 'must be a string where there is no keyOf', key)
    return key
  }

  #find(key: K, options: TokenGetOptions | undefined, knownId?: string): Promise<string> {
    let slot: TokenSlot<K>
    try {
      checkOptions('options', options)
      checkSignal(options?.signal)
      if (this.#closed) throw this.#closedError()
      const id = knownId ?? this.#idOf(key)
      options?.signal?.throwIfAborted()
      slot = this.#slots.get(id) ?? this.#add(id, key === undefined && this.#keyOf === undefined ? (id as K) : key)
    } catch (error) {
      this.#books.reject()
      return rejected(error)
    }
    return this.#ask(slot, options?.signal)
  }

  /** Answers, waits or refuses, by the time of life that the token is in. */
  #ask(slot: TokenSlot<K>, signal: AbortSignal | undefined): Promise<string> {
    const time = slot.token === undefined ? Number.POSITIVE_INFINITY : this.#timeOf(slot)
    if (time < slot.expiresAt) {
      const mayRefresh = slot.flight === undefined && this.clock.now() >= slot.refreshAfter
      if (time < slot.mandatoryAt) {
        const answer = this.#hit(slot)
        if (time >= slot.refreshAt && mayRefresh) this.#begin(this.#launch(slot, true))
        return answer
      }
      if (slot.flight === undefined && !mayRefresh) return this.#hit(slot)
    } else if (slot.flight === undefined && slot.refusal !== undefined && this.clock.now() < slot.refusal.until) {
      this.#refused++
      return rejected(slot.refusal.error)
    }
    this.#slots.touch(slot)
    if (slot.flight !== undefined) return this.#wait(slot.flight, signal)
    const flight = this.#launch(slot, false)
    const answer = this.#wait(flight, signal)
    this.#begin(flight)
    return answer
  }

  /** What its token must count by: the later of both clocks. Machines sleep, and wall clocks are put back. */
  #timeOf(slot: TokenSlot<K>): number {
    return Math.max(this.clock.now(), this.clock.wallNow() - slot.wallOffsetMs)
  }

  #wait(flight: Flight<K>, signal: AbortSignal | undefined): Promise<string> {
    if (signal === undefined) return this.#waitWithOthers(flight)
    const waiter = this.#join(flight)
    waiter.stopListening = onAbort(signal, () => {
      this.#settle(waiter, 'aborted', signal.reason)
      if (!this.#isWanted(flight)) this.#cancel(flight, signal.reason)
    })
    return waiter.answer.promise
  }

  /** Those who came in the same turn and can't go get the same promise: a thousand of them cost little more than one. */
  #waitWithOthers(flight: Flight<K>): Promise<string> {
    // A turn goes on until the one in which its clock was read ends.
    this.#turns.now()
    const { turn } = this.#turns
    if (flight.crowd?.turn === turn) this.#books.acceptAnother(flight.crowd.waiter)
    else flight.crowd = { waiter: this.#join(flight), turn }
    return flight.crowd.waiter.answer.promise
  }

  #join(flight: Flight<K>): Waiter<K> {
    const waiter = new TokenWaiter(this.clock.now(), flight)
    this.#books.accept(waiter)
    flight.join(waiter)
    return waiter
  }

  #settle(waiter: Waiter<K>, outcome: 'failed' | 'aborted', reason: unknown): void {
    if (!this.#books.settle(waiter, outcome)) return
    waiter.stopListening?.()
    waiter.flight.waiters.delete(waiter)
    waiter.answer.reject(reason)
  }

  #launch(slot: TokenSlot<K>, background: boolean): Flight<K> {
    const flight = new TokenFlight<K, TokenSlot<K>>({
      name: this.name,
      clock: this.clock,
      slot,
      background,
      timeoutMs: this.#timeoutMs,
      onEnd: (ended, end) => this.#land(ended, end),
    })
    slot.flight = flight
    this.#flights.add(flight)
    this.#fetches++
    return flight
  }

  #begin(flight: Flight<K>): void {
    this.#inContext(() => flight.begin(this.#fetchToken))
  }

  #land(flight: Flight<K>, end: FlightEnd): void {
    const { slot } = flight
    const kept = slot.flight === flight
    if (kept) slot.flight = undefined
    const arrived = { now: this.clock.now(), wallNow: this.clock.wallNow() }
    let life: TokenLife | undefined
    try {
      if ('error' in end) throw end.error
      life = readGrant(end.grant, flight.started, arrived, this.#defaultTtlMs)
    } catch (error) {
      this.#fail(flight, error, kept)
    }
    if (life !== undefined) {
      if (kept) this.#keep(flight, life, arrived)
      this.#recordRefreshed(flight, kept)
      this.#answer(flight, life.token)
    }
    this.#ended(flight)
  }

  #keep({ slot, afterInvalidate }: Flight<K>, life: TokenLife, arrived: Moment): void {
    this.#slots.noteGone(slot)
    slot.hold(life, this.#windows, this.random)
    this.#slots.noteHeld(slot)
    if (afterInvalidate) slot.protectedUntil = arrived.now + this.#invalidateCooldownMs
  }

  #fail(flight: Flight<K>, error: unknown, kept: boolean): void {
    const { slot } = flight
    const now = this.clock.now()
    const terminal = this.#judge(error)
    // As of now: a listener may have it invalidated.
    const { token } = slot
    const served = this.#timeOf(slot) < slot.expiresAt
    const askedMs = retryAfterMsOf(error)
    let retryInMs = 0
    if (kept) {
      slot.failures++
      const putOffMs = terminal
        ? Number.POSITIVE_INFINITY
        : Math.max(askedMs, backoffMs(slot.failures, this.#backoff, this.random))
      slot.refreshAfter = now + putOffMs
      const refusedMs = Math.max(askedMs, terminal ? this.#terminalCooldownMs : 0)
      slot.refusal = refusedMs > 0 ? { error, until: now + refusedMs, terminal: askedMs === 0 } : undefined
      retryInMs = served ? putOffMs : refusedMs
      if (slot.empty) this.#slots.delete(slot)
    }
    this.#recordFailure(flight, error, { terminal, served, retryInMs })
    if (served) this.#answer(flight, token as string)
    else for (const waiter of [...flight.waiters]) this.#settle(waiter, 'failed', error)
  }

  #judge(error: unknown): boolean {
    try {
      return Boolean(this.#isTerminal(error))
    } catch {
      // Not with what it threw: that may quote the error, which may quote a token.
      if (!this.#warned) warn(`${this.name}'s isTerminal threw, so that the default applies`)
      this.#warned = true
      return isTerminalByDefault(error)
    }
  }

  #answer(flight: Flight<K>, token: string): void {
    for (const waiter of flight.waiters) {
      waiter.stopListening?.()
      this.#books.settle(waiter, 'succeeded')
      waiter.answer.resolve(token)
    }
    flight.waiters.clear()
  }

  #cancel(flight: Flight<K>, reason: unknown): void {
    if (flight.ended) return
    if (flight.slot.flight === flight) flight.slot.flight = undefined
    this.#fetchesAborted++
    flight.cancel(reason)
    if (flight.slot.empty) this.#slots.delete(flight.slot)
    this.#ended(flight)
  }

  #ended(flight: Flight<K>): void {
    this.#flights.delete(flight)
    for (const wake of this.#idle) wake()
    this.#idle.clear()
  }

  #add(id: string, key: K): TokenSlot<K> {
    // Room is made afterwards: a fetch that is given up for it may ask for this key again.
    const slot = this.#slots.add(id, key)
    const { oldest } = this.#slots
    if (this.#slots.size > this.#capacity && oldest !== undefined) {
      this.#evicted++
      this.#remove(oldest, new ClosedError(`${this.name} has no room for this key (capacity ${this.#capacity})`))
    }
    return slot
  }

  /** Forgets a key; what is being fetched for it goes to those who wait for it. */
  #remove(slot: TokenSlot<K>, reason: unknown): void {
    this.#slots.delete(slot)
    this.#detach(slot, reason)
  }

  /** Parts a key from its fetch: what that brings isn't kept. */
  #detach(slot: TokenSlot<K>, reason: unknown): void {
    const { flight } = slot
    slot.flight = undefined
    if (flight !== undefined && !this.#isWanted(flight)) this.#cancel(flight, reason)
  }

  /** Whether somebody waits for what a fetch brings, or it is to be kept for those to come. */
  #isWanted(flight: Flight<K>): boolean {
    return flight.waiters.size > 0 || (flight.background && flight.slot.flight === flight)
  }

  #closedError(): ClosedError {
    return new ClosedError(`${this.name} is closed`)
  }

  #recordRefreshed(flight: Flight<K>, kept: boolean): void {
    if (!kept) {
      this.#discarded++
      return
    }
    this.#refreshed++
    if (!this.events.has('refreshed')) return
    const { slot, background, started } = flight
    this.events.emit('refreshed', {
      key: slot.key,
      background,
      durationMs: this.clock.now() - started.now,
      expiresAt: slot.expiresAt + slot.wallOffsetMs,
      refreshAt: slot.refreshAt + slot.wallOffsetMs,
    })
  }

  #recordFailure(
    flight: Flight<K>,
    error: unknown,
    verdict: { readonly terminal: boolean; readonly served: boolean; readonly retryInMs: number },
  ): void {
    this.#refreshFailures++
    if (flight.timedOut) this.#timeouts++
    if (!this.events.has('refreshFailed')) return
    const { slot, background, started } = flight
    const durationMs = this.clock.now() - started.now
    this.events.emit('refreshFailed', { key: slot.key, background, durationMs, error, ...verdict })
  }

  #recordInvalidated(slot: TokenSlot<K>): void {
    this.#invalidated++
    this.#slots.noteGone(slot)
    slot.drop()
    this.#detach(slot, new ClosedError(`${this.name} no longer wants this token: the one before was invalidated`))
    if (this.events.has('invalidated')) this.events.emit('invalidated', { key: slot.key })
  }
}

/** Whether options surely say nothing against an answer at once; what is doubtful is looked at more closely later. */
function isPatient(options: TokenGetOptions | undefined): boolean {
  return options === undefined || (options !== null && options.signal?.aborted === false)
}
