/**
 * A signal that is made when first asked for: a controller costs as much as everything else that is done for a call, and few
 * functions ask for it.
 */
export class LazySignal {
  #signal: AbortSignal | undefined
  #controller: AbortController | undefined
  #aborted = false
  #reason: unknown

  /** @param given - a signal to hand out instead, which somebody else aborts. */
  constructor(given?: AbortSignal) {
    this.#signal = given
  }

  get signal(): AbortSignal {
    if (this.#signal === undefined) {
      this.#controller = new AbortController()
      this.#signal = this.#controller.signal
      if (this.#aborted) this.#controller.abort(this.#reason)
    }
    return this.#signal
  }

  /** Only the first abort counts, as with a controller. */
  abort(reason: unknown): void {
    if (this.#aborted) return
    this.#aborted = true
    this.#reason = reason
    this.#controller?.abort(reason)
  }
}
