/** Work that goes on behind its owner's back and that the owner must wait for before it ends. */
export class Tasks {
  readonly #running = new Set<Promise<void>>()

  /** Runs some work and keeps hold of it; what it fails with, at once or later, goes to `onFailure`. */
  run(work: () => unknown, onFailure: (error: unknown) => void): void {
    const task = attempt(work)
      .then(() => undefined, onFailure)
      .finally(() => this.#running.delete(task))
    this.#running.add(task)
  }

  /** Resolves once all that runs now has ended. */
  async settled(): Promise<void> {
    await Promise.all(this.#running)
  }
}

/** Calls, and makes a promise of whatever comes of it. */
export async function attempt<T>(work: () => T | PromiseLike<T>): Promise<T> {
  return work()
}
