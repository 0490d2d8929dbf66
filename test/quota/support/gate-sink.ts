import type { BatchContext, RefusedUsage, UsageBatch, UsageDedupe, UsageSink } from 'spillway'

/** What a sink may answer. */
export type SinkAnswer = readonly RefusedUsage[] | undefined

/** One attempt at a batch, which ends when the test says so. */
export interface GateWrite {
  readonly batch: UsageBatch
  readonly context: BatchContext
  /** When it came. */
  readonly at: number
  readonly succeed: () => void
  readonly answer: (answer: SinkAnswer) => void
  readonly fail: (error: unknown) => void
}

/** A sink that holds every attempt until the test settles it. */
export class GateSink implements UsageSink {
  readonly idempotent: boolean
  readonly dedupe: UsageDedupe | undefined
  readonly writes: GateWrite[] = []
  /** The most attempts that were open at one time. */
  widest = 0
  readonly #clock: { now(): number }
  #open = 0
  #letting = false

  constructor(clock: { now(): number }, options: { idempotent?: boolean; dedupe?: UsageDedupe } = {}) {
    this.#clock = clock
    this.idempotent = options.idempotent ?? true
    this.dedupe = options.dedupe
  }

  write(batch: UsageBatch, context: BatchContext): Promise<SinkAnswer> {
    this.widest = Math.max(this.widest, ++this.#open)
    return new Promise<SinkAnswer>((resolve, reject) => {
      const settle = (end: () => void) => (): void => {
        this.#open--
        end()
      }
      const answer = (given: SinkAnswer): void => settle(() => resolve(given))()
      const succeed = (): void => answer(undefined)
      const fail = (error: unknown): void => settle(() => reject(error))()
      this.writes.push({ batch, context, at: this.#clock.now(), succeed, answer, fail })
      if (this.#letting) succeed()
    })
  }

  /** The n-th attempt, counted from 0. */
  at(index: number): GateWrite {
    const write = this.writes[index]
    if (write === undefined) throw new Error(`there is no write ${index}, only ${this.writes.length}`)
    return write
  }

  /** The values of each attempt's events. */
  get values(): number[][] {
    return this.writes.map(({ batch }) => batch.events.map(({ value }) => value))
  }

  /** Lets every attempt succeed, those that are open and those that come. */
  letGo(): void {
    this.#letting = true
    for (const { succeed } of this.writes) succeed()
  }
}
