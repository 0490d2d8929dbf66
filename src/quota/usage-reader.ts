import type { Clock } from '../core/clock.js'
import { BatchResultError } from '../core/errors.js'
import type { QuotaKey, QuotaStore, QuotaUsage } from '../core/ports.js'
import { captureContext } from '../internal/async-context.js'
import { type Deferred, deferred, handled } from '../internal/deferred.js'
import { Remembered } from '../internal/remembered.js'
import { keyText } from '../internal/usage.js'
import type { StoreCalls } from './store-calls.js'

/** The most keys of one read. */
const maxKeys = 1000

/** How usage is read. */
export interface UsageReaderSetting {
  readonly store: QuotaStore
  readonly calls: StoreCalls
  readonly clock: Clock
  /** How long what was read may be used again, in milliseconds; 0 for not at all. */
  readonly ttlMs: number
  /** How many keys are kept. */
  readonly cacheSize: number
}

/** One key that is to be read, for all who asked before the read went out. */
interface Question extends Deferred<QuotaUsage> {
  readonly key: QuotaKey
  readonly text: string
  /** Something changed its usage after it was asked: its answer may be older than that, and must not be kept. */
  outdated: boolean
}

/**
 * Reads usage for many checks at once, by group commit: one read is on its way, and what is asked meanwhile goes with the next. A
 * read that is on its way takes nobody on: its answer may be older than what has left the caller's buffer since.
 */
export class UsageReader {
  /** How many reads went to the store. */
  reads = 0
  /** How many checks found what they needed here. */
  cacheHits = 0
  readonly #setting: UsageReaderSetting
  readonly #inContext = captureContext()
  /** Usage that may be used again, the latest read last. */
  readonly #cache: Remembered<{ readonly usage: QuotaUsage; readonly until: number }>
  #waiting = new Map<string, Question>()
  #onTheWay: ReadonlyMap<string, Question> | undefined
  #due = false

  constructor(setting: UsageReaderSetting) {
    this.#setting = setting
    this.#cache = new Remembered(setting.cacheSize)
  }

  /** How many keys are kept. */
  get cached(): number {
    return this.#cache.size
  }

  /** Looks where it is kept in the caller's own turn; otherwise answers with what the store says from now on. */
  read(key: QuotaKey): Promise<QuotaUsage> {
    const text = keyText(key.userId, key.quotaType, key.period)
    const kept = this.#kept(text)
    if (kept !== undefined) {
      this.cacheHits++
      return Promise.resolve(kept)
    }
    let question = this.#waiting.get(text)
    if (question === undefined) {
      question = { ...deferred<QuotaUsage>(), key, text, outdated: false }
      handled(question.promise)
      this.#waiting.set(text, question)
      this.#schedule()
    }
    return question.promise
  }

  /** Keeps nothing of these keys that was read, or is being read, before now. */
  forget(keys: readonly QuotaKey[]): void {
    if (this.#setting.ttlMs === 0) return
    for (const { userId, quotaType, period } of keys) {
      const text = keyText(userId, quotaType, period)
      this.#cache.delete(text)
      const question = this.#onTheWay?.get(text)
      if (question !== undefined) question.outdated = true
    }
  }

  #kept(text: string): QuotaUsage | undefined {
    const entry = this.#cache.get(text)
    if (entry === undefined) return undefined
    if (this.#setting.clock.now() < entry.until) return entry.usage
    this.#cache.delete(text)
    return undefined
  }

  /** All that this turn brings in goes together. */
  #schedule(): void {
    if (this.#due || this.#onTheWay !== undefined) return
    this.#due = true
    this.#setting.clock.defer(() => {
      this.#due = false
      this.#inContext(() => void this.#send())
    })
  }

  async #send(): Promise<void> {
    while (this.#waiting.size > 0) {
      const questions = [...this.#waiting.values()].slice(0, maxKeys)
      if (questions.length === this.#waiting.size) this.#waiting = new Map()
      else for (const { text } of questions) this.#waiting.delete(text)
      this.#onTheWay = new Map(questions.map((question) => [question.text, question]))
      this.reads++
      const sentAt = this.#setting.clock.now()
      try {
        const usages = await this.#ask(questions.map(({ key }) => key))
        questions.forEach((question, index) => {
          this.#answer(question, usages[index] as QuotaUsage, sentAt)
        })
      } catch (error) {
        for (const question of questions) question.reject(error)
      }
      this.#onTheWay = undefined
    }
  }

  async #ask(keys: readonly QuotaKey[]): Promise<readonly QuotaUsage[]> {
    const { store, calls } = this.#setting
    const { answer: usages }: { answer: unknown } = await calls.run({
      operation: 'read',
      idempotent: true,
      signal: undefined,
      make: () => store.readUsage(keys),
    })
    if (!Array.isArray(usages) || usages.length !== keys.length || !usages.every(isUsage)) {
      throw new BatchResultError(`readUsage must answer with the usage of each of ${keys.length} keys`)
    }
    return usages
  }

  #answer(question: Question, usage: QuotaUsage, sentAt: number): void {
    const { ttlMs } = this.#setting
    if (ttlMs > 0 && !question.outdated) this.#cache.add(question.text, { usage, until: sentAt + ttlMs })
    question.resolve(usage)
  }
}

function isUsage(usage: Partial<QuotaUsage> | null | undefined): usage is QuotaUsage {
  return (usage?.used ?? -1) >= 0 && (usage?.held ?? -1) >= 0
}
