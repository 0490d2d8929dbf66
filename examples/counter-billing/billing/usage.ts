import type { AcceptedUsage, BatchContext, RefusedUsage, UsageBatch, UsageSink } from 'spillway'
import type { GrpcBalancedPool } from 'spillway/grpc'
import { patientMetadata, rethrowPatiently, type ServiceInstance } from '../counter/service-pool.ts'
import type { BillingClient, RecordUsageReply, RecordUsageRequest } from './protocol.ts'

/** How many billing services are asked, one after the other, before an attempt has failed. */
const attempts = 3

export type BillingPool = GrpcBalancedPool<ServiceInstance, BillingClient>

/** The billing services as a sink: each batch is one call, under its id, of whichever of them is there. */
export class RemoteUsageSink implements UsageSink {
  readonly idempotent = true
  readonly #pool: BillingPool
  readonly #services: { instances(): readonly unknown[] }

  /** @param services - tells how many there are. */
  constructor(pool: BillingPool, services: { instances(): readonly unknown[] }) {
    this.#pool = pool
    this.#services = services
  }

  async write({ id: batchId, events, totals }: UsageBatch, { signal }: BatchContext): Promise<RefusedUsage[]> {
    const options = { attempts, idempotent: true, signal, metadata: patientMetadata(this.#services) }
    const { refused } = await this.#pool.call('recordUsage', { batchId, totals }, options).catch(rethrowPatiently)
    return refused.flatMap(({ index, reason }) => {
      const total = totals[index]
      const error = new Error(reason)
      return events.flatMap((event, place) =>
        total !== undefined && isPartOf(event, total) ? [{ index: place, error }] : [],
      )
    })
  }
}

function isPartOf({ userId, quotaType, period }: AcceptedUsage, total: UsageBatch['totals'][number]): boolean {
  return String(userId) === total.userId && quotaType === total.quotaType && period === total.period
}

/** The other end of the call: a sum counts as one event. */
export async function recordUsage(
  sink: UsageSink,
  { batchId, totals }: RecordUsageRequest,
  context: BatchContext,
): Promise<RecordUsageReply> {
  const timestamp = Date.now()
  const batch: UsageBatch = {
    id: batchId,
    events: totals.map((total) => ({ ...total, timestamp })),
    totals: totals.map((total) => ({ ...total, count: 1 })),
  }
  const refused = (await sink.write(batch, context)) ?? []
  return { refused: refused.map(({ index, error }) => ({ index, reason: error.message })) }
}
