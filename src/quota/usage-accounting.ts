import type { Clock } from '../core/clock.js'
import { isSpillwayError } from '../core/errors.js'
import type { AcceptedUsage, QuotaKey, QuotaPeriod, QuotaStore, UsageEvent } from '../core/ports.js'
import type { LazySignal } from '../internal/lazy-signal.js'
import { isOutcomeUnknown } from '../internal/outcome.js'
import { acceptUsage, keyText, problemOfUsage, userText } from '../internal/usage.js'
import type { QuotaWork } from './quota-calls.js'
import type { QuotaConsumer } from './quota-consumer.js'
import type { StoreCalls } from './store-calls.js'
import { UncheckedWriter } from './unchecked-writer.js'

/** Where a use went that nobody checked: into the consumer's buffer, or to the store at once. */
export type AccountedUse = 'buffered' | 'written'

/** A use that the consumer refused because it is full or closed, so that it goes to the store at once. */
export interface UsageFallback {
  /** Who used it, as text. */
  readonly userId: string
  /** Which of the user's quotas. */
  readonly quotaType: string
  /** How much. */
  readonly value: number
  /** What the consumer refused it with. */
  readonly error: unknown
}

/** How usage is accounted. */
export interface UsageAccountingSetting {
  readonly name: string
  readonly clock: Clock
  readonly store: QuotaStore
  readonly calls: StoreCalls
  readonly consumer: QuotaConsumer | undefined
  readonly periodOf: (quotaType: string) => QuotaPeriod
  readonly newId: () => string
  /** Takes the keys whose usage has changed in the store, or may have. */
  readonly onChanged: (keys: readonly QuotaKey[]) => void
  readonly onFallback: (fallback: UsageFallback) => void
}

/** Writes an event to the store at once. */
type WriteNow = (event: AcceptedUsage, ended: LazySignal) => Promise<void>

/** An event that waits to be written with others. */
interface Leftover {
  readonly event: AcceptedUsage
  readonly ended: LazySignal
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/** Accounts uses that nobody checks: by the consumer where that takes them, otherwise in the store at once; never in both. */
export class UsageAccounting {
  /** How many the consumer took. */
  buffered = 0
  /** How many were written at once. */
  written = 0
  /** How many the consumer refused, so that they were to be written at once. */
  fallbacks = 0
  readonly #setting: UsageAccountingSetting
  readonly #writer: UncheckedWriter
  /** What is being written at once, by key: each as long as something of it is. */
  readonly #writing = new Map<string, { value: number; count: number }>()

  constructor(setting: UsageAccountingSetting) {
    this.#setting = setting
    this.#writer = new UncheckedWriter(setting)
  }

  /** What was taken of a key, and isn't in the store yet or only just; `at` is a time in its period. */
  pending({ userId, quotaType, period }: QuotaKey, at: number): number {
    const buffered = this.#setting.consumer?.pending(userId, quotaType, at) ?? 0
    if (this.#writing.size === 0) return buffered
    return buffered + (this.#writing.get(keyText(userId, quotaType, period))?.value ?? 0)
  }

  /**
   * Takes an event, and returns the work that is to be done about it.
   *
   * @throws InvalidEventError when the event is wrong and there is no consumer to say so.
   */
  account(event: UsageEvent, writeNow: WriteNow = this.#alone): QuotaWork<AccountedUse> {
    const { consumer } = this.#setting
    if (consumer === undefined) {
      const accepted = this.#accept(event)
      return (ended) => this.#write(accepted, ended, writeNow)
    }
    // The caller may change his own before it is refused.
    const own = copyOf(event)
    return async (ended) => {
      try {
        await consumer.publish(own, { wait: false })
      } catch (error) {
        if (!isRefusal(error)) throw error
        const accepted = this.#accept(own)
        this.#recordFallback(accepted, error)
        return this.#write(accepted, ended, writeNow)
      }
      this.buffered++
      return 'buffered'
    }
  }

  /** A way to write that takes together what comes in one turn. All that comes must end together too. */
  together(): WriteNow {
    let waiting: Leftover[] = []
    return (event, ended) =>
      new Promise((resolve, reject) => {
        waiting.push({ event, ended, resolve, reject })
        if (waiting.length > 1) return
        this.#setting.clock.defer(() => {
          const left = waiting
          waiting = []
          void this.#writeTogether(left)
        })
      })
  }

  readonly #alone: WriteNow = async (event, ended) => {
    const [result] = await this.#writer.write([event], ended.signal)
    if (result !== undefined) throw result.error
  }

  async #write(event: AcceptedUsage, ended: LazySignal, writeNow: WriteNow): Promise<AccountedUse> {
    const end = this.#beginWriting(event)
    try {
      await writeNow(event, ended)
    } finally {
      end()
    }
    this.written++
    return 'written'
  }

  /** Makes a use one that is being written, until the function that it returns is called. */
  #beginWriting({ userId, quotaType, period, value }: AcceptedUsage): () => void {
    const key = keyText(userText(userId), quotaType, period)
    const sum = this.#writing.get(key) ?? { value: 0, count: 0 }
    this.#writing.set(key, sum)
    sum.count++
    sum.value += value
    return () => {
      sum.value -= value
      if (--sum.count === 0) this.#writing.delete(key)
    }
  }

  async #writeTogether(left: readonly Leftover[]): Promise<void> {
    const { signal } = (left[0] as Leftover).ended
    const results = await this.#writer.write(
      left.map(({ event }) => event),
      signal,
    )
    left.forEach(({ resolve, reject }, index) => {
      const result = results[index]
      if (result === undefined) resolve()
      else reject(result.error)
    })
  }

  #accept(event: UsageEvent): AcceptedUsage {
    const problem = problemOfUsage(event)
    if (problem !== undefined) throw problem
    return acceptUsage(event, this.#setting.clock.wallNow(), this.#setting.periodOf)
  }

  #recordFallback({ userId, quotaType, value }: AcceptedUsage, error: unknown): void {
    this.fallbacks++
    this.#setting.onFallback({ userId: userText(userId), quotaType, value, error })
  }
}

/** Whether a consumer surely has nothing of an event, because it has no room or is closed. */
function isRefusal(error: unknown): boolean {
  return (isSpillwayError(error, 'ERR_FULL') || isSpillwayError(error, 'ERR_CLOSED')) && !isOutcomeUnknown(error)
}

function copyOf(event: UsageEvent): UsageEvent {
  if (typeof event !== 'object' || event === null) return event
  const { userId, quotaType, value, timestamp, requestId, metadata } = event
  return { userId, quotaType, value, timestamp, requestId, metadata }
}
