import type { Clock } from '../../core/clock.js'
import { handled } from '../../internal/deferred.js'

/** What {@link PassingWork} needs to know. */
export interface PassingWorkOptions {
  readonly clock: Clock
  readonly random: () => number
  /** How often it is due, in milliseconds. */
  readonly everyMs: number
  /** Whether it must wait because something else can't. */
  readonly busy: () => boolean
  /** Does some of it; answers whether there is more, so that it is due again at once. */
  readonly work: () => Promise<boolean>
  readonly onFailed: (error: unknown) => void
}

/** Housekeeping without a timer: done behind a call that comes by when it is due, never two at once. */
export class PassingWork {
  readonly #options: PassingWorkOptions
  #working = false
  /** When it is due; at first some way into the life of its owner, for each at its own time. */
  #dueAt: number | undefined

  constructor(options: PassingWorkOptions) {
    this.#options = options
  }

  /** Starts it if it is due. */
  passBy(): void {
    const { clock, random, everyMs, busy, work, onFailed } = this.#options
    const now = clock.now()
    this.#dueAt ??= now + everyMs * random()
    if (this.#working || now < this.#dueAt || busy()) return
    this.#working = true
    this.#dueAt = now + everyMs
    handled(
      work()
        .then((more) => {
          if (more) this.#dueAt = now
        }, onFailed)
        .finally(() => {
          this.#working = false
        }),
    )
  }
}
