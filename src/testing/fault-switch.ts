import { type Clock, systemClock } from '../core/clock.js'
import { checkFunction, checkOneOf, checkOptionalFunction, checkOptions, valueOr } from '../core/options.js'
import { orAbort } from '../internal/abort.js'
import { type Deferred, deferred } from '../internal/deferred.js'
import { checkDelay, type Faultable, injectedFailure, injectedLoss, never, signalOf, wait } from './faults.js'

/**
 * How a server behaves: `'ok'`; `'slow'` answers later; `'dead'` refuses every call; `'lossy'` does the work and loses the answer;
 * `'hung'` never answers, whatever comes later; `'frozen'` answers nothing now, and everything once it is turned to something else.
 */
export type FaultMode = 'ok' | 'slow' | 'dead' | 'lossy' | 'hung' | 'frozen'

const modes: readonly FaultMode[] = ['ok', 'slow', 'dead', 'lossy', 'hung', 'frozen']

/** Options of {@link FaultSwitch}. */
export interface FaultSwitchOptions {
  /**
   * How it behaves at first.
   * @defaultValue 'ok'
   */
  mode?: FaultMode | undefined
  /**
   * How much later a call starts while it is slow, in milliseconds; a function is asked at each call.
   * @defaultValue 1000
   */
  delayMs?: number | (() => number) | undefined
  /** The error of a call that is refused or whose answer is lost; it gets the call's number, counted from 1. The default is a `StoreError`. */
  error?: ((call: number) => unknown) | undefined
  /** Where time comes from. The default is `systemClock`. */
  clock?: Clock | undefined
}

/**
 * What is wrong with a server, to be changed while a test runs. One switch may stand for all functions and objects that talk to that
 * server: pass it to `wrap` or to `faulty`.
 *
 * @example
 * ```ts
 * import { FakeClock, FaultSwitch } from 'spillway/testing'
 *
 * const server = new FaultSwitch({ clock: new FakeClock() })
 * const fetchUser = server.wrap(async (id: number) => ({ id }))
 *
 * await fetchUser(1)
 * server.turn('dead')
 * await fetchUser(2).catch((error: Error) => error.message) // 'injected failure of call 2'
 * ```
 */
export class FaultSwitch {
  /** The options' defaults. */
  static readonly defaults = { mode: 'ok', delayMs: 1000 } as const

  readonly #delayMs: number | (() => number)
  readonly #error: ((call: number) => unknown) | undefined
  readonly #clock: Clock
  #mode: FaultMode
  #calls = 0
  readonly #counts: Record<FaultMode, number> = { ok: 0, slow: 0, dead: 0, lossy: 0, hung: 0, frozen: 0 }
  /** Resolves when it isn't frozen any more. */
  #thaw: Deferred<void> | undefined

  /** @throws OptionError when an option is wrong. */
  constructor(options: FaultSwitchOptions = {}) {
    checkOptions('options', options)
    const { defaults } = FaultSwitch
    this.#mode = checkOneOf<FaultMode>('mode', valueOr<FaultMode>(options.mode, defaults.mode), modes)
    this.#delayMs = valueOr<number | (() => number)>(options.delayMs, defaults.delayMs)
    checkDelay(this.#delayMs)
    this.#error = checkOptionalFunction('error', options.error)
    this.#clock = valueOr(options.clock, systemClock)
  }

  /** How it behaves now. */
  get mode(): FaultMode {
    return this.#mode
  }

  /** How many calls came, whatever became of them. */
  get calls(): number {
    return this.#calls
  }

  /** How many calls came in each mode: a call that was frozen counts there, not in the mode that let it go on. */
  get counts(): Readonly<Record<FaultMode, number>> {
    return { ...this.#counts }
  }

  /**
   * Changes how it behaves, from the next call on. Calls that are frozen go on as if they came now; those that are slow or hung stay so.
   *
   * @throws OptionError when there is no such mode.
   */
  turn(mode: FaultMode): void {
    this.#mode = checkOneOf('mode', mode, modes)
    if (mode === 'frozen') return
    this.#thaw?.resolve()
    this.#thaw = undefined
  }

  /** Makes a function behave as the switch says at each call. Only a slow or frozen call minds its signal, as that of `slow`. */
  wrap<A extends unknown[], R>(fn: Faultable<A, R>): (...args: A) => Promise<R> {
    checkFunction('fn', fn)
    return async (...args) => (await this.run(() => fn(...args), signalOf(args))) as R
  }

  /** Does something as the switch says, as one call. */
  async run<R>(fn: () => R | PromiseLike<R>, signal?: AbortSignal): Promise<R> {
    const call = ++this.#calls
    this.#counts[this.#mode]++
    while (this.#mode === 'frozen') {
      this.#thaw ??= deferred()
      await until(this.#thaw.promise, signal)
    }
    switch (this.#mode) {
      case 'dead':
        throw (this.#error ?? injectedFailure)(call)
      case 'hung':
        return never()
      case 'slow':
        await wait({ delayMs: this.#delayMs, clock: this.#clock }, signal)
        return fn()
      case 'lossy':
        await fn()
        throw (this.#error ?? injectedLoss)(call)
      default:
        return fn()
    }
  }
}

/** Waits for a promise that never rejects; rejects with the signal's reason when that aborts. */
function until(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal?.aborted) return Promise.reject(signal.reason)
  return orAbort(promise, signal)
}
