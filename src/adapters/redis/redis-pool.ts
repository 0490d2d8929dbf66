import genericPool, { type Pool } from 'generic-pool'
import { ClosableComponent, type ComponentOptions, type FlushReport } from '../../core/component.js'
import { ClosedError, FullError, isSpillwayError, StoreError, TimeoutError } from '../../core/errors.js'
import { checkCount, checkDuration, checkFunction, checkOptions, checkSignal, valueOr } from '../../core/options.js'
import { backoffMs } from '../../core/retry.js'
import { onAbort } from '../../internal/abort.js'
import { handled, rejected } from '../../internal/deferred.js'
import { type PoolableClient, PooledConnection } from './pooled-connection.js'

/** Options of {@link createRedisPool}. */
export interface RedisPoolOptions extends ComponentOptions {
  /**
   * How many connections there are at the most.
   *
   * @defaultValue 20
   */
  max?: number | undefined
  /**
   * How many idle connections are kept, from the first use on. At most `max`, to which the default is lowered.
   *
   * @defaultValue 5
   */
  min?: number | undefined
  /**
   * How many uses wait for a connection at the most; those beyond reject with `FullError`.
   *
   * @defaultValue 1000
   */
  capacity?: number | undefined
  /**
   * How long a use waits for a connection that works, in milliseconds, before it rejects with `TimeoutError`. At least 1: the PING
   * and the making of a connection count.
   *
   * @defaultValue 10_000
   */
  acquireTimeoutMs?: number | undefined
  /**
   * How long one attempt to connect takes at the most, in milliseconds.
   *
   * @defaultValue 5000
   */
  connectTimeoutMs?: number | undefined
  /**
   * How many attempts follow a first one that failed, each with a new client. Delays are random, up to 100 ms doubling to 2 s.
   *
   * @defaultValue 3
   */
  connectRetries?: number | undefined
  /**
   * How long an idle connection may take to answer the PING before a use, in milliseconds; one that takes longer is replaced.
   *
   * @defaultValue 1000
   */
  validateTimeoutMs?: number | undefined
  /**
   * After how long an idle connection beyond `min` is ended, in milliseconds of real time, and up to half as long again.
   *
   * @defaultValue 60_000
   */
  idleTimeoutMs?: number | undefined
}

/** Events of a {@link RedisPool}. */
export interface RedisPoolEvents {
  /** A connection was made. */
  connected: { readonly attempts: number }
  /** An attempt to connect failed; `attempt` counts from 1. */
  connectFailed: { readonly attempt: number; readonly error: unknown }
  /** A connection was ended: broken or no longer usable, idle for too long, its use failed or was given up, or by `close`. */
  ended: { readonly reason: 'broken' | 'idle' | 'use failed' | 'closed' }
}

/** Stats of a {@link RedisPool}: the books count uses. */
export interface RedisPoolStats {
  /** The pool's name. */
  readonly name: string
  /** All uses: `succeeded + failed + dropped + rejected + aborted + pending`. */
  readonly offered: number
  /** Uses whose function succeeded. */
  readonly succeeded: number
  /** Uses whose function failed, that got no connection, or that `close` gave up. */
  readonly failed: number
  /** Always 0: it drops nothing. */
  readonly dropped: number
  /** Uses that were refused: closed, full, wrong arguments, already aborted. */
  readonly rejected: number
  /** Uses that their caller gave up. */
  readonly aborted: number
  /** Uses that aren't settled yet. */
  readonly pending: number
  /** The part of `pending` that waits for a connection. */
  readonly waiting: number
  /** Connections there are. */
  readonly size: number
  /** Connections that nobody uses. */
  readonly idle: number
  /** Connections made so far. */
  readonly connected: number
  /** Attempts to connect that failed. */
  readonly connectFailures: number
}

const reconnect = { delayMs: 100, maxDelayMs: 2000 }

/** A resource of the generic pool: a connection, or why there is none. That one is never kept. */
interface Slot<C extends PoolableClient> {
  /** Counts the attempts of the pool, so that a use knows which failures are older than itself. */
  readonly serial: number
  readonly connection: PooledConnection<C> | undefined
  readonly error: unknown
  reason: RedisPoolEvents['ended']['reason'] | undefined
}

/**
 * A pool of exclusive connections, for what can't share one: blocking commands (BLPOP, XREADGROUP with BLOCK), WATCH with MULTI, SUBSCRIBE.
 * All else belongs on one shared client, which pipelines. Made by {@link createRedisPool}.
 *
 * A pool that isn't closed keeps the process alive for as long as it has connections: with `min: 0` until the last one has been idle
 * for `idleTimeoutMs`, else for good. One that was never used doesn't.
 */
export class RedisPool<C extends PoolableClient> extends ClosableComponent<RedisPoolEvents, RedisPoolStats> {
  /** The defaults of its options. */
  static readonly defaults = {
    max: 20,
    min: 5,
    capacity: 1000,
    acquireTimeoutMs: 10_000,
    connectTimeoutMs: 5000,
    connectRetries: 3,
    validateTimeoutMs: 1000,
    idleTimeoutMs: 60_000,
  } as const

  readonly #create: () => C | PromiseLike<C>
  readonly #max: number
  readonly #capacity: number
  readonly #acquireTimeoutMs: number
  readonly #connectTimeoutMs: number
  readonly #connectRetries: number
  readonly #validateTimeoutMs: number
  readonly #pool: Pool<Slot<C>>
  readonly #stop = new AbortController()
  /** Uses that aren't settled yet. */
  readonly #uses = new Set<Use<C>>()
  /** Those of them that wait for their turn, first come, first served. */
  readonly #waiting = new Set<Use<C>>()
  readonly #idleCallbacks = new Set<() => void>()
  readonly #books = { offered: 0, succeeded: 0, failed: 0, rejected: 0, aborted: 0, connected: 0, connectFailures: 0 }
  /** Turns that are taken: uses that have a connection or are about to get one, those given up meanwhile included. */
  #turns = 0
  /** Connections there are; the generic pool also counts failures to make one. */
  #live = 0
  #serial = 0
  #closed = false

  /**
   * @param create - makes a client, connected or not.
   * @throws OptionError when an option is wrong.
   */
  constructor(create: () => C | PromiseLike<C>, options: RedisPoolOptions = {}) {
    super('redis-pool', options)
    const { defaults } = RedisPool
    this.#create = checkFunction('create', create)
    this.#max = checkCount('max', valueOr<number>(options.max, defaults.max))
    const min = checkCount('min', valueOr<number>(options.min, Math.min(defaults.min, this.#max)), 0, this.#max)
    this.#capacity = checkCount('capacity', valueOr<number>(options.capacity, defaults.capacity), 0)
    const durationOf = (
      field: 'acquireTimeoutMs' | 'connectTimeoutMs' | 'validateTimeoutMs' | 'idleTimeoutMs',
      least: number,
    ): number => checkDuration(field, valueOr<number>(options[field], defaults[field]), least)
    this.#acquireTimeoutMs = durationOf('acquireTimeoutMs', 1)
    this.#connectTimeoutMs = durationOf('connectTimeoutMs', 1)
    this.#validateTimeoutMs = durationOf('validateTimeoutMs', 1)
    this.#connectRetries = checkCount(
      'connectRetries',
      valueOr<number>(options.connectRetries, defaults.connectRetries),
      0,
    )
    const idleTimeoutMs = Math.ceil(durationOf('idleTimeoutMs', 1))
    this.#pool = genericPool.createPool<Slot<C>>(
      {
        create: () => this.#open(),
        destroy: (slot) => this.#end(slot),
        validate: (slot) => this.#isUsable(slot),
      },
      {
        max: this.#max,
        min,
        // A constructor opens nothing: the first use does.
        autostart: false,
        testOnBorrow: true,
        // The one used last first: in turn, a trickle of uses would keep all of them from ever being idle for long.
        fifo: false,
        evictionRunIntervalMillis: Math.max(1, Math.ceil(idleTimeoutMs / 2)),
        numTestsPerEvictionRun: this.#max,
        softIdleTimeoutMillis: idleTimeoutMs,
        idleTimeoutMillis: Number.MAX_SAFE_INTEGER,
      },
    )
  }

  /**
   * Runs a function with a connection of its own. One whose function fails, or that broke meanwhile, is ended rather than kept: what
   * state it is in (a transaction, a watch, a subscription) is unknown.
   *
   * @param fn - must be done with the client once it settles.
   * @param options - `signal` gives up: waiting, the use leaves the queue; running, its connection is ended.
   * @returns what the function returned. Rejects with what it threw, with `StoreError` when no connection can be made, `TimeoutError`
   * when none came free in `acquireTimeoutMs`, `FullError`, `ClosedError`, `OptionError`, or the signal's reason.
   */
  use<T>(fn: (client: C) => T | PromiseLike<T>, options?: { signal?: AbortSignal | undefined }): Promise<T> {
    this.#books.offered++
    let signal: AbortSignal | undefined
    try {
      checkFunction('fn', fn)
      checkOptions('options', options)
      signal = checkSignal(options?.signal)
    } catch (error) {
      return this.#refuse(error)
    }
    if (signal?.aborted) return this.#refuse(signal.reason)
    if (this.#closed) return this.#refuse(new ClosedError(`${this.name} is closed`))
    if (this.#turns >= this.#max && this.#waiting.size >= this.#capacity) {
      return this.#refuse(
        new FullError(
          `${this.name} is full: ${this.#max} connections in use, ${this.#capacity} waiting`,
          this.#capacity,
        ),
      )
    }
    const use = new Use<C>(fn)
    this.#uses.add(use)
    this.#waiting.add(use)
    if (signal !== undefined) {
      use.stopListening = onAbort(signal, () => {
        this.#finish(use, 'aborted', () => use.reject(signal.reason), 'use failed')
      })
    }
    use.cancelTimer = this.clock.setTimer(() => this.#timeOut(use), this.#acquireTimeoutMs)
    this.#takeTurns()
    return use.promise as Promise<T>
  }

  /** Waits for the uses there are; it has nothing of its own to settle. */
  override async flush(): Promise<FlushReport> {
    const outcomes = await Promise.allSettled([...this.#uses].map((use) => use.promise))
    const succeeded = outcomes.filter(({ status }) => status === 'fulfilled').length
    return { succeeded, failed: outcomes.length - succeeded, dropped: 0 }
  }

  override stats(): RedisPoolStats {
    const { offered, succeeded, failed, rejected, aborted, connected, connectFailures } = this.#books
    return {
      name: this.name,
      offered,
      succeeded,
      failed,
      dropped: 0,
      rejected,
      aborted,
      pending: this.#uses.size,
      waiting: [...this.#uses].filter((use) => use.slot === undefined).length,
      size: this.#live,
      idle: Math.max(0, this.#live - this.#pool.borrowed),
      connected,
      connectFailures,
    }
  }

  protected override drain(): Promise<void> {
    this.#closed = true
    if (this.#uses.size === 0) return Promise.resolve()
    return new Promise((resolve) => this.#idleCallbacks.add(resolve))
  }

  protected override abandon(): number {
    const left = [...this.#uses]
    for (const use of left) {
      const error = new ClosedError(`${this.name} was closed before this was done`, {
        outcomeUnknown: use.slot !== undefined,
      })
      this.#finish(use, 'failed', () => use.reject(error), 'closed')
    }
    return left.length
  }

  /** Connections that are being made are given up; those that are used were ended, or given back. */
  protected override async release(): Promise<void> {
    this.#stop.abort(new ClosedError(`${this.name} is closed`))
    await this.#pool.drain()
    await this.#pool.clear()
  }

  #refuse(reason: unknown): Promise<never> {
    this.#books.rejected++
    return rejected(reason)
  }

  #takeTurns(): void {
    for (const use of this.#waiting) {
      if (this.#turns >= this.#max) return
      this.#waiting.delete(use)
      this.#turns++
      void this.#serve(use)
    }
  }

  /** Never rejects. */
  async #serve(use: Use<C>): Promise<void> {
    let slot: Slot<C>
    try {
      slot = await this.#borrow()
    } catch (error) {
      this.#turns--
      this.#finish(use, 'failed', () => use.reject(error))
      return
    }
    const { connection, error } = slot
    if (connection === undefined || use.settled) {
      void (connection === undefined ? this.#pool.destroy(slot) : this.#pool.release(slot))
      this.#turns--
      this.#finish(use, 'failed', () => use.reject(error))
      return
    }
    use.slot = slot
    use.cancelTimer?.()
    try {
      const value = await use.fn(connection.client)
      this.#finish(use, 'succeeded', () => use.resolve(value))
    } catch (error) {
      this.#finish(use, 'failed', () => use.reject(error), 'use failed')
    }
  }

  /**
   * Settles a use, and in the same turn of the event loop passes its connection on, so that its caller finds it free. It doesn't wait
   * for the function of a use that was given up: that may never settle, and its connection is ended.
   *
   * @param reason - why the connection can't be kept.
   */
  #finish(use: Use<C>, as: 'succeeded' | 'failed' | 'aborted', act: () => void, reason?: Slot<C>['reason']): void {
    this.#settle(use, as, act)
    const { slot } = use
    if (slot !== undefined) {
      use.slot = undefined
      this.#turns--
      slot.reason = slot.connection?.broken ? 'broken' : reason
      // Neither rejects for what is borrowed.
      void (slot.reason === undefined ? this.#pool.release(slot) : this.#pool.destroy(slot))
    }
    this.#takeTurns()
  }

  /** A connection that works, or a failure to make one that began after this call did. */
  async #borrow(): Promise<Slot<C>> {
    const since = this.#serial
    for (;;) {
      const slot = await this.#pool.acquire()
      if (slot.connection !== undefined || slot.serial >= since || this.#stop.signal.aborted) return slot
      await this.#pool.destroy(slot)
    }
  }

  #timeOut(use: Use<C>): void {
    const error = new TimeoutError(
      `${this.name}: no connection within ${this.#acquireTimeoutMs} ms (${this.#live} of ${this.#max} exist)`,
      this.#acquireTimeoutMs,
      { outcomeUnknown: false },
    )
    this.#finish(use, 'failed', () => use.reject(error))
  }

  #settle(use: Use<C>, as: 'succeeded' | 'failed' | 'aborted', act: () => void): void {
    if (use.settled) return
    use.settled = true
    use.stopListening?.()
    use.cancelTimer?.()
    this.#uses.delete(use)
    this.#waiting.delete(use)
    this.#books[as]++
    act()
    if (this.#uses.size > 0) return
    for (const callback of this.#idleCallbacks) callback()
    this.#idleCallbacks.clear()
  }

  /** Makes a connection. It never rejects: generic-pool would try again at once, for ever, with its caller none the wiser. */
  async #open(): Promise<Slot<C>> {
    const serial = this.#serial++
    const { signal } = this.#stop
    let error: unknown
    for (let attempt = 1; attempt <= this.#connectRetries + 1 && !signal.aborted; attempt++) {
      if (attempt > 1) await this.#wait(backoffMs(attempt - 1, reconnect, this.random))
      let connection: PooledConnection<C> | undefined
      try {
        connection = new PooledConnection(await this.#make())
        await connection.connect(this.clock, this.#connectTimeoutMs, signal)
        this.#books.connected++
        this.#live++
        if (this.events.has('connected')) this.events.emit('connected', { attempts: attempt })
        return { serial, connection, error: undefined, reason: undefined }
      } catch (failure) {
        connection?.end()
        error = failure
        this.#books.connectFailures++
        if (this.events.has('connectFailed')) this.events.emit('connectFailed', { attempt, error })
        // What isn't a client for one server won't be one at the next attempt.
        if (isSpillwayError(error, 'ERR_OPTION')) return { serial, connection: undefined, error, reason: undefined }
      }
    }
    const message = error instanceof Error ? error.message : String(error)
    const wrapped = signal.aborted
      ? signal.reason
      : new StoreError(`${this.name}: no connection after ${this.#connectRetries + 1} attempts: ${message}`, {
          cause: error,
          outcomeUnknown: false,
        })
    return { serial, connection: undefined, error: wrapped, reason: undefined }
  }

  /** The caller's function, bounded: a client that comes too late is ended. */
  #make(): Promise<C> {
    const { signal } = this.#stop
    const making = Promise.resolve().then(() => this.#create())
    return new Promise((resolve, reject) => {
      const fail = (reason: unknown): void => {
        off()
        reject(reason)
        making.then((client) => new PooledConnection(client).end()).catch(() => undefined)
      }
      const onStop = (): void => fail(signal.reason)
      const off = (): void => {
        cancelTimer()
        signal.removeEventListener('abort', onStop)
      }
      const limit = this.#connectTimeoutMs
      const cancelTimer = this.clock.setTimer(() => fail(new Error(`no client made within ${limit} ms`)), limit)
      signal.addEventListener('abort', onStop)
      making.then(
        (client) => {
          off()
          resolve(client)
        },
        (error) => {
          off()
          reject(error)
        },
      )
    })
  }

  #wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const { signal } = this.#stop
      const done = (): void => {
        cancelTimer()
        signal.removeEventListener('abort', done)
        resolve()
      }
      const cancelTimer = this.clock.setTimer(done, delayMs)
      signal.addEventListener('abort', done)
    })
  }

  async #isUsable(slot: Slot<C>): Promise<boolean> {
    // A failure goes to whoever waits for it.
    if (slot.connection === undefined) return true
    const usable = await slot.connection.isUsable(this.clock, this.#validateTimeoutMs)
    if (!usable) slot.reason = 'broken'
    return usable
  }

  async #end(slot: Slot<C>): Promise<void> {
    if (slot.connection === undefined) return
    const reason = slot.reason ?? (slot.connection.broken ? 'broken' : this.#closed ? 'closed' : 'idle')
    slot.connection.end()
    this.#live--
    if (this.events.has('ended')) this.events.emit('ended', { reason })
  }
}

/**
 * Makes a pool of exclusive connections. It opens none before its first use.
 *
 * @param create - makes a client of ioredis or node-redis for one server, connected or not. It is the pool's from then on, which takes
 * a `retryStrategy` off: a client that reconnects would go on with a transaction without its WATCH. So one that broke is ended.
 * @throws OptionError when an option is wrong.
 *
 * @example
 * ```ts
 * import { Redis } from 'ioredis'
 * import { createRedisPool } from 'spillway/redis'
 *
 * const pool = createRedisPool(() => new Redis('redis://127.0.0.1:6379'), { max: 10, min: 0 })
 * const job = await pool.use((client) => client.blpop('jobs', 5))
 * await pool.close({ timeoutMs: 5000 })
 * ```
 */
export function createRedisPool<C extends PoolableClient>(
  create: () => C | PromiseLike<C>,
  options?: RedisPoolOptions,
): RedisPool<C> {
  return new RedisPool(create, options)
}

/** One call of `use`. */
class Use<C extends PoolableClient> {
  readonly fn: (client: C) => unknown
  readonly promise: Promise<unknown>
  resolve!: (value: unknown) => void
  reject!: (reason: unknown) => void
  settled = false
  slot: Slot<C> | undefined
  stopListening: (() => void) | undefined
  cancelTimer: (() => void) | undefined

  constructor(fn: (client: C) => unknown) {
    this.fn = fn
    this.promise = handled(
      new Promise((resolve, reject) => {
        this.resolve = resolve
        this.reject = reject
      }),
    )
  }
}
