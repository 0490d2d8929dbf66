import { checkOneOf } from '../core/options.js'
import type { QuotaPeriod } from '../core/ports.js'
import { type PeriodSpan, periodAt, quotaPeriods } from '../internal/usage.js'

/** How many quota types are kept: more than anybody has, unless their names are made up. */
const maxTypes = 1000

/** The periods of quota types, the latest one of each at hand: a label costs more than all else that a check does here. */
export class QuotaPeriods {
  /** The period over which a quota type counts. */
  readonly kindOf: (quotaType: string) => QuotaPeriod
  readonly #latest = new Map<string, PeriodSpan>()

  constructor(periodOf: (quotaType: string) => QuotaPeriod) {
    this.kindOf = (quotaType) => checkOneOf('periodOf', periodOf(quotaType), quotaPeriods)
  }

  /**
   * The period of a quota type in which a time lies.
   *
   * @throws OptionError when `periodOf` answers nonsense, or whatever it throws.
   */
  spanAt(quotaType: string, at: number): PeriodSpan {
    let span = this.#latest.get(quotaType)
    if (span === undefined || !(at >= span.from && at < span.until)) {
      span = periodAt(this.kindOf(quotaType), at)
      if (this.#latest.size >= maxTypes) this.#latest.clear()
      this.#latest.set(quotaType, span)
    }
    return span
  }
}

/** When a period ends by its label, `2026-11-20` or `2026-11`, in milliseconds since the epoch; `Infinity` for any other. */
export function endOfPeriod(label: string): number {
  if (!/^\d{4}-\d\d(?:-\d\d)?$/.test(label)) return Number.POSITIVE_INFINITY
  return periodAt(label.length === 7 ? 'month' : 'day', Date.parse(label)).until
}
