import type { Clock } from '../../core/clock.js'
import { handled } from '../../internal/deferred.js'
import { explain } from './explain.js'
import type { QueryPlan } from './query-plan.js'
import type { ExplainSettings, SlowQuery } from './slow-query-log-options.js'
import type { Watch } from './slow-query-log-watch.js'

/** So many in a minute, counted from the first of it. */
export class MinuteLimit {
  readonly #max: number
  #beganAt = Number.NEGATIVE_INFINITY
  #taken = 0

  constructor(max: number) {
    this.#max = max
  }

  take(now: number): boolean {
    if (now - this.#beganAt >= 60_000) {
      this.#beganAt = now
      this.#taken = 0
    }
    if (this.#taken >= this.#max) return false
    this.#taken++
    return true
  }
}

/** How many statements are remembered as explained. */
const mostRemembered = 500

/** Hears what became of explains. */
export interface ExplainObserver {
  explained(query: SlowQuery, plan: QueryPlan): void
  failed(query: SlowQuery, error: unknown): void
  skipped(): void
}

/** Explains slow queries behind those who made them: one at a time, few in a minute, each statement once in a while. */
export class SlowQueryExplains {
  readonly #watch: Watch
  readonly #settings: ExplainSettings
  readonly #clock: Clock
  readonly #observer: ExplainObserver
  readonly #limit: MinuteLimit
  /** When statements were explained, the oldest first. */
  readonly #explainedAt = new Map<string, number>()
  readonly #controller = new AbortController()
  #running: Promise<boolean> | undefined
  #stopped = false

  constructor(watch: Watch, settings: ExplainSettings, clock: Clock, observer: ExplainObserver) {
    this.#watch = watch
    this.#settings = settings
    this.#clock = clock
    this.#observer = observer
    this.#limit = new MinuteLimit(settings.maxPerMinute)
  }

  /** The one that is under way, with whether it came to a plan. */
  get running(): Promise<boolean> | undefined {
    return this.#running
  }

  offer(query: SlowQuery, values: readonly unknown[] | undefined): void {
    if (this.#stopped || !onlyReads(query.text)) return
    const now = this.#clock.now()
    const last = this.#explainedAt.get(query.text)
    if (last !== undefined && now - last < this.#settings.repeatMs) return
    if (this.#running !== undefined || !this.#limit.take(now)) {
      this.#observer.skipped()
      return
    }
    this.#remember(query.text, now)
    this.#running = handled(
      this.#explain(query, values).finally(() => {
        this.#running = undefined
      }),
    )
  }

  /** Begins no more: what was under way at a close may still turn out slow. */
  stop(): void {
    this.#stopped = true
  }

  /** Gives up what is under way. */
  abort(reason: unknown): void {
    this.#controller.abort(reason)
  }

  async #explain(query: SlowQuery, values: readonly unknown[] | undefined): Promise<boolean> {
    // By then the query's own connection is back in the pool, if it goes back at once.
    await undefined
    if (!this.#watch.spare) {
      this.#explainedAt.delete(query.text)
      this.#observer.skipped()
      return false
    }
    const { analyze, timeoutMs } = this.#settings
    const statement = { text: query.text, values }
    try {
      const plan = await explain(this.#watch.database, statement, {
        analyze,
        timeoutMs,
        signal: this.#controller.signal,
      })
      this.#observer.explained(query, plan)
      return true
    } catch (error) {
      this.#observer.failed(query, error)
      return false
    }
  }

  #remember(text: string, now: number): void {
    this.#explainedAt.delete(text)
    this.#explainedAt.set(text, now)
    if (this.#explainedAt.size <= mostRemembered) return
    const [oldest] = this.#explainedAt.keys()
    if (oldest !== undefined) this.#explainedAt.delete(oldest)
  }
}

/** Whether a statement begins like one that reads. The server holds it to that: it is explained in a transaction that is read only. */
function onlyReads(text: string): boolean {
  return /^(?:\s|\(|--[^\n]*\n|\/\*(?:[^*]|\*(?!\/))*\*\/)*(?:select|with|values|table)\b/i.test(text)
}
