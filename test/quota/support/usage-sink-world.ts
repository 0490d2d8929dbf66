import type { AcceptedUsage, BatchContext, RefusedUsage, UsageBatch, UsageSink } from 'spillway'
import { StoreError } from 'spillway'
import type { FakeClock } from 'spillway/testing'

/** How a sink takes one attempt. */
export type SinkMood =
  | 'applies'
  | 'applies at once'
  | 'is slow'
  | 'is late'
  | 'hangs'
  | 'hangs until aborted'
  | 'applies, and the answer is lost'
  | 'loses the connection'
  | 'throws'
  | 'rejects'
  | 'rejects for good'
  | 'answers nonsense'

export const sinkMoods: readonly SinkMood[] = [
  'applies',
  'applies at once',
  'is slow',
  'is late',
  'hangs',
  'hangs until aborted',
  'applies, and the answer is lost',
  'loses the connection',
  'throws',
  'rejects',
  'rejects for good',
  'answers nonsense',
]

/** An event that the sink refuses. */
export const refusable = 13
/** An event that makes the sink reject its whole batch. */
export const poison = 17

/** A sink of changing moods, which counts as a good store does: a batch wholly or not at all, and where it is idempotent once. */
export class MoodySink implements UsageSink {
  readonly idempotent: boolean
  /** How often each event was applied, by its `requestId`. */
  readonly applied = new Map<string, number>()
  /** What it got under each id. */
  readonly batches = new Map<string, UsageBatch>()
  /** What no test can see from outside. */
  readonly faults: string[] = []
  readonly #clock: Pick<FakeClock, 'setTimer'>
  readonly #mood: () => SinkMood
  readonly #chance: () => number
  /** What was applied under each id. */
  readonly #done = new Map<string, ReadonlySet<string>>()
  readonly #attempts = new Map<string, number>()

  constructor(clock: Pick<FakeClock, 'setTimer'>, idempotent: boolean, mood: () => SinkMood, chance: () => number) {
    this.#clock = clock
    this.idempotent = idempotent
    this.#mood = mood
    this.#chance = chance
  }

  write(batch: UsageBatch, context: BatchContext): never {
    this.#checkBatch(batch, context)
    return this.#behave(this.#mood(), batch, context) as never
  }

  /** Forgets what it knows of the process that wrote to it, and nothing of what it counted. */
  forgetWriter(): void {
    this.batches.clear()
    this.#attempts.clear()
  }

  #behave(mood: SinkMood, batch: UsageBatch, { signal }: BatchContext): unknown {
    if (batch.events.some(({ value }) => value === poison)) return Promise.reject(new Error('poison'))
    const ms = 1 + Math.floor(this.#chance() * 50)
    switch (mood) {
      case 'applies':
        return Promise.resolve(this.#apply(batch))
      case 'applies at once':
        return this.#apply(batch)
      case 'is slow':
      case 'is late':
        // A late one applies the batch long after it was given up.
        return new Promise((resolve) => {
          this.#clock.setTimer(() => resolve(this.#apply(batch)), mood === 'is late' ? ms * 20 : ms)
        })
      case 'hangs':
        return new Promise(() => undefined)
      case 'hangs until aborted':
        return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      case 'applies, and the answer is lost':
        this.#apply(batch)
        return Promise.reject(new StoreError('the answer is lost', { outcomeUnknown: true, retryable: true }))
      case 'loses the connection':
        return Promise.reject(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }))
      case 'throws':
        throw new Error('thrown')
      case 'rejects':
        return Promise.reject(new Error('rejected'))
      case 'rejects for good':
        return Promise.reject(new StoreError('never', { retryable: false }))
      case 'answers nonsense': {
        const refused = this.#apply(batch)
        return Promise.resolve(refused?.length ? refused : [{ index: 0 }, { rows: [] }])
      }
    }
  }

  #apply(batch: UsageBatch): RefusedUsage[] | undefined {
    const refused = batch.events.flatMap(({ value }, index) => {
      return value === refusable ? [{ index, error: new Error('refused') }] : []
    })
    const done = this.#done.get(batch.id)
    if (this.idempotent && done !== undefined) {
      // It would be taken for what it isn't.
      if (!batch.events.every((event) => done.has(idOf(event)))) {
        this.faults.push(`other events under the id of what was applied: ${JSON.stringify(batch)}`)
      }
      return refused
    }
    this.#done.set(batch.id, new Set(batch.events.map(idOf)))
    const refusedIndexes = new Set(refused.map(({ index }) => index))
    batch.events.forEach((event, index) => {
      if (!refusedIndexes.has(index)) this.applied.set(idOf(event), (this.applied.get(idOf(event)) ?? 0) + 1)
    })
    return refused.length === 0 && this.#chance() < 0.5 ? undefined : refused
  }

  #checkBatch(batch: UsageBatch, { batchId, attempt }: BatchContext): void {
    const fault = (condition: boolean, text: string): void => {
      if (condition) this.faults.push(`${text}: ${JSON.stringify(batch)}`)
    }
    const before = this.batches.get(batch.id)
    fault(batch.id !== batchId, `the context says ${batchId}`)
    fault(batch.events.length === 0, 'an empty batch')
    // Attempts that failed in the journal never came here.
    fault(attempt <= (this.#attempts.get(batch.id) ?? 0), `attempt ${attempt} again`)
    this.#attempts.set(batch.id, attempt)
    fault(before !== undefined && before !== batch, 'another batch under the same id')
    fault(![batch, batch.events, batch.totals, ...batch.events, ...batch.totals].every(Object.isFrozen), 'not frozen')
    fault(before?.events !== undefined && before.events !== batch.events, 'other events')
    const sums = new Map<string, { value: number; count: number }>()
    for (const { userId, quotaType, period, value } of batch.events) {
      const key = [userId, quotaType, period].join(' ')
      const { value: sum, count } = sums.get(key) ?? { value: 0, count: 0 }
      sums.set(key, { value: sum + value, count: count + 1 })
    }
    const totals = batch.totals.map(({ userId, quotaType, period, value, count }) => {
      return [[userId, quotaType, period].join(' '), { value, count }]
    })
    fault(JSON.stringify([...sums]) !== JSON.stringify(totals), 'totals that are not those of the events')
    this.batches.set(batch.id, batch)
  }
}

/** The number of an event in its world. */
export function idOf({ requestId }: AcceptedUsage): string {
  return requestId as string
}
