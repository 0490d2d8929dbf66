import { handled } from './deferred.js'

const watches = new WeakMap<AbortSignal, Watch>()

/**
 * Calls a function when a signal aborts; returns the function that takes the listener off again. A signal gets one
 * listener from us, however many calls it guards: listeners of its own cost more, and Node warns of the eleventh.
 *
 * @param listener - a function of its own for each call; it must not throw.
 */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  let watch = watches.get(signal)
  if (watch === undefined) {
    watch = new Watch(signal)
    watches.set(signal, watch)
  }
  return watch.add(listener)
}

/** Settles as the work does, or rejects with the signal's reason as soon as it aborts; the work then goes on unheard. */
export function orAbort<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  return new Promise<T>((resolve, reject) => {
    const stop = onAbort(signal, () => reject(signal.reason))
    handled(work).then(resolve, reject).finally(stop)
  })
}

/** All that listens to one signal. */
class Watch {
  readonly #signal: AbortSignal
  readonly #listeners = new Set<() => void>()

  constructor(signal: AbortSignal) {
    this.#signal = signal
    signal.addEventListener('abort', this.#onAbort)
  }

  add(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => {
      if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.#end()
    }
  }

  readonly #onAbort = (): void => {
    this.#end()
    // One that another one takes off before its turn isn't called any more.
    for (const listener of this.#listeners) listener()
  }

  #end(): void {
    if (watches.get(this.#signal) !== this) return
    watches.delete(this.#signal)
    this.#signal.removeEventListener('abort', this.#onAbort)
  }
}
