import { StoreError } from '../../core/errors.js'
import type { AcceptedUsage, QuotaKey, RefusedUsage, UsageBatch, UsageDedupe } from '../../core/ports.js'
import { problemOfKey } from '../../internal/store-arguments.js'
import { beyondRange, keyText, maxUsage, nameOfQuota, problemOfValue, userText } from '../../internal/usage.js'
import { endOf, type QuotaKeys, type UserKeys } from './quota-keys.js'
import { notUsage } from './quota-scripts.js'

/** A total on its way. */
interface PartTotal {
  readonly key: QuotaKey
  /** The sum of what nothing but the batch's id tells from what was counted before. */
  sum: number
}

/** An event that may have been counted before. */
interface MarkedEvent {
  /** Its place in the batch. */
  readonly index: number
  /** The number of its total. */
  readonly total: number
  readonly mark: string
  readonly value: number
}

/** What one call of the script counts: a whole batch, or one user's part of it. */
export class BatchPart {
  readonly #keys: QuotaKeys
  readonly #batchKey: string
  readonly #totals: PartTotal[] = []
  readonly #events: MarkedEvent[] = []

  constructor(keys: QuotaKeys, batchKey: string) {
    this.#keys = keys
    this.#batchKey = batchKey
  }

  /** Adds a total; returns its number. */
  addTotal(key: QuotaKey, sum: number): number {
    return this.#totals.push({ key, sum }) - 1
  }

  /** Adds to a total. */
  add(total: number, value: number): void {
    ;(this.#totals[total] as PartTotal).sum += value
  }

  addMarked(event: MarkedEvent): void {
    this.#events.push(event)
  }

  /** What the part is told by from another one under the same id. */
  get #shape(): string {
    return `${this.#totals.length}.${this.#events.length}`
  }

  /** What the script is called with. */
  call(settings: readonly string[]): { keys: readonly string[]; args: readonly string[] } {
    const keys = new KeyList(this.#batchKey)
    const args: string[] = [this.#shape, ...settings, String(this.#totals.length)]
    const users: UserKeys[] = []
    for (const { key, sum } of this.#totals) {
      const user = this.#keys.user(key.userId)
      users.push(user)
      args.push(keys.placeOf(user.used(key.period)), key.quotaType, String(sum), String(endOf(key.period) ?? ''))
    }
    for (const { total, mark, value } of this.#events) {
      const { ids } = users[total] as UserKeys
      args.push(String(total + 1), keys.placeOf(ids), mark, String(value))
    }
    return { keys: keys.names, args }
  }

  /**
   * What was refused, by the script's answer.
   *
   * @returns undefined where that is the answer to another batch.
   */
  refused(answer: unknown): readonly RefusedTotal[] | undefined {
    const [shape, ...parts] = typeof answer === 'string' ? answer.split(',') : []
    if (shape !== this.#shape) return undefined
    return parts.map((part) => {
      const [, number, why, fresh = ''] = /^(\d+)([a-z])(.*)$/.exec(part) ?? []
      const { key } = this.#totals[Number(number)] as PartTotal
      const marked =
        fresh === '' ? [] : fresh.split(':').map((text) => (this.#events[Number(text)] as MarkedEvent).index)
      return { key, marked, error: why === notUsage ? wrongType(key) : beyondRange(key) }
    })
  }
}

/** A total that wasn't counted. */
export interface RefusedTotal {
  readonly key: QuotaKey
  /** Those of its events that have a mark, as far as they hadn't been counted before. */
  readonly marked: readonly number[]
  readonly error: StoreError
}

/** A list of the keys of a call, each of them once. */
export class KeyList {
  readonly names: string[]
  readonly #places = new Map<string, string>()

  constructor(...first: readonly string[]) {
    this.names = [...first]
  }

  /** The place of a key, as Lua counts. */
  placeOf(name: string): string {
    let place = this.#places.get(name)
    if (place === undefined) {
      place = String(this.names.push(name))
      this.#places.set(name, place)
    }
    return place
  }
}

/**
 * A batch, made ready to be sent: in one part, or in one for each user where users lie on several nodes. Of equal events the first
 * counts, so the others stay out from the start.
 */
export class PreparedBatch {
  readonly #batch: UsageBatch
  readonly #dedupe: UsageDedupe
  readonly #keys: QuotaKeys
  readonly #byUser: boolean
  readonly #parts = new Map<string, BatchPart>()
  /** Why totals can't be counted at all, by their keys as text. */
  readonly #wrongTotals = new Map<string, Error>()
  /** The same of single events, by their places. */
  readonly #wrongEvents = new Map<number, Error>()

  constructor(batch: UsageBatch, dedupe: UsageDedupe, keys: QuotaKeys, byUser: boolean) {
    this.#batch = batch
    this.#dedupe = dedupe
    this.#keys = keys
    this.#byUser = byUser
    if (dedupe === 'batch') this.#takeTotals()
    else this.#takeEvents()
  }

  /** What is to be sent. */
  get parts(): readonly BatchPart[] {
    return [...this.#parts.values()]
  }

  /** The events that were refused, those of these totals among them, in their order. */
  refusals(totals: readonly RefusedTotal[]): readonly RefusedUsage[] {
    if (totals.length + this.#wrongTotals.size + this.#wrongEvents.size === 0) return []
    const byKey = new Map(this.#wrongTotals)
    const byIndex = new Map(this.#wrongEvents)
    for (const { key, marked, error } of totals) {
      byKey.set(textOf(key), error)
      for (const index of marked) byIndex.set(index, error)
    }
    return this.#batch.events.flatMap((event, index) => {
      const error = byIndex.get(index) ?? (this.#markOf(event) === undefined ? byKey.get(textOf(event)) : undefined)
      return error === undefined ? [] : [{ index, error }]
    })
  }

  #takeTotals(): void {
    for (const total of this.#batch.totals) {
      const { value } = total
      const wrong = problemOfKey(total) ?? (value > maxUsage ? beyondRange(total) : problemOfValue('value', value))
      if (wrong === undefined) this.#partOf(total.userId).addTotal(total, value)
      else this.#wrongTotals.set(textOf(total), wrong)
    }
  }

  #takeEvents(): void {
    const totals = new Map<string, number>()
    const seen = new Set<string>()
    this.#batch.events.forEach((event, index) => {
      const { quotaType, period, value } = event
      const key = { userId: userText(event.userId), quotaType, period }
      const wrong = problemOfKey(key) ?? problemOfValue('value', value)
      if (wrong !== undefined) {
        this.#wrongEvents.set(index, wrong)
        return
      }
      const mark = this.#markOf(event)
      if (mark !== undefined) {
        const once = `${key.userId}\0${mark}`
        if (seen.has(once)) return
        seen.add(once)
      }
      const part = this.#partOf(key.userId)
      const text = textOf(key)
      let total = totals.get(text)
      if (total === undefined) {
        total = part.addTotal(key, 0)
        totals.set(text, total)
      }
      if (mark === undefined) part.add(total, value)
      else part.addMarked({ index, total, mark, value })
    })
  }

  #partOf(userId: string): BatchPart {
    const whose = this.#byUser ? userId : ''
    let part = this.#parts.get(whose)
    if (part === undefined) {
      const { id } = this.#batch
      part = new BatchPart(this.#keys, this.#byUser ? this.#keys.user(userId).batch(id) : this.#keys.batch(id))
      this.#parts.set(whose, part)
    }
    return part
  }

  /** By what an event is told from others; undefined where only its batch is. */
  #markOf({ quotaType, requestId, id }: AcceptedUsage): string | undefined {
    if (this.#dedupe === 'request' && requestId !== undefined) return requestMark(quotaType, requestId)
    return this.#dedupe === 'batch' || id === undefined ? undefined : `e${id}`
  }
}

/** How a request is remembered among its user's ids: the same whether it is consumed or written. */
export function requestMark(quotaType: string, id: string): string {
  return `r${quotaType}\0${id}`
}

function textOf({ userId, quotaType, period }: Pick<AcceptedUsage, 'userId' | 'quotaType' | 'period'>): string {
  return keyText(userText(userId), quotaType, period)
}

function wrongType(key: QuotaKey): StoreError {
  const why = 'one of its keys in Redis holds something else'
  return new StoreError(`${nameOfQuota(key)} in ${key.period} can't be counted: ${why}`, { retryable: false })
}
