import type { Clock } from '../core/clock.js'
import { TimeoutError } from '../core/errors.js'
import type { OpenEntry } from '../internal/call-books.js'
import { type Deferred, deferred, handled } from '../internal/deferred.js'
import { LazySignal } from '../internal/lazy-signal.js'
import { attempt } from '../internal/tasks.js'
import type { FetchToken, TokenContext, TokenGrant } from './token-cache-options.js'
import type { Moment } from './token-life.js'

/** What a fetch takes from what it is for. */
export interface FlightSlot<K> {
  readonly key: K
  readonly token: string | undefined
  readonly previous: string | undefined
  readonly invalidated: boolean
}

/** A caller who waits for a fetch, or all those of one turn who wait without a signal. */
export class TokenWaiter<K, Slot extends FlightSlot<K>> implements OpenEntry {
  readonly at: number
  readonly flight: TokenFlight<K, Slot>
  count = 1
  readonly answer: Deferred<string> = deferred()
  /** Takes the listener off its signal. */
  stopListening: (() => void) | undefined

  constructor(at: number, flight: TokenFlight<K, Slot>) {
    this.at = at
    this.flight = flight
    handled(this.answer.promise)
  }
}

/** What a flight is made of. */
export interface FlightPlan<K, Slot extends FlightSlot<K>> {
  readonly name: string
  readonly clock: Clock
  readonly slot: Slot
  /** Whether it was begun for nobody in particular, so that it goes on when nobody waits for it. */
  readonly background: boolean
  readonly timeoutMs: number
  /** Hears once how it ended, unless it was given up. */
  readonly onEnd: (flight: TokenFlight<K, Slot>, end: FlightEnd) => void
}

/** What a fetch ended with. */
export type FlightEnd = { readonly grant: TokenGrant } | { readonly error: unknown }

/** One fetch of a token, and those who wait for it. */
export class TokenFlight<K, Slot extends FlightSlot<K>> {
  readonly slot: Slot
  readonly background: boolean
  readonly started: Moment
  /** Whether it is to replace a token that a server refused. */
  readonly afterInvalidate: boolean
  readonly waiters: Set<TokenWaiter<K, Slot>> = new Set()
  /** The one that others without a signal may join, and the turn in which they may. */
  crowd: { readonly waiter: TokenWaiter<K, Slot>; readonly turn: number } | undefined
  readonly #plan: FlightPlan<K, Slot>
  readonly #signal = new LazySignal()
  #cancelTimer: (() => void) | undefined
  #timerKeepsAlive = false
  #begun = false
  #ended = false
  /** Whether it took too long. */
  timedOut: boolean = false

  constructor(plan: FlightPlan<K, Slot>) {
    const { slot, clock, background } = plan
    this.#plan = plan
    this.slot = slot
    this.background = background
    this.afterInvalidate = slot.invalidated
    this.started = { now: clock.now(), wallNow: clock.wallNow() }
  }

  /** Begins to fetch, once; called after the first waiter has joined, since `fetchToken` may do anything. */
  begin(fetchToken: FetchToken<K>): void {
    if (this.#begun || this.#ended) return
    this.#begun = true
    const { slot } = this
    this.#setTimer(this.waiters.size > 0)
    const context = new FlightContext(this.#signal, slot.token ?? slot.previous)
    attempt(() => fetchToken(slot.key, context)).then(
      (grant) => this.#end({ grant }),
      (error: unknown) => this.#end({ error }),
    )
  }

  join(waiter: TokenWaiter<K, Slot>): void {
    this.waiters.add(waiter)
    // What nobody waited for needn't keep the process alive; this caller does.
    if (this.#begun && !this.#ended && !this.#timerKeepsAlive) this.#setTimer(true)
  }

  /** Whether it has ended or was given up. */
  get ended(): boolean {
    return this.#ended
  }

  /** Gives it up: what it brings is heard by nobody. */
  cancel(reason: unknown): void {
    if (this.#ended) return
    this.#ended = true
    this.#cancelTimer?.()
    this.#signal.abort(reason)
  }

  #end(end: FlightEnd): void {
    if (this.#ended) return
    this.#ended = true
    this.#cancelTimer?.()
    this.#plan.onEnd(this, end)
  }

  #setTimer(keepAlive: boolean): void {
    const { clock, timeoutMs, name } = this.#plan
    this.#cancelTimer?.()
    this.#timerKeepsAlive = keepAlive
    const leftMs = Math.max(0, this.started.now + timeoutMs - clock.now())
    const expire = (): void => {
      const error = new TimeoutError(`${name}: fetching a token took longer than ${timeoutMs} ms`, timeoutMs)
      this.timedOut = true
      this.#end({ error })
      this.#signal.abort(error)
    }
    this.#cancelTimer = clock.setTimer(expire, leftMs, { keepAlive })
  }
}

/** Getters, so that the signal is made only where it is asked for, and so that no log of the context holds the token. */
class FlightContext implements TokenContext {
  readonly #signal: LazySignal
  readonly #previous: string | undefined

  constructor(signal: LazySignal, previous: string | undefined) {
    this.#signal = signal
    this.#previous = previous
  }

  get signal(): AbortSignal {
    return this.#signal.signal
  }

  get previous(): string | undefined {
    return this.#previous
  }
}
