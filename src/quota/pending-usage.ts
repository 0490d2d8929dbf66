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

/** Cells by the user's id as it was given and as text, so that every form of it finds the same cell. */
type UserCells = Map<UserId, PendingCell>

/** The cells of one quota type in one period. */
interface PeriodCells extends PeriodSpan {
  readonly cells: UserCells
}

/** One quota type. */
interface TypeCells {
  readonly quotaType: string
  /** Asked for when an event has to be put into a period: what came back from a journal knows its own. */
  kind: QuotaPeriod | undefined
  /** The period of the latest event: most events are of now. */
  latest: PeriodCells
  readonly periods: Map<string, UserCells>
}

/** Where no time lies. */
const nowhere: PeriodCells = { label: '', from: 0, until: 0, cells: new Map() }

/**
 * What was accepted and isn't accounted yet, by user, quota type and period. A cell that falls idle stays for the next event of
 * its key; when there are too many of them, all that are idle go, so that memory stays in proportion to what is pending. So a cell
 * is good until the end of the turn, or as long as something is pending in it.
 *
 * Types and periods are only held while they have cells.
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
    const type = this.#latest
    if (type !== undefined && type.quotaType === quotaType && at >= type.latest.from && at < type.latest.until) {
      const cell = type.latest.cells.get(userId)
      if (cell !== undefined) return cell
    }
    return this.#find(userId, quotaType, at)
  }

  /** The cell of a key whose period is known by its label. */
  cellIn(userId: UserId, quotaType: string, label: string): PendingCell {
    const type = this.#typeOf(quotaType)
    const cells: UserCells = type.periods.get(label) ?? new Map()
    return cells.get(userId) ?? this.#open(type, { label, cells }, userId)
  }

  /** What is pending of a key at a time. */
  valueAt(userId: UserId, quotaType: string, at: number): number {
    const type = this.#types.get(quotaType)
    if (type === undefined) return 0
    const { label } = at >= type.latest.from && at < type.latest.until ? type.latest : periodAt(this.#kindOf(type), at)
    return type.periods.get(label)?.get(userText(userId))?.value ?? 0
  }

  #find(userId: UserId, quotaType: string, at: number): PendingCell {
    const type = this.#typeOf(quotaType)
    const { latest } = type
    const period = at >= latest.from && at < latest.until ? latest : this.#periodAt(type, at, userId)
    const cell = period.cells.get(userId) ?? this.#open(type, period, userId)
    type.latest = period
    this.#latest = type
    return cell
  }

  #typeOf(quotaType: string): TypeCells {
    const type = this.#types.get(quotaType)
    if (type !== undefined) return type
    const problem = problemOfText('quotaType', quotaType)
    if (problem !== undefined) throw problem
    return { quotaType, kind: undefined, latest: nowhere, periods: new Map() }
  }

  #kindOf(type: TypeCells): QuotaPeriod {
    type.kind ??= this.#periodOf(type.quotaType)
    return type.kind
  }

  #periodAt(type: TypeCells, at: number, userId: UserId): PeriodCells {
    // Before `periodOf` is asked: it needn't know the types of events that are wrong.
    checkUser(userId)
    const span = periodAt(this.#kindOf(type), at)
    return { ...span, cells: type.periods.get(span.label) ?? new Map() }
  }

  #open(type: TypeCells, { label, cells }: Pick<PeriodCells, 'label' | 'cells'>, userId: UserId): PendingCell {
    checkUser(userId)
    if (this.idle > this.#maxIdle) this.#sweep()
    const text = userText(userId)
    let cell = cells.get(text)
    if (cell === undefined) {
      cell = new PendingCell(this, text, type.quotaType, label)
      cells.set(text, cell)
      this.idle++
    }
    cells.set(userId, cell)
    type.periods.set(label, cells)
    this.#types.set(type.quotaType, type)
    return cell
  }

  #sweep(): void {
    this.idle = 0
    for (const [quotaType, type] of this.#types) {
      for (const [label, cells] of type.periods) {
        for (const [userId, cell] of cells) if (cell.count === 0) cells.delete(userId)
        if (cells.size > 0) continue
        type.periods.delete(label)
        if (type.latest.label === label) type.latest = nowhere
      }
      if (type.periods.size === 0) this.#types.delete(quotaType)
    }
  }
}

function checkUser(userId: UserId): void {
  const problem = problemOfUser(userId)
  if (problem !== undefined) throw problem
}
