import { warn } from '../core/events.js'
import type { AcceptedUsage, QuotaKey, QuotaStore } from '../core/ports.js'
import { isOutcomeUnknown, mayBeOfOneItem } from '../internal/outcome.js'
import { refusalsOf, totalsOf } from '../internal/usage.js'
import type { StoreCalls } from './store-calls.js'

/** The most events of one batch. */
const maxEvents = 1000

/** How usage is written. */
export interface UncheckedWriterSetting {
  readonly name: string
  readonly store: QuotaStore
  readonly calls: StoreCalls
  readonly newId: () => string
  /** Takes the keys whose usage has changed in the store, or may have. */
  readonly onChanged: (keys: readonly QuotaKey[]) => void
}

/** What became of an event: undefined when it is counted. */
export type WriteResult = { readonly error: unknown } | undefined

/** Writes usage that nobody checks to a store, at once. */
export class UncheckedWriter {
  readonly #setting: UncheckedWriterSetting
  #warned = false

  constructor(setting: UncheckedWriterSetting) {
    this.#setting = setting
  }

  /**
   * Writes events, as many in a batch as go into one. A batch that fails for good is halved until the event at fault stands alone,
   * where that says something: never after an outcome that is unknown, or an error that says that it is `retryable`.
   *
   * @returns what became of each, in order.
   */
  async write(events: readonly AcceptedUsage[], signal: AbortSignal): Promise<WriteResult[]> {
    const results: WriteResult[] = []
    for (let from = 0; from < events.length; from += maxEvents) {
      results.push(...(await this.#settle(events.slice(from, from + maxEvents), signal)))
    }
    return results
  }

  async #settle(events: readonly AcceptedUsage[], signal: AbortSignal): Promise<WriteResult[]> {
    try {
      const refused = await this.#writeBatch(events, signal)
      return events.map((_, index) => {
        const error = refused?.get(index)
        return error === undefined ? undefined : { error }
      })
    } catch (error) {
      if (events.length === 1 || isOutcomeUnknown(error) || !mayBeOfOneItem(error) || signal.aborted)
        return events.map(() => ({ error }))
      const middle = Math.ceil(events.length / 2)
      const first = await this.#settle(events.slice(0, middle), signal)
      return [...first, ...(await this.#settle(events.slice(middle), signal))]
    }
  }

  async #writeBatch(
    events: readonly AcceptedUsage[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<number, Error> | undefined> {
    const { store, calls, newId, onChanged } = this.#setting
    const id = newId()
    const totals = totalsOf(events)
    const batch = Object.freeze({ id, events: Object.freeze(events), totals: Object.freeze(totals) })
    try {
      const { answer } = await calls.run<unknown>({
        operation: 'write',
        id,
        idempotent: store.idempotent,
        signal,
        make: (context) => store.write(batch, context),
      })
      return refusalsOf(answer, events.length, () => this.#warnOfAnswer())
    } finally {
      onChanged(totals)
    }
  }

  #warnOfAnswer(): void {
    if (this.#warned) return
    this.#warned = true
    warn(
      `${this.#setting.name}: its store answered with a list that isn't one of refused events, so none counts as refused`,
    )
  }
}
