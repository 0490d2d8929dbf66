import { isSpillwayError } from '../../core/errors.js'
import type {
  AcceptedUsage,
  BatchContext,
  QuotaKey,
  QuotaPeriod,
  RefusedUsage,
  UsageBatch,
  UsageSink,
  UserId,
} from '../../core/ports.js'
import { acceptUsage, periodAt, totalsOf, userText } from '../../internal/usage.js'
import { expectEqual, expectThat } from './contract.js'

/** Texts that are easily mistaken on their way through a query, a script or a key. */
export const oddIds: readonly string[] = [
  ' ',
  ':',
  '{a}',
  '}{',
  '{}',
  '*?[x]',
  "'; --",
  '"\\',
  '%s%1$s%%',
  '$1',
  '\n',
  '\u00e9',
  'e\u0301',
  '\u{1F600}',
  '__proto__',
]

/** The data that a case works on. */
export interface UsageData {
  open(): UsageSink | PromiseLike<UsageSink>
  read(keys: readonly QuotaKey[]): readonly number[] | PromiseLike<readonly number[]>
}

/** What a use in a case may have beside its value. */
export interface UseOptions {
  /** A name for the user, made unique to the case. */
  readonly user?: string | undefined
  /** The user's id as it is, in place of `user`. */
  readonly userId?: UserId | undefined
  readonly type?: string | undefined
  readonly kind?: QuotaPeriod
  readonly at?: number
  readonly requestId?: string
  readonly id?: string
  readonly metadata?: Readonly<Record<string, unknown>>
}

/** How a case writes a batch. */
export interface WriteOptions {
  readonly id?: string
  readonly attempt?: number
  readonly sink?: UsageSink | undefined
}

const neverAborted = new AbortController().signal

/** One case's surroundings: a sink, and users and ids that no other case uses. */
export class UsageWorld {
  readonly sink: UsageSink
  /** When the case began: all its times are counted from it, so that midnight changes nothing. */
  readonly now: number = Date.now()
  readonly #data: UsageData
  readonly #prefix = crypto.randomUUID()

  constructor(data: UsageData, sink: UsageSink) {
    this.#data = data
    this.sink = sink
  }

  /** Another sink on the same data. */
  async open(): Promise<UsageSink> {
    return this.#data.open()
  }

  /** A name that is unique to the case. */
  name(name: string): string {
    return `${this.#prefix}:${name}`
  }

  /** An event: by default of the case's user `u`, of type `requests`, now, by month. */
  use(value: number, options: UseOptions = {}): AcceptedUsage {
    const { user = 'u', type: quotaType = 'requests', kind = 'month', at = this.now, requestId, id, metadata } = options
    const userId = options.userId ?? this.name(user)
    return acceptUsage({ userId, quotaType, value, timestamp: at, requestId, metadata }, this.now, () => kind, id)
  }

  /** The key of a user and a type, as `use` has them. */
  key(user = 'u', quotaType = 'requests', kind: QuotaPeriod = 'month'): QuotaKey {
    return { userId: this.name(user), quotaType, period: periodAt(kind, this.now).label }
  }

  batch(events: readonly AcceptedUsage[], id: string): UsageBatch {
    return Object.freeze({ id, events: Object.freeze([...events]), totals: Object.freeze(totalsOf(events)) })
  }

  context(batchId: string, attempt = 1): BatchContext {
    return { batchId, attempt, signal: neverAborted }
  }

  /** Writes events as a batch, and answers the places of what was refused, in order. */
  async write(events: readonly AcceptedUsage[], options: WriteOptions = {}): Promise<number[]> {
    return (await this.refusals(events, options)).map(({ index }) => index)
  }

  /** Writes events as a batch, and demands that those of these places are refused as they must be. */
  async expectRefusals(
    events: readonly AcceptedUsage[],
    places: readonly number[],
    options?: WriteOptions,
  ): Promise<void> {
    const refused = await this.refusals(events, options)
    expectEqual(
      refused.map(({ index }) => index),
      places,
      'the places of what was refused',
    )
    for (const { index, error } of refused) {
      expectThat(
        isSpillwayError(error, 'ERR_STORE') && !error.retryable && !error.outcomeUnknown,
        `the refusal of event ${index} must be a StoreError that is neither retryable nor of unknown outcome`,
      )
    }
  }

  /** What was used, as the data says, in the order of the events. */
  async used(events: readonly AcceptedUsage[]): Promise<readonly number[]> {
    const keys = events.map(({ userId, quotaType, period }) => ({ userId: userText(userId), quotaType, period }))
    return this.#data.read(keys)
  }

  async refusals(events: readonly AcceptedUsage[], options: WriteOptions = {}): Promise<RefusedUsage[]> {
    const { id = crypto.randomUUID(), attempt = 1, sink = this.sink } = options
    const refused = (await sink.write(this.batch(events, id), this.context(id, attempt))) ?? []
    return [...refused].sort((a, b) => a.index - b.index)
  }
}
