import { checkDuration, checkRatio } from '../core/options.js'
import { onAbort } from '../internal/abort.js'
import { FakeClock, StuckError } from './fake-clock.js'
import type { RejectionWatch } from './rejection-watch.js'
import { seededRandom } from './seeded-random.js'

/** What a scenario has to do with: time, chance and a place for notes, of one seed. */
export interface SimulationWorld {
  /** The seed. */
  readonly seed: number | string
  /** Virtual time. It passes by itself while the scenario waits. */
  readonly clock: FakeClock
  /** Numbers from 0 up to, not including, 1, the same in each run of the seed. */
  readonly random: () => number
  /** A whole number from 0 up to, not including, `n`. Throws an `OptionError` where that is no number of 0 or more. */
  below(n: number): number
  /** Whether something happens that has this chance, from 0 to 1. Throws an `OptionError` for any other. */
  happens(chance: number): boolean
  /** One of a list's elements. */
  pick<T>(list: readonly T[]): T
  /** Waits in virtual time; rejects with the signal's reason when that aborts. */
  sleep(ms: number, options?: { readonly signal?: AbortSignal | undefined }): Promise<void>
  /** Adds an entry to the trace, which is shown if the seed fails. What isn't text is shown as JSON. */
  log(...what: readonly unknown[]): void
}

/** What a run may take. */
interface RunLimits {
  readonly maxMs: number
  readonly maxSteps: number
  readonly timersLeft: boolean
  readonly twice: boolean
  readonly traceLength: number
  readonly wallMs: number | undefined
}

/** One run of one seed. */
export class SimulationRun<R> implements SimulationWorld {
  readonly seed: number | string
  readonly clock: FakeClock
  readonly #limits: RunLimits
  readonly #random: () => number
  #draws = 0
  #trace: string[] = []
  #entries = 0
  #failure: string | undefined

  constructor(seed: number | string, limits: RunLimits) {
    this.seed = seed
    this.clock = new FakeClock({ wallMs: limits.wallMs })
    this.#limits = limits
    this.#random = seededRandom(seed)
  }

  // Arrow functions: scenarios take them apart.

  readonly random = (): number => {
    this.#draws++
    return this.#random()
  }

  readonly below = (n: number): number => Math.floor(this.random() * checkDuration('n', n, 0, Number.MAX_SAFE_INTEGER))

  // One that is no number would never happen: a fault that a scenario forgot to give a rate.
  readonly happens = (chance: number): boolean => this.random() < checkRatio('chance', chance)

  readonly pick = <T>(list: readonly T[]): T => {
    if (list.length === 0) throw new RangeError('pick takes a list that is not empty')
    return list[this.below(list.length)] as T
  }

  readonly sleep = (ms: number, options?: { readonly signal?: AbortSignal | undefined }): Promise<void> =>
    new Promise((resolve, reject) => {
      const signal = options?.signal
      if (signal?.aborted) return reject(signal.reason)
      const cancel = this.clock.setTimer(() => {
        stop?.()
        resolve()
      }, ms)
      const stop =
        signal &&
        onAbort(signal, () => {
          cancel()
          reject(signal.reason)
        })
    })

  readonly log = (...what: readonly unknown[]): void => {
    this.#entries++
    this.#trace.push(`${Number(this.clock.now().toFixed(3))} ms: ${what.map(textOf).join(' ')}`)
    // Cut only now and then: shifting each time would cost more.
    const { twice, traceLength } = this.#limits
    if (!twice && this.#trace.length > 2 * traceLength + 100) this.#trace = this.#trace.slice(-Math.max(1, traceLength))
  }

  /** Runs it to its end. Never rejects. */
  async run(
    scenario: (world: SimulationWorld) => R | PromiseLike<R>,
    rejections: RejectionWatch,
  ): Promise<{ readonly result: R } | { readonly error: unknown }> {
    rejections.take()
    let outcome: { readonly result: R } | { readonly error: unknown }
    try {
      outcome = { result: await this.clock.until(this.#begin(scenario), this.#limits) }
    } catch (error) {
      outcome = { error }
    }
    // What it left behind may reject or throw in this turn, and what is unhandled is told at the end of one.
    await nextTurn()
    await nextTurn()
    const unhandled = rejections.take()
    // What nobody handled is why others wait for ever.
    if (unhandled.length > 0 && (!('error' in outcome) || outcome.error instanceof StuckError)) {
      outcome = { error: unhandledError(unhandled[0], unhandled.length) }
    } else if (!('error' in outcome) && this.clock.pending > 0 && !this.#limits.timersLeft) {
      outcome = { error: new Error(`the clock's pending is ${this.clock.pending} at the end: timers are left`) }
    }
    if ('error' in outcome) this.#failure = String(outcome.error)
    return outcome
  }

  /** In what the other run of the same seed differs; undefined where it was the same. */
  differenceTo(other: SimulationRun<R>): string | undefined {
    const at = this.#trace.findIndex((entry, i) => entry !== other.#trace[i])
    const [mine, its] = [this.#trace[at] ?? 'nothing', other.#trace[at < 0 ? this.#trace.length : at] ?? 'nothing']
    if (at >= 0 || this.#trace.length < other.#trace.length) {
      return `a second run of the seed differs: its trace says ${JSON.stringify(its)} where the first says ${JSON.stringify(at < 0 ? 'nothing' : mine)}`
    }
    const [first, second] = [this.#sum(), other.#sum()]
    return first === second ? undefined : `a second run of the seed differs: ${second} instead of ${first}`
  }

  /** Where it stood at its end. */
  ending(): { readonly atMs: number; readonly trace: readonly string[]; readonly entries: number } {
    const { traceLength } = this.#limits
    return {
      atMs: Number(this.clock.now().toFixed(3)),
      trace: traceLength === 0 ? [] : this.#trace.slice(-traceLength),
      entries: this.#entries,
    }
  }

  async #begin(scenario: (world: SimulationWorld) => R | PromiseLike<R>): Promise<R> {
    return scenario(this)
  }

  #sum(): string {
    const sum = `${this.#draws} random numbers and ${this.clock.steps} steps to ${this.clock.now()} ms`
    return this.#failure === undefined ? sum : `${sum}, then ${this.#failure}`
  }
}

function unhandledError(reason: unknown, count: number): Error {
  const what = reason instanceof Error ? `${reason.name}: ${reason.message}` : String(reason)
  const others = count > 1 ? `, and ${count - 1} more` : ''
  return new Error(`a rejection was left unhandled: ${what}${others}`, { cause: reason })
}

function textOf(what: unknown): string {
  if (typeof what === 'string') return what
  if (what instanceof Error) return `${what.name}: ${what.message}`
  try {
    return JSON.stringify(what, (_, part: unknown) => (typeof part === 'bigint' ? `${part}n` : part)) ?? String(what)
  } catch {
    return String(what)
  }
}

const nextTurn = (): Promise<void> =>
  new Promise((resolve) => (typeof setImmediate === 'function' ? setImmediate(resolve) : setTimeout(resolve)))
