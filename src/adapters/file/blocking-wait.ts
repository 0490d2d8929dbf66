const cell = new Int32Array(new SharedArrayBuffer(4))
/** What is waited for takes well under a millisecond as a rule. */
const shortestMs = 0.05
const longestMs = 1

/** Waits, a little at a time, while nothing else of this thread runs: for a process that is about to end. */
export class BlockingWait {
  #leftMs: number
  #sliceMs = shortestMs

  constructor(timeoutMs: number) {
    this.#leftMs = timeoutMs
  }

  /** Waits a little. @returns false, at once, when all its time is spent. */
  pass(): boolean {
    if (this.#leftMs <= 0) return false
    const ms = Math.min(this.#sliceMs, this.#leftMs)
    this.#leftMs -= ms
    this.#sliceMs = Math.min(this.#sliceMs * 1.25, longestMs)
    Atomics.wait(cell, 0, 0, ms)
    return true
  }
}
