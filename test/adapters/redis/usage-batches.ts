import { randomUUID } from 'node:crypto'
import type {
  AcceptedUsage,
  BatchContext,
  HoldClaim,
  QuotaClaim,
  QuotaKey,
  RefusedUsage,
  UsageBatch,
  UsageSink,
  UsageTotal,
} from 'spillway'

/** The month of every use that says nothing else: long to come, so that its keys stay. */
export const month = '2199-11'
const at = Date.UTC(2199, 10, 20)

export function use(value: number, changes: Partial<AcceptedUsage> = {}): AcceptedUsage {
  return { userId: 'ann', quotaType: 'calls', value, timestamp: at, period: month, ...changes }
}

export function keyOf(userId = 'ann', quotaType = 'calls', period: string = month): QuotaKey {
  return { userId, quotaType, period }
}

export function claimOf(value: number, limit: number, changes: Partial<QuotaClaim> = {}): QuotaClaim {
  return { ...keyOf(), value, limit, id: randomUUID(), ...changes }
}

export function holdOf(value: number, limit: number, changes: Partial<HoldClaim> = {}): HoldClaim {
  return { ...claimOf(value, limit, changes), ttlMs: 600_000, ...changes }
}

/** Sums events as a consumer would. */
export function batchOf(events: readonly AcceptedUsage[], id: string = randomUUID()): UsageBatch {
  const totals = new Map<string, UsageTotal>()
  for (const { userId, quotaType, period, value } of events) {
    const text = JSON.stringify([String(userId), quotaType, period])
    const before = totals.get(text) ?? { userId: String(userId), quotaType, period, value: 0, count: 0 }
    totals.set(text, { ...before, value: before.value + value, count: before.count + 1 })
  }
  return { id, events, totals: [...totals.values()] }
}

const never = new AbortController().signal

/** Writes a batch, as the attempt of that number. */
export async function writeTo(
  sink: UsageSink,
  batch: UsageBatch,
  { attempt = 1, signal = never }: Partial<BatchContext> = {},
): Promise<readonly RefusedUsage[]> {
  return (await sink.write(batch, { batchId: batch.id, attempt, signal })) ?? []
}

/** What a call rejected with. */
export function errorOf<E = Error & { retryable: boolean; outcomeUnknown: boolean }>(
  promise: PromiseLike<unknown>,
): Promise<E> {
  return Promise.resolve(promise).then(
    () => {
      throw new Error('it succeeded')
    },
    (error) => error,
  )
}
