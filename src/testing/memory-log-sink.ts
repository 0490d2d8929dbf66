import { type Clock, systemClock } from '../core/clock.js'
import { ClosedError, StoreError } from '../core/errors.js'
import { checkBoolean, checkDuration, checkOptions, failOption, valueOr } from '../core/options.js'
import type { LogSink } from '../core/ports.js'
import { type Deferred, deferred, handled, rejected } from '../internal/deferred.js'

/** Options of {@link MemoryLogSink}. */
export interface MemoryLogSinkOptions {
  /**
   * How long a write takes, in milliseconds.
   * @defaultValue 0
   */
  delayMs?: number | undefined
  /**
   * Whether it has `writeSync`.
   * @defaultValue true
   */
  synchronous?: boolean | undefined
  /** Where time comes from. The default is `systemClock`. */
  clock?: Clock | undefined
}

/** A chunk on its way. */
interface Waiting extends Deferred<void> {
  readonly chunk: string
  cancel?: () => void
}

/**
 * A log sink in memory, behaving as every {@link LogSink} must, and badly when it is told to: for tests of what logs. It passes
 * `logSinkContract`.
 *
 * @example
 * ```ts
 * import { AsyncLogBuffer } from 'spillway'
 * import { FakeClock, MemoryLogSink } from 'spillway/testing'
 *
 * const clock = new FakeClock()
 * const sink = new MemoryLogSink({ clock })
 * const log = new AsyncLogBuffer(sink, { clock })
 * sink.block() // a disk that hangs
 * log.write('a line')
 * await clock.advance(1000)
 * sink.unblock()
 * await clock.advance(0)
 * console.log(sink.lines) // ['a line']
 * ```
 */
export class MemoryLogSink implements LogSink {
  /** The options' defaults. */
  static readonly defaults = { delayMs: 0, synchronous: true } as const

  /** As the port has it; undefined where the sink isn't `synchronous`. */
  readonly writeSync?: (chunk: string) => void | Promise<void>
  readonly #clock: Clock
  readonly #delayMs: number
  /** What the target has, and what was moved away with it, oldest first. */
  #targets: string[][] = [[]]
  /** Where chunks go: the target, or one that was moved away since. */
  #open: string[] = this.#targets[0] as string[]
  readonly #waiting: Waiting[] = []
  #blocked = false
  #failure: { readonly error: unknown; left: number } | undefined
  #reopened = 0
  #closed = false

  /** @throws OptionError when an option is wrong. */
  constructor(options: MemoryLogSinkOptions = {}) {
    checkOptions('options', options)
    const { defaults } = MemoryLogSink
    this.#delayMs = checkDuration('delayMs', valueOr<number>(options.delayMs, defaults.delayMs))
    this.#clock = valueOr(options.clock, systemClock)
    if (checkBoolean('synchronous', valueOr<boolean>(options.synchronous, defaults.synchronous))) {
      this.writeSync = (chunk) => this.#writeNow(chunk)
    }
  }

  /** The chunks that the target has, in their order; empty ones aren't kept. */
  get chunks(): readonly string[] {
    return [...(this.#targets.at(-1) as string[])]
  }

  /** All that the target has. */
  get text(): string {
    return (this.#targets.at(-1) as string[]).join('')
  }

  /** The same, line by line, without the ends of the lines. */
  get lines(): readonly string[] {
    const { text } = this
    return text === '' ? [] : text.replace(/\n$/, '').split('\n')
  }

  /** What each target had that was moved away by `rotate`, oldest first. */
  get rotated(): readonly string[] {
    return this.#targets.slice(0, -1).map((chunks) => chunks.join(''))
  }

  /** How many chunks it was given and hasn't handed over. */
  get pending(): number {
    return this.#waiting.length
  }

  /** How often it was reopened. */
  get reopened(): number {
    return this.#reopened
  }

  /** Whether it was closed. */
  get closed(): boolean {
    return this.#closed
  }

  /** Keeps all that it is given from now on, until `unblock`. `writeSync` then answers with a promise. */
  block(): void {
    this.#blocked = true
    for (const waiting of this.#waiting) {
      waiting.cancel?.()
      delete waiting.cancel
    }
  }

  /** Hands over what waits, and blocks no more. */
  unblock(): void {
    this.#blocked = false
    this.#handOver()
  }

  /**
   * Makes it refuse what it would hand over.
   *
   * @param times - how many chunks; the default is all until `heal`.
   * @param error - what it refuses them with; the default is a `StoreError`.
   */
  fail(times: number = Number.POSITIVE_INFINITY, error: unknown = new StoreError('memory-log-sink refuses')): void {
    if (typeof times !== 'number' || !(times >= 1)) failOption('times', 'must be a number of 1 or more', times)
    this.#failure = { error, left: times }
  }

  /** Makes it refuse nothing any more. */
  heal(): void {
    this.#failure = undefined
  }

  /** Moves the target away, as logrotate does: chunks go there until `reopen`. */
  rotate(): void {
    this.#targets.push([])
  }

  write(chunk: string): Promise<void> {
    const refused = this.#refusal(chunk)
    return refused === undefined ? this.#add(chunk) : rejected(refused)
  }

  async reopen(): Promise<void> {
    if (this.#closed) throw new ClosedError('memory-log-sink is closed')
    this.#reopened++
    this.#open = this.#targets.at(-1) as string[]
  }

  async close(): Promise<void> {
    this.#closed = true
  }

  #writeNow(chunk: string): void | Promise<void> {
    const refused = this.#refusal(chunk)
    if (refused !== undefined) throw refused
    if (this.#blocked) return this.#add(chunk)
    for (const waiting of this.#waiting.splice(0)) this.#settle(waiting)
    const failure = this.#take(chunk)
    if (failure !== undefined) throw failure.error
  }

  #add(chunk: string): Promise<void> {
    const waiting: Waiting = { ...deferred<void>(), chunk }
    this.#waiting.push(waiting)
    this.#handOver()
    return handled(waiting.promise)
  }

  /** Hands over what is first, and what comes after it, each in its time. */
  #handOver(): void {
    if (this.#blocked) return
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      if (this.#delayMs > 0) {
        const late = first
        first.cancel ??= this.#clock.setTimer(() => {
          this.#waiting.shift()
          this.#settle(late)
          this.#handOver()
        }, this.#delayMs)
        return
      }
      this.#waiting.shift()
      this.#settle(first)
    }
  }

  #settle(waiting: Waiting): void {
    waiting.cancel?.()
    const failure = this.#take(waiting.chunk)
    if (failure === undefined) waiting.resolve()
    else waiting.reject(failure.error)
  }

  /** Takes a chunk, unless it is to refuse it. */
  #take(chunk: string): { readonly error: unknown } | undefined {
    const failure = this.#failure
    if (failure !== undefined) {
      if (--failure.left <= 0) this.#failure = undefined
      return failure
    }
    if (chunk !== '') this.#open.push(chunk)
    return undefined
  }

  #refusal(chunk: string): Error | undefined {
    if (this.#closed) return new ClosedError('memory-log-sink is closed')
    try {
      if (typeof chunk !== 'string') failOption('chunk', 'must be a string', chunk)
    } catch (error) {
      return error as Error
    }
    return undefined
  }
}
