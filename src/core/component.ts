import { type Clock, systemClock } from './clock.js'
import { Emitter, type Listener } from './events.js'
import { checkDuration, checkFunction, checkOptions, failOption, valueOr } from './options.js'

/** What every component's options have in common. */
export interface ComponentOptions {
  /** What errors, events and stats call it. The default is the class's name in kebab-case. */
  name?: string | undefined
  /** Where it takes its time from. The default is `systemClock`. */
  clock?: Clock | undefined
  /** Where it takes its chance from: numbers from 0 up to, not including, 1. The default is `Math.random`. */
  random?: (() => number) | undefined
}

/** What `close` answers. */
export interface CloseReport {
  /** Whether everything that had been accepted was settled before the deadline. */
  readonly drained: boolean
  /** How much was given up at the deadline, in the units of the component's books. */
  readonly abandoned: number
}

/** What `flush` answers, of what was accepted before the call and not yet settled then. */
export interface FlushReport {
  /** How many succeeded. */
  readonly succeeded: number
  /** How many failed for good. */
  readonly failed: number
  /** How many were dropped to make room. */
  readonly dropped: number
}

/** What `close` takes. */
export interface CloseOptions {
  /** How long to wait for what was accepted, in milliseconds. Without it, as long as it takes. */
  timeoutMs?: number | undefined
}

/** A named thing with events and stats: the base of every primitive. */
export abstract class Component<Events, Stats> {
  /** What errors, events and stats call it. */
  readonly name: string
  /** Where it takes its time from. */
  protected readonly clock: Clock
  /** Where it takes its chance from. */
  protected readonly random: () => number
  /** Its listeners. */
  protected readonly events: Emitter<Events>

  /** @param defaultName - its name where the options give none. */
  protected constructor(defaultName: string, options: ComponentOptions | undefined) {
    checkOptions('options', options)
    this.name = valueOr(options?.name, defaultName)
    if (typeof this.name !== 'string') failOption('name', 'must be a string', this.name)
    this.clock = checkClock(valueOr(options?.clock, systemClock))
    this.random = checkFunction('random', valueOr(options?.random, Math.random))
    this.events = new Emitter<Events>(this.name)
  }

  /**
   * Adds a listener. One that throws, or whose promise rejects, changes no result; it is reported once as a warning of
   * the process.
   *
   * @returns the function that takes the listener off.
   */
  on<E extends keyof Events>(event: E, listener: Listener<Events[E]>): () => void {
    return this.events.on(event, listener)
  }

  /** A fresh snapshot of its counters and gauges, safe to turn into JSON. */
  abstract stats(): Stats
}

/** A component that holds what it accepted, and so can be flushed and must be closed. */
export abstract class ClosableComponent<Events, Stats> extends Component<Events, Stats> implements AsyncDisposable {
  #closing: Closing | undefined

  /** Settles all that was accepted before the call, and goes on accepting. Never rejects. */
  abstract flush(): Promise<FlushReport>

  /**
   * Refuses new work, settles what was accepted, and releases what the component opened. Calling it again changes
   * nothing, except that a shorter deadline counts.
   *
   * @returns what became of the rest; it rejects only with an `OptionError` for a wrong `timeoutMs`.
   */
  close(options?: CloseOptions): Promise<CloseReport> {
    try {
      checkOptions('options', options)
      if (options?.timeoutMs !== undefined) checkDuration('timeoutMs', options.timeoutMs)
    } catch (error) {
      const refused = Promise.reject(error)
      refused.catch(() => undefined)
      return refused
    }
    if (this.#closing === undefined) {
      this.#closing = new Closing(this.clock)
      const closing = this.#closing
      this.drain().then(
        () => closing.finish(0, () => this.release()),
        () => closing.finish(0, () => this.release()),
      )
    }
    if (options?.timeoutMs !== undefined) {
      const closing = this.#closing
      closing.shorten(options.timeoutMs, () => closing.finish(this.abandon(), () => this.release()))
    }
    return this.#closing.done
  }

  /** Closes it at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close().then(() => undefined)
  }

  /** Stops accepting, and resolves once nothing is left. Called once. */
  protected abstract drain(): Promise<void>

  /** Gives up what is left, and says how much that was. Called at the deadline, at most once. */
  protected abstract abandon(): number

  /** Releases what the component itself opened. Called once, after everything was settled or given up. */
  protected release(): void | PromiseLike<void> {}
}

/** One close in progress: its deadline, and what all callers of `close` wait for. */
class Closing {
  readonly done: Promise<CloseReport>
  readonly #clock: Clock
  #resolve!: (report: CloseReport) => void
  #deadline = Number.POSITIVE_INFINITY
  #cancelTimer: (() => void) | undefined
  #finished = false

  constructor(clock: Clock) {
    this.#clock = clock
    this.done = new Promise((resolve) => {
      this.#resolve = resolve
    })
  }

  shorten(timeoutMs: number, expire: () => void): void {
    const deadline = this.#clock.now() + timeoutMs
    if (this.#finished || deadline >= this.#deadline) return
    this.#deadline = deadline
    this.#cancelTimer?.()
    this.#cancelTimer = this.#clock.setTimer(expire, timeoutMs)
  }

  finish(abandoned: number, release: () => void | PromiseLike<void>): void {
    if (this.#finished) return
    this.#finished = true
    this.#cancelTimer?.()
    const report: CloseReport = { drained: abandoned === 0, abandoned }
    const answer = (): void => this.#resolve(report)
    try {
      const released = release()
      if (released === undefined) answer()
      else released.then(answer, answer)
    } catch {
      answer()
    }
  }
}

function checkClock(clock: Clock): Clock {
  for (const method of ['now', 'wallNow', 'setTimer', 'defer'] as const) {
    if (typeof clock?.[method] !== 'function') failOption('clock', `must have a method ${method}`, clock)
  }
  return clock
}
