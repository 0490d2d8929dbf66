import { writeSync } from 'node:fs'
import { constants } from 'node:os'
import { inspect } from 'node:util'
import { checkDuration, checkOptions, failOption, maxDurationMs, valueOr } from '../../core/options.js'

/** What {@link closeOnExit} closes: every closable component of this package, and anything shaped like one. */
export interface Closable {
  /** What the report of a failed close calls it. */
  readonly name?: string
  /** Settles what was accepted and releases what was opened, within the deadline. */
  close(options?: { timeoutMs?: number }): PromiseLike<unknown> | unknown
  /** Puts what is held where it belongs without waiting, for a process that is about to end. */
  flushSync?(): void
}

/** Options of {@link closeOnExit}. */
export interface CloseOnExitOptions {
  /**
   * How long all closing together may take, in milliseconds. Each component gets half of what is left of it, the last one
   * all of it; what a component hasn't settled then is abandoned.
   * @defaultValue 10_000
   */
  timeoutMs?: number | undefined
  /**
   * The signals at which to close.
   * @defaultValue ['SIGTERM', 'SIGINT']
   */
  signals?: readonly NodeJS.Signals[] | undefined
}

/** The defaults of {@link CloseOnExitOptions}. */
export const closeOnExitDefaults: { readonly timeoutMs: number; readonly signals: readonly NodeJS.Signals[] } = {
  timeoutMs: 10_000,
  signals: ['SIGTERM', 'SIGINT'],
}

/**
 * Closes components, one after the other in the given order, when the process is about to end: put what takes work in
 * before what that work flows into.
 *
 * - A signal: closes, then lets the signal do what it would have done, so that the exit status tells of it. The same
 *   signal again ends the process at once. Where the application listens for the signal too, ending the process is left
 *   to the application, both times.
 * - An uncaught exception or unhandled rejection that nobody else listens for: prints it, closes, and exits with 1.
 * - `process.exit` and an empty event loop: calls `flushSync` where there is one; nothing else can be waited for then.
 *   The exit code is kept.
 *
 * Several calls, say of several parts of an application, close their components side by side; the process ends when the
 * last of them is done.
 *
 * @returns a function that takes all listeners off again.
 * @throws OptionError when a component has no `close`, or an option is wrong.
 */
export function closeOnExit(components: readonly Closable[], options: CloseOnExitOptions = {}): () => void {
  if (!Array.isArray(components)) failOption('components', 'must be an array', components)
  for (const component of components) {
    if (typeof component?.close !== 'function') failOption('components', 'must have a close method each', component)
  }
  checkOptions('options', options)
  const exit = new ExitWatch([...components], {
    timeoutMs: checkDuration('timeoutMs', valueOr(options.timeoutMs, closeOnExitDefaults.timeoutMs)),
    signals: checkSignals(valueOr(options.signals, closeOnExitDefaults.signals)),
  })
  exit.start()
  return () => exit.stop()
}

/** Marks the listeners of every watch, whichever copy of this package it comes from: an application's are all others. */
const mark: unique symbol = Symbol.for('spillway.closeOnExit') as never

class ExitWatch {
  readonly #components: readonly Closable[]
  readonly #timeoutMs: number
  readonly #signals: readonly NodeJS.Signals[]
  readonly #seen = new Set<NodeJS.Signals>()
  #closing: Promise<void> | undefined

  constructor(
    components: readonly Closable[],
    options: { readonly timeoutMs: number; readonly signals: readonly NodeJS.Signals[] },
  ) {
    this.#components = components
    this.#timeoutMs = options.timeoutMs
    this.#signals = options.signals
    for (const listener of [this.#onSignal, this.#onUncaught]) Object.defineProperty(listener, mark, { value: true })
  }

  start(): void {
    for (const signal of this.#signals) process.on(signal, this.#onSignal)
    process.on('uncaughtException', this.#onUncaught)
    process.on('exit', this.#onExit)
  }

  stop(): void {
    for (const signal of this.#signals) process.off(signal, this.#onSignal)
    process.off('uncaughtException', this.#onUncaught)
    process.off('exit', this.#onExit)
  }

  readonly #onSignal = (signal: NodeJS.Signals): void => {
    if (this.#seen.has(signal)) {
      if (!applicationListens(signal)) this.#raise(signal)
      return
    }
    this.#seen.add(signal)
    // Another end is under way, and this signal changes nothing about it.
    if (this.#closing !== undefined) return
    void this.#closeAll().then(() => {
      if (applicationListens(signal)) return
      process.off(signal, this.#onSignal)
      // Another watch that is still closing ends the process when it is done.
      if (process.listenerCount(signal) === 0) this.#raise(signal)
    })
  }

  /** Without our listener the signal does what it does by default: the parent sees who ended the process. */
  #raise(signal: NodeJS.Signals): void {
    this.#flushSync()
    this.stop()
    process.kill(process.pid, signal)
  }

  readonly #onUncaught = (error: unknown): void => {
    // Somebody else decides whether the process goes on.
    if (applicationListens('uncaughtException')) return
    const isFirstWatch = process.listeners('uncaughtException')[0] === this.#onUncaught
    if (isFirstWatch) print(error)
    process.exitCode ||= 1
    if (this.#closing !== undefined) return
    void this.#closeAll().then(() => {
      process.off('uncaughtException', this.#onUncaught)
      if (process.listenerCount('uncaughtException') === 0) process.exit()
    })
  }

  readonly #onExit = (): void => this.#flushSync()

  #closeAll(): Promise<void> {
    this.#closing ??= this.#closeInOrder()
    return this.#closing
  }

  async #closeInOrder(): Promise<void> {
    const deadline = performance.now() + this.#timeoutMs
    for (const [index, component] of this.#components.entries()) {
      const name = component.name ?? `component ${index + 1} of ${this.#components.length}`
      const leftMs = Math.max(0, deadline - performance.now())
      // One that takes all the time must not cost those after it theirs.
      const isLast = index === this.#components.length - 1
      const timeoutMs = isLast ? leftMs : leftMs / 2
      // The component keeps its own deadline; the grace is for a close that doesn't.
      const graceMs = isLast ? 100 : Math.min(100, leftMs / 4)
      try {
        const report = await within(component.close({ timeoutMs }), Math.min(timeoutMs + graceMs, maxDurationMs))
        const abandoned = (report as { abandoned?: unknown } | null | undefined)?.abandoned
        if (report === tooLate) print(`closing ${name} took longer than ${Math.round(timeoutMs)} ms`)
        else if (typeof abandoned === 'number' && abandoned > 0) print(`closing ${name} gave up ${abandoned}`)
      } catch (error) {
        print(`closing ${name} failed:`, error)
      }
    }
  }

  #flushSync(): void {
    for (const component of this.#components) {
      try {
        component.flushSync?.()
      } catch (error) {
        print(`flushing ${component.name ?? 'a component'} failed:`, error)
      }
    }
  }
}

/**
 * Writes to stderr past the stream: where nobody reads it any more, a stream's own error would be the next uncaught exception, to
 * be printed in its turn, for ever.
 */
function print(...parts: readonly unknown[]): void {
  try {
    writeSync(2, `${parts.map((part) => (typeof part === 'string' ? part : inspect(part))).join(' ')}\n`)
  } catch {
    // There is nowhere to say it.
  }
}

const tooLate = Symbol('too late')

/** Waits for work, but no longer than so many milliseconds. */
async function within(work: unknown, timeoutMs: number): Promise<unknown> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<symbol>((resolve) => {
    timer = setTimeout(() => resolve(tooLate), timeoutMs)
  })
  try {
    return await Promise.race([work, timeout])
  } finally {
    clearTimeout(timer)
  }
}

/** Whether anybody but a watch of this module listens. */
function applicationListens(event: NodeJS.Signals | 'uncaughtException'): boolean {
  return process.listeners(event as 'uncaughtException').some((listener) => !(mark in listener))
}

function checkSignals(signals: readonly NodeJS.Signals[]): readonly NodeJS.Signals[] {
  const known = (signal: unknown): boolean =>
    typeof signal === 'string' && signal in constants.signals && signal !== 'SIGKILL' && signal !== 'SIGSTOP'
  if (!Array.isArray(signals) || !signals.every(known)) {
    failOption('signals', 'must be an array of signals that can be listened for', signals)
  }
  return [...signals]
}
