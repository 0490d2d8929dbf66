import { Component } from '../../core/component.js'
import { TimeoutError } from '../../core/errors.js'
import {
  checkBoolean,
  checkDuration,
  checkFunction,
  checkOptions,
  checkSignal,
  failOption,
  valueOr,
} from '../../core/options.js'
import { onAbort } from '../../internal/abort.js'
import { batchId } from '../../internal/batch-id.js'
import { handled, rejected } from '../../internal/deferred.js'
import { Histogram } from '../../internal/histogram.js'
import { isOutcomeUnknown } from '../../internal/outcome.js'
import { extendLock, lockKeys, releaseLock, takeLock } from './lock-scripts.js'
import { type RedisClient, type RedisFace, redisFace } from './redis-client.js'
import { redisError } from './redis-error.js'
import { GrantedLease, type LeaseHost, type RedisLease, safeMs } from './redis-lease.js'
import type { AcquireOptions, RedisLockEvents, RedisLockOptions, RedisLockStats } from './redis-lock-options.js'
import type { RedisScript } from './redis-script.js'

/** Attempts to give a lease back. */
const releaseAttempts = 3
/** What differs between the moments at which those who wait see a lease end. */
const spreadMs = 10

/**
 * A lock in Redis: at most one process at a time does something, in the usual case. It saves work. What would do harm if two did it after all
 * must compare fencing tokens where it is done: a process may sleep through the end of its lease, and a failover of Redis may lose one.
 *
 * @example
 * ```ts
 * import { Redis } from 'ioredis'
 * import { RedisLock } from 'spillway/redis'
 *
 * const lock = new RedisLock(new Redis('redis://127.0.0.1:6379'))
 *
 * const lease = await lock.acquire('report:2026-11', { waitMs: 5000 })
 * if (lease !== undefined) {
 *   console.log(lease.token)
 *   await lease.release()
 * }
 * ```
 */
export class RedisLock extends Component<RedisLockEvents, RedisLockStats> {
  /** The options' defaults. */
  static readonly defaults = {
    prefix: 'spillway:lock',
    ttlMs: 30_000,
    extend: true,
    timeoutMs: 2000,
    pollMs: 50,
    maxPollMs: 500,
    tokenMemoryMs: 86_400_000,
  } as const

  readonly #face: RedisFace
  readonly #prefix: string
  readonly #ttlMs: number
  readonly #extend: boolean
  readonly #maxHoldMs: number | undefined
  readonly #timeoutMs: number
  readonly #pollMs: number
  readonly #maxPollMs: number
  readonly #tokenMemoryMs: number
  readonly #waits = new Histogram()
  readonly #books = {
    offered: 0,
    acquired: 0,
    busy: 0,
    failed: 0,
    rejected: 0,
    aborted: 0,
    released: 0,
    releaseFailed: 0,
    lost: 0,
    extended: 0,
    extendFailed: 0,
  }

  /**
   * @param client - a client of ioredis or node-redis, single or cluster. It stays the caller's to connect and to close.
   * @throws OptionError when an option is wrong, or the client none that it knows.
   */
  constructor(client: RedisClient, options: RedisLockOptions = {}) {
    super('redis-lock', options)
    const { defaults } = RedisLock
    this.#face = redisFace(client)
    this.#prefix = valueOr<string>(options.prefix, defaults.prefix)
    if (typeof this.#prefix !== 'string' || /[{}]/.test(this.#prefix)) {
      failOption('prefix', 'must be a string without braces', this.#prefix)
    }
    const duration = (field: 'timeoutMs' | 'pollMs' | 'maxPollMs' | 'tokenMemoryMs'): number =>
      checkDuration(field, valueOr<number>(options[field], defaults[field]), 1)
    this.#ttlMs = checkDuration('ttlMs', valueOr<number>(options.ttlMs, defaults.ttlMs), 10)
    this.#extend = checkBoolean('extend', valueOr<boolean>(options.extend, defaults.extend))
    this.#maxHoldMs = options.maxHoldMs === undefined ? undefined : checkDuration('maxHoldMs', options.maxHoldMs, 10)
    this.#timeoutMs = duration('timeoutMs')
    this.#pollMs = duration('pollMs')
    this.#maxPollMs = duration('maxPollMs')
    this.#tokenMemoryMs = duration('tokenMemoryMs')
  }

  /**
   * Takes the lock of a name, waiting for it where somebody else has it. It looks again and again, in no order: who came first isn't
   * served first. Where Redis doesn't answer, it is tried again until `waitMs`, or `timeoutMs` if that is more, has passed.
   *
   * @returns the lease, or undefined where somebody else had it all the time. Rejects with an `OptionError`, the signal's reason, or a
   * `StoreError` or `TimeoutError` where Redis can't be asked. What such a call may have got is given back, at the latest by its end.
   */
  acquire(name: string, options: AcquireOptions = {}): Promise<RedisLease | undefined> {
    this.#books.offered++
    let request: Request
    try {
      request = this.#request(name, options)
    } catch (error) {
      this.#books.rejected++
      return rejected(error)
    }
    return handled(this.#acquire(request))
  }

  /**
   * Does something while it has the lock of a name, and gives it back then, whatever happens. The signal aborts when the lease is lost, or
   * with the caller's own; what `fn` answers after that is the answer all the same.
   *
   * @returns what `fn` does. Rejects as `acquire` does, with a `TimeoutError` where somebody else had the lock all the time, and as `fn`
   * does.
   */
  async run<T>(
    name: string,
    fn: (context: { readonly signal: AbortSignal; readonly token: number }) => T | PromiseLike<T>,
    options: AcquireOptions = {},
  ): Promise<T> {
    checkFunction('fn', fn)
    const lease = await this.acquire(name, options)
    if (lease === undefined) {
      const waitMs = options.waitMs ?? 0
      const message = `${this.name}: ${JSON.stringify(name)} was held by others for ${waitMs} ms`
      throw new TimeoutError(message, waitMs, { outcomeUnknown: false })
    }
    const either = eitherSignal(lease.signal, options.signal)
    try {
      return await fn({ signal: either.signal, token: lease.token })
    } finally {
      either.stop()
      await lease[Symbol.asyncDispose]()
    }
  }

  override stats(): RedisLockStats {
    const {
      offered,
      acquired,
      busy,
      failed,
      rejected,
      aborted,
      released,
      releaseFailed,
      lost,
      extended,
      extendFailed,
    } = this.#books
    const at = (share: number): number => this.#waits.percentile(share)
    return {
      name: this.name,
      offered,
      acquired,
      busy,
      failed,
      rejected,
      aborted,
      pending: offered - acquired - busy - failed - rejected - aborted,
      held: acquired - released - releaseFailed - lost,
      released,
      releaseFailed,
      lost,
      extended,
      extendFailed,
      waitMs: { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: this.#waits.max },
    }
  }

  #request(name: string, options: AcquireOptions): Request {
    if (typeof name !== 'string' || name === '') failOption('name', 'must be a string that is not empty', name)
    checkOptions('options', options)
    const waitMs = checkDuration('waitMs', valueOr<number>(options.waitMs, 0))
    const signal = checkSignal(options.signal)
    const ttlMs = checkDuration('ttlMs', valueOr<number>(options.ttlMs, this.#ttlMs), 10)
    return {
      name,
      keys: lockKeys(this.#prefix, name),
      owner: batchId(this.clock.wallNow()),
      startedMs: this.clock.now(),
      waitMs,
      signal,
      ttlMs: Math.min(ttlMs, this.#maxHoldMs ?? ttlMs),
      over: false,
      unsure: false,
    }
  }

  async #acquire(request: Request): Promise<RedisLease | undefined> {
    const { signal } = request
    let waited = false
    try {
      for (let nth = 1; ; nth++) {
        if (signal?.aborted) throw signal.reason
        const answer = await this.#take(request)
        // Between the answer and here.
        if (signal?.aborted) throw signal.reason
        if (answer.kind === 'taken') return this.#grant(request, answer, waited)
        const elapsedMs = this.clock.now() - request.startedMs
        let longestMs = this.#maxPollMs
        let leftMs = request.waitMs - elapsedMs
        if (answer.kind === 'held') {
          waited = true
          if (leftMs <= 0) {
            this.#giveUp(request, 'busy')
            return undefined
          }
          if (answer.leftMs >= 0) longestMs = Math.min(longestMs, answer.leftMs + 1 + spreadMs * this.random())
        } else {
          leftMs = Math.max(request.waitMs, this.#timeoutMs) - elapsedMs
          if (leftMs <= 0 || answer.final) throw answer.error
        }
        const pollMs = Math.min(this.#maxPollMs, this.#pollMs * 2 ** Math.min(nth - 1, 30))
        await this.#pause(Math.min(pollMs * (0.5 + this.random() / 2), longestMs, leftMs), signal)
      }
    } catch (error) {
      this.#giveUp(request, signal?.aborted ? 'aborted' : 'failed')
      throw signal?.aborted ? signal.reason : error
    }
  }

  /** One attempt. Rejects only when the signal aborts. */
  async #take(request: Request): Promise<Taken | Held | Failed> {
    const { keys, owner, ttlMs, signal } = request
    const sentMs = this.clock.now()
    const memoryMs = this.#memoryMs(ttlMs)
    const { closed, epoch } = this.#face
    const work = takeLock.run(this.#face, keys, [owner, wholeMs(ttlMs), memoryMs])
    const mayBeOurs = (): void => {
      // What is granted to somebody who has gone is given back.
      if (request.over) this.#cleanUp(request)
      else request.unsure = true
    }
    work.then(
      (answer) => void (isTaken(answer) && mayBeOurs()),
      (error: unknown) => void (isOutcomeUnknown(this.#wrap(error, 'acquire', closed, epoch)) && mayBeOurs()),
    )
    let answer: unknown
    try {
      answer = await this.#within(this.#timeoutMs, work, signal)
    } catch (cause) {
      if (signal?.aborted) throw signal.reason
      const error = this.#wrap(cause, 'acquire', closed, epoch)
      return { kind: 'failed', error, final: (error as { retryable?: unknown }).retryable === false }
    }
    const [verdict, number] = Array.isArray(answer) ? answer.map(String) : []
    if (verdict === 'held') return { kind: 'held', leftMs: Number(number) }
    if (this.clock.now() < sentMs + safeMs(ttlMs)) return { kind: 'taken', token: Number(number), sentMs }
    const message = `${this.name}: Redis took longer to answer than the ${ttlMs} ms of the lease`
    return { kind: 'failed', error: new TimeoutError(message, ttlMs, { outcomeUnknown: false }), final: false }
  }

  #grant(request: Request, { token, sentMs }: Taken, waited: boolean): RedisLease {
    const { name, ttlMs } = request
    const waitedMs = this.clock.now() - request.startedMs
    this.#books.acquired++
    this.#waits.record(waitedMs)
    const lease = new GrantedLease(this.#hostOf(request), name, { token, waited, sentMs, ttlMs })
    if (this.events.has('acquired')) this.events.emit('acquired', { lock: name, token, waited, waitedMs })
    return lease
  }

  #giveUp(request: Request, how: 'busy' | 'failed' | 'aborted'): void {
    this.#books[how]++
    request.over = true
    if (request.unsure) this.#cleanUp(request)
  }

  /** Gives back what a call may have got whose caller has gone. Where that fails, it ends by itself. */
  #cleanUp(request: Request): void {
    this.#releaseLock(request).catch(() => undefined)
  }

  #hostOf(request: Request): LeaseHost {
    const books = this.#books
    const { events, clock } = this
    const grantedMs = clock.now()
    const { keys, owner, ttlMs, name: lock } = request
    return {
      clock,
      lockName: this.name,
      ttlMs,
      extend: this.#extend,
      maxHoldMs: this.#maxHoldMs,
      extendLock: async (forMs, timeoutMs) => {
        const args = [owner, wholeMs(forMs), this.#memoryMs(forMs)]
        return (await this.#call(extendLock, keys, args, 'extend', Math.min(timeoutMs, this.#timeoutMs))) === 1
      },
      releaseLock: () => {
        request.over = true
        return this.#releaseLock(request)
      },
      recordExtended: () => void books.extended++,
      recordExtendFailed: ({ token }, error) => {
        books.extendFailed++
        if (events.has('extendFailed')) events.emit('extendFailed', { lock, token, error })
      },
      recordLost: ({ token }, reason, error) => {
        books.lost++
        request.over = true
        if (events.has('lost')) events.emit('lost', { lock, token, reason, error })
      },
      recordReleased: ({ token }) => {
        books.released++
        if (events.has('released')) events.emit('released', { lock, token, heldMs: clock.now() - grantedMs })
      },
      recordReleaseFailed: ({ token }, error) => {
        books.releaseFailed++
        if (events.has('releaseFailed')) events.emit('releaseFailed', { lock, token, error })
      },
    }
  }

  async #releaseLock({ keys, owner }: Request): Promise<{ released: boolean; unsure: boolean }> {
    let unsure = false
    for (let attempt = 1; ; attempt++) {
      try {
        const answer = await this.#call(releaseLock, keys.slice(0, 1), [owner], 'release', this.#timeoutMs)
        return { released: answer === 1, unsure }
      } catch (error) {
        unsure ||= isOutcomeUnknown(error)
        if (attempt === releaseAttempts || (error as { retryable?: unknown }).retryable === false) throw error
        await this.#pause(this.#pollMs * attempt * (0.5 + this.random() / 2), undefined)
      }
    }
  }

  /** How long a token is remembered that belongs to a lease of this length. */
  #memoryMs(ttlMs: number): string {
    return wholeMs(ttlMs + this.#tokenMemoryMs)
  }

  async #call(
    script: RedisScript,
    keys: readonly string[],
    args: readonly string[],
    operation: string,
    timeoutMs: number,
  ): Promise<unknown> {
    const { closed, epoch } = this.#face
    try {
      const answer = await this.#within(timeoutMs, script.run(this.#face, keys, args), undefined)
      return typeof answer === 'bigint' ? Number(answer) : answer
    } catch (error) {
      throw this.#wrap(error, operation, closed, epoch)
    }
  }

  #wrap(error: unknown, operation: string, closed: boolean, epoch: number | undefined): unknown {
    return redisError(error, { name: this.name, operation, writes: true, closed, resent: epoch !== this.#face.epoch })
  }

  #within<T>(timeoutMs: number, work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const message = `${this.name}: Redis has not answered within ${Math.round(timeoutMs)} ms`
      const giveUp = (): void => reject(new TimeoutError(message, timeoutMs))
      // Where this process was busy for so long, the answer may be here and wait to be read.
      const cancelTimer = this.clock.setTimer(() => this.clock.defer(giveUp), timeoutMs)
      const abort = (): void => {
        cancelTimer()
        reject(signal?.reason)
      }
      const stop = signal === undefined ? undefined : onAbort(signal, abort)
      work.then(resolve, reject).finally(() => {
        cancelTimer()
        stop?.()
      })
    })
  }

  #pause(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const cancelTimer = this.clock.setTimer(() => {
        stop?.()
        resolve()
      }, delayMs)
      const abort = (): void => {
        cancelTimer()
        reject(signal?.reason)
      }
      const stop = signal === undefined ? undefined : onAbort(signal, abort)
    })
  }
}

/** One call of `acquire`. */
interface Request {
  readonly name: string
  readonly keys: readonly string[]
  /** The same in all of its attempts, so that one whose answer was lost is recognised. */
  readonly owner: string
  readonly startedMs: number
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
  readonly ttlMs: number
  /** Whether it ended without a lease, or with one that is no more: what is granted now is nobody's. */
  over: boolean
  /** Whether an attempt that failed may have got the lock. */
  unsure: boolean
}

interface Taken {
  readonly kind: 'taken'
  readonly token: number
  readonly sentMs: number
}

interface Held {
  readonly kind: 'held'
  /** How long the holder's lease lasts; less than 0 where it has no end. */
  readonly leftMs: number
}

interface Failed {
  readonly kind: 'failed'
  readonly error: unknown
  /** Whether another attempt is in vain. */
  readonly final: boolean
}

function isTaken(answer: unknown): boolean {
  return Array.isArray(answer) && String(answer[0]) === 'taken'
}

/** Rounded up: on the server a lease never ends before its owner thinks so. */
function wholeMs(ms: number): string {
  return String(Math.ceil(ms))
}

/** Aborts with the first of two signals. */
function eitherSignal(own: AbortSignal, given: AbortSignal | undefined): { signal: AbortSignal; stop(): void } {
  if (given === undefined) return { signal: own, stop: () => undefined }
  const controller = new AbortController()
  const stops = [own, given].map((signal) => onAbort(signal, () => controller.abort(signal.reason)))
  for (const signal of [own, given]) if (signal.aborted) controller.abort(signal.reason)
  return {
    signal: controller.signal,
    stop: () => {
      for (const stop of stops) stop()
    },
  }
}
