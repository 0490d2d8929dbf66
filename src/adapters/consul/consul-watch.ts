import type { Clock } from '../../core/clock.js'
import { describeError, warn } from '../../core/events.js'
import { backoffMs } from '../../core/retry.js'
import type { ConsulAnswer, ConsulClient } from './consul-client.js'
import { unreadableError, wasCut } from './consul-error.js'
import { type ConsulInstance, parseInstances } from './consul-instance.js'
import { pause } from './pause.js'
import { QueryPace } from './query-pace.js'

/** What to ask, and how often. */
export interface WatchPolicy {
  readonly path: string
  readonly query: URLSearchParams
  readonly waitMs: number
  readonly fallbackPollMs: number
  readonly burst: number
  readonly minIntervalMs: number
  readonly delayMs: number
  readonly maxDelayMs: number
}

/** One watch: whom it tells, and until when. */
export interface Watcher {
  readonly name: string
  readonly clock: Clock
  readonly random: () => number
  readonly client: ConsulClient
  readonly policy: WatchPolicy
  readonly onList: (instances: readonly ConsulInstance[]) => void
  readonly onError: (error: unknown) => void
  readonly signal: AbortSignal
}

/** After so many blocking queries in a row that were cut, or that didn't block, it polls. */
const mostStrikes = 2
/** How long it polls before it tries to block again: the first time, and at the most, doubling in between. */
const firstPollingMs = 60_000
const longestPollingMs = 600_000

/**
 * One watch on Consul's health endpoint.
 *
 *     index 0: answered at once ──> index n: answered on a change, or unchanged when the wait is over ──┐
 *          ^                             ^───────────────────────────────────────────────────────────┘
 *          └── an error; an index that goes back; blocking queries don't work: then every fallbackPollMs
 */
export class ConsulWatch {
  readonly #watcher: Watcher
  readonly #pace: QueryPace
  /** The index to wait beyond; 0 asks for the list as it is. */
  #index = 0
  /** The last list, in JSON. Undefined where the next one must be told whatever it is: at first, and after an error. */
  #told: string | undefined
  /** Blocking queries in a row that were cut or didn't block. */
  #strikes = 0
  /** A blocking query was cut: a strike, unless Consul itself turns out to be away. */
  #cut = false
  /** Whether the next query without an index is a poll, rather than the first of a new row of blocking ones. */
  #polls = false
  /** Until when it polls instead of blocking. */
  #pollingUntil = Number.NEGATIVE_INFINITY
  #pollingMs = firstPollingMs
  /** The callbacks that have failed. */
  readonly #reported = new Set<'onList' | 'onError'>()

  constructor(watcher: Watcher) {
    this.#watcher = watcher
    this.#pace = new QueryPace(watcher.clock, watcher.policy.burst, watcher.policy.minIntervalMs)
  }

  /** Watches until the signal aborts. Never rejects. */
  async run(): Promise<void> {
    const { signal, policy, random } = this.#watcher
    let failures = 0
    while (!signal.aborted) {
      await this.#wait(this.#pace.take())
      if (signal.aborted) return
      try {
        await this.#ask()
        failures = 0
        if (this.#index === 0 && this.#polls) await this.#wait(policy.fallbackPollMs * (0.9 + 0.2 * random()))
      } catch (error) {
        if (signal.aborted) return
        this.#fail(error)
        await this.#wait(backoffMs(++failures, policy, random))
      }
    }
  }

  async #ask(): Promise<void> {
    const { client, clock, policy, signal } = this.#watcher
    const asked = this.#index
    const since = clock.now()
    const query = new URLSearchParams(policy.query)
    if (asked > 0) {
      query.set('index', String(asked))
      query.set('wait', `${policy.waitMs}ms`)
    }
    // Consul spreads the ends of long waits over a sixteenth of them.
    const blockingMs = asked > 0 ? policy.waitMs + policy.waitMs / 16 : 0
    const answer = await client.request({
      method: 'GET',
      path: policy.path,
      query,
      timeoutMs: client.timeoutMs + blockingMs,
      signal,
    })
    if (signal.aborted) return
    this.#accept(answer, asked, clock.now() - since)
  }

  #accept(answer: ConsulAnswer, asked: number, tookMs: number): void {
    const index = indexOf(answer)
    if (asked > 0 && index !== undefined && index < asked) {
      // Its state was restored or another server answers: what it says counts once it is asked anew.
      this.#polls = false
      this.#index = 0
      return
    }
    if (asked === 0 && this.#cut) this.#strike()
    this.#cut = false
    if (asked > 0) {
      if (index === asked && tookMs < this.#watcher.policy.waitMs / 2) this.#strike()
      else this.#blockingWorks()
    }
    if (asked === 0 || index !== asked) this.#tell(answer)
    this.#polls = index === undefined || this.#watcher.clock.now() < this.#pollingUntil
    this.#index = this.#polls ? 0 : (index as number)
  }

  #tell(answer: ConsulAnswer): void {
    const { client, policy, onList } = this.#watcher
    let list: ConsulInstance[]
    try {
      list = parseInstances(answer.text)
    } catch (error) {
      throw unreadableError(client.describe('GET', policy.path), error)
    }
    const json = JSON.stringify(list)
    if (json === this.#told) return
    this.#told = json
    this.#guard('onList', () => onList(list))
  }

  #fail(error: unknown): void {
    const { onError } = this.#watcher
    // A plain query that fails says that Consul is away, not that it can't be waited for.
    this.#cut = this.#index > 0 && wasCut(error)
    this.#polls = false
    this.#index = 0
    this.#told = undefined
    this.#guard('onError', () => onError(error))
  }

  #strike(): void {
    if (++this.#strikes < mostStrikes) return
    this.#pollingUntil = this.#watcher.clock.now() + this.#pollingMs
    this.#pollingMs = Math.min(this.#pollingMs * 2, longestPollingMs)
  }

  #blockingWorks(): void {
    this.#strikes = 0
    this.#pollingMs = firstPollingMs
  }

  /** A callback that fails, or whose promise rejects, changes nothing; the first failure is reported. */
  #guard(what: 'onList' | 'onError', call: () => unknown): void {
    const report = (error: unknown): void => {
      if (this.#reported.has(what)) return
      this.#reported.add(what)
      warn(`${what} of ${this.#watcher.name} failed: ${describeError(error)}`)
    }
    try {
      const returned = call() as PromiseLike<unknown> | undefined
      // An async function fits the type too, and so does a thenable of foreign make.
      if (typeof returned?.then === 'function') Promise.resolve(returned).catch(report)
    } catch (error) {
      report(error)
    }
  }

  #wait(delayMs: number): Promise<void> {
    const { clock, signal } = this.#watcher
    return pause(clock, delayMs, signal)
  }
}

/** The index to wait beyond. Undefined where there is none that can be waited for. */
function indexOf({ headers }: ConsulAnswer): number | undefined {
  const text = headers['x-consul-index']
  const index = typeof text === 'string' && /^\d+$/.test(text) ? Number(text) : undefined
  if (index === undefined || !Number.isSafeInteger(index)) return undefined
  // Consul has answered 0, by mistake; waiting beyond that is no waiting at all. 1 is always safe.
  return Math.max(index, 1)
}
