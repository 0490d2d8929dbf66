import type { Clock } from '../../core/clock.js'
import { isSpillwayError, StoreError } from '../../core/errors.js'
import { checkDuration } from '../../core/options.js'
import { handled, rejected } from '../../internal/deferred.js'
import { LazySignal } from '../../internal/lazy-signal.js'

/** Why a lease was lost: Redis had it no more, or it may have ended there since it couldn't, or wasn't to, be extended. */
export type LeaseLoss = 'gone' | 'expired'

/** The right to do something that nobody else does at the same time, for a while. See {@link RedisLock} for what it is worth. */
export interface RedisLease extends AsyncDisposable {
  /** What is locked. */
  readonly name: string
  /**
   * The fencing token: greater than that of every lease of this name before it. A resource that refuses whatever comes with a smaller
   * token than one it has seen is safe from owners who don't know yet that they lost the lock.
   */
  readonly token: number
  /** Whether somebody else had it first. */
  readonly waited: boolean
  /**
   * Aborts, with a `StoreError`, when the lease is lost, and when it can't be known to be held any more: before it could have ended on the
   * server, as long as this process isn't held up for a twentieth of the time to live; one that is finds out when it goes on, by a timer or
   * by the first look at `signal` or `held`, whichever comes first. To release it doesn't abort it.
   */
  readonly signal: AbortSignal
  /** Whether it is held, as far as can be known at this moment. */
  readonly held: boolean
  /**
   * Lets it last for so long from now, in milliseconds, by default as long as at first; never shorter than it would anyway. With a lock that
   * has a `maxHoldMs`, no longer than that.
   *
   * @returns false where it was lost, or released. Rejects with an `OptionError`, or with a `StoreError` or `TimeoutError` where Redis
   * can't be asked: it is held on then, for as long as it was before.
   */
  extend(ms?: number): Promise<boolean>
  /**
   * Gives it back, once: a second call gets the answer of the first.
   *
   * @returns whether it was still there; if not, others may have had it already. Rejects with a `StoreError` or `TimeoutError` where Redis can't be asked:
   * it ends by itself then.
   */
  release(): Promise<boolean>
  /** Gives it back at the end of an `await using` block. Never rejects. */
  [Symbol.asyncDispose](): Promise<void>
}

/** What a lease needs of its lock. */
export interface LeaseHost {
  readonly clock: Clock
  readonly lockName: string
  readonly ttlMs: number
  /** Whether it extends itself. */
  readonly extend: boolean
  readonly maxHoldMs: number | undefined
  /** Asks Redis, at most for so long; whether the lock is still the owner's. */
  extendLock(ttlMs: number, timeoutMs: number): Promise<boolean>
  /** Asks Redis, more than once if need be. `unsure`: an attempt before the last one may have released it. */
  releaseLock(): Promise<{ readonly released: boolean; readonly unsure: boolean }>
  recordExtended(): void
  recordExtendFailed(lease: RedisLease, error: unknown): void
  recordLost(lease: RedisLease, reason: LeaseLoss, error: unknown): void
  recordReleased(lease: RedisLease): void
  recordReleaseFailed(lease: RedisLease, error: unknown): void
}

/** How long a lease lasts for its owner: less than on the server, since no two clocks run alike and timers come late. */
export function safeMs(ttlMs: number): number {
  return ttlMs * 0.95 - 2
}

/** Between attempts to extend, as a share of the time to live. */
const retryShare = 0.05

/** A lease that was granted. */
export class GrantedLease implements RedisLease {
  readonly name: string
  readonly token: number
  readonly waited: boolean
  readonly #host: LeaseHost
  readonly #signal = new LazySignal()
  /** When it may have ended on the server, on this process' clock. */
  #until: number
  /** When its time is over, whatever is done. */
  readonly #latest: number
  #state: 'held' | 'releasing' | 'ended' = 'held'
  /** Whether Redis said that it isn't ours. */
  #gone = false
  #extendError: unknown
  #releasing: Promise<boolean> | undefined
  #cancelEnd: (() => void) | undefined
  #cancelExtension: (() => void) | undefined

  /** @param sentMs - when the call was sent that was granted, on the clock. */
  constructor(host: LeaseHost, name: string, grant: { token: number; waited: boolean; sentMs: number; ttlMs: number }) {
    this.#host = host
    this.name = name
    this.token = grant.token
    this.waited = grant.waited
    this.#latest = grant.sentMs + (host.maxHoldMs ?? Number.POSITIVE_INFINITY)
    this.#until = Math.min(grant.sentMs + safeMs(grant.ttlMs), this.#latest)
    this.#awaitEnd()
    if (host.extend) this.#scheduleExtension(grant.sentMs + host.ttlMs / 3)
  }

  get signal(): AbortSignal {
    this.#notice()
    return this.#signal.signal
  }

  get held(): boolean {
    this.#notice()
    return this.#state === 'held'
  }

  extend(ms: number = this.#host.ttlMs): Promise<boolean> {
    try {
      checkDuration('ms', ms, 10)
    } catch (error) {
      return rejected(error)
    }
    if (!this.held) return Promise.resolve(false)
    return handled(this.#extend(ms))
  }

  release(): Promise<boolean> {
    this.#releasing ??= handled(this.#release())
    return this.#releasing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => undefined)
  }

  async #extend(ms: number): Promise<boolean> {
    const { clock } = this.#host
    const sentMs = clock.now()
    const leftMs = this.#latest - sentMs
    const ttlMs = Math.min(ms, leftMs)
    if (ttlMs <= 0) return false
    let ours: boolean
    try {
      ours = await this.#host.extendLock(ttlMs, Math.max(1, this.#until - sentMs))
    } catch (error) {
      if (this.#state === 'held') {
        this.#extendError = error
        this.#host.recordExtendFailed(this, error)
      }
      throw error
    }
    if (this.#state !== 'held') return false
    if (!ours) {
      this.#gone = true
      this.#lose('gone')
      return false
    }
    this.#extendError = undefined
    this.#until = Math.max(this.#until, Math.min(sentMs + safeMs(ttlMs), this.#latest))
    this.#host.recordExtended()
    return true
  }

  async #extendItself(): Promise<void> {
    const { clock, ttlMs } = this.#host
    // It is over, or nothing is left to extend to.
    if (!this.held || this.#until >= this.#latest) return
    const sentMs = clock.now()
    const extended = await this.#extend(ttlMs).then(
      () => true,
      () => false,
    )
    if (this.#state !== 'held') return
    this.#scheduleExtension(extended ? sentMs + ttlMs / 3 : clock.now() + ttlMs * retryShare)
  }

  #scheduleExtension(at: number): void {
    const { clock } = this.#host
    const delayMs = Math.max(0, at - clock.now())
    this.#cancelExtension = clock.setTimer(() => void this.#extendItself(), delayMs, { keepAlive: false })
  }

  /** One timer, which looks again where the lease was extended meanwhile. */
  #awaitEnd(): void {
    const { clock } = this.#host
    const end = (): void => (this.#isInTime ? this.#awaitEnd() : this.#lose('expired'))
    this.#cancelEnd = clock.setTimer(end, Math.max(0, this.#until - clock.now()), { keepAlive: false })
  }

  get #isInTime(): boolean {
    return this.#host.clock.now() < this.#until
  }

  /** Where this process was held up, whoever asks comes before the timer. */
  #notice(): void {
    if (this.#state === 'held' && !this.#isInTime) this.#lose('expired')
  }

  #lose(reason: LeaseLoss): void {
    if (this.#state === 'ended') return
    this.#state = 'ended'
    this.#stopTimers()
    const cause = reason === 'expired' ? this.#extendError : undefined
    const what =
      reason === 'gone'
        ? 'Redis has it no more'
        : cause === undefined
          ? 'its time is over'
          : `not extended: ${textOf(cause)}`
    const message = `${this.#host.lockName}: the lease of ${JSON.stringify(this.name)} was lost: ${what}`
    const error = new StoreError(message, cause === undefined ? undefined : { cause, outcomeUnknown: false })
    this.#host.recordLost(this, reason, error)
    this.#signal.abort(error)
  }

  async #release(): Promise<boolean> {
    // Somebody else's, or nobody's.
    if (this.#gone) return false
    const lost = this.#state === 'ended'
    const wasHeld = !lost && this.#isInTime
    if (!lost) this.#state = 'releasing'
    this.#stopTimers()
    let answer: { readonly released: boolean; readonly unsure: boolean }
    try {
      answer = await this.#host.releaseLock()
    } catch (error) {
      if (!lost) this.#end(() => this.#host.recordReleaseFailed(this, error))
      throw error
    }
    // An attempt whose answer was lost has released it, if it was held then.
    const released = answer.released || (answer.unsure && wasHeld)
    if (lost) return released
    if (released) this.#end(() => this.#host.recordReleased(this))
    else this.#lose('gone')
    return released
  }

  #end(record: () => void): void {
    this.#state = 'ended'
    record()
  }

  #stopTimers(): void {
    this.#cancelEnd?.()
    this.#cancelExtension?.()
  }
}

function textOf(error: unknown): string {
  return isSpillwayError(error) ? error.message : String(error)
}
