import { type Clock, systemClock } from '../core/clock.js'
import { checkDuration, checkOptions, checkSignal, failOption, valueOr } from '../core/options.js'
import type { LoadLease, LoadLock } from '../core/ports.js'
import { onAbort } from '../internal/abort.js'

/** Options of {@link MemoryLoadLock}. */
export interface MemoryLoadLockOptions {
  /**
   * After how long a lease that wasn't given back ends by itself, in milliseconds, more than 0; `Infinity` for never.
   * @defaultValue Infinity
   */
  leaseMs?: number | undefined
  /** Where time comes from. The default is `systemClock`. */
  clock?: Clock | undefined
}

/** One that waits for a key. */
interface Waiter {
  grant(): void
}

/**
 * A load lock in memory, behaving as every {@link LoadLock} must: for tests, where several caches of one process stand for several
 * processes. Who comes first is served first. It passes `loadLockContract`.
 *
 * @example
 * ```ts
 * import { MultiLevelCache } from 'spillway'
 * import { FakeClock, MemoryCacheStore, MemoryLoadLock } from 'spillway/testing'
 *
 * const clock = new FakeClock()
 * const parts = { clock, l2: new MemoryCacheStore({ clock }), loadLock: new MemoryLoadLock({ clock }) }
 * const [here, there] = [new MultiLevelCache<string>(parts), new MultiLevelCache<string>(parts)]
 * ```
 */
export class MemoryLoadLock implements LoadLock {
  /** The options' defaults. */
  static readonly defaults: { readonly leaseMs: number } = { leaseMs: Infinity }

  readonly #clock: Clock
  readonly #leaseMs: number
  /** Those who wait for each key that somebody has. */
  readonly #held = new Map<string, Set<Waiter>>()

  /** @throws OptionError when an option is wrong. */
  constructor(options: MemoryLoadLockOptions = {}) {
    checkOptions('options', options)
    const leaseMs = valueOr<number>(options.leaseMs, MemoryLoadLock.defaults.leaseMs)
    this.#leaseMs = leaseMs === Number.POSITIVE_INFINITY ? leaseMs : checkDuration('leaseMs', leaseMs, Number.MIN_VALUE)
    this.#clock = valueOr(options.clock, systemClock)
  }

  /** The keys that somebody has. */
  get held(): readonly string[] {
    return [...this.#held.keys()]
  }

  /** How many wait for a key. */
  waiting(key: string): number {
    return this.#held.get(key)?.size ?? 0
  }

  /** Rejects with an `OptionError` when an argument is wrong, and with the signal's reason. */
  async acquire(
    key: string,
    options: { readonly waitMs: number; readonly signal: AbortSignal },
  ): Promise<LoadLease | undefined> {
    if (typeof key !== 'string') failOption('key', 'must be a string', key)
    if (options === undefined) failOption('options', 'must be an object', options)
    checkOptions('options', options)
    const waitMs = checkDuration('waitMs', options.waitMs)
    const signal = checkSignal(options.signal)
    if (signal?.aborted) throw signal.reason
    const waiters = this.#held.get(key)
    if (waiters === undefined) {
      this.#held.set(key, new Set())
      return this.#lease(key, false)
    }
    return waitMs === 0 ? undefined : this.#wait(key, waiters, waitMs, signal)
  }

  #wait(
    key: string,
    waiters: Set<Waiter>,
    waitMs: number,
    signal: AbortSignal | undefined,
  ): Promise<LoadLease | undefined> {
    return new Promise((resolve, reject) => {
      const end = (settle: () => void): void => {
        waiters.delete(waiter)
        cancel()
        stop?.()
        settle()
      }
      const waiter: Waiter = { grant: () => end(() => resolve(this.#lease(key, true))) }
      const cancel = this.#clock.setTimer(() => end(() => resolve(undefined)), waitMs)
      const stop = signal && onAbort(signal, () => end(() => reject(signal.reason)))
      waiters.add(waiter)
    })
  }

  #lease(key: string, waited: boolean): LoadLease {
    let isOver = false
    const release = (): void => {
      if (isOver) return
      isOver = true
      cancel?.()
      const waiters = this.#held.get(key)
      const [next] = waiters ?? []
      if (next === undefined) this.#held.delete(key)
      else next.grant()
    }
    const hasEnd = this.#leaseMs !== Number.POSITIVE_INFINITY
    const cancel = hasEnd ? this.#clock.setTimer(release, this.#leaseMs, { keepAlive: false }) : undefined
    return { waited, release }
  }
}
