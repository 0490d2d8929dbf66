import type { QuotaPeriod, UsageTotal, UserId } from '../core/ports.js'
import { type PeriodSpan, periodAt, problemOfText, problemOfUser, userText } from '../internal/usage.js'

/** What is pending of one quota of one user in one period. */
export class PendingCell {
  readonly userId: string
  readonly quotaType: string
  readonly period: string
  value = 0
  count = 0
  /** The total of the batch that is being made just now, where this key has one. */
  total: GrowingTotal | undefined
  readonly #owner: PendingUsage

  constructor(owner: PendingUsage, userId: string, quotaType: string, period: string) {
    this.#owner = owner
    this.userId = userId
    this.quotaType = quotaType
    this.period = period
  }

  add(value: number): void {
    if (this.count === 0) this.#owner.idle--
    this.count++
    this.value += value
  }

  remove(value: number): void {
    // Fractions leave traces: what nobody waits for is nothing.
    if (--this.count > 0) this.value -= value
    else {
      this.value = 0
      this.#owner.idle++
    }
  }
}

/** A total while it is being summed. */
export type GrowingTotal = { -readonly [Name in keyof UsageTotal]: UsageTotal[Name] }

/** The cells of one quota type in one period. */
interface PeriodCells extends PeriodSpan {
  /** By the user's id as it was given and as text, so that every form of it finds the same cell. */
  readonly cells: Map<UserId, PendingCell>
}

/** One quota type. */
interface TypeCells {
  readonly quotaType: string
  readonly kind: QuotaPeriod
  /** The period of the latest event: most events are of now. */
  latest: PeriodCells
  readonly periods: Map<string, PeriodCells>
}

/**
 * What was accepted and isn't accounted yet, by user, quota type and period. A cell that falls idle stays for the next event of
 * its key; when there are too many of them, all that are idle go, so that memory stays in proportion to what is pending.
 */
export class PendingUsage {
  /** How many cells have nothing pending. */
  idle = 0
  readonly #periodOf: (quotaType: string) => QuotaPeriod
  readonly #maxIdle: number
  readonly #types = new Map<string, TypeCells>()
  #latest: TypeCells | undefined

  /** @param maxIdle - how many idle cells may stay. */
  constructor(periodOf: (quotaType: string) => QuotaPeriod, maxIdle: number) {
    this.#periodOf = periodOf
    this.#maxIdle = maxIdle
  }

  /**
   * The cell of a key at a time.
   *
   * @throws InvalidEventError when one of the ids is wrong, or whatever `periodOf` throws.
   */
  cellAt(userId: UserId, quotaType: string, at: number): PendingCell {
    let type = this.#latest
    if (type === undefined || type.quotaType !== quotaType) this.#latest = type = this.#typeOf(quotaType)
    let period = type.latest
    if (!(at >= period.from && at < period.until)) type.latest = period = this.#periodAt(type, at)
    return period.cells.get(userId) ?? this.#open(type, period, userId)
  }

  /** The cell of a key whose period is known by its label. */
  cellIn(userId: UserId, quotaType: string, label: string): PendingCell {
    const type = this.#typeOf(quotaType)
    let period = type.periods.get(label)
    if (period === undefined) {
      // No time lies in it: it may be of another kind than the type's is now.
      period = { label, from: Number.NaN, until: Number.NaN, cells: new Map() }
      type.periods.set(label, period)
    }
    return period.cells.get(userId) ?? this.#open(type, period, userId)
  }

  /** What is pending of a key at a time. */
  valueAt(userId: UserId, quotaType: string, at: number): number {
    const type = this.#types.get(quotaType)
    if (type === undefined) return 0
    const { label } = at >= type.latest.from && at < type.latest.until ? type.latest : periodAt(type.kind, at)
    return type.periods.get(label)?.cells.get(userText(userId))?.value ?? 0
  }

  #typeOf(quotaType: string): TypeCells {
    let type = this.#types.get(quotaType)
    if (type === undefined) {
      const problem = problemOfText('quotaType', quotaType)
      if (problem !== undefined) throw problem
      const latest: PeriodCells = { label: '', from: Number.NaN, until: Number.NaN, cells: new Map() }
      type = { quotaType, kind: this.#periodOf(quotaType), latest, periods: new Map() }
      this.#types.set(quotaType, type)
    }
    return type
  }

  #periodAt(type: TypeCells, at: number): PeriodCells {
    for (const period of type.periods.values()) if (at >= period.from && at < period.until) return period
    const span = periodAt(type.kind, at)
    const period: PeriodCells = { ...span, cells: type.periods.get(span.label)?.cells ?? new Map() }
    type.periods.set(span.label, period)
    return period
  }

  #open(type: TypeCells, period: PeriodCells, userId: UserId): PendingCell {
    const problem = problemOfUser(userId)
    if (problem !== undefined) throw problem
    if (this.idle > this.#maxIdle) this.#sweep()
    const text = userText(userId)
    let cell = period.cells.get(text)
    if (cell === undefined) {
      cell = new PendingCell(this, text, type.quotaType, period.label)
      period.cells.set(text, cell)
      this.idle++
    }
    period.cells.set(userId, cell)
    // A sweep may have taken away what this belongs to.
    type.periods.set(period.label, period)
    this.#types.set(type.quotaType, type)
    return cell
  }

  #sweep(): void {
    this.idle = 0
    for (const [quotaType, type] of this.#types) {
      for (const [label, { cells }] of type.periods) {
        for (const [userId, cell] of cells) if (cell.count === 0) cells.delete(userId)
        if (cells.size === 0) type.periods.delete(label)
      }
      if (type.periods.size === 0) this.#types.delete(quotaType)
    }
  }
}
