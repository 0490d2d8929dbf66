import { checkFunction } from './options.js'

/** A function that takes one event's payload. */
export type Listener<Payload> = (payload: Payload) => void

/**
 * Typed events whose listeners are isolated: one that throws, or whose promise rejects, changes no result and stops no
 * other. Its first failure is reported through `process.emitWarning`, where that exists.
 */
export class Emitter<Events> {
  readonly #owner: string
  readonly #listeners = new Map<keyof Events, readonly Listener<never>[]>()
  readonly #reported = new WeakSet<Listener<never>>()

  /** @param owner - the component's name, for the warning. */
  constructor(owner: string) {
    this.#owner = owner
  }

  /** Adds a listener, and returns the function that takes this one off. Adding a function twice calls it twice. */
  on<E extends keyof Events>(event: E, listener: Listener<Events[E]>): () => void {
    checkFunction('listener', listener)
    // A wrapper of its own, so that each `off` takes away what its `on` added.
    const own: Listener<Events[E]> = (payload) => listener(payload)
    this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), own as Listener<never>])
    return () => {
      const left = this.#listeners.get(event)?.filter((other) => other !== own) ?? []
      if (left.length > 0) this.#listeners.set(event, left)
      else this.#listeners.delete(event)
    }
  }

  /** Whether anybody listens: ask before building a payload. */
  has(event: keyof Events): boolean {
    return this.#listeners.size > 0 && this.#listeners.has(event)
  }

  /** Calls the listeners that were there when it began, in the order in which they came. Never throws. */
  emit<E extends keyof Events>(event: E, payload: Events[E]): void {
    const listeners = this.#listeners.get(event)
    if (listeners === undefined) return
    for (const listener of listeners) {
      try {
        const returned: unknown = (listener as Listener<Events[E]>)(payload)
        if (isThenable(returned)) returned.then(undefined, (error: unknown) => this.#report(event, listener, error))
      } catch (error) {
        this.#report(event, listener, error)
      }
    }
  }

  #report(event: keyof Events, listener: Listener<never>, error: unknown): void {
    if (this.#reported.has(listener)) return
    this.#reported.add(listener)
    warn(`a listener of ${this.#owner}'s '${String(event)}' event failed: ${describeError(error)}`)
  }
}

/** Reports what must not change a result, where the platform has a place for it. Never throws. */
export function warn(message: string): void {
  try {
    globalThis.process?.emitWarning?.(message, 'SpillwayWarning')
  } catch {
    // The platform's own way of refusing a warning is no concern of the caller's.
  }
}

/** An error's text for a warning; survives errors whose own getters throw. */
export function describeError(error: unknown): string {
  try {
    return error instanceof Error ? (error.stack ?? error.message) : String(error)
  } catch {
    return 'an error that could not be read'
  }
}

/** Whether something is a promise, by its shape. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}
