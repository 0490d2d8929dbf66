type Listener = (reason: unknown, promise: Promise<unknown>) => void

/**
 * Hears of rejections that nobody handles, in place of whoever listens otherwise: a test runner would blame the test for them without the
 * seed. Where the platform doesn't tell of them, it hears of none.
 */
export class RejectionWatch {
  #reasons: unknown[] = []
  readonly #others: readonly Listener[]
  readonly #listener: Listener = (reason) => void this.#reasons.push(reason)

  constructor() {
    const platform = platformOf()
    this.#others = (platform?.listeners('unhandledRejection') ?? []) as Listener[]
    for (const other of this.#others) platform?.off('unhandledRejection', other)
    platform?.on('unhandledRejection', this.#listener)
  }

  /** What was heard since it was last asked. They are told at the ends of turns: ask two turns later. */
  take(): readonly unknown[] {
    const reasons = this.#reasons
    this.#reasons = []
    return reasons
  }

  /** Gives the word back to the others. */
  end(): void {
    const platform = platformOf()
    platform?.off('unhandledRejection', this.#listener)
    for (const other of this.#others) platform?.on('unhandledRejection', other)
  }
}

function platformOf(): NodeJS.Process | undefined {
  return typeof globalThis.process?.listeners === 'function' ? globalThis.process : undefined
}
